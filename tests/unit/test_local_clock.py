from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from phift.local.state.clock import DURATIONS, Clock


def begun(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(0.1)
    return not thread.is_alive()


def test_a_real_clock_shows_the_machines_time_and_takes_a_moment() -> None:
    clock, started = Clock("real"), time.monotonic()
    assert clock.now() == pytest.approx(time.time(), abs=1)
    clock.spend("endpoint-create")
    assert 0.1 < time.monotonic() - started < 5


def test_a_fast_clock_waits_for_nothing() -> None:
    started = time.monotonic()
    for kind in DURATIONS:
        Clock("fast").spend(kind)
    assert time.monotonic() - started < 0.1


def test_a_manual_clock_goes_on_when_it_is_told_to() -> None:
    clock = Clock("manual")
    before = clock.now()
    work = begun(lambda: clock.spend("endpoint-create"))
    assert not ended(work)
    clock.advance(DURATIONS["endpoint-create"] - 1)
    assert not ended(work)
    assert clock.advance(1) == before + DURATIONS["endpoint-create"] == clock.now()
    assert ended(work)


def test_a_wait_can_be_given_up() -> None:
    clock, given_up = Clock("manual"), threading.Event()
    work = begun(lambda: clock.spend("job-start", given_up.is_set))
    given_up.set()
    clock.advance(0)
    assert ended(work)


def test_a_reset_ends_every_wait_and_sets_the_clock() -> None:
    clock = Clock("manual")
    clock.advance(10_000)
    work = begun(lambda: clock.spend("deployment-create"))
    assert not ended(work)
    clock.reset()
    assert ended(work)
    assert clock.now() == pytest.approx(time.time(), abs=5)
