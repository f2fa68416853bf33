"""A ``.netrc`` with an entry for every host: nobody is sent its password, or the error says that they were."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import MLClient
from azure.core import PipelineClient
from azure.core.pipeline import policies
from azure.core.rest import HttpRequest
from azure.storage.blob import ContainerClient

from phift.azure import connect as connecting
from phift.errors import AuthenticationError, NotFound, PhiftError, ScoringError, ServiceError, azure_errors
from phift.testing import TestWorkspace
from unit.fakes import KEY
from unit.loopback import Reply, Script
from unit.test_endpoint import endpoint_at
from unit.test_rest import Credential, rest

PASSWORD = "made-up-netrc-password"


@pytest.fixture(autouse=True)
def netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home with a ``.netrc`` for every host."""
    file = tmp_path / ".netrc"
    file.write_text(f"default login somebody password {PASSWORD}\n")
    file.chmod(0o600)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return file


def sent(server: Script) -> list[str | None]:
    return [request.headers.get("Authorization") for request in server.requests]


def test_an_endpoint_is_sent_its_key(server: Script) -> None:
    server.answers(Reply(["Hello."]))
    assert endpoint_at(server.url).chat("Hi") == "Hello."
    assert sent(server) == [f"Bearer {KEY}"]


def test_an_endpoint_that_leads_elsewhere_is_not_followed(server: Script) -> None:
    server.answers(Reply("", 307, {"Location": f"{server.url.replace('127.0.0.1', 'localhost')}/other"}), Reply(["no"]))
    with pytest.raises(ScoringError, match="answered 307"):
        endpoint_at(server.url).chat("Hi")
    assert sent(server) == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://e.inference.test", "HTTP://localhost:9", "ftp://x", "/x"]
)
def test_an_address_that_is_not_https_is_sent_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("requests.Session.send", lambda *_args, **_options: pytest.fail("something was sent"))
    with pytest.raises(ServiceError, match="not https") as caught:
        endpoint_at(url).chat("Hi")
    assert url in str(caught.value)
    assert KEY not in str(caught.value)


def test_our_own_calls_are_sent_their_token_or_nothing(server: Script) -> None:
    server.answers(Reply({"a": 1}))
    rest().get(f"{server.url}/x")
    rest().post(f"{server.url}/x", {})
    rest().part(f"{server.url}/log?sig=s", 0, 1 << 20)
    assert sent(server) == ["Bearer made-up-token", "Bearer made-up-token", None]


def test_a_redirect_of_our_own_calls_is_sent_nothing_either(server: Script) -> None:
    other = server.url.replace("127.0.0.1", "localhost")
    server.answers(Reply({}, 307, {"Location": f"{other}/y"}), Reply({"a": 1}))
    assert rest().get(f"{server.url}/x") == {"a": 1}
    assert sent(server) == ["Bearer made-up-token", None]


def test_a_managed_identity_is_asked_without_it(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.url}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "made-up")
    server.answers(Reply({"access_token": "t", "expires_on": "9999999999", "resource": "r", "token_type": "Bearer"}))
    for kind in ("managed_identity", "default"):
        assert connecting._credential(kind).get_token("https://management.azure.com/.default").token == "t"
    assert sent(server) == [None, None]


def refused(client: MLClient) -> PhiftError:
    with pytest.raises(PhiftError) as caught, azure_errors("workspace w"):
        client.workspaces.get(client.workspace_name)
    assert PASSWORD not in str(caught.value)
    return caught.value


def test_a_client_that_somebody_else_made_fails_with_the_name_of_the_file(
    phift_workspace: TestWorkspace, netrc: Path
) -> None:
    error = refused(phift_workspace.client)
    assert isinstance(error, AuthenticationError)
    assert error.status == 401
    assert str(netrc) in error.what
    assert f"NETRC={os.devnull}" in str(error.fix)
    assert "az login" not in str(error)


def test_the_way_out_is_one(phift_workspace: TestWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", os.devnull)
    with azure_errors("workspace w"):
        client = phift_workspace.client
        assert client.workspaces.get(client.workspace_name).name == client.workspace_name


def test_the_file_that_netrc_names_is_told(
    phift_workspace: TestWorkspace, netrc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = phift_workspace.connection.base_url.rpartition("/")[2].partition(":")[0]
    other = netrc.with_name("of-this-host")
    other.write_text(f"machine {host} login somebody password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(other))
    assert refused(phift_workspace.client).what.startswith(f"{host} was sent")
    other.write_text(f"machine another login somebody password {PASSWORD}\n")
    client = phift_workspace.client
    assert client.workspaces.get(client.workspace_name).name == client.workspace_name


@pytest.mark.parametrize("status", [400, 401, 403])
def test_storage_that_refuses_it_says_so_too(server: Script, netrc: Path, status: int) -> None:
    server.answers(Reply(b"", status, {"x-ms-error-code": "InvalidAuthenticationInfo"}))
    with (
        ContainerClient.from_container_url(f"{server.url}/account/box?sig=made-up", retry_total=0) as box,
        pytest.raises(AuthenticationError, match=str(netrc)),
        azure_errors("storage"),
    ):
        box.get_container_properties()
    assert str(sent(server)[0]).startswith("Basic ")


@pytest.mark.usefixtures("sleeps")
def test_a_refusal_of_the_token_is_not_laid_on_the_file(server: Script) -> None:
    server.answers(Reply({"error": {"code": "InvalidAuthenticationToken", "message": "no"}}, 401))
    with pytest.raises(AuthenticationError) as caught:
        rest().get(f"{server.url}/x")
    assert "netrc" not in str(caught.value)


def test_another_refusal_is_not_either(server: Script) -> None:
    server.answers(Reply({}, 404))
    signing = policies.BearerTokenCredentialPolicy(Credential(), "scope")
    client: PipelineClient[Any, Any] = PipelineClient(base_url="", policies=[signing])
    with pytest.raises(NotFound) as caught, azure_errors("x"):
        client.send_request(HttpRequest("GET", f"{server.url}/x")).raise_for_status()
    assert "netrc" not in str(caught.value)
