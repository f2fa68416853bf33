"""The chain and the SDK's uploads and downloads, on the built-in blob routes and on Microsoft's storage emulator."""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.ml.entities import Data, Model
from azure.storage.blob import ContainerClient
from emulator import Emulator, running
from fakes.server import programs
from running import Local

from phift import FineTuneRun, RunConfig, samples
from phift.azure.connect import connect
from phift.errors import LocalWorkspaceError, NotFound
from phift.local import LocalWorkspace
from phift.local.model.account import Secrets
from phift.local.work.instant import NOTE

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


@contextmanager
def _up(folder: Path, azurite: Emulator | None, secrets: Secrets = "Sas", **options: Any) -> Iterator[Local]:
    """Start a local workspace on azurite, or with None on the built-in routes."""
    with pytest.MonkeyPatch.context() as environment:
        if azurite:
            options["storage"] = replace(azurite.account, secrets=secrets)
        workspace = LocalWorkspace(folder, speed="fast", **options)
        try:
            connection = workspace.up()
            environment.setenv("REQUESTS_CA_BUNDLE", str(connection.ca_bundle))
            local = Local(workspace, connection)
            yield local
            local.session.close()
        finally:
            workspace.down()


@pytest.fixture(scope="module", params=[pytest.param("built-in", marks=pytest.mark.proof), "azurite"])
def emulator(request: pytest.FixtureRequest) -> Emulator | None:
    """Each kind of storage: azurite, or None for the built-in routes."""
    found: Emulator | None = request.getfixturevalue("azurite") if request.param == "azurite" else None
    return found


@pytest.fixture(scope="module")
def stored(emulator: Emulator | None, tmp_path_factory: pytest.TempPathFactory, quiet_sdk: None) -> Iterator[Local]:
    """A local workspace on each kind of storage."""
    with _up(tmp_path_factory.mktemp("stored") / "workspace", emulator, engine="instant") as local:
        yield local


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
    run.wait(timeout=1200)
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


@pytest.mark.proof
@pytest.mark.usefixtures("quiet_log")
def test_a_job_prepares_its_own_data(stored: Local, tmp_path: Path) -> None:
    raw = samples.write(tmp_path / "raw").train
    stored.client.data.create_or_update(Data(name="raw", version="1", type="uri_file", path=str(raw)))
    data = {"train": "azureml:raw:1", "validation": None, "test": None, "prepare_on": "gpu-cluster"}
    job = _run(stored, tmp_path, **data).submit()
    job.wait(timeout=1200)
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


def _check_round_trip(local: Local, folder: Path, target: Path) -> None:
    model = Model(name="folder", version="1", path=str(folder), type="custom_model")
    place = local.client.models.create_or_update(model).path.partition("/paths/")[2].rstrip("/")
    container = _container(local)
    before = {blob.name: blob.etag for blob in container.list_blobs(place)}
    assert [blob.name for blob in container.list_blobs(place, results_per_page=1)] == list(before), "page by page"
    notes = [blob.metadata for blob in container.list_blobs(place, include="metadata") if blob.metadata]
    assert [note["upload_status"] for note in notes] == ["completed"], "one blob says that all are there"
    if _on_azurite(local):
        committed, uncommitted = container.get_blob_client(f"{place}/large.bin").get_block_list("all")
        assert (len(committed), uncommitted) == (17, [])
    again = Model(name="folder", version="2", path=str(folder), type="custom_model")
    assert local.client.models.create_or_update(again).path.partition("/paths/")[2].rstrip("/") == place
    after = {blob.name: blob.etag for blob in container.list_blobs(place)}
    assert after == before, "the second time nothing is written"
    local.client.models.download("folder", version="2", download_path=str(target))
    assert _same(folder, target / "folder" / "model")


@pytest.mark.proof
def test_a_folder_comes_back_as_it_went(stored: Local, folder: Path, tmp_path: Path) -> None:
    _check_round_trip(stored, folder, tmp_path)


@pytest.mark.proof
def test_a_folder_comes_back_with_the_accounts_key(
    azurite: Emulator, folder: Path, tmp_path: Path, quiet_sdk: None
) -> None:
    with _up(tmp_path / "workspace", azurite, "AccountKey", engine="instant") as local:
        _check_round_trip(local, folder, tmp_path)


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


@pytest.mark.proof
def test_a_log_grows_while_it_is_read(
    emulator: Emulator | None, tmp_path: Path, quiet_sdk: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with _up(tmp_path / "workspace", emulator, programs=programs()) as local:
        _check_streaming(local, _submit_slow(local, tmp_path, epochs=30), capsys)


def _submit_slow(local: Local, folder: Path, epochs: int) -> str:
    """Submit a job that trains for so many tenths of a second, and wait until it does."""
    run = _run(local, folder)
    config = run.config.model_copy(update={"parameters": {"num_train_epochs": epochs}})
    job = FineTuneRun(config, run.clients).submit().name
    local.wait(job, "Running")
    return job


def _check_streaming(local: Local, job: str, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_what_changes_outside_is_seen(azurite: Emulator, tmp_path: Path) -> None:
    with _up(tmp_path / "workspace", azurite, programs=programs()) as local:
        container = _container(local)
        copy = local.connection.folder / "mirror" / STORES / "data"
        for name in ("data/one.jsonl", "data/two.jsonl"):
            container.upload_blob(name, b"{}\n", overwrite=True)
        assert _register(local, "1").status_code == 201
        assert sorted(path.name for path in copy.iterdir()) == ["one.jsonl", "two.jsonl"]
        container.upload_blob("data/one.jsonl", b'{"a": 1}\n', overwrite=True)
        container.delete_blob("data/two.jsonl")
        assert _register(local, "2").status_code == 201
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == {"one.jsonl": b'{"a": 1}\n'}
        container.delete_blob("data/one.jsonl")
        assert "nothing is stored there" in _register(local, "3").json()["error"]["message"]
        container.upload_blob("data/..\\..\\secret", b"1", overwrite=True)
        assert "a name that cannot be a file's" in _register(local, "4").json()["error"]["message"]
        secret = {"X-IDENTITY-HEADER": local.connection.secret()}
        assert local.request("POST", "/phift/reset", token="", headers=secret).text == ""
        assert list(container.list_blobs()) == []
        assert not copy.exists()


def _register(local: Local, version: str) -> requests.Response:
    asset = {"dataType": "uri_folder", "dataUri": "azureml://datastores/workspaceblobstore/paths/data"}
    return local.request("PUT", f"{local.arm}/data/outside/versions/{version}", json={"properties": asset})


@pytest.mark.proof
def test_a_job_whose_storage_goes_away_fails_by_its_name(tmp_path: Path, quiet_sdk: None) -> None:
    (tmp_path / "azurite").mkdir()
    with running(tmp_path / "azurite") as own, _up(tmp_path / "workspace", own, programs=programs()) as local:
        address = own.account.url
        job = _submit_slow(local, tmp_path, epochs=5)
        own.stop()
        assert local.wait(job) == "Failed"
        error = local.request("GET", f"/history/v1.0{local.arm}/runs/{job}").json()["error"]["error"]
        assert f"The storage account {address} did not do as asked" in error["message"]
        answer = _register(local, "1")
        assert (answer.status_code, address in answer.json()["error"]["message"]) == (400, True)
        log = (local.connection.folder / "server.log").read_text()
        assert own.account.key not in log + answer.text + repr(own.account) + repr(local.workspace)


def test_a_workspace_keeps_its_storage(tmp_path: Path, azurite: Emulator) -> None:
    with _up(tmp_path / "workspace", azurite, programs=programs()) as local:
        local.workspace.down()
        again = LocalWorkspace(local.workspace.folder, programs=programs())
        _container(Local(again, again.up())).upload_blob("again", b"1")
    with _up(tmp_path / "other", None, programs=programs()) as local:
        local.workspace.down()
        with pytest.raises(LocalWorkspaceError, match="in its own folder already"):
            LocalWorkspace(local.workspace.folder, programs=programs(), storage=azurite.account).up()
