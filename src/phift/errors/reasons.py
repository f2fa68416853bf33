"""Why a service refuses: what an error and its causes say, and which row of the table of reasons that is.

Azure ML puts the reason into the parts of an answer that the SDK's message leaves out: ``details``, ``innerError`` and
``additionalInfo`` (recordings of azure-sdk-assets, 2026-03). Storage has it in a header, and the SDK wraps what storage
said into errors of its own, so the error that gave the reason may be the cause of the one that is raised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

from phift.errors.redaction import redact

_MOST_PARTS = 4  # of an answer's parts, as many are told
_LONGEST = 400  # characters of each
_MOST_READ = 50_000  # characters of a text in which a reason is looked for
_DEEPEST = 8  # levels of an answer that are looked into; Azure ML's have three
# Where an answer, and what the SDK makes of one, has more of it.
_INSIDE = [
    "error",
    "model",
    "details",
    "innerError",
    "innererror",
    "additionalInfo",
    "additional_info",
    "info",
    "value",
]
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # in which azure-ai-ml writes what is wrong with an entity


@dataclass(frozen=True)
class Reason:
    """A row of the table, which is in ``reasons.json``; the first row that fits counts.

    - **name**: of the row.
    - **codes**: the service's own, found as whole words in whatever an error says.
    - **text**: a regular expression for what has no code of its own.
    - **status**: the only HTTP status that the row is about, where the code has another meaning with another one.
    - **type**: the name of our error; empty where the HTTP status decides.
    - **what**, **fix**: our sentence, and the way out.
    - **source**, **date**: who says that the service answers so, and when that was.
    """

    name: str
    what: str
    fix: str
    source: str
    date: str
    codes: tuple[str, ...] = ()
    text: str = ""
    status: int = 0
    type: str = ""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        codes = rf"(?<!\w)({'|'.join(self.codes)})(?!\w)" if self.codes else ""
        return re.compile("|".join(filter(None, (codes, self.text))))

    def code_in(self, said: str, status: int = 0) -> str | None:
        """Return the code that makes this the reason, empty where a text does; None if it is another one."""
        if self.status and status not in (self.status, 0):
            return None
        if self.type == "ServiceUnreachable" and status:  # an answer may tell of somebody else's network
            return None
        found = self._pattern.search(said, 0, _MOST_READ)
        if found is None:
            return None
        return (found[1] if self.codes else "") or ""


@cache
def table() -> tuple[Reason, ...]:
    """Return all rows."""
    rows = json.loads((files(__name__.rpartition(".")[0]) / "reasons.json").read_text(encoding="utf-8"))
    return tuple(Reason(**{**row, "codes": tuple(row.get("codes", ()))}) for row in rows)


def find(error: BaseException, handled: BaseException | None = None) -> tuple[Reason | None, str, BaseException]:
    """Return why, by which code, and which of an error and its causes says so: itself where nothing is known.

    - **handled**: where the causes end.
    """
    told = [(cause, "\n".join(_said(cause)), status_of(cause)) for cause in causes(error, handled)]
    for cause, said, status in told:
        for reason in table():
            if (code := reason.code_in(said, status)) is None:
                continue
            # Of those that say so, an answer has the service's own words.
            say_so = [(each, words, own) for each, words, own in told if own and reason.code_in(words) is not None]
            for each, words, own in say_so:
                if (its_own := reason.code_in(words, own)) is not None:
                    return reason, its_own, each
            # What repeats an answer that is about something else is so too.
            if not any(getattr(each, "status_code", None) for each, *_ in say_so):
                return reason, code, cause
    return None, "", error


def status_of(error: BaseException) -> int:
    """Return the HTTP status that an error stands for, 0 for none.

    One that a test makes has a kind and no status, nor has a failed sign-in; an answer of which only half came is none.
    """
    from azure.core import exceptions as core

    if isinstance(error, core.ClientAuthenticationError):
        return 403 if error.status_code == 403 else 401
    if isinstance(error, unanswered()) or not isinstance(error, core.HttpResponseError):
        return 0
    kinds = {core.ResourceNotFoundError: 404, core.ResourceExistsError: 409, core.ResourceModifiedError: 412}
    return error.status_code or next((kinds[kind] for kind in kinds if isinstance(error, kind)), 0)


def unanswered() -> tuple[type[Exception], ...]:
    """Return what says that no answer came, or not all of one.

    Half an answer is ``IncompleteReadError`` in azure-core, which takes it for an answer with a status. The SDK asks
    some things with requests alone; its errors are no ``ConnectionError`` of Python's.
    """
    import requests
    import urllib3
    from azure.core import exceptions as core

    incomplete = (core.IncompleteReadError, requests.exceptions.ChunkedEncodingError, urllib3.exceptions.HTTPError)
    sent = (core.ServiceRequestError, core.ServiceResponseError, requests.ConnectionError, requests.Timeout)
    return (*sent, *incomplete, ConnectionError, TimeoutError)


def causes(error: BaseException, handled: BaseException | None = None) -> Iterator[BaseException]:
    """Yield an error, and what it was raised from, in turn.

    A 404 that was being handled when the next one came up was an answer to a question, and not its cause.
    """
    seen: list[BaseException | None] = [handled]
    cause: BaseException | None = error
    while cause is not None and not any(cause is other for other in seen):
        seen.append(cause)
        yield cause
        # azure-core keeps what it wraps in a place of its own
        inner = getattr(cause, "inner_exception", None) or cause.__cause__
        if inner is None and not cause.__suppress_context__:
            inner = cause.__context__
            if getattr(inner, "status_code", None) == 404:
                return
        cause = inner if isinstance(inner, BaseException) else None


def parts(error: BaseException) -> list[tuple[str, str]]:
    """Return code and message of an answer that is an error, and of all that is inside, the outermost first."""
    body: object = {name: getattr(error, name, None) for name in ("error", "model")}
    with suppress(Exception):  # there is none, it is no JSON, or it was never read
        body = json.loads(error.response.text())  # type: ignore[attr-defined]  # not all errors are answers
    return list(dict.fromkeys(_walk(body)))


def words(error: BaseException) -> str:
    """Return what an error says, in one line: the first line of its message, and what its parts add to that.

    Secrets are hidden first and texts cut then: half of one would not be known for what it is.
    """
    lines = map(str.strip, _COLOUR.sub("", text_of(getattr(error, "message", None) or error)).splitlines())
    told = [redact(next(filter(None, lines), type(error).__name__))[:_LONGEST]]
    for code, raw in parts(error):
        message = redact(" ".join(raw.split()))
        if message and not any(message[: _LONGEST // 2] in line for line in told):
            told.append(redact(f"({code}) {message}" if code else message)[:_LONGEST])
        if len(told) > _MOST_PARTS:
            break
    return " ".join(told)


def text_of(said: object) -> str:
    """Return what somebody else's error says; one that cannot even be shown says nothing."""
    with suppress(Exception):
        return str(said)
    return ""


def _said(error: BaseException) -> Iterator[str]:
    yield str(getattr(error, "error_code", None) or "")  # storage's header
    for code, message in parts(error):
        yield f"{code} {message}"
    yield text_of(error)


def _walk(node: object, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield the codes and messages of JSON, or of the SDK's objects that were made of it."""
    if depth > _DEEPEST:
        return
    if isinstance(node, list | tuple):
        for each in node:
            yield from _walk(each, depth + 1)
        return
    values = node if isinstance(node, Mapping) else getattr(node, "__dict__", {})
    code, message = values.get("code"), values.get("message")
    policy = values.get("policyDefinitionDisplayName")
    if isinstance(policy, str):  # what Azure Policy adds (azure-cli issue 8058, 2018-12-13)
        message = f"The policy is {policy!r}, assigned as {str(values.get('policyAssignmentDisplayName'))!r}."
    if isinstance(code, str) or isinstance(message, str):
        yield code if isinstance(code, str) else "", message if isinstance(message, str) else ""
    for name in _INSIDE:
        if values.get(name):
            yield from _walk(values[name], depth + 1)
