"""Long-running operations: work in a thread, a status to poll, taken up again after a restart."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable

from phift.local.site import Site
from phift.local.state.clock import Clock
from phift.local.state.documents import Documents, Json
from phift.local.state.faults import Faults
from phift.local.wire.call import AT_SUBSCRIPTION, LOCATION, SUBSCRIPTION, Call, Reply, Route, WireError, timestamp

logger = logging.getLogger(__name__)

_RETRY_MILLISECONDS = "50"
_FAILED: Json = {"provisioningState": "Failed"}
_LOCATION = f"{AT_SUBSCRIPTION}/locations/{{location}}"


class Operations:
    """The operations of one workspace.

    ``work`` says what each kind of operation does to its target. Work must be safe to do twice: an operation that a
    dead server left behind is done again from its start.
    """

    def __init__(self, documents: Documents, clock: Clock, faults: Faults) -> None:
        self._documents = documents
        self._clock = clock
        self._faults = faults
        self._released = threading.Event()  # ends the delays of ordered failures
        self._threads: set[threading.Thread] = set()
        self.work: dict[str, Callable[[str], None]] = {}

    def begin(self, kind: str, target: str) -> str:
        """Start an operation and return its id."""
        name = str(uuid.uuid4())
        body = {"kind": kind, "target": target, "status": "InProgress", "startTime": timestamp(self._clock.now())}
        self._documents.put(f"operations/{name}", body)
        self._start(name, body)
        return name

    def resume(self) -> None:
        """Take up what a server before us left unfinished."""
        for document in self._documents.in_status("operations", "InProgress"):
            self._start(document.name, document.body)

    def _start(self, name: str, body: Json) -> None:
        thread = threading.Thread(target=self._run, args=(name, body["kind"], body["target"]), daemon=True)
        self._threads = {each for each in self._threads if each.is_alive()} | {thread}
        thread.start()

    def at_work(self) -> bool:
        """Tell whether one of them goes on without the clock being moved."""
        return any(thread.is_alive() and not self._clock.holds(thread) for thread in tuple(self._threads))

    def reset(self) -> None:
        """Wake what sleeps, and wait for all that is at work."""
        self._released.set()
        for thread in tuple(self._threads):
            while thread.is_alive():
                self._clock.reset()  # again and again: what had only begun falls asleep after the first time
                thread.join(0.02)
        self._released.clear()

    def _run(self, name: str, kind: str, target: str) -> None:
        try:
            self._clock.spend(kind)
            self._strike(kind, target)
            self.work[kind](target)
        except WireError as error:
            self._finish(name, {"status": "Failed", "error": {"code": error.code, "message": error.message}})
        except Exception as error:
            logger.exception("operation %s on %s failed", kind, target)
            message = f"The operation failed inside the local workspace: {type(error).__name__}."
            self._finish(name, {"status": "Failed", "error": {"code": "InternalServerError", "message": message}})
        else:
            self._finish(name, {"status": "Succeeded"})

    def _strike(self, kind: str, target: str) -> None:
        """Fail an operation where that has been ordered: it ends Failed, and so does what it was to provision."""
        fault = self._faults.strike(f"operation {kind}")
        if fault is None:
            return
        self._released.wait(fault.delay)
        # Computes hold their state one level above where endpoints and deployments do.
        self._documents.update(
            target, lambda body: (body if "provisioningState" in body else body["properties"]).update(_FAILED)
        )
        raise fault.error()

    def _finish(self, name: str, outcome: Json) -> None:
        self._documents.update(
            f"operations/{name}", lambda body: body.update(outcome, endTime=timestamp(self._clock.now()))
        )


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


def _status(site: Site, call: Call) -> Reply:
    found = site.documents.get(f"operations/{call['operation']}")
    if found is None:
        raise WireError(404, "OperationNotFound", "The operation was not found.")
    shown: Json = {key: found.body[key] for key in ("status", "error", "startTime", "endTime") if key in found.body}
    headers = _look_again(site) if shown["status"] == "InProgress" else {}
    if shown["status"] == "InProgress" and found.body["kind"].startswith(("endpoint-", "deployment-")):
        # As recorded for endpoints and deployments, made and deleted (`test_online_deployment`, 2022-10-28).
        shown |= {"status": "Updating", "percentComplete": 0.0}
    return Reply({"id": call.path, "name": found.name, **shown}, 200, headers)


def _result(site: Site, call: Call) -> Reply:
    found = site.documents.get(f"operations/{call['operation']}")
    if found is None:
        raise WireError(404, "OperationNotFound", "The operation was not found.")
    if found.body["status"] == "InProgress":
        location = f"{site.base_url}{call.path}?api-version=2023-04-01-preview"
        return Reply(None, 202, {"Location": location, **_look_again(site)})
    if found.body["status"] == "Failed":
        raise WireError(400, found.body["error"]["code"], found.body["error"]["message"])
    return Reply(None, 204)
