"""How late the end of a job is noticed, how much of its log is read and how often the service is asked.

    python bench/follow.py [minutes of a job ...]

The SDK's own ``jobs.stream`` beside ``job.follow()`` and ``job.logs(follow=True)``, each on a job of its own, in one
workspace in this process. The clock is made up: a sleep moves it on and takes no time, so that what is shown follows
from how long each way waits between two looks, and from nothing else; answers take no time on it. A job begins to
train, writes a line of 100 bytes every ten seconds, and ends at four different moments for each length, of less than an
hour. The SDK's stream shows a pipeline's own log only, so the lines are written there; phift's logs has the steps' too.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import requests

from phift import FineTuneJob, FineTuneRun, RunConfig, samples
from phift.azure.clients import Clients
from phift.local.model.files import artifacts_of
from phift.local.names import ARTIFACTS
from phift.testing import Fault, TestWorkspace

LINE = 10.0  # seconds of training for a line
OFFSETS = (0.0, 13.7, 31.1, 47.9)  # seconds by which a job is longer
MINUTES = (3.0, 55.0)

real_sleep = time.sleep


@dataclass
class Clock:
    """A clock that only the main thread's sleeps move on, and the log of a job that grows with it.

    - **end**: when the job ends, in seconds from now.
    """

    log: Path
    end: float
    passed: float = 0.0
    written: float = 0.0

    def sleep(self, seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread():
            real_sleep(seconds)
            return
        passes_the_end = self.passed < self.end <= self.passed + seconds
        self.passed += seconds
        while self.written + LINE <= min(self.passed, self.end):
            self.written += LINE
            with self.log.open("a", encoding="ascii") as file:
                file.write(f"{self.written:8.0f} s {'training ' * 10}".ljust(99)[:99] + "\n")
        if passes_the_end:
            real_sleep(0.5)  # until the workspace has noticed

    @contextlib.contextmanager
    def instead(self) -> Iterator[None]:
        """Let it be the clock of this process."""
        begun = {name: getattr(time, name)() for name in ("time", "monotonic")}

        def shows(name: str) -> Callable[[], float]:
            return lambda: begun[name] + self.passed

        with (
            mock.patch("time.time", shows("time")),
            mock.patch("time.monotonic", shows("monotonic")),
            mock.patch("time.sleep", self.sleep),
        ):
            yield


@dataclass
class Asked:
    """What was asked of the service: requests, and bytes of logs."""

    requests: int = 0
    log_bytes: int = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        send = requests.Session.send

        def count(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            answer = send(session, request, **options)
            url = request.url or ""
            self.requests += 1
            if "executionlogs" in url and answer.ok:
                self.log_bytes += int(answer.headers.get("Content-Length") or 0)
            return answer

        with mock.patch("requests.Session.send", count):
            yield


def stream(clients: Clients, name: str) -> None:
    """The SDK's way; a job that failed, as these do, is an exception at its end."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        clients.workspace.jobs.stream(name)


def follow(clients: Clients, name: str) -> None:
    for _ in FineTuneJob(name, clients).follow():
        pass


def logs(clients: Clients, name: str) -> None:
    for _ in FineTuneJob(name, clients).logs(follow=True):
        pass


WAYS: dict[str, Callable[[Clients, str], None]] = {
    "SDK, jobs.stream": stream,
    "phift, job.follow()": follow,
    "phift, job.logs(follow=True)": logs,
}


def measure(
    workspace: TestWorkspace, run: FineTuneRun, seconds: float, way: Callable[[Clients, str], None]
) -> tuple[float, Asked, int]:
    """Have a job run for so long, and return how late its end was noticed, what was asked, and its log's size."""
    workspace.order(Fault("step chat_completion_finetune", delay=seconds, status=400))
    job = run.submit(fresh=True)
    moving = threading.Thread(target=workspace.advance, args=(150,))  # on to its beginning
    moving.start()
    begun = time.monotonic()
    while not any(step.status == "Running" for step in job.steps()):
        begun = time.monotonic()
    moving.join()
    folder = Path(workspace.connection.ca_bundle).parent
    log = folder / "blobs" / "storage" / ARTIFACTS / artifacts_of(job.name) / "logs/azureml/executionlogs.txt"
    clock, asked = Clock(log, end=seconds - (time.monotonic() - begun)), Asked()
    with clock.instead(), asked.counted():
        way(replace(workspace.clients, poll_seconds=15.0), job.name)
    workspace.clear_faults()
    return clock.passed - clock.end, asked, log.stat().st_size


def main(lengths: list[float]) -> None:
    logging.disable()
    with TestWorkspace(speed="manual") as workspace:
        folder = Path(workspace.connection.ca_bundle).parent / "bench"
        data = samples.write(folder / "elements")
        config = RunConfig(
            model="Phi-4-mini-instruct",
            compute="gpu-cluster",
            data={"train": data.train, "validation": data.validation, "test": data.test},
            work_dir=folder / "work",
        )
        run = FineTuneRun(config, workspace.clients)
        print(f"{'job of':>9}  {'way':<30}{'noticed after':>15}{'requests':>10}{'log read':>13}{'of':>10}")
        for minutes in lengths:
            for name, way in WAYS.items():
                found = [measure(workspace, run, minutes * 60 + offset, way) for offset in OFFSETS]
                late = [each[0] for each in found]
                _, asked, size = found[0]
                print(
                    f"{minutes:>5.0f} min  {name:<30}{min(late):>5.1f} to {max(late):4.1f} s"
                    f"{asked.requests:>10,}{asked.log_bytes / 1000:>10,.1f} kB{size / 1000:>7,.1f} kB"
                )


if __name__ == "__main__":
    main([float(each) for each in sys.argv[1:]] or [*MINUTES])
