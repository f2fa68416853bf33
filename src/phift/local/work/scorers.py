"""The scoring processes: one per deployment, started when needed, spoken to in lines of JSON."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager, suppress
from pathlib import Path

from phift.local.ground import Ground
from phift.local.model import references
from phift.local.programs import InstantScorer
from phift.local.state.documents import Json
from phift.local.wire.call import WireError, timestamp

logger = logging.getLogger(__name__)

START_SECONDS = 600.0  # importing torch takes minutes where many processes share a core; one that ends is told at once
_PATIENCE = 3.0


class ScorerFailed(RuntimeError):
    """The scoring process did not start, ended, or refused a request."""


class ScorerTimeout(TimeoutError):
    """The scoring process did not answer in time."""


class Scorer:
    """One scoring process. Answers are matched to requests by number, so many may wait at once."""

    def __init__(self, command: list[str], log: Path) -> None:
        """Start the process and wait for its first line, which says whether the model could be loaded."""
        self._lock = threading.Lock()
        ready: Future[Json] = Future()
        self._waiting: dict[int | None, Future[Json]] = {None: ready}
        self._number = 0
        with log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own program; the model is only a folder's path
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        threading.Thread(target=self._read, daemon=True).start()
        try:
            first = ready.result(START_SECONDS)
        except FutureTimeoutError:
            self.stop()
            raise ScorerFailed(f"The model did not load within {START_SECONDS:.0f} s.") from None
        except ScorerFailed:
            first = {}
        if not first.get("ready"):
            self.stop()
            raise ScorerFailed((first.get("error") or {}).get("message") or "The scoring process ended at its start.")

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def ask(self, request: Json, timeout: float) -> Json:
        """Send a request and return its reply."""
        future: Future[Json] = Future()
        with self._lock:
            self._number += 1
            number = self._number
            self._waiting[number] = future
            try:
                assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
                self._process.stdin.write(json.dumps({"id": number, **request}).encode() + b"\n")
                self._process.stdin.flush()
            except (OSError, ValueError) as error:
                del self._waiting[number]
                raise ScorerFailed("The scoring process has ended.") from error
        try:
            return future.result(timeout)
        except FutureTimeoutError:
            raise ScorerTimeout(f"No answer within {timeout:.0f} s.") from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    def stop(self) -> None:
        """End the process: close its input, kill it if it stays."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        with suppress(OSError):  # it may be gone already
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        with self._process.stdout as lines:
            for line in lines:
                try:
                    reply = json.loads(line)
                    number = reply.get("id")
                except (ValueError, AttributeError):
                    logger.warning("a scoring process wrote a line that is no JSON object")
                    continue
                with self._lock:
                    future = self._waiting.get(number)
                if future is not None and not future.done():
                    future.set_result(reply)
        with self._lock:
            waiting = list(self._waiting.values())
        for future in waiting:
            if not future.done():
                future.set_exception(ScorerFailed("The scoring process ended while it worked on the request."))


class Scorers:
    """The scoring processes of all deployments; one that is not there is started when it is asked."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._lock = threading.Lock()
        self._running: dict[str, Scorer | InstantScorer] = {}
        self._starting: dict[str, threading.Lock] = {}
        self._in_flight: Counter[str] = Counter()

    def get(self, endpoint: str, name: str) -> Scorer | InstantScorer:
        """Return the deployment's process, starting it where none runs; raises `ScorerFailed`."""
        key = f"{endpoint}/{name}".lower()
        with self._lock:
            start = self._starting.setdefault(key, threading.Lock())
        with start:
            with self._lock:
                scorer = self._running.get(key)
            if scorer is None or not scorer.alive:
                scorer = self._start(endpoint, name)
                with self._lock:
                    self._running[key] = scorer
            return scorer

    @contextmanager
    def slot(self, endpoint: str, name: str, most: int) -> Iterator[None]:
        """Hold one of the requests that may be in flight for a deployment, or refuse it."""
        key = f"{endpoint}/{name}".lower()
        with self._lock:
            if self._in_flight[key] >= most:
                raise WireError(429, "TooManyRequests", f"More than {most} requests are in flight.")
            self._in_flight[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_flight[key] -= 1

    def replace(self, endpoint: str, name: str) -> None:
        """Start a new process for a deployment; the old one serves until the new one is ready."""
        scorer = self._start(endpoint, name)
        key = f"{endpoint}/{name}".lower()
        with self._lock:
            old = self._running.get(key)
            self._running[key] = scorer
        if old is not None:
            old.stop()

    def end(self, endpoint: str, name: str) -> None:
        """End the deployment's process."""
        with self._lock:
            scorer = self._running.pop(f"{endpoint}/{name}".lower(), None)
        if scorer is not None:
            scorer.stop()

    def stop(self) -> None:
        """End all processes."""
        with self._lock:
            running, self._running = list(self._running.values()), {}
        for scorer in running:
            scorer.stop()

    def log(self, endpoint: str, name: str, text: str) -> None:
        """Write a line of our own into the deployment's log."""
        folder = self._ground.folder.deployment(endpoint, name)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{timestamp(self._ground.clock.now())} | {text}\n")

    def _start(self, endpoint: str, name: str) -> Scorer | InstantScorer:
        document = self._ground.documents.get(f"onlineEndpoints/{endpoint}/deployments/{name}")
        if document is None:
            raise ScorerFailed("The deployment does not exist.")
        try:
            model = references.resolve(self._ground, document.body["properties"]["model"])
        except WireError as error:
            raise ScorerFailed(error.message) from error
        self.log(endpoint, name, f"Starting the scoring process for {document.body['properties']['model']}")
        program, log = self._ground.programs.scorer, self._ground.folder.deployment(endpoint, name) / "log.txt"
        scorer = Scorer([*program, str(model)], log) if isinstance(program, tuple) else program(model)
        self.log(endpoint, name, "The scoring process is ready")
        return scorer
