"""The rows of a parquet file, a batch at a time, and the short way from columns of messages to conversations."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phift.data import arrow, files
from phift.data.chat import Conversation, InvalidRow, Message, put_first
from phift.data.formats import SYSTEM
from phift.data.weights import OF_ROWS
from phift.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import FileMetaData

_BATCH = 100  # rows; with 500 they no longer fit the cache, and it takes a tenth longer
_BUFFER = 1 << 20  # bytes; without one, a whole column of a row group is read at a time
# For a text that is not UTF-8, a time that Python's calendar has not, a zone that pyarrow knows not, too deep a nest.
_NO_VALUE = (ValueError, ArithmeticError, LookupError, RecursionError)


@dataclass(frozen=True)
class Footer:
    """A file's columns and row groups, which are read where memory is limited."""

    path: Path

    def perform(self, _: Path) -> Iterator[tuple[dict[str, int], list[int]]]:
        """Yield the columns, with how many rows have each, and the bytes of each row group.

        Raises `phift.errors.DataError` if it is no parquet file.
        """
        import pyarrow.parquet as pq

        with files.open_file(self.path) as file, errors(self.path):
            metadata = pq.read_metadata(file)
            schema = metadata.schema.to_arrow_schema()
            names = list(schema.names)
            columns = _rows_with_each(metadata, names)
            columns |= {name: 0 for name, kind in arrow.types_of(schema).items() if arrow.has_nothing(kind)}
        if len(set(names)) < len(names):
            raise DataError("Two columns have the same name.", where=str(self.path), fix="rename one of them")
        sizes = compressed_sizes(metadata)
        size = self.path.stat().st_size
        if any(each < 0 for each in sizes) or sum(sizes) > size:  # it says more than it has, and is cut evenly
            sizes = [size // len(sizes)] * len(sizes)
        if sizes:  # what belongs to no group counts for the last
            sizes[-1] = size - sum(sizes[:-1])
        yield columns, sizes


def compressed_sizes(metadata: FileMetaData) -> list[int]:
    """Return the bytes of each row group, as they lie in the file."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    return [sum(group.column(index).total_compressed_size for index in range(group.num_columns)) for group in groups]


def _rows_with_each(metadata: FileMetaData, names: Collection[str]) -> dict[str, int]:
    """Return how many rows have a value in each column, as far as the statistics say it; else that all have one.

    Of lists they say only whether there is a value in any of them.
    """
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    found = dict.fromkeys(names, 0)
    for index in range(metadata.num_columns):
        leaf, rows = metadata.schema.column(index), 0
        for group in groups:
            statistics = group.column(index).statistics
            values = statistics.num_values if statistics and statistics.has_null_count else group.num_rows
            rows += group.num_rows if leaf.max_repetition_level and values else min(values, group.num_rows)
        for name in accumulate(leaf.path.split("."), "{}.{}".format):
            if name in found:
                found[name] = max(found[name], rows)
                break
    return found


def batches(path: Path, start: int, end: int, columns: Collection[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the row groups from ``start`` to before ``end``; they are never all in memory.

    - **columns**: those to read, as far as the file has them.
    """
    import pyarrow.parquet as pq

    # Through a Python file; a path would be opened again, and wait there for ever if it has become a pipe.
    options: dict[str, Any] = {"pre_buffer": False, "buffer_size": _BUFFER}
    with files.open_file(path) as opened, errors(path), pq.ParquetFile(opened, **options) as file:
        groups = list(range(start, end))
        names = [name for name in file.schema_arrow.names if name in columns]
        yield from file.iter_batches(batch_size=_BATCH, row_groups=groups, columns=names, use_threads=False)


def conversations(rows: pa.RecordBatch) -> list[Conversation] | None:
    """Return the rows of a batch, not yet checked, where messages have just a role and a text, and nothing is null.

    The texts become Python values as one long column, which takes a third of the time of row after row.
    """
    import pyarrow as pa

    if "messages" not in rows.schema.names or not {"tools", "functions"}.isdisjoint(rows.schema.names):
        return None
    column = rows.column("messages")
    if column.null_count or not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return None
    # Not `flatten` and `value_lengths`, which take memory from Arrow, and as long as all the rest of this function.
    ends = column.offsets.to_pylist()
    turns = column.values.slice(ends[0], ends[-1] - ends[0])
    if not pa.types.is_struct(turns.type) or {field.name for field in turns.type} != {"role", "content"}:
        return None
    role, content = turns.field("role"), turns.field("content")
    if turns.null_count or role.null_count or content.null_count:
        return None
    if content.type not in (pa.string(), pa.large_string(), pa.string_view()):
        return None
    try:
        roles, texts = role.to_pylist(), content.to_pylist()
        systems = [rows.column(name).to_pylist() for name in rows.schema.names if name in SYSTEM]
        marks = [rows.column(name).to_pylist() for name in rows.schema.names if name in OF_ROWS]
    except _NO_VALUE:  # such as a text that is not UTF-8; which, a closer look will tell
        return None
    if not {"system", "user", "assistant", "tool"}.issuperset(roles):
        return None
    if not all(text is None or isinstance(text, str) for text in chain(*systems)):
        return None
    if not all(mark in (None, 1) for mark in chain(*marks)):
        return None
    messages = list(map(Message, roles, texts))
    found = [Conversation(messages[start - ends[0] : end - ends[0]]) for start, end in pairwise(ends)]
    return found if all(put_first(found, texts) for texts in systems) else None


def values(rows: pa.RecordBatch) -> Iterator[dict[str, Any] | InvalidRow]:
    """Yield the rows of a batch as Python values; one that cannot be is an `InvalidRow` instead."""
    try:
        yield from arrow.rows_of(rows)
    except _NO_VALUE:
        for index in range(rows.num_rows):
            try:
                yield arrow.rows_of(rows.slice(index, 1))[0]
            except _NO_VALUE as error:
                yield InvalidRow(f"it holds a value that Python cannot hold ({type(error).__name__})")


@contextmanager
def errors(path: Path, kind: str = "parquet", group: str = "row groups") -> Iterator[None]:
    """Turn what pyarrow raises into a `DataError`; **kind** of file, and what its rows are in."""
    import pyarrow as pa

    try:
        yield
    except MemoryError as error:  # pyarrow's own is one too
        what = f"The {kind} file has values that do not fit into the memory allowed for reading."
        raise DataError(what, where=str(path), fix=f"write it in smaller rows and {group}") from error
    except (pa.ArrowException, ValueError, OSError) as error:  # Arrow's word for a broken page is OSError
        # The reason may quote a value, so only its kind is told.
        what = f"The {kind} file cannot be read ({type(error).__name__})."
        raise DataError(what, where=str(path), fix="check its rights and that it is whole; write it again") from error
