"""Several callers at once, through the real SDK: each gets its own job, and the same run is one job for all of them.

``PHIFT_CALLERS=20`` repeats the same run twenty times at each latency; see ``make callers``.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import caller
import pytest

from phift import Clients, FineTuneRun, connect
from phift.local import LocalWorkspace

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("PHIFT_CALLERS", "1"))
LONG = pytest.mark.skipif("PHIFT_CALLERS" not in os.environ, reason="a proof of minutes: make callers")
THREADS, PROCESSES, RUNS = 8, 5, 40
Outcome = dict[str, Any]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ground:
    """A workspace that answers late, the clients of it, and a place for data."""

    folder: Path
    work: Path
    clients: Clients

    @property
    def data(self) -> Path:
        return self.work / "train.jsonl"

    def there(self) -> dict[str, int]:
        """Count what there is."""
        workspace = self.clients.workspace
        versions = [version for asset in workspace.data.list() for version in workspace.data.list(asset.name)]
        models = [version for model in workspace.models.list() for version in workspace.models.list(model.name)]
        endpoints = [each.name for each in workspace.online_endpoints.list()]
        deployments = [each for name in endpoints for each in workspace.online_deployments.list(name)]
        counted = {"jobs": list(workspace.jobs.list()), "data": versions, "models": models}
        return {**{k: len(v) for k, v in counted.items()}, "endpoints": len(endpoints), "deployments": len(deployments)}


@pytest.fixture(
    params=[0, pytest.param(0.05, marks=LONG), pytest.param(0.2, marks=LONG)], ids=["at once", "50 ms", "200 ms"]
)
def ground(request: pytest.FixtureRequest, tmp_path: Path, quiet_sdk: None, quiet_log: None) -> Iterator[Ground]:
    workspace = LocalWorkspace(tmp_path / "workspace", engine="instant", speed="fast", delay=request.param)
    workspace.up()
    try:
        ground = Ground(workspace.folder, tmp_path, connect(workspace={"local": workspace.folder}))
        caller.write_rows(ground.data)
        yield ground
    finally:
        workspace.down(timeout=0)


def check_rounds(ground: Ground, everybody: Callable[[int], list[Outcome]]) -> None:
    """Let everybody do the same run, again and again, each time another one."""
    for seed in range(ROUNDS):
        outcomes = everybody(seed)
        check_outcomes(outcomes)
        one_of_each = {"jobs": seed + 1, "data": 3, "models": seed + 1, "endpoints": 1, "deployments": 1}
        assert ground.there() == one_of_each
        FineTuneRun.attach(outcomes[0]["job"], ground.clients).cleanup()
    logger.info("%d rounds, each one job, one set of data assets, one model and one endpoint", ROUNDS)


def check_outcomes(outcomes: list[Outcome]) -> None:
    assert not [each["error"] for each in outcomes if "error" in each]
    assert [each["new"] for each in outcomes].count(True) == 1
    for kind in ("job", "model", "endpoint"):
        assert len({each[kind] for each in outcomes}) == 1, kind
    assert all(each["answered"] for each in outcomes)


def test_the_same_run_of_eight_threads_is_one(ground: Ground) -> None:
    def one(seed: int) -> Outcome:
        config = caller.configuration(ground.folder, ground.data, ground.work / "work", seed)
        return caller.whole_run(config, ground.clients)

    with ThreadPoolExecutor(THREADS) as pool:
        check_rounds(ground, lambda seed: list(pool.map(one, [seed] * THREADS)))


@contextmanager
def processes(ground: Ground) -> Iterator[Callable[[str], list[Outcome]]]:
    """Start several processes, and give what lets all of them do what a line says at once."""
    command = [sys.executable, "-W", "ignore", caller.__file__]
    command += [str(path) for path in (ground.folder, ground.data, ground.work / "work")]
    with ExitStack() as stack:
        callers = []
        for _ in range(PROCESSES):
            begun = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            callers.append(stack.enter_context(begun))
            stack.callback(begun.kill)

        def told(each: subprocess.Popen[str]) -> str:
            assert each.stdout is not None
            return each.stdout.readline()

        def everybody(line: str) -> list[Outcome]:
            for each in callers:
                assert each.stdin is not None
                each.stdin.write(f"{line}\n")
                each.stdin.flush()
            return [json.loads(told(each)) for each in callers]

        assert [told(each) for each in callers] == ["ready\n"] * PROCESSES
        yield everybody


@LONG
def test_the_same_run_of_five_processes_is_one(ground: Ground, child_environment: None) -> None:
    with processes(ground) as everybody:
        check_rounds(ground, lambda seed: everybody(str(seed)))


@LONG
def test_five_processes_with_blocks_answer_and_leave_no_endpoint(ground: Ground, child_environment: None) -> None:
    with processes(ground) as everybody:
        for seed in range(ROUNDS):
            check_outcomes(everybody(f"{seed} block"))
            nothing_left = {"jobs": seed + 1, "data": 3, "models": seed + 1, "endpoints": 0, "deployments": 0}
            assert ground.there() == nothing_left
    logger.info("%d rounds, each of blocks in five processes, and no endpoint left", ROUNDS)


@LONG
@pytest.mark.parametrize("ground", [0.05], ids=["50 ms"], indirect=True)
def test_forty_runs_of_eight_threads_are_forty_jobs_with_their_own_inputs(ground: Ground) -> None:
    def one(number: int) -> tuple[int, str, bool, str]:
        data = caller.write_rows(ground.work / f"rows-{number}.jsonl", tag=f"{number}-")
        parameters = {"seed": number, "learning_rate": 1e-6 * (number + 1)}
        work = ground.work / f"work-{number}"
        config = caller.configuration(ground.folder, data, work, number, parameters=parameters)
        run = FineTuneRun(config, ground.clients)
        job = run.submit()
        return number, job.name, job.existed, run.plan.dataset.content_hash

    with ThreadPoolExecutor(THREADS) as pool:
        made = list(pool.map(one, range(RUNS)))
    assert len({name for _, name, _, _ in made}) == RUNS
    for number, name, existed, content in made:
        job = ground.clients.workspace.jobs.get(name)
        ((node, step),) = job.jobs.items()
        sent = {key: value._data for key, value in step.inputs.items() if value._data is not None}
        assert (node, existed, str(sent["seed"])) == ("step", False, str(number))
        assert float(sent["learning_rate"]) == pytest.approx(1e-6 * (number + 1))
        assert f"/data/rows-{number}-train/" in sent["train_file_path"].path
        assert (job.tags["phift.data"], job.tags["phift.parameter.seed"]) == (content, str(number))
    assert ground.there() == {"jobs": RUNS, "data": 3 * RUNS, "models": 0, "endpoints": 0, "deployments": 0}
