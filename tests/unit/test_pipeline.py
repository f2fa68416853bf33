from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.dsl import pipeline
from azure.ai.ml.entities import PipelineJob

from phift.azure.clients import Clients
from phift.check.models import find_component
from phift.check.parameters import Parameter, Parameters, display_name
from phift.component.preprocessing import SPLITS
from phift.config.run import ComponentConfig, RunConfig
from phift.data.assets import DataInAzure, DataInput
from phift.errors import AccessDenied, NotFound, ParameterError, ServiceError
from phift.jobs.job import OUTPUT
from phift.jobs.pipeline import pipeline_job
from phift.jobs.record import RunRecord
from phift.testing import Fault, TestWorkspace
from unit.fakes import COMPONENT, PHI_4, data_id, parameters, plan, target


def build(resolved: Parameters | None = None, **changes: Any) -> Any:
    inputs = {split: DataInput(name=split, version="1", address=data_id(split, "1")) for split in SPLITS}
    kept = {key: changes.pop(key) for key in ("force_rerun", "continue_on_step_failure") if key in changes}
    config = RunConfig(model="Phi-4", compute="gpu-cluster", data={"train": "azureml:chat:1"}, **kept)
    settings: dict[str, Any] = {"data": DataInAzure(name="chat", inputs=inputs), "name": "phift-phi-4-0", **changes}
    return pipeline_job(config, plan(raw(1), resolved or parameters()), **settings)


def wire(job: Any) -> Any:
    """Return the job's properties as the SDK sends them."""
    return job._to_rest_object().as_dict()["properties"]


def test_the_component_is_found_in_its_newest_or_pinned_version(workspace: TestWorkspace, clients: Clients) -> None:
    assert find_component(clients, ComponentConfig()).id == COMPONENT
    assert find_component(clients, ComponentConfig(version="0.0.82")).id == COMPONENT
    newest, pinned = (each.place.rpartition("/components/")[2] for each in workspace.requests("GET */components/*"))
    assert newest == "chat_completion_pipeline/versions"
    assert pinned == "chat_completion_pipeline/versions/0.0.82"


@pytest.mark.parametrize(("version", "named"), [(None, "other."), ("9", "other version 9.")])
def test_a_missing_component_is_named(clients: Clients, version: str | None, named: str) -> None:
    with pytest.raises(NotFound) as caught:
        find_component(clients, ComponentConfig(name="other", version=version))
    assert caught.value.what == f"There is no component {named}"
    assert caught.value.where == "component other in registry azureml"


@pytest.mark.parametrize(("status", "kind"), [(403, AccessDenied), (500, ServiceError)])
def test_other_errors_are_not_taken_for_a_missing_component(
    workspace: TestWorkspace, clients: Clients, sleeps: list[float], status: int, kind: type[Exception]
) -> None:
    workspace.order(Fault("GET */components/*", status=status, times=None))
    with pytest.raises(kind):
        find_component(clients, ComponentConfig())


def test_the_job_calls_the_registrys_component() -> None:
    (step,) = wire(build())["jobs"].values()
    assert step["componentId"] == COMPONENT


def test_model_and_all_three_files_are_inputs() -> None:
    (step,) = wire(build())["jobs"].values()
    assert step["inputs"]["mlflow_model_path"] == {"uri": PHI_4, "job_input_type": "mlflow_model"}
    for split in SPLITS:
        given = step["inputs"][f"{split}_file_path"]
        assert (given["uri"], given["job_input_type"]) == (data_id(split, "1"), "uri_file")


def test_an_mltable_goes_into_the_input_for_tables() -> None:
    table = DataInput(name="chat", version="3", address=data_id("chat", "3"), type="mltable")
    (step,) = wire(build(data=DataInAzure(name="chat", inputs={"train": table})))["jobs"].values()
    assert step["inputs"]["train_mltable_path"] == {"uri": data_id("chat", "3"), "job_input_type": "mltable"}
    assert not [name for name in step["inputs"] if name.endswith("_file_path")]


def test_parameters_travel_as_the_text_the_component_reads() -> None:
    resolved = parameters({"apply_lora": True, "learning_rate": 1e-8, "precision": 16})
    (step,) = wire(build(resolved))["jobs"].values()
    sent = {name: step["inputs"][name]["value"] for name in ("apply_lora", "learning_rate", "precision")}
    assert sent == {"apply_lora": "true", "learning_rate": "1e-08", "precision": "16"}
    assert "weight_decay" not in step["inputs"]


def test_the_model_folder_is_the_jobs_output() -> None:
    properties = wire(build())
    assert properties["outputs"][OUTPUT]["jobOutputType"] == "mlflow_model"
    (step,) = properties["jobs"].values()
    assert step["outputs"]["mlflow_model_folder"]["value"] == f"${{{{parent.outputs.{OUTPUT}}}}}"


def test_names_and_tags_are_the_given_ones() -> None:
    job = build()
    shown = display_name("Phi-4", "raw", parameters(), target())
    assert (job.name, job.display_name, job.experiment_name) == ("phift-phi-4-0", shown, "phift")
    config = RunConfig(model="Phi-4", compute="gpu-cluster", data={"train": "azureml:chat:1"})
    record = RunRecord.of(config, plan(raw(1), parameters()))
    assert (dict(job.tags), job.properties) == (record.tags, {**record.properties, "phift.length": "1/-1"})


@pytest.mark.parametrize("value", [True, False])
def test_settings_are_the_given_ones(value: bool) -> None:
    job = build(force_rerun=value, continue_on_step_failure=not value)
    assert (job.settings.force_rerun, job.settings.continue_on_step_failure) == (value, not value)


def test_by_default_steps_are_reused_and_a_failure_stops_the_job() -> None:
    job = build()
    assert (job.settings.force_rerun, job.settings.continue_on_step_failure) == (False, False)


def test_an_input_that_the_component_has_not_is_refused() -> None:
    unknown = Parameters(values={"learning_rate_min": Parameter("learning_rate_min", 1, "user")})
    with pytest.raises(ParameterError, match="has no input learning_rate_min"):
        build(unknown)


def test_a_job_that_is_not_the_one_that_was_meant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = PipelineJob._to_rest_object

    def mixed(job: PipelineJob) -> Any:
        """Return the job as the SDK's dsl made it of two that were built at once."""
        rest = real(job)
        rest.properties.jobs = {**rest.properties.jobs, "step_1": rest.properties.jobs["step"]}
        rest.properties.jobs["step"]["inputs"]["learning_rate"] = {"value": "0.5", "job_input_type": "literal"}
        return rest

    monkeypatch.setattr(PipelineJob, "_to_rest_object", mixed)
    with pytest.raises(
        ServiceError, match=r"another job than was asked for; different: node step_1, step.learning_rate"
    ):
        build()


def test_a_job_of_another_component_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = PipelineJob._to_rest_object

    def mixed(job: PipelineJob) -> Any:
        rest = real(job)
        rest.properties.jobs["step"]["componentId"] = COMPONENT.replace("0.0.82", "0.0.1")
        return rest

    monkeypatch.setattr(PipelineJob, "_to_rest_object", mixed)
    with pytest.raises(ServiceError, match="different: the component of step"):
        build()


@pytest.mark.parametrize("changed", ["settings", "raw"])
def test_a_job_that_would_prepare_something_else_is_refused(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PipelineJob._to_rest_object

    def mixed(job: PipelineJob) -> Any:
        rest = real(job)
        given = rest.properties.jobs["prepare_data"]["inputs"][changed]
        given["uri" if "uri" in given else "value"] = "another"
        return rest

    assert set(wire(build(data=raw(1), code=tmp_path))["jobs"]) == {"prepare_data", "step"}
    monkeypatch.setattr(PipelineJob, "_to_rest_object", mixed)
    with pytest.raises(ServiceError, match=f"different: prepare_data.{changed}"):
        build(data=raw(1), code=tmp_path)


def raw(version: int) -> DataInAzure:
    """Return data that a cluster prepares."""
    address = data_id("raw", str(version))
    inputs = {"raw": DataInput(name="raw", version=str(version), address=address)}
    return DataInAzure(compute="cpu", inputs=inputs, settings={"train": [{"files": "raw"}]}, name="raw")


def test_pipelines_that_are_built_at_once_do_not_mix() -> None:
    """Each thread's own, and none in a pipeline that somebody else builds with the SDK's dsl meanwhile."""

    def build_one(seed: int) -> Any:
        return build(parameters({"seed": seed}), name=f"job-{seed}")

    @pipeline()  # type: ignore[untyped-decorator] # the SDK's
    def theirs() -> None:
        with ThreadPoolExecutor(8) as pool:
            built.extend(pool.map(build_one, range(40)))

    built: list[Any] = []
    assert theirs().jobs == {}
    for seed, job in enumerate(built):
        (step,) = wire(job)["jobs"].values()
        assert (job.name, step["inputs"]["seed"]["value"]) == (f"job-{seed}", str(seed))


def test_pipelines_with_a_preparation_that_are_built_at_once_do_not_mix(tmp_path: Path) -> None:
    def build_one(seed: int) -> Any:
        return build(parameters({"seed": seed}), name=f"job-{seed}", data=raw(seed), code=tmp_path)

    with ThreadPoolExecutor(8) as pool:
        built = list(pool.map(build_one, range(40)))
    for seed, job in enumerate(built):
        nodes = wire(job)["jobs"]
        assert set(nodes) == {"prepare_data", "step"}
        assert nodes["prepare_data"]["inputs"]["raw"]["uri"] == data_id("raw", str(seed))
        assert nodes["step"]["inputs"]["seed"]["value"] == str(seed)


def test_a_preparation_that_the_sdk_cannot_read_beside_somebody_elses_pipeline_says_why(tmp_path: Path) -> None:
    refused: list[ServiceError] = []

    @pipeline()  # type: ignore[untyped-decorator] # the SDK's
    def theirs() -> None:
        with pytest.raises(ServiceError) as caught:
            build(data=raw(1), code=tmp_path)
        refused.append(caught.value)

    assert theirs().jobs == {}
    assert "another thread is inside a function of the SDK's dsl.pipeline" in str(refused[0])
