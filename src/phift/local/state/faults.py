"""Failures to order: what goes wrong, where, and how often."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Literal, get_args

from phift.component.inputs import STEPS as COMPONENT_STEPS
from phift.local.state.documents import Json

Cut = Literal["", "before", "after", "half"]

# Told here and not asked of who knows them, for `Fault` is to be imported without the server; a test compares.
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
OPERATIONS = (
    "compute-create",
    "compute-delete",
    "deployment-create",
    "deployment-delete",
    "endpoint-create",
    "endpoint-delete",
)
STEPS = ("prepare_data", *COMPONENT_STEPS)
_LONGEST_DELAY = 3600.0  # seconds
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    - **on**: where; case does not matter, and ``*`` stands for any text. A request by its method and path,
      ``PUT jobs/*``, ``GET *``, ``* blobs/*``, or by its route as the table of routes writes it, ``GET jobs/{name}``,
      which no longer path matches; an operation behind an answer, ``operation deployment-create``; a step of a job,
      ``step chat_completion_finetune``.
    - **status**, **code**, **message**: for a request, an error as Azure writes it, instead of carrying it out. For
      an operation, the error that it ends with; without a code ``InternalServerError``. For a step, its failure; a
      step's fault without a status takes its node away: the job goes back into the queue, and that step begins anew.
    - **headers**: sent with a request's error, ``{"Retry-After": "2"}``.
    - **delay**: seconds that pass before the request is carried out, whether somebody still waits for it or not; or
      before the operation or the step fails.
    - **cut**: the connection is reset ``before`` the request is carried out, ``after`` that and without an answer, or
      when ``half`` of the answer has been sent.
    - **slow**: bytes a second at which the request's body is taken.
    - **times**: how often; None for good.
    - **after**: how many that match go well before it.

    Raises `TypeError` for a field of another type and `ValueError` for a fault that could never strike, or that would
    change nothing.
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

    def __post_init__(self) -> None:
        _check_types(self)
        _check_values(self)
        kind, _, name = self.on.partition(" ")
        if kind in ("operation", "step"):
            known = OPERATIONS if kind == "operation" else STEPS
            if not any(fnmatchcase(each, name.lower()) for each in known):
                raise ValueError(f"There is no {kind} {name!r}; there are {', '.join(known)}.")
            for other in ("headers", "cut", "slow"):
                if getattr(self, other):
                    raise ValueError(f"`{other}` is for requests only, and {self.on} is none.")
        else:
            _check_request(self, kind, name)

    @classmethod
    def read(cls, sent: object) -> Fault:
        """Return a fault that was sent as JSON; raises as making one does, and `TypeError` for unknown fields."""
        if not isinstance(sent, dict):
            raise TypeError(f"A fault is a JSON object, not {type(sent).__name__}.")
        known = [each.name for each in fields(cls)]
        unknown = sorted(set(sent) - set(known))
        if unknown or "on" not in sent:
            problem = f"A fault has no field {', '.join(unknown)}" if unknown else "A fault needs `on`"
            raise TypeError(f"{problem}; the fields are {', '.join(known)}.")
        return cls(**sent)

    def matches(self, *places: str) -> bool:
        """Tell whether it is meant for a place that has these names."""
        on = self.on.lower()
        return any(fnmatchcase(place.lower(), on) for place in places)


def _check_types(fault: Fault) -> None:
    """Refuse values of another type; JSON's true is no number."""
    whole = ("status", "slow", "after", *(() if fault.times is None else ("times",)))
    for name, kinds in (
        *((name, (str,)) for name in ("on", "code", "message", "cut")),
        *((name, (int,)) for name in whole),
        ("delay", (int, float)),
        ("headers", (Mapping,)),
    ):
        value = getattr(fault, name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            wanted = {str: "text", int: "a whole number", float: "a number", Mapping: "an object of texts"}[kinds[-1]]
            raise TypeError(f"`{name}` is {wanted}, not {value!r}.")
    for name, value in fault.headers.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TypeError(f"`headers` is an object of texts: {name!r}: {value!r} is none.")


def _check_values(fault: Fault) -> None:
    if fault.status and not 400 <= fault.status <= 599:
        raise ValueError(f"`status` {fault.status} is no error: give one of 400 to 599.")
    if fault.cut not in get_args(Cut):
        raise ValueError(f"`cut` {fault.cut!r} is not one of before, after, half.")
    if not (math.isfinite(fault.delay) and 0 <= fault.delay <= _LONGEST_DELAY):
        raise ValueError(f"`delay` {fault.delay} is not between 0 and {_LONGEST_DELAY:.0f} seconds.")
    if fault.slow < 0 or fault.after < 0:
        raise ValueError("`slow` and `after` cannot be below 0.")
    if fault.times is not None and fault.times < 1:
        raise ValueError("`times` is at least 1, or null for good.")
    for name, value in fault.headers.items():
        if not (_HEADER.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            raise ValueError(f"The header {name!r} cannot be sent: letters and dashes, and a value in ASCII.")


def _check_request(fault: Fault, method: str, path: str) -> None:
    if not path or not any(fnmatchcase(known, method.upper()) for known in METHODS):
        raise ValueError(f"`on` {fault.on!r} is no place: write `PUT jobs/*`, `operation NAME` or `step NAME`.")
    if not (fault.status or fault.delay or fault.cut or fault.slow):
        raise ValueError(f"The fault on {fault.on!r} changes nothing: give status, delay, cut or slow.")
    if fault.cut and fault.status:
        raise ValueError("With `cut` nobody sees the `status`: give one of them.")
    if not fault.status and (fault.headers or fault.code or fault.message):
        raise ValueError("`headers`, `code` and `message` are sent with an error: give its `status`.")


@dataclass
class Scripted:
    """A fault, with how often its place has been passed and how often it has struck."""

    fault: Fault
    seen: int = 0
    hits: int = 0

    def strikes(self, *places: str) -> bool:
        """Count a passing of the place that has these names, and tell whether the fault strikes."""
        fault = self.fault
        if not fault.matches(*places):
            return False
        self.seen += 1
        strikes = self.seen > fault.after and (fault.times is None or self.hits < fault.times)
        self.hits += strikes
        return strikes

    def show(self) -> Json:
        """Return it as JSON."""
        return {**asdict(self.fault), "seen": self.seen, "hits": self.hits}


class Faults:
    """The faults of one workspace, in the order in which they were ordered; the first one that strikes counts.

    Each shows how often its place was passed (``seen``, not counting what an earlier one struck) and how often it
    struck (``hits``), so that a test can tell one that never did.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scripted: list[Scripted] = []

    def order(self, faults: object) -> None:
        """Add faults, given as a JSON list, or none of them; raises `TypeError` or `ValueError` for what is none."""
        if not isinstance(faults, list):
            raise TypeError(f"Faults are a JSON list, not {type(faults).__name__}.")
        added = [Scripted(Fault.read(fault)) for fault in faults]
        with self._lock:
            self._scripted += added

    def clear(self) -> None:
        """Forget them all."""
        with self._lock:
            self._scripted = []

    def strike(self, *places: str) -> Fault | None:
        """Return the fault that strikes at a place, if any does.

        - **places**: the place's names: the request and its route, an operation, or a step.
        """
        with self._lock:
            return next((each.fault for each in self._scripted if each.strikes(*places)), None)

    def show(self) -> list[Json]:
        """Return them as JSON, with how often each has struck."""
        with self._lock:
            return [each.show() for each in self._scripted]
