from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from phift.azure.threads import SideBySide, taken_soon


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Something to wait for, which has come at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


def test_calls_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3)
    with SideBySide(3) as side:
        futures = [side.begin(meeting.wait, timeout=60) for _ in range(3)]
    assert sorted(future.result() for future in futures) == [0, 1, 2]


def test_no_more_calls_run_at_once_than_were_asked_for() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def call(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return number

    with SideBySide(2) as side:
        futures = [side.begin(call, number) for number in range(9)]
    assert [future.result() for future in futures] == list(range(9))
    assert most == 2


def test_the_end_of_the_block_waits_for_every_call() -> None:
    with SideBySide(1) as side:
        futures = [side.begin(time.sleep, 0.02) for _ in range(3)]
    assert all(future.done() for future in futures)


def test_what_a_call_raises_is_raised_where_its_result_is_asked_for() -> None:
    with SideBySide(2) as side:
        wrong, right = side.begin(int, "x"), side.begin(int, "7")
    with pytest.raises(ValueError, match="invalid literal"):
        wrong.result()
    assert right.result() == 7


def test_a_block_left_by_an_error_waits_for_what_has_begun_and_begins_nothing_more() -> None:
    begun, done = threading.Event(), []

    def call(number: int) -> None:
        begun.set()
        time.sleep(0.05)
        done.append(number)

    def block() -> None:
        with SideBySide(1) as side:
            for number in range(3):
                side.begin(call, number)
            begun.wait()
            int("x")

    with pytest.raises(ValueError, match="invalid literal"):
        block()
    assert done == [0]
    time.sleep(0.1)
    assert done == [0]


def test_a_block_left_by_ctrl_c_waits_for_nothing_and_begins_nothing_more(gate: threading.Event) -> None:
    begun: list[int] = []

    def block() -> None:
        with SideBySide(1) as side:
            side.begin(gate.wait)
            side.begin(begun.append, 1)
            raise KeyboardInterrupt

    before, started = set(threading.enumerate()), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        block()
    assert time.monotonic() - started < 2
    (left,) = set(threading.enumerate()) - before
    gate.set()
    left.join(10)
    assert not left.is_alive()
    assert begun == []


def test_the_threads_are_none_that_the_interpreter_waits_for(gate: threading.Event) -> None:
    before = set(threading.enumerate())
    with SideBySide(2) as side:
        side.begin(gate.wait)
        (thread,) = set(threading.enumerate()) - before
        assert thread.daemon
        gate.set()


def test_a_lock_that_nobody_gives_back_is_waited_for_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.azure.threads._PATIENCE", 0.01)
    lock = threading.Lock()
    with taken_soon(lock):
        assert lock.locked()
        with taken_soon(lock):
            pass
        assert lock.locked()
    assert not lock.locked()
