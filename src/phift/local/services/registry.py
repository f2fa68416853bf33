"""The registry: stand-ins for the foundation models, the user's own models, and the fine-tuning component."""

from __future__ import annotations

from phift.local.model import catalog
from phift.local.names import ACCOUNT, GROUP, LOCATION, MODELS, REGISTRY, SUBSCRIPTION, TENANT
from phift.local.services.route import AT_GROUP, Route
from phift.local.site import Site
from phift.local.state.documents import Json
from phift.local.wire import Call, Reply, WireError, whole_number

_AT_REGISTRY = f"/mferp/managementfrontend{AT_GROUP}/registries/{{registry}}"


_REFUSED = "User/tenant/subscription is not allowed to access registry {feedName}"


def refused(call: Call) -> WireError:
    """Return the error for another registry than the one there is: that of a registry that the caller may not use.

    Recorded of a discovery with 403 (azure-sdk-assets 0f205ad0, test_component_create_get_list_from_registry,
    2026-03-27), and of the registry itself with 401 (the same test, 8517cfcb, 2023-04-20). It does not tell whether the
    registry is there at all; that one that is not gets the same is inferred.
    """
    message, code = _REFUSED.format(feedName=call["registry"]), {"code": "UnAuthorizedRegistryAccess"}
    inner = {"code": "Auth", "innerError": {"code": "Authorization", "innerError": {**code, "innerError": None}}}
    if not call.path.startswith("/registrymanagement/"):
        return WireError(401, "UserError", message, more={"innerError": inner})
    formed = {"messageFormat": _REFUSED, "messageParameters": {"feedName": call["registry"]}}
    return WireError(403, "UserError", message, more={**formed, "innerError": inner})


def _discovery(site: Site, _call: Call) -> Reply:
    """Tell where the registry is, as recorded (azure-sdk-assets 8517cfcb, 2023-04-20); its number is made up."""
    shown = {
        "registryId": SUBSCRIPTION,
        "registryName": REGISTRY,
        "tenantId": TENANT,
        "primaryRegion": LOCATION,
        "regions": [LOCATION],
        "subscriptionId": SUBSCRIPTION,
        "resourceGroup": GROUP,
        "workspaceName": None,
        "primaryRegionResourceProviderUri": f"{site.base_url}/",
        "registryFqdns": {LOCATION: {"uri": site.base_url}},
        "intellectualPropertyPublisher": None,
    }
    return Reply(shown)


def _kind(call: Call) -> str:
    return call.path.lower().partition(f"/registries/{call['registry'].lower()}/")[2].partition("/")[0]


def _assets(site: Site, call: Call) -> list[Json]:
    """Return the versions of a kind of assets that are asked for, as the wire shows them."""
    kind, name, version = _kind(call), call["name"].lower(), call["version"]
    shown: list[Json] = []  # of data there are none: its routes are there so that the answer is "not found"
    if kind == "models":
        shown = [_show_model(site, model) for model in catalog.models(site.folder)]
    elif kind == "components":
        shown = [_show_component()]
    if name:
        shown = [each for each in shown if f"/{kind}/{name}/versions/" in each["id"].lower()]
    return [each for each in shown if version in ("", each["id"].rpartition("/")[2])]


def _get(site: Site, call: Call) -> Reply:
    found = _assets(site, call)
    if not found:
        what = f"{_kind(call)}/{call['name']}" + (f"/versions/{call['version']}" if call["version"] else "")
        raise WireError(404, "UserError", f"Not found: {what} in registry {REGISTRY}.")
    return Reply(found[0] if call["version"] else _show_container(found[0]))


def _list(site: Site, call: Call) -> Reply:
    shown = _assets(site, call)
    if not call["name"]:
        newest = {each["id"].partition("/versions/")[0]: each for each in reversed(shown)}
        return Reply({"value": [_show_container(each) for each in reversed(newest.values())]})
    # An unknown name is an empty list, as on Azure: the SDK makes its own error of it.
    return Reply({"value": shown[: whole_number(call.query.get("$top", "100"), "$top")]})


def _show_container(shown: Json) -> Json:
    identity, _, version = shown["id"].partition("/versions/")
    properties = {
        "latestVersion": version,
        "nextVersion": None,
        "description": shown["properties"]["description"],
        "tags": shown["properties"]["tags"],
        "properties": {},
        "isArchived": False,
        "provisioningState": "Succeeded",
    }
    *_, kind, name = identity.split("/")
    kind = f"Microsoft.MachineLearningServices/registries/{kind}"
    return {"id": identity, "name": name, "type": kind, "properties": properties, "systemData": shown["systemData"]}


def _data_reference(site: Site, call: Call) -> Reply:
    """Give an address that reads and lists the container of the registry's models for a while."""
    if catalog.model(site.folder, call["name"], call["version"]) is None:
        what = f"models/{call['name']}/versions/{call['version']}"
        raise WireError(404, "UserError", f"Not found: {what} in registry {REGISTRY}.")
    address = f"{site.base_url}/{MODELS}"
    signed = f"{address}?{site.identity.sas(f'{ACCOUNT}/{MODELS}', 'rl')}"
    credential = {"credentialType": "SAS", "sasUri": signed}
    reference = {"blobUri": address, "storageAccountArmId": None, "credential": credential}
    return Reply({"blobReferenceForConsumption": reference})


def _origin(created: str, by: str = "Microsoft") -> Json:
    made = {"At": f"{created}T00:00:00+00:00", "By": by, "ByType": "User"}
    return {f"{done}{what}": value for done in ("created", "lastModified") for what, value in made.items()}


def _show_model(site: Site, model: Json) -> Json:
    """Return a model's version, which goes by the model's name there.

    As recorded of a registry (azure-sdk-assets 0e2fb6b0, test_create_get_download_model_registry, 2024-05-03), and with
    the ``systemMetadata`` that the models of Azure's own registry have.
    """
    place = catalog.place(site.folder, model)
    properties = {
        "description": model["description"],
        # Structured tags travel as Python literals in text; that is what users have to parse.
        "tags": {key: value if isinstance(value, str) else repr(value) for key, value in model["tags"].items()},
        "properties": model["properties"],
        "isArchived": False,
        "isAnonymous": False,
        "flavors": {"transformers": {"data": {"task": "llm/v1/chat"}}},
        "modelType": "mlflow_model",
        "modelUri": f"{site.base_url}/{MODELS}/{place.relative_to(site.folder.registry).as_posix()}",
        "originAssetId": None,
        "jobName": None,
        "intellectualProperty": None,
    }
    if model["systemMetadata"]:
        properties["systemMetadata"] = model["systemMetadata"]
    return {
        "id": catalog.asset_id("models", model["name"], model["version"]),
        "name": model["name"],
        "type": "models",
        "properties": properties,
        "systemData": _origin(model["created"], "you" if "added" in model else "Microsoft"),
    }


def _show_component() -> Json:
    """Return the component's version, as recorded (azure-sdk-for-python 3773b0eb, the test above, 2022-11-17)."""
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
        "inputs": {name: _input(given) for name, given in facts["inputs"].items()},
        "outputs": {key: {"type": value["type"]} for key, value in facts["outputs"].items()},
        "jobs": {},
    }
    properties = {"description": description, "tags": {}, "properties": {}, "isArchived": False, "isAnonymous": False}
    return {
        "id": catalog.asset_id("components", name, version),
        "name": version,
        "type": "Microsoft.MachineLearningServices/registries/components/versions",
        "properties": {**properties, "componentSpec": spec},
        "systemData": _origin(facts["date"]),
    }


def _input(given: Json) -> Json:
    """Return an input as its author wrote it, booleans and numbers as text, as real registries send them."""
    written = {key: value for key, value in given.items() if key not in ("dead", "dead_because")}  # our own words
    return {key: value if isinstance(value, (str, list)) else str(value) for key, value in written.items()}


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
