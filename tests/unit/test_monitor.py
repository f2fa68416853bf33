"""The requests that an endpoint's deployments answered, as the local workspace counts and Azure Monitor tells them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.ml.entities import ManagedOnlineDeployment, OnlineEndpoint

from phift.azure.clients import Clients, Rest
from phift.errors import NotFound, PhiftError, ScoringError
from phift.local.state.documents import Documents
from phift.local.state.traffic import Answered, Traffic
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from phift.serving.monitor import Traffic as Told
from phift.serving.monitor import metrics_delay, read_traffic
from phift.testing import Fault, TestWorkspace
from unit.fakes import A100

PHI = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"
NAME = "counted"


@pytest.fixture
def endpoint(workspace: TestWorkspace, clients: Clients) -> Endpoint:
    """An endpoint with a deployment that has all traffic, ``blue``, and one that has none, ``green``."""
    made = deploy_model(clients, PHI, name=NAME, size=A100, config={"deployment_name": "blue"})
    green = ManagedOnlineDeployment(name="green", endpoint_name=NAME, model=PHI, instance_type=A100, instance_count=1)
    clients.workspace.online_deployments.begin_create_or_update(green).result()
    return made


def told(clients: Clients, minutes: float = 5) -> dict[str, Told]:
    now = datetime.now(UTC)
    return read_traffic(clients, NAME, now - timedelta(minutes=minutes), now + timedelta(minutes=1))


def route(clients: Clients, live: dict[str, int], mirror: dict[str, int] | None = None) -> OnlineEndpoint:
    found = clients.workspace.online_endpoints.get(NAME)
    found.traffic, found.mirror_traffic = live, mirror or {}
    return clients.workspace.online_endpoints.begin_create_or_update(found).result()


def test_requests_errors_and_times_are_told_of_each_deployment(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint
) -> None:
    for _ in range(3):
        endpoint.chat("hello")
    workspace.order(Fault("scoring green", status=500, times=1), Fault("scoring green", delay=0.2))
    with pytest.raises(ScoringError, match="424"):
        endpoint.chat("hello", deployment="green")
    endpoint.chat("hello", deployment="green")
    found = told(clients)
    assert {name: (each.requests, each.errors) for name, each in found.items()} == {"blue": (3, 0), "green": (2, 1)}
    assert found["green"].error_rate == 0.5
    assert found["green"].p95_seconds == pytest.approx(0.2, abs=0.15)
    assert (found["blue"].p95_seconds or 1) < 0.2
    assert told(clients, minutes=3000)["blue"].requests == 3  # a question for each day


def test_an_idle_endpoint_has_no_traffic(clients: Clients, endpoint: Endpoint) -> None:
    assert told(clients) == {}
    assert endpoint.name == NAME
    assert Told(requests=0, errors=0, p95_seconds=None).error_rate == 0


def test_an_endpoint_that_is_not_there_is_said_to_be_missing(clients: Clients) -> None:
    with pytest.raises(NotFound):
        told(clients)


def test_azures_spelling_and_its_empty_minutes_are_read(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of dimensions in small letters, minutes without a value or with zero, no deployment for what found none."""
    asked: list[dict[str, Any]] = []

    def series(value: list[dict[str, Any]], **dimensions: str) -> dict[str, Any]:
        told = [{"name": {"value": name, "localizedValue": name}, "value": each} for name, each in dimensions.items()]
        return {"metadatavalues": told, "data": value}

    def get(_self: Rest, url: str, params: dict[str, Any]) -> dict[str, Any]:
        asked.append(params)
        assert url.endswith(f"/onlineEndpoints/{NAME}/providers/Microsoft.Insights/metrics")
        first, second, third = ({"timeStamp": f"2026-11-30T12:0{minute}:00Z"} for minute in (0, 1, 2))
        if params["metricnames"] == "RequestsPerMinute":
            blue = {"deployment": "Blue", "statuscodeclass": "2xx"}
            found = [
                series([first | {"average": 6.0}, second | {"average": 2.0}, third | {"average": 0.0}], **blue),
                series([first, second | {"average": 4.0}, third], **blue | {"statuscodeclass": "5xx"}),
                series([first | {"average": 9.0}], deployment="", statuscodeclass="4xx"),
                series([first | {"average": 0.0}], deployment="idle", statuscodeclass="2xx"),
                series([first | {"average": 10**400}], deployment="odd", statuscodeclass="2xx"),
            ]
        else:
            found = [series([first | {"average": 100.0}, second | {"average": 300.0}, third], deployment="blue")]
        return {"value": [{"name": {"value": params["metricnames"]}, "timeseries": found}]}

    monkeypatch.setattr(Rest, "get", get)
    since = datetime(2026, 11, 30, 12, 0, 30, tzinfo=UTC)
    found = read_traffic(clients, NAME, since, since + timedelta(minutes=2))
    assert found == {"blue": Told(requests=12, errors=4, p95_seconds=0.2)}
    assert asked[0]["timespan"] == "2026-11-30T12:00:00.000000Z/2026-11-30T12:02:30.000000Z"
    assert asked[0]["$filter"] == "deployment eq '*' and statusCodeClass eq '*'"


def test_metrics_of_a_local_workspace_are_there_at_once(clients: Clients) -> None:
    assert metrics_delay(clients) == 0
    azure = Rest(clients.rest.credential, "https://management.azure.com/.default")
    assert metrics_delay(Clients(*(clients.workspace,) * 3, azure, "")) >= 120


@pytest.fixture
def ask(clients: Clients, endpoint: Endpoint) -> Any:
    """Ask Azure Monitor's route by hand."""

    def get(**query: str) -> dict[str, Any]:
        now = datetime.now(UTC)
        span = f"{now - timedelta(minutes=2):%Y-%m-%dT%H:%M:%SZ}/{now + timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
        base, client = clients.rest.resource_manager, clients.workspace
        at = f"{base}/subscriptions/{client.subscription_id}/resourceGroups/{client.resource_group_name}/providers"
        at += f"/Microsoft.MachineLearningServices/workspaces/{client.workspace_name}/onlineEndpoints/{endpoint.name}"
        standard = {"api-version": "2023-10-01", "timespan": span, "metricnames": "RequestsPerMinute"}
        return clients.rest.get(f"{at}/providers/Microsoft.Insights/metrics", {**standard, **query})

    return get


def test_the_route_tells_what_is_asked_for(endpoint: Endpoint, ask: Any) -> None:
    for deployment in ("blue", "blue", "green"):
        endpoint.chat("hello", deployment=deployment)
    [metric] = ask(interval="PT1M", aggregation="Average")["value"]
    assert [metric["unit"], metric["errorCode"], len(metric["timeseries"])] == ["Count", "Success", 1]
    [series] = metric["timeseries"]
    assert sum(point.get("average", 0) for point in series["data"]) == 3
    assert len(series["data"]) >= 3  # the empty minutes are there too
    [metric] = ask(**{"$filter": "deployment eq 'green' or deployment eq 'red' and statusCode eq '*'"})["value"]
    [series] = metric["timeseries"]
    assert [each["value"] for each in series["metadatavalues"]] == ["green", "200"]
    names = "RequestLatency,RequestLatency_P50,RequestLatency_P90,RequestLatency_P95,RequestLatency_P99"
    answer = ask(metricnames=names, **{"$filter": "deployment eq '*'"})
    assert [len(metric["timeseries"]) for metric in answer["value"]] == [2] * 5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"metricnames": "Requests"}, "Failed to find metric configuration for Requests"),
        ({"timespan": "yesterday"}, "timespan"),
        ({"timespan": "2026-11-30T12:00:00Z/2026-11-30T11:00:00Z"}, "timespan"),
        ({"timespan": "2024-11-30T12:00:00Z/2026-11-30T11:00:00Z"}, "timespan"),
        ({"interval": "PT5M"}, "PT1M"),
        ({"aggregation": "Total"}, "Average"),
        ({"$filter": "deployment = 'blue'"}, "eq"),
        ({"$filter": "deployment eq 'blue' or statusCode eq '*'"}, "cannot separate"),
        ({"$filter": "instanceId eq '*'"}, "Dimension instanceid is not supported"),
    ],
)
def test_what_the_route_does_not_know_is_refused(ask: Any, wrong: dict[str, str], said: str) -> None:
    with pytest.raises(PhiftError, match=said):
        ask(**wrong)


def test_a_share_of_the_requests_is_mirrored_and_nobody_notices(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint
) -> None:
    assert route(clients, {"blue": 100}, {"green": 50}).mirror_traffic == {"green": 50}
    workspace.order(Fault("scoring green", status=500, times=None))
    for _ in range(60):
        endpoint.chat("hello")
    for _ in range(20):
        endpoint.chat("hello", deployment="blue")  # is not mirrored
    end = time.monotonic() + 10
    while (found := told(clients)).get("blue", Told(requests=0, errors=0, p95_seconds=None)).requests < 80:
        assert time.monotonic() < end
    assert found["blue"].errors == 0
    assert 10 < found["green"].requests < 50
    assert found["green"].errors == found["green"].requests


@pytest.mark.parametrize(
    ("live", "mirror", "said"),
    [
        ({"blue": 100}, {"green": 51}, "0 to 50"),
        ({"blue": 100}, {"blue": 10}, "live or mirrored"),
        ({"blue": 100}, {"red": 10}, "no such deployment"),
        ({"blue": 0}, {"blue": 10, "green": 10}, "one deployment only"),
        ({"blue": 60, "green": 60}, {}, "sum to 0 or 100"),
    ],
)
def test_the_rules_of_traffic_are_kept(
    clients: Clients, endpoint: Endpoint, live: dict[str, int], mirror: dict[str, int], said: str
) -> None:
    assert endpoint.name == NAME
    with pytest.raises(Exception, match=said):
        route(clients, live, mirror)


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[Documents]:
    documents = Documents(tmp_path / "state.sqlite")
    yield documents
    documents.close()


def counted(traffic: Traffic) -> dict[tuple[int, str], int]:
    return {(minute, name): each.answered.total() for minute, name, each in traffic.minutes("E", 0, 10**9)}


def test_minutes_survive_a_restart_and_old_ones_go(documents: Documents) -> None:
    now = 600.0
    traffic = Traffic(documents, lambda: now)
    good = Answered(200, 200)
    for _ in range(3):
        traffic.note("e", "blue", good, 5)
    traffic.close()
    traffic = Traffic(documents, lambda: now)
    traffic.note("E", "blue", Answered(424, 500), 7)
    assert counted(traffic) == {(10, "blue"): 4}
    [(_, _, minute)] = traffic.minutes("e", 0, 11)
    assert minute.answered == {good: 3, Answered(424, 500): 1}
    assert sorted(minute.milliseconds) == [5, 5, 5, 7]
    now = 60.0 * 7 * 24 * 60 + 660
    traffic.note("e", "blue", good, 5)
    assert counted(traffic) == {(7 * 24 * 60 + 11, "blue"): 1}
    assert list(traffic.minutes("e", 0, 100)) == []
    traffic.note("e", "blue", good, 5)
    traffic.clear()
    assert sum(counted(traffic).values()) == 1


def test_what_is_kept_of_a_minute_is_bounded(documents: Documents) -> None:
    traffic = Traffic(documents, lambda: 0.0)
    for number in range(1000):
        traffic.note("e", "blue", Answered(200, 200), number)
    assert counted(traffic) == {(0, "blue"): 1000}
    for number in range(1000):
        traffic.note("e", "blue", Answered(200, 200), number)
    [(_, _, minute)] = traffic.minutes("e", 0, 1)
    assert len(minute.milliseconds) == 200
    assert sorted(minute.milliseconds)[190] == pytest.approx(950, abs=60)
    assert len(json.dumps(minute.milliseconds)) < 2000


def test_no_request_fails_where_its_minute_cannot_be_written(
    documents: Documents, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    traffic = Traffic(documents, lambda: now)
    traffic.note("e", "blue", Answered(200, 200), 1)
    documents.close()
    now = 60.0
    traffic.note("e", "blue", Answered(200, 200), 1)
    assert "not written down" in caplog.text


def test_a_body_that_cannot_be_read_is_the_models_to_refuse(clients: Clients, endpoint: Endpoint) -> None:
    answer = requests.post(endpoint.scoring_uri, json={}, auth=endpoint._client.opened(), timeout=10)
    assert [answer.status_code, answer.headers["ms-azureml-model-error-statuscode"]] == [424, "400"]
    assert told(clients)["blue"].errors == 1
