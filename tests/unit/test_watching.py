"""One poller for all who listen to a job: how often the service is asked, who keeps whom waiting, what stays behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from phift.azure.clients import Clients
from phift.errors import AccessDenied
from phift.jobs import watching
from phift.jobs.events import Idle, JobEvent, StatusChanged, StepChanged
from phift.jobs.job import FineTuneJob
from phift.testing import TestWorkspace
from unit import given
from unit.fakes import Fakes, http_error

LISTENERS = 100
PERIOD = 0.1  # seconds


def job(fakes: Fakes, *statuses: str) -> FineTuneJob:
    fakes.workspace.jobs.add("job", *statuses)
    return FineTuneJob("job", fakes.clients)


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in ("phift-watch", "phift-tell")]


def soon(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.phift(speed="manual")
def test_a_hundred_listeners_of_a_queued_job_ask_the_service_as_often_as_one(
    workspace: TestWorkspace, clients: Clients
) -> None:
    given.job(workspace)
    clients = replace(clients, poll_seconds=PERIOD)

    async def listen(heard: list[JobEvent]) -> None:
        # As a service does: each request attaches for itself.
        async for event in FineTuneJob("job", clients).watch().events():
            heard.append(event)  # noqa: PERF401 - what was heard before the task is cancelled

    async def all_of_them() -> None:
        heard: list[list[JobEvent]] = [[] for _ in range(LISTENERS)]
        tasks = [asyncio.create_task(listen(each)) for each in heard]
        while not all(heard):
            await asyncio.sleep(PERIOD)
        before, looked = time.monotonic(), len(workspace.requests("GET jobs/job"))
        await asyncio.sleep(10 * PERIOD)
        asked = len(workspace.requests("GET jobs/job")) - looked
        periods = (time.monotonic() - before) / PERIOD
        assert 0 < asked <= 2 * periods + 4  # for the status, and once more for the steps
        assert len(ours()) == 1
        assert len(tasks) + 1 == len(asyncio.all_tasks())
        await asyncio.to_thread(workspace.advance, 3600)
        await asyncio.gather(*tasks)
        assert {each[-1] for each in heard} == {StatusChanged(job="job", status="Completed")}
        assert all(each == heard[0] for each in heard)

    asyncio.run(all_of_them())
    soon(lambda: not ours())
    gc.collect()
    assert not len(watching._watches)


@pytest.mark.parametrize("leave", ["cancel", "break"])
def test_listeners_that_leave_free_everything(leave: str) -> None:
    fakes = Fakes()
    fakes.clients = replace(fakes.clients, poll_seconds=PERIOD)
    found = job(fakes, "Queued")
    kept = weakref.ref(found.watch())
    assert kept() is None  # nobody listens, and nobody holds it

    async def listen() -> None:
        async for _ in found.watch().events(idle=PERIOD):
            if leave == "break":
                break

    async def all_of_them() -> Any:
        tasks = [asyncio.create_task(listen()) for _ in range(LISTENERS)]
        await asyncio.sleep(3 * PERIOD)
        watch = weakref.ref(found.watch())
        if leave == "cancel":
            assert len(ours()) == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # a loop that was left is closed by the event loop
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) == 1
        soon(lambda: not ours())
        return watch

    watch = asyncio.run(all_of_them())
    gc.collect()
    assert watch() is None
    asked = fakes.workspace.record.count("jobs.get")
    time.sleep(3 * PERIOD)
    assert fakes.workspace.record.count("jobs.get") == asked


def test_who_comes_late_is_told_first_what_happened_before() -> None:
    fakes = Fakes()
    fakes.clients = replace(fakes.clients, poll_seconds=PERIOD)
    fakes.workspace.jobs.children["job"] = [("finetune", "child", "Running")]
    found, early, late = job(fakes, "Running"), list[JobEvent](), list[JobEvent]()
    with found.watch().listen(early.append):
        soon(lambda: len(early) == 2)
        asked = fakes.workspace.record.count("jobs.list")
        with FineTuneJob("job", fakes.clients).watch().listen(late.append) as listening:
            soon(lambda: len(late) == 2)
            fakes.workspace.jobs.add("job", "Completed")
            assert listening.wait(20)
    assert late[:2] == [
        StatusChanged(job="job", status="Running"),
        StepChanged(job="job", step="finetune", status="Running", run_id="child"),
    ]
    assert late == early
    assert asked > 0


def test_all_is_told_to_a_watch_that_is_kept_though_everybody_had_left() -> None:
    fakes = Fakes()
    fakes.clients = replace(fakes.clients, poll_seconds=PERIOD)
    watch, first, second = job(fakes, "Queued").watch(), list[JobEvent](), list[JobEvent]()
    with watch.listen(first.append):
        soon(lambda: first)
    soon(lambda: not ours())
    fakes.workspace.jobs.add("job", "Completed")
    with watch.listen(second.append) as listening:
        assert listening.wait(20)
    assert [event.kind for event in second] == ["status", "status"]
    with watch.listen(first.append) as listening:  # of a job that has ended, without asking
        asked = fakes.workspace.record.count("jobs.get")
        assert listening.wait(20)
    assert fakes.workspace.record.count("jobs.get") == asked
    assert first[1:] == second


def test_a_handler_that_raises_or_blocks_harms_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "_BLOCKED", 0.05)
    fakes = Fakes()
    watch, free, heard = job(fakes, "Queued", "Running", "Completed").watch(), threading.Event(), list[JobEvent]()

    def block(_event: JobEvent) -> None:
        free.wait(20)

    def fail(_event: JobEvent) -> None:
        raise RuntimeError("the handler's own")

    blocked = [watch.listen(block) for _ in range(2)]
    failing = watch.listen(fail)
    listening = watch.listen(heard.append)
    assert listening.wait(20)
    assert failing.wait(20)
    assert [getattr(event, "status", "") for event in heard] == ["Queued", "Running", "Completed"]
    assert not blocked[0].wait(0)
    free.set()
    assert all(each.wait(20) for each in blocked)
    assert [record.name for record in caplog.records] == ["phift.events"]
    soon(lambda: not ours())


def test_what_ends_the_following_is_raised_for_each_and_the_next_one_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fakes, refused = Fakes(), True
    found, heard = job(fakes, "Completed"), list[JobEvent]()
    watch, shown = found.watch(), fakes.workspace.jobs.get

    def get(name: str) -> Any:
        if refused:
            raise http_error(403)
        return shown(name)

    fakes.workspace.jobs.get = get  # type: ignore[method-assign]  # a service that refuses for a while

    async def listen() -> None:
        async for _ in watch.events():
            pass

    async def two() -> tuple[BaseException | None, ...]:
        return await asyncio.gather(listen(), listen(), return_exceptions=True)

    assert [type(error) for error in asyncio.run(two())] == [AccessDenied, AccessDenied]
    # Who came after the first refusal made it try again.
    assert {record.getMessage() for record in caplog.records} == {"Job job is no longer followed: AccessDenied"}
    soon(lambda: not ours())
    refused = False
    assert watch.listen(heard.append).wait(20)
    assert [event.kind for event in heard] == ["status"]


def test_silence_is_told_to_those_who_ask_for_it() -> None:
    fakes = Fakes()
    fakes.clients = replace(fakes.clients, poll_seconds=PERIOD)

    async def listen() -> list[JobEvent]:
        heard: list[JobEvent] = []
        async for event in job(fakes, "Queued").watch().events(idle=0.05):
            heard.append(event)
            if len(heard) == 3:
                break
        return heard

    told = StatusChanged(job="job", status="Queued")
    assert [event for event in asyncio.run(listen()) if not isinstance(event, Idle)] == [told]


def test_a_loop_that_was_closed_under_a_listener_harms_nobody() -> None:
    fakes = Fakes()
    fakes.clients = replace(fakes.clients, poll_seconds=PERIOD)
    watch, heard = job(fakes, "Queued").watch(), list[JobEvent]()
    loop = asyncio.new_event_loop()
    events = watch.events()
    loop.run_until_complete(anext(events))
    loop.close()
    fakes.workspace.jobs.add("job", "Completed")
    assert watch.listen(heard.append).wait(20)
    assert heard[-1] == StatusChanged(job="job", status="Completed")
