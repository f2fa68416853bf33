"""Data sets of the Hugging Face Hub: the rows that were asked for, without downloading all the others.

The commit is looked up first and everything is read at it. Nothing of the data set is ever executed, and no other files
are opened than its own: its card can name archives of this machine and addresses anywhere (``zip://x::file:///…``).

It is read in a process with a limit of time and memory (`read_rows`), since what answers may answer for ever.

How a part of a split (``percent``) is found depends on how its files are kept:

- **Parquet**, which most are: the footers say how long the split is and where its row groups lie, so no more than the
  row groups that are needed is fetched. ``first`` takes them in order. ``random`` draws row groups that hold
  `SPREAD` times the rows wanted, or all there are, then the rows out of these; so rows that lie together
  in a file stay together more often than chance would have it, and that is what half of the download buys.
- **Anything else** is streamed from its beginning. How long the split is stands in the data set's card, or else the
  split is streamed once to be counted. ``random`` puts the files in random order and draws out of the first rows,
  `SPREAD` times as many as are wanted; so of a split in one file only the beginning is drawn from.

The same seed and commit give the same rows on every machine. A request that fails is sent again by the Hub's client,
five times within 23 seconds (``huggingface_hub`` 2.4); of a file that is streamed, all that `TRIES` times.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate, chain, compress, groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from phift.azure.threads import SideBySide
from phift.config.data import HuggingFaceSource
from phift.data import arrow
from phift.data.parquet import compressed_sizes
from phift.data.workers import Limits, Workers
from phift.errors import (
    AccessDenied,
    AuthenticationError,
    DataError,
    DataNotFound,
    MissingDependency,
    PhiftError,
    ServiceError,
    ServiceUnreachable,
    Throttled,
)
from phift.errors.reasons import text_of

if TYPE_CHECKING:
    from datasets import DatasetBuilder
    from pyarrow.parquet import ParquetFile

Row = dict[str, Any]

SPREAD = 2
"""How many times the rows wanted there are, at least, in what random rows are drawn from."""

TRIES = 3
"""How often a stream is taken up again; with the 20 times of ``datasets`` 5.2 a Hub that is gone takes nine minutes."""

LIMITS = Limits(
    what="data set",
    fix="run again later, or download its files and give those",
    memory=4 << 30,
    seconds=600,
    numpy=True,
)
"""The time is that without a row, and without a sign that one will come."""

MOST_ROWS = 50_000_000
"""Of a split, read or only counted; what goes on after that is no data to fine-tune with, or has no end."""

_BATCH = 128  # rows that become Python values at a time
_COUNTED = 1_000  # rows between two signs of life, where they are only counted
# Bytes; a row group up to this size is fetched with as few requests as possible, a bigger one in pieces.
_AT_ONCE = 32 << 20
_PIECE = 4 << 20
_READERS = 8  # footers fetched at the same time
_WAITS = (1, 2, 4)  # seconds between two attempts to open a data set; the Hub's client does not repeat all its calls

_REMOTE = "hf://"


def read_rows(source: HuggingFaceSource, notes: list[str]) -> Iterator[Row]:
    """Yield the rows of `HubRows` out of a process of their own.

    - **notes**: filled with what the user should know about the reading, as far as it has come.
    """
    with Workers(Path(), LIMITS, most=1) as workers:
        for _, (batch, notes[:]) in workers.run([_Reading(source)], side_by_side=True):
            yield from batch


def is_folder(source: HuggingFaceSource) -> bool:
    """Tell whether a data set is a folder of this machine, which has no commits."""
    return os.path.isdir(source.huggingface)  # noqa: PTH112 - Path.is_dir raises where an id cannot be a path


def keep_token() -> None:
    """Have the Hub's client of this process, which must be one of ours, send its token to nobody but the Hub.

    It follows redirects without the token, but goes on with a list wherever its ``Link`` leads (``huggingface_hub``
    2.4, ``paginate``).
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    hubs = {urlsplit(url)[:2] for url in (constants.ENDPOINT, "https://huggingface.co")}

    def drop_token(request: Any) -> None:
        if urlsplit(str(request.url))[:2] not in hubs:
            request.headers.pop("Authorization", None)

    def client() -> Any:
        made = default_client_factory()
        made.event_hooks["request"].append(drop_token)
        return made

    set_client_factory(client)


@dataclass(frozen=True)
class _Reading:
    source: HuggingFaceSource

    @property
    def path(self) -> str:
        return _place(self.source)

    def perform(self, _: Path) -> Iterator[tuple[list[Row], list[str]]]:
        """Yield rows, and the notes so far, which can be more at the end."""
        keep_token()
        rows = HubRows(self.source)
        for batch in rows.batches():
            yield batch, rows.notes
        yield [], rows.notes


class HubRows:
    """The rows of a split, or of the part of it that was asked for, read while they are iterated over.

    - **notes**: what the user should know about the reading, as far as it has come.
    """

    def __init__(self, source: HuggingFaceSource) -> None:
        self.notes: list[str] = []
        self._source = source

    def __iter__(self) -> Iterator[Row]:
        for batch in self.batches():
            yield from batch

    def batches(self) -> Iterator[list[Row]]:
        """Yield the rows many at a time, and lists without any as signs of life."""
        rows, count = self._rows(), 0
        while True:
            with _asking(self._source):
                batch = list(islice(rows, _BATCH))
                there = [row for row in batch if row is not None]
                _check_rows(count := count + len(there))
            if not batch:
                return
            yield there

    def _rows(self) -> Iterator[Row | None]:
        """Yield the rows, and None as a sign of life."""
        from datasets.packaged_modules.parquet.parquet import Parquet

        source, draw = self._source, random.Random(self._source.seed)  # noqa: S311 - can be repeated, is no secret
        builder, splits = self._open()
        files = [file for split in splits for file in builder.config.data_files[split]]
        # A part can be fetched neither of a file in an archive nor of one that lies elsewhere.
        whole = all("::" not in file and (file.startswith(_REMOTE) or Path(file).is_file()) for file in files)
        is_parquet = whole and isinstance(builder, Parquet)
        if is_parquet:
            groups: list[RowGroup] = []
            with SideBySide(_READERS) as side:
                for footer in [side.begin(_row_groups, file) for file in files]:
                    groups += footer.result()
                    yield None
            total = sum(group.rows for group in groups)
        elif source.percent < 100:
            total = yield from self._length(builder, splits)
        else:
            yield from _stream(builder, source.split)
            return
        wanted = min(total, max(1, round(total * source.percent / 100)))  # at least one row, if there is one
        is_drawn = source.sample == "random" and wanted < total
        rows: Iterator[Row]
        if is_parquet:
            some = drawn_groups(groups, wanted, draw) if is_drawn else groups
            rows, pool = _read(some), sum(group.rows for group in some)
            place = f"{len(some):,} of {len(groups):,} row groups"
        else:
            for split in splits if is_drawn else ():
                of_split = builder.config.data_files[split]
                of_split.sort(key={file: draw.random() for file in of_split}.__getitem__)
            rows, pool = _stream(builder, source.split), min(total, SPREAD * wanted)
            place = f"the first {pool:,} with the files in random order"
        if is_drawn:
            drawn = f"{wanted:,} of {total:,} rows, drawn with seed {source.seed} out of {place}"
            self.notes.append(f"{source.huggingface}: {drawn}")
            rows = compress(rows, draws(wanted, pool, draw))
        found = 0
        for found, row in enumerate(islice(rows, wanted), start=1):  # noqa: B007 - it is looked at below
            yield row
        if found < wanted:
            self.notes.append(f"{source.huggingface} has fewer rows in {source.split} than its card says")

    def _open(self) -> tuple[DatasetBuilder, list[str]]:
        """Open the data set, again after a pause where the Hub is busy or does not answer."""
        import datasets
        from huggingface_hub import constants

        source = self._source
        if not is_folder(source) and (constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE):
            fix = "unset HF_HUB_OFFLINE, or give files that are on this machine"
            raise ServiceUnreachable("HF_HUB_OFFLINE is set, so the Hub is not asked.", fix=fix)
        for wait in (*_WAITS, None):
            try:
                with _asking(source):
                    builder, splits, commit = _open_once(source)
                break
            except (Throttled, ServiceUnreachable):
                if wait is None:
                    raise
                time.sleep(wait)
        if commit and commit != source.revision:
            pin = "pin it with `revision` to read the same data next time"
            self.notes.append(f"{source.huggingface} was read at revision {commit}; {pin}")
        return builder, splits

    def _length(self, builder: DatasetBuilder, splits: Sequence[str]) -> Generator[None, None, int]:
        """Return how long the splits are: what the data set's card says, or else all of them are counted."""
        known = builder.info.splits or {}
        lengths: list[int] = [known[split].num_examples or 0 if split in known else 0 for split in splits]
        if all(lengths):
            return sum(lengths)
        name, split = self._source.huggingface, self._source.split
        counted = "so all of it was downloaded once to count its rows"
        self.notes.append(f"{name} does not say how long {split} is and is not Parquet, {counted}")
        count = 0
        for count, _ in enumerate(_stream(builder, split), start=1):
            if count % _COUNTED == 0:
                _check_rows(count)
                yield None
        return count


def _check_rows(count: int) -> None:
    if count > MOST_ROWS:
        what = f"The data set goes on after {MOST_ROWS:,} rows, which is more than is read."
        raise DataError(what, fix="name another split, or give files of its rows")


def _stream(builder: DatasetBuilder, split: str) -> Iterator[Row]:
    """Yield the rows of a split from its beginning; pictures and sounds are not opened, which lie anywhere."""
    rows: Any = builder.as_streaming_dataset(split=split)
    if rows.features is None:
        return iter(rows)
    return map(arrow.row_reader(arrow.types_of(rows.features.arrow_schema)), rows.decode(False))


def _open_once(source: HuggingFaceSource) -> tuple[DatasetBuilder, list[str], str | None]:
    """Return a data set, the names of the splits to read, and the commit that it is at, if it is on the Hub."""
    import datasets
    from huggingface_hub import HfApi

    name, commit = source.huggingface, None
    if not is_folder(source):
        api = HfApi(library_name="phift")
        commit = api.dataset_info(name, revision=source.revision, expand=["sha"], timeout=30).sha
        if not commit:
            raise ServiceError("The Hugging Face Hub names no commit.", fix="check HF_ENDPOINT, if it is set")
    root = f"hf://datasets/{name}@{commit}" if commit else Path(name).expanduser().resolve().as_posix()
    # The folder is empty, or `datasets` would take an older version that it finds there when the Hub fails.
    with TemporaryDirectory(prefix="phift-") as folder, _own_files(root):
        try:
            builder = datasets.load_dataset_builder(name, source.name, revision=commit, cache_dir=folder)
        except DataError:
            raise
        except ValueError:
            names = datasets.get_dataset_config_names(name, revision=commit)
            if source.name in names or (source.name is None and len(names) < 2):
                raise
            what = f"There is no configuration {source.name}."
            if source.name is None:
                what = "The data set has several configurations."
            raise DataError(what, fix=f"`name` is one of: {', '.join(names)}") from None
    for file in chain.from_iterable((builder.config.data_files or {}).values()):
        _check_own(str(file), root)
    known = [str(split) for split in builder.config.data_files or {}]
    splits = source.split.split("+")
    for split in splits:
        if split not in known:
            part = "; a part of it is `percent`" if "[" in source.split else ""
            raise DataError(f"There is no split {split}.", fix=f"`split` is one of: {', '.join(known)}{part}")
    return builder, splits, commit


@contextmanager
def _own_files(root: str) -> Iterator[None]:
    """Let ``datasets`` resolve no pattern that leads out of the data set, while a card says which files there are."""
    from datasets import data_files

    resolve = data_files.resolve_pattern

    def resolve_own(pattern: str, base_path: str, *args: Any, **kwargs: Any) -> list[str]:
        is_whole = "://" in pattern or pattern.startswith("/")
        _check_own(pattern if is_whole else f"{base_path}/{pattern}", root)
        found: list[str] = resolve(pattern, base_path, *args, **kwargs)
        return found

    data_files.resolve_pattern = resolve_own
    try:
        yield
    finally:
        data_files.resolve_pattern = resolve


def _check_own(file: str, root: str) -> None:
    if "::" in file or ".." in file.split("/") or not f"{file}/".startswith(f"{root}/"):
        what = "The data set's card (README.md) names data files that are not its own."
        raise DataError(what, fix="look at data_files and data_dir in it; give files of other places themselves")


# ---------------------------------------------------------------- Parquet, and drawing


class RowGroup(NamedTuple):
    """A run of rows in a Parquet file, the least of it that can be fetched."""

    path: str
    number: int
    rows: int
    bytes: int


def drawn_groups(groups: Sequence[RowGroup], wanted: int, draw: random.Random) -> list[RowGroup]:
    """Draw row groups until they hold `SPREAD` times the rows wanted; they stay in the order of the split."""
    # Only `random()` is sure to give the same numbers in every release of Python.
    order = sorted(range(len(groups)), key=[draw.random() for _ in groups].__getitem__)
    held = accumulate((groups[index].rows for index in order), initial=0)  # before each is taken
    taken = [index for index, before in zip(order, held, strict=False) if before < SPREAD * wanted]
    return [groups[index] for index in sorted(taken)]


def draws(wanted: int, total: int, draw: random.Random) -> Iterator[bool]:
    """Draw exactly so many rows out of all, every set of that many being as likely; say of each whether it is drawn."""
    for left in range(total, 0, -1):
        drawn = draw.random() * left < wanted  # its chance, given how many are still wanted and how many still come
        wanted -= drawn
        yield drawn


@contextmanager
def _parquet(path: str, **options: Any) -> Iterator[ParquetFile]:
    import pyarrow.parquet as pq
    from huggingface_hub import HfFileSystem

    # Parquet says what it needs; a cache below it would fetch what lies around it too.
    opened = HfFileSystem().open(path, "rb", cache_type="none") if path.startswith(_REMOTE) else nullcontext(path)
    with opened as file, pq.ParquetFile(file, **options) as parquet:
        yield parquet


def _row_groups(path: str) -> list[RowGroup]:
    """Read where a file's row groups lie, which takes no more than its footer."""
    with _parquet(path) as file:
        sizes = enumerate(compressed_sizes(file.metadata))
        return [RowGroup(path, number, file.metadata.row_group(number).num_rows, size) for number, size in sizes]


def _read(groups: Sequence[RowGroup]) -> Iterator[Row]:
    """Yield the rows of row groups, each file opened once."""
    import datasets

    biggest = max((group.bytes for group in groups), default=0)
    options = {"pre_buffer": True} if biggest <= _AT_ONCE else {"pre_buffer": False, "buffer_size": _PIECE}
    for path, of_file in groupby(groups, key=lambda group: group.path):
        with _parquet(path, **options) as file:
            schema = file.schema_arrow
            if "json" in str(schema).lower():  # which `datasets` keeps as text, and says so in a place of its own
                schema = datasets.Features.from_arrow_schema(schema).arrow_schema
            read = arrow.row_reader(arrow.types_of(schema))
            for group in of_file:
                # Threads of Arrow that read through a Python file can outlive the interpreter and hang it.
                for batch in file.iter_batches(_BATCH, row_groups=[group.number], use_threads=False):
                    yield from map(read, batch.to_pylist())


# ---------------------------------------------------------------- errors, and silence


@contextmanager
def _asking(source: HuggingFaceSource) -> Iterator[None]:
    """Keep the Hub's libraries quiet, limit their patience, and turn what they raise into our errors.

    Whoever calls shows the progress. The settings belong to the whole process, so they hold only while it is busy here.
    The cause is not kept: its text may hold rows, and the request that belongs to it holds the token.
    """
    try:
        import datasets
        import huggingface_hub.utils

        with ExitStack() as stack:
            for bars in (datasets, huggingface_hub.utils):
                if not bars.are_progress_bars_disabled():
                    bars.disable_progress_bars()
                    stack.callback(bars.enable_progress_bars)
            for name in ("datasets", "huggingface_hub", "fsspec"):
                logger = logging.getLogger(name)
                stack.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.CRITICAL + 1)
            # Streaming would import torch, if it is there, for nothing: 200 MB and two seconds (`datasets` 5.2).
            for name, value in (("STREAMING_READ_MAX_RETRIES", TRIES), ("TORCH_AVAILABLE", False)):
                stack.callback(setattr, datasets.config, name, getattr(datasets.config, name))
                setattr(datasets.config, name, value)
            yield
    except Exception as error:  # noqa: BLE001 - readers of many formats raise what they like; all of it ends in ours
        ours = error if isinstance(error, PhiftError) else _failure(error, source)
        ours.where = _place(source)
        raise ours from None


def _place(source: HuggingFaceSource) -> str:
    return f"Hugging Face data set {source.huggingface}"


def _failure(error: Exception, source: HuggingFaceSource) -> PhiftError:
    """Return our error for one of the libraries'; it quotes none of their text."""
    from huggingface_hub import errors

    log_in = "log in with `hf auth login` or set HF_TOKEN"
    let_in = f"ask for access on the data set's page, then {log_in}"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    name = type(error).__name__
    if isinstance(error, errors.GatedRepoError) or (isinstance(error, FileNotFoundError) and "gated" in text_of(error)):
        return AccessDenied("The data set is gated: it is for accounts that were let in.", fix=let_in)
    if isinstance(error, errors.RevisionNotFoundError):
        return DataNotFound(f"There is no revision {source.revision}.", fix="check `revision`")
    if isinstance(error, errors.RepositoryNotFoundError):
        fix = f"check the id; for a private data set {log_in}"
        return DataNotFound("There is no such data set, or it is private.", fix=fix)
    if isinstance(error, errors.EntryNotFoundError | FileNotFoundError):
        fix = "check the id, and that the data set has files of a known format"
        return DataNotFound("The data set has no data files.", fix=fix)
    if status == 401:
        return AuthenticationError("The Hugging Face Hub refuses the token.", fix=log_in)
    if status == 403:
        return AccessDenied("The token may not read this data set.", fix=let_in)
    if status == 429:
        fix = f"wait some minutes; the limit is higher for accounts: {log_in}"
        return Throttled("The Hugging Face Hub takes no more requests from here for now.", fix=fix)
    if status:
        kind = ServiceUnreachable if status >= 500 else ServiceError
        return kind(f"The Hugging Face Hub answered with status {status}.", fix="run again later")
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("httpx"):
        fix = "check the network and the proxy; then run again"
        return ServiceUnreachable(f"The Hugging Face Hub did not answer ({name}).", fix=fix)
    if isinstance(error, ImportError):
        package = error.name or "its name is not known"
        return MissingDependency(f"A package that the data set needs is missing ({package}).", fix="install it")
    fix = "check on its page that the Hub's own viewer can read it"
    return DataError(f"The data set cannot be read ({name}).", fix=fix)
