"""The open connections of the server, so that one can be cut off on order."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

_RESET = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST and not FIN


class Connection(H11Protocol):
    """One connection; an application knows it by the client's address."""

    transports: ClassVar[dict[tuple[str, int], asyncio.Transport]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Note the connection."""
        super().connection_made(transport)
        if self.client:
            self.transports[self.client] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self.client:
            self.transports.pop(self.client, None)
        super().connection_lost(exc)


async def cut(client: tuple[str, int], *, reset: bool) -> None:
    """End a connection at once.

    - **reset**: the client sees "connection reset"; otherwise it gets what has been sent, and then the end.
    """
    transport = Connection.transports.get(client)
    if transport is None:
        return
    if reset:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
    await asyncio.sleep(0)  # the loop closes it before anything more is written
