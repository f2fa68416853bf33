"""The suite's target, its files, and the record of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract import targets, verified
from contract.targets import Target


@pytest.fixture(scope="package", params=targets.NAMES)
def running(request: pytest.FixtureRequest) -> Iterator[Target]:
    """A target that is up."""
    name = request.param
    on_azure = targets.AZURE in os.environ
    if name == "azure" and not on_azure:
        pytest.skip(f"{targets.AZURE} does not name a workspace, subscription/group/workspace")
    if name != "azure" and on_azure:
        pytest.skip("the SDK knows one cloud a process, and this one talks to Azure")
    with targets.azure() if name == "azure" else targets.local(name) as up:
        yield up


@pytest.fixture
def target(running: Target) -> Iterator[Target]:
    """A target; what a test makes there is taken away again."""
    yield running
    running.clean()


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """A file of one row, with something in it that no other test's has."""
    return write_row(tmp_path / "train.jsonl", tmp_path.name)


def write_row(path: Path, text: str) -> Path:
    row = '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "b"}]}\n'
    path.write_text(row % text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def mlflow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the smallest model that a real endpoint could serve: it returns what it is given."""
    folder = tmp_path_factory.mktemp("model") / "echo"
    for name, text in _ECHO.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


_ECHO = {
    "MLmodel": "flavors:\n  python_function:\n    loader_module: echo\n    code: code\n    env: conda.yaml\n",
    "conda.yaml": "dependencies: [python=3.11, pip, {pip: [mlflow, azureml-inference-server-http]}]\n",
    "code/echo.py": """\
class Echo:
    def predict(self, model_input, params=None):
        return model_input


def _load_pyfunc(path):
    return Echo()
""",
}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    verified.note(report)


def pytest_sessionfinish() -> None:
    if os.environ.get(verified.WANTED) and not targets.rehearsed():
        verified.save()
