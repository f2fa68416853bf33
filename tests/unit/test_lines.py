"""Lines are decoded at once only where each of their columns is known, so that none goes unseen."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from phift.data.lines import Lines
from phift.data.seen import LONGEST_NAME, MOST_NAMES

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def block(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps({"messages": TURNS} | row).encode() + b"\n" for row in rows)


def test_a_column_that_is_new_needs_a_closer_look() -> None:
    lines = Lines()
    rows = block({}, {"id": 1}, {"id": None})
    assert lines.decode(rows) is None
    lines.learn({"messages": 0, "id": 0}.keys())
    decoded = lines.decode(rows)
    assert decoded is not None
    assert decoded.columns.rows == {"id": 1}
    assert [json.loads(msgspec.json.encode(row)) for row in decoded.rows] == [{"messages": TURNS}] * 3
    assert lines.decode(block({"id": 1, "Id": 1})) is None


def test_nothing_is_counted_for_what_is_empty() -> None:
    lines = Lines()
    lines.learn({"id", "images"})
    decoded = lines.decode(block({"id": "", "images": []}, {"id": [], "images": None}, {"images": ["a.png"]}))
    assert decoded is not None
    assert decoded.columns.rows == {"id": 1, "images": 1}


def test_of_a_great_many_columns_those_that_mean_something_are_seen() -> None:
    lines = Lines()
    many = {f"column {number}": 1 for number in range(MOST_NAMES + 1)}
    lines.learn({"id"})
    lines.learn(many.keys())
    decoded = lines.decode(block(many, {"another": 1, "rejected": "c"}, {"id": 1, "system": "Be brief."}))
    assert decoded is not None
    assert decoded.columns.rows == {"id": 1, "rejected": 1}
    assert decoded.columns.more
    assert [len(row.messages) for row in decoded.rows] == [2, 2, 3]
    assert lines.decode(block(many, {"weight": 0})) is None
    assert lines.decode(block(many, {"functions": [{"name": "f"}]})) is None


@pytest.mark.parametrize("name", ['a "b"', "a\\b", "a\nb", "\0", "x" * (LONGEST_NAME + 1), "\ud800"])
def test_a_name_that_the_decoder_cannot_take_needs_a_closer_look_each_time(name: str) -> None:
    lines = Lines()
    for _ in range(2):
        lines.learn({"id", name})
        assert lines.decode(block({"id": 1, name: 1})) is None


@pytest.mark.parametrize(("value", "is_plain"), [(1, True), (1.0, True), (True, True), (None, True), (0, False)])
def test_weights_that_say_more_than_one_need_a_closer_look(value: Any, is_plain: bool) -> None:
    lines = Lines()
    lines.learn({"weight"})
    assert (lines.decode(block({"weight": value})) is not None) == is_plain


def test_a_system_message_beside_another_one_needs_a_closer_look() -> None:
    lines = Lines()
    lines.learn({"system", "system_prompt"})
    assert lines.decode(block({"system": "a"}, {"system_prompt": "a"}, {"system": None}, {"system": " "})) is not None
    assert lines.decode(block({"system": "a", "system_prompt": "b"})) is None
    assert lines.decode(block({"system": "a", "messages": [{"role": "system", "content": "b"}, *TURNS]})) is None
    assert lines.decode(block({"system": ["a"]})) is None
