"""Being killed or interrupted: what is there afterwards is whole, the next run goes on, and Ctrl-C works at once."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import xxhash

from phift.config.data import DataConfig
from phift.data.prepare import prepare_dataset

KILLS = int(os.environ.get("PHIFT_KILLS", "10"))
ROWS = 12_000
ID = "00000000-0000-0000-0000-000000000001"  # of a subscription, a tenant and an application that are not there

SCRIPT = """
import sys, time
from pathlib import Path
from unittest import mock
from phift.config.data import DataConfig
from phift.data.prepare import prepare_dataset

def stay(_progress):
    print("at work", flush=True)
    time.sleep(60)

# Small parts and no small data: all of the machinery is at work in a fraction of a second.
with mock.patch("phift.data.prepare.LARGE", 0), mock.patch("phift.data.sources.PART", 1 << 20):
    print("go", flush=True)
    data, on_progress = DataConfig(train=Path(sys.argv[1]), bad_rows="set_aside"), stay if sys.argv[3:] else None
    prepare_dataset(data, Path(sys.argv[2]), fresh=True, on_progress=on_progress)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("interruption") / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(ROWS):
            said = ("user", f"Question {number}?"), ("assistant", f"Answer {number}. " * 60)
            row = {
                "messages": [{"role": role, "content": text} for role, text in said][: 1 if number % 999 == 5 else 2]
            }
            file.write(json.dumps(row) + "\n")
    return path


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(b"".join(xxhash.xxh3_128_digest(line) for line in file)).hexdigest()


def check_whole(folder: Path) -> None:
    """Hold a folder that has a manifest against it, byte for byte."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert {split: hash_of(folder / f"{split}.jsonl") for split in manifest["hashes"]} == manifest["hashes"]
    assert len((folder / "rejects.jsonl").read_bytes().splitlines()) == manifest["sources"][0]["aside"]


def begin(source: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, source, out, *more], stdout=subprocess.PIPE, text=True)  # noqa: S603 - the script above
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


def workers_in(out: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if any(str(out) in word for word in p.info["cmdline"] or ())]


@pytest.mark.slow
def test_kills_leave_nothing_that_looks_whole_and_is_not(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begin(source, tmp_path / "timed") as process:
        started = time.monotonic()
        process.wait()
    takes = time.monotonic() - started
    (whole,) = (tmp_path / "timed").iterdir()
    check_whole(whole)
    draw, out, killed = random.Random(7), tmp_path / "out", 0  # noqa: S311 - moments to kill at
    while killed < KILLS:
        with begin(source, out) as process:
            time.sleep(draw.uniform(0, takes))
            process.kill()
        if process.returncode == -signal.SIGKILL:
            killed += 1
        else:
            takes *= 0.95  # it ended by itself, as it does where others were at work while it was timed
        for folder in out.glob("[0-9a-f]*"):
            check_whole(folder)
            assert folder.name == whole.name
            if draw.random() < 0.8:  # so that most runs have it all to do
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()
    deadline = time.monotonic() + 60
    while workers_in(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers_in(out) == []
    prepared = prepare_dataset(DataConfig(train=source, bad_rows="set_aside"), out)
    left = [entry for entry in out.iterdir() if entry != prepared.folder]
    # One without a lock may be somebody's who has just made it and not locked it yet: it is left alone for a moment.
    assert all(entry.name.startswith(".preparing-") and not (entry / "lock").exists() for entry in left)
    monkeypatch.setattr("phift.data.prepare._MOMENT", 0)
    prepared = prepare_dataset(DataConfig(train=source, bad_rows="set_aside"), out)
    assert [entry.name for entry in out.iterdir()] == [prepared.folder.name] == [whole.name]
    check_whole(prepared.folder)


@pytest.mark.slow
def test_ctrl_c_leaves_no_mess(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with begin(source, out, "and stay") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        assert workers_in(out)
        process.send_signal(signal.SIGINT)
    assert process.returncode != 0
    assert list(out.iterdir()) == []
    assert workers_in(out) == []


CHECK = """
import signal, sys, time
from pathlib import Path
from unittest import mock
from phift.data.workers import Workers
from phift.run import FineTuneRun
from unit.fakes import Fakes, run_config

sys.modules["transformers"] = None  # it takes seconds to import, and nothing is counted here
folder, source, case = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
fakes, begin = Fakes(), Workers.start

def say(*_, **__):
    sys.stdout.write("at work\\n")  # at once, so that lines of several threads stay whole
    sys.stdout.flush()

def hang(*_, **__):
    say()
    time.sleep(30)

def start_and_stop(workers, *modules):
    if workers._processes:
        return  # whoever needs them asks for them to be started
    begin(workers, *modules)
    for process in workers._processes:
        process.send_signal(signal.SIGSTOP)
    say()

def stay(_event):
    hang()

if case == "look-ups":
    fakes.workspace.workspaces.get = fakes.workspace.compute.get = hang
    fakes.workspace.compute.list_sizes = fakes.workspace.compute.list_usage = hang
    fakes.registry.models.get = fakes.registry.components.get = fakes.rest.get = fakes.rest.post = hang
changes = {"data": {"train": source}} if case != "look-ups" else {}
with mock.patch("phift.data.prepare.LARGE", 0), mock.patch("phift.data.sources.PART", 1 << 20):
    if case == "workers":
        Workers.start = start_and_stop
    print("go", flush=True)
    run = FineTuneRun(run_config(folder, **changes), fakes.clients, on_event=stay if case == "progress" else None)
    try:
        run.check()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)
"""
LOOK_UPS = 5  # calls that hang at the same time; the others come after an answer to one of these


def begin_check(source: Path, folder: Path, case: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(  # noqa: S603 - the script above
        [sys.executable, "-c", CHECK, folder, source, case],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


def interrupt(process: subprocess.Popen[str]) -> None:
    """Send what Ctrl-C sends: it arrives at once, and the process does not wait for the thirty seconds to end."""
    assert process.stdout is not None
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    assert time.monotonic() - started < 2
    _, said = process.communicate()
    assert time.monotonic() - started < 15  # the interpreter takes its time to clear away large packages
    assert (said, process.returncode) == ("", 130)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "busy"), [("look-ups", LOOK_UPS), ("progress", 1), ("workers", 1)])
def test_ctrl_c_ends_a_check_at_once_whatever_it_waits_for(source: Path, tmp_path: Path, case: str, busy: int) -> None:
    with begin_check(source, tmp_path, case) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(busy)] == ["at work\n"] * busy
        interrupt(process)
    data = tmp_path / "work" / "data"
    assert list(data.glob(".preparing-*")) == []
    assert workers_in(data) == []


LOOKING_UP = """
import ctypes, socket
from phift.cli.commands import program

find = socket.getaddrinfo

def hang(host, *options, **named):
    if host == "127.0.0.1":
        return find(host, *options, **named)
    print("at work", flush=True)
    lock, take = ctypes.create_string_buffer(256), ctypes.CDLL(None).pthread_mutex_lock
    take(lock)
    take(lock)  # as glibc waits for an answer: no signal ends it

socket.getaddrinfo = hang
program()
"""


@pytest.mark.slow
@pytest.mark.parametrize("silent", ["proxy", "names"])
@pytest.mark.parametrize("command", [["check"], ["submit"], ["run", "--ask", "Question 1?"]])
def test_ctrl_c_ends_a_command_at_once_in_a_network_that_hangs(
    source: Path, tmp_path: Path, silent: str, command: list[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"workspace: {ID}/g/w\nmodel: Phi-4\ncompute: gpu\ndata:\n  train: {source}\n", encoding="utf-8")
    names = ("AZUREML_CURRENT_CLOUD", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"AZURE_TENANT_ID": ID, "AZURE_CLIENT_ID": ID, "AZURE_CLIENT_SECRET": "made-up"}
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as taken:  # takes what comes, answers nothing
        if silent == "proxy":
            environment["HTTPS_PROXY"] = f"http://127.0.0.1:{server.getsockname()[1]}"
        argv = [sys.executable, "-W", "ignore", "-c", LOOKING_UP, command[0], str(config), *command[1:]]
        with subprocess.Popen(  # noqa: S603 - our own program
            argv, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            if silent == "proxy":
                server.settimeout(60)
                taken.enter_context(server.accept()[0]).recv(1)
            else:
                assert process.stdout is not None
                assert process.stdout.readline() == "at work\n"
            time.sleep(0.5)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
            assert time.monotonic() - began < 2
    assert process.returncode == 130
    assert "Interrupted." in said
