"""The service's manners: api-versions, headers, errors in each service's form, ETags, long operations, the unserved."""

from __future__ import annotations

import importlib
import json
import re
import time
import uuid
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import requests
from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
)
from azure.storage.blob import BlobClient

from fidelity import generated_models
from fidelity.conftest import Said
from fidelity.wire_calls import Clients
from fidelity.wire_traffic import recorded
from phift.local import LocalWorkspace
from phift.local.names import WORKSPACE_ID
from phift.local.state.clock import Speed
from phift.local.wire import API_VERSIONS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the clients' own warnings, of themselves

REGISTRY = f"/mferp/managementfrontend{WORKSPACE_ID.replace('workspaces/local', 'registries/azureml')}"


@pytest.mark.parametrize("path", [WORKSPACE_ID, f"{WORKSPACE_ID}/jobs", f"{REGISTRY}/models"])
@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "MissingApiVersionParameter"),
        ("?api-version=", "MissingApiVersionParameter"),
        ("?api-version=latest", "InvalidApiVersionParameter"),
        ("?api-version=2023-13-01", "InvalidApiVersionParameter"),
        ("?api-version=2023-10-01-PREVIEW!", "InvalidApiVersionParameter"),
        ("?api-version=2023-10-01", ""),
        ("?api-version=2031-01-01-preview", ""),
    ],
)
def test_resource_manager_wants_an_api_version(said: Said, path: str, query: str, code: str) -> None:
    headers = {"Authorization": f"Bearer {said.clients.token}"}
    answer = said.clients.session.get(said.clients.connection.base_url + path + query, headers=headers, timeout=60)
    assert answer.status_code == (400 if code else 200)
    if code:
        assert answer.json()["error"].keys() == {"code", "message"}
        assert answer.json()["error"]["code"] == code
        assert answer.headers["x-ms-failure-cause"] == "gateway"
    if code == "InvalidApiVersionParameter":
        assert API_VERSIONS in answer.json()["error"]["message"]


def test_all_versions_that_were_asked_with_are_named(said: Said) -> None:
    asked = {exchange.version for exchange in said.traffic.exchanges if exchange.path.startswith(("/sub", "/mferp"))}
    assert asked - {""} <= set(API_VERSIONS.split(","))


@pytest.mark.parametrize(
    ("method", "path", "remaining"),
    [
        ("GET", f"{WORKSPACE_ID}/jobs", ("reads", "11999")),
        ("GET", f"{WORKSPACE_ID}/jobs/nope", ("reads", "11999")),
        ("PUT", f"{WORKSPACE_ID}/jobs/nope", ("writes", "1199")),
        ("POST", f"{WORKSPACE_ID}/nothing", ("writes", "1199")),
        ("DELETE", f"{WORKSPACE_ID}/computes/nope", ("deletes", "14999")),
    ],
)
def test_resource_manager_sends_its_headers(said: Said, method: str, path: str, remaining: tuple[str, str]) -> None:
    answer = said.clients.plain(method, path, json={}, headers={"x-ms-client-request-id": "mine"})
    headers = answer.headers
    assert headers[f"x-ms-ratelimit-remaining-subscription-{remaining[0]}"] == remaining[1]
    correlation = headers["x-ms-correlation-request-id"]
    assert uuid.UUID(correlation)
    assert re.fullmatch(rf"WESTUS2:\d{{8}}T\d{{6}}Z:{correlation}", headers["x-ms-routing-request-id"])
    assert uuid.UUID(headers["x-ms-request-id"])
    assert headers["x-ms-client-request-id"] == "mine"
    assert headers["x-ms-response-type"] == ("standard" if answer.ok else "error")
    assert headers["Cache-Control"] == "no-cache"
    assert abs(parsedate_to_datetime(headers["Date"]).timestamp() - time.time()) < 60


def test_other_services_do_not_send_them(said: Said) -> None:
    answer = said.clients.plain("GET", f"/history/v1.0{WORKSPACE_ID}/runs/nope")
    assert not [name for name in answer.headers if "ratelimit" in name or "routing" in name]


def test_errors_of_azure_ml_behind_resource_manager(said: Said) -> None:
    for method, path, status in (
        ("GET", f"{WORKSPACE_ID}/models/nope", 404),
        ("PUT", f"{WORKSPACE_ID}/jobs/x", 501),
        ("GET", f"{REGISTRY}/models/nope", 404),
    ):
        answer = said.clients.plain(method, path, json={})
        assert answer.status_code == status
        for client in ("arm", "mgmt"):
            kind = generated_models.model(f"{client}:ErrorResponse")
            assert list(generated_models.complaints(kind, answer.json(), sent=True)) == []
        more = {entry["type"]: entry["info"]["value"] for entry in answer.json()["error"]["additionalInfo"]}
        assert more["ComponentName"] == "managementfrontend"
        assert more["Correlation"].keys() == {"operation", "request"}
        assert "InnerError" not in more  # none in the recorded 404 of 2026-03-26


def test_a_registry_that_is_not_there_is_one_that_may_not_be_used(said: Said) -> None:
    # As recorded of a PUT (azure-sdk-assets 8517cfcb, test_component_create_get_list_from_registry, 2023-04-20).
    answer = said.clients.plain("GET", f"{REGISTRY.replace('azureml', 'nobody-s')}/components/nope/versions")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (401, "UserError")
    assert error["message"] == "User/tenant/subscription is not allowed to access registry nobody-s"
    more = {entry["type"]: entry["info"]["value"] for entry in error["additionalInfo"]}
    assert more["InnerError"]["innerError"]["innerError"]["code"] == "UnAuthorizedRegistryAccess"


@pytest.mark.parametrize(
    ("prefix", "rest", "component"),
    [
        ("/history/v1.0", "/runs/nope", "run-history"),
        ("/mlflow/v1.0", "/api/2.0/mlflow/runs/get?run_id=nope", "run-history"),
    ],
)
def test_errors_of_the_services_beside_it(said: Said, prefix: str, rest: str, component: str) -> None:
    answer = said.clients.plain("GET", f"{prefix}{WORKSPACE_ID}{rest}")
    assert answer.status_code == 404
    body = answer.json()
    for name in ("error_code", "message"):  # MLflow's own two; the rest is run history's
        body.pop(name, None)
    assert body.pop("statusCode", 404) == 404  # recorded 2023-11-29, and unknown to the client
    kind = generated_models.model("history:RunHistoryErrorResponse")
    complaints = list(generated_models.complaints(kind, body))
    assert complaints == ["body.error.debugInfo: not in RootError"]  # sent by the service, unknown to the client
    assert body["componentName"] == component
    assert body["error"]["innerError"] == {"code": "NotFoundError", "innerError": None}


def test_mlflow_understands_its_errors(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", said.clients.token)
    client = MlflowClient(f"{said.clients.connection.base_url}/mlflow/v1.0{WORKSPACE_ID}")
    with pytest.raises(MlflowException) as missing:
        client.get_run("nope")
    assert missing.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "not.a.token")
    with pytest.raises(MlflowException) as unknown:
        client.get_run("nope")
    assert unknown.value.error_code == "UNAUTHENTICATED"


def test_an_endpoint_answers_in_plain_text(said: Said) -> None:
    answer = said.clients.plain("POST", "/inference/nope/score", json={})
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/plain; charset=utf-8")


def blob_url(clients: Clients, name: str) -> str:
    secrets = clients.plain("POST", f"{WORKSPACE_ID}/datastores/workspaceblobstore/listSecrets").json()
    return f"{clients.connection.base_url}/storage.blob.phift.local/azureml-blobstore/{name}{secrets['sasToken']}"


def test_storage_writes_xml(said: Said) -> None:
    clients = said.clients
    for url, status, code in (
        (blob_url(clients, "none <&> here"), 404, "BlobNotFound"),
        (f"{blob_url(clients, 'x')}tampered", 403, "AuthenticationFailed"),
    ):
        answer = clients.session.get(url, timeout=60)
        assert (answer.status_code, answer.headers["x-ms-error-code"]) == (status, code)
        assert answer.headers["Content-Type"].startswith("application/xml")
        error = ElementTree.fromstring(answer.content)  # noqa: S314 - our own server's
        assert (error.tag, error.findtext("Code")) == ("Error", code)
        head = clients.session.head(url, timeout=60)
        assert (head.status_code, head.content, head.headers["x-ms-error-code"]) == (status, b"", code)


def test_blobs_honour_etags(said: Said) -> None:
    blob = BlobClient.from_blob_url(blob_url(said.clients, f"etags/{uuid.uuid4()}"))
    first = blob.upload_blob(b"one")["etag"]
    with pytest.raises(ResourceExistsError):
        blob.upload_blob(b"two")
    with pytest.raises(HttpResponseError) as known:
        blob.download_blob(etag=first, match_condition=MatchConditions.IfModified)
    assert known.value.status_code == 304
    assert blob.download_blob(etag=first, match_condition=MatchConditions.IfNotModified).readall() == b"one"
    second = blob.upload_blob(b"three", overwrite=True, etag=first, match_condition=MatchConditions.IfNotModified)
    assert second["etag"] != first
    for change in (
        lambda: blob.upload_blob(b"x", overwrite=True, etag=first, match_condition=MatchConditions.IfNotModified),
        lambda: blob.delete_blob(etag=first, match_condition=MatchConditions.IfNotModified),
        lambda: blob.download_blob(etag=first, match_condition=MatchConditions.IfNotModified),
        lambda: blob.upload_blob(b"x", overwrite=True, etag=second["etag"], match_condition=MatchConditions.IfModified),
    ):
        with pytest.raises(HttpResponseError) as refused:
            change()
        assert refused.value.status_code == 412
        assert blob.download_blob().readall() == b"three"
    blob.delete_blob(etag=second["etag"], match_condition=MatchConditions.IfNotModified)
    assert not blob.exists()


@pytest.mark.parametrize(
    "package", ["azure.ai.ml._restclient.arm_ml_service.operations", "azure.mgmt.machinelearningservices.operations"]
)
def test_no_operation_on_azure_ml_has_an_etag(package: str) -> None:
    operations = Path(str(importlib.import_module(package).__file__)).parent
    texts = [file.read_text(encoding="utf-8") for file in operations.glob("*.py")]
    assert any("api-version" in text for text in texts)
    assert not any("If-Match" in text or "If-None-Match" in text for text in texts)


@pytest.fixture
def served(said: Said, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[LocalWorkspace, Clients]]:
    """A workspace of one test alone, at the speed of its parameter."""
    speed: Speed = getattr(request, "param", "fast")
    workspace = LocalWorkspace(tmp_path / "workspace", engine="instant", speed=speed)
    clients = Clients(workspace.up(), tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(clients.connection.ca_bundle))
        yield workspace, clients
    workspace.down()
    clients.session.close()


def test_the_log_ends_with_what_was_not_served(served: tuple[LocalWorkspace, Clients]) -> None:
    workspace, clients = served
    for path, times in (("schedules/daily", 2), ("batchEndpoints", 1)):
        for _ in range(times):
            answer = clients.plain("GET", f"{WORKSPACE_ID}/{path}")
            assert answer.status_code == 501
            assert f"GET {WORKSPACE_ID}/{path}" in answer.json()["error"]["message"]
    secret = {"X-IDENTITY-HEADER": clients.connection.secret()}
    assert clients.plain("GET", "/phift/requests", headers=secret).json()["unserved"] == {
        "GET schedules/daily": 2,
        "GET batchEndpoints": 1,
    }
    # Between two tests the server forgets; its log does not.
    assert clients.plain("POST", "/phift/reset", headers=secret).status_code == 204
    assert clients.plain("GET", "/phift/requests", headers=secret).json()["unserved"] == {}
    workspace.down()
    *_, most, least = (workspace.folder / "server.log").read_text().splitlines()
    assert most.endswith("requests without a route, answered 501: 2 x GET schedules/daily")
    assert least.endswith("requests without a route, answered 501: 1 x GET batchEndpoints")


def test_the_log_says_so_where_everything_was_served(served: tuple[LocalWorkspace, Clients]) -> None:
    workspace, clients = served
    assert clients.plain("GET", WORKSPACE_ID).status_code == 200
    workspace.down()
    assert (workspace.folder / "server.log").read_text().endswith("every request had a route\n")


def operate(clients: Clients, interval: float | None) -> float:
    """Make and delete an endpoint and a cluster as a user does; returns the seconds it took."""
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import AmlCompute, ManagedOnlineEndpoint

    from phift.local import LocalCredential

    connection = clients.connection
    options: dict[str, Any] = {} if interval is None else {"polling_interval": interval}
    cloud = {"cloud": connection.cloud_name, "cloud_metadata": connection.cloud_metadata}
    client = MLClient(LocalCredential(connection), *clients.scope, enable_telemetry=False, **cloud, **options)
    started = time.monotonic()
    client.compute.begin_create_or_update(AmlCompute(name="small", size="Standard_DS12_v2")).result()
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="quick", auth_mode="key")).result()
    client.online_endpoints.begin_delete("quick").wait()
    return time.monotonic() - started


@pytest.mark.parametrize("served", ["real"], indirect=True)
def test_at_real_speed_nobody_is_told_when_to_look_again(served: tuple[LocalWorkspace, Clients]) -> None:
    with recorded() as traffic:
        took = operate(served[1], 0.1)
    begun = [exchange for exchange in traffic.exchanges if "azure-asyncoperation" in exchange.headers]
    assert [exchange.status for exchange in begun] == [201, 201, 202]
    assert {exchange.headers["x-ms-async-operation-timeout"] for exchange in begun} == {"PT30M"}
    endpoint = f"{served[1].connection.base_url}{WORKSPACE_ID}/onlineEndpoints/quick?"
    assert begun[1].headers["location"].startswith(endpoint)
    told = [exchange.route for exchange in traffic.exchanges if any("retry-after" in name for name in exchange.headers)]
    assert told == []
    # The SDK looks at a deletion at once and then every 5 s, whatever it was asked to do.
    status = begun[2].headers["azure-asyncoperation"].removeprefix(served[1].connection.base_url).partition("?")[0]
    looks = [exchange for exchange in traffic.exchanges if exchange.path.partition("?")[0] == status]
    assert 1 <= len(looks) <= 1 + took / 5


@pytest.mark.parametrize("served", ["manual"], indirect=True)
def test_an_endpoint_is_updating_until_it_is_made(served: tuple[LocalWorkspace, Clients]) -> None:
    clients = served[1]
    made = clients.plain("PUT", f"{WORKSPACE_ID}/onlineEndpoints/slow", json={"properties": {"authMode": "Key"}})
    operation = made.headers["Azure-AsyncOperation"].removeprefix(clients.connection.base_url)
    status = clients.plain("GET", operation).json()
    assert (status["status"], status["percentComplete"]) == ("Updating", 0.0)
    assert clients.plain("GET", f"{WORKSPACE_ID}/onlineEndpoints/slow").json()["properties"]["scoringUri"] is None
    secret = {"X-IDENTITY-HEADER": clients.connection.secret()}
    assert clients.plain("POST", "/phift/clock", headers=secret, json={"advance": 60}).ok
    end = time.monotonic() + 120
    while status["status"] == "Updating" and time.monotonic() < end:
        status = clients.plain("GET", operation).json()
    assert status["status"] == "Succeeded"


@pytest.mark.parametrize("served", ["fast"], indirect=True)
def test_at_fast_speed_the_sdk_does_not_wait(served: tuple[LocalWorkspace, Clients]) -> None:
    with recorded() as traffic:
        took = operate(served[1], None)
    waiting = [exchange for exchange in traffic.exchanges if "x-ms-retry-after-ms" in exchange.headers]
    assert len(waiting) >= 3
    # With the SDK's own intervals this is 65 s: 30 s for each creation, 5 s for the deletion.
    assert took < 15


def test_bodies_are_told_to_be_json(said: Said) -> None:
    answer: requests.Response = said.clients.plain("GET", WORKSPACE_ID)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert json.loads(answer.content)["name"] == "local"
