"""The scoring processes: one per deployment, started when needed, spoken to in lines of JSON."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from phift.local.ground import Ground
from phift.local.model import files
from phift.local.pending import Pending, ScorerFailed, ScorerGone, ScorerTimeout
from phift.local.programs import InstantScorer
from phift.local.state.documents import Json
from phift.local.wire import WireError, timestamp
from phift.local.work.child import Child

START_SECONDS = 600.0  # importing torch takes minutes where many processes share a core; one that ends is told at once


class Scorer(Child):
    """One scoring process, which answers many requests at once."""

    def __init__(self, command: tuple[str, ...], log: Path) -> None:
        """Start the process and wait for its first line, which says whether the model could be loaded."""
        super().__init__(command, log)
        self._change = threading.Lock()  # of what is pending
        self._writing = threading.Lock()
        self._numbers = itertools.count(1)
        self._pending: dict[int, Pending] | None = {}
        self._replaced = False
        self._over = False  # it says no more, or hears no more: its end is seen here before the system tells of it
        start = self._pending[0] = Pending(START_SECONDS)
        threading.Thread(target=self._read, daemon=True).start()
        try:
            first = start.reply()
        except (ScorerFailed, ScorerTimeout) as error:
            what = error if isinstance(error, ScorerFailed) else f"The model did not load within {START_SECONDS:.0f} s."
            first = {"error": {"message": str(what)}}
        if not first.get("ready"):
            self.stop()
            raise ScorerFailed((first.get("error") or {}).get("message") or "The scoring process ended at its start.")

    def _read(self) -> None:
        for said in self.says():
            number = said.get("id", 0)
            with self._change:
                known = self._pending or {}
                pending = known.get(number) if "piece" in said else known.pop(number, None)
            if pending:  # else it was given up
                pending.say(said)
        with self._change:
            self._over = True
            left, self._pending = self._pending or {}, None
        for number, pending in left.items():
            when = "while it worked on the request" if number else "at its start"
            failed = ScorerGone if self._replaced else ScorerFailed
            pending.say(failed(f"The scoring process ended {when}."))

    def serves(self) -> bool:
        """Whether it may be asked still."""
        return not self._over and self.poll() is None

    def open(self, request: Json, timeout: float) -> Pending:
        """Send a request; raises `ScorerGone` where the process has ended already."""
        number = next(self._numbers)
        pending = Pending(timeout, lambda: self._take_back(number))
        with self._change:
            if self._pending is None:
                raise ScorerGone("The scoring process has ended.")
            self._pending[number] = pending
        try:
            self._write({"id": number, **request}, timeout)
        except ScorerTimeout:
            pending.close()
            raise
        except (OSError, ValueError) as error:
            self._over = True
            raise ScorerGone("The scoring process has ended.") from error
        return pending

    def _write(self, said: Json, timeout: float) -> None:
        line = json.dumps(said).encode() + b"\n"
        if not self._writing.acquire(timeout=timeout):  # a process that is stuck reads nothing
            raise ScorerTimeout(f"No answer within {timeout:.0f} s.")
        try:
            self.stdin.write(line)
            self.stdin.flush()
        finally:
            self._writing.release()

    def _take_back(self, number: int) -> None:
        with self._change:
            known = self._pending and self._pending.pop(number, None)
        if known:
            with suppress(OSError, ValueError):
                self._write({"id": number, "cancel": True}, 1)

    def stop(self) -> None:
        """End the process; who waits for an answer of it is told that it has been ended."""
        self._replaced = True
        super().stop()


class Scorers:
    """The scoring processes of all deployments, each by the key of the deployment's document, in any case."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._lock = threading.Lock()
        self._running: dict[str, Scorer | InstantScorer] = {}
        self._starting: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._in_flight: Counter[str] = Counter()

    def get(self, deployment: str) -> Scorer | InstantScorer:
        """Return the deployment's process, starting it where none runs; raises `ScorerFailed`."""
        key = deployment.lower()
        with self._lock:
            start = self._starting[key]
        with start:
            scorer = self._running.get(key)
            return scorer if scorer is not None and scorer.serves() else self.replace(deployment)

    def ask(self, deployment: str, request: Json, timeout: float) -> tuple[Json, Pending]:
        """Ask the deployment's process, and wait for what it says first: the reply, or a piece before it.

        Who found it gone, or waited while it was replaced, asks the new one. Raises `ScorerTimeout` and `ScorerFailed`.
        """
        scorer, end = self.get(deployment), time.monotonic() + timeout
        try:
            pending = scorer.open(request, timeout)
            return next(pending), pending
        except ScorerGone:
            if deployment.lower() not in self._running:  # it was ended for good
                raise
            pending = self.get(deployment).open(request, max(0, end - time.monotonic()))
            return next(pending), pending

    @contextmanager
    def slot(self, deployment: str, most: int) -> Iterator[None]:
        """Hold one of the requests that may be in flight for a deployment, or refuse it."""
        key = deployment.lower()
        with self._lock:
            if self._in_flight[key] >= most:
                raise WireError(429, "TooManyRequests", f"More than {most} requests are in flight.")
            self._in_flight[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_flight[key] -= 1

    def replace(self, deployment: str) -> Scorer | InstantScorer:
        """Start a new process for a deployment; the old one serves until the new one is ready."""
        key, scorer = deployment.lower(), self._start(deployment)
        with self._lock:
            old, self._running[key] = self._running.get(key), scorer
        if old is not None:
            old.stop()
        if self._ground.documents.get(deployment) is None:
            self.forget(deployment)
            raise ScorerFailed("The deployment was deleted while its scoring process started.")
        return scorer

    def _end(self, deployment: str) -> None:
        with self._lock:
            scorer = self._running.pop(deployment.lower(), None)
        if scorer is not None:
            scorer.stop()

    def forget(self, deployment: str) -> None:
        """End the deployment's process, and delete its log."""
        self._end(deployment)
        shutil.rmtree(self._folder(deployment), ignore_errors=True)

    def stop(self) -> None:
        """End all processes."""
        for deployment in tuple(self._running):
            self._end(deployment)

    def _folder(self, deployment: str) -> Path:
        _, endpoint, _, name = deployment.split("/")
        return self._ground.folder.deployment(endpoint, name)

    def log(self, deployment: str, text: str) -> None:
        """Write a line of our own into the deployment's log."""
        folder = self._folder(deployment)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{timestamp(self._ground.clock.now())} | {text}\n")

    def _start(self, deployment: str) -> Scorer | InstantScorer:
        document = self._ground.documents.get(deployment)
        if document is None:
            raise ScorerFailed("The deployment does not exist.")
        reference = document.body["properties"]["model"]
        try:
            model = files.resolve(self._ground, reference)
        except WireError as error:
            raise ScorerFailed(error.message) from error
        self.log(deployment, f"Starting the scoring process for {reference}")
        program, log = self._ground.programs.scorer, self._folder(deployment) / "log.txt"
        scorer = Scorer((*program, str(model)), log) if isinstance(program, tuple) else program()
        self.log(deployment, "The scoring process is ready")
        return scorer
