"""The pipeline job: the registry's component, called with the run's model, data, compute and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phift.assets import DataInput
from phift.checks import Finding
from phift.clients import Clients
from phift.config import ComponentConfig
from phift.data.split import SPLITS
from phift.errors import NotFound, ServiceError, azure_errors
from phift.parameters import Parameters
from phift.preparation import REPORT, DataOnCluster, preparation_step

if TYPE_CHECKING:
    from azure.ai.ml.entities import Component, PipelineJob

OUTPUT = "trained_model"
"""The job's output: the fine-tuned model as an MLflow model folder."""


def find_component(clients: Clients, config: ComponentConfig) -> Component:
    """Return the fine-tuning component from its registry, in its pinned or its newest version.

    Raises `phift.errors.NotFound` where the registry does not have it.
    """
    place = f"component {config.name} in registry {config.registry}"
    wanted = {"version": config.version} if config.version else {"label": "latest"}
    try:
        with azure_errors(place):
            return clients.component_registry.components.get(config.name, **wanted)
    except (NotFound, ServiceError) as error:
        # The SDK reports a missing "latest" as a validation error of its own.
        if isinstance(error, ServiceError) and error.code != "ValidationException":
            raise
        version = f" version {config.version}" if config.version else ""
        fix = "check `component.name`, `component.version` and `component.registry`"
        raise NotFound(f"There is no component {config.name}{version}.", where=place, fix=fix) from error


def component_findings(clients: Clients, config: ComponentConfig) -> list[Finding]:
    """Say whether the registry has a newer component than the pinned one; without a pin there is nothing to say."""
    if config.version is None:
        return []
    newest = find_component(clients, config.model_copy(update={"version": None}))
    if str(newest.version) == config.version:
        return []
    message = f"Version {config.version} is pinned; the registry's newest is {newest.version}."
    return [Finding(code="COMPONENT_NEWER", severity="note", place=f"component {config.name}", message=message)]


def build_pipeline(
    component: Component,
    *,
    model_id: str,
    data: Mapping[str, DataInput] | DataOnCluster,
    parameters: Parameters,
    name: str,
    display_name: str,
    experiment: str,
    tags: Mapping[str, str],
    force_rerun: bool = False,
    continue_on_step_failure: bool = False,
    code: Path | None = None,
) -> PipelineJob:
    """Return the job, ready to submit; its output is called `OUTPUT`.

    - **data**: what ``train``, ``validation`` and ``test`` are. With fewer than these three, Azure's preprocessing
      splits again by position and drops a fifth of the rows (azureml-assets, preprocess.py, 2026-07-23).
    - **force_rerun**: run steps again whose inputs have not changed.
    - **code**: for data that a cluster prepares, a folder from `phift.preparation.source_code`.
    """
    from azure.ai.ml import Input
    from azure.ai.ml.dsl import pipeline

    arguments: dict[str, Any] = dict(parameters.arguments())
    for split, given in data.items() if not isinstance(data, DataOnCluster) else ():
        kind = "mltable" if given.type == "mltable" else "file"
        arguments[f"{split}_{kind}_path"] = Input(type=given.type, path=given.address)
    arguments["mlflow_model_path"] = Input(type="mlflow_model", path=model_id)

    def fine_tune() -> dict[str, Any]:
        if not (isinstance(data, DataOnCluster) and code):
            step = component(**arguments)
            return {OUTPUT: step.outputs.mlflow_model_folder}
        # The SDK names a step by the variable that holds it.
        prepare_data = preparation_step(data, code)
        prepared = {f"{split}_file_path": prepare_data.outputs[split] for split in SPLITS}
        step = component(**arguments, **prepared)
        return {OUTPUT: step.outputs.mlflow_model_folder, REPORT: prepare_data.outputs[REPORT]}

    with azure_errors("pipeline"):
        # Called instead of written as a decorator, since the SDK's decorator has no types.
        job = pipeline(name=name, display_name=display_name, tags=dict(tags))(fine_tune)()
        job.name = name
        job.display_name = display_name
        job.experiment_name = experiment
        job.settings.force_rerun = force_rerun
        job.settings.continue_on_step_failure = continue_on_step_failure
    return job
