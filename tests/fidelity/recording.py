"""Recorded answers of Azure ML (``recorded/*.json``), and how an answer of the local workspace differs from one.

A recording has the answer of the real service, where it is from and when, and which answer here stands beside it: a
part of `recorded_calls`, a route, and the number of the answer where there are several. Names and secrets in it have
been replaced, so values are only held against each other where the recording says so. What differs and stays so is
listed in it, with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fidelity.wire_traffic import Exchange

FOLDER = Path(__file__).parent / "recorded"
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_ID = re.compile(r"(azureml:/)?/subscriptions/")
_SAME = ("x-ms-response-type", "x-ms-error-code", "x-ms-async-operation-timeout", "content-type")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How answers are held against each other; places are ``value.0.name``, and ``*`` stands for any name.

    - **exact**: places where values must be equal.
    - **any**: places of which nothing is compared, nor of what lies in them; ``status`` is one too, and ``body`` where
      the recording has kept none.
    - **maps**: objects whose names are free, and whose values are all alike.
    - **row**: the row of a list that is meant, by what some of its places have.
    - **rows**: for some places of rows, values that must be in some row.
    - **partial**: fields that are not in the recording are not compared.
    - **matches**: places, and the expression that the text there matches.
    - **texts**: expressions to be found in the text of the answer.
    """

    exact: tuple[str, ...] = ()
    any: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    row: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, list[str]] = field(default_factory=dict)
    partial: bool = False
    matches: Mapping[str, str] = field(default_factory=dict)
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recording:
    """One recorded answer.

    - **statuses**: of a long operation, in their order.
    - **known**: what differs here, and why it stays so.
    """

    name: str
    operation: str
    source: Mapping[str, str]
    part: str
    route: str
    which: int
    status: int | None
    headers: Mapping[str, str | None]
    body: Any
    statuses: tuple[str, ...]
    rules: Rules
    known: Mapping[str, str]


def recordings() -> list[Recording]:
    """Return all of them."""
    return [_read(path) for path in sorted(FOLDER.glob("*.json"))]


def _read(path: Path) -> Recording:
    told = json.loads(path.read_text(encoding="utf-8"))
    here, answer = told["here"], told["response"]
    return Recording(
        name=path.stem,
        operation=told["operation"],
        source=told["source"],
        part=here["part"],
        route=here["route"],
        which=here.get("which", 0),
        status=answer["status"],
        headers=answer["headers"],
        body=answer["body"],
        statuses=tuple(answer.get("statuses", ())),
        rules=Rules(**told["rules"]),
        known=told["known"],
    )


def differences(recording: Recording, exchanges: Iterable[Exchange]) -> list[str]:
    """Tell how the answer here differs, a line for each place.

    - **exchanges**: of the part.
    """
    rules, found = recording.rules, [each for each in exchanges if each.route == recording.route]
    if not found:
        return ["no such request"]
    here = found[recording.which]
    return [
        *([] if "status" in rules.any else _values("status", recording.status, here.status)),
        *_headers(recording, here),
        *([] if recording.body is None else _fields(rules, recording.body, here.answer, "")),
        *(["body: none there"] if recording.body is None and here.answer is not None and not _bodiless(rules) else []),
        *(f"{path}: not like {wanted}" for path, wanted in rules.matches.items() if not _matches(here, path, wanted)),
        *(f"text: nothing like {text}" for text in rules.texts if not re.search(text, here.text, re.M)),
        *_rows(rules, here.answer),
        *_order(recording, found),
    ]


def _bodiless(rules: Rules) -> bool:
    return bool(rules.rows) or "body" in rules.any


def _values(path: str, there: object, here: object) -> Iterator[str]:
    if there != here:
        yield f"{path}: {there} there, {here} here"


def _matches(here: Exchange, path: str, wanted: str) -> bool:
    return re.match(wanted, str(_at(here.answer, path))) is not None


def _headers(recording: Recording, here: Exchange) -> Iterator[str]:
    for name, value in recording.headers.items():
        own = here.headers.get(name)
        if (value is None) != (own is None):
            yield f"header {name}: {'none there' if value is None else 'none here'}"
        elif value is None or own is None:
            continue
        elif name in _SAME:
            yield from _values(f"header {name}", value, own.partition(";")[0])
        elif name in ("azure-asyncoperation", "location") and "api-version" in value and here.version:
            told = parse_qs(urlsplit(own).query).get("api-version", [""])[0]
            yield from _values(f"header {name}, api-version", "as asked", "as asked" if told == here.version else told)


def _fields(rules: Rules, there: Any, here: Any, path: str) -> Iterator[str]:
    if any(fnmatchcase(path, pattern) for pattern in rules.any):
        return
    if there is None or here is None:
        if there is not here:
            yield f"{path}: {'null there' if there is None else 'null here'}"
    elif _kind(there) is not _kind(here):
        yield f"{path}: {_kind(there).__name__} there, {_kind(here).__name__} here"
    elif path in rules.exact:
        yield from _values(path, there, here)
    elif any(fnmatchcase(path, pattern) for pattern in rules.maps):
        if there and here:
            yield from _fields(rules, _union(there.values()), _union(here.values()), f"{path}.*")
    elif isinstance(there, dict):
        yield from _objects(rules, there, here, path)
    elif isinstance(there, list):
        rows = _chosen(rules, here) if path == "value" else here
        if path == "value" and not rows:
            yield f"{path}: no such row here"
        elif there and rows:
            yield from _fields(rules, _union(there), _union(rows), f"{path}.0")
    elif isinstance(there, str):
        yield from _texts(there, here, path)


def _objects(rules: Rules, there: dict[str, Any], here: dict[str, Any], path: str) -> Iterator[str]:
    for name in [*there, *(name for name in here if name not in there)]:
        place = f"{path}.{name}" if path else name
        if name in there and name in here:
            yield from _fields(rules, there[name], here[name], place)
        elif any(fnmatchcase(place, pattern) for pattern in rules.any) or (name in here and rules.partial):
            continue
        elif name in there:
            yield f"{place}: {'null there, ' if there[name] is None else ''}none here"
        else:
            yield f"{place}: none there{', null here' if here[name] is None else ''}"


def _texts(there: str, here: str, path: str) -> Iterator[str]:
    one, other = _DATE.fullmatch(there), _DATE.fullmatch(here)
    if one and not other:
        yield f"{path}: no date here"
    elif one and other and (one[2] == "Z") != (other[2] == "Z"):
        yield f"{path}: {one[2]} there, {other[2]} here"
    elif other and (other[1] or "").endswith("0"):
        yield f"{path}: zeros at the end of a second here"
    if _ID.match(there) and _ID.match(here) and _words(there) != _words(here):
        yield f"{path}: {_words(there)} there, {_words(here)} here"


def _words(resource: str) -> str:
    """Return the words of a resource's id without the names between them."""
    parts = resource.removeprefix("azureml:/").strip("/").partition("/paths/")[0].split("/")
    return "/".join(parts[::2])


def _rows(rules: Rules, answer: Any) -> Iterator[str]:
    for path, wanted in rules.rows.items():
        there = {str(_at(row, path)) for row in answer["value"]}
        yield from (f"value, {path}: no row with {value} here" for value in wanted if value not in there)


def _chosen(rules: Rules, rows: list[Any]) -> list[Any]:
    wanted = rules.row.items()
    return [row for row in rows if all(str(_at(row, path)).lower() == value.lower() for path, value in wanted)]


def _order(recording: Recording, polls: list[Exchange]) -> Iterator[str]:
    told = list(dict.fromkeys(poll.answer["status"] for poll in polls)) if recording.statuses else []
    # What lasts a moment here may be over before the first look.
    if told != [status for status in recording.statuses if status in told] or told[-1:] != [*recording.statuses][-1:]:
        yield f"statuses: {', '.join(recording.statuses)} there, {', '.join(told)} here"


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _union(items: Iterable[Any]) -> Any:
    """Return an object with the fields of all; of other values the first."""
    merged: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, dict):
            return item
        merged |= {name: value for name, value in item.items() if merged.get(name) is None}
    return merged


def _kind(value: object) -> type:
    return float if type(value) is int else type(value)
