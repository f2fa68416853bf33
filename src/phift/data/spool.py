"""The files that the rows of a part are written to, the tally of what has been written, and the way out."""

from __future__ import annotations

import base64
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

import msgspec
import xxhash

from phift.data import chat

if TYPE_CHECKING:
    from phift.data.chat import Conversation, Row

BLOCK = 1 << 19
"""Bytes that are read at a time: with more, the rows no longer fit the processor's cache (a third slower at 16 MB than
at 1 MB: 2 cores of an AMD EPYC, 2026-11-22)."""

MOST_PROBLEMS = 20
"""Refused rows that a tally names; the others are counted."""

TABLE = (
    ("hash", "V16"),
    ("key", "<u8"),
    ("group", "<u8"),
    ("number", "<u8"),
    ("length", "<u4"),
    ("characters", "<u4"),
    ("source", "<u4"),
    ("tools", "?"),
)
"""What is known of every good row without its text, 53 bytes, in the order of the sources.

- **hash**: XXH3 with 128 bits over its line of JSON.
- **key**: equal where the same is said by the same.
- **group**: equal where the group is the same; 0 where rows are not grouped.
- **number**: of the line or row in its source.
- **length**, **characters**: of the line in bytes, of what is said in characters.
- **source**: the index of the source.
- **tools**: whether it has tools.
"""

ROW = struct.Struct("<16s8sQQII4x?")
"""A row of `TABLE`, its source left open."""

_TALLY = 8 << 20  # bytes of rows between two tallies
_MOST_COLUMNS = 50
_encoder = msgspec.json.Encoder()


@dataclass(kw_only=True)
class Tally:
    """What became of the rows read since the last tally.

    - **spool**, **size**: the file of the good rows, and its bytes; there is none without a good row.
    - **rejects**: the file of the refused ones, if they are kept and there are any.
    - **known**: what is known of each good row, a `ROW` each.
    - **problems**: the first refused rows, each with its number and the reason.
    - **ignored**: columns that are left out; of a great many, the first.
    - **last**: the number of the last line or row, blank lines too.
    - **before**: lines or rows of the source before the part; all numbers here count from there.
    - **position**: how far the reading has come, in bytes of the file.
    """

    spool: str
    rejects: str
    size: int = 0
    known: bytearray = field(default_factory=bytearray)
    rows: int = 0
    blank: int = 0
    refused: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)
    last: int = 0
    before: int = 0
    position: int = 0

    @property
    def good(self) -> int:
        """How many rows can be trained on."""
        return len(self.known) // ROW.size

    def ignore(self, columns: Iterable[str]) -> None:
        """Note columns that are left out."""
        if len(self.ignored) < _MOST_COLUMNS:
            self.ignored.update(map(str, islice(columns, _MOST_COLUMNS)))  # a name of Python's can be anything


class Spool:
    """The files that the rows of a part are written to, and the tally of what has been written.

    Each tally's rows have files of their own. Whoever deals the good ones out deletes theirs then, so that no more than
    the data's own size waits to be written to the disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self.tally = self._new()

    def _new(self) -> Tally:
        name = str(self._folder / uuid4().hex)
        return Tally(spool=name, rejects=f"{name}.rejects")

    def _write(self, path: str, block: bytes) -> None:
        if path not in self._files:
            self._files[path] = Path(path).open("xb")  # noqa: SIM115 - open until the tally
        self._files[path].write(block)

    def add(
        self,
        conversations: list[Conversation],
        characters: Iterable[int],
        numbers: Iterable[int],
        groups: Sequence[int] = (),
    ) -> None:
        """Write rows that can be trained on."""
        if not conversations:
            return
        block = _encoder.encode_lines(conversations)
        self._write(self.tally.spool, block)
        self.tally.size += len(block)
        hashes, lengths, start = [], [], 0
        with memoryview(block) as view:
            for _ in conversations:
                end = block.find(b"\n", start) + 1
                hashes.append(xxhash.xxh3_128_digest(view[start:end]))
                lengths.append(end - start)
                start = end
        keys = [digest[:8] for digest in hashes]
        for index, row in enumerate(conversations):
            if (plain := chat.plain(row)) is not row:
                # The key of a row with more in its messages than is said is that of the row without it.
                keys[index] = xxhash.xxh3_128_digest(_encoder.encode(plain) + b"\n")[:8]
        tools = [row.tools is not None for row in conversations]
        known = map(ROW.pack, hashes, keys, groups or repeat(0), numbers, lengths, characters, tools)
        self.tally.known += b"".join(known)

    def refuse(self, number: int, reason: str, row: Row, *, keep: bool) -> None:
        """Count a row that cannot be trained on, and write it to the rejects if told to."""
        self.tally.refused += 1
        if len(self.tally.problems) < MOST_PROBLEMS:
            self.tally.problems.append((number, reason))
        if keep:
            reject = {"number": number, "reason": reason, "row": _kept(row)}
            self._write(self.tally.rejects, _encoder.encode(reject) + b"\n")

    @property
    def full(self) -> bool:
        """Whether it is time for a tally."""
        return self.tally.size >= _TALLY

    def take(self) -> Tally:
        """Return the tally, whole, and begin another."""
        self.close()
        tally, self.tally = self.tally, self._new()
        return tally

    def close(self) -> None:
        """Close the files; they stay."""
        while self._files:
            self._files.popitem()[1].close()


def _kept(row: Row) -> object:
    """Return a refused row as JSON can hold it: as it is, else as text, else as Base64."""
    if isinstance(row, bytes):
        with suppress(chat.InvalidRow):
            return chat.values_of(row)
        try:
            return row.decode("utf-8")
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(row).decode()}
    value: object = row.row if isinstance(row, chat.InvalidRow) else row
    with suppress(TypeError, ValueError, RecursionError):
        _encoder.encode(value)
        return value
    try:
        repr(value).encode()
        return repr(value)
    except Exception as error:  # noqa: BLE001 - a value of the user's own kind may raise anything
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"


@dataclass(frozen=True, kw_only=True)
class Deal:
    """The rows of one spool, and where each goes.

    - **lengths**: of each row's line, in bytes; unsigned numbers of 4 bytes.
    - **chosen**: the index in ``files`` for each row, a byte each.
    - **files**: which exist, and where the first row for each is written.
    """

    spool: str
    lengths: bytes
    chosen: bytes
    files: Mapping[str, int]

    def perform(self, _: Path) -> Iterator[int]:
        """Write the rows, yield how many bytes have been written, now and then, and delete the spool."""
        with ExitStack() as stack:
            source = stack.enter_context(Path(self.spool).open("rb", buffering=BLOCK))
            files = [stack.enter_context(Path(path).open("r+b", buffering=BLOCK)) for path in self.files]
            for file, offset in zip(files, self.files.values(), strict=True):
                file.seek(offset)
            size = 0
            for length, index in zip(array("I", self.lengths), self.chosen, strict=True):
                files[index].write(source.read(length))
                size += length
                if size >= BLOCK:
                    yield size
                    size = 0
        Path(self.spool).unlink()
        yield size
