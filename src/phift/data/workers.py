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
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Protocol, TypeAlias, TypeVar

from phift.data.spool import Spool
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


class Task(Protocol[Result]):
    """Something to be done to a part of the data; its results, none of them None, and the errors cross a pipe."""

    def perform(self, spool: Spool) -> Iterator[Result]: ...  # noqa: D102 - said above


class Workers:
    """Works on tasks in this process, or in as many others as there are processors.

    - **folder**: where each process keeps its spool.
    """

    def __init__(self, folder: Path) -> None:
        self.here = Spool(folder / "here.rows")
        self._folder = folder
        self._processes: list[_Process] = []

    def start(self, *modules: str) -> None:
        """Start the processes, which import what their tasks will need while this one has other things to do."""
        if sys.executable and not self._processes:
            for number in range(min(_processors(), _MOST_PROCESSES)):
                self._processes.append(_Process(self._folder / f"worker-{number}.rows", modules))

    def run(self, tasks: Sequence[Task[Result]], *, side_by_side: bool) -> Iterator[tuple[int, Result]]:
        """Yield every result with its task's index; those of one task come in order.

        Raises what a task raises; the tasks that are left are then not worked on.
        """
        if side_by_side:
            self.start()
        if not (side_by_side and self._processes):
            yield from ((index, result) for index, task in enumerate(tasks) for result in task.perform(self.here))
            return
        waiting: _Waiting[Result] = queue.SimpleQueue()
        for numbered in enumerate(tasks):
            waiting.put(numbered)
        results: _Results[Result] = queue.SimpleQueue()
        busy = self._processes[: len(tasks)]
        for process in busy:
            threading.Thread(target=process.work, args=(waiting, results), daemon=True).start()
        idle = 0
        while idle < len(busy):
            index, result = results.get()
            if isinstance(result, Exception):
                raise result
            if result is None:
                idle += 1
            else:
                yield index, result

    def ask(self, task: Task[Result]) -> Result:
        """Return the one result of a task, done in another process."""
        ((_, result),) = self.run([task], side_by_side=True)
        return result

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        self.here.close()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_Waiting: TypeAlias = "queue.SimpleQueue[tuple[int, Task[Result]]]"
_Results: TypeAlias = "queue.SimpleQueue[tuple[int, Result | Exception | None]]"


class _Process:
    """One process, seen from the one that began it."""

    def __init__(self, spool: Path, modules: Sequence[str]) -> None:
        environment = {**_ENVIRONMENT, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(  # noqa: S603 - this module
            [sys.executable, "-P", "-m", "phift.data.workers", str(spool), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )

    def work(self, waiting: _Waiting[Result], results: _Results[Result]) -> None:
        """Hand over tasks until none is waiting, then report None; what goes wrong is a result too."""
        tasks, answers = self._process.stdin, self._process.stdout
        assert tasks is not None and answers is not None  # noqa: S101, PT018 - both are pipes, see above
        try:
            while True:
                index, task = waiting.get_nowait()
                _send(tasks, task)
                while (answer := pickle.load(answers))[0] == "result":  # noqa: S301 - our own process wrote it
                    results.put((index, answer[1]))
                if answer[0] == "error":
                    results.put((-1, answer[1]))
                    return
        except queue.Empty:
            results.put((-1, None))
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            what = f"A process that reads the data ended on its own (exit code {self._process.wait()})."
            fix = "see its own message; where memory is short, prepare less data at a time"
            ended = DataError(what, where="data", fix=fix)
            ended.__cause__ = error
            results.put((-1, ended))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where the results are read
            results.put((-1, error))

    def kill(self) -> None:
        """Stop it, whatever it is at, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(OSError):  # what could not be sent to a process that had ended
                    pipe.close()


def _send(pipe: IO[bytes], value: object) -> None:
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
    with closing(Spool(Path(sys.argv[1]))) as spool:
        while True:
            try:
                task = pickle.load(tasks)  # noqa: S301 - the process that began this one wrote it
            except EOFError:
                return
            try:
                for result in task.perform(spool):
                    _send(answers, ("result", result))
                _send(answers, ("end", None))
            except BrokenPipeError:
                return
            except (PhiftError, OSError) as error:
                _send(answers, ("error", error))
            except MemoryError:
                what = f"A row or a batch of rows needs more than {MOST_MEMORY >> 30} GB of memory."
                where = str(getattr(task, "path", "data"))
                _send(answers, ("error", DataError(what, where=where, fix="write it in smaller rows")))
            except Exception as error:  # noqa: BLE001 - it is raised where the results are read
                # Not its text, which may quote the data.
                at = traceback.extract_tb(error.__traceback__)[-1]
                what = f"phift failed with a {type(error).__name__} in {Path(at.filename).name}, line {at.lineno}."
                fix = "please report this; converting the data to JSONL may avoid it"
                where = str(getattr(task, "path", "data"))
                _send(answers, ("error", DataError(what, where=where, fix=fix)))


if __name__ == "__main__":
    main()
