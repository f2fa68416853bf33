"""Where a job's outputs and logs lie: what its run's record says, and below it, what it has left unfinished."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from phift.azure.answers import json_object, mapping, text
from phift.azure.clients import Clients, Rest
from phift.azure.storage import Storage, StoredFile
from phift.errors import NotFound
from phift.jobs.download import Download, OnDownload, fetch
from phift.jobs.manifest import about_job
from phift.jobs.tracking import Tracking

if TYPE_CHECKING:
    from azure.ai.ml.entities import PipelineJob

_STORE = "azureml://datastores/workspaceblobstore/paths/azureml"
_ARTIFACTS = "azureml://datastores/workspaceartifactstore/paths/ExperimentRun"


def output_addresses(rest: Rest, tracking: Tracking, run_id: str) -> dict[str, str]:
    """Return the address in a datastore of each named output of a run that has ended.

    The SDK finds them so too, but not all of them: it takes the run's ``UriFolder`` for nothing it knows, and fails at
    an ``MLFlowModel`` (azure-ai-ml 1.35.2, `get_job_output_uris_from_dataplane`; azure-sdk-for-python issue 48941,
    2026-09-09). So what an output is goes by its asset's own address here.
    """
    asked = {"runId": run_id, "selectRunMetadata": True}
    answer = rest.post(f"{tracking.beside('history')}/rundata", asked)
    outputs = mapping(json_object(answer.get("runMetadata"), "run.runMetadata").get("outputs"))
    named = {
        text(json_object(made, "run.outputs").get("assetId"), "run.outputs"): name for name, made in outputs.items()
    }
    models = [asset for asset in named if "/models/" in asset]
    found: dict[str, str] = {}
    for assets, where, key in (
        (models, f"{tracking.beside('modelregistry')}/models", "path"),
        ([asset for asset in named if asset not in models], f"{tracking.beside('data')}/dataversion", "uri"),
    ):
        values = rest.post(f"{where}/batchGetResolvedUris", {"values": assets}).get("values") if assets else {}
        for asset, place in mapping(values).items():
            if asset in named:
                address = json_object(place, "the output's address").get(key)
                found[named[asset]] = text(address, "the output's address")
    return found


def fetch_outputs(
    clients: Clients,
    tracking: Tracking,
    job: PipelineJob,
    output: str | None,
    steps: Iterable[tuple[str, str]],
    folder: Path,
    on_event: OnDownload | None,
) -> Download:
    """Fetch an output of a job that has completed, or all that a job has left; see `FineTuneJob.download`.

    - **steps**: their names and run ids.
    """
    name, completed = text(job.name, "job.name"), text(job.status, "job.status") == "Completed"
    with Storage(clients) as storage:
        addresses = output_addresses(clients.rest, tracking, name)
        origin = {"job": name}
        if output is None or not completed:
            files = all_files(storage, addresses, name, steps, unfinished=not completed)
        elif output in addresses:
            files = {file.name: file for file in storage.files(addresses[output])}
            origin["output"] = output
        else:
            what = f"The job has no output {output}; it has {', '.join(sorted(addresses)) or 'none'}."
            fix = "name one that it has; None, or `--all`, is all outputs and logs"
            raise NotFound(what, where=f"job {name}", fix=fix)
        return fetch(folder, files, origin, partial(about_job, job, {}), on_event)


def all_files(
    storage: Storage,
    addresses: Mapping[str, str],
    job: str,
    steps: Iterable[tuple[str, str]],
    *,
    unfinished: bool,
) -> dict[str, StoredFile]:
    """Return all that a job has left: ``outputs/<output>/...``, ``logs/<step>/...``.

    Where a folder of this name is another's already, a step's is ``<step>-<run id>``: several steps may have one name,
    such as a step that was begun anew, and one may be called as the job's own logs are.

    - **steps**: their names and run ids.
    - **unfinished**: whether it ended badly. No record tells what its steps wrote then (recorded: azure-sdk-assets
      6873a4bb, test_pipeline_job_download, 2026-02-27), so the place is looked into that an output has unless somebody
      chose another, ``azureml/<run id>/<output>`` of the default datastore, as the SDK does (azure-ai-ml 1.35.2,
      `_get_named_output_uri`): ``outputs/<step>/<output>/...``.
    """
    found: dict[str, StoredFile] = {}
    for output, address in addresses.items():
        found |= {f"outputs/{output}/{file.name}": file for file in storage.files(address)}
    taken = {f"outputs/{output}" for output in addresses}
    for name, run_id in (("job", job), *steps):
        places = [(f"logs/{name}", f"{_ARTIFACTS}/dcid.{run_id}")]
        if unfinished:
            places.append((f"outputs/{name}", f"{_STORE}/{run_id}"))
        for place, address in places:
            below = f"{place}-{run_id}" if place in taken else place
            taken.add(below)
            found |= {f"{below}/{file.name}": file for file in storage.files(address)}
    return found
