"""The protocol itself: who may do what, awkward habits of the service, names that try to get out."""

from __future__ import annotations

import http.client
import re
import ssl
import stat
import time
import uuid
from pathlib import Path
from urllib.parse import quote

import jwt
import pytest
import requests
from azure.identity import DefaultAzureCredential, ManagedIdentityCredential
from azure.storage.blob import BlobBlock, BlobClient, ContainerClient
from running import Local
from wire_jobs import COMPONENT

from phift.errors import LocalWorkspaceNotRunning
from phift.local import LocalCredential

pytestmark = pytest.mark.slow


def _sas(local: Local, store: str = "workspaceblobstore") -> str:
    secrets = local.request("POST", f"{local.arm}/datastores/{store}/listSecrets").json()
    assert secrets["secretsType"] == "Sas"
    return str(secrets["sasToken"]).removeprefix("?")


def _blob(local: Local, name: str, query: str = "") -> str:
    return f"{local.connection.base_url}/storage.blob.phift.local/azureml-blobstore/{name}?{_sas(local)}{query}"


def test_tokens(local: Local) -> None:
    token = LocalCredential(local.connection).get_token("https://ml.azure.local/.default")
    claims = jwt.decode(token.token, options={"verify_signature": False})
    assert (claims["aud"], claims["exp"]) == ("https://ml.azure.local", token.expires_on)
    assert {"tid", "oid"} <= claims.keys()


def test_a_request_without_a_good_token_is_401(local: Local) -> None:
    for path in (local.arm, f"/history/v1.0{local.arm}/runs/x", f"/mlflow/v1.0{local.arm}/api/2.0/mlflow/runs/get"):
        answer = local.request("GET", path, token="")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "AuthenticationFailed")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert local.request("GET", path, token="not.a.token").json()["error"]["code"] == "InvalidAuthenticationToken"
    other = jwt.encode({"aud": "x", "exp": 9999999999}, "another key that is long enough for sha256", "HS256")
    assert local.request("GET", local.arm, token=other).status_code == 401


def test_the_identity_endpoint_wants_the_secret(local: Local) -> None:
    url = "/msi/token?api-version=2019-08-01&resource=https://management.azure.com"
    assert local.request("GET", url, token="").status_code == 401
    assert local.request("GET", url, token="", headers={"X-IDENTITY-HEADER": "guess"}).status_code == 401


def test_unmodified_credentials_work_with_the_environment(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in local.connection.environment().items():
        monkeypatch.setenv(name, value)
    for credential in (ManagedIdentityCredential(), DefaultAzureCredential()):
        token = credential.get_token("https://management.azure.com/.default").token
        assert local.request("GET", local.arm, token=token).status_code == 200
        credential.close()


def test_unmodified_clients_find_the_workspace_by_environment(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.ai.ml import MLClient

    monkeypatch.delenv("AZUREML_CURRENT_CLOUD", raising=False)
    for name, value in local.connection.environment().items():
        monkeypatch.setenv(name, value)
    with DefaultAzureCredential() as credential:
        connection = local.connection
        names = (connection.subscription_id, connection.resource_group, connection.workspace_name)
        assert MLClient(credential, *names).compute.get("gpu-cluster").name == "gpu-cluster"
        registry = MLClient(credential, registry_name="azureml")
        assert registry.models.get("Phi-4-mini-instruct", label="latest").version == "1"


def test_what_is_not_served_says_so(local: Local) -> None:
    answer = local.request("POST", f"{local.arm}/schedules/daily")
    assert answer.status_code == 501
    assert f"POST {local.arm}/schedules/daily" in answer.json()["error"]["message"]
    assert f"501: The local workspace does not serve POST {local.arm}/schedules" in _log(local)


def test_errors_and_answers_have_azures_shape(local: Local) -> None:
    answer = local.request("GET", f"{local.arm}/onlineEndpoints/nope", headers={"x-ms-client-request-id": "mine"})
    assert answer.status_code == 404
    assert answer.json()["error"].keys() == {"code", "message", "details", "additionalInfo"}
    assert uuid.UUID(answer.headers["x-ms-request-id"])
    assert answer.headers["x-ms-client-request-id"] == "mine"
    assert local.request("PUT", f"{local.arm}/jobs/x", data=b"{").json()["error"]["code"] == "InvalidRequestContent"
    assert local.request("PUT", f"{local.arm}/jobs/x", data=b"[]").status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "{arm}/jobs/odd"),
        ("PUT", "{arm}/computes/odd"),
        ("PUT", "{arm}/models/odd/versions/1"),
        ("PUT", "{arm}/data/odd/versions/1"),
        ("PUT", "{arm}/onlineEndpoints/odd"),
        ("PUT", "{arm}/onlineEndpoints/odd/deployments/blue"),
        ("POST", "/history/v1.0{arm}/rundata"),
        ("POST", "/data/v1.0{arm}/dataversion/batchGetResolvedUris"),
        ("POST", "/mlflow/v1.0{arm}/api/2.0/mlflow/runs/log-batch"),
        ("POST", "/mlflow/v1.0{arm}/api/2.0/mlflow/runs/search"),
        ("POST", "/inference/odd/score"),
    ],
)
@pytest.mark.parametrize("odd", [None, 1, "x", ["x"], {"a": 1}])
def test_odd_bodies_are_the_callers_error(local: Local, method: str, path: str, odd: object) -> None:
    local.request("PUT", f"{local.arm}/onlineEndpoints/odd", json={"properties": {}})
    names = ("jobs", "inputs", "outputs", "properties", "tags", "traffic", "modelUri", "dataUri", "model", "vmSize")
    inner = {**dict.fromkeys(names, odd), "jobType": "Pipeline", "computeType": "AmlCompute"}
    node = {"jobType": "Pipeline", "jobs": {"a": {"componentId": COMPONENT, "inputs": odd, "outputs": odd}}}
    tracking = dict.fromkeys(("runId", "run_id", "metrics", "values", "experiment_ids", "filter", "max_results"), odd)
    for body in ({"properties": odd, "sku": odd}, {"properties": inner}, {"properties": node}, tracking):
        answer = local.request(method, path.format(arm=local.arm), json=body)
        assert answer.status_code < 500 or answer.status_code == 501, answer.text


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("00000000-0000-0000-0000-000000000000", "1", "SubscriptionNotFound"),
        ("/phift/", "/other/", "ResourceGroupNotFound"),
        ("workspaces/local", "workspaces/other", "ResourceNotFound"),
    ],
)
def test_another_scope_is_not_there(local: Local, old: str, new: str, code: str) -> None:
    answer = local.request("GET", local.arm.replace(old, new))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


def test_paths_ignore_case(local: Local) -> None:
    assert local.request("GET", local.arm.lower() + "/COMPUTES/GPU-Cluster").status_code == 200


def test_the_log_has_each_request_and_no_secret(local: Local) -> None:
    local.request("GET", _blob(local, "nope"), token="")
    log = _log(local)
    assert re.search(r"GET /storage\.blob\.phift\.local/azureml-blobstore/nope 404 \d+\.\d ms", log)
    assert "sig=" not in log
    assert local.connection.secret() not in log


def _log(local: Local) -> str:
    return (local.connection.folder / "server.log").read_text()


def test_only_loopback_and_only_the_owner(local: Local) -> None:
    folder = local.connection.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("secret", "server-key.pem", "server.json", "server.log", "state.db"):
        assert stat.S_IMODE((folder / name).stat().st_mode) & 0o077 == 0, name
    port = int(local.connection.base_url.rpartition(":")[2])
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    assert f"0100007F:{port:04X}" in listening
    assert f"00000000:{port:04X}" not in listening
    assert local.connection.secret() not in repr(local.connection)


def test_other_certificates_are_refused(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{local.connection.base_url}/health", timeout=60)


def test_blobs_by_the_storage_client(local: Local) -> None:
    blob = BlobClient.from_blob_url(_blob(local, quote("walk/a/b c+ä#?%41.txt")))
    blob.upload_blob(b"hello world", metadata={"upload_status": "completed"})
    assert blob.get_blob_properties().metadata == {"upload_status": "completed"}
    assert blob.download_blob().readall() == b"hello world"
    assert blob.download_blob(offset=6, length=3).readall() == b"wor"
    blocks = BlobClient.from_blob_url(_blob(local, "walk/a/blocks.bin"))
    for name, part in (("1", b"one "), ("2", b"two")):
        blocks.stage_block(name, part)
    blocks.commit_block_list([BlobBlock("1"), BlobBlock("2")])
    assert blocks.download_blob().readall() == b"one two"
    account = f"{local.connection.base_url}/storage.blob.phift.local/azureml-blobstore?{_sas(local)}"
    container = ContainerClient.from_container_url(account)
    assert [found.name for found in container.list_blobs(name_starts_with="walk/a")] == [
        "walk/a/b c+ä#?%41.txt",
        "walk/a/blocks.bin",
    ]
    assert [found.name for found in container.walk_blobs(name_starts_with="walk/", delimiter="/")] == ["walk/a/"]
    blob.delete_blob()
    assert not blob.exists()


def test_blobs_page_by_page(local: Local) -> None:
    names = [f"pages/{folder}/{number}" for folder in "abc" for number in range(3)] + ["pages/z&<"]
    for name in names:
        assert local.request("PUT", _blob(local, quote(name)), token="", data=b"1").status_code == 201
    account = f"{local.connection.base_url}/storage.blob.phift.local/azureml-blobstore?{_sas(local)}"
    container = ContainerClient.from_container_url(account)
    pages = container.list_blobs(name_starts_with="pages/", results_per_page=4).by_page()
    assert [[found.name for found in page] for page in pages] == [names[:4], names[4:8], names[8:]]
    walked = container.walk_blobs(name_starts_with="pages/", delimiter="/", results_per_page=2)
    assert [found.name for found in walked] == ["pages/a/", "pages/b/", "pages/c/", "pages/z&<"]
    assert local.request("GET", f"{account}&restype=container&comp=list&maxresults=0", token="").status_code == 400


def test_storage_wants_its_own_signature(local: Local) -> None:
    url = _blob(local, "x.txt")
    block = {"x-ms-blob-type": "BlockBlob"}
    assert local.request("PUT", url, token="", data=b"1", headers=block).status_code == 201
    plain = url.partition("?")[0]
    assert local.request("GET", plain, token="").status_code == 403
    # A token for something else is refused, and one container's signature is not another's.
    refused = local.request("GET", plain)
    assert (refused.status_code, refused.headers["x-ms-error-code"]) == (401, "InvalidAuthenticationInfo")
    assert "resource_id=https://storage.azure.com" in refused.headers["WWW-Authenticate"]
    own = LocalCredential(local.connection).get_token("https://storage.azure.com/.default").token
    assert local.request("GET", plain, token=own).content == b"1"
    models = local.request("GET", "/registry-models?restype=container&comp=list", token=own)
    assert (models.status_code, models.headers["x-ms-error-code"]) == (403, "AuthorizationPermissionMismatch")
    other = plain.replace("azureml-blobstore", "azureml")
    assert local.request("GET", f"{other}?{_sas(local)}", token="").status_code == 403
    changed = url.replace("sp=rwdl", "sp=rwdlx")
    assert local.request("GET", changed, token="").status_code == 403


@pytest.mark.parametrize(
    "name", ["..%2f..%2fsecret", "%2e%2e/%2e%2e/secret", "a/%2e%2e/%2e%2e/%2e%2e/state.db", "a%00b", "a%5c..%5cb"]
)
def test_no_name_leads_out_of_the_storage(local: Local, name: str) -> None:
    connection = local.connection
    query = _sas(local)
    with requests.Session() as session:
        for method in ("GET", "PUT"):
            request = requests.Request(method, f"{connection.base_url}/", data=b"x" if method == "PUT" else None)
            prepared = session.prepare_request(request)
            # Written by hand, since the client would tidy such a path up.
            prepared.url = f"{connection.base_url}/storage.blob.phift.local/azureml-blobstore/{name}?{query}"
            answer = session.send(prepared, verify=str(connection.ca_bundle), timeout=60)
            assert answer.status_code in (400, 403, 501), (method, answer.status_code)
    assert connection.secret()


def test_reset_leaves_nothing(own_local: Local) -> None:
    own_local.workspace.reset()
    assert not own_local.workspace.status().running
    assert not own_local.connection.folder.exists()
    with pytest.raises(LocalWorkspaceNotRunning):
        LocalCredential(own_local.connection).get_token("x/.default")


def test_a_new_connection_does_not_wait_for_nagle(local: Local) -> None:
    # The best of ten is some 5 ms, and was at least 40 ms while the server waited for delayed acknowledgements.
    trusted = ssl.create_default_context(cafile=local.connection.folder / "ca.pem")
    port = int(local.connection.base_url.rpartition(":")[2])
    times = []
    for _ in range(10):
        started = time.perf_counter()
        connection = http.client.HTTPSConnection("localhost", port, context=trusted)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        times.append(time.perf_counter() - started)
        connection.close()
    assert min(times) < 0.035, times
