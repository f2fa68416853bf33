"""A request and an answer, as the parts of the local workspace see them, and how their values are written."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from phift.local.state.documents import Json
from phift.local.wire.errors import WireError

API_VERSIONS = (
    "2021-10-01-dataplanepreview",
    "2022-02-01-preview",
    "2022-05-01",
    "2022-10-01",
    "2022-10-01-preview",
    "2023-02-01-preview",
    "2023-04-01",
    "2023-04-01-preview",
    "2023-06-01-preview",
    "2023-08-01-preview",
    "2023-10-01",
    "2024-01-01-preview",
    "2024-04-01-preview",
    "2024-07-01-preview",
    "2024-10-01-preview",
)
"""The api-versions of azure-ai-ml and of Azure's own management client, for the error that names some."""


def section(body: Json, name: str) -> Json:
    """Return an object inside a body without its nulls; empty where it is absent, an error where it is no object."""
    value = body.get(name)
    if not isinstance(value, dict | None):
        raise WireError(400, "InvalidRequestContent", f"The property '{name}' must be a JSON object.")
    return {key: item for key, item in (value or {}).items() if item is not None}


def sent_text(sent: Any) -> str | None:
    """Return the text of a job's input or output: nodes and pipelines spell its fields differently."""
    if not isinstance(sent, dict):
        return None if sent is None else str(sent)
    value = sent.get("uri", sent.get("value"))
    return None if value is None else str(value)


def whole_number(value: Any, name: str) -> int:
    """Return a number that a caller sent as such or as text."""
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise WireError(400, "InvalidRequestContent", f"{name} is not a whole number: {value!r}") from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")  # Python reads NaN and Infinity, and SQLite's JSON does not


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    params: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Json:
        """Return the body as a JSON object."""
        try:
            value = json.loads(self.body or b"{}", parse_constant=_no_number, parse_float=_finite)
        except ValueError as error:
            raise WireError(400, "InvalidRequestContent", "The request content is not valid JSON.") from error
        if not isinstance(value, dict):
            raise WireError(400, "InvalidRequestContent", "The request content is not a JSON object.")
        return value

    def __getitem__(self, name: str) -> str:
        """Return a part of the path, or an empty text."""
        return self.params.get(name, "")


@dataclass(frozen=True)
class Reply:
    """One answer: a JSON value, bytes, or a stream of bytes with its length in the headers."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json; charset=utf-8"
    stream: Iterator[bytes] | None = None


def timestamp(seconds: float) -> str:
    """Return a time as Azure writes it."""
    whole, fraction = divmod(seconds, 1)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int(fraction * 1e6):06d}+00:00"
