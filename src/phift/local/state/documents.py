"""What a local workspace remembers: one SQLite database of documents, and of the metrics of runs."""

from __future__ import annotations

import base64
import errno
import heapq
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Json = dict[str, Any]

# An index serves a query only where both spell an expression in the same way.
_PARENT = "rtrim(key, replace(key, '/', '')) COLLATE NOCASE"  # "jobs/" of "jobs/one"
_PARENT_RUN = "json_extract(body, '$.parentRunId')"
# Of runs, the jobs' own: neither those of their steps nor those that somebody made through MLflow.
_IS_JOB = f"{_PARENT_RUN} IS NULL AND json_extract(body, '$.ofMlflow') IS NULL"
_STATUS = "json_extract(body, '$.status')"
_EXPERIMENT = "json_extract(body, '$.experimentId')"
_START = "ifnull(json_extract(body, '$.startTimeUtc'), '')"
_INSTANCE_TYPE = "json_extract(body, '$.properties.instanceType')"
_CAPACITY = "json_extract(body, '$.sku.capacity')"

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS documents (
    key TEXT PRIMARY KEY COLLATE NOCASE, body TEXT NOT NULL, created REAL NOT NULL, modified REAL NOT NULL);
CREATE INDEX IF NOT EXISTS documents_by_parent ON documents ({_PARENT}, created);
DROP INDEX IF EXISTS documents_by_status; -- of before 2026-12, when all runs were of jobs
CREATE INDEX IF NOT EXISTS jobs_by_status ON documents ({_PARENT}, {_STATUS}, created) WHERE {_IS_JOB};
CREATE INDEX IF NOT EXISTS runs_by_experiment ON documents ({_EXPERIMENT}, {_START}) WHERE {_EXPERIMENT} IS NOT NULL;
CREATE INDEX IF NOT EXISTS runs_by_parent ON documents ({_PARENT_RUN}, {_START}) WHERE {_PARENT_RUN} IS NOT NULL;
CREATE INDEX IF NOT EXISTS instances ON documents (key, {_INSTANCE_TYPE}, {_CAPACITY})
    WHERE {_INSTANCE_TYPE} IS NOT NULL;
CREATE TABLE IF NOT EXISTS metrics (
    run TEXT NOT NULL, key TEXT NOT NULL, value REAL, step INTEGER NOT NULL, time INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS metrics_by_run ON metrics (run, key);
CREATE INDEX IF NOT EXISTS metrics_by_step ON metrics (run, key, step DESC);
"""
_METRICS = "SELECT key, value, step, time, rowid FROM metrics WHERE run = ?"
# In the order of SQLite's types every number and text lies between these two.
_FIRST, _LAST = float("-inf"), b""


def found_no_room(error: BaseException) -> bool:
    """Tell whether what failed is a write for which the disk, or the user's share of it, has no room."""
    if isinstance(error, sqlite3.Error):
        # The database's file, its log, and the index of the log.
        codes = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
        return getattr(error, "sqlite_errorcode", None) in codes
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UnknownPosition(ValueError):
    """A text that is no place in a list."""


@dataclass(frozen=True)
class Document:
    """One stored JSON object with its key and times (seconds since 1970)."""

    key: str
    body: Json
    created: float
    modified: float
    # For one out of a list, what the list is sorted by, and the row.
    place: tuple[Any, int] = field(default=("", 0), compare=False)

    @property
    def position(self) -> str:
        """For one out of a list, the text with which the list goes on behind it."""
        return base64.urlsafe_b64encode(json.dumps(self.place).encode()).decode()

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]


class Metric(NamedTuple):
    """One logged point; a value that is not a number is None, and ``row`` grows with every point."""

    key: str
    value: float | None
    step: int
    milliseconds: int
    row: int


class Documents:
    """JSON objects by path-like key, and the metrics of runs, in one SQLite file.

    Keys compare without regard to case, as Azure's resource ids do. Every write is one transaction, so killing the
    process loses nothing that was acknowledged. A power cut may lose the last writes, never a part of one: the file is
    synchronized at checkpoints only (https://www.sqlite.org/pragma.html#pragma_synchronous, 2026-11).
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error:
            self._connection.close()
            raise

    def check(self) -> None:
        """Read the whole file; raises `sqlite3.DatabaseError` where a part of it is damaged."""
        [(found,)] = self._rows("PRAGMA quick_check(1)")
        if found != "ok":
            raise sqlite3.DatabaseError(found)

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
            with self._connection:  # rolls back what was not committed, also where a full disk makes the commit fail
                self._connection.execute("BEGIN IMMEDIATE")
                yield

    def get(self, key: str) -> Document | None:
        """Return the document, or None."""
        for name, body, *times in self._rows("SELECT key, body, created, modified FROM documents WHERE key = ?", key):
            return Document(name, json.loads(body), *times)
        return None

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

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

    def update(self, key: str, change: Callable[[Json], None]) -> None:
        """Apply ``change`` to a document's body in one transaction, where there is such a document."""
        with self.transaction():
            if found := self.get(key):
                change(found.body)
                self.put(key, found.body)

    def clear(self, keep: str) -> None:
        """Delete everything but one document."""
        with self.transaction():
            self._connection.execute("DELETE FROM documents WHERE key <> ?", (keep,))
            self._connection.execute("DELETE FROM metrics")

    def delete(self, key: str) -> bool:
        """Delete a document and everything below it; False where there was nothing."""
        query = "DELETE FROM documents WHERE key = ? OR key >= ? AND key < ?"
        with self._lock:
            return self._connection.execute(query, (key, *_below(key))).rowcount > 0

    def walk(self, parent: str, *, after: str = "", newest_first: bool = False, chunk: int = 64) -> Iterator[Document]:
        """Yield the documents directly below ``parent``, in the order in which they were made.

        Those that are made meanwhile shift nothing: each that was there at the beginning comes once.

        - **after**: the `Document.position` of the last one that is known already; raises `UnknownPosition`.
        - **chunk**: how many are read at once.
        """
        return self._walk(f"{_PARENT} = ?", (f"{parent}/",), "created", after, newest_first, chunk)

    def in_status(self, parent: str, *statuses: str) -> Iterator[Document]:
        """Yield the documents directly below ``parent`` in one of these, oldest first; of runs, the jobs' own."""
        where = f"{_PARENT} = ? AND {_IS_JOB} AND {_STATUS} = ?"
        found = (self._walk(where, (f"{parent}/", status), "created") for status in statuses)
        return heapq.merge(*found, key=lambda document: document.place)

    def runs_of(self, experiment: str, *, after: str = "", newest_first: bool = True) -> Iterator[Document]:
        """Yield an experiment's runs in the order of their starts; those that have not started are the oldest."""
        return self._walk(f"{_EXPERIMENT} = ?", (experiment,), _START, after, newest_first)

    def runs_below(self, parent: str, *, after: str = "", newest_first: bool = True) -> Iterator[Document]:
        """Yield a run's child runs in the same order."""
        return self._walk(f"{_PARENT_RUN} = ?", (parent,), _START, after, newest_first)

    def _walk(
        self, where: str, values: tuple[str, ...], by: str, after: str = "", newest_first: bool = False, chunk: int = 64
    ) -> Iterator[Document]:
        sign, order = ("<", "DESC") if newest_first else (">", "ASC")
        place: tuple[Any, int] = (_LAST if newest_first else _FIRST, 0)
        if after:
            try:
                place = value, row = json.loads(base64.urlsafe_b64decode(after))
                good = isinstance(value, str | float) and isinstance(row, int) and 0 <= row < 2**63
            except (ValueError, TypeError, RecursionError):
                good = False
            if not good:
                raise UnknownPosition(f"not a place in a list: {after!r}")
        query = (
            f"SELECT key, body, created, modified, {by}, rowid FROM documents "  # noqa: S608 - ours
            f"WHERE {where} AND ({by}, rowid) {sign} (?, ?) ORDER BY {by} {order}, rowid {order} LIMIT {chunk}"
        )
        while rows := self._rows(query, *values, *place):
            for key, body, created, modified, value, row in rows:
                place = value, row
                yield Document(key, json.loads(body), created, modified, place)

    def count_by_status(self, parent: str) -> dict[str, int]:
        """Return how many documents directly below ``parent`` have which status; of runs, only the jobs' own count."""
        where = f"{_PARENT} = ? AND {_IS_JOB} GROUP BY {_STATUS}"
        return dict(self._rows(f"SELECT {_STATUS}, count(*) FROM documents WHERE {where}", f"{parent}/"))  # noqa: S608 - our own names

    def instances(self) -> list[tuple[str, str, int]]:
        """Return key, instance type and number of instances of every deployment."""
        query = (
            f"SELECT key, {_INSTANCE_TYPE}, {_CAPACITY} FROM documents "  # noqa: S608 - our own names
            f"WHERE key >= ? AND key < ? AND {_INSTANCE_TYPE} IS NOT NULL"
        )
        return [(str(row[0]), str(row[1]), int(row[2])) for row in self._rows(query, *_below("onlineEndpoints"))]

    def add_metrics(self, run: str, metrics: Iterable[tuple[str, float, int, int]]) -> None:
        """Append ``(key, value, step, milliseconds)`` rows to a run's metrics."""
        with self.transaction():
            rows = [(run, *metric) for metric in metrics]
            self._connection.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?)", rows)

    def metrics(self, run: str, key: str, *, after: int = 0, limit: int = -1) -> list[Metric]:
        """Return a metric's points in the order they were logged, behind the one in a row, and all if not limited."""
        query = f"{_METRICS} AND key = ? AND rowid > ? ORDER BY rowid LIMIT ?"
        return [Metric(*row) for row in self._rows(query, run, key, after, limit)]

    def forget_metrics(self, run: str) -> None:
        """Delete all points of a run."""
        with self._lock:
            self._connection.execute("DELETE FROM metrics WHERE run = ?", (run,))

    def latest_metrics(self, run: str) -> list[Metric]:
        """Return each metric's point of the highest step, and of these the one logged last."""
        # One look into the index for each metric, however many points it has.
        query = f"{_METRICS} AND key > ? ORDER BY key, step DESC, rowid DESC LIMIT 1"
        latest: list[Metric] = []
        while rows := self._rows(query, run, latest[-1].key if latest else _FIRST):
            latest.append(Metric(*rows[0]))
        return latest


def _below(parent: str) -> tuple[str, str]:
    """Return the bounds of the keys below ``parent``; "0" is the character after "/"."""
    return f"{parent}/", f"{parent}0"
