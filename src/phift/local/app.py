"""The ASGI application: finds the route, checks the caller, shapes answers and errors, writes the request log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as StarletteRoute

from phift.local import (
    arm,
    assets,
    blobs,
    computes,
    endpoints,
    history,
    jobs,
    mlflow,
    operations,
    registry,
    scoring,
    step_assets,
)
from phift.local.identity import TENANT, InvalidToken
from phift.local.operations import Operations
from phift.local.scorers import Scorers
from phift.local.site import Site
from phift.local.state import Json
from phift.local.training import Training
from phift.local.wire import GROUP, SUBSCRIPTION, WORKSPACE, Call, Reply, Route, WireError

logger = logging.getLogger(__name__)

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
# The largest upload in one piece: the storage client cuts into blocks above 64 MiB, older ones above 256 MiB.
LARGEST_BODY = 257 * 1024 * 1024
_SCORING_THREADS = 40


def create_app(site: Site, delay: float = 0) -> Starlette:
    """Return the application that serves ``site``, with its background work tied to the application's life.

    - **delay**: seconds that every request waits before anything is done for it.
    """
    site.operations = Operations(site.documents)
    site.scorers = Scorers(site)
    site.training = Training(site)
    parts = (arm, assets, blobs, computes, endpoints, history, jobs, mlflow, operations, registry, scoring, step_assets)
    table = [(route, route.pattern()) for part in parts for route in part.routes()]
    site.operations.work = {**computes.work(site), **endpoints.work(site), **jobs.work(site)}

    scoring_threads = anyio.CapacityLimiter(_SCORING_THREADS)

    @asynccontextmanager
    async def life(_app: Starlette) -> AsyncIterator[None]:
        site.operations.resume()
        site.training.start()
        yield
        await run_in_threadpool(site.training.stop)
        await run_in_threadpool(site.scorers.stop)

    async def answer(request: Request) -> Response:
        started = time.perf_counter()
        if delay:
            # In the event loop and not in a thread of the pool: any number of requests wait at once, as in a network.
            await asyncio.sleep(delay)
        response = await _respond(site, table, request, scoring_threads)
        milliseconds = (time.perf_counter() - started) * 1000
        logger.info("%s %s %d %.1f ms", request.method, _path(request), response.status_code, milliseconds)
        return response

    return Starlette(routes=[StarletteRoute("/{path:path}", answer, methods=METHODS)], lifespan=life)


async def _respond(
    site: Site,
    table: list[tuple[Route, re.Pattern[str]]],
    request: Request,
    scoring_threads: anyio.CapacityLimiter,
) -> Response:
    common = {"x-ms-request-id": str(uuid.uuid4())}
    if "x-ms-client-request-id" in request.headers:
        common["x-ms-client-request-id"] = request.headers["x-ms-client-request-id"]
    try:
        call = Call(request.method, _path(request), request.query_params, request.headers, await _body(request))
        # Scoring may take minutes; with threads of its own it cannot hold up everything else.
        limiter = scoring_threads if call.path.startswith("/inference/") else None
        reply = await anyio.to_thread.run_sync(_dispatch, site, table, call, limiter=limiter)
    except WireError as error:
        reply = _error(error, _path(request))
    except ClientDisconnect:
        # Nobody is left to read it; the number is the one that proxies log for this.
        reply = Reply(None, 499)
    except Exception:
        logger.exception("%s %s failed", request.method, _path(request))
        reply = _error(
            WireError(500, "InternalServerError", "The local workspace failed; its server.log says why."), ""
        )
    return _response(reply, common)


def _path(request: Request) -> str:
    """Return the decoded path; ``request.url.path`` would cut it at a decoded ``#`` or ``?``."""
    return str(request.scope["path"])


async def _body(request: Request) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST_BODY:
            raise WireError(413, "RequestBodyTooLarge", f"The request is larger than {LARGEST_BODY} bytes.")
        chunks.append(chunk)
    return b"".join(chunks)


def _dispatch(site: Site, table: list[tuple[Route, re.Pattern[str]]], call: Call) -> Reply:
    for route, pattern in table:
        if route.method != call.method:
            continue
        match = pattern.fullmatch(call.path)
        if match:
            if not route.anonymous:
                _authorize(site, call.headers)
            _check_scope(match.groupdict())
            return route.handler(site, Call(**{**vars(call), "params": match.groupdict()}))
    message = f"The local workspace does not serve {call.method} {call.path}"
    logger.warning("501: %s", message)
    raise WireError(501, "NotImplemented", message)


def _authorize(site: Site, headers: Mapping[str, str]) -> None:
    """Ask for a bearer token of ours, with the words of Azure Resource Manager."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    challenge = {"WWW-Authenticate": f'Bearer authorization_uri="{arm.LOGIN}/{TENANT}"'}
    if scheme.lower() != "bearer" or not token:
        message = "Authentication failed. The 'Authorization' header is missing."
        raise WireError(401, "AuthenticationFailed", message, challenge)
    try:
        claims = site.identity.claims(token)
    except InvalidToken as error:
        code = "ExpiredAuthenticationToken" if "expiry" in str(error) else "InvalidAuthenticationToken"
        raise WireError(401, code, str(error), {**challenge, "x-ms-failure-cause": "gateway"}) from error
    if str(claims["aud"]).startswith("endpoint/"):
        raise WireError(401, "InvalidAuthenticationTokenAudience", "The token is for scoring only.", challenge)


def _check_scope(params: Mapping[str, str | None]) -> None:
    """Refuse another subscription, resource group or workspace than the one there is."""
    subscription, group, workspace = (params.get(name) for name in ("subscription", "group", "workspace"))
    if subscription is not None and subscription.lower() != SUBSCRIPTION:
        raise WireError(404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found.")
    if group is not None and group.lower() != GROUP:
        raise WireError(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
    if workspace is not None and workspace.lower() != WORKSPACE:
        name = f"Microsoft.MachineLearningServices/workspaces/{workspace}"
        message = f"The Resource '{name}' under resource group '{GROUP}' was not found."
        raise WireError(404, "ResourceNotFound", message)


def _error(error: WireError, path: str) -> Reply:
    headers = {"x-ms-error-code": error.code, **error.headers}
    if path.startswith("/inference/"):
        # Endpoints answer errors in plain text.
        return Reply(error.message.encode(), error.status, headers, "text/plain; charset=utf-8")
    inner = [{"type": "InnerError", "info": {"value": {"code": error.inner}}}] if error.inner else []
    body: Json = {"error": {"code": error.code, "message": error.message, "details": [], "additionalInfo": inner}}
    if path.startswith("/mlflow/"):
        # MLflow's client looks for its own two fields.
        body |= {"error_code": error.code, "message": error.message}
    return Reply(body, error.status, headers)


def _response(reply: Reply, common: Mapping[str, str]) -> Response:
    headers = {**common, **reply.headers}
    if reply.stream is not None:
        return StreamingResponse(reply.stream, reply.status, headers, reply.media_type)
    if reply.body is None:
        return Response(b"", reply.status, headers)
    content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    return Response(content, reply.status, headers, reply.media_type)


def configure_logging() -> None:
    """Send this process's log to its output; only the server process calls this."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
