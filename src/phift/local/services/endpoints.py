"""Online endpoints, their keys, and their deployments; `phift.local.services.scoring` asks them."""

from __future__ import annotations

import re
import uuid
from typing import TypedDict

from phift.local.model import files, quota
from phift.local.names import LOCATION, TENANT, WORKSPACE_ID
from phift.local.services import operations
from phift.local.services.route import Route, in_one_step
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire import (
    Call,
    Reply,
    WireError,
    existing,
    listed,
    resource,
    seconds,
    section,
    timestamp,
    user_error,
    whole_number,
)

_NAME = re.compile(r"[A-Za-z](?:-?[A-Za-z0-9])*")
_MOST_LOG_LINES = 5000
_DAY = 24 * 3600
_ENVIRONMENT = f"{WORKSPACE_ID}/environments/DefaultNcdEnv-mlflow-ubuntu20-04-py38-cpu-inference/versions/1"
"""What an MLflow model runs in where none is named; its name: azure-powershell, Get-AzMLWorkspaceEnvironmentContainer,
2025-11-04."""


class _EndpointProperties(TypedDict, total=False):
    authMode: str | None
    description: str | None
    properties: Json | None
    traffic: Json | None
    mirrorTraffic: Json | None
    publicNetworkAccess: str | None


class _Endpoint(TypedDict, total=False):
    properties: _EndpointProperties | None
    tags: Json | None
    identity: Json | None
    kind: str | None


class _DeploymentProperties(TypedDict, total=False):
    model: str | None
    instanceType: str | None
    description: str | None
    properties: Json | None
    environmentVariables: Json | None
    scaleSettings: Json | None
    requestSettings: Json | None
    livenessProbe: Json | None
    readinessProbe: Json | None


class _Deployment(TypedDict, total=False):
    properties: _DeploymentProperties | None
    sku: Json | None
    tags: Json | None


def _endpoint(site: Site, call: Call) -> Document:
    return existing(site, f"onlineEndpoints/{call['endpoint']}", "online endpoint")


def keys(site: Site, endpoint: Document) -> dict[str, str | None]:
    """Return an endpoint's two keys; they are made again each time and stored nowhere.

    Where Entra's tokens open it there are none (azure-powershell 481f488c, Get-AzMLWorkspaceOnlineEndpointKey,
    2025-11-04).
    """
    made = endpoint.body["keys"].items()
    if endpoint.body["properties"]["authMode"] == "AADToken":
        return {f"{kind.lower()}Key": None for kind, _ in made}
    return {f"{kind.lower()}Key": site.identity.key(endpoint.name, generation) for kind, generation in made}


def _check_name(kind: str, name: str) -> None:
    if not (_NAME.fullmatch(name) and 3 <= len(name) <= 32):
        message = f"The {kind} name {name} is not valid: 3 to 32 letters, digits and single dashes, a letter first."
        raise user_error(message)


def _check_state(document: Document | None, *busy: str) -> None:
    """Refuse to change what is being changed."""
    state = document.body["properties"]["provisioningState"] if document else None
    if document and state in busy:
        kind = "deployment" if "/deployments/" in document.key else "endpoint"
        raise WireError(409, "Conflict", f"The {kind} {document.name} is {state}; wait until that is done.")


@in_one_step
def _put(site: Site, call: Call) -> Reply:
    name, sent = call["endpoint"], call.json(_Endpoint)
    _check_name("endpoint", name)
    properties = section(sent, "properties")
    key = f"onlineEndpoints/{name}"
    previous = site.documents.get(key)
    if properties.get("compute"):
        raise WireError(501, "NotImplemented", "The local workspace has no Kubernetes endpoints")
    mode = str(properties.get("authMode") or "Key")
    if mode not in ("Key", "AMLToken", "AADToken"):
        raise user_error(f"The authMode {mode} is not one of Key, AMLToken, AADToken.")
    if previous and mode != previous.body["properties"]["authMode"]:
        raise user_error("The authMode of an existing endpoint cannot be changed.")
    body = _body(site, previous, key, sent, {**properties, "authMode": mode})
    return operations.make(site, call, "endpoint", key, body, _show_change if previous else _show)


@in_one_step
def _patch(site: Site, call: Call) -> Reply:
    """Change tags and identity, which is all that the API lets be changed in part."""
    previous, sent = _endpoint(site, call), call.json(_Endpoint)
    changed = {name: sent[name] for name in ("tags", "identity") if sent.get(name) is not None}
    body = _body(site, previous, previous.key, {**previous.body, **changed}, previous.body["properties"])
    return operations.make(site, call, "endpoint", previous.key, body, _show, 200)


def _body(site: Site, previous: Document | None, key: str, sent: Json, properties: Json) -> Json:
    _check_state(previous, "Creating", "Updating", "Deleting")
    traffic = section(properties, "traffic")
    names = {found.name.lower() for found in site.documents.walk(f"{key}/deployments")}
    for name, share in traffic.items():
        if name.lower() not in names:
            raise user_error(f"Traffic cannot go to {name}: the endpoint has no such deployment.")
        if isinstance(share, bool) or not isinstance(share, int) or not 0 <= share <= 100:
            raise user_error(f"The traffic of {name} must be a whole number from 0 to 100.")
    if sum(traffic.values()) not in (0, 100):
        raise user_error(f"The traffic of all deployments must sum to 0 or 100, not {sum(traffic.values())}.")
    mirrored = _mirrored(section(properties, "mirrorTraffic"), traffic, names)
    return {
        "properties": {
            "authMode": properties["authMode"],
            "description": properties.get("description"),
            "properties": _of_users(properties),
            "publicNetworkAccess": properties.get("publicNetworkAccess") or "Enabled",
            "traffic": traffic,
            "mirrorTraffic": mirrored,
            "provisioningState": "Updating" if previous else "Creating",
        },
        "tags": section(sent, "tags"),
        "identity": sent.get("identity") or {"type": "SystemAssigned"},
        "kind": sent.get("kind") or "Managed",
        "keys": previous.body["keys"] if previous else {"Primary": uuid.uuid4().hex, "Secondary": uuid.uuid4().hex},
    }


_MOST_MIRRORED = 50  # percent


def _mirrored(sent: Json, traffic: Json, names: set[str]) -> Json:
    """Return what is mirrored, by the service's rules (azure-ai-docs 197bdc3c, how-to-safely-rollout-online-endpoints).

    In which words and with which status it refuses what breaks them, no source says.
    """
    mirrored = {name: share for name, share in sent.items() if share}
    if len(mirrored) > 1:
        raise user_error("Traffic can be mirrored to one deployment only.")
    live = {name.lower() for name, share in traffic.items() if share}
    for name, share in mirrored.items():
        if name.lower() not in names:
            raise user_error(f"Traffic cannot be mirrored to {name}: the endpoint has no such deployment.")
        if isinstance(share, bool) or not isinstance(share, int) or not 0 <= share <= _MOST_MIRRORED:
            raise user_error(f"The mirrored traffic of {name} must be a whole number from 0 to {_MOST_MIRRORED}.")
        if name.lower() in live:
            raise user_error(f"The deployment {name} can have live or mirrored traffic, not both.")
    return mirrored


_OPERATION, _ID = "AzureAsyncOperationUri", "azureml.onlineendpointid"


def _of_users(sent: Json) -> Json:
    """Return the properties that are the user's own, and not what the service told of itself."""
    return {name: value for name, value in section(sent, "properties").items() if name not in (_OPERATION, _ID)}


def _with_operation(site: Site, document: Document) -> Json:
    """Return a document's own properties with the address of what made it what it is."""
    operation = document.body.get("operation")
    told = {_OPERATION: f"{site.base_url}{operation}"} if operation else {}
    return {**document.body["properties"].get("properties", {}), **told}


def _show_change(site: Site, document: Document) -> Json:
    """Return what the service says of an endpoint when it begins to change it, which is little more than what was sent.

    So recorded on 2025-02-25 (azure-sdk-assets b4cd9fb8, test_online_deployment). On 2022-10-28 the same test got the
    state Updating, the old traffic and the addresses. What GET says meanwhile is in no recording.
    """
    shown = _show(site, document)
    del shown["location"], shown["identity"], shown["properties"]["properties"][_ID]
    shown["properties"] |= {"provisioningState": "Creating", "scoringUri": None, "swaggerUri": None}
    return {**shown, "systemData": {"lastModifiedAt": shown["systemData"]["lastModifiedAt"]}}


def _show(site: Site, document: Document) -> Json:
    body, base = document.body, f"{site.base_url}/inference/{document.name}"
    # Azure gives no address before the endpoint is made.
    made = body["properties"]["provisioningState"] != "Creating"
    addresses = {"scoringUri": f"{base}/score", "swaggerUri": f"{base}/swagger.json"}
    properties = {**body["properties"], "compute": None, **(addresses if made else dict.fromkeys(addresses))}
    own = {_ID: f"{WORKSPACE_ID}/{document.key}".lower()}
    properties["properties"] = {**_with_operation(site, document), **own}
    who = {"principalId": str(uuid.uuid5(uuid.UUID(TENANT), document.key)), "tenantId": TENANT}
    more = {"tags": body["tags"], "kind": body["kind"], "identity": {**who, **body["identity"]}}
    return resource(document, "onlineEndpoints", properties, location=LOCATION, **more)


def _regenerate(site: Site, call: Call) -> Reply:
    document = _endpoint(site, call)
    kind = str(call.json().get("keyType"))
    if kind not in document.body["keys"]:
        raise user_error(f"There is no key of type {kind}; there are Primary and Secondary.")
    site.documents.update(document.key, lambda body: body["keys"].update({kind: uuid.uuid4().hex}))
    return Reply()


def _token(site: Site, call: Call) -> Reply:
    document = _endpoint(site, call)
    if document.body["properties"]["authMode"] == "Key":
        raise user_error(f"The endpoint {document.name} uses keys, not tokens.")
    # A day, and renewed after half of it: azure-powershell 9fe78818, Get-AzMLWorkspaceOnlineEndpointToken, 2024-07-24.
    token, end = site.identity.token(f"endpoint/{document.name.lower()}", _DAY)
    shown = {"accessToken": token, "tokenType": "Bearer", "expiryTimeUtc": end, "refreshAfterTimeUtc": end - _DAY // 2}
    return Reply(shown)


def _deployments(site: Site, call: Call) -> Reply:
    return listed(site, call, f"{_endpoint(site, call).key}/deployments", _show_deployment)


def _deployment(site: Site, call: Call) -> Document:
    return existing(site, f"{_endpoint(site, call).key}/deployments/{call['deployment']}", "online deployment")


@in_one_step
def _put_deployment(site: Site, call: Call) -> Reply:
    endpoint, name, sent = _endpoint(site, call), call["deployment"], call.json(_Deployment)
    _check_name("deployment", name)
    _check_state(endpoint, "Creating", "Deleting")
    properties = section(sent, "properties")
    for served_by_container in ("codeConfiguration", "environmentId"):
        # The environment that we name ourselves comes back with what a user read and changed.
        if str(properties.get(served_by_container) or _ENVIRONMENT).lower() != _ENVIRONMENT.lower():
            what = f"The local workspace serves MLflow models without a container: no {served_by_container}"
            raise WireError(501, "NotImplemented", what)
    sku = {"name": "Default", "tier": "Standard", "capacity": 1, **section(sent, "sku")}
    sku["capacity"] = instances = whole_number(sku["capacity"], "The sku's capacity")
    if instances < 1:
        raise user_error("The sku's capacity must be at least 1.")
    _check_settings(properties)
    key = f"{endpoint.key}/deployments/{name}"
    previous = site.documents.get(key)
    _check_state(previous, "Creating", "Updating", "Deleting")
    reference = str(properties.get("model") or "")
    if not (files.resolve(site, reference) / "MLmodel").is_file():
        raise user_error(f"The model {reference} is not an MLflow model.")
    held = (previous.body["properties"].get("instanceType"), previous.body["sku"]["capacity"]) if previous else None
    instance_type = str(properties.get("instanceType") or "")
    if held != (instance_type, instances):
        quota.check_quota(site, instance_type, instances, apart_from=previous.key if previous else None)
    properties["provisioningState"] = "Updating" if previous else "Creating"
    properties["properties"] = _of_users(properties)
    body = {"properties": properties, "sku": sku, "tags": section(sent, "tags")}
    return operations.make(site, call, "deployment", key, body, _show_deployment)


_REQUESTS: Json = {"requestTimeout": "PT5S", "maxConcurrentRequestsPerInstance": 1, "maxQueueWait": "PT0S"}
_PROBE: Json = {
    "failureThreshold": 30,
    "successThreshold": 1,
    "timeout": "PT2S",
    "period": "PT10S",
    "initialDelay": "PT10S",
}
# What a deployment has where it was sent nothing else (azure-sdk-assets b4cd9fb8, test_online_deployment, 2025-02-25).
_SETTINGS = {"requestSettings": _REQUESTS, "livenessProbe": _PROBE, "readinessProbe": _PROBE}


def _check_settings(properties: Json) -> None:
    """Refuse numbers that are none, and durations that are none."""
    for part, standard in _SETTINGS.items():
        for name, value in section(properties, part).items():
            if isinstance(standard.get(name), str):
                seconds(value, f"properties.{part}.{name}")
            elif name in standard:
                whole_number(value, f"properties.{part}.{name}")


@in_one_step
def _delete_deployment(site: Site, call: Call) -> Reply:
    endpoint = _endpoint(site, call)
    key = f"{endpoint.key}/deployments/{call['deployment']}"
    document = site.documents.get(key)
    if document and endpoint.body["properties"]["traffic"].get(document.name):
        # The words are quoted in the troubleshooting of public repositories that deploy to the service (2026); which
        # status and code they come with, none of them says.
        raise user_error(f"Can't delete deployment [{document.name}] with non-zero traffic weight.")
    return operations.delete(site, call, "deployment", key)


def _show_deployment(site: Site, document: Document) -> Json:
    body = document.body
    sent = body["properties"]
    properties = {
        "endpointComputeType": "Managed",
        "description": None,
        "appInsightsEnabled": False,
        "environmentId": _ENVIRONMENT,
        "modelMountPath": None,
        "egressPublicNetworkAccess": "Enabled",
        "dataCollector": None,
        # Without scale settings the SDK's endpoints.get crashes; Azure always sends them.
        "scaleSettings": {"scaleType": "Default"},
        **sent,
        **{name: {**standard, **section(sent, name)} for name, standard in _SETTINGS.items()},
        "properties": _with_operation(site, document),
        "environmentVariables": {**_variables(sent), **section(sent, "environmentVariables")},
    }
    more = {"location": LOCATION, "tags": body["tags"], "sku": {"tier": "Standard", **body["sku"]}, "kind": "Managed"}
    return resource(document, "onlineEndpoints/deployments", properties, **more)


def _variables(properties: Json) -> Json:
    """Return what an MLflow model's container is told once it is made, which is where its model lies.

    The names are recorded (2025-02-25), the first value is documented (Microsoft Learn, deploy machine learning models
    to online endpoints, 2026), the second is the folder's name that the fine-tuning component gives.
    """
    found = re.search(r"([^/:]+)(?:/versions/|:)([^/:]+)$", str(properties["model"]))
    if properties["provisioningState"] == "Creating" or not found:
        return {}
    name, version = found.groups()
    return {
        "AZUREML_MODEL_DIR": f"/var/azureml-app/azureml-models/{name}/{version}",
        "MLFLOW_MODEL_FOLDER": "mlflow_model_folder",
    }


_STEPS = ("SystemSetup", "UserContainerImagePull", "ModelDownload", "UserContainerStart")
_LOG = "Instance status:\n{status}\n\nContainer events:\n{events}\nContainer logs:\n{lines}"


def _logs(site: Site, call: Call) -> Reply:
    """Return how far the instance is, what happened to its container, and what that wrote.

    The three parts: azure-powershell 689c9cc2, Get-AzMLWorkspaceOnlineDeploymentLog, 2025-11-04; an event's form: the
    same command's documentation, 2022-05-19. "InProgress" and "Waiting" are of a public log of 2025-10-16; what is said
    of one that failed is guessed.
    """
    document, sent = _deployment(site, call), call.json()
    if sent.get("containerType") == "StorageInitializer":
        return Reply({"content": f"The model {document.body['properties']['model']} lies on this machine already.\n"})
    file = site.folder.deployment(_endpoint(site, call).name, document.name) / "log.txt"
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if file.is_file() else []
    tail = min(whole_number(sent.get("tail") or _MOST_LOG_LINES, "tail"), _MOST_LOG_LINES)
    state = document.body["properties"]["provisioningState"]
    last = {"Succeeded": "Succeeded", "Updating": "Succeeded", "Failed": "Failed"}.get(state, "Waiting")
    status = "\n".join(f"{step}: {last if step == _STEPS[-1] else 'Succeeded'}" for step in _STEPS)
    event = f"Kind: Pod, Name: Created, Type: Normal, Time: {timestamp(document.created, 'Z')}"
    events = f"{event}, Message: Created container inference-server\n"
    return Reply({"content": _LOG.format(status=status, events=events, lines="".join(lines[-tail:]))})


_AT = "onlineEndpoints/{endpoint}"
ROUTES = [
    Route("GET onlineEndpoints", lambda site, call: listed(site, call, "onlineEndpoints", _show)),
    Route(f"GET {_AT}", lambda site, call: Reply(_show(site, _endpoint(site, call)))),
    Route(f"PUT {_AT}", _put),
    Route(f"PATCH {_AT}", _patch),
    Route(
        f"DELETE {_AT}",
        lambda site, call: operations.delete(site, call, "endpoint", f"onlineEndpoints/{call['endpoint']}"),
    ),
    Route(f"POST {_AT}/listKeys", lambda site, call: Reply(keys(site, _endpoint(site, call)))),
    Route(f"POST {_AT}/regenerateKeys", _regenerate),
    Route(f"POST {_AT}/token", _token),
    Route(f"GET {_AT}/deployments", _deployments),
    Route(
        f"GET {_AT}/deployments/{{deployment}}",
        lambda site, call: Reply(_show_deployment(site, _deployment(site, call))),
    ),
    Route(f"PUT {_AT}/deployments/{{deployment}}", _put_deployment),
    Route(f"DELETE {_AT}/deployments/{{deployment}}", _delete_deployment),
    Route(f"POST {_AT}/deployments/{{deployment}}/getLogs", _logs),
]
