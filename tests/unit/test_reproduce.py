"""A configuration written anew from a job: what it leads to, and what cannot be had again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from azure.ai.ml.entities import PipelineJob

from phift import FineTuneRun, RunConfig, reproduce, samples
from phift.azure.clients import Clients
from phift.errors import ConfigError, NotFound
from phift.testing import TestWorkspace
from unit import given


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    data = samples.write(tmp_path / "elements")
    return RunConfig(
        model="Phi-4-mini-instruct",
        compute="gpu-cluster",
        preset="safe",
        data={"train": data.train},
        parameters=dict(samples.PARAMETERS),
        tags={"team": "ünï"},
        work_dir=tmp_path / "work",
    )


def reproduced(clients: Clients, job: str, folder: Path, **changes: Any) -> RunConfig:
    """Write the configuration of a job, read it, and give it a folder to work in."""
    (folder / "again.yaml").write_text(reproduce(clients, job), encoding="utf-8")
    return RunConfig.from_yaml(folder / "again.yaml").model_copy(update={"work_dir": folder / "other", **changes})


def test_it_is_accepted_and_leads_to_the_same_job(clients: Clients, config: RunConfig, tmp_path: Path) -> None:
    job = FineTuneRun(config, clients).submit()
    again = FineTuneRun(reproduced(clients, job.name, tmp_path), clients)
    assert again.check().ok
    assert again.plan.job_name == job.name
    assert again.submit().existed
    assert again.config.registered_model_name == config.registered_model_name
    assert (again.config.tags, again.config.deployment) == (config.tags, config.deployment)


def test_the_versions_are_those_of_then(clients: Clients, config: RunConfig, tmp_path: Path) -> None:
    run = FineTuneRun(config, clients)
    written = yaml.safe_load(reproduce(clients, run.submit().name))
    assert written["model"] == {"name": run.plan.model.name, "version": run.plan.model.version, "registry": "azureml"}
    assert written["component"]["version"] == run.plan.component.version
    assert written["workspace"] == "local"
    assert yaml.safe_load(reproduce(clients, run.job.name, workspace="local:/x"))["workspace"] == "local:/x"


def test_rows_from_python_are_told_of_and_left_out(clients: Clients, config: RunConfig) -> None:
    rows = samples.rows()["train"]
    config = config.model_copy(update={"data": config.data.model_validate({"train": rows})})
    written = reproduce(clients, FineTuneRun(config, clients).submit().name)
    assert "# data.train came from Python, a list, and cannot be had again: write its rows into a file." in written
    with pytest.raises(ConfigError, match=r"data\.train"):
        RunConfig.from_dict(yaml.safe_load(written))


def test_a_file_that_is_not_here_is_told_of(clients: Clients, config: RunConfig, tmp_path: Path) -> None:
    job = FineTuneRun(config, clients).submit()
    path = tmp_path / "elements" / "train.jsonl"
    assert "not on this machine" not in reproduce(clients, job.name)
    path.unlink()
    assert f"# data.train: not on this machine: {path}" in reproduce(clients, job.name)


def test_a_job_of_somebody_else_has_none(workspace: TestWorkspace, clients: Clients) -> None:
    given.job(workspace)
    with pytest.raises(NotFound, match="not submitted by phift"):
        reproduce(clients, "job")


def test_one_of_an_older_phift_has_none(clients: Clients, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    job = FineTuneRun(config, clients).submit()
    real = type(job).entity

    def older(self: Any) -> PipelineJob:
        entity = real(self)
        entity.properties = {}
        return entity

    monkeypatch.setattr(type(job), "entity", older)
    with pytest.raises(ConfigError, match="older phift"):
        reproduce(clients, job.name)


def test_a_tag_that_somebody_wrote_stays_in_its_comment(clients: Clients, config: RunConfig) -> None:
    job = FineTuneRun(config, clients).submit()
    job.tracking.set_tag(job.name, "phift.data", "x\nmax_cost: 1")
    assert "max_cost" not in yaml.safe_load(reproduce(clients, job.name))


def test_a_local_workspace_without_a_folder_is_told_of(clients: Clients, config: RunConfig) -> None:
    job = FineTuneRun(config, clients).submit().name
    assert "# The workspace is a local one" in reproduce(clients, job)
    assert "# The workspace is a local one" not in reproduce(clients, job, workspace="local:/x")
