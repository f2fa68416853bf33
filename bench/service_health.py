"""How long /healthz of the service in `examples/service` takes, in a process of its own, while others keep it busy.

    python bench/service_health.py [seconds a phase]

Three phases: nobody else; 100 listeners of a queued job; these, and ten submits at once. For each: milliseconds of one
call after another on a kept connection, how much of a core the service took for these and all else, and how often the
workspace was asked for the job meanwhile, which is twice a look.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import requests

from phift.testing import TestWorkspace

SERVICE = Path(__file__).parents[1] / "examples" / "service"
LISTENERS = 100


def asked(number: int) -> dict[str, Any]:
    rows = [{"prompt": f"{n} plus {number}?", "completion": str(n + number)} for n in range(20)]
    return {"rows": rows, "parameters": {"num_train_epochs": 1}}


def health(address: str, until: float | list[Future[Any]]) -> list[float]:
    """Return how long calls took, in milliseconds, for so many seconds or until all is done."""
    took, session, began = [], requests.Session(), time.monotonic()
    while not all(each.done() for each in until) if isinstance(until, list) else time.monotonic() < began + until:
        before = time.perf_counter()
        session.get(f"{address}/healthz", timeout=30).raise_for_status()
        took.append((time.perf_counter() - before) * 1000)
        time.sleep(0.005)
    return sorted(took)


def main(seconds: float) -> None:
    with TestWorkspace(server=True, speed="manual") as workspace, tempfile.TemporaryDirectory() as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "--factory", "service:create_app", "--port", str(port)]
        kept = {"PHIFT_WORKSPACE": f"local:{workspace.connection.folder}", "PHIFT_SERVICE_FOLDER": folder}
        environ = {**os.environ, **kept}
        service = subprocess.Popen([*command, "--log-level", "error"], cwd=SERVICE, env=environ)  # noqa: S603 - our own
        try:
            measure(f"http://127.0.0.1:{port}", workspace, psutil.Process(service.pid), seconds)
        finally:
            service.terminate()
            service.wait()


def measure(address: str, workspace: TestWorkspace, service: psutil.Process, seconds: float) -> None:
    for _ in range(600):
        with suppress(OSError):
            requests.get(f"{address}/healthz", timeout=5)
            break
        time.sleep(0.1)
    submitted = requests.post(f"{address}/runs", json=asked(0), timeout=120)
    job = submitted.json()["job"]  # the first one imports the SDK
    service.cpu_percent()
    show("nobody else", health(address, seconds), address, service)

    streams = [requests.get(f"{address}/runs/{job}/events", stream=True, timeout=60) for _ in range(LISTENERS)]
    lines = [stream.iter_lines() for stream in streams]  # kept, for whose end closes the connection
    for each in lines:
        next(each)
    began, looked = time.monotonic(), len(workspace.requests(f"GET jobs/{job}"))
    service.cpu_percent()
    show(f"{LISTENERS} listeners", health(address, seconds), address, service)
    looks = len(workspace.requests(f"GET jobs/{job}")) - looked
    print(f"{'':34}the job was asked for {looks} times in {time.monotonic() - began:.1f} s, at a period of 1 s")

    with ThreadPoolExecutor(10) as ten:
        began = time.monotonic()
        submits = [ten.submit(requests.post, f"{address}/runs", json=asked(n), timeout=600) for n in range(1, 11)]
        took = health(address, list(submits))
    show(f"{LISTENERS} listeners and ten submits", took, address, service)
    jobs = {each.result().json()["job"] for each in submits}
    print(f"{'':34}{len(jobs)} jobs, submitted in {time.monotonic() - began:.1f} s")
    for stream in streams:
        stream.close()


def show(what: str, took: list[float], address: str, service: psutil.Process) -> None:
    """Print a phase; the service's share of a core is since the last one."""
    share = service.cpu_percent()
    threads = requests.get(f"{address}/healthz", timeout=30).json()["threads"]
    p50, p99 = statistics.median(took), took[int(len(took) * 0.99)]
    print(f"{what:34}p50 {p50:6.1f}  p99 {p99:6.1f}  max {took[-1]:6.1f} ms, {share:.0f} % of a core")
    print(f"{'':34}{len(took)} calls, {threads} threads")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10)
