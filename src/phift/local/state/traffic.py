"""The requests that endpoints have answered, minute by minute and deployment by deployment."""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from phift.local.state.documents import Documents, Json

logger = logging.getLogger(__name__)

_KEPT = 7 * 24 * 60  # minutes; Azure Monitor keeps 93 days of them
_MOST_TIMES = 200  # of a minute and a deployment; of more there is a sample


class Answered(NamedTuple):
    """How a request was answered: the endpoint's status, and the model's own where that is another one."""

    status: int
    of_model: int


@dataclass
class Minute:
    """What one deployment answered in a minute.

    - **milliseconds**: how long each answer took, or a random sample of them.
    """

    answered: Counter[Answered] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)

    def note(self, answered: Answered, milliseconds: float) -> None:
        """Count an answer."""
        self.answered[answered] += 1
        if len(self.milliseconds) < _MOST_TIMES:
            self.milliseconds.append(milliseconds)
        elif (place := random.randrange(self.answered.total())) < _MOST_TIMES:  # noqa: S311 - a sample
            self.milliseconds[place] = milliseconds


class Traffic:
    """The minutes of all endpoints: the one under way in memory, those before it among the documents.

    A server that is killed forgets the minute under way, and nothing else. Those of an endpoint that is deleted stay,
    as they do at Azure, and belong to the next one of its name.
    """

    def __init__(self, documents: Documents, now: Callable[[], float]) -> None:
        self._documents, self._now = documents, now
        self._lock = threading.Lock()
        self._minute = 0
        self._open: dict[str, dict[str, Minute]] = {}  # by endpoint and deployment

    def note(self, endpoint: str, deployment: str, answered: Answered, milliseconds: float) -> None:
        """Count an answer that has just been given."""
        with self._lock:
            minute = int(self._now() // 60)
            if minute != self._minute:
                self._store()
                self._minute = minute
            self._open.setdefault(endpoint.lower(), {}).setdefault(deployment, Minute()).note(answered, milliseconds)

    def minutes(self, endpoint: str, first: int, end: int) -> Iterator[tuple[int, str, Minute]]:
        """Yield the minutes since 1970 from ``first`` to before ``end``, each with a deployment that answered in it."""
        with self._lock:
            self._store()
        for document in self._documents.walk(f"traffic/{endpoint.lower()}", newest_first=True):
            if (minute := int(document.name)) < first:
                return
            if minute < end:
                for deployment, told in document.body.items():
                    yield minute, deployment, _read(told)

    def close(self) -> None:
        """Write down the minute under way."""
        with self._lock:
            self._store()

    def clear(self) -> None:
        """Forget the minute under way."""
        with self._lock:
            self._open = {}

    def _store(self) -> None:
        taken, self._open = self._open, {}
        try:
            for endpoint, deployments in taken.items():
                parent = f"traffic/{endpoint}"
                with self._documents.transaction():
                    for document in self._documents.walk(parent):
                        if int(document.name) >= self._minute - _KEPT:
                            break
                        self._documents.delete(document.key)
                    before = self._documents.get(f"{parent}/{self._minute}")
                    body = dict(before.body) if before else {}
                    for name, minute in deployments.items():
                        body[name] = _written(minute, _read(body.get(name, {})))
                    self._documents.put(f"{parent}/{self._minute}", body)
        except sqlite3.Error:  # a full disk keeps nobody from an answer
            logger.warning("The requests of a minute were not written down", exc_info=True)


def _read(told: Json) -> Minute:
    answered = {Answered(*map(int, codes.split("/"))): count for codes, count in told.get("answered", {}).items()}
    return Minute(Counter(answered), list(told.get("milliseconds", ())))


def _written(minute: Minute, before: Minute) -> Json:
    """Return two parts of a minute as one."""
    times = before.milliseconds + [round(each, 1) for each in minute.milliseconds]
    answered = before.answered + minute.answered
    return {
        "answered": {f"{codes.status}/{codes.of_model}": count for codes, count in answered.items()},
        "milliseconds": random.sample(times, min(len(times), _MOST_TIMES)),
    }
