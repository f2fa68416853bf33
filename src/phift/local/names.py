"""What the parts of a local workspace are called, and the addresses that follow from where it is served."""

from __future__ import annotations

from typing import Any

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
TENANT = "00000000-0000-0000-0000-000000000000"
GROUP = "phift"
WORKSPACE = "local"
REGISTRY = "azureml"
LOCATION = "westus2"
PROVIDER = "providers/Microsoft.MachineLearningServices"
WORKSPACE_ID = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/{PROVIDER}/workspaces/{WORKSPACE}"

PORTAL = "https://portal.phift.local/"
# Nobody is asked there: tokens come from the identity endpoint. MLflow's azureml plugin wants a host without a port.
LOGIN = "https://login.phift.local"
# What the SDK derives from the portal's host when it reads the metadata document itself.
ML_RESOURCE = "https://ml.azure.local"
# Whom bearer tokens are for, as a program for Azure asks; for this workspace's own cloud they are for its address.
ARM_RESOURCE = "https://management.azure.com"
ARM_AUDIENCES = (ARM_RESOURCE, "https://management.core.windows.net")
ML_AUDIENCES = ("https://ml.azure.com", ML_RESOURCE)

STORAGE_SUFFIX = "phift.local"
ACCOUNT_NAME = "storage"
ACCOUNT = f"{ACCOUNT_NAME}.blob.{STORAGE_SUFFIX}"
DATASTORES = {"workspaceblobstore": "azureml-blobstore", "workspaceartifactstore": "azureml"}
"""The container behind each datastore of blobs."""

FILE_STORES = {"workspaceworkingdirectory": "code-local", "workspacefilestore": "azureml-filestore"}
"""The file share behind each of the others, which are names only."""

ARTIFACT_STORE = "workspaceartifactstore"
ARTIFACTS = DATASTORES[ARTIFACT_STORE]
RECORDER = "recorder"
"""The user in the address of the proxy of `phift.local.recorder`."""
MODELS = "registry-models"
"""The container that holds the registry's models; nobody is given the right to write there."""


CLOUD = "PhiftLocal"
"""What the names of all clouds begin with that local workspaces are for the SDK."""


def cloud_name(base_url: str) -> str:
    """Return the name of the cloud that a workspace is for the SDK.

    It holds the port: the SDK keeps clouds by name for the life of a process and never changes one, so a second
    workspace, or the same one on another port, would be taken for the first.
    """
    return f"{CLOUD}{base_url.rpartition(':')[2]}"


def cloud_documents(base_url: str) -> list[dict[str, Any]]:
    """Return what ``ARM_CLOUD_METADATA_URL`` answers: the clouds that there are, which is one."""
    return [
        {
            "name": cloud_name(base_url),
            "portal": PORTAL,
            "resourceManager": f"{base_url}/",
            "authentication": {"loginEndpoint": LOGIN, "audiences": [base_url], "tenant": TENANT},
            "suffixes": {"storage": STORAGE_SUFFIX},
        }
    ]


def tracking_uri(base_url: str, scheme: str = "azureml") -> str:
    """Return the MLflow tracking URI; ``https`` is for MLflow without the azureml plugin."""
    return f"{base_url.replace('https', scheme, 1)}/mlflow/v1.0{WORKSPACE_ID}"
