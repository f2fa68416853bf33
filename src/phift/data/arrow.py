"""Rows of Arrow as values of Python, without what only Arrow put there.

A struct of Arrow has the fields of all structs in its column: a tool call of one function gets the arguments of every
other, as null. So what is null in a struct goes, and a null that JSON itself has, in text or in Arrow's JSON, stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa

Row: TypeAlias = dict[str, Any]
_Read: TypeAlias = Callable[[Any], Any]


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    """Return the rows of a batch."""
    return list(map(row_reader(types_of(batch.schema)), batch.to_pylist()))


def types_of(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Return the type of each column."""
    return dict(zip(schema.names, schema.types, strict=True))


def has_nothing(kind: pa.DataType) -> bool:
    """Tell the type of a column where no row has anything: of nulls, or of lists that are empty."""
    import pyarrow as pa

    return bool(pa.types.is_null(getattr(kind, "value_type", kind)))


def row_reader(kinds: Mapping[str, pa.DataType]) -> Callable[[Row], Row]:
    """Return what reads a row, which is a mapping of values that were Arrow's.

    - **kinds**: the types of its columns; one that is not there is no struct and no JSON.
    """
    readers = {name: read for name, kind in kinds.items() if (read := _reader(kind))}

    def read_row(row: Row) -> Row:
        return {name: readers[name](cell) if name in readers else cell for name, cell in row.items()}

    return read_row if readers else lambda row: row


def _reader(kind: pa.DataType) -> _Read | None:
    """Return what reads a value of a type, or None where it can stay as it is."""
    import pyarrow as pa

    if getattr(kind, "extension_name", "") == "arrow.json":
        return _from_json
    if pa.types.is_struct(kind):
        fields = {field.name: _reader(field.type) for field in kind}
        return lambda value: _read_struct(value, fields) if isinstance(value, dict) else value
    if (inner := getattr(kind, "value_type", None)) is not None and (read := _reader(inner)):
        return lambda value: [read(each) for each in value] if isinstance(value, list) else value
    return None


def _read_struct(value: dict[str, Any], fields: dict[str, _Read | None]) -> dict[str, Any]:
    found = {name: each for name, each in value.items() if each is not None}
    return {name: read(each) if (read := fields.get(name)) else each for name, each in found.items()}


def _from_json(text: Any) -> Any:
    if isinstance(text, str):
        with suppress(msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return msgspec.json.decode(text)
    return text


def without_nulls(value: Any) -> Any:
    """Return a value that was Arrow's, and of which the type is no longer known, without the null keys in it."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value
