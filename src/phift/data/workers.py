"""Processes that work on parts of the data side by side; small data is not worth one, and is worked on right here.

Each is a plain ``python -m phift.data.workers`` with pipes, since the ways of `multiprocessing` run the user's script
again or copy a process full of threads. It ends when its pipe ends, so none outlives the process that began it; it is
out of reach of that one's Ctrl-C; and its memory is limited, so that a hostile file ends in an error.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias, TypeVar

from phift.errors import DataError, PhiftError

MOST_MEMORY = 1 << 30
"""Bytes of data that a process may have (``RLIMIT_DATA``); with ordinary files it has less than a tenth of it."""

LARGE = 128 << 20
"""Bytes; fewer are worked on here. To start processes takes half a second of processor time: two read 56 MB of JSONL no
sooner than one, 113 MB a quarter sooner, and on a busy machine not even 227 MB (2 cores of an AMD EPYC, 2026-11-29)."""

_MOST_PROCESSES = 8  # more would wait for the disk, and each takes memory

_ENVIRONMENT = {
    # Of pyarrow's allocators it gives back the most: 103 MB where the default keeps 159 (pyarrow 25, 2026-11-22).
    "ARROW_DEFAULT_MEMORY_POOL": "jemalloc",
    # Block after block needs the same megabytes; glibc would give them back each time, and have them cleared again.
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=16777216:glibc.malloc.trim_threshold=16777216"
    ":glibc.malloc.hugetlb=1",  # large pages, where there are some
}
"""What processes have in their environment unless the user has set it."""

Result = TypeVar("Result", covariant=True)
_Process: TypeAlias = "subprocess.Popen[bytes]"


class Task(Protocol[Result]):
    """Something to be done to a part of the data, with new files in a folder; results and errors cross a pipe."""

    def perform(self, folder: Path) -> Iterator[Result]: ...  # noqa: D102 - said above


class Workers:
    """Works on tasks in this process, or in as many others as there are processors; their files are in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[_Process] = []
        self._answers: queue.SimpleQueue[tuple[_Process, str, Any]] = queue.SimpleQueue()

    def start(self, *modules: str) -> None:
        """Start the processes, which import what their tasks will need while this one has other things to do."""
        if self._processes or not sys.executable:
            return
        environment = {**_ENVIRONMENT, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        for _ in range(min(_processors(), _MOST_PROCESSES)):
            process = subprocess.Popen(  # noqa: S603 - this module
                [sys.executable, "-P", "-m", "phift.data.workers", str(self._folder), *modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
            self._processes.append(process)
            threading.Thread(target=_listen, args=(process, self._answers), daemon=True).start()

    def run(self, tasks: Sequence[Task[Result]], *, side_by_side: bool) -> Iterator[tuple[int, Result]]:
        """Yield every result with its task's index; those of one task come in order.

        Raises what a task raises; the tasks that are left are then not worked on.
        """
        if side_by_side:
            self.start()
        if not (side_by_side and self._processes):
            yield from ((index, result) for index, task in enumerate(tasks) for result in task.perform(self._folder))
            return
        waiting, idle = enumerate(tasks), [*self._processes]
        busy: dict[_Process, int] = {}  # and the task that each works on
        while True:
            for process, (index, task) in zip(idle, waiting, strict=False):
                busy[process] = index
                with suppress(BrokenPipeError):  # it has ended, as its last answer will say
                    _send(process.stdin, task)
            if not busy:
                return
            process, kind, value = self._answers.get()
            if kind == "error":
                raise value
            idle = [process] if kind == "end" else []
            if kind == "result":
                yield busy[process], value
            else:
                del busy[process]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            with suppress(OSError), process:  # closing a pipe, for what could not be sent to a process that had ended
                process.wait()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _listen(process: _Process, answers: queue.SimpleQueue[tuple[_Process, str, Any]]) -> None:
    """Pass on what a process answers, until it ends; what goes wrong is an answer too."""
    assert process.stdout  # noqa: S101 - a pipe
    try:
        while True:
            answers.put((process, *pickle.load(process.stdout)))  # noqa: S301 - our own process wrote it
    except (EOFError, pickle.UnpicklingError):
        what = f"A process that reads the data ended on its own (exit code {process.wait()})."
        fix = "see its own message; where memory is short, prepare less data at a time"
        answers.put((process, "error", DataError(what, where="data", fix=fix)))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where the results are read
        answers.put((process, "error", error))


def _send(pipe: IO[bytes] | None, value: object) -> None:
    assert pipe  # noqa: S101 - both ends of ours are pipes
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def main() -> None:
    """Work on the tasks that come in, until no more can come."""
    with suppress(ImportError):  # not on every system
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = MOST_MEMORY if hard == resource.RLIM_INFINITY else min(MOST_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    sys.modules["numpy"] = None  # type: ignore[assignment] # not to be had: pyarrow can do without, and starts sooner
    for module in sys.argv[2:]:
        import_module(module)
    tasks, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a stray print must not end up among the answers
    while True:
        try:
            task = pickle.load(tasks)  # noqa: S301 - the process that began this one wrote it
        except EOFError:
            return
        where = str(getattr(task, "path", "data"))
        told: Exception
        try:
            for result in task.perform(Path(sys.argv[1])):
                _send(answers, ("result", result))
            _send(answers, ("end", None))
            continue
        except BrokenPipeError:
            return
        except (PhiftError, OSError) as error:
            told = error
        except MemoryError:
            what = f"A row or a batch of rows needs more than {MOST_MEMORY >> 30} GB of memory."
            told = DataError(what, where=where, fix="write it in smaller rows")
        except Exception as error:  # noqa: BLE001 - it is raised where the results are read
            # Not its text, which may quote the data.
            at = traceback.extract_tb(error.__traceback__)[-1]
            what = f"phift failed with a {type(error).__name__} in {Path(at.filename).name}, line {at.lineno}."
            fix = "please report this; converting the data to JSONL may avoid it"
            told = DataError(what, where=where, fix=fix)
        _send(answers, ("error", told))


if __name__ == "__main__":
    main()
