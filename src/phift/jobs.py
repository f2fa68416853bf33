"""The job: submitted once, followed to a real end state, its metrics read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from phift.clients import Clients
from phift.errors import (
    AuthenticationError,
    JobCanceled,
    JobFailed,
    NotFound,
    PhiftError,
    ServiceError,
    ServiceUnreachable,
    Throttled,
    WaitTimeout,
    azure_errors,
)
from phift.pipeline import OUTPUT
from phift.quiet import quiet_sdk
from phift.tracking import MetricPoint, Tracking

if TYPE_CHECKING:
    import pandas as pd
    from azure.ai.ml.entities import PipelineJob

# The states a run can end in; `jobs.stream` of the SDK returns silently for all but Failed.
ENDED = frozenset({"Completed", "Failed", "Canceled"})
# Before a node works on the job.
_WAITING = frozenset({"NotStarted", "Queued", "Preparing", "Provisioning", "Starting"})
# How long a wait of hours puts up with a service that does not answer, in seconds.
_PATIENCE = 600.0
_LIVE_METRICS = ("loss", "eval_loss")


@dataclass(frozen=True)
class Step:
    """A child of the pipeline job."""

    name: str
    run_id: str
    status: str


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """Something that happened to a job since the last look.

    - **status**: of the job, or of the step, for those kinds.
    - **metric**: for ``kind="metric"``.
    """

    kind: Literal["status", "step", "metric"]
    job: str
    status: str = ""
    step: str = ""
    metric: MetricPoint | None = None


@dataclass(frozen=True)
class _Look:
    """What a job looked like at one moment: its status, its steps' statuses, and how many points of each metric."""

    status: str
    steps: dict[str, str]
    points: dict[str, int]

    @property
    def queued(self) -> bool:
        """Whether no node works on it yet; the job itself may count as running while its first step is in the queue."""
        if not self.steps:
            return self.status in _WAITING
        return all(status in _WAITING for status in self.steps.values())


class FineTuneJob:
    """A fine-tuning job, by name; it lives in the workspace, so any process can attach to it.

    - **existed**: whether `submit_job` found it instead of submitting it.
    """

    def __init__(self, name: str, clients: Clients, *, existed: bool = True) -> None:
        self.name = name
        self.existed = existed
        self._clients = clients
        self._tracking: Tracking | None = None

    def __repr__(self) -> str:
        return f"<FineTuneJob {self.name}>"

    @property
    def model_path(self) -> str:
        """The URI of the fine-tuned model among the job's outputs."""
        return f"azureml://jobs/{self.name}/outputs/{OUTPUT}"

    @property
    def tracking(self) -> Tracking:
        """Reader of the metrics and logs of the job's workspace."""
        if self._tracking is None:
            workspaces = self._clients.workspace.workspaces
            with azure_errors("workspace"):
                uri = workspaces.get(self._clients.workspace.workspace_name).mlflow_tracking_uri
            self._tracking = Tracking(self._clients.rest, str(uri))
        return self._tracking

    def entity(self) -> Any:
        """Return the job as the SDK sees it now."""
        with azure_errors(f"job {self.name}"):
            return self._clients.workspace.jobs.get(self.name)

    def status(self) -> str:
        """Return the job's status now."""
        return _text(self.entity().status)

    def studio_url(self) -> str:
        """Return the address of the job's page, or an empty text where there is none."""
        return str(getattr(self.entity(), "studio_url", None) or "")

    def steps(self) -> tuple[Step, ...]:
        """Return the component's steps, in the order the service lists them."""
        steps = self._children(self.name)
        # The component is itself a pipeline: its steps may lie one level down, beside the one that prepares the data.
        if len(steps) <= 2:
            return tuple(inner for step in steps for inner in (self._children(step.run_id) or (step,)))
        return steps

    def _children(self, run_id: str) -> tuple[Step, ...]:
        with azure_errors(f"job {run_id}"):
            # The SDK lists a child that it cannot read as None.
            children = [job for job in self._clients.workspace.jobs.list(parent_job_name=run_id) if job is not None]
        return tuple(Step(child.display_name or child.name, child.name, _text(child.status)) for child in children)

    def follow(self, *, timeout: float | None = None, queue_timeout: float | None = None) -> Iterator[JobEvent]:
        """Yield what happens until the job has ended, however it ends.

        - **timeout**: seconds until `phift.errors.WaitTimeout`; the job goes on.
        - **queue_timeout**: the same, for the time until a node starts to work on it.

        A service that does not answer is put up with for ten minutes, and a credential that is refused for one look:
        azure-core has thrown an expired token away by then, and asks for another.
        """
        started = heard = time.monotonic()
        seen, refused = _Look("", {}, {}), False
        while True:
            try:
                status = self.status()
                # A look that fails half-way must not count as seen.
                events, seen = self._changes(status, seen)
                heard, refused = time.monotonic(), False
            except AuthenticationError:
                if refused:
                    raise
                status, events, refused = "", [], True
            except ServiceError as error:
                if not _passing(error) or time.monotonic() - heard > _PATIENCE:
                    raise
                status, events = "", []
            yield from events
            if status in ENDED:
                return
            self._check_time(started, seen, timeout, queue_timeout)
            time.sleep(self._clients.poll_seconds)

    def _changes(self, status: str, before: _Look) -> tuple[list[JobEvent], _Look]:
        """Return what is new since the look before, and this look."""
        steps = self.steps()
        now = _Look(status, {step.run_id: step.status for step in steps}, dict(before.points))
        events = [
            JobEvent(kind="step", job=self.name, step=step.name, status=step.status)
            for step in steps
            if before.steps.get(step.run_id) != step.status
        ]
        for name in _LIVE_METRICS if status not in _WAITING else ():
            points = self.tracking.metric_history(self.name, name)
            new = points[before.points.get(name, 0) :]
            now.points[name] = len(points)
            events += [JobEvent(kind="metric", job=self.name, metric=point) for point in new]
        if before.status != status:
            # The end comes after what led to it, everything else before what follows from it.
            event = JobEvent(kind="status", job=self.name, status=status)
            events = [*events, event] if status in ENDED else [event, *events]
        return events, now

    def _check_time(self, started: float, seen: _Look, timeout: float | None, queue_timeout: float | None) -> None:
        waited = time.monotonic() - started
        fix = "wait again later: the job goes on; or cancel it"
        if timeout is not None and waited > timeout:
            raise WaitTimeout(f"The job has not ended after {waited:.0f} s.", where=f"job {self.name}", fix=fix)
        if queue_timeout is not None and seen.queued and waited > queue_timeout:
            what = f"No node works on the job after {waited:.0f} s (status {seen.status})."
            fix = "a queue this long usually means no capacity: " + fix
            raise WaitTimeout(what, where=f"job {self.name}", fix=fix)

    def wait(
        self,
        on_event: Callable[[JobEvent], None] | None = None,
        *,
        timeout: float | None = None,
        queue_timeout: float | None = None,
    ) -> None:
        """Wait until the job has completed.

        Ctrl-C detaches: the job goes on, and waiting again picks it up. Raises `phift.errors.JobFailed` with the
        failing step and the end of its log, `phift.errors.JobCanceled`, and `phift.errors.WaitTimeout`.
        """
        for event in self.follow(timeout=timeout, queue_timeout=queue_timeout):
            if on_event is not None:
                on_event(event)
        self.raise_for_end()

    def raise_for_end(self) -> None:
        """Raise for a job that ended without a model; do nothing for one that completed."""
        status = self.status()
        where = f"job {self.name}"
        if status == "Canceled":
            raise JobCanceled("The job was cancelled.", where=where, fix="submit it again", job=self.name)
        if status == "Failed":
            raise self._failure(where)
        if status != "Completed":
            fix = "wait for it first"
            raise WaitTimeout(f"The job has not ended; it is {status}.", where=where, fix=fix)

    def _failure(self, where: str) -> JobFailed:
        try:
            failed = next((step for step in self.steps() if step.status == "Failed"), None)
        except PhiftError:  # that the job failed is the news, not that its steps are out of reach
            failed = None
        if failed is None:
            what = _readable(lambda: self.tracking.error(self.name)) or "The job failed."
            return JobFailed(what, where=where, fix="look at the job's page in the studio", job=self.name)
        reason = _readable(lambda: self.tracking.error(failed.run_id)) or "no reason given"
        tail = _readable(lambda: self.tracking.log_tail(failed.run_id))
        what = f"The step {failed.name} failed: {reason}"
        fix = "the end of the step's log is in `log_tail`; mend the cause and submit again"
        return JobFailed(what, where=where, fix=fix, job=self.name, step=failed.name, log_tail=tail)

    def cancel(self) -> None:
        """Cancel the job and wait until it has ended; one that has ended already stays as it is."""
        if self.status() in ENDED:
            return
        with quiet_sdk(), azure_errors(f"job {self.name}"):
            self._clients.workspace.jobs.begin_cancel(self.name).result()
        for _ in self.follow(timeout=_PATIENCE):
            pass

    def metrics(self) -> pd.DataFrame:
        """Return every metric of training and evaluation, one row a logged value.

        Columns: ``metric``, ``step``, ``value``, ``time`` (UTC). The component logs each metric to the root run too
        (``log_metrics_at_root``, azureml-acft-accelerator 0.0.91), so the children need not be asked.
        """
        import pandas as pd

        names = self.tracking.metric_names(self.name)
        points = [point for name in names for point in self.tracking.metric_history(self.name, name)]
        frame = pd.DataFrame(
            [(point.name, point.step, point.value, point.timestamp) for point in points],
            columns=["metric", "step", "value", "time"],
        )
        return frame.assign(time=pd.to_datetime(frame["time"], unit="ms", utc=True))


def _readable(read: Callable[[], str]) -> str:
    """Return what a look at the failure says, or why it says nothing; it must not hide the failure."""
    try:
        return read()
    except PhiftError as error:
        return f"(it could not be read: {error.what})"


def _text(status: Any) -> str:
    """Return a status as text; the SDK gives some as members of an enumeration."""
    return str(getattr(status, "value", status))


def _passing(error: ServiceError) -> bool:
    """Whether waiting may help; a defect of the SDK or a refused request will not pass."""
    return isinstance(error, ServiceUnreachable | Throttled) or (error.status or 0) >= 500


def find_job(clients: Clients, name: str) -> FineTuneJob | None:
    """Return the newest attempt of the job called ``name`` that is running or completed, or None."""
    attempt, job = 1, None
    while True:
        candidate = FineTuneJob(_attempt_name(name, attempt), clients)
        try:
            status = candidate.status()
        except NotFound:
            return job
        if status not in {"Failed", "Canceled"}:
            job = candidate
        attempt += 1


def submit_job(clients: Clients, job: PipelineJob, *, fresh: bool = False) -> FineTuneJob:
    """Submit a job under its name, once: the one that runs or has completed under that name is found instead.

    A job that failed or was cancelled keeps its name for ever, so the next attempt is called ``<name>-2`` and so on.

    - **fresh**: submit a new attempt even if one is there.
    """
    name = str(job.name)
    if not fresh:
        existing = find_job(clients, name)
        if existing is not None:
            return existing
    job.name = _free_name(clients, name)
    with quiet_sdk(), azure_errors(f"job {job.name}"):
        clients.workspace.jobs.create_or_update(job)
    return FineTuneJob(str(job.name), clients, existed=False)


def _free_name(clients: Clients, name: str) -> str:
    attempt = 1
    while True:
        candidate = _attempt_name(name, attempt)
        try:
            FineTuneJob(candidate, clients).status()
        except NotFound:
            return candidate
        attempt += 1


def _attempt_name(name: str, attempt: int) -> str:
    return name if attempt == 1 else f"{name}-{attempt}"
