"""Answers that ask for too much: to wait for years, to read for ever, to send the token elsewhere."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, cycle, repeat
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import pytest
import requests
from azure.core import PipelineClient
from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import CustomHookPolicy
from azure.core.rest import HttpRequest, HttpResponse

from phift.azure import bounds
from phift.azure.bounds import leads_away
from phift.azure.clients import Rest, SharedTokens
from phift.errors import PhiftError, ServiceError, Throttled
from unit.loopback import Reply, Script

HERE = "https://management.azure.com/subscriptions/x"


class Credential:
    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        return AccessToken("made-up-token", 9_999_999_999)


@pytest.fixture(params=[Credential, lambda: SharedTokens(Credential())], ids=["own", "shared"])
def rest(request: pytest.FixtureRequest) -> Rest:
    return Rest(request.param(), "https://management.test/.default")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Retry-After", "1e9"),
        ("Retry-After", "31536000"),
        ("Retry-After", "inf"),
        ("Retry-After", "nan"),
        ("Retry-After", "soon"),
        ("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"),
        ("retry-after-ms", "1e15"),
        ("x-ms-retry-after-ms", "9" * 400),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_nobody_waits_for_years(
    server: Script, rest: Rest, sleeps: list[float], status: int, name: str, value: str
) -> None:
    server.answers(Reply({}, status, {name: value}))
    with pytest.raises(Throttled if status == 429 else ServiceError):
        rest.get(server.url)
    assert sum(sleeps) < 60
    assert 1 < len(server.requests) < 15


def test_a_pause_of_minutes_is_made(server: Script, rest: Rest, sleeps: list[float]) -> None:
    server.answers(Reply({}, 429, {"Retry-After": "300"}), Reply({"a": 1}))
    assert rest.get(server.url) == {"a": 1}
    assert sleeps == [300]


def elsewhere(server: Script, path: str = "/next") -> str:
    return server.url.replace("127.0.0.1", "localhost") + path


@pytest.mark.parametrize(
    ("status", "header", "in_body"),
    [
        (200, "", True),
        (200, "Azure-AsyncOperation", False),
        (201, "Azure-AsyncOperation", False),
        (202, "Operation-Location", False),
        (200, "Location", False),
        (201, "Location", False),
        (202, "Location", False),
    ],
)
def test_an_answer_that_goes_on_at_another_host_is_refused(
    server: Script, rest: Rest, status: int, header: str, in_body: bool
) -> None:
    there = elsewhere(server, "/next?sig=SECRET")
    server.answers(
        Reply({"value": [], "nextLink": there if in_body else None}, status, {header: there} if header else {})
    )
    with pytest.raises(ServiceError, match="goes on at another host") as caught:
        rest.get(f"{server.url}/list")
    assert caught.value.where == f"{server.url}/list"
    assert elsewhere(server) in caught.value.what
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        ('{"resourceLocation": "LINK"}', "utf-8"),
        ('{"next\\u004cink": "LINK"}', "utf-8"),
        ('{"nextLink": "LINK"}', "utf-16"),
        ('{"nextLink": "LINK"}', "utf-8-sig"),
    ],
)
def test_a_link_is_seen_however_it_is_written(server: Script, rest: Rest, body: str, charset: str) -> None:
    sent = body.replace("LINK", elsewhere(server)).encode(charset)
    server.answers(Reply(sent, 200, {"Content-Type": f"application/json; charset={charset}"}))
    with pytest.raises(ServiceError, match="goes on at another host"):
        rest.get(f"{server.url}/list")


def test_an_operation_that_was_redirected_elsewhere_is_refused(server: Script, rest: Rest) -> None:
    server.answers(Reply(status=307, headers={"Location": elsewhere(server)}), Reply({"properties": {}}, 201))
    with pytest.raises(ServiceError, match="goes on at another host"):
        rest.post(f"{server.url}/operation", {})


def test_an_answer_that_goes_on_where_it_came_from_is_read(server: Script, rest: Rest) -> None:
    answer = {"value": [], "nextLink": f"{server.url}/next"}
    server.answers(Reply(answer, 202, {"Location": f"{server.url}/operation"}))
    assert rest.get(f"{server.url}/list") == answer


def test_a_redirected_answer_is_held_against_the_host_that_was_asked(server: Script, rest: Rest) -> None:
    server.answers(
        Reply(status=302, headers={"Location": elsewhere(server)}), Reply({"nextLink": elsewhere(server, "/more")})
    )
    with pytest.raises(ServiceError, match="goes on at another host"):
        rest.get(f"{server.url}/list")


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/x",
        "//evil.example/x",
        "http://management.azure.com/x",
        "https://management.azure.com:8443/x",
        "https://management.azure.com@evil.example/x",
        "https://evil.example\\@management.azure.com/x",
        "https://evil.example /x",
        "https://management.azure.com.evil.example/x",
        "https://xmanagement.azure.com/x",
        "https://[::1/x",
        "ftp://management.azure.com/x",
        "https://azure.com/x",
        "https://com/x",
    ],
)
def test_it_leads_away(link: str) -> None:
    assert leads_away(link, HERE)


def test_a_regional_host_leads_back_to_the_one_above_it() -> None:
    assert not leads_away("https://api.azureml.ms/x", "https://eastus.api.azureml.ms/x")


@pytest.mark.parametrize(
    "link",
    [
        "https://management.azure.com/y?$skiptoken=a%2Fb",
        "https://MANAGEMENT.azure.com:443/y",
        "https://eastus.management.azure.com/y",
        "/subscriptions/y",
    ],
)
def test_it_stays(link: str) -> None:
    assert not leads_away(link, HERE)


@pytest.mark.parametrize("status", [200, 404])
def test_an_answer_without_end_is_not_read_to_it(
    server: Script, rest: Rest, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(bounds, "MOST_ANSWERED", 4 << 20)
    bomb = gzip.compress(b" " * (40 << 20))
    server.answers(Reply(bomb, status, {"Content-Encoding": "gzip", "Content-Type": "application/json"}))
    asked: list[Callable[[str], object]] = [rest.get]
    if status == 404:  # of what is there a part is read, however long it is
        asked.append(lambda url: rest.part(url, 0, 100))
    for ask in asked:
        with pytest.raises(ServiceError, match="longer than 4 MB") as caught:
            ask(f"{server.url}/big?sig=SECRET")
        assert "SECRET" not in str(caught.value)


def test_an_answer_that_trickles_is_not_waited_for(trickling: str, rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "LONGEST_ANSWER", 1.0)
    started = time.monotonic()
    with pytest.raises(ServiceError, match="does not end within 1 s"):
        rest.part(trickling, 0, 1 << 20)
    assert time.monotonic() - started < 20


def slowly(text: bytes) -> Iterator[bytes]:
    for byte in text:
        yield bytes([byte])
        time.sleep(0.02)


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
PACKED = HEAD + b"Content-Encoding: gzip\r\n\r\n" + bytes([31, 139, 8, 8, 0, 0, 0, 0, 0, 3])  # and a name
FOREVER = 1 << 30

ENDLESS: dict[str, Callable[[], Iterable[bytes]]] = {
    "a status": lambda: slowly(b"HTTP/1.1 200 " + b"O" * 9000),
    "headers": lambda: chain([HEAD], cycle(slowly(b"X: y\r\n" * 90))),
    "a header": lambda: chain([HEAD, b"X: "], slowly(b"y" * 9000)),
    "interim answers": lambda: repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 99, FOREVER),
    "slow interim answers": lambda: chain.from_iterable(
        slowly(b"HTTP/1.1 100 Continue\r\n\r\n") for _ in range(FOREVER)
    ),
    "a chunk's size": lambda: chain([CHUNKED, b"1"], slowly(b" " * 9000)),
    "chunks": lambda: chain([CHUNKED], cycle(slowly(b"1\r\n \r\n"))),
    "trailers": lambda: chain([CHUNKED, b"2\r\n{}\r\n0\r\n"], repeat(b"X: y\r\n" * 99, FOREVER)),
    "slow trailers": lambda: chain([CHUNKED, b"2\r\n{}\r\n0\r\n"], slowly(b"X: y\r\n" * 9000)),
    "a packed file's name": lambda: chain([PACKED], repeat(b"a" * 999, FOREVER)),
    "a packed file's name, slowly": lambda: chain([PACKED], slowly(b"a" * 9000)),
    "a body of unknown length": lambda: chain([HEAD, b"\r\n"], slowly(b" " * 9000)),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_answer_that_goes_on_anywhere_ends(what: str, rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "LONGEST_LINES", 0.5)
    monkeypatch.setattr(bounds, "LONGEST_ANSWER", 1.0)
    started = time.monotonic()
    with raw_answers(ENDLESS[what]) as url, pytest.raises(ServiceError, match=r"does not end within [01] s") as caught:
        rest.part(f"{url.replace('://', '://user:SECRET@')}/log?sig=SECRET", 0, 1 << 20)
    assert time.monotonic() - started < 20
    assert url.partition("://")[2] in str(caught.value.where)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "head",
    [
        b"X: y\r\n" * 10_000,
        b"X: " + b"y" * 10_000_000 + b"\r\n",
        b"Content-Length: 9\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: " + b"9" * 5000 + b"\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Content-Encoding: " + b"gzip, " * 9 + b"gzip\r\n",
        b"Location: file:///etc/passwd\r\n",
    ],
    ids=lambda head: str(head[:24]),
)
@pytest.mark.usefixtures("sleeps")
def test_a_head_that_lies_is_an_error_or_has_no_say(rest: Rest, head: bytes) -> None:
    with raw_answers(lambda: [HEAD + head + b"\r\n<html>"]) as url, suppress(PhiftError):
        assert rest.part(f"{url}/log", 0, 1 << 20).content == b"<html>"


@contextmanager
def raw_answers(answer: Callable[[], Iterable[bytes]]) -> Iterator[str]:
    """Give the address of a server that sends the same bytes to whoever comes."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # whoever asked has gone
                self.request.recv(1 << 16)
                for piece in answer():
                    self.request.sendall(piece)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have requests' adapter read each answer whole, and change it, before anybody else sees it."""
    send = requests.adapters.HTTPAdapter.send

    def read(self: Any, *sent: Any, **options: Any) -> requests.Response:
        answer = send(self, *sent, **options)
        answer._content = answer.content.replace(b"1", b"2")
        return answer

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", read)


@pytest.mark.usefixtures("read_ahead")
def test_an_answer_that_was_read_on_its_way_is_left_as_it_is(server: Script, rest: Rest) -> None:
    server.answers(Reply({"a": 1}))
    assert rest.get(server.url) == {"a": 2}


@pytest.mark.usefixtures("read_ahead")
def test_a_streamed_answer_that_was_read_on_its_way_is_left_to_whoever_streams_it(server: Script) -> None:
    server.answers(Reply({"a": 1}))
    hook = CustomHookPolicy(raw_request_hook=bounds.bound, raw_response_hook=bounds.check_answer)
    with PipelineClient[HttpRequest, HttpResponse](server.url, policies=[hook]) as client:
        answer = client.send_request(HttpRequest("GET", server.url), stream=True)
        answer.read()
        assert answer.json() == {"a": 2}


@pytest.fixture
def trickling() -> Any:
    """Return the address of a server that sends a byte of its answer now and then, for ever."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 40))
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b" ")
                    time.sleep(0.1)
            except OSError:  # whoever asked has gone
                pass

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/log"
    finally:
        server.shutdown()
        server.server_close()
