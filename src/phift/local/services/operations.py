"""Long-running operations: the answers that start a poller, and what pollers ask."""

from __future__ import annotations

from phift.local.names import LOCATION, SUBSCRIPTION
from phift.local.services.route import AT_SUBSCRIPTION, Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire.call import Call, Reply, WireError
from phift.local.wire.pages import existing

_RETRY_MILLISECONDS = "50"
_LOCATION = f"{AT_SUBSCRIPTION}/locations/{{location}}"


def accepted(site: Site, operation: str, body: Json | None = None, *, status: int = 202, family: str = "mfe") -> Reply:
    """Return the answer that starts a poller.

    It has no Retry-After, as the real service sends none. Where the workspace is not to be slow it has the one form
    that all of the SDK's pollers understand (azure-ai-ml 1.35.2 reads a plain Retry-After of a deletion as a whole
    number, and takes 0 for none).
    """
    base = f"{site.base_url}/subscriptions/{SUBSCRIPTION}/providers/Microsoft.MachineLearningServices"
    base = f"{base}/locations/{LOCATION}"
    headers = {
        "Azure-AsyncOperation": f"{base}/{family}OperationsStatus/{operation}?api-version=2023-04-01-preview",
        "x-ms-async-operation-timeout": "PT30M",
    }
    headers |= _look_again(site)
    if status == 201 and body and family == "mfe":
        headers["Location"] = f"{site.base_url}{body['id']}?api-version=2023-04-01-preview"
    if status == 202:
        headers["Location"] = f"{base}/{family}OperationResults/{operation}?api-version=2023-04-01-preview"
    return Reply(body, status, headers)


def _look_again(site: Site) -> dict[str, str]:
    return {} if site.clock.speed == "real" else {"x-ms-retry-after-ms": _RETRY_MILLISECONDS}


def accepted_by_location(site: Site, operation: str) -> Reply:
    """Return the answer of a call whose poller looks at ``Location`` only."""
    headers = accepted(site, operation).headers
    return Reply(None, 202, {name: value for name, value in headers.items() if name != "Azure-AsyncOperation"})


def routes() -> list[Route]:
    """Return the routes that pollers ask."""
    families = ("mfe", "compute")
    status = [Route("GET", f"{_LOCATION}/{family}OperationsStatus/{{operation}}", _status) for family in families]
    results = [Route("GET", f"{_LOCATION}/{family}OperationResults/{{operation}}", _result) for family in families]
    return [*status, *results]


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
        location = f"{site.base_url}{call.path}?api-version=2023-04-01-preview"
        return Reply(None, 202, {"Location": location, **_look_again(site)})
    if found.body["status"] == "Failed":
        raise WireError(400, found.body["error"]["code"], found.body["error"]["message"])
    return Reply(None, 204)
