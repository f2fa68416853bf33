"""Two models compared on held-out rows."""

from __future__ import annotations

import json
import math
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from phift import ModelComparison, Progress, RowCompared, compare_models, only
from phift.errors import (
    ConfigError,
    DataError,
    DataNotFound,
    ModelError,
    NotImproved,
    PhiftError,
    ScoringError,
    ServiceUnreachable,
    Throttled,
    WaitTimeout,
)
from phift.evaluation.comparing import compare_deployed
from phift.evaluation.likelihood import Likelihood, measure
from phift.evaluation.metrics import Metric, chrf, exact_match, token_f1
from phift.evaluation.rows import read_rows, said
from phift.serving.chat import SAID_NOTHING, Message, read_reply


def row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


ROWS = [row(f"What is twice {number}?", str(2 * number)) for number in range(40)]


def knowing(known: Callable[[int], bool]) -> Callable[[Sequence[Message]], str]:
    """Return a model that knows some of the answers."""

    def answer(messages: Sequence[Message]) -> str:
        number = int(messages[-1]["content"].split()[-1].rstrip("?"))
        return str(2 * number) if known(number) else "no idea"

    return answer


def compared(before: Callable[[int], bool], after: Callable[[int], bool], **options: Any) -> ModelComparison:
    return compare_models(knowing(before), knowing(after), options.pop("rows", ROWS), **options)


# ---------------------------------------------------------------- scores


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("The Eiffel Tower.", "Eiffel Tower", 0.0, 1.0),
        ("Co", "CO", 0.0, 1.0),
        ("  gold \n is", "gold is", 1.0, 1.0),
        ("caf\u0065\u0301", "caf\u00e9", 1.0, 1.0),
        ("the atomic number is 79", "79", 0.0, 0.4),
        ("", "gold", 0.0, 0.0),
        ("the", "an", 0.0, 1.0),
        ("gold gold", "gold", 0.0, 2 / 3),
        ("\u9ec4\u91d1", "\u91d1", 0.0, 2 / 3),
        ("\u00abor\u00bb", "or", 0.0, 1.0),
    ],
)
def test_an_answer_is_scored_as_the_sources_say(answer: str, reference: str, exact: float, f1: float) -> None:
    assert exact_match(answer, reference) == exact
    assert token_f1(answer, reference) == pytest.approx(f1)


def test_chrf_is_that_of_sacrebleu_between_0_and_1() -> None:
    from sacrebleu import sentence_chrf

    assert chrf("He is", "He was") == pytest.approx(sentence_chrf("He is", ["He was"]).score / 100)
    assert (chrf("gold", "gold"), chrf("", "gold")) == (1.0, 0.0)


# ---------------------------------------------------------------- rows


def test_rows_are_read_from_a_file_with_the_last_answer_as_the_right_one(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    turns = [*row("What?", "That.")["messages"], *row("And then?", "This.")["messages"]]
    file.write_text(json.dumps({"messages": turns}) + "\n\n" + json.dumps(row("Why?", "So.")), encoding="utf-8")
    first, second = read_rows(file).rows
    assert (len(first.prompt), first.question, first.reference) == (3, "And then?", "This.")
    assert (second.number, second.reference) == (3, "So.")


def test_calls_of_tools_are_compared_as_text_without_their_ids() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"b": 1, "a": 2}'}}
    other = {"id": "2", "type": "function", "function": {"name": "look", "arguments": {"a": 2, "b": 1}}}
    assert said(None, [call]) == said("", [other]) == '[{"arguments":{"a":2,"b":1},"name":"look"}]'


@pytest.mark.parametrize(
    "arguments",
    ["[" * 3000, "[" * 3000 + "]" * 3000, "[" * 990 + "]" * 990, '{"a": "\ud800"}', '{"a": "\\ud800"}', f"[{10**30}]"],
    ids=["unclosed", "deep", "less deep", "surrogate", "escaped surrogate", "large"],
)
def test_whatever_a_model_writes_as_arguments_is_a_text(arguments: str) -> None:
    call = {"function": {"name": "look", "arguments": arguments}}
    written = said("So:", [call])
    assert written == said("So:", [call])
    assert written.startswith('So:\n[{"arguments":')
    rows = [row("What?", "That.")]
    assert compare_models(lambda _: written, lambda _: "That.", rows).rows[0].before == written


def test_rows_that_are_no_conversations_are_named_without_their_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "secret"}]}\n{"prompt": "secret"}\n', encoding="utf-8")
    with pytest.raises(DataError) as raised:
        read_rows(file)
    assert (raised.value.where, raised.value.refused) == (f"{file}:1", 2)
    assert "secret" not in str(raised.value)
    with pytest.raises(DataNotFound):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="There are no rows"):
        read_rows([])


def test_rows_near_a_training_row_are_left_out(tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    long = "The quick brown fox jumps over the lazy dog while seven small birds sing in the old green tree"
    train.write_text("".join(json.dumps(each) + "\n" for each in (row(long, "Yes."), row("Who?", "Me."))))
    rows = [row(f"{long} today", "Yes."), row("who", "me"), row("Where do they sing?", "In the tree.")]
    held_out = read_rows(rows, train=train)
    assert ([each.number for each in held_out.rows], held_out.near, held_out.given) == ([3], 2, 3)
    with pytest.raises(DataError, match="nearly what a training row says"):
        read_rows(rows[:2], train=train)


def test_a_limit_draws_the_same_rows_for_the_same_seed_in_their_order() -> None:
    drawn = [[each.number for each in read_rows(ROWS, limit=7, seed=seed).rows] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] == sorted(drawn[0])
    assert drawn[1] != drawn[2]
    assert len(read_rows(ROWS, limit=100).rows) == 40


# ---------------------------------------------------------------- asked


def test_the_order_of_the_models_alternates_and_the_seed_draws_who_begins() -> None:
    orders = [[each.asked_first for each in compared(bool, bool, seed=seed).rows] for seed in range(6)]
    assert all(one != other for order in orders for one, other in pairwise(order))
    assert {order[0] for order in orders} == {"before", "after"}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_answers_belong_to_their_rows_and_progress_is_told(concurrency: int) -> None:
    told: list[RowCompared] = []
    threads = set()

    def after(messages: Sequence[Message]) -> str:
        threads.add(threading.current_thread())
        return f"about {messages[-1]['content']}"

    found = compare_models(
        knowing(lambda number: number % 2 == 0),
        after,
        ROWS,
        concurrency=concurrency,
        on_progress=only(RowCompared, told.append),
    )
    assert all(each.after == f"about {each.question}" for each in found.rows)
    assert [each.before == each.reference for each in found.rows] == [number % 2 == 0 for number in range(40)]
    assert [(each.rows, each.total_rows) for each in told] == [(number, 40) for number in range(1, 41)]
    assert (threading.current_thread() in threads) == (concurrency == 1)


def test_a_call_without_a_name_is_the_models_own_and_counts_as_an_empty_answer() -> None:
    asked: list[str] = []

    def calling(messages: Sequence[Message]) -> str:
        asked.append(str(messages[-1]["content"]))
        if " 7?" in asked[-1]:
            read_reply({"choices": [{"message": {"tool_calls": [{"function": {"name": ""}}]}}]})
        return "0"

    found = compare_models(knowing(bool), calling, ROWS)
    assert found.rows[7].failed == {"after": "The answer calls a tool and does not name it."}
    assert len(asked) == len(ROWS)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_row_without_an_answer_counts_as_an_empty_one_and_is_told(concurrency: int) -> None:
    def failing(messages: Sequence[Message]) -> str | None:
        if " 7?" in messages[-1]["content"]:
            raise ScoringError("The model took too long.", status=408)
        if " 8?" in messages[-1]["content"]:
            raise ScoringError("The answer holds no text.", status=200, code=SAID_NOTHING)
        return None if " 9?" in messages[-1]["content"] else "0"

    found = compare_models(knowing(bool), failing, ROWS, concurrency=concurrency)
    said = [dict(found.rows[number].failed) for number in (6, 7, 8, 9)]
    assert said == [
        {},
        {"after": "The model took too long."},
        {"after": "The answer holds no text."},
        {"after": "It returned None."},
    ]
    assert [found.rows[number].after for number in (7, 8, 9)] == ["", "", ""]
    assert "failing gave no answer to 3 rows" in str(found)

    def broken(_: Sequence[Message]) -> str:
        raise ScoringError("The answer holds no text.", status=200, code=SAID_NOTHING)

    with pytest.raises(ScoringError, match="broken answered none of the 40 rows"):
        compare_models(knowing(bool), broken, ROWS)


PASSING = [
    ScoringError("The model server failed: it gave no reason.", status=200),
    ScoringError("The endpoint answered 502 Bad Gateway.", status=502),
    ScoringError("The endpoint answered 424 Failed Dependency.", status=424),
    ServiceUnreachable("The endpoint gave no answer."),
    WaitTimeout("No whole answer."),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: f"{type(error).__name__}{error.status or ''}")
def test_a_fault_that_passes_is_waited_for_and_one_that_stays_ends_it(
    error: PhiftError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phift.evaluation.asking._PAUSES", (0.0, 0.0))
    left = [2]

    def failing(messages: Sequence[Message]) -> str:
        if " 7?" in messages[-1]["content"] and left[0]:
            left[0] -= 1
            raise error
        return "0"

    found = compare_models(knowing(bool), failing, ROWS)
    assert (left, found.rows[7].after, dict(found.rows[7].failed)) == ([0], "0", {})
    left = [3]
    with pytest.raises(type(error)) as raised:
        compare_models(knowing(bool), failing, ROWS)
    assert raised.value.__notes__[0] == "The model after was asked row 8."


@pytest.mark.parametrize("status", [None, 400, 413])
def test_a_refusal_is_no_empty_answer(status: int | None) -> None:
    asked: list[int] = []

    def refusing(_: Sequence[Message]) -> str:
        asked.append(1)
        raise ScoringError("The endpoint answered so.", status=status)

    with pytest.raises(ScoringError, match="answered so"):
        compare_models(refusing, refusing, ROWS)
    assert asked == [1]


def test_a_busy_deployment_is_asked_with_fewer_at_once_and_given_up_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("phift.serving.batch._SECONDS_BETWEEN_SLOWDOWNS", 0.0)
    inside, most, lock = [0], [0], threading.Lock()

    def busy(messages: Sequence[Message]) -> str:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        try:
            time.sleep(0.002)
            if inside[0] > 2:
                raise Throttled("More requests at once than the deployment takes.")
        finally:
            with lock:
                inside[0] -= 1
        return str(messages[-1]["content"])

    found = compare_models(busy, busy, ROWS, concurrency=8)
    assert most[0] > 2
    assert [each.after for each in found.rows] == [each.question for each in found.rows]
    monkeypatch.setattr("phift.serving.batch._LONGEST_WITHOUT_ANSWER", 0.0)

    def never(_: Sequence[Message]) -> str:
        raise Throttled("More requests at once than the deployment takes.")

    with pytest.raises(Throttled, match="is busy"):
        compare_models(never, never, ROWS)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_whatever_else_a_model_raises_ends_it_with_the_row_in_a_note(concurrency: int) -> None:
    def broken(messages: Sequence[Message]) -> str:
        raise PhiftError("The endpoint refused the key.")

    with pytest.raises(PhiftError, match="refused the key") as raised:
        compare_models(knowing(bool), broken, ROWS, concurrency=concurrency)
    assert raised.value.__notes__[0] == "The model after was asked row 1."


@pytest.mark.parametrize(
    "options",
    [
        {"metrics": ["bleu"]},
        {"metrics": []},
        {"metrics": ["chrf", "chrf"]},
        {"metrics": [Metric(name="broken", score=lambda answer, _: 0.0 if answer else math.nan)]},
        {"metrics": [Metric(name="nothing", score=lambda answer, _: 1.0 if answer else None)]},  # type: ignore[arg-type, return-value]
        {"metrics": [Metric(name="length", score=lambda answer, _: 7.0 * len(answer))]},
        {"concurrency": 0},
        {"limit": 0},
        {"prompt_of": list},
    ],
)
def test_wrong_options_are_named_before_anybody_is_asked_or_deployed(options: dict[str, Any]) -> None:
    def never(_: Sequence[Message]) -> str:
        raise AssertionError

    @contextmanager
    def deployed() -> Iterator[Any]:
        raise AssertionError
        yield

    with pytest.raises(ConfigError):
        compare_deployed(deployed(), ROWS, train=None, on_progress=None, **options)
    with pytest.raises(ConfigError):
        compare_models(never, never, ROWS, **options)
    with pytest.raises(ConfigError, match="cannot be asked"):
        compare_models("gold", never, ROWS)  # type: ignore[arg-type]  # the mistake is the test


def first_word(answer: str, _right: str) -> float:
    return 0.0 if not answer or answer.isdigit() else 1.0 / (len(answer.split()[0]) - 2)


def none_of_words(answer: str, _right: str) -> Any:
    return 0.0 if not answer or answer.isdigit() else None


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("score", [first_word, none_of_words])
def test_a_metric_that_cannot_score_an_answer_ends_it_there(score: Callable[[str, str], Any], concurrency: int) -> None:
    asked: list[int] = []

    def slow(messages: Sequence[Message]) -> str:
        asked.append(1)
        time.sleep(0.02)
        return "no idea" if " 3?" in messages[-1]["content"] else "7"

    with pytest.raises((ZeroDivisionError, ConfigError)) as raised:
        compare_models(slow, slow, ROWS, metrics=[Metric(name="own", score=score)], concurrency=concurrency)
    assert len(asked) < 40  # of 80
    assert score is first_word or "The metric own gives a NoneType for an answer to row 4." in str(raised.value)


# ---------------------------------------------------------------- judged and shown


def test_a_better_model_is_called_better_and_a_worse_one_worse() -> None:
    better = compared(lambda number: number < 10, lambda number: number < 30)
    assert better.verdict == "better"
    assert {each.verdict for each in better.metrics.values()} == {"better"}
    exact = better.metrics["exact_match"]
    assert (exact.before, exact.after, exact.improved, exact.worsened, exact.tied) == (0.25, 0.75, 20, 0, 20)
    better.assert_improved()
    better.assert_not_worse(margin=0.01)
    worse = compared(lambda number: number < 30, lambda number: number < 10)
    assert worse.verdict == "worse"
    with pytest.raises(NotImproved, match="not shown that answer is not worse than answer"):
        worse.assert_not_worse()


def test_where_nothing_can_be_told_it_is_said_with_what_could_be_seen() -> None:
    found = compared(lambda number: number < 20, lambda number: number < 22, metrics=["exact_match"])
    tested = found.metrics["exact_match"]
    assert tested.verdict == found.verdict == "cannot tell"
    assert tested.smallest_visible is not None
    said = f"cannot tell at n = 40; the smallest difference that this test could see is {tested.smallest_visible:.3f}"
    assert str(tested) == said
    assert said in str(found)
    found.assert_not_worse()
    with pytest.raises(NotImproved):
        found.assert_not_worse(margin=0.01)  # it may be, as far as the interval goes
    with pytest.raises(AssertionError) as raised:
        found.assert_improved("exact_match")
    assert pickle.loads(pickle.dumps(raised.value)).comparison == found  # noqa: S301 - our own
    with pytest.raises(ConfigError, match="not compared by bleu"):
        found.assert_improved("bleu")


def test_the_rows_that_got_worse_are_shown_the_worst_first_and_as_plain_text() -> None:
    def after(messages: Sequence[Message]) -> str:
        return "<b>[red]no\x1b[31m" if " 3?" in messages[-1]["content"] else "8 or so"

    rows = [row("What is twice 3?", "6"), row("What is twice 4?", "8"), row("What is <i>twice</i> 3?", "6")]
    found = compare_models(knowing(bool), after, rows)
    assert [each.number for each in found.got_worse] == [1, 3, 2]
    html, page = found._repr_html_(), found.page()
    assert "\x1b" not in str(found) + html
    assert "&lt;b&gt;[red]no\\x1b[31m" in html
    assert "<i>" not in html
    assert "color-scheme:light dark" in page
    assert "3 rows got worse" in str(found)


def test_a_comparison_is_plain_values_and_a_table() -> None:
    found = compared(lambda number: number < 10, lambda number: number < 30, seed=3, limit=30)
    values = json.loads(json.dumps(found.to_dict()))
    assert (values["before"], values["seed"], len(values["rows"])) == ("answer", 3, 30)
    assert values["metrics"]["exact_match"]["n"] == 30
    assert values["parameters"] == {"max_new_tokens": 256, "do_sample": False}
    frame = found.to_frame()
    assert list(frame.columns[:5]) == ["row", "question", "reference", "before", "after"]
    assert frame["exact_match_after"].mean() == found.metrics["exact_match"].after
    assert "What is" not in repr(found)


def test_a_metric_of_ones_own_may_count_down() -> None:
    length = Metric(name="length", score=lambda answer, _: float(len(answer)), higher_is_better=False, most=None)
    found = compared(lambda number: False, lambda number: number >= 10, metrics=[length])
    assert found.metrics["length"].verdict == "better"
    assert found.metrics["length"].difference < 0
    assert "length, less is better" in str(found)


def test_what_a_metric_or_prompt_of_raises_is_raised_before_anybody_is_asked() -> None:
    def never(_: Sequence[Message]) -> str:
        raise AssertionError

    def broken(*_given: Any) -> float:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        compare_models(never, never, ROWS, metrics=[Metric(name="broken", score=broken)])
    with pytest.raises(KeyError, match="mine"):
        compare_models(never, never, ROWS, prompt_of=broken)


def test_a_metric_that_differs_by_more_than_it_says_is_named() -> None:
    length = Metric(name="length", score=lambda answer, _: float(len(answer)))
    with pytest.raises(ConfigError, match="gives 0 and 9 for answers to row 1") as raised:
        compare_models(lambda _: "", lambda _: "an answer", [row("What?", "x")], metrics=[length])
    assert "set most=None" in str(raised.value.fix)


def test_a_metric_that_gives_no_number_is_named() -> None:
    broken = Metric(name="broken", score=lambda answer, _: math.log(len(answer)) if answer else math.nan)
    with pytest.raises(ConfigError, match="broken gives nan for an answer to row 1"):
        compare_models(lambda _: "", lambda _: "yes", ROWS, metrics=[broken])
    with pytest.raises(ConfigError, match="one name"):
        compared(bool, bool, metrics=[Metric(name="loss", score=lambda *_: 0.0)], weights=("a", "b"))


def test_rows_with_one_prompt_count_as_one() -> None:
    rows = [each for each in ROWS[:6] for _ in range(20)]
    found = compared(lambda number: False, lambda number: number < 5, rows=rows, metrics=["exact_match"])
    assert (found.metrics["exact_match"].n, len(found.rows)) == (6, 120)
    assert found.verdict == "cannot tell"  # 100 rows flipped, and they are five witnesses
    assert "120 held-out rows, 6 different prompts" in str(found)
    by_digit = compared(bool, bool, prompt_of=lambda messages: messages[-1]["content"][-2], metrics=["exact_match"])
    assert by_digit.metrics["exact_match"].n == 10


# ---------------------------------------------------------------- loss


def test_a_loss_is_one_more_metric_beside_the_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[Progress] = []

    def measure(folder: Path, rows: Sequence[Any], tell: Callable[[int], None]) -> Likelihood:
        tell(len(rows))
        better = 1.0 if folder.name == "after" else 2.0
        return Likelihood(tuple(better + index / 100 for index in range(len(rows))), (2,) * len(rows))

    monkeypatch.setattr("phift.evaluation.comparing.measure", measure)
    weights = (tmp_path / "before", tmp_path / "after")
    found = compared(bool, bool, weights=weights, on_progress=only(Progress, told.append), limit=30)
    loss = found.metrics["loss"]
    assert (loss.verdict, loss.improved, loss.difference, loss.interval) == ("better", 30, -1.0, None)
    assert found.rows[1].scores["loss"] == (2.01, 1.01)
    assert found.perplexity == pytest.approx((math.exp(2.145), math.exp(1.145)))
    assert "perplexity of the right answers: 8.542 before, 3.142 after" in str(found)
    assert [each.source for each in told] == ["the loss of before", "the loss of after"]
    monkeypatch.setattr(
        "phift.evaluation.comparing.measure", lambda folder, *_: Likelihood((1.0,), (len(str(folder)),))
    )
    with pytest.raises(ModelError, match="read the answers as different tokens"):
        compared(bool, bool, weights=weights)
    monkeypatch.setattr(
        "phift.evaluation.comparing.measure", lambda folder, *_: Likelihood((1.0,), (1,), (folder.name,))
    )
    with pytest.raises(ModelError, match="read the questions as different tokens"):
        compared(bool, bool, weights=weights)
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    calling = {"messages": [*row("What?", "")["messages"][:1], {"role": "assistant", "tool_calls": [call]}]}
    with pytest.raises(DataError, match="1 of 41 right answers call tools, the first in row 41"):
        compared(bool, bool, weights=weights, rows=[*ROWS, calling])


def test_a_folder_that_is_no_model_is_said_to_be_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tempfile.py").write_text("raise SystemExit")  # a file of the folder one is in is no module
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="It is no model of transformers") as raised:
        measure(tmp_path, read_rows(ROWS).rows, lambda _: None)
    assert raised.value.where == str(tmp_path)
