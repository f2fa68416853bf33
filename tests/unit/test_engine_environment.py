from __future__ import annotations

import os

import pytest

from phift.local.work.engine import process


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)


@pytest.mark.parametrize(("told", "threads"), [("1", 1), ("6", 6), (" 3,2", 3), ("1000000", 8)])
def test_the_user_says_how_many_threads_compute(told: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert process.threads() == threads


@pytest.mark.parametrize("told", ["", "0", "many", "-1", ","])
def test_without_a_number_there_are_four_of_eight(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert process.threads() == 4
