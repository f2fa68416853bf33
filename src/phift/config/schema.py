"""The JSON schema of a configuration: what phift takes, short forms and texts for numbers too, with each key described.

It accepts whatever phift accepts. What it cannot say, phift refuses all the same: rules over several keys, files that
are not there, a bound that a number breaks which is written as a text.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic.json_schema import JsonSchemaValue

PLACEHOLDER = r"<[^<>]*>|\$\{[^{}]*\}"

_BULLETS = re.compile(r"^- ((?:\*\*\w+\*\*(?:, )?)+): (.+(?:\n  .+)*)", re.MULTILINE)

# What pydantic takes besides, unless it is told to be strict: a text, and a truth value for a number.
_TEXTS = {
    "integer": r"^\s*[+-]?[0-9][0-9_]*(\.0*)?\s*$",
    "number": r"^\s*[+-]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][+-]?[0-9]+)?\s*$",
    "boolean": r"^([01]|[oO][nN]|[oO][fF][fF]|[tT]([rR][uU][eE])?|[fF]([aA][lL][sS][eE])?|[yY]([eE][sS])?|[nN][oO]?)$",
}


def describe(section: type, schema: JsonSchemaValue) -> None:
    """Put what a section's docstrings say into its schema, and what is taken for a number or a truth value."""
    told = _told(section)
    schema["description"] = _sentence(inspect.cleandoc(section.__doc__ or "").partition("\n- ")[0])
    for name, key in schema["properties"].items():
        schema["properties"][name] = {**_as_taken(key), "description": told.get(name, "")}


def _told(section: type) -> dict[str, str]:
    """Return what the docstrings of a class, and of those it is made of, say of each key: ``- **key**: what it is``."""
    found: dict[str, str] = {}
    for each in reversed(section.__mro__):
        for names, said in _BULLETS.findall(inspect.cleandoc(each.__doc__ or "")):
            found |= dict.fromkeys(re.findall(r"\w+", names), _sentence(said))
    return found


def _sentence(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _as_taken(schema: Any) -> Any:
    """Return a schema that takes texts too where it takes numbers or truth values."""
    if isinstance(schema, list):
        return [_as_taken(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in _TEXTS:
        return {key: value if key in ("default", "enum") else _as_taken(value) for key, value in schema.items()}
    outer = {key: value for key, value in schema.items() if key in ("default", "title")}
    strict = {key: value for key, value in schema.items() if key not in outer}
    more: list[dict[str, Any]] = [{"type": "string", "pattern": _TEXTS[kind]}]
    more += [{"enum": [0, 1]}] if kind == "boolean" else [{"type": "boolean"}]
    return {"anyOf": [strict, *more], **outer}
