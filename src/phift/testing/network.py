"""A ban on every connection that leaves this machine."""

from __future__ import annotations

import ipaddress
import socket
import sys
from dataclasses import dataclass, field
from typing import Any, Self

from phift.errors import ForbiddenConnection

_LOCAL_NAMES = frozenset({"", "localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
_bans: list[Ban] = []
_watching = False


def forbid_azure() -> Ban:
    """Forbid this process to connect to, or look up, any host but this machine; from now until the ban is lifted.

        forbid_azure()            # from here on
        with forbid_azure():      # for a block

    Bans nest: the last one that is lifted opens the way. What asks for another host gets
    `phift.errors.ForbiddenConnection`, which names it.

    Python's own sockets are watched, and with them all HTTP clients of the Azure SDK, by an audit hook
    (https://docs.python.org/3/library/audit_events.html, 3.11). Not reached: other processes, a proxy that listens on
    this machine, and extensions in C that open sockets of their own, as grpc and uvloop do. A name that is handed to
    ``socket.connect`` itself, which HTTP clients do not do, is looked up before it is refused.
    """
    global _watching
    if not _watching:
        sys.addaudithook(_watch)  # there is no way to remove one; without a ban it does nothing
        _watching = True
    ban = Ban()
    _bans.append(ban)
    return ban


@dataclass(eq=False)
class Ban:
    """A ban on connections, in force since it was made; the end of a ``with`` block lifts it.

    - **refused**: the hosts that were asked for, in this order; also where the program swallowed the error.
    """

    refused: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.lift()

    def lift(self) -> None:
        """End it; once is enough."""
        if self in _bans:
            _bans.remove(self)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _bans or not event.startswith("socket."):
        return
    match event, arguments:
        case (("socket.connect" | "socket.sendto" | "socket.sendmsg"), (connection, address, *_)) if address:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                return  # a socket of this machine, a file or the kernel
            host = _other_machine(address[0], numbers=True)
        case (("socket.getaddrinfo" | "socket.gethostbyname"), (name, *_)):
            host = _other_machine(name, numbers=False)  # a number is looked up nowhere; connecting is another event
        case (("socket.gethostbyaddr" | "socket.getnameinfo"), (address, *_)):
            host = _other_machine(address[0] if isinstance(address, tuple) else address, numbers=True)
        case _:
            return
    if host is None:
        return
    for ban in _bans:
        ban.refused.append(host)
    what = f"A connection to {host} is forbidden here."
    fix = "hand the code under test a client of the test workspace; or lift phift.testing.forbid_azure()"
    raise ForbiddenConnection(what, where=host, fix=fix, host=host)


def _other_machine(host: Any, *, numbers: bool) -> str | None:
    """Return the name of a host unless it is this machine; an address in **numbers** only where those count."""
    name = bytes(host).decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host or "")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        plain = name.lower().rstrip(".")
        here = plain in _LOCAL_NAMES or plain.endswith(".localhost") or plain == socket.gethostname().lower()
        return None if here else name
    mapped = getattr(address, "ipv4_mapped", None) or address
    here = mapped.is_loopback or mapped.is_unspecified  # to connect to "any address" is to connect to this machine
    return name if numbers and not here else None
