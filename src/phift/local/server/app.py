"""The ASGI application: brings requests to the service, cuts connections on order, writes the request log."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from phift.local.server.service import LARGEST_BODY, Exchange, whole_body
from phift.local.site import Site

logger = logging.getLogger(__name__)

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
_RESET = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST and not FIN


def create_app(site: Site, delay: float = 0) -> Starlette:
    """Return the application that serves ``site``.

    - **delay**: seconds that every request waits before anything is done for it.
    """
    # Scoring may take minutes; with threads of its own it cannot hold up everything else.
    scoring_threads = anyio.CapacityLimiter(40)

    async def answer(request: Request) -> Response:
        started = time.perf_counter()
        # In the event loop and not in a thread of the pool: any number of requests wait at once, as in a network.
        await asyncio.sleep(delay)
        # `request.url.path` would cut the decoded path at a decoded ``#`` or ``?``.
        exchange = Exchange(site, request.method, str(request.scope["path"]))
        body = None if exchange.cut == "before" else await _body(request, exchange.slow)
        await asyncio.sleep(exchange.delay)
        limiter = scoring_threads if exchange.path.startswith("/inference/") else None
        asked = (request.query_params, request.headers, body)
        reply = await anyio.to_thread.run_sync(exchange.reply, *asked, limiter=limiter)
        milliseconds = (time.perf_counter() - started) * 1000
        logger.info("%s %s %d %.1f ms", request.method, exchange.path, reply.status, milliseconds)
        if exchange.cut == "half":
            return Half(whole_body(reply), reply.status, reply.headers)
        if exchange.cut:
            return Reset()
        if reply.stream is not None:
            return StreamingResponse(reply.stream, reply.status, reply.headers)
        return Response(reply.body, reply.status, reply.headers)

    return Starlette(routes=[Route("/{path:path}", answer, methods=METHODS)])


async def _body(request: Request, slow: int) -> bytes | None:
    """Return a request's body, or None where its client has gone.

    All of it is taken in any case: to a client, an answer in the middle of its upload is a broken pipe. Of one that is
    too large it is enough to refuse it.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_BODY:
                break
            if slow:
                await asyncio.sleep(len(chunk) / slow)
    except ClientDisconnect:
        return None
    return bytes(body)


class Connection(H11Protocol):
    """One connection, which the application finds in the state of its scope."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Note the connection."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class Reset(Response):
    """No answer: the client sees its connection reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """End the connection at once."""
        transport: asyncio.Transport = scope["state"]["transport"]
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        await _end(transport, receive)


class Half(Response):
    """An answer that breaks off in the middle of its body; one without a body is no answer at all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head of the answer, which promises all of it, and half of the body."""
        if self.body and scope["method"] != "HEAD":
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.body[: len(self.body) // 2], "more_body": True})
            await asyncio.sleep(0.05)  # for what has been written to leave
        await _end(scope["state"]["transport"], receive)


async def _end(transport: asyncio.Transport, receive: Receive) -> None:
    transport.abort()
    while (await receive())["type"] != "http.disconnect":  # until uvicorn knows, or it would answer by itself
        pass
