"""A folder fetched from storage: piece by piece, several at once, checked, and taken up again where it broke off.

Beside the files, in a folder of its own until all is there, lies what tells how far it has come: one file that is not
whole yet, and a journal of what is, and of each piece of that file. What is whole gets its name at once, and never
before. When all is there, a manifest says what it is and where it comes from.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import xxhash

from phift.azure.downloads import refuse_names, refuse_size
from phift.azure.storage import PIECE, StoredFile
from phift.azure.threads import SideBySide
from phift.errors import Conflict, NotFound, PhiftError, ServiceError, isolated
from phift.jobs.manifest import MANIFEST, read_manifest, write_manifest

STATE = ".phift-download"
"""The folder of what is not whole yet, in the one that is written to; it goes when all is there."""

# Where MLflow's transformers flavor puts them, and Azure's hftransformersv2 (azureml-assets, the component's
# model_selector_utils.py, read 2026-11-30); last, a plain folder.
_WEIGHTS = ("model", "data/model", ".")
_TOKENIZERS = ("components/tokenizer", "data/tokenizer", *_WEIGHTS)

_THREADS = 10  # as many connections as an HTTP client keeps
_AHEAD = 14  # pieces asked for or waiting to be written; each is there twice for a moment
_LOOK = 0.2  # seconds between two looks whether somebody else is done
_KEPT = "run again: what has come so far is kept"
_REFUSED = {
    errno.ENOSPC: ("The disk is full", f"make room, and {_KEPT}"),
    errno.EDQUOT: ("The disk's quota is used up", f"make room, and {_KEPT}"),
    errno.EROFS: ("The disk is read-only", "choose a folder on another disk"),
    errno.EACCES: ("The folder may not be written to", "choose a folder of your own, or have its rights changed"),
    errno.EPERM: ("The folder may not be written to", "choose a folder of your own, or have its rights changed"),
    errno.ENAMETOOLONG: ("A name is too long for this disk", "choose a folder with a shorter path"),
    errno.ENOTDIR: ("A file is where a folder is to be", "choose an empty folder"),
    errno.EEXIST: ("A file is where a folder is to be", "choose an empty folder"),
}

OnDownload = Callable[["DownloadProgress"], None]


@dataclass(frozen=True, kw_only=True)
class DownloadProgress:
    """How far a download has come.

    - **stage**: ``waits`` for somebody else who fetches into the folder, ``known`` where all was there already,
      ``fetch`` while it comes and ``done`` at its end.
    - **source**: what is fetched.
    - **bytes**, **files**: what is there; those of an earlier try too.
    - **total_bytes**, **total_files**: what will be there.
    """

    kind: ClassVar[Literal["download"]] = "download"
    stage: Literal["waits", "known", "fetch", "done"]
    source: str
    bytes: int
    total_bytes: int
    files: int
    total_files: int
    time: datetime = field(default_factory=partial(datetime.now, UTC), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return {"event": self.kind, **asdict(self), "time": self.time.isoformat()}


@dataclass(frozen=True, kw_only=True)
class Download:
    """What has been fetched.

    - **fetched**: bytes that came over the network this time; what an earlier try had left is not among them.
    - **known**: whether all of it was there already.
    """

    folder: Path
    files: int
    bytes: int
    fetched: int
    known: bool

    @property
    def manifest(self) -> dict[str, Any]:
        """What the folder's ``phift-manifest.json`` says."""
        return read_manifest(self.folder)

    @property
    def weights(self) -> Path:
        """The folder of a model that ``transformers`` opens; raises `phift.errors.NotFound` where there is none."""
        return weights_of(self.folder)

    @property
    def tokenizer(self) -> Path:
        """The folder of a model's tokenizer; raises `phift.errors.NotFound` where there is none."""
        return tokenizer_of(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return {**asdict(self), "folder": str(self.folder)}


def weights_of(folder: Path) -> Path:
    """Return where a model has what ``transformers`` opens; raises `phift.errors.NotFound` where that is nowhere."""
    return _first(folder, _WEIGHTS, ("config.json",))


def tokenizer_of(folder: Path) -> Path:
    """Return where a model has its tokenizer; raises `phift.errors.NotFound` where that is nowhere."""
    return _first(folder, _TOKENIZERS, ("tokenizer_config.json", "tokenizer.json"))


def _first(folder: Path, below: tuple[str, ...], names: tuple[str, ...]) -> Path:
    for each in (folder / place for place in below):
        if any((each / name).is_file() for name in names):
            return each
    raise NotFound("It is no model of transformers.", where=str(folder), fix="look at its MLmodel")


def fetch(
    folder: Path,
    files: Mapping[str, StoredFile],
    origin: Mapping[str, str],
    about: Callable[[Path], Mapping[str, Any]],
    on_event: OnDownload | None = None,
) -> Download:
    """Fetch files into a folder, and write its manifest.

    - **files**: by their paths below the folder.
    - **origin**: what is fetched; a folder takes no other one afterwards.
    - **about**: makes the rest of the manifest once the files are there.

    Raises `phift.errors.NotFound` where there are no files, `phift.errors.Conflict` where one changes meanwhile or the
    folder holds something else, `phift.errors.ServiceError` for names that leave the folder and for what is not what
    storage says it is, and `phift.errors.PhiftError` where the file system refuses.
    """
    wanted = {path: file for path, file in files.items() if path != MANIFEST}  # of one fetched before it was registered
    if not wanted:
        fix = "look at the job's page in the studio for what it has left"
        raise NotFound("There are no files to fetch.", where=" ".join(origin.values()), fix=fix)
    if inside := [path for path in wanted if path.partition("/")[0].lower() == STATE]:
        what = f"Nothing was downloaded: {inside[0]} would be written where what is not whole yet lies."
        raise ServiceError(what, where=str(folder), fix="fetch its files one by one with azure-storage-blob")
    refuse_names((f"/{path}" for path in wanted), folder)
    try:
        return _Folder(folder, wanted, dict(origin), isolated(on_event)).fill(about)
    except PhiftError:  # some of which are an OSError too
        raise
    except OSError as error:
        what, fix = _REFUSED.get(error.errno or 0, (f"The file system refuses: {error.strerror or error}", _KEPT))
        raise PhiftError(f"{what}.", where=str(error.filename or folder), fix=fix) from error


class _Piece:
    """A piece of a file, and its digest once it has been fetched."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self.content, self.digest = b"", ""

    def fetch(self) -> None:
        self.content = self._read()
        self.digest = _digest(self.content)


def _digest(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)  # of our own writing, so that it need not withstand anybody


class _Part:
    """The one file that is not whole yet: its hashes so far, and how many of its pieces are there."""

    def __init__(self, path: str, file: StoredFile) -> None:
        self.path, self.file = path, file
        self.sha256, self.md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self.pieces: list[str] = []  # their digests

    def add(self, content: bytes, digest: str) -> None:
        self.sha256.update(content)
        if self.file.md5:
            self.md5.update(content)
        self.pieces.append(digest)

    @property
    def size(self) -> int:
        return min(len(self.pieces) * PIECE, self.file.size)

    def to_come(self) -> Iterator[_Piece]:
        for start in range(self.size, self.file.size, PIECE):
            yield _Piece(partial(self.file.read, start, min(PIECE, self.file.size - start)))

    @property
    def is_right(self) -> bool:
        """Whether the whole file has the hash that storage says, if that says any."""
        return self.file.md5 in (None, self.md5.digest())


class _Folder:
    """A folder that is being filled."""

    def __init__(
        self, folder: Path, wanted: Mapping[str, StoredFile], origin: dict[str, str], tell: Callable[[Any], None]
    ) -> None:
        self._folder, self._wanted, self._origin, self._tell = folder, wanted, origin, tell
        self._state = folder / STATE
        self._journal, self._half = self._state / "journal", self._state / "part"
        self._done: dict[str, str] = {}  # the SHA-256 of each file that is there
        self._bytes = self._fetched = 0
        self._total = sum(file.size for file in wanted.values())

    def fill(self, about: Callable[[Path], Mapping[str, Any]]) -> Download:
        """Fetch what is not there yet."""
        if not self._state.exists() and self._is_known():
            return self._ended("known")
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if self._is_known():  # somebody else has fetched it meanwhile
                shutil.rmtree(self._state, ignore_errors=True)
                return self._ended("known")
            parts = self._parts()
            size = sum(part.file.size - part.size for part in parts)
            refuse_size(len(parts), size, self._folder)
            self._fetch(parts)
            files = [
                {"path": path, "size": file.size, "sha256": self._done[path], "etag": file.etag}
                for path, file in sorted(self._wanted.items())
            ]
            write_manifest(self._folder, {"origin": self._origin, **about(self._folder), "files": files})
            shutil.rmtree(self._state, ignore_errors=True)
        return self._ended("done")

    def _ended(self, stage: Literal["known", "done"]) -> Download:
        self._say(stage)
        return Download(
            folder=self._folder,
            files=len(self._wanted),
            bytes=self._bytes,
            fetched=self._fetched,
            known=stage == "known",
        )

    def _say(self, stage: Literal["waits", "known", "fetch", "done"]) -> None:
        event = DownloadProgress(
            stage=stage,
            source=" ".join(self._origin.values()),
            bytes=self._bytes,
            total_bytes=self._total,
            files=len(self._done),
            total_files=len(self._wanted),
        )
        self._tell(event)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock; whoever held it may have taken it away, so that it has to be there still."""
        import filelock

        lock, told = filelock.FileLock(self._state / "lock"), False
        while True:
            self._state.mkdir(exist_ok=True)
            try:
                with lock.acquire(timeout=0):
                    if (self._state / "lock").exists():
                        yield
                        return
            except filelock.Timeout:
                if not told:
                    self._say("waits")
                    told = True
                time.sleep(_LOOK)
            except FileNotFoundError:
                if self._state.exists():
                    raise

    # ------------------------------------------------------------ what is there

    def _is_known(self) -> bool:
        """Tell whether the manifest says that all is there, and it is."""
        manifest = read_manifest(self._folder)
        if manifest and manifest.get("origin") != self._origin:
            what = f"The folder holds something else: {' '.join(map(str, (manifest.get('origin') or {}).values()))}."
            raise Conflict(what, where=str(self._folder), fix="choose another folder, or delete this one")
        self._done, self._bytes = {}, 0
        for entry in manifest.get("files") or ():
            self._take(entry)
        return bool(manifest) and len(self._done) == len(self._wanted)

    def _take(self, entry: Mapping[str, Any]) -> None:
        """Take a file for what is wanted, if it was fetched in the very state that storage has, and is as it was."""
        path = str(entry.get("path"))
        file, target = self._wanted.get(path), self._folder / path
        if file is None or path in self._done or (entry.get("etag"), entry.get("size")) != (file.etag, file.size):
            return
        if not target.exists():
            return
        seen = target.stat()
        # Its time is a whole second, that of storage; a copy of the folder has another one, and what was changed too.
        if seen.st_size == file.size and (seen.st_mtime == file.modified or entry.get("sha256") == _sha256(target)):
            self._done[path] = str(entry.get("sha256"))
            self._bytes += file.size

    def _parts(self) -> list[_Part]:
        """Return what is still to come, the file that was begun first; raises for what would be overwritten."""
        ours = {str(entry.get("path")): entry for entry in read_manifest(self._folder).get("files") or ()}
        begun, pieces, last = "", [], ""
        for line in self._noted():
            if "sha256" in line:
                ours[line["path"]], last, begun = line, line["path"], ""
            elif "piece" in line:
                pieces.append(line["piece"])
            elif "path" in line:
                begun, pieces, last = line["path"] if self._is_state_of(line) else "", [], ""
        if last and self._is_state_of(ours[last]) and self._is_half(ours[last]):
            _put(self._half, self._folder / last)  # it was whole, and ended before it got its name
        for entry in ours.values():
            self._take(entry)
        left = [path for path in self._wanted if path not in self._done]
        for path in left:
            target = self._folder / path
            if target.is_dir() or (target.exists() and ours.get(path, {}).get("sha256") != _sha256(target)):
                what = "A file of this name is there, and is not as it was downloaded."
                raise Conflict(what, where=str(target), fix="move it away, or choose another folder")
        parts = [_Part(path, self._wanted[path]) for path in sorted(left, key=lambda path: (path != begun, path))]
        if parts and parts[0].path == begun:
            self._bytes += self._resume(parts[0], pieces)
        return parts

    def _is_state_of(self, entry: Mapping[str, Any]) -> bool:
        file = self._wanted.get(entry["path"])
        return file is not None and (entry.get("etag"), entry.get("size")) == (file.etag, file.size)

    def _is_half(self, entry: Mapping[str, Any]) -> bool:
        """Tell whether the file that has no name yet is this whole one; a part of the next one may lie there."""
        half = self._half
        return half.exists() and half.stat().st_size == entry["size"] and _sha256(half) == entry["sha256"]

    def _noted(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of the journal, if it is of this download; the last may have been cut off."""
        if not self._journal.exists():
            return
        with self._journal.open("rb") as lines:
            for number, line in enumerate(lines):
                try:
                    read = json.loads(line)
                except ValueError:
                    return
                if not isinstance(read, dict) or (number == 0 and read != {"origin": self._origin}):
                    return
                yield read

    def _resume(self, part: _Part, pieces: Iterable[str]) -> int:
        """Take the pieces of a part that are as they came, and return their bytes."""
        if self._half.exists():
            with self._half.open("rb") as half:
                for digest in pieces:
                    content = half.read(min(PIECE, part.file.size - part.size))
                    if not content or _digest(content) != digest:
                        break
                    part.add(content, digest)
        return part.size

    # ------------------------------------------------------------ what is to come

    def _fetch(self, parts: list[_Part]) -> None:
        """Fetch the parts in their order, a few pieces ahead of what is being written."""
        self._say("fetch")
        with self._new_journal() as journal, SideBySide(_THREADS) as side:
            coming = _ahead(side, (piece for part in parts for piece in part.to_come()))
            for part in parts:
                self._write(part, coming, journal)

    @contextmanager
    def _new_journal(self) -> Iterator[Callable[..., None]]:
        """Begin the journal anew with what is there; it is the old one until then."""
        new = self._journal.with_name("journal.new")
        with new.open("w", encoding="utf-8") as file:

            def note(**line: Any) -> None:
                file.write(f"{json.dumps(line)}\n")
                file.flush()

            note(origin=self._origin)
            for path, sha256 in self._done.items():
                note(**self._named(path), sha256=sha256)
            new.replace(self._journal)
            yield note

    def _named(self, path: str) -> dict[str, Any]:
        return {"path": path, "size": self._wanted[path].size, "etag": self._wanted[path].etag}

    def _write(self, part: _Part, coming: Iterator[_Piece], note: Callable[..., None]) -> None:
        note(**self._named(part.path))
        for digest in part.pieces:
            note(piece=digest)
        with self._half.open("r+b" if part.pieces else "wb") as half:
            half.truncate(part.size)
            half.seek(part.size)
            while part.size < part.file.size:
                piece = next(coming)
                _append(half, piece.content)
                part.add(piece.content, piece.digest)
                note(piece=piece.digest)
                self._bytes += len(piece.content)
                self._fetched += len(piece.content)
                self._say("fetch")
            if not part.is_right:
                note(**self._named(part.path))  # what has come of it counts for nothing
                fix = "run again; if it stays so, what lies in storage is broken"
                raise ServiceError("The file has another MD5 than storage says it has.", where=part.path, fix=fix)
            os.fsync(half.fileno())
        os.utime(self._half, (part.file.modified, part.file.modified))
        sha256 = part.sha256.hexdigest()
        note(**self._named(part.path), sha256=sha256)
        _put(self._half, self._folder / part.path)
        self._done[part.path] = sha256


def _ahead(side: SideBySide, pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    """Yield pieces in their order, having the next few fetched meanwhile."""
    coming: deque[tuple[_Piece, Future[None]]] = deque()

    def first() -> _Piece:
        piece, fetched = coming.popleft()
        fetched.result()
        return piece

    for piece in pieces:
        coming.append((piece, side.begin(piece.fetch)))
        if len(coming) >= _AHEAD:
            yield first()
    while coming:
        yield first()


def _append(half: IO[bytes], content: bytes) -> None:
    half.write(content)
    half.flush()  # before it is noted


def _put(half: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    half.replace(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
