from __future__ import annotations

import traceback
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError

from phift.azure.clients import Part, Rest
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
from unit.loopback import Reply, Request, Script

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
    assert rest().part(f"{server.url}/log?sig=s", 0, 1 << 20).content.decode() == "lög"
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
        rest().part(f"{server.url}/log?sv=1&sig=SECRET", 0, 1 << 20)
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
        rest().part(address, 0, 1 << 20)
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


LOG = bytes(range(256)) * 4


def ranged(request: Request) -> Reply:
    """Answer as storage does (Microsoft Learn, "Specify the range header for Blob service operations", 2026-11)."""
    first, last = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
    if first >= len(LOG):
        return Reply(b"<Error><Code>InvalidRange</Code></Error>", 416, {"Content-Range": f"bytes */{len(LOG)}"})
    found = LOG[first : last + 1]
    return Reply(found, 206, {"Content-Range": f"bytes {first}-{first + len(found) - 1}/{len(LOG)}"})


@pytest.mark.parametrize(("start", "content"), [(0, LOG[:100]), (1000, LOG[1000:]), (1024, b""), (2000, b"")])
def test_a_part_is_what_lies_there_and_nothing_else_is_sent(server: Script, start: int, content: bytes) -> None:
    server.answers(ranged)
    assert rest().part(f"{server.url}/log", start, 100) == Part(content, 1024, "")
    assert server.requests[0].headers["Range"] == f"bytes={start}-{start + 99}"
    assert len(server.requests) == 1


@pytest.mark.parametrize(("start", "content"), [(0, LOG[:100]), (1000, LOG[1000:]), (1024, b""), (2000, b"")])
def test_a_server_that_knows_no_ranges_is_read_as_far_as_is_needed(server: Script, start: int, content: bytes) -> None:
    server.answers(Reply(LOG))
    assert rest().part(f"{server.url}/log", start, 100) == Part(content, 1024, "")


@pytest.mark.parametrize("given", ["bytes 7-106/1024", "bytes", "elephants 0-99/1024"])
def test_another_part_than_was_asked_for_is_an_error(server: Script, given: str) -> None:
    server.answers(Reply(LOG[:100], 206, {"Content-Range": given}))
    with pytest.raises(ServiceError, match="another part"):
        rest().part(f"{server.url}/log?sig=SECRET", 0, 100)


def test_a_part_tells_when_the_blob_was_made(server: Script) -> None:
    made = "Mon, 30 Nov 2026 10:00:00 GMT"
    server.answers(Reply(b"", 416, {"x-ms-creation-time": made}))
    assert rest().part(f"{server.url}/log", 5, 100) == Part(b"", None, made)
