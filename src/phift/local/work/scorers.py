"""The scoring processes: one per deployment, started when needed, spoken to in lines of JSON."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

from phift.local.ground import Ground
from phift.local.model import files
from phift.local.programs import InstantScorer
from phift.local.state.documents import Json
from phift.local.wire import WireError, timestamp
from phift.local.work.child import Child

START_SECONDS = 600.0  # importing torch takes minutes where many processes share a core; one that ends is told at once


class ScorerFailed(RuntimeError):
    """The scoring process did not start, ended, or refused a request."""


class ScorerGone(ScorerFailed):
    """The scoring process had ended before it was sent the request."""


class ScorerTimeout(TimeoutError):
    """The scoring process did not answer in time."""


class Scorer(Child):
    """One scoring process, which answers one request after the other."""

    def __init__(self, command: tuple[str, ...], log: Path) -> None:
        """Start the process and wait for its first line, which says whether the model could be loaded."""
        super().__init__(command, log)
        self._turn = threading.Lock()
        self._number = 0
        self._replies: SimpleQueue[Json] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            first = self._replies.get(timeout=START_SECONDS)
        except Empty:
            first = {"error": {"message": f"The model did not load within {START_SECONDS:.0f} s."}}
        if not first.get("ready"):
            self.stop()
            raise ScorerFailed((first.get("error") or {}).get("message") or "The scoring process ended at its start.")

    def _read(self) -> None:
        for reply in self.says():
            self._replies.put(reply)
        self._replies.put({"ended": True})

    def ask(self, request: Json, timeout: float) -> Json:
        """Send a request and return its reply; raises `ScorerTimeout`, and `ScorerFailed` where the process ends."""
        end, late = time.monotonic() + timeout, f"No answer within {timeout:.0f} s."
        if not self._turn.acquire(timeout=timeout):
            raise ScorerTimeout(late)
        try:
            self._number += 1
            self.stdin.write(json.dumps({"id": self._number, **request}).encode() + b"\n")
            self.stdin.flush()
            while True:  # a reply to a request that was given up may come first
                reply = self._replies.get(timeout=max(0, end - time.monotonic()))
                if "ended" in reply:
                    raise ScorerFailed("The scoring process ended while it worked on the request.")
                if reply.get("id") == self._number:
                    return reply
        except Empty:
            raise ScorerTimeout(late) from None
        except (OSError, ValueError) as error:
            raise ScorerGone("The scoring process has ended.") from error
        finally:
            self._turn.release()


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
            return scorer if scorer is not None and scorer.poll() is None else self.replace(deployment)

    def ask(self, deployment: str, request: Json, timeout: float) -> Json:
        """Ask the deployment's process, as `Scorer.ask`; who waited while it was replaced asks the new one."""
        scorer, end = self.get(deployment), time.monotonic() + timeout
        try:
            return scorer.ask(request, timeout)
        except ScorerGone:
            new = self._running.get(deployment.lower(), scorer)
            if new is scorer:
                raise
            return new.ask(request, max(0, end - time.monotonic()))

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
