from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta

import pytest

from phift.data.sources import Progress
from phift.jobs.events import Idle, JobEvent, MetricLogged, NoAnswer, StatusChanged, StepChanged
from phift.jobs.tracking import MetricPoint
from phift.run.events import Event, OnEvent, only
from phift.serving.resource import DeploymentEvent
from phift.tokens.count import Counted

OF_A_JOB: list[JobEvent] = [
    StatusChanged(job="job", run="0123456789ab", status="Running"),
    StepChanged(job="job", step="finetune", status="Queued", run_id="child"),
    MetricLogged(job="job", metric=MetricPoint("loss", 10, 0.5, 1_700_000_000_000)),
    NoAnswer(job="job", what="no route"),
    Idle(job="job", status="Queued"),
]
EVENTS: list[Event] = [
    *OF_A_JOB,
    Progress(source="rows.jsonl", rows=10),
    Counted("train", 10, 0.5),
    DeploymentEvent("ready", "phift-e"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_says_when_it_was_and_travels(event: Event) -> None:
    assert event.time.tzinfo is UTC
    assert datetime.now(UTC) - event.time < timedelta(hours=1)
    assert pickle.loads(pickle.dumps(event)) == event  # noqa: S301 - our own bytes
    told = json.loads(json.dumps(event.to_dict(), allow_nan=False))
    assert datetime.fromisoformat(told.pop("time")) == event.time
    assert told.pop("event") in {"status", "step", "metric", "unreachable", "idle", "progress", "counted", "deployment"}
    if isinstance(event, JobEvent):
        assert (told.pop("job"), told.pop("run")) == (event.job, event.run)
    assert told


@pytest.mark.parametrize(("value", "text"), [("nan", "NaN"), ("inf", "Infinity"), ("-inf", "-Infinity")])
def test_a_loss_that_is_no_number_is_text_in_json(value: str, text: str) -> None:
    event = MetricLogged(job="job", metric=MetricPoint("loss", 1, float(value), 0))
    assert json.loads(json.dumps(event.to_dict(), allow_nan=False))["metric"]["value"] == text


def test_a_handler_of_one_kind_hears_of_no_other() -> None:
    statuses: list[str] = []

    def note(event: StatusChanged) -> None:
        statuses.append(event.status)

    handler: OnEvent = only(StatusChanged, note)
    for event in EVENTS:
        handler(event)
    assert statuses == ["Running"]
