from __future__ import annotations

from typing import Any

import pytest
from azure.ai.ml.entities import Model

from phift.errors import AccessDenied, Conflict, JobCanceled, WaitTimeout
from phift.jobs.job import FineTuneJob
from phift.jobs.registration import RegisteredModel, register_model
from unit.fakes import Fakes, http_error

TAGS = {"phift.job": "job", "phift.data": "hash"}


def register(fakes: Fakes, status: str = "Completed") -> RegisteredModel:
    fakes.workspace.jobs.add("job", status)
    job = FineTuneJob("job", fakes.clients)
    return register_model(fakes.clients, job, name="mine", version="1", tags=TAGS, description="made up")


def test_the_jobs_output_is_registered_with_its_lineage() -> None:
    fakes = Fakes()
    model = register(fakes)
    made = fakes.workspace.models.known["mine", "1"]
    assert (made.job_name, made.type) == ("job", "mlflow_model")
    assert made.path.endswith("/job/trained_model/")
    assert (made.tags, made.description) == (TAGS, "made up")
    expected = RegisteredModel(name="mine", version="1", id=made.id, tags=TAGS, existed=False)
    assert model == expected


def test_a_model_is_registered_once() -> None:
    fakes = Fakes()
    first, second = register(fakes), register(fakes)
    assert (second.existed, second.id, second.tags) == (True, first.id, TAGS)
    assert fakes.workspace.record.count("models.create_or_update") == 1


@pytest.mark.parametrize("tags", [None, {}])
def test_no_caller_needs_to_know_which_tag_makes_it_once(tags: Any) -> None:
    fakes = Fakes()
    fakes.workspace.jobs.add("job", "Completed")
    job = FineTuneJob("job", fakes.clients)
    first, second = (register_model(fakes.clients, job, name="mine", version="1", tags=tags) for _ in range(2))
    assert (first.existed, second.existed, second.tags) == (False, True, {"phift.job": "job"})


def test_a_model_whose_registration_was_not_answered_is_found() -> None:
    fakes = Fakes()
    models = fakes.workspace.models
    create = models.create_or_update

    def create_unheard(model: Any) -> Any:
        create(model)
        raise http_error(409)  # azure-core asked again

    models.create_or_update = create_unheard  # type: ignore[method-assign]  # a service that loses an answer
    model = register(fakes)
    assert (model.existed, model.id) == (True, models.known["mine", "1"].id)


def test_a_conflict_over_a_model_that_is_not_there_is_one() -> None:
    fakes = Fakes()
    fakes.workspace.record.fail("models.create_or_update", http_error(409))
    with pytest.raises(Conflict):
        register(fakes)


@pytest.mark.parametrize(("status", "kind"), [("Canceled", JobCanceled), ("Running", WaitTimeout)])
def test_a_job_without_a_model_registers_nothing(status: str, kind: type[Exception]) -> None:
    fakes = Fakes()
    with pytest.raises(kind):
        register(fakes, status)
    assert fakes.workspace.record.count("models.create_or_update") == 0


@pytest.mark.parametrize(("tags", "origin"), [({"phift.job": "other"}, "other"), (None, "elsewhere")])
def test_another_jobs_model_is_not_taken(tags: Any, origin: str) -> None:
    fakes = Fakes()
    fakes.workspace.models.add(Model(name="mine", version="1", path="p", tags=tags))
    with pytest.raises(Conflict, match=f"but from {origin}"):
        register(fakes)


def test_a_look_up_that_is_refused_maps() -> None:
    fakes = Fakes()
    fakes.workspace.record.fail("models.get", http_error(403))
    with pytest.raises(AccessDenied):
        register(fakes)
