"""Endpoints as a client sees them: keys, tokens, traffic, quota, and errors as Azure maps them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from running import Local
from wire_jobs import submit

pytestmark = pytest.mark.slow


def _ended(local: Local, answer: requests.Response) -> dict[str, Any]:
    assert answer.status_code in (200, 201, 202), answer.text
    assert "Retry-After" not in answer.headers
    while True:
        status: dict[str, Any] = local.request("GET", answer.headers["Azure-AsyncOperation"]).json()
        if status["status"] not in ("InProgress", "Updating"):
            return status
        time.sleep(0.02)


def _endpoint(local: Local, name: str, *, mode: str = "Key", **properties: Any) -> dict[str, Any]:
    sent = {"location": "westus2", "properties": {"authMode": mode, **properties}}
    return _ended(local, local.request("PUT", f"{local.arm}/onlineEndpoints/{name}", json=sent))


def _deployment(
    local: Local, endpoint: str, name: str, model: str, *, instances: int = 1, **properties: Any
) -> requests.Response:
    settings = {"requestTimeout": "PT0.5S", "maxConcurrentRequestsPerInstance": 1}
    details = {"model": model, "instanceType": "Standard_NC24ads_A100_v4", "requestSettings": settings, **properties}
    sku = {"name": "Default", "capacity": instances}
    sent = {"location": "westus2", "properties": {"endpointComputeType": "Managed", **details}, "sku": sku}
    return local.request("PUT", f"{local.arm}/onlineEndpoints/{endpoint}/deployments/{name}", json=sent)


@pytest.fixture(scope="module")
def model(local: Local) -> str:
    job = submit(local)
    assert local.wait(job) == "Completed"
    properties = {"modelUri": f"azureml://jobs/{job}/outputs/trained_model", "modelType": "mlflow_model"}
    path = f"{local.arm}/models/scored/versions/1"
    assert local.request("PUT", path, json={"properties": properties}).status_code == 201
    return path


@pytest.fixture(scope="module")
def endpoint(local: Local, model: str) -> Iterator[str]:
    _endpoint(local, "scoring")
    for name in ("blue", "green"):
        assert _ended(local, _deployment(local, "scoring", name, model))["status"] == "Succeeded"
    assert _endpoint(local, "scoring", traffic={"blue": 100, "green": 0})["status"] == "Succeeded"
    yield "scoring"
    _endpoint(local, "scoring", traffic={})
    _ended(local, local.request("DELETE", f"{local.arm}/onlineEndpoints/scoring"))


def _key(local: Local, endpoint: str, kind: str = "primaryKey") -> str:
    return str(local.request("POST", f"{local.arm}/onlineEndpoints/{endpoint}/listKeys").json()[kind])


def _score(local: Local, endpoint: str, text: Any, *, key: str | None = None, **headers: str) -> requests.Response:
    """Send one conversation with one message, or whatever else is given as the body."""
    body = {"input_data": {"input_string": [{"role": "user", "content": text}]}} if isinstance(text, str) else text
    token = _key(local, endpoint) if key is None else key
    return local.request("POST", f"/inference/{endpoint}/score", json=body, token=token, headers=headers)


@pytest.mark.parametrize("instances", [0, -100])
def test_a_deployment_has_an_instance(local: Local, endpoint: str, model: str, instances: int) -> None:
    answer = _deployment(local, endpoint, "nothing", model, instances=instances)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "The sku's capacity must be at least 1.")


def test_forms_of_a_request(local: Local, endpoint: str) -> None:
    conversation = [{"role": "user", "content": "abc"}]
    nested = {"input_data": {"input_string": [conversation, conversation], "parameters": {"temperature": 0}}}
    assert _score(local, endpoint, nested).json() == [{"0": "cba"}, {"0": "cba"}]
    assert _score(local, endpoint, "abc").json() == [{"0": "cba"}]


def test_keys(local: Local, endpoint: str) -> None:
    secondary = _key(local, endpoint, "secondaryKey")
    assert _score(local, endpoint, "a", key=secondary).status_code == 200
    wrong = _score(local, endpoint, "a", key="wrong")
    assert (wrong.status_code, wrong.text) == (401, "key_auth_access_denied")
    assert _score(local, endpoint, "a", key="").status_code == 401
    path = f"{local.arm}/onlineEndpoints/{endpoint}/regenerateKeys"
    assert local.request("POST", path, json={"keyType": "Secondary"}).status_code == 200
    assert _score(local, endpoint, "a", key=secondary).status_code == 401
    assert _score(local, endpoint, "a").status_code == 200


def test_traffic_and_the_deployment_header(local: Local, endpoint: str) -> None:
    assert _score(local, endpoint, "a").headers["azureml-model-deployment"] == "blue"
    tested = _score(local, endpoint, "a", **{"azureml-model-deployment": "green"})
    assert tested.headers["azureml-model-deployment"] == "green"
    assert _score(local, endpoint, "a", **{"azureml-model-deployment": "red"}).status_code == 404
    for wrong in ({"red": 100}, {"blue": 50}, {"blue": 120, "green": -20}):
        sent = {"properties": {"authMode": "Key", "traffic": wrong}}
        assert local.request("PUT", f"{local.arm}/onlineEndpoints/{endpoint}", json=sent).status_code == 400
    live = local.request("DELETE", f"{local.arm}/onlineEndpoints/{endpoint}/deployments/blue")
    assert (live.status_code, "non-zero traffic" in live.text) == (400, True)


def test_errors_of_the_model(local: Local, endpoint: str) -> None:
    refused = _score(local, endpoint, "refuse")
    assert (refused.status_code, refused.headers["ms-azureml-model-error-statuscode"]) == (424, "400")
    assert refused.headers["ms-azureml-model-error-reason"] == "the last role must be user"
    assert _score(local, endpoint, {"input_data": {"columns": [0]}}).status_code == 424
    died = _score(local, endpoint, "die")
    assert (died.status_code, died.headers["ms-azureml-model-error-statuscode"]) == (424, "500")
    assert _score(local, endpoint, "abc").json() == [{"0": "cba"}], "the next request finds it started again"


def test_a_slow_answer_is_408_and_too_many_at_once_429(local: Local, endpoint: str) -> None:
    codes: list[int] = []
    callers = [
        threading.Thread(target=lambda: codes.append(_score(local, endpoint, "sleep").status_code)) for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(codes) == [408, 408, 429]
    time.sleep(1.5)
    assert _score(local, endpoint, "abc").json() == [{"0": "cba"}]


def test_who_waits_while_a_deployment_is_updated_is_answered(local: Local, endpoint: str, model: str) -> None:
    def update() -> None:
        patient = {"requestTimeout": "PT20S", "maxConcurrentRequestsPerInstance": 2}
        made = _ended(local, _deployment(local, endpoint, "green", model, requestSettings=patient))
        assert made["status"] == "Succeeded"

    update()
    key, to_green = _key(local, endpoint), {"azureml-model-deployment": "green"}
    answers: list[requests.Response] = []
    callers = [
        threading.Thread(target=lambda: answers.append(_score(local, endpoint, "sleep", key=key, **to_green)))
        for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    time.sleep(0.3)
    update()
    for caller in callers:
        caller.join()
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, [{"0": "peels"}])] * 3


def test_tokens_instead_of_keys(local: Local, model: str) -> None:
    _endpoint(local, "by-token", mode="AMLToken")
    _ended(local, _deployment(local, "by-token", "blue", model))
    answer = local.request("POST", f"{local.arm}/onlineEndpoints/by-token/token").json()
    headers = {"azureml-model-deployment": "blue"}
    assert _score(local, "by-token", "abc", key=answer["accessToken"], **headers).status_code == 200
    management = local.request("GET", local.arm).request.headers["Authorization"].removeprefix("Bearer ")
    assert _score(local, "by-token", "abc", key=management, **headers).status_code == 401
    _ended(local, local.request("DELETE", f"{local.arm}/onlineEndpoints/by-token"))
    assert _score(local, "by-token", "abc", key=answer["accessToken"]).status_code == 404


def test_a_model_of_the_registry_is_served(local: Local) -> None:
    _endpoint(local, "base-model")
    base = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"
    missing = _deployment(local, "base-model", "blue", base.replace("versions/1", "versions/2"))
    assert (missing.status_code, "version 2 was not found" in missing.text) == (400, True)
    assert _ended(local, _deployment(local, "base-model", "blue", base))["status"] == "Succeeded"
    answer = _score(local, "base-model", "abc", **{"azureml-model-deployment": "blue"})
    assert answer.json() == [{"0": "cba"}]
    _ended(local, local.request("DELETE", f"{local.arm}/onlineEndpoints/base-model"))


def test_no_address_before_it_is_made(local: Local) -> None:
    sent = {"properties": {"authMode": "Key"}}
    answer = local.request("PUT", f"{local.arm}/onlineEndpoints/young", json=sent)
    assert (answer.status_code, answer.json()["properties"]["scoringUri"]) == (201, None)
    _ended(local, answer)
    shown = local.request("GET", f"{local.arm}/onlineEndpoints/young").json()["properties"]
    assert shown["scoringUri"].endswith("/inference/young/score")
    deleted = local.request("DELETE", f"{local.arm}/onlineEndpoints/young")
    assert deleted.status_code == 202
    _ended(local, deleted)
    assert local.request("DELETE", f"{local.arm}/onlineEndpoints/young").status_code == 204


@pytest.mark.parametrize("name", ["ab", "1abc", "a--b", "a" * 33, "with_line"])
def test_names_that_azure_refuses(local: Local, name: str) -> None:
    answer = local.request("PUT", f"{local.arm}/onlineEndpoints/{name}", json={"properties": {}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "UserError")


def test_quota(local: Local, endpoint: str, model: str) -> None:
    none = _deployment(local, endpoint, "red", model, instanceType="Standard_NC40ads_H100_v5")
    assert none.json()["error"]["message"].endswith("Current usage/limit: 0/0. Additional needed: 40")
    unknown = _deployment(local, endpoint, "red", model, instanceType="Standard_Nope")
    assert (unknown.status_code, "not supported" in unknown.text) == (400, True)
    # Azure sets 20 % more instances aside on T4, so 2 of 4 cores each need 12.
    reserved = _deployment(local, endpoint, "red", model, instances=2, instanceType="Standard_NC4as_T4_v3")
    assert reserved.json()["error"]["message"].endswith("Current usage/limit: 0/8. Additional needed: 12")
    usage = local.request("GET", _usages(local)).json()["value"]
    used = [entry["currentValue"] for entry in usage if entry["name"]["value"] == "standardNCADSA100v4Family"]
    assert used == [48, 0], "dedicated and low-priority"
    assert local.request("GET", f"{local.arm}/onlineEndpoints/{endpoint}/deployments/red").status_code == 404


def _usages(local: Local) -> str:
    subscription = f"/subscriptions/{local.connection.subscription_id}"
    return f"{subscription}/providers/Microsoft.MachineLearningServices/locations/westus2/usages"


def test_a_deployment_whose_model_does_not_load_fails_with_its_log(local: Local, endpoint: str, model: str) -> None:
    uri = local.request("GET", model).json()["properties"]["modelUri"]
    folder = local.connection.folder / "blobs/storage/azureml-blobstore" / uri.partition("/paths/")[2]
    (folder / "broken").touch()
    try:
        ended = _ended(local, _deployment(local, endpoint, "red", model))
        assert ended["status"] == "Failed"
        assert "the weights cannot be read" in ended["error"]["message"]
        path = f"{local.arm}/onlineEndpoints/{endpoint}/deployments/red"
        assert local.request("GET", path).json()["properties"]["provisioningState"] == "Failed"
        logs = local.request("POST", f"{path}/getLogs", json={"tail": 10}).json()["content"]
        assert "Traceback: the model is broken" in logs
        _ended(local, local.request("DELETE", path))
    finally:
        (folder / "broken").unlink()


def test_deployments_come_back_after_a_restart(own_local: Local) -> None:
    job = submit(own_local)
    assert own_local.wait(job) == "Completed"
    properties = {"modelUri": f"azureml://jobs/{job}/outputs/trained_model", "modelType": "mlflow_model"}
    path = f"{own_local.arm}/models/scored/versions/1"
    own_local.request("PUT", path, json={"properties": properties})
    _endpoint(own_local, "stays")
    _ended(own_local, _deployment(own_local, "stays", "blue", path))
    _endpoint(own_local, "stays", traffic={"blue": 100})
    key = _key(own_local, "stays")
    own_local.workspace.down()
    assert own_local.workspace.status().endpoints == {"stays": ("blue",)}
    own_local.workspace.up()
    assert _score(own_local, "stays", "abc", key=key).json() == [{"0": "cba"}]
