from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from azure.ai.ml.entities import PipelineJob
from azure.core.exceptions import ServiceRequestError

from phift.azure.clients import Clients
from phift.errors import (
    AccessDenied,
    AuthenticationError,
    Conflict,
    JobCanceled,
    JobFailed,
    NotFound,
    ServiceError,
    ServiceUnreachable,
    WaitTimeout,
)
from phift.jobs.events import JobEvent, MetricLogged, NoAnswer, StatusChanged, StepChanged
from phift.jobs.job import FineTuneJob, Step, find_job, submit_job
from phift.jobs.tracking import MetricPoint, Tracking
from phift.testing import Fault, TestWorkspace
from unit import given
from unit.fakes import Fakes, http_error

STEPS = [("preprocess", "run-1", "Completed"), ("finetune", "run-2", "Failed")]


def job(fakes: Fakes, *statuses: str) -> FineTuneJob:
    """Return a job whose status goes along these."""
    fakes.workspace.jobs.add("job", *statuses)
    return FineTuneJob("job", fakes.clients)


def seen(events: Any) -> list[tuple[str, Any]]:
    """Return events as pairs of kind and what is new."""
    return [(event.kind, _new(event)) for event in events]


def _new(event: JobEvent) -> Any:
    match event:
        case StepChanged():
            return event.step, event.status
        case MetricLogged():
            return event.metric.value
        case NoAnswer():
            return event.what
    return event.status


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every sleep take 100 seconds."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.monotonic", lambda: 100.0 * len(slept))


def test_a_job_shows_its_name_its_page_and_its_model() -> None:
    found = job(Fakes(), "Running")
    assert repr(found) == "<FineTuneJob job>"
    assert found.status() == "Running"
    assert found.studio_url() == "https://studio.test/runs/job"
    assert found.model_path == "azureml://jobs/job/outputs/trained_model"


def test_a_job_that_is_not_there_is_not_found(clients: Clients) -> None:
    with pytest.raises(NotFound) as caught:
        FineTuneJob("none", clients).status()
    assert caught.value.where == "job none"


def test_steps_are_the_children() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = STEPS
    steps = (Step("preprocess", "run-1", "Completed"), Step("finetune", "run-2", "Failed"))
    assert job(fakes, "Running").steps() == steps


def test_no_event_tells_a_secret_that_somebody_put_into_a_name_or_a_status() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = [("prepare password=hunter22", "run-1", "Completed sig=hunter22")]
    events = list(job(fakes, "Running sig=hunter22", "Completed").follow())
    assert "hunter22" not in repr(events)
    assert "prepare password=***" in repr(events)


def test_steps_one_level_down_are_found() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children = {"job": [("component", "inner", "Running")], "inner": STEPS}
    assert [step.name for step in job(fakes, "Running").steps()] == ["preprocess", "finetune"]


def test_a_single_step_without_children_stays() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = STEPS[:1]
    assert [step.name for step in job(fakes, "Running").steps()] == ["preprocess"]


def test_a_child_that_the_sdk_cannot_read_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes()
    monkeypatch.setattr(fakes.workspace.jobs, "list", lambda parent_job_name: [None])
    assert job(fakes, "Running").steps() == ()


def test_following_tells_each_change_once_and_the_end_last() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = STEPS
    events = list(job(fakes, "Queued", "Queued", "Running", "Running", "Completed").follow())
    assert seen(events) == [
        ("status", "Queued"),
        ("step", ("preprocess", "Completed")),
        ("step", ("finetune", "Failed")),
        ("status", "Running"),
        ("status", "Completed"),
    ]
    assert events[0] == StatusChanged(job="job", status="Queued")


def test_metrics_come_as_they_grow_and_before_the_end() -> None:
    fakes = Fakes()
    series = [{"key": "loss", "value": 2.0, "step": 1, "timestamp": 1}]
    fakes.rest.on({"metrics": series}, "get-history", "metric_key=loss&")
    following = job(fakes, "Running", "Completed").follow()
    assert seen([next(following), next(following)]) == [("status", "Running"), ("metric", 2.0)]
    series.append({"key": "loss", "value": 1.0, "step": 2, "timestamp": 2})
    assert seen(following) == [("metric", 1.0), ("status", "Completed")]


def test_a_job_that_waits_is_not_asked_for_metrics() -> None:
    fakes = Fakes()
    following = job(fakes, "Queued", "Completed").follow()
    next(following)
    assert fakes.rest.addresses == []


@pytest.mark.parametrize("error", [http_error(503), http_error(429), ServiceRequestError("no route")])
def test_a_passing_trouble_is_sat_out(error: Exception) -> None:
    fakes = Fakes()
    found = job(fakes, "Completed")
    fakes.workspace.record.fail("jobs.get", error, error)
    assert seen(found.follow()) == [("status", "Completed")]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(http_error(400), ServiceError), (http_error(403), AccessDenied), (AttributeError("SDK"), ServiceError)],
)
def test_a_trouble_that_will_not_pass_is_raised(error: Exception, kind: type[Exception]) -> None:
    fakes = Fakes()
    found = job(fakes, "Completed")
    fakes.workspace.record.fail("jobs.get", error)
    with pytest.raises(kind):
        list(found.follow())


@pytest.mark.phift(speed="manual")
def test_a_token_that_has_expired_meanwhile_does_not_end_the_wait(workspace: TestWorkspace, clients: Clients) -> None:
    given.job(workspace)
    expired = Fault("GET jobs/job", status=401)
    workspace.order(expired)
    following = FineTuneJob("job", clients).follow()
    assert next(following).kind == "status"
    workspace.order(expired)  # once more: a token of an hour expires more than once a day
    workspace.advance(120)
    assert list(following)[-1] == StatusChanged(job="job", status="Completed")


@pytest.mark.phift(speed="manual")
def test_tokens_of_several_clients_that_are_refused_at_once_do_not_end_the_wait(
    workspace: TestWorkspace, clients: Clients
) -> None:
    given.job(workspace)
    for asked in ("GET jobs/job", "GET history/*", "GET mlflow/*", "GET workspace"):
        workspace.order(Fault(asked, status=401))
    following = FineTuneJob("job", clients).follow()
    assert next(following).kind == "status"
    workspace.advance(120)
    assert list(following)[-1] == StatusChanged(job="job", status="Completed")


@pytest.mark.parametrize("times", [1, 2, 3, 5])
def test_tokens_that_clients_of_another_s_making_hold_do_not_end_it_either(times: int) -> None:
    fakes = Fakes()
    found = job(fakes, "Completed")
    fakes.workspace.record.fail("jobs.get", *[http_error(401)] * times)
    assert seen(found.follow()) == [("status", "Completed")]


@pytest.mark.usefixtures("clock")
def test_a_credential_that_is_refused_for_good_ends_the_wait() -> None:
    fakes = Fakes()
    found = job(fakes, "Completed")
    fakes.workspace.record.fail("jobs.get", *[http_error(401)] * 20)
    with pytest.raises(AuthenticationError):
        list(found.follow())
    assert fakes.workspace.record.count("jobs.get") < 4


@pytest.mark.usefixtures("clock")
def test_a_token_that_expires_while_the_network_is_away_is_renewed() -> None:
    fakes = Fakes()
    found = job(fakes, "Completed")
    fakes.workspace.record.fail("jobs.get", *[ServiceRequestError("no route")] * 5, http_error(401))
    assert seen(found.follow())[-1] == ("status", "Completed")


@pytest.mark.usefixtures("clock")
def test_patience_with_a_silent_service_ends() -> None:
    fakes = Fakes()
    found = job(fakes, "Completed")
    fakes.workspace.record.fail("jobs.get", *[ServiceRequestError("no route")] * 20)
    with pytest.raises(ServiceUnreachable):
        list(found.follow())
    assert 2 < fakes.workspace.record.count("jobs.get") < 20


@pytest.mark.usefixtures("clock")
def test_a_wait_that_takes_too_long_ends_and_the_job_goes_on() -> None:
    fakes = Fakes()
    with pytest.raises(WaitTimeout, match="has not ended after") as caught:
        job(fakes, "Running").wait(timeout=150)
    assert "goes on" in str(caught.value.fix)
    assert fakes.workspace.record.count("jobs.begin_cancel") == 0


@pytest.mark.usefixtures("clock")
def test_a_queue_that_takes_too_long_ends_the_wait() -> None:
    with pytest.raises(WaitTimeout, match=r"No node works on the job after \d+ s \(status Queued\)"):
        job(Fakes(), "Queued").wait(queue_timeout=150)


@pytest.mark.usefixtures("clock")
def test_the_queue_time_does_not_count_for_a_job_that_runs() -> None:
    job(Fakes(), "Running", "Running", "Running", "Completed").wait(queue_timeout=150)


def test_between_two_looks_it_sleeps(sleeps: list[float]) -> None:
    job(Fakes(), "Queued", "Running", "Completed").wait()
    assert sleeps == [0, 0]


def test_waiting_hands_on_every_event() -> None:
    events: list[JobEvent] = []
    job(Fakes(), "Running", "Completed").wait(events.append)
    assert seen(events) == [("status", "Running"), ("status", "Completed")]


def test_an_interrupt_leaves_the_job_alone() -> None:
    fakes = Fakes()
    found = job(fakes, "Running")
    fakes.workspace.record.fail("jobs.get", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        found.wait()
    assert {call[0] for call in fakes.workspace.record.calls} == {"jobs.get"}


def test_a_cancelled_job_raises() -> None:
    with pytest.raises(JobCanceled) as caught:
        job(Fakes(), "Canceled").wait()
    assert caught.value.job == "job"


def test_a_job_that_has_not_ended_raises() -> None:
    with pytest.raises(WaitTimeout, match="it is Running"):
        job(Fakes(), "Running").raise_for_end()


def failed(fakes: Fakes) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        job(fakes, "Failed").wait()
    return caught.value


def test_a_failed_job_names_the_step_its_reason_and_its_log() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = STEPS
    fakes.rest.on({"error": {"message": "too few rows"}, "logFiles": {"std_log.txt": "https://l.test/"}}, "run-2")
    fakes.rest.on("first\nlast", "https://l.test/")
    error = failed(fakes)
    assert error.what == "The step finetune failed: too few rows"
    assert (error.job, error.step, error.log_tail) == ("job", "finetune", "first\nlast")


def test_a_failed_step_without_a_reason_says_so() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = STEPS
    assert failed(fakes).what == "The step finetune failed: no reason given"


def test_a_log_that_cannot_be_read_does_not_hide_the_failure() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = STEPS
    fakes.rest.on({"logFiles": {"std_log.txt": "https://l.test/"}}, "run-2")
    fakes.rest.on(AccessDenied("no access to the storage"), "https://l.test/")
    error = failed(fakes)
    assert error.what.endswith("no reason given (its log could not be read: no access to the storage)")
    assert error.log_tail == ""


@pytest.mark.parametrize(("answer", "what"), [({"error": {"message": "no disk"}}, "no disk"), ({}, "The job failed.")])
def test_a_failure_outside_the_steps_is_told_from_the_job(answer: dict[str, Any], what: str) -> None:
    fakes = Fakes()
    fakes.rest.on(answer, "/runs/job/details")
    error = failed(fakes)
    assert (error.what, error.step) == (what, None)


def test_cancelling_waits_for_the_end() -> None:
    fakes = Fakes()
    found = job(fakes, "Running")
    found.cancel()
    assert fakes.workspace.record.count("jobs.begin_cancel") == 1
    assert found.status() == "Canceled"


def test_a_job_that_has_ended_is_not_cancelled(workspace: TestWorkspace, clients: Clients) -> None:
    given.job(workspace)
    ended = FineTuneJob("job", clients)
    ended.wait()
    ended.cancel()
    assert not workspace.requests("POST jobs/*")


def test_a_job_that_ends_while_it_is_cancelled_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes()
    found = job(fakes, "Running", "Completed")

    def refuse(_name: str) -> None:
        raise http_error(400, "InvalidOperation")

    monkeypatch.setattr(fakes.workspace.jobs, "begin_cancel", refuse)
    found.cancel()
    assert found.status() == "Completed"
    going_on = job(fakes, "Running")
    with pytest.raises(ServiceError):
        going_on.cancel()


def test_metrics_are_one_row_a_value() -> None:
    fakes = Fakes()
    fakes.rest.metrics("job", loss=[2.0, 1.0], eval_loss=[3.0])
    frame = job(fakes, "Completed").metrics()
    assert list(frame.columns) == ["metric", "step", "value", "time"]
    assert list(zip(frame["metric"], frame["step"], frame["value"], strict=True)) == [
        ("eval_loss", 0, 3.0),
        ("loss", 0, 2.0),
        ("loss", 10, 1.0),
    ]
    assert str(frame["time"].iloc[2]) == "1970-01-01 00:00:01+00:00"


def test_a_job_without_metrics_has_an_empty_table() -> None:
    fakes = Fakes()
    fakes.rest.metrics("job")
    frame = job(fakes, "Completed").metrics()
    assert len(frame) == 0
    assert str(frame["time"].dtype).endswith("UTC]")


def test_the_tracking_address_is_looked_up_once() -> None:
    fakes = Fakes()
    found = job(fakes, "Running")
    assert found.tracking is found.tracking
    assert fakes.workspace.record.count("workspaces.get") == 1


@pytest.mark.parametrize(
    ("attempts", "name"),
    [
        ([], None),
        (["Running"], "job"),
        (["Failed"], None),
        (["Failed", "Queued"], "job-2"),
        (["Completed", "Completed"], "job-2"),
        (["Completed", "Canceled"], "job"),
    ],
)
def test_the_newest_attempt_that_may_have_a_model_is_found(attempts: list[str], name: str | None) -> None:
    fakes = Fakes()
    for number, status in enumerate(attempts, start=1):
        fakes.workspace.jobs.add("job" if number == 1 else f"job-{number}", status)
    found, free = find_job(fakes.clients, "job")
    assert free == ("job" if not attempts else f"job-{len(attempts) + 1}")
    assert (found and found.name) == name
    assert found is None or found.existed


def submit(fakes: Fakes, *, fresh: bool = False) -> FineTuneJob:
    return submit_job(fakes.clients, "job", lambda attempt: PipelineJob(name=attempt), fresh=fresh)


def test_a_job_is_submitted_once() -> None:
    fakes = Fakes()
    first, second = submit(fakes), submit(fakes)
    assert (first.name, first.existed) == ("job", False)
    assert (second.name, second.existed) == ("job", True)
    assert len(fakes.workspace.jobs.submitted) == 1


def test_after_a_failure_the_next_attempt_is_submitted() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.add("job", "Failed")
    fakes.workspace.jobs.add("job-2", "Canceled")
    assert submit(fakes).name == "job-3"


def test_a_fresh_job_is_submitted_beside_the_old_one() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.add("job", "Completed")
    assert submit(fakes, fresh=True).name == "job-2"
    assert fakes.workspace.jobs.submitted[0].name == "job-2"


def test_a_job_of_another_caller_that_fails_while_this_one_is_built_is_no_result() -> None:
    fakes = Fakes()
    built: list[str] = []

    def build(attempt: str) -> PipelineJob:
        if not built:
            fakes.workspace.jobs.create_or_update(PipelineJob(name="job", tags={"phift.fingerprint": "same"}))
            fakes.workspace.jobs.add("job", "Failed")
            fakes.workspace.record.fail("jobs.create_or_update", http_error(400, "JobPropertyImmutable"))
        built.append(attempt)
        return PipelineJob(name=attempt, tags={"phift.fingerprint": "same"})

    job = submit_job(fakes.clients, "job", build)
    assert (job.name, job.existed, built) == ("job-2", False, ["job", "job-2"])


def test_a_submission_that_is_refused_maps() -> None:
    fakes = Fakes()
    fakes.workspace.record.fail("jobs.create_or_update", http_error(409))
    with pytest.raises(Conflict):
        submit(fakes)


def test_a_look_that_fails_half_way_loses_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = [("finetune", "child", "Running")]
    troubles = [ServiceError("busy", status=503)]

    def once_busy(*_asked: object) -> Iterator[tuple[str, list[MetricPoint]]]:
        if troubles:
            raise troubles.pop()
        yield "", []

    monkeypatch.setattr(Tracking, "metric_pages", once_busy)
    steps = [value for kind, value in seen(job(fakes, "Running", "Running", "Completed").follow()) if kind == "step"]
    assert steps == [("finetune", "Running")]


@pytest.mark.usefixtures("clock")
def test_a_running_job_whose_steps_wait_counts_as_queued() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = [("finetune", "child", "Queued")]
    with pytest.raises(WaitTimeout, match="No node works on the job"):
        job(fakes, "Running").wait(queue_timeout=150)


@pytest.mark.parametrize(
    "error", [NotFound("no run"), AccessDenied("no right"), ServiceError("bad", status=400)], ids=repr
)
def test_a_live_loss_that_cannot_be_read_ends_no_wait(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    fakes = Fakes()
    fakes.rest.on(error, "get-history")
    found = job(fakes, "Running", "Running", "Completed")
    with caplog.at_level(logging.INFO, "phift"):
        found.wait()
    assert [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()] == [
        f"The metrics of the running job job cannot be read: {error}"
    ]


def test_a_workspace_that_does_not_tell_its_tracking_address_ends_no_wait() -> None:
    fakes = Fakes()
    fakes.workspace.record.fail("workspaces.get", *[http_error(403)] * 10)
    assert seen(job(fakes, "Running", "Completed").follow()) == [("status", "Running"), ("status", "Completed")]


@pytest.mark.usefixtures("clock")
def test_a_silence_is_told_once_until_the_service_answers_again() -> None:
    fakes = Fakes()
    found = job(fakes, "Running", "Completed")
    fakes.workspace.record.fail("jobs.get", *[ServiceRequestError("no route")] * 3)
    kinds = [event.kind for event in found.follow()]
    assert kinds == ["unreachable", "status", "status"]


@pytest.mark.usefixtures("clock")
def test_how_long_a_silence_may_last_is_the_clients_to_say() -> None:
    fakes = Fakes()
    fakes.clients = replace(fakes.clients, patience_seconds=250)
    found = job(fakes, "Running")
    fakes.workspace.record.fail("jobs.get", *[ServiceRequestError("no route")] * 10)
    with pytest.raises(ServiceUnreachable):
        list(found.follow())
    assert fakes.workspace.record.count("jobs.get") <= 4


def test_a_handler_that_fails_ends_no_wait(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_event: JobEvent) -> None:
        raise RuntimeError("the handler's own")

    job(Fakes(), "Queued", "Running", "Completed").wait(fail)
    assert [record.name for record in caplog.records] == ["phift.events"]
