"""When a process of phift's own looks for garbage."""

from __future__ import annotations

import atexit
import gc

# New objects before Python looks, instead of 700. What the SDK, MLflow, torch and transformers make at their import
# stays, and was looked through again and again: with both lines below the import of the SDK and MLflow takes 18 s of
# 30, and a short training in the local workspace 60 s of 89 (2026-11-29, slow cores).
_NEW_OBJECTS = 100_000


def look_seldom() -> None:
    """Look for garbage seldom, and not once more at the end; for a program's first line, since it counts for imports.

    A library must not call it: it is the whole process's.
    """
    gc.set_threshold(_NEW_OBJECTS)
    atexit.register(gc.freeze)  # what is frozen is not looked at when the interpreter ends, which took seconds
