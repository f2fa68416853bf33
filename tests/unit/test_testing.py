from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import phift.testing
from phift.errors import LocalWorkspaceError, LocalWorkspaceNotRunning
from phift.local.state.faults import Fault, Scripted
from phift.testing import TestWorkspace
from phift.testing.workspace import _told, pointed_at

ROOT = Path(__file__).parents[2]
HEAVY = {
    "azure",
    "datasets",
    "mlflow",
    "pandas",
    "requests",
    "sqlite3",
    "starlette",
    "torch",
    "transformers",
    "uvicorn",
}
PROBE = """
import pytest, sys
before = set(sys.modules)
import phift.testing.plugin
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_the_plugin_brings_nothing_into_a_session_that_does_not_use_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)  # noqa: S603 - ours
    brought = set(done.stdout.split())
    assert "phift" in brought
    assert not brought & HEAVY


def test_every_public_name_has_a_place() -> None:
    assert phift.testing.__all__ == sorted(phift.testing._PLACES)
    assert dir(phift.testing) == phift.testing.__all__
    for name, place in phift.testing._PLACES.items():
        assert getattr(phift.testing, name).__name__ == name
        assert getattr(phift.testing, name).__module__ == place
    with pytest.raises(AttributeError, match=r"'phift\.testing' has no attribute 'nothing'"):
        phift.testing.nothing  # noqa: B018 - the access is the test


def test_the_entry_point_is_named_as_its_module() -> None:
    (points,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"].values()
    assert points == {"phift.testing.plugin": "phift.testing.plugin"}


def test_the_environment_is_pointed_elsewhere_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "hidden")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/mine")
    before = dict(os.environ)
    with pointed_at({"REQUESTS_CA_BUNDLE": "/theirs", "IDENTITY_HEADER": "x"}):
        assert os.environ["REQUESTS_CA_BUNDLE"] == "/theirs"
        assert "AZURE_CLIENT_SECRET" not in os.environ  # DefaultAzureCredential would take it first
        os.environ["AZUREML_CURRENT_CLOUD"] = "set by the SDK"
    assert dict(os.environ) == before


def test_a_workspace_that_does_not_run_says_how_to_start_it() -> None:
    workspace = TestWorkspace(speed="manual")
    assert repr(workspace) == "<TestWorkspace engine=instant speed=manual not running>"
    with pytest.raises(LocalWorkspaceNotRunning, match=r"in a with block, or call start\(\)"):
        workspace.client  # noqa: B018 - the access is the test
    workspace.stop()


def test_an_unknown_engine_or_speed_is_refused_with_those_there_are() -> None:
    with pytest.raises(LocalWorkspaceError, match=r"no engine 'steam'.*\n.*\n.*train, instant"):
        TestWorkspace(engine="steam")  # type: ignore[arg-type]  # that is the test
    with pytest.raises(LocalWorkspaceError, match=r"no speed 'warp'.*\n.*\n.*real, fast, manual"):
        TestWorkspace(speed="warp")  # type: ignore[arg-type]  # that is the test


def test_what_did_not_strike_is_told_with_its_counts() -> None:
    told = _told(Scripted(Fault("PUT jobs/*", status=503, times=2, after=1), seen=2, hits=1))
    assert told == "PUT jobs/*: ordered 2 time(s), struck 1 time(s); its place was passed 2 time(s), 1 of them free"
    assert _told(Scripted(Fault("GET *", status=500, times=None))).startswith(
        "GET *: ordered for good, struck 0 time(s)"
    )


def test_the_extra_for_tests_is_part_of_the_whole() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras["testing"]) < set(extras["local"])
    assert not [name for name in extras["testing"] if name.startswith(("torch", "transformers", "peft"))]


def test_pytest_takes_the_workspace_for_no_test(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("from phift.testing import TestWorkspace\ndef test_it(): pass\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "phift.testing.plugin",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)  # noqa: S603 - ours
    assert "1 passed" in done.stdout, done.stdout + done.stderr
