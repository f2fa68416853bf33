"""A registry's own record of a model version: the SDK drops its ``systemMetadata``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from phift.azure.answers import json_object, listed, text
from phift.azure.clients import Clients
from phift.errors import NotFound, ServiceError

API = "2021-10-01-dataplanepreview"  # what azure-ai-ml 1.35.2 asks registries for


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A model version as the registry sends it.

    - **system**: ``systemMetadata``, where allow-lists, tasks and dates stand since 2026-06 (azureml-assets pull
      requests 5150 and 5190).
    """

    id: str
    version: str
    description: str = ""
    archived: bool = False
    tags: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    system: Mapping[str, Any] = field(default_factory=dict)


def fetch_record(clients: Clients, registry: str, name: str, version: str | None = None) -> ModelRecord:
    """Return the record of a model version, or of the newest one created.

    Raises `phift.errors.NotFound` where there is none, `phift.errors.ServiceError` where the registry answers in a
    form that is not known.
    """
    url = f"{registry_address(clients, registry)}/models/{quote(name, safe='')}/versions"
    if version is not None:
        answer: Any = clients.rest.get(f"{url}/{quote(version, safe='')}", {"api-version": API})
    else:
        query = {"api-version": API, "$orderBy": "createdtime desc", "$top": 1}
        answers = json_object(clients.rest.get(url, query), "the registry's versions").get("value")
        found = listed(answers or (), "the registry's versions")
        if not found:
            raise NotFound(f"There is no model {name}.", where=f"registry {registry}", fix="check the name")
        answer = found[0]
    # What has another form than expected is left out, since this is somebody else's text.
    record = json_object(answer, "the registry's record")
    body = mapping(record.get("properties"))
    identifier = record.get("id")
    if not isinstance(identifier, str) or not identifier:
        raise ServiceError("The registry's record of the model has no id.", where=f"model {name}")
    return ModelRecord(
        id=identifier,
        version=identifier.rpartition("/")[2],
        description=str(body.get("description") or ""),
        archived=body.get("isArchived") is True,
        tags=mapping(body.get("tags")),
        properties=mapping(body.get("properties")),
        system=mapping(body.get("systemMetadata")),
    )


def registry_address(clients: Clients, registry: str) -> str:
    """Return the URL that a registry's assets stand below, as its discovery gives it; it is asked for once."""

    def discover() -> str:
        url = f"{clients.registry_discovery}registrymanagement/v1.0/registries/{quote(registry, safe='')}/discovery"
        found = json_object(clients.rest.get(url), "the registry's discovery")
        keys = ("primaryRegionResourceProviderUri", "subscriptionId", "resourceGroup")
        if missing := ", ".join(key for key in keys if not found.get(key)):
            what = f"The discovery of registry {registry} answered without {missing}."
            raise ServiceError(what, where=f"registry {registry}")
        uri, subscription, group = (text(found[key], f"the registry's discovery, {key}") for key in keys)
        scope = f"subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices"
        return f"{uri}mferp/managementfrontend/{scope}/registries/{registry}"

    return clients.once(f"registry {registry}", discover)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a JSON object as it is, and anything else as an empty one."""
    return value if isinstance(value, dict) else {}
