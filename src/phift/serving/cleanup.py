"""What phift has deployed in a workspace, by the tags of its endpoints: listed, and deleted by name or by its job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from phift.azure.answers import listed, text, texts
from phift.azure.clients import Clients
from phift.errors import Conflict, NotFound, PhiftError, azure_errors, forgetting_locals, in_a_line
from phift.jobs.job import JOB_TAG, FineTuneJob
from phift.jobs.record import CONFIGURATION, SERIES, RunRecord
from phift.serving import resource
from phift.serving.resource import CREATED, MODEL, OnEvent
from phift.serving.uses import forget_uses


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

    @property
    def age(self) -> timedelta | None:
        """How long it has been there."""
        return datetime.now(UTC) - self.created if self.created else None

    def __str__(self) -> str:
        of = f"of job {self.job}" if self.job else f"of model {self.model}"
        return in_a_line(f"{self.name} ({of})")


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
        created = None
        with suppress(ValueError):
            created = datetime.fromisoformat(tags.get(CREATED, ""))
        deployed = DeployedEndpoint(
            name=text(endpoint.name, "endpoint.name"),
            job=tags.get(JOB_TAG, ""),
            model=tags.get(MODEL, ""),
            series=tags.get(SERIES, ""),
            configuration=tags.get(CONFIGURATION, ""),
            created=created,
            traffic={str(name): share for name, share in dict(endpoint.traffic or {}).items()},
            tags=tags,
        )
        made.append(deployed)
    return sorted(made, key=lambda each: each.created or datetime.min.replace(tzinfo=UTC), reverse=True)


@dataclass(frozen=True, kw_only=True)
class Cleanup:
    """What `FineTuneRun.cleanup` did.

    - **deleted**: names of endpoints that are gone.
    - **left**: endpoints of earlier runs of this configuration, which are still up and cost money.
    - **others**: where this configuration was never submitted, nor an earlier one of it, all that phift has deployed in
      the workspace: an edited experiment, model or name of the data makes another series, and so any may be meant.
    """

    deleted: tuple[str, ...] = ()
    left: tuple[DeployedEndpoint, ...] = ()
    others: tuple[DeployedEndpoint, ...] = ()

    def __str__(self) -> str:
        deleted = map(in_a_line, self.deleted)
        lines = [f"deleted endpoint {name}" for name in deleted] or ["There was no endpoint to delete."]
        up = [f"endpoint {each}; delete it: phift cleanup {each.name}" for each in (*self.left, *self.others)]
        up = [in_a_line(each) for each in up]
        return "\n".join([*lines, *(f"still up and costs money: {each}" for each in up)])


@forgetting_locals()
def remove_endpoints_of(clients: Clients, name: str, *, on_event: OnEvent | None = None) -> Cleanup:
    """Delete an endpoint that phift made, or those of a job, by name; a job's earlier runs are looked at too.

    Raises `phift.errors.NotFound` where phift has neither deployed an endpoint of this name nor submitted such a job,
    and what the service said, with the news that the endpoint is still up, where one cannot be deleted.
    """
    there = deployed_endpoints(clients)
    named = [each for each in there if each.name == name]
    found = named or [each for each in there if each.job == name]
    try:
        of = found[0].series if found else RunRecord.read(FineTuneJob(name, clients).entity()).series
    except NotFound:
        deployed = ", ".join(each.name for each in there) or "none"
        what = f"There is neither an endpoint {name} that phift made nor a job {name} that it submitted."
        fix = f"check the name and the workspace; endpoints that phift made here: {deployed}"
        raise NotFound(what, where=f"workspace {clients.workspace.workspace_name}", fix=fix) from None
    left = [each for each in there if of and each.series == of and each.job != name]
    return remove_all(clients, found, () if named else tuple(left), resource.telling(on_event))


def remove_all(
    clients: Clients, endpoints: Sequence[DeployedEndpoint], left: tuple[DeployedEndpoint, ...], emit: OnEvent
) -> Cleanup:
    """Delete all of them that can be deleted; raises the first refusal, which the others' notes follow."""
    errors: list[PhiftError] = []
    for number, each in enumerate(endpoints, start=1):
        try:
            remove_endpoint(clients, each.name, {JOB_TAG: each.job} if each.job else None, emit)
        except PhiftError as error:
            errors.append(error)
        except (KeyboardInterrupt, SystemExit) as interruption:
            for refusal in errors:
                interruption.add_note(str(refusal))
            for untouched in endpoints[number:]:
                up = f"{resource.still_up(untouched.name)} Delete it: phift cleanup {untouched.name}"
                interruption.add_note(in_a_line(up))
            raise
    for other in errors[1:]:
        errors[0].add_note(str(other))
    if errors:
        raise errors[0]
    return Cleanup(deleted=tuple(each.name for each in endpoints), left=left)


@forgetting_locals()
def remove_endpoint(
    clients: Clients, name: str, tags: Mapping[str, str] | None = None, on_event: OnEvent | None = None
) -> bool:
    """Delete an endpoint that phift made; returns whether there was one.

    Raises `phift.errors.Conflict` where somebody else made it or it has not these **tags** too, and what the service
    said, with the news that the endpoint is still up, where it cannot be deleted.
    """
    existing = resource.endpoint(clients, name).settled()
    if existing is None:
        return False
    found = texts(existing.tags, "endpoint.tags")
    maker = resource.purpose(found)
    if not maker or any(found.get(key) != value for key, value in (tags or {}).items()):
        what = f"The endpoint {name} is not deleted: {f'it is {maker}' if maker else 'phift did not make it'}."
        raise Conflict(what, where=f"endpoint {name}", fix="delete it in the studio if nobody needs it")
    emit = resource.telling(on_event)
    resource.for_certain(lambda: resource.delete_endpoint(clients, name, emit), name)
    if JOB_TAG in found:
        forget_uses(FineTuneJob(found[JOB_TAG], clients), name)
    return True
