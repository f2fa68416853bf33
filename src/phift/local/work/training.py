"""Runs jobs, one at a time: starts the training engine, follows its events, survives a restart of the server."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from phift.local.connection import without_proxy
from phift.local.ground import Ground
from phift.local.model import runs
from phift.local.names import ARM_RESOURCE
from phift.local.state.documents import Document
from phift.local.wire.call import WireError
from phift.local.wire.errors import of_fault
from phift.local.work import pipeline

logger = logging.getLogger(__name__)

# The engine ends by itself when its input closes; this is for one that does not.
_PATIENCE = 2.0
_TOKEN_SECONDS = 14 * 24 * 3600
_INTERRUPTED = "The local workspace stopped; the job goes on when it runs again."


class _PreEmpted(Exception):
    """The node was taken away, as has been ordered."""


class Training:
    """The queue of jobs and the engine process of the one that runs."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._documents = ground.documents
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._engine: subprocess.Popen[bytes] | None = None
        self._job: str | None = None
        self._ended = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="training", daemon=True)

    def start(self) -> None:
        """Take up what a server before us left, then run what waits."""
        self._recover()
        self._thread.start()

    def submitted(self, name: str) -> None:
        """Take a new job into the queue."""
        with self._lock:
            if self._job is not None:
                runs.set_status(self._ground, name, "Queued")
        self._wake.set()

    def cancel(self, name: str) -> None:
        """Cancel a job whose status is CancelRequested already, and wait until it has ended."""
        with self._lock:
            running = self._job == name
        if running:
            self._ground.clock.wake()
            self._stop_engine()
            with self._ended:
                running = not self._ended.wait_for(lambda: self._job != name, timeout=_PATIENCE * 4)
        # One that nobody works on, or that was being put back into the queue when it was given up.
        if not running and self._status(name) == "CancelRequested":
            runs.end(self._ground, name, "Canceled")

    def stop(self) -> None:
        """Stop the engine; its job goes on at the next start."""
        self._stopping.set()
        self._wake.set()
        self._ground.clock.wake()
        self._stop_engine()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE * 2)

    def reset(self) -> None:
        """Stop the engine and forget the queue; returns when nobody works on a job any more."""
        for status in (*runs.RUNNING, *runs.WAITING):
            for run in list(self._documents.in_status("runs", status)):
                runs.set_status(self._ground, run.name, "CancelRequested")
        self._ground.clock.wake()
        self._stop_engine()
        with self._ended:
            self._ended.wait_for(lambda: self._job is None, timeout=_PATIENCE * 4)

    def at_work(self) -> bool:
        """Tell whether a job goes on without the clock being moved."""
        return (self._job is not None or self._next() is not None) and not self._ground.clock.holds(self._thread)

    def _loop(self) -> None:
        """Run the job whose turn it is, or wait for one, until the server stops."""
        healthy = True
        while not self._stopping.is_set():
            try:
                if not healthy:
                    self._recover()
                    healthy = True
                self._wake.clear()
                if self._stopping.is_set():  # the call that woke us may have come before the line above
                    return
                job = self._next()
                if job is None:
                    self._wake.wait()
                    continue
                for run in list(self._documents.in_status("runs", "NotStarted")):
                    if run.name != job.name:
                        runs.set_status(self._ground, run.name, "Queued")
                self._take(job)
            except Exception:  # a full disk, above all: the queue must outlive it
                logger.exception("the queue of jobs failed; it is tried again in %.0f s", _PATIENCE)
                healthy = False
                self._stop_engine()
                self._stopping.wait(_PATIENCE)

    def _recover(self) -> None:
        """Give every job that nobody works on an end or a place in the queue."""
        for status in runs.RUNNING:
            for run in list(self._documents.in_status("runs", status)):
                self._leave(run.name, _INTERRUPTED)

    def _leave(self, name: str, why: str) -> None:
        """Put a job that was interrupted back into the queue, unless somebody has given it up."""
        with self._documents.transaction():  # nobody gives it up in between
            if self._status(name) == "CancelRequested":
                runs.end(self._ground, name, "Canceled")
            else:
                runs.put_back(self._ground, name, why)

    def _next(self) -> Document | None:
        """Return the oldest of the jobs that wait."""
        oldest = (next(self._documents.in_status("runs", status, chunk=1), None) for status in runs.WAITING)
        waiting = [run for run in oldest if run is not None]
        return self._documents.get(f"jobs/{min(waiting, key=lambda run: run.place).name}") if waiting else None

    def _status(self, name: str) -> str:
        run = self._documents.get(f"runs/{name}")
        return str(run.body["status"]) if run else "Canceled"

    def _take(self, job: Document) -> None:
        """Run a job, and give it an end or a place in the queue whatever happens."""
        ground, name = self._ground, job.name
        with self._lock:
            self._job = name
        try:
            self._run(job)
        except _PreEmpted:
            self._leave(name, "The node was pre-empted; the job is in the queue again.")
        except WireError as error:
            runs.end(ground, name, "Failed", {"code": error.code, "message": error.message})
        except Exception as error:
            logger.exception("job %s failed inside the local workspace", name)
            message = f"The local workspace could not run the job: {type(error).__name__}: {error}"
            runs.end(ground, name, "Failed", {"code": "SystemError", "message": message})
        finally:
            with self._ended:
                self._job = None
                self._ended.notify_all()

    def _run(self, job: Document) -> None:
        """Run a job's steps: the one that prepares its data, if it has one that is not completed, then the engine's."""
        ground, name, plan = self._ground, job.name, job.body["plan"]
        runs.set_status(ground, name, "Preparing")
        ground.clock.spend("job-start", lambda: self._stopping.is_set() or self._status(name) != "Preparing")
        if self._status(name) != "Preparing":
            # Somebody canceled it between the look at the queue and now.
            runs.end(ground, name, "Canceled")
            return
        runs.log(ground, name, f"The pipeline run {name} started with {len(runs.steps(plan))} steps.")
        pipeline.check_computes(ground, plan)
        code = 0
        child, asked = runs.children(ground, name)[0], plan.get("preparation")
        if asked and child.body["status"] != "Completed":
            file = pipeline.write_preparation(ground, name, child, asked)
            code = self._follow(name, file, ground.programs.preparation)
        if asked and code == 0:
            uris = pipeline.prepared_uris(asked, child.name)
            runs.set_outputs(ground, child.name, {key: {"from": key, "uri": uri} for key, uri in uris.items()})
        if code == 0:
            file, program = pipeline.write_job(ground, name, plan), ground.programs.engine
            code = self._follow(name, file, program) if isinstance(program, tuple) else self._here(name, program(file))
        if self._status(name) == "CancelRequested":
            runs.end(ground, name, "Canceled")
        elif code == 0:
            pipeline.finish(ground, name, plan)
        elif self._stopping.is_set():
            self._leave(name, _INTERRUPTED)
        elif code == 1:
            runs.end(ground, name, "Failed", runs.error_of_steps(ground, name))
        else:
            # An import error, say, is in no step's log.
            said = (ground.folder.job(name) / "engine.log").read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line.strip() for line in reversed(said) if line.strip()), "")
            message = f"The engine ended with exit code {code}. {last}".rstrip()
            runs.end(ground, name, "Failed", {"code": "SystemError", "message": message})

    def _follow(self, name: str, file: Path, program: tuple[str, ...]) -> int:
        """Run a program to its end and turn its events into states of the child runs."""
        ground, hosts = self._ground, without_proxy(os.environ)
        token, _ = ground.identity.token(ARM_RESOURCE, _TOKEN_SECONDS)
        environment = {**os.environ, "MLFLOW_TRACKING_TOKEN": token, "REQUESTS_CA_BUNDLE": str(ground.folder.bundle)}
        environment |= {"NO_PROXY": hosts, "no_proxy": hosts}
        with (file.parent / "engine.log").open("ab") as errors, self._lock:
            if self._stopping.is_set():
                return -signal.SIGTERM
            engine = subprocess.Popen(  # noqa: S603 - our own program; the job's content is only a file's path
                [*program, str(file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
            self._engine = engine
        if self._status(name) == "CancelRequested":
            self._stop_engine()
        assert engine.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            with engine.stdout:
                for line in engine.stdout:
                    event = None  # which is no event, and is told so below
                    with suppress(ValueError):
                        event = json.loads(line)
                    self._event(name, event)
        except Exception:
            self._stop_engine()
            raise
        finally:
            code = engine.wait()
            with self._lock:
                self._engine = None
            if engine.stdin is not None:
                engine.stdin.close()
        return code

    def _here(self, name: str, events: Iterator[dict[str, str]]) -> int:
        """Follow an engine that needs no process of its own; return the exit code that one would have."""
        for event in events:
            if self._stopping.is_set() or self._status(name) == "CancelRequested":
                return -signal.SIGTERM
            self._event(name, event)
        return 0

    def _event(self, name: str, event: Any) -> None:
        """Note what the engine says of a step, and do to one that has begun what has been ordered."""
        ground = self._ground
        try:
            step, status = event["name"], event["status"]
        except (KeyError, TypeError):
            logger.warning("the engine wrote a line that is no event")
            return
        child = next((run for run in runs.children(ground, name) if run.body["displayName"] == step), None)
        if child is None:
            logger.warning("the engine reported a step that the job does not have")
            return
        if status == "Running":
            runs.set_status(ground, name, "Running")
        runs.set_status(ground, child.name, status, error=event.get("error"))
        runs.log(ground, name, f"The step {step} is {status}.")
        fault = ground.faults.strike(f"step {step}") if status == "Running" else None
        if fault is None:
            return
        end = time.monotonic() + fault.delay
        while time.monotonic() < end and self._status(name) != "CancelRequested" and not self._stopping.wait(0.02):
            pass
        if not fault.status or self._status(name) == "CancelRequested":
            raise _PreEmpted
        error = of_fault(fault)
        runs.set_status(ground, child.name, "Failed", error={"code": error.code, "message": error.message})
        raise WireError(400, **runs.error_of_steps(ground, name))

    def _stop_engine(self) -> None:
        """Close the engine's input, which ends it; kill its whole group if it stays."""
        with self._lock:
            engine = self._engine
        if engine is None or engine.poll() is not None:
            return
        if engine.stdin is not None and not engine.stdin.closed:
            engine.stdin.close()
        try:
            engine.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            logger.warning("the engine did not end by itself; it is killed")
        with suppress(ProcessLookupError):  # also what the engine may have started itself, in its session
            os.killpg(engine.pid, signal.SIGKILL)
