"""`phift.testing.TestWorkspace`, with a server and without: what a test does to it, and what the real SDK sees."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.ml import MLClient
from azure.ai.ml.entities import AmlCompute, ManagedOnlineEndpoint, Model
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential

from phift import errors
from phift.check.compute import read_usages
from phift.local import LocalWorkspace
from phift.testing import Fault, TestWorkspace

pytestmark = [
    pytest.mark.slow,
    # The SDK and its libraries announce their own deprecations; they are not ours to fix.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
A100 = "Standard_NC24ads_A100_v4"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "MLmodel").write_text("flavors: {}\n")
    return folder


def limits(client: Any) -> dict[str, int]:
    return {each.family: each.limit for each in read_usages(client.compute.list_usage()) if not each.low_priority}


@pytest.fixture(params=[False, True], ids=["process", "server"])
def server(request: pytest.FixtureRequest) -> bool:
    """Whether a workspace has a server."""
    wanted: bool = request.param
    return wanted


def test_the_block_gives_a_workspace_and_puts_the_process_back(monkeypatch: pytest.MonkeyPatch, server: bool) -> None:
    adapter = dict(vars(requests.adapters.HTTPAdapter))
    threads = set(threading.enumerate())
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # whoever is trusted already goes into another file
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with TestWorkspace(server=server) as workspace:
        assert workspace.client.compute.get("gpu-cluster").size == A100
        assert workspace.registry.models.get("Phi-4-mini-instruct", label="latest").version == "1"
        assert os.environ["AZUREML_CURRENT_CLOUD"] == workspace.connection.cloud_name
        variables = workspace.connection.environment()
        assert variables.pop("MLFLOW_TRACKING_TOKEN")  # a new one each time
        assert os.environ["MLFLOW_TRACKING_TOKEN"]
        if not server:  # there is no authority to trust
            del variables["REQUESTS_CA_BUNDLE"]
        assert variables.items() <= os.environ.items()
        folder = workspace.connection.folder
        assert LocalWorkspace(folder).status().running == server
        assert LocalWorkspace(folder).connection() == workspace.connection
    assert dict(os.environ) == before
    assert dict(vars(requests.adapters.HTTPAdapter)) == adapter
    assert set(threading.enumerate()) <= threads
    assert not folder.parent.exists()
    with pytest.raises(errors.LocalWorkspaceNotRunning):
        workspace.reset()


@pytest.mark.phift(server=True)
def test_a_program_that_makes_its_own_client_reaches_it(phift_workspace: TestWorkspace, tmp_path: Path) -> None:
    path = phift_workspace.write_config(tmp_path)
    client = MLClient.from_config(DefaultAzureCredential(), path=path)
    assert [compute.name for compute in client.compute.list()] == ["gpu-cluster"]
    program = """
import warnings; warnings.simplefilter("ignore")
from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
print(*[compute.name for compute in MLClient.from_config(DefaultAzureCredential()).compute.list()])
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)  # noqa: S603 - ours
    assert done.stdout == "gpu-cluster\n"


def test_no_other_program_is_sent_to_a_workspace_in_this_process(
    phift_workspace: TestWorkspace, tmp_path: Path
) -> None:
    path = phift_workspace.write_config(tmp_path)
    client = MLClient.from_config(DefaultAzureCredential(), path=path)
    assert [compute.name for compute in client.compute.list()] == ["gpu-cluster"]
    with pytest.raises(errors.LocalWorkspaceError, match=r"no other one reaches it.*\n.*\n.*server=True"):
        phift_workspace.environment()


def test_everything_is_as_at_first_after_a_reset(phift_workspace: TestWorkspace, model_folder: Path) -> None:
    workspace = phift_workspace
    workspace.client.models.create_or_update(Model(name="mine", path=str(model_folder), type="mlflow_model"))
    workspace.client.compute.begin_delete("gpu-cluster").result()
    workspace.set_quota(A100, 3)
    workspace.order(Fault("GET *", status=500, times=None))
    workspace.reset()
    assert workspace.requests() == []
    assert workspace.faults() == []
    assert [model.name for model in workspace.client.models.list()] == []
    assert [compute.name for compute in workspace.client.compute.list()] == ["gpu-cluster"]
    assert limits(workspace.client)["standardNCADSA100v4Family"] == 192


def test_computes_and_quota_are_seeded(phift_workspace: TestWorkspace) -> None:
    phift_workspace.add_compute("two-nodes", "Standard_ND96asr_v4", instances=2)
    found = phift_workspace.client.compute.get("two-nodes")
    assert (found.size, found.max_instances, found.provisioning_state) == ("Standard_ND96asr_v4", 2, "Succeeded")
    phift_workspace.set_quota(A100, 24)
    phift_workspace.set_quota("standardndsh100v5family", 96)
    assert limits(phift_workspace.client)["standardNCADSA100v4Family"] == 24
    assert limits(phift_workspace.client)["standardNDv5H100Family"] == 96
    assert phift_workspace.requests("* computes/*") == phift_workspace.requests("GET computes/two-nodes")


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (lambda workspace: workspace.add_compute("x", "Standard_Nothing"), "Standard_Nothing is not supported"),
        (lambda workspace: workspace.set_quota("Standard_Nothing", 1), "the families are .*standardNCADSA100v4Family"),
        (lambda workspace: workspace.set_quota(A100, "many"), "quota is not a whole number"),
    ],
)
def test_what_cannot_be_seeded_is_refused_in_words(phift_workspace: TestWorkspace, seed: Any, words: str) -> None:
    with pytest.raises(errors.LocalWorkspaceError, match=words):
        seed(phift_workspace)


def test_a_fault_strikes_as_often_as_ordered_and_is_counted(phift_workspace: TestWorkspace) -> None:
    computes = phift_workspace.client.compute
    phift_workspace.order(
        Fault("GET computes/*", status=404, after=1), Fault("GET computes", status=400, message="Not today.", times=2)
    )
    computes.get("gpu-cluster")
    with pytest.raises(ResourceNotFoundError):
        computes.get("gpu-cluster")
    with pytest.raises(HttpResponseError, match="Not today"):
        list(computes.list())
    assert [(each.seen, each.hits) for each in phift_workspace.faults()] == [(2, 1), (1, 1)]
    with pytest.raises(AssertionError, match=r"1 of the ordered.*\n  GET computes: ordered 2 time\(s\), struck 1"):
        phift_workspace.verify()
    with pytest.raises(HttpResponseError):
        list(computes.list())
    phift_workspace.verify()
    statuses = [asked.status for asked in phift_workspace.requests("GET computes/*")]
    assert statuses == [200, 404]
    (last,) = phift_workspace.requests("get COMPUTES")[-1:]
    assert (last.operation, last.place, last.status) == ("GET computes", "GET computes", 400)


def _fail_with_a_fault_left() -> None:
    with TestWorkspace() as workspace:
        workspace.order(Fault("PUT jobs/*", status=503))
        raise ZeroDivisionError


def test_the_end_of_a_block_verifies_unless_something_failed_already() -> None:
    with pytest.raises(AssertionError, match="PUT jobs"), TestWorkspace() as workspace:
        workspace.order(Fault("PUT jobs/*", status=503))
    with pytest.raises(ZeroDivisionError):
        _fail_with_a_fault_left()
    with TestWorkspace() as workspace:
        workspace.order(Fault("PUT jobs/*", status=503))
        workspace.clear_faults()


def test_what_is_not_served_is_listed(phift_workspace: TestWorkspace) -> None:
    with pytest.raises(HttpResponseError, match="does not serve"):
        list(phift_workspace.client.schedules.list())
    assert phift_workspace.unserved() == {"GET schedules": 1}


@pytest.mark.phift(speed="manual")
def test_things_take_their_time_on_a_manual_clock(phift_workspace: TestWorkspace) -> None:
    client = phift_workspace.client
    for name in ("first", "second"):
        making = client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key"))
        phift_workspace.advance(49.5)
        assert client.online_endpoints.get(name).provisioning_state == "Creating"
        phift_workspace.advance(0.5)
        assert client.online_endpoints.get(name).provisioning_state == "Succeeded"
        assert making.result().name == name
    making = client.compute.begin_create_or_update(AmlCompute(name="small", size="Standard_DS12_v2"))
    phift_workspace.advance(10)
    assert making.result().provisioning_state == "Succeeded"


@pytest.mark.phift(speed="manual")
def test_a_reset_wakes_what_sleeps(phift_workspace: TestWorkspace) -> None:
    endpoints = phift_workspace.client.online_endpoints
    for name in ("first", "second", "third"):
        endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key"))
    started = time.monotonic()
    phift_workspace.reset()
    assert time.monotonic() - started < 5
    assert list(phift_workspace.client.online_endpoints.list()) == []


def test_only_a_manual_clock_is_moved(phift_workspace: TestWorkspace) -> None:
    with pytest.raises(errors.LocalWorkspaceError, match="The clock is fast"):
        phift_workspace.advance(1)


def test_started_and_stopped_by_hand() -> None:
    before = dict(os.environ)
    workspace = TestWorkspace().start()
    try:
        assert workspace.start() is workspace  # it runs already
        with pytest.raises(errors.LocalWorkspaceError, match="already uses another test workspace"):
            TestWorkspace().start()
        workspace.detach()
        assert dict(os.environ) == before
        with pytest.raises(errors.LocalWorkspaceError, match=r"call attach\(\) first"):
            workspace.client  # noqa: B018 - the access is the test
        workspace.attach()
        assert list(workspace.client.jobs.list()) == []
    finally:
        workspace.stop()
    workspace.stop()
    assert dict(os.environ) == before
    assert repr(workspace).endswith("not running>")


MLFLOW = """
import warnings; warnings.simplefilter("ignore")
{before}
from phift.testing import TestWorkspace, forbid_azure
with forbid_azure() as ban:
    for _ in range(2):
        with TestWorkspace() as workspace:
            import mlflow, azureml.mlflow
            mlflow.set_tracking_uri(workspace.client.workspaces.get("local").mlflow_tracking_uri)
            mlflow.search_experiments()
            print(workspace.connection.cloud_name, len(workspace.requests("POST *experiments/search")))
from azureml.mlflow._common._cloud.cloud import KNOWN_CLOUDS
print(*KNOWN_CLOUDS)
print(ban.refused)
"""


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("import mlflow, azureml.mlflow", id="before"),
        pytest.param("", id="inside the first", marks=pytest.mark.proof),
    ],
)
def test_mlflow_reaches_one_workspace_after_the_other_whenever_it_was_imported(
    child_environment: None, before: str
) -> None:
    command = [sys.executable, "-c", MLFLOW.format(before=before)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert done.returncode == 0, done.stderr
    *workspaces, clouds, refused = done.stdout.splitlines()
    assert [line.partition(" ")[2] for line in workspaces] == ["1", "1"]
    assert clouds == "AzureCloud AzureChinaCloud AzureUSGovernment AzureGermanCloud"
    assert refused == "[]"


@pytest.fixture
def killed(child_environment: None) -> Iterator[subprocess.Popen[str]]:
    program = """
import time
from phift.testing import TestWorkspace
workspace = TestWorkspace(server=True).start()
print(workspace.connection.folder, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - ours
        yield process
        process.kill()


def test_a_killed_suite_leaves_no_server(killed: subprocess.Popen[str]) -> None:
    assert killed.stdout is not None
    folder = Path(killed.stdout.readline().strip())
    pid = LocalWorkspace(folder).status().pid
    assert pid
    killed.send_signal(signal.SIGKILL)
    end = time.monotonic() + 120
    while LocalWorkspace(folder).status().running:
        assert time.monotonic() < end
        time.sleep(0.05)
    shutil.rmtree(folder.parent)  # that nobody was left to do


TRAINS = ("torch", "transformers", "peft", "accelerate")
SERVES = ("anyio", "starlette", "trustme", "uvicorn")  # cryptography comes with azure-identity


@pytest.mark.parametrize(("server", "missing"), [(True, TRAINS), (False, (*TRAINS, *SERVES))])
def test_a_workspace_needs_what_its_extra_brings_and_no_more(
    tmp_path: Path, child_environment: None, server: bool, missing: tuple[str, ...]
) -> None:
    for name in missing:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not here')\n")
    program = f"""
from phift.testing import TestWorkspace
with TestWorkspace(server={server}) as workspace:
    print(workspace.client.compute.get("gpu-cluster").name)
"""
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)  # noqa: S603 - ours
    assert done.stdout == "gpu-cluster\n", done.stderr


@pytest.mark.parametrize("server", [True, False])
def test_a_forked_child_that_ends_inside_the_block_ends_nothing(child_environment: None, server: bool) -> None:
    program = f"""
import os, sys
from phift.testing import TestWorkspace
with TestWorkspace(server={server}) as workspace:
    folder = workspace.connection.folder
    child = os.fork()
    if child == 0:
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print(workspace.client.compute.get("gpu-cluster").name, folder.is_dir())
print(folder.parent.exists())
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert done.stdout == "gpu-cluster True\nFalse\n", done.stderr


@pytest.mark.proof
def test_what_the_instant_engine_left_is_made_anew_for_training(tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    empty = LocalWorkspace(folder, engine="instant")
    empty.up()
    empty.down(timeout=0)
    models = folder / "registry"
    assert {path.name for path in models.glob("*/EMPTY.txt")} == {"EMPTY.txt"}
    trains = LocalWorkspace(folder)
    try:
        trains.up()
        assert not list(models.glob("*/EMPTY.txt"))
        assert len(list(models.glob("*/MLmodel"))) == 2
    finally:
        trains.down(timeout=0)
