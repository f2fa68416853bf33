"""A request that a scorer works on, and what it says meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

Json = dict[str, Any]


class ScorerFailed(RuntimeError):
    """The scoring process did not start, ended, or refused a request."""


class ScorerGone(ScorerFailed):
    """The scoring process was ended, on purpose, before it answered: whoever took its place can be asked."""


class ScorerTimeout(TimeoutError):
    """The scoring process did not answer in time."""


class Pending(Iterator[Json]):
    """The pieces of an answer as they are made, where the request asked for a stream, and then the reply itself.

    `close` may be called from any thread; who waits for the next piece is woken by it.

    - **seconds**: how long the reply may take, from now on.
    - **take_back**: tells the scorer that the rest is not wanted.
    """

    def __init__(self, seconds: float, take_back: Callable[[], None] = lambda: None) -> None:
        self._late = f"No answer within {seconds:.0f} s."
        self._end = time.monotonic() + seconds
        self._take_back = take_back
        self._said: SimpleQueue[Json | Exception | None] = SimpleQueue()
        self._over = False

    def say(self, *said: Json | Exception) -> None:
        """Hand on what the scorer says, or the error with which it ends."""
        for each in said:
            self._said.put(each)

    def __next__(self) -> Json:
        """Wait for what is said next; raises `ScorerTimeout`, and `ScorerFailed` where the scorer ends."""
        if self._over:
            raise StopIteration
        try:
            said = self._said.get(timeout=max(0, self._end - time.monotonic()))
        except Empty:
            self.close()
            raise ScorerTimeout(self._late) from None
        if said is None:
            raise StopIteration
        if isinstance(said, Exception):
            self._over = True
            raise said
        self._over = "piece" not in said
        return said

    def reply(self) -> Json:
        """Wait for the reply; raises as `__next__`."""
        *_, last = self
        return last

    def close(self) -> None:
        """Give up what has not been said yet; twice does no harm."""
        if not self._over:
            self._over = True
            self._take_back()
            self._said.put(None)
