"""The projects in `examples`, with their own tests, as their owners would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECTS = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("project", "passes"), [("testing", 3), ("service", 14)])
def test_all_their_tests_pass(child_environment: None, project: str, passes: int) -> None:
    # The plugin is named for an installation that was made before it had an entry point; twice is once.
    command = [sys.executable, "-m", "pytest", "-p", "phift.testing.plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(  # noqa: S603 - our own project
        command, cwd=PROJECTS / project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{passes} passed" in done.stdout
    assert "warning" not in done.stdout
