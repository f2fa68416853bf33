"""Pipeline jobs as bodies on the wire, for tests that need no SDK entities."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

from running import Local

MODEL = "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/15"
COMPONENT = "azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.82"
TRAIN = "azureml://datastores/workspaceblobstore/paths/tests/train.jsonl"


def put_training_file(local: Local) -> None:
    secrets = local.request("POST", f"{local.arm}/datastores/workspaceblobstore/listSecrets").json()
    url = f"/storage.blob.phift.local/azureml-blobstore/tests/train.jsonl{secrets['sasToken']}"
    assert local.request("PUT", url, token="", data=b'{"messages": []}\n').status_code == 201


def body(*, seed: str = "1", epochs: int = 2, model: str = MODEL, **inputs: str) -> dict[str, Any]:
    """Return a job's body in the two styles that the SDK sends it in."""
    cluster = dict.fromkeys(("compute_finetune", "compute_model_import", "compute_preprocess"), "gpu-cluster")
    literals = {"seed": seed, "num_train_epochs": str(epochs), "task_name": "ChatCompletion", **cluster, **inputs}
    node = {
        "type": "pipeline",
        "componentId": COMPONENT,
        "inputs": {
            "mlflow_model_path": {"uri": model, "job_input_type": "mlflow_model"},
            "train_file_path": {"value": "${{parent.inputs.train}}", "job_input_type": "literal"},
            **{name: {"value": value, "job_input_type": "literal"} for name, value in literals.items()},
        },
        "outputs": {"mlflow_model_folder": {"value": "${{parent.outputs.trained_model}}", "type": "literal"}},
    }
    properties = {
        "jobType": "Pipeline",
        "experimentName": "tests",
        "inputs": {"train": {"uri": TRAIN, "jobInputType": "uri_file"}},
        "outputs": {"trained_model": {"jobOutputType": "mlflow_model", "mode": "ReadWriteMount"}},
        "jobs": {"chat_completion_pipeline": node},
        "settings": {"_source": "DSL"},
    }
    return {"properties": properties}


def submit(local: Local, **options: Any) -> str:
    """Submit a job and return its name."""
    put_training_file(local)
    name = f"job-{uuid.uuid4().hex[:8]}"
    answer = local.request("PUT", f"{local.arm}/jobs/{name}", json=body(**options))
    assert answer.status_code == 201, answer.text
    return name


def children(local: Local, job: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = local.request("GET", f"/history/v1.0{local.arm}/runs/{job}/children").json()["value"]
    return runs


def statuses(local: Local, job: str) -> list[str]:
    return [run["status"] for run in children(local, job)]


def log_lines(local: Local, job: str) -> list[str]:
    folder: Path = local.connection.folder / "blobs/storage/azureml"
    return (folder / f"ExperimentRun/dcid.{job}/logs/azureml/executionlogs.txt").read_text().splitlines()


def begun(local: Local, job: str) -> list[str]:
    """Return the names of the steps that have begun, in their order, as the job's log tells their runs."""
    names = {run["runId"]: run["displayName"] for run in children(local, job)}
    found = (
        re.search(r"\] Submitting 1 runs, first five are: [0-9a-f]{8}:(\S+)$", line) for line in log_lines(local, job)
    )
    return [names[each[1]] for each in found if each]
