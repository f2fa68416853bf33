"""The chain and the SDK's uploads and downloads, on the built-in blob routes and on Microsoft's storage emulator."""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.entities import Data, Model
from azure.storage.blob import ContainerClient
from emulator import Emulator
from fakes.server import programs
from running import Local

from phift import FineTuneRun, RunConfig, samples
from phift.clients import connect
from phift.errors import LocalWorkspaceError, NotFound
from phift.local import LocalWorkspace
from phift.local.instant import NOTE

pytestmark = [
    pytest.mark.slow,
    # The SDK and its libraries announce their own deprecations; they are not ours to fix.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

STORES = "azureml-blobstore"
# The storage client cuts what is larger than 64 MiB into blocks of 4.
LARGE = 65 * 1024 * 1024


def _up(folder: Path, kind: str, request: pytest.FixtureRequest, **options: Any) -> Iterator[Local]:
    before = os.environ.get("REQUESTS_CA_BUNDLE")
    if kind != "built-in":
        azurite: Emulator = request.getfixturevalue("azurite")
        # The workspace's list of authorities is made of this one and its own.
        os.environ["REQUESTS_CA_BUNDLE"] = str(azurite.ca_bundle)
        options["storage"] = replace(azurite.account, secrets="AccountKey" if kind == "azurite with its key" else "Sas")
    workspace = LocalWorkspace(folder, speed="fast", **options)
    try:
        connection = workspace.up()
        os.environ["REQUESTS_CA_BUNDLE"] = str(connection.ca_bundle)
        local = Local(workspace, connection)
        yield local
        local.session.close()
    finally:
        workspace.down()
        os.environ.pop("REQUESTS_CA_BUNDLE")
        if before is not None:
            os.environ["REQUESTS_CA_BUNDLE"] = before


@pytest.fixture(scope="module", params=["built-in", "azurite", "azurite with its key"])
def stored(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, quiet_sdk: None
) -> Iterator[Local]:
    """A local workspace on each kind of storage."""
    yield from _up(tmp_path_factory.mktemp("stored") / "workspace", request.param, request, engine="instant")


@pytest.fixture(params=["built-in", "azurite"])
def slow_engine(request: pytest.FixtureRequest, tmp_path: Path, quiet_sdk: None) -> Iterator[Local]:
    """A local workspace whose engine takes as long as a job asks it to."""
    yield from _up(tmp_path / "workspace", request.param, request, programs=programs())


def _run(local: Local, folder: Path, **data: Any) -> FineTuneRun:
    given = samples.write(folder / "elements")
    config = RunConfig(
        workspace={"local": local.connection.folder},
        model="Phi-4-mini-instruct",
        compute="gpu-cluster",
        data={"train": given.train, "validation": given.validation, "test": given.test, **data},
        work_dir=folder / "work",
    )
    return FineTuneRun(config, replace(connect(config), poll_seconds=0.05))


def _container(local: Local, name: str = STORES) -> ContainerClient:
    """Return a container as the SDK gets at it: by what the datastore says."""
    store = {STORES: "workspaceblobstore", "azureml": "workspaceartifactstore"}[name]
    about = local.request("GET", f"{local.arm}/datastores/{store}").json()["properties"]
    secret = local.request("POST", f"{local.arm}/datastores/{store}/listSecrets").json()
    assert about["credentials"]["credentialsType"] == secret["secretsType"]
    url = f"https://{about['accountName']}.blob.{about['endpoint']}"
    return ContainerClient(url, about["containerName"], secret.get("sasToken") or secret["key"])


def _on_azurite(local: Local) -> bool:
    return (local.connection.folder / "storage.json").exists()


@pytest.fixture(scope="module")
def finished(stored: Local, tmp_path_factory: pytest.TempPathFactory) -> FineTuneRun:
    run = _run(stored, tmp_path_factory.mktemp("finished"))
    assert run.check().ok
    run.submit()
    run.wait(timeout=60)
    return run


@pytest.mark.usefixtures("quiet_log")
def test_the_whole_chain(stored: Local, finished: FineTuneRun) -> None:
    assert finished.submit().existed
    assert finished.metrics().empty, "the engine is the one that trains nothing"
    model = finished.register()
    assert stored.client.models.get(model.name, version=model.version).tags["phift.job"] == finished.job.name
    with finished.deploy() as endpoint:
        assert endpoint.chat("What is iron?") == NOTE
    with pytest.raises(NotFound):
        endpoint.chat("Are you still there?")
    names = [blob.name for blob in _container(stored).list_blobs()]
    assert any(name.endswith("/mlflow_model_folder/MLmodel") for name in names)
    assert any(name.startswith("LocalUpload/") and name.endswith("/train.jsonl") for name in names)
    # All of it was there, or, with the built-in routes, none of it.
    built_in = stored.connection.folder / "blobs/storage" / STORES / "LocalUpload"
    assert built_in.exists() is not _on_azurite(stored)


@pytest.mark.usefixtures("quiet_log")
def test_a_job_prepares_its_own_data(stored: Local, tmp_path: Path) -> None:
    raw = samples.write(tmp_path / "raw").train
    stored.client.data.create_or_update(Data(name="raw", version="1", type="uri_file", path=str(raw)))
    data = {"train": "azureml:raw:1", "validation": None, "test": None, "prepare_on": "gpu-cluster"}
    job = _run(stored, tmp_path, **data).submit()
    job.wait(timeout=60)
    outputs = stored.request("GET", f"{stored.arm}/jobs/{job.name}").json()["properties"]["outputs"]
    place = outputs["report"]["uri"].partition("/paths/")[2]
    report = json.loads(_container(stored).download_blob(f"{place}/manifest.json").readall())
    assert set(report["hashes"]) == {"train", "validation", "test"}
    assert job.tracking.log_tail(job.steps()[0].run_id).rstrip().endswith("rows written.")


def _same(one: Path, other: Path) -> bool:
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    return filecmp.cmpfiles(one, other, [str(name) for name in names], shallow=False)[1:] == ([], [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a folder may hold: folders, odd names, nothing at all, and more than one request takes."""
    folder = tmp_path_factory.mktemp("folder") / "model"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "deep.txt").write_text("deep", encoding="utf-8")
    (folder / "a" / "ö & <ä>+1.txt").write_text("odd", encoding="utf-8")
    (folder / "empty").touch()
    (folder / "large.bin").write_bytes(os.urandom(LARGE))
    return folder


def test_a_folder_comes_back_as_it_went(stored: Local, folder: Path, tmp_path: Path) -> None:
    model = Model(name="folder", version="1", path=str(folder), type="custom_model")
    place = stored.client.models.create_or_update(model).path.partition("/paths/")[2].rstrip("/")
    container = _container(stored)
    before = {blob.name: blob.etag for blob in container.list_blobs(place)}
    assert [blob.name for blob in container.list_blobs(place, results_per_page=1)] == list(before), "page by page"
    notes = [blob.metadata for blob in container.list_blobs(place, include="metadata") if blob.metadata]
    assert [note["upload_status"] for note in notes] == ["completed"], "one blob says that all are there"
    if _on_azurite(stored):
        committed, uncommitted = container.get_blob_client(f"{place}/large.bin").get_block_list("all")
        assert (len(committed), uncommitted) == (17, [])
    again = Model(name="folder", version="2", path=str(folder), type="custom_model")
    assert stored.client.models.create_or_update(again).path.partition("/paths/")[2].rstrip("/") == place
    after = {blob.name: blob.etag for blob in container.list_blobs(place)}
    assert after == before, "the second time nothing is written"
    stored.client.models.download("folder", version="2", download_path=str(tmp_path))
    assert _same(folder, tmp_path / "folder" / "model")


def test_a_model_and_logs_are_downloaded(stored: Local, finished: FineTuneRun, tmp_path: Path) -> None:
    client, job = stored.client, finished.job.name
    model = finished.register()
    client.models.download(model.name, version=model.version, download_path=str(tmp_path))
    assert (tmp_path / model.name / "mlflow_model_folder/EMPTY.txt").read_text() == f"{NOTE}\n"
    client.jobs.download(job, download_path=tmp_path / "job")
    assert "is Completed" in (tmp_path / "job/artifacts/logs/azureml/executionlogs.txt").read_text()
    step = list(client.jobs.list(parent_job_name=job))[-1].name
    client.jobs.download(step, download_path=tmp_path / "step")
    assert (tmp_path / "step/artifacts/user_logs/std_log.txt").read_text() == f"{NOTE}\n"


def test_a_log_grows_while_it_is_read(slow_engine: Local, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local, run = slow_engine, _run(slow_engine, tmp_path)
    slow = run.config.model_copy(update={"parameters": {"num_train_epochs": 30}})
    job = FineTuneRun(slow, run.clients).submit().name
    local.wait(job, "Running")
    first = _log(local, job)
    capsys.readouterr()
    local.client.jobs.stream(job)
    printed, last = capsys.readouterr().out, _log(local, job)
    assert first in last
    assert "The step ft_nlp_model_converter is Completed" not in first
    assert "The step ft_nlp_model_converter is Completed" in last
    assert first in printed
    assert "The step ft_nlp_model_converter is Completed" in printed
    assert "Execution Summary" in printed


def _log(local: Local, job: str) -> str:
    details = local.request("GET", f"/history/v1.0{local.arm}/runs/{job}/details").json()
    return local.request("GET", details["logFiles"]["logs/azureml/executionlogs.txt"], token="").text


def test_what_changes_outside_is_seen(azurite: Emulator, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for local in _up(tmp_path / "workspace", "azurite", request, programs=programs()):
        container = _container(local)
        for name in ("data/one.jsonl", "data/two.jsonl"):
            container.upload_blob(name, b"{}\n", overwrite=True)
        asset = {"dataType": "uri_folder", "dataUri": "azureml://datastores/workspaceblobstore/paths/data"}
        put = f"{local.arm}/data/outside/versions/1"
        assert local.request("PUT", put, json={"properties": asset}).status_code == 201
        copy = local.connection.folder / "mirror" / STORES / "data"
        assert sorted(path.name for path in copy.iterdir()) == ["one.jsonl", "two.jsonl"]
        container.upload_blob("data/one.jsonl", b'{"a": 1}\n', overwrite=True)
        container.delete_blob("data/two.jsonl")
        assert local.request("PUT", put.replace("/1", "/2"), json={"properties": asset}).status_code == 201
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == {"one.jsonl": b'{"a": 1}\n'}
        container.delete_blob("data/one.jsonl")
        answer = local.request("PUT", put.replace("/1", "/3"), json={"properties": asset})
        assert (answer.status_code, "nothing is stored there" in answer.text) == (400, True)


def test_an_account_that_is_gone_is_named(azurite: Emulator, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    gone = replace(azurite.account, url="https://127.0.0.1:1/phift")
    workspace = LocalWorkspace(tmp_path / "workspace", programs=programs(), storage=gone)
    local = Local(workspace, workspace.up())
    try:
        answer = local.request("POST", f"{local.arm}/datastores/workspaceblobstore/listSecrets")
        assert answer.status_code == 400
        assert "https://127.0.0.1:1/phift did not do as asked" in answer.json()["error"]["message"]
        log = (tmp_path / "workspace" / "server.log").read_text()
        assert gone.key not in log + answer.text + repr(gone) + repr(workspace)
    finally:
        local.session.close()
        workspace.down()


def test_a_workspace_keeps_its_storage(tmp_path: Path, azurite: Emulator, quiet_sdk: None) -> None:
    LocalWorkspace(tmp_path / "workspace", programs=programs()).up()
    LocalWorkspace(tmp_path / "workspace").down()
    with pytest.raises(LocalWorkspaceError, match="in its own folder already"):
        LocalWorkspace(tmp_path / "workspace", programs=programs(), storage=azurite.account).up()
