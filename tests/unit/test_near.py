"""Conversations that say nearly the same: what is one of them, what is none, and what becomes of them."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from phift.config.data import DataConfig
from phift.data import near as near_module
from phift.data import prepare as prepare_module
from phift.data.prepare import PreparedDataset, prepare_dataset
from phift.errors import DataError

DRAW = random.Random(7)  # noqa: S311 - made-up data
VOCABULARY = ["".join(DRAW.choices("abcdefghijklmnopqrstuvwxyz", k=DRAW.randint(2, 12))) for _ in range(2000)]


def sentence(words: int) -> str:
    return " ".join(DRAW.choices(VOCABULARY, k=words)).capitalize() + "."


def chat(question: str, answer: str, system: str = "") -> dict[str, Any]:
    first = [{"role": "system", "content": system}] if system else []
    return {"messages": [*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def made_up(rows: int, words: int = 8, sentences: int = 2) -> list[dict[str, Any]]:
    def text() -> str:
        return " ".join(sentence(words) for _ in range(sentences))

    return [chat(text(), text()) for _ in range(rows)]


def said(row: dict[str, Any], change: Callable[[str], str], message: int = -1) -> dict[str, Any]:
    messages = [dict(turn) for turn in row["messages"]]
    messages[message]["content"] = change(messages[message]["content"])
    return {"messages": messages}


def one_word(text: str) -> str:
    words = text.split(" ")
    words[DRAW.randrange(len(words))] = "differently"
    return " ".join(words)


CHANGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "whitespace": lambda row: said(row, lambda text: f"\n {text.replace(' ', chr(160) + ' ', 3)}\t"),
    "case": lambda row: said(said(row, str.upper), str.lower, 0),
    "punctuation": lambda row: said(row, lambda text: text.replace(".", " \u2026").replace(" ", ", ", 1)),
    "one word": lambda row: said(row, one_word),
    "one word of the question": lambda row: said(row, one_word, 0),
    "a sentence at the end": lambda row: said(row, lambda text: f"{text} {sentence(9)}"),
    "a sentence at the start": lambda row: said(row, lambda text: f"{sentence(9)} {text}", 0),
    "another system message": lambda row: {"messages": [{"role": "system", "content": sentence(5)}, *row["messages"]]},
}


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prepare(folder: Path, rows: Sequence[Any], **data: Any) -> PreparedDataset:
    return prepare_dataset(DataConfig(train=write(folder / "train.jsonl", rows), **data), folder / "out")


def findings(prepared: PreparedDataset) -> dict[str, str]:
    return {finding.code: finding.message for finding in prepared.findings}


def sides(prepared: PreparedDataset) -> dict[str, str]:
    """Return the split of each row, by its text as JSON."""
    return {
        json.dumps(json.loads(line)): split
        for split, path in prepared.files.items()
        for line in path.read_text(encoding="utf-8").splitlines()
    }


def thinned(folder: Path, rows: Sequence[Any]) -> dict[int, int]:
    """Return the lines that were set aside as near, each with the line of the one that was kept."""
    prepared = prepare(folder, rows, near_duplicates="thin")
    assert sum(prepared.rows.values()) + sum(account.aside for account in prepared.accounts) == len(rows)
    if not prepared.rejects:
        return {}
    rejects = [json.loads(line) for line in prepared.rejects.read_text(encoding="utf-8").splitlines()]
    assert all(reject["reason"].startswith("it says nearly what an earlier row says, ") for reject in rejects)
    assert all(reject["row"] == rows[reject["line"] - 1] for reject in rejects)
    return {reject["line"]: int(reject["reason"].rpartition(":")[2]) for reject in rejects}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("words", "sentences"), [(6, 1), (8, 2), (12, 20)])
def test_each_small_change_is_found_and_nothing_else(change: str, words: int, sentences: int, tmp_path: Path) -> None:
    rows = made_up(200, words, sentences)
    changed = [CHANGES[change](row) for row in rows[:40]]
    found = thinned(tmp_path, [*rows, *changed])
    true = {201 + number: 1 + number for number in range(40)}
    assert found.items() <= true.items()
    assert len(found) >= 0.9 * len(true), sorted(true.items() - found.items())


LONG = " ".join(f"rule{'abcdefghij'[n % 10]}{VOCABULARY[n + 300]}" for n in range(300))
TEMPLATES: dict[str, Callable[[int], dict[str, Any]]] = {
    "numbers": lambda n: chat(f"How long is river number {n} of the list?", f"River number {n} is {7 * n} km long."),
    "digits of a sum": lambda n: chat(
        f"Natalia sold {n} clips to her friends in April and half as many in May, how many is that in all of them?",
        f"She sold {n} in April and {n / 2} in May, which together makes {1.5 * n} clips in these two months.",
    ),
    "names": lambda n: chat(
        f"What is the capital city of the country that is called {VOCABULARY[n]}, and where does it lie exactly?",
        f"The capital city of {VOCABULARY[n]} is {VOCABULARY[1000 + n]}, and it lies in the very middle of it all.",
    ),
    "one word": lambda n: chat(
        f"Is the word that follows here one of the English language or is it not: {VOCABULARY[n]}", "No, it is not one."
    ),
    "long question": lambda n: chat(
        f"{LONG} {VOCABULARY[n]} {VOCABULARY[n + 500]}", "negative" if n % 2 else "positive"
    ),
    "system message": lambda n: chat(f"{VOCABULARY[n]}?", f"{VOCABULARY[n + 500]}!", system=LONG),
    "signs": lambda n: chat(f"a {'+-/<=>&|'[n % 8]} b", f"is {VOCABULARY[n // 8]} of {VOCABULARY[n % 8]}"),
    "no words": lambda n: chat("?" * (n + 1), "!" * (n + 1)),
    "no blanks": lambda n: chat(
        f"请告诉我{chr(0x4E00 + n)}字的意思", f"{chr(0x4E00 + n)}字的意思是{chr(0x6E00 + 7 * n)}"
    ),
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("rows", [20, 150])
def test_rows_made_after_one_form_are_not_near(template: str, rows: int, tmp_path: Path) -> None:
    given = [TEMPLATES[template](number) for number in range(rows)]
    assert not thinned(tmp_path, given)
    assert not any("NEAR_D" in code for code in findings(prepare(tmp_path, given)))


def test_within_a_form_what_is_changed_little_is_found(tmp_path: Path) -> None:
    rows = [chat(f"{LONG} {sentence(12)}", sentence(12)) for _ in range(60)]
    changed = [said(row, one_word) for row in rows[:10]]
    assert thinned(tmp_path, [*rows, *changed]) == {61 + number: 1 + number for number in range(10)}


def test_two_questions_about_one_text_are_not_near(tmp_path: Path) -> None:
    texts = [sentence(20) for _ in range(60)]
    kinds = [
        chat(f"{LONG} {text} Is it kind or is it unkind?", "kind" if n % 2 else "unkind")
        for n, text in enumerate(texts)
    ]
    sizes = [
        chat(f"{LONG} {text} Is it short or is it long?", "short" if n % 3 else "long") for n, text in enumerate(texts)
    ]
    assert not thinned(tmp_path, [*kinds, *sizes])
    changed = [said(row, one_word, 0) for row in kinds[:10]]
    assert thinned(tmp_path, [*kinds, *sizes, *changed]).keys() <= {*range(121, 131)}


@pytest.mark.parametrize("answers", [1, 3])
def test_texts_in_system_messages_tell_rows_from_each_other(answers: int, tmp_path: Path) -> None:
    question = "Which of the kinds that were told before has the text above, and which of them has it not?"
    rows = [chat(question, f"It has the kind {VOCABULARY[n % answers]}.", system=sentence(20)) for n in range(60)]
    assert not thinned(tmp_path, rows)
    assert not any("NEAR_D" in code for code in findings(prepare(tmp_path, rows)))


def test_equal_rows_with_many_system_prompts_are_near_still(tmp_path: Path) -> None:
    rows, prompts = made_up(20), [sentence(10) for _ in range(12)]
    given = [
        {"messages": [{"role": "system", "content": prompt}, *row["messages"]]} for prompt in prompts for row in rows
    ]
    assert thinned(tmp_path, given) == {21 + number: 1 + number % 20 for number in range(220)}


def test_texts_without_blanks_between_words_are_compared_by_their_characters(tmp_path: Path) -> None:
    def text() -> str:
        return "".join(chr(DRAW.randrange(0x4E00, 0x9FA5)) for _ in range(40))

    rows = [chat(text(), text()) for _ in range(30)]
    changed = [said(row, lambda text: f"{text[:20]}变{text[21:]}。") for row in rows[:5]]
    assert thinned(tmp_path, [*rows, *changed]) == {31 + number: 1 + number for number in range(5)}


def test_near_rows_are_on_one_side_of_the_split_and_counted(tmp_path: Path) -> None:
    rows = made_up(100)
    changes = [*CHANGES.values()]
    changed = [changes[number % len(changes)](row) for number, row in enumerate(rows[:40])]
    prepared = prepare(tmp_path, [*rows, *changed])
    side = sides(prepared)
    assert all(side[json.dumps(row)] == side[json.dumps(other)] for row, other in zip(rows, changed, strict=False))
    assert {*side.values()} == {"train", "validation", "test"}
    assert sum(prepared.rows.values()) == 140
    assert " say nearly what an earlier one says, first " in findings(prepared)["DATA_NEAR_DUPLICATES"]
    assert "DATA_NEAR_LEAK" not in findings(prepared)


def test_groups_and_near_rows_are_linked_over_each_other(tmp_path: Path) -> None:
    rows = [{**row, "group": number // 2} for number, row in enumerate(made_up(60))]
    changed = [{**CHANGES["one word"](rows[2 * number]), "group": f"x{number // 2}"} for number in range(20)]
    prepared = prepare(tmp_path, [*rows, *changed], split={"group_by": "group"})
    side = sides(prepared)
    for number in range(0, 20, 2):
        together = [rows[2 * number + of] for of in range(4)] + changed[number : number + 2]
        assert len({side[json.dumps({"messages": row["messages"]})] for row in together}) == 1


def test_the_split_is_the_same_as_without_the_comparison_where_nothing_is_near(tmp_path: Path) -> None:
    rows = made_up(300)
    rows += rows[:30]  # equal rows are kept together by either way
    compared, ignored = (
        prepare(tmp_path, rows, near_duplicates=way, split={"seed": 5}) for way in ("report", "ignore")
    )
    assert compared.content_hash == ignored.content_hash
    assert "DATA_NEAR_DUPLICATES" not in findings(compared)


def test_ignored_near_rows_are_neither_compared_nor_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "find_near", None)
    rows = made_up(30)
    prepared = prepare(tmp_path, [*rows, CHANGES["case"](rows[0])], near_duplicates="ignore")
    assert not {code for code in findings(prepared) if "NEAR" in code}


def test_given_rows_that_nearly_stand_in_the_training_data_are_told_with_both_places(tmp_path: Path) -> None:
    rows, others = made_up(60), made_up(5)
    test = write(tmp_path / "test.jsonl", [*others, *map(CHANGES["one word"], rows[10:40])])
    for way in ("report", "thin"):
        prepared = prepare(tmp_path, rows, test=test, near_duplicates=way)
        message = findings(prepared)["DATA_NEAR_LEAK"]
        assert message.startswith("30 rows of 35 say nearly what training data says, first ")
        assert f"{test}:6 ({tmp_path / 'train.jsonl'}:11), " in message
        assert message.count("test.jsonl:") == 20
        assert prepared.rows["test"] == 35
    assert "DATA_NEAR_LEAK" not in findings(prepare(tmp_path, rows, test=test, near_duplicates="ignore"))


def test_an_equal_given_row_is_refused_still(tmp_path: Path) -> None:
    rows = made_up(60)
    test = write(tmp_path / "test.jsonl", [rows[3], CHANGES["case"](rows[4])])
    with pytest.raises(DataError, match="1 of 62 rows"):
        prepare(tmp_path, rows, test=test)


def test_thinning_keeps_the_first_and_accounts_for_the_others(tmp_path: Path) -> None:
    rows = made_up(40)
    given = [*rows, rows[0], CHANGES["case"](rows[0]), CHANGES["one word"](rows[1])]
    prepared = prepare(tmp_path, given, near_duplicates="thin")
    (account,) = prepared.accounts
    assert (account.aside, dict(account.reasons)) == (3, {"it says nearly what an earlier row says": 3})
    assert sum(prepared.rows.values()) == 40
    assert thinned(tmp_path, given) == {41: 1, 42: 1, 43: 2}


@pytest.mark.parametrize("group_by", [None, "group"])
@pytest.mark.parametrize("near_duplicates", ["thin", "report", "ignore"])
def test_with_all_at_once_every_row_is_in_one_place(near_duplicates: str, group_by: str | None, tmp_path: Path) -> None:
    def grouped(rows: Iterable[dict[str, Any]], name: str) -> list[dict[str, Any]]:
        return [{**row, "group": f"{name}{number // 3}"} for number, row in enumerate(rows)]

    bad: list[dict[str, Any]] = [{"messages": [], "group": "x"}, {"messages": [chat("", "a")["messages"][1]]}]
    rows = grouped(made_up(90), "a")
    given = {"train": [*rows, *grouped(map(CHANGES["one word"], rows[:25]), "b"), *rows[40:45], *bad]}
    for split, of in (("validation", 9), ("test", 3)):
        new = [rows[of], CHANGES["one word"](rows[of + 5]), *made_up(10)]
        given[split] = [*grouped(new, split), {**made_up(1)[0], "group": "a7"}, *bad]
    paths = {split: write(tmp_path / f"{split}.jsonl", rows) for split, rows in given.items()}
    data = {"bad_rows": "set_aside", "near_duplicates": near_duplicates, "split": {"group_by": group_by}, **paths}
    prepared = prepare_dataset(DataConfig.model_validate(data), tmp_path / "out")
    assert prepared.rejects
    rejects = [json.loads(line) for line in prepared.rejects.read_text(encoding="utf-8").splitlines()]
    written = [line for path in prepared.files.values() for line in path.read_text(encoding="utf-8").splitlines()]
    found = [*map(json.loads, written), *(reject["row"] for reject in rejects)]
    wanted = [row for rows in given.values() for row in rows]
    assert Counter(json.dumps(row["messages"]) for row in found) == Counter(json.dumps(r["messages"]) for r in wanted)
    for account in prepared.accounts:
        assert account.rows == account.train + account.validation + account.test + account.aside
        assert account.aside == sum(account.reasons.values())
        assert account.aside == sum(reject["source"] == account.source for reject in rejects)
        assert account.aside > 0
    assert sum(prepared.rows.values()) == len(written)


def test_a_great_many_of_one_kind_are_no_duplicates_but_equal_ones_are(tmp_path: Path) -> None:
    row = chat(" ".join(sentence(10) for _ in range(3)), sentence(10))
    rows = made_up(40)
    many = [said(row, lambda text, n=n: f"{text} {VOCABULARY[n]}") for n in range(near_module.MOST_ALIKE + 20)]  # type: ignore[misc]
    spaced = [said(row, lambda text, n=n: text + " " * n) for n in range(1, 30)]  # type: ignore[misc]
    assert not {*thinned(tmp_path, [*rows, row, *many])} & {*range(1, 41)}
    found = thinned(tmp_path, [*rows, row, *spaced])
    assert found == dict.fromkeys(range(42, 71), 41)


def test_a_conversation_of_megabytes_takes_no_more_than_one_of_less(tmp_path: Path) -> None:
    rows = made_up(20)
    rows += [chat("a b " * 3_500_000, "c"), chat("a b " * 3_500_000, "d")]
    tracemalloc.start()
    assert not thinned(tmp_path, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250_000_000


def test_long_conversations_made_after_one_form_are_never_all_in_memory(tmp_path: Path) -> None:
    form = " ".join(DRAW.choices(VOCABULARY, k=120_000))
    path = write(tmp_path / "train.jsonl", (chat(f"{form} {sentence(40)}", sentence(9)) for _ in range(60)))
    tracemalloc.start()
    prepared = prepare_dataset(DataConfig(train=path, near_duplicates="thin"), tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(prepared.rows.values()) == 60
    assert peak < 200_000_000


def test_rows_made_after_one_form_are_read_again_many_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    hashed = near_module._hashed

    def counting(texts: Sequence[bytes]) -> Any:
        batches.append(len(texts))
        return hashed(texts)

    monkeypatch.setattr(near_module, "_hashed", counting)
    assert not thinned(tmp_path, [chat(f"{LONG} {sentence(12)}", sentence(12)) for _ in range(1500)])
    assert sum(batches) >= 3000
    assert len(batches) < 100


def test_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made_up(300)
    given = [*rows, *(CHANGES["one word"](row) for row in rows[:50])]
    alone = prepare(tmp_path, given)
    monkeypatch.setattr(prepare_module, "LARGE", 0)
    monkeypatch.setattr(near_module, "LARGE", 0)
    many = prepare(tmp_path, given)
    assert (many.content_hash, many.findings) == (alone.content_hash, alone.findings)
