from __future__ import annotations

import json
from pathlib import Path

import pytest

from phift import facts, samples
from phift.errors import ConfigError


def test_element_names_and_symbols_are_unique() -> None:
    assert len({name for name, _ in samples.ELEMENTS}) == len(samples.ELEMENTS) == 118
    assert len({symbol for _, symbol in samples.ELEMENTS}) == 118


@pytest.mark.parametrize(
    ("number", "name", "symbol"),
    [(1, "hydrogen", "H"), (26, "iron", "Fe"), (57, "lanthanum", "La"), (79, "gold", "Au"), (118, "oganesson", "Og")],
)
def test_position_is_atomic_number(number: int, name: str, symbol: str) -> None:
    assert samples.ELEMENTS[number - 1] == (name, symbol)


def test_noble_gases_stand_where_the_periods_end() -> None:
    names = [samples.ELEMENTS[number - 1][0] for number in (2, 10, 18, 36, 54, 86, 118)]
    assert names == ["helium", "neon", "argon", "krypton", "xenon", "radon", "oganesson"]


def test_symbols_look_like_symbols() -> None:
    assert all(symbol.istitle() and len(symbol) <= 2 and symbol.isascii() for _, symbol in samples.ELEMENTS)


def _questions(split: str) -> list[str]:
    return [row["messages"][0]["content"] for row in samples.rows()[split]]


def test_no_question_is_asked_twice() -> None:
    every = [question for split in ("train", "validation", "test") for question in _questions(split)]
    assert len(set(every)) == len(every)


def test_every_fact_is_in_every_split() -> None:
    answers = {split: {row["messages"][1]["content"] for row in rows} for split, rows in samples.rows().items()}
    assert answers["train"] == answers["validation"] == answers["test"]
    assert len(answers["test"]) == len(samples.ELEMENTS) * len(samples.KINDS)


def test_every_phrasing_is_trained_on() -> None:
    train = set(_questions("train"))
    for _, phrasings in samples.KINDS:
        for phrasing in phrasings:
            asked = {phrasing.format(name=name, symbol=symbol) for name, symbol in samples.ELEMENTS}
            assert asked & train


def test_write(tmp_path: Path) -> None:
    written = samples.write(tmp_path / "new")
    lines = written.test.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(samples.rows()["test"])
    assert [message["role"] for message in json.loads(lines[0])["messages"]] == ["user", "assistant"]
    assert written.train.stat().st_size > written.validation.stat().st_size


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


FILES = ["test.jsonl", "train.jsonl", "validation.jsonl"]


def test_nobodys_own_file_is_overwritten_and_nothing_is_written_beside_it(tmp_path: Path) -> None:
    own = {tmp_path / "test.jsonl": "mine\n", tmp_path / "validation.jsonl": ""}
    for path, text in own.items():
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="Nothing was written") as caught:
        samples.write(tmp_path)
    assert all(str(path) in caught.value.what for path in own)
    assert "--force" in (caught.value.fix or "")
    assert {path: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == own


def test_a_link_to_nothing_is_somebodys_too(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    with pytest.raises(ConfigError, match=r"train\.jsonl"):
        samples.write(tmp_path)
    assert names(tmp_path) == ["train.jsonl"]


def test_files_with_the_same_content_are_left_as_they_are(tmp_path: Path) -> None:
    samples.write(tmp_path)
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    (tmp_path / "validation.jsonl").unlink()
    samples.write(tmp_path)
    after = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    assert names(tmp_path) == FILES
    assert [before[name] == after[name] for name in ("test.jsonl", "train.jsonl")] == [True, True]


def test_other_content_is_replaced_on_request(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text("mine\n", encoding="utf-8")
    written = samples.write(tmp_path, overwrite=True)
    assert len(written.test.read_text(encoding="utf-8").splitlines()) == len(samples.rows()["test"])
    assert names(tmp_path) == FILES


def test_a_write_that_is_cut_short_leaves_nothing_under_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_self: Path, _target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            samples.write(tmp_path)
    assert names(tmp_path) == []


def test_the_files_have_the_rights_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    written = samples.write(tmp_path)
    assert written.train.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_parameters_are_inputs_of_the_component() -> None:
    assert set(samples.PARAMETERS) <= set(facts.load("chat_completion_pipeline")["inputs"])


def test_a_few_elements_alone() -> None:
    few, every = samples.rows(range(61, 73)), samples.rows()
    assert {split: len(rows) for split, rows in few.items()} == {"train": 216, "validation": 36, "test": 36}
    assert all(row in every[split] for split, rows in few.items() for row in rows)
    asked = " ".join(str(row["messages"]) for rows in few.values() for row in rows)
    assert ("promethium" in asked, "hafnium" in asked, "neodymium" in asked) == (True, True, False)
