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
from datetime import date

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as StarletteRoute

from phift.local.model import files as storage
from phift.local.server import connections
from phift.local.services import (
    arm,
    assets,
    blobs,
    computes,
    control,
    endpoints,
    history,
    jobs,
    mlflow,
    operations,
    registry,
    scoring,
    step_assets,
)
from phift.local.services.operations import Operations
from phift.local.site import Site
from phift.local.state.documents import found_no_room
from phift.local.state.faults import Fault
from phift.local.state.identity import TENANT, InvalidToken
from phift.local.wire import errors as error_bodies
from phift.local.wire.call import (
    API_VERSIONS,
    GROUP,
    LOCATION,
    SUBSCRIPTION,
    WORKSPACE,
    Call,
    Reply,
    Route,
    WireError,
    place_of,
)
from phift.local.work.scorers import Scorers
from phift.local.work.training import Training

logger = logging.getLogger(__name__)

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
# The largest upload in one piece: the storage client cuts into blocks above 64 MiB, older ones above 256 MiB.
LARGEST_BODY = 257 * 1024 * 1024
_SCORING_THREADS = 40
_REMAINING = {"GET": ("reads", "11999"), "HEAD": ("reads", "11999"), "DELETE": ("deletes", "14999")}
PARTS = (
    arm,
    assets,
    blobs,
    computes,
    control,
    endpoints,
    history,
    jobs,
    mlflow,
    operations,
    registry,
    scoring,
    step_assets,
)


def create_app(site: Site, delay: float = 0) -> Starlette:
    """Return the application that serves ``site``, with its background work tied to the application's life.

    - **delay**: seconds that every request waits before anything is done for it.
    """
    site.storage = storage.of(site)
    site.operations = Operations(site.documents, site.clock, site.faults)
    site.scorers = Scorers(site)
    site.training = Training(site)
    table = [(route, route.pattern()) for part in PARTS for route in part.routes()]
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


_Table = list[tuple[Route, re.Pattern[str]]]


async def _respond(site: Site, table: _Table, request: Request, scoring_threads: anyio.CapacityLimiter) -> Response:
    """Answer a request, or do to it what has been ordered."""
    path = _path(request)
    place = place_of(request.method, path)
    route, params = _found(table, request.method, path)
    operation = route.operation if route else place
    ours = path.startswith(f"{control.AT}/")
    fault = None if ours else site.faults.strike(place, operation)
    cut = fault.cut if fault else ""
    if fault and cut == "before":
        await asyncio.sleep(fault.delay)
        reply = Reply()
    else:
        reply = await _reply(site, route, params, request, scoring_threads, fault)
    if not ours:
        site.journal.note(operation, place, 0 if cut else reply.status)
    if cut in ("before", "after"):
        return connections.Reset(request)
    response = _response(reply, _common(request))
    return connections.Half(request, response) if cut else response


def _common(request: Request) -> dict[str, str]:
    """Return the headers that every answer has; those of Resource Manager are as the SDK's tests recorded them.

    Nothing is throttled here, so the requests that remain are always those after the first one of an hour (Microsoft
    Learn, "Request limits and throttling", 2024-06-27; recordings of azure-sdk-for-python, 2022-10-28).
    """
    common = {"x-ms-request-id": str(uuid.uuid4())}
    if "x-ms-client-request-id" in request.headers:
        common["x-ms-client-request-id"] = request.headers["x-ms-client-request-id"]
    if not arm.manages(_path(request)):
        return common
    kind, remaining = _REMAINING.get(request.method, ("writes", "1199"))
    correlation = str(uuid.uuid4())
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return {
        **common,
        "Cache-Control": "no-cache",
        "Expires": "-1",
        "Pragma": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "x-ms-correlation-request-id": correlation,
        f"x-ms-ratelimit-remaining-subscription-{kind}": remaining,
        "x-ms-response-type": "standard",
        "x-ms-routing-request-id": f"{LOCATION.upper()}:{stamp}:{correlation}",
    }


async def _reply(
    site: Site,
    route: Route | None,
    params: Mapping[str, str],
    request: Request,
    scoring_threads: anyio.CapacityLimiter,
    fault: Fault | None = None,
) -> Reply:
    """Carry out a request; whatever goes wrong is an answer too.

    - **fault**: what has been ordered to happen to it.
    """
    path = _path(request)
    try:
        # All of the body is taken in any case: to a client, an answer in the middle of its upload is a broken pipe.
        body = await _body(request, fault.slow if fault else 0)
        if fault:
            await asyncio.sleep(fault.delay)
            _fail(fault, path)
        call = Call(request.method, path, request.query_params, request.headers, body, params)
        # Scoring may take minutes; with threads of its own it cannot hold up everything else.
        limiter = scoring_threads if path.startswith("/inference/") else None
        return await anyio.to_thread.run_sync(_carry_out, site, route, call, limiter=limiter)
    except WireError as error:
        return error_bodies.reply(error, path)
    except ClientDisconnect:
        # Nobody is left to read it; the number is the one that proxies log for this.
        return Reply(None, 499)
    except Exception as error:
        if found_no_room(error):
            logger.warning("%s %s found no room: %s", request.method, path, error)
            message = "The disk of the local workspace has no room for this. What was stored is kept; free some first."
            return error_bodies.reply(WireError(507, "InsufficientStorage", message), "")
        logger.exception("%s %s failed", request.method, path)
        message = "The local workspace failed; its server.log says why."
        return error_bodies.reply(WireError(500, "InternalServerError", message), "")


def _fail(fault: Fault, path: str) -> None:
    """Raise the error that has been ordered, if one has been."""
    if not fault.status:
        return
    error = fault.error(storage=error_bodies.is_storage(path))
    if fault.status == 401:
        error.headers = {**_challenge(error.message), **error.headers}
    raise error


def _path(request: Request) -> str:
    """Return the decoded path; ``request.url.path`` would cut it at a decoded ``#`` or ``?``."""
    return str(request.scope["path"])


async def _body(request: Request, slow: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST_BODY:
            raise WireError(413, "RequestBodyTooLarge", f"The request is larger than {LARGEST_BODY} bytes.")
        chunks.append(chunk)
        if slow:
            await asyncio.sleep(len(chunk) / slow)
    return b"".join(chunks)


def _found(table: _Table, method: str, path: str) -> tuple[Route | None, Mapping[str, str]]:
    """Return the route of a request with the parts of its path."""
    for route, pattern in table:
        match = pattern.fullmatch(path) if route.method == method else None
        if match:
            return route, match.groupdict()
    return None, {}


def _carry_out(site: Site, route: Route | None, call: Call) -> Reply:
    if route is None:
        message = f"The local workspace does not serve {call.method} {call.path}"
        logger.warning("501: %s", message)
        site.journal.note_unserved(place_of(call.method, call.path))
        raise WireError(501, "NotImplemented", message)
    _check_version(call)
    if not route.anonymous:
        _authorize(site, call.headers)
    _check_scope(call.params)
    return route.handler(site, call)


def _check_version(call: Call) -> None:
    """Ask for an api-version on what Resource Manager serves; any date will do, as each release of the SDK has its own.

    The codes and words are Resource Manager's (hashicorp/vault-plugin-secrets-azure issue 13, 2018-09-07; Azure's REST
    guidelines, 2023-05-12).
    """
    if not arm.manages(call.path):
        return
    version = call.query.get("api-version", "")
    if not version:
        message = "The api-version query parameter (?api-version=) is required for all requests."
        raise WireError(400, "MissingApiVersionParameter", message)
    if not _is_version(version):
        message = f"The api-version '{version}' is invalid. The supported versions are '{','.join(API_VERSIONS)}'."
        raise WireError(400, "InvalidApiVersionParameter", message)


def _is_version(text: str) -> bool:
    """Tell whether this is a date, with a word behind it or without."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}(-[a-z]+)?", text):
        return False
    try:
        date.fromisoformat(text[:10])
    except ValueError:
        return False
    return True


def _authorize(site: Site, headers: Mapping[str, str]) -> None:
    """Ask for a bearer token of ours, with the words of Azure Resource Manager."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        message = "Authentication failed. The 'Authorization' header is missing."
        challenge = _challenge("The authentication failed because of missing 'Authorization' header.")
        raise WireError(401, "AuthenticationFailed", message, challenge)
    try:
        claims = site.identity.claims(token)
    except InvalidToken as error:
        code = "ExpiredAuthenticationToken" if "expiry" in str(error) else "InvalidAuthenticationToken"
        raise WireError(401, code, str(error), _challenge(str(error))) from error
    if str(claims["aud"]).startswith("endpoint/"):
        message = "The token is for scoring only."
        raise WireError(401, "InvalidAuthenticationTokenAudience", message, _challenge(message))


def _challenge(why: str) -> dict[str, str]:
    """Return the header that goes with a 401, in Resource Manager's form.

    The form: azure-sdk-for-go, the tests of its bearer token policy (sdk/azcore/arm/runtime, 2026-11).
    """
    authority = f"{arm.LOGIN}/{TENANT}"
    value = f'Bearer authorization_uri="{authority}", error="invalid_token", error_description="{why}"'
    return {"WWW-Authenticate": value}


def _check_scope(params: Mapping[str, str]) -> None:
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
    for name in ("uvicorn.error", "azure"):
        logging.getLogger(name).setLevel(logging.WARNING)
