"""Where chat rows come from: files, data sets of the Hugging Face Hub, and Python; opened, and cut into parts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from phift.config.data import AssetSource, FileSource, HuggingFaceSource, RowsSource
from phift.data import chat, files, frames, hub, parquet
from phift.data.formats import Layout, UnknownFormat, recognise
from phift.data.parts import Part, rows_of
from phift.data.workers import Workers
from phift.errors import DataError

Source = Path | FileSource | HuggingFaceSource | AssetSource | RowsSource

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


@dataclass(frozen=True, kw_only=True)
class Opened:
    """One file, or one other source, ready to be read.

    - **place**: the file's path, the data set's id, or what kind of Python value it is.
    - **split**: what its rows are for.
    - **stratum**: the number of the source it belongs to; the files of a folder are one source.
    - **bytes**: the file's size; None where there is no file.
    - **notes**: what the user should know of the reading; more can come while it is read.
    """

    place: str
    split: str
    stratum: int
    layout: Layout
    parts: Sequence[Part]
    bytes: int | None = None
    notes: Sequence[str] = ()

    @property
    def label(self) -> str:
        """The file's name, the data set's id, or what kind of Python value it is."""
        return self.place if self.bytes is None else Path(self.place).name


def files_of(source: Source) -> list[Path]:
    """Return the files of a source; none for one that is no file.

    Raises `phift.errors.DataNotFound` and `phift.errors.DataError` where a file cannot be read at all.
    """
    if not isinstance(source, Path | FileSource):
        return []
    paths = files.expand(source.files if isinstance(source, FileSource) else source)
    for path in paths:
        files.kind(path)
    return paths


def stamps(paths: Iterable[Path]) -> tuple[tuple[object, ...], ...]:
    """Return what tells that files have changed: size, times and inode of each; a missing one has none.

    The time of the last change is among them, since a program may set that of the last writing.
    """
    found: list[tuple[object, ...]] = []
    for path in paths:
        try:
            seen = path.stat()
        except OSError:
            found.append((path,))
        else:
            found.append((path, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_dev, seen.st_ino))
    return tuple(found)


def open_source(
    source: Source, split: str, stratum: int, workers: Workers, *, group_by: str | None, keep: bool
) -> Iterator[Opened]:
    """Yield a source's files, or the source itself, each looked at as far as its columns.

    - **split**, **stratum**: what its rows are for, and the source's number.
    - **group_by**: the column that the split keeps together.
    - **keep**: whether refused rows are kept.

    Raises `phift.errors.DataError` where it cannot be read, or its columns are none that are known.
    """
    if isinstance(source, AssetSource):
        raise DataError("Data in Azure is not read here.", where=source.asset, fix="give files to be prepared here")
    if isinstance(source, HuggingFaceSource | RowsSource):
        rows: Iterator[chat.Row]
        notes: Sequence[str] = ()
        if isinstance(source, HuggingFaceSource):
            place, data_set = source.huggingface, hub.HubRows(source)
            rows, notes = iter(data_set), data_set.notes
        else:
            place, rows = frames.label(source), frames.rows(source)
        first = list(islice(rows, _LOOKED_AT))
        layout = _layout(place, _columns(first), source)
        part = Part(path=place, kind="rows", rows=chain(first, rows), layout=layout, group_by=group_by, keep=keep)
        yield Opened(place=place, split=split, stratum=stratum, layout=layout, parts=[part], notes=notes)
        return
    for path in files_of(source):
        kind = files.kind(path)
        columns: list[str] = []
        groups: list[int] = []
        if kind == "parquet":
            columns, groups = workers.ask(parquet.Footer(path))
            layout = _layout(str(path), [columns], source)
        else:
            with files.opened(path) as file:
                few = islice(rows_of(file.stream, path, kind), _LOOKED_AT)
                layout = _layout(str(path), _columns(row for _, row in few), source)
        part = Part(path=str(path), kind=kind, layout=layout, columns=tuple(columns), group_by=group_by, keep=keep)
        parts, size = list(_cut(path, part, groups)), path.stat().st_size
        yield Opened(place=str(path), split=split, stratum=stratum, layout=layout, parts=parts, bytes=size)


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


def _columns(rows: Iterable[chat.Row]) -> Iterator[Collection[str]]:
    """Yield the columns of the rows that are rows at all; another is refused, with its number, when it is read."""
    for row in rows:
        with suppress(chat.InvalidRow):
            if isinstance(row, bytes):
                yield chat.columns(row)
            elif isinstance(row, Mapping):
                yield dict.fromkeys(row)


def _layout(
    place: str, rows: Iterable[Collection[str]], source: Path | FileSource | HuggingFaceSource | RowsSource
) -> Layout:
    """Return the layout by the columns of the first row that has those of a format."""
    format_, own = (None, {}) if isinstance(source, Path) else (source.format, source.columns)
    unknown: UnknownFormat | None = None
    for columns in rows:
        try:
            return recognise(columns, format_, own)
        except UnknownFormat as error:
            unknown = unknown or error
    if unknown is None:  # no row could be converted, so any layout will do to say so row by row
        return recognise(["messages"])
    fix = "rename them, or say what they are with `format` and `columns`"
    raise DataError(f"The rows are of no known format: {unknown}.", where=place, fix=fix)
