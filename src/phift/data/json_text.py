"""JSON text, read a value at a time in as much memory as the longest value takes.

Where a value ends, msgspec says, ten times as fast as it can be said here. Where it cannot, because the value is broken
inside or not yet read to its end, brackets and quotes tell, and what is wrong is for whoever decodes the value to say.
(Not the whole file as a ``list[msgspec.Raw]``: ``[1,1,…`` takes 30 times its size, and one broken row hides the others.
Not ijson 3.6 with yajl2_c: half a surrogate pair, as cut emojis leave it, becomes another character.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from phift.errors import DataError

_STEP = 1 << 20
_DEEPEST = 10_000  # brackets in brackets; decoders give up long before
_raw = msgspec.json.Decoder(msgspec.Raw)
_FOLLOWS = re.compile(r"trailing characters \(byte (\d+)\)")
_BLANKS = b" \t\r\n"
_BLANK = re.compile(rb"[ \t\r\n]*")
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_SCALAR = re.compile(_STRING + rb"|[^\s\"\[\]{},:]++", re.DOTALL)
_TO_BRACKET = re.compile(rb"(?:[^\"\[\]{}]++|" + _STRING + rb")*+(?:([\[{])|[\]}])", re.DOTALL)


class JsonText:
    """The text of a JSON file.

    - **head**: what was read of the stream already.
    - **longest**: bytes that a value may have.
    - **row**: how many rows whoever reads has had, for the errors.
    """

    def __init__(self, stream: BinaryIO, path: Path, head: bytes, longest: int) -> None:
        self._stream = stream
        self._path = path
        self._buffer = head
        self._at = 0
        self._longest = longest
        self.row = 0

    def broken(self, reason: str) -> DataError:
        """Return the error for text that is not what it should be at this place."""
        where = f"{self._path}, after row {self.row}" if self.row else str(self._path)
        fix = "write the file again, as a list of objects or an object a line"
        return DataError(f"The JSON file cannot be read: {reason}.", where=where, fix=fix)

    def peek(self) -> bytes:
        """Return the next byte that is not blank, or none at the end."""
        while True:
            blank = _BLANK.match(self._buffer, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at : self._at + 1]
            if not self._more():
                return b""

    def take(self, wanted: bytes) -> bytes:
        """Read one of the wanted bytes."""
        found = self.peek()
        if not found or found not in wanted:
            raise self.broken(f"{' or '.join(wanted.decode())} is missing")
        self._at += 1
        return found

    def items(self) -> Iterator[bytes]:
        """Read a list, item by item."""
        self.take(b"[")
        if self.peek() == b"]":
            self.take(b"]")
            return
        following = b","
        while following == b",":
            yield self.value()
            following = self.take(b",]")

    def value(self) -> bytes:
        """Read a value."""
        if self.peek() not in (b"[", b"{"):
            return self._scalar()
        if size := self._size_if_sound():
            return self._cut(size).rstrip(_BLANKS)
        depth = size = 0
        while size == 0 or depth:
            bracket = _TO_BRACKET.match(self._buffer, self._at + size)
            if bracket:
                size = bracket.end() - self._at
                depth += 1 if bracket[1] else -1
                if depth > _DEEPEST:
                    raise self.broken("it is nested too deeply")
            elif not self._more():
                raise self.broken("it ends within a value")
        return self._cut(size)

    def _size_if_sound(self) -> int:
        """Return the size of the value that begins here, by what msgspec says of the text after it; 0 if it cannot.

        The text of its error is no promise, so what it says is tried.
        """
        text = memoryview(self._buffer)[self._at :]
        try:
            _raw.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            if follows := _FOLLOWS.search(str(error)):
                size = int(follows[1]) - 1
                with suppress(msgspec.DecodeError):
                    _raw.decode(text[:size])
                    return size
        return 0

    def _scalar(self) -> bytes:
        while True:
            found = _SCALAR.match(self._buffer, self._at)
            if found and found.end() < len(self._buffer):
                return self._cut(found.end() - self._at)
            if not self._more():
                missing = self.peek() in (b",", b":", b"]", b"}")
                raise self.broken("a value is missing" if missing else "it ends within a value")

    def _cut(self, size: int) -> bytes:
        self._at += size
        return self._buffer[self._at - size : self._at]

    def _more(self) -> bool:
        """Read on, and drop what is read already."""
        self._buffer, self._at = self._buffer[self._at :], 0
        size = len(self._buffer)
        if size > self._longest:
            what = f"A row is longer than {self._longest >> 20} MB."
            fix = "check that the file is what its name says"
            raise DataError(what, where=f"{self._path}, row {self.row + 1}", fix=fix)
        # In steps that grow with the value, which is searched again from its last bracket on.
        self._buffer += self._stream.read(max(_STEP, size // 4))
        return len(self._buffer) > size
