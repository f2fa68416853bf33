"""Two local workspaces in one process: what connecting leaves to the clients that were there before."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import requests
from azure.ai.ml import _ml_client
from azure.ai.ml._utils._registry_utils import get_registry_client
from azure.ai.ml.entities import Data, ManagedOnlineEndpoint
from fakes.server import programs

from phift import RunConfig
from phift.azure.clients import Clients
from phift.azure.connect import connect
from phift.local import Connection, LocalWorkspace
from unit.loopback import Reply, scripted_server

pytestmark = [
    pytest.mark.slow,
    # The SDK and its libraries announce their own deprecations; they are not ours to fix.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
TOGETHER = 8


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Connection, Connection]]:
    """Two running workspaces that know nothing of each other."""
    with ExitStack() as running, pytest.MonkeyPatch.context() as patch:
        patch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        made = []
        for name in ("first", "second"):
            workspace = LocalWorkspace(tmp_path_factory.mktemp(name) / "workspace", programs=programs())
            made.append(workspace.up())
            running.callback(workspace.down)
        yield made[0], made[1]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin as a process that has connected to nothing."""
    for name in ("AZUREML_CURRENT_CLOUD", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is taken back at the end
        monkeypatch.delenv(name)


def connected(connection: Connection) -> Clients:
    place = {"local": connection.folder}
    return connect(RunConfig(model="Phi-4-mini-instruct", compute="gpu-cluster", data="train.jsonl", workspace=place))


def seen(clients: Clients) -> list[str]:
    """Return the names of the endpoints, which no two workspaces here share."""
    return sorted(endpoint.name for endpoint in clients.workspace.online_endpoints.list())


def use_everything(clients: Clients, connection: Connection, name: str, folder: Path) -> None:
    """Reach every part of a workspace with clients of it: the resource manager, storage, registry, MLflow's host."""
    workspace: Any = clients.workspace
    assert clients.registry.components.get("chat_completion_pipeline", version="0.0.82").version == "0.0.82"
    assert [compute.name for compute in workspace.compute.list()] == ["gpu-cluster"]
    (folder / f"{name}.jsonl").write_text(f'{{"messages": ["{name}"]}}\n')
    workspace.data.create_or_update(Data(name=name, type="uri_file", path=str(folder / f"{name}.jsonl")))
    assert workspace.data.get(name, label="latest").version == "1"
    workspace.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()
    assert workspace.online_endpoints.get_keys(name).primary_key
    assert workspace.workspaces.get("local").discovery_url.startswith(connection.base_url)
    assert list((connection.folder / "blobs").rglob(f"{name}.jsonl"))
    assert clients.rest.get(f"{connection.base_url}/health")["status"] == "ok"


def test_the_first_ones_clients_go_on_after_the_second_is_connected(
    both: tuple[Connection, Connection], tmp_path: Path
) -> None:
    first = connected(both[0])
    use_everything(first, both[0], "before", tmp_path)
    second = connected(both[1])
    use_everything(first, both[0], "first", tmp_path)
    use_everything(second, both[1], "second", tmp_path)
    assert seen(first) == ["before", "first"]
    assert seen(second) == ["second"]


def test_whom_the_user_trusts_is_trusted_as_before(
    both: tuple[Connection, Connection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted_server(tmp_path) as company:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        company.answers(Reply({"still": "there"}))
        for connection in both:
            assert seen(connected(connection)) is not None
            assert requests.get(company.url, timeout=60).json() == {"still": "there"}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(both[0].ca_bundle))  # what only this one trusts
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{both[1].base_url}/health", timeout=60)


def test_a_workspace_that_is_gone_takes_nobodys_trust_away(both: tuple[Connection, Connection], tmp_path: Path) -> None:
    first = connected(both[0])
    passing = LocalWorkspace(tmp_path / "workspace", programs=programs())
    try:
        connected(passing.up())
    finally:
        passing.reset()
    assert not passing.folder.exists()
    assert first.workspace.compute.get("gpu-cluster").name == "gpu-cluster"


def test_connecting_to_both_from_many_threads_at_once_mixes_nothing_up(
    both: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.1)  # long enough for another thread to set the cloud that the SDK reads next
        return get_registry_client(*arguments, **options)

    monkeypatch.setattr(_ml_client, "get_registry_client", slowly)
    names = ["left", "right"]
    for name, connection in zip(names, both, strict=True):
        client = connected(connection).workspace
        client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()
    before = [registry_lookups(connection) for connection in both]
    start = Barrier(TOGETHER)

    def connect_and_look(number: int) -> list[str]:
        start.wait(30)
        clients = connected(both[number % 2])
        assert clients.registry.models  # a registry's client is made when it is first used
        return seen(clients)

    with ThreadPoolExecutor(TOGETHER) as pool:
        found = list(pool.map(connect_and_look, range(TOGETHER)))
    for number, endpoints in enumerate(found):
        assert [name for name in names if name in endpoints] == [names[number % 2]]
    counted = [registry_lookups(connection) - past for connection, past in zip(both, before, strict=True)]
    assert counted == [TOGETHER / 2, TOGETHER / 2]  # each one's registry is its own


def registry_lookups(connection: Connection) -> int:
    """Count how often a workspace was asked where the registry is, which the SDK does once a client."""
    headers = {"X-IDENTITY-HEADER": connection.secret()}
    url = f"{connection.base_url}/phift/requests"
    asked = requests.get(url, headers=headers, verify=str(connection.ca_bundle), timeout=60).json()["value"]
    return sum("registries/azureml/discovery" in entry["place"] for entry in asked)


def test_the_mlflow_plugin_that_is_imported_already_knows_the_one_that_was_connected_last(
    both: tuple[Connection, Connection],
) -> None:
    from azureml.mlflow._common._cloud import cloud

    for connection in both:
        connected(connection)
        assert cloud._get_cloud_or_default().endpoints.resource_manager == f"{connection.base_url}/"


def test_a_process_with_one_workspace_names_that_ones_own_file(both: tuple[Connection, Connection]) -> None:
    clients = connected(both[0])
    assert os.environ["REQUESTS_CA_BUNDLE"] == str(both[0].ca_bundle)
    assert clients.patience_seconds == 20
