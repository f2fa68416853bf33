"""Signals at moments spread over a whole ``phift run``: it ends soon, says what is left, and a second call completes.

``PHIFT_SIGNALS=30`` sends thirty; see ``make signals``.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import caller
import psutil
import pytest
import yaml

from phift import Clients, connect
from phift.local import LocalWorkspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("PHIFT_SIGNALS" not in os.environ, reason="a proof of minutes: make signals"),
]

COUNT = int(os.environ.get("PHIFT_SIGNALS", "3"))
KINDS = [[kind] * times for times in (1, 2) for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
# What the command has printed when it is struck; nothing when it begins.
MOMENTS = [
    "",
    "reading train.jsonl",
    "counting tokens",
    "severity",
    "parameters ",
    "job      phift-",
    "job Preparing",
    "job Completed",
    "model    phi-",
    "creating the endpoint",
    "starting the model server",
    "sending it all traffic",
    ": ready",
    "Question 1?",
    "deleting the endpoint",
]
LATER = [0.0, 0.3]  # seconds after that
SOON = 2.0  # seconds from the signal to the exit, outside of a roll-back
LONGEST = 300.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    - **seconds**: from the first signal, or from its start.
    - **last**: the last line that it had printed when the signal came.
    - **then**: what it printed after that.
    """

    code: int
    seconds: float
    output: str
    last: str = ""
    then: str = ""


def start(config: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "phift.cli", "run", str(config), "--ask", "Question 1?"]
    # Not what this process's own clients have set: the program connects for itself.
    environment = {name: value for name, value in os.environ.items() if name != "AZUREML_CURRENT_CLOUD"}
    with config.with_suffix(".out").open("w") as out:
        return subprocess.Popen(  # noqa: S603 - our own program
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**environment, "PYTHONUNBUFFERED": "1"},
        )


def whole(config: Path) -> Ended:
    began = time.monotonic()
    code = start(config).wait(LONGEST)
    return Ended(code, time.monotonic() - began, config.with_suffix(".out").read_text())


def struck(config: Path, moment: str, after: float, signals: list[signal.Signals]) -> Ended | None:
    """Run it, and send it signals some seconds after a moment; None where it had ended by then."""
    process, out = start(config), config.with_suffix(".out")
    end = time.monotonic() + LONGEST
    while process.poll() is None and not (moment in out.read_text() if moment else _has_begun(process)):
        assert time.monotonic() < end
        time.sleep(0.005)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        before = out.read_text()
        began = time.monotonic()
        for each in signals:
            process.send_signal(each)
            time.sleep(0.15)  # sooner, two are one
        code = process.wait(LONGEST)
        seconds, output = time.monotonic() - began, out.read_text()
        if code == 0 and output == before:  # all was done, and Python was ending
            return None
        return Ended(code, seconds, output, (before.splitlines() or [""])[-1], output.removeprefix(before))
    return None


def _has_begun(process: subprocess.Popen[str]) -> bool:
    """Tell whether Python itself has started, and the command loads what it needs."""
    with suppress(psutil.Error):
        return any("pydantic_core" in each.path for each in psutil.Process(process.pid).memory_maps())
    return False


def endpoints(clients: Clients) -> list[str]:
    return [each.name for each in clients.workspace.online_endpoints.list()]


@pytest.fixture
def config(tmp_path: Path, quiet_sdk: None, quiet_log: None) -> Path:
    caller.write_rows(tmp_path / "train.jsonl")
    return tmp_path / "run.yaml"


def write(config: Path, workspace: LocalWorkspace, seed: int) -> None:
    values = {
        "workspace": {"local": str(workspace.folder)},
        "model": "Phi-4-mini-instruct",
        "compute": "gpu-cluster",
        "data": {"train": "train.jsonl"},
        "parameters": {"seed": seed},
    }
    config.write_text(yaml.safe_dump(values), encoding="utf-8")


def test_a_run_that_is_interrupted_says_what_is_left_and_goes_on(config: Path, tmp_path: Path) -> None:
    workspace = LocalWorkspace(tmp_path / "workspace", engine="instant", speed="fast", delay=0.03)
    workspace.up()
    try:
        clients = connect(workspace={"local": workspace.folder})
        write(config, workspace, 0)
        undisturbed = whole(config)
        assert undisturbed.code == 0, undisturbed.output
        hit = 0
        for number in range(COUNT):
            write(config, workspace, number + 1)
            # Three are spread over all of it too.
            round_, moment = divmod(number * max(1, len(MOMENTS) // COUNT), len(MOMENTS))
            kind = KINDS[(number + round_) % len(KINDS)]
            ended = struck(config, MOMENTS[moment], LATER[round_ % len(LATER)], kind)
            if ended is not None:
                hit += 1
                check(ended, endpoints(clients), kind)
            again = whole(config)
            assert again.code == 0, again.output
            assert endpoints(clients) == []
        assert hit >= COUNT * 0.8
        jobs = list(clients.workspace.jobs.list())
        assert len(jobs) == COUNT + 1
        logger.info("%d signals, %d of them before the end", COUNT, hit)
    finally:
        workspace.down(timeout=0)


def check(ended: Ended, left: list[str], kind: list[signal.Signals]) -> None:
    logger.info("%s in %r: exit %d after %.2f s, left %s", kind, ended.last, ended.code, ended.seconds, left)
    assert ended.code == 130, ended.output
    assert "Interrupted." in ended.output
    if ended.last:  # else nothing had begun that could go on
        assert "the same command goes on from here" in ended.output
    else:
        assert left == []
    for name in left:
        assert f"The endpoint {name} is still up and costs money" in ended.output
        assert f"phift cleanup {name} --workspace local:" in ended.output
    if not any(words in ended.last + ended.then for words in ("removing what was made", "deleting the endpoint")):
        assert ended.seconds < SOON
