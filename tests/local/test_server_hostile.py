"""What callers without a right, or with no good intention, can do to the server: little, and not for long."""

from __future__ import annotations

import json
import socket
import sqlite3
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from running import Local

from phift.local.state.identity import Identity

pytestmark = pytest.mark.slow

MIB = 1024 * 1024


def memory(local: Local) -> float:
    """Return what the server holds in memory, in MiB."""
    pid = local.workspace.status().pid
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("this reads /proc")
    held = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(held.split()[1]) / 1024


def connect(local: Local, *, tls: bool = True) -> socket.socket:
    port = int(local.connection.base_url.rpartition(":")[2])
    plain = socket.create_connection(("127.0.0.1", port), timeout=60)
    if not tls:
        return plain
    context = ssl.create_default_context(cafile=str(local.connection.ca_bundle))
    return context.wrap_socket(plain, server_hostname="localhost")


REFUSED = {
    "a workspace's route": ("PUT", "/subscriptions/x/resourceGroups/y"),
    "jobs": ("PUT", "{arm}/jobs/large"),
    "run history": ("PATCH", "/history/v1.0{arm}/runs/large"),
    "storage": ("PUT", "/storage.blob.phift.local/azureml-blobstore/large"),
    "scoring": ("POST", "/inference/none/score"),
    "the workspace itself": ("POST", "/phift/seed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_of_a_refused_request_the_body_is_not_read(local: Local, name: str) -> None:
    method, path = REFUSED[name]
    before = memory(local)
    with connect(local) as connection:
        connection.settimeout(20)
        path = path.format(arm=local.arm) + "?api-version=2023-10-01"
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {240 * MIB}\r\n\r\n"
        connection.sendall(head.encode())
        sent = 0
        try:
            while sent < 240 * MIB:
                sent += connection.send(bytes(MIB))
        except OSError:
            pass
        assert sent < 16 * MIB, "some is on its way when the answer comes"
    assert memory(local) < before + 30


def pieces(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield bytes(MIB)


def test_a_client_whose_upload_is_refused_reads_the_answer(local: Local) -> None:
    forged = "sig=x&sr=c&sp=rw&se=2999-01-01"
    expired = Identity(local.connection.secret()).sas("storage.blob.phift.local/azureml-blobstore", "rw", seconds=-1)
    path = "/storage.blob.phift.local/azureml-blobstore/refused"
    for signature, body in ((forged, bytes(500_000)), (expired, bytes(64 * MIB))):
        assert local.request("PUT", f"{path}?{signature}", token="", data=body).status_code == 403


def test_bodies_have_a_limit(local: Local) -> None:
    large = b'{"properties": {"description": "' + bytes(5 * MIB).replace(b"\0", b"x") + b'"}}'
    answer = local.request("PUT", f"{local.arm}/jobs/large", data=large)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "RequestBodyTooLarge")
    answer = local.request("PUT", f"{local.arm}/jobs/large", data=pieces(6))  # which tells no length
    assert answer.status_code == 413


def test_a_blob_is_not_held_in_memory(local: Local) -> None:
    signature = local.request("POST", f"{local.arm}/datastores/workspaceblobstore/listSecrets").json()["sasToken"]
    path = f"/storage.blob.phift.local/azureml-blobstore/large{signature}"
    before = memory(local)
    assert local.request("PUT", path, token="", data=pieces(200)).status_code == 201
    assert memory(local) < before + 60
    assert len(local.request("GET", path, token="").content) == 200 * MIB
    assert local.request("PUT", path, token="", data=pieces(258)).status_code == 413


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "localhost.evil.example", "", "127.0.0.2"])
def test_a_request_for_another_host_is_refused(local: Local, host: str) -> None:
    port = local.connection.base_url.rpartition(":")[2]
    for path in ("/health", "/metadata/endpoints", f"{local.arm}/jobs"):
        answer = local.request("GET", path, headers={"Host": host.format(port=port)})
        assert answer.status_code in (400, 421), answer.text
    for own in ("localhost", f"LOCALHOST:{port}", f"127.0.0.1:{port}", "localhost:8443"):
        assert local.request("GET", f"{local.arm}/jobs", headers={"Host": own}).status_code == 200


def test_what_is_not_served_is_remembered_within_limits(local: Local) -> None:
    for number in range(1100):
        answer = local.request("GET", f"/none/{number}/{'x' * 5000}", token="")
        assert answer.status_code == 501
    identity = {"X-IDENTITY-HEADER": local.connection.secret()}
    told = local.request("GET", "/phift/requests", headers=identity).json()
    assert sum(told["unserved"].values()) >= 1100
    assert len(told["unserved"]) <= 1001
    assert max(len(entry["place"]) for entry in told["value"]) <= 500


ARM = ["https://management.azure.com", "https://management.azure.com/", "https://management.core.windows.net/"]
ML = ["https://ml.azure.com", "https://ml.azure.local"]
OTHERS = ["https://storage.azure.com", "https://graph.microsoft.com", "api://x", "endpoint/x", "", "https://localhost"]


def test_a_token_is_good_for_what_it_was_made_for_alone(local: Local) -> None:
    identity = Identity(local.connection.secret())
    own = [local.connection.base_url, f"{local.connection.base_url}/"]

    def status(path: str, audience: str) -> int:
        return local.request("GET", path, token=identity.token(audience)[0]).status_code

    for path, good in (
        (f"{local.arm}/jobs", [*ARM, *own]),
        (f"/mferp/managementfrontend{local.arm.rpartition('/workspaces')[0]}/registries/azureml/models", [*ARM, *own]),
        (f"/history/v1.0{local.arm}/runs/none", [*ARM, *own, *ML]),
        (f"/mlflow/v1.0{local.arm}/api/2.0/mlflow/experiments/get?experiment_id=0", [*ARM, *own, *ML]),
    ):
        for audience in (*ARM, *own, *ML, *OTHERS):
            assert (status(path, audience) != 401) == (audience in good), (path, audience)
    refused = local.request("GET", f"{local.arm}/jobs", token=identity.token(ML[0])[0])
    assert refused.json()["error"]["code"] == "InvalidAuthenticationTokenAudience"


def test_connections_that_send_nothing_or_little_end(local: Local) -> None:
    silent, quiet, slow = connect(local, tls=False), connect(local), connect(local)
    again = connect(local)  # which has had an answer, and begins another request
    try:
        again.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
        head = iter(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 100)
        ends: dict[str, float] = {}
        began = time.monotonic()
        waiting = {"silent": silent, "quiet": quiet, "slow": slow, "again": again}
        while waiting and time.monotonic() < began + 60:
            for name, connection in tuple(waiting.items()):
                connection.settimeout(0.1)
                try:
                    if name == "slow":
                        connection.sendall(bytes([next(head)]))
                    if not connection.recv(10_000):
                        raise ConnectionResetError
                except TimeoutError:
                    continue
                except OSError:
                    ends[name] = time.monotonic() - began
                    del waiting[name]
        assert waiting == {}
        assert max(ends.values()) < 40
    finally:
        for connection in (silent, quiet, slow, again):
            connection.close()


def test_as_many_connections_as_anybody_opens_end_no_service(local: Local) -> None:
    opened = [connect(local, tls=False) for _ in range(600)]
    try:
        pid = local.workspace.status().pid
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 560
        with requests.Session() as session:
            session.trust_env = False
            url = f"{local.connection.base_url}/health"
            assert session.get(url, verify=str(local.connection.ca_bundle), timeout=60).status_code == 200
    finally:
        for connection in opened:
            connection.close()


def test_a_filter_or_an_order_is_read_in_no_time(local: Local) -> None:
    at = f"/mlflow/v1.0{local.arm}/api/2.0/mlflow"
    run = local.request("POST", f"{at}/runs/create", json={"tags": [{"key": "a", "value": "ab" * 2000}]})
    assert run.status_code == 200, run.text
    blanks = " " * 20_000
    for sent in (
        {"filter": f"tags.a{blanks}!"},
        {"filter": f"tags.a ={blanks}"},
        {"filter": f"tags.a IN ({blanks}"},
        {"filter": f"{blanks}tags.a = 'b'{blanks}"},
        {"filter": "tags.a LIKE '" + "%a" * 2000 + "c%'"},
        {"filter": "tags.a ILIKE '" + "%a_" * 1000 + "%c'"},
        {"order_by": [f"tags.a{blanks}!"]},
        {"order_by": [f"tags.a{' ' * 5000}!"]},
    ):
        began = time.monotonic()
        answer = local.request("POST", f"{at}/runs/search", json={"experiment_ids": ["0"], **sent})
        assert time.monotonic() - began < 2, sent
        assert answer.status_code in (200, 400), answer.text


def test_an_address_is_read_in_no_time(local: Local) -> None:
    at, resolve = local.arm, f"/data/v1.0{local.arm}/dataversion/batchGetResolvedUris"
    for address in (
        "azureml://" + "experiments/a/runs/b/artifacts/" * 5000 + "\n\n",
        "azureml://subscriptions/" + "x/workspaces/a/jobs/j/outputs/o/paths/" * 5000 + "\n\n",
        "azureml_" + "j_output_data_" * 10_000 + "\n/versions/1",
    ):
        asked: list[tuple[str, str, object]] = [
            ("PUT", f"{at}/data/long/versions/1", {"properties": {"dataUri": address, "dataType": "uri_file"}}),
            ("PUT", f"{at}/models/long/versions/1", {"properties": {"modelUri": address}}),
            ("POST", resolve, {"values": [address]}),
        ]
        for method, path, body in asked:
            began = time.monotonic()
            answer = local.request(method, path, json=body)
            assert time.monotonic() - began < 2, (path, address[:50])
            assert answer.status_code == (200 if path == resolve else 400), answer.text


def tenfold(line: bytes) -> bytes:
    """Return lines each of which has the one before ten times."""
    return b"".join(line % (depth, depth, b",".join([b"*a%d" % (depth - 1)] * 10)) for depth in range(2, 12))


MANIFESTS = {
    "no text": b"\xff\xfe\x00",
    "an impossible date": b"flavors:\n  x: {a: 2026-99-99}\n",
    "a number without end": b"flavors: {x: {a: " + b"9" * 5000 + b"}}",
    "deep": b"flavors: " + b"[" * 5000,
    "half of a character": b'flavors: {x: {a: "\\ud83d"}}',
    "around": b"flavors: &a {x: *a}",
    "large": b"flavors: {x: {a: b}}\n" + b"# \n" * 100_000,
    "merges": b"a: &a1 {k: v}\n" + tenfold(b"b%d: &a%d {<<: [%s]}\n") + b"flavors: {x: {a: b}}\n",
    "aliases": b"a: &a1 [x,x,x,x,x,x,x,x,x,x]\n" + tenfold(b"b%d: &a%d [%s]\n") + b"flavors: {x: {a: *a11}}\n",
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_nobody_can_read_is_no_models(local: Local, name: str) -> None:
    folder = f"manifests/{name.replace(' ', '-')}"
    signature = local.request("POST", f"{local.arm}/datastores/workspaceblobstore/listSecrets").json()["sasToken"]
    path = f"/storage.blob.phift.local/azureml-blobstore/{folder}/MLmodel{signature}"
    assert local.request("PUT", path, token="", data=MANIFESTS[name]).status_code == 201
    asked = {"modelUri": f"azureml://datastores/workspaceblobstore/paths/{folder}", "modelType": "mlflow_model"}
    answer = local.request("PUT", f"{local.arm}/models/unread/versions/1", json={"properties": asked})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"] == "The model's MLmodel file cannot be read."


def test_uploads_of_one_blob_at_once_end_or_are_refused(local: Local) -> None:
    signature = local.request("POST", f"{local.arm}/datastores/workspaceblobstore/listSecrets").json()["sasToken"]
    path = f"/storage.blob.phift.local/azureml-blobstore/at-once{signature}"
    blocks = [b64encode(b"%05d" % number).decode() for number in range(40)]
    listed = f"<BlockList>{''.join(f'<Latest>{block}</Latest>' for block in blocks)}</BlockList>".encode()

    def put(query: str, data: bytes) -> int:
        return local.request("PUT", f"{path}&{query}", token="", data=data).status_code

    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            parts = [f"comp=block&blockid={quote(block)}" for block in blocks]
            assert set(pool.map(put, parts, [b"x"] * 40)) == {201}
            statuses = set(pool.map(put, ["comp=blocklist"] * 8, [listed] * 8))
            assert 201 in statuses <= {201, 400}


def test_what_was_stored_by_mistake_hides_nothing_else(local: Local) -> None:
    body = {"properties": {"authMode": "Key"}}
    for name in ("sound-one", "spoilt", "sound-two"):
        assert local.request("PUT", f"{local.arm}/onlineEndpoints/{name}", json=body).status_code == 201
    mirrored = {"properties": {"authMode": "Key", "mirrorTraffic": 3}}
    wrongs: list[dict[str, object]] = [{"identity": [1]}, {**mirrored}, {"kind": {}}]
    for wrong in wrongs:
        answer = local.request("PUT", f"{local.arm}/onlineEndpoints/spoilt", json={**body, **wrong})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "InvalidRequestContent"
    with sqlite3.connect(local.connection.folder / "state.db", timeout=30) as database:  # as yesterday's server did
        spoil = "UPDATE documents SET body = json_set(body, '$.identity', json('[1]')) WHERE key = ?"
        database.execute(spoil, ("onlineEndpoints/spoilt",))
    database.close()
    listed = local.request("GET", f"{local.arm}/onlineEndpoints").json()["value"]
    assert {"sound-one", "sound-two"} <= {each["name"] for each in listed}
    assert "spoilt" not in {each["name"] for each in listed}


def test_ordinary_mistakes_are_told(local: Local) -> None:
    run = {"run_id": local.request("POST", _mlflow(local, "runs/create"), json={}).json()["run"]["info"]["run_id"]}
    deep = b'{"properties": ' + b'{"a":' * 900 + b"1" + b"}" * 901
    wrong: list[tuple[str, str, object]] = [
        ("POST", _mlflow(local, "runs/log-metric"), {**run, "value": 1}),
        ("POST", _mlflow(local, "runs/log-batch"), {**run, "metrics": [{"value": 1}]}),
        ("POST", _mlflow(local, "runs/log-metric"), {**run, "key": "a", "value": 1, "step": 2**63}),
        ("POST", _mlflow(local, "runs/update"), {**run, "status": {}}),
        ("PUT", f"{local.arm}/jobs/wrong", {"properties": {"jobType": "Pipeline", "jobs": {"a": 3}}}),
        ("PUT", f"{local.arm}/jobs/wrong", {"properties": {"jobType": "Pipeline", "displayName": []}}),
        ("PUT", f"{local.arm}/jobs/wrong", b'{"properties": {"displayName": "\\ud83d"}}'),
        ("PUT", f"{local.arm}/jobs/wrong", b'{"properties": {"displayName": "\xed\xa0\x80"}}'),
        ("PUT", f"{local.arm}/jobs/wrong", deep),
        ("PUT", f"{local.arm}/computes/wrong", {"properties": {"computeType": "AmlCompute", "properties": 3}}),
        ("PUT", f"{local.arm}/computes/%0a", {"properties": {"computeType": "AmlCompute"}}),
        ("PUT", f"{local.arm}/data/wrong/versions/1", {"properties": {"dataUri": 3, "dataType": "uri_file"}}),
        ("GET", f"{local.arm}/jobs?$top={2**63}&api-version=2023-10-01", None),
        ("GET", f"{local.arm}/jobs?$skip=W1tdLCAxXQ==&api-version=2023-10-01", None),
    ]
    for method, path, sent in wrong:
        body = sent if isinstance(sent, bytes) else None if sent is None else json.dumps(sent).encode()
        answer = local.request(method, path, data=body)
        assert answer.status_code == 400, (path, sent, answer.text)
        assert answer.json()["error"]["message"], path


def _mlflow(local: Local, what: str) -> str:
    return f"/mlflow/v1.0{local.arm}/api/2.0/mlflow/{what}"


def test_a_range_that_is_none_is_told(local: Local) -> None:
    signature = local.request("POST", f"{local.arm}/datastores/workspaceblobstore/listSecrets").json()["sasToken"]
    path = f"/storage.blob.phift.local/azureml-blobstore/ranged{signature}"
    assert local.request("PUT", path, token="", data=b"0123456789").status_code == 201
    for asked in ("bytes=5-1", "bytes=10-", "bytes=9999999999999999999-"):
        answer = local.request("GET", path, token="", headers={"Range": asked})
        assert (answer.status_code, answer.headers["x-ms-error-code"]) == (416, "InvalidRange"), asked
    assert local.request("GET", path, token="", headers={"Range": "bytes=5-5"}).content == b"5"
    for container, name in (("azureml-blobstore", "a/" * 1500), ("%00", "a"), ("a.b", "c"), ("..", "c")):
        answer = local.request("PUT", f"/storage.blob.phift.local/{container}/{name}{signature}", token="", data=b"")
        assert answer.status_code in (400, 403, 404, 501), (container, answer.text)
