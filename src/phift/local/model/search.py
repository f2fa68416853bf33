"""MLflow's language of filters and orders, as far as it is spoken here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt, ne
from typing import Any

# The collections by all their names (``SearchUtils`` of mlflow 3.15).
_KINDS = dict.fromkeys(("attribute", "attributes", "attr", "run", ""), "attribute")
_KINDS |= dict.fromkeys(("metric", "metrics"), "metric") | dict.fromkeys(("tag", "tags"), "tag")
_KINDS |= dict.fromkeys(("param", "params", "parameter", "parameters"), "param")

_FIELD = r"""(?:(?P<kind>\w+)\.)?(?:"(?P<quoted>[^"]+)"|`(?P<ticked>[^`]+)`|(?P<plain>[^\s"'`=!<>(),]+))"""
_TEXT = r"'[^']*'" + r'|"[^"]*"'
_CLAUSE = re.compile(
    rf"""\s*{_FIELD}\s*(?P<sign>!=|>=|<=|=|<|>|\bI?LIKE\b|\bIN\b)\s*
    (?P<value>{_TEXT}|[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|\(\s*(?:{_TEXT})(?:\s*,\s*(?:{_TEXT}))*\s*\))\s*""",
    re.VERBOSE | re.IGNORECASE,
)
_AND = re.compile(r"AND\b", re.IGNORECASE)
_ORDER = re.compile(rf"\s*{_FIELD}(?:\s+(?P<way>ASC|DESC))?\s*", re.IGNORECASE)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {"=": eq, "!=": ne, ">": gt, ">=": ge, "<": lt, "<=": le}


_LONGEST = 6000


class NotUnderstood(ValueError):
    """A filter or an order that cannot be read."""


@dataclass(frozen=True)
class Field:
    """What is compared: an ``attribute``, ``metric``, ``param`` or ``tag``, and which."""

    kind: str
    key: str


@dataclass(frozen=True)
class Clause(Field):
    """One condition: a field, how it is compared, and with what: a number, a text, or the texts of a list."""

    sign: str
    value: Any

    def holds(self, found: Any) -> bool:
        """Tell whether it is true of a field's value; of None, which is none, no condition is."""
        if found is None:
            return False
        if self.sign == "IN":
            return found in self.value
        if self.sign.endswith("LIKE"):
            # What lies between two of "%" is looked for once, and from then on stays where it is first found.
            first, *parts = (re.escape(part).replace("_", ".") for part in self.value.split("%"))
            last = f".*{parts.pop()}" if parts else ""
            between = "".join(f"(?>.*?{part})" for part in parts if part)
            flags = re.DOTALL | (re.IGNORECASE if self.sign == "ILIKE" else 0)
            return re.fullmatch(first + between + last, str(found), flags) is not None
        return _COMPARE[self.sign](found, self.value)


def clauses(text: str, attributes: Mapping[str, type]) -> list[Clause]:
    """Return the conditions of a filter, all of which are to hold.

    - **attributes**: which there are, each ``int`` or ``str``.

    Raises `NotUnderstood`.
    """
    found: list[Clause] = []
    place, text = 0, _of_length(text.strip())
    while text:
        match = _CLAUSE.match(text, place)
        if match is None:
            raise NotUnderstood(f"The filter is not understood from {text[place:]!r} on.")
        field, sign, value = _field(match, attributes), match["sign"].upper(), match["value"]
        of_numbers = field.kind == "metric" or (field.kind == "attribute" and attributes[field.key] is int)
        allowed = _COMPARE if of_numbers else ("=", "!=", "LIKE", "ILIKE", "IN")
        if sign not in allowed or of_numbers == (value[0] in "'\"(") or (sign == "IN") != (value[0] == "("):
            raise NotUnderstood(f"The filter {match[0].strip()!r} compares {field.kind}s in a way that they are not.")
        texts = tuple(each[1:-1] for each in re.findall(_TEXT, value))
        wanted = float(value) if of_numbers else texts if sign == "IN" else texts[0]
        found.append(Clause(field.kind, field.key, sign, wanted))
        place = match.end()
        if place == len(text):
            return found
        match = _AND.match(text, place)
        if match is None:
            raise NotUnderstood(f"The filter is not understood from {text[place:]!r} on.")
        place = match.end()
    return found


def _of_length(text: str) -> str:
    """Return a text, or refuse one that takes long to read."""
    if len(text) > _LONGEST:
        raise NotUnderstood(f"A filter or an order has at most {_LONGEST} characters, not {len(text)}.")
    return text


def order(text: str, attributes: Mapping[str, type]) -> tuple[Field, bool]:
    """Return what to sort by, and whether downwards; raises `NotUnderstood`."""
    match = _ORDER.fullmatch(_of_length(text.strip()))
    if match is None:
        raise NotUnderstood(f"The order {text!r} is not understood.")
    return _field(match, attributes), (match["way"] or "").upper() == "DESC"


def _field(match: re.Match[str], attributes: Mapping[str, type]) -> Field:
    kind = _KINDS.get((match["kind"] or "").lower())
    key = match["quoted"] or match["ticked"] or match["plain"]
    if kind == "attribute" and key.lower() == "created":
        key = "start_time"
    if kind is None or (kind == "attribute" and key not in attributes):
        raise NotUnderstood(f"There is nothing to compare that is called {match[0].strip()!r}.")
    return Field(kind, key)
