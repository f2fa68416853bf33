"""The time of a local workspace: the machine's, with the service's waits or without, or one that tests move.

A workspace whose clock is ``manual`` stands still. What takes time on Azure takes it there too, on that clock: an
endpoint is Creating until somebody has moved it on by `DURATIONS`, and tokens expire when it has passed their end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal

Speed = Literal["real", "fast", "manual"]

DURATIONS: Mapping[str, float] = {
    "compute-create": 10,
    "compute-delete": 10,
    "deployment-create": 480,
    "deployment-delete": 60,
    "endpoint-create": 50,
    "endpoint-delete": 60,
    "job-cancel": 5,
    "job-start": 120,
}
"""Seconds on a manual clock. Computes and endpoints: recorded traffic of the SDK's own tests (azure-sdk-for-python,
sdk/ml/azure-ai-ml/tests/recordings, 2026-11); the others are of the right order and no more."""

_REAL = 0.2
"""Seconds that the machine's clock gives to each of them: enough to be seen in between."""


class Clock:
    """Tells the time, and makes operations take some.

    - **speed**: ``real``: the machine's time; ``fast``: the same, and nothing waits; ``manual``: it stands still until
      `advance` moves it.
    """

    def __init__(self, speed: Speed = "real") -> None:
        self.speed = speed
        self._moved = threading.Condition()
        self._still = time.time()
        self._generation = 0
        self._sleepers: dict[threading.Thread, float] = {}

    def now(self) -> float:
        """Return the seconds since 1970."""
        return self._still if self.speed == "manual" else time.time()

    def advance(self, seconds: float) -> float:
        """Move a manual clock on, and return what it shows then."""
        with self._moved:
            self._still += seconds
            self._moved.notify_all()
            return self._still

    def spend(self, kind: str, given_up: Callable[[], bool] = lambda: False) -> None:
        """Let an operation take its time.

        - **given_up**: looked at when the clock is moved, and when `wake` is called; True ends the wait.
        """
        if self.speed == "real":
            time.sleep(_REAL)
        elif self.speed == "manual":
            with self._moved:
                end, generation = self._still + DURATIONS[kind], self._generation
                self._sleepers[threading.current_thread()] = end
                self._moved.wait_for(lambda: self._still >= end or self._generation != generation or given_up())
                del self._sleepers[threading.current_thread()]

    def holds(self, thread: threading.Thread) -> bool:
        """Tell whether a thread sleeps on this clock and has not been waited for long enough."""
        with self._moved:
            return self._sleepers.get(thread, 0) > self._still

    def wake(self) -> None:
        """Let whoever waits look whether it has been given up."""
        with self._moved:
            self._moved.notify_all()

    def reset(self) -> None:
        """Set a manual clock to the machine's time; whoever sleeps on it wakes up."""
        with self._moved:
            self._still = time.time()
            self._generation += 1
            self._moved.notify_all()
