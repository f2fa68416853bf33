"""The life of a job."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from azure.ai.ml.entities import Model
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from contract.conftest import write_row
from contract.targets import ENDED, OUTPUT, Target


@pytest.fixture(scope="package")
def job(running: Target, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job that has completed; each test leaves it as it is."""
    name = f"ct-completed-{uuid.uuid4().hex[:10]}"
    train = write_row(tmp_path_factory.mktemp("job") / "train.jsonl", name)
    running.workspace.jobs.create_or_update(running.job(name, train))
    assert running.ended(name) == "Completed"
    return name


def test_a_job_is_submitted_and_completes(target: Target, train: Path) -> None:
    name = target.fresh("job")
    made = target.workspace.jobs.create_or_update(target.job(name, train))
    assert (made.name, made.type) == (name, "pipeline")
    assert made.id.endswith(f"/jobs/{name}")
    assert made.status not in ENDED
    assert target.ended(name) == "Completed"
    found = target.workspace.jobs.get(name)
    assert (found.experiment_name, found.tags) == ("contract", {"purpose": "contract"})
    assert found.creation_context.created_at
    assert name in [each.name for each in target.workspace.jobs.list()]


def test_the_steps_of_a_job_are_its_children(target: Target, job: str) -> None:
    steps = [step for step in target.workspace.jobs.list(parent_job_name=job) if step]
    assert steps
    assert all(step.display_name and step.name != job for step in steps)
    assert {step.status for step in steps} == {"Completed"}


def test_a_missing_job_is_not_found(target: Target) -> None:
    jobs = target.workspace.jobs
    missing = (
        lambda: jobs.get("ct-no-such-job"),
        lambda: list(jobs.list(parent_job_name="ct-no-such-job")),
        lambda: jobs.begin_cancel("ct-no-such-job").result(),
    )
    for ask in missing:
        with pytest.raises(ResourceNotFoundError) as caught:
            ask()
        assert caught.value.status_code == 404


def test_another_job_of_the_same_name_is_refused(target: Target, job: str, train: Path) -> None:
    # 400 and not 409: azure-docs issue 122250, azure-sdk-for-python pull request 47389.
    with pytest.raises(HttpResponseError, match="already exists") as caught:
        target.workspace.jobs.create_or_update(target.job(job, train, seed=2))
    assert caught.value.status_code == 400
    assert target.workspace.jobs.get(job).status == "Completed"


def test_a_running_job_is_cancelled(target: Target, train: Path) -> None:
    name = target.fresh("job")
    target.workspace.jobs.create_or_update(target.job(name, train, held=True))
    target.workspace.jobs.begin_cancel(name).result()
    assert target.ended(name) == "Canceled"


def test_cancelling_a_job_that_has_ended_changes_nothing(target: Target, job: str) -> None:
    target.workspace.jobs.begin_cancel(job).result()
    assert target.workspace.jobs.get(job).status == "Completed"


def test_a_deleted_job_is_gone(target: Target, train: Path) -> None:
    # That it can be deleted is known from the SDK, since 1.35; what the service answers is not recorded.
    name = target.fresh("job")
    jobs = target.workspace.jobs
    jobs.create_or_update(target.job(name, train))
    assert target.ended(name) == "Completed"
    jobs.begin_delete(name).wait()
    with pytest.raises(ResourceNotFoundError):
        jobs.get(name)
    assert name not in [each.name for each in jobs.list()]


def test_a_running_job_is_not_deleted(target: Target, train: Path) -> None:
    name = target.fresh("job")
    jobs = target.workspace.jobs
    jobs.create_or_update(target.job(name, train, held=True))
    with pytest.raises(HttpResponseError):
        jobs.begin_delete(name).result()
    assert jobs.get(name).status not in ENDED


def test_an_archived_job_is_out_of_lists_and_still_there(target: Target, job: str) -> None:
    jobs = target.workspace.jobs
    jobs.archive(job)
    assert job not in [each.name for each in jobs.list()]
    assert job in [each.name for each in jobs.list(list_view_type="ArchivedOnly")]
    assert jobs.get(job).name == job
    jobs.restore(job)
    assert job in [each.name for each in jobs.list()]


def test_an_output_of_a_job_is_registered_as_a_model(target: Target, job: str) -> None:
    name = target.fresh("models")
    model = Model(name=name, version="1", path=f"azureml://jobs/{job}/outputs/{OUTPUT}", type="custom_model")
    made = target.workspace.models.create_or_update(model)
    assert made.job_name == job
    assert "/datastores/" in made.path
    assert target.workspace.models.get(name, version="1").path == made.path


def test_an_output_of_a_missing_job_is_not_registered(target: Target) -> None:
    name = target.fresh("models")
    model = Model(name=name, version="1", path=f"azureml://jobs/ct-no-such-job/outputs/{OUTPUT}", type="custom_model")
    with pytest.raises(HttpResponseError):
        target.workspace.models.create_or_update(model)
    with pytest.raises(ResourceNotFoundError):
        target.workspace.models.get(name, version="1")
