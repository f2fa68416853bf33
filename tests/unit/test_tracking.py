from __future__ import annotations

from typing import Any, cast

import pytest

from phift.rest import Rest
from phift.tracking import MetricPoint, Tracking
from unit.fakes import FakeRest

URI = "azureml://host.test/mlflow/v1.0/subscriptions/s/workspaces/w?source=sdk"
MLFLOW = "https://host.test/mlflow/v1.0/subscriptions/s/workspaces/w/api/2.0/mlflow"
HISTORY = "https://host.test/history/v1.0/subscriptions/s/workspaces/w"


def tracking(rest: FakeRest) -> Tracking:
    return Tracking(cast(Rest, rest), URI)


def details(rest: FakeRest, answer: dict[str, Any]) -> Tracking:
    rest.on(answer, "/runs/run-1/details")
    return tracking(rest)


def test_names_are_sorted_and_single() -> None:
    rest = FakeRest()
    metrics = [{"key": "loss"}, {"key": "eval_loss"}, {"key": "loss"}]
    rest.on({"run": {"data": {"metrics": metrics}}}, "/runs/get")
    assert tracking(rest).metric_names("run-1") == ["eval_loss", "loss"]
    assert rest.addresses == [f"{MLFLOW}/runs/get?run_id=run-1"]


def test_a_run_without_metrics_has_no_names() -> None:
    rest = FakeRest()
    rest.on({"run": {"data": {}}}, "/runs/get")
    assert tracking(rest).metric_names("run-1") == []


def test_a_history_is_read_to_its_last_page() -> None:
    rest = FakeRest()
    rest.on({"metrics": [{"key": "loss", "value": 1, "step": 5, "timestamp": 7}]}, "page_token=more")
    first = [{"key": "loss", "value": "2.5", "step": "0", "timestamp": "6"}]
    rest.on({"metrics": first, "next_page_token": "more"}, "get-history")
    points = tracking(rest).metric_history("run-1", "loss")
    assert points == [MetricPoint("loss", 0, 2.5, 6), MetricPoint("loss", 5, 1.0, 7)]
    query = "run_id=run-1&metric_key=loss&max_results=5000"
    assert rest.addresses[0] == f"{MLFLOW}/metrics/get-history?{query}"
    assert rest.addresses[1] == f"{MLFLOW}/metrics/get-history?{query}&page_token=more"


def test_a_metric_that_was_never_logged_has_no_history() -> None:
    assert tracking(FakeRest()).metric_history("run-1", "loss") == []


def test_a_point_without_step_and_time_is_at_zero() -> None:
    rest = FakeRest()
    rest.on({"metrics": [{"key": "loss", "value": 1}]}, "get-history")
    assert tracking(rest).metric_history("run-1", "loss") == [MetricPoint("loss", 0, 1.0, 0)]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"error": {"error": {"code": "UserError", "message": "too few rows"}}}, "too few rows"),
        ({"error": {"message": "too few rows"}}, "too few rows"),
        ({"error": {"error": {"message": "GET ?sig=SECRET"}}}, "GET ?sig=***"),
        ({"error": None}, ""),
        ({}, ""),
    ],
)
def test_the_error_is_the_services_without_secrets(answer: dict[str, Any], text: str) -> None:
    rest = FakeRest()
    assert details(rest, answer).error("run-1") == text
    assert rest.addresses == [f"{HISTORY}/runs/run-1/details?"]


def test_the_tail_is_the_end_of_the_standard_log_without_secrets() -> None:
    rest = FakeRest()
    files = {"system_logs/a.txt": "https://logs.test/a", "user_logs/std_log.txt": "https://logs.test/std"}
    rest.on("one\ntwo\npassword=SECRET\n", "https://logs.test/std")
    assert details(rest, {"logFiles": files}).log_tail("run-1", lines=2) == "two\npassword=***"


@pytest.mark.parametrize("answer", [{}, {"logFiles": None}, {"logFiles": {"system_logs/a.txt": "u"}}])
def test_a_run_without_a_log_has_no_tail(answer: dict[str, Any]) -> None:
    rest = FakeRest()
    assert details(rest, answer).log_tail("run-1") == ""
    assert len(rest.addresses) == 1
