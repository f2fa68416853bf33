"""Endpoints and deployments as things that Azure makes, changes and deletes in minutes: done once, and for certain."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from phift.azure.answers import outcome, text
from phift.azure.clients import Clients
from phift.azure.quiet import quiet
from phift.errors import Conflict, NotFound, PhiftError, ServiceUnreachable, WaitTimeout, azure_errors

logger = logging.getLogger(__name__)

SERVES = "phift.serves"
"""The tag that says which model an endpoint was made for, in digits."""

CREATED = "phift.created"
"""The tag that says when an endpoint was made: ISO 8601, UTC, to the microsecond, so that no two calls share it."""

_LONGEST_OPERATION = 3600.0  # seconds; the service gives an endpoint's operations 30 minutes
_MOST_TRIES = 40  # at a change that is refused because another one is under way; with 15 s between them, ten minutes
# States in which a create or an update is still under way, as both kinds of resource name them.
_UNDER_WAY = frozenset({"creating", "updating", "provisioning", "scaling", "deleting"})
# "Cannot create a deployment in endpoint x because it is in Updating provisioning state", told of an endpoint that had
# succeeded (azure-sdk-for-net issue 36961, 2023-06).
_BUSY = re.compile(
    r"provisioning state|is (creating|updating|deleting)|in progress|concurrent|already running", re.IGNORECASE
)

Stage = Literal[
    "waits", "endpoint", "deployment", "traffic", "ready", "replaced", "idle", "rollback", "delete", "deleted", "stays"
]


@dataclass(frozen=True)
class DeploymentEvent:
    """A stage of an endpoint's life.

    - **stage**: ``waits`` for somebody else who deploys or deletes the same; ``endpoint``, ``deployment`` and
      ``traffic`` are begun; ``ready``; ``replaced``: the deployment ``name`` of the same run is deleted, since another
      one took its place; ``idle``: the deployment ``name`` has no traffic, was not made by this run and goes on costing
      money; ``rollback`` and ``delete`` are begun; ``deleted`` when it is gone; ``stays`` where the end of a block does
      not delete it.
    """

    stage: Stage
    name: str


OnEvent = Callable[[DeploymentEvent], None]


def provisioning_state(resource: Any) -> str:
    """Return a resource's provisioning state in lower case; deployments hold it as an enumeration."""
    return text(resource.provisioning_state or "", "provisioning_state").lower()


def settled(clients: Clients, get: Callable[[], Any], place: str) -> Any:
    """Return a resource once no operation is under way on it, or None if there is none.

    An earlier process may have been killed while Azure went on creating. Raises `phift.errors.WaitTimeout` after an
    hour.
    """
    end = time.monotonic() + _LONGEST_OPERATION
    while True:
        try:
            with azure_errors(place):
                found = get()
        except NotFound:
            return None
        if provisioning_state(found) not in _UNDER_WAY:
            return found
        if time.monotonic() > end:
            what = f"An operation on it has been under way for an hour ({provisioning_state(found)})."
            raise WaitTimeout(what, where=place, fix="look at it in the studio, and run again")
        time.sleep(clients.poll_seconds)


def changed(
    clients: Clients,
    make: Callable[[], Any],
    get: Callable[[], Any],
    place: str,
    right: Callable[[Any], bool] = lambda _found: True,
) -> Any:
    """Make or change something; where the answer was lost, wait for what is there and return it, else None.

    azure-core sends a PUT again whose answer was lost, and the service refuses to change what it is making. A refusal
    because another change is under way passes, so it is tried again.

    - **right**: whether what is there is what was to be; if it is not, the error stands.
    """
    for tries_left in reversed(range(_MOST_TRIES)):
        try:
            with azure_errors(place):
                make()
        except (Conflict, ServiceUnreachable) as error:
            found = settled(clients, get, place)
            if found is not None and right(found):
                return found
            if not (tries_left and _busy(error)):
                raise
            time.sleep(clients.poll_seconds)
        else:
            return None
    return None


def _busy(error: PhiftError) -> bool:
    return isinstance(error, Conflict) and bool(_BUSY.search(error.what))


def for_certain(work: Callable[[], None], name: str) -> None:
    """Do what deletes an endpoint; a first interruption begins it again and then passes, a second one ends it.

    The notes of what passes then say that the endpoint is still up.
    """
    try:
        work()
    except (KeyboardInterrupt, SystemExit) as interruption:
        try:
            work()
        except PhiftError as error:
            interruption.add_note(error.what)
        except (KeyboardInterrupt, SystemExit):
            interruption.add_note(f"{still_up(name)} Delete it: phift cleanup {name}")
        raise


def delete_endpoint(clients: Clients, name: str, emit: OnEvent) -> None:
    """Delete an endpoint with its deployments and look that it is gone; one that is not there is no error.

    Raises what the service said, with the news that the endpoint is still up and costs money.
    """
    emit(DeploymentEvent("delete", name))
    place = f"endpoint {name}"
    endpoints = quiet(clients.workspace.online_endpoints)
    try:
        delete(clients, lambda: endpoints.begin_delete(name), lambda: endpoints.get(name), place)
    except PhiftError as error:
        error.what = f"{still_up(name)} Its deletion failed: {error.what}"
        error.fix = f"{f'{error.fix}; then ' if error.fix else ''}delete it: phift cleanup {name}, or in the studio"
        raise
    if settled(clients, lambda: endpoints.get(name), place) is not None:
        what = f"{still_up(name)} The service says that it deleted it, and it is still there."
        raise Conflict(what, where=place, fix=f"delete it: phift cleanup {name}, or in the studio")
    emit(DeploymentEvent("deleted", name))


def delete(clients: Clients, begin: Callable[[], Any], get: Callable[[], Any], place: str) -> None:
    """Delete an endpoint or a deployment; one that is not there, or that somebody else deletes first, is no error.

    A refusal because another change is under way passes, so it is tried again.
    """
    for tries_left in reversed(range(_MOST_TRIES)):
        try:
            with azure_errors(place):
                outcome(begin(), place)
        except NotFound:
            return
        except PhiftError as error:
            if tries_left and _busy(error):
                settled(clients, get, place)
                time.sleep(clients.poll_seconds)
                continue
            if _is_gone(clients, get, place):  # the answer was lost
                return
            raise
        return


def _is_gone(clients: Clients, get: Callable[[], Any], place: str) -> bool:
    try:
        return settled(clients, get, place) is None
    except PhiftError as error:
        logger.info("Whether %s is gone cannot be seen: %s", place, error.what)
        return False


def still_up(name: str) -> str:
    """Return what is to be said of an endpoint that is not known to be deleted."""
    return f"The endpoint {name} is still up and costs money."
