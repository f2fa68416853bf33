"""A search on the local workspace, which really trains: it finds better values, and a kill loses nothing of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import phift
from phift import samples
from phift.local import LocalWorkspace
from phift.run.trials import SEARCH

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
REUSED = ["chat_completion_model_import", "chat_completion_datapreprocess"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)


class Searcher:
    """Somebody with a folder, a home, and the document on searches."""

    def __init__(self, folder: Path, **changed: Any) -> None:
        self.folder, self.home = folder, folder / "home" / "local"
        self.home.parent.mkdir()
        samples.write(folder / "elements")
        (search,) = (yaml.safe_load(block) for block in blocks("yaml") if "# tune.yaml" in block)
        self.search = {**search, **changed}
        (folder / "tune.yaml").write_text(yaml.safe_dump(self.search), encoding="utf-8")
        unset = ("AZUREML_CURRENT_CLOUD", "REQUESTS_CA_BUNDLE")
        environ = {name: value for name, value in os.environ.items() if name not in unset}
        path = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
        self.environ = {**environ, "HOME": str(folder / "home"), "PATH": path, "PHIFT_LOCAL_HOME": str(self.home)}

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603 - our own words
            command, cwd=self.folder, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *command: str) -> str:
        process = self.start(*command)
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        return out

    @property
    def clients(self) -> phift.Clients:
        return phift.connect(workspace=f"local:{self.home}")

    def jobs(self) -> list[Any]:
        tag = f"{SEARCH}.{self.search['name']}"
        return [job for job in self.clients.workspace.jobs.list() if tag in (job.tags or {})]


@pytest.mark.proof
def test_a_search_finds_a_better_learning_rate_below_its_ceiling_though_it_is_killed(
    tmp_path: Path, quiet_sdk: None
) -> None:
    reader = Searcher(tmp_path)
    reader.run("phift", "local", "up")
    try:
        killed = reader.start("phift", "tune", "tune.yaml")
        while len(reader.jobs()) < 3:
            assert killed.poll() is None, killed.communicate()
            time.sleep(0.5)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        before = {job.name for job in reader.jobs()}
        result = json.loads(reader.run("phift", "tune", "tune.yaml", "--json", "--plot", "trials.png"))
        trials, best = result["trials"], result["trials"][result["best"]]
        jobs = reader.jobs()
        assert len(jobs) == len({each["job"] for each in trials}) == len(trials)
        assert before <= {job.name for job in jobs}
        assert best["value"] < 0.8 * trials[0]["value"], (best, trials[0])  # the run's own learning rate
        assert result["cost"] <= reader.search["max_cost"]
        ran = dict.fromkeys(REUSED, 0)
        for job in jobs:
            for child in reader.clients.workspace.jobs.list(parent_job_name=job.name):
                if child.display_name in ran and child.properties.get("azureml.isreused") != "true":
                    ran[child.display_name] += 1
        assert ran == dict.fromkeys(REUSED, 1)
        assert (tmp_path / "trials.png").stat().st_size > 5000
        assert "the best" in reader.run("phift", "tune", "status", "elements", "--workspace", "local")
    finally:
        LocalWorkspace(reader.home).down()
