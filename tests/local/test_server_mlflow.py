"""MLflow's own client, and the azureml plugin, on the runs of jobs."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
from running import Local
from wire_jobs import children, submit

from phift.local import LocalCredential

pytestmark = [
    pytest.mark.slow,
    # MLflow and its libraries announce their own deprecations; they are not ours to fix.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def job(local: Local) -> str:
    name = submit(local, epochs=3)
    assert local.wait(name) == "Completed"
    return name


@pytest.fixture
def tracking(local: Local, monkeypatch: pytest.MonkeyPatch) -> str:
    token = LocalCredential(local.connection).get_token("https://management.azure.com/.default").token
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    return f"{local.connection.base_url}/mlflow/v1.0{local.arm}"


def test_plain_mlflow_reads(local: Local, tracking: str, job: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking)
    run = client.get_run(job)
    assert (run.info.status, run.data.tags["score"]) == ("FINISHED", str(2.0 / 3))
    assert [(metric.step, metric.value) for metric in client.get_metric_history(job, "loss")] == [
        (1, 2.0),
        (2, 1.0),
        (3, 2.0 / 3),
    ]
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    assert client.get_experiment(experiment.experiment_id).name == "tests"
    assert client.get_experiment_by_name("nope") is None
    found = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{job}'")
    assert {child.info.run_id for child in found} == {child["runId"] for child in children(local, job)}
    good = client.search_runs([experiment.experiment_id], "metrics.loss < 0.7 and attributes.status = 'FINISHED'")
    assert job in [found.info.run_id for found in good]


def test_plain_mlflow_writes(local: Local, tracking: str, job: str) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient(tracking)
    child = children(local, job)[3]["runId"]
    client.log_metric(child, "extra", 1.5, step=2)
    metrics = [Metric("extra", math.nan, 1, 3), Metric("extra", math.inf, 1, 4)]
    parameters = [Param("p", "1")]  # type: ignore[no-untyped-call]  # mlflow's own
    tags = [RunTag("t", "x")]  # type: ignore[no-untyped-call]  # mlflow's own
    client.log_batch(child, metrics, parameters, tags)
    client.set_tag(child, "__azureml_ft_training_tokens", "77")
    values = [metric.value for metric in client.get_metric_history(child, "extra")]
    assert values[0] == 1.5
    assert math.isnan(values[1])
    assert math.isinf(values[2])
    run = client.get_run(child)
    assert (run.data.params, run.data.tags["t"]) == ({"p": "1"}, "x")
    assert run.data.tags["__azureml_ft_training_tokens"] == "77"
    shown = local.request("GET", f"/history/v1.0{local.arm}/runs/{child}").json()
    assert shown["properties"]["__azureml_ft_training_tokens"] == "77"
    assert {name: value for name, value in shown["tags"].items() if not name.startswith("azureml.")} == {"t": "x"}


_PROGRAM = """
import sys
from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
from mlflow import MlflowClient

workspace = MLClient(DefaultAzureCredential(), "00000000-0000-0000-0000-000000000000", "phift", "local").workspaces
for client in (MlflowClient(), MlflowClient(workspace.get("local").mlflow_tracking_uri)):
    assert client.get_run(sys.argv[1]).data.metrics == {"loss": 2.0 / 3}
    assert len(client.get_metric_history(sys.argv[1], "loss")) == 3
"""


def test_an_unmodified_program_reads_with_the_azureml_plugin(local: Local, job: str) -> None:
    # A process of its own: the plugin reads the environment once, when it is imported.
    environment = {**os.environ, **local.connection.environment()}
    environment.pop("AZUREML_CURRENT_CLOUD", None)
    command = [sys.executable, "-c", _PROGRAM, job]
    subprocess.run(command, env=environment, check=True)  # noqa: S603 - the text above


def test_errors(local: Local) -> None:
    base = f"/mlflow/v2.0{local.arm}/api/2.0/mlflow"
    missing = local.request("GET", f"{base}/runs/get?run_id=nope")
    assert (missing.status_code, missing.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    search = {"experiment_ids": ["x"], "filter": "whatever this is"}
    wrong = local.request("POST", f"{base}/runs/search", json=search)
    assert (wrong.status_code, wrong.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert local.request("POST", f"{base}/logged-models", json={}).status_code == 404
