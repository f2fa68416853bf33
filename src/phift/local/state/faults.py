"""What tests order of a local workspace, failures, and what they look at afterwards: the requests it has answered."""

from __future__ import annotations

import re
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from phift.component.inputs import STEPS as COMPONENT_STEPS
from phift.local.state.clock import DURATIONS
from phift.local.state.documents import Json

Cut = Literal["", "before", "after", "half"]

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
# Told here and not asked of who knows them, for `Fault` is to be imported without the server; a test compares.
OPERATIONS = tuple(kind for kind in DURATIONS if not kind.startswith("job-"))
STEPS = ("prepare_data", *COMPONENT_STEPS)

_LONGEST_DELAY = 3600  # seconds
# What the value of a field of a `Fault` must be, by its annotation, and how that is said.
_KINDS: dict[str, tuple[Any, str]] = {
    "str": (str, "text"),
    "Cut": (str, "text"),
    "int": (int, "a whole number"),
    "int | None": (int | None, "a whole number"),
    "float": (int | float, "a number"),
    "Mapping[str, str]": (Mapping, "an object of texts"),
    "Mapping[str, Any]": (Mapping, "an object"),
}
_IN_AN_ERROR: Mapping[str, type[Any]] = {"details": list, "innerError": dict, "additionalInfo": list}


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    - **on**: where; case does not matter, and ``*`` stands for any text. A request by its method and path,
      ``PUT jobs/*``, ``GET *``, ``* blobs/*``, or by its route as the table of routes writes it, ``GET jobs/{name}``,
      which no longer path matches; an operation behind an answer, ``operation deployment-create``; a step of a job,
      ``step chat_completion_finetune``; a model server behind an endpoint by its deployment's name, ``scoring green``.
    - **status**, **code**, **message**: for a request, an error as Azure writes it, instead of carrying it out. For
      an operation, the error that it ends with; without a code ``InternalServerError``. For a step, its failure; a
      step's fault without a status takes its node away: the job goes back into the queue, and that step begins anew.
    - **error**: what else is in Azure's error object, ``{"details": [{"code": "ModelNotFound", "message": "..."}]}``;
      ``innerError`` and ``additionalInfo`` go where the service that answers has them. Storage and endpoints have none.
    - **headers**: sent with a request's error, ``{"Retry-After": "2"}``.
    - **delay**: seconds that pass before the request is carried out, whether somebody still waits for it or not; or
      before the operation or the step fails, or the model begins to answer.
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
    error: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0
    cut: Cut = ""
    slow: int = 0
    times: int | None = 1
    after: int = 0

    def __post_init__(self) -> None:
        for each in fields(self):
            value, (kind, wanted) = getattr(self, each.name), _KINDS[str(each.type)]
            if not isinstance(value, kind) or isinstance(value, bool):  # JSON's true is no number
                raise TypeError(f"`{each.name}` is {wanted}, not {value!r}.")
        for name, value in self.headers.items():
            if not (isinstance(name, str) and isinstance(value, str)):
                raise TypeError(f"`headers` is an object of texts: {name!r}: {value!r} is none.")
        for wrong, problem in self._mistakes():
            if wrong:
                raise ValueError(problem)

    def _mistakes(self) -> Iterator[tuple[object, str]]:
        """Yield what may be wrong with the values, and what is to be said of it then."""
        no_error = self.status and not 400 <= self.status <= 599
        yield no_error, f"`status` {self.status} is no error: give one of 400 to 599."
        yield self.cut not in get_args(Cut), f"`cut` {self.cut!r} is not one of before, after, half."
        delayed = 0 <= self.delay <= _LONGEST_DELAY  # which what is no number is not
        yield not delayed, f"`delay` {self.delay} is not between 0 and {_LONGEST_DELAY} seconds."
        yield self.slow < 0 or self.after < 0, "`slow` and `after` cannot be below 0."
        yield self.times is not None and self.times < 1, "`times` is at least 1, or null for good."
        for name, value in self.headers.items():
            sendable = re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII) and re.fullmatch(r"[\x20-\x7e\t]*", value)
            yield not sendable, f"The header {name!r} cannot be sent: letters and dashes, and a value in ASCII."
        for name, value in self.error.items():
            wrong = not isinstance(value, _IN_AN_ERROR.get(name, ()))
            yield wrong, f"`error` may have the lists details and additionalInfo, the object innerError: not {name!r}."
        kind, _, name = self.on.partition(" ")
        if kind in ("operation", "step", "scoring"):
            if kind == "scoring":
                there = name and (self.status or self.delay)
                yield not there, f"The fault on {self.on!r} changes nothing: name a deployment, give status or delay."
            else:
                known = OPERATIONS if kind == "operation" else STEPS
                there = any(fnmatchcase(each, name.lower()) for each in known)
                yield not there, f"There is no {kind} {name!r}; there are {', '.join(known)}."
            for other in ("headers", "cut", "slow"):
                yield getattr(self, other), f"`{other}` is for requests only, and {self.on} is none."
            return
        place = name and any(fnmatchcase(method, kind.upper()) for method in METHODS)
        instead = "`PUT jobs/*`, `operation NAME`, `step NAME`, `scoring NAME`"
        yield not place, f"`on` {self.on!r} is no place: write one of {instead}."
        changes = self.status or self.delay or self.cut or self.slow
        yield not changes, f"The fault on {self.on!r} changes nothing: give status, delay, cut or slow."
        yield self.cut and self.status, "With `cut` nobody sees the `status`: give one of them."
        sent = self.headers or self.code or self.message or self.error
        yield sent and not self.status, "`headers`, `code`, `message` and `error` need an error: give its `status`."


@dataclass
class Scripted:
    """A fault, with how often its place was passed, not counting what an earlier one struck, and how often it hit."""

    fault: Fault
    seen: int = 0
    hits: int = 0


class Faults:
    """The faults of one workspace, in the order in which they were ordered; the first one that strikes counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scripted: list[Scripted] = []

    def order(self, faults: object) -> None:
        """Add faults, given as a JSON list, or none of them; raises `TypeError` or `ValueError` for what is none."""
        if not isinstance(faults, list):
            raise TypeError(f"Faults are a JSON list, not {type(faults).__name__}.")
        known = [each.name for each in fields(Fault)]
        for sent in faults:
            if not isinstance(sent, dict):
                raise TypeError(f"A fault is a JSON object, not {type(sent).__name__}.")
            if unknown := sorted(set(sent) - set(known)):
                raise TypeError(f"A fault has no field {', '.join(unknown)}; the fields are {', '.join(known)}.")
            if "on" not in sent:
                raise TypeError(f"A fault needs `on`; the fields are {', '.join(known)}.")
        added = [Scripted(Fault(**sent)) for sent in faults]
        with self._lock:
            self._scripted += added

    def clear(self) -> None:
        """Forget them all."""
        with self._lock:
            self._scripted = []

    def strike(self, *places: str) -> Fault | None:
        """Return the fault that strikes at a place, if any does; a request's names are itself and its route."""
        with self._lock:
            for each in self._scripted:
                fault, on = each.fault, each.fault.on.lower()
                if any(fnmatchcase(place.lower(), on) for place in places):
                    each.seen += 1
                    if each.seen > fault.after and (fault.times is None or each.hits < fault.times):
                        each.hits += 1
                        return fault
        return None

    def show(self) -> list[Json]:
        """Return them as JSON, with how often each has struck."""
        with self._lock:
            return [{**asdict(each.fault), "seen": each.seen, "hits": each.hits} for each in self._scripted]


_LONGEST_PLACE = 500  # characters that are kept of one
_MOST_UNSERVED = 1000
OTHERS = "other requests"
"""What those are counted as that no route serves, once there are too many different ones."""


@dataclass(frozen=True)
class Entry:
    """One answered request.

    - **number**: counted from 1, since the server's start.
    - **operation**: the route, ``PUT jobs/{name}``; the request itself where no route is served.
    - **place**: the request, ``PUT jobs/my-job``; without the query, where signatures travel.
    - **status**: of the answer; 0 where the connection was cut instead.
    """

    number: int
    operation: str
    place: str
    status: int


class Journal:
    """The last requests, and a count of those that no route serves.

    - **ever_unserved**: these, each with how often it came since the server's start; **unserved**: since `clear`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._entries: deque[Entry] = deque(maxlen=20_000)
        self.unserved: Counter[str] = Counter()
        self.ever_unserved: Counter[str] = Counter()

    def note(self, operation: str, place: str, status: int) -> None:
        """Add a request."""
        with self._lock:
            self._number += 1
            self._entries.append(Entry(self._number, operation[:_LONGEST_PLACE], place[:_LONGEST_PLACE], status))

    def note_unserved(self, place: str) -> None:
        """Count a request that no route serves; so many different ones, and the rest together."""
        with self._lock:
            for counted in (self.unserved, self.ever_unserved):
                known = len(counted) < _MOST_UNSERVED or place[:_LONGEST_PLACE] in counted
                counted[place[:_LONGEST_PLACE] if known else OTHERS] += 1

    def since(self, number: int) -> list[Json]:
        """Return the requests after the one with this number."""
        with self._lock:
            return [asdict(entry) for entry in self._entries if entry.number > number]

    def clear(self) -> None:
        """Forget the requests; the numbers go on."""
        with self._lock:
            self._entries.clear()
            self.unserved.clear()
