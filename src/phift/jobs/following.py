"""How a job is followed: one look at a time, by whoever keeps the cursor, or in a loop until the job has ended.

The job's status is asked for every four seconds, since it is one small answer; its steps and its losses cost four
requests and more, and are read where the status has changed or the clients' ``poll_seconds`` have passed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol, Self

from phift import errors
from phift.azure.answers import mapping, text
from phift.azure.clients import Clients
from phift.jobs.capacity import Capacity, QueueWatch, read_capacity
from phift.jobs.ends import ENDED, WAITING, Step
from phift.jobs.events import RUN_TAG, Idle, JobEvent, MetricLogged, NoAnswer, StatusChanged, StepChanged
from phift.jobs.patience import Patience, may_pass
from phift.jobs.tracking import MetricPoint, Tracking

if TYPE_CHECKING:
    from azure.ai.ml.entities import PipelineJob

logger = logging.getLogger(__name__)

STATUS_PERIOD = 4.0
"""Seconds between two looks at the status, so that an end is known within five however long the job takes.

The SDK's ``jobs.stream`` looks less often the longer it goes on, up to once in 59 s (azure-ai-ml 1.35.2,
``_job_ops_helper._get_sorted_filtered_logs`` and ``_wait_before_polling``).
"""
LIVE_METRICS = ("loss", "eval_loss", "epoch")
_PAGE = 500  # points, of which those of the last page are read at every look
_WORTH_A_WORD = 10.0  # seconds of silence; a shorter one passes unnoticed


@dataclass(frozen=True)
class _Read:
    """How far a metric's history has been read.

    - **page**: the token of its last page so far, an empty text for the first one.
    - **before**, **told**: the points before that page, and on it.
    """

    page: str = ""
    before: int = 0
    told: int = 0


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """What has been told of a job so far; `FineTuneJob.look` goes on from it, in this process or in another one.

    - **looked**: when its steps and losses were looked at last, in seconds since 1970.
    - **steps**: the steps' statuses, by their names in the workspace.
    """

    job: str
    run: str = ""
    status: str = ""
    looked: float = 0.0
    steps: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, _Read] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the cursor of such values; raises `phift.errors.ConfigError` for others."""
        try:
            job, run, status, looked = (values[name] for name in ("job", "run", "status", "looked"))
            looked = float(looked)
            steps = {str(step): str(each) for step, each in values["steps"].items()}
            metrics = {
                str(name): _Read(str(read["page"]), int(read["before"]), int(read["told"]))
                for name, read in values["metrics"].items()
            }
        except (AttributeError, KeyError, TypeError, ValueError):
            fix = "hand on what `to_dict()` returned, or none, to be told everything from the beginning"
            raise errors.ConfigError("This is no cursor of a job.", where="cursor", fix=fix) from None
        return cls(job=str(job), run=str(run), status=str(status), looked=looked, steps=steps, metrics=metrics)


class Followed(Protocol):
    """What following asks of a job.

    - **logged**: what this process has logged of it last, so that it logs each change once.
    """

    name: str
    logged: dict[str, str]

    @property
    def clients(self) -> Clients:
        """Whom it is asked of."""

    @property
    def tracking(self) -> Tracking:
        """Reader of its metrics."""

    def entity(self) -> PipelineJob:
        """Return it as the SDK sees it now."""

    def steps(self) -> tuple[Step, ...]:
        """Return its steps."""


@errors.forgetting_locals()
def look(
    job: Followed, cursor: Cursor | None = None, insists: Callable[[], bool] = lambda: True
) -> tuple[list[JobEvent], Cursor]:
    """Return what is new since the cursor, and the cursor to go on from; see `FineTuneJob.look`.

    - **insists**: whether the last points of a job that has ended are worth another look, where a metric cannot be read
      just now; asked then.
    """
    before = cursor or Cursor(job=job.name)
    if before.job != job.name:
        what = f"The cursor is of the job {before.job}."
        raise errors.ConfigError(what, where=f"job {job.name}", fix="keep a cursor for each job")
    entity, now = job.entity(), time.time()
    status = errors.redact(text(entity.status, "job.status"))
    run = errors.redact(str(mapping(entity.tags).get(RUN_TAG, "")))
    # A clock that was set back makes it look too often rather than too seldom.
    fresh = 0 <= now - before.looked < job.clients.poll_seconds
    if status == before.status and (fresh or status in ENDED):
        return [], before
    steps = job.steps()
    events: list[JobEvent] = [
        StepChanged(job=job.name, run=run, step=step.name, status=step.status, run_id=step.run_id)
        for step in steps
        if before.steps.get(step.run_id) != step.status
    ]
    metrics = dict(before.metrics)
    for name in LIVE_METRICS if status not in WAITING else ():
        points, metrics[name] = _new_points(
            job, name, metrics.get(name, _Read()), lambda: status in ENDED and insists()
        )
        events += [MetricLogged(job=job.name, run=run, metric=point) for point in points]
    if status != before.status:
        # The end comes after what led to it, everything else before what follows from it.
        event = StatusChanged.of(job.name, run, status, entity)
        events = [*events, event] if status in ENDED else [event, *events]
    _log(job, events)
    known = {step.run_id: step.status for step in steps}
    return events, Cursor(job=job.name, run=run, status=status, looked=now, steps=known, metrics=metrics)


def _new_points(
    job: Followed, name: str, before: _Read, insists: Callable[[], bool]
) -> tuple[list[MetricPoint], _Read]:
    """Return the points of a metric that nobody has been told of; of what was read, only the last page is read again.

    A metric that cannot be read is no reason to stop following: that is logged once. Where it may be readable later and
    nobody will look again, the error is raised, so that this look does not count.
    """
    try:
        try:
            return _read_on(job, name, before)
        except errors.ServiceError as refused:
            if not before.page or refused.status != 400:
                raise
            # A service need not know a page for ever: all is read once more, and what was told is left out.
            points, read = _read_on(job, name, _Read())
            return points[before.before + before.told :], read
    except errors.PhiftError as error:
        if may_pass(error) and insists():
            raise
        if job.logged.get("metrics") != "unreadable":
            job.logged["metrics"] = "unreadable"
            message = "The metrics of the running job %s cannot be read: %s"
            logger.info(message, errors.in_a_line(job.name), errors.in_a_line(error.what))
        return [], before


def _read_on(job: Followed, name: str, read: _Read) -> tuple[list[MetricPoint], _Read]:
    new: list[MetricPoint] = []
    for token, points in job.tracking.metric_pages(job.name, name, read.page, _PAGE):
        if token != read.page:
            read = _Read(token, read.before + read.told)
        new += points[read.told :]
        read = replace(read, told=max(read.told, len(points)))
    return new, read


def _log(job: Followed, events: list[JobEvent]) -> None:
    """Log each new status, once however many follow the job in this process."""
    name = errors.in_a_line(job.name)
    for event in events:
        match event:
            case StatusChanged():
                key, said, extra = "status", f"Job {name}", {}
            case StepChanged():
                key, said = event.run_id, f"Job {name}, step {errors.in_a_line(event.step)}"
                extra = {"phift_step": event.step}
            case _:
                continue
        if job.logged.get(key) != event.status:
            job.logged[key] = event.status
            extra |= {"phift_event": event.kind, "phift_job": job.name, "phift_run": event.run}
            extra["phift_status"] = event.status
            logger.info("%s: %s", said, errors.in_a_line(event.status), extra=extra)


def looks(
    job: Followed,
    cursor: Cursor | None = None,
    *,
    timeout: float | None = None,
    queue_timeout: float | None = None,
    stop: Event | None = None,
    idle: float | None = None,
) -> Iterator[tuple[list[JobEvent], Cursor]]:
    """Look again and again until the job has ended, and yield what each look returned; see `FineTuneJob.follow`."""
    clients, seen = job.clients, cursor or Cursor(job=job.name)
    started = spoken = time.monotonic()
    patience, told = Patience(clients), False
    queue, capacity = QueueWatch(), partial(read_capacity, clients, job.name, job.steps)

    def insists() -> bool:  # an outage of the metrics must not hide that the job has ended
        return patience.lasts and (timeout is None or time.monotonic() - started <= timeout)

    while not (stop and stop.is_set()):
        begun, events = time.monotonic(), list[JobEvent]()
        try:
            events, seen = look(job, seen, insists)  # one that fails half-way does not count as seen
            queued = queue.look(job.name, seen.status, seen.steps.values(), capacity)
            events += [replace(each, run=seen.run) for each in queued]
            patience.heard()
            told = False
        except (errors.AuthenticationError, errors.ServiceError) as error:
            patience.bear(error)
            if isinstance(error, errors.ServiceError) and patience.silence > _WORTH_A_WORD and not told:
                events, told = [*events, NoAnswer(job=job.name, run=seen.run, what=error.what)], True
        if events:
            spoken = time.monotonic()
            yield events, seen
        if seen.status in ENDED:
            return
        _check_patience(seen, time.monotonic() - started, timeout, queue_timeout, capacity)
        end = begun + min(STATUS_PERIOD, clients.poll_seconds)
        while True:
            now = time.monotonic()
            if idle is not None and now - spoken >= idle:
                spoken = now
                yield [Idle(job=job.name, run=seen.run, status=seen.status)], seen
            _sleep(max(0, min(end, end if idle is None else spoken + idle) - now), stop)
            if time.monotonic() >= end or (stop and stop.is_set()):
                break


def _check_patience(
    seen: Cursor, waited: float, timeout: float | None, queue_timeout: float | None, ask: Callable[[], Capacity]
) -> None:
    # The job itself may count as running while its first step is in the queue.
    queued = all(each in WAITING for each in (seen.steps.values() or [seen.status]))
    what, fix = "", "wait again later: the job goes on; or cancel it"
    if timeout is not None and waited > timeout:
        what = f"The job has not ended after {waited:.0f} s."
    elif queue_timeout is not None and queued and waited > queue_timeout:
        known = ask()
        what, fix = f"No node works on the job after {waited:.0f} s (status {seen.status}). {known}".rstrip(), known.fix
    if what:
        raise errors.WaitTimeout(what, where=f"job {seen.job}", fix=fix)


def _sleep(seconds: float, stop: Event | None) -> None:
    if stop is None:
        time.sleep(seconds)
    else:
        stop.wait(seconds)
