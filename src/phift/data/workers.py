"""Processes for what may be hostile, broken or long: parts of the data side by side, tokenizers, data sets of the Hub.

Each is a plain ``python -m phift.data.workers`` with pipes, since the ways of `multiprocessing` run the user's script
again or copy a process full of threads. It ends when its pipe ends, so none outlives the process that began it; it is
out of reach of that one's Ctrl-C; and its memory is limited, and its time where nothing else makes it end, so that
hostile input ends in an error. Small data of formats that are read here is not worth a process.
"""

from __future__ import annotations

import math
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias, TypeVar

from phift.errors import ConfigError, DataError, ModelError, PhiftError

LARGE = 128 << 20
"""Bytes; fewer are worked on here. To start processes takes half a second of processor time: two read 56 MB of JSONL no
sooner than one, 113 MB a quarter sooner, and on a busy machine not even 227 MB (2 cores of an AMD EPYC, 2026-11-29)."""

_MOST_PROCESSES = 8  # more would wait for the disk, and each takes memory
_MOST = 1e6  # of what the environment asks for
_MOST_ANSWERS = 2  # of each process that wait to be taken, since they take memory here; then the process waits

_ENVIRONMENT = {
    # Of pyarrow's allocators it gives back the most: 103 MB where the default keeps 159 (pyarrow 25, 2026-11-22).
    "ARROW_DEFAULT_MEMORY_POOL": "jemalloc",
    # Block after block needs the same megabytes; glibc would give them back each time, and have them cleared again.
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=16777216:glibc.malloc.trim_threshold=16777216"
    ":glibc.malloc.hugetlb=1",  # large pages, where there are some
    # numpy would take memory for a thread on each processor; nothing here multiplies matrices.
    "OPENBLAS_NUM_THREADS": "1",
}
"""What processes have in their environment unless the user has set it."""

Result = TypeVar("Result", covariant=True)
_Process: TypeAlias = "subprocess.Popen[bytes]"
_Answers: TypeAlias = "queue.Queue[tuple[_Process, str, Any]]"


class Task(Protocol[Result]):
    """Something to be done to a part of the data, with new files in a folder; results and errors cross a pipe.

    Its ``path``, if it has one, is the place that an error names.
    """

    def perform(self, folder: Path) -> Iterator[Result]: ...  # noqa: D102 - said above


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a process may have; whoever needs more raises it in the environment.

    - **what**: what it works on, **fix**: the way out besides, and **error**: which of ours, all for errors.
    - **memory**: bytes of data (``RLIMIT_DATA``), a whole number of gigabytes; ``PHIFT_MEMORY_GB`` raises it.
    - **seconds**: until it answers, once and again, where nothing else makes it end; ``PHIFT_SECONDS`` raises it.
    - **file**: bytes of each file that it writes (``RLIMIT_FSIZE``).
    - **numpy**: whether it may import that: pyarrow can do without, and starts sooner.
    """

    what: str = "data"
    fix: str = "write it in smaller rows"
    error: type[DataError | ModelError] = DataError
    memory: int = 1 << 30
    seconds: float | None = None
    file: int | None = None
    numpy: bool = False

    def raised(self) -> Limits:
        """Return them as the environment raises them."""
        memory = max(self.memory, int(_of_environment("PHIFT_MEMORY_GB") * (1 << 30)))
        seconds = _of_environment("PHIFT_SECONDS")
        return replace(self, memory=memory, seconds=None if self.seconds is None else max(self.seconds, seconds))

    def too_slow(self, where: str) -> PhiftError:
        """Return the error for a process that does not answer."""
        what = f"Reading the {self.what} was stopped after {self.seconds:.0f} s, which PHIFT_SECONDS raises."
        return self.error(what, where=where, fix=self.fix)

    def too_big(self, where: str) -> PhiftError:
        """Return the error for a process that wants more memory than there is for it."""
        what = (
            f"Reading the {self.what} needs more than {self.memory >> 30} GB of memory, which PHIFT_MEMORY_GB raises."
        )
        return self.error(what, where=where, fix=self.fix)

    def ended(self, code: int, where: str) -> PhiftError:
        """Return the error for a process that has ended by itself."""
        what = f"A process that reads the {self.what} ended on its own (exit code {code})."
        fix = f"it may be broken, or need more than {self.memory >> 30} GB: {self.fix}; or set PHIFT_MEMORY_GB to more"
        return self.error(what, where=where, fix=fix)

    def failed(self, error: BaseException, where: str) -> PhiftError:
        """Return the error for one that nobody expects; not its text, which may quote the data."""
        at = traceback.extract_tb(error.__traceback__)[-1]
        name, line = Path(at.filename).name, at.lineno
        what = f"Reading the {self.what} failed with a {type(error).__name__} in {name}, line {line}."
        return self.error(what, where=where, fix=f"it may be broken: {self.fix}; else please report this")


def _of_environment(name: str) -> float:
    text = os.environ.get(name) or "0"
    with suppress(ValueError):
        if 0 <= (value := float(text)) <= _MOST:
            return value
    raise ConfigError(f"{name} is not a number.", where=name, fix="set it to a number, or not at all")


DATA = Limits()


class Workers:
    """Works on tasks in this process, or in as many others as there are processors; their files are in one folder.

    Processes that nobody has ended end with it, or with this one.

    - **most**: how many processes there are at most.
    """

    def __init__(self, folder: Path, limits: Limits = DATA, *, most: int = _MOST_PROCESSES) -> None:
        self._folder = folder
        self._limits = limits
        self._most = most
        self._turn = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        """Have no processes; those of the process that this one is a copy of go on for that one."""
        self._owner = os.getpid()
        self._processes: dict[_Process, threading.Thread] = {}  # and who listens to each
        self._answers: _Answers = queue.Queue(self._most * _MOST_ANSWERS)
        weakref.finalize(self, _end, self._owner, self._processes, self._answers)

    def start(self, *modules: str) -> None:
        """Start the processes, which import what their tasks will need while this one has other things to do."""
        if self._owner != os.getpid():
            self._begin()
        if self._processes or not sys.executable:
            return
        limits = self._limits.raised()
        environment = {**_ENVIRONMENT, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        for _ in range(min(_processors(), self._most)):
            process = subprocess.Popen(  # noqa: S603 - this module
                [sys.executable, "-P", "-m", "phift.data.workers", str(self._folder), *modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # where libraries say what they like, rows among it
                env=environment,
                start_new_session=True,
            )
            with suppress(BrokenPipeError):  # it has ended, as its last answer will say
                _send(process.stdin, limits)
            listener = threading.Thread(target=_listen, args=(process, self._answers), daemon=True)
            listener.start()
            self._processes[process] = listener

    def run(self, tasks: Sequence[Task[Result]], *, side_by_side: bool) -> Iterator[tuple[int, Result]]:
        """Yield every result with its task's index; those of one task come in order. One thread asks at a time.

        Raises what a task raises; the tasks that are left are then not worked on.
        """
        if side_by_side:
            self.start()
        if not (side_by_side and self._processes):
            yield from ((index, result) for index, task in enumerate(tasks) for result in task.perform(self._folder))
            return
        limits = self._limits.raised()
        waiting, idle = enumerate(tasks), [*self._processes]
        busy: dict[_Process, int] = {}  # and the task that each works on
        try:
            while True:
                for process, (index, task) in zip(idle, waiting, strict=False):
                    busy[process] = index
                    with suppress(BrokenPipeError):  # it has ended, as its last answer will say
                        _send(process.stdin, task)
                if not busy:
                    return
                idle = []
                try:
                    process, kind, value = self._answers.get(timeout=limits.seconds)
                except queue.Empty:
                    raise limits.too_slow(_place(tasks[min(busy.values())])) from None
                match kind:
                    case "result":
                        yield busy[process], value
                    case "end":
                        del busy[process]
                        idle = [process]
                    case "error":
                        del busy[process]
                        raise value
                    case "memory":
                        raise limits.too_big(_place(tasks[busy[process]]))
                    case _ if process in busy:
                        where = _place(tasks[busy[process]])
                        raise limits.too_slow(where) if value == -signal.SIGALRM else limits.ended(value, where)
                    case _:  # one that had nothing to do
                        del self._processes[process]
        finally:
            if busy:  # what is left of their answers must not be taken for another task's
                self.end()

    def only(self, task: Task[Result]) -> Result:
        """Return the one result of a task out of a process; several threads may ask, in turn."""
        with self._turn:
            ((_, result),) = self.run([task], side_by_side=True)
        return result

    def end(self) -> None:
        """End the processes; others are started where they are needed again."""
        _end(self._owner, self._processes, self._answers)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _end(owner: int, processes: dict[_Process, threading.Thread], answers: _Answers) -> None:
    if owner != os.getpid():  # a copy of it: those who listen are not in it, and their pipes are locked for ever
        return
    while processes:
        process, listener = processes.popitem()
        process.kill()
        with suppress(OSError), process:  # closing a pipe, for what could not be sent to a process that had ended
            process.wait()
        while listener.is_alive():  # until nothing more can come, and nothing keeps it
            _drain(answers)
            listener.join(0.01)
    _drain(answers)


def _drain(answers: _Answers) -> None:
    with suppress(queue.Empty):
        while True:
            answers.get_nowait()


def _place(task: object) -> str:
    return str(getattr(task, "path", "data"))


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _listen(process: _Process, answers: _Answers) -> None:
    """Pass on what a process answers, until it ends or says what cannot be read, which is an answer too."""
    assert process.stdout  # noqa: S101 - a pipe
    with suppress(Exception):  # half an answer, of a process that has ended
        while True:
            answers.put((process, *pickle.load(process.stdout)))  # noqa: S301 - our own process wrote it
    process.kill()
    answers.put((process, "ended", process.wait()))


def _send(pipe: IO[bytes] | None, value: object) -> None:
    assert pipe  # noqa: S101 - both ends of ours are pipes
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


# ---------------------------------------------------------------- the process


def main() -> None:
    """Work on the tasks that come in, until no more can come."""
    tasks, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a stray print must not end up among the answers
    limits: Limits = pickle.load(tasks)  # noqa: S301 - the process that began this one wrote it
    _limit(limits)
    if not limits.numpy:
        sys.modules["numpy"] = None  # type: ignore[assignment] # not to be had
    for module in sys.argv[2:]:
        import_module(module)
    while True:
        try:
            task = pickle.load(tasks)  # noqa: S301 - the process that began this one wrote it
        except EOFError:
            return
        answer: tuple[str, Any] = ("end", None)
        try:
            for result in _in_time(task.perform(Path(sys.argv[1])), limits.seconds):
                _send(answers, ("result", result))
        except BrokenPipeError:
            return
        except PhiftError as error:
            answer = "error", error
        except MemoryError:
            answer = "memory", None
        except BaseException as error:  # noqa: BLE001 - Rust's panics are no Exception; told where the results are read
            of_files = isinstance(error, OSError) and error.strerror  # others say something else with the same class
            answer = "error", error if of_files else limits.failed(error, _place(task))
        _send(answers, answer)


def _limit(limits: Limits) -> None:
    with suppress(ImportError):  # not on every system
        import resource

        for kind, most in ((resource.RLIMIT_DATA, limits.memory), (resource.RLIMIT_FSIZE, limits.file)):
            if most is not None:
                _, hard = resource.getrlimit(kind)
                resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _in_time(results: Iterator[Result], seconds: float | None) -> Iterator[Result]:
    """Yield the results, or let the system end this process when one does not come.

    Whoever waits for it ends it too, but may be gone by then; and code that is stuck in a library hears no signal that
    Python would handle. While a result is taken the time stands still.
    """
    if seconds is None or not hasattr(signal, "alarm"):  # not on every system
        yield from results
        return
    while True:
        signal.alarm(math.ceil(seconds) + 1)
        try:
            result = next(results)
        except StopIteration:
            return
        finally:
            signal.alarm(0)
        yield result


if __name__ == "__main__":
    main()
