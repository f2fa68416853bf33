"""`phift.deploy`, by every door, against a local workspace in this process; and what is said at a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.entities import Model

import phift
from phift import FineTuneRun, RunConfig, samples
from phift.azure.clients import Clients
from phift.errors import ComputeError, ConfigError, ModelError, NotFound, WaitTimeout
from phift.testing import TestWorkspace
from unit import given

PHI = "Phi-4-mini-instruct"


@pytest.fixture
def run(clients: Clients, tmp_path: Path) -> FineTuneRun:
    """A run whose job has completed."""
    data = samples.write(tmp_path / "elements")
    config = RunConfig(model=PHI, compute="gpu-cluster", data=data.train, work_dir=tmp_path / "work")
    run = FineTuneRun(config, clients)
    run.submit()
    run.wait()
    return run


DOORS: dict[str, Callable[[FineTuneRun], Any]] = {
    "a run": lambda run: run,
    "a job": lambda run: run.job,
    "a job's name": lambda run: run.job.name,
    "a registered model": lambda run: run.register(),
    "name:version": lambda run: f"{run.register().name}:{run.register().version}",
    "name": lambda run: run.register().name,
    "azureml:name:version": lambda run: f"azureml:{run.register().name}:{run.register().version}",
    "azureml:name@latest": lambda run: f"azureml:{run.register().name}@latest",
    "id": lambda run: run.register().id,
    "the job's output": lambda run: run.job.model_path,
}


def test_every_door_of_a_run_leads_to_one_endpoint(run: FineTuneRun) -> None:
    first = phift.deploy(run)
    for door, model in DOORS.items():
        clients = None if door in ("a run", "a job", "a registered model") else run.clients
        found = phift.deploy(model(run), clients)
        assert (found.name, found.existed) == (first.name, True), door
    assert len(list(run.clients.workspace.online_deployments.list(first.name))) == 1
    assert run.cleanup().deleted == (first.name,)


@pytest.mark.parametrize(
    "model", [PHI, f"{PHI}:1", f"azureml://registries/azureml/models/{PHI}/versions/1", "azureml://registries/azureml"]
)
def test_a_registrys_model_is_deployed_by_its_names(clients: Clients, model: str) -> None:
    if model.endswith("azureml"):
        model = f"{model}/models/{PHI}/labels/latest"
    events: list[str] = []
    with phift.deploy(model, clients, on_event=lambda event: events.append(event.stage)) as endpoint:
        assert endpoint.chat("Is this a model?")
        (made,) = clients.workspace.online_deployments.list(endpoint.name)
        assert made.instance_type == "Standard_NC24ads_A100_v4"  # the smallest that its allow-list has
        assert phift.deploy(model, clients).existed
    assert events[:4] == ["endpoint", "deployment", "traffic", "ready"]


def test_name_size_and_settings_are_those_that_are_given(clients: Clients) -> None:
    size = "Standard_NC48ads_A100_v4"
    config = {"instance_count": 2, "deployment_name": "blue"}
    endpoint = phift.deploy(PHI, clients, name="my-own", size=size, config=config)
    (made,) = clients.workspace.online_deployments.list("my-own")
    assert (endpoint.name, made.name, made.instance_type, made.instance_count) == ("my-own", "blue", size, 2)


def test_a_runs_own_settings_stay_beside_what_is_given(run: FineTuneRun) -> None:
    endpoint = phift.deploy(run, name="my-own")
    assert endpoint.name == "my-own"
    assert phift.deploy(run.job, name="my-own").existed


def test_a_registered_model_of_no_run_needs_a_size(run: FineTuneRun) -> None:
    workspace = run.clients.workspace
    path = run.job.model_path
    workspace.models.create_or_update(Model(name="theirs", version="3", path=path, type="mlflow_model"))
    with pytest.raises(ComputeError, match=r"which VM sizes can serve theirs:3"):
        phift.deploy("theirs", run.clients)
    endpoint = phift.deploy("theirs:3", run.clients, size="Standard_NC24ads_A100_v4")
    assert workspace.online_endpoints.get(endpoint.name).tags["phift.model"] == "theirs:3"
    assert phift.deploy("theirs", run.clients, size="Standard_NC24ads_A100_v4").existed


def test_a_model_registered_under_another_name_is_the_one_that_is_deployed(run: FineTuneRun) -> None:
    registered = phift.register_model(run.clients, run.job, name="by-hand")
    endpoint = phift.deploy("by-hand", run.clients)
    (made,) = run.clients.workspace.online_deployments.list(endpoint.name)
    assert str(made.model).endswith(f"models/by-hand/versions/{registered.version}")
    assert [each.name for each in run.clients.workspace.models.list()] == ["by-hand"]


@pytest.mark.parametrize(
    ("model", "kind", "told"),
    [
        ("no-such", NotFound, "neither a job nor a model no-such"),
        ("no-such:3", NotFound, "neither a job nor a model no-such:3"),
        ("azureml:no-such:3", NotFound, "neither a job nor a model azureml:no-such:3"),
        ("run.yaml", ConfigError, r"FineTuneRun\(RunConfig.from_yaml"),
        ("two words", ConfigError, "the name of no model and of no job"),
        ("../a/folder", ConfigError, "the name of no model and of no job"),
        ("azureml://datastores/store/paths/model", ConfigError, "a place in a datastore, and no model"),
        ("azureml://registries/azureml/components/c/versions/1", ConfigError, "components, and no model"),
        (
            "azureml://subscriptions/s/resourcegroups/g/workspaces/w/models/m/versions/1",
            ConfigError,
            "of the workspace w",
        ),
        (7, ConfigError, "A int names no model"),
    ],
)
def test_a_wrong_door_is_said_in_words(clients: Clients, model: Any, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told) as caught:
        phift.deploy(model, clients)
    assert "fix:" in str(caught.value)
    assert list(clients.workspace.online_endpoints.list()) == []


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(run: FineTuneRun) -> None:
    registered = run.register()
    with pytest.raises(NotFound, match=f"did you mean {registered.name}"):
        phift.deploy(f"{registered.name}s:1", run.clients)
    with pytest.raises(NotFound, match=f"did you mean.*{run.job.name}"):
        phift.deploy(f"{run.job.name}x", run.clients)


def test_a_model_that_is_not_mlflows_is_refused_before_anything_is_made(clients: Clients, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    clients.workspace.models.create_or_update(Model(name="raw", version="1", path=tmp_path, type="custom_model"))
    with pytest.raises(ModelError, match="raw:1 is of the type custom_model"):
        phift.deploy("raw:1", clients)
    assert list(clients.workspace.online_endpoints.list()) == []


@pytest.mark.phift(speed="manual")
def test_a_job_that_has_not_completed_says_how_it_stands(clients: Clients, tmp_path: Path) -> None:
    data = samples.write(tmp_path / "elements")
    config = RunConfig(model=PHI, compute="gpu-cluster", data=data.train, work_dir=tmp_path / "work")
    job = FineTuneRun(config, clients).submit()
    with pytest.raises(WaitTimeout, match="has not ended"):
        phift.deploy(job.name, clients)


def test_a_job_of_somebody_else_is_known_and_the_way_out_is_its_model(
    workspace: TestWorkspace, clients: Clients
) -> None:
    given.job(workspace, "theirs")
    with pytest.raises(NotFound, match="not submitted by phift") as caught:
        phift.deploy("theirs", clients)
    assert "register its model" in str(caught.value)


def test_a_run_has_clients_of_its_own(run: FineTuneRun) -> None:
    with pytest.raises(ConfigError, match="clients and a handler of its own"):
        phift.deploy(run, run.clients)


def test_a_better_model_takes_over_an_endpoint_whose_address_and_keys_stay(clients: Clients, tmp_path: Path) -> None:
    data = samples.write(tmp_path / "elements")
    endpoints = clients.workspace.online_endpoints

    def run_of(train: Path, deployment: str) -> FineTuneRun:
        where = {"endpoint_name": "prod-chat", "deployment_name": deployment}
        config = RunConfig(
            model=PHI, compute="gpu-cluster", data=train, work_dir=tmp_path / deployment, deployment=where
        )
        return FineTuneRun(config, clients)

    first, second = run_of(data.train, "default"), run_of(data.test, "green")
    first.submit()
    first.wait()
    endpoint = first.deploy()
    keys, address = endpoints.get_keys("prod-chat").primary_key, endpoint.scoring_uri
    assert [each.code for each in second.check().findings if each.code.startswith("DEPLOYMENT")] == [
        "DEPLOYMENT_BESIDE"
    ]
    second.submit()
    second.wait()
    with second.deploy() as green:
        assert green.chat("Who answers?").deployment == "green"
        assert endpoint.chat("Who answers?").deployment == "green"  # the clients of the first notice nothing
        assert (endpoints.get_keys("prod-chat").primary_key, green.scoring_uri) == (keys, address)
    assert endpoint.chat("Who answers?").deployment == "default"
    second.deploy()
    assert first.cleanup().removed == ("prod-chat/default",)
    assert endpoint.chat("Who answers?").deployment == "green"
    assert second.cleanup().deleted == ("prod-chat",)
    assert list(endpoints.list()) == []
