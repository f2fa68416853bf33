"""Endpoints that nobody needs any more, found and deleted: the ones that have expired, or are older than a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from phift.azure.answers import texts
from phift.azure.clients import Clients
from phift.azure.connect import clients_of, connect
from phift.config.deployment import read_lasting
from phift.errors import ConfigError, NotFound, PhiftError, forgetting_locals, in_a_line, visible
from phift.jobs.job import JOB_TAG, FineTuneJob
from phift.serving import resource
from phift.serving.cleanup import created_of
from phift.serving.lifetime import expiry
from phift.serving.listing import Endpoints, EndpointSummary, endpoints, requests_of
from phift.serving.resource import CREATED, DeploymentEvent, OnEvent
from phift.serving.rollout_state import check_no_rollout
from phift.serving.sharing import deployments, jobs_of
from phift.serving.uses import EndpointUse, is_used, kept_since

if TYPE_CHECKING:
    from phift.azure.connect import AnyClients

_LIVE = timedelta(hours=1)
_Traces = AbstractSet[tuple[str, object]] | None


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What `prune_endpoints` did.

    - **chosen**: what was to be deleted.
    - **deleted**: names of those that are gone.
    - **spared**: what stays although it has expired or is old, by name, with the reason.
    - **failed**: what could not be deleted, by name, with what the service said and what it goes on costing.
    """

    chosen: Endpoints
    deleted: tuple[str, ...] = ()
    spared: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        more = {"deleted": list(self.deleted), "spared": dict(self.spared), "failed": dict(self.failed)}
        return {"chosen": [each.to_dict() for each in self.chosen], **more}

    def __str__(self) -> str:
        lines = [f"deleted endpoint {name}" for name in self.deleted]
        lines += [f"stays: endpoint {name} {why}" for name, why in self.spared.items()]
        lines += [f"could not be deleted: {what}" for what in self.failed.values()]
        nothing = "Nothing was deleted." if self.chosen else "There is no endpoint to delete."
        return "\n".join(in_a_line(line) for line in lines) or nothing


@forgetting_locals()
def prune_endpoints(
    workspace: AnyClients | None = None,
    names: Collection[str] = (),
    *,
    older_than: timedelta | str | None = None,
    expired: bool = False,
    dry_run: bool = False,
    confirm: Callable[[Pruned], bool] = lambda _found: True,
    prices: Mapping[str, float] = MappingProxyType({}),
    on_event: OnEvent | None = None,
) -> Pruned:
    """Delete endpoints that have expired, or are older than a time; one that cannot be deleted stops no other.

        phift.prune_endpoints("local", older_than="8h")

    What phift did not make is not touched. Nor is, unless it is named, what somebody uses in a block, just deploys or
    rolls out, what was asked in the last hour, of what that cannot be found out, and what is parked and so costs
    nothing.

    - **workspace**: as in a configuration; or clients; left out, it comes from the environment or ``config.json``.
    - **names**: only these; without another condition whatever their age.
    - **older_than**: ``8h``, ``3d`` or a time; an endpoint of an older phift that does not say how old it is, is not.
    - **expired**: beside them, what has expired; without any other condition that is what is meant.
    - **dry_run**: choose, and delete nothing.
    - **confirm**: is asked before anything is deleted, with what was chosen.

    Raises `phift.errors.NotFound` where there is no endpoint of a name that phift made. What could not be deleted is
    in the result; Ctrl-C finishes the endpoint under way, and its notes name those that are left.
    """
    age = _age(older_than)
    clients, emit = connect() if workspace is None else clients_of(workspace), resource.telling(on_event)
    found = endpoints(clients, prices=prices)
    _check_names(names, found)
    expired = expired or not (names or age)

    def is_meant(row: EndpointSummary) -> bool:
        if names and row.name not in names:
            return False
        is_old = age is not None and row.age is not None and row.age >= age
        return is_old or (expired and row.has_expired) or not (age or expired)

    spared: dict[str, str] = {}
    for row in filter(is_meant, found):
        if row.name not in names and (why := _why_not(clients, row)):
            spared[row.name] = why
    chosen = replace(found, endpoints=tuple(row for row in filter(is_meant, found) if row.name not in spared))
    done = Pruned(chosen=chosen, spared=spared)
    if dry_run or not chosen:
        return done
    traces = {row.name: _traces(clients, row) for row in chosen}
    return _delete_all(clients, done, names, traces, emit) if confirm(done) else done


def _age(older_than: timedelta | str | None) -> timedelta | None:
    if not isinstance(older_than, str):
        return older_than
    try:
        return read_lasting(older_than)
    except ValueError as error:
        raise ConfigError(f"{older_than} is no time.", where="older_than", fix=str(error)) from None


def _check_names(names: Collection[str], found: Endpoints) -> None:
    if missing := sorted(set(names) - {row.name for row in found}):
        what = f"phift has made no endpoint {', '.join(missing)}."
        there = ", ".join(row.name for row in found) or "none"
        where = f"workspace {found.workspace}"
        raise NotFound(what, where=where, fix=f"check the names; endpoints that phift made here: {there}")


def _why_not(clients: Clients, row: EndpointSummary) -> str:
    """Return why an endpoint is not deleted unless somebody names it; else an empty text."""
    if row.is_parked and not row.machines:
        return "is parked, and costs nothing"
    try:
        check_no_rollout(texts(resource.endpoint(clients, row.name).get().tags, "endpoint.tags"), row.name)
        if _is_used(clients, row.name, {row.job, *jobs_of(clients, row.name)}):
            return "is used in a block, or being deployed"
    except PhiftError as error:
        return f"may be in use: {error.what} Name it to delete it"
    requests = requests_of(clients, row.name, _LIVE) if row.machines else 0
    if requests is None:
        return "may be in use: its requests cannot be read; name it to delete it"
    return f"was asked {requests:,} times in the last hour; name it to delete it" if requests else ""


def _is_used(clients: Clients, name: str, jobs: set[str]) -> bool:
    return any(is_used(FineTuneJob(job, clients), name) for job in jobs if job)


def _traces(clients: Clients, row: EndpointSummary) -> _Traces:
    """Return what every deploying adds to: when the deployments were made, and who keeps them up since when.

    None where that cannot be read.
    """
    with suppress(PhiftError):
        tagged = {str(each.name): texts(each.tags, "deployment.tags") for each in deployments(clients, row.name)}
        jobs = {row.job, *(tags.get(JOB_TAG, "") for tags in tagged.values())} - {""}
        kept: dict[str, float] = {}
        for job in jobs:
            with suppress(NotFound):
                kept |= kept_since(FineTuneJob(job, clients), row.name)
        return {(name, tags.get(CREATED)) for name, tags in tagged.items()} | kept.items()
    return None


def _delete_all(
    clients: Clients, done: Pruned, names: Collection[str], traces: Mapping[str, _Traces], emit: OnEvent
) -> Pruned:
    deleted: list[str] = []
    spared, failed = dict(done.spared), dict[str, str]()
    gone: set[str] = set()

    def noting(event: DeploymentEvent) -> None:
        if event.stage == "deleted":
            gone.add(event.name)
        emit(event)

    for number, row in enumerate(done.chosen, start=1):
        try:
            if why := _delete(clients, row, traces[row.name], noting, named=row.name in names):
                spared[row.name] = why
            else:
                deleted.append(row.name)
        except PhiftError as error:
            # A refused deletion says itself what is still up, and what it costs.
            what = error.what if row.name in error.what else f"{_still_there(row)}: {error.what}"
            failed[row.name] = visible(f"{what} {error.fix or ''}".strip())
        except (KeyboardInterrupt, SystemExit) as interruption:
            is_told = row.name in gone or hasattr(interruption, "__notes__")  # a deletion that began says what is left
            untouched = done.chosen.endpoints[number if is_told else number - 1 :]
            for left in (*failed.values(), *map(_still_there, untouched)):
                interruption.add_note(in_a_line(left))
            raise
    return replace(done, deleted=tuple(deleted), spared=spared, failed=failed)


def _still_there(row: EndpointSummary) -> str:
    cost = "costs money" if row.price_per_day is None else f"costs money: {row.price_per_day:,.2f} USD a day"
    return f"{resource.still_up(row.name, cost)} Delete it: phift cleanup {row.name}"


def _delete(clients: Clients, row: EndpointSummary, before: _Traces, emit: OnEvent, *, named: bool) -> str:
    """Delete an endpoint, unless somebody has begun to use it since it was chosen; return the reason then."""
    job = FineTuneJob(row.job, clients) if row.job else None
    use = EndpointUse.begin(clients, job, row.name, emit)
    gone = False
    try:
        existing = resource.endpoint(clients, row.name).settled()
        if existing is None:
            emit(DeploymentEvent("deleted", row.name))
            gone = True
            return ""
        tags = texts(existing.tags, "endpoint.tags")
        now = _traces(clients, row)
        is_new = before is not None and now is not None and not now <= before
        if is_new or (created_of(tags), expiry(tags)) != (row.created, row.expires):
            return "was deployed again meanwhile"
        if not named and (why := _why_not_now(clients, use, row, tags)):
            return why
        resource.for_certain(lambda: resource.delete_endpoint(clients, row.name, emit), row.name)
        gone = True
        return ""
    finally:
        use.end(deleted=gone)


def _why_not_now(clients: Clients, use: EndpointUse, row: EndpointSummary, tags: Mapping[str, str]) -> str:
    try:
        check_no_rollout(tags, row.name)
        others = jobs_of(clients, row.name) - {row.job}
        return "is used in a block by now" if use.others_in_block() or _is_used(clients, row.name, others) else ""
    except PhiftError as error:
        return f"may be in use: {error.what} Name it to delete it"
