"""Who serves a local workspace's folder, as the server itself notes it there."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass

from phift.local.state.folder import Folder

_PIDS = range(1, 2**31)  # to kill(2), those below are groups of processes


@dataclass(frozen=True)
class Served:
    """A running server: its process and port, and how it was started, which phift of before 2026-12 does not tell."""

    pid: int
    port: int
    created_at: float | None = None
    version: str | None = None
    engine: str | None = None
    speed: str | None = None
    datastores: str | None = None
    delay: float | None = None

    def as_bytes(self) -> bytes:
        """Return what `Folder.server_file` holds."""
        return json.dumps(asdict(self)).encode()


def note_process(place: Folder, pid: int) -> None:
    """Write down, before anything else, which process has claimed a folder, so that it can be ended in any case."""
    if not place.server_lock.is_dir():
        place.server_lock.write_text(str(pid), encoding="ascii")  # into the file that is locked, and into no new one


def noted_process(place: Folder) -> int | None:
    """Return which process the lock names; that of an earlier phift names none."""
    with suppress(OSError, ValueError):
        found = int(place.server_lock.read_bytes())
        return found if found in _PIDS else None
    return None


def process_of(place: Folder) -> int | None:
    """Return which process serves a folder that is claimed; None where nothing tells it, or two notes disagree."""
    found = _read(place)
    told = {noted_process(place), found.pid if found else None} - {None}
    return told.pop() if len(told) == 1 else None


def read_served(place: Folder) -> Served | None:
    """Return who serves a folder that is claimed; None where it is not written down, or notes disagree."""
    found = _read(place)
    return found if found and found.pid == process_of(place) else None


def _read(place: Folder) -> Served | None:
    try:
        told = json.loads(place.server_file.read_bytes())
        known = {name: told[name] for name in Served.__dataclass_fields__ if name in told}
        found = Served(**known)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    numbers = type(found.pid) is int and type(found.port) is int
    return found if numbers and found.pid in _PIDS and 0 < found.port < 65536 else None
