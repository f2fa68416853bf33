"""The open connections of the server, so that one can be cut off on order."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import ClassVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_LEAVING = 0.05  # seconds for what has been written to leave
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


class Reset(Response):
    """No answer: the client sees its connection reset."""

    def __init__(self, request: Request) -> None:
        super().__init__(status_code=499)  # what proxies log where nobody got an answer
        self._client = request.client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reset the connection."""
        if self._client:
            await _end(self._client, reset=True)


class Half(Response):
    """An answer that breaks off in the middle of its body; one without a body is no answer at all."""

    def __init__(self, request: Request, whole: Response) -> None:
        super().__init__(status_code=whole.status_code)
        self._whole = whole
        self._client = request.client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head of the answer, which promises all of it, and half of the body."""
        if not self._client:
            return
        body = await _content(self._whole)
        if body and scope["method"] != "HEAD":
            headers = [(name, value) for name, value in self._whole.raw_headers if name != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode()))
            await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            await asyncio.sleep(_LEAVING)
        await _end(self._client, reset=False)


async def _content(response: Response) -> bytes:
    if not isinstance(response, StreamingResponse):
        return bytes(response.body)
    chunks = [chunk async for chunk in response.body_iterator]
    return b"".join(chunk.encode() if isinstance(chunk, str) else bytes(chunk) for chunk in chunks)


async def _end(client: tuple[str, int], *, reset: bool) -> None:
    """End a connection at once.

    - **reset**: the client sees "connection reset"; otherwise it gets what has been sent, and then the end.
    """
    transport = Connection.transports.get(client)
    if transport is None:
        return
    if reset:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
    while Connection.transports.get(client) is transport:  # until uvicorn knows, or it would answer by itself
        await asyncio.sleep(0.001)
