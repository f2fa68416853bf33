"""What a client answers, read as what it should be: a mock that nobody gave an answer is no id, no name, no state.

``str()`` would take anything, and a run would go on with ``<MagicMock name='...'>`` for a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

from phift.errors import ServiceError

MOST_LISTED = 100_000
"""Things that one list may have; a workspace has far fewer jobs and endpoints."""


def text(value: Any, what: str) -> str:
    """Return an id, a name, a state or an address of an answer; whole numbers and members of text enums are text too.

    - **what**: which part of which answer it is, as in ``workspace.location``.

    Raises `phift.errors.ServiceError` for anything else.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a version is a number to whoever counts them
    raise no_answer(value, what, "text")


def texts(value: Any, what: str) -> dict[str, str]:
    """Return an answer's tags or properties as texts; None has none.

    - **what**: which part of which answer it is, as in ``job.tags``.

    Raises `phift.errors.ServiceError` where it is no mapping.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise no_answer(value, what, "a mapping")
    return {str(key): str(entry) for key, entry in value.items()}


def listed(pager: Iterable[Any], what: str, most: int = MOST_LISTED) -> Iterator[Any]:
    """Yield what a list of the SDK's has, page by page.

    - **what**: what is listed, as in ``jobs``.

    Raises `phift.errors.ServiceError` where the service names a page twice, so that the list would never end, or
    where more than ``most`` things are listed; and for something that is no list.
    """
    if not isinstance(pager, Iterator | list | tuple):
        raise no_answer(pager, what, "a list")
    by_page = getattr(pager, "by_page", None)
    pages = by_page() if callable(by_page) else iter([pager])
    tokens: set[str] = set()
    count = 0
    for page in pages:
        for entry in page:
            count += 1
            if count > most:
                raise ServiceError(f"The list of {what} has more than {most:,} entries.", where=what)
            yield entry
        token = getattr(pages, "continuation_token", None)
        if token in tokens:
            raise ServiceError(f"The list of {what} does not end: the service names a page twice.", where=what)
        if isinstance(token, str):
            tokens.add(token)


def no_answer(value: Any, what: str, expected: str) -> ServiceError:
    """Return the error for an answer that is of another kind than ``expected``."""
    kind = "nothing" if value is None else f"a {type(value).__name__}"
    fix = "hand in a client that answers; in a mock, give what is asked for a return_value of its own"
    return ServiceError(f"The client answered with {kind} where {expected} was expected ({what}).", where=what, fix=fix)
