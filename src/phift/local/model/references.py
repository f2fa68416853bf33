"""Where the bytes behind an asset reference lie: ids and ``azureml:`` addresses in, files out."""

from __future__ import annotations

import re
from pathlib import Path

from phift.local.ground import Ground
from phift.local.model import catalog, files, runs
from phift.local.names import DATASTORES, MODELS, REGISTRY, WORKSPACE_ID
from phift.local.state.documents import Document
from phift.local.wire.call import user_error

_DATASTORE = re.compile(
    r"azureml:/+(?:subscriptions/[^/]+/resourcegroups/[^/]+/(?:providers/[^/]+/)?workspaces/[^/]+/)?"
    r"datastores/(?P<store>[^/]+)/paths/(?P<path>.+)",
    re.IGNORECASE,
)
_WORKSPACE_ASSET = re.compile(
    r"(?:azureml:)?/*subscriptions/.+/workspaces/[^/]+/(?P<kind>models|data)/(?P<name>[^/]+)/versions/(?P<version>[^/]+)",
    re.IGNORECASE,
)
_SHORT_ASSET = re.compile(r"azureml:(?P<name>[\w.-]+):(?P<version>[\w.-]+)")
_REGISTRY_MODEL = re.compile(
    r"azureml://registries/(?P<registry>[^/]+)/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.IGNORECASE
)
_JOB_OUTPUT = re.compile(
    r"azureml:/+(?:subscriptions/.+/workspaces/[^/]+/)?jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(?:/paths/.*)?/?",
    re.IGNORECASE,
)


def resolve(ground: Ground, reference: str) -> Path:
    """Return the file or folder that a reference means; raises a user error where there is none."""
    path = files.path_of(ground, *_address(ground, reference))
    if not path.exists():
        raise user_error(f"The asset {reference} does not exist: nothing is stored there.")
    return path


def place(ground: Ground, uri: str) -> Path:
    """Return the file or folder to write for an output's address; it need not be there."""
    if not _DATASTORE.fullmatch(uri):
        raise user_error(f"The output path {uri} is not in a datastore.")
    return files.path_of(ground, *_address(ground, uri))


def datastore_uri(store: str, path: str) -> str:
    """Return the long form of a datastore address, as job outputs and models show it."""
    workspace = WORKSPACE_ID.replace("/providers/Microsoft.MachineLearningServices", "")
    return f"azureml:/{workspace}/datastores/{store}/paths/{path}"


def normalized(ground: Ground, uri: str) -> str:
    """Return a model's or data asset's address as it is stored: the long form of a datastore address.

    The service shows that, also where it was sent the short one (recorded traffic of the SDK's own tests:
    azure-sdk-assets, test_data_upload_file, 2026-03).
    """
    if found := _JOB_OUTPUT.fullmatch(uri):
        return runs.output_uri(ground, found["job"], found["output"])
    found = _DATASTORE.fullmatch(uri)
    return datastore_uri(found["store"], found["path"]) if found else uri


def job_of(uri: str) -> str | None:
    """Return the job whose output an address is, or None."""
    found = _JOB_OUTPUT.fullmatch(uri)
    return found["job"] if found else None


def _address(ground: Ground, reference: str) -> tuple[str, str]:
    """Return the container and the name of the blob or folder that a reference means."""
    if found := _DATASTORE.fullmatch(reference):
        if found["store"] not in DATASTORES:
            raise user_error(f"The datastore {found['store']} was not found.")
        return DATASTORES[found["store"]], found["path"]
    if found := _REGISTRY_MODEL.fullmatch(reference):
        model = catalog.model(found["name"], found["version"])
        if found["registry"].lower() != REGISTRY or model is None:
            name, version = found["name"], found["version"]
            raise user_error(f"The model {name} version {version} was not found in registry {found['registry']}.")
        return MODELS, str(model["name"])
    if found := _JOB_OUTPUT.fullmatch(reference):
        return _address(ground, runs.output_uri(ground, found["job"], found["output"]))
    if found := _WORKSPACE_ASSET.fullmatch(reference):
        document = ground.documents.get(f"{found['kind']}/{found['name']}/versions/{found['version']}")
        return _address(ground, _stored_uri(document, reference))
    if found := _SHORT_ASSET.fullmatch(reference):
        keys = (f"{kind}/{found['name']}/versions/{found['version']}" for kind in ("data", "models"))
        documents = (ground.documents.get(key) for key in keys)
        return _address(ground, _stored_uri(next(filter(None, documents), None), reference))
    raise user_error(f"The local workspace cannot read from {reference}: it has no such place.")


def _stored_uri(document: Document | None, reference: str) -> str:
    if document is None:
        raise user_error(f"The asset {reference} was not found in this workspace.")
    properties = document.body["properties"]
    return str(properties.get("modelUri") or properties.get("dataUri") or "")
