"""The data: read, check, split and write it as the three files the component wants, in constant memory.

Azure's preprocessing splits by itself whenever one of the three files is missing, drops what it does not like without
a word, and keeps every training row only if it is given train, validation and test (Azure/azureml-assets,
finetune_acft_hf_nlp, src/preprocess, 2026-07). So phift always writes all three, and refuses a row, never loses one.

**The split.** Rows keep their order. One pass over ``n`` rows draws exactly ``round(share * n)`` of them, at least
one, for each missing file: of the ``k`` rows still to come, the next one is chosen with probability ``wanted / k``
(selection sampling), from a generator seeded with ``split.seed``. The same rows and the same seed give the same bytes.

**The folder.** ``<folder>/<first 16 digits of the content hash>/`` with ``train.jsonl``, ``validation.jsonl``,
``test.jsonl`` and ``manifest.json``. It is built beside its place and renamed, so a folder that is there is whole.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phift import sources
from phift.config import DataConfig, HuggingFaceSource, SplitConfig
from phift.errors import DataError, PhiftError
from phift.sources import Progress, Reading

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PreparedDataset", "Progress", "prepare_dataset"]

SPLITS = ("train", "validation", "test")

LEAST_TRAINING_ROWS = 10
"""The component stops below it (finetune_acft_hf_nlp, MIN_TRAINING_SAMPLE_GENERATIVE_TASKS, 2026-07)."""

_SHOWN = 80  # characters of a text in a preview


@dataclass(frozen=True, kw_only=True)
class PreparedDataset:
    """Checked chat data, split into three JSONL files.

    - **folder**: where the files are.
    - **rows**: rows of each split.
    - **characters**: characters of what is said in each split, tool calls included; roles and keys are not.
    - **longest_row**: characters of the longest training row.
    - **content_hash**: SHA-256 over the three files' SHA-256, so equal data has an equal name.
    - **name**: the training data's name, for display.
    - **notes**: what the user should know, such as columns that were left out.
    """

    folder: Path
    train: Path
    validation: Path
    test: Path
    rows: Mapping[str, int]
    characters: Mapping[str, int]
    longest_row: int
    content_hash: str
    name: str
    notes: tuple[str, ...] = ()

    def preview(self, rows: int = 5, split: str = "train") -> pd.DataFrame:
        """Return the first rows of a split: how many messages, whose, and how they begin and end."""
        import pandas as pd

        if split not in SPLITS:
            raise DataError(f"There is no split {split}.", where="preview", fix=f"use one of {', '.join(SPLITS)}")
        path: Path = getattr(self, split)
        with path.open(encoding="utf-8") as file:
            shown = [_glance(json.loads(line)["messages"]) for line, _ in zip(file, range(rows), strict=False)]
        return pd.DataFrame(shown, columns=["messages", "roles", "user", "assistant"])


def _glance(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a conversation in one line: its first user text and its last assistant text."""
    user = next((message.get("content") for message in messages if message["role"] == "user"), None)
    assistant = next((message.get("content") for message in reversed(messages) if message["role"] == "assistant"), None)
    roles = " ".join(message["role"] for message in messages)
    return {"messages": len(messages), "roles": roles, "user": _short(user), "assistant": _short(assistant)}


def _short(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def prepare_dataset(
    data: DataConfig, folder: Path, *, on_progress: Callable[[Progress], None] | None = None
) -> PreparedDataset:
    """Read, check, split and write the data; where the same data has been prepared before, its files are used.

    Raises `phift.errors.DataError` where rows cannot be trained on (``refused`` says how many, ``problems`` lists the
    first 20), and `phift.errors.DataNotFound` where a file or data set is not there. No file is left behind then.

    - **folder**: where prepared data sets are kept, each in a folder of its own.
    - **on_progress**: called now and then with how far the reading has come.
    """
    given = {split: source for split in SPLITS if (source := getattr(data, split)) is not None}
    sources.check_path(folder)
    for source in given.values():
        sources.check_source(source)
    readings = {split: Reading(source, on_progress) for split, source in given.items()}
    with _scratch(folder) as scratch:
        written = _write(readings, data.split, scratch)
        notes = _notes(readings, written)
        manifest = _manifest(data, readings["train"].label, written)
        (scratch / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        target = folder / manifest["content_hash"][:16]
        _settle(scratch, target, manifest)
    return PreparedDataset(
        folder=target,
        train=target / "train.jsonl",
        validation=target / "validation.jsonl",
        test=target / "test.jsonl",
        rows=manifest["rows"],
        characters=manifest["characters"],
        longest_row=manifest["longest_row"],
        content_hash=manifest["content_hash"],
        name=manifest["name"],
        notes=notes,
    )


class _File:
    """A JSONL file being written: its rows, its hash, and the digest and the length of each conversation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self.bytes = 0
        self.digests = array("q")
        self.lengths = array("I")
        self._hash = hashlib.sha256()
        self._file = path.open("xb", buffering=1 << 20)

    def write(self, line: bytes, digest: int, characters: int) -> None:
        self._file.write(line)
        self._hash.update(line)
        self.digests.append(digest)
        self.lengths.append(characters)
        self.rows += 1
        self.bytes += len(line)

    @property
    def characters(self) -> int:
        return sum(self.lengths)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _write(readings: Mapping[str, Reading], split: SplitConfig, scratch: Path) -> dict[str, _File]:
    """Check every row of every source, and only then deal them out to the three files."""
    missing = tuple(name for name in SPLITS if name not in readings)
    with ExitStack() as stack:
        files = {name: stack.enter_context(_File(scratch / f"{name}.jsonl")) for name in SPLITS}
        # Training rows wait in a file of their own while some are still to become validation or test rows.
        with _File(scratch / "rows.jsonl") if missing else files["train"] as pool:
            for name, reading in readings.items():
                _copy(reading, pool if name == "train" else files[name])
        _raise_problems(readings)
        wanted = {name: max(1, round(getattr(split, name) * pool.rows)) for name in missing}
        _raise_if_few(readings["train"], pool.rows, sum(wanted.values()))
        if missing:
            _deal(pool, wanted, split.seed, files)
            pool.path.unlink()
    return files


def _copy(reading: Reading, file: _File) -> None:
    for row in sources.rows(reading):
        file.write(row.line, row.digest, row.characters)


def _deal(pool: _File, wanted: Mapping[str, int], seed: int, files: Mapping[str, _File]) -> None:
    """Write each row to the file it is drawn for, else to training; see the module's text for how it is drawn."""
    draw = random.Random(seed).random  # noqa: S311 - a reproducible split, no secret
    left = dict(wanted)
    with pool.path.open("rb", buffering=1 << 20) as lines:
        for index, line in enumerate(lines):
            # Of Python's generator only random() is promised to stay the same from version to version.
            ticket = int(draw() * (pool.rows - index))
            chosen = "train"
            for name, count in left.items():
                if ticket < count:
                    chosen = name
                    left[name] -= 1
                    break
                ticket -= count
            files[chosen].write(line, pool.digests[index], pool.lengths[index])


def _raise_problems(readings: Mapping[str, Reading]) -> None:
    problems = tuple(problem for reading in readings.values() for problem in reading.problems)[: Reading.MOST_PROBLEMS]
    if problems:
        refused = sum(reading.refused for reading in readings.values())
        rows = sum(reading.rows for reading in readings.values())
        place, reason = problems[0]
        what = f"{refused} of {rows} rows cannot be trained on. The first: {place}: {reason}"
        fix = "correct or remove them; the component would drop them without a word, or fail on the GPU"
        raise DataError(what, where=place, fix=fix, problems=problems, refused=refused)
    for reading in readings.values():
        if not reading.rows:
            raise DataError("The data has no rows.", where=reading.label, fix="give data with rows")


def _raise_if_few(reading: Reading, rows: int, dealt: int) -> None:
    if rows - dealt >= LEAST_TRAINING_ROWS:
        return
    what = f"{max(0, rows - dealt)} rows are left for training; the component wants at least {LEAST_TRAINING_ROWS}."
    where = f"{reading.label}, {rows} rows"
    split = f", or smaller shares: {dealt} went to validation and test" if dealt else ""
    raise DataError(what, where=where, fix=f"give more rows{split}")


def _notes(readings: Mapping[str, Reading], files: Mapping[str, _File]) -> tuple[str, ...]:
    notes = []
    for reading in readings.values():
        notes += reading.notes
        if reading.ignored:
            notes.append(f"{reading.label}: columns left out: {', '.join(sorted(reading.ignored))}")
        if reading.blank:
            notes.append(f"{reading.label}: {reading.blank} blank line{'s' if reading.blank > 1 else ''} skipped")
    for name in SPLITS[1:]:
        count = _shared(files[name].digests, files["train"].digests)
        if count:
            each = "s stand" if count > 1 else " stands"
            notes.append(f"{count} {name} row{each} in the training data too; scores on them mean nothing")
    return tuple(notes)


def _shared(some: array[int], others: array[int]) -> int:
    """Return how many of ``some`` are among ``others``."""
    import numpy as np  # a set of Python numbers would take ten times the memory

    return int(np.isin(np.frombuffer(some, np.int64), np.frombuffer(others, np.int64)).sum())


def _manifest(data: DataConfig, name: str, files: Mapping[str, _File]) -> dict[str, Any]:
    listed = "".join(f"{split} {files[split].sha256}\n" for split in SPLITS)
    return {
        "name": name if isinstance(data.train, HuggingFaceSource) else Path(name).stem,
        "content_hash": hashlib.sha256(listed.encode()).hexdigest(),
        "rows": {split: files[split].rows for split in SPLITS},
        "characters": {split: files[split].characters for split in SPLITS},
        "longest_row": max(files["train"].lengths),
        "bytes": {split: files[split].bytes for split in SPLITS},
        "sha256": {split: files[split].sha256 for split in SPLITS},
        "split": data.split.model_dump(),
    }


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Give a new folder inside ``folder``, and remove it if it is still there at the end."""
    scratch = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".preparing-", dir=folder))
        yield scratch
    except PhiftError:
        raise  # some of ours are OSErrors too
    except OSError as error:
        what = f"A file could not be read or written: {error.strerror}."
        where = str(error.filename or folder)
        raise DataError(what, where=where, fix="check the permissions and the free space") from error
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _settle(scratch: Path, target: Path, manifest: Mapping[str, Any]) -> None:
    """Move the files to their place, unless the same ones are there already."""
    if _whole(target, manifest):
        # The manifest alone is renewed: an older release's says less.
        (scratch / "manifest.json").replace(target / "manifest.json")
        return
    if target.exists():
        shutil.rmtree(target)  # named by a content that it no longer has
    try:
        scratch.rename(target)
    except OSError:
        # Somebody prepared the same data meanwhile; equal bytes, so theirs will do.
        if not _whole(target, manifest):
            raise


def _whole(target: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a folder has the files that the manifest lists, as far as their sizes say."""
    if not (target / "manifest.json").is_file():
        return False
    files = {split: target / f"{split}.jsonl" for split in SPLITS}
    return all(file.is_file() and file.stat().st_size == manifest["bytes"][split] for split, file in files.items())
