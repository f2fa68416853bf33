from __future__ import annotations

import traceback
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError

from phift.azure.clients import Rest
from phift.errors import (
    AccessDenied,
    AuthenticationError,
    Conflict,
    NotFound,
    PhiftError,
    ServiceError,
    ServiceUnreachable,
    Throttled,
)
from unit.loopback import Reply, Script

SCOPE = "https://management.test/.default"


class Credential:
    """Hands out one token, and remembers what for."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
        self.scopes += scopes
        return AccessToken("made-up-token", 9_999_999_999)


class NoLogin:
    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        raise ClientAuthenticationError("nobody is logged in")


def rest() -> Rest:
    return Rest(Credential(), SCOPE)


def test_a_get_is_signed_for_the_scope(server: Script) -> None:
    server.answers(Reply({"a": 1}))
    credential = Credential()
    assert Rest(credential, SCOPE).get(f"{server.url}/x", {"name": "two words"}) == {"a": 1}
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/x?name=two%20words")
    assert request.headers["Authorization"] == "Bearer made-up-token"
    assert request.headers["User-Agent"].startswith("phift/")
    assert credential.scopes == [SCOPE]


def test_a_post_sends_json(server: Script) -> None:
    server.answers(Reply({"ok": True}))
    assert rest().post(f"{server.url}/x", {"a": [1]}) == {"ok": True}
    assert (server.requests[0].method, server.requests[0].body) == ("POST", {"a": [1]})


def test_no_token_goes_to_a_signed_url(server: Script) -> None:
    server.answers(Reply("lög".encode(), headers={"Content-Type": "text/plain; charset=utf-8"}))
    assert rest().text(f"{server.url}/log?sig=s") == "lög"
    assert "Authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, ServiceError), (403, AccessDenied), (404, NotFound), (409, Conflict), (412, Conflict)],
)
def test_refusals_map_and_are_not_asked_again(server: Script, status: int, kind: type[PhiftError]) -> None:
    server.answers(Reply({"error": {"code": "Made", "message": "made up"}}, status))
    with pytest.raises(kind) as caught:
        rest().get(f"{server.url}/x", {"sig": "SECRET"})
    assert caught.value.where == f"{server.url}/x"
    assert len(server.requests) == 1


@pytest.mark.usefixtures("sleeps")
def test_a_refused_token_maps(server: Script) -> None:
    server.answers(Reply({}, 401))
    with pytest.raises(AuthenticationError):
        rest().get(server.url)


@pytest.mark.usefixtures("sleeps")
def test_a_refused_token_is_renewed_for_a_post_too(server: Script) -> None:
    server.answers(Reply({}, 401), Reply({"a": 1}))
    assert rest().get(server.url) == {"a": 1}
    server.answers(Reply({}, 401), Reply({"a": 1}))
    assert rest().post(server.url, {"b": 2}) == {"a": 1}
    assert [request.body for request in server.requests] == [{"b": 2}] * 2


def test_a_credential_that_does_not_work_maps(server: Script) -> None:
    server.answers(Reply({}))
    with pytest.raises(AuthenticationError, match="nobody is logged in"):
        Rest(NoLogin(), SCOPE).get(server.url)
    assert not server.requests


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again(server: Script, sleeps: list[float], status: int) -> None:
    server.answers(Reply({}, status, {"Retry-After": "7"}), Reply({"a": 1}))
    assert rest().get(server.url) == {"a": 1}
    assert sleeps == [7]


def test_a_service_that_stays_busy_is_throttled(server: Script, sleeps: list[float]) -> None:
    server.answers(Reply({}, 429, {"Retry-After": "1"}))
    with pytest.raises(Throttled) as caught:
        rest().get(server.url)
    assert caught.value.status == 429
    assert len(sleeps) == len(server.requests) - 1 > 1


def test_a_defect_of_the_service_keeps_its_status(server: Script, sleeps: list[float]) -> None:
    server.answers(Reply(b"oops", 500))
    with pytest.raises(ServiceError) as caught:
        rest().get(server.url)
    assert caught.value.status == 500
    assert sleeps


def test_no_answer_is_unreachable(sleeps: list[float]) -> None:
    with pytest.raises(ServiceUnreachable):
        rest().get("https://127.0.0.1:1/x")
    assert sleeps


def test_a_query_with_a_signature_stays_out_of_the_error(server: Script) -> None:
    server.answers(Reply(b"", 404))
    with pytest.raises(NotFound) as caught:
        rest().text(f"{server.url}/log?sv=1&sig=SECRET")
    assert "SECRET" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(("body", "words"), [(b"<html>", "no JSON."), (b"[1]", "no JSON object."), (b"", "no JSON.")])
def test_what_is_no_json_object_is_a_service_error(server: Script, body: bytes, words: str) -> None:
    server.answers(Reply(body))
    with pytest.raises(ServiceError, match=words) as caught:
        rest().get(f"{server.url}/x", {"a": 1})
    assert caught.value.where == f"{server.url}/x"


def test_the_cause_of_an_error_does_not_quote_a_signed_url(server: Script) -> None:
    address = f"{server.url}/log?sv=1&sig=SECRET"
    server.answers(Reply(b"", 404))
    with pytest.raises(NotFound) as caught:
        rest().text(address)
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


def test_a_redirect_to_another_host_gets_no_token(server: Script) -> None:
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    assert elsewhere != server.url
    server.answers(Reply(status=302, headers={"Location": f"{elsewhere}/other"}), Reply({}))
    rest().get(f"{server.url}/one")
    assert "Authorization" in server.requests[0].headers
    assert "Authorization" not in server.requests[1].headers


def test_a_token_that_is_refused_is_renewed_and_the_call_sent_again(server: Script) -> None:
    server.answers(Reply({}, 401), Reply({"a": 1}))
    credential = Credential()
    assert Rest(credential, SCOPE).get(f"{server.url}/x") == {"a": 1}
    assert credential.scopes == [SCOPE, SCOPE]


def test_a_credential_that_is_refused_for_good_is_asked_for_four_times(server: Script, sleeps: list[float]) -> None:
    server.answers(Reply({}, 401))
    with pytest.raises(AuthenticationError):
        rest().get(server.url)
    assert len(server.requests) == 4
    assert sum(sleeps) < 6
