"""The rows of a data file, one at a time, whatever its format."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phift.errors import DataError

Row = Mapping[str, Any]
Placed = tuple[str, Row]  # the place is the file's name and the line or row, from 1


def read(path: Path) -> Iterator[Placed]:
    """Yield every row with its place, for messages; blanks around the names of columns are stripped."""
    if path.suffix not in (".parquet", ".json", ".jsonl"):
        what = f"A {path.suffix} cell is text, and messages must be a list."
        raise DataError(what, where=path.name, fix="write the rows as JSONL or parquet")
    for place, row in _values(path):
        if not isinstance(row, Mapping):
            raise DataError("A row is not an object.", where=place, fix='write {"messages": […]}')
        yield place, {name.strip(): value for name, value in row.items()}


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".parquet":
        rows = _parquet(path)
    elif path.suffix == ".json" and (content := path.read_bytes()).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[":
        rows = iter(_parse(content, path.name))
    else:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    place = f"{path.name}, line {number}"
                    yield place, _parse(line, place)
        return
    for number, row in enumerate(rows, start=1):
        yield f"{path.name}, row {number}", row


def _parse(content: bytes, place: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        # Not the error's own text for bytes that are not UTF-8: it would quote them.
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8"
        raise DataError(f"Not JSON: {reason}.", where=place, fix="mend or remove it") from None
    except RecursionError:
        raise DataError("It is nested too deeply.", where=place, fix="mend or remove it") from None


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid:
        raise DataError("Not a parquet file.", where=path.name, fix="write it again") from None
    with file:
        for batch in file.iter_batches(batch_size=1000):
            yield from batch.to_pylist()
