from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from phift.data.workers import DATA, Limits, Task, Workers, _send
from phift.errors import ConfigError, DataError
from unit.forked import in_a_forked_child

PROCESSES = 3


@dataclass(frozen=True)
class Count:
    """Yields numbers, each with the process that it comes from."""

    numbers: int

    def perform(self, folder: Path) -> Iterator[tuple[int, int, str]]:
        for number in range(self.numbers):
            print("a stray word")  # noqa: T201 - it must not end up among the results
            yield number, os.getpid(), folder.name


@dataclass(frozen=True)
class Kill:
    """Ends its own process."""

    def perform(self, _: Path) -> Iterator[Any]:
        yield "before"
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Refuse:
    """Raises an error of ours, with everything that belongs to one."""

    def perform(self, _: Path) -> Iterator[Any]:
        yield "before"
        raise DataError("It is bad.", where="a.jsonl:7", fix="mend it", problems=(("a.jsonl:7", "bad"),), refused=1)


@dataclass(frozen=True)
class Hoard:
    """Wants more memory than there is for it."""

    path: str = "hoard.parquet"

    def perform(self, _: Path) -> Iterator[Any]:
        yield len(bytearray(DATA.memory))


@dataclass(frozen=True)
class Blunder:
    """Raises what nobody expects."""

    path: str = "blunder.jsonl"

    def perform(self, _: Path) -> Iterator[Any]:
        nothing: dict[str, int] = {}
        yield nothing["missing"]


@dataclass(frozen=True)
class Panic:
    """Raises what is no `Exception`, as Rust's panics are none."""

    path: str = "panic.json"

    def perform(self, _: Path) -> Iterator[Any]:
        yield "before"
        raise BaseException(self)  # noqa: TRY002 - as Rust's is, which has no name to be imported by


@dataclass(frozen=True)
class Broken:
    """Raises an `OSError` that is none of the file system's, and cannot even be shown."""

    path: str = "broken.parquet"

    def perform(self, _: Path) -> Iterator[Any]:
        yield "before"

        class Mute(OSError):
            def __str__(self) -> str:
                raise ValueError

        raise Mute("a value")


@dataclass(frozen=True)
class Hang:
    """Answers once and then no more; a thread that hears of no signal is what a library has."""

    path: str = "hang.json"

    def perform(self, _: Path) -> Iterator[Any]:
        yield "before"
        re.match("(a+)+b", "a" * 99)
        yield "after"


@dataclass(frozen=True)
class Echo:
    """Yields what it was given."""

    said: int

    def perform(self, _: Path) -> Iterator[int]:
        yield self.said


@dataclass(frozen=True)
class Pile:
    """Yields megabytes, and writes down how many have been made."""

    def perform(self, folder: Path) -> Iterator[bytes]:
        for number in range(50):
            (folder / "made").write_text(str(number + 1))
            yield bytes(1 << 20)


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.ZombieProcess:  # another test's, which nobody has waited for
        return []


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setattr("phift.data.workers._processors", lambda: PROCESSES)
    before = set(threading.enumerate())
    with Workers(tmp_path) as running:
        yield running
        children = psutil.Process().children(recursive=True)
        mine = [child for child in children if any(str(tmp_path) in word for word in command_of(child))]
    assert not any(child.is_running() for child in mine)
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)
    assert set(threading.enumerate()) <= before


def test_every_result_comes_once_and_those_of_a_task_in_order(workers: Workers) -> None:
    tasks = [Count(number) for number in range(20)]
    found: dict[int, list[int]] = {index: [] for index in range(20)}
    processes = set()
    for index, (number, process, _) in workers.run(tasks, side_by_side=True):
        found[index].append(number)
        processes.add(process)
    assert found == {index: list(range(index)) for index in range(20)}
    assert os.getpid() not in processes
    assert 1 <= len(processes) <= PROCESSES


def test_the_same_processes_work_again(workers: Workers) -> None:
    first = {result[1] for _, result in workers.run([Count(1)] * 9, side_by_side=True)}
    again = {result[1] for _, result in workers.run([Count(1)] * 9, side_by_side=True)}
    assert len(first | again) <= PROCESSES


def test_little_is_done_right_here(workers: Workers, tmp_path: Path) -> None:
    results = list(workers.run([Count(2), Count(1)], side_by_side=False))
    assert results == [
        (0, (0, os.getpid(), tmp_path.name)),
        (0, (1, os.getpid(), tmp_path.name)),
        (1, (0, os.getpid(), tmp_path.name)),
    ]


@pytest.mark.parametrize("side_by_side", [True, False])
def test_an_error_of_ours_comes_whole(workers: Workers, side_by_side: bool) -> None:
    tasks: list[Task[Any]] = [Count(3), Refuse(), Count(3)]
    with pytest.raises(DataError, match="It is bad") as caught:
        list(workers.run(tasks, side_by_side=side_by_side))
    assert (caught.value.where, caught.value.fix) == ("a.jsonl:7", "mend it")
    assert vars(caught.value)["refused"] == 1
    assert caught.value.problems == (("a.jsonl:7", "bad"),)


def test_a_process_that_is_killed_is_told_at_once(workers: Workers) -> None:
    tasks: list[Task[Any]] = [Count(3), Kill(), Count(3)]
    with pytest.raises(DataError, match=r"ended on its own \(exit code -9\)"):
        list(workers.run(tasks, side_by_side=True))


def test_too_much_memory_is_an_error_with_its_place(workers: Workers) -> None:
    with pytest.raises(DataError, match="needs more than 1 GB of memory") as caught:
        list(workers.run([Hoard()], side_by_side=True))
    assert caught.value.where == "hoard.parquet"


def test_a_blunder_is_not_swallowed_and_says_where_it_is(workers: Workers) -> None:
    with pytest.raises(DataError, match=r"failed with a KeyError in test_workers\.py, line \d+") as caught:
        list(workers.run([Blunder()], side_by_side=True))
    assert caught.value.where == "blunder.jsonl"


def test_an_idle_process_that_is_killed_is_told_and_the_others_go(workers: Workers) -> None:
    list(workers.run([Count(1)] * 9, side_by_side=True))
    victim = psutil.Process(next(iter(workers._processes)).pid)
    victim.kill()
    victim.wait()
    with pytest.raises(DataError, match="ended on its own"):
        list(workers.run([Count(50)] * 99, side_by_side=True))


def test_a_module_of_the_current_folder_is_not_taken_for_pythons(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "csv.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    assert len(list(workers.run([Count(2)], side_by_side=True))) == 2


def test_each_of_several_threads_gets_its_own_answers(tmp_path: Path) -> None:
    with Workers(tmp_path, most=1) as workers, ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda number: workers.only(Echo(number)), range(400))) == list(range(400))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_copy_of_the_process_has_workers_of_its_own(tmp_path: Path) -> None:
    with Workers(tmp_path, Limits(seconds=20), most=1) as workers:
        assert workers.only(Echo(1)) == 1
        assert in_a_forked_child(lambda: workers.only(Echo(2)) == 2)

        def ends() -> bool:
            signal.alarm(60)
            workers.end()  # as when a process exits
            return True

        assert in_a_forked_child(ends)
        assert workers.only(Echo(3)) == 3


def test_results_that_nobody_takes_keep_nobody_waiting(workers: Workers) -> None:
    for index, _ in workers.run([Count(1000)] * 20, side_by_side=True):
        assert index < 20
        break


@pytest.mark.parametrize(("task", "name"), [(Panic(), "BaseException"), (Broken(), "Mute")])
def test_whatever_is_raised_names_what_was_read(workers: Workers, task: Task[Any], name: str) -> None:
    with pytest.raises(DataError, match=f"failed with a {name} in test_workers.py") as caught:
        list(workers.run([task], side_by_side=True))
    assert caught.value.where == getattr(task, "path", None)


def test_what_does_not_end_is_ended_and_the_next_task_is_worked_on(tmp_path: Path) -> None:
    limits = Limits(what="tokenizer", fix="name another one", seconds=2)
    with Workers(tmp_path, limits, most=1) as workers:
        started = time.monotonic()
        with pytest.raises(
            DataError, match=r"Reading the tokenizer was stopped after 2 s, which PHIFT_SECONDS raises"
        ) as caught:
            list(workers.run([Hang()], side_by_side=True))
        assert time.monotonic() - started < 20
        assert caught.value.where == "hang.json"
        assert caught.value.fix == "name another one"
        assert [result for _, result in workers.run([Count(2)], side_by_side=True) if result[0] == 1]


def test_what_does_not_end_ends_itself_where_nobody_is_left_to_end_it(tmp_path: Path) -> None:
    with Workers(tmp_path, Limits(seconds=1), most=1) as workers:
        workers.start()
        ((process, _),) = workers._processes.items()
        _send(process.stdin, Hang())
        assert process.wait(60) == -signal.SIGALRM


def test_results_that_nobody_takes_wait_and_are_not_late(tmp_path: Path) -> None:
    with Workers(tmp_path, Limits(seconds=5), most=1) as workers:
        results = workers.run([Count(20_000)], side_by_side=True)
        next(results)
        time.sleep(7)
        assert len(list(results)) == 19_999


def test_results_that_nobody_takes_pile_up_to_a_few(tmp_path: Path) -> None:
    with Workers(tmp_path, most=1) as workers:
        results = workers.run([Pile()], side_by_side=True)
        next(results)
        time.sleep(2)
        assert int((tmp_path / "made").read_text()) <= 5  # one is taken, two wait, one is handed over and one sent
        assert len(list(results)) == 49


def test_a_limit_is_raised_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIFT_MEMORY_GB", "2.5")
    monkeypatch.setenv("PHIFT_SECONDS", "7")
    assert (DATA.raised().memory, DATA.raised().seconds) == (5 << 29, None)
    assert [Limits(seconds=given).raised().seconds for given in (2, 9)] == [7, 9]
    with Workers(tmp_path, most=1) as workers:
        assert list(workers.run([Hoard()], side_by_side=True)) == [(0, DATA.memory)]
    monkeypatch.setenv("PHIFT_SECONDS", "soon")
    with pytest.raises(ConfigError, match="PHIFT_SECONDS is not a number"):
        DATA.raised()
