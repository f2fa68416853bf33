"""What the processes that compute have in common: nothing beyond this machine, and how they speak with their parent."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TextIO

from phift import garbage
from phift.errors import PhiftError, redact


def threads() -> int:
    """Return how many threads to compute with: what ``OMP_NUM_THREADS`` says, as torch itself goes by, or four.

    A small model gets slower with more.
    """
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # then come those of nested regions
    return min(int(told) if told.isdecimal() and int(told) else 4, os.cpu_count() or 1)


def prepare() -> None:
    """Set up this process; what is set counts when torch, transformers and mlflow are imported, so call this before."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TOKENIZERS_PARALLELISM": "false",  # it complains when a data loader forks
        # Threads that wait sleep. By default they spin, and a step beside another busy process took ten times as long.
        "OMP_WAIT_POLICY": "passive",
    }
    garbage.look_seldom()


def own_output() -> TextIO:
    """Return stdout for this process's own lines; whatever else is printed goes to stderr from now on."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return output


def end_with_parent() -> None:
    """End this process with code 75 as soon as stdin ends, which the parent holds open."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(75)

    threading.Thread(target=wait, daemon=True).start()


def log_to(path: Path) -> None:
    """Make ``path`` the place of everything written to stdout and stderr, by this process and its children."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def flush() -> None:
    """Write out what has been printed."""
    sys.stdout.flush()
    sys.stderr.flush()


def failure(error: Exception) -> str:
    """Return what happened, where, and the way out, in a line; of an error that is not phift's, type and first line."""
    if isinstance(error, PhiftError):
        where = f" ({error.where})" if error.where else ""
        fix = f": {error.fix}" if error.fix else ""
        return " ".join(f"{error.what.rstrip('.')}{where}{fix}".split())
    first = next(iter(str(error).splitlines()), "")
    return redact(f"{type(error).__name__}: {first}")[:400]
