"""A part of a source: read, converted, checked, and written to a spool in one go, with a tally of every row.

Parts are what several processes work on at once, so a part and its tallies are small values that cross a pipe, and
the rows themselves stay in files: the spool has every row that can be trained on, one line of JSON each, and a second
file has the others with their numbers and reasons. In memory there is never more than a few megabytes of rows.
"""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, repeat
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import msgspec
import xxhash

from phift.data import chat, files, formats, ipc, parquet, texts, weights
from phift.data.chat import Conversation, Row
from phift.data.lines import Decoded, Lines
from phift.data.seen import Names, Seen, has
from phift.errors import DataError

BLOCK = 1 << 19
"""Bytes that are read at a time: with more, the rows no longer fit the processor's cache (a third slower at 16 MB than
at 1 MB: 2 cores of an AMD EPYC, 2026-11-22)."""

MOST_REFUSED = 1_000_000
"""Rows in a row that cannot be trained on; no data that is meant has so many, and a small file can hold far more."""

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
    ("near", "<u4"),
    ("tools", "?"),
    ("lacking", "?"),
    ("split", "i1"),
)
"""What is known of every good row without its text, 59 bytes, in the order of the sources.

- **hash**: XXH3 with 128 bits over its line of JSON.
- **key**: equal where the same is said by the same.
- **group**: equal where the group is the same; 0 where rows are not grouped.
- **number**: of the line or row in its source.
- **length**, **characters**: of the line in bytes, of what is said in characters.
- **source**: the index of the source.
- **near**: equal where nearly the same is said: the index in the table of the first row that says it.
- **tools**: whether it has tools.
- **lacking**: whether an answer is what stands for a missing value, such as ``nan``.
- **split**: the index of its split, or that of the rows in none.
"""

ROW = struct.Struct("<16s8sQQII8x??x")
"""A row of `TABLE`; its source, what it is near to and its split are left open."""

_LINE = 16 << 10  # bytes that are read at first to find the end of a line
_FEW = 128  # rows of values that are converted at a time
_TALLY = 8 << 20  # bytes of rows between two tallies
_PLAIN = formats.recognise(["messages"]).used
_encoder = msgspec.json.Encoder()


@dataclass(kw_only=True)
class Tally:
    """What became of the rows read since the last tally.

    - **spool**, **size**: the file of the good rows, and its bytes; there is none without a good row.
    - **rejects**: the file of the refused ones, if they are kept and there are any.
    - **known**: what is known of each good row, a `ROW` each.
    - **unsaid**: system messages without a text, which are left out of their rows.
    - **problems**: the first refused rows, each with its number and the reason.
    - **seen**: what the rows have besides their conversation.
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
    unsaid: int = 0
    refused: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    last: int = 0
    before: int = 0
    position: int = 0

    @property
    def good(self) -> int:
        """How many rows can be trained on."""
        return len(self.known) // ROW.size


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of a file, or rows of this process, and what they look like.

    - **rows**: left out for a file.
    - **start**, **end**: bytes of a JSONL file, or row groups of a parquet file; any other file is one part, with 0.
    - **size**, **columns**: of a parquet or Arrow file, the bytes of it, for the progress, and all columns that it has.
    - **keep**: write refused rows to a file too.
    - **delimiter**, **encoding**: of a file of text, where they are not the usual ones.
    """

    path: str
    kind: str
    rows: Iterable[Row] | None = None
    start: int = 0
    end: int = 0
    size: int = 0
    columns: tuple[str, ...] = ()
    layout: formats.Layout
    group_by: str | None = None
    keep: bool = False
    delimiter: str | None = None
    encoding: str | None = None

    @property
    def is_text(self) -> bool:
        """Whether it is of a file of text."""
        return self.kind not in (*files.BINARY, "rows")

    @cached_property
    def is_plain(self) -> bool:
        """Whether rows have their messages under their own name, and no other column matters."""
        own = self.layout.columns
        return self.group_by is None and all(own.get(name) == name for name in _PLAIN)

    @cached_property
    def used(self) -> frozenset[str]:
        """The columns that become the conversation."""
        return self.layout.used

    def perform(self, folder: Path) -> Iterator[Tally]:
        """Read the part to its end, and yield a tally now and then, the last one at the end.

        Raises `phift.errors.DataError` where the file cannot be read on.
        """
        with closing(Spool(folder)) as spool:
            if self.kind in files.BINARY:
                steps = _read_batches(self, spool)
            elif self.end:
                steps = _read_lines(self, spool)
            else:
                steps = _read_rows(self, spool)
            for _ in steps:
                spool.check(self)
                if spool.tally.size >= _TALLY:
                    yield spool.take()
            yield spool.take()


# ---------------------------------------------------------------- lines of JSON


@dataclass(frozen=True, kw_only=True)
class Deal:
    """The rows of one spool and where each goes, so that several processes can deal at once; the spool is deleted.

    - **lengths**: of each row's line, in bytes; unsigned numbers of 4 bytes.
    - **chosen**: the index in ``files`` for each row, a byte each.
    - **files**: files that are there, and where in each the first of these rows begins.
    """

    spool: str
    lengths: bytes
    chosen: bytes
    files: Mapping[Path, int]

    def perform(self, _: Path) -> Iterator[int]:
        """Write the rows, and yield how many bytes they have."""
        with ExitStack() as stack:
            spool = stack.enter_context(Path(self.spool).open("rb", buffering=BLOCK))
            files = [stack.enter_context(path.open("r+b", buffering=BLOCK)) for path in self.files]
            for file, start in zip(files, self.files.values(), strict=True):
                file.seek(start)
            for length, index in zip(memoryview(self.lengths).cast("I"), self.chosen, strict=True):
                files[index].write(spool.read(length))
        Path(self.spool).unlink()
        yield sum(memoryview(self.lengths).cast("I"))


def _read_lines(part: Part, spool: Spool) -> Iterator[None]:
    """Read the lines that begin between ``start`` and ``end``."""
    path, number = Path(part.path), 0
    with io.BufferedReader(files.open_file(path)) as file:
        position = min(_line_end(file, part.start - 1), part.end) if part.start else 0
        while position < part.end:
            middle = min(position + BLOCK, part.end)
            end = _line_end(file, middle - 1)
            too_long = end - middle > texts.LONGEST_LINE
            file.seek(position)
            block = file.read((middle if too_long else end) - position)
            if not block:
                what = "The file became shorter while it was read."
                raise DataError(what, where=str(path), fix="let nobody write to it meanwhile, and start again")
            if too_long:
                # Only the first part knows its lines' numbers from the start of the file.
                line = number + block.count(b"\n") + 1
                where = f"{path}, near byte {position}" if part.start else f"{path}:{line}"
                raise texts.too_long(where, "line")
            number = _take_lines(part, spool, texts.without_mark(block, path) if position == 0 else block, number)
            position += len(block)
            spool.tally.last, spool.tally.position = number, position - part.start
            yield


def _line_end(file: BinaryIO, position: int) -> int:
    """Return where the line ends that has the byte at ``position``; it is not followed further than one may be long."""
    file.seek(position)
    size, end = _LINE, position
    while end - position <= texts.LONGEST_LINE + 1 and (block := file.read(size)):
        if found := block.find(b"\n") + 1:
            return end + found
        end += len(block)
        size = min(2 * size, BLOCK)
    return end


def _take_lines(part: Part, spool: Spool, block: bytes, before: int) -> int:
    """Take whole lines, all at once if each is plain and good; return the number of the last one."""
    if not block.endswith(b"\n"):
        block += b"\n"
    if part.is_plain and (decoded := spool.lines.decode(block)) and _take_plain(spool, decoded, before + 1):
        return before + len(decoded.rows)
    lines = block.split(b"\n")[:-1]
    _take(part, spool, enumerate(lines, start=before + 1))
    return before + len(lines)


def _take_plain(spool: Spool, decoded: Decoded, numbers: int | Sequence[int]) -> bool:
    """Take rows all at once, if each is good; tell whether all have been taken or none.

    - **numbers**: theirs, or that of the first one where they follow each other.
    """
    rows = decoded.rows
    try:
        checked = [chat.check(row.messages) for row in rows]
    except chat.InvalidRow:
        if not (unsaid := sum(chat.drop_blank_system(row.messages) for row in rows)):
            return False
        if is_taken := _take_plain(spool, decoded, numbers):
            spool.tally.unsaid += unsaid
        return is_taken
    if rows:
        spool.add(rows, checked, range(numbers, numbers + len(rows)) if isinstance(numbers, int) else numbers)
        spool.tally.rows += len(rows)
        spool.tally.seen.columns.update(decoded.columns)
    return bool(rows)


# ---------------------------------------------------------------- parquet and Arrow files


def _read_batches(part: Part, spool: Spool) -> Iterator[None]:
    number = 0
    wanted = {*part.used, *weights.OF_ROWS, *([part.group_by] if part.group_by else [])}
    path, read = Path(part.path), part.columns if part.keep else wanted
    is_parquet = part.kind == "parquet"
    for rows in parquet.batches(path, part.start, part.end, read) if is_parquet else ipc.batches(path, read):
        plain = parquet.conversations(rows) if part.is_plain else None
        if plain is None or not _take_plain(spool, Decoded(plain, Names()), number + 1):
            _take(part, spool, enumerate(parquet.values(rows), start=number + 1))
        number += rows.num_rows
        spool.tally.last = number
        yield
    spool.tally.last, spool.tally.position = number, part.size


# ---------------------------------------------------------------- rows one by one


def _read_rows(part: Part, spool: Spool) -> Iterator[None]:
    """Read the rows of this process, or of a file that is not read from the middle."""
    path = Path(part.path)
    rows: Iterator[tuple[int, Row]] = enumerate(part.rows or (), start=1)
    position: Callable[[], int] = int
    with ExitStack() as stack:
        if part.rows is None:
            stream, position = stack.enter_context(files.opened(path, part.encoding))
            rows = texts.rows_of(stream, path, part.kind, part.delimiter)
        while few := list(islice(rows, _FEW)):
            numbers, each = zip(*few, strict=True)
            decoded = spool.lines.decode(_joined(each)) if part.is_plain else None
            if not (decoded and len(decoded.rows) == len(few) and _take_plain(spool, decoded, numbers)):
                _take(part, spool, few)
            spool.tally.last, spool.tally.position = few[-1][0], position()
            yield


def _joined(rows: Sequence[Row]) -> bytes:
    """Return rows that are lines as one block, if it is no longer than others are; else none of them."""
    lines = [row for row in rows if isinstance(row, bytes)]
    return b"\n".join([*lines, b""]) if sum(map(len, lines)) <= 2 * BLOCK else b""


def _take(part: Part, spool: Spool, rows: Iterable[tuple[int, Row]]) -> None:
    """Take numbered rows one by one; blank lines are skipped."""
    taken: list[tuple[Conversation, tuple[int, bool], int, int]] = []
    for number, row in rows:
        if isinstance(row, bytes) and not row.strip():
            spool.tally.blank += 1
            continue
        spool.tally.rows += 1
        try:
            conversation, checked, group = _checked(part, spool, row)
        except chat.InvalidRow as error:
            spool.refuse(number, str(error), row, keep=part.keep)
        else:
            taken.append((conversation, checked, number, group))
    if taken:
        spool.add(*zip(*taken, strict=True))


def _checked(part: Part, spool: Spool, row: Row) -> tuple[Conversation, tuple[int, bool], int]:
    """Return a row's conversation, what `chat.check` says, and its group, 0 without one; raises `InvalidRow`."""
    if isinstance(row, chat.InvalidRow):
        raise row
    tally, seen = spool.tally, spool.tally.seen
    if isinstance(row, bytes) and part.is_plain and (decoded := spool.lines.decode(row.strip() + b"\n")):
        (plain,) = decoded.rows
        seen.columns.update(decoded.columns)
        unsaid = chat.drop_blank_system(plain.messages)
        checked = chat.check(plain.messages)
        tally.unsaid += unsaid
        return plain, checked, 0
    values = chat.values_of(row) if isinstance(row, bytes) else row
    if isinstance(row, bytes) and part.is_plain:
        spool.lines.learn(values.keys())
    for name, value in values.items() if part.kind not in files.BINARY else ():
        if name not in part.used:
            seen.columns.add(name, has(name, value))
    keys: set[str] = set()
    remarks: set[str] = set()
    try:
        converted = part.layout.convert(values, keys, remarks)
    finally:
        for key in keys:
            seen.keys.add(key, 1)
    unsaid = chat.drop_blank_system(converted["messages"])
    marks = {name: formats.plain(values[name]) for name in weights.OF_ROWS.intersection(values) - part.used}
    remarks |= weights.follow(converted["messages"], marks)
    conversation, checked = chat.from_values(converted)
    tally.unsaid += unsaid
    for remark in remarks:
        seen.remark(remark)
    if (column := part.group_by) is None:
        return conversation, checked, 0
    if formats.missing(values.get(column)):
        raise chat.InvalidRow(f"it has no value in `{column}`, which rows are grouped by")
    group = chat.encoded(values[column], f"`{column}`, which rows are grouped by, holds what")
    return conversation, checked, xxhash.xxh3_64_intdigest(group)


# ---------------------------------------------------------------- the files of a part


class Spool:
    """The files that the rows of a part are written to, and the tally of what has been written.

    Each tally's rows have files of their own. Whoever deals the good ones out deletes theirs then, so that no more than
    the data's own size waits to be written to the disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._refused = 0  # since the last good row
        self.written = 0
        self.lines = Lines()
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
        conversations: Sequence[Conversation],
        checked: Iterable[tuple[int, bool]],
        numbers: Iterable[int],
        groups: Iterable[int] = repeat(0),
    ) -> None:
        """Write rows that can be trained on, one at least."""
        block = _encoder.encode_lines(conversations)
        self._write(self.tally.spool, block)
        self.tally.size += len(block)
        self.written += len(block)
        self._refused = 0
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
        characters, lacking = zip(*checked, strict=True)
        known = map(ROW.pack, hashes, keys, groups, numbers, lengths, characters, tools, lacking)
        self.tally.known += b"".join(known)

    def refuse(self, number: int, reason: str, row: Row, *, keep: bool) -> None:
        """Count a row that cannot be trained on, and write it to the rejects if told to."""
        self.tally.refused += 1
        self._refused += 1
        if len(self.tally.problems) < MOST_PROBLEMS:
            self.tally.problems.append((number, reason))
        if keep:
            reject = {"number": number, "reason": reason, "row": _kept(row)}
            self._write(self.tally.rejects, _encoder.encode(reject) + b"\n")

    def check(self, part: Part) -> None:
        """Refuse a file that would go on for as good as ever."""
        if self._refused > MOST_REFUSED:
            first = "".join(f" The first of its part: {reason}." for _, reason in self.tally.problems[:1])
            what = f"More than {MOST_REFUSED:,} rows in a row cannot be trained on.{first}"
            raise DataError(what, where=part.path, fix="take them out")
        if part.size and self.written > files.most_unpacked(part.size):
            what = f"The {part.kind} file holds more than 1 GB, and more than 200 times its own size."
            raise DataError(what, where=part.path, fix="write its rows as JSONL, if they are meant")

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
