"""The workspace itself, its datastores, and what a registry holds, of `phift.testing.fake`."""

from __future__ import annotations

from typing import Any

from azure.ai.ml.entities import AzureBlobDatastore, Model, PipelineComponent, Workspace
from azure.ai.ml.operations import DatastoreOperations, WorkspaceOperations

from phift import facts
from phift.testing.fake_service import Record, not_covered, not_found

LOCATION = "westus2"
_DEFAULT = "workspaceblobstore"


class Workspaces:
    """The one workspace that there is."""

    def __init__(self, record: Record, name: str, owner: str) -> None:
        self._record, self._name, self._owner = record, name, owner

    def __getattr__(self, name: str) -> Any:
        """Stand for the SDK's other operations."""
        return not_covered(WorkspaceOperations, "workspaces", name)

    def get(self, name: str | None = None) -> Any:
        """Return the workspace."""
        self._record("workspaces.get", name or self._name)
        if name not in (None, self._name):
            raise not_found("workspace", str(name))
        uri = f"azureml://tracking.test/mlflow/v1.0{self._owner}"
        return Workspace(name=self._name, location=LOCATION, mlflow_tracking_uri=uri, id=self._owner)


class Datastores:
    """The two datastores that every workspace has."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def __getattr__(self, name: str) -> Any:
        """Stand for the SDK's other operations."""
        return not_covered(DatastoreOperations, "datastores", name)

    def get(self, name: str, *, include_secrets: bool = False) -> Any:
        """Return a datastore; there are no secrets to include."""
        self._record("datastores.get", name)
        if name not in (_DEFAULT, "workspaceartifactstore"):
            raise not_found("datastore", name)
        return AzureBlobDatastore(name=name, account_name="fake", container_name=f"azureml-{name}")

    def get_default(self, *, include_secrets: bool = False) -> Any:
        """Return the datastore that uploads go to."""
        return self.get(_DEFAULT, include_secrets=include_secrets)


def foundation_model(registry: str) -> Any:
    """Return Phi-4-mini-instruct with the allow-lists and defaults in tags, as older versions of models have them."""
    tags = {
        "finetune_compute_allow_list": "['Standard_NC24ads_A100_v4', 'Standard_NC96ads_A100_v4']",
        "inference_compute_allow_list": "['Standard_NC24ads_A100_v4']",
        "model_specific_defaults": "{'apply_lora': 'true', 'learning_rate': '5e-6'}",
    }
    name, version = "Phi-4-mini-instruct", "1"
    made = f"azureml://registries/{registry}/models/{name}/versions/{version}"
    return Model(name=name, version=version, id=made, path=made, type="mlflow_model", tags=tags)


def component(registry: str) -> Any:
    """Return the component that fine-tunes, with its published inputs."""
    spec = facts.load("chat_completion_pipeline")
    keys = ("type", "default", "enum", "min", "optional", "mode")
    inputs = {name: {key: entry[key] for key in keys if key in entry} for name, entry in spec["inputs"].items()}
    name, version = spec["name"], spec["version"]
    made = f"azureml://registries/{registry}/components/{name}/versions/{version}"
    return PipelineComponent(name=name, version=version, inputs=inputs, outputs=spec["outputs"], jobs={}, id=made)
