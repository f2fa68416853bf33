"""Rows in are rows out and rows aside: for any mix of good and broken rows, in every format, file and encoding."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phift.config.data import DataConfig
from phift.data.prepare import PreparedDataset, prepare_dataset

Row = dict[str, Any]
Pair = tuple[str, str]


def messages(pair: Pair) -> Row:
    return {"messages": [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]}


def sharegpt(pair: Pair) -> Row:
    return {"conversations": [{"from": "human", "value": pair[0]}, {"from": "gpt", "value": pair[1]}]}


FORMATS: dict[str, Callable[[Pair], Row]] = {
    "messages": messages,
    "sharegpt": sharegpt,
    "alpaca": lambda pair: {"instruction": pair[0], "input": "", "output": pair[1]},
    "prompt_completion": lambda pair: {"prompt": pair[0], "completion": pair[1]},
    "question_answer": lambda pair: {"question": pair[0], "answer": pair[1]},
    "ultrachat": lambda pair: {"id": "1", "data": list(pair)},
}
TABLES = {"alpaca", "prompt_completion", "question_answer"}  # whose cells are texts

BROKEN_LINES = [
    b"{",
    b"[1, 2]",
    b"null",
    b'"text"',
    b"\xff\xfe",
    b'{"messages": "\xc3("}',
    b"{}",
    b'{"messages": null, "conversations": null, "instruction": null, "prompt": null, "question": null, "data": null}',
    b'{"messages": [], "conversations": [], "instruction": 1, "prompt": {}, "question": [], "data": [[]]}',
]

TEXT = st.text(min_size=1).filter(lambda text: not text.isspace())
BAD = st.sampled_from(BROKEN_LINES)
ROWS = st.lists(st.tuples(TEXT, TEXT) | BAD, max_size=30)
ENOUGH: list[Pair] = [(f"Question {number}?", f"Answer {number}.") for number in range(20)]
EXAMPLES = int(os.environ.get("PHIFT_EXAMPLES", "25"))
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=EXAMPLES)


def prepare(source: Any, folder: Path) -> PreparedDataset:
    return prepare_dataset(DataConfig(train=source, bad_rows="set_aside"), folder / "out")


def written(prepared: PreparedDataset) -> Counter[Pair]:
    rows = [json.loads(line) for path in prepared.files.values() for line in path.read_bytes().splitlines()]
    return Counter((row["messages"][0]["content"], row["messages"][1]["content"]) for row in rows)


def hold(prepared: PreparedDataset, good: list[Pair], broken: int, format_: str) -> None:
    """Hold what was prepared against what was given."""
    (account,) = prepared.accounts
    assert account.rows == len(good) + broken
    assert account.aside == broken == sum(account.reasons.values())
    assert account.train + account.validation + account.test == len(good) == sum(prepared.rows.values())
    assert account.format == format_
    assert written(prepared) == Counter(good)
    rejects = prepared.rejects.read_bytes().splitlines() if prepared.rejects else []
    assert len(rejects) == broken
    assert all({"source", "line", "reason", "row"} == json.loads(line).keys() for line in rejects)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json"])
@given(rows=ROWS, line_end=st.sampled_from([b"\n", b"\r\n", b"\n\n"]), mark=st.booleans(), ascii_=st.booleans())
@SETTINGS
def test_lines(
    tmp_path: Path,
    format_: str,
    suffix: str,
    rows: list[Pair | bytes],
    line_end: bytes,
    mark: bool,
    ascii_: bool,
) -> None:
    encode = FORMATS[format_]
    given_rows = [*ENOUGH, *rows]
    lines = [
        row if isinstance(row, bytes) else json.dumps(encode(row), ensure_ascii=ascii_).encode() for row in given_rows
    ]
    content = (b"\xef\xbb\xbf" if mark else b"") + line_end.join(lines)
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(gzip.compress(content, 1) if suffix.endswith(".gz") else content)
    good = [row for row in given_rows if not isinstance(row, bytes)]
    hold(prepare(path, tmp_path), good, len(given_rows) - len(good), format_)


@pytest.mark.parametrize("format_", sorted(TABLES))
@pytest.mark.parametrize("delimiter", [",", "\t"])
@given(
    rows=st.lists(st.tuples(TEXT, TEXT) | st.sampled_from(["too few", "too many", "empty", "not UTF-8"]), max_size=30)
)
@SETTINGS
def test_tables(tmp_path: Path, format_: str, delimiter: str, rows: list[Pair | str]) -> None:
    encode = FORMATS[format_]
    columns = list(encode(("", "")))
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(columns)
    plain = [row if isinstance(row, str) else tuple(cell.replace("\0", "") or "-" for cell in row) for row in rows]
    given_rows: list[Any] = [*ENOUGH, *(row if isinstance(row, str) else _told(row) for row in plain)]
    for row in given_rows:
        cells = {"too few": ["x"], "too many": ["x"] * 5, "empty": [""] * len(columns)}
        bad = ["@@"] * len(columns)
        writer.writerow(cells.get(row, bad) if isinstance(row, str) else list(encode(row).values()))
    path = tmp_path / ("rows.csv" if delimiter == "," else "rows.tsv")
    path.write_bytes(text.getvalue().encode("utf-8", "surrogatepass").replace(b"@@", b"\xff"))
    good = [row for row in given_rows if not isinstance(row, str)]
    hold(prepare(path, tmp_path), good, len(given_rows) - len(good), format_)


def _told(pair: tuple[str, ...]) -> Pair:
    question, answer = (cell if not cell.isspace() else "-" for cell in pair)
    return question.replace("@@", "-"), answer.replace("@@", "-")


@pytest.mark.parametrize("format_", FORMATS)
@given(rows=st.lists(st.tuples(TEXT, TEXT) | st.none(), max_size=20))
@SETTINGS
def test_rows_from_python(tmp_path: Path, format_: str, rows: list[Pair | None]) -> None:
    encode = FORMATS[format_]
    given_rows = [*ENOUGH, *rows]
    values: list[Any] = [{} if row is None else encode(row) for row in given_rows]
    good = [row for row in given_rows if row is not None]
    broken = len(given_rows) - len(good)
    hold(prepare(values, tmp_path), good, broken, format_)
    hold(prepare(lambda: iter(values), tmp_path), good, broken, format_)
    hold(prepare(pd.DataFrame(values), tmp_path), good, broken, format_)
    hold(prepare(pa.Table.from_pylist(values), tmp_path), good, broken, format_)


@pytest.mark.parametrize("format_", FORMATS)
@given(rows=st.lists(st.tuples(TEXT, TEXT) | st.none(), max_size=40), group=st.integers(1, 30))
@settings(SETTINGS, max_examples=4)
def test_parquet(tmp_path: Path, format_: str, rows: list[Pair | None], group: int) -> None:
    encode = FORMATS[format_]
    given_rows = [*ENOUGH, *rows]
    table = pa.Table.from_pylist(
        [dict.fromkeys(encode(("", ""))) if row is None else encode(row) for row in given_rows]
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=group)
    good = [row for row in given_rows if row is not None]
    hold(prepare(tmp_path / "rows.parquet", tmp_path), good, len(given_rows) - len(good), format_)
