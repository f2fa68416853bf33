"""How long a deployment is waited for: it ends in time, takes back what it made, and tells how far it is meanwhile."""

from __future__ import annotations

import time
from typing import Any

import pytest

from phift.azure.clients import Clients
from phift.errors import DeploymentFailed, WaitTimeout
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from phift.serving.resource import DeploymentEvent
from phift.serving.waiting import Waiting
from phift.testing import Fault, TestWorkspace
from unit.fakes import A100, Fakes

MODEL = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"
SLOW = Fault("operation deployment-create", code="InternalServerError", delay=4)


def deploy(clients: Clients, events: list[DeploymentEvent] | None = None, **options: Any) -> Endpoint:
    handler = events.append if events is not None else None
    return deploy_model(clients, MODEL, name="phift-slow", size=A100, on_event=handler, **options)


def test_a_deployment_that_takes_too_long_is_taken_back(workspace: TestWorkspace, clients: Clients) -> None:
    workspace.order(SLOW)
    events: list[DeploymentEvent] = []
    began = time.monotonic()
    with pytest.raises(DeploymentFailed, match=r"was not done within 1 s") as caught:
        deploy(clients, events, timeout=1.0)
    assert time.monotonic() - began < 20  # the rest is the deletion's
    assert isinstance(caught.value.__cause__, WaitTimeout)
    assert "what was made is deleted again" in (caught.value.fix or "")
    assert [event.stage for event in events] == ["endpoint", "deployment", "rollback", "delete", "deleted"]
    assert list(clients.workspace.online_endpoints.list()) == []


def test_a_deployment_tells_how_far_it_is(
    workspace: TestWorkspace, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phift.serving.waiting._EVERY", 0.2)
    workspace.order(SLOW)
    events: list[DeploymentEvent] = []
    with pytest.raises(DeploymentFailed):
        deploy(clients, events, timeout=1.5)
    told = [event for event in events if event.stage == "provisioning"]
    assert told
    assert (told[0].name, told[0].detail) == ("default", "0.0 min; UserContainerStart: Waiting")


def test_a_time_that_was_over_before_makes_nothing() -> None:
    fakes = Fakes()
    with pytest.raises(WaitTimeout, match="not done within 0 s"):
        deploy(fakes.clients, timeout=0)
    assert fakes.workspace.record.count("online_endpoints.begin_create_or_update") == 0


def test_an_operation_of_somebody_else_is_waited_for_no_longer_than_the_time(sleeps: list[float]) -> None:
    fakes = Fakes()
    fakes.add_endpoint("phift-slow", tags={"phift.serves": "x"})
    fakes.workspace.online_endpoints.states["phift-slow"] = ["Updating"] * 1_000_000
    with pytest.raises(DeploymentFailed, match="not done within"):
        deploy(fakes.clients, timeout=0.2)
    assert "phift-slow" in fakes.workspace.online_endpoints.known


def test_without_a_time_out_nothing_is_ever_over() -> None:
    waiting = Waiting()
    waiting.check("anything")
    assert not waiting.is_over
