"""The rows of a parquet file, a batch at a time, and the short way from columns of messages to conversations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phift.data.chat import Conversation, Message
from phift.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import FileMetaData

_BATCH = 500  # rows
_BUFFER = 1 << 20  # bytes; without one, a whole column of a row group is read at a time
_ROLES = frozenset({"system", "user", "assistant", "tool"})


def metadata(path: Path) -> FileMetaData:
    """Return what the file says of itself; raises `phift.errors.DataError` if it is no parquet file."""
    import pyarrow.parquet as pq

    with _errors(path):
        return pq.read_metadata(path)


def columns(path: Path) -> list[str]:
    """Return the names of the columns."""
    return list(metadata(path).schema.to_arrow_schema().names)


def row_group_sizes(path: Path) -> list[int]:
    """Return the bytes of each row group, as they lie in the file; what belongs to none counts for the last."""
    groups = metadata(path)
    sizes = [
        sum(groups.row_group(group).column(column).total_compressed_size for column in range(groups.num_columns))
        for group in range(groups.num_row_groups)
    ]
    return [*sizes[:-1], path.stat().st_size - sum(sizes[:-1])] if sizes else []


def batches(path: Path, start: int, end: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the row groups from ``start`` to before ``end``; they are never all in memory."""
    import pyarrow.parquet as pq

    with _errors(path), pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
        yield from file.iter_batches(batch_size=_BATCH, row_groups=list(range(start, end)), use_threads=False)


def conversations(rows: pa.RecordBatch) -> list[Conversation] | None:
    """Return the rows of a batch, not yet checked, where messages have just a role and a text, and nothing is null.

    The texts become Python values as one long column, which takes a third of the time of row after row.
    """
    import pyarrow as pa

    if "messages" not in rows.schema.names or "tools" in rows.schema.names:
        return None
    column = rows.column("messages")
    if column.null_count or not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return None
    turns = column.flatten()
    if not pa.types.is_struct(turns.type) or {field.name for field in turns.type} != {"role", "content"}:
        return None
    role, content = turns.field("role"), turns.field("content")
    if turns.null_count or role.null_count or content.null_count or not _is_text(content.type):
        return None
    roles, texts = role.to_pylist(), content.to_pylist()
    if not _ROLES.issuperset(roles):
        return None
    messages = list(map(Message, roles, texts))
    sizes = column.value_lengths().to_pylist()
    conversations, start = [], 0
    for size in sizes:
        conversations.append(Conversation(messages[start : start + size]))
        start += size
    return conversations


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except MemoryError as error:  # pyarrow's own is one too
        what = "The parquet file has values that do not fit into the memory allowed for reading."
        raise DataError(what, where=str(path), fix="write it in smaller rows and row groups") from error
    except (pa.ArrowException, ValueError) as error:
        # The reason may quote a value, so only its kind is told.
        what = f"The parquet file cannot be read ({type(error).__name__})."
        raise DataError(what, where=str(path), fix="check that it is whole; write it again") from error
