"""A job's progress in words, for whatever shows it."""

from __future__ import annotations

from datetime import UTC, datetime

from phift.jobs.progress import JobProgress, in_words

_MARKS = {"Completed": "✓", "Failed": "✗", "Canceled": "✗", "Running": "▶", "Finalizing": "▶"}


def facts_of(progress: JobProgress, now: datetime | None = None) -> list[str]:
    """Return what a job is at: its status, since when, how much of the training is done, and how long it will take."""
    now = now or datetime.now(UTC)
    elapsed, left, share = progress.elapsed(now), progress.left(now), progress.share
    facts = [progress.status or "…", *([in_words(elapsed)] if elapsed is not None else [])]
    if share is not None and progress.ended is None:
        facts.append(f"training {share:.0%}" + (f", about {in_words(left, 1)} left" if left is not None else ""))
    return facts


def losses_of(progress: JobProgress) -> list[str]:
    """Return the last value of each loss."""
    return [f"{name} {number(points[-1][1])}" for name, points in progress.points.items() if points]


def steps_of(progress: JobProgress, now: datetime | None = None) -> list[tuple[str, str, str]]:
    """Return of each step a mark for its status, its name, and how long it took where that was seen."""
    now, found = now or datetime.now(UTC), []
    for step in progress.steps.values():
        told = "" if step.status in (*_MARKS, "NotStarted") else step.status
        if step.since is not None:
            told = in_words((step.until or now) - step.since)
        found.append((_MARKS.get(step.status, "·"), step.name, told))
    return found


def number(value: float) -> str:
    """Return a value of a metric with the digits that say something; a learning rate is not 0."""
    return f"{value:.4g}" if 0 < abs(value) < 0.001 or abs(value) >= 10_000 else f"{value:.4f}"
