"""Long-running operations: work in a thread, taken up again after a restart."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping

from phift.local.ground import Ground
from phift.local.state.documents import Json
from phift.local.wire.call import timestamp
from phift.local.wire.errors import WireError, of_fault

logger = logging.getLogger(__name__)

_FAILED: Json = {"provisioningState": "Failed"}


class Operations:
    """The operations of one workspace.

    - **work**: what each kind of operation does to its target. It must be safe to do twice: an operation that a dead
      server left behind is done again from its start.
    """

    def __init__(self, ground: Ground, work: Mapping[str, Callable[[str], None]]) -> None:
        self._documents = ground.documents
        self._clock = ground.clock
        self._faults = ground.faults
        self._work = work
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
        outcome: Json = {"status": "Succeeded"}
        try:
            self._clock.spend(kind)
            fault = self._faults.strike(f"operation {kind}")
            if fault is None:
                self._work[kind](target)
            else:
                self._released.wait(fault.delay)
                # What was to be provisioned ends Failed too. Computes hold their state one level above where endpoints
                # and deployments do.
                self._documents.update(
                    target, lambda body: (body if "provisioningState" in body else body["properties"]).update(_FAILED)
                )
                outcome = _failed(of_fault(fault))
        except WireError as error:
            outcome = _failed(error)
        except Exception as error:
            logger.exception("operation %s on %s failed", kind, target)
            message = f"The operation failed inside the local workspace: {type(error).__name__}."
            outcome = _failed(WireError(500, "InternalServerError", message))
        end = timestamp(self._clock.now())
        self._documents.update(f"operations/{name}", lambda body: body.update(outcome, endTime=end))


def _failed(error: WireError) -> Json:
    return {"status": "Failed", "error": {"code": error.code, "message": error.message}}
