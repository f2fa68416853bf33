"""Garbage is looked for seldom in phift's own processes, and as the program says wherever phift is a library."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("line", "same"), [("import phift", True), ("from phift.local.garbage import look_seldom; look_seldom()", False)]
)
def test_only_a_program_that_asks_for_it_looks_seldom(line: str, same: bool) -> None:
    program = f"import gc; before = gc.get_threshold(); {line}; print(gc.get_threshold() == before)"
    assert _output(program) == str(same)


@pytest.mark.parametrize(
    "start",
    [
        "from unittest import mock; from phift.cli import commands as it\n"
        "with mock.patch.object(it, 'main'): it.program()",
        "from phift.local.work.engine import process; process.prepare()",
    ],
)
def test_the_programs_ask_for_it_and_look_no_more_at_the_end(start: str) -> None:
    # What is registered first is called last.
    end = "import atexit, gc; atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count() > 0))"
    assert _output(f"{end}\n{start}") == "100000 True"


def _output(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - the above
