"""The project in `examples/testing`, with its own tests, as its owner would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2] / "examples" / "testing"


def test_its_three_tests_pass(child_environment: None) -> None:
    # The plugin is named for an installation that was made before it had an entry point; twice is once.
    command = [sys.executable, "-m", "pytest", "-p", "phift.testing.plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(  # noqa: S603 - our own project
        command, cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert "warning" not in done.stdout
