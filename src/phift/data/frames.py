"""Rows that are in Python already: a data frame, a data set, an Arrow table, an iterable of mappings, or a function.

What a value is, is told by the names of its types, so none of these libraries is imported for a value of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from phift.config.data import RowsSource
from phift.data.chat import InvalidRow
from phift.data.formats import missing, plain
from phift.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any] | InvalidRow
"""A row, or what is wrong with an item that is none."""

_BATCH = 128  # rows that become Python values at a time

_TABLES = {
    "pandas": ("DataFrame",),
    "datasets": ("Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict"),
    "pyarrow": ("Table", "RecordBatch", "RecordBatchReader"),
    "polars": ("DataFrame",),
}

_begun: WeakSet[RowsSource] = WeakSet()  # sources whose rows come once and have been asked for


def rows(source: RowsSource) -> Iterator[Row]:
    """Yield the rows, a few made at a time.

    What the user's own iterable or function raises goes through as it is.
    """
    value, where = source.rows, label(source)
    if isinstance(value, Iterator):
        if source in _begun:
            fix = "give a list, or a function that returns the rows anew"
            raise DataError("The rows come from an iterator that has been read already.", where=where, fix=fix)
        _begun.add(source)
    if callable(value) and not isinstance(value, Iterable):
        value = value()
    match _table(value):
        case ("pandas", _):
            yield from _pandas(value, where)
        case ("datasets", "DatasetDict" | "IterableDatasetDict"):
            fix = f"give one of them, such as data[{next(iter(value), 'train')!r}]"
            raise DataError("These are several splits, not one.", where=where, fix=fix)
        case ("datasets", _):
            yield from value.with_format(None)
        case _ if hasattr(value, "__arrow_c_stream__"):
            import pyarrow as pa

            reader = value if isinstance(value, pa.RecordBatchReader) else pa.RecordBatchReader.from_stream(value)
            _check_names(reader.schema.names, where)
            for batch in reader:
                for start in range(0, batch.num_rows, _BATCH):
                    yield from batch.slice(start, _BATCH).to_pylist()
        case _ if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            what = f"These are no rows but {type(value).__name__}."
            raise DataError(what, where=where, fix="give a data frame, or an iterable of mappings")
        case _:
            for item in value:
                told = f"it is not a mapping but {type(item).__name__}"
                yield item if isinstance(item, Mapping) else InvalidRow(told)


def label(source: RowsSource) -> str:
    """Return what to call the rows."""
    return _table(source.rows)[1]


def _table(value: Any) -> tuple[str, str]:
    """Return the library and the name of the table that a value is, if it is one."""
    for kind in type(value).__mro__:
        library = kind.__module__.partition(".")[0]
        if kind.__name__ in _TABLES.get(library, ()):
            return library, kind.__name__
    return "", "rows from Python"


def _check_names(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        what = f"The column {twice[0]} is there more than once."
        raise DataError(what, where=where, fix="give each column a name of its own")


def _pandas(frame: pd.DataFrame, where: str) -> Iterator[Row]:
    import pandas as pd

    if isinstance(frame.columns, pd.MultiIndex):
        fix = "give its columns plain names, with frame.columns = […]"
        raise DataError("The data frame has columns of several levels.", where=where, fix=fix)
    names = [str(name) for name in frame.columns]
    if not names:
        raise DataError("The data frame has no columns.", where=where, fix="give it a column `messages`")
    _check_names(names, where)
    for start in range(0, len(frame), _BATCH):
        some = frame.iloc[start : start + _BATCH]
        columns = [map(plain, some.iloc[:, index].tolist()) for index in range(len(names))]
        for values in zip(*columns, strict=True):
            yield {name: None if missing(value) else value for name, value in zip(names, values, strict=True)}
