"""The calls that bring every route to speak: by the SDK, by Azure's own management client, by MLflow, and by hand."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import requests

from phift.local import Connection, LocalCredential
from phift.local.names import WORKSPACE_ID
from phift.local.services import control

COMPONENT = "azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.82"
MODEL = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"
ENDED = ("Completed", "Failed", "Canceled")
SIZE = "Standard_NC24ads_A100_v4"
ROW = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


@dataclass
class Clients:
    """The clients of one running local workspace, and a folder for files."""

    connection: Connection
    folder: Path
    code: tuple[str, str] = ("", "")

    @property
    def scope(self) -> tuple[str, str, str]:
        connection = self.connection
        return connection.subscription_id, connection.resource_group, connection.workspace_name

    @property
    def options(self) -> dict[str, Any]:
        """What `MLClient` wants besides the names."""
        cloud = {"cloud": self.connection.cloud_name, "cloud_metadata": self.connection.cloud_metadata}
        return {**cloud, "polling_interval": 0.05, "enable_telemetry": False, "show_progress": False}

    @cached_property
    def sdk(self) -> Any:
        from azure.ai.ml import MLClient

        return MLClient(LocalCredential(self.connection), *self.scope, **self.options)

    @cached_property
    def registry(self) -> Any:
        from azure.ai.ml import MLClient

        return MLClient(LocalCredential(self.connection), registry_name="azureml", **self.options)

    @cached_property
    def mgmt(self) -> Any:
        from azure.mgmt.machinelearningservices import MachineLearningServicesMgmtClient

        options = {"base_url": self.connection.base_url, "polling_interval": 0.05}
        return MachineLearningServicesMgmtClient(LocalCredential(self.connection), self.scope[0], **options)

    @cached_property
    def token(self) -> str:
        return LocalCredential(self.connection).get_token("https://management.azure.com/.default").token

    @property
    def storage_token(self) -> str:
        return LocalCredential(self.connection).get_token("https://storage.azure.com/.default").token

    @cached_property
    def session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.connection.ca_bundle)
        return session

    def plain(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request by hand, with a token, and an api-version where Resource Manager wants one."""
        if path.startswith(("/subscriptions/", "/mferp/")) and "api-version=" not in path:
            path += "?api-version=2023-10-01"
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return self.session.request(method, self.connection.base_url + path, headers=headers, timeout=60, **options)

    def hold_next_job(self) -> None:
        """Let the next job stay in its first step until it is canceled, however fast the machine is."""
        fault = {"on": "step *", "status": 500, "delay": 600}
        owner = {"X-IDENTITY-HEADER": self.connection.secret()}
        self.plain("POST", f"{control.AT}/faults", json={"value": [fault]}, headers=owner).raise_for_status()

    def ended(self, job: str) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            status = self.plain("GET", f"{WORKSPACE_ID}/jobs/{job}").json()["properties"]["status"]
            if status in ENDED:
                return
            time.sleep(0.05)
        raise AssertionError(f"{job} is {status}")


_CLUSTER = {"properties": {"computeType": "AmlCompute", "properties": {"vmSize": "Standard_DS12_v2"}}}


def train_file(folder: Path) -> Path:
    path = folder / f"train-{uuid.uuid4().hex[:6]}.jsonl"
    path.write_text(ROW * 20 + f"{uuid.uuid4()}\n")
    return path


def pipeline(clients: Clients) -> Any:
    """Return a job as a user's notebook builds it."""
    from azure.ai.ml import Input, dsl

    component = clients.registry.components.get("chat_completion_pipeline", version="0.0.82")
    model = clients.registry.models.get("Phi-4-mini-instruct", label="latest")
    file = Input(type="uri_file", path=str(train_file(clients.folder)))
    cluster = dict.fromkeys(("compute_finetune", "compute_model_import", "compute_preprocess"), "gpu-cluster")
    files = {"train_file_path": file, "validation_file_path": file, "test_file_path": file}

    @dsl.pipeline  # type: ignore[untyped-decorator]  # the SDK's
    def tune() -> Any:
        node = component(mlflow_model_path=Input(type="mlflow_model", path=model.id), **files, **cluster)
        outputs = node.outputs
        return {"trained_model": outputs.mlflow_model_folder, "weights": outputs.pytorch_model_folder}

    job = tune()
    job.name = f"job-{uuid.uuid4().hex[:8]}"
    job.experiment_name = "fidelity"
    job.tags = {"purpose": "test"}
    return job


def by_sdk(clients: Clients) -> str:
    """Call everything of the SDK that is served; returns the job's name."""
    sdk, registry, folder = clients.sdk, clients.registry, clients.folder
    for read in (
        lambda: sdk.workspaces.get("local"),
        lambda: list(sdk.workspaces.list()),
        lambda: list(sdk.workspaces.list(scope="subscription")),
        lambda: list(sdk.datastores.list()),
        sdk.datastores.get_default,
        lambda: list(registry.models.list()),
        lambda: list(registry.models.list(name="Phi-4-mini-instruct")),
        lambda: list(registry.components.list()),
        lambda: registry.components.get("chat_completion_pipeline", label="latest"),
        lambda: registry.models.download("Phi-4-mini-instruct", version="1", download_path=folder / "base"),
        lambda: list(registry.data.list()),
    ):
        read()
    _computes(sdk)
    _assets(clients)
    job = sdk.jobs.create_or_update(pipeline(clients))
    clients.ended(job.name)
    _jobs(clients, job.name)
    _serve(clients, job.name)
    return str(job.name)


def _computes(sdk: Any) -> None:
    from azure.ai.ml.entities import AmlCompute

    cluster = AmlCompute(name="small", size="Standard_DS12_v2", min_instances=0, max_instances=2)
    sdk.compute.begin_create_or_update(cluster).result()
    list(sdk.compute.list())
    list(sdk.compute.list_sizes())
    list(sdk.compute.list_usage())
    sdk.compute.begin_delete("small").wait()


def _assets(clients: Clients) -> None:
    from azure.ai.ml import command
    from azure.ai.ml.entities import Data, Environment, Model

    sdk, folder = clients.sdk, clients.folder
    for version in ("1", None):
        path = str(train_file(folder))
        sdk.data.create_or_update(Data(name="elements", version=version, path=path, type="uri_file"))
    sdk.data.get("elements", label="latest")
    list(sdk.data.list())
    list(sdk.data.list(name="elements"))
    sdk.data.archive("elements", version="1")
    sdk.data.archive("elements")
    sdk.data.restore("elements")
    weights = folder / "weights"
    weights.mkdir()
    (weights / "a.bin").write_bytes(b"1")
    sdk.models.create_or_update(Model(name="uploaded", version="1", path=str(weights), type="custom_model"))
    sdk.models.create_or_update(Model(name="uploaded", path=str(weights), type="custom_model"))
    sdk.models.download("uploaded", version="1", download_path=str(folder / "down"))
    list(sdk.models.list())
    list(sdk.models.list(name="uploaded"))
    sdk.models.archive("uploaded")
    sdk.models.restore("uploaded")
    environment = sdk.environments.create_or_update(Environment(name="own", version="1", image="ubuntu:24.04"))
    sdk.environments.get("own", version="1")
    list(sdk.environments.list(name="own"))
    code = folder / "code"
    code.mkdir()
    (code / "run.py").write_text(f"print({uuid.uuid4().hex!r})\n")
    step = command(code=str(code), command="python run.py", environment=environment, name="own", version="1")
    sdk.components.create_or_update(step.component)
    made = sdk.components.get("own", version="1")
    name, _, version = made.code.rpartition("/codes/")[2].partition("/versions/")
    clients.code = (name, version)
    list(sdk.components.list(name="own"))


def _jobs(clients: Clients, name: str) -> None:
    jobs, folder = clients.sdk.jobs, clients.folder
    jobs.stream(name)
    list(jobs.list())
    children = list(jobs.list(parent_job_name=name))
    jobs.get(children[0].name)
    jobs.update(name, display_name="a better name", tags={"one": "more"})
    jobs.archive(name)
    jobs.restore(name)
    jobs.download(name, download_path=folder / "logs")
    jobs.download(name, download_path=folder / "weights-down", output_name="weights")
    # The SDK (1.35.2) spells its own call wrong for what run history calls an MLFlowModel.
    with pytest.raises(TypeError, match="values"):
        jobs.download(name, download_path=folder / "model", output_name="trained_model")
    clients.hold_next_job()
    held = jobs.create_or_update(pipeline(clients))
    jobs.begin_cancel(held.name).wait()
    assert jobs.get(held.name).status == "Canceled"
    jobs.begin_delete(held.name).wait()


def _serve(clients: Clients, job: str) -> None:
    from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, Model

    sdk, folder = clients.sdk, clients.folder
    path = f"azureml://jobs/{job}/outputs/trained_model"
    model = sdk.models.create_or_update(Model(name="tuned", version="1", path=path, type="mlflow_model"))
    endpoints, deployments = sdk.online_endpoints, sdk.online_deployments
    endpoint = endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="by-sdk", auth_mode="key")).result()
    deployment = ManagedOnlineDeployment(
        name="blue", endpoint_name="by-sdk", model=model.id, instance_type=SIZE, instance_count=1
    )
    deployments.begin_create_or_update(deployment).result()
    endpoint.traffic = {"blue": 100}
    endpoints.begin_create_or_update(endpoint).result()
    request = folder / "request.json"
    request.write_text('{"input_data": {"input_string": [{"role": "user", "content": "abc"}]}}')
    endpoints.invoke("by-sdk", request_file=str(request))
    now = datetime.now(UTC)
    span = f"{now - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}/{now + timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    query = f"metricnames=RequestsPerMinute&timespan={span}&$filter=deployment eq '*'&api-version=2023-10-01"
    at = f"{WORKSPACE_ID}/onlineEndpoints/by-sdk/providers/Microsoft.Insights/metrics"
    [counted] = clients.plain("GET", f"{at}?{query}").json()["value"][0]["timeseries"]
    assert sum(point.get("average", 0) for point in counted["data"]) == 1
    signed = {"Authorization": f"Bearer {endpoints.get_keys('by-sdk').primary_key}"}
    asked = {"messages": [{"role": "user", "content": "abc"}]}
    for route in ("v1/chat/completions", "chat/completions"):
        clients.plain("POST", f"/inference/by-sdk/{route}", json=asked, headers=signed).raise_for_status()
    clients.plain("GET", "/inference/by-sdk/v1/models", headers=signed).raise_for_status()
    endpoints.begin_regenerate_keys("by-sdk", key_type="primary").result()
    deployments.get_logs("blue", "by-sdk", lines=50)
    list(deployments.list("by-sdk"))
    list(endpoints.list())
    endpoint.traffic = {"blue": 0}
    endpoints.begin_create_or_update(endpoint).result()
    deployments.begin_delete("blue", "by-sdk").wait()
    endpoints.begin_delete("by-sdk").wait()
    token = ManagedOnlineEndpoint(name="by-token", auth_mode="aml_token")
    endpoints.begin_create_or_update(token).result()
    endpoints.get_keys("by-token")


def by_mgmt(clients: Clients, job: str) -> None:
    """Call every operation of the second client that is served."""
    mgmt, scope, models = clients.mgmt, clients.scope[1:], _second_models()
    group = scope[0]
    reads: list[Callable[[], Any]] = [
        lambda: mgmt.workspaces.get(*scope),
        lambda: list(mgmt.workspaces.list_by_resource_group(group)),
        lambda: list(mgmt.workspaces.list_by_subscription()),
        lambda: list(mgmt.datastores.list(*scope)),
        lambda: mgmt.datastores.get(*scope, "workspaceblobstore"),
        lambda: mgmt.datastores.list_secrets(*scope, "workspaceblobstore"),
        lambda: list(mgmt.compute.list(*scope)),
        lambda: mgmt.compute.get(*scope, "gpu-cluster"),
        lambda: mgmt.virtual_machine_sizes.list("westus2"),
        lambda: list(mgmt.usages.list("westus2")),
        lambda: list(mgmt.jobs.list(*scope)),
        lambda: mgmt.jobs.get(*scope, job),
        lambda: list(mgmt.code_versions.list(*scope, clients.code[0])),
        lambda: mgmt.code_versions.get(*scope, *clients.code),
        lambda: list(mgmt.environment_versions.list(*scope, "own")),
        lambda: mgmt.environment_versions.get(*scope, "own", "1"),
        lambda: list(mgmt.component_versions.list(*scope, "own")),
        lambda: mgmt.component_versions.get(*scope, "own", "1"),
    ]
    for containers, versions, name in (
        (mgmt.data_containers, mgmt.data_versions, "elements"),
        (mgmt.model_containers, mgmt.model_versions, "uploaded"),
    ):
        reads += [
            lambda containers=containers: list(containers.list(*scope)),  # type: ignore[misc]  # bound at once
            lambda containers=containers, name=name: containers.get(*scope, name),  # type: ignore[misc]  # as above
            lambda versions=versions, name=name: list(versions.list(*scope, name)),  # type: ignore[misc]  # as above
            lambda versions=versions, name=name: versions.get(*scope, name, "1"),  # type: ignore[misc]  # as above
            lambda versions=versions, name=name: versions.delete(*scope, name, "2"),  # type: ignore[misc]  # as above
        ]
    for read in reads:
        read()
    cluster = models.AmlComputeProperties(
        vm_size="Standard_DS12_v2", scale_settings=models.ScaleSettings(max_node_count=1)
    )
    resource = models.ComputeResource(location="westus2", properties=models.AmlCompute(properties=cluster))
    mgmt.compute.begin_create_or_update(*scope, "second", resource).result()
    mgmt.compute.begin_delete(*scope, "second", underlying_resource_action="Delete").result()
    _serve_by_mgmt(mgmt, scope, models)


def _second_models() -> Any:
    from azure.mgmt.machinelearningservices import models

    return models


def _serve_by_mgmt(mgmt: Any, scope: tuple[str, ...], models: Any) -> None:
    endpoints, deployments = mgmt.online_endpoints, mgmt.online_deployments
    properties = models.OnlineEndpointProperties(auth_mode="Key")
    endpoint = models.OnlineEndpoint(location="westus2", properties=properties)
    endpoints.begin_create_or_update(*scope, "by-mgmt", endpoint).result()
    model = f"{WORKSPACE_ID}/models/tuned/versions/1"
    served = models.ManagedOnlineDeployment(model=model, instance_type=SIZE)
    sku = models.Sku(name="Default", capacity=1)
    deployment = models.OnlineDeployment(location="westus2", properties=served, sku=sku)
    deployments.begin_create_or_update(*scope, "by-mgmt", "green", deployment).result()
    list(endpoints.list(*scope))
    endpoints.get(*scope, "by-mgmt")
    identity = models.PartialMinimalTrackedResourceWithIdentity(tags={"a": "b"})
    endpoints.begin_update(*scope, "by-mgmt", identity).result()
    endpoints.list_keys(*scope, "by-mgmt")
    keys = models.RegenerateEndpointKeysRequest(key_type="Primary")
    endpoints.begin_regenerate_keys(*scope, "by-mgmt", keys).result()
    endpoints.get_token(*scope, "by-token")
    list(deployments.list(*scope, "by-mgmt"))
    deployments.get(*scope, "by-mgmt", "green")
    deployments.get_logs(*scope, "by-mgmt", "green", models.DeploymentLogsRequest(tail=5))
    deployments.begin_delete(*scope, "by-mgmt", "green").result()
    endpoints.begin_delete(*scope, "by-mgmt").result()


def by_mlflow(clients: Clients, job: str) -> None:
    """Read and write a run as plain MLflow does; ``MLFLOW_TRACKING_TOKEN`` is set."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient(f"{clients.connection.base_url}/mlflow/v1.0{WORKSPACE_ID}")
    client.log_metric(job, "loss", 1.5, step=1)
    client.log_param(job, "p", "1")
    tags = [RunTag("t", "x")]  # type: ignore[no-untyped-call]  # mlflow's own
    parameters = [Param("q", "2")]  # type: ignore[no-untyped-call]  # mlflow's own
    client.log_batch(job, [Metric("loss", 1.0, 1, 2)], parameters, tags)
    client.set_tag(job, "u", "y")
    client.delete_tag(job, "u")
    client.update_run(job, name="renamed")
    client.get_run(job)
    client.get_metric_history(job, "loss")
    experiment = client.get_experiment_by_name("fidelity")
    assert experiment is not None
    client.get_experiment(experiment.experiment_id)
    client.search_experiments()
    client.search_runs([experiment.experiment_id])
    _own_runs(client, job)


def _own_runs(client: Any, job: str) -> None:
    from mlflow.entities import Dataset, DatasetInput
    from mlflow.exceptions import MlflowException

    own = client.create_experiment("of-my-own", tags={"a": "b"})
    client.set_experiment_tag(own, "c", "d")
    run = client.create_run(own, run_name="outer", tags={"e": "f"}).info.run_id
    client.create_run(own, tags={"mlflow.parentRunId": run})
    client.log_inputs(run, [DatasetInput(Dataset("d", "1", "local", "{}"))])
    client.log_metric(run, "m", 0.5)
    client.search_runs([own], "metrics.m < 1 and tags.e = 'f'", order_by=["metrics.m DESC"])
    client.search_experiments(filter_string="name LIKE 'of-%'")
    client.set_terminated(run, "FAILED")
    client.delete_run(run)
    client.restore_run(run)
    model = client.create_registered_model(f"by-mlflow-{run[:8]}", tags={"a": "b"}).name
    version = client.create_model_version(model, f"azureml://jobs/{job}/outputs/trained_model", job).version
    client.get_registered_model(model)
    client.get_model_version(model, version)
    client.get_model_version_download_uri(model, version)
    client.search_model_versions(f"name = '{model}'")
    client.delete_experiment(own)
    client.restore_experiment(own)
    with pytest.raises(MlflowException, match="404"):
        client.search_logged_models([own])
    with pytest.raises(MlflowException, match="404"):
        client.create_logged_model(own)


def _artifacts(clients: Clients, job: str, experiment: str) -> None:
    plain, at = clients.plain, f"/history/v1.0{WORKSPACE_ID}"
    for number, place in enumerate(
        (
            f"{at}/experiments/{experiment}/runs/{job}/artifacts",
            f"/artifact/v2.0{WORKSPACE_ID}/artifacts/LocalUpload/some",
        )
    ):
        path = f"notes/{number}.txt"
        for _ in range(2):  # the second time, it is there
            made = plain("POST", f"{place}/batch/metadata", json={"paths": [{"path": path}]}).json()
            if to_write := made["artifactContentInformation"].get(path):
                address = to_write["contentUri"].removeprefix(clients.connection.base_url)
                plain("PUT", address, data=b"1", headers={"x-ms-blob-type": "BlockBlob"}).raise_for_status()
        assert path in made["errors"]
        plain("GET", place).raise_for_status()
        plain("GET", f"{place}/contentinfo?path={path}").raise_for_status()


def by_hand(clients: Clients, job: str) -> None:
    """Ask what none of these clients asks, though others do: the older SDK, MLflow's plugin, scripts."""
    plain, history = clients.plain, f"/history/v1.0{WORKSPACE_ID}"
    experiment = plain("GET", f"{history}/runs/{job}").json()["experimentId"]
    for place in (f"experiments/fidelity/runs/{job}", f"experimentids/{experiment}/runs/{job}", f"runs/{job}"):
        for end in ("", "/details", "/children"):
            plain("GET", f"{history}/{place}{end}").raise_for_status()
        plain("PATCH", f"{history}/{place}", json={"tags": {"by": "hand"}}).raise_for_status()
    outputs = plain("POST", f"{history}/rundata", json={"runId": job}).json()["runMetadata"]["outputs"]
    ids = {"values": [output["assetId"] for output in outputs.values()]}
    plain("POST", f"/data/v1.0{WORKSPACE_ID}/dataversion/batchGetResolvedUris", json=ids).raise_for_status()
    plain("POST", f"/modelregistry/v1.0{WORKSPACE_ID}/models/batchGetResolvedUris", json=ids).raise_for_status()
    tracking = f"/mlflow/v2.0{WORKSPACE_ID}/api/2.0/mlflow"
    plain("GET", f"{tracking}/experiments/search").raise_for_status()
    late = {"run_id": job, "metrics": [{"key": "late", "value": 1, "timestamp": 1, "step": 1}]}
    plain("POST", f"{tracking.replace('2.0/mlflow', '2.0/preview/mlflow')}/runs/log-batch-async", json=late)
    _artifacts(clients, job, experiment)
    registry = f"/mferp/managementfrontend{WORKSPACE_ID.replace('workspaces/local', 'registries/azureml')}"
    plain("GET", f"{registry}/models/Phi-4-mini-instruct").raise_for_status()
    plain("GET", f"{registry}/components/chat_completion_pipeline").raise_for_status()
    reference = plain("POST", f"{registry}/datarefs/Phi-4-mini-instruct/versions/1", json={}).json()
    signed = reference["blobReferenceForConsumption"]["credential"]["sasUri"].removeprefix(clients.connection.base_url)
    container, _, signature = signed.partition("?")
    plain("GET", f"{container}?restype=container&comp=list&{signature}").raise_for_status()
    for method in ("HEAD", "GET"):
        plain(method, f"{container}/Phi-4-mini-instruct/MLmodel?{signature}").raise_for_status()
    for path in ("", "/nope", "/nope/versions", "/nope/versions/1"):
        plain("GET", f"{registry}/data{path}")
    operation = plain("PUT", f"{WORKSPACE_ID}/computes/third", json=_CLUSTER).headers["Azure-AsyncOperation"]
    result = operation.partition("?")[0].removeprefix(clients.connection.base_url)
    while plain("GET", result.replace("OperationsStatus", "OperationResults")).status_code == 202:
        time.sleep(0.01)
    secrets = plain("POST", f"{WORKSPACE_ID}/datastores/workspaceblobstore/listSecrets").json()
    blob = f"/storage.blob.phift.local/azureml-blobstore/by-hand.txt{secrets['sasToken']}"
    plain("PUT", blob, data=b"1", headers={"x-ms-blob-type": "BlockBlob"}).raise_for_status()
    plain("DELETE", blob).raise_for_status()
    account = f"{WORKSPACE_ID.partition('/providers/')[0]}/providers/Microsoft.Storage/storageAccounts/storage"
    for end in ("", "/providers/Microsoft.Authorization/permissions"):
        plain("GET", f"{account}{end}").raise_for_status()
    plain("GET", "/health").raise_for_status()
    plain("GET", "/metadata/endpoints?api-version=2019-05-01").raise_for_status()
    plain("GET", "/discovery").raise_for_status()
