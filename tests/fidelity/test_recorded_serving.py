"""Endpoints, deployments and assets as Azure ML has been recorded to treat them, where one answer does not show it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from azure.ai.ml.entities import ManagedOnlineEndpoint

from fidelity.conftest import Said
from fidelity.wire_calls import SIZE, train_file
from phift.local.names import WORKSPACE_ID

pytestmark = pytest.mark.slow

PHI = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"


@pytest.fixture
def endpoint(said: Said) -> Callable[[str], str]:
    """Make an endpoint of an ``authMode``, and return its path."""

    def make(mode: str) -> str:
        entity = ManagedOnlineEndpoint(name=f"ept-{uuid.uuid4().hex[:8]}", auth_mode=mode)
        said.clients.sdk.online_endpoints.begin_create_or_update(entity).result()
        return f"{WORKSPACE_ID}/onlineEndpoints/{entity.name}"

    return make


def put(said: Said, path: str, **properties: Any) -> Any:
    sent = {"model": PHI, "instanceType": SIZE, **properties}
    return said.clients.plain("PUT", f"{path}/deployments/blue", json={"location": "westus2", "properties": sent})


def serving(said: Said, path: str) -> Any:
    """Make a deployment, and return it when it is there."""
    assert put(said, path).status_code == 201
    name = path.rpartition("/")[2]
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = said.clients.sdk.online_deployments.get("blue", name)
        if found.provisioning_state == "Succeeded":
            return found
        time.sleep(0.05)
    raise AssertionError(found.provisioning_state)


@pytest.mark.parametrize("mode", ["aml_token", "aad_token"])
def test_a_token_of_an_endpoint_lasts_a_day(said: Said, endpoint: Callable[[str], str], mode: str) -> None:
    # Azure/azure-powershell 9fe78818, Get-AzMLWorkspaceOnlineEndpointToken, 2024-07-24.
    told = said.clients.plain("POST", f"{endpoint(mode)}/token").json()
    assert told["expiryTimeUtc"] - time.time() == pytest.approx(86_400, abs=120)
    assert told["expiryTimeUtc"] - told["refreshAfterTimeUtc"] == 43_200


def test_a_change_keeps_the_endpoint_as_it_is(said: Said, endpoint: Callable[[str], str]) -> None:
    path, plain = endpoint("key"), said.clients.plain
    before = plain("GET", path).json()
    sent = {key: before[key] for key in ("properties", "tags", "identity", "location")}
    changed = plain("PUT", path, json={**sent, "tags": {"a": "b"}})
    assert (changed.status_code, changed.json()["properties"]["provisioningState"]) == (201, "Creating")
    assert changed.json()["properties"]["scoringUri"] is None
    assert changed.headers["Location"].partition("?")[0].endswith(path)
    operation = changed.json()["properties"]["properties"]["AzureAsyncOperationUri"]
    assert operation == changed.headers["Azure-AsyncOperation"]
    end = time.monotonic() + 60
    while (after := plain("GET", path).json())["properties"]["provisioningState"] != "Succeeded":
        assert time.monotonic() < end
    assert after["tags"] == {"a": "b"}
    for name in ("scoringUri", "swaggerUri", "authMode"):
        assert after["properties"][name] == before["properties"][name]
    assert after["properties"]["properties"].keys() == before["properties"]["properties"].keys()


def test_a_deployment_that_was_read_can_be_sent_back(said: Said, endpoint: Callable[[str], str]) -> None:
    path = endpoint("key")
    found = serving(said, path)
    assert "/environments/DefaultNcdEnv-mlflow" in str(found.environment)
    assert found.environment_variables["AZUREML_MODEL_DIR"].endswith("/Phi-4-mini-instruct/1")
    assert (found.liveness_probe.failure_threshold, found.readiness_probe.initial_delay) == (30, 10)
    found.readiness_probe.initial_delay = 20
    said.clients.sdk.online_deployments.begin_create_or_update(found).result()
    again = said.clients.sdk.online_deployments.get("blue", found.endpoint_name)
    assert (again.readiness_probe.initial_delay, again.readiness_probe.period) == (20, 10)
    assert put(said, path, environmentId=f"{WORKSPACE_ID}/environments/mine/versions/1").status_code == 501
    content = said.clients.sdk.online_deployments.get_logs("blue", found.endpoint_name, lines=1)
    assert content.startswith("Instance status:\nSystemSetup: Succeeded\n")
    _, _, lines = content.partition("\nContainer logs:\n")
    assert len(lines.splitlines()) == 1
    assert "\n\nContainer events:\nKind: Pod, " in content


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("requestSettings", "requestTimeout", "PT1..5S"),
        ("requestSettings", "requestTimeout", "5 seconds"),
        ("requestSettings", "requestTimeout", 5),
        ("requestSettings", "maxQueueWait", "PT"),
        ("livenessProbe", "period", "P"),
        ("readinessProbe", "initialDelay", "P1DT"),
    ],
)
def test_a_duration_that_is_none_is_refused(
    said: Said, endpoint: Callable[[str], str], part: str, name: str, value: object
) -> None:
    path = endpoint("key")
    answer = put(said, path, **{part: {name: value}})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "UserError")
    assert error["details"][0]["code"] == "RequestInvalid"
    assert f"properties.{part}.{name}" in error["details"][0]["message"]
    assert said.clients.plain("GET", f"{path}/deployments/blue").status_code == 404


@pytest.mark.parametrize(
    ("path", "code", "what"),
    [
        ("models/nope", "ModelNotFound", "Model container"),
        ("models/nope/versions", "ModelNotFound", "Model container"),
        ("data/nope", "DataNotFound", "Data container"),
        ("onlineEndpoints/nope", "OnlineEndpointNotFound", "Online endpoint"),
    ],
)
def test_what_is_not_there_is_named_in_the_details(said: Said, path: str, code: str, what: str) -> None:
    answer = said.clients.plain("GET", f"{WORKSPACE_ID}/{path}")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "UserError")
    assert error["message"] == "The specified resource was not found."
    detail = {"code": code, "message": f"{what} with name: nope not found.", "details": [], "additionalInfo": []}
    assert error["details"] == [detail]


def test_pages_of_one_lead_through_all_versions(said: Said) -> None:
    from azure.ai.ml.entities import Model

    sdk, name = said.clients.sdk, f"paged-{uuid.uuid4().hex[:8]}"
    for version in "123":
        file = str(train_file(said.clients.folder))
        sdk.models.create_or_update(Model(name=name, version=version, path=file, type="custom_model"))
    page = said.clients.plain("GET", f"{WORKSPACE_ID}/models/{name}/versions?api-version=2023-10-01&$top=1").json()
    seen = [page["value"][0]["name"]]
    while link := page.get("nextLink"):
        assert len(page["value"]) == 1
        page = said.clients.plain("GET", link.removeprefix(said.clients.connection.base_url)).json()
        seen.append(page["value"][0]["name"])
    assert seen == ["3", "2", "1"]
    assert sdk.models.get(name, label="latest").version == "3"
