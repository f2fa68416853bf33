"""A run that is left at any point goes on from its job's name, in an empty home, with nothing made twice."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from caller import write_rows
from running import Local

pytestmark = pytest.mark.slow
POINTS = 30
TRIED = int(os.environ.get("PHIFT_KILLS", "3"))  # of these; `make kill` tries all
log = logging.getLogger(__name__)

Leaver = Callable[..., Any]


@pytest.fixture(scope="module")
def leave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leaver]:
    homes = tmp_path_factory.mktemp("homes")
    script = str(Path(__file__).parent / "leaver.py")
    process = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ours
    count = 0

    def ask(**order: Any) -> Any:
        nonlocal count
        count += 1
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps({**order, "home": str(homes / str(count))}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.communicate()


def test_a_run_that_is_killed_anywhere_goes_on_by_its_job_s_name_with_nothing_made_twice(
    instant: Local, leave: Leaver, tmp_path: Path
) -> None:
    rows, place = write_rows(tmp_path / "rows.jsonl"), f"local:{instant.workspace.folder}"

    def config(seed: int) -> dict[str, Any]:
        return {
            "workspace": place,
            "model": "Phi-4-mini-instruct",
            "compute": "gpu-cluster",
            "data": {"train": str(rows)},
            "parameters": {"seed": seed},
        }

    for seed in (1000, 1001):  # the second one finds the data there, as all that follow do
        whole = leave(config=config(seed), do=["deploy"])
        assert whole["answered"]
        assert leave(attach=whole["job"], workspace=place, do=["cleanup"])["deleted"] == [whole["endpoint"]]
    points = [1 + number * (whole["requests"] - 1) // (POINTS - 1) for number in range(POINTS)]
    for seed, point in list(enumerate(points, start=1))[:: max(1, POINTS // TRIED)]:
        before = {job.name for job in instant.client.jobs.list()}
        killed = leave(config=config(seed), do=["deploy"], kill_at=point, answered=bool(seed % 2))
        assert killed is None, f"request {point} of {whole['requests']} was not met"
        made = {job.name for job in instant.client.jobs.list()} - before
        assert len(made) <= 1
        order = {"attach": made.pop(), "workspace": place} if made else {"config": config(seed)}
        done = leave(**order, do=["deploy"])
        log.info("killed at request %d of %d: went on %s", point, whole["requests"], next(iter(order)))
        assert done.get("answered"), (point, done)
        assert len({job.name for job in instant.client.jobs.list()} - before) == 1
        versions = list(instant.client.models.list("phi-4-mini-instruct-finetuned"))
        mine = [each for each in versions if each.tags["phift.job"] == done["job"]]
        assert len(mine) == 1
        assert [each.name for each in instant.client.online_endpoints.list()] == [done["endpoint"]]
        assert leave(attach=done["job"], workspace=place, do=["cleanup"])["deleted"] == [done["endpoint"]]
        assert [each.name for each in instant.client.online_endpoints.list()] == []
