"""Fine-tunes a model on Azure Machine Learning, puts it behind an endpoint and asks it: plain azure-ai-ml.

    python tuner.py train.jsonl "How do chemists write iron?"

Nothing in here knows of a test or of a local workspace.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from azure.ai.ml import Input, MLClient, dsl
from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, Model
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

CLUSTER = "gpu-cluster"
SIZE = "Standard_NC24ads_A100_v4"
ATTEMPTS = 5


class JobFailed(RuntimeError):
    """The training did not end well."""


def submit(client: Any, registry: Any, train: Path) -> str:
    """Submit a fine-tuning job and return its name."""
    model = registry.models.get("Phi-4-mini-instruct", label="latest")
    component = registry.components.get("chat_completion_pipeline", label="latest")
    rows = Input(type="uri_file", path=str(train))

    @dsl.pipeline  # type: ignore[untyped-decorator]  # the SDK's
    def fine_tune() -> dict[str, Any]:
        node = component(
            mlflow_model_path=Input(type="mlflow_model", path=model.id),
            train_file_path=rows,
            validation_file_path=rows,
            test_file_path=rows,
            compute_model_import=CLUSTER,
            compute_preprocess=CLUSTER,
            compute_finetune=CLUSTER,
            num_train_epochs=1,
        )
        return {"trained_model": node.outputs.mlflow_model_folder}

    return str(client.jobs.create_or_update(fine_tune()).name)


def wait(client: Any, job: str, pause: float = 30) -> None:
    """Wait until a job has ended; anything but `Completed` is an error."""
    while (status := client.jobs.get(job).status) not in ("Completed", "Failed", "Canceled"):
        time.sleep(pause)
    if status != "Completed":
        raise JobFailed(f"{job} is {status}")


def register(client: Any, job: str) -> str:
    """Register a job's model and return its id."""
    path = f"azureml://jobs/{job}/outputs/trained_model"
    return str(client.models.create_or_update(Model(name="tuned", path=path, type="mlflow_model")).id)


def deploy(client: Any, name: str, model: str) -> None:
    """Put a model behind a new endpoint; if that fails, the endpoint goes again, for it costs money."""
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()
    blue = ManagedOnlineDeployment(name="blue", endpoint_name=name, model=model, instance_type=SIZE, instance_count=1)
    try:
        client.online_deployments.begin_create_or_update(blue).result()
    except HttpResponseError:
        client.online_endpoints.begin_delete(name).result()
        raise
    endpoint = client.online_endpoints.get(name)
    endpoint.traffic = {"blue": 100}
    client.online_endpoints.begin_create_or_update(endpoint).result()


def wait_until_ready(client: Any, name: str, patience: float, pause: float = 10) -> str:
    """Return an endpoint's address once it has one; raises `TimeoutError` after so many seconds."""
    end = time.monotonic() + patience
    while not (address := client.online_endpoints.get(name).scoring_uri):
        if time.monotonic() > end:
            raise TimeoutError(f"{name} is not ready after {patience:.0f} s")
        time.sleep(pause)
    return str(address)


def ask(client: Any, name: str, question: str, sleep: Callable[[float], None] = time.sleep) -> str:
    """Ask an endpoint; while it is busy, ask again after as long as it says."""
    address = client.online_endpoints.get(name).scoring_uri
    key = client.online_endpoints.get_keys(name).primary_key
    body = {"input_data": {"input_string": [{"role": "user", "content": question}], "parameters": {}}}
    for _ in range(ATTEMPTS):
        answer = requests.post(address, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60)
        if answer.status_code not in (429, 503):
            break
        sleep(float(answer.headers.get("Retry-After", 1)))
    answer.raise_for_status()
    return str(answer.json()[0]["0"])


def main(train: str, question: str, pause: float = 30) -> None:
    client = MLClient.from_config(DefaultAzureCredential())
    registry = MLClient(DefaultAzureCredential(), registry_name="azureml")
    job = submit(client, registry, Path(train))
    wait(client, job, pause)
    deploy(client, "tuned", register(client, job))
    print(ask(client, "tuned", question))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
