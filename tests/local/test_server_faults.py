"""Faults to order: that each really happens on the wire, to a plain client and to the SDK."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from azure.core.exceptions import (
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceResponseError,
)
from running import Local
from wire_jobs import MODEL, begun, body, children, log_lines, put_training_file, statuses, submit

from phift.azure.clients import Rest
from phift.component import inputs
from phift.data import on_cluster
from phift.errors import AuthenticationError, ServiceUnreachable
from phift.local import LocalCredential, LocalWorkspace
from phift.local.state.faults import OPERATIONS, STEPS
from phift.local.work.operations import Operations

pytestmark = pytest.mark.slow

ENDPOINT: dict[str, Any] = {"location": "westus2", "properties": {"authMode": "Key"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, quiet_sdk: None) -> Iterator[Local]:
    """A running local workspace that trains nothing and waits for nothing."""
    workspace = LocalWorkspace(tmp_path_factory.mktemp("hostile") / "workspace", engine="instant", speed="fast")
    local = Local(workspace, workspace.up())
    yield local
    local.session.close()
    workspace.down()


@pytest.fixture
def hostile(server: Local, monkeypatch: pytest.MonkeyPatch) -> Iterator[Local]:
    """The same, begun anew."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.connection.ca_bundle))
    assert control(server, "POST", "reset").status_code == 204
    yield server
    control(server, "DELETE", "faults")


def control(local: Local, method: str, what: str, **options: Any) -> requests.Response:
    headers = {"X-IDENTITY-HEADER": local.connection.secret()}
    return local.request(method, f"/phift/{what}", token="", headers=headers, **options)


def order(local: Local, on: str, **fault: Any) -> None:
    answer = control(local, "POST", "faults", json={"value": [{"on": on, **fault}]})
    assert answer.status_code == 204, answer.text


def hits(local: Local) -> list[int]:
    return [fault["hits"] for fault in control(local, "GET", "faults").json()["value"]]


def cluster(local: Local) -> requests.Response:
    return local.request("GET", f"{local.arm}/computes/gpu-cluster")


# What is ordered


def test_a_status_has_the_error_body_of_azure(hostile: Local) -> None:
    order(hostile, "GET computes/*", status=429, headers={"Retry-After": "7"})
    answer = cluster(hostile)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert answer.headers["x-ms-response-type"] == "error"
    error = answer.json()["error"]
    assert error["code"] == "TooManyRequests"
    assert error.keys() == {"code", "message", "details", "additionalInfo"}
    assert cluster(hostile).status_code == 200
    assert hits(hostile) == [1]


def test_a_failure_of_storage_is_in_storage_s_own_form(hostile: Local) -> None:
    order(hostile, "PUT blobs/*", status=503)
    secrets = hostile.request("POST", f"{hostile.arm}/datastores/workspaceblobstore/listSecrets").json()
    url = f"/storage.blob.phift.local/azureml-blobstore/x.txt{secrets['sasToken']}"
    answer = hostile.request("PUT", url, token="", data=b"x")
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (503, "ServerBusy")
    assert answer.headers["Content-Type"] == "application/xml"
    assert b"<Error><Code>ServerBusy</Code>" in answer.content


def test_the_registry_s_own_container_fails_as_storage_too(hostile: Local) -> None:
    order(hostile, "GET registry-models/*", status=503)
    answer = hostile.request("GET", "/registry-models/phi/1/MLmodel", token="")
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (503, "ServerBusy")
    assert b"<Error><Code>ServerBusy</Code>" in answer.content


def test_code_and_message_are_one_s_own(hostile: Local) -> None:
    order(hostile, "GET computes/{name}", status=403, code="LinkedAuthorizationFailed", message="Not you.")
    answer = cluster(hostile)
    assert answer.json()["error"]["code"] == "LinkedAuthorizationFailed"
    assert answer.json()["error"]["message"] == "Not you."


def test_an_expired_token_comes_with_the_challenge(hostile: Local) -> None:
    order(hostile, "GET computes/*", status=401)
    answer = cluster(hostile)
    assert answer.json()["error"]["code"] == "ExpiredAuthenticationToken"
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith('Bearer authorization_uri="https://')
    assert 'error="invalid_token", error_description="The access token expiry' in challenge


def test_the_sdk_gives_an_expired_token_up_and_asks_for_another(hostile: Local) -> None:
    # Its own client keeps the token from call to call; that it asks again shows that the challenge was understood.
    rest = Rest(LocalCredential(hostile.connection), f"{hostile.connection.base_url}/.default")
    url = f"{hostile.connection.base_url}{hostile.arm}/computes/gpu-cluster?api-version=2023-10-01"
    rest.get(url)
    order(hostile, "GET computes/*", status=401)
    seen = len(tokens(hostile))
    rest.get(url)  # sent again by itself
    assert len(tokens(hostile)) == seen + 1


def tokens(local: Local) -> list[dict[str, Any]]:
    entries = control(local, "GET", "requests").json()["value"]
    return [entry for entry in entries if entry["operation"] == "GET msi/token"]


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"cut": "before"}, {"cut": "after"}], ids=str)
def test_the_credential_asks_again(hostile: Local, fault: dict[str, Any]) -> None:
    order(hostile, "GET msi/token", **fault)
    assert LocalCredential(hostile.connection).get_token("https://management.azure.com/.default").token
    assert hits(hostile) == [1]


def test_the_credential_gives_up_in_the_end(hostile: Local) -> None:
    order(hostile, "GET msi/token", status=503, times=None)
    with pytest.raises(AuthenticationError, match="503"):
        LocalCredential(hostile.connection).get_token("https://management.azure.com/.default")
    assert hits(hostile) == [4]


def http_date(seconds: float) -> str:
    # A date has whole seconds, so it is rounded up.
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds + 1), usegmt=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("Retry-After", "1"), ("Retry-After", ""), ("retry-after-ms", "1000"), ("x-ms-retry-after-ms", "1000")],
    ids=["seconds", "date", "retry-after-ms", "x-ms-retry-after-ms"],
)
def test_azure_core_obeys_each_form_of_retry_after(hostile: Local, name: str, value: str) -> None:
    order(hostile, "GET computes/*", status=429, headers={name: value or http_date(1)})
    started = time.monotonic()
    # Without a hint azure-core tries again at once the first time (see the test below).
    assert hostile.client.compute.get("gpu-cluster").name == "gpu-cluster"
    assert 0.95 <= time.monotonic() - started < 5
    assert hits(hostile) == [1]


def test_azure_core_tries_again_at_once_without_a_hint(hostile: Local) -> None:
    cluster_name = hostile.client.compute.get("gpu-cluster").name  # the client is made, and has a token
    order(hostile, "GET computes/*", status=429)
    started = time.monotonic()
    assert hostile.client.compute.get("gpu-cluster").name == cluster_name
    assert time.monotonic() - started < 0.9


def test_a_delay_is_a_read_time_out_to_who_does_not_wait(hostile: Local) -> None:
    order(hostile, "PUT onlineEndpoints/{endpoint}", delay=3)
    url = f"{hostile.connection.base_url}{hostile.arm}/onlineEndpoints/late?api-version=2023-10-01"
    headers = {"Authorization": f"Bearer {hostile.token}"}
    with pytest.raises(requests.ReadTimeout):
        hostile.session.put(url, json=ENDPOINT, headers=headers, timeout=0.3)
    assert hostile.request("GET", f"{hostile.arm}/onlineEndpoints/late").status_code == 404
    # The service does not know that nobody waits any more: it carries the request out all the same.
    end = time.monotonic() + 60
    while hostile.request("GET", f"{hostile.arm}/onlineEndpoints/late").status_code == 404:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_delay_that_is_waited_for_is_no_failure(hostile: Local) -> None:
    order(hostile, "GET computes/*", delay=0.4)
    started = time.monotonic()
    assert cluster(hostile).status_code == 200
    assert time.monotonic() - started >= 0.4


@pytest.mark.parametrize(("cut", "made"), [("before", 404), ("after", 200)])
def test_a_connection_is_reset_before_or_after_the_request_is_carried_out(hostile: Local, cut: str, made: int) -> None:
    order(hostile, "PUT onlineEndpoints/*", cut=cut)
    with pytest.raises(requests.ConnectionError):
        hostile.request("PUT", f"{hostile.arm}/onlineEndpoints/cut-off", json=ENDPOINT)
    assert hostile.request("GET", f"{hostile.arm}/onlineEndpoints/cut-off").status_code == made
    assert hits(hostile) == [1]


def test_the_reset_is_one_of_tcp(hostile: Local) -> None:
    # Python's own TLS sockets, and requests with them, show it as an end; below them it is what it is.
    order(hostile, "GET metadata/endpoints", cut="before")
    tls_in, tls_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=str(hostile.connection.ca_bundle))
    port = int(hostile.connection.base_url.rpartition(":")[2])
    with socket.create_connection(("localhost", port), timeout=10) as plain:
        tls = context.wrap_bio(tls_in, tls_out, server_hostname="localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(tls_out.read())
                tls_in.write(plain.recv(65536))
        tls.write(b"GET /metadata/endpoints HTTP/1.1\r\nHost: localhost\r\n\r\n")
        plain.sendall(tls_out.read())
        with pytest.raises(ConnectionResetError):  # noqa: PT012 - the session tickets of TLS come first
            while plain.recv(65536):
                pass
    assert hits(hostile) == [1]


def test_half_of_an_answer_is_less_than_it_promised(hostile: Local) -> None:
    whole = cluster(hostile).content
    order(hostile, "GET computes/*", cut="half")
    url = f"{hostile.connection.base_url}{hostile.arm}/computes/gpu-cluster?api-version=2023-10-01"
    headers = {"Authorization": f"Bearer {hostile.token}", "Accept-Encoding": "identity"}
    with hostile.session.get(url, headers=headers, timeout=60, stream=True) as answer:
        assert answer.status_code == 200
        assert int(answer.headers["Content-Length"]) == len(whole)
        received = b""
        with pytest.raises(requests.exceptions.RequestException):  # noqa: PT012 - the loop is what raises
            for chunk in answer.iter_content(64):
                received += chunk
    assert received == whole[: len(received)]
    assert 0 < len(received) <= len(whole) // 2


def test_half_of_a_download_is_less_too(hostile: Local) -> None:
    put_training_file(hostile)
    order(hostile, "GET blobs/{container}/{name...}", cut="half")
    secrets = hostile.request("POST", f"{hostile.arm}/datastores/workspaceblobstore/listSecrets").json()
    url = f"/storage.blob.phift.local/azureml-blobstore/tests/train.jsonl{secrets['sasToken']}"
    with pytest.raises(requests.exceptions.RequestException):
        hostile.request("GET", url, token="")
    assert hostile.request("GET", url, token="").content == b'{"messages": []}\n'


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        ({"cut": "before"}, (ServiceRequestError, ServiceResponseError)),
        ({"cut": "after"}, (ServiceRequestError, ServiceResponseError)),
        ({"cut": "half"}, (IncompleteReadError, ServiceResponseError, HttpResponseError)),
    ],
    ids=["before", "after", "half"],
)
def test_what_the_sdk_raises_of_a_cut_connection_becomes_ours(
    hostile: Local, fault: dict[str, Any], kinds: tuple[type[Exception], ...]
) -> None:
    rest = Rest(LocalCredential(hostile.connection), f"{hostile.connection.base_url}/.default")
    url = f"{hostile.connection.base_url}{hostile.arm}/onlineEndpoints/x/listKeys"
    order(hostile, "POST onlineEndpoints/x/listKeys", **fault)  # a POST: azure-core sends none again
    with pytest.raises(ServiceUnreachable) as failure:
        rest.post(url, {})
    assert isinstance(failure.value.__cause__, kinds)
    assert hits(hostile) == [1]


def test_an_upload_is_taken_slowly(hostile: Local) -> None:
    secrets = hostile.request("POST", f"{hostile.arm}/datastores/workspaceblobstore/listSecrets").json()
    url = f"/storage.blob.phift.local/azureml-blobstore/slow.bin{secrets['sasToken']}"
    order(hostile, "PUT blobs/*", slow=200_000)
    started = time.monotonic()
    assert hostile.request("PUT", url, token="", data=bytes(200_000)).status_code == 201
    assert 0.95 <= time.monotonic() - started < 5
    started = time.monotonic()
    assert hostile.request("PUT", url, token="", data=bytes(200_000)).status_code == 201
    assert time.monotonic() - started < 0.9


# Operations and steps


def finished(local: Local, accepted: requests.Response) -> dict[str, Any]:
    """Return the operation behind an answer, when it has ended."""
    assert accepted.status_code in (200, 201, 202), accepted.text
    end = time.monotonic() + 60
    while True:
        found: dict[str, Any] = local.request("GET", accepted.headers["Azure-AsyncOperation"]).json()
        if found["status"] in ("Succeeded", "Failed"):
            return found
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_endpoint_that_cannot_be_provisioned_is_failed(hostile: Local) -> None:
    order(hostile, "operation endpoint-create", code="InternalServerError", message="No luck.")
    url = f"{hostile.arm}/onlineEndpoints/unlucky"
    ended = finished(hostile, hostile.request("PUT", url, json=ENDPOINT))
    assert ended["status"] == "Failed"
    assert ended["error"] == {"code": "InternalServerError", "message": "No luck."}
    assert hostile.request("GET", url).json()["properties"]["provisioningState"] == "Failed"
    assert finished(hostile, hostile.request("PUT", url, json=ENDPOINT))["status"] == "Succeeded"
    assert hits(hostile) == [1]


def test_a_deployment_that_cannot_be_provisioned_is_failed(hostile: Local) -> None:
    endpoint = f"{hostile.arm}/onlineEndpoints/unlucky"
    finished(hostile, hostile.request("PUT", endpoint, json=ENDPOINT))
    order(hostile, "operation deployment-create", code="ResourceNotReady", message="The container crashed.")
    properties = {"model": MODEL, "instanceType": "STANDARD_NC24ADS_A100_V4"}
    deployment = f"{endpoint}/deployments/blue"
    answer = hostile.request("PUT", deployment, json={"location": "westus2", "properties": properties})
    assert finished(hostile, answer)["error"]["code"] == "ResourceNotReady"
    assert hostile.request("GET", deployment).json()["properties"]["provisioningState"] == "Failed"


def test_a_cluster_that_cannot_be_provisioned_is_failed(hostile: Local) -> None:
    from azure.ai.ml.entities import AmlCompute

    order(hostile, "operation compute-create", code="ClusterCoreQuotaReached", message="No cores are left.")
    cluster = AmlCompute(name="big", size="STANDARD_NC24ADS_A100_V4", max_instances=1)
    with pytest.raises(HttpResponseError, match="No cores are left"):
        hostile.client.compute.begin_create_or_update(cluster).result()
    assert hostile.client.compute.get("big").provisioning_state == "Failed"


@pytest.mark.parametrize("name", ["quota", "server"])
def test_a_cancellation_that_fails_has_an_end_whatever_the_job_is_called(hostile: Local, name: str) -> None:
    order(hostile, "step *", delay=600)
    order(hostile, "operation *", code="InternalServerError", message="No luck.")
    put_training_file(hostile)
    hostile.request("PUT", f"{hostile.arm}/jobs/{name}", json=body()).raise_for_status()
    answer = hostile.request("POST", f"{hostile.arm}/jobs/{name}/cancel")
    end = time.monotonic() + 60
    while (asked := hostile.request("GET", answer.headers["Location"])).status_code == 202:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert asked.status_code == 400
    assert "No luck." in asked.text
    assert hostile.wait(name) == "Canceled"


def test_an_operation_fails_late(hostile: Local) -> None:
    order(hostile, "operation endpoint-*", delay=0.3)
    started = time.monotonic()
    answer = hostile.request("PUT", f"{hostile.arm}/onlineEndpoints/unlucky", json=ENDPOINT)
    assert finished(hostile, answer)["status"] == "Failed"
    assert time.monotonic() - started >= 0.3


def test_a_pre_empted_job_goes_back_into_the_queue_and_runs_again(hostile: Local) -> None:
    order(hostile, "step chat_completion_finetune", times=2)
    name = submit(hostile)
    assert hostile.wait(name) == "Completed"
    assert hits(hostile) == [2]
    assert statuses(hostile, name) == ["Completed"] * 5
    lines = [line.partition("] ")[2] for line in log_lines(hostile, name)]
    began = begun(hostile, name)
    assert began.count("chat_completion_finetune") == 3
    assert began.count("chat_completion_datapreprocess") == 1  # what is completed stays so
    assert lines.count("The node was pre-empted; the job is in the queue again.") == 2


def test_a_job_that_is_pre_empted_again_and_again_can_be_cancelled(hostile: Local) -> None:
    order(hostile, "step chat_completion_finetune", times=None)
    name = submit(hostile)
    end = time.monotonic() + 60
    while hits(hostile)[0] < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert hostile.request("POST", f"{hostile.arm}/jobs/{name}/cancel").status_code == 202
    assert hostile.wait(name) == "Canceled"


def test_a_job_that_waits_for_its_ordered_failure_can_be_cancelled(hostile: Local) -> None:
    order(hostile, "step chat_completion_finetune", status=400, delay=600)
    name = submit(hostile)
    end = time.monotonic() + 60
    while hits(hostile) == [0]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert hostile.request("POST", f"{hostile.arm}/jobs/{name}/cancel").status_code == 202
    assert hostile.wait(name) == "Canceled"
    assert statuses(hostile, name) == ["Completed"] * 3 + ["Canceled"] * 2


def test_a_step_fails_with_the_error_that_was_ordered(hostile: Local) -> None:
    order(hostile, "step chat_completion_finetune", status=400, code="UserError", message="CUDA out of memory.")
    name = submit(hostile)
    assert hostile.wait(name) == "Failed"
    assert statuses(hostile, name) == ["Completed", "Completed", "Completed", "Failed", "Canceled"]
    failed = children(hostile, name)[3]["error"]["error"]
    assert (failed["code"], failed["message"]) == ("UserError", "CUDA out of memory.")
    root = hostile.request("GET", f"/history/v1.0{hostile.arm}/runs/{name}").json()["error"]["error"]
    assert "Failed nodes: /chat_completion_finetune." in root["message"]  # it leaves the reason to the step
    # The next job is none the worse for it.
    assert hostile.wait(submit(hostile)) == "Completed"


# Where, how often, and what never happened


def test_a_fault_strikes_where_and_as_often_as_was_said(hostile: Local) -> None:
    order(hostile, "get COMPUTES/*", status=500, times=2, after=1)
    assert [cluster(hostile).status_code for _ in range(5)] == [200, 500, 500, 200, 200]
    (shown,) = control(hostile, "GET", "faults").json()["value"]
    assert (shown["seen"], shown["hits"]) == (5, 2)


def test_a_fault_for_good_lasts_until_it_is_cleared(hostile: Local) -> None:
    order(hostile, "GET *", status=503, times=None)
    assert [cluster(hostile).status_code for _ in range(3)] == [503] * 3
    control(hostile, "DELETE", "faults")
    assert cluster(hostile).status_code == 200


def test_a_fault_on_a_route_is_for_no_longer_path(hostile: Local) -> None:
    order(hostile, "GET onlineEndpoints/{endpoint}", status=500, times=None)
    assert hostile.request("GET", f"{hostile.arm}/onlineEndpoints/x/deployments/y").status_code == 404
    assert hostile.request("GET", f"{hostile.arm}/onlineEndpoints/x").status_code == 500


def test_a_fault_that_never_struck_can_be_told(hostile: Local) -> None:
    order(hostile, "DELETE jobs/*", status=500)
    assert cluster(hostile).status_code == 200
    (shown,) = control(hostile, "GET", "faults").json()["value"]
    assert (shown["on"], shown["seen"], shown["hits"]) == ("DELETE jobs/*", 0, 0)


def test_faults_reach_neither_the_routes_of_the_tests_nor_the_next_test(hostile: Local) -> None:
    order(hostile, "* *", status=503, times=None)
    assert control(hostile, "GET", "faults").status_code == 200
    assert control(hostile, "POST", "reset").status_code == 204
    assert cluster(hostile).status_code == 200


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"on": "GET *", "status": 500, "stauts": 1}, "no field stauts; the fields are on, status"),
        ({"status": 500}, "needs `on`"),
        ("GET *", "is a JSON object"),
        ({"on": 7, "status": 500}, "`on` is text"),
        ({"on": "GET *", "status": "500"}, "`status` is a whole number"),
        ({"on": "GET *", "status": True}, "`status` is a whole number"),
        ({"on": "GET *", "status": 500, "times": 1.5}, "`times` is a whole number"),
        ({"on": "GET *", "status": 500, "headers": {"Retry-After": 7}}, "`headers` is an object of texts"),
        ({"on": "GET *", "status": 500, "headers": ["x"]}, "`headers` is an object of texts"),
        ({"on": "GET *", "status": 500, "headers": {"X-A": "1\r\nX-B: 2"}}, "cannot be sent"),
        ({"on": "GET *", "status": 200}, "no error"),
        ({"on": "GET *", "cut": "middle"}, "not one of before, after, half"),
        ({"on": "GET *", "delay": -1}, "not between 0 and 3600"),
        ({"on": "GET *", "delay": "1"}, "`delay` is a number"),
        ({"on": "GET *", "status": 500, "times": 0}, "`times` is at least 1"),
        ({"on": "GET *", "status": 500, "after": -1}, "cannot be below 0"),
        ({"on": "GET *"}, "changes nothing"),
        ({"on": "GET *", "delay": 1, "error": {"details": []}}, "need an error"),
        ({"on": "GET *", "status": 400, "error": {"details": {}}}, "not 'details'"),
        ({"on": "GET *", "status": 400, "error": {"code": "X"}}, "not 'code'"),
        ({"on": "GET *", "status": 400, "error": "X"}, "`error` is an object"),
        ({"on": "GET *", "status": 500, "cut": "half"}, "give one of them"),
        ({"on": "GET *", "delay": 1, "headers": {"Retry-After": "1"}}, "give its `status`"),
        ({"on": "jobs/*", "status": 500}, "is no place"),
        ({"on": "FETCH jobs/*", "status": 500}, "is no place"),
        ({"on": "operation job-create"}, "There is no operation 'job-create'"),
        ({"on": "step finetune"}, "There is no step 'finetune'"),
        ({"on": "step chat_completion_finetune", "cut": "half"}, "`cut` is for requests only"),
    ],
)
def test_what_is_no_fault_is_refused_by_name(hostile: Local, fault: Any, message: str) -> None:
    good = {"on": "GET *", "status": 500}
    answer = control(hostile, "POST", "faults", json={"value": [good, fault]})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "InvalidFault"
    assert message in answer.json()["error"]["message"]
    assert hits(hostile) == []  # none of the list was taken


def test_the_example_of_the_document_orders_what_it_says(hostile: Local) -> None:
    text = (Path(__file__).parents[2] / "docs" / "faults.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    # No program runs in between, so the first of its faults is found never to have struck.
    with pytest.raises(AssertionError, match=r"PUT jobs/\* never struck"):
        exec(example, {"folder": hostile.connection.folder})  # noqa: S102 - our own words
    assert hits(hostile) == [0] * 5


@pytest.mark.parametrize("sent", [{}, {"value": {}}, {"value": 1}])
def test_what_is_no_list_of_faults_is_refused(hostile: Local, sent: Any) -> None:
    assert control(hostile, "POST", "faults", json=sent).json()["error"]["code"] == "InvalidFault"


def test_a_fault_knows_the_operations_and_steps_that_there_are(hostile: Local) -> None:
    no_site: Any = SimpleNamespace(
        documents=SimpleNamespace(delete=None), cancel=None, delete=None
    )  # the table asks none of them
    of_jobs = {"job-cancel", "job-delete"}
    assert tuple(sorted(Operations(no_site, no_site, no_site).work.keys() - of_jobs)) == OPERATIONS
    assert (on_cluster.STEP, *inputs.STEPS) == STEPS
