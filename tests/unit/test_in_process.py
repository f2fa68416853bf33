"""The local workspace in this process: what clients built on requests see of it, on good days and on bad ones."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from phift.errors import LocalWorkspaceError
from phift.local import Connection, LocalCredential, LocalWorkspace
from phift.local.server.in_process import HOST, served_here
from phift.local.state.identity import read_secret
from phift.local.wire import section
from unit.loopback import Reply, Script

VERSION = "api-version=2023-04-01"
CLUSTER = {"computeType": "AmlCompute", "properties": {"vmSize": "Standard_DS12_v2"}}


class Caller:
    """Plain calls to a workspace, with a token."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.session = requests.Session()
        token = LocalCredential(connection).get_token("https://management.azure.com/.default").token
        self.session.headers["Authorization"] = f"Bearer {token}"
        names = (connection.subscription_id, connection.resource_group, connection.workspace_name)
        at = "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.MachineLearningServices/workspaces/{}"
        self.arm = connection.base_url + at.format(*names)

    def cluster(self, **options: Any) -> requests.Response:
        return self.session.get(f"{self.arm}/computes/gpu-cluster?{VERSION}", **options)

    def blob(self, name: str) -> str:
        asked = self.session.post(f"{self.arm}/datastores/workspaceblobstore/listSecrets?{VERSION}")
        place = f"{self.connection.base_url}/storage.blob.phift.local/azureml-blobstore"
        return f"{place}/{name}{asked.json()['sasToken']}"

    def control(self, method: str, what: str, **options: Any) -> Any:
        headers = {"X-IDENTITY-HEADER": self.connection.secret()}
        answer = requests.request(
            method, f"{self.connection.base_url}/phift/{what}", headers=headers, timeout=60, **options
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def order(self, on: str, **fault: Any) -> None:
        self.control("POST", "faults", json={"value": [{"on": on, **fault}]})


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    with served_here(tmp_path / "workspace") as connection:
        yield Caller(connection)


def test_it_answers_as_the_server_does(caller: Caller) -> None:
    answer = caller.cluster()
    assert (answer.status_code, answer.reason) == (200, "OK")
    assert answer.json()["name"] == "gpu-cluster"
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    assert answer.headers["x-ms-request-id"]
    refused = requests.get(f"{caller.arm}/computes?{VERSION}", timeout=5)
    assert (refused.status_code, "WWW-Authenticate" in refused.headers) == (401, True)
    unserved = caller.session.patch(f"{caller.arm}/nothing?{VERSION}")
    assert unserved.status_code == 501
    assert caller.control("GET", "requests")["unserved"] == {"PATCH nothing": 1}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda _file: b"one two", id="bytes"),
        pytest.param(lambda _file: "one two", id="text"),
        pytest.param(lambda _file: iter([b"one", b" two"]), id="chunks"),
        pytest.param(lambda file: file, id="file"),
    ],
)
def test_bodies_of_every_kind_arrive_and_come_back_in_pieces(caller: Caller, tmp_path: Path, body: Any) -> None:
    url = caller.blob("deep/päth #1.txt".replace("#", "%23"))
    (tmp_path / "body").write_bytes(b"one two")
    with (tmp_path / "body").open("rb") as file:
        answer = requests.put(url, data=body(file), headers={"x-ms-blob-type": "BlockBlob"}, timeout=5)
    assert answer.status_code == 201
    with requests.get(url, stream=True, timeout=5) as answer:
        assert list(answer.iter_content(4)) == [b"one ", b"two"]
    head = requests.head(url, timeout=5)
    assert (head.headers["Content-Length"], head.content) == ("7", b"")
    part = requests.get(url, headers={"Range": "bytes=4-"}, timeout=5)
    assert (part.status_code, part.raw.read(), part.content) == (206, b"", b"two")


@pytest.mark.parametrize("cut", ["before", "after", "half"])
def test_a_connection_that_is_cut_is_what_requests_calls_one(caller: Caller, cut: str) -> None:
    caller.order("PUT computes/*", cut=cut)
    sent = {"location": "westus2", "properties": CLUSTER}
    kind = requests.exceptions.ChunkedEncodingError if cut == "half" else requests.ConnectionError
    with pytest.raises(kind) as caught:
        caller.session.put(f"{caller.arm}/computes/new?{VERSION}", json=sent, timeout=5)
    words = {"half": "IncompleteRead", "before": "Connection reset by peer", "after": "Connection reset by peer"}
    assert words[cut] in str(caught.value)
    there = caller.session.get(f"{caller.arm}/computes/new?{VERSION}").status_code
    assert there == (404 if cut == "before" else 200)
    statuses = [entry["status"] for entry in caller.control("GET", "requests")["value"]]
    assert statuses[-2:] == [0, there]


def test_half_of_an_empty_answer_is_none(caller: Caller) -> None:
    caller.order("HEAD blobs/*", cut="half")
    with pytest.raises(requests.ConnectionError, match="Remote end closed connection without response"):
        requests.head(caller.blob("x"), timeout=5)


def test_a_client_waits_as_long_as_it_wants_and_the_request_is_carried_out_after_all(caller: Caller) -> None:
    caller.order("GET computes/*", delay=0.3)
    started = time.monotonic()
    with pytest.raises(requests.ReadTimeout):
        caller.cluster(timeout=0.05)
    assert time.monotonic() - started < 0.3
    end = time.monotonic() + 10
    while not (noted := [each["status"] for each in caller.control("GET", "requests")["value"][1:]]):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert noted == [200]


def test_a_slow_upload_takes_its_time(caller: Caller) -> None:
    url = caller.blob("slow")
    caller.order("PUT blobs/*", slow=1000)
    started = time.monotonic()
    assert requests.put(url, data=b"x" * 200, headers={"x-ms-blob-type": "BlockBlob"}, timeout=5).status_code == 201
    assert time.monotonic() - started >= 0.2


def test_retries_of_the_client_s_own_are_made(caller: Caller) -> None:
    caller.order("GET computes/*", status=503, times=2)
    again = Retry(total=3, backoff_factor=0, status_forcelist=[503])
    caller.session.mount("https://", HTTPAdapter(max_retries=again))
    assert caller.cluster().status_code == 200
    assert [entry["status"] for entry in caller.control("GET", "requests")["value"]][-3:] == [503, 503, 200]


def test_several_are_open_at_once_and_each_is_its_own(tmp_path: Path) -> None:
    real = HTTPAdapter.get_connection_with_tls_context
    with ExitStack() as stack:
        connections = [stack.enter_context(served_here(tmp_path / str(number))) for number in range(3)]
        assert len({connection.cloud_name for connection in connections}) == 3
        callers = [Caller(connection) for connection in connections]
        callers[1].session.delete(f"{callers[1].arm}/computes/gpu-cluster?{VERSION}")
        callers[1].control("POST", "reset")
        callers[1].control("POST", "seed", json={"computes": [{"name": "own", "size": "Standard_DS12_v2", "nodes": 1}]})
        with ThreadPoolExecutor(8) as pool:
            asked = list(pool.map(lambda number: callers[number % 3].cluster().status_code, range(60)))
        assert asked == [200] * 60
        found = [each.session.get(f"{each.arm}/computes/own?{VERSION}").status_code for each in callers]
        assert found == [404, 200, 404]
        assert LocalWorkspace(connections[2].folder).connection() == connections[2]
    assert HTTPAdapter.get_connection_with_tls_context is real


def test_another_s_token_is_refused(tmp_path: Path) -> None:
    with served_here(tmp_path / "one") as one, served_here(tmp_path / "two") as two:
        stranger = Caller(one)
        stranger.arm = Caller(two).arm
        assert stranger.cluster().status_code == 401
        assert read_secret(one.folder / "secret") != read_secret(two.folder / "secret")


def test_other_hosts_are_reached_as_ever(caller: Caller, server: Script) -> None:
    server.answers(Reply({"name": "elsewhere"}))
    assert requests.get(server.url, timeout=5).json() == {"name": "elsewhere"}


def test_at_the_end_nothing_is_left(tmp_path: Path) -> None:
    # Others may be open in this process, for other tests.
    threads, before = set(threading.enumerate()), HTTPAdapter.get_connection_with_tls_context
    with served_here(tmp_path / "workspace", "manual") as connection:
        caller = Caller(connection)
        sent = {"location": "westus2", "properties": {"authMode": "Key"}}
        answer = caller.session.put(f"{caller.arm}/onlineEndpoints/sleeps?{VERSION}", json=sent)
        assert answer.status_code == 201  # its creation sleeps on the clock
    assert set(threading.enumerate()) <= threads
    assert HTTPAdapter.get_connection_with_tls_context is before
    with pytest.raises(Exception, match=HOST):
        caller.cluster(timeout=5)


def test_what_is_being_made_is_named_where_a_change_has_to_wait(tmp_path: Path) -> None:
    with served_here(tmp_path / "workspace", "manual") as connection:
        caller = Caller(connection)
        endpoint = f"{caller.arm}/onlineEndpoints/chat"
        assert caller.session.put(f"{endpoint}?{VERSION}", json={"properties": {}}).status_code == 201
        for busy in (endpoint, f"{endpoint}/deployments/chat"):
            answer = caller.session.put(f"{busy}?{VERSION}", json={"properties": {}})
            assert (answer.status_code, "The endpoint chat is Creating; wait" in answer.text) == (409, True)


def test_a_folder_is_served_once(tmp_path: Path) -> None:
    with served_here(tmp_path / "one") as connection:
        with pytest.raises(LocalWorkspaceError, match="served already"), served_here(tmp_path / "one"):
            pass
        assert LocalWorkspace(tmp_path / "one").up() == connection
        with pytest.raises(LocalWorkspaceError, match="open in this process"):
            LocalWorkspace(tmp_path / "one").reset()
        assert Caller(connection).cluster().ok
    with served_here(tmp_path / "one") as connection:
        assert Caller(connection).cluster().ok
    LocalWorkspace(tmp_path / "one").reset()
    assert not (tmp_path / "one").exists()


def test_what_was_trained_for_a_folder_stays_when_it_is_served_here(tmp_path: Path) -> None:
    with served_here(tmp_path / "one") as connection:
        model = next((connection.folder / "registry").iterdir())
    (model / "MLmodel").write_text("of the engine that trains")
    with served_here(tmp_path / "one"):
        assert (model / "MLmodel").read_text() == "of the engine that trains"


def test_a_patch_that_is_undone_too_late_leads_nobody_astray(tmp_path: Path, server: Script) -> None:
    server.answers(Reply({"name": "elsewhere"}))
    with ExitStack() as late, served_here(tmp_path / "one"):
        late.enter_context(mock.patch.object(HTTPAdapter, "get_connection_with_tls_context", autospec=True))
    with served_here(tmp_path / "two") as connection:
        assert Caller(connection).cluster().ok
        assert requests.get(server.url, timeout=5).json() == {"name": "elsewhere"}


def test_what_is_asked_after_the_end_is_refused_as_by_a_host(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads, ExitStack() as block:
        caller = Caller(block.enter_context(served_here(tmp_path / "one")))
        caller.session.mount("https://", HTTPAdapter(max_retries=Retry(5, status_forcelist=[503], backoff_factor=0.5)))
        caller.order("GET computes/*", status=503, times=None)
        asked = threads.submit(caller.cluster)
        while caller.control("GET", "faults")["value"][0]["hits"] < 2:
            time.sleep(0.01)
        block.close()  # while the client waits before its next attempt
        with pytest.raises(requests.ConnectionError):
            asked.result(30)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_is_refused_at_once(caller: Caller) -> None:
    child = os.fork()
    if not child:
        try:
            caller.cluster()
        except requests.ConnectionError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_requests_that_are_held_up_hold_up_no_other(caller: Caller) -> None:
    caller.order("GET computes/*", delay=30, times=None)
    with ThreadPoolExecutor(100) as threads:
        given_up = [threads.submit(caller.cluster, timeout=0.05) for _ in range(100)]
        assert {type(each.exception()) for each in given_up} == {requests.ReadTimeout}
    started = time.monotonic()
    caller.control("DELETE", "faults")
    assert time.monotonic() - started < 10


def test_nobody_waits_for_a_models_file_and_the_same_version_is_made_once(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = threading.Barrier(3), threading.Event()

    def read(_file: Path) -> dict[str, Any]:
        reading.wait(30)
        assert go_on.wait(30)
        return {}

    monkeypatch.setattr("phift.local.services.assets._flavors", read)
    for folder in ("one", "two"):
        headers = {"x-ms-blob-type": "BlockBlob"}
        requests.put(caller.blob(f"{folder}/MLmodel"), data=b"flavors: {}", headers=headers, timeout=30)

    def put(folder: str) -> int:
        uri = f"azureml://datastores/workspaceblobstore/paths/{folder}"
        body = {"properties": {"modelType": "mlflow_model", "modelUri": uri}}
        url = f"{caller.arm}/models/m/versions/1?{VERSION}"
        return caller.session.put(url, json=body, timeout=60).status_code

    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(put, "one"), pool.submit(put, "two")]
        try:
            reading.wait(30)
            assert pool.submit(caller.cluster).result(10).status_code == 200
        finally:
            reading.abort()
            go_on.set()
        assert sorted(each.result() for each in made) == [201, 400]  # an asset's path cannot be updated


def test_of_two_who_change_a_model_at_once_neither_overwrites_the_other(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests.put(caller.blob("one"), data=b"x", headers={"x-ms-blob-type": "BlockBlob"}, timeout=30)

    def put(place: str, **properties: Any) -> int:
        url = f"{caller.arm}/models/{place}?{VERSION}"
        return caller.session.put(url, json={"properties": properties}, timeout=60).status_code

    assert put("m/versions/1", modelUri="azureml://datastores/workspaceblobstore/paths/one") == 201

    def slow(body: Any, name: str) -> Any:
        time.sleep(0.3)
        return section(body, name)

    monkeypatch.setattr("phift.local.services.assets.section", slow)
    changes: list[dict[str, Any]] = [{"description": "a"}, {"tags": {"b": "c"}}]
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(lambda change: put("m", **change), changes)) == {200}
    found = caller.session.get(f"{caller.arm}/models/m?{VERSION}", timeout=30).json()["properties"]
    assert (found["description"], found["tags"]) == ("a", {"b": "c"})
