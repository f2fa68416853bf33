"""Deployments through phift and the real SDK, against a local workspace whose model servers are fakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import Local

from phift import RunConfig, connect
from phift.azure.clients import Clients
from phift.config.deployment import DeploymentConfig
from phift.errors import Conflict
from phift.serving.cleanup import remove_endpoint
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from phift.serving.resource import DeploymentEvent

pytestmark = pytest.mark.slow

TAGS = {"phift.model": "made-up:1"}
MODEL = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"
OTHER_MODEL = "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/1"


@pytest.fixture
def clients(local: Local, tmp_path: Path) -> Clients:
    where = {"local": local.connection.folder}
    data = {"train": tmp_path / "train.jsonl"}
    return connect(RunConfig(workspace=where, model="Phi-4-mini-instruct", compute="gpu-cluster", data=data))


def deploy(clients: Clients, stages: list[str], model: str = MODEL, **config: int) -> Endpoint:
    def note(event: DeploymentEvent) -> None:
        stages.append(event.stage)

    return deploy_model(
        clients,
        model,
        name="phift-twice",
        size="Standard_NC24ads_A100_v4",
        config=DeploymentConfig.model_validate(config),
        tags=TAGS,
        on_event=note,
    )


def test_a_second_deployment_changes_nothing_and_another_model_is_refused(clients: Clients) -> None:
    first: list[str] = []
    again: list[str] = []
    changed: list[str] = []
    endpoint = deploy(clients, first)
    try:
        deploy(clients, again)
        deploy(clients, changed, request_timeout_ms=90_000)
        with pytest.raises(Conflict, match="made-up:1"):
            deploy(clients, [], OTHER_MODEL)
        with pytest.raises(Conflict):
            remove_endpoint(clients, endpoint.name, {"phift.model": "other:1"})
    finally:
        remove_endpoint(clients, endpoint.name, TAGS)
    assert first == ["endpoint", "deployment", "traffic", "ready"]
    assert again == ["exists", "ready"]
    assert changed == ["exists", "deployment", "ready"]
