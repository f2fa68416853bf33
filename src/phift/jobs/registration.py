"""The registered model: the job's output under a name and version, with its lineage in tags."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phift.azure.answers import resource_id, text, texts
from phift.azure.clients import Clients
from phift.azure.connect import clients_of
from phift.azure.storage import Storage
from phift.errors import AccessDenied, ConfigError, Conflict, NotFound, azure_errors, forgetting_locals, in_a_line
from phift.jobs.download import Download, OnDownload, fetch
from phift.jobs.job import JOB_TAG, FineTuneJob
from phift.jobs.manifest import about_job

if TYPE_CHECKING:
    from azure.ai.ml.entities import Model

    from phift.azure.connect import AnyClients


logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A model in the workspace; **existed**: whether `register_model` found it instead of making it."""

    name: str
    version: str
    id: str  # its resource id, for a deployment
    tags: Mapping[str, str]
    existed: bool
    _clients: Clients | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_clients"}  # there are tokens in them

    def download(self, folder: str | Path, *, on_event: OnDownload | None = None) -> Download:
        """Fetch the model's files into a folder; see `download_model`, which one that was pickled needs."""
        if self._clients is None:
            what = "This model has no clients: it was made or unpickled without."
            fix = "download_model(clients, name, version, folder) does the same"
            raise ConfigError(what, where=f"model {self.name}:{self.version}", fix=fix)
        return download_model(self._clients, self.name, self.version, folder, on_event=on_event)


@forgetting_locals()
def download_model(
    clients: AnyClients, name: str, version: str, folder: str | Path, *, on_event: OnDownload | None = None
) -> Download:
    """Fetch the files of a registered model into a folder, checked, with a manifest; what broke off before goes on.

    Raises `phift.errors.NotFound` where there is no such model, and as `phift.jobs.download.fetch` does.
    """
    clients = clients_of(clients)
    with azure_errors(f"model {name}:{version}"):
        found = clients.workspace.models.get(name, version=version)
    tags = texts(found.tags, "model.tags")
    job = None
    if JOB_TAG in tags:
        with suppress(NotFound, AccessDenied):  # it was deleted, or is for others to see; the model is there
            job = FineTuneJob(tags[JOB_TAG], clients).entity()
    with Storage(clients) as storage:
        files = {file.name: file for file in storage.files(text(found.path, "model.path"))}
        origin = {"model": f"{text(found.name, 'model.name')}:{text(found.version, 'model.version')}"}
        return fetch(Path(folder), files, origin, partial(about_job, job, tags), on_event)


def register_model(
    clients: AnyClients,
    job: FineTuneJob | str,
    *,
    name: str,
    version: str | None = None,
    tags: Mapping[str, str] | None = None,
    description: str = "",
) -> RegisteredModel:
    """Register a completed job's model, once: a second call finds it, by the job's name in its tags.

        register_model(ml_client, "phift-phi-4-mini-instruct-5f2c9d0e7a31", name="elements")

    - **job**: or its name; the model is its output `phift.jobs.job.OUTPUT`.
    - **version**: left out, it is made of the job's name.
    - **tags**: more of them; ``phift.job`` is always the job's name.

    Raises `phift.errors.JobFailed` or `phift.errors.JobCanceled` for a job without a model, and
    `phift.errors.Conflict` where the name and version are taken by another job's model.
    """
    clients = clients_of(clients)
    job = FineTuneJob(job, clients) if isinstance(job, str) else job
    version = version or hashlib.sha256(job.name.encode()).hexdigest()[:12]
    found = _find(clients, job, name, version)
    existed = found is not None
    if found is None:
        job.raise_for_end()
        from azure.ai.ml.entities import Model

        own = {**(tags or {}), JOB_TAG: job.name}
        wanted = Model(
            path=job.model_path, name=name, version=version, type="mlflow_model", description=description, tags=own
        )
        try:
            with azure_errors(f"model {name}:{version}"):
                found = clients.workspace.models.create_or_update(wanted)
        except Conflict:  # the answer to an earlier try was lost, or another process registers it at this moment
            found, existed = _find(clients, job, name, version), True
            if found is None:
                raise
        else:
            extra = {"phift_event": "registered", "phift_job": job.name, "phift_model": f"{name}:{version}"}
            logger.info("Job %s: registered as %s", in_a_line(job.name), in_a_line(f"{name}:{version}"), extra=extra)
    return RegisteredModel(
        name=text(found.name, "model.name"),
        version=text(found.version, "model.version"),
        id=resource_id(found.id, "model.id"),
        tags=texts(found.tags, "model.tags"),
        existed=existed,
        _clients=clients,
    )


def _find(clients: Clients, job: FineTuneJob, name: str, version: str) -> Model | None:
    try:
        with azure_errors(f"model {name}:{version}"):
            found = clients.workspace.models.get(name, version=version)
    except NotFound:
        return None
    tags = texts(found.tags, "model.tags")
    if tags.get(JOB_TAG) != job.name:
        other = f"from {tags[JOB_TAG]}" if JOB_TAG in tags else "from elsewhere"
        what = f"The version {version} of {name} does not come from this job but {other}."
        raise Conflict(what, where=f"model {name}", fix="set `registered_model_name` to another name")
    return found
