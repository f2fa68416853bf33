"""Recorded answers of Azure ML (``recorded/*.json``), and how an answer of the local workspace differs from one.

A recording has the answer of the real service, where it is from and when, and which answer here stands beside it: a
part of `recorded_calls`, a route, and the number of the answer where there are several. Names and secrets in it have
been replaced, so values are only held against each other where the recording says so; forms are compared as
`phift local replay` does. What differs and stays so is listed in it, with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import reduce
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fidelity.wire_traffic import Exchange
from phift.local.recorder import compare
from phift.local.recorder.exchange import Shape, shape_of

FOLDER = Path(__file__).parent / "recorded"
_ZEROS = re.compile(r"T\d\d:\d\d:\d\d\.\d*0(Z|[+-]\d\d:\d\d)\"")  # at the end of a date's second
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
    version: str
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
        version=(told["request"] or {}).get("api-version", ""),
        status=answer["status"],
        headers=answer["headers"],
        body=answer["body"],
        statuses=tuple(answer.get("statuses", ())),
        rules=Rules(**told["rules"]),
        known=told["known"],
    )


def differences(recording: Recording, exchanges: Iterable[Exchange]) -> list[str]:
    """Tell how the answer here differs, a line for each place, as the recorder's comparison does.

    - **exchanges**: of the part.
    """
    rules, found = recording.rules, [each for each in exchanges if each.route == recording.route]
    if not found:
        return ["no such request"]
    there, here = recording.body, found[recording.which]
    body = [] if there is None else compare.differences(_form(rules, there), _form(rules, here.answer))
    if there is None and here.answer is not None and not (rules.rows or "body" in rules.any):
        body = ["body: none there"]
    return [
        *compare.differences(_head(recording, recording), _head(recording, here)),
        *(line for line in body if not (rules.partial and ": none there" in line)),
        *(f"{path}: not like {text}" for path, text in rules.matches.items() if not _matches(here, path, text)),
        *(f"text: nothing like {text}" for text in rules.texts if not re.search(text, here.text, re.M)),
        *(["text: zeros at the end of a second here"] if _ZEROS.search(here.text) else []),
        *_rows(rules, here.answer),
        *_order(recording, found),
    ]


def _head(recording: Recording, answer: Recording | Exchange) -> dict[str, Shape]:
    """Return the form of an answer's status, and of those headers that the recording tells of."""
    form: dict[str, Shape] = {} if "status" in recording.rules.any else {"status": _exactly(answer.status)}
    for name in recording.headers:
        if (value := answer.headers.get(name)) is not None:
            form[f"header {name}"] = _exactly(value.partition(";")[0]) if name in _SAME else "text"
            if version := parse_qs(urlsplit(value).query).get("api-version"):
                form[f"header {name}, api-version"] = "= as asked" if version == [answer.version] else f"= {version}"
    return form


def _form(rules: Rules, value: Any, path: str = "") -> Shape:
    """Return the form of a body by the recording's rules: all names are kept, and those values that must be equal."""
    if value is not None and path in rules.exact:
        return _exactly(value)
    if isinstance(value, dict) and value and any(fnmatchcase(path, pattern) for pattern in rules.maps):
        return {"*": reduce(_joined, (_form(rules, each, f"{path}.*") for each in value.values()))}
    if isinstance(value, dict):
        places = {name: f"{path}.{name}" if path else name for name in value}
        skipped = {name for name in value if any(fnmatchcase(places[name], pattern) for pattern in rules.any)}
        return {name: _form(rules, each, places[name]) for name, each in value.items() if name not in skipped}
    if isinstance(value, list):
        rows = _chosen(rules, value) if path == "value" else value
        return [reduce(_joined, (_form(rules, row, f"{path}.0") for row in rows))] if rows else []
    return shape_of(value, path.rpartition(".")[2])


def _joined(one: Shape, other: Shape) -> Shape:
    """Return the fields of two rows; of each the first that is not null, so that nothing fills a hole within it."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return other if isinstance(one, dict) else one
    return {**one, **{name: each for name, each in other.items() if one.get(name) is None}}


def _exactly(value: object) -> str:
    return f"{type(value).__name__} {value}"


def _matches(here: Exchange, path: str, wanted: str) -> bool:
    return re.match(wanted, str(_at(here.answer, path))) is not None


def _rows(rules: Rules, answer: Any) -> Iterator[str]:
    if isinstance(rows := _at(answer, "value"), list) and not _chosen(rules, rows):
        yield "value: no such row here"
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
