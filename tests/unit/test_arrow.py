"""What Arrow puts into a row that nobody wrote, and what it keeps as text, is as if it had been JSON all the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phift.config.data import DataConfig, RowsSource
from phift.data import arrow, hub, sources
from phift.data.prepare import prepare_dataset

Row = dict[str, Any]


def called(number: int) -> Row:
    """Return a row of which every other calls another function; its author wrote no null."""
    name, arguments = (
        ("weather", {"town": f"T{number}"}) if number % 2 else ("add", {"a": f"{number}", "b": ["1", None]})
    )
    call = {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
    properties = {
        argument: {"type": "string", **({"enum": ["x", None]} if number % 2 else {})} for argument in arguments
    }
    parameters = {"type": "object", "properties": properties, **({"required": ["town"]} if number % 2 else {})}
    return {
        "messages": [
            {"role": "user", "content": f"Task {number}, please."},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"c{number}", "content": "7"},
            {"role": "assistant", "content": "It is 7."},
        ],
        "tools": [{"type": "function", "function": {"name": name, "parameters": parameters}}],
    }


ROWS = [called(number) for number in range(20)]
TABLE = pa.Table.from_pylist(ROWS)


def parquet_file(folder: Path, table: pa.Table = TABLE) -> Path:
    pq.write_table(table, folder / "calls.parquet")
    return folder / "calls.parquet"


SOURCES: dict[str, Callable[[Path], Any]] = {
    "parquet": parquet_file,
    "table": lambda _: TABLE,
    "reader": lambda _: TABLE.to_reader,
    "dataset": lambda _: datasets.Dataset.from_list(ROWS),
    "iterable dataset": lambda _: datasets.Dataset(TABLE).to_iterable_dataset(),
    "dataset with JSON in it": lambda _: datasets.Dataset.from_list(ROWS, on_mixed_types="use_json"),
    "pandas of parquet": lambda folder: pd.read_parquet(parquet_file(folder)),
    "pandas on arrow": lambda _: TABLE.to_pandas(types_mapper=pd.ArrowDtype),
    "pandas of rows": lambda _: pd.DataFrame(ROWS),
    "rows": lambda _: ROWS,
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_what_its_author_wrote(name: str, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    expected = prepare_dataset(DataConfig(train=path), tmp_path / "expected")
    prepared = prepare_dataset(DataConfig(train=SOURCES[name](tmp_path)), tmp_path / "prepared")
    assert prepared.train.read_text() == expected.train.read_text()
    assert prepared.content_hash == expected.content_hash


def test_a_parquet_file_of_json_is_read_as_json(tmp_path: Path) -> None:
    """Nulls in JSON are somebody's own."""
    rows = [
        {**row, "tools": [{"function": {"name": "f", "parameters": {"default": None, "n": n} if n % 2 else ["any"]}}]}
        for n, row in enumerate(ROWS)
    ]
    mixed = datasets.Dataset.from_list(rows, on_mixed_types="use_json")
    mixed.to_parquet(tmp_path / "mixed.parquet")
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, other = (
        prepare_dataset(DataConfig(train=path), tmp_path / "out") for path in (plain, tmp_path / "mixed.parquet")
    )
    assert "'parameters': Json" in repr(mixed.features["tools"])
    assert one.content_hash == other.content_hash


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, lambda inner: pa.list_(inner, 2)])
def test_nulls_go_out_of_structs_and_stay_in_lists_and_columns(kind: Callable[[pa.DataType], pa.DataType]) -> None:
    inner = pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string())), ("c", pa.struct([("d", pa.int64())]))])
    value = [{"a": None, "b": ["x", None], "c": None}, {"a": 0, "b": None, "c": {"d": None}}]
    batch = pa.record_batch({"rows": pa.array([value, None], kind(inner)), "n": pa.array([None, 1])})
    assert arrow.rows_of(batch) == [
        {"rows": [{"b": ["x", None]}, {"a": 0, "c": {}}], "n": None},
        {"rows": None, "n": 1},
    ]


def test_json_of_arrow_is_read_and_what_is_none_stays_text() -> None:
    texts = pa.array(['{"a": null}', "[1", None])
    batch = pa.record_batch({"x": pa.ExtensionArray.from_storage(pa.json_(), texts), "y": texts})
    assert [row["x"] for row in arrow.rows_of(batch)] == [{"a": None}, "[1", None]
    assert [row["y"] for row in arrow.rows_of(batch)] == texts.to_pylist()


def test_a_text_of_datasets_json_is_not_read_twice() -> None:
    rows = [{"x": {"a": None, "b": '{"c": null}'}}, {"x": {"a": "1"}}, {"x": 7}]
    data = datasets.Dataset.from_list(rows, on_mixed_types="use_json")
    assert "Json" in repr(data.features)
    assert list(sources.rows_from_python(RowsSource(rows=data))) == rows


def test_a_streamed_data_set_of_the_hub_has_its_json(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    builder = datasets.load_dataset_builder(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert list(hub._stream(builder, "train")) == ROWS
