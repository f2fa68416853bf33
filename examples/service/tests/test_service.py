"""Tests of `service` on the real azure-ai-ml, without Azure: `phift_workspace` comes from phift's pytest plugin."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
import service
import uvicorn

from phift import Clients
from phift.testing import TestWorkspace

LISTENERS = 100
PERIOD = 0.5  # seconds between two looks at a job
LONGEST = 0.1  # seconds for /healthz


class Served:
    """The service at work on a port of this machine."""

    def __init__(self, clients: Clients, folder: Path) -> None:
        config = uvicorn.Config(service.create_app(clients, folder), port=0, log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Served:
        self._thread.start()
        soon(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_raised: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def call(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        answer = requests.request(method, f"http://127.0.0.1:{self.port}{path}", json=body, timeout=60)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def events(self, job: str) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what is told of a job; who stops reading closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET /runs/{job}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert b" 200 " in await reader.readline()
            async for line in reader:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))
                elif line == b"0\r\n":  # the last chunk
                    return
        finally:
            writer.close()


def soon(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def asked(number: int = 1) -> dict[str, Any]:
    """Return a run to ask for; another number is another run."""
    rows = [{"prompt": f"{n} plus {number}?", "completion": str(n + number)} for n in range(20)]
    return {"rows": rows, "parameters": {"num_train_epochs": 1}}


@pytest.fixture
def clients(phift_clients: Clients) -> Clients:
    return replace(phift_clients, poll_seconds=PERIOD)


@pytest.fixture
def served(clients: Clients, tmp_path: Path) -> Iterator[Served]:
    with Served(clients, tmp_path / "kept") as served:
        yield served


def test_a_run_from_its_rows_to_an_answer_and_on_after_a_restart(
    clients: Clients, phift_workspace: TestWorkspace, tmp_path: Path
) -> None:
    with Served(clients, tmp_path / "kept") as served:
        job = served.call("POST", "/runs", asked(), status=201)["job"]
        assert served.call("POST", "/runs", asked(), status=201) == {"job": job, "existed": True}
        soon(lambda: served.call("GET", f"/runs/{job}")["status"] == "Completed")
        assert served.call("POST", f"/runs/{job}/endpoint", status=202) == {"state": "deploying"}
    # Another process, with an empty folder; nobody told it anything.
    with Served(replace(clients), tmp_path / "another") as served:
        (listed,) = served.call("GET", "/runs")
        assert (listed["name"], listed["state"]) == (job, "Completed")
        served.call("POST", f"/runs/{job}/endpoint", status=202)
        soon(lambda: served.call("GET", f"/runs/{job}/endpoint")["state"] == "ready")
        assert served.call("POST", f"/runs/{job}/chat", {"question": "1 plus 1?"})["answer"]
        assert len(phift_workspace.requests("PUT onlineEndpoints/*/deployments/*")) == 1
    with Served(replace(clients), tmp_path / "another") as served:
        assert served.call("POST", f"/runs/{job}/chat", {"question": "1 plus 1?"})["answer"]
        (deleted,) = served.call("DELETE", f"/runs/{job}/endpoint")["deleted"]
        assert served.call("GET", f"/runs/{job}/endpoint", status=404)["where"] == f"endpoint {deleted}"


def test_ten_submits_at_once_are_a_job_each(served: Served, phift_workspace: TestWorkspace) -> None:
    with ThreadPoolExecutor(12) as many:  # ten runs, and two that are one of them once more
        answers = [many.submit(served.call, "POST", "/runs", asked(n % 10), status=201) for n in range(12)]
    jobs = [answer.result()["job"] for answer in answers]
    assert len(set(jobs)) == 10
    assert jobs[10:] == jobs[:2]
    assert {run["name"] for run in served.call("GET", "/runs")} == set(jobs)
    assert len(list(phift_workspace.client.jobs.list())) == 10


@pytest.mark.phift(speed="manual")
def test_a_hundred_listeners_of_a_queued_job(served: Served, phift_workspace: TestWorkspace) -> None:
    job = served.call("POST", "/runs", asked(), status=201)["job"]
    before = served.call("GET", "/healthz")["threads"]
    heard: list[list[dict[str, Any]]] = [[] for _ in range(LISTENERS)]

    async def listen(events: list[dict[str, Any]]) -> None:
        async with aclosing(served.events(job)) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - what was heard before it is cancelled

    async def all_of_them() -> None:
        tasks = [asyncio.create_task(listen(each)) for each in heard]
        while not all(heard):
            await asyncio.sleep(0.05)
        began, looked = time.monotonic(), len(phift_workspace.requests(f"GET jobs/{job}"))
        # Where this machine has other work too, one time in three it has to be quick throughout.
        took = [max([await asyncio.to_thread(timed, served) for _ in range(30)]) for _ in range(3)]
        # One poll a period in all: the status, and now and then the steps.
        periods = (time.monotonic() - began) / PERIOD
        assert len(phift_workspace.requests(f"GET jobs/{job}")) - looked <= 2 * periods + 2
        assert min(took) < LONGEST
        # The poller, and the threads that the calls of this test are made in.
        assert served.call("GET", "/healthz")["threads"] <= before + service.AT_ONCE + 2
        for task in tasks[1:]:
            task.cancel()
        queued = [*heard[0]]
        await asyncio.to_thread(phift_workspace.advance, 3600)
        await tasks[0]
        assert heard[1:] == [queued] * (LISTENERS - 1)  # an event is the same to all, its time too
        assert (heard[0][0]["event"], heard[0][-1]["status"]) == ("status", "Completed")

    asyncio.run(all_of_them())


@pytest.mark.phift(speed="manual")
def test_listeners_that_leave_free_everything(served: Served, phift_workspace: TestWorkspace) -> None:
    job = served.call("POST", "/runs", asked(), status=201)["job"]

    async def one() -> None:
        async with aclosing(served.events(job)) as stream:
            assert (await anext(stream))["event"] == "status"

    async def come_and_go() -> None:
        await asyncio.gather(*(one() for _ in range(20)))

    asyncio.run(come_and_go())
    soon(lambda: not [thread for thread in threading.enumerate() if thread.name == "phift-watch"])
    looked = len(phift_workspace.requests(f"GET jobs/{job}"))
    time.sleep(2 * PERIOD)
    assert len(phift_workspace.requests(f"GET jobs/{job}")) == looked


@pytest.mark.phift(speed="manual")
def test_a_job_is_cancelled_and_is_not_deployed(served: Served, phift_workspace: TestWorkspace) -> None:
    job = served.call("POST", "/runs", asked(), status=201)["job"]
    assert "has not ended" in served.call("POST", f"/runs/{job}/endpoint", status=409)["what"]
    with ExitStack() as stack:
        ticking = threading.Event()
        clock = threading.Thread(target=lambda: [phift_workspace.advance(5) for _ in iter(ticking.is_set, True)])
        clock.start()
        stack.callback(clock.join)
        stack.callback(ticking.set)
        assert served.call("POST", f"/runs/{job}/cancel")["status"] == "Canceled"
    served.call("POST", f"/runs/{job}/endpoint", status=502)


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/runs", {"rows": [{"messages": []}]}, 422, "what"),
        ("/runs", {"rows": [], "model": "Phi-4"}, 422, "detail"),
        ("/runs", {**asked(), "compute": "another"}, 422, "detail"),
        ("/runs", {**asked(), "parameters": {"deepspeed": "/etc/passwd"}}, 422, "detail"),
        ("/runs", {**asked(), "parameters": {"learning_rat": 1}}, 422, "what"),
        ("/runs/none/chat", {"question": "?"}, 404, "what"),
        ("/runs/none/cancel", None, 404, "what"),
        ("/runs/none/endpoint", None, 404, "what"),
    ],
)
def test_what_cannot_be_done_is_told(served: Served, path: str, body: Any, status: int, says: str) -> None:
    assert served.call("POST", path, body, status=status)[says]


def test_there_is_no_stream_of_a_job_that_there_is_not(served: Served) -> None:
    assert "none" in served.call("GET", "/runs/none/events", status=404)["where"]


def timed(served: Served) -> float:
    """Return how long /healthz took, in seconds."""
    began = time.perf_counter()
    served.call("GET", "/healthz")
    return time.perf_counter() - began
