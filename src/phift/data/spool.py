"""The files that a process writes the rows of its parts to, and the tally of what it has written."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import xxhash

from phift.data import chat

if TYPE_CHECKING:
    from phift.data.chat import Conversation

MOST_PROBLEMS = 20
"""Refused rows that a tally names; the others are counted."""

HASH = 16
"""Bytes of a row's hash, XXH3 with 128 bits over its line of JSON."""

_TALLY = 8 << 20  # bytes of rows between two tallies
_MOST_COLUMNS = 50
_encoder = msgspec.json.Encoder()


@dataclass(kw_only=True)
class Tally:
    """What became of the rows read since the last tally.

    - **last**: the number of the last line or row, counted from the part's start, blank lines too.
    - **hashes**: of each good row, `HASH` bytes.
    - **tools**: of each good row, a byte: whether it has tools.
    - **keys**: of each good row, an unsigned number of 8 bytes, equal where the same is said by the same.
    - **lengths**, **characters**, **numbers**: of each good row, unsigned numbers of 4 bytes; the row's own number
      counts from the part's start.
    - **groups**: of each good row, unsigned numbers of 8 bytes, where rows are grouped.
    - **problems**: the first refused rows, each with its number, counted from the part's start, and the reason.
    - **spool**, **size**: the file of the good rows, and its bytes; there is none without a good row.
    - **rejects**, **rejects_offset**, **rejects_size**: where the refused ones lie.
    - **position**: how far the reading has come, in bytes of the file.
    """

    rows: int = 0
    last: int = 0
    blank: int = 0
    refused: int = 0
    hashes: bytes = b""
    tools: bytes = b""
    keys: bytes = b""
    lengths: bytes = b""
    characters: bytes = b""
    numbers: bytes = b""
    groups: bytes = b""
    problems: list[tuple[int, str]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    spool: str = ""
    size: int = 0
    rejects: str = ""
    rejects_offset: int = 0
    rejects_size: int = 0
    position: int = 0


class Spool:
    """The files that one process writes its rows to, and the tally of what it has written.

    Each tally's good rows have a file of their own. Whoever deals them out deletes it then, so that no more than the
    data's own size waits to be written to the disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tallies = 0
        self._rows: BinaryIO | None = None
        self._rejects = path.with_suffix(".rejects").open("xb")
        self._begin()

    def _begin(self) -> None:
        self._tally = Tally(
            spool=str(self.path.with_suffix(f".{self._tallies}")),
            rejects=str(self.path.with_suffix(".rejects")),
            rejects_offset=self._rejects.tell(),
        )
        self._tallies += 1
        self._hashes, self._tools, self._keys = bytearray(), bytearray(), bytearray()
        self._lengths, self._characters, self._numbers = array("I"), array("I"), array("I")
        self._groups = array("Q")
        self._ignored: set[str] = set()

    def add(
        self,
        conversations: list[Conversation],
        characters: Iterable[int],
        numbers: Iterable[int],
        groups: Iterable[int] = (),
    ) -> None:
        """Write rows that can be trained on."""
        block = _encoder.encode_lines(conversations)
        if self._rows is None:
            self._rows = Path(self._tally.spool).open("xb")  # noqa: SIM115 - open until the tally
        self._rows.write(block)
        self._tally.size += len(block)
        self._tools += bytes([row.tools is not None for row in conversations])
        self._characters.extend(characters)
        self._numbers.extend(numbers)
        self._groups.extend(groups)
        hashes = []
        start = 0
        with memoryview(block) as view:
            for _ in conversations:
                end = block.find(b"\n", start) + 1
                hashes.append(xxhash.xxh3_128_digest(view[start:end]))
                self._lengths.append(end - start)
                start = end
        self._hashes += b"".join(hashes)
        rows = zip(hashes, conversations, strict=True)
        self._keys += b"".join([digest[:8] if chat.is_plain(row) else _key(row) for digest, row in rows])

    def refuse(self, number: int, reason: str, row: Any, *, keep: bool) -> None:
        """Count a row that cannot be trained on, and write it to the rejects if told to."""
        tally = self._tally
        tally.refused += 1
        if len(tally.problems) < MOST_PROBLEMS:
            tally.problems.append((number, reason))
        if keep:
            line = _encoder.encode({"number": number, "reason": reason, "row": _kept(row)}) + b"\n"
            self._rejects.write(line)
            tally.rejects_size += len(line)

    def count(self, *, rows: int = 0, blank: int = 0) -> None:
        """Count rows that were read, and blank lines."""
        self._tally.rows += rows
        self._tally.blank += blank

    def reach(self, last: int, position: int) -> None:
        """Note how far the reading has come: the last line's or row's number, and bytes of the file."""
        self._tally.last, self._tally.position = last, position

    def ignore(self, columns: Iterable[str]) -> None:
        """Note columns that are left out; of a great many, the first."""
        if len(self._ignored) < _MOST_COLUMNS:
            self._ignored.update(map(str, islice(columns, _MOST_COLUMNS)))  # a name of Python's can be anything

    @property
    def full(self) -> bool:
        """Whether it is time for a tally."""
        return self._tally.size >= _TALLY

    def tally(self) -> Tally:
        """Return what has been written since the last tally."""
        self._close_rows()
        self._rejects.flush()
        tally = self._tally
        tally.hashes, tally.tools, tally.keys = bytes(self._hashes), bytes(self._tools), bytes(self._keys)
        tally.lengths = self._lengths.tobytes()
        tally.characters, tally.numbers = self._characters.tobytes(), self._numbers.tobytes()
        tally.groups = self._groups.tobytes()
        tally.ignored = sorted(self._ignored)
        self._begin()
        return tally

    def close(self) -> None:
        """Close the files; they stay."""
        self._close_rows()
        self._rejects.close()

    def _close_rows(self) -> None:
        if self._rows:
            self._rows.close()
            self._rows = None


def _key(row: Conversation) -> bytes:
    """Return the key of a row with more in its messages than is said: it is that of the row without it."""
    return xxhash.xxh3_128_digest(_encoder.encode(chat.plain(row)) + b"\n")[:8]


def _kept(row: Any) -> Any:
    """Return a refused row as JSON can hold it: as it is, else as text, else as Base64."""
    if isinstance(row, bytes):
        try:
            return chat.values_of(row)
        except chat.InvalidRow:
            return _text(row)
    if isinstance(row, chat.InvalidRow):
        row = row.row
    try:
        _encoder.encode(row)
    except (TypeError, ValueError, RecursionError):
        return _shown(row)
    return row


def _shown(row: Any) -> str:
    try:
        shown = repr(row)
        shown.encode()
    except Exception as error:  # noqa: BLE001 - a value of the user's own kind may raise anything
        return f"a {type(row).__name__} that cannot be shown ({type(error).__name__})"
    return shown


def _text(line: bytes) -> Any:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(line).decode()}
