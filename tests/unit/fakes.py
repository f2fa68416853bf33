"""In-memory doubles of what a run talks to, made of the Azure SDK's own entities and exceptions.

What is covered: the operations that phift calls, names and ids, settling states, scripted errors and statuses.
What is not: HTTP, serialization, authentication, uploads; the local workspace is the double for those.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

from azure.ai.ml._restclient.arm_ml_service.models import DeploymentProvisioningState, JobStatus
from azure.ai.ml.entities import (
    AmlCompute,
    Data,
    EndpointAuthKeys,
    JobService,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    PipelineComponent,
    PipelineJob,
    Usage,
    VmSize,
    Workspace,
)
from azure.ai.ml.entities._job.base_job import _BaseJob
from azure.ai.ml.exceptions import ErrorTarget, ValidationException
from azure.core import exceptions as core

from phift import facts
from phift.checks import Finding
from phift.clients import Clients
from phift.compute import ComputeTarget
from phift.config import RunConfig
from phift.errors import NotFound
from phift.models import AllowList, FoundationModel
from phift.parameters import Parameters, resolve_parameters
from phift.rest import Rest

A100 = "Standard_NC24ads_A100_v4"
FOUR_A100 = "Standard_NC96ads_A100_v4"
COMPONENT = "azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.82"
PHI_4 = "azureml://registries/azureml/models/Phi-4/versions/8"
KEY = "made-up-endpoint-key"


def http_error(status: int, message: str = "made up") -> core.HttpResponseError:
    """Return the exception that the SDK's generated clients raise for a status."""
    kinds = {
        401: core.ClientAuthenticationError,
        404: core.ResourceNotFoundError,
        409: core.ResourceExistsError,
        412: core.ResourceModifiedError,
    }
    error = kinds.get(status, core.HttpResponseError)(message=message)
    error.status_code = status
    return error


class Record:
    """Every call in order, and the errors that the next calls of a kind raise."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self._errors: dict[str, list[BaseException]] = {}

    def fail(self, operation: str, *errors: BaseException) -> None:
        self._errors.setdefault(operation, []).extend(errors)

    def count(self, operation: str) -> int:
        return sum(call[0] == operation for call in self.calls)

    def __call__(self, operation: str, *names: str) -> None:
        self.calls.append((operation, *names))
        if waiting := self._errors.get(operation):
            raise waiting.pop(0)


class Poller:
    """A long-running operation; the work is done, or fails, when the result is asked for."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work

    def result(self) -> Any:
        return self._work()


class Assets:
    """Models or components: by name and version, or by the label ``latest``."""

    def __init__(self, record: Record, kind: str) -> None:
        self._record, self._kind = record, kind
        self.known: dict[tuple[str, str], Any] = {}

    def add(self, asset: Any) -> None:
        self.known[asset.name, str(asset.version)] = asset

    def get(self, name: str, version: str | None = None, label: str | None = None) -> Any:
        self._record(f"{self._kind}.get", name, version or f"@{label}")
        versions = [key[1] for key in self.known if key[0] == name]
        if label and not versions:  # the SDK does not pass the service's 404 on here
            raise ValidationException(
                message=f"Asset {name} does not exist.", no_personal_data_message="", target=ErrorTarget.ASSET
            )
        key = (name, version or versions[-1])
        if key not in self.known:
            raise http_error(404, f"Asset {name}:{version} not found.")
        return copy.deepcopy(self.known[key])

    def create_or_update(self, model: Any) -> Any:
        self._record(f"{self._kind}.create_or_update", model.name, str(model.version))
        made = Model(
            name=model.name,
            version=model.version,
            path=model.path,
            type=model.type,
            tags=model.tags,
            description=model.description,
            id=f"/subscriptions/s/workspaces/w/models/{model.name}/versions/{model.version}",
        )
        self.add(made)
        return made

    def download(self, name: str, version: str, download_path: str) -> None:
        self._record(f"{self._kind}.download", name, version)
        folder = Path(download_path) / name / "mlflow_model_folder"
        folder.mkdir(parents=True)
        (folder / "MLmodel").write_text("flavors: {}")


class DataAssets(Assets):
    """Data assets, which can be archived."""

    def __init__(self, record: Record) -> None:
        super().__init__(record, "data")
        self.archived: set[tuple[str, str]] = set()

    def create_or_update(self, asset: Any) -> Any:
        self._record("data.create_or_update", asset.name, str(asset.version))
        made = copy.deepcopy(asset)
        made._id = data_id(asset.name, asset.version)
        self.add(made)
        return made

    def list(self, name: str, *, list_view_type: str) -> list[Any]:
        self._record("data.list", name, list_view_type)
        return [self.known[key] for key in self.archived if key[0] == name]

    def restore(self, name: str, version: str) -> None:
        self._record("data.restore", name, version)
        self.archived.remove((name, version))


def data_id(name: str, version: str) -> str:
    provider = "Microsoft.MachineLearningServices/workspaces/workspace"
    return f"/subscriptions/s/resourceGroups/group/providers/{provider}/data/{name}/versions/{version}"


def data_asset(name: str, version: str, **changes: Any) -> Any:
    """Return a data asset of the workspace: a JSONL file in its storage."""
    values = {"type": "uri_file", "path": "azureml://datastores/store/paths/chat.jsonl", **changes}
    return Data(name=name, version=version, id=data_id(name, version), **values)


def usage(family: str, used: int, limit: int) -> Any:
    """Return a family's quota as azure-ai-ml 1.35 gives it: in the service's own keys."""
    found = Usage()
    found.__dict__.update({"name": {"value": family}, "currentValue": used, "limit": limit, "unit": "Count"})
    return found


class Computes:
    """Clusters, and the VM sizes of the region."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.known: dict[str, Any] = {}
        self.sizes: list[Any] = [VmSize(name=A100, gpus=1), VmSize(name=FOUR_A100, gpus=4)]
        self.usages: list[Any] = [usage("Standard NCADSA100v4 Family", 0, 1000)]
        self.created_as = "Succeeded"

    def add(self, name: str, size: str = A100, **settings: Any) -> Any:
        self.known[name] = AmlCompute(name=name, size=size, **settings)
        return self.known[name]

    def get(self, name: str) -> Any:
        self._record("compute.get", name)
        if name not in self.known:
            raise http_error(404, f"Compute {name} not found.")
        return self.known[name]

    def list(self) -> Iterator[Any]:
        self._record("compute.list")
        return iter(self.known.values())

    def list_sizes(self) -> Iterator[Any]:
        self._record("compute.list_sizes")
        return iter(self.sizes)

    def list_usage(self) -> Iterator[Any]:
        self._record("compute.list_usage")
        return iter(self.usages)

    def begin_create_or_update(self, cluster: Any) -> Poller:
        self._record("compute.begin_create_or_update", cluster.name)
        cluster._provisioning_state = self.created_as
        self.known[cluster.name] = cluster
        return Poller(lambda: cluster)


class Jobs:
    """Jobs whose status goes on along a script, one step a look, and stays at its last word."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.scripts: dict[str, list[str]] = {}
        self.children: dict[str, list[tuple[str, str, str]]] = {}
        self.submitted: list[Any] = []
        self.next_script = ["Completed"]

    def add(self, name: str, *statuses: str) -> None:
        self.scripts[name] = list(statuses)

    def get(self, name: str) -> Any:
        self._record("jobs.get", name)
        if name not in self.scripts:
            raise http_error(404, f"Run {name} not found.")
        script = self.scripts[name]
        status = script.pop(0) if len(script) > 1 else script[0]
        studio = JobService(endpoint=f"https://studio.test/runs/{name}")
        return PipelineJob(name=name, status=JobStatus(status), services={"Studio": studio})

    def list(self, *, parent_job_name: str) -> list[Any]:
        self._record("jobs.list", parent_job_name)
        rows = self.children.get(parent_job_name, [])
        return [_BaseJob(name=run_id, display_name=label, status=status) for label, run_id, status in rows]

    def create_or_update(self, job: Any) -> Any:
        self._record("jobs.create_or_update", job.name)
        self.submitted.append(job)
        self.add(job.name, *self.next_script)
        return job

    def begin_cancel(self, name: str) -> Poller:
        self._record("jobs.begin_cancel", name)
        self.add(name, "CancelRequested", "Canceled")
        return Poller(lambda: None)


class Endpoints:
    """Online endpoints; like the service's, a get is a copy and an update replaces the traffic rules."""

    def __init__(self, record: Record, deployments: Deployments) -> None:
        self._record, self._deployments = record, deployments
        self.known: dict[str, Any] = {}
        self.states: dict[str, list[str]] = {}  # what the next looks see before the last state
        self.undeletable = False
        self.scoring_uri = "https://endpoint.test/score"

    def add(self, name: str, **settings: Any) -> Any:
        settings = {"auth_mode": "key", "tags": {"phift.job": "job"}, "provisioning_state": "Succeeded", **settings}
        state = settings.pop("provisioning_state")
        endpoint = ManagedOnlineEndpoint(name=name, scoring_uri=self.scoring_uri, **settings)
        endpoint._provisioning_state = state
        self.known[name] = endpoint
        return endpoint

    def get(self, name: str) -> Any:
        self._record("online_endpoints.get", name)
        if name not in self.known:
            raise http_error(404, f"Endpoint {name} not found.")
        endpoint = copy.deepcopy(self.known[name])
        if waiting := self.states.get(name):
            endpoint._provisioning_state = waiting.pop(0)
        return endpoint

    def get_keys(self, name: str) -> Any:
        self._record("online_endpoints.get_keys", name)
        return EndpointAuthKeys(primary_key=KEY, secondary_key="made-up-second-key")

    def begin_create_or_update(self, endpoint: Any) -> Poller:
        self._record("online_endpoints.begin_create_or_update", endpoint.name)

        def work() -> Any:
            self._record("online_endpoints.result", endpoint.name)
            return self.add(endpoint.name, tags=endpoint.tags, traffic=endpoint.traffic, auth_mode=endpoint.auth_mode)

        return Poller(work)

    def begin_delete(self, name: str) -> Poller:
        self._record("online_endpoints.begin_delete", name)
        if name not in self.known:
            raise http_error(404, f"Endpoint {name} not found.")
        if not self.undeletable:
            del self.known[name]
            self._deployments.known = {key: d for key, d in self._deployments.known.items() if key[0] != name}
        return Poller(lambda: None)


class Deployments:
    """Online deployments; ``outcomes`` holds the states the next ones end in."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.known: dict[tuple[str, str], Any] = {}
        self.outcomes: list[str] = []
        self.log = "a line of the log"

    def add(self, name: str, endpoint: str, model: str, state: str = "Succeeded") -> None:
        settings = OnlineRequestSettings(request_timeout_ms=180_000, max_concurrent_requests_per_instance=1)
        made = ManagedOnlineDeployment(
            name=name,
            endpoint_name=endpoint,
            model=model,
            instance_type=A100.upper(),
            instance_count=1,
            request_settings=settings,
        )
        made._provisioning_state = DeploymentProvisioningState(state)
        self.known[endpoint, name] = made

    def get(self, name: str, endpoint_name: str) -> Any:
        self._record("online_deployments.get", name)
        if (endpoint_name, name) not in self.known:
            raise http_error(404, f"Deployment {name} not found.")
        return self.known[endpoint_name, name]

    def begin_create_or_update(self, deployment: Any) -> Poller:
        self._record("online_deployments.begin_create_or_update", deployment.name)

        def work() -> Any:
            outcome = self.outcomes.pop(0) if self.outcomes else "Succeeded"
            deployment._provisioning_state = DeploymentProvisioningState(outcome)
            self.known[deployment.endpoint_name, deployment.name] = deployment
            self._record("online_deployments.result", deployment.name)
            return deployment

        return Poller(work)

    def begin_delete(self, name: str, endpoint_name: str) -> Poller:
        self._record("online_deployments.begin_delete", name)
        return Poller(lambda: self.known.pop((endpoint_name, name)))

    def get_logs(self, name: str, endpoint_name: str, *, lines: int, container_type: str) -> str:
        self._record("online_deployments.get_logs", name, container_type)
        return f"{self.log} of {container_type}"


class Workspaces:
    def __init__(self, record: Record) -> None:
        self._record = record

    def get(self, name: str) -> Any:
        self._record("workspaces.get", name)
        uri = "azureml://tracking.test/mlflow/v1.0/subscriptions/s/workspaces/w"
        return Workspace(name=name, mlflow_tracking_uri=uri)


class FakeMLClient:
    """Stands for ``MLClient``, of a workspace or of a registry."""

    subscription_id = "00000000-0000-0000-0000-000000000000"
    resource_group_name = "group"
    workspace_name = "workspace"

    def __init__(self) -> None:
        self.record = Record()
        self.models = Assets(self.record, "models")
        self.components = Assets(self.record, "components")
        self.data = DataAssets(self.record)
        self.compute = Computes(self.record)
        self.jobs = Jobs(self.record)
        self.online_deployments = Deployments(self.record)
        self.online_endpoints = Endpoints(self.record, self.online_deployments)
        self.workspaces = Workspaces(self.record)


DISCOVERY = {
    "subscriptionId": "registry-subscription",
    "resourceGroup": "registry-group",
    "primaryRegionResourceProviderUri": "https://region.test/",
}


class FakeRest:
    """Stands for `phift.rest.Rest`: answers the first canned reply all of whose words are in the address.

    Without one, a registry's models are answered as the raw records of ``models``.
    """

    def __init__(self, models: Assets | None = None) -> None:
        self.models = models or Assets(Record(), "models")
        self.system: Any = {}
        self.archived = False
        self.addresses: list[str] = []
        self._canned: list[tuple[tuple[str, ...], Any]] = []

    def on(self, answer: Any, *words: str) -> None:
        self._canned.append((words, answer))

    def metrics(self, run: str, **series: list[float]) -> None:
        self.on({"run": {"data": {"metrics": [{"key": name} for name in series]}}}, "runs/get", f"run_id={run}")
        for name, values in series.items():
            points = [
                {"key": name, "value": value, "step": 10 * i, "timestamp": 1000 * i} for i, value in enumerate(values)
            ]
            self.on({"metrics": points}, "get-history", f"run_id={run}", f"metric_key={name}&")

    def get(self, url: str, params: dict[str, Any] | None = None) -> Any:
        address = f"{url}?{urlencode(params or {})}"
        self.addresses.append(address)
        for words, answer in self._canned:
            if all(word in address for word in words):
                if isinstance(answer, Exception):
                    raise answer
                return answer
        if url.endswith("/discovery"):
            return DISCOVERY
        if "/models/" in url:
            return self._models(*url.partition("/models/")[2].split("/"))
        return {"run": {"data": {}}} if url.endswith("/runs/get") else {}

    text = get

    def _models(self, name: str, _versions: str, version: str | None = None) -> Any:
        found = [model for key, model in self.models.known.items() if key[0] == name and version in (None, key[1])]
        if version is None:
            return {"value": [self._raw(model) for model in found[-1:]]}
        if not found:
            raise NotFound("There is none.", status=404)
        return self._raw(found[0])

    def _raw(self, model: Any) -> dict[str, Any]:
        """Return a record as the registry sends it."""
        body = {"tags": model.tags, "properties": model.properties, "systemMetadata": self.system}
        identifier = f"azureml://registries/azureml/models/{model.name}/versions/{model.version}"
        return {"id": identifier, "properties": {**body, "isArchived": self.archived}}


class Fakes:
    """A workspace with one cluster, a registry with Phi-4 and the component, and clients of them that do not wait."""

    def __init__(self) -> None:
        self.workspace, self.registry = FakeMLClient(), FakeMLClient()
        self.rest = FakeRest(self.registry.models)
        self.workspace.compute.add("gpu-cluster")
        self.registry.models.add(phi_4())
        self.registry.components.add(component())
        self.clients = Clients(
            workspace=self.workspace,
            registry=self.registry,
            component_registry=self.registry,
            rest=cast(Rest, self.rest),
            registry_discovery="https://discovery.test/",
            poll_seconds=0,
        )


def phi_4(**changes: Any) -> Any:
    """Return the registry's model as it was published until 2026-06, with everything in tags."""
    tags = {
        "finetune_compute_allow_list": f"['{A100}', '{FOUR_A100}']",
        "inference_compute_allow_list": f"['{A100}']",
        "model_specific_defaults": "{'apply_lora': 'true', 'learning_rate': '5e-6', 'learning_rate_min': 5e-7}",
    }
    return Model(**{"name": "Phi-4", "version": "8", "id": PHI_4, "path": "p", "tags": tags, **changes})


@cache
def component() -> Any:
    """Return the registry's component with its published inputs."""
    spec = facts.load("chat_completion_pipeline")
    keys = ("type", "default", "enum", "min", "optional", "mode")
    inputs = {name: {key: entry[key] for key in keys if key in entry} for name, entry in spec["inputs"].items()}
    name, version = spec["name"], spec["version"]
    return PipelineComponent(name=name, version=version, inputs=inputs, outputs=spec["outputs"], jobs={}, id=COMPONENT)


def target(**changes: Any) -> ComputeTarget:
    values = {"kind": "cluster", "name": "gpu-cluster", "size": A100, "gpus_per_node": 1, "nodes": 1, "exists": True}
    return ComputeTarget(**{**values, **changes})


def parameters(user: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **where: Any) -> Parameters:
    return resolve_parameters(component().inputs, model or {}, user or {}, target(**where))


def foundation_model(*sizes: str, **changes: Any) -> FoundationModel:
    """Return Phi-4 with an allow-list of these sizes for training and serving, or with none."""
    allowed = AllowList(sizes, "made up") if sizes else None
    values = {"id": PHI_4, "name": "Phi-4", "version": "8", "registry": "azureml"}
    return FoundationModel(**{**values, "finetune": allowed, "inference": allowed, **changes})


def codes(findings: tuple[Finding, ...] | list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def write_rows(path: Path, count: int) -> Path:
    """Write a chat data set."""
    rows = [
        [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": f"Answer {i}."}]
        for i in range(count)
    ]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    return path


def run_config(folder: Path, **changes: Any) -> RunConfig:
    """Return a small run's configuration, with its data written into ``folder``."""
    values = {
        "model": "Phi-4",
        "compute": "gpu-cluster",
        "data": {"train": write_rows(folder / "rows.jsonl", 30)},
        "work_dir": folder / "work",
    }
    return RunConfig(**{**values, **changes})
