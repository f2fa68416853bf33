"""A local server that has ended is found out in seconds, and the words say so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import caller
import pytest
import yaml

from phift import FineTuneRun, connect
from phift.errors import PhiftError
from phift.local import LocalWorkspace

SOON = 60.0  # seconds; the SDK's own retries alone, as they are by default, take 605


@pytest.fixture
def workspace(tmp_path: Path, quiet_sdk: None, quiet_log: None) -> Iterator[LocalWorkspace]:
    made = LocalWorkspace(tmp_path / "workspace", engine="instant", speed="manual")
    made.up()
    yield made
    made.down(timeout=0)


def started(workspace: LocalWorkspace, folder: Path) -> FineTuneRun:
    data = caller.write_rows(folder / "train.jsonl")
    clients = replace(connect(workspace={"local": workspace.folder}), patience_seconds=2)
    return FineTuneRun(caller.configuration(workspace.folder, data, folder / "work", 1), clients)


def kill(workspace: LocalWorkspace) -> None:
    pid = workspace.status().pid
    assert pid
    os.kill(pid, signal.SIGKILL)


def ended(call: Callable[[], Any]) -> str:
    """Return what a call ended with, which has to be soon."""
    began = time.monotonic()
    with pytest.raises(PhiftError) as caught:
        call()
    assert time.monotonic() - began < SOON
    return str(caught.value)


def test_a_wait_for_a_job_of_a_server_that_ends_is_over_soon(workspace: LocalWorkspace, tmp_path: Path) -> None:
    run = started(workspace, tmp_path)
    run.submit()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ended, run.wait)
        time.sleep(1)
        kill(workspace)
        said = waiting.result()
    assert "The local workspace at https://localhost:" in said
    assert "does not answer" in said
    assert "phift local up" in said


def test_a_check_at_a_server_that_has_ended_is_over_soon(workspace: LocalWorkspace, tmp_path: Path) -> None:
    run = started(workspace, tmp_path)
    kill(workspace)
    said = ended(lambda: run.check().raise_for_errors())
    assert "does not answer" in said
    assert "phift local up" in said


def test_ctrl_c_ends_a_wait_for_a_server_that_answers_nothing(workspace: LocalWorkspace, tmp_path: Path) -> None:
    data = caller.write_rows(tmp_path / "train.jsonl")
    config = tmp_path / "run.yaml"
    said = {"workspace": {"local": str(workspace.folder)}, "model": "Phi-4-mini-instruct", "compute": "gpu-cluster"}
    said |= {"data": {"train": str(data)}, "work_dir": str(tmp_path / "work")}
    config.write_text(yaml.safe_dump(said), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "AZUREML_CURRENT_CLOUD"}
    command = [sys.executable, "-W", "ignore", "-m", "phift.cli", "submit", str(config)]
    pid = workspace.status().pid
    assert pid
    with subprocess.Popen(  # noqa: S603 - our own program
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("job ") for line in process.stdout)  # it waits from here on
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(2)  # it looks each second
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=60)
            assert time.monotonic() - began < 2
        finally:
            os.kill(pid, signal.SIGCONT)
    assert process.returncode == 130
    assert "Interrupted." in rest
    assert "goes on" in rest
