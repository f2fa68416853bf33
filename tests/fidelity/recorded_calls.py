"""The calls whose answers have been recorded at Azure, made to a local workspace: a part for each, named.

The real SDK makes those that it knows, and the others are made by hand, as they were where they were recorded.
"""

from __future__ import annotations

import copy
import io
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from typing import Any

import pytest
from azure.core.exceptions import AzureError

from fidelity.wire_calls import SIZE, Clients, pipeline, train_file
from fidelity.wire_traffic import Traffic
from phift.local.names import WORKSPACE_ID
from phift.local.services import control

HISTORY = f"/history/v1.0{WORKSPACE_ID}"


def make(clients: Clients, traffic: Traffic) -> str:
    """Make every call, each under the name of its part; returns what `jobs.stream` printed."""
    printed = io.StringIO()
    told: dict[str, Any] = {}
    for calls in (_places, _computes, _registry, _assets, _jobs, _failures, _models, _endpoints):
        for part, call in calls(clients, traffic, told):
            with traffic.by(part), redirect_stdout(printed if part == "job-stream" else io.StringIO()):
                call()
    return printed.getvalue()


Calls = Iterator[tuple[str, Callable[[], object]]]


def refused(call: Callable[[], object]) -> Callable[[], object]:
    """Return a call that must be refused."""

    def go() -> None:
        with pytest.raises(AzureError):
            call()

    return go


def _places(clients: Clients, _traffic: Traffic, _told: dict[str, Any]) -> Calls:
    sdk = clients.sdk
    yield "workspace", lambda: sdk.workspaces.get("local")
    yield "discovery", lambda: clients.plain("GET", "/discovery")
    yield "datastores", lambda: list(sdk.datastores.list())
    yield "datastore", lambda: sdk.datastores.get("workspaceblobstore", include_secrets=True)
    yield "datastore-artifacts", lambda: sdk.datastores.get("workspaceartifactstore")


def _computes(clients: Clients, _traffic: Traffic, _told: dict[str, Any]) -> Calls:
    from azure.ai.ml.entities import AmlCompute

    compute, name = clients.sdk.compute, f"few-{uuid.uuid4().hex[:8]}"

    def cluster(idle: int) -> Any:
        return AmlCompute(name=name, size=SIZE, min_instances=0, max_instances=2, idle_time_before_scale_down=idle)

    yield "compute-missing", refused(lambda: compute.get("nothing-here"))
    yield "compute-create", lambda: compute.begin_create_or_update(cluster(100)).result()
    yield "compute", lambda: compute.get(name)
    yield "compute-update", lambda: compute.begin_create_or_update(cluster(200)).result()
    yield "sizes", lambda: list(compute.list_sizes())
    yield "usages", lambda: list(compute.list_usage())
    yield "compute-delete", lambda: compute.begin_delete(name).wait()


def _registry(clients: Clients, _traffic: Traffic, told: dict[str, Any]) -> Calls:
    from azure.ai.ml import MLClient

    registry, options = clients.registry, clients.options
    credential = registry._credential
    yield "registry-discovery", lambda: MLClient(credential, registry_name="azureml", **options)
    yield "registry-unknown", refused(lambda: MLClient(credential, registry_name="nobody-s", **options))
    yield "registry-model", lambda: registry.models.get("Phi-4-mini-instruct", label="latest")
    yield "registry-component", lambda: registry.components.get("chat_completion_pipeline", label="latest")
    told["registry"] = registry


def _assets(clients: Clients, _traffic: Traffic, told: dict[str, Any]) -> Calls:
    from azure.ai.ml.entities import Data
    from azure.ai.ml.entities._assets import Code

    sdk, name, path = clients.sdk, f"chats-{uuid.uuid4().hex[:8]}", str(train_file(clients.folder))

    def data(name: str, version: str, path: str) -> Any:
        return sdk.data.create_or_update(Data(name=name, version=version, path=path, type="uri_file"))

    yield "data-create", lambda: told.update(data=data(name, "1", path))
    yield "data", lambda: sdk.data.get(name, version="1")
    yield "blob-head", lambda: data(f"again-{name}", "1", path)
    yield "data-second", lambda: data(name, "2", told["data"].path)
    yield "data-archive", lambda: sdk.data.archive(name, version="2")
    yield "data-restore", lambda: sdk.data.restore(name, version="2")
    yield "data-list", lambda: list(sdk.data.list(name))
    code = clients.folder / f"code-{name}"
    code.mkdir()
    (code / "main.py").write_text(f"print({name!r})\n")
    for part, other in (("code-create", "one"), ("code-again", "other")):
        entity = Code(name=f"{other}-{name}", version="1", path=str(code))
        yield part, lambda entity=entity: sdk._code.create_or_update(entity)  # type: ignore[misc]


def _jobs(clients: Clients, traffic: Traffic, told: dict[str, Any]) -> Calls:
    jobs, job = clients.sdk.jobs, pipeline(clients)
    name, job.description = job.name, "recorded"
    told["job"] = name
    yield "job-create", lambda: jobs.create_or_update(job)
    yield "job", lambda: jobs.get(name)
    yield "job-stream", lambda: jobs.stream(name)
    yield "job-done", lambda: jobs.get(name)
    yield "jobs", lambda: list(jobs.list())
    yield "job-children", lambda: told.update(steps=list(jobs.list(parent_job_name=name)))
    yield "job-child", lambda: jobs.get(told["steps"][0].name)
    asked = {"runId": name, "selectRunMetadata": True}
    yield "rundata", lambda: clients.plain("POST", f"{HISTORY}/rundata", json=asked)
    yield "rundata-missing", lambda: clients.plain("POST", f"{HISTORY}/rundata", json={"runId": "non_exist_run"})
    yield "job-cancel-done", lambda: clients.plain("POST", f"{WORKSPACE_ID}/jobs/{name}/cancel")
    yield "job-download", lambda: jobs.download(name, download_path=str(clients.folder / f"logs-{name}"))
    (sent,) = (exchange.sent for exchange in traffic.of("PUT jobs/{name}") if exchange.path.endswith(f"/jobs/{name}"))
    other, unknown = copy.deepcopy(sent), copy.deepcopy(sent)
    (node,) = other["properties"]["jobs"].values()
    node["componentId"] = node["componentId"].rpartition("/")[0] + "/non_existent"
    unknown["properties"]["outputs"]["trained_model"]["assetVersion"] = "2"
    for part, body, version in (
        ("job-component-missing", other, "2024-01-01-preview"),
        ("job-unknown-field", unknown, "2025-01-01-preview"),
    ):
        url = f"{WORKSPACE_ID}/jobs/{name}-{part}?api-version={version}"
        yield part, lambda url=url, body=body: clients.plain("PUT", url, json=body)  # type: ignore[misc]  # bound at once


def _failures(clients: Clients, traffic: Traffic, _told: dict[str, Any]) -> Calls:
    owner = {"X-IDENTITY-HEADER": clients.connection.secret()}

    def order(**fault: Any) -> None:
        body = {"value": [fault]}
        clients.plain("POST", f"{control.AT}/faults", json=body, headers=owner).raise_for_status()

    job = pipeline(clients)
    message = "The step ran out of memory."
    order(on="step chat_completion_finetune", status=400, code="UserError", message=message)
    yield "job-fails", lambda: clients.ended(clients.sdk.jobs.create_or_update(job).name)
    asked = {"runId": job.name, "selectRunMetadata": True}
    yield "run-failed", lambda: clients.plain("POST", f"{HISTORY}/rundata", json=asked)
    yield "steps-failed", lambda: clients.plain("GET", f"{HISTORY}/runs/{job.name}/children")
    stored = next(x for x in traffic.exchanges if x.client == "blob-head" and x.route.startswith("HEAD blobs"))
    bearer = {"x-ms-version": "2025-01-05", "Authorization": f"Bearer {clients.storage_token}"}
    yield "blob-bearer", lambda: clients.plain("HEAD", stored.path, headers=bearer)
    listed = next(x for x in traffic.exchanges if x.client == "job-download" and x.route == "GET blobs/{container}")
    code = "KeyBasedAuthenticationNotPermitted"
    text = "Key based authentication is not permitted on this storage account."
    order(on="* blobs/*", status=403, code=code, message=text)
    yield "blob-forbidden", lambda: clients.plain("GET", f"{listed.path}?{listed.query}")


def _models(clients: Clients, _traffic: Traffic, told: dict[str, Any]) -> Calls:
    from azure.ai.ml.entities import Model

    models, job = clients.sdk.models, told["job"]
    name, path = f"tuned-{job}", f"azureml://jobs/{job}/outputs/trained_model"
    tuned = Model(name=name, version="3", path=path, type="mlflow_model", tags={"foo": "bar"})
    yield "model-register", lambda: told.update(model=models.create_or_update(tuned))
    yield "model", lambda: models.get(name, version="3")
    file = clients.folder / f"{name}.pkl"
    file.write_text(name)
    custom = Model(name=f"custom-{job}", version="1", path=str(file), type="custom_model")
    yield "model-custom", lambda: models.create_or_update(custom)
    other = Model(name=custom.name, version="2", path=str(file), type="custom_model")
    yield "model-other", lambda: models.create_or_update(other)
    query = "api-version=2023-08-01-preview&$orderBy=createdtime desc&$top=1"
    yield "model-top", lambda: clients.plain("GET", f"{WORKSPACE_ID}/models/custom-{job}/versions?{query}")
    yield "model-missing-latest", refused(lambda: models.get("nothing", label="latest"))


def _endpoints(clients: Clients, _traffic: Traffic, told: dict[str, Any]) -> Calls:
    from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint

    endpoints, deployments, tag = clients.sdk.online_endpoints, clients.sdk.online_deployments, uuid.uuid4().hex[:8]
    name = f"ept-{tag}"
    yield "endpoint-delete-missing", lambda: endpoints.begin_delete("nothing-here").wait()
    entity = ManagedOnlineEndpoint(name=name, auth_mode="key")
    yield "endpoint-create", lambda: endpoints.begin_create_or_update(entity).result()
    yield "endpoint", lambda: endpoints.get(name)
    blue = ManagedOnlineDeployment(
        name="blue", endpoint_name=name, model=told["model"].id, instance_type=SIZE, instance_count=1
    )
    yield "deployment-create", lambda: deployments.begin_create_or_update(blue).wait()
    yield "deployment", lambda: deployments.get("blue", name)
    found = endpoints.get(name)
    found.traffic = {"blue": 100}
    yield "traffic", lambda: endpoints.begin_create_or_update(found).result()
    yield "keys", lambda: endpoints.get_keys(name)
    question = clients.folder / f"question-{tag}.json"
    question.write_text(json.dumps({"input_data": {"input_string": [{"role": "user", "content": "Hi"}]}}))
    yield "score", lambda: endpoints.invoke(name, request_file=str(question), deployment_name="blue")
    yield "logs", lambda: deployments.get_logs("blue", name, lines=50)
    for mode in ("aad", "aml"):
        other = f"{mode}-{tag}"
        token = ManagedOnlineEndpoint(name=other, auth_mode=f"{mode}_token")
        at = f"{WORKSPACE_ID}/onlineEndpoints/{other}"
        endpoints.begin_create_or_update(token).result()
        yield f"{mode}-keys", lambda at=at: clients.plain("POST", f"{at}/listKeys")  # type: ignore[misc]  # bound at once
        yield f"{mode}-token", lambda at=at: clients.plain("POST", f"{at}/token")  # type: ignore[misc]  # bound at once
        endpoints.begin_delete(other).wait()
    yield "endpoint-delete", lambda: endpoints.begin_delete(name).wait()
