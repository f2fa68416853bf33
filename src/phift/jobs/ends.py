"""How a job and its steps stand, and how they end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Status: TypeAlias = Literal[
    "NotStarted",
    "Starting",
    "Provisioning",
    "Preparing",
    "Queued",
    "Running",
    "Finalizing",
    "CancelRequested",
    "NotResponding",
    "Paused",
    "Unknown",
    "Completed",
    "Failed",
    "Canceled",
]
"""The statuses that runs are known to have (azure-ai-ml 1.35.2, JobStatus of its REST models and of its run history).

A service may have others, so what it says is a ``str`` everywhere, and is passed on as it is.
"""

ENDED_BADLY = frozenset[str]({"Failed", "Canceled"})
ENDED = ENDED_BADLY | {"Completed"}
"""The statuses a run can end in; `jobs.stream` of the SDK returns silently for all but Failed.

It takes NotResponding and Paused for ends too (``TERMINAL_STATUSES`` of its run history): a run may go on from both.
"""
WAITING = frozenset[str]({"NotStarted", "Queued", "Preparing", "Provisioning", "Starting"})
"""Those before a node works on it."""


@dataclass(frozen=True)
class Step:
    """A child of the pipeline job."""

    name: str
    run_id: str
    status: str
