"""Rows that are in Python already, in every shape that they come in."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phift.config.data import DataConfig, RowsSource
from phift.data import sources
from phift.data.chat import InvalidRow
from phift.errors import DataError

CHATS: list[dict[str, Any]] = [
    {"id": n, "messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": "Yes."}]}
    for n in range(300)
]


class Frame:
    """What polars' data frame shows of itself to others."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return len(self.table)


Frame.__name__, Frame.__module__ = "DataFrame", "polars.dataframe.frame"


def read(value: Any) -> list[Any]:
    return list(sources.rows_from_python(RowsSource(rows=value)))


def generated() -> Iterator[dict[str, Any]]:
    yield from CHATS


TABLE = pa.Table.from_pylist(CHATS)
FORMS: dict[str, Any] = {
    "list": (CHATS, "rows from Python"),
    "tuple": (tuple(CHATS), "rows from Python"),
    "function": (generated, "rows from Python"),
    "function of a frame": (lambda: pd.DataFrame(CHATS), "rows from Python"),
    "pandas": (pd.DataFrame(CHATS), "DataFrame"),
    "pandas with an index": (pd.DataFrame(CHATS, index=[0] * 300), "DataFrame"),
    "pandas from arrow": (TABLE.to_pandas(), "DataFrame"),
    "pandas on arrow": (TABLE.to_pandas(types_mapper=pd.ArrowDtype), "DataFrame"),
    "dataset": (datasets.Dataset(TABLE), "Dataset"),
    "dataset with a format": (datasets.Dataset(TABLE).with_format("numpy"), "Dataset"),
    "iterable dataset": (datasets.Dataset(TABLE).to_iterable_dataset(), "IterableDataset"),
    "table": (TABLE, "Table"),
    "batch": (TABLE.to_batches()[0], "RecordBatch"),
    "polars": (Frame(TABLE), "DataFrame"),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_rows_come_out_of_every_form_each_time(form: str) -> None:
    value, label = FORMS[form]
    source = RowsSource(rows=value)
    assert list(sources.rows_from_python(source)) == list(sources.rows_from_python(source)) == CHATS
    assert sources.kind_of(value)[1] == label


@pytest.mark.parametrize("is_streamed", [False, True])
def test_pictures_of_a_data_set_are_not_opened(is_streamed: bool) -> None:
    rows = [{**CHATS[0], "image": {"bytes": None, "path": "/nowhere/a.png"}}]
    data = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    (row,) = read(data.to_iterable_dataset() if is_streamed else data)
    assert row["messages"] == CHATS[0]["messages"]
    assert row["image"] == {"path": "/nowhere/a.png"}


@pytest.mark.parametrize("once", [generated, lambda: iter(CHATS), lambda: map(dict, CHATS), TABLE.to_reader])
def test_an_iterator_gives_its_rows_once(once: Any) -> None:
    source = RowsSource(rows=once())
    assert list(sources.rows_from_python(source)) == CHATS
    with pytest.raises(DataError, match="has been read already") as caught:
        list(sources.rows_from_python(source))
    assert caught.value.fix == "give a list, or a function that returns the rows anew"
    config = DataConfig(train=source)
    assert isinstance(config.train, RowsSource)
    with pytest.raises(DataError, match="has been read already"):
        next(sources.rows_from_python(config.train))


def test_rows_are_made_as_they_are_asked_for() -> None:
    made = []

    def make() -> Iterator[dict[str, int]]:
        for number in range(10):
            made.append(number)
            yield {"id": number}

    rows = sources.rows_from_python(RowsSource(rows=make))
    assert made == []
    assert next(rows) == {"id": 0}
    assert made == [0]


def test_an_item_that_is_no_mapping_is_a_row_that_is_not_usable() -> None:
    rows = read([{"id": 1}, "my own words", None, ["my own words"], {"id": 2}])
    assert [rows[0], rows[4]] == [{"id": 1}, {"id": 2}]
    assert all(isinstance(row, InvalidRow) for row in rows[1:4])
    assert [str(row) for row in rows[1:4]] == [
        f"it is not a mapping but {kind}" for kind in ("str", "NoneType", "list")
    ]


def test_what_the_users_own_code_raises_is_theirs() -> None:
    def fails() -> Iterator[dict[str, int]]:
        yield {"id": 1}
        raise LookupError("theirs")

    rows = sources.rows_from_python(RowsSource(rows=fails))
    assert next(rows) == {"id": 1}
    with pytest.raises(LookupError, match="theirs") as caught:
        next(rows)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None

    def refuses() -> None:
        raise KeyError("theirs too")

    with pytest.raises(KeyError, match="theirs too"):
        read(refuses)


@pytest.mark.parametrize("value", [5, "text", b"text", {"messages": []}, lambda: None, lambda: "text"])
def test_what_is_no_rows_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="These are no rows but"):
        read(value)


def test_a_dictionary_of_splits_is_refused_with_the_way_out() -> None:
    splits = datasets.DatasetDict({"dev": datasets.Dataset(TABLE), "train": datasets.Dataset(TABLE)})
    with pytest.raises(DataError, match="several splits, not one") as caught:
        read(splits)
    assert caught.value.fix == "give one of them, such as data['dev']"
    assert caught.value.where == "DatasetDict"


# ---------------------------------------------------------------- data frames


def test_a_cell_with_nothing_in_it_is_none() -> None:
    frame = pd.DataFrame(
        {
            "text": ["a", None, float("nan")],
            "number": [1.5, float("nan"), 2],
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "time": [pd.Timestamp("2026-01-02"), None, pd.NaT],
            "string": pd.array(["a", None, "b"], dtype="string"),
            "small": np.array([1, np.nan, 2], dtype="float32"),
            "mixed": [pd.NA, pd.NaT, np.float32("nan")],
        }
    )
    rows = read(frame)
    assert rows[1] == dict.fromkeys(frame.columns)
    assert rows[0] == {
        "text": "a",
        "number": 1.5,
        "whole": 1,
        "time": pd.Timestamp("2026-01-02"),
        "string": "a",
        "small": 1.0,
        "mixed": None,
    }
    assert rows[2]["mixed"] is None


def test_arrays_are_lists_at_any_depth() -> None:
    turns = np.array([{"role": "user", "tags": np.array(["a", "b"])}], dtype=object)
    frame = pd.DataFrame({"messages": [turns], "numbers": [np.arange(3)], "one": [np.int64(4)], "cost": [Decimal(2)]})
    row = read(frame)[0]
    assert row["messages"] == [{"role": "user", "tags": ["a", "b"]}]
    assert type(row["messages"]) is type(row["messages"][0]["tags"]) is type(row["numbers"]) is list
    assert [type(row[name]) for name in ("one", "cost")] == [int, Decimal]
    assert type(row["numbers"][0]) is int


def test_the_users_own_values_are_left_alone() -> None:
    turns = [{"role": "user", "content": None}]
    frame = pd.DataFrame({"messages": [turns]})
    read(frame)[0]["messages"][0]["role"] = "changed"
    assert turns == [{"role": "user", "content": None}]


def test_columns_have_one_name_each() -> None:
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(DataError, match="column a is there more than once"):
        read(frame)
    with pytest.raises(DataError, match="column 1 is there more than once"):
        read(pd.DataFrame([[1, 2]], columns=[1, "1"]))
    with pytest.raises(DataError, match="columns of several levels"):
        read(pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])))
    with pytest.raises(DataError, match="has no columns"):
        read(pd.DataFrame(index=[1, 2]))
    with pytest.raises(DataError, match="column a is there more than once"):
        read(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]))
    assert read(pd.DataFrame([[1, 2]])) == [{"0": 1, "1": 2}]


def test_a_frame_without_rows_gives_none() -> None:
    assert read(pd.DataFrame({"messages": []})) == read(TABLE.slice(0, 0)) == read([]) == []


def test_a_class_made_from_a_data_frame_is_one() -> None:
    class Chats(pd.DataFrame):
        pass

    assert read(Chats(CHATS)) == CHATS
    assert sources.kind_of(Chats(CHATS))[1] == "DataFrame"


def test_a_frame_is_read_in_slices() -> None:
    frame = pd.DataFrame({"messages": [[{"role": "user", "content": "x" * 500}] for _ in range(20_000)]})
    tracemalloc.start()
    for _ in sources.rows_from_python(RowsSource(rows=frame)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_batch_reader_of_a_file_is_read_batch_by_batch(tmp_path: Any) -> None:
    pq.write_table(TABLE, tmp_path / "rows.parquet", row_group_size=7)
    with pq.ParquetFile(tmp_path / "rows.parquet") as file:
        reader = pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches(5))
        assert read(reader) == CHATS


def test_no_library_is_imported_for_rows_of_another() -> None:
    code = """
import sys
from phift.data import sources
from phift.config.data import RowsSource
assert list(sources.rows_from_python(RowsSource(rows=[{"a": 1}]))) == [{"a": 1}]
print(sorted({"pandas", "pyarrow", "datasets", "numpy", "polars", "torch"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own text
    assert done.stdout.strip() == "[]"
