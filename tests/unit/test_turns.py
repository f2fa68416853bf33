"""The same conversation, in the shapes that APIs and tools give it, is the same line of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phift.data import chat, turns
from phift.data.chat import InvalidRow
from phift.data.formats import recognise
from unit.decoded import decoded_lines

Row = dict[str, Any]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: not text.isspace())
VALUES = st.none() | st.booleans() | st.integers(-5, 5) | TEXT
NAMES = st.text("abcxyz_", min_size=1, max_size=5)
CALL = st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=3), TEXT)
EXCHANGE = st.tuples(TEXT, st.lists(CALL, max_size=2), TEXT)
TOOLS = st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=2)), max_size=2)
Exchanges = list[tuple[str, list[tuple[str, dict[str, Any], str]], str]]
Tools = list[tuple[str, dict[str, Any]]]


def line(row: Row) -> bytes:
    converted = recognise(row).convert(row)
    chat.drop_blank_system(converted["messages"])
    return msgspec.json.encode(chat.from_values(converted)[0])


def of_today(exchanges: Exchanges, tools: Tools, *, ids: bool) -> Row:
    """Return a conversation as OpenAI's chat completions have it."""
    messages: list[Row] = []
    for number, (question, calls, answer) in enumerate(exchanges):
        messages.append({"role": "user", "content": question})
        named = [({"id": f"call_{number}_{index}"} if ids else {}) for index in range(len(calls))]
        if calls:
            made: list[Row] = [
                {**known, "type": "function", "function": {"name": name, "arguments": arguments}}
                for known, (name, arguments, _) in zip(named, calls, strict=True)
            ]
            messages.append({"role": "assistant", "content": None, "tool_calls": made})
        for known, (_, _, result) in zip(named, calls, strict=True):
            answers = {"tool_call_id": known["id"]} if ids else {}
            messages.append({"role": "tool", "content": result, **answers})
        messages.append({"role": "assistant", "content": answer})
    functions = [{"name": name, "description": "…", "parameters": parameters} for name, parameters in tools]
    return {"messages": messages, "tools": [{"type": "function", "function": function} for function in functions]}


def in_parts(row: Row, part: Callable[[str], Any]) -> Row:
    def split(message: Row) -> Row:
        text = message["content"]
        middle = len(text or "") // 2
        parts = [part(text[:middle]), part(text[middle:])] if text else text
        return {**message, "content": parts}

    return {**row, "messages": list(map(split, row["messages"]))}


PARTS: dict[str, Callable[[str], Any]] = {
    "text": lambda text: {"type": "text", "text": text},
    "value": lambda text: {"type": "text", "value": text, "weight": None},
    "content": lambda text: {"type": "text", "content": text},
    "no type": lambda text: {"text": text, "image": None},
    "no type but a value": lambda text: {"value": text},
    "plain": lambda text: text,
    "assistants": lambda text: {"type": "text", "text": {"value": text, "annotations": []}},
    "responses": lambda text: {"type": "output_text", "text": text, "annotations": []},
    "responses of a user": lambda text: {"type": "input_text", "text": text},
}


@pytest.mark.parametrize("name", PARTS)
@given(exchanges=st.lists(EXCHANGE, min_size=1, max_size=3), tools=TOOLS)
def test_a_text_in_parts_is_that_text(name: str, exchanges: Exchanges, tools: Tools) -> None:
    row = of_today(exchanges, tools, ids=True)
    assert line(in_parts(row, PARTS[name])) == line(row)


def test_one_part_needs_no_list() -> None:
    row = {"messages": [{"role": "user", "content": {"type": "text", "text": "a"}}, {"role": "bot", "text": "b"}]}
    assert line(row) == line({"prompt": "a", "completion": "b"})
    gemini = [{"role": "user", "parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}]
    assert line({"messages": gemini}) == line(row)
    with pytest.raises(InvalidRow, match="content is not a text but an object"):  # no part, but a tool's result, say
        line({"messages": [{"role": "user", "content": {"degrees": 21}}, {"role": "assistant", "content": "b"}]})


@given(exchanges=st.lists(EXCHANGE, min_size=1, max_size=3), tools=TOOLS)
def test_anthropics_parts_become_tool_calls_and_answers(exchanges: Exchanges, tools: Tools) -> None:
    messages: list[Row] = []
    for number, (question, calls, answer) in enumerate(exchanges):
        messages.append({"role": "user", "content": [{"type": "text", "text": question}]})
        named = [f"call_{number}_{index}" for index in range(len(calls))]
        used: list[Row] = [
            {"type": "tool_use", "id": known, "name": name, "input": arguments}
            for known, (name, arguments, _) in zip(named, calls, strict=True)
        ]
        results: list[Row] = [
            {
                "type": "tool_result",
                "tool_use_id": known,
                "content": [{"type": "text", "text": result}] if number % 2 else result,
            }
            for known, (*_, result) in zip(named, calls, strict=True)
        ]
        if calls:
            messages += ({"role": "assistant", "content": used}, {"role": "user", "content": results})
        messages.append({"role": "assistant", "content": answer})
    given_tools = [{"name": name, "description": "…", "input_schema": schema} for name, schema in tools]
    assert line({"messages": messages, "tools": given_tools}) == line(of_today(exchanges, tools, ids=True))


def test_what_is_said_beside_a_tool_of_anthropics_stays() -> None:
    used = {"type": "tool_use", "id": "1", "name": "now", "input": {}}
    turns = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, used]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "1", "content": "noon", "is_error": False}],
        },
        {"role": "assistant", "content": "At noon."},
    ]
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": {}}}
    assert recognise(["messages"]).convert({"messages": turns}) == {
        "messages": [
            {"role": "user", "content": "When?"},
            {"role": "assistant", "content": "I look.", "tool_calls": [call]},
            {"role": "tool", "content": "noon", "tool_call_id": "1", "is_error": False},
            {"role": "assistant", "content": "At noon."},
        ]
    }


@pytest.mark.parametrize("as_text", [True, False])
@given(exchanges=st.lists(EXCHANGE, min_size=1, max_size=3), tools=TOOLS)
def test_older_function_calls_become_tool_calls(as_text: bool, exchanges: Exchanges, tools: Tools) -> None:
    single = [(question, calls[:1], answer) for question, calls, answer in exchanges]
    row = of_today(single, tools, ids=False)
    older = []
    for message in row["messages"]:
        if "tool_calls" in message:
            call = message["tool_calls"][0]["function"]
            message = {"role": "assistant", "content": None, "function_call": json.dumps(call) if as_text else call}
        older.append({**message, "role": "function"} if message["role"] == "tool" else message)
    functions = [tool["function"] for tool in row["tools"]]
    given_functions = json.dumps(functions) if as_text else functions
    assert line({"messages": older, "functions": given_functions}) == line(row)
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": None, "function_call": {"name": "f"}}]
    assert b'"tool_calls":[{"type":"function","function":{"name":"f","arguments":{}}}]' in line({"messages": turns})


@given(exchanges=st.lists(EXCHANGE, min_size=1, max_size=3), tools=TOOLS)
def test_sharegpts_calls_become_tool_calls(exchanges: Exchanges, tools: Tools) -> None:
    row = of_today(exchanges, tools, ids=False)
    turns = []
    for message in row["messages"]:
        if "tool_calls" in message:
            calls = [call["function"] for call in message["tool_calls"]]
            turns.append({"from": "function_call", "value": json.dumps(calls)})
        else:
            speaker = {"user": "human", "assistant": "gpt", "tool": "observation"}[message["role"]]
            turns.append({"from": speaker, "value": message["content"]})
    assert line({"conversations": turns, "tools": json.dumps(row["tools"])}) == line(row)


@given(exchanges=st.lists(EXCHANGE, min_size=1, max_size=3), tools=TOOLS)
def test_a_line_read_at_once_is_that_of_a_row(exchanges: Exchanges, tools: Tools) -> None:
    row = of_today([(question, [], answer) for question, _, answer in exchanges], tools, ids=False)
    rows = decoded_lines(json.dumps(row).encode() + b"\n")
    assert rows is not None
    assert msgspec.json.encode(rows[0]) == line(row)


@pytest.mark.parametrize(
    "tools",
    [
        {"functions": [{"name": "f", "parameters": {}}]},
        {"tools": [{"name": "f", "input_schema": {}, "cache_control": {"type": "ephemeral"}}]},
        {"tools": [{"type": "function", "name": "f", "parameters": {}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "functions": None},
    ],
)
def test_the_tools_of_other_apis_are_wrapped(tools: Row) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = {"messages": turns, **tools}
    expected = {"messages": turns, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
    assert line(row) == msgspec.json.encode(expected)
    read = decoded_lines(json.dumps(row).encode() + b"\n")
    assert read is None or msgspec.json.encode(read[0]) == line(row)


@pytest.mark.parametrize("tools", [[{"name": "f", "parameters": {}}], [{"type": "web_search", "name": "w"}], ["f", 1]])
def test_other_tools_stay_as_they_are(tools: list[Any]) -> None:
    assert recognise(["messages"]).convert({"messages": [], "tools": tools})["tools"] == tools


def test_tool_calls_that_are_text_are_read() -> None:
    calls = [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]
    turns: list[Row] = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": json.dumps(calls)}]
    assert line({"messages": turns}) == line({"messages": [turns[0], {"role": "assistant", "tool_calls": calls}]})
    turns = [{"role": "user", "content": "a", "tool_calls": ""}, {"role": "assistant", "content": "b"}]
    assert line({"messages": turns}) == line({"prompt": "a", "completion": "b"})


def test_an_images_turn_is_refused_whoever_speaks() -> None:
    for role in ("system", "user", "assistant", "tool"):
        turn = {"role": role, "content": [{"type": "image"}]}
        with pytest.raises(InvalidRow, match=r"messages\[0\]\.content\[0\] is not text but an image part"):
            recognise(["messages"]).convert({"messages": [turn]})


KEYS = [
    "role",
    "from",
    "content",
    "value",
    "text",
    "type",
    "id",
    "name",
    "input",
    "function_call",
    "tool_calls",
    "function",
]
WORDS = [
    "user",
    "assistant",
    "gpt",
    "tool",
    "function_call",
    "text",
    "tool_use",
    "tool_result",
    "image",
    "",
    "[1]",
    "{",
]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=20,
)
TURNS = st.fixed_dictionaries({"role": st.sampled_from(WORDS), "content": ANYTHING}) | ANYTHING


@given(messages=st.lists(TURNS, max_size=4), tools=ANYTHING, functions=ANYTHING)
def test_whatever_a_row_holds_it_is_converted_or_refused(messages: list[Any], tools: Any, functions: Any) -> None:
    for row in (
        {"messages": messages, "tools": tools, "functions": functions},
        {"prompt": messages, "completion": tools},
    ):
        with suppress(InvalidRow):
            line(row)


def test_the_keys_of_turns_and_parts_that_say_nothing_are_noted() -> None:
    keys: set[str] = set()
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}, "index": 0}
    parts = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}, "citations": None}]
    turns_with_keys: list[Row] = [
        {"role": "user", "content": parts, "name": "Ada", "audio": None},
        {"role": "assistant", "content": None, "tool_calls": [call], "weight": 1},
        {"from": "gpt", "value": {"value": "b", "annotations": []}, "id": 7},
    ]
    for turn in turns_with_keys:
        turns.note_keys(turn, keys)
    assert keys == {"content.cache_control", "name", "weight", "value.annotations", "id"}


def test_a_text_that_is_not_read_because_another_is_is_noted() -> None:
    keys: set[str] = set()
    given_turns: list[Row] = [
        {"role": "user", "content": "a", "parts": [{"type": "text", "text": "b"}], "value": None},
        {"from": "gpt", "value": "c", "text": "<p>c</p>", "role": None},  # as in pages that were saved
    ]
    for turn in given_turns:
        turns.note_keys(turn, keys)
    assert keys == {"parts", "text"}
