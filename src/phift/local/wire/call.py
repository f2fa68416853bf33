"""A request and an answer, as the parts of the local workspace see them, and how their values are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from phift.local.names import WORKSPACE
from phift.local.state.documents import Json

API_VERSIONS = (
    "2021-10-01-dataplanepreview,2022-02-01-preview,2022-05-01,2022-10-01,2022-10-01-preview,2023-02-01-preview,"
    "2023-04-01,2023-04-01-preview,2023-06-01-preview,2023-08-01-preview,2023-10-01,2024-01-01-preview,"
    "2024-04-01-preview,2024-07-01-preview,2024-10-01-preview"
)
"""The api-versions of azure-ai-ml and of Azure's own management client, as the error lists them that names some."""


@dataclass(eq=False)
class WireError(Exception):
    """An answer that is an error: HTTP status, Azure's code, a message for the user.

    - **inner**: the code inside, where Azure gives one.
    """

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    inner: str = ""

    def __str__(self) -> str:
        return self.message


def not_found(kind: str, name: str) -> WireError:
    """Return the error for a resource that is not there."""
    return WireError(404, "ResourceNotFound", f"The {kind} '{name}' was not found in workspace '{WORKSPACE}'.")


def user_error(message: str) -> WireError:
    """Return the error for a request that cannot be granted as it is."""
    return WireError(400, "UserError", message)


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
        """Return the body as a JSON object, without NaN and infinite numbers, which SQLite's JSON does not know."""
        try:
            value = msgspec.json.decode(self.body or b"{}")
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


def section(body: Json, name: str) -> Json:
    """Return an object inside a body without its nulls; empty where it is absent, an error where it is no object."""
    value = body.get(name)
    if not isinstance(value, dict | None):
        raise WireError(400, "InvalidRequestContent", f"The property '{name}' must be a JSON object.")
    return {key: item for key, item in (value or {}).items() if item is not None}


def whole_number(value: Any, name: str) -> int:
    """Return a number that a caller sent as such or as text."""
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise WireError(400, "InvalidRequestContent", f"{name} is not a whole number: {value!r}") from error


def timestamp(seconds: float) -> str:
    """Return a time as Azure writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
