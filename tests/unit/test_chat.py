from __future__ import annotations

import datetime
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phift.data import chat
from unit.decoded import decoded_lines

USER = {"role": "user", "content": "What is the symbol of gold?"}
ASSISTANT = {"role": "assistant", "content": "Au"}
SYSTEM = {"role": "system", "content": "You are brief."}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "look_up"}}]}
CALL_2 = {"role": "assistant", "tool_calls": [{"a": 1}]}
TOOL = {"role": "tool", "content": "79", "tool_call_id": "1"}


def row(*messages: Any, **columns: Any) -> bytes:
    return json.dumps({"messages": list(messages), **columns}).encode()


def written(values: dict[str, Any]) -> Any:
    conversation, _ = chat.from_values(values)
    return json.loads(msgspec.json.encode(conversation))


def written_from(line: bytes) -> Any:
    return written({"messages": None, **chat.values_of(line)})


@pytest.mark.parametrize(
    "messages",
    [
        (USER, ASSISTANT),
        (SYSTEM, USER, ASSISTANT),
        (USER, ASSISTANT, USER, ASSISTANT),
        (USER, CALL, TOOL, ASSISTANT),
        (USER, CALL, TOOL, TOOL, CALL, TOOL, ASSISTANT, USER, ASSISTANT),
        (USER, CALL),
    ],
    ids=lambda messages: "-".join(message["role"] for message in messages),
)
def test_a_good_conversation_is_kept(messages: tuple[dict[str, Any], ...]) -> None:
    kept = [{key: value for key, value in message.items() if value is not None} for message in messages]
    assert written_from(row(*messages)) == {"messages": kept}


def test_plain_lines_are_read_at_once_and_come_out_the_same() -> None:
    lines = [row(USER, ASSISTANT), row(SYSTEM, USER, ASSISTANT, id=7), row(USER, CALL_2, tools=[{"name": "f"}], x=None)]
    rows = decoded_lines(b"\n".join([*lines, b""]))
    assert rows is not None
    counts = [29, 43, 27 + len('[{"a":1}]')]
    assert [chat.check(read.messages) for read in rows] == [(count, False) for count in counts]
    encoded = [json.loads(msgspec.json.encode(read)) for read in rows]
    assert encoded == [written_from(line) for line in lines]


@pytest.mark.parametrize(
    "block",
    [
        b"\n" + row(USER, ASSISTANT) + b"\n",
        row(USER, {**ASSISTANT, "name": "x"}) + b"\n",
        row(USER, {**ASSISTANT, "role": "bot"}) + b"\n",
        row(USER, ASSISTANT)[:-1] + b"\n",
        b'{"messages":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b"\xff\n",
        row(USER, ASSISTANT) + row(USER, ASSISTANT) + b"\n\n",
        b"\n" + row(USER, ASSISTANT) + b" " + row(USER, ASSISTANT) + b"\n",
        row(USER, ASSISTANT).replace(b", ", b",\n", 1) + row(USER, ASSISTANT) + b"\n",
        row(USER, ASSISTANT, tools=["@"]).replace(b"@", b"\xff") + b"\n",
        row(USER, {"role": "assistant", "tool_calls": ["@"]}).replace(b"@", b"\xff") + b"\n",
        row(USER, ASSISTANT, tools=["@"]).replace(b'"@"', b"1e999") + b"\n",
    ],
)
def test_what_is_not_plain_is_left_to_a_closer_look(block: bytes) -> None:
    assert decoded_lines(block) is None


@pytest.mark.parametrize("messages", [[USER, ASSISTANT], [USER, {**CALL, "content": "a"}, TOOL, ASSISTANT]])
def test_the_characters_are_those_of_what_is_said(messages: list[dict[str, Any]]) -> None:
    _, (characters, _) = chat.from_values({"messages": messages})
    calls = [json.dumps(m["tool_calls"], separators=(",", ":")) for m in messages if m.get("tool_calls")]
    assert characters == sum(len(m["content"]) for m in messages) + sum(map(len, calls))


SECRET = "my own words"

BAD = [
    (row(), "it has 0 messages; at least 2 are needed"),
    (row(ASSISTANT), "it has 1 message; at least 2 are needed"),
    (row(USER, USER), "messages[1]: after user comes assistant, not user"),
    (row(ASSISTANT, USER), "messages[0]: a conversation starts with system or user, not assistant"),
    (row(USER, SYSTEM, ASSISTANT), "messages[1]: after user comes assistant, not system"),
    (row(SYSTEM, ASSISTANT), "messages[1]: after system comes user, not assistant"),
    (row(USER, ASSISTANT, ASSISTANT), "messages[2]: after assistant comes user, not assistant"),
    (row(USER, ASSISTANT, TOOL, ASSISTANT), "messages[2]: after assistant comes user, not tool"),
    (row(USER, CALL, ASSISTANT), "messages[2]: after tool call comes tool, not assistant"),
    (row(USER, ASSISTANT, USER), "the last message is from user, not from assistant"),
    (row(USER, {"role": "assistant", "content": " \n\t"}), "messages[1]: the assistant message has no text"),
    (row(USER, {"role": "assistant", "content": None}), "messages[1]: the assistant message has no text"),
    (row(USER, {"role": "assistant"}), "messages[1]: the assistant message has no text"),
    (row({"role": "user", "content": ""}, ASSISTANT), "messages[0]: the user message has no text"),
    (row({**USER, "tool_calls": [1]}, ASSISTANT), "messages[0]: only the assistant calls tools, not user"),
    (
        row(USER, {"role": SECRET, "content": SECRET}),
        "messages[1].role: the role is none of system, user, assistant and tool",
    ),
    (row(USER, {"content": SECRET}), "messages[1]: Object missing required field `role`"),
    (row(USER, {"role": "assistant", "content": 3}), "messages[1].content: Expected `str | null`, got `int`"),
    (row(USER, SECRET), "messages[1]: Expected `object`, got `str`"),
    (json.dumps({"messages": SECRET}).encode(), "Expected `array`, got `str`"),
    (json.dumps([USER, ASSISTANT]).encode(), "Expected `object`, got `array`"),
    (row(USER, ASSISTANT)[:-1], "it is not JSON: Input data was truncated"),
    (row(USER, ASSISTANT) + b"}", "it is not JSON: JSON is malformed: trailing characters"),
    (row(USER, {"role": "assistant", "content": "caf\xe9"}, x="\xe9").replace(b"\\u00e9", b"\xe9"), "it is not UTF-8"),
    (row(USER, {"role": "assistant", "content": "a\udc00"}), "it is not JSON: JSON is malformed"),
    (b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "it is nested too deeply"),
    (row(USER, ASSISTANT, tools="none"), "`tools` is not a list"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_a_bad_row_is_refused_with_a_reason_that_quotes_nothing(line: bytes, reason: str) -> None:
    with pytest.raises(chat.InvalidRow) as caught:
        written_from(line)
    assert str(caught.value).startswith(reason)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"messages": None}, "Expected `array`, got `null`"),
        ({"messages": [USER, None]}, "messages[1]: Expected `object`, got `null`"),
        ({"messages": [USER, {"role": SECRET, "content": "a"}]}, "messages[1].role: the role is none of"),
        ({"messages": [USER]}, "it has 1 message"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{("a",): 1}]}]},
            "messages[1].tool_calls holds what JSON cannot hold (TypeError)",
        ),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": ["\ud800"]}]},
            "messages[1].tool_calls holds what JSON cannot hold (Unicode",
        ),
        ({"messages": [USER, {**ASSISTANT, "extra": object()}]}, "it holds a value that JSON cannot hold (TypeError)"),
        ({"messages": [USER, {**ASSISTANT, "\ud800": ""}]}, "it holds a value that JSON cannot hold (Unicode"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(chat.InvalidRow) as caught:
        chat.from_values(values)
    assert str(caught.value).startswith(reason)
    assert SECRET not in str(caught.value)


def test_only_messages_and_tools_are_written() -> None:
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    assert written_from(row(USER, ASSISTANT, tools=tools, prompt_id="x")) == {
        "messages": [USER, ASSISTANT],
        "tools": tools,
    }


@pytest.mark.parametrize("tools", [None, []])
def test_empty_tools_are_left_out(tools: Any) -> None:
    line = row(USER, ASSISTANT, tools=tools)
    assert written_from(line) == {"messages": [USER, ASSISTANT]}
    rows = decoded_lines(line + b"\n")
    assert rows is not None
    assert json.loads(msgspec.json.encode(rows[0])) == {"messages": [USER, ASSISTANT]}


def test_null_keys_of_a_message_go_and_other_nulls_stay() -> None:
    told = {"role": "assistant", "content": "null", "thinking": None, "name": "x"}
    called = {**CALL, "tool_calls": [{"id": None}]}
    assert written_from(row(USER, called, TOOL, told)) == {
        "messages": [
            USER,
            {"role": "assistant", "tool_calls": [{"id": None}]},
            TOOL,
            {"role": "assistant", "content": "null", "name": "x"},
        ]
    }


def test_equal_rows_are_written_equally_whatever_the_order_of_their_keys() -> None:
    turned = [dict(reversed(message.items())) for message in (USER, ASSISTANT)]
    conversation, _ = chat.from_values({"messages": turned})
    rows = decoded_lines(row(USER, ASSISTANT) + b"\n")
    assert rows is not None
    assert msgspec.json.encode(conversation) == msgspec.json.encode(rows[0])


class Text(str):
    """As numpy has texts of its own."""


def test_kinds_of_text_are_texts() -> None:
    turned = [{"role": Text(turn["role"]), "content": Text(turn["content"])} for turn in (USER, ASSISTANT)]
    assert written({"messages": turned}) == {"messages": [USER, ASSISTANT]}


@pytest.mark.parametrize("text", ["nan", "NaN", "None", " null\n", "N/A", "<NA>", "\u200b", "nothing", "[]", "No"])
@pytest.mark.parametrize("call", [[], [CALL, TOOL]])
def test_an_answer_that_stands_for_a_missing_value_is_told(text: str, call: list[Any]) -> None:
    _, (_, lacking) = chat.from_values({"messages": [USER, *call, {"role": "assistant", "content": text}]})
    assert lacking == (text not in ("nothing", "[]", "No"))
    _, (_, lacking) = chat.from_values({"messages": [{"role": "user", "content": text}, *call, ASSISTANT]})
    assert not lacking


def test_a_system_message_that_says_nothing_is_taken_out() -> None:
    blank = {"role": "system", "content": " \n"}
    for messages in ([blank, USER, ASSISTANT], [USER, {"role": "system", "content": None}, ASSISTANT]):
        assert chat.drop_blank_system(messages) == 1
        assert messages == [USER, ASSISTANT]
    kept = [{**blank, "tools": "[]"}, SYSTEM, USER, ASSISTANT]
    assert chat.drop_blank_system(kept) == 0
    rows = decoded_lines(row(blank, USER, ASSISTANT) + b"\n")
    assert rows is not None
    assert chat.drop_blank_system(rows[0].messages) == 1
    assert json.loads(msgspec.json.encode(rows[0])) == {"messages": [USER, ASSISTANT]}


def test_dates_from_arrow_become_text() -> None:
    told = {**ASSISTANT, "at": datetime.date(2026, 1, 2)}
    assert written({"messages": [USER, told]})["messages"][1]["at"] == "2026-01-02"


TEXT = st.text(min_size=1).filter(lambda text: not text.isspace())


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), st.booleans())
def test_any_text_comes_through_unchanged(pairs: list[tuple[str, str]], ascii_only: bool) -> None:
    messages = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    line = json.dumps({"messages": messages}, ensure_ascii=ascii_only).encode()
    assert written_from(line) == {"messages": messages}
    rows = decoded_lines(line + b"\n")
    assert rows is not None
    encoded = msgspec.json.encode(rows[0])
    assert json.loads(encoded) == {"messages": messages}
    assert b"\n" not in encoded


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["role", "content", "messages", "x"]), inner),
)


@given(st.fixed_dictionaries({"messages": JSON}))
def test_anything_else_is_refused_and_never_breaks_the_reader(values: dict[str, Any]) -> None:
    with pytest.raises(chat.InvalidRow):
        written_from(json.dumps(values).encode())
    with pytest.raises(chat.InvalidRow):
        chat.from_values(values)


@given(st.binary())
def test_no_bytes_break_the_reader(line: bytes) -> None:
    with pytest.raises(chat.InvalidRow):
        written_from(line)
