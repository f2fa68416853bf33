"""One poller of a job for all who listen to it in this process: handlers, and ``async for`` of any event loop.

While somebody listens, one daemon thread follows the job; what it was told is kept once, and each listener knows how
far it has come in that. Handlers are called in a second thread, which is there while there is something to tell; one
that blocks keeps that thread to itself, and the others go on in another one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Self
from weakref import WeakValueDictionary

from phift import errors
from phift.azure.clients import Clients
from phift.jobs.ends import ENDED
from phift.jobs.events import Idle, JobEvent
from phift.jobs.following import Cursor, Followed, looks

logger = logging.getLogger(__name__)

_BLOCKED = 1.0  # seconds after which a handler's call is not waited for


class Watch:
    """A job, and all who listen to it in this process; see `phift.FineTuneJob.watch`.

    It follows the job while somebody listens. Who comes late is told first what was told to others before.
    """

    def __init__(self, job: Followed) -> None:
        self._job = job
        self._changed = threading.Condition()  # guards all that follows
        self._told: list[JobEvent] = []
        self._cursor: Cursor | None = None
        self._error: Exception | None = None
        self._poller: threading.Thread | None = None
        self._stop = threading.Event()  # of the poller
        self._iterations: set[_Iteration] = set()
        self._handlers: dict[Listening, None] = {}  # in the order of their coming
        self._calls: dict[threading.Thread, float] = {}  # who calls handlers, and when the call under way began

    def listen(self, handler: Callable[[JobEvent], None]) -> Listening:
        """Have a handler called with each event, in a thread that is not the caller's; an error in it is logged once.

        A handler that blocks keeps no other one from hearing what happens.
        """
        listening = Listening(self, handler)
        with self._changed:
            self._handlers[listening] = None
            self._start()
            self._call_handlers()
        return listening

    async def events(self, *, idle: float | None = None) -> AsyncGenerator[JobEvent, None]:
        """Yield what happens until the job has ended; no thread waits for it.

        - **idle**: after so many seconds in which nothing has happened there is a `phift.jobs.events.Idle`.

        Raises as `phift.FineTuneJob.follow` does.
        """
        iteration, told = _Iteration(), 0
        with self._changed:
            self._iterations.add(iteration)
            self._start()
        try:
            while True:
                with self._changed:
                    new, is_over, error, seen = self._told[told:], self._is_over, self._error, self._cursor
                for event in new:
                    yield event
                told += len(new)
                if error:
                    raise error.with_traceback(None)  # that of another listener's raising
                if is_over:
                    return
                if not await iteration.woken(idle):
                    seen = seen or Cursor(job=self._job.name)
                    yield Idle(job=seen.job, run=seen.run, status=seen.status)
        finally:
            with self._changed:
                self._iterations.discard(iteration)
                self._stop_for_nobody()

    def heard_all(self, listening: Listening, timeout: float | None) -> bool:
        """Wait until a handler has heard all of a job that has ended; see `Listening.wait`."""
        with self._changed:
            is_over = self._changed.wait_for(
                lambda: self._is_over and listening.told == len(self._told) and not listening.busy, timeout
            )
            if is_over and self._error:
                raise self._error.with_traceback(None)
        return is_over

    def leave(self, listening: Listening) -> None:
        """Tell a handler no more; the last listener to leave ends the following, until another one comes."""
        with self._changed:
            self._handlers.pop(listening, None)
            self._stop_for_nobody()

    @property
    def _is_over(self) -> bool:
        return self._error is not None or (self._cursor is not None and self._cursor.status in ENDED)

    def _start(self) -> None:
        if self._poller is None or not self._poller.is_alive():  # as it is after a fork
            self._error, self._stop = None, threading.Event()
            self._poller = threading.Thread(target=self._poll, args=(self._stop,), name="phift-watch", daemon=True)
            self._poller.start()

    def _stop_for_nobody(self) -> None:
        if not self._iterations and not self._handlers:
            self._stop.set()
            self._poller = None

    def _poll(self, stop: threading.Event) -> None:
        try:
            for events, cursor in looks(self._job, self._cursor, stop=stop, idle=_BLOCKED):
                with self._changed:
                    if stop.is_set():  # who has come since has a poller of their own
                        return
                    self._cursor = cursor
                    new = [event for event in events if not isinstance(event, Idle)]
                    self._told += new
                    if new:
                        self._wake()
                    self._call_handlers()
        except Exception as error:  # noqa: BLE001 - it is raised where somebody listens
            with self._changed:
                if stop.is_set():
                    return
                self._error = error
                name, why = errors.in_a_line(self._job.name), type(error).__name__
                logger.warning("Job %s is no longer followed: %s", name, why)
                self._wake()
        while not stop.is_set():  # some may still have to hear what there was, past one that blocks
            with self._changed:
                if self._next_to_tell() is None and not stop.is_set():
                    self._poller = None
                    return
                self._call_handlers()
            stop.wait(_BLOCKED)

    def _wake(self) -> None:
        for iteration in self._iterations:
            iteration.wake()
        self._changed.notify_all()

    def _next_to_tell(self) -> Listening | None:
        return next((each for each in self._handlers if not each.busy and each.told < len(self._told)), None)

    def _call_handlers(self) -> None:
        """See to it that there is a thread that calls handlers and is not held up by one, if there is need of one."""
        blocked = time.monotonic() - _BLOCKED
        if self._next_to_tell() and all(begun < blocked for begun in self._calls.values()):
            caller = threading.Thread(target=self._tell_handlers, name="phift-tell", daemon=True)
            self._calls[caller] = time.monotonic()
            caller.start()

    def _tell_handlers(self) -> None:
        me = threading.current_thread()
        try:
            while True:
                with self._changed:
                    listening = self._next_to_tell()
                    if listening is None:
                        return
                    event, listening.busy = self._told[listening.told], True
                    self._calls[me] = time.monotonic()
                try:
                    listening.tell(event)
                finally:
                    with self._changed:
                        listening.told += 1
                        listening.busy = False
                        self._changed.notify_all()
        finally:
            with self._changed:
                self._calls.pop(me, None)


class Listening:
    """A handler that hears of a job until the job ends or this is closed, which the end of a ``with`` block does."""

    def __init__(self, watch: Watch, handler: Callable[[JobEvent], None]) -> None:
        self._watch, self.tell = watch, errors.isolated(handler)
        self.told, self.busy = 0, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Tell the handler no more; a call that is under way goes on."""
        self._watch.leave(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended and the handler has heard all of it, and return whether that is so.

        Raises what ended the following, as `phift.FineTuneJob.follow` does.
        """
        return self._watch.heard_all(self, timeout)


class _Iteration:
    """An ``async for`` over a job's events, in its loop."""

    def __init__(self) -> None:
        self._loop, self._event = asyncio.get_running_loop(), asyncio.Event()

    def wake(self) -> None:
        with suppress(RuntimeError):  # its loop is closed, and nobody iterates any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def woken(self, timeout: float | None) -> bool:
        """Wait for the next `wake`, or so many seconds, and return whether there was one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._event.wait()
        woken = self._event.is_set()
        self._event.clear()
        return woken


_watches: WeakValueDictionary[tuple[Clients, str], Watch] = WeakValueDictionary()
_looking_up = threading.Lock()


def watch(job: Followed) -> Watch:
    """Return the one watch of a job for these clients; see `phift.FineTuneJob.watch`."""
    with _looking_up:
        found = _watches.get((job.clients, job.name))
        if found is None:
            found = _watches[job.clients, job.name] = Watch(job)
        return found
