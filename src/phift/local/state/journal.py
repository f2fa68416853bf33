"""The last requests a local workspace has answered, for whoever tests a program against it."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import asdict, dataclass

from phift.local.state.documents import Json


@dataclass(frozen=True)
class Entry:
    """One answered request.

    - **number**: counted from 1, since the server's start.
    - **operation**: the route, ``PUT jobs/{name}``; the request itself where no route is served.
    - **place**: the request, ``PUT jobs/my-job``; without the query, where signatures travel.
    - **status**: of the answer; 0 where the connection was cut instead.
    """

    number: int
    operation: str
    place: str
    status: int


class Journal:
    """The last requests, and a count of those that no route serves.

    - **ever_unserved**: these, each with how often it came since the server's start; **unserved**: since `clear`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._entries: deque[Entry] = deque(maxlen=20_000)
        self.unserved: Counter[str] = Counter()
        self.ever_unserved: Counter[str] = Counter()

    def note(self, operation: str, place: str, status: int) -> None:
        """Add a request."""
        with self._lock:
            self._number += 1
            self._entries.append(Entry(self._number, operation, place, status))

    def note_unserved(self, place: str) -> None:
        """Count a request that no route serves."""
        with self._lock:
            self.unserved[place] += 1
            self.ever_unserved[place] += 1

    def since(self, number: int) -> list[Json]:
        """Return the requests after the one with this number."""
        with self._lock:
            return [asdict(entry) for entry in self._entries if entry.number > number]

    def clear(self) -> None:
        """Forget the requests; the numbers go on."""
        with self._lock:
            self._entries.clear()
            self.unserved.clear()
