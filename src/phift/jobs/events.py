"""What happens to a job, one type for each kind of event."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias

from phift.jobs.ends import advice
from phift.jobs.tracking import MetricPoint, plain_number

RUN_TAG = "phift.fingerprint"  # of a job: which run it is of


@dataclass(frozen=True, kw_only=True)
class _OfJob:
    """What every event of a job says.

    - **job**: its name.
    - **run**: the fingerprint of the run that it is of, or an empty text where the job does not say it.
    - **time**: when it was noticed, in UTC; two events that differ in nothing else are equal.
    """

    kind: ClassVar[str]

    job: str
    run: str = field(default="", compare=False)
    time: datetime = field(default_factory=partial(datetime.now, UTC), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return {"event": self.kind, **asdict(self), "time": self.time.isoformat()}


@dataclass(frozen=True, kw_only=True)
class StatusChanged(_OfJob):
    """The job has another status; the last event of a job is of one of `phift.jobs.job.ENDED`."""

    kind: ClassVar[Literal["status"]] = "status"
    status: str

    @property
    def advice(self) -> str:
        """What is to be done about a status in which a job may stay for good; empty for others."""
        return advice(self.status)


@dataclass(frozen=True, kw_only=True)
class StepChanged(_OfJob):
    """A step of the job has another status.

    - **run_id**: the step's own name in the workspace.
    """

    kind: ClassVar[Literal["step"]] = "step"
    step: str
    status: str
    run_id: str = ""


@dataclass(frozen=True, kw_only=True)
class MetricLogged(_OfJob):
    """The job has logged a loss; ``metric.timestamp`` says when."""

    kind: ClassVar[Literal["metric"]] = "metric"
    metric: MetricPoint

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON: what is no finite number is text, as "NaN"."""
        values = super().to_dict()
        values["metric"]["value"] = plain_number(self.metric.value)
        return values


@dataclass(frozen=True, kw_only=True)
class NoAnswer(_OfJob):
    """The service has not answered for a while and is asked again; told once until it answers.

    - **what**: what went wrong.
    """

    kind: ClassVar[Literal["unreachable"]] = "unreachable"
    what: str


@dataclass(frozen=True, kw_only=True)
class Idle(_OfJob):
    """Nothing has happened for as long as was asked for; the job goes on.

    - **status**: the job's.
    """

    kind: ClassVar[Literal["idle"]] = "idle"
    status: str


JobEvent: TypeAlias = StatusChanged | StepChanged | MetricLogged | NoAnswer | Idle
"""Whatever may happen to a job."""
