from __future__ import annotations

import csv
import io
import json
import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phift.data import chat, formats
from phift.data.chat import InvalidRow
from phift.data.formats import UnknownFormat, recognise

Messages = list[dict[str, Any]]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: not text.isspace())
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)
SYSTEM = st.none() | TEXT


def conversation(pairs: list[tuple[str, str]], system: str | None = None) -> Messages:
    messages: Messages = [{"role": "system", "content": system}] if system else []
    for question, answer in pairs:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def convert(row: dict[str, Any], **options: Any) -> dict[str, Any]:
    return recognise(row, **options).convert(row)


def messages(row: dict[str, Any], **options: Any) -> Messages:
    converted: Messages = convert(row, **options)["messages"]
    return converted


# There and back: each encoder is the format as its own tools write it.


def as_messages(pairs: list[tuple[str, str]], system: str | None) -> dict[str, Any]:
    return {"messages": conversation(pairs, system), "id": 1}


def as_sharegpt(pairs: list[tuple[str, str]], system: str | None) -> dict[str, Any]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [{"from": names[m["role"]], "value": m["content"]} for m in conversation(pairs)]
    return {"id": "x", "conversations": turns, "system": system or ""}


def as_alpaca(pairs: list[tuple[str, str]], system: str | None) -> dict[str, Any]:
    *history, (instruction, output) = pairs
    return {
        "instruction": instruction,
        "input": "",
        "output": output,
        "history": [list(pair) for pair in history],
        "system": system,
    }


def as_prompts(pairs: list[tuple[str, str]], system: str | None) -> dict[str, Any]:
    whole = conversation(pairs, system)
    return {"prompt": whole[:-1], "completion": whole[-1:]}


ENCODERS: dict[str, Callable[[list[tuple[str, str]], str | None], dict[str, Any]]] = {
    "messages": as_messages,
    "sharegpt": as_sharegpt,
    "alpaca": as_alpaca,
    "prompt_completion": as_prompts,
}


@pytest.mark.parametrize("name", ENCODERS)
@given(pairs=PAIRS, system=SYSTEM)
def test_a_conversation_comes_back(name: str, pairs: list[tuple[str, str]], system: str | None) -> None:
    row = ENCODERS[name](pairs, system)
    assert recognise(row).format == name
    assert convert(row) == {"messages": conversation(pairs, system)}


@given(PAIRS)
def test_ultrachat_comes_back(pairs: list[tuple[str, str]]) -> None:
    assert convert({"id": "1", "data": [text for pair in pairs for text in pair]}) == {"messages": conversation(pairs)}


@given(TEXT, TEXT, SYSTEM, st.sampled_from([("prompt", "completion"), ("prompt", "response"), ("question", "answer")]))
def test_pairs_of_texts_come_back(question: str, answer: str, system: str | None, names: tuple[str, str]) -> None:
    row = {names[0]: question, names[1]: answer, "system": system}
    assert convert(row) == {"messages": conversation([(question, answer)], system)}


BARE: dict[str, dict[str, Any]] = {
    "messages": {"messages": conversation([("a", "b")])},
    "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "alpaca": {"instruction": "a", "output": "b"},
    "prompt_completion": {"prompt": "a", "completion": "b"},
    "question_answer": {"question": "a", "answer": "b"},
    "ultrachat": {"data": ["a", "b"]},
}
PARTS = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]


@pytest.mark.parametrize("column", ["system", "system_prompt"])
@pytest.mark.parametrize("row", BARE.values(), ids=BARE)
def test_every_format_may_have_its_system_message_in_a_column(row: dict[str, Any], column: str) -> None:
    plain, briefly = conversation([("a", "b")]), conversation([("a", "b")], "Be brief.")
    assert messages(row | {column: "Be brief."}) == briefly
    assert messages(row | {column: PARTS}) == briefly
    assert messages(row | {column: {"role": "system", "parts": [{"text": "Be brief."}]}}) == briefly  # Gemini's
    assert messages(row | {column: " "}) == messages(row | {column: None}) == messages(row | {column: []}) == plain
    assert recognise(row).convert(row | {column: "Be brief."}) == {"messages": briefly}  # in a later row only
    assert messages(row | {"my own": "Be brief."}, mapping={"system": "my own"}) == briefly
    assert messages(row | {"system": "Be brief.", "system_prompt": "Be brief."}) == briefly


@pytest.mark.parametrize("own", ["Be brief.", " Be brief. ", "", " \n"])
def test_a_system_message_that_is_there_twice_is_one(own: str) -> None:
    turns = [{"role": "system", "content": own}, *conversation([("a", "b")])]
    assert messages({"messages": turns, "system": "Be brief."}) == conversation([("a", "b")], "Be brief.")


def test_a_system_message_that_is_there_twice_keeps_its_keys() -> None:
    first = {"role": "system", "content": "Be brief.", "tools": "[]"}  # where Phi-4-mini's template has them
    turns = [first, *conversation([("a", "b")])]
    assert messages({"messages": turns, "system": "Be brief."}) == turns


@pytest.mark.parametrize("column", ["system", "system_prompt"])
def test_two_different_system_messages_are_refused(column: str) -> None:
    row = {"messages": conversation([("a", "b")], "Be kind."), column: "Be brief."}
    with pytest.raises(InvalidRow, match=f"`{column}` says something else than the system message"):
        convert(row)
    with pytest.raises(InvalidRow, match="`system_prompt` says something else"):
        convert(BARE["messages"] | {"system": "Be brief.", "system_prompt": "Be kind."})


@pytest.mark.parametrize("name", ENCODERS)
@given(pairs=PAIRS, system=SYSTEM)
def test_a_conversation_comes_back_from_json_text(name: str, pairs: list[tuple[str, str]], system: str | None) -> None:
    row = ENCODERS[name](pairs, system)
    cells = {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()}
    assert convert(cells) == {"messages": conversation(pairs, system)}


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "[]",
        '["role"]',
        '[{"role": "user"}]',
        '[{"from": "a@b.de", "text": "c"}]',
        '[{"name": "x", "value": 1}]',
        '[{"role": "user", "con',
    ],
)
def test_a_text_in_brackets_is_a_text(text: str) -> None:
    assert messages({"prompt": text, "completion": text}) == conversation([(text, text)])


@given(st.lists(PAIRS, min_size=1, max_size=3))
def test_a_conversation_comes_back_through_arrow_and_pandas(rows: list[list[tuple[str, str]]]) -> None:
    for encode in ENCODERS.values():
        table = pa.Table.from_pylist([encode(pairs, None) for pairs in rows])
        frame = table.to_pandas()
        for records in (table.to_pylist(), frame.to_dict("records")):
            layout = recognise(table.column_names)
            assert [layout.convert(row) for row in records] == [{"messages": conversation(pairs)} for pairs in rows]
            assert all(chat.from_values(layout.convert(row)) for row in records)


# What is recognised


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["messages"], "messages"),
        (["prompt", "prompt_id", "messages"], "messages"),  # HuggingFaceH4/ultrachat_200k
        (["messages", "conversations"], "messages"),
        (["id", "conversations"], "sharegpt"),
        (["instruction", "input", "output", "text"], "alpaca"),  # tatsu-lab/alpaca
        (["instruction", "output", "question", "answer"], "alpaca"),
        (["prompt", "response"], "prompt_completion"),
        (["prompt", "completion", "response"], "prompt_completion"),
        (["question", "answer"], "question_answer"),  # openai/gsm8k
        (["id", "data"], "ultrachat"),
    ],
)
def test_the_columns_say_the_format(columns: list[str], expected: str) -> None:
    assert recognise(columns).format == expected
    assert recognise([f" {column}\t" for column in columns]).format == expected


def test_names_may_have_blanks_and_be_mapped() -> None:
    row = {" Frage ": "Why?", "Antwort": "So.", "question": "Something else", "n": 1}
    layout = recognise(row, mapping={"question": "Frage", "answer": "Antwort"})
    assert layout.format == "question_answer"
    assert layout.convert(row) == {"messages": conversation([("Why?", "So.")])}
    assert {column for column in row if column not in layout.used} == {"question", "n"}


def test_a_mapping_chooses_among_formats_that_fit() -> None:
    row = {"messages": [], "q": "Why?", "answer": "So."}
    assert messages(row, mapping={"question": "q"}) == conversation([("Why?", "So.")])


def test_a_named_format_wins() -> None:
    row = {"messages": [], "question": "Why?", "answer": "So."}
    assert messages(row, format="question_answer") == conversation([("Why?", "So.")])


def test_a_mapped_column_stands_for_nothing_else() -> None:
    row = {"input": "Why?", "output": "So."}
    assert messages(row, mapping={"instruction": "input"}) == conversation([("Why?", "So.")])
    swapped = {"instruction": "a", "output": "b", "input": "c"}
    mapping = {"instruction": "output", "output": "instruction"}
    assert messages(swapped, mapping=mapping) == conversation([("b\n\nc", "a")])
    assert messages({"prompt": "a", "text": "b", "completion": "c"}, mapping={"response": "text"})[1]["content"] == "b"


def test_an_optional_column_may_come_later() -> None:
    layout = recognise(["question", "answer"])
    row = {"question": "a", "answer": "b", "system": "s"}
    assert layout.convert(row) == {"messages": conversation([("a", "b")], "s")}
    assert layout.used == {"question", "answer", "system", "system_prompt"}


def test_unknown_columns_are_told_with_what_is_wanted() -> None:
    with pytest.raises(UnknownFormat) as caught:
        recognise(["text", ""])
    assert str(caught.value) == (
        "its columns are: `text`, ``, and no format has those; wanted are: `messages` (messages); "
        "`conversations` (sharegpt); `instruction`, `output` (alpaca); `prompt`, `completion` (prompt_completion); "
        "`question`, `answer` (question_answer); `data` (ultrachat)"
    )
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - it crosses processes
    assert (type(again), str(again), again.fix) == (UnknownFormat, str(caught.value), caught.value.fix)


WHOLE = "or `columns: {messages: chosen}` where it is a list of messages, the question's too"


@pytest.mark.parametrize(
    ("columns", "fix"),
    [
        (["chosen", "rejected"], f"write each with its question as a list `messages`, {WHOLE}"),  # Anthropic/hh-rlhf
        (["prompt", "chosen", "rejected", "chosen-rating"], f"write `columns: {{completion: chosen}}`, {WHOLE}"),
        (["question", "system", "chosen", "rejected"], f"write `columns: {{answer: chosen}}`, {WHOLE}"),
        (["instruction", "input", "chosen", "rejected"], f"write `columns: {{output: chosen}}`, {WHOLE}"),
        (["input", "preferred_output", "non_preferred_output"], "or `columns: {messages: preferred_output}`"),  # OpenAI
    ],
)
def test_preference_data_is_named_as_such(columns: list[str], fix: str) -> None:
    with pytest.raises(UnknownFormat, match="preference data, which the component does not train on") as caught:
        recognise(columns)
    assert "wanted are: `messages`" in str(caught.value)
    assert caught.value.fix.startswith("to train on the better answers alone, ")
    assert fix in caught.value.fix
    row = {"conversations": [{"from": "human", "value": SECRET}], "chosen": {"from": "gpt", "value": SECRET}}
    with pytest.raises(InvalidRow, match="its last message is a question, and preference data answers it") as of_row:
        convert({**row, "rejected": {"from": "gpt", "value": SECRET}})  # LLaMA-Factory
    assert SECRET not in str(of_row.value)
    assert messages(row) == [{"role": "user", "content": SECRET}]
    with pytest.raises(UnknownFormat, match="and no format has those") as caught:
        recognise(["chosen", "text"])
    assert "`format` and `columns`" in caught.value.fix


@pytest.mark.parametrize(
    ("columns", "options", "text"),
    [
        ([], {}, "its columns are: none"),
        (["instruction", "answer"], {"format": "alpaca"}, "the format alpaca wants `output`; its columns are"),
        (["Frage"], {"mapping": {"question": "Farge"}}, "there is no column `Farge` (did you mean `Frage`?)"),
        (["a"], {"mapping": {"qestion": "a"}}, "no format has a column `qestion` (did you mean `question`?)"),
        (["data"], {"mapping": {"question": "data"}, "format": "ultrachat"}, "format ultrachat has no column `quest"),
        (["a", "b"], {"mapping": {"data": "a", "input": "b"}}, "no format has all of the columns `data`, `input`"),
        (["input", "answer"], {"mapping": {"instruction": "input"}}, "wanted are: `instruction`, `output` (alpaca)"),
        (["x" * 1000], {}, "`" + "x" * 40 + "…`"),
        ([str(number) for number in range(100)], {}, "`19` and 80 more"),
        ([0, 1], {}, "its columns are: `0`, `1`"),
    ],
)
def test_what_does_not_fit_is_told(columns: list[str], options: dict[str, Any], text: str) -> None:
    with pytest.raises(UnknownFormat) as caught:
        recognise(columns, **options)
    assert text in str(caught.value)


# Roles, parts, tools


@pytest.mark.parametrize(
    ("speaker", "role"),
    [
        *[(name, "user") for name in ("human", "user", "Human", " USER", "prompter")],
        *[(name, "assistant") for name in ("gpt", "assistant", "chatgpt", "bard", "bing", "model", "bot", "GPT")],
        *[(name, "assistant") for name in ("Chatbot", "ai")],
        *[(name, "system") for name in ("system", "developer")],
        *[(name, "tool") for name in ("observation", "tool", "function_response")],
    ],
)
def test_speakers_have_many_names(speaker: str, role: str) -> None:
    assert messages({"conversations": [{"from": speaker, "value": "a"}]}) == [{"role": role, "content": "a"}]
    assert messages({"messages": [{"role": speaker, "content": "a"}]}) == [{"role": role, "content": "a"}]


def test_conversations_may_have_roles_and_messages_speakers() -> None:
    assert messages({"conversations": conversation([("a", "b")])}) == conversation([("a", "b")])
    assert messages({"messages": [{"from": "human", "value": "a"}]}) == [{"role": "user", "content": "a"}]
    merged = {"role": "user", "content": "a", "from": None, "value": None}  # as Arrow unites two kinds of rows
    assert messages({"conversations": [merged]}) == [{"role": "user", "content": "a"}]


@pytest.mark.parametrize("as_text", [True, False])
def test_function_calls_become_tool_calls(as_text: bool) -> None:
    calls = [{"name": "look_up", "arguments": {"what": "gold"}}, {"name": "now"}]
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    turns = [
        {"from": "human", "value": "Gold?"},
        {"from": "function_call", "value": json.dumps(calls) if as_text else calls},
        {"from": "observation", "value": "79"},
        {"from": "function_call", "value": json.dumps(calls[1]) if as_text else calls[1]},
        {"from": "observation", "value": "noon"},
        {"from": "gpt", "value": "79, at noon"},
    ]
    row = {"conversations": turns, "tools": json.dumps(tools) if as_text else tools}
    converted = convert(row)
    look_up = {"type": "function", "function": {"name": "look_up", "arguments": {"what": "gold"}}}
    now = {"type": "function", "function": {"name": "now", "arguments": {}}}
    assert converted["tools"] == tools
    assert converted["messages"][1] == {"role": "assistant", "tool_calls": [look_up, now]}
    assert converted["messages"][3] == {"role": "assistant", "tool_calls": [now]}
    assert json.loads(msgspec.json.encode(chat.from_values(converted)[0])) == converted


def test_null_keys_go_and_others_stay() -> None:
    call = {"role": "assistant", "content": None, "thinking": None, "tool_calls": [{"id": "1"}]}
    tool = {"role": "tool", "content": "79", "tool_call_id": "1", "name": "look_up"}
    assert messages({"messages": [call, tool]}) == [{"role": "assistant", "tool_calls": [{"id": "1"}]}, tool]


def test_texts_in_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b", "image_url": None}]
    assert messages({"messages": [{"role": "user", "content": parts}]}) == [{"role": "user", "content": "a b"}]
    assert messages({"messages": [{"role": "user", "content": []}]}) == [{"role": "user", "content": ""}]


def test_alpaca_puts_the_input_under_the_instruction() -> None:
    row = {"instruction": " Translate. ", "input": "Gold\n", "output": " Or"}
    assert messages(row) == conversation([(" Translate. \n\nGold\n", " Or")])
    assert messages({**row, "input": " \n"}) == conversation([(" Translate. ", " Or")])


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT, np.float32("nan"), "", " "])
def test_a_missing_cell_is_none(missing: Any) -> None:
    assert messages({"instruction": "a", "output": "b", "input": missing, "system": missing}) == conversation(
        [("a", "b")]
    )
    assert convert({"messages": [], "tools": missing}) == {"messages": []}
    assert messages({"instruction": "a", "output": "b", "history": missing}) == conversation([("a", "b")])
    with pytest.raises(InvalidRow, match="it has no `messages`"):
        convert({"messages": missing})


def test_numpy_lists_and_numbers_become_pythons() -> None:
    calls = np.array([{"id": np.int64(1), "function": {"arguments": (np.float64(0.5), True)}}], dtype=object)
    turns = np.array([{"role": "assistant", "tool_calls": calls}], dtype=object)
    row = convert({"messages": turns, "tools": ({"type": "function"},)})
    assert row == {
        "messages": [{"role": "assistant", "tool_calls": [{"id": 1, "function": {"arguments": [0.5, True]}}]}],
        "tools": [{"type": "function"}],
    }
    assert type(row["messages"][0]["tool_calls"][0]["id"]) is int


def test_an_empty_list_of_tools_stays() -> None:
    assert convert({"messages": [], "tools": []}) == {"messages": [], "tools": []}


# Rows that cannot be converted

SECRET = "my own words"
USED = {"type": "tool_use", "name": SECRET, "input": {}}


def deep(levels: int) -> Any:
    value: Any = SECRET
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": SECRET}, "`messages` is text that is not JSON"),
        ({"messages": f"[{{'role': '{SECRET}'}}]"}, "looks like Python's notation; write it with json.dumps"),
        ({"messages": "\ud83d" + SECRET}, "`messages` is text that is not JSON"),
        ({"messages": f"\n\nHuman: {SECRET}"}, "looks like a dialogue in one text; write it as a list of messages"),
        ({"messages": json.dumps(SECRET)}, "`messages` is not a list but a text"),
        ({"messages": {"role": SECRET}}, "`messages` is not a list but an object"),
        ({"messages": 7}, "`messages` is not a list but a number"),
        ({"messages": [SECRET]}, "messages[0] is not an object but a text"),
        ({"messages": [{"content": SECRET}]}, "messages[0] does not say who speaks, by `role` or `from`"),
        ({"messages": [{"role": 3, "content": SECRET}]}, "messages[0] does not say who speaks"),
        ({"messages": [{"role": SECRET, "content": "a"}]}, "messages[0] is said by nobody known; known are system, "),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": SECRET}, {"type": "image_url"}]}]},
            "messages[0].content[1] is not text but an image_url part",
        ),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content is not a text but a number"),
        (
            {"conversations": [{"from": "human", "value": True}]},
            "conversations[0].value is not a text but a truth value",
        ),
        ({"messages": [{"role": "user", "content": [7]}]}, "messages[0].content[0] is not text but a number"),
        ({"messages": [{"role": "user", "parts": [7]}]}, "messages[0].parts[0] is not text but a number"),
        ({"conversations": [{"from": "human", "value": [7]}]}, "conversations[0].value[0] is not text but a number"),
        *[
            ({"messages": [{"role": "user", "content": [part]}]}, f"messages[0].content[0] is {told}")
            for part, told in [
                ({"type": "input_audio", "input_audio": {"data": SECRET}}, "not text but an input_audio part"),
                ({"type": "refusal", "refusal": SECRET}, "not text but a refusal part"),
                ({"image": SECRET}, "not text but an image part"),
                ({"image": "a.png", "text": SECRET}, "not text but an image part"),
                ({"type": SECRET, "text": SECRET}, "not text but a part of no known type"),
                ({"type": 7, "text": SECRET}, "not text but a part of no known type"),
                ({}, "not text but a part of no known type"),
                ({"type": "text", "text": None}, "a text without a `text`"),
                ({"type": "text", "words": SECRET}, "a text without a `text`"),
            ]
        ],
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image"}]}]}]},
            "messages[0].content[0].content[0] is not text but an image part",
        ),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": SECRET}]}]}, "without a name"),
        ({"messages": [{"role": "assistant", "function_call": SECRET}]}, "`messages[0].function_call` is text that is"),
        ({"messages": [{"role": "assistant", "function_call": {"arguments": SECRET}}]}, "function_call is a function"),
        (
            {"messages": [{"role": "assistant", "function_call": {"name": SECRET}, "tool_calls": [SECRET]}]},
            "messages[0] has `tool_calls` and another call beside them",
        ),
        (
            {"messages": [{"role": "assistant", "content": [USED], "tool_calls": [SECRET]}]},
            "messages[0] has `tool_calls` and another call beside them",
        ),
        (
            {"conversations": [{"from": "function_call", "value": json.dumps(USED), "tool_calls": [SECRET]}]},
            "conversations[0] has `tool_calls` and another call beside them",
        ),
        ({"messages": [], "tools": [SECRET], "functions": [SECRET]}, "it has both `tools` and `functions`"),
        ({"messages": [], "functions": {"name": SECRET}}, "`functions` is not a list but an object"),
        ({"prompt": SECRET, "completion": 7}, "`completion` is not a text (nor a list of messages) but a number"),
        ({"prompt": SECRET, "completion": Decimal(7)}, "`completion` is not a text (nor a list of messages) but a num"),
        ({"instruction": SECRET, "output": {"x": SECRET}}, "`output` is not a text but an object"),
        ({"messages": [], "tools": {"a": SECRET}}, "`tools` is not a list but an object"),
        ({"messages": [{"role": "user", "content": deep(5000)}]}, "it is nested too deeply"),
        ({"messages": "[" * 100_000 + SECRET}, "it is nested too deeply"),
        ({"conversations": [{"from": SECRET, "value": "a"}]}, "conversations[0] is said by nobody known"),
        ({"conversations": [{"from": "function_call", "value": SECRET}]}, "`conversations[0]` is text that is not JS"),
        ({"conversations": [{"from": "function_call", "value": "[]"}]}, "conversations[0] is a function call without"),
        ({"conversations": [{"from": "function_call"}]}, "conversations[0] is a function call without a name"),
        ({"conversations": [], "system": [SECRET]}, "`system` is not a text but a list"),
        ({"conversations": [], "system": {SECRET: SECRET}}, "`system` is not a text but an object"),
        ({"conversations": [], "system": [USED]}, "`system` is not a text but an object"),
        ({"instruction": SECRET, "output": 7}, "`output` is not a text but a number"),
        ({"instruction": SECRET, "output": True}, "`output` is not a text but a truth value"),
        ({"instruction": SECRET, "output": None}, "it has no `output`"),
        ({"instruction": "a", "output": "b", "history": [[SECRET]]}, "`history`[0] is not a pair of texts"),
        ({"instruction": "a", "output": "b", "history": [SECRET]}, "`history`[0] is not a pair of texts"),
        (
            {"prompt": SECRET, "response": {"a": SECRET}},
            "`response` is not a text (nor a list of messages) but an object",
        ),
        ({"prompt": [SECRET], "response": "a"}, "prompt[0] is not an object but a text"),
        ({"question": SECRET, "answer": b"a"}, "`answer` is not a text but a bytes"),
        ({"data": [SECRET, 1]}, "`data`[1] is not a text but a number"),
    ],
)
def test_a_reason_names_the_place_and_quotes_no_text(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRow) as caught:
        convert(row)
    assert reason in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_row_without_a_column_that_the_others_have() -> None:
    layout = recognise(["Frage", "answer"], mapping={"question": "Frage"})
    with pytest.raises(InvalidRow, match="it has no `Frage`"):
        layout.convert({"answer": "a"})


def test_what_pandas_reads_of_its_own_csv() -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["question", "answer", "system"], ["a", "b", ""], ["c", "NA", "s"]])
    frame = pd.read_csv(io.StringIO(text.getvalue()), keep_default_na=True)
    layout = recognise(frame.columns)
    first, second = frame.to_dict("records")
    assert layout.convert(first) == {"messages": conversation([("a", "b")])}  # type: ignore[arg-type]  # keys are texts
    with pytest.raises(InvalidRow, match="it has no `answer`"):  # pandas reads NA as NaN
        layout.convert(second)  # type: ignore[arg-type]  # keys are texts


def test_every_format_of_the_configuration_is_known() -> None:
    from typing import get_args

    from phift.config.data import Format

    assert set(get_args(Format)) == set(formats._FORMATS)
