"""The machine that the local engine runs on: for the engine, for the check, and for what reads a model."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

SMALL = 20_000_000
"""Below so many parameters a model's steps are too short for what else makes them faster: threads, 16-bit floats."""

_MEMORY, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return how many bytes programs can take before the machine swaps; None where nothing says it, as on macOS.

    It is Linux's own estimate (``MemAvailable``, proc_meminfo(5), 2026-11), and no more than what a container has left
    of what it may have (``memory.max``, ``memory.current``, kernel.org, cgroup-v2, 2026-11). Files that were read and
    lie in memory unused (``inactive_file``) give way.
    """
    found = [_of_machine("MemAvailable"), _left_of_container()]
    return min((each for each in found if each is not None), default=None)


def total_memory() -> int | None:
    """Return how many bytes the machine has, or its container may have; None where nothing says it."""
    found = [_of_machine("MemTotal"), _of_container("memory.max")]
    return min((each for each in found if each is not None), default=None)


def _of_machine(what: str) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        return int(_MEMORY.read_text(encoding="ascii").partition(f"{what}:")[2].split()[0]) << 10
    return None


def _of_container(what: str) -> int | None:
    with suppress(OSError, ValueError):  # "max" is no limit
        return int((_GROUP / what).read_text(encoding="ascii"))
    return None


def _left_of_container() -> int | None:
    most, taken = _of_container("memory.max"), _of_container("memory.current") or 0
    if most is None:
        return None
    with suppress(OSError, ValueError, IndexError):
        statistics = (_GROUP / "memory.stat").read_text(encoding="ascii")
        taken -= int(statistics.partition("\ninactive_file ")[2].split()[0])
    return most - max(0, taken)
