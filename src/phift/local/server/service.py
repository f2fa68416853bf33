"""The service without a transport: what decides an answer, for the server and for callers in its own process."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import date
from functools import cached_property
from tempfile import SpooledTemporaryFile
from urllib.parse import urlsplit

from phift.local.names import (
    ARM_AUDIENCES,
    GROUP,
    LOCATION,
    LOGIN,
    ML_AUDIENCES,
    REGISTRY,
    SUBSCRIPTION,
    TENANT,
    WORKSPACE,
)
from phift.local.services import (
    arm,
    artifacts,
    assets,
    blobs,
    chat_completions,
    control,
    endpoints,
    history,
    jobs,
    metrics,
    mlflow,
    mlflow_models,
    operations,
    registry,
    scoring,
)
from phift.local.services.route import LARGEST_CONTENT, Route, place_of
from phift.local.site import Site
from phift.local.state.documents import found_no_room
from phift.local.state.identity import InvalidToken
from phift.local.wire import API_VERSIONS, Call, Reply, WireError, error_reply, is_storage, of_fault, sendable

logger = logging.getLogger(__name__)

_PASSED_OVER = 1024 * 1024  # bytes of the body of a request that is refused
PARTS = (
    *(arm, artifacts, assets, blobs, chat_completions, control, endpoints, history),
    *(jobs, metrics, mlflow, mlflow_models, operations, registry, scoring),
)
TABLE: list[Route] = [route for part in PARTS for route in part.ROUTES]
_SCOPE = {  # the one of each that there is, and what is said of others
    "subscription": (SUBSCRIPTION, "SubscriptionNotFound", "The subscription '{}' could not be found."),
    "group": (GROUP, "ResourceGroupNotFound", "Resource group '{}' could not be found."),
    "workspace": (
        WORKSPACE,
        "ResourceNotFound",
        f"The Resource 'Microsoft.MachineLearningServices/workspaces/{{}}' under resource group '{GROUP}' "
        "was not found.",
    ),
}


class Exchange:
    """A request on its way to its answer; what has been ordered to happen to it is known before its body is taken.

        exchange = Exchange(site, "PUT", path, query, headers)
        exchange.admit()
        wanted = all(exchange.take(part) for part in body)
        reply = exchange.reply()

    - **path**: decoded, without the query.
    - **headers**: by their names in small letters.
    - **cut**, **delay**, **slow**: what has been ordered, as in `Fault`.
    - **refused**: why nothing will be carried out, whatever the body is; None where something may be.
    """

    def __init__(
        self, site: Site, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> None:
        self._site, self.method, self.path = site, method, path
        self._place = place_of(method, path)
        matches = ((route, route.pattern.fullmatch(path)) for route in TABLE if route.method == method)
        self._route: Route | None
        self._route, match = next((each for each in matches if each[1]), (None, None))
        # In memory where it is small: a blob's lies beside those that are written.
        content = SpooledTemporaryFile(LARGEST_CONTENT, dir=str(site.folder.staging))  # noqa: SIM115 - `reply` closes it
        self._call = Call(method, path, query, headers, content, match.groupdict() if match else {})
        self._operation = self._route.operation if self._route else self._place
        # What is done to the workspace itself neither fails on order nor is noted.
        self._noted = not path.startswith(f"{control.AT}/")
        self._fault = fault = site.faults.strike(self._place, self._operation) if self._noted else None
        self.cut = fault.cut if fault else ""
        self.delay = fault.delay if fault else 0
        self.slow = fault.slow if fault else 0
        self.refused: Exception | None = None
        self._admitted = False
        self._taken = 0

    def admit(self) -> None:
        """Look at who asks for what, and at how large the body is said to be, before any of it is taken."""
        self._admitted = True
        if self._fails_on_order:
            return
        try:
            self._check()
        except Exception as error:  # noqa: BLE001 - `reply` raises it where it is answered
            self.refused = error

    @property
    def _fails_on_order(self) -> bool:
        return bool(self._fault and self._fault.status)

    def take(self, part: bytes) -> bool:
        """Take a part of the body; False where no more of it is wanted.

        To a client, an answer in the middle of its upload is a broken pipe. So of what is refused, a small body is
        passed over, and all of one whose caller has had a right from us, as one that has expired; and all of one whose
        failure has been ordered.
        """
        self._taken += len(part)
        if self.refused:
            return self._taken <= (self._most if self._known else _PASSED_OVER)
        if self._taken > self._most:
            self.refused = self._too_large()
        elif not self._fails_on_order:
            try:
                self._site.folder.staging.mkdir(exist_ok=True)  # where a large one goes
                self._call.content.write(part)
            except OSError as error:
                self.refused = error
        return self.refused is None

    @cached_property
    def _known(self) -> bool:
        call, identity = self._call, self._site.identity
        _, _, token = call.headers.get("authorization", "").partition(" ")
        return identity.made(token) or identity.made_sas(call.path.strip("/"), call.query)

    @property
    def _most(self) -> int:
        return self._route.most if self._route else LARGEST_CONTENT

    def _too_large(self) -> WireError:
        return WireError(413, "RequestBodyTooLarge", f"The request is larger than {self._most} bytes.")

    def reply(self, *, gone: bool = False) -> Reply:
        """Carry it out and note it in the journal; whatever goes wrong is an answer too.

        - **gone**: the client has gone before all of the body was there; nothing is carried out then, nor where the
          connection is to be cut before. The status is the one that proxies log for this.

        The answer's body is bytes, or a stream.
        """
        reply = Reply(None, 499)
        with self._call.content:
            if not gone and self.cut != "before":
                if not self._admitted:
                    self.admit()
                reply = self._answer(self._call)
        if self._noted:  # a connection that was cut has no status, whatever was to be answered
            self._site.journal.note(self._operation, self._place, 0 if self.cut else reply.status)
        return reply

    def _answer(self, call: Call) -> Reply:
        try:
            reply = self._carry_out(call)
        except WireError as error:
            reply = error_reply(error, call.path)
        except Exception as error:
            if found_no_room(error):
                logger.warning("%s %s found no room: %s", call.method, call.path, error)
                why = "The disk of the local workspace has no room for this. What was stored is kept; free some first."
                answer = WireError(507, "InsufficientStorage", why)
            else:
                logger.exception("%s %s failed", call.method, call.path)
                answer = WireError(500, "InternalServerError", "The local workspace failed; its log says why.")
            reply = error_reply(answer, "")
        body = reply.body if isinstance(reply.body, bytes | None) else json.dumps(reply.body).encode()
        kind = {} if body is None and reply.stream is None else {"Content-Type": reply.media_type}
        return replace(reply, body=body, headers={**kind, **_common(call), **reply.headers})

    def _carry_out(self, call: Call) -> Reply:
        if self._fault and self._fault.status:
            ordered = of_fault(self._fault, storage=is_storage(call.path))
            if self._fault.status == 401:
                ordered.headers = {**_challenge(ordered.message), **ordered.headers}
            raise ordered
        if self.refused:
            raise self.refused
        assert self._route is not None, call.path  # noqa: S101 - what has none is refused
        return self._route.handler(self._site, call)

    def _check(self) -> None:
        call = self._call
        _check_host(self._site, call)
        if self._route is None:
            message = f"The local workspace does not serve {call.method} {call.path[:500]}"
            logger.warning("501: %s", message)
            self._site.journal.note_unserved(self._place)
            raise WireError(501, "NotImplemented", message)
        if arm.manages(call.path):
            _check_version(call.query.get("api-version", ""))
        (self._route.check or _authorize)(self._site, call)
        _check_scope(call)
        if int(call.headers.get("content-length") or 0) > self._most:
            raise self._too_large()


def whole_body(reply: Reply) -> bytes:
    """Return all that an answer of `Exchange` sends."""
    return reply.body or b"".join(reply.stream or ())


def _common(call: Call) -> dict[str, str]:
    """Return the headers that every answer has; those of Resource Manager are as the SDK's tests recorded them.

    Nothing is throttled here, so the requests that remain are always those after the first one of an hour (Microsoft
    Learn, "Request limits and throttling", 2024-06-27; recordings of azure-sdk-for-python, 2022-10-28).
    """
    common = {"x-ms-request-id": str(uuid.uuid4())}
    if call.path.startswith("/inference/"):  # azure-sdk-assets b4cd9fb8, test_online_deployment, 2025-02-25
        common |= {"x-request-id": str(uuid.uuid4()), "server": "azureml-frontdoor"}
    if is_storage(call.path):
        common["x-ms-version"] = "2021-08-06"
    if asked := call.headers.get("x-ms-client-request-id"):
        common["x-ms-client-request-id"] = sendable(asked[:200].strip())
    if not arm.manages(call.path):
        return common
    remaining = {"GET": ("reads", "11999"), "HEAD": ("reads", "11999"), "DELETE": ("deletes", "14999")}
    kind, left = remaining.get(call.method, ("writes", "1199"))
    correlation = str(uuid.uuid4())
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return {
        **common,
        "Cache-Control": "no-cache",
        "Expires": "-1",
        "Pragma": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "x-ms-correlation-request-id": correlation,
        f"x-ms-ratelimit-remaining-subscription-{kind}": left,
        "x-ms-response-type": "standard",
        "x-ms-routing-request-id": f"{LOCATION.upper()}:{stamp}:{correlation}",
    }


def _check_host(site: Site, call: Call) -> None:
    """Refuse a request that was meant for another host, as a browser's is whose page has its own name lead here.

    The port may be another one: that of a tunnel's other end.
    """
    host, own = call.headers.get("host"), urlsplit(site.base_url).hostname
    if host is not None and re.sub(r":\d*$", "", host).lower() not in (own, "127.0.0.1"):
        raise WireError(421, "MisdirectedRequest", f"This is a local workspace at {site.base_url}, and no other host.")


def _check_version(version: str) -> None:
    """Ask for an api-version on what Resource Manager serves; any date will do, as each release of the SDK has its own.

    A word may stand behind the date. The codes and words are Resource Manager's (hashicorp/vault-plugin-secrets-azure
    issue 13, 2018-09-07; Azure's REST guidelines, 2023-05-12).
    """
    if not version:
        message = "The api-version query parameter (?api-version=) is required for all requests."
        raise WireError(400, "MissingApiVersionParameter", message)
    with suppress(ValueError):
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}(-[a-z]+)?", version) and date.fromisoformat(version[:10]):
            return
    message = f"The api-version '{version}' is invalid. The supported versions are '{API_VERSIONS}'."
    raise WireError(400, "InvalidApiVersionParameter", message)


def _authorize(site: Site, call: Call) -> None:
    """Ask for a bearer token of ours that is for Resource Manager, with its words.

    The services beside it take tokens for Azure ML as well, as the SDK sends them one (``JobOperations`` of
    azure-ai-ml 1.35.2), and MLflow's plugin one for Resource Manager (azureml-mlflow 1.62).
    """
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        message = "Authentication failed. The 'Authorization' header is missing."
        challenge = _challenge("The authentication failed because of missing 'Authorization' header.")
        raise WireError(401, "AuthenticationFailed", message, challenge)
    try:
        claims = site.identity.claims(token)
    except InvalidToken as error:
        code = "ExpiredAuthenticationToken" if "expiry" in str(error) else "InvalidAuthenticationToken"
        raise WireError(401, code, str(error), _challenge(str(error))) from error
    audience, more = str(claims["aud"]), () if arm.manages(call.path) else ML_AUDIENCES
    allowed = (*ARM_AUDIENCES, site.base_url, *more)
    if audience.rstrip("/") not in allowed:
        # The words: go-azure-helpers issue 51, 2020-03-25.
        message = f"The access token has been obtained for wrong audience or resource '{audience}'. "
        message += f"It should exactly match with one of the allowed audiences {', '.join(map(repr, allowed))}."
        raise WireError(401, "InvalidAuthenticationTokenAudience", message, _challenge(message))


def _challenge(why: str) -> dict[str, str]:
    """Return the header that goes with a 401, in Resource Manager's form.

    The form: azure-sdk-for-go, the tests of its bearer token policy (sdk/azcore/arm/runtime, 2026-11).
    """
    authority = f"{LOGIN}/{TENANT}"
    value = f'Bearer authorization_uri="{authority}", error="invalid_token", error_description="{sendable(why)}"'
    return {"WWW-Authenticate": value}


def _check_scope(call: Call) -> None:
    """Refuse another subscription, resource group, workspace or registry than the one there is."""
    for part, (known, code, message) in _SCOPE.items():
        if call.params.get(part, known).lower() != known:
            raise WireError(404, code, message.format(call[part]))
    if call.params.get("registry", REGISTRY).lower() != REGISTRY:
        raise registry.refused(call)
