from __future__ import annotations

import fcntl
import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from phift import errors
from phift.local import Connection, LocalWorkspace
from phift.local.programs import Programs
from phift.local.state.folder import Folder
from phift.local.state.identity import Identity

SECRET = "hidden" * 8


def test_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LocalWorkspace(tmp_path / "x").folder == tmp_path / "x"
    monkeypatch.setenv("PHIFT_LOCAL_HOME", str(tmp_path / "home"))
    assert LocalWorkspace().folder == tmp_path / "home"
    monkeypatch.delenv("PHIFT_LOCAL_HOME")
    assert LocalWorkspace().folder.parts[-2:] == ("phift", "local")


@pytest.mark.parametrize("delay", [-0.1, 61, float("nan"), float("inf")])
def test_a_delay_that_makes_no_sense_is_refused(tmp_path: Path, delay: float) -> None:
    with pytest.raises(errors.LocalWorkspaceError, match="between 0 and 60 s"):
        LocalWorkspace(tmp_path, delay=delay)


def test_nothing_runs(tmp_path: Path) -> None:
    workspace = LocalWorkspace(tmp_path / "none")
    status = workspace.status()
    assert (status.running, status.pid, status.jobs, status.endpoints) == (False, None, {}, {})
    assert not workspace.down()
    workspace.reset()
    with pytest.raises(errors.LocalWorkspaceNotRunning, match="phift local up"):
        workspace.connection()


def test_a_left_over_description_deceives_nobody(tmp_path: Path) -> None:
    (tmp_path / "server.lock").touch()
    # This test's own pid: alive, and no server.
    (tmp_path / "server.json").write_text('{"pid": 1, "port": 1}')
    assert not LocalWorkspace(tmp_path).status().running
    with (tmp_path / "server.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert LocalWorkspace(tmp_path).status().pid == 1


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(errors.LocalWorkspaceError, match="holds other things"):
        LocalWorkspace(tmp_path).up()
    with pytest.raises(errors.LocalWorkspaceError, match="nothing was deleted"):
        LocalWorkspace(tmp_path).reset()
    assert (tmp_path / "thesis.txt").exists()


def test_a_folder_that_somebody_has_just_made_for_it_is_no_others(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "workspace")
    folder.make()
    assert folder.ignored.exists()
    workspace = LocalWorkspace(folder.root, engine="instant")
    try:
        assert workspace.up()
    finally:
        workspace.down()


@pytest.mark.parametrize("name", ["file", "file/below", "loop"])
def test_a_place_where_no_folder_can_be_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("of somebody")
    (tmp_path / "loop").symlink_to("loop")
    workspace = LocalWorkspace(tmp_path / name, engine="instant")
    assert not workspace.status().running
    assert not workspace.down()
    with pytest.raises(errors.LocalWorkspaceNotRunning):
        workspace.connection()
    with pytest.raises(errors.LocalWorkspaceError, match="cannot use its folder") as caught:
        workspace.up()
    assert str(tmp_path) in str(caught.value.where)
    assert caught.value.fix
    assert (tmp_path / "file").read_text() == "of somebody"


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without_torch(name: str, package: str | None = None) -> Any:
        return None if name == "torch" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_torch)
    with pytest.raises(errors.MissingDependency, match=r"torch.*\n.*\.\[local\]"):
        LocalWorkspace(tmp_path).up()


def test_without_training_the_smaller_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name, _package=None: None)
    with pytest.raises(errors.MissingDependency, match=r"cryptography, starlette, trustme, uvicorn\.\n.*\.\[testing\]"):
        LocalWorkspace(tmp_path, engine="instant").up()


def _programs(server: str, standin: str = "") -> Programs:
    return Programs(server=(sys.executable, "-c", server), standin=(sys.executable, "-c", standin))


@pytest.mark.slow
def test_a_server_that_does_not_come_up(tmp_path: Path) -> None:
    broken = LocalWorkspace(tmp_path / "a", programs=_programs("raise SystemExit('the disk is on fire')"))
    with pytest.raises(errors.LocalWorkspaceError, match="the disk is on fire"):
        broken.up()
    silent = LocalWorkspace(tmp_path / "b", programs=_programs("import time; time.sleep(60)"))
    with pytest.raises(errors.LocalWorkspaceError, match="did not answer within 0 s"):
        silent.up(timeout=0.3)
    modelless = LocalWorkspace(tmp_path / "c", programs=_programs("", "raise SystemExit('no clay')"))
    with pytest.raises(errors.LocalWorkspaceError, match="no clay"):
        modelless.up()


def test_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "example.com, ")
    monkeypatch.delenv("no_proxy", raising=False)
    (tmp_path / "secret").write_text(SECRET)
    connection = Connection("https://localhost:8443", tmp_path / "bundle.pem", tmp_path)
    assert connection.cloud_name == "PhiftLocal8443"
    assert connection.cloud_metadata.keys() == {
        "azure_portal",
        "resource_manager",
        "active_directory",
        "aml_resource_id",
        "storage_endpoint",
        "registry_discovery_endpoint",
    }
    environment = connection.environment()
    # The SDK takes the cloud whose resource manager is part of the metadata's address.
    assert environment["ARM_CLOUD_METADATA_URL"].startswith(connection.cloud_metadata["resource_manager"])
    assert environment["IDENTITY_HEADER"] == SECRET
    assert SECRET not in repr(connection)
    assert list(connection.config()) == ["subscription_id", "resource_group", "workspace_name"]
    assert set(connection.config().values()) < set(environment.values())
    assert environment["AZUREML_CURRENT_CLOUD"] == connection.cloud_name
    assert environment["NO_PROXY"] == environment["no_proxy"] == "example.com,localhost"
    assert environment["MLFLOW_TRACKING_URI"].startswith("https://localhost:8443/mlflow/v1.0/subscriptions/")
    claims = Identity(SECRET).claims(environment["MLFLOW_TRACKING_TOKEN"])
    assert claims["exp"] - time.time() > 23 * 3600


@pytest.mark.parametrize("named", ["*", "localhost", "127.0.0.1,localhost"])
def test_hosts_that_go_past_a_proxy_already_stay_as_they_are(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.setenv("no_proxy", named)
    connection = Connection("https://localhost:8443", tmp_path / "bundle.pem", tmp_path)
    assert connection.environment()["NO_PROXY"] == named


def test_import_is_light() -> None:
    program = (
        "import sys, phift.local; "
        "print([name for name in ('torch', 'azure.ai', 'starlette', 'uvicorn', 'requests') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - the text above
    assert done.stdout.strip() == "[]"


def test_a_corrupt_database_is_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database at all " * 500)
    with pytest.raises(errors.LocalWorkspaceError, match="phift local reset"):
        LocalWorkspace(tmp_path).status()


def test_an_empty_folder_has_nothing_to_reset(tmp_path: Path) -> None:
    LocalWorkspace(tmp_path).reset()
    assert tmp_path.is_dir()
