"""What its author does not want to be learnt is not learnt: the conversation ends before it, or the row is refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phift.config.data import DataConfig, RowsSource
from phift.data import weights
from phift.data.chat import InvalidRow
from phift.data.formats import recognise
from phift.data.prepare import prepare_dataset
from phift.errors import DataError

OFF: list[tuple[str, Any]] = [
    *((key, 0) for key in ("weight", "loss", "loss_scale", "loss_weight", "loss_mask", "train", "trainable")),
    *(("train", value) for value in (False, 0.0, "false", " No ", "0", -1)),
    *((key, True) for key in ("masked", "ignore", "no_loss")),
]
ON: list[tuple[str, Any]] = [
    *((key, value) for key in ("weight", "train", "loss") for value in (1, True, 1.0, "true", "1")),
    *((key, False) for key in ("masked", "ignore")),
]
UNCLEAR: list[tuple[str, Any]] = [
    *(("mask", value) for value in (True, False, 0, 1)),
    ("train_detail", [{"begin_offset": 0, "end_offset": 3, "train": False}]),
    ("loss_scale", "last_round"),
    ("weight", [1]),
]


def turns(*marks: tuple[str, Any] | None) -> list[dict[str, Any]]:
    """Return a conversation whose answers have these keys."""
    return [
        {"role": role, "content": f"{role} {number}", **(dict([mark]) if mark and role == "assistant" else {})}
        for number, mark in enumerate(marks)
        for role in ("user", "assistant")
    ]


@pytest.mark.parametrize("off", OFF)
def test_a_conversation_ends_with_its_last_answer_to_be_learnt(off: tuple[str, Any]) -> None:
    messages = [{"role": "system", "content": "s"}, *turns(None, ("weight", 1), off, off)]
    wanted = messages[:5]
    assert weights.follow(messages, {}) == {weights.SHORTENED}
    assert messages == wanted


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("others", [[None], [("weight", 1), None]])
def test_an_answer_that_is_not_to_be_learnt_before_one_that_is(off: tuple[str, Any], others: list[Any]) -> None:
    with pytest.raises(InvalidRow, match=rf"messages\[1\]: as `{off[0]}` says, the answer is not to be learnt"):
        weights.follow(turns(off, *others), {})


@pytest.mark.parametrize("off", OFF)
def test_a_row_without_an_answer_to_be_learnt(off: tuple[str, Any]) -> None:
    with pytest.raises(InvalidRow, match=f"none of its answers is to be learnt, as `{off[0]}` says"):
        weights.follow(turns(off, off), {})


@pytest.mark.parametrize("on", ON)
def test_an_answer_that_is_to_be_learnt_needs_no_word(on: tuple[str, Any]) -> None:
    messages = turns(on, on, None)
    assert weights.follow(messages, {"weight": 1, "train": None}) == set()
    assert messages == turns(on, on, None)


@pytest.mark.parametrize("unclear", UNCLEAR)
def test_what_does_not_say_plainly_is_refused(unclear: tuple[str, Any]) -> None:
    with pytest.raises(InvalidRow, match=rf"messages\[3\]: its `{unclear[0]}` does not say plainly"):
        weights.follow(turns(None, unclear), {})


def test_other_turns_are_not_learnt_anyway() -> None:
    messages = turns(None, None)
    for message in messages:
        if message["role"] != "assistant":
            message["weight"] = 0
    assert weights.follow(messages, {}) == set()


@pytest.mark.parametrize("value", [0, False, "0", "false", 0.0])
@pytest.mark.parametrize("column", sorted(weights.OF_ROWS))
def test_a_row_that_is_not_to_be_learnt(column: str, value: object) -> None:
    with pytest.raises(InvalidRow, match=f"the row is not to be learnt, as `{column}` says"):
        weights.follow(turns(None), {column: value})


@pytest.mark.parametrize("value", [Decimal("0.00"), np.bool_(False), np.float32(0), np.array(0)])
def test_a_row_that_is_not_to_be_learnt_says_so_in_any_kind_of_number(value: object, tmp_path: Path) -> None:
    rows = [{"messages": turns(None), "weight": value}] * 20
    with pytest.raises(DataError, match="the row is not to be learnt, as `weight` says"):
        prepare_dataset(DataConfig(train=RowsSource(rows=rows)), tmp_path)


def test_weights_between_are_told() -> None:
    assert weights.follow(turns(("weight", 0.5)), {}) == {weights.WEIGHED}
    assert weights.follow(turns(None), {"sample_weight": 3}) == {weights.WEIGHED}
    assert weights.follow(turns(None), {"train": "by night"}) == set()


@pytest.mark.parametrize("answered", [True, False])
def test_answers_within_a_prompt_are_told(answered: bool, tmp_path: Path) -> None:
    before = ("user", "assistant", "user") if answered else ("system", "user")
    rows = [
        {"prompt": [{"role": role, "content": f"{role} {row}"} for role in before], "completion": f"End {row}."}
        for row in range(30)
    ]
    told = [
        finding
        for finding in prepare_dataset(DataConfig(train=RowsSource(rows=rows)), tmp_path).findings
        if "in a prompt" in finding.message
    ]
    assert [finding.code for finding in told] == ["DATA_WEIGHTS"] * answered


def test_answers_of_a_completion_alone_need_no_word(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is {row}?"}],
            "completion": [
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "content": f"{row}"},
                {"role": "assistant", "content": f"It is {row}."},
            ],
        }
        for row in range(30)
    ]
    findings = prepare_dataset(DataConfig(train=RowsSource(rows=rows)), tmp_path).findings
    assert "DATA_WEIGHTS" not in {finding.code for finding in findings}


def parts_of(*marks: tuple[str, Any]) -> dict[str, Any]:
    """Return a row whose question and whose answer are parts with these keys."""
    parts = [{"type": "text", "text": "a", **dict([mark])} for mark in marks]
    asked = [{"type": "text", "text": "a", "train": False}]
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": parts}]}


@pytest.mark.parametrize("off", [*OFF, *UNCLEAR])
def test_a_part_of_an_answer_that_is_not_to_be_learnt(off: tuple[str, Any]) -> None:
    with pytest.raises(InvalidRow, match=rf"content\[1\]: as `{off[0]}` says, this part of the answer is not"):
        recognise(["messages"]).convert(parts_of(("weight", 1), off))


@pytest.mark.parametrize("on", [*ON, ("train", None), ("mask", None)])
def test_a_part_of_an_answer_that_is_to_be_learnt(on: tuple[str, Any]) -> None:
    assert recognise(["messages"]).convert(parts_of(on, on))["messages"][1] == {"role": "assistant", "content": "aa"}
