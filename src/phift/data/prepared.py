"""Data that has been prepared: its folder, what became of every row, and whether it is there already.

**A second run.** A manifest has the digest of all that its data came from: the configuration, the code that prepares,
and of each file size, times and inode. Where it is the same again, and nobody has touched the prepared files since,
nothing is read. Rows from Python, and a data set of the Hub that is not pinned to a commit, can have changed unseen;
they are always read.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from phift.check.findings import Finding
from phift.component.preprocessing import SPLITS
from phift.config.data import DataConfig, FileSource, HuggingFaceSource, OneSource
from phift.data import hub
from phift.data.files import contents
from phift.data.sources import stamps
from phift.data.split import Account
from phift.errors import DataError, PhiftError, visible, visible_html, visible_table
from phift.version import __version__

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"

# What changes nothing in the prepared rows.
_NOT_READ_BY = {"tokenizer", "count_tokens", "asset_name", "prepare_on"}

_MOST_FILES = 100_000  # to be looked at; that takes a second

# A file system tells the time in steps, and two changes within one look like one: 10 ms at most on Linux, where the
# kernel counts 100 ticks a second or more, and up to 2 s where it keeps whole seconds (FAT).
_STEP, _WHOLE_SECONDS = 20_000_000, 2_100_000_000  # ns


@dataclass(frozen=True, kw_only=True)
class PreparedDataset:
    """Checked chat data, split into three JSONL files.

    - **folder**: where the files are.
    - **rows**: rows of each split.
    - **characters**: characters of what is said in each split, tool calls included; roles and keys are not.
    - **longest_row**: characters of the longest training row.
    - **hashes**: of each split: SHA-256 over its rows' hashes, 128 bits of XXH3 over each line.
    - **content_hash**: SHA-256 over the splits' hashes, so equal data has an equal name.
    - **name**: the training data's name, for display.
    - **accounts**: what became of the rows of each source.
    - **rejects**: the file of rows set aside, one JSON object each: source, line, reason, row; None if there is none.
    - **findings**: what the user should know, such as duplicates and columns that were left out.
    - **before**: since when the files are there, where they have been prepared before; **read**: whether the sources
      were read all the same.
    """

    folder: Path
    train: Path
    validation: Path
    test: Path
    rows: Mapping[str, int]
    characters: Mapping[str, int]
    longest_row: int
    hashes: Mapping[str, str]
    content_hash: str
    name: str
    accounts: tuple[Account, ...] = ()
    rejects: Path | None = None
    findings: tuple[Finding, ...] = ()
    before: datetime | None = field(default=None, compare=False)
    read: bool = field(default=True, compare=False)

    @classmethod
    def of(cls, folder: Path, manifest: Mapping[str, Any], *, before: datetime | None, read: bool = True) -> Self:
        """Return what a manifest says of its folder; what is no such manifest raises whatever it leads to."""
        rejects = folder / "rejects.jsonl"
        said = {key: manifest[key] for key in ("rows", "characters", "longest_row", "hashes", "content_hash", "name")}
        return cls(
            folder=folder,
            train=folder / "train.jsonl",
            validation=folder / "validation.jsonl",
            test=folder / "test.jsonl",
            accounts=tuple(Account(**account) for account in manifest["sources"]),
            rejects=rejects if rejects.exists() else None,
            findings=tuple(Finding(**finding) for finding in manifest["findings"]),
            before=before,
            read=read,
            **said,
        )

    @property
    def files(self) -> dict[str, Path]:
        """The file of each split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def said_before(self) -> str:
        """What is to be said where the same data has been prepared before; else nothing."""
        if self.before is None:
            return ""
        when = f"{self.before:%Y-%m-%d %H:%M} UTC"
        if self.read:
            return f"The same rows were prepared before, on {when}; their files are used."
        return f"Prepared before, on {when}, and unchanged since: nothing was read again."

    def __str__(self) -> str:
        return "\n".join([*self.lines(), *map(str, self.findings)])

    def lines(self) -> Iterator[str]:
        """Yield what became of the rows, in lines of text."""
        if self.before:
            yield self.said_before
        for account in self.accounts:
            yield str(account)
            for reason, count in account.reasons.items():
                yield f"  set aside: {count:,} {'rows' if count > 1 else 'row'}: {visible(reason, lines=False)}"

    def _repr_html_(self) -> str:
        return self.html_tables() + "".join(f"<p>{visible_html(finding)}</p>" for finding in self.findings)

    def html_tables(self) -> str:
        """Return what became of the rows, in tables for a notebook."""
        columns = ("source", "format", "rows", *SPLITS, "aside", "blank")
        rows = [[getattr(account, column) for column in columns] for account in self.accounts]
        html = f"<p>{visible_html(self.said_before)}</p>" if self.before else ""
        html += visible_table(columns, rows)
        aside = [(each.source, count, reason) for each in self.accounts for reason, count in each.reasons.items()]
        return html + (visible_table(("source", "rows set aside", "why"), aside) if aside else "")

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        values = asdict(self) | {"before": self.before.isoformat() if self.before else None}
        values["sources"] = values.pop("accounts")
        return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}

    def preview(self, rows: int = 5, split: str = "train") -> pd.DataFrame:
        """Return the first rows of a split: how many messages, whose, and how they begin and end."""
        import pandas as pd

        if split not in SPLITS:
            raise DataError(f"There is no split {split}.", where="preview", fix=f"use one of {', '.join(SPLITS)}")

        def first(role: str, messages: Iterable[dict[str, Any]]) -> str:
            text = next((message.get("content") for message in messages if message["role"] == role), None)
            line = " ".join((text or "").split())
            return line if len(line) <= 80 else line[:79] + "…"

        with self.files[split].open(encoding="utf-8") as file:
            conversations = [json.loads(line)["messages"] for line in islice(file, rows)]
        shown = [
            (len(turns), " ".join(t["role"] for t in turns), first("user", turns), first("assistant", reversed(turns)))
            for turns in conversations
        ]
        return pd.DataFrame(shown, columns=["messages", "roles", "user", "assistant"])


# ---------------------------------------------------------------- what is there already


def inputs_of(data: DataConfig) -> str | None:
    """Return a digest of all that prepared data comes from; None where that can change unseen, or cannot be read."""
    paths: list[Path] = []
    for source in (source for some in data.sources.values() for source in some):
        if isinstance(source, FileSource):
            try:
                found = contents(source.files)
            except PhiftError:  # whoever reads it says so
                return None
            paths += [*found.files, *found.others]  # what is no data is told, and can say what the others are
        elif not _is_pinned(source):
            return None
    if len(paths) > _MOST_FILES:
        return None
    seen = stamps(paths)
    if wait := _unsettled(seen):
        if wait > _STEP:
            return None
        time.sleep(wait / 1e9)
        if _unsettled(seen := stamps(paths)):
            return None
    settings = data.model_dump(mode="json", exclude=_NOT_READ_BY)
    return hashlib.sha256(repr((settings, seen, _code())).encode(errors="backslashreplace")).hexdigest()


def _is_pinned(source: OneSource) -> bool:
    """Tell whether a source is a data set of the Hub at a commit, which never changes."""
    if not isinstance(source, HuggingFaceSource) or hub.is_folder(source):
        return False
    return re.fullmatch("[0-9a-f]{40}", source.revision or "") is not None


def _unsettled(seen: Iterable[tuple[Any, ...]]) -> int:
    """Return for how many ns a change of these files could not be told from their last one."""
    now, wait = time.time_ns(), 0
    for _, _, written, changed, *_ in (each for each in seen if len(each) > 1):
        step = _WHOLE_SECONDS if changed % 1_000_000_000 == 0 else _STEP
        age = now - max(written, changed)
        wait = max(wait, step - age)
    return wait


@cache
def _code() -> str:
    """Return a digest of the code that prepares data."""
    rooms, digest = (Path(__file__).parent, Path(__file__).parents[1] / "component"), hashlib.sha256()
    for path in (path for room in rooms for path in sorted(room.glob("*.py"))):
        digest.update(path.read_bytes())
    return f"{__version__} {digest.hexdigest()}"


def find_prepared(folder: Path, inputs: str) -> PreparedDataset | None:
    """Return what has been prepared from the same inputs, if it is there and whole."""
    for path in folder.glob(f"*/{MANIFEST}"):
        with suppress(Exception):  # whatever cannot be understood is as good as not there
            manifest = json.loads(path.read_bytes())
            rejects = path.with_name("rejects.jsonl")
            if (
                manifest["inputs"] == inputs
                and (before := whole_since(path.parent))
                # Of other sources with the same rows, if two callers have renewed them at once.
                and manifest["rejects"] == digest_of(rejects)
                and (not manifest["rejects"] or rejects.stat().st_mtime_ns <= path.stat().st_mtime_ns)
            ):
                return PreparedDataset.of(path.parent, manifest, before=before, read=False)
    return None


def digest_of(rejects: Path) -> str | None:
    """Return the SHA-256 of a file of rows set aside; None where there is none."""
    try:
        with rejects.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def whole_since(folder: Path) -> datetime | None:
    """Return since when a folder has the splits that its manifest lists, as far as sizes and times say; None if not.

    The manifest is the youngest, so what is younger has been changed by somebody since. Not so the rejects: another
    caller with the same rows may be about to renew them, and the manifest then.
    """
    with suppress(Exception):
        manifest, written = json.loads((folder / MANIFEST).read_bytes()), (folder / MANIFEST).stat().st_mtime_ns
        seen = {split: (folder / f"{split}.jsonl").stat() for split in SPLITS}
        if (
            manifest["content_hash"][:16] == folder.name
            and all(each.st_size == manifest["bytes"][split] for split, each in seen.items())
            and all(each.st_ctime_ns <= written for each in seen.values())
        ):
            return datetime.fromtimestamp(seen["train"].st_mtime, tz=UTC)
    return None
