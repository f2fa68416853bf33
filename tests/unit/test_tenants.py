"""What tenants demand of all that is made: tags, and endpoints that keys do not open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phift import FineTuneRun, RunConfig, samples
from phift.azure.clients import Clients
from phift.errors import Conflict

TAGS = {"costcenter": "42", "owner": "us"}


def run(clients: Clients, folder: Path, **values: Any) -> FineTuneRun:
    data = samples.write(folder / "elements")
    named = {"train": data.train, "validation": data.validation, "test": data.test}
    compute = {"cluster": "new", "size": "Standard_NC24ads_A100_v4"}
    given = {"model": "Phi-4-mini-instruct", "compute": compute, "data": named, "work_dir": folder / "work", **values}
    return FineTuneRun(RunConfig(**given), clients)


def test_the_tags_are_on_all_that_is_made(clients: Clients, tmp_path: Path) -> None:
    fine_tuning = run(clients, tmp_path, tags=TAGS)
    job = fine_tuning.submit()
    fine_tuning.wait()
    client, model, endpoint = clients.workspace, fine_tuning.register(), fine_tuning.deploy()
    made: list[Any] = [
        client.compute.get("new"),
        *(client.data.get(data.name, label="latest") for data in client.data.list()),
        client.jobs.get(job.name),
        client.models.get(model.name, version=model.version),
        client.online_endpoints.get(endpoint.name),
        *client.online_deployments.list(endpoint.name),
    ]
    assert len(made) == 8
    assert [each.tags.items() >= TAGS.items() for each in made] == [True] * 8
    assert FineTuneRun.attach(job.name, clients).record.own_tags == TAGS


def test_other_tags_are_no_other_job(clients: Clients, tmp_path: Path) -> None:
    first = run(clients, tmp_path, tags=TAGS).submit()
    assert run(clients, tmp_path, tags={"costcenter": "43"}, tenant="b").submit().name == first.name


def test_an_endpoint_of_entra_id_answers_without_keys(clients: Clients, tmp_path: Path) -> None:
    fine_tuning = run(clients, tmp_path, deployment={"auth_mode": "aad_token"})
    fine_tuning.submit()
    fine_tuning.wait()
    endpoint = fine_tuning.deploy()
    assert endpoint.chat("How do chemists write gold?")
    assert clients.workspace.online_endpoints.get(endpoint.name).auth_mode == "aad_token"
    with pytest.raises(Conflict, match="auth_mode aad_token and not key"):
        run(clients, tmp_path).deploy()
