"""Where chat rows come from: files, the Hugging Face Hub, and Python; opened, cut into parts, and read to their end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from phift.config.data import AssetSource, FileSource, HuggingFaceSource, OneSource, RowsSource
from phift.data import chat, files, frames, hub, parquet, texts
from phift.data.formats import Layout, UnknownFormat, recognise
from phift.data.parts import TABLE, Part, Tally
from phift.data.workers import Workers
from phift.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Table: TypeAlias = "npt.NDArray[np.void]"

PART = 16 << 20
"""Bytes of a file, about, that one process reads before it takes the next part."""

_LOOKED_AT = 100  # rows among which the first usable one tells the columns


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the work has come.

    - **stage**: ``read`` or ``write``.
    - **source**: the file's name, the data set's id, or the split that is written.
    - **rows**: rows so far, refused ones included.
    - **bytes**, **total_bytes**: of the files; None where there is no file.
    """

    stage: str = "read"
    source: str
    rows: int
    bytes: int | None = None
    total_bytes: int | None = None


@dataclass(kw_only=True)
class Reading:
    """One file, or one other source, and what became of its rows, in their order.

    - **place**: the file's path, the data set's id, or what kind of Python value it is.
    - **split**: what its rows are for.
    - **stratum**: the number of the source it belongs to; the files of a folder are one source.
    - **bytes**: the file's size; None where there is no file.
    - **notes**: what the user should know of the reading; more can come while it is read.
    - **tallies**: none before it is read.
    """

    place: str
    split: str
    stratum: int
    layout: Layout
    parts: Sequence[Part]
    bytes: int | None = None
    notes: Sequence[str] = ()
    tallies: list[Tally] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The file's name, the data set's id, or what kind of Python value it is."""
        return self.place if self.bytes is None else Path(self.place).name

    @property
    def problems(self) -> list[tuple[str, str]]:
        """The place and the reason of the first refused rows."""
        problems = ((tally.before + row, reason) for tally in self.tallies for row, reason in tally.problems)
        return [(f"{self.place}:{row}", reason) for row, reason in problems]

    def sum(self, count: str) -> int:
        """Return the sum of one of the tallies' counts."""
        return sum(getattr(tally, count) for tally in self.tallies)


def files_of(source: OneSource) -> list[Path]:
    """Return the files of a source; none for one that is no file.

    Raises `phift.errors.DataNotFound` and `phift.errors.DataError` where a file cannot be read at all.
    """
    return files.expand(source.files) if isinstance(source, FileSource) else []


def stamps(paths: Iterable[Path]) -> tuple[tuple[object, ...], ...]:
    """Return what tells that files have changed: size, times and inode of each; a missing one has none.

    The time of the last change is among them, since a program may set that of the last writing.
    """
    found: list[tuple[object, ...]] = []
    for path in paths:
        try:
            seen = path.stat()
            found.append((path, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_dev, seen.st_ino))
        except OSError:
            found.append((path,))
    return tuple(found)


def open_source(
    source: OneSource, split: str, stratum: int, workers: Workers, *, group_by: str | None, keep: bool
) -> Iterator[Reading]:
    """Yield a source's files, or the source itself, each looked at as far as its columns and not yet read.

    - **split**, **stratum**: what its rows are for, and the source's number.
    - **group_by**: the column that the split keeps together.
    - **keep**: whether refused rows are kept.

    Raises `phift.errors.DataError` where it cannot be read, or its columns are none that are known.
    """
    part, reading = partial(Part, group_by=group_by, keep=keep), partial(Reading, split=split, stratum=stratum)
    rows: Iterator[chat.Row]
    match source:
        case FileSource():
            for path in files_of(source):
                kind, place = files.kind(path), str(path)
                columns: list[str] = []
                groups: list[int] = []
                if kind == "parquet":
                    ((_, (columns, groups)),) = workers.run([parquet.Footer(path)], side_by_side=True)
                    layout = _layout(place, [dict.fromkeys(columns)], source)
                else:
                    with files.opened(path) as (stream, _):
                        few = islice(texts.rows_of(stream, path, kind), _LOOKED_AT)
                        layout = _layout(place, (row for _, row in few), source)
                whole = part(path=place, kind=kind, layout=layout, columns=tuple(columns))
                parts, size = list(_cut(path, whole, groups)), path.stat().st_size
                yield reading(place=place, layout=layout, parts=parts, bytes=size)
            return
        case HuggingFaceSource():
            data_set = hub.HubRows(source)
            place, rows, notes = source.huggingface, iter(data_set), data_set.notes
        case RowsSource():
            place, rows, notes = frames.label(source), frames.rows(source), []
        case AssetSource():
            raise DataError("Data in Azure is not read here.", where=source.asset, fix="give files to be prepared here")
    first = list(islice(rows, _LOOKED_AT))
    layout = _layout(place, first, source)
    parts = [part(path=place, kind="rows", rows=chain(first, rows), layout=layout)]
    yield reading(place=place, layout=layout, parts=parts, notes=notes)


def _cut(path: Path, part: Part, groups: Sequence[int]) -> Iterator[Part]:
    """Cut a file into parts, if it can be read from somewhere in the middle.

    - **groups**: the bytes of a parquet file's row groups.
    """
    if part.kind == "jsonl" and not files.compressed(path):
        size = path.stat().st_size
        for start in range(0, size, PART):
            yield replace(part, start=start, end=min(start + PART, size))
    elif part.kind == "parquet":
        first, size = 0, 0
        for group, taken in enumerate(groups, start=1):
            size += taken
            if size >= PART or group == len(groups):
                yield replace(part, start=first, end=group, size=size)
                first, size = group, 0
    else:
        yield part


def _layout(place: str, rows: Iterable[chat.Row], source: OneSource) -> Layout:
    """Recognise the first row that is one at all; another is refused, with its number, when it is read."""
    unknown: UnknownFormat | None = None
    for row in rows:
        try:
            columns = chat.columns(row) if isinstance(row, bytes) else row
            if isinstance(columns, Mapping):
                return recognise(columns, source.format, source.columns)
        except UnknownFormat as error:
            unknown = unknown or error
        except chat.InvalidRow:
            continue
    if unknown is None:  # no row could be converted, so any layout will do to say so row by row
        return recognise(["messages"])
    fix = "rename them, or say what they are with `format` and `columns`"
    raise DataError(f"The rows are of no known format: {unknown}.", where=place, fix=fix)


def read_sources(
    readings: Sequence[Reading], workers: Workers, on_progress: Callable[[Progress], None], *, side_by_side: bool
) -> None:
    """Read every source to its end.

    - **side_by_side**: read files in other processes.

    Raises `phift.errors.DataError` where one cannot be read on; a row that cannot be trained on is counted.
    """
    for is_file in (False, True):
        some = [reading for reading in readings if (reading.bytes is not None) == is_file]
        parts = [part for reading in some for part in reading.parts]
        found: list[list[Tally]] = [[] for _ in parts]
        positions = [0] * len(parts)
        rows, total = 0, sum(reading.bytes or 0 for reading in some)
        label = some[0].label if len(some) == 1 else f"{len(some)} sources"
        # What comes from a network or from Python cannot leave this process.
        for index, tally in workers.run(parts, side_by_side=side_by_side and is_file):
            found[index].append(tally)
            rows += tally.rows
            positions[index] = max(positions[index], tally.position)
            read = sum(positions) if total else None
            on_progress(Progress(source=label, rows=rows, bytes=read, total_bytes=total or None))
        of_parts = iter(found)
        for reading in some:
            before = 0  # each part counts its lines or rows from its own beginning
            for part in islice(of_parts, len(reading.parts)):
                for tally in part:
                    tally.before = before
                reading.tallies += part
                before += max(tally.last for tally in part)


def place_of(readings: Sequence[Reading], row: np.void) -> str:
    """Return the place of a row of the table."""
    return f"{readings[row['source']].place}:{row['number']}"


def tabulate(readings: Sequence[Reading]) -> Table:
    """Return the `TABLE` of the good rows of all sources."""
    import numpy as np

    tallies = [(source, tally) for source, reading in enumerate(readings) for tally in reading.tallies]
    table = np.frombuffer(bytearray().join(tally.known for _, tally in tallies), list(TABLE))
    start = 0
    for source, tally in tallies:
        rows = table[start : start + tally.good]
        rows["source"] = source
        rows["number"] += tally.before
        start += tally.good
    return table
