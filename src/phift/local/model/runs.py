"""The runs of jobs, of their steps, and those made through MLflow: which there are, their states, what they left."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from datetime import UTC, datetime

from phift.component.inputs import STEPS
from phift.data.on_cluster import STEP
from phift.local.ground import Ground
from phift.local.model import files
from phift.local.names import ARTIFACTS, SUBSCRIPTION
from phift.local.state.documents import Document, Json
from phift.local.wire import timestamp, user_error

WAITING = ("NotStarted", "Queued")
RUNNING = ("Preparing", "Running", "Finalizing", "CancelRequested")
ENDED = ("Completed", "Failed", "Canceled")


def steps(plan: Json) -> tuple[str, ...]:
    """Return the steps that a job consists of, in their order."""
    return (STEP, *STEPS) if plan.get("preparation") else tuple(STEPS)


def step_compute(plan: Json, step: str) -> tuple[str, str]:
    """Return the compute and, where that is serverless, the VM size that a step of a job asks for."""
    if step == STEP:
        return plan["preparation"]["compute"], ""
    compute, instance_type = f"compute_{STEPS[step]}", f"instance_type_{STEPS[step]}"
    return plan["inputs"][compute], plan["inputs"][instance_type]


def step_output(value: str) -> tuple[str, str] | None:
    """Return the node and the output of it that an input is bound to, or None where it is a value."""
    bound = re.fullmatch(r"\$\{\{\s*parent\.jobs\.([\w-]+)\.outputs\.([\w-]+)\s*\}\}", value)
    return (bound[1], bound[2]) if bound else None


def check_name(kind: str, name: str) -> None:
    """Refuse a name that neither a job nor an experiment may have."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}", name):
        rule = "letters, digits, '-' and '_', not starting with one of these two, at most 255."
        raise user_error(f"The {kind} name {name} is not valid: {rule}")


def experiment(ground: Ground, name: str) -> str:
    """Return the id of the experiment called ``name``, making it where it is new."""
    identity = experiment_id(name)
    if ground.documents.get(f"experiments/{identity}") is None:
        ground.documents.put(f"experiments/{identity}", {"name": name})
    return identity


def experiment_id(name: str) -> str:
    """Return the id that the experiment called ``name`` has, or would have."""
    return str(uuid.uuid5(uuid.UUID(SUBSCRIPTION), f"experiment/{name}"))


def begin(ground: Ground, experiment: Document, started: float, tags: dict[str, str]) -> str:
    """Begin a run that is of no job, and return its id.

    - **experiment**: the document of its experiment.
    - **started**: seconds since 1970.
    - **tags**: among them its name and its parent, where it has them, as MLflow calls them.
    """
    name = str(uuid.uuid4())
    body = {
        "ofMlflow": True,
        "experimentId": experiment.name,
        "experimentName": experiment.body["name"],
        "rootRunId": name,
        "runId": name,
        "runType": None,
        "displayName": name,
        "tags": {},
        "properties": {},
        "target": None,
        "status": "Running",
        "createdUtc": timestamp(ground.clock.now()),
        "startTimeUtc": timestamp(started),
    }
    with ground.documents.transaction():
        ground.documents.put(f"runs/{name}", body)
        write(ground, name, tags, {})
    return name


def move(ground: Ground, name: str, status: str, ended: float | None) -> None:
    """Move a run that is of no job to a state; it may begin again after its end."""

    def apply(body: Json) -> None:
        body["status"] = status
        if status in ENDED:
            body["endTimeUtc"] = timestamp(ground.clock.now() if ended is None else ended)
        else:
            body.pop("endTimeUtc", None)

    ground.documents.update(f"runs/{name}", apply)


def children(ground: Ground, root: str) -> list[Document]:
    """Return the child runs of a job in their order."""
    found = ground.documents.get(f"runs/{root}")
    names = found.body.get("children") or [] if found else []
    return [run for run in (ground.documents.get(f"runs/{name}") for name in names) if run is not None]


def set_status(ground: Ground, name: str, status: str, *, error: Json | None = None) -> None:
    """Move a run to a state, with the times that go with it; a run that has ended stays as it is."""

    def apply(body: Json) -> None:
        if body["status"] in ENDED or (body["status"] == "CancelRequested" and status not in ENDED):
            return
        body["status"] = status
        if status in ("Preparing", "Running"):
            body.setdefault("startTimeUtc", timestamp(ground.clock.now()))
        if status in ENDED:
            body["endTimeUtc"] = timestamp(ground.clock.now())
        if "parentRunId" not in body and ("startTimeUtc" in body or status in ENDED):
            body["properties"] = {**(body.get("properties") or {}), "azureml.pipelines.stages": _stages(body)}
        if error is not None:
            body["error"] = error

    ground.documents.update(f"runs/{name}", apply)


def _stages(body: Json) -> str:
    """Return what a pipeline's property of this name tells of its execution.

    As Azure's Ansible collection shows it for a pipeline that has completed (ansible-collections/azure,
    azure_rm_ml_batch_endpoint_info.py, 2026-05-04). A running one has it too (mldesigner 0.1.0b23, its
    get_root_pipeline_context); that it then has no end, and that the other words are the run's own, is guessed.
    """
    told = {"StartTime": body.get("startTimeUtc"), "EndTime": body.get("endTimeUtc")}
    status = "Finished" if body["status"] == "Completed" else body["status"]
    return json.dumps({"Initialization": None, "Execution": {**told, "Status": status}}, separators=(",", ":"))


def end(ground: Ground, name: str, status: str, error: Json | None = None) -> None:
    """End a job: what still ran failed with it, what never ran is canceled."""
    with ground.documents.transaction():  # a killed server leaves no job half ended
        for child in children(ground, name):
            failed = status == "Failed" and child.body["status"] == "Running"
            set_status(ground, child.name, "Failed" if failed else "Canceled", error=error if failed else None)
        set_status(ground, name, status, error=error)
    if status == "Failed":
        log(ground, name, "Execution of experiment failed, update experiment status and cancel running nodes.")
    if error or status == "Canceled":
        log(ground, name, error["message"] if error else f"The pipeline run {name} is Canceled.")


def delete(ground: Ground, name: str) -> None:
    """Delete a job and its runs, with logs and metrics; the outputs stay, as registered models lie there.

    That is guessed, as no source tells what Azure keeps. To be called in a transaction.
    """
    for run in (*(child.name for child in children(ground, name)), name):
        for blob in files.names(ground, ARTIFACTS, f"{files.artifacts_of(run)}/"):
            files.delete(ground, ARTIFACTS, blob)
        ground.documents.forget_metrics(run)
        ground.documents.delete(f"runs/{run}")
    shutil.rmtree(ground.folder.job(name), ignore_errors=True)
    ground.documents.delete(f"jobs/{name}")


def error_of_steps(ground: Ground, name: str) -> Json:
    """Return the error of a pipeline whose steps failed, as what a `WireError` is made of.

    It names the steps and leaves the reason to them (recorded 2026-02-27: azure-sdk-assets 6873a4bb,
    test_pipeline_job_download).
    """
    failed = [f"/{child.body['displayName']}" for child in children(ground, name) if child.body["status"] == "Failed"]
    if not failed:
        return {"code": "SystemError", "message": "The engine reported a failure and named no step."}
    more = "For more details and logs, please go to the job detail page and check the child jobs."
    return {
        "code": "UserError",
        "message": f"Pipeline has failed child jobs. Failed nodes: {', '.join(failed)}. {more}",
        "more": {"messageFormat": "Pipeline has failed child jobs. {0}", "referenceCode": "PipelineHasStepJobFailed"},
    }


def log(ground: Ground, name: str, text: str) -> None:
    """Write a line into a job's own log.

    Its form, and the two logs beside it, in which nothing is written here, are as recorded (azureml-examples 085cd6ea,
    model-monitoring-e2e.ipynb, 2024-01-11; azure-sdk-for-python 563adfe1, test_pipeline_job_download, 2023-02-12).
    """
    path = files.log_to_write(ground, {"runId": name})
    for other in ("stderrlogs.txt", "stdoutlogs.txt"):
        path.with_name(other).touch()
    with path.open("a", encoding="utf-8") as file:
        file.write(f"[{datetime.fromtimestamp(ground.clock.now(), UTC):%Y-%m-%d %H:%M:%SZ}] {text}\n")


def log_step(ground: Ground, name: str, child: str, status: str) -> None:
    """Write into a job's log that a step begins or has completed, in the recorded words (as `log`)."""
    if status == "Running":
        log(ground, name, f"Submitting 1 runs, first five are: {node_id(child)}:{child}")
    elif status == "Completed":
        log(ground, name, f"Completing processing run id {child}.")


def node_id(child: str) -> str:
    """Return the id that a step's node has in its pipeline: eight hexadecimal digits, as recorded (2023-02-12)."""
    return child[:8]


def set_outputs(ground: Ground, name: str, outputs: Json) -> None:
    """Note a run's outputs: for each, the component's output it is and its address."""
    ground.documents.update(f"runs/{name}", lambda body: body.update(outputs=outputs))


def change(ground: Ground, name: str, changed: Json) -> None:
    """Change what a user may change on a run: tags, properties and parameters are merged, texts are replaced."""

    def apply(body: Json) -> None:
        for key in ("tags", "properties", "params"):
            body[key] = {**(body.get(key) or {}), **(changed.get(key) or {})}
        for key in ("displayName", "description", "hidden"):
            if changed.get(key) is not None:
                body[key] = changed[key]
        if changed.get("isArchived") is not None:
            body["hidden"] = changed["isArchived"]

    ground.documents.update(f"runs/{name}", apply)


def write(ground: Ground, name: str, tags: dict[str, str], parameters: dict[str, str]) -> None:
    """Write tags and parameters of a run; what the fine-tuning component keeps as properties goes there."""
    own = {key: value for key, value in tags.items() if key == "score" or key.startswith("__azureml_ft_")}
    others = {key: value for key, value in tags.items() if key not in own}
    if tags or parameters:
        renamed = {"displayName": others.pop("mlflow.runName", None)}
        change(ground, name, {"tags": others, "properties": own, "params": parameters, **renamed})
    if parent := tags.get("mlflow.parentRunId"):
        above = ground.documents.get(f"runs/{parent}")

        def nest(body: Json) -> None:
            if body.get("ofMlflow"):
                body |= {"parentRunId": parent, "rootRunId": above.body["rootRunId"] if above else parent}

        ground.documents.update(f"runs/{name}", nest)
