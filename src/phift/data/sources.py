"""Where chat rows come from: files, the Hugging Face Hub, and Python; opened, cut into parts, and read to their end."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakSet

from phift.config.data import AssetSource, DataConfig, FileSource, HuggingFaceSource, OneSource, RowsSource
from phift.data import arrow, chat, files, formats, hub, ipc, parquet, sniff, texts
from phift.data.formats import Layout, UnknownFormat, recognise
from phift.data.parts import TABLE, Part, Tally
from phift.data.seen import Names, Seen
from phift.data.workers import Workers
from phift.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

Table: TypeAlias = "npt.NDArray[np.void]"

PART = 16 << 20
"""Bytes of a file, about, that one process reads before it takes the next part."""

_MOST_PARTS = 1 << 16  # of a file; one of more than a terabyte has larger ones, since a list holds them

_LOOKED_AT = 100  # rows among which the first usable one tells the columns
_BATCH = 128  # rows that become Python values at a time

_TABLES = {
    "pandas": ("DataFrame",),
    "datasets": ("Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict"),
    "pyarrow": ("Table", "RecordBatch", "RecordBatchReader"),
    "polars": ("DataFrame",),
}

_begun: WeakSet[RowsSource] = WeakSet()  # sources whose rows come once and have been asked for


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the work has come.

    - **stage**: ``read``, ``compare`` or ``write``; ``known`` where nothing is read, since it was prepared before.
    - **source**: the file's name, the data set's id, or the split that is written; or that rows are compared.
    - **rows**: rows so far, refused ones included.
    - **bytes**, **total_bytes**: of the files; None where there is no file.
    - **time**: when that was, in UTC.
    """

    stage: str = "read"
    source: str
    rows: int
    bytes: int | None = None
    total_bytes: int | None = None
    time: datetime = field(default_factory=partial(datetime.now, UTC), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return {"event": "progress", **asdict(self), "time": self.time.isoformat()}


@dataclass(kw_only=True)
class Reading:
    """One file, or one other source, and what became of its rows, in their order.

    - **place**: the file's path, the data set's id, or what kind of Python value it is.
    - **split**: what its rows are for.
    - **stratum**: the number of the source it belongs to; the files of a folder are one source.
    - **bytes**: the file's size; None where there is no file.
    - **columns**: where a file says it without being read, its columns and how many rows have each.
    - **notes**: what the user should know of the reading; more can come while it is read.
    - **tallies**: none before it is read.
    """

    place: str
    split: str
    stratum: int
    layout: Layout
    parts: Sequence[Part]
    bytes: int | None = None
    columns: Mapping[str, int] = field(default_factory=dict)
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

    @property
    def seen(self) -> Seen:
        """What its rows have besides their conversation."""
        unread = Names({column: rows for column, rows in self.columns.items() if column not in self.layout.used})
        return Seen.of([Seen(columns=unread), *(tally.seen for tally in self.tallies)])

    @property
    def fails_alike(self) -> bool:
        """Whether all or nearly all rows are refused, for one reason as far as they are listed."""
        reasons = Counter(re.sub(r"\d+", "", reason) for _, reason in self.problems)
        refused = self.sum("refused")
        return refused > 0.9 * self.sum("rows") and max(reasons.values()) > 0.9 * reasons.total()

    def sum(self, count: str) -> int:
        """Return the sum of one of the tallies' counts."""
        return sum(getattr(tally, count) for tally in self.tallies)


def files_of(data: DataConfig) -> list[Path]:
    """Return the files of all sources.

    Raises `phift.errors.DataNotFound` and `phift.errors.DataError` where a file cannot be read at all.
    """
    sources = [source for some in data.sources.values() for source in some if isinstance(source, FileSource)]
    return [path for source in sources for path in files.expand(source.files)]


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
    notes: list[str] = []
    match source:
        case FileSource():
            for path in files.expand(source.files):
                kind, place = files.kind(path), str(path)
                sniff.check(path)
                columns: dict[str, int] = {}
                groups: list[int] = []
                told: list[str] = []
                delimiter = encoding = None
                if kind in files.BINARY:
                    head = parquet.Footer(path) if kind == "parquet" else ipc.Head(path)
                    ((_, (columns, groups)),) = workers.run([head], side_by_side=True)
                    layout = _layout(place, [columns], source)
                else:
                    layout, delimiter, encoding = _open_text(path, kind, source, told)
                layout = layout or recognise(["messages"])  # any will do to say row by row what is wrong
                whole = part(path=place, kind=kind, layout=layout, columns=tuple(columns))
                whole = replace(whole, delimiter=delimiter, encoding=encoding)
                parts, size = list(_cut(path, whole, groups)), path.stat().st_size
                yield reading(place=place, layout=layout, parts=parts, bytes=size, columns=columns, notes=told)
            return
        case HuggingFaceSource():
            place = source.huggingface
            rows = hub.read_rows(source, notes)
        case RowsSource():
            place, rows = kind_of(source.rows)[1], rows_from_python(source)
        case AssetSource():
            raise DataError("Data in Azure is not read here.", where=source.asset, fix="give files to be prepared here")
    first = list(islice(rows, _LOOKED_AT))
    layout = _layout(place, first, source) or recognise(["messages"])
    parts = [part(path=place, kind="rows", rows=chain(first, rows), layout=layout)]
    yield reading(place=place, layout=layout, parts=parts, notes=notes)


def _open_text(
    path: Path, kind: str, source: FileSource, notes: list[str]
) -> tuple[Layout | None, str | None, str | None]:
    """Return what the rows of a file of text are, if one tells it, its delimiter, and its encoding if not UTF-8."""
    encoding = source.encoding if source.encoding and codecs.lookup(source.encoding).name != "utf-8" else None
    delimiter = source.delimiter
    if kind in texts.DELIMITERS and not delimiter:
        delimiter = sniff.delimiter(path, kind, encoding, source.format, source.columns)
        if delimiter != texts.DELIMITERS[kind]:
            notes.append(f"its cells are separated by {delimiter!r}, as its header shows")
    try:
        with files.opened(path, encoding) as (stream, _):
            few = islice(texts.rows_of(stream, path, kind, delimiter), _LOOKED_AT)
            layout = _layout(str(path), (row for _, row in few), source)
    except DataError as error:
        raise sniff.explain(path, kind, encoding, delimiter) or error from None
    if layout is None and (told := sniff.explain(path, kind, encoding, delimiter)):
        raise told
    return layout, delimiter, encoding


def _cut(path: Path, part: Part, groups: Sequence[int]) -> Iterator[Part]:
    """Cut a file into parts, if it can be read from somewhere in the middle.

    - **groups**: the bytes of a parquet file's row groups, or of all of an Arrow file.
    """
    if part.kind == "jsonl" and not files.compressed(path) and not part.encoding:
        size = path.stat().st_size
        step = max(PART, -(-size // _MOST_PARTS))
        for start in range(0, size, step):
            yield replace(part, start=start, end=min(start + step, size))
    elif part.kind == "arrow":
        yield replace(part, size=groups[0])
    elif part.kind == "parquet":
        first, size = 0, 0
        for group, taken in enumerate(groups, start=1):
            size += taken
            if size >= PART or group == len(groups):
                yield replace(part, start=first, end=group, size=size)
                first, size = group, 0
    else:
        yield part


def _layout(place: str, rows: Iterable[chat.Row], source: OneSource) -> Layout | None:
    """Recognise the first row that is one at all, if there is any.

    Another one is refused, with its number, when it is read.
    """
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
    if unknown is None:
        return None
    raise DataError(f"The rows are of no known format: {unknown}.", where=place, fix=unknown.fix)


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
        rows, read, total = 0, 0, sum(reading.bytes or 0 for reading in some)
        label = some[0].label if len(some) == 1 else f"{len(some)} sources"
        # What comes from a network or from Python cannot leave this process.
        for index, tally in workers.run(parts, side_by_side=side_by_side and is_file):
            found[index].append(tally)
            rows += tally.rows
            further = max(0, tally.position - positions[index])
            positions[index] += further
            read += further
            on_progress(Progress(source=label, rows=rows, bytes=read if total else None, total_bytes=total or None))
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
    """Return the `TABLE` of the good rows of all sources; each row is near to none but itself so far."""
    import numpy as np

    tallies = [(source, tally) for source, reading in enumerate(readings) for tally in reading.tallies]
    table = np.frombuffer(bytearray().join(tally.known for _, tally in tallies), list(TABLE))
    start = 0
    for source, tally in tallies:
        rows = table[start : start + tally.good]
        rows["source"] = source
        rows["number"] += tally.before
        start += tally.good
    table["near"] = np.arange(len(table))
    return table


# ---------------------------------------------------------------- rows that are in Python already


def rows_from_python(source: RowsSource) -> Iterator[chat.Row]:
    """Yield the rows of a data frame, a data set, an Arrow table, an iterable of mappings, or a function.

    A few are made at a time. What the user's own iterable or function raises goes through as it is.
    """
    value = source.rows
    where = kind_of(value)[1]
    if isinstance(value, Iterator):
        if source in _begun:
            fix = "give a list, or a function that returns the rows anew"
            raise DataError("The rows come from an iterator that has been read already.", where=where, fix=fix)
        _begun.add(source)
    if callable(value) and not isinstance(value, Iterable):
        value = value()
    match kind_of(value):
        case ("pandas", _):
            yield from _pandas(value, where)
        case ("datasets", "DatasetDict" | "IterableDatasetDict"):
            fix = f"give one of them, such as data[{next(iter(value), 'train')!r}]"
            raise DataError("These are several splits, not one.", where=where, fix=fix)
        # Pictures and sounds are not opened: nobody looks at them, and their files may be gone.
        case ("datasets", "Dataset"):
            for table in value.with_format("arrow").iter(_BATCH):
                for batch in table.to_batches():
                    yield from arrow.rows_of(batch)
        case ("datasets", _) if value.features is None:
            yield from value.with_format(None)
        case ("datasets", _):
            kinds = arrow.types_of(value.features.arrow_schema)
            yield from map(arrow.row_reader(kinds), value.with_format(None).decode(False))
        case _ if hasattr(value, "__arrow_c_stream__"):
            import pyarrow as pa

            reader = value if isinstance(value, pa.RecordBatchReader) else pa.RecordBatchReader.from_stream(value)
            _check_names(reader.schema.names, where)
            for batch in reader:
                for start in range(0, batch.num_rows, _BATCH):
                    yield from arrow.rows_of(batch.slice(start, _BATCH))
        case _ if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            what = f"These are no rows but {type(value).__name__}."
            raise DataError(what, where=where, fix="give a data frame, or an iterable of mappings")
        case _:
            for item in value:
                told = f"it is not a mapping but {type(item).__name__}"
                yield item if isinstance(item, Mapping) else chat.InvalidRow(told)


def kind_of(value: Any) -> tuple[str, str]:
    """Return the library and the name of the table that a value is, or what to call it if it is none.

    The names of its types tell it, so that none of these libraries is imported for a value of another.
    """
    for kind in type(value).__mro__:
        library = kind.__module__.partition(".")[0]
        if kind.__name__ in _TABLES.get(library, ()):
            return library, kind.__name__
    return "", "rows from Python"


def _check_names(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        what = f"The column {twice[0]} is there more than once."
        raise DataError(what, where=where, fix="give each column a name of its own")


def _pandas(frame: pd.DataFrame, where: str) -> Iterator[chat.Row]:
    import pandas as pd

    if isinstance(frame.columns, pd.MultiIndex):
        fix = "give its columns plain names, with frame.columns = […]"
        raise DataError("The data frame has columns of several levels.", where=where, fix=fix)
    names = [str(name) for name in frame.columns]
    if not names:
        raise DataError("The data frame has no columns.", where=where, fix="give it a column `messages`")
    _check_names(names, where)
    kinds = {name: getattr(kind, "pyarrow_dtype", None) for name, kind in zip(names, frame.dtypes, strict=True)}
    read = arrow.row_reader({name: kind for name, kind in kinds.items() if kind is not None})
    for start in range(0, len(frame), _BATCH):
        some = frame.iloc[start : start + _BATCH]
        columns = [map(_cell, some.iloc[:, index].tolist()) for index in range(len(names))]
        for values in zip(*columns, strict=True):
            row = zip(names, values, strict=True)
            yield read({name: None if formats.missing(value) else value for name, value in row})


def _cell(value: Any) -> Any:
    """Return a cell as Python's own; a list that is numpy's was Arrow's, and so are the null keys in it."""
    cell = formats.plain(value)
    return arrow.without_nulls(cell) if isinstance(cell, list) and not isinstance(value, list) else cell
