"""Long-running operations: the answers that start a poller, and what pollers ask."""

from __future__ import annotations

from collections.abc import Callable

from phift.local.names import LOCATION, PROVIDER, SUBSCRIPTION
from phift.local.services.route import AT_LOCATION, Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire import Call, Reply, WireError, existing
from phift.local.work.operations import set_state

_VERSION = "api-version=2023-04-01-preview"


def make(site: Site, what: str, key: str, body: Json, show: Callable[[Site, Document], Json]) -> Reply:
    """Store what is to be made and begin to make it; a killed server leaves nothing that is Creating and never made."""
    with site.documents.transaction():
        status = 200 if site.documents.get(key) else 201
        document = site.documents.put(key, body)
        return begin(site, f"{what}-create", document.key, show(site, document), status)


def delete(site: Site, what: str, key: str) -> Reply:
    """Begin to delete what is there."""
    document = site.documents.get(key)
    if document is None:
        return Reply(None, 204)
    with site.documents.transaction():
        set_state(site, document.key, "Deleting")
        return begin(site, f"{what}-delete", document.key)


def begin(site: Site, kind: str, target: str, shown: Json | None = None, status: int = 202) -> Reply:
    """Begin an operation, and return the answer that starts a poller.

    It has no Retry-After, as the real service sends none. Where the workspace is not to be slow it has the one form
    that all of the SDK's pollers understand (azure-ai-ml 1.35.2 reads a plain Retry-After of a deletion as a whole
    number, and takes 0 for none).
    """
    operation = site.operations.begin(kind, target)
    family = "compute" if kind.startswith("compute-") else "mfe"
    base = f"{site.base_url}/subscriptions/{SUBSCRIPTION}/{PROVIDER}/locations/{LOCATION}/{family}Operation"
    headers = {"x-ms-async-operation-timeout": "PT30M", **_look_again(site)}
    if kind != "job-cancel":  # its poller looks at ``Location`` only
        headers["Azure-AsyncOperation"] = f"{base}sStatus/{operation}?{_VERSION}"
    if status == 202:
        headers["Location"] = f"{base}Results/{operation}?{_VERSION}"
    elif status == 201 and shown and family == "mfe":
        headers["Location"] = f"{site.base_url}{shown['id']}?{_VERSION}"
    return Reply(shown, status, headers)


def _look_again(site: Site) -> dict[str, str]:
    return {} if site.clock.speed == "real" else {"x-ms-retry-after-ms": "50"}


def _operation(site: Site, call: Call) -> Document:
    missing = WireError(404, "OperationNotFound", "The operation was not found.")
    return existing(site, f"operations/{call['operation']}", missing)


def _status(site: Site, call: Call) -> Reply:
    found = _operation(site, call)
    shown: Json = {key: found.body[key] for key in ("status", "error", "startTime", "endTime") if key in found.body}
    headers = _look_again(site) if shown["status"] == "InProgress" else {}
    if shown["status"] == "InProgress" and found.body["kind"].startswith(("endpoint-", "deployment-")):
        # As recorded for endpoints and deployments, made and deleted (`test_online_deployment`, 2022-10-28).
        shown |= {"status": "Updating", "percentComplete": 0.0}
    return Reply({"id": call.path, "name": found.name, **shown}, 200, headers)


def _result(site: Site, call: Call) -> Reply:
    found = _operation(site, call)
    if found.body["status"] == "InProgress":
        return Reply(None, 202, {"Location": f"{site.base_url}{call.path}?{_VERSION}", **_look_again(site)})
    if found.body["status"] == "Failed":
        raise WireError(400, found.body["error"]["code"], found.body["error"]["message"])
    return Reply(None, 204)


ROUTES = [
    Route(f"GET {AT_LOCATION}/{family}Operation{asked}/{{operation}}", handler)
    for family in ("mfe", "compute")
    for asked, handler in (("sStatus", _status), ("Results", _result))
]
