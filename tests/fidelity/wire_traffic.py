"""What clients really send to a local workspace and get from it, one `Exchange` for each request.

Every HTTP client in question sends through `requests`, so what is written down is what went over the wire.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import requests
from requests.adapters import HTTPAdapter

from phift.local.server import service
from phift.local.services import control
from phift.local.services.route import Route


@dataclass(frozen=True)
class Exchange:
    """One request and its answer.

    - **client**: who asked, ``sdk``, ``mgmt``, ``mlflow`` or ``plain`` for requests written by hand; or for what.
    - **route**: the operation that answered, ``PUT jobs/{name}``; empty where none is served.
    - **version**: the api-version asked for.
    - **query**: as it was sent.
    - **sent**, **answer**: JSON bodies; None where there is none.
    - **text**: of the answer.
    """

    client: str
    route: str
    path: str
    query: str
    version: str
    sent: Any
    status: int
    answer: Any
    text: str
    headers: dict[str, str]


@dataclass
class Traffic:
    """Everything that was sent, in its order."""

    exchanges: list[Exchange] = field(default_factory=list)
    client: str = "plain"

    def of(self, route: str) -> list[Exchange]:
        """Return what one route answered."""
        return [exchange for exchange in self.exchanges if exchange.route == route]

    @contextmanager
    def by(self, client: str) -> Iterator[None]:
        """Name the client that sends within."""
        before, self.client = self.client, client
        try:
            yield
        finally:
            self.client = before


def served() -> list[Route]:
    """Return the routes that stand for Azure's; those of tests themselves are none of it."""
    routes = [route for part in service.PARTS for route in part.ROUTES]
    return [route for route in routes if not route.template.startswith(f"{control.AT}/")]


def route_of(method: str, path: str) -> str:
    """Return the operation that serves a request, or an empty text."""
    for route in served():
        if route.method == method and route.pattern.fullmatch(path):
            return route.operation
    return ""


@contextmanager
def recorded() -> Iterator[Traffic]:
    """Write down all that this process sends, but for what tests ask of the workspace itself."""
    traffic = Traffic()
    send = HTTPAdapter.send

    def note(adapter: HTTPAdapter, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        response = send(adapter, request, *args, **options)
        if not urlsplit(str(request.url)).path.startswith(f"{control.AT}/"):
            traffic.exchanges.append(_exchange(traffic.client, request, response))
        return response

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPAdapter, "send", note)
        yield traffic


def _exchange(client: str, request: requests.PreparedRequest, response: requests.Response) -> Exchange:
    parts = urlsplit(str(request.url))
    path = unquote(parts.path)
    method = str(request.method)
    readable = "json" in response.headers.get("Content-Type", "")
    return Exchange(
        client=client,
        route=route_of(method, path),
        path=path,
        query=parts.query,
        version=parse_qs(parts.query).get("api-version", [""])[0],
        sent=_json(request.body),
        status=response.status_code,
        answer=_json(response.content) if readable else None,
        text=response.content.decode("utf-8", "replace"),
        headers={name.lower(): value for name, value in response.headers.items()},
    )


def _json(body: Any) -> Any:
    text = body.encode() if isinstance(body, str) else body
    if not isinstance(text, bytes) or not re.match(rb"\s*[\[{]", text):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None  # a blob that only looks like JSON: a line of it was uploaded
