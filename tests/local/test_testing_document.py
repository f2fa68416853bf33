"""Every example in `docs/testing.md`, and the README's on tests, as a reader would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from phift.local import LocalWorkspace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAM = """
from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
client = MLClient.from_config(DefaultAzureCredential())
print(client.compute.get("gpu-cluster").size, client.workspace_name)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)


def run(folder: Path, *command: str, **variables: str) -> str:
    unset = ("AZUREML_CURRENT_CLOUD", "REQUESTS_CA_BUNDLE")
    environ = {name: value for name, value in os.environ.items() if name not in unset}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    done = subprocess.run(  # noqa: S603 - what the document says
        command, cwd=folder, env=environ | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_in_it_pass(tmp_path: Path) -> None:
    (first,) = re.findall(r"```python\n(from phift.testing import .*?)```", README, flags=re.DOTALL)
    examples = [f"# test_readme.py\n{first}", *blocks("python"), *blocks("ini")]
    for example in examples:
        name, _, _ = example.removeprefix("# ").partition("\n")
        (tmp_path / name).write_text(example)
    assert len(list(tmp_path.iterdir())) == len(examples) == 12
    tests = sum(example.count("\ndef test_") for example in examples)
    said = run(tmp_path, sys.executable, "-m", "pytest", "-p", "phift.testing.plugin", "-p", "no:cacheprovider")
    assert f"{tests} passed" in said


def test_the_commands_run_a_program_as_it_is(tmp_path: Path) -> None:
    _install, commands = blocks("sh")
    (tmp_path / "program.py").write_text(PROGRAM)
    home = tmp_path / "home"
    try:
        said = run(tmp_path, "sh", "-e", "-c", commands, PHIFT_LOCAL_HOME=str(home), PYTHONWARNINGS="ignore")
    finally:
        LocalWorkspace(home).down(timeout=0)
    assert "Standard_NC24ads_A100_v4 local\nStopped.\n" in said
