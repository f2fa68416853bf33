"""The workspace, its datastores, and what a registry holds."""

from __future__ import annotations

import pytest
from azure.ai.ml.exceptions import ValidationException
from azure.core.exceptions import ResourceNotFoundError

from contract.targets import COMPONENT, COMPONENT_VERSION, MODEL, MODEL_VERSION, Target


def test_a_workspace_is_found_by_its_name(target: Target) -> None:
    name = target.workspace.workspace_name
    workspace = target.workspace.workspaces.get(name)
    assert workspace.name == name
    assert workspace.location
    assert workspace.mlflow_tracking_uri.startswith("azureml://")
    assert f"/workspaces/{name}" in workspace.id


def test_a_missing_workspace_is_not_found(target: Target) -> None:
    with pytest.raises(ResourceNotFoundError) as caught:
        target.workspace.workspaces.get("ct-no-such-workspace")
    assert caught.value.status_code == 404


def test_the_default_datastore_holds_blobs(target: Target) -> None:
    store = target.workspace.datastores.get_default()
    assert store.name == "workspaceblobstore"
    assert str(store.type).replace("_", "").lower().endswith("azureblob")  # an enumeration's member or text
    assert target.workspace.datastores.get(store.name).container_name == store.container_name


def test_a_missing_datastore_is_not_found(target: Target) -> None:
    with pytest.raises(ResourceNotFoundError) as caught:
        target.workspace.datastores.get("no_such_store")
    assert caught.value.status_code == 404


def test_a_registry_has_the_foundation_model(target: Target) -> None:
    model = target.registry.models.get(MODEL, version=MODEL_VERSION)
    assert model.id == f"azureml://registries/azureml/models/{MODEL}/versions/{MODEL_VERSION}"
    assert (model.name, model.version, model.type) == (MODEL, MODEL_VERSION, "mlflow_model")
    assert target.registry.models.get(MODEL, label="latest").version
    assert MODEL_VERSION in [found.version for found in target.registry.models.list(MODEL)]


def test_a_missing_version_in_a_registry_is_not_found(target: Target) -> None:
    for assets, name in ((target.registry.models, MODEL), (target.registry.components, COMPONENT)):
        with pytest.raises(ResourceNotFoundError) as caught:
            assets.get(name, version="987654")
        assert caught.value.status_code == 404


def test_an_unknown_name_in_a_registry_has_no_versions_and_no_latest(target: Target) -> None:
    # Recorded traffic of the SDK's tests (azure-sdk-assets, test_create_get_download_model_registry, 2024-05): an empty
    # list, of which the SDK makes its own error.
    assert list(target.registry.models.list("ct-no-such-model")) == []
    for assets in (target.registry.models, target.registry.components):
        with pytest.raises(ValidationException):
            assets.get("ct-no-such-asset", label="latest")


def test_a_registry_has_the_component(target: Target) -> None:
    component = target.registry.components.get(COMPONENT, version=COMPONENT_VERSION)
    assert component.id == f"azureml://registries/azureml/components/{COMPONENT}/versions/{COMPONENT_VERSION}"
    assert {"mlflow_model_path", "train_file_path", "num_train_epochs"} <= set(component.inputs)
    assert "mlflow_model_folder" in component.outputs
    assert target.registry.components.get(COMPONENT, label="latest").name == COMPONENT
