"""Calls side by side in threads that nobody has to wait for.

A `concurrent.futures.ThreadPoolExecutor` is left only when every thread is done, and the interpreter waits for its
threads once more at the exit: Ctrl-C would take effect when the last service has answered.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_PATIENCE = 30.0  # seconds


class SideBySide:
    """Runs calls in threads, as a context manager: the end of the block waits for all of them.

    Where the block is left by an error, calls that have not begun never do; those that have are waited for, since they
    may rely on what is around the block. Where it is left by Ctrl-C, or whatever else is no `Exception`, they are left
    to themselves until they or the process end.

    - **most**: how many calls run at the same time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads = 0
        self._begun: list[Future[Any]] = []

    def begin(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a call run as soon as there is a thread; its result, or what it raised, is in the returned future."""
        future: Future[T] = Future()
        self._begun.append(future)
        with self._lock:
            self._waiting.append((future, partial(call, *args, **kwargs)))
            if self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._work, daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                future, call = self._waiting.popleft()
            _settle(future, call)

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                wait(self._begun)
        finally:
            with self._lock:  # no more calls begin
                dropped = {future for future, _ in self._waiting}
                self._waiting.clear()
        if kind is not None and issubclass(kind, Exception):
            wait([future for future in self._begun if future not in dropped])


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    """Carry out a call in this thread, and keep in a future what it returns or raises."""
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the result is asked for
        future.set_exception(error)


@contextmanager
def taken_soon(lock: threading.Lock) -> Iterator[None]:
    """Hold a lock for the block, or go on without it after half a minute.

    Whoever holds it may have been left behind by Ctrl-C, waiting for a service that does not answer.
    """
    taken = lock.acquire(timeout=_PATIENCE)
    try:
        yield
    finally:
        if taken:
            lock.release()
