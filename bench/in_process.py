"""What tests wait for: a clean workspace in this process, one call, and a whole chain.

    python bench/in_process.py [rounds]

A chain is: check, upload, a job of the instant engine, registration, deployment, a question, deletion. The first round,
in which the SDK is imported, is left out; seconds of the clock and of the processor, medians.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phift import FineTuneRun, RunConfig, samples
from phift.azure.clients import Clients
from phift.testing import TestWorkspace

Times = dict[str, list[tuple[float, float]]]


@contextmanager
def timed(times: Times, what: str) -> Iterator[None]:
    clock, processor = time.perf_counter(), time.process_time()
    yield
    times.setdefault(what, []).append((time.perf_counter() - clock, time.process_time() - processor))


def chain(folder: Path, clients: Clients) -> None:
    data = samples.write(folder / "elements")
    config = RunConfig(
        model="Phi-4-mini-instruct",
        compute="gpu-cluster",
        data={"train": data.train, "validation": data.validation, "test": data.test},
        work_dir=folder / "work",
    )
    run = FineTuneRun(config, clients)
    run.check()
    run.submit()
    run.wait()
    run.register()
    endpoint = run.deploy()
    endpoint.chat("How do chemists write gold?")
    endpoint.delete()


def main(rounds: int) -> None:
    times: Times = {}
    for _ in range(rounds + 1):
        workspace = TestWorkspace()
        with tempfile.TemporaryDirectory() as folder:
            with timed(times, "a new workspace, opened"):
                workspace.start()
            with timed(times, "its clients, and a first call"):
                workspace.client.compute.get("gpu-cluster")
            with timed(times, "another call"):
                workspace.client.compute.get("gpu-cluster")
            with timed(times, "a whole chain"):
                chain(Path(folder), workspace.clients)
            with timed(times, "reset"):
                workspace.reset()
            with timed(times, "closed"):
                workspace.stop()
    print(f"{rounds} rounds, medians        clock   processor")
    for what, measured in times.items():
        clock, processor = (statistics.median(column) for column in zip(*measured[1:], strict=True))
        print(f"{what:30}{clock:7.3f} s {processor:8.3f} s")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
