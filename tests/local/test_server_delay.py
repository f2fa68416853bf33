"""A slow local workspace: what latency does to a program, without the distance."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from fakes.server import programs

from phift.local import Connection, LocalCredential, LocalWorkspace

pytestmark = pytest.mark.slow

DELAY = 0.3
AT_ONCE = 60  # more than the 40 threads that answer


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    workspace = LocalWorkspace(tmp_path_factory.mktemp("slow") / "workspace", delay=DELAY, programs=programs())
    yield workspace.up()
    workspace.down()


def seconds(connection: Connection, path: str) -> float:
    """Return how long an answer takes."""
    started = time.perf_counter()
    trusted = str(connection.folder / "ca.pem")
    assert requests.get(connection.base_url + path, verify=trusted, timeout=60).status_code != 500
    return time.perf_counter() - started


@pytest.mark.parametrize("path", ["/health", "/metadata/endpoints", "/subscriptions/x", "/mlflow/x", "/inference/x"])
def test_every_request_waits(slow: Connection, path: str) -> None:
    assert seconds(slow, path) >= DELAY


def test_requests_wait_side_by_side(slow: Connection) -> None:
    started = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        times = list(pool.map(seconds, [slow] * AT_ONCE, ["/health"] * AT_ONCE))
    assert min(times) >= DELAY
    assert time.perf_counter() - started < AT_ONCE * DELAY / 4


def test_it_works_as_a_fast_one_does(slow: Connection) -> None:
    assert LocalCredential(slow).get_token("https://management.azure.com/.default").token


def test_it_goes_on_without_the_delay_after_a_restart(tmp_path: Path) -> None:
    slow_one = LocalWorkspace(tmp_path / "workspace", delay=5, programs=programs())
    try:
        slow_one.up()
        fast = LocalWorkspace(slow_one.folder, programs=programs())
        assert fast.down()
        assert seconds(fast.up(), "/health") < 5
    finally:
        slow_one.down()
