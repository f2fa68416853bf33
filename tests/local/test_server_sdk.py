"""The real SDK, unmodified, through everything a fine-tuning run does."""

from __future__ import annotations

import ast
import json
import re
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import Input, dsl
from azure.ai.ml.entities import (
    AmlCompute,
    Data,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    PipelineJob,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from running import Local

pytestmark = [
    pytest.mark.slow,
    # The SDK and its libraries announce their own deprecations; they are not ours to fix.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def pipeline(local: Local, train: Path, **inputs: Any) -> PipelineJob:
    component = local.registry.components.get("chat_completion_pipeline", version="0.0.82")
    model = local.registry.models.get("Phi-3-mini-4k-instruct", label="latest")
    file = Input(type="uri_file", path=str(train))
    cluster = dict.fromkeys(("compute_finetune", "compute_model_import", "compute_preprocess"), "gpu-cluster")
    files = {"train_file_path": file, "validation_file_path": file, "test_file_path": file}

    @dsl.pipeline  # type: ignore[untyped-decorator]  # the SDK's
    def tune() -> Any:
        node = component(mlflow_model_path=Input(type="mlflow_model", path=model.id), **files, **cluster, **inputs)
        return {"trained_model": node.outputs.mlflow_model_folder}

    job = tune()
    job.name = f"sdk-{uuid.uuid4().hex[:8]}"
    job.experiment_name = "sdk"
    job.tags = {"purpose": "test"}
    return job


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 20)
    return path


@pytest.fixture(scope="module")
def finished(local: Local, train: Path) -> str:
    job = local.client.jobs.create_or_update(pipeline(local, train, num_train_epochs=3, learning_rate=5e-6))
    assert local.wait(job.name) == "Completed"
    return str(job.name)


def test_workspace(local: Local) -> None:
    workspace = local.client.workspaces.get("local")
    assert workspace.location == "westus2"
    assert workspace.mlflow_tracking_uri.startswith("azureml://localhost:")
    assert [found.name for found in local.client.workspaces.list()] == ["local"]
    assert local.client.datastores.get_default().name == "workspaceblobstore"


def test_the_older_models_metadata_is_in_its_tags(local: Local) -> None:
    model = local.registry.models.get("Phi-3-mini-4k-instruct", label="latest")
    defaults = ast.literal_eval(model.tags["model_specific_defaults"])
    assert defaults["learning_rate"] == "5e-6"
    assert {"learning_rate_min", "learning_rate_max"} <= defaults.keys()
    assert "Standard_NC24ads_A100_v4" in ast.literal_eval(model.tags["finetune_compute_allow_list"])
    assert model.tags["phift.standin"] == "true"
    assert "untrained stand-in" in model.description


def test_the_newer_models_metadata_is_in_system_metadata(local: Local) -> None:
    model = local.registry.models.get("Phi-4-mini-instruct", version="1")
    assert "finetune_compute_allow_list" not in model.tags
    registry = local.arm.replace("/workspaces/local", "/registries/azureml")
    path = f"/mferp/managementfrontend{registry}/models/Phi-4-mini-instruct/versions/1"
    metadata = local.request("GET", path).json()["properties"]["systemMetadata"]
    assert "Standard_ND96isr_H100_v5" in metadata["supportedComputes"]["finetuneComputes"]


def test_registry_lists(local: Local) -> None:
    assert {model.name for model in local.registry.models.list()} == {"Phi-3-mini-4k-instruct", "Phi-4-mini-instruct"}
    assert [model.version for model in local.registry.models.list(name="Phi-3-mini-4k-instruct")] == ["15"]
    assert [found.name for found in local.registry.components.list()] == ["chat_completion_pipeline"]
    with pytest.raises(ResourceNotFoundError):
        local.registry.models.get("Phi-3-mini-4k-instruct", version="16")


def test_component(local: Local) -> None:
    component = local.registry.components.get("chat_completion_pipeline", label="latest")
    assert component.version == "0.0.82"
    assert len(component.inputs) == 69
    assert component.inputs["precision"]["enum"] == ["32", "16"]
    assert list(component.outputs) == ["pytorch_model_folder", "mlflow_model_folder"]


def test_compute(local: Local) -> None:
    computes = local.client.compute
    assert computes.get("gpu-cluster").size == "Standard_NC24ads_A100_v4"
    sizes = {size.name: size.__dict__ for size in computes.list_sizes()}
    assert sizes["Standard_ND96asr_v4"]["gpus"] == 8
    usages = [entry.__dict__ for entry in computes.list_usage()]
    assert [each["limit"] for each in usages if each["name"]["value"] == "standardNCADSA100v4Family"] == [192, -1]
    cluster = AmlCompute(name="small", size="Standard_DS12_v2", min_instances=0, max_instances=2)
    made = computes.begin_create_or_update(cluster).result()
    assert (made.size, made.max_instances, made.provisioning_state) == ("Standard_DS12_v2", 2, "Succeeded")
    computes.begin_delete("small").wait()
    assert [found.name for found in computes.list()] == ["gpu-cluster"]
    with pytest.raises(ResourceNotFoundError):
        computes.get("small")
    with pytest.raises(HttpResponseError, match="not supported in the region"):
        computes.begin_create_or_update(AmlCompute(name="wrong", size="Standard_Nope"))


def test_data_assets(local: Local, train: Path) -> None:
    data = local.client.data
    made = data.create_or_update(Data(name="elements", version="7", path=str(train), type="uri_file"))
    assert data.get("elements", version="7").path.endswith("/train.jsonl")
    assert data.get("elements", label="latest").version == "7"
    # The same again changes nothing; other content under the same version is refused.
    again = data.create_or_update(Data(name="elements", version="7", path=str(train), type="uri_file"))
    assert again.path == made.path
    other = train.with_name("other.jsonl")
    other.write_text("{}\n")
    with pytest.raises(Exception, match="Asset paths cannot be updated"):
        data.create_or_update(Data(name="elements", version="7", path=str(other), type="uri_file"))
    assert data.create_or_update(Data(name="elements", path=str(other), type="uri_file")).version == "8"
    assert [found.version for found in data.list(name="elements")] == ["8", "7"]


def test_job_ends_with_five_completed_steps(local: Local, finished: str) -> None:
    job = local.client.jobs.get(finished)
    assert job.status == "Completed"
    assert job.tags == {"purpose": "test"}
    assert job.experiment_name == "sdk"
    children = list(local.client.jobs.list(parent_job_name=finished))
    assert [(child.display_name, child.status) for child in children] == [
        ("ft_nlp_common_validation", "Completed"),
        ("chat_completion_model_import", "Completed"),
        ("chat_completion_datapreprocess", "Completed"),
        ("chat_completion_finetune", "Completed"),
        ("ft_nlp_model_converter", "Completed"),
    ]
    child = local.client.jobs.get(children[3].name)
    assert (child.display_name, child.status) == ("chat_completion_finetune", "Completed")
    assert finished in [found.name for found in local.client.jobs.list()]
    with pytest.raises(ResourceNotFoundError):
        local.client.jobs.get("nobody")


def test_job_is_submitted_once(local: Local, train: Path) -> None:
    job = pipeline(local, train, num_train_epochs=1)
    local.client.jobs.create_or_update(job)
    job.tags = {"more": "yes"}
    assert local.client.jobs.create_or_update(job).tags == {"purpose": "test", "more": "yes"}
    other = pipeline(local, train, num_train_epochs=2)
    other.name = job.name
    with pytest.raises(HttpResponseError, match="already exists"):
        local.client.jobs.create_or_update(other)
    local.wait(job.name)
    updated = local.client.jobs.update(job.name, display_name="a better name", tags={"one": "more"})
    assert (updated.display_name, updated.tags["one"]) == ("a better name", "more")
    local.client.jobs.archive(job.name)
    assert job.name not in [found.name for found in local.client.jobs.list()]


def test_stream(local: Local, train: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = local.client.jobs.create_or_update(pipeline(local, train, num_train_epochs=5))
    local.client.jobs.stream(job.name)
    output = capsys.readouterr().out
    # A whole one: kedro-azureml 50b7d88c, docs/source/03_quickstart.rst, 2022-07-22.
    moment, run = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ\] ", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    begun, done = rf"Submitting 1 runs, first five are: [0-9a-f]{{8}}:{run}", rf"Completing processing run id {run}\."
    log = rf"\nStreaming logs/azureml/executionlogs\.txt\n=+\n\n({moment}{begun}\n{moment}{done}\n){{5}}\n"
    assert re.search(log, output), output
    assert "Execution Summary" in output


def test_download(local: Local, finished: str, tmp_path: Path) -> None:
    local.client.jobs.download(finished, download_path=tmp_path / "logs")
    logs = sorted(file.name for file in (tmp_path / "logs/artifacts/logs/azureml").iterdir())
    assert logs == ["executionlogs.txt", "stderrlogs.txt", "stdoutlogs.txt"]
    # Defect of SDK 1.35.2: run history's type MLFlowModel sends it into a call that it spells wrong itself.
    with pytest.raises(TypeError, match="values"):
        local.client.jobs.download(finished, download_path=tmp_path, output_name="trained_model")


def test_models(local: Local, finished: str, tmp_path: Path) -> None:
    models = local.client.models
    path = f"azureml://jobs/{finished}/outputs/trained_model"
    made = models.create_or_update(Model(name="tuned", version="1", path=path, type="mlflow_model", tags={"a": "b"}))
    assert made.path.endswith("/mlflow_model_folder")
    assert made.job_name == finished
    assert made.flavors == {"transformers": {"task": "llm/v1/chat"}}
    assert models.get("tuned", label="latest").version == "1"
    models.download("tuned", version="1", download_path=str(tmp_path))
    assert (tmp_path / "tuned/mlflow_model_folder/model/weights.bin").read_bytes() == b"trained"
    models.archive("tuned", version="1")
    assert list(models.list(name="tuned")) == []
    models.restore("tuned", version="1")
    assert [model.version for model in models.list(name="tuned")] == ["1"]
    missing = Model(name="tuned", version="2", path=f"azureml://jobs/{finished}/outputs/nope", type="mlflow_model")
    with pytest.raises(HttpResponseError, match="no output named nope"):
        models.create_or_update(missing)


def test_endpoint(local: Local, finished: str, tmp_path: Path) -> None:
    client, name = local.client, "sdk-endpoint"
    path = f"azureml://jobs/{finished}/outputs/trained_model"
    model = client.models.create_or_update(Model(name="served", version="1", path=path, type="mlflow_model"))
    endpoint = client.online_endpoints.begin_create_or_update(
        ManagedOnlineEndpoint(name=name, auth_mode="key")
    ).result()
    assert endpoint.scoring_uri.endswith(f"/inference/{name}/score")
    deployment = ManagedOnlineDeployment(
        name="blue",
        endpoint_name=name,
        model=model.id,
        instance_type="Standard_NC24ads_A100_v4",
        instance_count=1,
        request_settings=OnlineRequestSettings(request_timeout_ms=90000),
    )
    client.online_deployments.begin_create_or_update(deployment).wait()
    assert client.online_deployments.get("blue", name).provisioning_state == "Succeeded"
    endpoint.traffic = {"blue": 100}
    assert client.online_endpoints.begin_create_or_update(endpoint).result().traffic == {"blue": 100}
    request = tmp_path / "request.json"
    conversation = [{"role": "user", "content": "abc"}]
    request.write_text(json.dumps({"input_data": {"input_string": [conversation], "parameters": {}}, "params": {}}))
    assert client.online_endpoints.invoke(name, request_file=str(request)) == '[{"0": "cba"}]'
    assert "scorer is up" in client.online_deployments.get_logs("blue", name, lines=50)
    logs = client.online_deployments.get_logs("blue", name, lines=50, container_type="storage-initializer")
    assert "lies on this machine" in logs
    assert [found.name for found in client.online_deployments.list(name)] == ["blue"]
    # Not waited for: the SDK looks every 5 s.
    client.online_endpoints.begin_delete(name)
    while name in [found.name for found in client.online_endpoints.list()]:
        time.sleep(0.05)
    with pytest.raises(ResourceNotFoundError):
        client.online_endpoints.get(name)


def test_uploaded_models_and_the_list_of_endpoints(local: Local, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.bin").write_bytes(b"1")
    model = Model(name="uploaded", version="1", path=str(tmp_path / "weights"), type="custom_model")
    made = local.client.models.create_or_update(model)
    assert "LocalUpload" in made.path
    wrong = Model(name="uploaded", version="2", path=made.path, type="mlflow_model")
    with pytest.raises(Exception, match=r"(?i)mlflow"):
        local.client.models.create_or_update(wrong)
    assert list(local.client.online_endpoints.list()) == []


def test_cancel(local: Local, train: Path) -> None:
    job = local.client.jobs.create_or_update(pipeline(local, train, num_train_epochs=300))
    local.wait(job.name, "Running")
    # Not waited for: the SDK looks again after 30 s, as it does with Azure.
    local.client.jobs.begin_cancel(job.name)
    assert local.wait(job.name) == "Canceled"
