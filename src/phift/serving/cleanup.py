"""What phift has deployed in a workspace, by the tags of its endpoints: listed, and deleted by name or by its job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from phift.azure.answers import listed, text, texts
from phift.azure.clients import Clients
from phift.errors import Conflict, NotFound, PhiftError, azure_errors, forgetting_locals, in_a_line
from phift.jobs.job import JOB_TAG, FineTuneJob
from phift.jobs.record import CONFIGURATION, SERIES, RunRecord
from phift.serving import resource
from phift.serving.price import Prices, machines_of
from phift.serving.resource import CREATED, MODEL, OnEvent
from phift.serving.sharing import deployments, withdraw
from phift.serving.uses import forget_uses

# What is to go, as ``endpoint`` or ``endpoint/deployment``, none where it is but a tag; and what removes it.
_Removal = tuple[tuple[str, ...], Callable[[], object]]


@dataclass(frozen=True, kw_only=True)
class DeployedEndpoint:
    """An endpoint that phift made, and that costs money until it is deleted; see `phift.jobs.record`."""

    name: str
    job: str  # whose model it serves; empty for a registry's model
    model: str  # ``name:version``
    series: str
    configuration: str
    created: datetime | None  # None for one that an older phift made
    traffic: Mapping[str, int]  # percent by deployment
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)
    price_per_day: float | None = None  # in USD, of its machines; None where it is not known or was not asked for

    @property
    def age(self) -> timedelta | None:
        """How long it has been there."""
        return datetime.now(UTC) - self.created if self.created else None

    def __str__(self) -> str:
        of = f"of job {self.job}" if self.job else f"of model {self.model}"
        cost = f"; {self.price_per_day:,.2f} USD a day" if self.price_per_day is not None else ""
        return in_a_line(f"{self.name} ({of}{cost})")


def created_of(tags: Mapping[str, str]) -> datetime | None:
    """Return when an endpoint was made, by its tags; an older phift's do not say."""
    with suppress(ValueError):
        return datetime.fromisoformat(tags.get(CREATED, ""))
    return None


@forgetting_locals()
def deployed_endpoints(clients: Clients) -> list[DeployedEndpoint]:
    """Return the endpoints in the workspace that phift made, the newest first."""
    with azure_errors("endpoints"):
        found = listed(clients.workspace.online_endpoints.list(), "endpoints")
    made = []
    for endpoint in found:
        tags = texts(endpoint.tags, "endpoint.tags")
        if not resource.purpose(tags):
            continue
        deployed = DeployedEndpoint(
            name=text(endpoint.name, "endpoint.name"),
            job=tags.get(JOB_TAG, ""),
            model=tags.get(MODEL, ""),
            series=tags.get(SERIES, ""),
            configuration=tags.get(CONFIGURATION, ""),
            created=created_of(tags),
            traffic={str(name): share for name, share in dict(endpoint.traffic or {}).items()},
            tags=tags,
        )
        made.append(deployed)
    return sorted(made, key=lambda each: each.created or datetime.min.replace(tzinfo=UTC), reverse=True)


def priced(clients: Clients, endpoints: Iterable[DeployedEndpoint]) -> tuple[DeployedEndpoint, ...]:
    """Return endpoints that are left up, with what they cost a day as far as the service says."""
    found = []
    for each in endpoints:
        with suppress(PhiftError):  # that it is up is the news
            price = Prices.of(clients).per_day(machines_of(clients, each.name))
            each = replace(each, price_per_day=price)
        found.append(each)
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Cleanup:
    """What `FineTuneRun.cleanup` did.

    - **deleted**: names of endpoints that are gone.
    - **removed**: ``endpoint/deployment`` of deployments that are gone from endpoints that other runs serve from.
    - **left**: endpoints of earlier runs of this configuration, which are still up and cost money.
    - **others**: where this configuration was never submitted, nor an earlier one of it, all that phift has deployed in
      the workspace: an edited experiment, model or name of the data makes another series, and so any may be meant.
    """

    deleted: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    left: tuple[DeployedEndpoint, ...] = ()
    others: tuple[DeployedEndpoint, ...] = ()

    def __str__(self) -> str:
        gone = [f"endpoint {name}" for name in self.deleted]
        gone += [f"deployment {name}, whose endpoint others serve from" for name in self.removed]
        lines = [f"deleted {in_a_line(each)}" for each in gone] or ["There was no endpoint to delete."]
        up = [f"endpoint {each}; delete it: phift cleanup {each.name}" for each in (*self.left, *self.others)]
        up = [in_a_line(each) for each in up]
        return "\n".join([*lines, *(f"still up and costs money: {each}" for each in up)])


@forgetting_locals()
def remove_endpoints_of(clients: Clients, name: str, *, on_event: OnEvent | None = None) -> Cleanup:
    """Delete an endpoint that phift made, a deployment of one, or what a job has deployed.

    - **name**: of the endpoint, ``endpoint/deployment``, or of the job, whose earlier runs are looked at too.

    Raises `phift.errors.NotFound` where phift has neither deployed an endpoint of this name nor submitted such a job,
    and what the service said, with the news that the endpoint is still up, where one cannot be deleted.
    """
    emit = resource.telling(on_event)
    there = deployed_endpoints(clients)
    endpoint, _, deployment = name.partition("/")
    named = [each for each in there if each.name == endpoint]
    if deployment and named:
        return _remove_deployment(clients, endpoint, deployment, emit)
    if named:
        return remove_all(clients, named, emit)
    missing: NotFound | None = None
    try:
        of = next((each.series for each in there if each.job == name), None)
        of = RunRecord.read(FineTuneJob(name, clients).entity()).series if of is None else of
    except NotFound as error:  # its deployments say whose they are, though the job be deleted
        of, missing = "", error
    done = remove_of_jobs(clients, there, {name}, emit, series=of)
    if missing and not (done.deleted or done.removed):
        deployed = ", ".join(each.name for each in there) or "none"
        what = f"There is neither an endpoint {name} that phift made nor a job {name} that it submitted."
        fix = f"check the name and the workspace; endpoints that phift made here: {deployed}"
        raise NotFound(what, where=f"workspace {clients.workspace.workspace_name}", fix=fix)
    return done


def _remove_deployment(clients: Clients, endpoint: str, deployment: str, emit: OnEvent) -> Cleanup:
    found = {text(each.name, "deployment.name"): each for each in deployments(clients, endpoint)}
    if deployment not in found:
        what = f"The endpoint {endpoint} has no deployment {deployment}."
        raise NotFound(what, where=f"endpoint {endpoint}", fix=f"it has: {', '.join(sorted(found)) or 'none'}")
    if not resource.purpose(texts(found[deployment].tags, "deployment.tags")):
        what = f"The deployment {deployment} of endpoint {endpoint} is not deleted: phift did not make it."
        raise Conflict(what, where=f"endpoint {endpoint}", fix="delete it in the studio if nobody needs it")

    def remove() -> tuple[str, ...] | None:
        return withdraw(clients, endpoint, lambda tags: bool(resource.purpose(tags)), emit, named=deployment)

    removed = resource.for_certain(remove, f"{endpoint}/{deployment}")
    if removed is None:
        return Cleanup(deleted=(endpoint,))
    return Cleanup(removed=tuple(f"{endpoint}/{each}" for each in removed))


def remove_of_jobs(
    clients: Clients, there: Sequence[DeployedEndpoint], jobs: AbstractSet[str], emit: OnEvent, *, series: str
) -> Cleanup:
    """Delete what jobs have deployed: their endpoints, and their deployments to endpoints that others serve from.

    - **there**: all that phift made.
    - **series**: whose other endpoints are left, and named.
    """
    left = list[DeployedEndpoint]()
    removals, removed, gone = list[_Removal](), list[str](), list[str]()

    def remove_from(name: str) -> None:
        names = withdraw(clients, name, lambda tags: tags.get(JOB_TAG, "") in jobs, emit)
        if names is None:
            gone.append(name)
        removed.extend(f"{name}/{each}" for each in names or ())
        for job in sorted(jobs):
            forget_uses(FineTuneJob(job, clients), name)

    for each in there:
        found = [
            (text(of.name, "deployment.name"), texts(of.tags, "deployment.tags"))
            for of in deployments(clients, each.name)
        ]
        others = [tags for _, tags in found if resource.purpose(tags) and tags.get(JOB_TAG, "") not in jobs]
        mine = tuple(f"{each.name}/{name}" for name, tags in found if tags.get(JOB_TAG, "") in jobs)
        if each.job in jobs or mine:
            places = mine if others or each.job not in jobs else (each.name,)
            removals.append((places, partial(remove_from, each.name)))
            own = others[0] if others else each.tags
            each = replace(each, job=own.get(JOB_TAG, ""), series=own.get(SERIES, ""))
        left.append(each)
    _remove_in_turn(removals)
    known = [each for each in left if series and each.series == series and each.name not in gone]
    return Cleanup(deleted=tuple(gone), removed=tuple(removed), left=priced(clients, known))


def remove_all(clients: Clients, endpoints: Sequence[DeployedEndpoint], emit: OnEvent) -> Cleanup:
    """Delete all of them that can be deleted; raises the first refusal, which the others' notes follow."""

    def removal(endpoint: DeployedEndpoint) -> _Removal:
        tags = {JOB_TAG: endpoint.job} if endpoint.job else {}
        return (endpoint.name,), partial(_remove_endpoint, clients, endpoint.name, tags, emit)

    _remove_in_turn([removal(each) for each in endpoints])
    return Cleanup(deleted=tuple(each.name for each in endpoints))


def _remove_in_turn(removals: Sequence[_Removal]) -> None:
    """Remove all that can be; raises the first refusal, which the others' notes follow.

    An interruption finishes what is under way, and its notes name what is left.
    """
    errors: list[PhiftError] = []
    for number, (places, remove) in enumerate(removals, start=1):
        try:
            resource.for_certain(remove, places[0]) if places else remove()
        except PhiftError as error:
            errors.append(error)
            if "still up" not in error.what:  # a refused deletion says so itself; a refusal on the way to it does not
                for place in (each for each in places if "/" in each):
                    error.add_note(_left(place))
        except (KeyboardInterrupt, SystemExit) as interruption:
            told = "\n".join(getattr(interruption, "__notes__", ()))  # of what is under way, where it is not done
            for refusal in errors:
                interruption.add_note(_with_notes(refusal))
            left = [place for place in places if told and place not in told]
            for place in (*left, *(place for untouched, _ in removals[number:] for place in untouched)):
                interruption.add_note(_left(place))
            raise
    for other in errors[1:]:
        errors[0].add_note(_with_notes(other))
    if errors:
        raise errors[0]


def _with_notes(error: PhiftError) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def _left(place: str) -> str:
    return in_a_line(f"{resource.still_up(place)} Delete it: phift cleanup {place}")


@forgetting_locals()
def remove_endpoint(
    clients: Clients, name: str, tags: Mapping[str, str] | None = None, on_event: OnEvent | None = None
) -> bool:
    """Delete an endpoint that phift made; returns whether there was one.

    Raises `phift.errors.Conflict` where somebody else made it or it has not these **tags** too, and what the service
    said, with the news that the endpoint is still up, where it cannot be deleted.
    """
    emit = resource.telling(on_event)
    return resource.for_certain(lambda: _remove_endpoint(clients, name, tags or {}, emit), name)


def _remove_endpoint(clients: Clients, name: str, tags: Mapping[str, str], emit: OnEvent) -> bool:
    existing = resource.endpoint(clients, name).settled()
    if existing is None:
        return False
    found = texts(existing.tags, "endpoint.tags")
    maker = resource.purpose(found)
    if not maker or any(found.get(key) != value for key, value in tags.items()):
        what = f"The endpoint {name} is not deleted: {f'it is {maker}' if maker else 'phift did not make it'}."
        raise Conflict(what, where=f"endpoint {name}", fix="delete it in the studio if nobody needs it")
    resource.delete_endpoint(clients, name, emit)
    if JOB_TAG in found:
        forget_uses(FineTuneJob(found[JOB_TAG], clients), name)
    return True
