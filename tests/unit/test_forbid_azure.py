from __future__ import annotations

import asyncio
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import requests
from azure.core.pipeline.transport import HttpRequest, RequestsTransport

from phift.errors import ForbiddenConnection, PhiftError
from phift.testing import forbid_azure
from phift.testing.network import Ban
from unit.loopback import Reply, Script

AZURE = "management.azure.com"


@pytest.fixture
def ban() -> Iterator[Ban]:
    with forbid_azure() as ban:
        yield ban


def connect(host: str, port: int = 443) -> None:
    with socket.socket() as plain:
        plain.connect((host, port))


def connect_ex(host: str) -> None:
    with socket.socket() as plain:
        plain.connect_ex((host, 443))


def send(host: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as plain:
        plain.sendto(b"x", (host, 53))


def send_message(host: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as plain:
        plain.sendmsg([b"x"], [], 0, (host, 53))


def connect_six(host: str) -> None:
    with socket.socket(socket.AF_INET6) as plain:
        plain.connect((f"::ffff:{host}", 443))


async def open_connection(host: str) -> None:
    await asyncio.open_connection(host, 443)


WAYS: dict[str, tuple[str, Callable[[str], object]]] = {
    "connect": ("192.0.2.1", connect),
    "connect_ex": ("192.0.2.1", connect_ex),
    "sendto": ("192.0.2.1", send),
    "sendmsg": ("192.0.2.1", send_message),
    "create_connection": (AZURE, lambda host: socket.create_connection((host, 443))),
    "getaddrinfo": (AZURE, lambda host: socket.getaddrinfo(host, 443)),
    "getaddrinfo of bytes": (AZURE, lambda host: socket.getaddrinfo(host.encode(), 443)),
    "gethostbyname": (AZURE, socket.gethostbyname),
    "gethostbyname_ex": (AZURE, socket.gethostbyname_ex),
    "gethostbyaddr": ("192.0.2.1", socket.gethostbyaddr),
    "getnameinfo": ("192.0.2.1", lambda host: socket.getnameinfo((host, 443), 0)),
    "requests": (AZURE, lambda host: requests.get(f"https://{host}/", timeout=1)),
    "asyncio": (AZURE, lambda host: asyncio.run(open_connection(host))),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_way_leads_to_another_machine(ban: Ban, way: str) -> None:
    host, go = WAYS[way]
    with pytest.raises(ForbiddenConnection, match=rf"A connection to {host} is forbidden") as caught:
        go(host)
    assert caught.value.host == host
    assert ban.refused == [host]


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_address_in_the_clothes_of_the_other_family_is_seen_through(ban: Ban) -> None:
    with pytest.raises(ForbiddenConnection, match=r"192\.0\.2\.1"):
        connect_six("192.0.2.1")


def test_azures_own_transport_does_not_try_again(ban: Ban) -> None:
    with RequestsTransport() as transport, pytest.raises(ForbiddenConnection, match=AZURE):
        transport.send(HttpRequest("GET", f"https://{AZURE}/subscriptions"))
    assert ban.refused == [AZURE]


@pytest.mark.usefixtures("ban")
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "0.0.0.0", ""])  # noqa: S104
def test_this_machine_is_reached(host: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening:  # noqa: S104 - for 127.8.9.1
        connect(host, listening.getsockname()[1])


@pytest.mark.usefixtures("ban")
def test_a_server_of_this_machine_is_asked(server: Script) -> None:
    server.answers(Reply({"here": True}))
    assert requests.get(server.url, timeout=60).json() == {"here": True}


@pytest.mark.usefixtures("ban")
def test_what_looks_nothing_up_and_goes_nowhere_is_free() -> None:
    assert socket.getaddrinfo("192.0.2.1", 443)  # a number is its own address
    assert socket.getaddrinfo(None, 0)
    assert socket.getfqdn("127.0.0.1")
    first, second = socket.socketpair()
    with first, second:
        first.sendmsg([b"x"])
        assert second.recv(1) == b"x"
    with socket.socket(socket.AF_UNIX) as unix, pytest.raises(FileNotFoundError):
        unix.connect("/nowhere/at/all")


def test_bans_nest_and_the_last_one_lifted_opens_the_way() -> None:
    program = """
import socket
from phift.errors import ForbiddenConnection
from phift.testing import forbid_azure

def refused():
    with socket.socket(type=socket.SOCK_DGRAM) as plain:
        try:
            plain.connect(("192.0.2.1", 9))  # sends nothing, and needs no network but a route
        except ForbiddenConnection:
            return True
        except OSError:
            return False
    return False

said = [refused()]
outer = forbid_azure()
with forbid_azure() as inner:
    said.append(refused())
    outer.lift()
    outer.lift()
    said.append(refused())
inner.lift()
said.append(refused())
print(said, outer.refused, inner)
"""
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[False, True, True, False] ['192.0.2.1'] Ban(refused=['192.0.2.1', '192.0.2.1'])\n"


def test_the_error_is_ours_and_no_failure_of_the_network() -> None:
    error = ForbiddenConnection("no", where="h", fix="f", host="h")
    assert isinstance(error, PhiftError)
    assert not isinstance(error, OSError)  # a client that tries again would try for a minute
    assert pickle.loads(pickle.dumps(error)).host == "h"  # noqa: S301 - our own


def test_our_own_tests_are_under_a_ban() -> None:
    with pytest.raises(ForbiddenConnection):
        socket.getaddrinfo(AZURE, 443)
