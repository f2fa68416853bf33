"""Online endpoints and their deployments: the control plane."""

from __future__ import annotations

import re
import uuid

from phift.local.model import quota, references
from phift.local.names import LOCATION, TENANT
from phift.local.services.operations import accepted
from phift.local.services.route import AT_WORKSPACE, Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire.call import Call, Reply, WireError, not_found, section, user_error, whole_number
from phift.local.wire.pages import existing, listed, resource
from phift.local.work.operations import set_state

_NAME = re.compile(r"[A-Za-z](?:-?[A-Za-z0-9])*")
_ENDPOINTS = f"{AT_WORKSPACE}/onlineEndpoints"
_ENDPOINT = f"{_ENDPOINTS}/{{endpoint}}"
_DEPLOYMENT = f"{_ENDPOINT}/deployments/{{deployment}}"
LOG_LINES = 5000


def routes() -> list[Route]:
    """Return the routes of endpoints and deployments."""
    return [
        Route(
            "GET", _ENDPOINTS, lambda site, call: listed(site, call, "onlineEndpoints", lambda one: _show(site, one))
        ),
        Route("GET", _ENDPOINT, lambda site, call: Reply(_show(site, _endpoint(site, call)))),
        Route("PUT", _ENDPOINT, _put),
        Route("PATCH", _ENDPOINT, _patch),
        Route("DELETE", _ENDPOINT, _delete),
        Route("POST", f"{_ENDPOINT}/listKeys", lambda site, call: Reply(keys(site, _endpoint(site, call)))),
        Route("POST", f"{_ENDPOINT}/regenerateKeys", _regenerate),
        Route("POST", f"{_ENDPOINT}/token", _token),
        Route(
            "GET",
            f"{_ENDPOINT}/deployments",
            lambda site, call: listed(site, call, f"{_endpoint(site, call).key}/deployments", _show_deployment),
        ),
        Route("GET", _DEPLOYMENT, lambda site, call: Reply(_show_deployment(_deployment(site, call)))),
        Route("PUT", _DEPLOYMENT, _put_deployment),
        Route("DELETE", _DEPLOYMENT, _delete_deployment),
        Route("POST", f"{_DEPLOYMENT}/getLogs", _logs),
    ]


def _endpoint(site: Site, call: Call) -> Document:
    return existing(site, f"onlineEndpoints/{call['endpoint']}", not_found("online endpoint", call["endpoint"]))


def keys(site: Site, endpoint: Document) -> dict[str, str]:
    """Return an endpoint's two keys; they are made again each time and stored nowhere."""
    made = endpoint.body["keys"].items()
    return {f"{kind.lower()}Key": site.identity.key(endpoint.name, generation) for kind, generation in made}


def _check_name(kind: str, name: str) -> None:
    if not (_NAME.fullmatch(name) and 3 <= len(name) <= 32):
        message = f"The {kind} name {name} is not valid: 3 to 32 letters, digits and single dashes, a letter first."
        raise user_error(message)


def _put(site: Site, call: Call) -> Reply:
    name, sent = call["endpoint"], call.json()
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
    return _store(site, previous, key, sent, {**properties, "authMode": mode})


def _patch(site: Site, call: Call) -> Reply:
    """Change tags and identity, which is all that the API lets be changed in part."""
    previous, sent = _endpoint(site, call), call.json()
    changed = {name: sent[name] for name in ("tags", "identity") if sent.get(name) is not None}
    return _store(site, previous, previous.key, {**previous.body, **changed}, previous.body["properties"])


def _store(site: Site, previous: Document | None, key: str, sent: Json, properties: Json) -> Reply:
    _check_idle(previous)
    traffic = section(properties, "traffic")
    names = {name.lower() for name in site.documents.names(f"{key}/deployments")}
    for name, share in traffic.items():
        if name.lower() not in names:
            raise user_error(f"Traffic cannot go to {name}: the endpoint has no such deployment.")
        if not isinstance(share, int) or not 0 <= share <= 100:
            raise user_error(f"The traffic of {name} must be a whole number from 0 to 100.")
    if sum(traffic.values()) not in (0, 100):
        raise user_error(f"The traffic of all deployments must sum to 0 or 100, not {sum(traffic.values())}.")
    body = {
        "properties": {
            "authMode": properties["authMode"],
            "description": properties.get("description"),
            "properties": properties.get("properties") or {},
            "publicNetworkAccess": properties.get("publicNetworkAccess") or "Enabled",
            "traffic": traffic,
            "mirrorTraffic": properties.get("mirrorTraffic") or {},
            "provisioningState": "Updating" if previous else "Creating",
        },
        "tags": section(sent, "tags"),
        "identity": sent.get("identity") or {"type": "SystemAssigned"},
        "kind": sent.get("kind") or "Managed",
        "keys": previous.body["keys"] if previous else {"Primary": uuid.uuid4().hex, "Secondary": uuid.uuid4().hex},
    }
    with site.documents.transaction():  # a killed server leaves nothing that is Creating and never made
        document = site.documents.put(key, body)
        operation = site.operations.begin("endpoint-create", key)
    return accepted(site, operation, _show(site, document), status=200 if previous else 201)


def _check_idle(document: Document | None) -> None:
    """Refuse to change what is being changed."""
    if document and document.body["properties"]["provisioningState"] in ("Creating", "Updating", "Deleting"):
        state = document.body["properties"]["provisioningState"]
        raise WireError(409, "Conflict", f"{document.name} is {state}; wait until that is done.")


def _delete(site: Site, call: Call) -> Reply:
    document = site.documents.get(f"onlineEndpoints/{call['endpoint']}")
    if document is None:
        return Reply(None, 204)
    return _delete_later(site, "endpoint-delete", document.key)


def _show(site: Site, document: Document) -> Json:
    stored = document.body["properties"]
    # Azure gives no address before the endpoint is made.
    made = stored["provisioningState"] != "Creating"
    base = f"{site.base_url}/inference/{document.name}"
    files = {"scoringUri": "score", "swaggerUri": "swagger.json"}
    addresses = {name: f"{base}/{file}" if made else None for name, file in files.items()}
    who = {"principalId": str(uuid.uuid5(uuid.UUID(TENANT), document.key)), "tenantId": TENANT}
    identity = {**who, **document.body["identity"]}
    more = {"tags": document.body["tags"], "kind": document.body["kind"], "identity": identity}
    return resource(document, "onlineEndpoints", {**stored, **addresses}, location=LOCATION, **more)


def _regenerate(site: Site, call: Call) -> Reply:
    document = _endpoint(site, call)
    kind = str(call.json().get("keyType"))
    if kind not in document.body["keys"]:
        raise user_error(f"There is no key of type {kind}; there are Primary and Secondary.")
    site.documents.update(document.key, lambda body: body["keys"].update({kind: uuid.uuid4().hex}))
    return Reply(None, 200)


def _token(site: Site, call: Call) -> Reply:
    document = _endpoint(site, call)
    if document.body["properties"]["authMode"] == "Key":
        raise user_error(f"The endpoint {document.name} uses keys, not tokens.")
    token, end = site.identity.token(f"endpoint/{document.name.lower()}")
    shown = {"accessToken": token, "tokenType": "Bearer", "expiryTimeUtc": end, "refreshAfterTimeUtc": end - 600}
    return Reply(shown)


def _deployment(site: Site, call: Call) -> Document:
    key = f"{_endpoint(site, call).key}/deployments/{call['deployment']}"
    return existing(site, key, not_found("online deployment", call["deployment"]))


def _put_deployment(site: Site, call: Call) -> Reply:
    endpoint, name, sent = _endpoint(site, call), call["deployment"], call.json()
    _check_name("deployment", name)
    state = endpoint.body["properties"]["provisioningState"]
    if state in ("Creating", "Deleting"):
        raise WireError(409, "Conflict", f"The endpoint {endpoint.name} is {state}; wait until that is done.")
    properties = section(sent, "properties")
    for served_by_container in ("codeConfiguration", "environmentId"):
        if properties.get(served_by_container):
            what = f"The local workspace serves MLflow models without a container: no {served_by_container}"
            raise WireError(501, "NotImplemented", what)
    sku = {"name": "Default", "capacity": 1, **section(sent, "sku")}
    instances = whole_number(sku["capacity"], "The sku's capacity")
    whole_number(
        section(properties, "requestSettings").get("maxConcurrentRequestsPerInstance", 1), "maxConcurrentRequests"
    )
    key = f"{endpoint.key}/deployments/{name}"
    previous = site.documents.get(key)
    _check_idle(previous)
    reference = str(properties.get("model") or "")
    if not (references.resolve(site, reference) / "MLmodel").is_file():
        raise user_error(f"The model {reference} is not an MLflow model.")
    held = (previous.body["properties"].get("instanceType"), previous.body["sku"]["capacity"]) if previous else None
    instance_type = str(properties.get("instanceType") or "")
    if held != (instance_type, instances):
        quota.check_quota(site, instance_type, instances, apart_from=previous.key if previous else None)
    properties["provisioningState"] = "Updating" if previous else "Creating"
    with site.documents.transaction():
        document = site.documents.put(key, {"properties": properties, "sku": sku, "tags": section(sent, "tags")})
        operation = site.operations.begin("deployment-create", key)
    return accepted(site, operation, _show_deployment(document), status=200 if previous else 201)


def _delete_deployment(site: Site, call: Call) -> Reply:
    endpoint = _endpoint(site, call)
    document = site.documents.get(f"{endpoint.key}/deployments/{call['deployment']}")
    if document is None:
        return Reply(None, 204)
    if endpoint.body["properties"]["traffic"].get(document.name):
        # The words are quoted in the troubleshooting of public repositories that deploy to the service (2026); which
        # status and code they come with, none of them says.
        raise user_error(f"Can't delete deployment [{document.name}] with non-zero traffic weight.")
    return _delete_later(site, "deployment-delete", document.key)


def _delete_later(site: Site, kind: str, key: str) -> Reply:
    with site.documents.transaction():
        set_state(site, key, "Deleting")
        operation = site.operations.begin(kind, key)
    return accepted(site, operation)


def _show_deployment(document: Document) -> Json:
    defaults: Json = {
        "endpointComputeType": "Managed",
        "description": None,
        "properties": {},
        "appInsightsEnabled": False,
        "environmentVariables": {},
        "requestSettings": {"requestTimeout": "PT5S", "maxConcurrentRequestsPerInstance": 1, "maxQueueWait": "PT0.5S"},
    }
    # Without scale settings the SDK's endpoints.get crashes; Azure always sends them.
    properties = {**defaults, "scaleSettings": {"scaleType": "Default"}, **document.body["properties"]}
    more = {"tags": document.body["tags"], "sku": document.body["sku"], "kind": "Managed"}
    kind = "onlineEndpoints/deployments"
    return resource(document, kind, properties, location=LOCATION, **more)


def _logs(site: Site, call: Call) -> Reply:
    document = _deployment(site, call)
    sent = call.json()
    if sent.get("containerType") == "StorageInitializer":
        return Reply({"content": f"The model {document.body['properties']['model']} lies on this machine already.\n"})
    file = site.folder.deployment(_endpoint(site, call).name, document.name) / "log.txt"
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if file.is_file() else []
    tail = min(whole_number(sent.get("tail") or LOG_LINES, "tail"), LOG_LINES)
    return Reply({"content": "".join(lines[-tail:])})
