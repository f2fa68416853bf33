"""The chain and the SDK's uploads and downloads, as the workspace's own storage account takes and gives them."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.entities import Model
from azure.storage.blob import ContainerClient
from fakes.server import programs
from running import Local

from phift import FineTuneRun, RunConfig, samples
from phift.azure.connect import connect
from phift.errors import NotFound
from phift.local import LocalWorkspace
from phift.local.programs import NOTE

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
def _up(folder: Path, **options: Any) -> Iterator[Local]:
    with pytest.MonkeyPatch.context() as environment:
        workspace = LocalWorkspace(folder, speed="fast", **options)
        try:
            connection = workspace.up()
            environment.setenv("REQUESTS_CA_BUNDLE", str(connection.ca_bundle))
            local = Local(workspace, connection)
            yield local
            local.session.close()
        finally:
            workspace.down()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, quiet_sdk: None) -> Iterator[Local]:
    with _up(tmp_path_factory.mktemp("stored") / "workspace", engine="instant") as local:
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
    assert (about["credentials"]["credentialsType"], secret["secretsType"]) == ("AccountKey", "Sas")
    url = f"https://{about['accountName']}.blob.{about['endpoint']}"
    return ContainerClient(url, about["containerName"], secret["sasToken"])


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
    assert (stored.connection.folder / "blobs/storage" / STORES / "LocalUpload").is_dir()


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


@pytest.mark.proof
def test_a_folder_comes_back_as_it_went(stored: Local, folder: Path, tmp_path: Path) -> None:
    local = stored
    model = Model(name="folder", version="1", path=str(folder), type="custom_model")
    place = local.client.models.create_or_update(model).path.partition("/paths/")[2].rstrip("/")
    container = _container(local)
    before = {blob.name: blob.etag for blob in container.list_blobs(place)}
    assert [blob.name for blob in container.list_blobs(place, results_per_page=1)] == list(before), "page by page"
    notes = [blob.metadata for blob in container.list_blobs(place, include="metadata") if blob.metadata]
    assert [note["upload_status"] for note in notes] == ["completed"], "one blob says that all are there"
    again = Model(name="folder", version="2", path=str(folder), type="custom_model")
    assert local.client.models.create_or_update(again).path.partition("/paths/")[2].rstrip("/") == place
    after = {blob.name: blob.etag for blob in container.list_blobs(place)}
    assert after == before, "the second time nothing is written"
    local.client.models.download("folder", version="2", download_path=str(tmp_path))
    assert _same(folder, tmp_path / "folder" / "model")


def test_a_model_and_logs_are_downloaded(stored: Local, finished: FineTuneRun, tmp_path: Path) -> None:
    client, job = stored.client, finished.job.name
    model = finished.register()
    client.models.download(model.name, version=model.version, download_path=str(tmp_path))
    assert (tmp_path / model.name / "mlflow_model_folder/EMPTY.txt").read_text() == f"{NOTE}\n"
    client.jobs.download(job, download_path=tmp_path / "job")
    assert "] Completing processing run id " in (tmp_path / "job/artifacts/logs/azureml/executionlogs.txt").read_text()
    step = list(client.jobs.list(parent_job_name=job))[-1].name
    client.jobs.download(step, download_path=tmp_path / "step")
    assert (tmp_path / "step/artifacts/user_logs/std_log.txt").read_text() == f"{NOTE}\n"


@pytest.mark.proof
def test_a_log_grows_while_it_is_read(tmp_path: Path, quiet_sdk: None, capsys: pytest.CaptureFixture[str]) -> None:
    with _up(tmp_path / "workspace", programs=programs()) as local:
        run = _run(local, tmp_path)
        slow = run.config.model_copy(update={"parameters": {"num_train_epochs": 30}})  # tenths of a second
        job = FineTuneRun(slow, run.clients).submit().name
        local.wait(job, "Running")
        first = _log(local, job)
        last_step = list(local.client.jobs.list(parent_job_name=job))[-1].name
        done = f"Completing processing run id {last_step}."
        capsys.readouterr()
        local.client.jobs.stream(job)
        printed, last = capsys.readouterr().out, _log(local, job)
        assert first in last
        assert done not in first
        assert done in last
        assert first in printed
        assert done in printed
        assert "Execution Summary" in printed


def _log(local: Local, job: str) -> str:
    details = local.request("GET", f"/history/v1.0{local.arm}/runs/{job}/details").json()
    return local.request("GET", details["logFiles"]["logs/azureml/executionlogs.txt"], token="").text
