"""How far a job has come: its events put together, for whatever shows it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from phift.jobs.ends import ENDED
from phift.jobs.events import Idle, JobEvent, MetricLogged, NoAnswer, StatusChanged, StepChanged, StillQueued

LOSSES = ("loss", "eval_loss")
_LONGEST_LIFE = timedelta(days=366)  # of what is said to be left


@dataclass
class StepProgress:
    """A step of the job; **since** and **until** are known of what was seen to begin and to end."""

    name: str
    status: str
    since: datetime | None = None
    until: datetime | None = None


@dataclass
class JobProgress:
    """What is known of a job from the events that were taken in.

    - **epochs**, **max_steps**: how long it trains, where the job says it; ``max_steps`` counts if it is not 0.
    - **created**: when it was submitted.
    - **points**: of each loss, the steps and the values that are numbers, in the order of logging.
    - **silence**: what went wrong, while the service does not answer; **waits**: why, while its queue does not move.
    """

    job: str
    epochs: float = 0.0
    max_steps: int = 0
    created: datetime | None = None
    status: str = ""
    ended: datetime | None = None
    steps: dict[str, StepProgress] = field(default_factory=dict)
    points: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: {name: [] for name in LOSSES})
    silence: str = ""
    waits: str = ""
    _reached: list[tuple[float, float]] = field(default_factory=list)  # shares of the training, and when, in seconds
    _noticed: datetime | None = None

    def take(self, event: JobEvent) -> None:
        """Take in an event."""
        if isinstance(event, Idle):
            return
        self.silence = event.what if isinstance(event, NoAnswer) else ""
        match event:
            case StillQueued():
                self.waits = " ".join([*event.known, event.fix])
            case StatusChanged():
                self.epochs, self.max_steps = event.epochs or self.epochs, event.max_steps or self.max_steps
                self.created = event.created or self.created
                self.status, self.waits = event.status, ""
                if event.status in ENDED:
                    self.ended = event.time
            case StepChanged():
                self.waits = ""
                seen = self.steps.get(event.run_id or event.step)
                step = self.steps.setdefault(event.run_id or event.step, StepProgress(event.step, event.status))
                if seen and event.status == "Running":
                    step.since = event.time
                if seen and event.status in ENDED:
                    step.until = event.time
                step.status = event.status
            case MetricLogged():
                self._take_metric(event)

    def _take_metric(self, event: MetricLogged) -> None:
        point = event.metric
        if not math.isfinite(point.value):
            return
        if point.name in self.points:
            self.points[point.name].append((point.step, point.value))
        share = None
        if self.max_steps > 0:
            share = point.step / self.max_steps if point.name == "loss" else None
        elif point.name == "epoch" and self.epochs > 0:
            share = point.value / self.epochs
        if share is not None:
            self._reached.append((min(1.0, share), point.timestamp / 1000))
            self._noticed = event.time

    @property
    def share(self) -> float | None:
        """How much of the training is done, 0 to 1; None before it is known."""
        return self._reached[-1][0] if self._reached else None

    def left(self, now: datetime | None = None) -> timedelta | None:
        """Return how long the training will take from now if it goes on as it has so far; None where nobody knows."""
        if len(self._reached) < 2 or self._noticed is None or self.status in ENDED:
            return None
        (first, began), (share, reached) = self._reached[0], self._reached[-1]
        if share <= first or reached <= began or share >= 1:
            return None
        # Only differences of the cluster's clock are taken, and of this one's.
        whole = timedelta(seconds=min((1 - share) * (reached - began) / (share - first), _LONGEST_LIFE.total_seconds()))
        return max(timedelta(), whole - ((now or datetime.now(UTC)) - self._noticed))

    def elapsed(self, now: datetime | None = None) -> timedelta | None:
        """Return the time since it was submitted, until its end was noticed."""
        if self.created is None:
            return None
        return max(timedelta(), (self.ended or now or datetime.now(UTC)) - self.created)


def in_words(time: timedelta, units: int = 2) -> str:
    """Return a time in its largest units, as ``3 min 5 s``."""
    seconds = max(0, round(time.total_seconds()))  # one clock may be behind the other
    days, hours, minutes = seconds // 86_400, seconds // 3600 % 24, seconds // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds % 60, "s")]
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(
        f"{count} {unit}" for count, unit in parts[first : first + units] if count or first == len(parts) - 1
    )
