"""What a local workspace remembers: a folder of files and one SQLite database of documents."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

Json = dict[str, Any]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    key TEXT PRIMARY KEY COLLATE NOCASE, body TEXT NOT NULL, created REAL NOT NULL, modified REAL NOT NULL);
CREATE TABLE IF NOT EXISTS metrics (
    run TEXT NOT NULL, key TEXT NOT NULL, value REAL, step INTEGER NOT NULL, time INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS metrics_by_run ON metrics (run, key);
"""


class UnsafePath(ValueError):
    """A name that would leave the folder it is meant for."""


def confined(base: Path, relative: str) -> Path:
    """Return ``base / relative``, refusing every name that could lie outside ``base``."""
    parts = PurePosixPath(relative).parts
    refused = not parts or relative.startswith("/") or "\\" in relative or any(ord(char) < 32 for char in relative)
    if refused or any(part in ("..", ".") or len(part.encode()) > 255 for part in parts):
        raise UnsafePath(f"not a path inside the folder: {relative!r}")
    path = base.joinpath(*parts)
    # A symbolic link inside the folder must not lead out of it either.
    if not path.resolve().is_relative_to(base.resolve()):
        raise UnsafePath(f"not a path inside the folder: {relative!r}")
    return path


@dataclass(frozen=True)
class Folder:
    """The places of one local workspace's state folder."""

    root: Path

    @property
    def secret(self) -> Path:
        """The random bytes that tokens, keys and signatures are made from."""
        return self.root / "secret"

    @property
    def bundle(self) -> Path:
        """The machine's certificate authorities and ours, for ``REQUESTS_CA_BUNDLE``."""
        return self.root / "bundle.pem"

    @property
    def server_file(self) -> Path:
        """Who serves this folder, and where; there while a server listens."""
        return self.root / "server.json"

    @property
    def server_lock(self) -> Path:
        """Locked by the serving process as long as it lives."""
        return self.root / "server.lock"

    @property
    def log(self) -> Path:
        """What the server writes to its output."""
        return self.root / "server.log"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "state.db"

    @property
    def registry(self) -> Path:
        """The stand-in models, one folder each."""
        return self.root / "registry"

    @property
    def blobs(self) -> Path:
        """The storage account's files: ``<account>/<container>/<path>``."""
        return self.root / "blobs"

    @property
    def staging(self) -> Path:
        """Uploads that are not complete yet."""
        return self.root / "staging"

    def job(self, name: str) -> Path:
        """Return the folder of one job."""
        return confined(self.root / "jobs", name)

    def deployment(self, endpoint: str, name: str) -> Path:
        """Return the folder of one deployment."""
        return confined(self.root / "endpoints", f"{endpoint}/{name}")


@dataclass(frozen=True)
class Document:
    """One stored JSON object with its key and times (seconds since 1970)."""

    key: str
    body: Json
    created: float
    modified: float

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]


class Documents:
    """JSON objects by path-like key, and the metrics of runs, in one SQLite file.

    Keys compare without regard to case, as Azure's resource ids do. Every write is one transaction, so killing the
    process loses nothing that was acknowledged.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside one atomic step; nests."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def get(self, key: str) -> Document | None:
        """Return the document, or None."""
        with self._lock:
            row = self._connection.execute(
                "SELECT key, body, created, modified FROM documents WHERE key = ?", (key,)
            ).fetchone()
        return Document(row[0], json.loads(row[1]), row[2], row[3]) if row else None

    def put(self, key: str, body: Json) -> Document:
        """Store a document; the time of its first creation stays."""
        now = self._now()
        with self._lock:
            self._connection.execute(
                "INSERT INTO documents VALUES (?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET body = excluded.body, modified = excluded.modified",
                (key, json.dumps(body), now, now),
            )
            stored = self.get(key)
        assert stored is not None, key  # noqa: S101 - it was written under the same lock
        return stored

    def update(self, key: str, change: Callable[[Json], None]) -> Document | None:
        """Apply ``change`` to a document's body in one transaction; None where there is no such document."""
        with self.transaction():
            found = self.get(key)
            if found is None:
                return None
            change(found.body)
            return self.put(key, found.body)

    def clear(self, keep: Collection[str] = ()) -> None:
        """Delete everything but the documents with these keys."""
        marks = ", ".join("?" * len(keep))
        with self.transaction():
            self._connection.execute(f"DELETE FROM documents WHERE key NOT IN ({marks})", tuple(keep))  # noqa: S608
            self._connection.execute("DELETE FROM metrics")

    def delete(self, key: str) -> bool:
        """Delete a document and everything below it; False where it was not there."""
        with self.transaction():
            there = self.get(key) is not None
            self._connection.execute("DELETE FROM documents WHERE key = ?", (key,))
            self._connection.execute("DELETE FROM documents WHERE key >= ? AND key < ?", _below(key))
        return there

    def children(self, parent: str) -> list[Document]:
        """Return the documents directly below ``parent``, oldest first."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT key, body, created, modified FROM documents "
                "WHERE key >= ? AND key < ? AND instr(substr(key, ?), '/') = 0 ORDER BY created, rowid",
                (*_below(parent), len(parent) + 2),
            ).fetchall()
        return [Document(row[0], json.loads(row[1]), row[2], row[3]) for row in rows]

    def add_metrics(self, run: str, metrics: Iterable[tuple[str, float, int, int]]) -> None:
        """Append ``(key, value, step, milliseconds)`` rows to a run's metrics."""
        with self.transaction():
            self._connection.executemany(
                "INSERT INTO metrics VALUES (?, ?, ?, ?, ?)", [(run, *metric) for metric in metrics]
            )

    def metrics(self, run: str, key: str | None = None) -> list[tuple[str, float | None, int, int]]:
        """Return a run's metrics in the order they were logged; a value that is not a number is None."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT key, value, step, time FROM metrics WHERE run = ?1 AND (?2 IS NULL OR key = ?2) ORDER BY rowid",
                (run, key),
            ).fetchall()
        return [(row[0], row[1], row[2], row[3]) for row in rows]


def _below(parent: str) -> tuple[str, str]:
    """Return the bounds of the keys below ``parent``; "0" is the character after "/"."""
    return f"{parent}/", f"{parent}0"
