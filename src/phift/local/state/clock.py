"""The time of a local workspace: the machine's, with the service's waits or without, or one that tests move."""

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
    "job-delete": 5,
    "job-start": 120,
}
"""Seconds on a manual clock. Computes and endpoints: recorded traffic of the SDK's own tests (azure-sdk-for-python,
sdk/ml/azure-ai-ml/tests/recordings, 2026-11); the others are of the right order and no more."""


class Clock:
    """Tells the time, and makes operations take some.

    ``real`` is the machine's time; ``fast`` the same, and nothing waits; ``manual`` stands still until `advance`. What
    takes time on Azure takes it there too: an endpoint is Creating until the clock has been moved on by `DURATIONS`,
    and tokens expire when it has passed their end.
    """

    def __init__(self, speed: Speed = "real") -> None:
        self.speed = speed
        self._moved = threading.Condition()
        self._still = time.time()
        self._sleepers: dict[threading.Thread, float] = {}  # each with the time at which it wakes up

    def now(self) -> float:
        """Return the seconds since 1970."""
        return self._still if self.speed == "manual" else time.time()

    def advance(self, seconds: float) -> float:
        """Move a manual clock on, let whoever sleeps on it look again, and return what it shows then."""
        with self._moved:
            self._still += seconds
            self._moved.notify_all()
            return self._still

    def spend(self, kind: str, given_up: Callable[[], bool] = lambda: False) -> None:
        """Let an operation take its time.

        - **given_up**: looked at when the clock is moved, be it by nothing; True ends the wait.
        """
        if self.speed == "real":
            time.sleep(0.2)  # enough to be seen in between
        elif self.speed == "manual":
            thread = threading.current_thread()
            with self._moved:
                self._sleepers[thread] = self._still + DURATIONS[kind]
                self._moved.wait_for(lambda: not self.holds(thread) or given_up())
                self._sleepers.pop(thread, None)

    def holds(self, thread: threading.Thread) -> bool:
        """Tell whether a thread sleeps on this clock and has not been waited for long enough."""
        with self._moved:
            return self._sleepers.get(thread, 0) > self._still

    def reset(self) -> None:
        """Set a manual clock to the machine's time; whoever sleeps on it wakes up."""
        with self._moved:
            self._still = time.time()
            self._sleepers.clear()
            self._moved.notify_all()
