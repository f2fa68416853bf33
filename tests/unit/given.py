"""What a local workspace is given before a test, where the SDK takes too long for it."""

from __future__ import annotations

from typing import Any

import requests

from phift.jobs.job import OUTPUT
from phift.local import LocalCredential
from phift.local.names import WORKSPACE_ID
from phift.testing import TestWorkspace
from unit.fakes import COMPONENT

MODEL = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"


def job(workspace: TestWorkspace, name: str = "job", *, cluster: str = "gpu-cluster", **properties: Any) -> None:
    """Submit a job on a cluster, as the SDK does, which looks at it for half a second before that."""
    computes = {
        f"compute_{step}": {"value": cluster, "job_input_type": "literal"}
        for step in ("model_import", "preprocess", "finetune")
    }
    node = {
        "type": "pipeline",
        "componentId": COMPONENT,
        "inputs": {"mlflow_model_path": {"uri": MODEL, "job_input_type": "mlflow_model"}, **computes},
        "outputs": {"mlflow_model_folder": {"value": f"${{{{parent.outputs.{OUTPUT}}}}}"}},
    }
    asked = {"jobType": "Pipeline", "jobs": {"step": node}, "outputs": {OUTPUT: {"jobOutputType": "mlflow_model"}}}
    connection = workspace.connection
    token = LocalCredential(connection).get_token("https://management.azure.com/.default").token
    answer = requests.put(
        f"{connection.base_url}{WORKSPACE_ID}/jobs/{name}?api-version=2024-01-01-preview",
        headers={"Authorization": f"Bearer {token}"},
        json={"properties": {**asked, **properties}},
        timeout=60,
    )
    answer.raise_for_status()
