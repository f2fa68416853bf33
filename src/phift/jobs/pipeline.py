"""The pipeline job: the registry's component, called with the run's model, data, compute and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phift.azure.answers import text
from phift.check.parameters import display_name
from phift.component.preprocessing import SPLITS
from phift.config.run import RunConfig
from phift.data.assets import DataInAzure
from phift.data.on_cluster import REPORT, preparation_step, step_inputs
from phift.data.on_cluster import STEP as PREPARATION
from phift.errors import ParameterError, ServiceError, azure_errors
from phift.jobs.events import LENGTH
from phift.jobs.job import OUTPUT
from phift.jobs.record import RunRecord
from phift.plan import Plan

if TYPE_CHECKING:
    from azure.ai.ml.entities import Command, PipelineJob

STEP = "step"  # the node that is the component


def pipeline_job(
    config: RunConfig, plan: Plan, data: DataInAzure, *, name: str, code: Path | None = None
) -> PipelineJob:
    """Return the job of a plan with its record, ready to submit; its output is called `phift.jobs.job.OUTPUT`.

    Its nodes are put together here and not by the SDK's ``dsl.pipeline``: that keeps one stack of open pipelines for
    the whole process, so that a node made in one thread lands in the pipeline that another thread is building
    (azure-ai-ml 1.35.2, dsl/_pipeline_component_builder.py).

    - **data**: what ``train``, ``validation`` and ``test`` are. With fewer than these three, Azure's preprocessing
      splits again by position and drops a fifth of the rows (azureml-assets, preprocess.py, 2026-07-23).
    - **code**: for data that a cluster prepares, a folder from `phift.data.on_cluster.source_code`.

    Raises `phift.errors.ServiceError` where the SDK makes another job of it than was asked for.
    """
    from azure.ai.ml import Input, Output
    from azure.ai.ml.entities import Pipeline, PipelineJob, PipelineJobSettings

    component, record, settings = plan.component, RunRecord.of(config, plan), plan.parameters.settings
    inputs: dict[str, str | Input] = {
        **plan.parameters.arguments(),
        "mlflow_model_path": Input(type="mlflow_model", path=plan.model.id),
    }
    outputs = {OUTPUT: Output(type="mlflow_model")}
    nodes: dict[str, Command | Pipeline] = {}
    meant: dict[str, Mapping[str, object]] = {STEP: inputs}
    with azure_errors("pipeline"):
        if data.compute:
            nodes[PREPARATION] = preparation_step(data, code or Path())
            meant[PREPARATION] = step_inputs(data)
            outputs[REPORT] = Output(type="uri_folder")
            for split in SPLITS:
                prepared = f"${{{{parent.jobs.{PREPARATION}.outputs.{split}}}}}"
                inputs[f"{split}_file_path"] = Input(type="uri_file", path=prepared)
        else:
            for split, given in data.inputs.items():
                kind = "mltable" if given.type == "mltable" else "file"
                inputs[f"{split}_{kind}_path"] = Input(type=given.type, path=given.address)
        # A node made by hand takes inputs that the component does not have, and the service would not.
        if unknown := ", ".join(sorted(inputs.keys() - component.inputs.keys())):
            what = f"The component {component.name} version {component.version} has no input {unknown}."
            fix = "leave it out, or use a version of the component that has it"
            raise ParameterError(what, where="pipeline", fix=fix)
        bound = {"mlflow_model_folder": f"${{{{parent.outputs.{OUTPUT}}}}}"}
        nodes[STEP] = Pipeline(component=component, inputs=inputs, outputs=bound)
        nodes[STEP].name = STEP
        job = PipelineJob(
            name=name,
            display_name=display_name(plan.model.name, plan.dataset.name, plan.parameters, plan.target),
            experiment_name=config.experiment,
            tags=record.tags,
            properties={**record.properties, LENGTH: f"{settings.num_train_epochs}/{settings.max_steps}"},
            jobs=nodes,
            outputs=outputs,
            settings=PipelineJobSettings(
                force_rerun=config.force_rerun, continue_on_step_failure=config.continue_on_step_failure
            ),
        )
        sent = job._to_rest_object().properties.jobs
    _check_sent(sent, meant, text(component.id, "component.id"))
    return job


def _check_sent(
    sent: Mapping[str, Mapping[str, Any]], meant: Mapping[str, Mapping[str, object]], component: str
) -> None:
    """Hold the nodes that will travel against the inputs that were meant; a job that differs trains something else."""
    wrong = [f"node {name}" for name in sorted(set(sent) ^ set(meant))]
    for name in sorted(set(sent) & set(meant)):
        found = {key: str(value.get("uri", value.get("value"))) for key, value in sent[name]["inputs"].items()}
        wanted = {key: str(getattr(value, "path", value)) for key, value in meant[name].items()}
        wrong += [f"{name}.{key}" for key in sorted(found.keys() | wanted) if found.get(key) != wanted.get(key)]
    if STEP in sent and sent[STEP].get("componentId") != component:
        wrong.append(f"the component of {STEP}")
    if wrong:
        what = f"The SDK made another job than was asked for; different: {', '.join(wrong)}. Nothing was submitted."
        raise ServiceError(what, where="pipeline", fix="please report this, with the versions of phift and azure-ai-ml")
