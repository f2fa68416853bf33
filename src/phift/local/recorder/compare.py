"""How what a workspace answers differs from a recording.

- An operation answers with a **status** that it had there.
- Of its answers of that status, the one that is most alike has the **fields** that were there, and no others: null
  where there was null, of the same **kind**, dates of the same form, ids of the same resources.
- **Values** are compared where they are words of the service (`exchange.STABLE`), states in between apart: what lasts
  for minutes there may be over here before anybody looks.

What is compared is what an operation may answer, not how often nor in which order: both follow from time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from phift.local.recorder.exchange import PASSING, Exchange, Shape

_STATES = ("status", "provisioningState")


def compare(there: Iterable[Exchange], here: Iterable[Exchange]) -> list[str]:
    """Tell how a workspace's answers differ from recorded ones, a line for each place.

    - **there**: recorded.
    - **here**: what the same program got from the workspace.
    """
    lines: list[str] = []
    known = list(_distinct(here))
    for each in _distinct(there):
        same = [other for other in known if other.operation == each.operation]
        alike = [other for other in same if other.status == each.status]
        state = _state(each.answer)
        if _passes(state):
            alike = [other for other in alike if _state(other.answer) == state]
        if not same:
            found = ["not asked here"]
        elif not any(other.status == each.status for other in same):
            statuses = ", ".join(sorted({str(other.status) for other in same}))
            found = [f"status: {each.status} there, {statuses} here"]
        else:
            found = min((list(_answers(each, other)) for other in alike), key=len, default=[])
        lines += [f"{each.operation} {each.status}: {line}" for line in found]
    return list(dict.fromkeys(lines))


def _distinct(exchanges: Iterable[Exchange]) -> Iterable[Exchange]:
    return {json.dumps({**vars(each), "sent": None}, sort_keys=True): each for each in exchanges}.values()


def _state(answer: Shape) -> Shape:
    fields = answer if isinstance(answer, dict) else {}
    inner = fields.get("properties")
    found = [each.get(name) for each in (fields, inner) if isinstance(each, dict) for name in _STATES]
    return next((state for state in found if isinstance(state, str)), None)


def _passes(state: Shape) -> bool:
    return isinstance(state, str) and state.removeprefix("= ") in PASSING


def _answers(there: Exchange, here: Exchange) -> Iterator[str]:
    yield from differences(dict(there.headers), dict(here.headers), "header")
    yield from differences(there.answer, here.answer, "answer")


def differences(there: Shape, here: Shape, path: str = "") -> Iterator[str]:
    """Tell how a form differs from a recorded one; a place is ``value.0.name``."""
    if there is None or here is None:
        if there is not here:
            yield f"{path}: {'null there' if there is None else 'null here'}"
    elif _kind(there) != _kind(here):
        yield f"{path}: {_kind(there)} there, {_kind(here)} here"
    elif isinstance(there, dict) and isinstance(here, dict):
        for name in [*there, *(name for name in here if name not in there)]:
            place = f"{path}.{name}" if path else name
            if name not in here:
                yield f"{place}: {'null there, ' if there[name] is None else ''}none here"
            elif name not in there:
                yield f"{place}: none there{', null here' if here[name] is None else ''}"
            else:
                yield from differences(there[name], here[name], place)
    elif isinstance(there, list) and isinstance(here, list):
        if there and here:
            yield from differences(there[0], here[0], f"{path}.0")
    elif isinstance(there, str) and isinstance(here, str):
        yield from _texts(there, here, path)


def _kind(shape: Shape) -> str:
    if isinstance(shape, str):
        return shape if shape in ("number", "boolean") else "text"
    return "list" if isinstance(shape, list) else "object"


def _texts(there: str, here: str, path: str) -> Iterator[str]:
    (form, _, one), (other_form, _, other) = there.partition(" "), here.partition(" ")
    if form != other_form:
        if "=" in (form, other_form):
            yield f"{path}: {one or 'another text'} there, {other or 'another text'} here"
        else:
            yield f"{path}: {form} there, {other_form} here"
    elif form == "date":
        (_, zone), (_, own_zone) = one.split(), other.split()  # zeros at the end of a second are cut
        if zone != own_zone:
            yield f"{path}: {zone} there, {own_zone} here"
    elif one != other and not (_passes(there) or _passes(here)):
        yield f"{path}: {one} there, {other} here"
