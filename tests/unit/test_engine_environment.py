from __future__ import annotations

import os

import pytest

from phift.local.engine import environment


@pytest.mark.parametrize(("told", "threads"), [("1", 1), ("3", 3), ("16", 16)])
def test_the_user_says_how_many_threads_compute(told: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert environment.threads() == threads


@pytest.mark.parametrize("told", ["", "0", "many", "-1"])
def test_without_a_number_there_are_as_many_as_cores_and_four_at_most(
    told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert environment.threads() == min(4, os.cpu_count() or 1)
