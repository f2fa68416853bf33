"""Calls side by side in threads that nobody has to wait for.

A `concurrent.futures.ThreadPoolExecutor` is left only when every thread is done, and the interpreter waits for its
threads once more at the exit: Ctrl-C would take effect when the last service has answered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
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
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._futures: list[Future[Any]] = []

    def begin(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a call run as soon as there is a thread; its result, or what it raised, is in the returned future."""
        future: Future[T] = Future()
        self._futures.append(future)
        self._waiting.put((future, partial(call, *args, **kwargs)))
        if len(self._futures) <= self._most:
            threading.Thread(target=self._work, daemon=True).start()
        return future

    def _work(self) -> None:
        while entry := self._waiting.get():
            future, call = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
                    future.set_exception(error)

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_raised: object) -> None:
        try:
            if kind is None:
                wait(self._futures)
        finally:
            begun = [future for future in self._futures if not future.cancel()]
            for _ in range(self._most):  # the threads end
                self._waiting.put(None)
        if kind is not None and issubclass(kind, Exception):
            wait(begun)


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
