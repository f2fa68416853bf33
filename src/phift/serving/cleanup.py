"""Endpoints deleted by the job they are of, or by name, and a word on what stays up and costs money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from phift.azure.clients import Clients
from phift.errors import NotFound, PhiftError
from phift.events import isolated
from phift.jobs.job import JOB_TAG, FineTuneJob
from phift.jobs.record import RunRecord
from phift.serving.endpoint import remove_endpoint
from phift.serving.listing import DeployedEndpoint, deployed_endpoints
from phift.serving.resource import OnEvent, still_up


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
        lines = [f"deleted endpoint {name}" for name in self.deleted] or ["There was no endpoint to delete."]
        lines += [
            f"still up and costs money: endpoint {each}; delete it: phift cleanup {each.name}"
            for each in (*self.left, *self.others)
        ]
        return "\n".join(lines)


def remove_endpoints_of(clients: Clients, name: str, *, on_event: OnEvent | None = None) -> Cleanup:
    """Delete an endpoint that phift made, or those of a job, by name; a job's earlier runs are looked at too.

    Raises `phift.errors.NotFound` where phift has neither deployed an endpoint of this name nor submitted such a job,
    and what the service said, with the news that the endpoint is still up, where one cannot be deleted.
    """
    there = deployed_endpoints(clients)
    named = [each for each in there if each.name == name]
    if named:
        return remove_all(clients, named, (), isolated(on_event))
    found = [each for each in there if each.job == name]
    try:
        of = found[0].series if found else RunRecord.read(FineTuneJob(name, clients).entity()).series
    except NotFound:
        deployed = ", ".join(each.name for each in there) or "none"
        what = f"There is neither an endpoint {name} that phift made nor a job {name} that it submitted."
        fix = f"check the name and the workspace; endpoints that phift made here: {deployed}"
        raise NotFound(what, where=f"workspace {clients.workspace.workspace_name}", fix=fix) from None
    left = tuple(each for each in there if of and each.series == of and each.job != name)
    return remove_all(clients, found, left, isolated(on_event))


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
                interruption.add_note(f"{still_up(untouched.name)} Delete it: phift cleanup {untouched.name}")
            raise
    if errors:
        first, *others = errors
        for other in others:
            first.add_note(str(other))
        raise first
    return Cleanup(deleted=tuple(each.name for each in endpoints), left=left)
