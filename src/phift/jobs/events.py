"""What happens to a job, one type for each kind of event."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

from phift.azure.answers import mapping
from phift.jobs.ends import advice
from phift.jobs.tracking import MetricPoint, plain_number

if TYPE_CHECKING:
    from azure.ai.ml.entities import PipelineJob

RUN_TAG = "phift.fingerprint"  # of a job: which run it is of
LENGTH = "phift.length"  # a job's property: epochs and steps that it trains, as ``3.0/-1``


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
    """The job has another status; the last event of a job is of one of `phift.jobs.job.ENDED`.

    - **created**: when it was submitted, in UTC, where the service says it.
    - **epochs**, **max_steps**: how long it trains, as phift noted of it, or 0; the latter counts before the former.
    """

    kind: ClassVar[Literal["status"]] = "status"
    status: str
    created: datetime | None = field(default=None, compare=False)
    epochs: float = field(default=0.0, compare=False)
    max_steps: int = field(default=0, compare=False)

    @classmethod
    def of(cls, job: str, run: str, status: str, entity: PipelineJob) -> Self:
        """Return the event for a job as the SDK has it."""
        epochs, _, steps = str(mapping(getattr(entity, "properties", None)).get(LENGTH, "")).partition("/")
        created = getattr(getattr(entity, "creation_context", None), "created_at", None)
        return cls(
            job=job,
            run=run,
            status=status,
            created=created.astimezone(UTC) if isinstance(created, datetime) and created.tzinfo else None,
            epochs=_positive(epochs),
            max_steps=int(_positive(steps)),
        )

    @property
    def advice(self) -> str:
        """What is to be done about a status in which a job may stay for good; empty for others."""
        return advice(self.status)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return {**super().to_dict(), "created": self.created.isoformat() if self.created else None}


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if 0 < number < math.inf else 0.0


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
    """The job has logged a loss, or how many epochs it has trained; ``metric.timestamp`` says when."""

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
class StillQueued(_OfJob):
    """None of the job's steps has been worked on for long; told once until one is.

    - **status**: the job's; **seconds**: for how long that has been noticed.
    - **known**: what is known of why, a sentence each; **fix**: what to do about it.
    """

    kind: ClassVar[Literal["queued"]] = "queued"
    status: str
    seconds: float
    known: tuple[str, ...] = ()
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Idle(_OfJob):
    """Nothing has happened for as long as was asked for; the job goes on.

    - **status**: the job's.
    """

    kind: ClassVar[Literal["idle"]] = "idle"
    status: str


JobEvent: TypeAlias = StatusChanged | StepChanged | MetricLogged | NoAnswer | StillQueued | Idle
"""Whatever may happen to a job."""
