"""Failures to order: what goes wrong, where, and how often."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from phift.local.state import Json
from phift.local.wire import WireError

Cut = Literal["", "before", "after", "half"]

# What Azure Resource Manager calls them.
_CODES = {
    401: "ExpiredAuthenticationToken",
    403: "AuthorizationFailed",
    404: "ResourceNotFound",
    409: "Conflict",
    412: "PreconditionFailed",
    429: "TooManyRequests",
    500: "InternalServerError",
    502: "BadGateway",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    - **on**: where: a method and a path as the table of routes writes them, ``PUT jobs/*``, ``GET *`` or ``* blobs/*``;
      an operation behind an answer, ``operation deployment-create``; or a step of a job,
      ``step chat_completion_finetune``. Case does not matter.
    - **status**, **code**, **message**: an error as Azure writes it, for a request or an operation. The request is not
      carried out.
    - **headers**: sent with it, ``{"Retry-After": "2"}``.
    - **delay**: seconds before anything is done for the request.
    - **cut**: the connection is reset ``before`` the request is carried out, ``after`` that and without an answer, or
      when ``half`` of the answer has been sent.
    - **slow**: bytes a second at which the request's body is taken.
    - **times**: how often; None for good.
    - **after**: how many requests that match go well before it.
    """

    on: str
    status: int = 0
    code: str = ""
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0
    cut: Cut = ""
    slow: int = 0
    times: int | None = 1
    after: int = 0

    def error(self) -> WireError:
        """Return the answer for a request that fails."""
        code = self.code or _CODES.get(self.status, "Error")
        return WireError(self.status, code, self.message or "This failure was ordered.", self.headers)

    def matches(self, place: str) -> bool:
        """Tell whether it is meant for a place."""
        return fnmatchcase(place.lower(), self.on.lower())


@dataclass
class Scripted:
    """A fault, with how often its place has been passed and how often it has struck."""

    fault: Fault
    seen: int = 0
    hits: int = 0

    def strikes(self, place: str) -> bool:
        """Count a passing of the place, and tell whether the fault strikes."""
        fault = self.fault
        if not fault.matches(place) or (fault.times is not None and self.hits >= fault.times):
            return False
        self.seen += 1
        self.hits += self.seen > fault.after
        return self.seen > fault.after

    def show(self) -> Json:
        """Return it as JSON."""
        return {**asdict(self.fault), "seen": self.seen, "hits": self.hits}


class Faults:
    """The faults of one workspace, in the order in which they were ordered; the first one that strikes counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scripted: list[Scripted] = []

    def order(self, faults: Iterable[Mapping[str, Any]]) -> None:
        """Add faults, given as JSON; raises `TypeError` for one that is none."""
        added = [Scripted(Fault(**fault)) for fault in faults]
        with self._lock:
            self._scripted += added

    def clear(self) -> None:
        """Forget them all."""
        with self._lock:
            self._scripted = []

    def strike(self, place: str) -> Fault | None:
        """Return the fault that strikes at a place, if any does."""
        with self._lock:
            return next((each.fault for each in self._scripted if each.strikes(place)), None)

    def show(self) -> list[Json]:
        """Return them as JSON, with how often each has struck."""
        with self._lock:
            return [each.show() for each in self._scripted]
