"""The official client that an endpoint hands out."""

from __future__ import annotations

import asyncio
import sys

import openai
import pytest

from phift import Clients
from phift.config.deployment import DeploymentConfig
from phift.errors import LocalWorkspaceError, MissingDependency, ServiceError
from phift.serving.endpoint import Endpoint
from unit.fakes import KEY, Fakes
from unit.loopback import Reply, Script
from unit.test_asking import completion
from unit.test_endpoint import by_token, endpoint_at
from unit.test_streaming import DONE, chunk, event, stream


def ask(client: openai.OpenAI) -> str | None:
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    return answer.choices[0].message.content


def test_it_asks_the_endpoint_with_its_key(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "somebody")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://elsewhere.test")
    server.answers(Reply(completion()))
    endpoint = endpoint_at(server.url)
    with endpoint.openai(deployment="blue") as client:
        assert ask(client) == "Hello."
        assert KEY not in repr(client) + repr(endpoint)
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    headers = {name.lower(): value for name, value in request.headers.items()}
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["azureml-model-deployment"] == "blue"
    assert "openai-organization" not in headers


def test_a_token_renews_itself(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers(Reply(completion()))
    endpoint, asked = by_token(server, monkeypatch, 200, 200, 3600)
    with endpoint.openai() as client:
        for _ in range(3):
            ask(client)
    assert [request.headers["authorization"] for request in server.requests] == [
        "Bearer phift-e token 1",
        "Bearer phift-e token 2",
        "Bearer phift-e token 2",
    ]
    assert len(asked) == 3


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_key_that_was_made_anew_meanwhile_is_read_again(server: Script, asynchronous: bool) -> None:
    fakes = Fakes()
    good = "Bearer made-up-new-key"
    server.answers(lambda request: Reply(completion()) if request.headers["authorization"] == good else Reply({}, 401))
    endpoint = endpoint_at(server.url, fakes)

    async def asks() -> str | None:
        async with endpoint.openai(asynchronous=True) as client:
            answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
            return answer.choices[0].message.content

    with endpoint.openai() as client:
        with pytest.raises(openai.AuthenticationError):
            ask(client)
        assert len(server.requests) == 1  # the same key is not sent again
        fakes.workspace.online_endpoints._keys["phift-e"] = ("made-up-new-key", "made-up-second-key")
        assert (asyncio.run(asks()) if asynchronous else ask(client)) == "Hello."
        assert ask(client) == "Hello."
    assert len(server.requests) == 4


def test_it_streams(server: Script) -> None:
    server.answers(stream([event(chunk("Hel")), event(chunk("lo.")), event(chunk(finish_reason="stop")), DONE]))
    with endpoint_at(server.url).openai() as client:
        pieces = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
        assert [piece.choices[0].delta.content for piece in pieces] == ["Hel", "lo.", None]


def test_an_asynchronous_one_asks_too(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers(Reply(completion()))
    endpoint, _ = by_token(server, monkeypatch, 3600)

    async def asks() -> str | None:
        async with endpoint.openai(asynchronous=True) as client:
            answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
            return answer.choices[0].message.content

    assert asyncio.run(asks()) == "Hello."
    assert server.requests[0].headers["authorization"] == "Bearer phift-e token 0"


def test_a_request_that_timed_out_is_not_sent_again(server: Script) -> None:
    server.answers(Reply({}, 408))
    with endpoint_at(server.url).openai() as client, pytest.raises(openai.APIStatusError):
        ask(client)
    assert len(server.requests) == 1


def test_a_redirect_is_not_followed(server: Script) -> None:
    server.answers(Reply({}, 307, {"Location": f"{server.url}/elsewhere"}))
    with endpoint_at(server.url).openai() as client, pytest.raises(openai.APIStatusError):
        ask(client)
    assert len(server.requests) == 1


def test_what_is_missing_is_said_with_the_way_to_it(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = endpoint_at(server.url)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingDependency) as caught:
        endpoint.openai()
    assert ".[openai]" in str(caught.value.fix)


def test_no_key_goes_to_an_address_that_is_not_https() -> None:
    with pytest.raises(ServiceError, match="not https"):
        endpoint_at("http://e.test").openai()


def test_a_workspace_in_this_process_is_told_of(clients: Clients) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    wanted = ManagedOnlineEndpoint(name="phift-e", auth_mode="key")
    clients.workspace.online_endpoints.begin_create_or_update(wanted).result()
    with pytest.raises(LocalWorkspaceError, match="in this process") as caught:
        Endpoint(clients, "phift-e", DeploymentConfig()).openai()
    assert "server=True" in str(caught.value.fix)
