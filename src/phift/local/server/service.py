"""The service without a transport: what decides an answer, for the server and for callers in its own process."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date

from phift.local.names import GROUP, LOCATION, LOGIN, SUBSCRIPTION, TENANT, WORKSPACE
from phift.local.services import arm, assets, blobs, control, endpoints, history, jobs, mlflow, operations, registry
from phift.local.services.route import Route, place_of
from phift.local.site import Site
from phift.local.state.documents import found_no_room
from phift.local.state.faults import Fault
from phift.local.state.identity import InvalidToken
from phift.local.wire import errors
from phift.local.wire.call import API_VERSIONS, Call, Reply, WireError

logger = logging.getLogger(__name__)

# The largest upload in one piece: the storage client cuts into blocks above 64 MiB, older ones above 256 MiB.
LARGEST_BODY = 257 * 1024 * 1024
_REMAINING = {"GET": ("reads", "11999"), "HEAD": ("reads", "11999"), "DELETE": ("deletes", "14999")}
PARTS = (arm, assets, blobs, control, endpoints, history, jobs, mlflow, operations, registry)


class Service:
    """A workspace with its routes and its background work; whoever brings a request admits it, then answers it.

        exchange = service.admit("GET", path)
        reply = exchange.reply(query, headers, body)
        exchange.note(reply.status)

    What has been ordered to happen to a request is known when it is admitted, before its body is taken.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self._table = [(route, route.pattern()) for part in PARTS for route in part.ROUTES]

    def start(self) -> None:
        """Take up the work that waits."""
        self.site.operations.resume()
        self.site.training.start()

    def stop(self) -> None:
        """Stop the job that runs, which goes on at the next start, and end the scorers."""
        self.site.training.stop()
        self.site.scorers.stop()

    def admit(self, method: str, path: str) -> Exchange:
        """Find a request's route, and what has been ordered to happen to it.

        - **path**: decoded, without the query.
        """
        place = place_of(method, path)
        matches = ((route, pattern.fullmatch(path)) for route, pattern in self._table if route.method == method)
        route, match = next((each for each in matches if each[1]), (None, None))
        operation = route.operation if route else place
        ours = path.startswith(f"{control.AT}/")
        fault = None if ours else self.site.faults.strike(place, operation)
        params = match.groupdict() if match else {}
        return Exchange(self.site, method, path, route, params, fault, None if ours else (operation, place))


@dataclass(frozen=True)
class Exchange:
    """A request on its way to its answer.

    - **fault**: what has been ordered to happen to it.
    - **entry**: operation and place for the journal; None for what is done to the workspace itself.
    """

    site: Site
    method: str
    path: str
    route: Route | None
    params: Mapping[str, str]
    fault: Fault | None
    entry: tuple[str, str] | None

    @property
    def cut(self) -> str:
        """Where the connection is to be cut, as in `Fault`."""
        return self.fault.cut if self.fault else ""

    @property
    def delay(self) -> float:
        """Seconds to wait before it is carried out."""
        return self.fault.delay if self.fault else 0

    @property
    def slow(self) -> int:
        """Bytes a second at which its body is taken; 0 for all at once."""
        return self.fault.slow if self.fault else 0

    def reply(self, query: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> Reply:
        """Carry it out; whatever goes wrong is an answer too.

        - **headers**: by their names in small letters.
        """
        try:
            reply = self._carry_out(Call(self.method, self.path, query, headers, body, self.params))
        except WireError as error:
            reply = errors.reply(error, self.path)
        except Exception as error:
            if found_no_room(error):
                logger.warning("%s %s found no room: %s", self.method, self.path, error)
                why = "The disk of the local workspace has no room for this. What was stored is kept; free some first."
                answer = WireError(507, "InsufficientStorage", why)
            else:
                logger.exception("%s %s failed", self.method, self.path)
                answer = WireError(500, "InternalServerError", "The local workspace failed; its log says why.")
            reply = errors.reply(answer, "")
        return replace(reply, headers={**_common(self.method, self.path, headers), **reply.headers})

    def note(self, status: int) -> None:
        """Write it into the journal; a connection that was cut has no status, whatever was to be answered."""
        if self.entry:
            self.site.journal.note(*self.entry, 0 if self.cut else status)

    def _carry_out(self, call: Call) -> Reply:
        if self.fault and self.fault.status:
            ordered = errors.of_fault(self.fault, storage=errors.is_storage(self.path))
            if self.fault.status == 401:
                ordered.headers = {**_challenge(ordered.message), **ordered.headers}
            raise ordered
        if len(call.body) > LARGEST_BODY:
            raise WireError(413, "RequestBodyTooLarge", f"The request is larger than {LARGEST_BODY} bytes.")
        if self.route is None:
            message = f"The local workspace does not serve {call.method} {call.path}"
            logger.warning("501: %s", message)
            self.site.journal.note_unserved(place_of(call.method, call.path))
            raise WireError(501, "NotImplemented", message)
        if arm.manages(call.path):
            _check_version(call.query.get("api-version", ""))
        (self.route.check or _authorize)(self.site, call)
        _check_scope(call.params)
        return self.route.handler(self.site, call)


def content(reply: Reply) -> bytes:
    """Return the body of an answer that is no stream."""
    if reply.body is None:
        return b""
    return reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()


def _common(method: str, path: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that every answer has; those of Resource Manager are as the SDK's tests recorded them.

    Nothing is throttled here, so the requests that remain are always those after the first one of an hour (Microsoft
    Learn, "Request limits and throttling", 2024-06-27; recordings of azure-sdk-for-python, 2022-10-28).
    """
    common = {"x-ms-request-id": str(uuid.uuid4())}
    if errors.is_storage(path):
        common["x-ms-version"] = "2021-08-06"
    if "x-ms-client-request-id" in headers:
        common["x-ms-client-request-id"] = headers["x-ms-client-request-id"]
    if not arm.manages(path):
        return common
    kind, remaining = _REMAINING.get(method, ("writes", "1199"))
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
