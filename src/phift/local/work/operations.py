"""Long-running operations, accepted now and done later: work in a thread, taken up again after a restart."""

from __future__ import annotations

import logging
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping

from phift.local.ground import Ground
from phift.local.state.documents import Json
from phift.local.wire.call import WireError, timestamp
from phift.local.wire.errors import of_fault
from phift.local.work.scorers import ScorerFailed, Scorers
from phift.local.work.training import Training

logger = logging.getLogger(__name__)


class Operations:
    """The operations of one workspace."""

    def __init__(self, ground: Ground, scorers: Scorers, training: Training) -> None:
        self._ground = ground
        self._documents = ground.documents
        self._clock = ground.clock
        self._faults = ground.faults
        self._work = work_of_operations(ground, scorers, training)
        self._released = threading.Event()  # ends the delays of ordered failures
        self._threads: set[threading.Thread] = set()

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
                # A thread that had only started begins to sleep after this, and is woken by the next one.
                self._clock.reset()
                thread.join(0.02)
        self._released.clear()

    def _run(self, name: str, kind: str, target: str) -> None:
        failure: WireError | None = None
        try:
            self._clock.spend(kind)
            fault = self._faults.strike(f"operation {kind}")
            if fault is None:
                self._work[kind](target)
            else:
                self._released.wait(fault.delay)
                set_state(self._ground, target, "Failed")  # what was to be provisioned ends Failed too
                failure = of_fault(fault)
        except WireError as error:
            failure = error
        except Exception as error:
            logger.exception("operation %s on %s failed", kind, target)
            message = f"The operation failed inside the local workspace: {type(error).__name__}."
            failure = WireError(500, "InternalServerError", message)
        outcome: Json = {"status": "Succeeded"}
        if failure is not None:
            outcome = {"status": "Failed", "error": {"code": failure.code, "message": failure.message}}
        end = timestamp(self._clock.now())
        self._documents.update(f"operations/{name}", lambda body: body.update(outcome, endTime=end))


def work_of_operations(ground: Ground, scorers: Scorers, training: Training) -> Mapping[str, Callable[[str], object]]:
    """Return what each kind of operation does to its target: a document's key, and a job's name.

    It is safe to do twice: an operation that a dead server left behind is done again from its start.
    """
    documents = ground.documents

    def make_deployment(key: str) -> None:
        _, endpoint, _, name = key.split("/")
        try:
            scorers.replace(endpoint, name)
        except ScorerFailed as error:
            scorers.log(endpoint, name, f"The deployment failed: {error}")
            set_state(ground, key, "Failed")
            message = f"User container has crashed or terminated: {error} The deployment's log says more."
            raise WireError(400, "ResourceNotReady", message) from error
        if documents.get(key) is None:  # deleted while the model was loaded
            forget(endpoint, name)
            return
        set_state(ground, key, "Succeeded")

    def forget(endpoint: str, name: str) -> None:
        scorers.end(endpoint, name)
        shutil.rmtree(ground.folder.deployment(endpoint, name), ignore_errors=True)

    def remove_deployment(key: str) -> None:
        _, endpoint, _, name = key.split("/")
        documents.delete(key)  # first: a creation that ends meanwhile looks here, and cleans up after itself
        forget(endpoint, name)

    def remove_endpoint(key: str) -> None:
        for deployment in list(documents.walk(f"{key}/deployments")):
            remove_deployment(deployment.key)
        documents.delete(key)

    return {
        "compute-create": lambda key: set_state(ground, key, "Succeeded"),
        "compute-delete": lambda key: documents.delete(key),
        "deployment-create": make_deployment,
        "deployment-delete": remove_deployment,
        "endpoint-create": lambda key: set_state(ground, key, "Succeeded"),
        "endpoint-delete": remove_endpoint,
        "job-cancel": training.cancel,
    }


def set_state(ground: Ground, key: str, state: str) -> None:
    """Note the provisioning state of a compute, an endpoint or a deployment; of what is not there, none."""

    def note(body: Json) -> None:
        # Computes hold it one level above where endpoints and deployments do.
        (body if "provisioningState" in body else body["properties"])["provisioningState"] = state

    ground.documents.update(key, note)
