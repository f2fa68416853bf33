"""Conversations in the forms that people have, and each form in every file type and source: all are the same."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from phift.config.data import DataConfig
from phift.data.prepare import PreparedDataset, prepare_dataset

Row = dict[str, Any]

# What breaks a cell or a line: quotes, delimiters, line ends, other scripts, what looks like JSON or is a missing one.
PIECES = (
    "river",
    'the "old" one',
    "a, b; c\td",
    "line\nline",
    "Größe",
    "日本 🦆",
    "[1, 2]",
    "null",
    "it's \\n",
    "{}",
    "NA",
)
ROWS = 14


class Talk(NamedTuple):
    """A conversation: what the system says, and each question, its calls (name, arguments, result) and its answer."""

    system: str | None
    exchanges: list[tuple[str, list[tuple[str, Row, str]], str]]


def talks(seed: int, *, system: bool = False, calls: int = 0, turns: int = 2, rows: int = ROWS) -> list[Talk]:
    """Return conversations that are all different.

    - **calls**: at most, in an exchange; the tools have different arguments.
    """
    draw = np.random.RandomState(seed)

    def words(number: int) -> str:
        return " ".join([str(number), *(PIECES[index] for index in draw.randint(len(PIECES), size=draw.randint(1, 5)))])

    def call(number: int) -> tuple[str, Row, str]:
        arguments = {"town": words(number), "days": number} if draw.randint(2) else {"a": number, "b": ["x", "y"]}
        return ("weather" if "town" in arguments else "add"), arguments, words(number)

    made = []
    for number in range(1000 * seed, 1000 * seed + rows):
        exchanges = [
            (words(number), [call(number) for _ in range(draw.randint(1, calls + 1))] if calls else [], words(number))
            for _ in range(draw.randint(1, turns + 1))
        ]
        made.append(Talk(words(number) if system else None, exchanges))
    return made


def said(role: str, text: str | list[Row], **more: Any) -> Row:
    return {"role": role, "content": text, **more}


def of_today(talk: Talk, *, ids: bool) -> list[Row]:
    """Return what is written of a conversation: messages as OpenAI's chat completions have them today."""
    messages = [said("system", talk.system)] if talk.system else []
    for number, (question, calls, answer) in enumerate(talk.exchanges):
        known: list[Row] = [{"id": f"call_{number}_{index}"} if ids else {} for index in range(len(calls))]
        messages.append(said("user", question))
        if calls:
            made = [
                {**own, "type": "function", "function": {"name": name, "arguments": arguments}}
                for own, (name, arguments, _) in zip(known, calls, strict=True)
            ]
            messages.append({"role": "assistant", "tool_calls": made})
        for own, (*_, result) in zip(known, calls, strict=True):
            messages.append(said("tool", result, **({"tool_call_id": own["id"]} if ids else {})))
        messages.append(said("assistant", answer))
    return messages


FUNCTIONS: list[Row] = [
    {"name": "weather", "parameters": {"type": "object", "properties": {"town": {"type": "string"}}}},
    {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}},
]
TOOLS = [{"type": "function", "function": function} for function in FUNCTIONS]


# ---------------------------------------------------------------- the forms, each as those who use it write it


def chat_completions(talk: Talk, number: int) -> Row:
    return {"id": f"chat-{number}", "messages": of_today(talk, ids=True)}


def with_tools(talk: Talk, number: int) -> Row:
    return {**chat_completions(talk, number), "tools": TOOLS}


def with_functions(talk: Talk, _: int) -> Row:
    """OpenAI's until 2023: one call at a time."""
    turns = []
    for message in of_today(talk, ids=False):
        call = message.pop("tool_calls", [{}])[0].get("function")
        older = {**message, "content": None, "function_call": call} if call else message
        turns.append({**older, "role": "function"} if message["role"] == "tool" else older)
    return {"messages": turns, "functions": FUNCTIONS}


def in_parts(talk: Talk, _: int) -> Row:
    turns = of_today(talk, ids=False)
    return {"messages": [{**turn, "content": [{"type": "text", "value": turn["content"]}]} for turn in turns]}


def responses(talk: Talk, _: int) -> Row:
    kinds = {"assistant": "output_text"}
    turns = of_today(talk, ids=False)
    return {
        "messages": [
            said(
                turn["role"].replace("system", "developer"),
                [{"type": kinds.get(turn["role"], "input_text"), "text": turn["content"]}],
            )
            for turn in turns
        ]
    }


def anthropic(talk: Talk, _: int) -> Row:
    turns: list[Row] = []
    for number, (question, calls, answer) in enumerate(talk.exchanges):
        turns.append(said("user", [{"type": "text", "text": question}]))
        if calls:
            named = [(f"call_{number}_{index}", *call) for index, call in enumerate(calls)]
            used: list[Row] = [
                {"type": "tool_use", "id": own, "name": name, "input": given} for own, name, given, _ in named
            ]
            results: list[Row] = [
                {"type": "tool_result", "tool_use_id": own, "content": told} for own, *_, told in named
            ]
            turns += (said("assistant", used), said("user", results))
        turns.append(said("assistant", [{"type": "text", "text": answer}]))
    schemas = [{"name": each["name"], "input_schema": each["parameters"]} for each in FUNCTIONS]
    return {"messages": turns, "tools": schemas}


SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def sharegpt(talk: Talk, number: int) -> Row:
    turns = [{"from": SPEAKERS[turn["role"]], "value": turn["content"]} for turn in of_today(talk, ids=False)]
    if not talk.system and number % 2:
        turns.insert(0, {"from": "system", "value": " "})
    return {"id": str(number), "conversations": turns}


def glaive(talk: Talk, _: int) -> Row:
    turns = []
    for turn in of_today(talk._replace(system=None), ids=False):
        if calls := turn.get("tool_calls"):
            turns.append({"from": "function_call", "value": json.dumps([call["function"] for call in calls])})
        else:
            turns.append({"from": SPEAKERS[turn["role"]], "value": turn["content"]})
    return {"conversations": turns, "system": talk.system or "", "tools": json.dumps(TOOLS)}


def alpaca(talk: Talk, _: int) -> Row:
    *before, (question, _calls, answer) = talk.exchanges
    history = [[asked, told] for asked, _, told in before]
    return {"instruction": question, "input": "", "output": answer, "system": talk.system, "history": history}


def prompts(talk: Talk, _: int) -> Row:
    ((question, _calls, answer),) = talk.exchanges
    return {"prompt": question, "completion": answer, "system": talk.system}


def lists_of_prompts(talk: Talk, _: int) -> Row:
    *before, last = of_today(talk, ids=False)
    return {"prompt": before, "completion": [last]}


def questions(talk: Talk, number: int) -> Row:
    ((question, _calls, answer),) = talk.exchanges
    return {"question": question, "answer": answer, "source": f"page {number}"}


def ultrachat(talk: Talk, number: int) -> Row:
    return {"id": str(number), "data": [text for question, _, answer in talk.exchanges for text in (question, answer)]}


class Form(NamedTuple):
    """A form, which conversations are in it, and what is written of them.

    - **ids**: whether its calls have any.
    """

    write: Callable[[Talk, int], Row]
    talks: list[Talk]
    tools: bool = False
    ids: bool = False

    @property
    def rows(self) -> list[Row]:
        return [self.write(talk, number) for number, talk in enumerate(self.talks)]

    @property
    def expected(self) -> set[str]:
        more = {"tools": TOOLS} if self.tools else {}
        rows = ({"messages": of_today(talk, ids=self.ids), **more} for talk in self.talks)
        return {json.dumps(row, sort_keys=True) for row in rows}


ANSWERS_OF_PANDAS = [
    Talk(None, [(f"How deep is lake {number}?", [], "nan" if number % 3 else f"{number} m")]) for number in range(ROWS)
]

FORMS = {
    "chat": Form(chat_completions, talks(1, system=True, turns=3)),
    "tools": Form(with_tools, talks(2, calls=2), tools=True, ids=True),
    "functions": Form(with_functions, talks(3, calls=1), tools=True),
    "parts": Form(in_parts, talks(4, system=True)),
    "responses": Form(responses, talks(5, system=True)),
    "anthropic": Form(anthropic, talks(6, calls=2), tools=True, ids=True),
    "sharegpt": Form(sharegpt, talks(7)),
    "glaive": Form(glaive, talks(8, system=True, calls=2), tools=True),
    "alpaca": Form(alpaca, talks(9, system=True, turns=3)),
    "prompts": Form(prompts, talks(10, system=True, turns=1)),
    "lists": Form(lists_of_prompts, talks(11, system=True)),
    "questions": Form(questions, ANSWERS_OF_PANDAS),
    "ultrachat": Form(ultrachat, talks(13, turns=3)),
}


# ---------------------------------------------------------------- the file types and other sources


def write_lines(path: Path, rows: list[Row]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(lines if path.suffix == ".jsonl" else packed(path, lines))


def packed(path: Path, data: bytes) -> bytes:
    return gzip.compress(data) if path.suffix == ".gz" else pa.compress(data, "zstd", asbytes=True)


def write_list(path: Path, rows: list[Row]) -> None:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_cells(path: Path, rows: list[Row]) -> None:
    cells = [
        ["" if cell is None else cell if isinstance(cell, str) else json.dumps(cell) for cell in row.values()]
        for row in rows
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([list(rows[0]), *cells])


def write_parquet(path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5)


def write_arrow(path: Path, rows: list[Row]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=5)


FILES: dict[str, Callable[[Path, list[Row]], None]] = {
    ".jsonl": write_lines,
    ".json": write_list,
    ".csv": write_cells,
    ".tsv": write_cells,
    ".parquet": write_parquet,
    ".arrow": write_arrow,
    ".feather": lambda path, rows: feather.write_feather(pa.Table.from_pylist(rows), path),
    ".jsonl.gz": write_lines,
    ".jsonl.zst": write_lines,
}
SOURCES: dict[str, Callable[[list[Row]], Any]] = {
    "list": list,
    "pandas": pd.DataFrame,
    "table": pa.Table.from_pylist,
    "pandas on arrow": lambda rows: pa.Table.from_pylist(rows).to_pandas(types_mapper=pd.ArrowDtype),
    "dataset": datasets.Dataset.from_list,
}


def written(prepared: PreparedDataset) -> list[str]:
    """Return each row of all three files; keys are in no order, since Arrow has one of its own."""
    lines = [line for path in prepared.files.values() for line in path.read_text(encoding="utf-8").splitlines()]
    return [json.dumps(json.loads(line), sort_keys=True) for line in lines]


def report(prepared: PreparedDataset) -> list[str]:
    """Return what is said, without what sources are called, and numbers of lines, which CSV has others of."""
    told = [re.sub(r"first .*?:\d+", "first", f"{one.code} {one.severity} {one.message}") for one in prepared.findings]
    names = [re.sub(r".*/|\..*| \(", " ", str(account)) for account in prepared.accounts]
    return [*told, *(name for name in names if len(names) > 1)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return bag(".jsonl", tmp_path_factory.mktemp("bag"))


def bag(suffix: str, folder: Path) -> PreparedDataset:
    paths = [folder / f"{name}{suffix}" for name in FORMS]
    for path, form in zip(paths, FORMS.values(), strict=True):
        FILES[suffix](path, form.rows)
    return prepare_dataset(DataConfig(train=tuple(paths)), folder / "prepared")


@pytest.mark.parametrize("suffix", FILES)
def test_a_mixed_bag_is_the_same_in_every_file_type(suffix: str, tmp_path: Path, expected: PreparedDataset) -> None:
    prepared = bag(suffix, tmp_path)
    assert sorted(written(prepared)) == sorted(text for form in FORMS.values() for text in form.expected)
    assert written(prepared) == written(expected)
    assert report(prepared) == report(expected)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_the_same_from_every_source(name: str, source: str, tmp_path: Path) -> None:
    form = FORMS[name]
    FILES[".jsonl"](tmp_path / "rows.jsonl", form.rows)
    of_file = prepare_dataset(DataConfig(train=tmp_path / "rows.jsonl"), tmp_path / "expected")
    prepared = prepare_dataset(DataConfig(train=SOURCES[source](form.rows)), tmp_path / "prepared")
    assert set(written(prepared)) == form.expected
    assert written(prepared) == written(of_file)
    assert report(prepared) == report(of_file)
    assert prepared.rows == of_file.rows


def test_the_report_of_the_bag_names_what_there_is(expected: PreparedDataset) -> None:
    codes = {finding.code for finding in expected.findings}
    assert codes == {
        "DATA_BLANK_SYSTEM",
        "DATA_COLUMNS_LEFT_OUT",
        "DATA_FORMAT",
        "DATA_LACKING_ANSWER",
        "DATA_MESSAGE_KEYS",
        "DATA_TOOLS_MIXED",
        "DATA_WEIGHTS",
    }
