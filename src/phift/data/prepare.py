"""The data: read, check, split and write it as the three files the component wants, in constant memory.

Azure's preprocessing splits by itself whenever one of the three files is missing, drops what it does not like without
a word, and keeps every training row only if it is given train, validation and test (Azure/azureml-assets,
finetune_acft_hf_nlp, src/preprocess, 2026-07). So phift always writes all three, and accounts for every row: it is in
one of the files, or among the rejects with its line and the reason, or the data is refused.

**The way**, in `phift.data`. Sources are opened (``sources``) and read in parts side by side (``parts``, ``workers``)
into spools; then it is known what there is, and what says nearly the same (``near``), the split is drawn (``split``),
and the rows are dealt from the spools to the files. Rows keep their order, and the result does not depend on how many
processes there were.

**The folder.** ``<folder>/<first 16 digits of the content hash>/`` with ``train.jsonl``, ``validation.jsonl``,
``test.jsonl``, ``manifest.json`` and, where rows were set aside, ``rejects.jsonl``. It is built beside its place and
renamed, so a folder that is there is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from phift.check.findings import Finding
from phift.component.preprocessing import LEAST_TRAINING_ROWS, SPLITS
from phift.config.data import AnySource, DataConfig, FileSource
from phift.config.run import read_section
from phift.data import files, sniff
from phift.data.folders import spread
from phift.data.near import find_near
from phift.data.parts import MOST_PROBLEMS
from phift.data.prepared import MANIFEST, PreparedDataset, digest_of, find_prepared, inputs_of, whole_since
from phift.data.sources import Progress, Reading, Table, open_source, place_of, read_sources, tabulate
from phift.data.split import ASIDE, LEAKED, Account, deal, draw_split, findings_of, first_near, masks_of, units
from phift.data.workers import LARGE, Limits, Workers
from phift.errors import DataError, isolated

__all__ = ["Account", "PreparedDataset", "Progress", "prepare_dataset"]

_MOST_MOVES = 10  # of callers that all find a folder that is not whole
_SCRATCH = ".preparing-"
_LOCK = "lock"
_MOMENT = 60  # seconds between making a scratch folder and holding its lock


def prepare_dataset(
    data: DataConfig | AnySource,
    folder: str | Path,
    *,
    fresh: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> PreparedDataset:
    """Read, check, split and write the data; where the same data has been prepared before, its files are used.

        prepare_dataset("train.jsonl", "prepared").rows

    Nothing is read where files and configuration are what they were then, see `phift.data.prepared`.

    Raises `phift.errors.DataError` where rows cannot be trained on and are not to be set aside (``refused`` says how
    many, ``problems`` lists the first 20), and `phift.errors.DataNotFound` where a file or data set is not there. No
    file is left behind then.

    - **data**: as in a configuration: a `DataConfig`, a mapping, or what to train on alone, such as a path or rows.
    - **folder**: where prepared data sets are kept, each in a folder of its own.
    - **fresh**: read everything again, whatever is known of it.
    - **on_progress**: called now and then with how far the work has come.
    """
    tell = isolated(on_progress)
    data, folder = read_section(DataConfig, data, "data"), Path(folder)
    files.check_path(folder)
    inputs = inputs_of(data)  # before they are listed and read: what changes meanwhile is read again the next time
    given, told = spread(data)
    paths = [source.files for _, _, source in given if isinstance(source, FileSource)]
    kinds = set(map(files.kind, paths))
    # A few kilobytes of parquet can unpack to gigabytes, so it is always read by processes, whose memory is limited.
    binary = not kinds.isdisjoint(files.BINARY)
    sizes = (seen.st_size for path in paths if (seen := files.look(path)))  # one that just went, its reader will miss
    side_by_side = binary or sum(sizes) > LARGE
    compare = data.near_duplicates != "ignore"
    with _scratch_folder(folder) as scratch, Workers(scratch, Limits(numpy=compare)) as workers:
        if inputs and not fresh and (known := find_prepared(folder, inputs)):
            tell(Progress(stage="known", source=known.name, rows=sum(known.rows.values())))
            return known
        if side_by_side:
            workers.start(*(["pyarrow.parquet"] if "parquet" in kinds else []))
            # Imported while the processes read, since it is wanted here as soon as they have read everything.
            threading.Thread(target=import_module, args=("numpy",)).start()
        group_by, keep = data.split.group_by, data.bad_rows == "set_aside"
        readings = [
            reading
            for split, stratum, source in given
            for reading in open_source(source, split, stratum, workers, group_by=group_by, keep=keep)
        ]
        read_sources(readings, workers, tell, side_by_side=side_by_side)
        told += _look_at_files(readings)
        if data.bad_rows == "refuse":
            _raise_problems(readings)
        table = tabulate(readings)
        if compare and len(table):
            find_near(readings, table, workers, tell)
        _choose(data, readings, table)
        built = scratch / "built"
        built.mkdir(mode=0o700)  # it is renamed, and user text is nobody else's business
        accounts = deal(readings, table, built, workers, tell)
        if not any(account.aside for account in accounts):
            (built / "rejects.jsonl").unlink()
        findings = (*told, *findings_of(readings, table, accounts))
        manifest = _manifest(data, readings, table, accounts, findings)
        manifest |= {"inputs": inputs, "rejects": digest_of(built / "rejects.jsonl")}
        (built / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        target = folder / manifest["content_hash"][:16]
        before = _settle(built, target)
    return PreparedDataset.of(target, manifest, before=before)


def _look_at_files(readings: Sequence[Reading]) -> Iterator[Finding]:
    """Look at each file whose rows fail all alike, or as not UTF-8, and raise what it is instead.

    Where just the rows that are not UTF-8 are set aside, it is a finding, and so is a file of UTF-8 that was read as
    something else.
    """
    for reading in readings:
        part = next(iter(reading.parts), None)  # a parquet file without rows has none
        if part and part.encoding and not part.encoding.lower().startswith("utf") and sniff.is_utf8(Path(part.path)):
            message = f"It is read as {part.encoding}, as `encoding` says, and its characters are UTF-8."
            fix = "leave `encoding` out; where other files need it, give this one as a source of its own"
            yield Finding("DATA_ENCODING", "warning", reading.place, message, fix)
        if part and part.is_text and reading.problems:
            not_utf8 = any("is not UTF-8" in reason for _, reason in reading.problems)
            whole = reading.fails_alike
            if (not_utf8 or whole) and (
                error := sniff.explain(Path(part.path), part.kind, part.encoding, part.delimiter)
            ):
                if whole or not part.keep:
                    raise error
                yield Finding("DATA_ENCODING", "warning", reading.place, error.what, error.fix or "")


def _raise_problems(readings: Sequence[Reading], more: Sequence[tuple[str, str]] = ()) -> None:
    refused = sum(reading.sum("refused") for reading in readings) + len(more)
    if not refused:
        return
    rows = sum(reading.sum("rows") for reading in readings)
    whole = [reading for reading in readings if reading.fails_alike and reading.sum("rows") > 1]
    of_rows = (problem for reading in readings if reading not in whole for problem in reading.problems)
    of_files = [
        (place, f"{reason} (and so do all or nearly all rows)")
        for place, reason in (each.problems[0] for each in whole)
    ]
    problems = tuple(islice(chain(of_files, of_rows, more), MOST_PROBLEMS))
    place, reason = problems[0]
    what = f"{refused} of {rows} rows cannot be trained on. The first: {place}: {reason}"
    fix = "correct them"
    good = sum(reading.sum("good") for reading in readings if reading.split == "train")
    if whole:
        fix = "correct what writes them, since nearly all rows of a source fail for one reason"
    elif good >= LEAST_TRAINING_ROWS and not any(part.keep for reading in readings for part in reading.parts):
        fix += ", or write `bad_rows: set_aside` to leave them out and keep them in a file of their own"
    counted = refused - sum(reading.sum("refused") - 1 for reading in whole)
    raise DataError(what, where=place, fix=fix, problems=problems, refused=counted)


def _choose(data: DataConfig, readings: Sequence[Reading], table: Table) -> None:
    """Write into the table which split each row is in."""
    import numpy as np

    given = np.array([SPLITS.index(reading.split) for reading in readings], np.int8)
    chosen = table["split"]
    chosen[:] = given[table["source"]]
    splits = list(dict.fromkeys(reading.split for reading in readings))
    for split in splits:
        if not (chosen == SPLITS.index(split)).any():
            _raise_problems(readings)
            labels = [reading.label for reading in readings if reading.split == split]
            raise DataError(f"There are no rows for {split}.", where=", ".join(labels), fix="give data with rows")
    shares = {split: getattr(data.split, split) for split in SPLITS if split not in splits}
    pool = chosen == 0
    if data.near_duplicates == "thin":
        chosen[pool & (first_near(table, pool) != np.arange(len(table)))] = ASIDE
    left = chosen == 0
    rows = int(left.sum())
    kinds = [table["key"], table["group"]] if data.split.group_by else [table["key"]]
    if shares:
        dealt = sum(max(1, round(share * rows)) for share in shares.values())
        _raise_if_few(readings, rows - dealt, dealt)
        linked = [*kinds, table["near"]] if (table["near"] != np.arange(len(table))).any() else kinds
        together = units(*(kind[left] for kind in linked)) if len(linked) > 1 else table["key"][left]
        strata = np.array([reading.stratum for reading in readings], np.int32)[table["source"]]
        chosen[left] = draw_split(together, strata[left], shares, data.split.seed)
    leaked = ~pool
    if leaked.any():
        # The whole pool: what is split off from it for validation must not stand in the test data either.
        leaked[leaked] = np.any([np.isin(kind[leaked], kind[pool]) for kind in kinds], axis=0)
        if data.bad_rows == "refuse":
            _raise_problems(readings, [(place_of(readings, row), LEAKED) for row in table[leaked]])
        chosen[leaked] = ASIDE
    counts = np.bincount(chosen, minlength=ASIDE + 1)
    _raise_if_few(readings, int(counts[0]), int(rows - counts[0]))
    for index, split in enumerate(SPLITS):
        if not counts[index]:
            what = f"Every {split} row stands in the training data too."
            raise DataError(what, where=f"data.{split}", fix="give other rows, or none, so that some are split off")


def _raise_if_few(readings: Sequence[Reading], left: int, dealt: int) -> None:
    if left >= LEAST_TRAINING_ROWS:
        return
    what = f"{max(0, left)} rows are left for training; the component wants at least {LEAST_TRAINING_ROWS}."
    train = [reading for reading in readings if reading.split == "train"]
    labels = ", ".join(reading.label for reading in train)
    split = f", or smaller shares: {dealt} went to validation and test" if dealt else ""
    where = f"{labels}, {sum(reading.sum('good') for reading in train)} usable rows"
    raise DataError(what, where=where, fix=f"give more rows{split}")


def _manifest(
    data: DataConfig,
    readings: Sequence[Reading],
    table: Table,
    accounts: Sequence[Account],
    findings: Sequence[Finding],
) -> dict[str, Any]:
    masks = masks_of(table)
    hashes = {split: hashlib.sha256(table["hash"][mine].tobytes()).hexdigest() for split, mine in masks.items()}
    listed = "".join(f"{split} {hashes[split]}\n" for split in SPLITS)
    first = readings[0]
    return {
        "name": first.place if first.bytes is None else Path(first.place).name.partition(".")[0],
        "content_hash": hashlib.sha256(listed.encode()).hexdigest(),
        "rows": {split: int(mine.sum()) for split, mine in masks.items()},
        "characters": {split: int(table["characters"][mine].sum()) for split, mine in masks.items()},
        "longest_row": int(table["characters"][masks["train"]].max()),
        "bytes": {split: int(table["length"][mine].sum()) for split, mine in masks.items()},
        "hashes": hashes,
        "split": data.split.model_dump(),
        "sources": [asdict(account) for account in accounts],
        "findings": [asdict(finding) for finding in findings],
    }


def _settle(built: Path, target: Path) -> datetime | None:
    """Move the files to their place, unless the same ones are there already; return since when they are, if so."""
    for number in range(_MOST_MOVES):
        if before := whole_since(target):
            # The same rows can have come from other sources, so what is said of those is renewed.
            if (built / "rejects.jsonl").exists():
                (built / "rejects.jsonl").replace(target / "rejects.jsonl")
            else:
                (target / "rejects.jsonl").unlink(missing_ok=True)
            (built / MANIFEST).touch()  # those files may have been written after it
            (built / MANIFEST).replace(target / MANIFEST)
            return before
        if number:
            # It is moved aside and not deleted in its place, where another caller may have put his own by now.
            with suppress(OSError):
                target.rename(built.parent / f"aside-{number}")
        try:
            built.rename(target)
        except OSError:  # what is there is not whole, or somebody has prepared the same data meanwhile
            if number == _MOST_MOVES - 1:
                raise
        else:
            break
    return None


@contextmanager
def _scratch_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder inside ``folder``, and remove it if it is still there at the end.

    Those of processes that were killed are removed too: a lock that nobody holds tells them from the others.

    Raises `phift.errors.DataError` for what the file system refuses meanwhile.
    """
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_SCRATCH}*"):
            # Between making the folder and holding its lock there is a moment without one. Errors tell that somebody is
            # at work there, or has just removed it.
            with suppress(filelock.Timeout, OSError):
                if (left / _LOCK).exists() or time.time() - left.stat().st_mtime >= _MOMENT:
                    with filelock.FileLock(left / _LOCK, timeout=0):
                        shutil.rmtree(left, ignore_errors=True)
        with TemporaryDirectory(prefix=_SCRATCH, dir=folder, ignore_cleanup_errors=True) as name:
            scratch = Path(name)
            with filelock.FileLock(scratch / "taking"):
                # Named when it is held: between making a file and locking it another process could take the lock.
                (scratch / "taking").rename(scratch / _LOCK)
                yield scratch
    except OSError as error:
        if not error.strerror:  # the file system gives a reason; some of ours are OSErrors too, and the user's may be
            raise
        what = f"A file could not be read or written: {error.strerror}."
        where = str(error.filename or folder)
        raise DataError(what, where=where, fix="check the permissions and the free space") from error
