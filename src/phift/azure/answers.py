"""What a client answers, read as what it should be: a mock that nobody gave an answer is no id, no name, no state.

``str()`` would take anything, and a run would go on with ``<MagicMock name='...'>`` for a name. What is of another kind
than expected raises `phift.errors.ServiceError`; ``what`` says which answer it is, or which part of one, as in
``workspace.location``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

from phift.errors import ServiceError, WaitTimeout

MOST_LISTED = 100_000
"""Things that one list may have; a workspace has far fewer jobs and endpoints."""

MOST_PAGES = 10_000
"""Pages of one list, each of which may be empty."""

_LONGEST_OPERATION = 2 * 3600.0  # seconds; the service gives an endpoint's operations 30 minutes


def text(value: Any, what: str) -> str:
    """Return an id, a name, a state or an address of an answer; whole numbers and text enums are text too."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)  # a version is a number to whoever counts them
    raise no_answer(value, what, "text")


def resource_id(value: Any, what: str) -> str:
    """Return an answer's id; what has blanks or a query in it is none, and could be somebody's signed address."""
    read = text(value, what)
    if re.search(r"[\s?]", read):
        raise ServiceError(f"The client answered with what is no id ({what}).", where=what, fix="look at what answers")
    return read


def texts(value: Any, what: str) -> dict[str, str]:
    """Return an answer's tags or properties as texts; None has none."""
    if value is not None and not isinstance(value, Mapping):
        raise no_answer(value, what, "a mapping")
    return {str(key): str(entry) for key, entry in (value or {}).items()}


def listed(value: Any, what: str, enough: Callable[[list[Any]], bool] | None = None) -> list[Any]:
    """Return what an answer lists: a list, or something to iterate over as the SDK's pages are.

    One that would never end is an error: the service names a page twice, or there are more than 100,000 entries or
    10,000 pages.

    - **enough**: asked after each page with all that there is so far; then no further page is read.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise no_answer(value, what, "a list")
    is_mock = any(kind.__module__ == "unittest.mock" for kind in type(value).__mro__)
    pages = value.by_page() if hasattr(value, "by_page") and not is_mock else iter([value])
    entries: list[Any] = []
    tokens: set[str] = set()
    for page in pages:
        for entry in page:
            entries.append(entry)
            if len(entries) > MOST_LISTED:
                raise ServiceError(f"The list has more than {MOST_LISTED:,} entries ({what}).", where=what)
        token = getattr(pages, "continuation_token", None)
        if token in tokens:
            raise ServiceError(f"The list does not end: the service names a page twice ({what}).", where=what)
        if isinstance(token, str):
            tokens.add(token)
        if len(tokens) > MOST_PAGES:
            raise ServiceError(f"The list has more than {MOST_PAGES:,} pages ({what}).", where=what)
        if enough and enough(entries):
            break
    if not entries and is_mock:  # it can be iterated over, and is empty unless somebody gave it something
        raise no_answer(value, what, "a list")
    return entries


def outcome(poller: Any, what: str) -> Any:
    """Return what an operation of the service came to, once it has ended; the SDK itself would ask for ever.

    Raises `phift.errors.WaitTimeout` after two hours.
    """
    poller.wait(_LONGEST_OPERATION)
    if not poller.done():
        raise WaitTimeout(
            f"An operation on it has been under way for {_LONGEST_OPERATION / 3600:.0f} hours.",
            where=what,
            fix="look at it in the studio, and run again",
        )
    return poller.result()


def json_object(value: Any, what: str) -> dict[str, Any]:
    """Return an answer that is a JSON object."""
    if not isinstance(value, dict):
        raise no_answer(value, what, "a JSON object")
    return value


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a JSON object as it is, and anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def no_answer(value: Any, what: str, expected: str) -> ServiceError:
    """Return the error for an answer that is of another kind than ``expected``."""
    kind = "nothing" if value is None else f"a {type(value).__name__}"
    fix = "hand in a client that answers; in a mock, give what is asked for a return_value of its own"
    return ServiceError(f"The client answered with {kind} where {expected} was expected ({what}).", where=what, fix=fix)
