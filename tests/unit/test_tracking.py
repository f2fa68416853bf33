from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import count
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from phift.azure.clients import Rest
from phift.errors import ServiceError
from phift.jobs.tracking import MetricPoint, Tracking
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
    assert details(rest, {"logFiles": files}).log_tails("run-1", lines=2) == ["two\npassword=***"]


def test_a_private_key_of_which_the_tail_has_the_end_only_is_hidden() -> None:
    rest = FakeRest()
    body = "\n".join(["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"] * 50)
    log = f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\ndone"
    rest.on(log, "https://logs.test/std")
    files = {"std_log.txt": "https://logs.test/std"}
    assert details(rest, {"logFiles": files}).log_tails("run-1", lines=5) == ["-----BEGIN PRIVATE KEY-----***\ndone"]


@pytest.mark.parametrize("answer", [{}, {"logFiles": None}, {"logFiles": {"system_logs/a.txt": "u"}}])
def test_a_run_without_a_log_has_no_tail(answer: dict[str, Any]) -> None:
    rest = FakeRest()
    assert details(rest, answer).log_tails("run-1") == []
    assert len(rest.addresses) == 1


def test_a_value_may_be_none_that_json_knows() -> None:
    rest = FakeRest()
    rest.on({"metrics": [{"key": "loss", "value": "Infinity", "step": 1}]}, "get-history")
    assert tracking(rest).metric_history("run-1", "loss") == [MetricPoint("loss", 1, float("inf"), 0)]


def test_a_page_token_that_comes_twice_ends_the_reading() -> None:
    rest = FakeRest()
    rest.on({"metrics": [], "next_page_token": "more"}, "get-history")
    with pytest.raises(ServiceError, match="same page token twice"):
        tracking(rest).metric_history("run-1", "loss")
    assert len(rest.addresses) == 2


def test_pages_without_end_are_not_read_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.jobs.tracking._MOST_PAGES", 5)
    rest, numbers = MagicMock(spec=Rest), count()
    rest.get.side_effect = lambda *_: {"metrics": [], "next_page_token": f"page {next(numbers)}"}
    with pytest.raises(ServiceError, match="more than 5 pages"):
        Tracking(rest, URI).metric_history("run-1", "loss")
    assert rest.get.call_count == 5


def history(**point: Any) -> dict[str, Any]:
    return {"metrics": [{"key": "loss", "value": 1.0, **point}]}


@pytest.mark.parametrize(
    "answer",
    [
        MagicMock(),
        ["metrics"],
        "metrics",
        {"metrics": {"key": "loss"}},
        {"metrics": MagicMock()},
        {"metrics": ["loss"]},
        {"metrics": [{"value": 1.0}]},
        {"metrics": [{"key": "loss"}]},
        history(key=MagicMock()),
        history(value="high"),
        history(value=MagicMock()),
        history(value=True),
        history(value=10**400),
        history(step="NaN"),
        history(step=MagicMock()),
        history(timestamp="yesterday"),
        history() | {"next_page_token": MagicMock()},
        history() | {"next_page_token": ["more"]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_history_that_is_none_is_an_error_of_ours(answer: Any) -> None:
    rest = FakeRest()
    rest.on(answer, "get-history")
    with pytest.raises(ServiceError, match="The client answered with"):
        tracking(rest).metric_history("run-1", "loss")


@pytest.mark.parametrize(
    "answer",
    [
        MagicMock(),
        [1],
        {"run": "none"},
        {"run": {"data": [1]}},
        {"run": {"data": {"metrics": {"loss": 1}}}},
        {"run": {"data": {"metrics": ["loss"]}}},
        {"run": {"data": {"metrics": [{"value": 1}]}}},
        {"run": {"data": {"metrics": [{"key": MagicMock()}]}}},
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_run_that_is_none_is_an_error_of_ours(answer: Any) -> None:
    rest = FakeRest()
    rest.on(answer, "runs/get")
    with pytest.raises(ServiceError, match="The client answered with"):
        tracking(rest).metric_names("run-1")


@pytest.mark.parametrize("answer", [{"run": None}, {"run": {"data": None}}, {"run": {"data": {"metrics": None}}}])
def test_a_run_with_gaps_has_no_names(answer: Any) -> None:
    rest = FakeRest()
    rest.on(answer, "runs/get")
    assert tracking(rest).metric_names("run-1") == []


@pytest.mark.parametrize(
    "answer",
    [
        MagicMock(),
        [1],
        {"error": "broken", "logFiles": "std_log.txt"},
        {"error": {"message": 1.5}, "logFiles": {"std_log.txt": MagicMock()}},
        {"error": {"error": ["broken"]}, "logFiles": ["std_log.txt"]},
        {"error": MagicMock(), "logFiles": MagicMock()},
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("read", [Tracking.error, Tracking.log_tails])
def test_details_that_are_none_are_an_error_of_ours(read: Callable[[Tracking, str], str], answer: Any) -> None:
    rest = FakeRest()
    with pytest.raises(ServiceError, match="The client answered with"):
        read(details(rest, answer), "run-1")


def test_a_log_that_is_no_text_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = FakeRest()
    monkeypatch.setattr(rest, "part", MagicMock())
    with pytest.raises(ServiceError, match=r"where a part of it was expected \(the log\)"):
        details(rest, {"logFiles": {"std_log.txt": "https://logs.test/std"}}).log_tails("run-1")


def test_the_tail_of_a_long_log_is_read_without_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.jobs.tracking._TAIL", 100)
    rest = FakeRest()
    rest.on("".join(f"line {number}\n" for number in range(1000)), "https://logs.test/std")
    assert details(rest, {"logFiles": {"std_log.txt": "https://logs.test/std"}}).log_tails("run-1", lines=2) == [
        "line 998\nline 999"
    ]
    assert rest.addresses.count("https://logs.test/std?") == 2


def test_each_of_several_processes_has_a_tail() -> None:
    rest = FakeRest()
    names = [f"user_logs/std_log_process_{number:02}.txt" for number in range(10)]
    rest.on("line\n", "https://logs.test/std")
    files = dict.fromkeys((*names, "system_logs/lifecycler/execution-wrapper.txt"), "https://logs.test/std")
    assert details(rest, {"logFiles": files}).log_tails("run-1") == ["line"] * 8


@pytest.mark.parametrize(
    "uri", ["", "file:///runs", "https://host.test/api", "azureml://host.test/mlflow", "host/mlflow/v1.0/subscriptions"]
)
def test_another_tracking_uri_is_told(uri: str) -> None:
    with pytest.raises(ServiceError, match="tracking URI is none of Azure ML's"):
        Tracking(cast(Rest, FakeRest()), uri)


@pytest.mark.parametrize("uri", [MagicMock(), None])
def test_a_tracking_uri_that_is_no_text_is_told(uri: Any) -> None:
    with pytest.raises(ServiceError, match=r"workspace\.mlflow_tracking_uri"):
        Tracking(cast(Rest, FakeRest()), uri)


@pytest.mark.parametrize("rest", [MagicMock(spec=Rest), MagicMock()])
def test_a_client_without_answers_takes_no_memory(rest: Any) -> None:
    tracemalloc.start()
    try:
        for read in (Tracking.metric_names, Tracking.error, Tracking.log_tails):
            with pytest.raises(ServiceError):
                read(Tracking(rest, URI), "run-1")
        with pytest.raises(ServiceError):
            Tracking(rest, URI).metric_history("run-1", "loss")
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
