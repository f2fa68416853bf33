"""Endpoints and deployments as things that Azure makes, changes and deletes in minutes: done once, and for certain."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from phift.azure.answers import text
from phift.azure.clients import Clients
from phift.azure.quiet import quiet
from phift.errors import (
    AuthenticationError,
    Conflict,
    NotFound,
    PhiftError,
    ServiceUnreachable,
    WaitTimeout,
    azure_errors,
    in_a_line,
    isolated,
    redact,
    visible,
)
from phift.jobs.job import JOB_TAG
from phift.serving.price import cost_of
from phift.serving.waiting import Waiting

if TYPE_CHECKING:
    from azure.ai.ml.entities import OnlineDeployment, OnlineEndpoint

logger = logging.getLogger(__name__)

# The tags that say which model an endpoint was made for, in digits and in words (``name:version``), and when it was
# made: ISO 8601, UTC, to the microsecond, so that no two calls share it.
SERVES, MODEL, CREATED = "phift.serves", "phift.model", "phift.created"
_COSTS = "costs money"
_LONGEST_OPERATION = 3600.0  # seconds; the service gives an endpoint's operations 30 minutes
_MOST_TRIES = 40  # at a change that is refused because another one is under way; with 15 s between them, ten minutes
# States in which a create or an update is still under way, as both kinds of resource name them.
_UNDER_WAY = frozenset({"creating", "updating", "provisioning", "scaling", "deleting"})
# "Cannot create a deployment in endpoint x because it is in Updating provisioning state", told of an endpoint that had
# succeeded (azure-sdk-for-net issue 36961, 2023-06).
_BUSY = re.compile(
    r"\bprovisioning state|is (creating|updating|deleting)|in progress|concurrent|already running", re.IGNORECASE
)

_STEP = re.compile(r"^(\w{1,60}): (\w{1,30})$", re.MULTILINE)

Stage = Literal[
    "waits",
    "exists",
    "endpoint",
    "deployment",
    "provisioning",
    "traffic",
    "ready",
    "replaced",
    "removed",
    "idle",
    "rollback",
    "delete",
    "deleted",
    "stays",
    "park",
    "parked",
    "unpark",
]


@dataclass(frozen=True)
class DeploymentEvent:
    """A stage of an endpoint's life.

    - **stage**: ``waits`` for somebody else who deploys or deletes the same; ``exists`` where the endpoint is there
      already; ``endpoint``, ``deployment`` and ``traffic`` are begun; ``provisioning``: the deployment is still being
      made, told every half minute; ``ready``; ``replaced``: the deployment ``name`` of the same run is deleted, since
      another one took its place; ``removed``: it is deleted, and the endpoint goes on with others'; ``idle``: the
      deployment ``name`` has no traffic, was not made by this run and goes on costing money; ``rollback`` and
      ``delete`` are begun; ``deleted`` when it is gone; ``stays`` where the end of a block does not delete it; ``park``
      and ``unpark`` are begun; ``parked``.
    - **detail**: more of it in words: of one that is ``idle``, what it costs and how to delete it; of one that is
      ``provisioning``, for how long it has been and what its container does.
    - **time**: when that was, in UTC.
    """

    stage: Stage
    name: str
    detail: str = ""
    time: datetime = field(default_factory=partial(datetime.now, UTC), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return {"event": "deployment", **asdict(self), "time": self.time.isoformat()}


OnEvent = Callable[[DeploymentEvent], None]


class _Telling:
    """A handler of the stages that logs each, too, and whose errors change nothing."""

    def __init__(self, on_event: OnEvent | None) -> None:
        self._tell = isolated(on_event)

    def __call__(self, event: DeploymentEvent) -> None:
        extra = {"phift_event": "deployment", "phift_stage": event.stage, "phift_name": event.name}
        logger.info("Endpoint or deployment %s: %s", in_a_line(event.name), event.stage, extra=extra)
        self._tell(event)


def telling(on_event: OnEvent | None) -> OnEvent:
    """Return what tells a handler, if there is one, of a stage, and logs it: once, however often it is handed on."""
    return on_event if isinstance(on_event, _Telling) else _Telling(on_event)


Entity = TypeVar("Entity")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Resource(Generic[Entity]):
    """An endpoint or a deployment, there or not: `endpoint`, `deployment`."""

    place: str  # what errors call it
    poll_seconds: float
    operations: Any  # the SDK's, of its kind
    key: tuple[str, ...]  # what they know it by: its name, and a deployment's endpoint
    waiting: Waiting = field(default_factory=Waiting)

    def get(self) -> Entity:
        """Return it as it is now; raises `phift.errors.NotFound`."""
        with azure_errors(self.place):
            found: Entity = self.operations.get(*self.key)
        return found

    def settled(self) -> Entity | None:
        """Return it once no operation is under way on it, or None if there is none.

        An earlier process may have been killed while Azure went on creating. Raises `phift.errors.WaitTimeout` after
        an hour.
        """
        end = time.monotonic() + _LONGEST_OPERATION
        while True:
            try:
                found = self.get()
            except NotFound:
                return None
            state = provisioning_state(found)
            if state not in _UNDER_WAY:
                return found
            if time.monotonic() > end:
                what = f"An operation on it has been under way for an hour ({state})."
                raise WaitTimeout(what, where=self.place, fix="look at it in the studio, and run again")
            self.waiting.sleep(self.poll_seconds, self.place)

    def put(
        self,
        wanted: Entity,
        *,
        is_right: Callable[[Entity], bool] = lambda _found: True,
        renew: Callable[[Entity], Entity] | None = None,
    ) -> tuple[Entity, bool]:
        """Make or change it; return what came of it, and whether the service said so.

        Where the answer was lost, what is there is waited for and returned: azure-core sends a PUT again whose answer
        was lost, and the service refuses to change what it is making. A refusal because another change is under way
        passes, so it is tried again.

        - **is_right**: whether what is there is what was to be; if it is not, the error stands.
        - **renew**: makes of what is there by then what the next try sends, so that it undoes nobody's change.
        """
        tries = 0
        while True:
            tries += 1
            try:
                with azure_errors(self.place):
                    return self.waiting.outcome(self.operations.begin_create_or_update(wanted), self.place), True
            except (Conflict, ServiceUnreachable) as error:
                found = self.settled()
                if found is not None and is_right(found):
                    return found, False
                if tries == _MOST_TRIES or not _passes(error):
                    raise
                if found is not None and renew is not None:
                    wanted = renew(found)
            self.waiting.sleep(self.poll_seconds, self.place)

    def delete(self) -> None:
        """Delete it; one that is not there, or that somebody else deletes first, is no error.

        A refusal because another change is under way passes, so it is tried again.
        """
        end = time.monotonic() + _LONGEST_OPERATION
        for tries in range(1, _MOST_TRIES + 1):
            try:
                with suppress(NotFound), azure_errors(self.place):
                    self.waiting.outcome(self.operations.begin_delete(*self.key), self.place)
            except PhiftError as error:
                with suppress(PhiftError):  # the refusal is the news, not that its effect cannot be seen
                    if self.settled() is None:  # the answer was lost, or somebody else was faster
                        return
                if tries == _MOST_TRIES or not _passes(error) or time.monotonic() > end:
                    raise
            else:
                return
            self.waiting.sleep(self.poll_seconds, self.place)


def _passes(error: PhiftError) -> bool:
    """Whether a refusal is about another change that is under way."""
    busy = error.code == "AnotherOperationInProgress" or _BUSY.search(error.what)
    return isinstance(error, Conflict) and bool(busy)


def endpoint(clients: Clients, name: str, waiting: Waiting | None = None) -> Resource[OnlineEndpoint]:
    """Return an endpoint by its name, there or not."""
    operations = quiet(clients.workspace.online_endpoints, clients.find_workspace)
    return Resource(f"endpoint {name}", clients.poll_seconds, operations, (name,), waiting or Waiting())


def deployment(
    clients: Clients, endpoint: str, name: str, waiting: Waiting | None = None
) -> Resource[OnlineDeployment]:
    """Return a deployment by its endpoint's name and its own, there or not."""
    operations = quiet(clients.workspace.online_deployments, clients.find_workspace)
    place, key = f"deployment {name} of endpoint {endpoint}", (name, endpoint)
    return Resource(place, clients.poll_seconds, operations, key, waiting or Waiting())


def provisioning_state(resource: OnlineEndpoint | OnlineDeployment) -> str:
    """Return a resource's provisioning state in lower case; deployments hold it as an enumeration."""
    return text(resource.provisioning_state or "", "provisioning_state").lower()


def delete_endpoint(clients: Clients, name: str, emit: OnEvent) -> None:
    """Delete an endpoint with its deployments and look that it is gone; one that is not there is no error.

    Raises what the service said, with the news that the endpoint is still up and what it costs.
    """
    emit(DeploymentEvent("delete", name))
    there = endpoint(clients, name)
    with _saying_that_it_is_up(clients, name):
        there.delete()
    if there.settled() is not None:
        what = f"{still_up(name, cost_of(clients, name))} The service says that it deleted it, and it is still there."
        raise Conflict(what, where=there.place, fix=f"delete it: phift cleanup {name}, or in the studio")
    emit(DeploymentEvent("deleted", name))


def delete_deployment(clients: Clients, endpoint: str, name: str) -> None:
    """Delete a deployment that gets no traffic; raises what the service said, with the news that it is still up."""
    with _saying_that_it_is_up(clients, f"{endpoint}/{name}"):
        deployment(clients, endpoint, name).delete()


@contextmanager
def _saying_that_it_is_up(clients: Clients, name: str) -> Iterator[None]:
    try:
        yield
    except PhiftError as error:
        # A service that does not answer is not asked what it costs.
        silent = isinstance(error, ServiceUnreachable | AuthenticationError | WaitTimeout)
        cost = _COSTS if silent else cost_of(clients, name)
        error.what = f"{still_up(name, cost)} Its deletion failed: {error.what}"
        error.fix = f"{f'{error.fix}; then ' if error.fix else ''}delete it: phift cleanup {name}, or in the studio"
        raise


def for_certain(work: Callable[[], Result], name: str) -> Result:
    """Do what deletes an endpoint; a first interruption begins it again and then passes, a second one ends it.

    The notes of what passes then say that it is still up.

    - **name**: the endpoint's, or ``endpoint/deployment``.
    """
    try:
        return work()
    except (KeyboardInterrupt, SystemExit) as interruption:
        try:
            work()
        except PhiftError as error:
            interruption.add_note(visible(error.what))
        except (KeyboardInterrupt, SystemExit):
            interruption.add_note(visible(f"{still_up(name)} Delete it: phift cleanup {name}"))
        raise


def still_up(name: str, cost: str = _COSTS) -> str:
    """Return what is to be said of an endpoint, or an ``endpoint/deployment``, that is not known to be deleted.

    - **cost**: what `phift.serving.price.cost_of` says, where there is time to ask.
    """
    endpoint, _, deployment = name.partition("/")
    what = f"deployment {deployment} of endpoint {endpoint}" if deployment else f"endpoint {endpoint}"
    return f"The {what} is still up and {cost}."


def purpose(tags: Mapping[str, str]) -> str:
    """Return in words what phift made an endpoint for; an empty text where phift did not make it."""
    if model := tags.get(MODEL):
        return f"for {model}"
    return "" if tags.keys().isdisjoint({JOB_TAG, SERVES, MODEL}) else "of another run"


def log_tail(clients: Clients, endpoint: str, deployment: str) -> str:
    """Return the end of the logs of a deployment's containers, as far as the service has any."""
    tails = []
    for container in ("storage-initializer", "inference-server"):
        with suppress(PhiftError), azure_errors(f"logs of {endpoint}"):
            # The container that never started has no log; the failure itself is what gets reported.
            logs = clients.workspace.online_deployments.get_logs(
                deployment, endpoint, lines=50, container_type=container
            )
            tails.append(f"--- {container}\n{redact(str(logs))}")
    return "\n".join(tails)


def step_of(clients: Clients, endpoint: str, deployment: str) -> str:
    """Return how far a deployment is that is being made, as its log begins; an empty text where that is not known.

    The log begins with a line a step, ``ModelDownload: InProgress`` (azure-powershell 689c9cc2,
    Get-AzMLWorkspaceOnlineDeploymentLog, 2025-11-04); whether the service gives it so early is unverified on Azure.
    """
    with suppress(PhiftError), azure_errors(f"logs of {endpoint}"):
        log = str(clients.workspace.online_deployments.get_logs(deployment, endpoint, lines=1))
        steps = _STEP.findall(log.partition("Container events")[0])
        return next((in_a_line(f"{step}: {state}") for step, state in steps if state != "Succeeded"), "")
    return ""
