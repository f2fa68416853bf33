"""The rows of text files (JSON Lines, JSON, CSV), one at a time in bounded memory.

A row that is broken by itself is for the reader of rows to set aside. What makes the rest of a file unreadable (a line
without end, an unclosed quote) is a `DataError` with the place.

**JSON** takes as much memory as its longest row. Where a value ends, msgspec says, ten times as fast as it can be said
here. Where it cannot, because the value is broken inside or not yet read to its end, brackets and quotes tell, and what
is wrong is for whoever decodes the value to say.
(Not the whole file as a ``list[msgspec.Raw]``: ``[1,1,…`` takes 30 times its size, and one broken row hides the others.
Not ijson 3.6 with yajl2_c: half a surrogate pair, as cut emojis leave it, becomes another character.)
"""

from __future__ import annotations

import csv
import io
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from phift.data.chat import InvalidRow, Row
from phift.errors import DataError

LONGEST_LINE = 16 << 20
"""Bytes of a line, or of a row of JSON: a file without line ends must not fill the memory."""

LONGEST_BLANK = 4 << 20
"""Bytes of blank lines in a row: gigabytes of them take next to nothing in a packed file, and minutes to pass over."""

LONGEST_CSV_ROW = 16 << 20
"""Characters of a row of CSV; the `csv` module takes four bytes for each, and eight for each cell."""

DELIMITERS = {"csv": ",", "tsv": "\t"}
"""What stands between the cells of a table in text."""

_BUFFER = 1 << 20
_MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_UTF8_MARK = b"\xef\xbb\xbf"
_NOT_UTF8 = re.compile("[\ud800-\udfff]")
_IS_NOT_UTF8 = "it is not UTF-8"
_FIELD_LIMIT = threading.Lock()

_LONGEST_FIRST_LINE = 16 << 20  # of a JSON file; what is longer is taken for an object that holds all the rows
TURNS = frozenset({"messages", "conversations"})  # lists of objects that are a row's, not the file's
_ARRAY_OF_ROWS = re.compile(rb"\[\s*(?:\{|$)")
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])

_DEEPEST = 10_000  # brackets in brackets; decoders give up long before
_raw = msgspec.json.Decoder(msgspec.Raw)
_FOLLOWS = re.compile(r"trailing characters \(byte (\d+)\)")
_BLANKS = b" \t\r\n"
_NOT_BLANK = re.compile(rb"[^ \t\r\n]")
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_SCALAR = re.compile(rb"(?:" + _STRING + rb"|[^\s\"\[\]{},:]++)(?=.)", re.DOTALL)  # only what follows ends a number
_TO_BRACKET = re.compile(rb"(?:[^\"\[\]{}]++|" + _STRING + rb")*+(?:([\[{])|[\]}])", re.DOTALL)


def rows_of(stream: BinaryIO, path: Path, kind: str, delimiter: str | None = None) -> Iterator[tuple[int, Row]]:
    """Yield the numbered rows of an open file of a kind that `phift.data.files.kind` names.

    - **delimiter**: of a kind in `DELIMITERS`, where it is not the usual one.
    """
    if kind in DELIMITERS:
        return csv_rows(stream, path, delimiter or DELIMITERS[kind])
    return json_rows(stream, path) if kind == "json" else lines(stream, path)


def without_mark(start: bytes, path: Path) -> bytes:
    """Drop the mark that says UTF-8, and refuse a file whose mark says that it is not."""
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            raise DataError(
                f"The file is {name}.",
                where=str(path),
                fix=f"write `encoding: {name.lower()}` beside `files`, or save it as UTF-8",
            )
    return start.removeprefix(_UTF8_MARK)


def too_long(where: str, what: str, limit: str = "") -> DataError:
    """Return the error for a line or a row that no memory is given to."""
    fix = "check that the file is what its name says, and has line ends"
    return DataError(f"A {what} is longer than {limit or f'{LONGEST_LINE >> 20} MB'}.", where=where, fix=fix)


# ---------------------------------------------------------------- JSON Lines


def lines(stream: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank, stripped, with its number from 1."""
    numbered = _numbered([stream], path)
    ahead = list(islice(numbered, 2))
    if ahead and _ARRAY_OF_ROWS.match(ahead[0][1]) and (len(ahead) == 1 or not ahead[0][1].endswith(b"]")):
        fix = "rename it to .json, or write one object a line"
        raise DataError("The file is not JSON Lines but one JSON list.", where=f"{path}:{ahead[0][0]}", fix=fix)
    yield from chain(ahead, numbered)


def _numbered(streams: Iterable[BinaryIO], path: Path) -> Iterator[tuple[int, bytes]]:
    number = blank = 0
    for stream in streams:
        while line := stream.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise too_long(f"{path}:{number}", "line")
            if number == 1:
                line = without_mark(line, path)
            if text := line.strip():
                blank = 0
                yield number, text
            elif (blank := blank + len(line)) > LONGEST_BLANK:
                raise too_long(f"{path}:{number}", "stretch of blank lines", f"{LONGEST_BLANK >> 20} MB")


# ---------------------------------------------------------------- JSON


def json_rows(stream: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the rows of a ``.json`` file as JSON, each without line ends, with its number from 1.

    The file is a list of rows, an object that has one list of rows (``{"data": [...]}``), or a row a line. A row is
    found by its brackets and quotes, and not decoded: one that is broken inside can be set aside.
    """
    head = without_mark(stream.read(_BUFFER), path)
    while head.isspace():
        head = stream.read(_BUFFER)
    start = head.lstrip()[:1]
    if start == b"{":
        head += stream.readline(_LONGEST_FIRST_LINE)
        if b"\n" not in head.strip():
            head += stream.read(_BUFFER)
        if _a_row_a_line(head):
            head += b"" if head.endswith(b"\n") else stream.readline(LONGEST_LINE + 1)
            yield from _numbered([io.BytesIO(head), stream], path)
            return
    elif head and start != b"[":
        raise DataError("The file is neither a JSON list nor objects.", where=str(path), fix="write a list of objects")
    if not head:
        return
    text = _JsonText(stream, path, head)
    for row in text.items() if start == b"[" else text.items_of_one_list():
        text.row += 1
        if b"\n" in row or b"\r" in row:
            with suppress(msgspec.DecodeError, RecursionError):  # whoever decodes it will say what is wrong with it
                row = msgspec.json.format(row, indent=-1)
        yield text.row, row
    if text.peek():
        raise text.broken("something follows the last row")


def _a_row_a_line(head: bytes) -> bool:
    """Tell rows on lines from an object that holds the rows, by the first line and whether more follow."""
    first, _, more = head.strip().partition(b"\n")
    try:
        columns = _object.decode(first)
    except msgspec.DecodeError:
        return False
    except (UnicodeDecodeError, RecursionError):
        return True  # that is for the reader of the row to say
    lists = [value for value in columns.values() if _ARRAY_OF_ROWS.match(bytes(value))]
    return bool(more) or len(lists) != 1 or not TURNS.isdisjoint(columns)


class _JsonText:
    """The text of a JSON file, of which ``head`` was read already; **row** is how many rows have been had of it."""

    def __init__(self, stream: BinaryIO, path: Path, head: bytes) -> None:
        self._stream = stream
        self._path = path
        self._buffer = head
        self._at = 0
        self.row = 0

    def broken(self, reason: str) -> DataError:
        where = f"{self._path}, after row {self.row}" if self.row else str(self._path)
        fix = "write the file again, as a list of objects or an object a line"
        return DataError(f"The JSON file cannot be read: {reason}.", where=where, fix=fix)

    def peek(self) -> bytes:
        """Return the next byte that is not blank, or none at the end."""
        while not (found := _NOT_BLANK.search(self._buffer, self._at)):
            self._at = len(self._buffer)
            if not self._more():
                return b""
        self._at = found.start()
        return found[0]

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
            if self.row and self.peek() == b"]":
                raise self.broken("a comma follows the last row")
            yield self.value()
            following = self.take(b",]")

    def items_of_one_list(self) -> Iterator[bytes]:
        """Read an object that has one list of objects, item by item."""
        self.take(b"{")
        lists, following = 0, b","
        while following == b",":
            self.value()
            self.take(b":")
            if self.peek() == b"[":
                items = self.items()
                first = next(items, b"")
                of_rows = first.startswith(b"{")
                lists += of_rows
                if lists > 1:
                    raise self.broken("it has several lists of objects")
                yield from (item for item in chain([first], items) if of_rows)
            else:
                self.value()
            following = self.take(b",}")
        if not lists:
            raise self.broken("it has no list of objects")

    def value(self) -> bytes:
        """Read a value."""
        is_nested = self.peek() in (b"[", b"{")
        depth, size = 0, self._size_if_sound() if is_nested else 0
        while size == 0 or depth:
            if found := (_TO_BRACKET if is_nested else _SCALAR).match(self._buffer, self._at + size):
                size = found.end() - self._at
                if is_nested:
                    depth += 1 if found[1] else -1
                if depth > _DEEPEST:
                    raise self.broken("it is nested too deeply")
            elif not self._more():
                is_missing = self.peek() in (b",", b":", b"]", b"}")
                raise self.broken("a value is missing" if is_missing else "it ends within a value")
        start, self._at = self._at, self._at + size
        return self._buffer[start : self._at].rstrip(_BLANKS)

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

    def _more(self) -> bool:
        """Read on, and drop what is read already."""
        self._buffer, self._at = self._buffer[self._at :], 0
        size = len(self._buffer)
        if size > LONGEST_LINE:
            raise too_long(f"{self._path}, row {self.row + 1}", "row")
        # In steps that grow with the value, which is searched again from its last bracket on.
        self._buffer += self._stream.read(max(_BUFFER, size // 4))
        return len(self._buffer) > size


# ---------------------------------------------------------------- CSV


def csv_rows(stream: BinaryIO, path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str] | InvalidRow]]:
    """Yield each row by the header's names, or what is wrong with it, with the number of the line that it starts on."""
    # Of the row that is being read: its characters, and what is wrong with it.
    size, problem = 0, ""
    blank, ended = 0, False

    def checked_lines() -> Iterator[str]:
        nonlocal size, problem, blank, ended
        # What is no UTF-8 becomes lone surrogates, which UTF-8 has not: the row is refused, and not the file.
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
        number = 0
        while line := text.readline(LONGEST_CSV_ROW + 1):
            number, size = number + 1, size + len(line)
            if size > LONGEST_CSV_ROW:
                limit = f"{LONGEST_CSV_ROW >> 20} million characters"
                raise too_long(f"{path}:{number}", "row (is a quote not closed?)", limit)
            blank = blank + len(line) if line.isspace() else 0
            if blank > LONGEST_BLANK:
                raise too_long(f"{path}:{number}", "stretch of blank lines", f"{LONGEST_BLANK >> 20} MB")
            if number == 1:
                without_mark(line[:4].encode("utf-8", "surrogateescape"), path)
            if "\0" in line:
                problem = "it has a NUL character"
            elif not line.isascii() and _NOT_UTF8.search(line):
                problem = _IS_NOT_UTF8
            yield line
        ended = True
        text.detach()  # or it would close the stream, which is not its own

    reader = csv.reader(checked_lines(), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        size, problem, number = 0, "", reader.line_num + 1
        try:
            # Room for long cells: the limit is the module's, not the reader's, and looked at while a cell is read. It
            # is lifted only for that, and under a lock, so that no other user of `csv` finds it changed.
            with _FIELD_LIMIT:
                before = csv.field_size_limit(LONGEST_CSV_ROW)
                try:
                    cells = next(reader)
                finally:
                    csv.field_size_limit(before)
        except StopIteration:
            return
        except csv.Error as error:
            if ended:
                fix = "close the quote; a quote within a cell is written twice"
                raise DataError("A quote is never closed.", where=f"{path}:{number}", fix=fix) from error
            cells, problem = [], problem or "its quotes are not as CSV has them"
        if not header:
            if number == 1 and re.fullmatch("sep=.?", "".join(cells)):  # tells Excel the delimiter
                continue
            header = _header(cells, problem, f"{path}:{number}")
        elif problem:
            yield number, InvalidRow(problem)
        elif cells == header:
            yield number, InvalidRow("it is the header again")
        elif len(cells) == len(header):
            yield number, dict(zip(header, cells, strict=True))
        elif "".join(cells).strip():
            yield number, InvalidRow(f"it has {len(cells)} cells; the header has {len(header)}")


def _header(names: list[str], problem: str, where: str) -> list[str]:
    """Return a header's names, none of a blank line."""
    stripped = [name.strip() for name in names]
    if not problem and "" in stripped:
        problem = f"column {stripped.index('') + 1} of {len(names)} has no name"
    if not problem and len(set(stripped)) < len(names):
        problem = "two columns have the same name"
    if problem:
        fix = "give each column its own name, in the first row; pandas writes no nameless one with index=False"
        if problem == _IS_NOT_UTF8:
            fix = "write the file's `encoding` beside `files`, such as windows-1252, or save it as UTF-8"
        raise DataError(f"The header cannot be used: {problem}.", where=where, fix=fix)
    return names
