"""The registry: stand-ins for the foundation models, and the fine-tuning component."""

from __future__ import annotations

from phift.local.model import catalog
from phift.local.names import ACCOUNT, GROUP, LOCATION, MODELS, REGISTRY, SUBSCRIPTION, TENANT
from phift.local.services.route import AT_GROUP, Route
from phift.local.site import Site
from phift.local.state.documents import Json
from phift.local.wire import Call, Reply, WireError, whole_number

_AT_REGISTRY = f"/mferp/managementfrontend{AT_GROUP}/registries/{{registry}}"


def _discovery(site: Site, _call: Call) -> Reply:
    shown = {
        "registryName": REGISTRY,
        "subscriptionId": SUBSCRIPTION,
        "resourceGroup": GROUP,
        "tenantId": TENANT,
        "primaryRegion": LOCATION,
        "regions": [LOCATION],
        "workspaceName": None,
        "primaryRegionResourceProviderUri": f"{site.base_url}/",
    }
    return Reply(shown)


def _kind(call: Call) -> str:
    return call.path.lower().partition(f"/registries/{call['registry'].lower()}/")[2].partition("/")[0]


def _assets(site: Site, call: Call) -> list[Json]:
    """Return the versions of a kind of assets that are asked for, as the wire shows them."""
    kind, name, version = _kind(call), call["name"].lower(), call["version"]
    shown: list[Json] = []  # of data there are none: its routes are there so that the answer is "not found"
    if kind == "models":
        shown = [_show_model(site, model) for model in catalog.models()]
    elif kind == "components":
        shown = [_show_component()]
    if name:
        shown = [each for each in shown if f"/{kind}/{name}/versions/" in each["id"].lower()]
    return [each for each in shown if version in ("", each["name"])]


def _get(site: Site, call: Call) -> Reply:
    found = _assets(site, call)
    if not found:
        what = f"{_kind(call)}/{call['name']}" + (f"/versions/{call['version']}" if call["version"] else "")
        raise WireError(404, "UserError", f"Not found: {what} in registry {REGISTRY}.")
    return Reply(found[0] if call["version"] else _show_container(found[0]))


def _list(site: Site, call: Call) -> Reply:
    shown = _assets(site, call)
    if not call["name"]:
        return Reply({"value": [_show_container(each) for each in shown]})
    # An unknown name is an empty list, as on Azure: the SDK makes its own error of it.
    return Reply({"value": shown[: whole_number(call.query.get("$top", "100"), "$top")]})


def _show_container(shown: Json) -> Json:
    identity = shown["id"].partition("/versions/")[0]
    properties = {
        "latestVersion": shown["name"],
        "nextVersion": None,
        "description": shown["properties"]["description"],
        "tags": shown["properties"]["tags"],
        "properties": {},
        "isArchived": False,
        "provisioningState": "Succeeded",
    }
    kind = shown["type"].removesuffix("/versions")
    name = identity.rpartition("/")[2]
    return {"id": identity, "name": name, "type": kind, "properties": properties, "systemData": shown["systemData"]}


def _data_reference(site: Site, call: Call) -> Reply:
    """Give an address that reads and lists the container of the registry's models for a while."""
    if catalog.model(call["name"], call["version"]) is None:
        what = f"models/{call['name']}/versions/{call['version']}"
        raise WireError(404, "UserError", f"Not found: {what} in registry {REGISTRY}.")
    address = f"{site.base_url}/{MODELS}"
    signed = f"{address}?{site.identity.sas(f'{ACCOUNT}/{MODELS}', 'rl')}"
    credential = {"credentialType": "SAS", "sasUri": signed}
    reference = {"blobUri": address, "storageAccountArmId": None, "credential": credential}
    return Reply({"blobReferenceForConsumption": reference})


def _show(kind: str, name: str, version: str, created: str, properties: Json) -> Json:
    made = {"createdAt": f"{created}T00:00:00+00:00", "createdBy": "Microsoft", "createdByType": "User"}
    return {
        "id": catalog.asset_id(kind, name, version),
        "name": version,
        "type": f"Microsoft.MachineLearningServices/registries/{kind}/versions",
        "properties": {"isAnonymous": False, "isArchived": False, "provisioningState": "Succeeded", **properties},
        "systemData": {**made, "lastModifiedAt": made["createdAt"]},
    }


def _show_model(site: Site, model: Json) -> Json:
    name, version = model["name"], model["version"]
    properties = {
        "modelType": "mlflow_model",
        "modelUri": f"{site.base_url}/{MODELS}/{name}",
        "description": model["description"],
        # Structured tags travel as Python literals in text; that is what users have to parse.
        "tags": {key: value if isinstance(value, str) else repr(value) for key, value in model["tags"].items()},
        "properties": model["properties"],
        "flavors": {"transformers": {"data": {"task": "llm/v1/chat"}}},
        "stage": None,
    }
    if model["systemMetadata"]:
        properties["systemMetadata"] = model["systemMetadata"]
    return _show("models", name, version, model["created"], properties)


def _show_component() -> Json:
    facts = catalog.component()
    name, version = facts["name"], facts["version"]
    description = "Pipeline component to fine-tune chat models. Here its steps are run by phift's local engine."
    spec = {
        "$schema": "https://azuremlschemas.azureedge.net/latest/pipelineComponent.schema.json",
        "name": name,
        "version": version,
        "display_name": "Chat Completion Pipeline",
        "description": description,
        "type": "pipeline",
        "is_deterministic": "False",
        # Booleans and numbers are text, as real registries send them.
        "inputs": {
            name: {key: value if isinstance(value, (str, list)) else str(value) for key, value in given.items()}
            for name, given in facts["inputs"].items()
        },
        "outputs": {key: {"type": value["type"]} for key, value in facts["outputs"].items()},
        "jobs": {},
    }
    properties = {"description": description, "tags": {}, "properties": {}, "componentSpec": spec}
    return _show("components", name, version, facts["date"], properties)


_BY_PATH = {"": _list, "/{name}": _get, "/{name}/versions": _list, "/{name}/versions/{version}": _get}
ROUTES = [
    Route("GET /registrymanagement/v1.0/registries/{registry}/discovery", _discovery),
    *(
        Route(f"GET {_AT_REGISTRY}/{kind}{path}", handler)
        for kind in ("models", "components", "data")
        for path, handler in _BY_PATH.items()
    ),
    Route(f"POST {_AT_REGISTRY}/datarefs/{{name}}/versions/{{version}}", _data_reference),
]
