"""Long-running operations: the answers that start a poller, and what pollers ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from phift.local.names import LOCATION, PROVIDER, SUBSCRIPTION, WORKSPACE_ID
from phift.local.services.route import AT_LOCATION, Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire import Call, Reply, WireError, existing, link
from phift.local.work.operations import set_state


def make(
    site: Site,
    call: Call,
    what: str,
    key: str,
    body: Json,
    show: Callable[[Site, Document], Json],
    status: int = 201,
) -> Reply:
    """Store what is to be made and begin to make it; a killed server leaves nothing that is Creating and never made.

    A PUT has the same status for what is there already, as recorded for clusters (2024-12-18) and endpoints
    (2025-02-25); that it has it for deployments is guessed.
    """
    with site.documents.transaction():
        document = site.documents.put(key, body)
        answer = begin(site, call, f"{what}-create", document.key, status)
        # Without the server's own address: the next one may have another port.
        operation = answer.headers["Azure-AsyncOperation"].removeprefix(site.base_url)
        document = site.documents.put(document.key, {**document.body, "operation": operation})
        return replace(answer, body=show(site, document))


def delete(site: Site, call: Call, what: str, key: str) -> Reply:
    """Begin to delete what is there."""
    document = site.documents.get(key)
    if document is None:
        return Reply(None, 204)
    with site.documents.transaction():
        set_state(site, document.key, "Deleting")
        return begin(site, call, f"{what}-delete", document.key)


def begin(site: Site, call: Call, kind: str, target: str, status: int = 202) -> Reply:
    """Begin an operation, and return the answer that starts a poller.

    It has no Retry-After, as the real service sends none. Where the workspace is not to be slow it has the one form
    that all of the SDK's pollers understand (azure-ai-ml 1.35.2 reads a plain Retry-After of a deletion as a whole
    number, and takes 0 for none).
    """
    operation = site.operations.begin(kind, target)
    family = "compute" if kind.startswith("compute-") else "mfe"
    base = f"/subscriptions/{SUBSCRIPTION}/{PROVIDER}/locations/{LOCATION}/{family}Operation"
    headers = {"x-ms-async-operation-timeout": "PT30M", **_look_again(site)}
    if not kind.startswith("job-"):  # their pollers look at ``Location`` only
        headers["Azure-AsyncOperation"] = link(site, call, f"{base}sStatus/{operation}")
    if status == 202 and family == "mfe":  # clusters send none, as recorded 2024-12-18
        headers["Location"] = link(site, call, f"{base}Results/{operation}")
    elif status == 201 and family == "mfe":
        headers["Location"] = link(site, call, f"{WORKSPACE_ID}/{target}")
    # ``null`` as recorded for an endpoint (2025-02-25); that deployments have it too is guessed.
    body = b"null" if kind in ("endpoint-delete", "deployment-delete") else None
    return Reply(body, status, headers)


def _look_again(site: Site) -> dict[str, str]:
    return {} if site.clock.speed == "real" else {"x-ms-retry-after-ms": "50"}


def _operation(site: Site, call: Call) -> Document:
    missing = WireError(404, "OperationNotFound", "The operation was not found.")
    return existing(site, f"operations/{call['operation']}", missing)


def _status(site: Site, call: Call) -> Reply:
    """Tell how far it is: 0 % to its end, and until then an end in the year 1, as recorded (2025-02-25, 2026-03-03).

    Of a cluster only the state is told, and 100 % at its end (recorded 2024-12-18: azure-sdk-assets 003b900b,
    test_aml_compute_create_and_delete).
    """
    found = _operation(site, call)
    told: Json = {key: found.body[key] for key in ("startTime", "endTime", "status", "error") if key in found.body}
    if found.body["kind"].startswith("compute-"):
        of_cluster: Json = {key: value for key, value in told.items() if not key.endswith("Time")}
        if told["status"] == "Succeeded":
            of_cluster["percentComplete"] = 100.0
        return Reply(of_cluster, 200, _look_again(site) if told["status"] == "InProgress" else {})
    shown = {
        "id": call.path,
        "name": found.name,
        "endTime": "0001-01-01T00:00:00+00:00",
        "percentComplete": 0.0,
        **told,
    }
    if shown["status"] != "InProgress":
        return Reply(shown)
    if found.body["kind"].startswith(("endpoint-", "deployment-")):
        # As recorded for both, made and deleted (`test_online_deployment`, 2022-10-28 and 2025-02-25).
        shown["status"] = "Updating"
    return Reply(shown, 200, _look_again(site))


def _result(site: Site, call: Call) -> Reply:
    found = _operation(site, call)
    if found.body["status"] == "InProgress":
        return Reply(None, 202, {"Location": link(site, call, call.path), **_look_again(site)})
    if found.body["status"] == "Failed":
        raise WireError(400, found.body["error"]["code"], found.body["error"]["message"])
    # 200 of a job that was deleted: azure-dev, as `services.jobs` has it.
    return Reply(None, 200 if found.body["kind"] == "job-delete" else 204)


ROUTES = [
    Route(f"GET {AT_LOCATION}/{family}Operation{asked}/{{operation}}", handler)
    for family in ("mfe", "compute")
    for asked, handler in (("sStatus", _status), ("Results", _result))
]
