"""Long-running operations, accepted now and done later: work in a thread, taken up again after a restart."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping

from phift.local.ground import Ground
from phift.local.pending import ScorerFailed
from phift.local.state.documents import Document, Json
from phift.local.wire import WireError, of_fault, timestamp
from phift.local.work.scorers import Scorers
from phift.local.work.training import Training

logger = logging.getLogger(__name__)


class Operations:
    """The operations of one workspace.

    What each kind does to its target, a document's key or a job's name, is safe to do twice: an operation that a dead
    server left behind is done again from its start.
    """

    def __init__(self, ground: Ground, scorers: Scorers, training: Training) -> None:
        self._ground = ground
        self._scorers = scorers
        self.work: Mapping[str, Callable[[str], object]] = {
            "compute-create": lambda key: set_state(ground, key, "Succeeded"),
            "compute-delete": ground.documents.delete,
            "deployment-create": self._make_deployment,
            "deployment-delete": self._remove_deployment,
            "endpoint-create": lambda key: set_state(ground, key, "Succeeded"),
            "endpoint-delete": self._remove_endpoint,
            "job-cancel": training.cancel,
            "job-delete": training.delete,
        }
        self._released = threading.Event()  # ends the delays of ordered failures
        self._threads: set[threading.Thread] = set()

    def begin(self, kind: str, target: str) -> str:
        """Start an operation and return its id."""
        started = timestamp(self._ground.clock.now())
        body = {"kind": kind, "target": target, "status": "InProgress", "startTime": started}
        document = self._ground.documents.put(f"operations/{uuid.uuid4()}", body)
        self._start(document)
        return document.name

    def resume(self) -> None:
        """Take up what a server before us left unfinished."""
        for document in self._ground.documents.in_status("operations", "InProgress"):
            self._start(document)

    def _start(self, operation: Document) -> None:
        thread = threading.Thread(target=self._run, args=(operation,), daemon=True)
        self._threads = {each for each in self._threads if each.is_alive()} | {thread}
        thread.start()

    def at_work(self) -> bool:
        """Tell whether one of them goes on without the clock being moved."""
        return any(thread.is_alive() and not self._ground.clock.holds(thread) for thread in tuple(self._threads))

    def reset(self) -> None:
        """Wake what sleeps, and wait for all that is at work."""
        self._released.set()
        for thread in tuple(self._threads):
            while thread.is_alive():
                # A thread that had only started begins to sleep after this, and is woken by the next one.
                self._ground.clock.reset()
                thread.join(0.02)
        self._released.clear()

    def _run(self, operation: Document) -> None:
        ground, kind, target = self._ground, operation.body["kind"], operation.body["target"]
        failure: WireError | None = None
        try:
            ground.clock.spend(kind)
            if fault := ground.faults.strike(f"operation {kind}"):
                self._released.wait(fault.delay)
                failure = of_fault(fault)
            else:
                self.work[kind](target)
        except WireError as error:
            failure = error
        except Exception as error:
            logger.exception("operation %s on %s failed", kind, target)
            message = f"The operation failed inside the local workspace: {type(error).__name__}."
            failure = WireError(500, "InternalServerError", message)
        outcome: Json = {"status": "Succeeded", "endTime": timestamp(ground.clock.now())}
        if failure is not None:
            if not kind.startswith("job-"):
                set_state(ground, target, "Failed")  # what was to be provisioned ends so too
            outcome |= {"status": "Failed", "error": {"code": failure.code, "message": failure.message, **failure.more}}
        ground.documents.update(operation.key, lambda body: body.update(outcome))

    def _make_deployment(self, key: str) -> None:
        try:
            self._scorers.replace(key)
        except ScorerFailed as error:
            if self._ground.documents.get(key) is None:  # deleted while the model was loaded
                return
            self._scorers.log(key, f"The deployment failed: {error}")
            message = f"User container has crashed or terminated: {error} The deployment's log says more."
            raise WireError(400, "ResourceNotReady", message) from error
        set_state(self._ground, key, "Succeeded")

    def _remove_deployment(self, key: str) -> None:
        self._ground.documents.delete(key)  # first: a creation that ends meanwhile looks here, and cleans up itself
        self._scorers.forget(key)

    def _remove_endpoint(self, key: str) -> None:
        for deployment in self._ground.documents.walk(f"{key}/deployments"):
            self._remove_deployment(deployment.key)
        self._ground.documents.delete(key)


def set_state(ground: Ground, key: str, state: str) -> None:
    """Note the provisioning state of a compute, an endpoint or a deployment; of what is not there, none."""

    def note(body: Json) -> None:
        # Computes hold their state one level above where endpoints and deployments do.
        (body if "provisioningState" in body else body["properties"])["provisioningState"] = state

    ground.documents.update(key, note)
