"""The rows of an Arrow file, as `save_to_disk` of ``datasets`` writes them, and pandas' and polars' Feather files."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phift.data import arrow, files, parquet
from phift.data.seen import ALL
from phift.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 100  # rows; the same as of parquet


@dataclass(frozen=True)
class Head:
    """A file's columns, which are read where memory is limited."""

    path: Path

    def perform(self, _: Path) -> Iterator[tuple[dict[str, int], list[int]]]:
        """Yield the columns, as if all rows had them unless their type has no values, and the bytes of all of it.

        Raises `phift.errors.DataError`.
        """
        with _opened(self.path) as reader:
            names, kinds = list(reader.schema.names), reader.schema.types
        if len(set(names)) < len(names):
            raise DataError("Two columns have the same name.", where=str(self.path), fix="rename one of them")
        rows = [0 if arrow.has_nothing(kind) else ALL for kind in kinds]
        yield dict(zip(names, rows, strict=True)), [self.path.stat().st_size]


def batches(path: Path, columns: Collection[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows, one batch of the file in memory at a time.

    - **columns**: those to read, as far as the file has them.
    """
    with _opened(path, columns) as reader:
        is_stream = not hasattr(reader, "get_batch")
        every = reader if is_stream else map(reader.get_batch, range(reader.num_record_batches))
        for batch in every:
            batch.validate(full=True)  # what is broken is not looked at: it can lead out of the batch's memory
            for start in range(0, batch.num_rows, _BATCH):
                yield batch.slice(start, _BATCH)


@contextmanager
def _opened(
    path: Path, columns: Collection[str] | None = None
) -> Iterator[pa.ipc.RecordBatchStreamReader | pa.ipc.RecordBatchFileReader]:
    import pyarrow as pa

    with files.open_file(path) as file, parquet.errors(path, "Arrow", "record batches"):
        opened = pa.ipc.open_file if file.read(6) == b"ARROW1" else pa.ipc.open_stream
        file.seek(0)
        reader = opened(file)
        if columns is not None:
            included = [index for index, name in enumerate(reader.schema.names) if name in columns]
            file.seek(0)
            reader = opened(file, options=pa.ipc.IpcReadOptions(included_fields=included, use_threads=False))
        yield reader
