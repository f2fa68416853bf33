"""How long an operation on an endpoint is waited for, and what is told meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from phift.azure.answers import outcome
from phift.errors import WaitTimeout

_EVERY = 30.0  # seconds between two tellings that it goes on
_LONGEST = 2 * 3600.0  # seconds; the service gives an endpoint's operations 30 minutes

OnWait = Callable[[float], None]
"""Called every half minute with the seconds since the waiting began."""


class Waiting:
    """How long one waits, for all that is done one after the other.

    - **timeout**: seconds until `phift.errors.WaitTimeout`; left out, as long as it takes.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._end = time.monotonic() + (math.inf if timeout is None else timeout)
        self._tell: OnWait | None = None
        self._began = self._next = 0.0

    def telling(self, tell: OnWait | None) -> None:
        """Begin to tell how long it takes; None ends it."""
        self._tell, self._began = tell, time.monotonic()
        self._next = self._began + _EVERY

    @property
    def is_over(self) -> bool:
        """Whether nothing is waited for any longer."""
        return time.monotonic() >= self._end

    def check(self, place: str) -> None:
        """Raise `phift.errors.WaitTimeout` where the time is over."""
        if self.is_over:
            what = f"It was not done within {self._timeout:g} s, the `timeout`."
            raise WaitTimeout(
                what, where=place, fix="give it more time: Azure takes 10 minutes or more for a large model"
            )

    def sleep(self, seconds: float, place: str) -> None:
        """Wait before the next look."""
        self.check(place)
        time.sleep(min(seconds, max(0.0, self._end - time.monotonic())))
        self._tell_if_due()

    def outcome(self, poller: Any, place: str) -> Any:
        """Return what an operation of the service came to, see `phift.azure.answers.outcome`."""
        end = time.monotonic() + _LONGEST
        while not poller.done() and (now := time.monotonic()) < end:
            self.check(place)
            due = self._next if self._tell else math.inf
            poller.wait(max(0.0, min(due, end, self._end) - now))
            self._tell_if_due()
        return outcome(poller, place)

    def _tell_if_due(self) -> None:
        now = time.monotonic()
        if self._tell and now >= self._next:
            self._next = now + _EVERY
            self._tell(now - self._began)
