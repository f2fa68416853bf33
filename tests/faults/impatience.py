"""Clients that wait for nothing: what takes minutes against Azure takes a moment here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from azure.core.pipeline.transport import HttpTransport
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

READ_TIMEOUT = 3.0
"""Seconds that clients wait for an answer; libraries have up to 300."""
LONGEST_WAIT = 0.05
"""Seconds between two tries, and between two looks at a long-running operation."""

_send = HTTPAdapter.send


def _send_soon(self: HTTPAdapter, request: Any, **options: Any) -> Any:
    return _send(self, request, **{**options, "timeout": (5, READ_TIMEOUT)})


class Patient(HTTPAdapter):
    """Waits as long as it is told to, for requests that belong to no chain."""

    def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]  # whatever requests hands on
        return _send(self, request, **options)


def _sleep_short(_self: Any, duration: float) -> None:
    time.sleep(min(duration, LONGEST_WAIT))


def _retry_soon(_self: Any, _response: Any = None) -> None:
    time.sleep(LONGEST_WAIT)


@contextmanager
def impatient() -> Iterator[None]:
    """Cut the time-outs and the waits of every HTTP client in this process.

    They are cut below the libraries, where the SDK's clients, the storage client, phift's own and the credential's
    meet, so that how often each tries again stays what its makers chose.
    """
    with (
        mock.patch.object(HTTPAdapter, "send", _send_soon),
        mock.patch.object(HttpTransport, "sleep", _sleep_short),
        mock.patch.object(Retry, "sleep", _retry_soon),
    ):
        yield
