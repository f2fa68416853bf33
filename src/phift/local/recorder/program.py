"""Running a program whose exchanges with a workspace are taken note of."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from phift.local.recorder.exchange import Exchange
from phift.local.recorder.proxy import running


def run(
    command: Sequence[str],
    note: Callable[[Exchange], object],
    environment: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, str]]:
    """Run a program through a proxy; returns its exit code, and the addresses that were not reached, each with why.

    A signal that would end this process ends the program instead, which may still talk to the workspace to clean up.

    - **environment**: variables that it gets besides those of this process.
    """
    variables = {**os.environ, **(environment or {})}
    with running(note, variables.get("REQUESTS_CA_BUNDLE")) as (proxy, reached):
        program = subprocess.Popen(command, env={**variables, **reached})  # noqa: S603 - the user's own
        with _handed_on(program):
            code = program.wait()
        return code if code >= 0 else 128 - code, proxy.unreachable


@contextmanager
def _handed_on(program: subprocess.Popen[bytes]) -> Iterator[None]:
    def hand_on(number: int, _frame: Any) -> None:
        if number != signal.SIGINT or not _at_a_terminal():  # which tells both of its Ctrl-C
            program.send_signal(number)

    before = {each: signal.signal(each, hand_on) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _at_a_terminal() -> bool:
    """Whether this process is in front on a terminal, wherever it reads from and writes to."""
    with suppress(OSError), Path("/dev/tty").open("rb") as terminal:
        return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    return False
