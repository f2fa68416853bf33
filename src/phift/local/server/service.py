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

from phift.local.names import GROUP, LOCATION, LOGIN, REGISTRY, SUBSCRIPTION, TENANT, WORKSPACE
from phift.local.services import (
    arm,
    artifacts,
    assets,
    blobs,
    control,
    endpoints,
    history,
    jobs,
    mlflow,
    mlflow_models,
    operations,
    registry,
)
from phift.local.services.route import Route, place_of
from phift.local.site import Site
from phift.local.state.documents import found_no_room
from phift.local.state.identity import InvalidToken
from phift.local.wire import API_VERSIONS, Call, Reply, WireError, error_reply, is_storage, of_fault

logger = logging.getLogger(__name__)

# The largest upload in one piece: the storage client cuts into blocks above 64 MiB, older ones above 256 MiB.
LARGEST_BODY = 257 * 1024 * 1024
PARTS = (arm, artifacts, assets, blobs, control, endpoints, history, jobs, mlflow, mlflow_models, operations, registry)
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

        exchange = Exchange(site, "GET", path)
        reply = exchange.reply(query, headers, body)

    - **path**: decoded, without the query.
    - **cut**, **delay**, **slow**: what has been ordered, as in `Fault`.
    """

    def __init__(self, site: Site, method: str, path: str) -> None:
        self._site, self.method, self.path = site, method, path
        self._place = place_of(method, path)
        matches = ((route, route.pattern.fullmatch(path)) for route in TABLE if route.method == method)
        self._route: Route | None
        self._route, match = next((each for each in matches if each[1]), (None, None))
        self._params = match.groupdict() if match else {}
        self._operation = self._route.operation if self._route else self._place
        # What is done to the workspace itself neither fails on order nor is noted.
        self._noted = not path.startswith(f"{control.AT}/")
        self._fault = fault = site.faults.strike(self._place, self._operation) if self._noted else None
        self.cut = fault.cut if fault else ""
        self.delay = fault.delay if fault else 0
        self.slow = fault.slow if fault else 0

    def reply(self, query: Mapping[str, str], headers: Mapping[str, str], body: bytes | None) -> Reply:
        """Carry it out and note it in the journal; whatever goes wrong is an answer too.

        - **headers**: by their names in small letters.
        - **body**: None where the client has gone before all of it was there; nothing is carried out then, nor where
          the connection is to be cut before. The status is the one that proxies log for this.

        The answer's body is bytes, or a stream.
        """
        reply = Reply(None, 499)
        if body is not None and self.cut != "before":
            reply = self._answer(Call(self.method, self.path, query, headers, body, self._params))
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
        if len(call.body) > LARGEST_BODY:
            raise WireError(413, "RequestBodyTooLarge", f"The request is larger than {LARGEST_BODY} bytes.")
        if self._route is None:
            message = f"The local workspace does not serve {call.method} {call.path}"
            logger.warning("501: %s", message)
            self._site.journal.note_unserved(self._place)
            raise WireError(501, "NotImplemented", message)
        if arm.manages(call.path):
            _check_version(call.query.get("api-version", ""))
        (self._route.check or _authorize)(self._site, call)
        _check_scope(call)
        return self._route.handler(self._site, call)


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
    if "x-ms-client-request-id" in call.headers:
        common["x-ms-client-request-id"] = call.headers["x-ms-client-request-id"]
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
    """Ask for a bearer token of ours, with the words of Azure Resource Manager."""
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
    if str(claims["aud"]).startswith("endpoint/"):
        message = "The token is for scoring only."
        raise WireError(401, "InvalidAuthenticationTokenAudience", message, _challenge(message))


def _challenge(why: str) -> dict[str, str]:
    """Return the header that goes with a 401, in Resource Manager's form.

    The form: azure-sdk-for-go, the tests of its bearer token policy (sdk/azcore/arm/runtime, 2026-11).
    """
    authority = f"{LOGIN}/{TENANT}"
    value = f'Bearer authorization_uri="{authority}", error="invalid_token", error_description="{why}"'
    return {"WWW-Authenticate": value}


def _check_scope(call: Call) -> None:
    """Refuse another subscription, resource group, workspace or registry than the one there is."""
    for part, (known, code, message) in _SCOPE.items():
        if call.params.get(part, known).lower() != known:
            raise WireError(404, code, message.format(call[part]))
    if call.params.get("registry", REGISTRY).lower() != REGISTRY:
        raise registry.refused(call)
