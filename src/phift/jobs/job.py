"""The job: submitted once, followed to a real end state, its metrics read."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from phift import errors
from phift.azure.answers import listed, outcome, text, texts
from phift.azure.clients import Clients
from phift.azure.connect import clients_of
from phift.azure.quiet import quiet_uploads
from phift.jobs.download import Download, OnDownload
from phift.jobs.ends import ENDED as ENDED
from phift.jobs.ends import ENDED_BADLY, JobEnd, advice, read_end
from phift.jobs.ends import Step as Step
from phift.jobs.events import RUN_TAG
from phift.jobs.events import JobEvent as JobEvent
from phift.jobs.following import Cursor, look, looks
from phift.jobs.logs import LogText, read_logs
from phift.jobs.on_end import OnEnd, when_ended
from phift.jobs.outputs import fetch_outputs
from phift.jobs.progress import JobProgress
from phift.jobs.tracking import Tracking
from phift.jobs.watching import Watch, watch

if TYPE_CHECKING:
    import pandas as pd
    from azure.ai.ml.entities import PipelineJob
    from matplotlib.figure import Figure

    from phift.azure.connect import AnyClients

logger = logging.getLogger(__name__)

OUTPUT = "trained_model"  # the job's output: the fine-tuned model as an MLflow model folder
# What a model and an endpoint are tagged with: the name of the job they come from.
JOB_TAG = "phift.job"
_LONGEST_CANCELLATION = 600.0  # seconds
_CANCELLED = ENDED | {"CancelRequested"}  # there is nothing to ask for
_MOST_ATTEMPTS = 200
_TICK = 1.0  # seconds without news after which what draws is told of the time
# A property that no two submissions have in common: it tells whose job has the name.
_SUBMISSION = "phift.submission"


class FineTuneJob:
    """A fine-tuning job, by name; it lives in the workspace, so any process can attach to it.

        FineTuneJob("phift-phi-4-mini-instruct-5f2c9d0e7a31", ml_client).wait()

    - **clients**: clients, an ``MLClient`` of the workspace, or the workspace as `phift.connect` takes it.
    - **existed**: whether `submit_job` found it instead of submitting it.
    """

    def __init__(self, name: str, clients: AnyClients, *, existed: bool = True) -> None:
        self.name = name
        self.existed = existed
        self._clients = clients_of(clients)
        self._ended: PipelineJob | None = None
        self.logged: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<FineTuneJob {errors.in_a_line(self.name)}>"

    @property
    def clients(self) -> Clients:
        """Whom it is asked of."""
        return self._clients

    @property
    def model_path(self) -> str:
        """The URI of the fine-tuned model among the job's outputs."""
        return f"azureml://jobs/{self.name}/outputs/{OUTPUT}"

    @cached_property
    def tracking(self) -> Tracking:
        """Reader of the metrics and logs of the job's workspace."""
        workspace: Any = self._clients.find_workspace()
        return Tracking(self._clients.rest, workspace.mlflow_tracking_uri)

    @errors.forgetting_locals()
    def entity(self) -> PipelineJob:
        """Return the job as the SDK sees it now; one that has ended stays as it is, and is asked for once."""
        if self._ended is not None:
            return self._ended
        with errors.azure_errors(f"job {self.name}"):
            found = self._clients.workspace.jobs.get(self.name)
        if text(found.status, "job.status") in ENDED:
            self._ended = found
        return found

    @errors.forgetting_locals()
    def status(self) -> str:
        """Return the job's status now."""
        return errors.redact(text(self.entity().status, "job.status"))

    @errors.forgetting_locals()
    def studio_url(self) -> str:
        """Return the address of the job's page, or an empty text where there is none."""
        return str(getattr(self.entity(), "studio_url", None) or "")

    @errors.forgetting_locals()
    def steps(self) -> tuple[Step, ...]:
        """Return the component's steps, in the order the service lists them."""
        steps = self._children(self.name)
        # The component is itself a pipeline: its steps may lie one level down, beside the one that prepares the data.
        if len(steps) <= 2:
            return tuple(inner for step in steps for inner in (self._children(step.run_id) or (step,)))
        return steps

    def _children(self, run_id: str) -> tuple[Step, ...]:
        with errors.azure_errors(f"job {run_id}"):
            children = listed(self._clients.workspace.jobs.list(parent_job_name=run_id), f"steps of {run_id}")
        return tuple(
            Step(
                errors.redact(text(child.display_name or child.name, "step.name")),
                child.name,
                errors.redact(text(child.status, "step.status")),
            )
            for child in children
            if child is not None  # as the SDK lists one that it cannot read
        )

    def look(self, cursor: Cursor | None = None) -> tuple[list[JobEvent], Cursor]:
        """Return what has happened since the cursor, or all of it, and the cursor to go on from.

        It asks and returns: it waits for nothing and holds no thread. Nothing is told twice and nothing is left out,
        whichever process looks; a look that raises has told nothing, so the next one goes on from the same cursor. The
        steps and the losses are read where the status has changed, or the clients' ``poll_seconds`` have passed. Of
        a job that has ended it raises while its losses are out of reach: nobody would read the last of them later.
        """
        return look(self, cursor)

    def follow(
        self,
        *,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        stop: Event | None = None,
        idle: float | None = None,
    ) -> Iterator[JobEvent]:
        """Yield what happens until the job has ended, however it ends; the end is noticed within five seconds.

        - **timeout**: seconds until `phift.errors.WaitTimeout`; the job goes on.
        - **queue_timeout**: the same, for the time until a node starts to work on it.
        - **stop**: ends the following when it is set, also while it waits.
        - **idle**: after so many seconds in which nothing has happened there is a `phift.jobs.events.Idle`.

        A service that does not answer is put up with for as long as the clients' ``patience_seconds`` say, and one
        that refuses the credential for as long, but no more than a minute, or four looks: each of several clients may
        hold a token that has expired, throws it away when it is refused, and asks for another at the next look. Where
        only the losses are out of reach when the job has ended, the end is told after that time, without the last ones.
        """
        for events, _ in looks(self, timeout=timeout, queue_timeout=queue_timeout, stop=stop, idle=idle):
            yield from events

    def watch(self) -> Watch:
        """Return what any number of listeners hear of this job by: handlers, and ``async for`` loops.

            async for event in job.watch().events(): ...

        All who watch the job of a name with the same clients in this process share one poller, and no thread is held
        for any of them.
        """
        return watch(self)

    @errors.forgetting_locals()
    def wait(
        self,
        on_event: Callable[[JobEvent], None] | None = None,
        *,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        on_end: OnEnd | None = None,
    ) -> None:
        """Wait until the job has completed.

        In a notebook, and without a handler, it shows the job in the cell's output meanwhile.

        - **on_event**: called with each event; if it has a method ``stop_drawing``, as `EventPrinter` has, that is
          called when nothing more will come.
        - **on_end**: what is done when it has ended, however it did: a function that takes a
          `phift.jobs.ends.JobEnd`, or a command, see `phift.jobs.on_end.when_ended`.

        Ctrl-C detaches: the job goes on, and waiting again picks it up. Raises `phift.errors.JobFailed` with the
        failing step, the end of its log and what is known of the cause, `phift.errors.JobCanceled`, and
        `phift.errors.WaitTimeout`.
        """
        from phift.views.notebook import JobView, in_notebook

        handler = on_event or (JobView(JobProgress(self.name)) if in_notebook() else None)
        tell, stop, tell_end = errors.isolated(handler), getattr(handler, "stop_drawing", None), when_ended(on_end)
        idle = _TICK if stop else None  # what draws shows how the time goes by, too
        try:
            for event in self.follow(timeout=timeout, queue_timeout=queue_timeout, idle=idle):
                tell(event)
        finally:
            if stop:
                stop()
        end = self.end()
        tell_end(end)
        end.raise_if_bad()

    @errors.forgetting_locals()
    def end(self) -> JobEnd:
        """Return how the job ended, and why it failed if it did; raises `phift.errors.WaitTimeout` before its end."""
        status = self.status()
        if status not in ENDED:
            fix = advice(status) or "wait for it first"
            raise errors.WaitTimeout(f"The job has not ended; it is {status}.", where=f"job {self.name}", fix=fix)
        return read_end(self.name, status, self.steps, lambda: self.tracking)

    @errors.forgetting_locals()
    def raise_for_end(self) -> None:
        """Raise for a job that ended without a model; do nothing for one that completed."""
        self.end().raise_if_bad()

    def logs(
        self, step: str | None = None, *, follow: bool = False, stop: Event | None = None
    ) -> Generator[LogText, None, None]:
        """Yield what the job's logs have: its own first, then its steps', in their order.

        - **step**: only this step's, by its name.
        - **follow**: go on until the job has ended, with what comes meanwhile; else what is there now, if anything is.
        - **stop**: ends the following when it is set, at once.

        Each byte is read once, however often it is looked; secrets are hidden. Raises `phift.errors.NotFound` for a
        step that there is none of. A service that does not answer is put up with while following, as in `follow`.
        """
        return read_logs(self, step, follow=follow, stop=stop)

    @errors.forgetting_locals()
    def cancel(self) -> None:
        """Cancel the job and wait until it has ended; one that has ended already stays as it is."""
        self.begin_cancel()()

    @errors.forgetting_locals()
    def begin_cancel(self) -> Callable[[], None]:
        """Ask for what `cancel` does, and return what waits for it."""
        asked = None
        if self.status() not in _CANCELLED:
            try:
                with errors.azure_errors(f"job {self.name}"):
                    asked = self._clients.workspace.jobs.begin_cancel(self.name)
            except errors.ServiceError:
                if self.status() not in _CANCELLED:  # as it may be just now
                    raise

        def wait() -> None:
            if asked is not None:
                with errors.azure_errors(f"job {self.name}"):
                    outcome(asked, f"job {self.name}")
            for _ in self.follow(timeout=_LONGEST_CANCELLATION) if self._ended is None else ():
                pass

        return wait

    @errors.forgetting_locals()
    def metrics(self, *, wide: bool = False) -> pd.DataFrame:
        """Return what training and evaluation logged, one row for each metric and step; see `phift.jobs.metrics`.

        Columns: ``metric``, ``step``, ``value``, ``time`` (UTC). The component logs each metric to the root run too
        (``log_metrics_at_root``, azureml-acft-accelerator 0.0.91), so the children need not be asked; but a training
        step that was reused has logged nothing to this job, and shows its own (Microsoft Learn, "How to debug pipeline
        reuse issues", read 2026-11-30).

        - **wide**: one row a step instead, with a column for each metric.
        """
        from phift.jobs.metrics import read_metrics, widen

        frame = read_metrics(self.tracking, self.name)
        if frame.empty:
            of_steps = (read_metrics(self.tracking, step) for step in self.tracking.reused_steps(self.name))
            frame = next((each for each in of_steps if not each.empty), frame)
        return widen(frame) if wide else frame

    @errors.forgetting_locals()
    def plot(self) -> Figure:
        """Draw losses and learning rate over the steps; ``plot().savefig("curves.png")`` keeps it.

        Raises `phift.errors.NotFound` where none of them has been logged.
        """
        from phift.jobs.plot import draw

        return draw({self.name: self.metrics()}, where=f"job {self.name}")

    @errors.forgetting_locals()
    def download(
        self,
        folder: str | Path,
        *,
        output: str | None = OUTPUT,
        partial: bool = False,
        on_event: OnDownload | None = None,
    ) -> Download:
        """Fetch an output's files into a folder, checked, with a manifest; what broke off before goes on.

        - **output**: its name; None for all outputs and logs, in ``outputs/<output>`` and ``logs/<step>``, which is
          ``<step>-<run id>`` where another step of the job has the name already.
        - **partial**: of a job that failed or was cancelled, fetch what outputs and logs it left, in the same folders.

        Raises `phift.errors.JobFailed`, `phift.errors.JobCanceled` or `phift.errors.WaitTimeout` for a job that has not
        completed, `phift.errors.NotFound` where it has no such output, and as `phift.jobs.download.fetch` does.
        """
        status = self.status()
        if status in ENDED_BADLY and not partial:
            kind, ended = (errors.JobFailed, "failed") if status == "Failed" else (errors.JobCanceled, "was cancelled")
            fix = "`partial=True`, or `phift download --partial`, takes what outputs and logs it left"
            raise kind(f"The job {ended}, so nothing of it is whole.", where=f"job {self.name}", fix=fix, job=self.name)
        if status not in ENDED:
            self.raise_for_end()
        steps = [] if output and status == "Completed" else [(step.name, step.run_id) for step in self.steps()]
        return fetch_outputs(self._clients, self.tracking, self.entity(), output, steps, Path(folder), on_event)


def list_jobs(
    clients: Clients,
    tag: str,
    *,
    wanted: Callable[[PipelineJob], bool] | None = None,
    most: int | None = None,
    archived: bool = False,
) -> list[PipelineJob]:
    """Return the jobs that have a tag of this name, newest first, as the SDK's entities.

    - **wanted**: which of them; left out, each.
    - **most**: how many are enough: further pages are left alone while those that are read are in order themselves.
    - **archived**: whether those are listed too.
    """

    def chosen(listed: list[Any]) -> list[PipelineJob]:
        return [job for job in listed if job is not None and (wanted is None or wanted(job))]

    def enough(listed: list[Any]) -> bool:
        times = [created_at(job) for job in listed if job is not None]
        return most is not None and len(chosen(listed)) >= most and times == sorted(times, reverse=True)

    options = {"list_view_type": "All"} if archived else {}
    with errors.azure_errors("jobs"):
        found = listed(clients.workspace.jobs.list(tag=tag, **options), "jobs", enough)
    return sorted(chosen(found), key=created_at, reverse=True)[:most]


def created_at(job: PipelineJob) -> datetime:
    """Return when a job was submitted; of one that does not say it, the beginning of time."""
    made = getattr(job.creation_context, "created_at", None)
    return made if isinstance(made, datetime) else datetime.min.replace(tzinfo=UTC)


def find_job(clients: Clients, name: str) -> tuple[FineTuneJob | None, str]:
    """Return the newest attempt of a job that is running or completed, or None, and the first name that no job has."""
    newest = None
    for attempt in range(1, _MOST_ATTEMPTS + 1):
        job = FineTuneJob(name if attempt == 1 else f"{name}-{attempt}", clients)
        try:
            status = job.status()
        except errors.NotFound:
            return newest, job.name
        if status not in ENDED_BADLY:
            newest = job
    what = f"There are {_MOST_ATTEMPTS} attempts of this job already."
    raise errors.ServiceError(what, where=f"job {name}", fix="look at why they fail, and change the run")


def submit_job(clients: Clients, name: str, build: Callable[[str], PipelineJob], *, fresh: bool = False) -> FineTuneJob:
    """Submit a job, once: the one that runs or has completed under its name is found instead.

    A job that failed or was cancelled keeps its name for ever, so the next attempt is called ``<name>-2`` and so on.
    The attempt is chosen once, before the job is built: of two callers that choose the same one at the same time the
    slower one finds the faster one's job.

    - **build**: makes the job, called with the attempt's name where none is there.
    - **fresh**: submit a new attempt even if one is there.
    """
    existing, free = find_job(clients, name)
    if existing is not None and not fresh:
        return existing
    job, ticket = build(free), uuid.uuid4().hex
    job.properties = {**(job.properties or {}), _SUBMISSION: ticket}
    try:
        with quiet_uploads(), errors.azure_errors(f"job {free}"):
            made = clients.workspace.jobs.create_or_update(job)
    except errors.ServiceError as refused:
        # A job's name used again with anything else in the body is 400 JobPropertyImmutable, and a property is never
        # changed (azure-docs issue 122250; azure-ai-ml 1.35.2, _job_operations.py).
        if not (isinstance(refused, errors.Conflict) or refused.status == 400):
            raise
        winner = FineTuneJob(free, clients)
        with suppress(errors.NotFound):
            theirs = texts(winner.entity().tags, "job.tags").get(RUN_TAG)
            if theirs == texts(job.tags, "job.tags").get(RUN_TAG):
                ended_badly = winner.status() in ENDED_BADLY  # while this one was built, which takes minutes
                return submit_job(clients, name, build, fresh=fresh) if ended_badly else winner
        raise  # it was not about the same job of another caller
    existed = texts(made.properties, "job.properties").get(_SUBMISSION) != ticket
    if not existed:
        run = texts(job.tags, "job.tags").get(RUN_TAG, "")
        extra = {"phift_event": "submitted", "phift_job": free, "phift_run": run}
        logger.info("Job %s: submitted", errors.in_a_line(free), extra=extra)
    return FineTuneJob(free, clients, existed=existed)
