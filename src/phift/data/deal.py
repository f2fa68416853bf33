"""Dealing rows from the spools to the files they are for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from phift.data.parts import BLOCK
from phift.data.spool import Spool


@dataclass(frozen=True, kw_only=True)
class Deal:
    """The rows of one spool, and where each goes.

    - **lengths**: of each row's line, in bytes; unsigned numbers of 4 bytes.
    - **chosen**: the index in ``files`` for each row, a byte each.
    - **files**, **offsets**: the files, which exist, and where the first row for each is written.
    """

    spool: str
    lengths: bytes
    chosen: bytes
    files: Sequence[str]
    offsets: Sequence[int]

    def perform(self, _: Spool) -> Iterator[int]:
        """Write the rows, yield how many bytes have been written, now and then, and delete the spool."""
        lengths = array("I", self.lengths)
        with ExitStack() as stack:
            source = stack.enter_context(Path(self.spool).open("rb"))
            files = [stack.enter_context(Path(path).open("r+b", buffering=0)) for path in self.files]
            for file, offset in zip(files, self.offsets, strict=True):
                file.seek(offset)
            start = 0
            while start < len(lengths):
                end, size = start, 0
                while end < len(lengths) and size < BLOCK:
                    size += lengths[end]
                    end += 1
                lines = BytesIO(source.read(size))
                rows: list[list[bytes]] = [[] for _ in files]
                for length, index in zip(lengths[start:end], self.chosen[start:end], strict=True):
                    rows[index].append(lines.read(length))
                for file, mine in zip(files, rows, strict=True):
                    _write(file, b"".join(mine))
                start = end
                yield size
        Path(self.spool).unlink()


def _write(file: BinaryIO, block: bytes) -> None:
    with memoryview(block) as left:
        while written := file.write(left) if left else 0:
            left = left[written:]
