"""Jobs of `phift.testing.fake`: they do nothing, and their status goes on along a script."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from azure.ai.ml.entities import JobService, PipelineJob
from azure.ai.ml.entities._job.base_job import _BaseJob
from azure.ai.ml.operations import JobOperations
from azure.core.polling import LROPoller

from phift.testing.fake_service import (
    JobStatus,
    Record,
    in_view,
    made_now,
    not_covered,
    not_found,
    poller,
    service_error,
    state,
)

_ENDED = ("Completed", "Failed", "Canceled")


class Jobs:
    """Jobs whose status goes on along a script, one step a look, and stays at its last word.

    - **next_script**: what the next jobs go through.
    - **scripts**: what each job has before it.
    - **children**: label, name and status of each job's steps; without an entry, a pipeline's nodes.
    - **submitted**: the entities that were sent.
    """

    def __init__(self, record: Record, owner: str) -> None:
        self._record, self._owner = record, owner
        self.scripts: dict[str, list[str]] = {}
        self.children: dict[str, list[tuple[str, str, str]]] = {}
        self.submitted: list[Any] = []
        self.next_script = ["NotStarted", "Running", "Completed"]
        self._jobs: dict[str, Any] = {}
        self._archived: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        """Stand for the SDK's other operations."""
        return not_covered(JobOperations, "jobs", name)

    def add(self, name: str, *statuses: str) -> None:
        """Give a job its script; one that is not there is made, as an empty pipeline."""
        self.scripts[name] = list(statuses)
        if name not in self._jobs:
            self._store(PipelineJob(name=name), name)

    def get(self, name: str) -> Any:
        """Return a job as it is now."""
        self._record("jobs.get", name)
        return self._shown(name)

    def _shown(self, name: str) -> Any:
        if name not in self._jobs:
            raise not_found("job", name)
        script = self.scripts[name]
        shown = copy.copy(self._jobs[name])
        shown._status = state(JobStatus, script.pop(0) if len(script) > 1 else script[0])
        shown.tags = dict(shown.tags or {})
        return shown

    def list(
        self, *, parent_job_name: str | None = None, list_view_type: Any = "ActiveOnly", **kwargs: Any
    ) -> Iterator[Any]:
        """Return the jobs, newest first, or those with a tag of the name ``tag``, or the steps of one."""
        tag = kwargs.pop("tag", None)
        self._record("jobs.list", parent_job_name or "")
        if parent_job_name is not None:
            return self._steps(parent_job_name)
        wanted = in_view(list_view_type)
        names = [name for name in reversed(self._jobs) if (name in self._archived) in wanted]
        return iter([self._shown(name) for name in names if not tag or tag in self._jobs[name].tags])

    def _steps(self, parent: str) -> Iterator[Any]:
        if parent not in self._jobs and parent not in self.children:
            if not any(parent == child[1] for job in self._jobs for child in self._rows(job)):
                raise not_found("job", parent)
            return iter(())  # a step, which has none of its own
        rows = self._rows(parent)
        return iter([_BaseJob(name=run_id, display_name=label, status=status) for label, run_id, status in rows])

    def _rows(self, job: str) -> Sequence[tuple[str, str, str]]:
        if job in self.children:
            return self.children[job]
        nodes = getattr(self._jobs[job], "jobs", None) or {}
        return [(label, f"{job}_{label}", self.scripts[job][0]) for label in nodes]

    def create_or_update(self, job: Any) -> Any:
        """Submit a job; of one that is there, tags and description change, and what it runs never does."""
        job = job._to_job() if hasattr(job, "_to_job") else job
        name = str(job.name or f"fake_job_{len(self._jobs) + 1}")
        self._record("jobs.create_or_update", name)
        if name in self._jobs:
            # 400 and not 409: azure-docs issue 122250, azure-sdk-for-python pull request 47389.
            if _request(self._jobs[name]) != _request(job):
                raise service_error(400, f"A job with this name already exists: {name}. Use a different name.")
            self._jobs[name].tags, self._jobs[name].description = dict(job.tags or {}), job.description
            return self._shown(name)
        self.submitted.append(job)
        self.scripts[name] = list(self.next_script)
        self._store(job, name)
        return self._shown(name)

    def _store(self, job: Any, name: str) -> None:
        kept = copy.copy(job)
        kept.name, kept._id, kept._creation_context = name, f"{self._owner}/jobs/{name}", made_now()
        kept.tags = dict(job.tags or {})
        kept.experiment_name = job.experiment_name or "Default"
        kept.services = {"Studio": JobService(endpoint=f"https://studio.test/runs/{name}")}
        self._jobs[name] = kept

    def begin_cancel(self, name: str) -> LROPoller[Any]:
        """Cancel a job; one that has ended stays as it is."""
        self._record("jobs.begin_cancel", name)
        if name not in self._jobs:
            raise not_found("job", name)
        if self.scripts[name][0] not in _ENDED:
            self.scripts[name] = ["CancelRequested", "Canceled"]
        return poller(None, self._record.ordered("jobs.result"))

    def archive(self, name: str) -> None:
        """Leave a job out of lists."""
        self._record("jobs.archive", name)
        self._shown(name)
        self._archived.add(name)

    def restore(self, name: str) -> None:
        """Take back an archiving."""
        self._record("jobs.restore", name)
        self._shown(name)
        self._archived.discard(name)

    def check_output(self, name: str) -> None:
        """Refuse an output of a job that is not there."""
        if name not in self._jobs:
            raise service_error(400, f"The job {name} was not found.")


def _request(job: Any) -> dict[str, Any]:
    """Return what a job asks for, without what may change on it."""
    nodes = getattr(job, "jobs", None) or {}
    return {
        "type": job.type,
        "experiment": job.experiment_name or "Default",
        "command": str(getattr(job, "command", "")),
        "inputs": _values(job),
        "nodes": {name: _values(node) for name, node in nodes.items()},
    }


def _values(job: Any) -> dict[str, str]:
    """Return a job's or a node's inputs as text: for a file its address, which is what is compared."""
    inputs = getattr(job, "_job_inputs", None) or getattr(job, "inputs", None) or {}
    values = {name: getattr(value, "_data", value) for name, value in inputs.items()}
    return {name: str(getattr(value, "path", value)) for name, value in values.items() if value is not None}
