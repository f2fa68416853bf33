"""What the processes that compute have in common: nothing beyond this machine, and how they speak with their parent."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TextIO, TypeVar

from phift.errors import ModelError, PhiftError, redact
from phift.local import garbage

T = TypeVar("T")

SECONDS, MEMORY = 180, 4 << 30
"""What a model's tokenizer and its chat template may take to be opened, and for a row; the bytes come on top."""


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


def limited(results: Iterator[T], where: str) -> Iterator[T]:
    """Yield what somebody else's tokenizer or chat template, a program, makes of rows, within `SECONDS` and `MEMORY`.

    One that takes more memory or panics is a `phift.errors.ModelError`; one that does not answer ends this process by
    SIGALRM, since nothing else is heard where a library is stuck.
    """
    while True:
        try:
            with _alarm(SECONDS), _memory(MEMORY):
                result = list(islice(results, 1))
        except MemoryError:
            raise _texts_error(f"need more than {MEMORY >> 30} GB of memory for a row", where) from None
        except (Exception, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # Rust's panics are no Exception
            raise _texts_error(f"fail with a {type(error).__name__}", where) from error
        if not result:
            return
        yield result[0]


def too_slow(where: str) -> ModelError:
    """Return the error for a process that SIGALRM has ended."""
    return _texts_error(f"were stopped after {SECONDS} s with one row", where)


def _texts_error(what: str, where: str) -> ModelError:
    return ModelError(f"The model's tokenizer and chat template {what}.", where=where, fix="use another model")


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    if not hasattr(signal, "alarm"):  # not on every system
        yield
        return
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def taken_memory() -> int | None:
    """Return how many bytes of data this process has taken; None where nothing says it, as on macOS."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return int(status.read_text(encoding="ascii").partition("VmData:")[2].split()[0]) << 10


@contextmanager
def _memory(more: int) -> Iterator[None]:
    """Let this process take only so many more bytes of data; Linux alone holds it to that."""
    if (taken := taken_memory()) is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    most = min(each for each in (taken + more, *before) if each != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
