"""How long a full check takes when every request takes 200 ms, beside the same look-ups one after another.

    python bench/check_latency.py [rounds]

Both go through the real Azure ML SDK to a local workspace that waits 200 ms before it answers each request. "One
after another" runs the very same look-ups in one thread.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from phift import FineTuneRun, samples
from phift.azure.threads import SideBySide
from phift.config.run import RunConfig
from phift.local import LocalWorkspace

DELAY = 0.2


def timed(run: FineTuneRun) -> float:
    started = time.perf_counter()
    run.check()
    return time.perf_counter() - started


def one_thread(_most: int) -> SideBySide:
    return SideBySide(1)


def one_after_another(measure: Callable[[], float]) -> float:
    """Measure with one thread for each part of the check that has several."""
    with mock.patch("phift.plan.SideBySide", one_thread), mock.patch("phift.check.models.SideBySide", one_thread):
        return measure()


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workspace = LocalWorkspace(Path(folder) / "workspace", delay=DELAY)
        workspace.up()
        try:
            data = samples.write(Path(folder) / "elements")
            config = RunConfig(
                workspace={"local": workspace.folder},
                model="Phi-4-mini-instruct",
                compute="gpu-cluster",
                data={"train": data.train, "validation": data.validation, "test": data.test},
                parameters=dict(samples.PARAMETERS),
                work_dir=Path(folder) / "work",
            )
            run = FineTuneRun(config)
            run.check()  # imports and connections
            pairs = [(timed(run), one_after_another(lambda: timed(run))) for _ in range(rounds)]
        finally:
            workspace.down()
    together, apart = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = [first / second for first, second in pairs]
    print(f"each request answered after {DELAY * 1000:.0f} ms, {rounds} rounds, medians")
    print(f"full check           {together:6.2f} s")
    print(f"one after another    {apart:6.2f} s")
    print(f"ratio                {statistics.median(ratios):6.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
