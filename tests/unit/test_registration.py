from __future__ import annotations

import re
from typing import Any

import pytest
from azure.ai.ml.entities import Model

from phift.azure.clients import Clients
from phift.errors import AccessDenied, Conflict, JobCanceled, WaitTimeout
from phift.jobs.job import FineTuneJob
from phift.jobs.registration import RegisteredModel, register_model
from phift.testing import Fault, TestWorkspace
from unit import given

TAGS = {"phift.job": "job", "phift.data": "hash"}
PUT = "PUT models/mine/versions/1"


@pytest.fixture
def job(workspace: TestWorkspace, clients: Clients) -> FineTuneJob:
    given.job(workspace)
    return FineTuneJob("job", clients)


def register(clients: Clients, job: FineTuneJob, tags: Any = TAGS) -> RegisteredModel:
    while job.status() != "Completed":
        pass
    return register_model(clients, job, name="mine", version="1", tags=tags, description="made up")


def test_the_jobs_output_is_registered_with_its_lineage(clients: Clients, job: FineTuneJob) -> None:
    model = register(clients, job)
    made = clients.workspace.models.get("mine", "1")
    assert (made.job_name, made.type) == ("job", "mlflow_model")
    assert re.search(r"/workspaceblobstore/paths/azureml/[0-9a-f-]{36}/mlflow_model_folder$", made.path)
    assert (made.tags, made.description) == (TAGS, "made up")
    expected = RegisteredModel(name="mine", version="1", id=str(made.id), tags=TAGS, existed=False)
    assert model == expected


def test_a_model_is_registered_once(workspace: TestWorkspace, clients: Clients, job: FineTuneJob) -> None:
    first, second = register(clients, job), register(clients, job)
    assert (second.existed, second.id, second.tags) == (True, first.id, TAGS)
    assert len(workspace.requests(PUT)) == 1


@pytest.mark.parametrize("tags", [None, {}])
def test_no_caller_needs_to_know_which_tag_makes_it_once(clients: Clients, job: FineTuneJob, tags: Any) -> None:
    first, second = (register(clients, job, tags) for _ in range(2))
    assert (first.existed, second.existed, second.tags) == (False, True, {"phift.job": "job"})


def test_a_model_whose_registration_was_not_answered_is_found(
    workspace: TestWorkspace, clients: Clients, job: FineTuneJob, sleeps: list[float]
) -> None:
    workspace.order(Fault(PUT, cut="after"), Fault(PUT, status=409))  # azure-core asks again
    model = register(clients, job)
    assert (model.existed, model.id) == (True, clients.workspace.models.get("mine", "1").id)


def test_a_conflict_over_a_model_that_is_not_there_is_one(
    workspace: TestWorkspace, clients: Clients, job: FineTuneJob
) -> None:
    workspace.order(Fault(PUT, status=409))
    with pytest.raises(Conflict):
        register(clients, job)


@pytest.mark.phift(speed="manual")
@pytest.mark.parametrize(("canceled", "kind"), [(True, JobCanceled), (False, WaitTimeout)])
def test_a_job_without_a_model_registers_nothing(
    workspace: TestWorkspace, clients: Clients, job: FineTuneJob, canceled: bool, kind: type[Exception]
) -> None:
    if canceled:
        clients.workspace.jobs.begin_cancel("job")
        workspace.advance(5)
    with pytest.raises(kind):
        register_model(clients, job, name="mine", version="1")
    assert not workspace.requests(PUT)


@pytest.mark.parametrize(("tags", "origin"), [({"phift.job": "other"}, "other"), (None, "elsewhere")])
def test_another_jobs_model_is_not_taken(clients: Clients, job: FineTuneJob, tags: Any, origin: str) -> None:
    clients.workspace.models.create_or_update(Model(name="mine", version="1", path=given.MODEL, tags=tags))
    with pytest.raises(Conflict, match=f"but from {origin}"):
        register(clients, job)


def test_a_look_up_that_is_refused_maps(workspace: TestWorkspace, clients: Clients, job: FineTuneJob) -> None:
    workspace.order(Fault("GET models/*", status=403))
    with pytest.raises(AccessDenied):
        register(clients, job)
