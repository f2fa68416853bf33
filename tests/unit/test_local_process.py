from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import certifi
import pytest

from phift.local.server.process import ensure_certificates, write_bundle
from phift.local.trust import tell_mlflow, told_to_mlflow, trust

URL = "https://localhost:4321"
PLUGIN = "azureml.mlflow._common._cloud.cloud"


def workspace(folder: Path, existing: str | None = None) -> Path:
    """Make a workspace's authority, and return the file that its server writes."""
    folder.mkdir()
    ensure_certificates(folder)
    return write_bundle(folder, existing)


def trusted(path: Path) -> set[bytes]:
    """Return what OpenSSL takes from a file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    return set(context.get_ca_certs(binary_form=True))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def test_the_first_workspaces_own_file_is_enough(tmp_path: Path) -> None:
    bundle = workspace(tmp_path / "first")
    assert trust(bundle) == bundle


def test_the_second_workspace_is_added_to_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = workspace(tmp_path / "first"), workspace(tmp_path / "second")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(first))
    both = trust(second)
    assert trusted(both) == trusted(first) | trusted(second)
    assert first.parent not in both.parents
    assert second.parent not in both.parents
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(both))
    assert trust(first) == trust(second) == both


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_whom_the_user_trusts_stays_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, kind: str
) -> None:
    company = workspace(tmp_path / "company")
    (company.parent / "bundle.pem").unlink()
    own = company.parent if kind == "folder" else company.with_name("ca.pem")
    monkeypatch.setenv(variable, str(own))
    bundle = workspace(tmp_path / "workspace")
    made = trust(bundle)
    assert trusted(made) >= trusted(bundle) | trusted(company.with_name("ca.pem"))
    assert b"PRIVATE KEY" not in made.read_bytes()


def test_a_server_of_another_shell_takes_the_public_authorities_from_nobody(tmp_path: Path) -> None:
    company = workspace(tmp_path / "company").with_name("ca.pem")
    bundle = workspace(tmp_path / "workspace", str(company))
    assert trusted(trust(bundle)) == trusted(bundle) | trusted(Path(certifi.where()))


def test_a_workspace_that_goes_takes_nobodys_trust_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = workspace(tmp_path / "first")
    second = workspace(tmp_path / "second", str(first))  # its server was started by a process that trusts the first
    wanted = trusted(first) | trusted(second)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(first))
    both = trust(second)
    shutil.rmtree(second.parent)
    assert trusted(both) == wanted


def test_a_file_of_a_workspace_that_is_gone_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "gone" / "bundle.pem"))
    bundle = workspace(tmp_path / "workspace")
    assert trust(bundle) == bundle


def test_many_threads_at_once_get_one_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = workspace(tmp_path / "first"), workspace(tmp_path / "second")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(first))
    wanted = trusted(first) | trusted(second)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: trust(second), range(40)))
    assert len(set(made)) == 1
    assert trusted(made[0]) == wanted
    assert [path.suffix for path in made[0].parent.iterdir() if path.stem.startswith(made[0].stem)] == [".pem"]


PROGRAM = """
import os, sys
from pathlib import Path
from phift.local.trust import trust
made = trust(Path(sys.argv[1]))
if os.fork() == 0:
    sys.exit()
os.wait()
assert made.is_file()
print(made)
"""


def test_the_file_goes_with_the_process_that_made_it(tmp_path: Path) -> None:
    first, second = workspace(tmp_path / "first"), workspace(tmp_path / "second")
    environ = {**os.environ, "REQUESTS_CA_BUNDLE": str(first)}
    command = [sys.executable, "-c", PROGRAM, str(second)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)  # noqa: S603 - ours
    made = Path(done.stdout.strip())
    assert made.suffix == ".pem"
    assert not made.parent.exists()


def azure_cloud() -> Any:
    return SimpleNamespace(name="AzureCloud")


class Plugin(SimpleNamespace):
    """Stands for the plugin's module of clouds, as far as it is used."""

    def __init__(self, *names: str) -> None:
        super().__init__(
            KNOWN_CLOUDS={name: SimpleNamespace(name=name) for name in names},
            HARD_CODED_CLOUD_LIST=[azure_cloud()],
            _convert_arm_to_cli=lambda documents: {each["name"]: SimpleNamespace(**each) for each in documents},
        )


def test_a_plugin_that_is_not_imported_is_left_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, PLUGIN, raising=False)
    tell_mlflow(URL)
    assert PLUGIN not in sys.modules


def test_a_plugin_that_is_imported_learns_the_cloud_and_unlearns_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin("AzureCloud")
    monkeypatch.setitem(sys.modules, PLUGIN, plugin)
    before = dict(plugin.KNOWN_CLOUDS)
    with told_to_mlflow(URL):
        assert list(plugin.KNOWN_CLOUDS) == ["AzureCloud", "PhiftLocal4321"]
        assert plugin.KNOWN_CLOUDS["PhiftLocal4321"].resourceManager == f"{URL}/"
    assert before == plugin.KNOWN_CLOUDS


def test_a_plugin_that_was_imported_meanwhile_knows_azure_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, PLUGIN, raising=False)
    plugin = Plugin("PhiftLocal4321")
    with told_to_mlflow(URL):
        monkeypatch.setitem(sys.modules, PLUGIN, plugin)
    assert list(plugin.KNOWN_CLOUDS) == ["AzureCloud"]


def test_a_plugin_that_has_changed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = SimpleNamespace(KNOWN_CLOUDS={})
    monkeypatch.setitem(sys.modules, PLUGIN, plugin)
    with told_to_mlflow(URL):
        assert plugin.KNOWN_CLOUDS == {}
    assert plugin.KNOWN_CLOUDS == {}
