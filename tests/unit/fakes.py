"""What a unit test of a run starts from: stubs of a workspace's and a registry's client, and of plain calls.

In them is what these tests look at: one cluster, two sizes, Phi-4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import urlencode

from azure.ai.ml import MLClient
from azure.ai.ml.entities import Data, Model, OnlineRequestSettings, PipelineComponent, VmSize

from phift import facts
from phift.azure.clients import Clients, Part, Rest
from phift.check.compute import ComputeTarget
from phift.check.findings import Finding
from phift.check.models import AllowList, FoundationModel
from phift.check.parameters import Parameters, resolve_parameters
from phift.check.sizes import VmSize as VmSizeFacts
from phift.check.sizes import find_size
from phift.config.run import RunConfig
from phift.errors import NotFound
from phift.plan import Dataset, Plan
from unit.stubs import GROUP, SUBSCRIPTION, Assets, StubClient, service_error, usage

A100 = "Standard_NC24ads_A100_v4"
FOUR_A100 = "Standard_NC96ads_A100_v4"
COMPONENT = "azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.82"
PHI_4 = "azureml://registries/azureml/models/Phi-4/versions/8"
KEY = "made-up-endpoint-key"

http_error = service_error


def data_id(name: str, version: str) -> str:
    provider = "Microsoft.MachineLearningServices/workspaces/workspace"
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/{provider}/data/{name}/versions/{version}"


def data_asset(name: str, version: str, **changes: Any) -> Any:
    """Return a data asset of the workspace: a JSONL file in its storage."""
    values = {"type": "uri_file", "path": "azureml://datastores/store/paths/chat.jsonl", **changes}
    return Data(name=name, version=version, id=data_id(name, version), **values)


DISCOVERY = {
    "subscriptionId": "registry-subscription",
    "resourceGroup": "registry-group",
    "primaryRegionResourceProviderUri": "https://region.test/",
}


class FakeRest:
    """Stands for `phift.azure.clients.Rest`: answers the first canned reply all of whose words are in the address.

    Without one, a registry's models are answered as the raw records of ``models``.
    """

    resource_manager = "https://management.azure.com"

    def __init__(self, models: Assets | None = None) -> None:
        self.models = models or StubClient().models
        self.system: Any = {}
        self.archived = False
        self.addresses: list[str] = []
        self.tags: dict[str, dict[str, str]] = {}
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
        tags = self.tags.get((params or {}).get("run_id", ""), {})
        shown = [{"key": key, "value": value} for key, value in list(tags.items())]
        return {"run": {"data": {"tags": shown}}} if url.endswith("/runs/get") else {}

    def part(self, url: str, start: int, most: int) -> Part:
        """Return a part of a canned text."""
        content = self.get(url).encode()
        return Part(content[start : start + most], len(content), "")

    def post(self, url: str, body: dict[str, Any]) -> Any:
        """Write and delete tags of runs, as MLflow's routes do."""
        self.addresses.append(url)
        tags = self.tags.setdefault(body["run_id"], {})
        if url.endswith("/runs/set-tag"):
            tags[body["key"]] = body["value"]
        else:
            tags.pop(body["key"], None)
        return {}

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
        self.workspace, self.registry = StubClient(), StubClient(registry_name="azureml")
        self.workspace.jobs.next_script = ["Completed"]
        self.workspace.online_endpoints.next_keys = (KEY, "made-up-second-key")
        self.workspace.compute.sizes = [VmSize(name=A100, gpus=1), VmSize(name=FOUR_A100, gpus=4)]
        self.workspace.compute.usages = [usage("Standard NCADSA100v4 Family", 0, 1000)]
        self.rest = FakeRest(self.registry.models)
        self.workspace.compute.add("gpu-cluster")
        self.registry.models.add(phi_4())
        self.registry.components.add(component())
        self.clients = Clients(
            workspace=cast(MLClient, self.workspace),
            registry=cast(MLClient, self.registry),
            component_registry=cast(MLClient, self.registry),
            rest=cast(Rest, self.rest),
            registry_discovery="https://discovery.test/",
            poll_seconds=0,
        )

    def add_endpoint(self, name: str, **settings: Any) -> Any:
        """Add an endpoint that a job of these tests has made."""
        return self.workspace.online_endpoints.add(name, **{"tags": {"phift.job": "job"}, **settings})

    def add_deployment(self, name: str, endpoint: str, model: str, state: str = "Succeeded") -> Any:
        """Add a deployment with the settings that these tests ask for."""
        requests = OnlineRequestSettings(request_timeout_ms=180_000, max_concurrent_requests_per_instance=1)
        settings = {"instance_type": A100.upper(), "instance_count": 1, "request_settings": requests}
        return self.workspace.online_deployments.add(name, endpoint, model, state, **settings)


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


def target(
    *,
    size: str = A100,
    sizes: Mapping[str, VmSizeFacts] = MappingProxyType({}),
    gpu: str | None = None,
    **changes: Any,
) -> ComputeTarget:
    """Return a target on a VM size that the region has as ``sizes`` say, or that the built-in table knows.

    - **gpu**: the GPU's name; of an unknown one there is no finding.
    """
    values = {"kind": "cluster", "name": "gpu-cluster", "gpus_per_node": 1, "nodes": 1, "exists": True}
    return ComputeTarget(vm=replace(find_size(size, sizes), gpu=gpu), **{**values, **changes})


def parameters(user: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **where: Any) -> Parameters:
    return resolve_parameters(component().inputs, model or {}, user or {}, target(**where))


def plan(dataset: Dataset, resolved: Parameters) -> Plan:
    """Return the plan of a run with Phi-4 on one GPU."""
    return Plan(
        model=foundation_model(),
        component=component(),
        target=target(),
        parameters=resolved,
        dataset=dataset,
        tokens=None,
        tokenizer=None,
        fingerprint="0123456789ab",
    )


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
