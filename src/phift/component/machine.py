"""The machine that the local engine runs on, as far as memory goes: for the check, and for what reads a model."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_MEMORY, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")


def available_memory() -> int | None:
    """Return how many bytes programs can take before the machine swaps; None where nothing says it, as on macOS.

    It is Linux's own estimate (``MemAvailable``, proc_meminfo(5), 2026-11), and no more than what a container may have
    (``memory.max``, kernel.org, cgroup-v2, 2026-11).
    """
    found = []
    with suppress(OSError, ValueError, IndexError):
        found.append(int(_MEMORY.read_text(encoding="ascii").partition("MemAvailable:")[2].split()[0]) << 10)
    with suppress(OSError, ValueError):
        found.append(int(_GROUP.read_text(encoding="ascii")))
    return min(found, default=None)
