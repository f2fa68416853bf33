"""Where chat rows come from: JSONL and Parquet files, and data sets of the Hugging Face Hub, one row at a time."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from phift import chat
from phift.config import HuggingFaceSource
from phift.errors import DataError, DataNotFound, ServiceUnreachable, redact

Source = Path | HuggingFaceSource

SUFFIXES = (".jsonl", ".parquet")
_LONGEST_LINE = 64 << 20  # bytes; a file without line ends must not fill the memory
_BATCH = 128  # rows of a Parquet file that become Python values at a time
_EVERY = 1000  # rows between two progress reports


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the reading of one source has come.

    - **source**: the file's name or the data set's id.
    - **rows**: rows read, refused ones included.
    - **bytes**, **total_bytes**: of the file; None for data sets of the Hub.
    """

    source: str
    rows: int
    bytes: int | None = None
    total_bytes: int | None = None


@dataclass
class Reading:
    """What has been read of one source so far, and what of it was not usable.

    - **problems**: the first `MOST_PROBLEMS` refused rows, each with its place and a reason.
    - **refused**: how many rows were refused in all.
    - **notes**: what the user should know about the reading.
    """

    MOST_PROBLEMS = 20

    source: Source
    on_progress: Callable[[Progress], None] | None = None
    rows: int = 0
    refused: int = 0
    blank: int = 0
    bytes: int | None = None
    total_bytes: int | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The file's name, or the data set's id."""
        return self.source.name if isinstance(self.source, Path) else self.source.huggingface

    @property
    def place(self) -> str:
        """The file's path, or the data set's id."""
        return str(self.source) if isinstance(self.source, Path) else self.source.huggingface

    def refuse(self, place: str, reason: str) -> None:
        """Count a row that is not usable."""
        self.refused += 1
        if len(self.problems) < self.MOST_PROBLEMS:
            self.problems.append((place, reason))

    def report(self) -> None:
        """Tell whoever listens how far the reading has come."""
        if self.on_progress:
            state = Progress(source=self.label, rows=self.rows, bytes=self.bytes, total_bytes=self.total_bytes)
            self.on_progress(state)


def check_source(source: Source) -> None:
    """Raise if a source cannot be read at all; a data set of the Hub is not looked up yet."""
    if isinstance(source, HuggingFaceSource):
        return
    check_path(source)
    if source.suffix.lower() not in SUFFIXES:
        what = f"A data file with the suffix {source.suffix or '(none)'} cannot be read."
        fix = f"give a {' or '.join(SUFFIXES)} file, or the id of a Hugging Face data set"
        raise DataError(what, where=str(source), fix=fix)
    if not source.is_file():
        raise DataNotFound("There is no such data file.", where=str(source), fix=_near(source))
    if source.stat().st_size == 0:
        raise DataError("The data file is empty.", where=str(source), fix="give a file with rows")


def check_path(path: Path) -> None:
    """Refuse a path that the component's single-quoted command lines cannot carry."""
    bad = sorted({character for character in path.as_posix() if character in "'\"\\"})
    if bad:
        what = f"The path has {' and '.join(bad)} in it; the component breaks on quotes and backslashes."
        raise DataError(what, where=str(path), fix="rename the file or its folder")


def _near(path: Path) -> str:
    """Return what to do about a missing file: the names in its folder that look like it."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix.lower() in SUFFIXES)
    except OSError:
        return f"there is no folder {path.parent}; check the path"
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "check the path"


def rows(reading: Reading) -> Iterator[chat.Row]:
    """Yield the usable rows of a source; ``reading`` counts the others."""
    source = reading.source
    if isinstance(source, HuggingFaceSource):
        checked = _checked(_huggingface(source, reading), reading)
    elif source.suffix.lower() == ".jsonl":
        checked = _jsonl(source, reading)
    else:
        checked = _checked(_parquet(source, reading), reading)
    for row in checked:
        if row.ignored:
            reading.ignored.update(row.ignored)
        yield row
    reading.report()


def _jsonl(path: Path, reading: Reading) -> Iterator[chat.Row]:
    reading.bytes, reading.total_bytes = 0, path.stat().st_size
    with path.open("rb", buffering=1 << 20) as file:
        for number, line in enumerate(iter(partial(file.readline, _LONGEST_LINE), b""), start=1):
            if number == 1:
                line = _without_mark(line, path)
            if len(line) == _LONGEST_LINE:
                what = f"A line is longer than {_LONGEST_LINE >> 20} MB."
                raise DataError(what, where=f"{path}:{number}", fix="write one conversation a line")
            reading.bytes += len(line)
            line = line.strip()
            if not line:
                reading.blank += 1
                continue
            reading.rows += 1
            try:
                yield chat.from_json(line)
            except chat.InvalidRow as error:
                _refuse(reading, f"{path}:{number}", error)
            if reading.rows % _EVERY == 0:
                reading.report()


def _without_mark(line: bytes, path: Path) -> bytes:
    """Drop a UTF-8 byte order mark; a UTF-16 one says that no line of the file will be readable."""
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        fix = "save it as UTF-8"
        raise DataError("The data file is not UTF-8 but UTF-16.", where=str(path), fix=fix)
    return line.removeprefix(b"\xef\xbb\xbf")


def _checked(values: Iterable[Mapping[str, Any]], reading: Reading) -> Iterator[chat.Row]:
    for number, row in enumerate(values, start=1):
        reading.rows = number
        try:
            yield chat.from_values(row)
        except chat.InvalidRow as error:
            _refuse(reading, f"{reading.place}:{number}", error)
        if number % _EVERY == 0:
            reading.report()


def _refuse(reading: Reading, place: str, error: chat.InvalidRow) -> None:
    """Count a refused row; when the first one has no messages, none has, and the columns are what helps."""
    if isinstance(error, chat.MissingMessages) and reading.rows == 1:
        raise _no_messages(reading.place, error.columns)
    reading.refuse(place, str(error))


def _no_messages(where: str, columns: Iterable[str]) -> DataError:
    names = ", ".join(columns) or "none"
    fix = f"its columns are: {names}; rename or build one with a list of {{role, content}}"
    return DataError("The data has no `messages` column.", where=where, fix=fix)


def _parquet(path: Path, reading: Reading) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = reading.total_bytes = path.stat().st_size
    reading.bytes = 0
    try:
        # Without these two the reader holds every row group it has seen: 271 MB against 109 MB for a file of 171 MB.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            names = file.schema_arrow.names
            if "messages" not in names:
                raise _no_messages(str(path), names)
            reading.ignored.update(name for name in names if name not in chat.KEPT)
            columns = [name for name in chat.KEPT if name in names]
            total = max(1, file.metadata.num_rows)
            for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
                yield from batch.to_pylist()
                reading.bytes = size * reading.rows // total
    except (pa.ArrowException, OSError) as error:
        what = f"The Parquet file cannot be read ({type(error).__name__})."
        raise DataError(what, where=str(path), fix="write the file again; it may be cut short") from error


def _huggingface(source: HuggingFaceSource, reading: Reading) -> Iterator[Mapping[str, Any]]:
    """Stream a split, or the first rows of it.

    How many rows are the first ``percent`` is known where the data set says how long the split is. Where it does
    not, the whole split is downloaded and counted, as ``split[:p%]`` of the ``datasets`` library would do.
    """
    with _hub_errors(source.huggingface):
        dataset: Any = _load(source, streaming=True)
        if source.percent < 100:
            sizes = dataset.info.splits or {}
            total = sizes[source.split].num_examples if source.split in sizes else None
            if not total:
                dataset = _load(source, streaming=False)
                total = len(dataset)
                reading.notes.append(
                    f"{source.huggingface} does not say how long {source.split} is, so all of it was downloaded"
                )
            dataset = dataset.take(max(1, round(total * source.percent / 100)))
    with _hub_errors(source.huggingface, quote=False):
        yield from dataset


def _load(source: HuggingFaceSource, *, streaming: bool) -> Any:
    import datasets

    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # whoever calls shows the progress
    try:
        return datasets.load_dataset(
            source.huggingface, source.name, split=source.split, revision=source.revision, streaming=streaming
        )
    finally:
        if not shown:
            datasets.enable_progress_bars()


@contextmanager
def _hub_errors(dataset: str, *, quote: bool = True) -> Iterator[None]:
    """Turn what ``datasets`` raises into our errors; without ``quote``, their text may hold the user's data."""
    from datasets.exceptions import DatasetsError

    where = f"Hugging Face data set {dataset}"
    try:
        yield
    except FileNotFoundError as error:
        fix = "check the id and the revision; for a private or gated data set log in with `hf auth login`"
        raise DataNotFound("There is no such data set, or it is private.", where=where, fix=fix) from error
    except OSError as error:
        what = f"The Hugging Face Hub did not answer ({type(error).__name__})."
        raise ServiceUnreachable(what, where=where, fix="check the network and the proxy; then run again") from error
    except (ValueError, DatasetsError) as error:
        reason = redact(str(error).partition("\n")[0])[:300] if quote else type(error).__name__
        what = f"The data set cannot be read: {reason}"
        raise DataError(what, where=where, fix="check `name` and `split`") from error
