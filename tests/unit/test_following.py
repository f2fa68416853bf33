"""One look at a time, and following on top of it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from phift.azure.clients import Clients
from phift.errors import AccessDenied, ConfigError, PhiftError, ServiceError, ServiceUnreachable, Throttled
from phift.jobs.ends import WAITING
from phift.jobs.events import RUN_TAG, Idle, MetricLogged, StatusChanged, StepChanged
from phift.jobs.following import LIVE_METRICS, STATUS_PERIOD, Cursor
from phift.jobs.job import FineTuneJob
from phift.jobs.tracking import MetricPoint
from phift.testing import TestWorkspace
from unit import given
from unit.fakes import Fakes, http_error

MINUTE, HOUR = 60.0, 3600.0


class Clock:
    """A clock that only sleeping moves on."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.sleep", clock.sleep)
    for name in ("monotonic", "time"):
        monkeypatch.setattr(f"time.{name}", lambda: clock.now)
    return clock


def job(fakes: Fakes, *statuses: str) -> FineTuneJob:
    fakes.workspace.jobs.add("job", *statuses)
    return FineTuneJob("job", fakes.clients)


def points(*values: float) -> list[dict[str, Any]]:
    return [{"key": "loss", "value": value, "step": step, "timestamp": step} for step, value in enumerate(values)]


def elsewhere(fakes: Fakes, cursor: Cursor) -> tuple[FineTuneJob, Cursor]:
    """Return the job and the cursor as another process has them."""
    return FineTuneJob("job", fakes.clients), Cursor.from_dict(json.loads(json.dumps(cursor.to_dict())))


def at_work(fakes: Fakes, clock: Clock, **until: float) -> FineTuneJob:
    """Return a job that has each status until so many seconds from now, and the last one for good."""
    begun, shown = clock.now, fakes.workspace.jobs.get
    fakes.workspace.jobs.add("job", "Running")

    def get(name: str) -> Any:
        found = shown(name)
        found._status = next((each for each, end in until.items() if clock.now - begun < end), [*until][-1])
        return found

    fakes.workspace.jobs.get = get  # type: ignore[method-assign]  # a job whose status time decides
    return FineTuneJob("job", replace(fakes.clients, poll_seconds=15.0))


def test_looks_of_several_processes_tell_everything_once(sleeps: list[float]) -> None:
    fakes = Fakes()
    series = points(2.0)
    fakes.rest.on({"metrics": series}, "get-history", "metric_key=loss&")
    fakes.workspace.jobs.children["job"] = [("finetune", "child", "Running")]
    threads = threading.active_count()
    events, cursor = job(fakes, "Running", "Running", "Completed").look()
    assert events == [
        StatusChanged(job="job", status="Running"),
        StepChanged(job="job", step="finetune", status="Running", run_id="child"),
        MetricLogged(job="job", metric=MetricPoint("loss", 0, 2.0, 0)),
    ]
    found, cursor = elsewhere(fakes, cursor)
    events, cursor = found.look(cursor)
    assert events == []
    series.append(points(2.0, 1.0)[1])
    fakes.workspace.jobs.children["job"] = [("finetune", "child", "Completed")]
    found, cursor = elsewhere(fakes, cursor)
    events, cursor = found.look(cursor)
    assert [type(event) for event in events] == [StepChanged, MetricLogged, StatusChanged]
    assert found.look(cursor) == ([], cursor)
    assert (sleeps, threading.active_count()) == ([], threads)


def test_a_job_that_was_told_to_have_ended_costs_one_request() -> None:
    fakes = Fakes()
    _, cursor = job(fakes, "Completed").look()
    found, cursor = elsewhere(fakes, cursor)
    before = len(fakes.workspace.record.calls) + len(fakes.rest.addresses)
    assert found.look(cursor) == ([], cursor)
    assert len(fakes.workspace.record.calls) + len(fakes.rest.addresses) == before + 1


def test_a_look_that_fails_tells_nothing_and_the_next_one_all() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = [("finetune", "child", "Running")]
    found = job(fakes, "Running")
    fakes.workspace.record.fail("jobs.list", http_error(503))
    with pytest.raises(ServiceError):
        found.look()
    assert [type(event) for event in found.look()[0]] == [StatusChanged, StepChanged]


class Hiccups:
    """The losses of a job whose service fails each time until so many looks have gone by."""

    def __init__(self, fakes: Fakes, failures: float, error: PhiftError) -> None:
        self._rest, self._left, self._error = fakes.rest.get, failures, error
        fakes.rest.on({"metrics": points(2.0, 1.0)}, "get-history", "metric_key=loss&")
        fakes.rest.get = self.get  # type: ignore[method-assign]  # a service that fails for a while

    def get(self, url: str, params: dict[str, Any] | None = None) -> Any:
        if "get-history" in url and self._left > 0:
            self._left -= 1
            raise self._error
        return self._rest(url, params)


PASSING = [ServiceError("Busy.", status=503), Throttled("Wait.", status=429), ServiceUnreachable("No answer.")]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_the_last_points_outlive_a_hiccup_at_the_end(clock: Clock, error: PhiftError) -> None:
    fakes = Fakes()
    found = at_work(fakes, clock, Completed=0)
    Hiccups(fakes, 1, error)
    with pytest.raises(type(error)):
        found.look()
    events, cursor = found.look()
    assert [type(event) for event in events] == [MetricLogged, MetricLogged, StatusChanged]
    assert found.look(cursor) == ([], cursor)
    Hiccups(fakes, 3, error)
    assert [event for event in found.follow() if event.kind == "metric"] == events[:2]


@pytest.mark.parametrize(("timeout", "longest"), [(None, 600.0), (MINUTE, MINUTE)])
def test_an_outage_of_the_metrics_does_not_hide_the_end(clock: Clock, timeout: float | None, longest: float) -> None:
    fakes = Fakes()
    found = at_work(fakes, clock, Completed=0)
    found = FineTuneJob("job", replace(found.clients, patience_seconds=600.0))
    Hiccups(fakes, float("inf"), ServiceError("Busy.", status=503))
    begun = clock.now
    events = list(found.follow(timeout=timeout))
    assert events[-1] == StatusChanged(job="job", status="Completed")
    assert longest < clock.now - begun <= longest + 2 * STATUS_PERIOD


def test_losses_that_may_not_be_read_do_not_hold_up_the_end(clock: Clock) -> None:
    fakes = Fakes()
    found = at_work(fakes, clock, Completed=0)
    Hiccups(fakes, float("inf"), AccessDenied("Not you.", status=403))
    assert [event.kind for event in found.follow()] == ["status"]
    assert [event.kind for event in found.look()[0]] == ["status"]


def test_events_say_which_run_they_are_of() -> None:
    fakes = Fakes()
    found = job(fakes, "Running")
    fakes.workspace.jobs._jobs["job"].tags = {RUN_TAG: "0123456789ab"}
    following = found.follow(idle=0)
    assert [(type(event), event.run) for event in (next(following), next(following))] == [
        (StatusChanged, "0123456789ab"),
        (Idle, "0123456789ab"),
    ]


@pytest.mark.parametrize("kept", [{}, {"job": "job"}, {"job": 1, "status": "", "looked": "x"}, {"steps": []}])
def test_what_is_no_cursor_is_refused(kept: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no cursor"):
        Cursor.from_dict(kept)


def test_a_cursor_of_another_job_is_refused() -> None:
    with pytest.raises(ConfigError, match="of the job other"):
        job(Fakes(), "Running").look(Cursor(job="other"))


@pytest.mark.parametrize("length", [10.5, 3 * MINUTE + 0.5, 11.3 * HOUR])
def test_the_end_is_noticed_within_five_seconds_whatever_the_length(clock: Clock, length: float) -> None:
    fakes = Fakes()
    begun = clock.now
    events = list(at_work(fakes, clock, Running=length, Completed=0).follow())
    assert events[-1] == StatusChanged(job="job", status="Completed")
    assert 0 <= clock.now - begun - length < 5
    # The status is one small answer; what costs more is asked for as seldom as before.
    assert fakes.workspace.record.count("jobs.get") <= length / STATUS_PERIOD + 2
    assert fakes.workspace.record.count("jobs.list") <= length / 15 + 2
    assert Counter("get-history" in address for address in fakes.rest.addresses)[True] <= len(LIVE_METRICS) * (
        length / 15 + 2
    )


def test_steps_and_losses_are_read_at_once_where_the_status_has_changed(clock: Clock) -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = [("finetune", "child", "Running")]
    begun, told = clock.now, dict[str, float]()
    for event in at_work(fakes, clock, Queued=1, Running=5, Completed=0).follow():
        told |= {event.kind + getattr(event, "status", ""): clock.now - begun}
    assert told["statusRunning"] == STATUS_PERIOD
    assert told["statusCompleted"] == 2 * STATUS_PERIOD


def test_what_stops_the_following_ends_it_while_it_waits() -> None:
    fakes, stop = Fakes(), threading.Event()
    fakes.clients = replace(fakes.clients, poll_seconds=600.0)
    following = job(fakes, "Running").follow(stop=stop)
    next(following)
    threading.Timer(0.05, stop.set).start()
    before = time.monotonic()
    assert list(following) == []
    assert time.monotonic() - before < STATUS_PERIOD / 2
    assert list(job(fakes, "Running").follow(stop=stop)) == []


def test_a_silence_of_the_job_is_told_as_often_as_asked_for(clock: Clock) -> None:
    begun = clock.now
    following = at_work(Fakes(), clock, Queued=31, Running=70, Completed=0).follow(idle=10)
    told = [(type(event), clock.now - begun) for event in following]
    assert told == [
        (StatusChanged, 0),
        (Idle, 10),
        (Idle, 20),
        (Idle, 30),
        (StatusChanged, 32),
        (Idle, 42),
        (Idle, 52),
        (Idle, 62),
        (StatusChanged, 72),
    ]


@pytest.mark.phift(speed="manual")
def test_following_a_job_that_is_provisioned_blocks_nobody(workspace: TestWorkspace, clients: Clients) -> None:
    given.job(workspace)
    found = FineTuneJob("job", replace(clients, poll_seconds=15.0))
    before = time.monotonic()
    events, _ = found.look()
    assert isinstance(events[0], StatusChanged)
    assert events[0].status in WAITING
    stop = threading.Event()
    following = found.follow(stop=stop, idle=0.01)
    seen = [next(following) for _ in range(len(events) + 2)]
    assert [type(event) for event in seen[-2:]] == [Idle, Idle]
    stop.set()
    assert list(following) == []
    assert time.monotonic() - before < 30  # a job's provisioning never ends while its clock stands still


class Pages:
    """A metric's history in pages of as many points as are asked for, each token good for one version of it."""

    def __init__(self) -> None:
        self.points: list[dict[str, Any]] = []
        self.sent = 0
        self.version = 0

    def get(self, url: str, params: dict[str, Any] | None = None) -> Any:
        if "get-history" not in url or not params or params["metric_key"] != "loss":
            return {}
        version, _, after = params.get("page_token", f"{self.version} 0").partition(" ")
        if int(version) != self.version:
            raise ServiceError("What page is that?", status=400)
        start, size = int(after), params["max_results"]
        page = self.points[start : start + size]
        self.sent += len(page)
        more = {"next_page_token": f"{self.version} {start + size}"} if start + size < len(self.points) else {}
        return {"metrics": page, **more}


@pytest.mark.parametrize("forgetful", [False, True])
def test_of_a_history_that_was_read_only_its_last_page_is_read_again(forgetful: bool) -> None:
    fakes, pages = Fakes(), Pages()
    fakes.rest.get = pages.get  # type: ignore[method-assign]  # a service that pages
    found = job(fakes, "Running")
    told, cursor = list[float](), None
    for count in (3, 499, 500, 500, 501, 1700, 1701, 2000):
        pages.points, pages.sent = points(*map(float, range(count))), 0
        before = len(told)
        events, cursor = found.look(cursor)
        told += [event.metric.value for event in events if isinstance(event, MetricLogged)]
        assert pages.sent <= 500 + count - before or forgetful
        pages.version += forgetful
    assert told == list(map(float, range(2000)))


def test_each_change_is_logged_once_however_many_follow(caplog: pytest.LogCaptureFixture) -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = [("finetune", "child", "Completed")]
    found = job(fakes, "Running", "Completed")
    fakes.workspace.jobs._jobs["job"].tags = {RUN_TAG: "0123456789ab", "note": "the user's own"}
    with caplog.at_level(logging.INFO, "phift"):
        for _ in range(3):
            list(found.follow())
    said = [record.getMessage() for record in caplog.records]
    assert said == ["Job job: Running", "Job job, step finetune: Completed", "Job job: Completed"]
    fields = [
        {key: each for key, each in vars(record).items() if key.startswith("phift_")} for record in caplog.records
    ]
    of = {"phift_job": "job", "phift_run": "0123456789ab"}
    assert fields == [
        {**of, "phift_event": "status", "phift_status": "Running"},
        {**of, "phift_event": "step", "phift_status": "Completed", "phift_step": "finetune"},
        {**of, "phift_event": "status", "phift_status": "Completed"},
    ]
    assert "the user's own" not in caplog.text
