"""Data files, read as they lie there: which there are, and their rows one at a time in bounded memory.

A row that is broken by itself is for the reader of rows to set aside. What makes the rest of a file unreadable (a cut
archive, a line without end, an unclosed quote) is a `DataError` with the place.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import os
import re
import stat
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from phift.component.preprocessing import SUFFIXES
from phift.data.chat import InvalidRow
from phift.data.json_text import JsonText
from phift.errors import DataError, DataNotFound

LONGEST_LINE = 16 << 20
"""Bytes of a line, or of a row of JSON: a file without line ends must not fill the memory."""

LONGEST_CSV_ROW = 16 << 20
"""Characters of a row of CSV; the `csv` module takes four bytes for each, and eight for each cell."""

_PACKED = (".gz", ".zst")
_BUFFER = 1 << 20
_MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_UTF8_MARK = b"\xef\xbb\xbf"
_NOT_UTF8 = re.compile("[\ud800-\udfff]")

_LONGEST_FIRST_LINE = 16 << 20  # of a JSON file; what is longer is taken for an object that holds all the rows
_TURNS = frozenset({"messages", "conversations"})  # lists of objects that are a row's, not the file's
_ARRAY_OF_ROWS = re.compile(rb"\[\s*(?:\{|$)")
_FIELD_LIMIT = threading.Lock()
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def kind(path: Path) -> str:
    """Return what the file is by its name: jsonl, json, csv, tsv or parquet.

    All but parquet also with ``.gz`` or ``.zst`` behind; ``.ndjson`` is ``.jsonl``.
    """
    suffix = _suffix(path)
    if suffix not in SUFFIXES or (suffix == ".parquet" and compressed(path)):
        what = f"A data file with the suffix {''.join(path.suffixes[-2:]) or '(none)'} cannot be read."
        packed, whole = f"{', '.join(SUFFIXES[:-1])} file, which may end in {' or '.join(_PACKED)}", SUFFIXES[-1]
        fix = f"give a {packed}, or a {whole} file"
        raise DataError(what, where=str(path), fix=fix)
    return suffix.removeprefix(".")


def compressed(path: Path) -> bool:
    """Tell whether the file is packed with gzip or zstd."""
    return path.suffix.lower() in _PACKED


def _suffix(path: Path) -> str:
    name = Path(path.stem) if compressed(path) else path
    suffix = name.suffix.lower()
    return ".jsonl" if suffix == ".ndjson" else suffix


def check_path(path: Path) -> None:
    """Refuse a path that no file can have.

    Quotes and backslashes are for nobody to refuse: what is uploaded is named after the split, and nothing of a path
    on this machine gets into the component's command lines.
    """
    if "\0" in str(path):
        what = "The path has NUL in it, which no file's name can have."
        raise DataError(what, where=str(path).replace("\0", "\\0"), fix="check the path")


def expand(path: Path) -> list[Path]:
    """Return the data files that a path stands for: a file, those of a folder, or those of a pattern, sorted.

    Hidden names are left out of folders and patterns, and so are files that are no data.
    """
    check_path(path)
    seen = _look(path)
    if seen is not None and stat.S_ISDIR(seen.st_mode):
        files = [file for file in _files_below(path) if _suffix(file) in SUFFIXES]
        if not files:
            fix = f"put {', '.join(SUFFIXES)} files there, or give another folder"
            raise DataError("The folder has no data files.", where=str(path), fix=fix)
    else:
        files = _matching(path) if seen is None else [path]
    for file in files:
        check_path(file)
        seen, where = _look(file), str(file)
        if seen is None:
            raise DataNotFound("There is no such data file.", where=where, fix="it is a link to nothing, or just went")
        if not stat.S_ISREG(seen.st_mode):
            raise DataError("The path is not a file.", where=where, fix="give a file, a folder or a pattern")
        kind(file)
        if not seen.st_size:
            raise DataError("The data file is empty.", where=where, fix="give a file with rows")
    return files


def size(path: Path) -> int:
    """Return a file's bytes; none of one that just went, which reading it tells."""
    seen = _look(path)
    return seen.st_size if seen else 0


def _look(path: Path) -> os.stat_result | None:
    """Return what is at a path, or None if nothing is there."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # too long a name, a loop of links, no right to look
        raise _unreadable(path, error) from error


def _files_below(folder: Path) -> Iterator[Path]:
    # Path.rglob passes over a folder that it may not read; its rows would be lost without a word.
    def fail(error: OSError) -> None:
        raise _unreadable(folder, error) from error

    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _matching(path: Path) -> list[Path]:
    """Return the data files that match a pattern; the parts before the first with ``*?[`` are a plain folder."""
    magic = next((index for index, part in enumerate(path.parts) if re.search(r"[*?\[]", part)), None)
    if magic is None:
        raise DataNotFound("There is no such data file.", where=str(path), fix=_near(path))
    folder, pattern = Path(*path.parts[:magic]), Path(*path.parts[magic:])
    if pattern.name == "**":
        pattern /= "*"
    found = sorted(
        file
        for file in folder.glob(str(pattern))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not found:
        raise DataNotFound("No file matches the pattern.", where=str(path), fix=_near(folder / "*"))
    files = [file for file in found if _suffix(file) in SUFFIXES]
    return files or [found[0]]  # which says what can be read


def _near(path: Path) -> str:
    """Return what to do about a missing file: the names in its folder that look like it."""
    try:
        taken = [entry.name for entry in path.parent.iterdir() if _suffix(entry) in SUFFIXES]
    except OSError:
        return f"there is no folder {path.parent}; check the path"
    near = difflib.get_close_matches(
        path.name, sorted(name for name in taken if not name.startswith(".")), n=3, cutoff=0.5
    )
    return f"did you mean {' or '.join(near)}?" if near else "check the path"


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return DataError(f"The data cannot be read: {reason}.", where=str(path)[:500], fix="check the path and its rights")


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """Open a file and unpack it while it is read; what cannot be read or unpacked is a `DataError`.

    Gives its unpacked bytes, and a function that returns how many bytes of the file on the disk have been read so far.
    """
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise DataNotFound("There is no such data file.", where=str(path), fix=_near(path)) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    with file, io.BufferedReader(_Unpacked(file, path), _BUFFER) as stream:
        yield stream, file.tell


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a file.

    Errors are turned into ours here and not around the whole reading, where a full disk of whoever writes the rows
    would be taken for a broken archive.
    """

    def __init__(self, file: io.FileIO, path: Path) -> None:
        self._path = path
        self._bytes: io.BufferedIOBase | io.FileIO = file
        if path.suffix.lower() == ".gz":
            self._bytes = gzip.GzipFile(fileobj=io.BufferedReader(file, _BUFFER))
        elif path.suffix.lower() == ".zst":
            import pyarrow as pa

            self._bytes = pa.CompressedInputStream(file, "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int | None:  # type: ignore[override]  # WriteableBuffer is private
        try:
            return self._bytes.readinto(buffer)
        except (EOFError, OSError, zlib.error) as error:
            if not compressed(self._path):
                raise _unreadable(self._path, error) from error
            what = "The packed file cannot be unpacked: it is cut short or broken."
            raise DataError(what, where=str(self._path), fix="pack or copy it again") from error


def lines(stream: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank, stripped, with its number from 1."""
    numbered = _numbered([stream], path)
    ahead = list(islice(numbered, 2))
    if ahead and _ARRAY_OF_ROWS.match(ahead[0][1]) and (len(ahead) == 1 or not ahead[0][1].endswith(b"]")):
        fix = "rename it to .json, or write one object a line"
        raise DataError("The file is not JSON Lines but one JSON list.", where=f"{path}:{ahead[0][0]}", fix=fix)
    yield from chain(ahead, numbered)


def _numbered(streams: Iterable[BinaryIO], path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    for stream in streams:
        while line := stream.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise _too_long(f"{path}:{number}", "line", f"{LONGEST_LINE >> 20} MB")
            if number == 1:
                line = without_mark(line, path)
            if text := line.strip():
                yield number, text


def without_mark(start: bytes, path: Path) -> bytes:
    """Drop the mark that says UTF-8, and refuse a file whose mark says that it is not."""
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            raise DataError(f"The file is {name}.", where=str(path), fix="save it as UTF-8")
    return start.removeprefix(_UTF8_MARK)


def _too_long(where: str, what: str, limit: str) -> DataError:
    fix = "check that the file is what its name says, and has line ends"
    return DataError(f"A {what} is longer than {limit}.", where=where, fix=fix)


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
    text = JsonText(stream, path, head, LONGEST_LINE)
    for row in text.items() if start == b"[" else _wrapped(text):
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
    except RecursionError:
        return True  # that is for the reader of the row to say
    lists = [value for value in columns.values() if _ARRAY_OF_ROWS.match(bytes(value))]
    return bool(more) or len(lists) != 1 or not _TURNS.isdisjoint(columns)


def _wrapped(text: JsonText) -> Iterator[bytes]:
    """Yield the rows of the one list of objects in an object."""
    lists = 0
    text.take(b"{")
    following = b","
    while following == b",":
        text.value()
        text.take(b":")
        if text.peek() == b"[":
            items = text.items()
            first = next(items, b"")
            of_rows = first.startswith(b"{")
            lists += of_rows
            if lists > 1:
                raise text.broken("it has several lists of objects")
            yield from (item for item in chain([first], items) if of_rows)
        else:
            text.value()
        following = text.take(b",}")
    if not lists:
        raise text.broken("it has no list of objects")


def csv_rows(stream: BinaryIO, path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str] | InvalidRow]]:
    """Yield each row by the header's names, or what is wrong with it, with the number of the line that it starts on."""
    text = _CsvText(stream, path)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        text.size, text.problem = 0, None
        number = text.number + 1
        try:
            # Room for long cells: the limit is the module's, not the reader's, and looked at while a cell is read. It
            # is lifted only for that, and under a lock, so that no other user of `csv` finds it changed.
            with _FIELD_LIMIT:
                before = csv.field_size_limit(LONGEST_CSV_ROW)
                try:
                    cells = next(reader, None)
                finally:
                    csv.field_size_limit(before)
        except csv.Error as error:
            if text.ended:
                fix = "close the quote; a quote within a cell is written twice"
                raise DataError("A quote is never closed.", where=f"{path}:{number}", fix=fix) from error
            cells, text.problem = [], text.problem or "its quotes are not as CSV has them"
        if cells is None:
            return
        if header is None:
            header = _header(cells, text.problem, f"{path}:{number}") if cells or text.problem else None
        elif text.problem:
            yield number, InvalidRow(text.problem)
        elif len(cells) == len(header):
            yield number, dict(zip(header, cells, strict=True))
        elif "".join(cells).strip():
            yield number, InvalidRow(f"it has {len(cells)} cells; the header has {len(header)}")


def _header(names: list[str], problem: str | None, where: str) -> list[str]:
    stripped = [name.strip() for name in names]
    if not problem and "" in stripped:
        problem = f"column {stripped.index('') + 1} of {len(names)} has no name"
    if not problem and len(set(stripped)) < len(names):
        problem = "two columns have the same name"
    if problem:
        fix = "give each column its own name; pandas writes no nameless one with index=False"
        raise DataError(f"The header cannot be used: {problem}.", where=where, fix=fix)
    return names


class _CsvText:
    """The lines of a CSV file, for a reader that asks for as many as its row has.

    - **number**: of the last line given.
    - **size**, **problem**: of the lines given for this row, set back by whoever reads: the characters, what is wrong.
    """

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        # What is no UTF-8 becomes lone surrogates, which UTF-8 has not: the row is refused, and not the file.
        self._text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
        self._path = path
        self.size = 0
        self.number = 0
        self.problem: str | None = None
        self.ended = False

    def __iter__(self) -> _CsvText:
        return self

    def __next__(self) -> str:
        line = self._text.readline(LONGEST_CSV_ROW + 1)
        if not line:
            self.ended = True
            self._text.detach()  # or it would close the stream, which is not its own
            raise StopIteration
        self.size += len(line)
        if self.size > LONGEST_CSV_ROW:
            where = f"{self._path}:{self.number + 1}"
            raise _too_long(where, "row (is a quote not closed?)", f"{LONGEST_CSV_ROW >> 20} million characters")
        self.number += 1
        if self.number == 1:
            without_mark(line[:4].encode("utf-8", "surrogateescape"), self._path)
        if "\0" in line:
            self.problem = "it has a NUL character"
        elif not line.isascii() and _NOT_UTF8.search(line):
            self.problem = "it is not UTF-8"
        return line
