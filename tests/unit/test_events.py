from __future__ import annotations

import json
import math
import pickle
from datetime import UTC, datetime, timedelta
from typing import assert_never, get_args

import pytest

from phift.data.sources import Progress
from phift.evaluation.asking import RowCompared
from phift.jobs.download import DownloadProgress
from phift.jobs.events import Idle, JobEvent, MetricLogged, NoAnswer, StatusChanged, StepChanged, StillQueued
from phift.jobs.tracking import MetricPoint
from phift.run.events import Event, OnEvent, TrialChanged, only
from phift.serving.batch import ChatProgress
from phift.serving.resource import DeploymentEvent
from phift.serving.rollout_state import RolloutEvent
from phift.tokens.count import Counted

OF_A_JOB: list[JobEvent] = [
    StatusChanged(job="job", run="0123456789ab", status="Running"),
    StepChanged(job="job", step="finetune", status="Queued", run_id="child"),
    MetricLogged(job="job", metric=MetricPoint("loss", 10, 0.5, 1_700_000_000_000)),
    NoAnswer(job="job", what="no route"),
    StillQueued(job="job", status="Queued", seconds=600.0, known=("No quota is left.",), fix="ask for more"),
    Idle(job="job", status="Queued"),
]
KINDS = {"status", "step", "metric", "unreachable", "queued", "idle"}
KINDS |= {"progress", "counted", "deployment", "download", "trial", "row_compared", "chat", "rollout"}
EVENTS: list[Event] = [
    *OF_A_JOB,
    Progress(source="rows.jsonl", rows=10),
    Counted("train", 10, 0.5),
    DeploymentEvent("ready", "phift-e"),
    DownloadProgress(stage="fetch", source="job job", bytes=1, total_bytes=2, files=0, total_files=1),
    RowCompared(before="base", after="phift-e", rows=1, total_rows=2),
    ChatProgress(endpoint="phift-e", done=1, failed=0, total=2),
    RolloutEvent(endpoint="phift-e", deployment="green", stage="serving", share=10),
    TrialChanged(
        search="s", trial=1, parameters={"rate": 0.1}, state="running", job="job", metric="eval_loss", value=math.inf
    ),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_says_when_it_was_and_travels(event: Event) -> None:
    assert event.time.tzinfo is UTC
    assert datetime.now(UTC) - event.time < timedelta(hours=1)
    assert pickle.loads(pickle.dumps(event)) == event  # noqa: S301 - our own bytes
    told = json.loads(json.dumps(event.to_dict(), allow_nan=False))
    assert datetime.fromisoformat(told.pop("time")) == event.time
    assert told.pop("event") in KINDS
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


def said(event: Event) -> str:
    """Return what an event says; a type checker finds a kind that is left out."""
    match event:
        case Progress() | Counted() | RowCompared():
            return f"{event.rows} rows"
        case ChatProgress():
            return f"{event.done} of {event.total}"
        case DownloadProgress():
            return f"{event.bytes} bytes"
        case TrialChanged() | RolloutEvent():
            return str(event)
        case DeploymentEvent():
            return event.stage
        case StatusChanged() | StepChanged() | StillQueued() | Idle():
            return event.status
        case MetricLogged():
            return event.metric.name
        case NoAnswer():
            return event.what
        case _:
            assert_never(event)


def test_every_kind_can_be_told_from_the_others() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(Event))
    assert all(map(said, EVENTS))
