"""Many conversations, several at once, and no more than the deployment takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Literal, NoReturn, Self, TypeVar

from phift import errors
from phift.azure.threads import SideBySide
from phift.serving.chat import Reply

T = TypeVar("T")

_LONGEST_WITHOUT_ANSWER = 300.0  # seconds in which none of them is answered, after which a busy deployment is given up
_PAUSE, _LONGEST_PAUSE = 0.1, 8.0  # seconds before a busy deployment is asked again
_ANSWERS_FOR_ONE_MORE = 10  # of each that is let in already
_SECONDS_BETWEEN_SLOWDOWNS = 0.25  # what is refused at the same moment is refused for one reason
# What stands in the way of one stands in the way of all.
_OF_ALL = (errors.AuthenticationError, errors.AccessDenied, errors.NotFound)
_MOST_UNREACHABLE = 5  # times in a row beyond those asked at once, which one fault may cut off together


@dataclass(frozen=True, kw_only=True)
class ChatProgress:
    """One more conversation of many has been answered, or has failed.

    - **done**: how many are over, the failed ones among them.
    """

    kind: ClassVar[Literal["chat"]] = "chat"

    endpoint: str
    done: int
    failed: int
    total: int
    time: datetime = field(default_factory=partial(datetime.now, UTC), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return {"event": self.kind, **asdict(self), "time": self.time.isoformat()}


def ask_all(
    questions: Sequence[Callable[[Callable[[], None]], Reply]],
    *,
    endpoint: str,
    concurrency: int,
    tell: Callable[[ChatProgress], None],
) -> list[Reply | errors.PhiftError]:
    """Return what each question was answered, or the error that it came to, in the questions' order.

    A deployment that is busy is asked with fewer at once, and again with more when it answers. Whatever refuses one for
    a reason that holds for all, such as a wrong key, ends it: what has not been asked yet gets the same error. So does
    a deployment that has answered none of them for five minutes.

    - **questions**: each asks, and calls what it is handed where the deployment is busy.
    """
    limit = ConcurrencyLimit(concurrency, f"endpoint {endpoint}")
    failed = 0
    with SideBySide(concurrency) as side, limit:
        futures = [side.begin(limit.answer, partial(ask, limit.slow_down)) for ask in questions]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                failed += isinstance(future.result(), errors.PhiftError)
                tell(ChatProgress(endpoint=endpoint, done=done, failed=failed, total=len(futures)))
        finally:
            if stop := getattr(tell, "stop_drawing", None):
                stop()
        return [future.result() for future in futures]


class _Busy(Exception):
    """The deployment has too much to do, and is to be asked later."""


class ConcurrencyLimit:
    """Lets in as many as the deployment takes, at most so many: half as many when it is busy, then one more each time.

    A context manager, at whose end nobody is asked any more.

    - **most**: at once.
    - **place**: what is asked, as errors name it.
    """

    def __init__(self, most: int, place: str) -> None:
        self._most = self._allowed = most
        self._place = place
        self._inside = self._good = self._unreachable = self._late = 0
        self._slowed, self._answered = 0.0, time.monotonic()
        self._free = threading.Condition()
        self._ended = False
        self._refused: errors.PhiftError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        with self._free:
            self._ended = True
            self._free.notify_all()

    def answer(self, ask: Callable[[], T]) -> T | errors.PhiftError:
        """Ask when it is let in, as often as the deployment is busy, which `slow_down` says."""
        pause = _PAUSE
        while self._let_in():
            began = time.monotonic()
            try:
                reply = ask()
            except _Busy:
                pass
            except errors.PhiftError as error:
                return self._refuse_all(error) if isinstance(error, _OF_ALL) or self._is_gone(error) else error
            else:
                self._speed_up()
                return reply
            finally:
                self._let_out()
            if self._is_silent:
                what = "The deployment is busy, and has answered none of these questions for a while."
                return self._refuse_all(errors.Throttled(what, where=self._place, fix="ask later, or fewer at once"))
            time.sleep(pause)
            pause = _PAUSE if self._answered > began else min(2 * pause, _LONGEST_PAUSE)
        return self._refused or errors.Throttled("It was not asked any more.", where=self._place)

    def slow_down(self) -> NoReturn:
        """Let in half as many from now on, and have whoever found the deployment busy wait outside."""
        with self._free:
            now = time.monotonic()
            if now - self._slowed >= _SECONDS_BETWEEN_SLOWDOWNS:
                self._slowed, self._good = now, 0
                self._allowed = max(1, self._allowed // 2)
        raise _Busy

    def _is_gone(self, error: errors.PhiftError) -> bool:
        """Tell whether nothing answers any more: a server that refuses one question is there for the others."""
        with self._free:
            if isinstance(error, errors.ServiceUnreachable):
                self._unreachable += 1
            elif isinstance(error, errors.WaitTimeout):
                self._late += 1
            elif isinstance(error, errors.ScoringError):
                self._unreachable = self._late = 0
            hangs = self._late > self._most and self._is_silent  # more than were asked together
            return hangs or self._unreachable >= self._most + _MOST_UNREACHABLE

    def _refuse_all(self, error: errors.PhiftError) -> errors.PhiftError:
        with self._free:
            self._refused = error
            self._free.notify_all()
        return error

    def _speed_up(self) -> None:
        with self._free:
            self._answered, self._unreachable, self._late = time.monotonic(), 0, 0
            self._good += 1
            if self._allowed < self._most and self._good >= _ANSWERS_FOR_ONE_MORE * self._allowed:
                self._good = 0
                self._allowed += 1
                self._free.notify()

    def _let_in(self) -> bool:
        """Wait until there is room, and return whether there was before all ended."""
        with self._free:
            while self._inside >= self._allowed and not self._over:
                self._free.wait()
            if not self._over:
                self._inside += 1
            return not self._over

    def _let_out(self) -> None:
        with self._free:
            self._inside -= 1
            self._free.notify(self._most if self._over else 1)

    @property
    def _is_silent(self) -> bool:
        return time.monotonic() - self._answered > _LONGEST_WITHOUT_ANSWER

    @property
    def _over(self) -> bool:
        return self._ended or self._refused is not None
