"""The configuration that made a job, written anew from the job's own record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phift.azure.answers import text
from phift.azure.clients import Clients
from phift.azure.connect import clients_of
from phift.component.preprocessing import SPLITS
from phift.errors import ConfigError, forgetting_locals, in_a_line
from phift.jobs.job import FineTuneJob
from phift.jobs.record import RunRecord

if TYPE_CHECKING:
    from phift.azure.connect import AnyClients


@forgetting_locals()
def reproduce(clients: AnyClients, job: str, *, workspace: str | None = None) -> str:
    """Return the configuration that made a job as YAML, with the versions that were looked up then.

    With the same data and the same workspace it leads to the same job: `FineTuneRun.submit` finds it. Comments say what
    cannot be had again.

    - **clients**: or an ``MLClient`` of the workspace, or the workspace as `phift.connect` takes it.
    - **workspace**: what to write for it, as `RunConfig` takes it; left out, its names.

    Raises `phift.errors.NotFound` where there is no such job, or phift did not submit it, and
    `phift.errors.ConfigError` where an older phift did, which kept no configuration with it.
    """
    import yaml

    clients = clients_of(clients)
    record = RunRecord.read(FineTuneJob(job, clients).entity())
    if not record.configuration:
        fix = "see what it was given on the job's page in the studio"
        raise ConfigError("An older phift submitted this job, and kept no configuration.", where=f"job {job}", fix=fix)
    registry, _, component = record.component.partition("/")
    name, _, version = component.rpartition(":")
    values: dict[str, Any] = {
        "workspace": workspace or _workspace(clients),
        **record.configuration,
        "model": {"name": record.model.name, "version": record.model.version, "registry": record.model.registry},
        "component": {"name": name, "version": version, "registry": registry},
    }
    data = record.configuration.get("data") or {}
    values["data"] = {key: value for key, value in data.items() if key not in SPLITS or not _from_python(value or ())}
    head = [f"The configuration of the job {in_a_line(job)}, from the job's own record.", *_remarks(record, data)]
    if values["workspace"] == "local" and workspace is None:
        head.append("The workspace is a local one: write local:FOLDER where it does not have the usual folder.")
    return "".join(f"# {line}\n" for line in head) + yaml.safe_dump(_said(values), sort_keys=False, allow_unicode=True)


def _workspace(clients: Clients) -> str | dict[str, str]:
    if clients.is_local:
        return "local"
    names = {"subscription_id": "subscription_id", "resource_group": "resource_group_name"}
    names["workspace_name"] = "workspace_name"
    return {ours: text(getattr(clients.workspace, key), f"workspace.{key}") for ours, key in names.items()}


def _from_python(sources: Any) -> bool:
    return any("rows" in source for source in sources)


def _remarks(record: RunRecord, data: Mapping[str, Any]) -> Iterator[str]:
    """Yield what cannot be had again, and what is to be looked at."""
    name, known_by = in_a_line(record.data_name), in_a_line(record.data_hash)
    yield f"The data, {name}, had the hash {known_by}; with other data it is another."
    yield "The credential, the tenant, work_dir, max_cost, prices and tokens_per_second are not kept with a job."
    if not data:
        yield "The data is missing: the configuration was too long to be kept whole."
    for split in SPLITS:
        for source in data.get(split) or ():
            if "rows" in source:
                kind = in_a_line(source["rows"])
                yield f"data.{split} came from Python, a {kind}, and cannot be had again: write its rows into a file."
            path = source.get("files")
            if isinstance(path, str) and not any(mark in path for mark in "*?[") and not Path(path).exists():
                yield f"data.{split}: not on this machine: {in_a_line(path)}"


def _said(value: Any) -> Any:
    """Return plain values without those that say nothing."""
    if isinstance(value, dict):
        return {key: said for key, entry in value.items() if (said := _said(entry)) not in (None, {}, [])}
    return [_said(entry) for entry in value] if isinstance(value, list) else value
