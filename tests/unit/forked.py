"""Work in a copy of the process; what tasks of processes are tested with imports it, so it stays light."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_a_forked_child(work: Callable[[], bool]) -> bool:
    """Return what the work came to in a child that has a copy of everything here."""
    child = os.fork()
    if child == 0:
        came_to = False
        try:
            came_to = work()
        finally:
            os._exit(0 if came_to else 1)
    return os.waitpid(child, 0)[1] == 0
