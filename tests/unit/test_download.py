"""A job's outputs and a registered model taken home: whole, checked, and taken up again where it broke off."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import threading
import traceback
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests
from azure.ai.ml.entities import Model
from azure.storage.blob import ContainerClient

from phift.azure import storage
from phift.azure.clients import Clients
from phift.azure.storage import Datastore, Storage, StoredFile
from phift.errors import ConfigError, Conflict, JobCanceled, JobFailed, NotFound, PhiftError, ServiceError, WaitTimeout
from phift.jobs import download
from phift.jobs.download import STATE, DownloadProgress
from phift.jobs.job import FineTuneJob
from phift.jobs.manifest import MANIFEST
from phift.jobs.outputs import all_files
from phift.jobs.registration import RegisteredModel, download_model, register_model
from phift.testing import Fault, TestWorkspace
from unit import given

FILES = {
    "MLmodel": b"flavors: {}\n",
    "data/model.bin": bytes(range(256)) * 20,
    "data/odd &<é>.txt": b"",
    "z": b"1" * 999,
}
PIECE = 1000


def below(folder: Path) -> dict[str, bytes]:
    """Return what a folder has, without its manifest."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def blobs(workspace: TestWorkspace) -> Path:
    return workspace.connection.folder / "blobs" / "storage" / "azureml-blobstore"


def put(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PIECE", PIECE)


@pytest.fixture
def model(workspace: TestWorkspace) -> str:
    """A registered model of some files, the second of them of several pieces."""
    put(blobs(workspace) / "models/m", FILES)
    path = "azureml://datastores/workspaceblobstore/paths/models/m"
    workspace.client.models.create_or_update(Model(name="m", version="1", path=path, type="custom_model"))
    return "m"


@pytest.fixture
def job(workspace: TestWorkspace, clients: Clients) -> FineTuneJob:
    given.job(workspace)
    return FineTuneJob("job", clients)


def read_from(workspace: TestWorkspace) -> int:
    """Return how often something of a blob was asked for."""
    return sum("/" in each.place for each in workspace.requests("GET blobs/azureml-blobstore/*"))


# ---------------------------------------------------------------- what comes


def test_a_job_s_model_comes_with_a_manifest(job: FineTuneJob, tmp_path: Path) -> None:
    job.wait()
    got = job.download(tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / MANIFEST).read_text())
    files = below(tmp_path / "model")
    assert set(files) == {"EMPTY.txt", "MLmodel"}
    assert manifest["origin"] == {"job": "job", "output": "trained_model"}
    assert got.manifest == manifest
    assert (got.files, got.bytes, got.fetched, got.known) == (2, *[sum(map(len, files.values()))] * 2, False)
    told = {entry["path"]: (entry["size"], entry["sha256"]) for entry in manifest["files"]}
    assert told == {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    assert json.dumps(got.to_dict())


def test_a_model_comes_whole_by_its_name(clients: Clients, model: str, tmp_path: Path) -> None:
    events: list[DownloadProgress] = []
    got = download_model(clients, model, "1", tmp_path / "deep/er", on_event=events.append)
    assert below(tmp_path / "deep/er") == FILES
    assert [event.stage for event in events][:: len(events) - 1] == ["fetch", "done"]
    assert [event.bytes for event in events] == sorted(event.bytes for event in events)
    last = events[-1]
    assert (last.bytes, last.files) == (last.total_bytes, last.total_files) == (got.bytes, len(FILES))
    assert last.to_dict()["time"].endswith("+00:00")


def test_a_registered_model_downloads_itself_unless_it_was_pickled(
    job: FineTuneJob, clients: Clients, tmp_path: Path
) -> None:
    job.wait()
    model = register_model(clients, job, name="mine", version="1")
    model.download(tmp_path)
    assert json.loads((tmp_path / MANIFEST).read_text())["job"] == "job"
    copy: RegisteredModel = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own
    assert copy == model
    with pytest.raises(ConfigError, match="no clients"):
        copy.download(tmp_path)


def test_the_second_time_nothing_is_fetched_and_it_says_so(
    workspace: TestWorkspace, clients: Clients, model: str, tmp_path: Path
) -> None:
    download_model(clients, model, "1", tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copy)  # with other times
    before, events = read_from(workspace), list[DownloadProgress]()
    for folder in ("one", "two"):
        got = download_model(clients, model, "1", tmp_path / folder, on_event=events.append)
        assert (got.known, got.fetched, got.files) == (True, 0, len(FILES))
    assert [event.stage for event in events] == ["known", "known"]
    assert read_from(workspace) == before
    assert not (tmp_path / "two" / STATE).exists()


def test_what_is_gone_from_the_folder_comes_again_and_nothing_else(
    clients: Clients, model: str, tmp_path: Path
) -> None:
    download_model(clients, model, "1", tmp_path)
    (tmp_path / "z").unlink()
    got = download_model(clients, model, "1", tmp_path)
    assert (got.fetched, got.known) == (999, False)
    assert below(tmp_path) == FILES


@pytest.mark.parametrize("datastores", ["identity", "keys-off"])
def test_storage_that_takes_no_keys_is_read_with_the_caller_s_own_token(
    datastores: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "azureml.mlflow", None)
    TestWorkspace._in_use, before = None, TestWorkspace._in_use
    try:
        with TestWorkspace(datastores=datastores) as own:
            given.job(own)
            job = FineTuneJob("job", own.clients)
            job.wait()
            job.download(tmp_path)
    finally:
        TestWorkspace._in_use = before
    assert (tmp_path / "MLmodel").exists()


@pytest.mark.parametrize(
    ("names", "weights", "tokenizer"),
    [
        (("model/config.json", "components/tokenizer/tokenizer.json"), "model", "components/tokenizer"),
        (("data/model/config.json", "data/tokenizer/tokenizer_config.json"), "data/model", "data/tokenizer"),
        (("config.json", "tokenizer.json"), ".", "."),
    ],
)
def test_the_folders_that_transformers_opens_are_told(
    tmp_path: Path, names: tuple[str, ...], weights: str, tokenizer: str
) -> None:
    got = download.Download(folder=tmp_path, files=2, bytes=2, fetched=2, known=False)
    with pytest.raises(NotFound, match="no model of transformers"):
        assert got.weights
    put(tmp_path, dict.fromkeys(names, b"1"))
    assert (got.weights, got.tokenizer) == (tmp_path / weights, tmp_path / tokenizer)


# ---------------------------------------------------------------- what does not


def test_an_output_that_there_is_not_is_an_error_that_names_those_there_are(job: FineTuneJob, tmp_path: Path) -> None:
    job.wait()
    with pytest.raises(NotFound, match="no output trained; it has trained_model"):
        job.download(tmp_path / "x", output="trained")
    assert not (tmp_path / "x").exists()


def test_a_model_that_there_is_not_is_an_error(clients: Clients, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        download_model(clients, "none", "1", tmp_path / "x")


def test_an_output_without_files_is_an_error(
    clients: Clients, model: str, workspace: TestWorkspace, tmp_path: Path
) -> None:
    shutil.rmtree(blobs(workspace) / "models")
    with pytest.raises(NotFound, match="no files to fetch"):
        download_model(clients, model, "1", tmp_path / "x")


def test_a_job_that_runs_has_nothing_whole_yet(phift_manual: Any, tmp_path: Path) -> None:
    with pytest.raises(WaitTimeout):
        phift_manual.download(tmp_path)


@pytest.fixture
def phift_manual(monkeypatch: pytest.MonkeyPatch, job: FineTuneJob) -> FineTuneJob:
    monkeypatch.setattr(FineTuneJob, "status", lambda _: "Running")
    return job


# ---------------------------------------------------------------- outputs after a failure


def test_outputs_after_a_failure(workspace: TestWorkspace, clients: Clients, tmp_path: Path) -> None:
    workspace.order(Fault("step ft_nlp_model_converter", status=400, code="UserError", message="made up"))
    given.job(workspace)
    job = FineTuneJob("job", clients)
    with pytest.raises(JobFailed):
        job.wait()
    with pytest.raises(JobFailed, match="partial=True") as caught:
        job.download(tmp_path / "x")
    assert caught.value.job == "job"
    (step,) = (each for each in job.steps() if each.name == "chat_completion_finetune")
    put(blobs(workspace) / "azureml" / step.run_id / "pytorch_model_folder", {"checkpoint-1/weights": b"1234"})
    got = job.download(tmp_path / "x", partial=True)
    files = below(tmp_path / "x")
    assert files["outputs/chat_completion_finetune/pytorch_model_folder/checkpoint-1/weights"] == b"1234"
    assert b"empty" in files["logs/chat_completion_finetune/user_logs/std_log.txt"]
    assert "logs/job/logs/azureml/executionlogs.txt" in files
    assert got.manifest["origin"] == {"job": "job"}
    assert job.download(tmp_path / "x", partial=True).known


def test_a_cancelled_job_is_refused_and_its_logs_come(
    workspace: TestWorkspace, clients: Clients, tmp_path: Path
) -> None:
    workspace.order(Fault("step chat_completion_finetune", delay=30))
    given.job(workspace)
    job = FineTuneJob("job", clients)
    job.cancel()
    with pytest.raises(JobCanceled, match="--partial"):
        job.download(tmp_path)
    job.download(tmp_path, partial=True)
    assert "logs/job/logs/azureml/executionlogs.txt" in below(tmp_path)
    workspace.clear_faults()


def test_all_of_a_job_comes_with_its_logs(job: FineTuneJob, tmp_path: Path) -> None:
    job.wait()
    job.download(tmp_path, output=None)
    files = below(tmp_path)
    assert {"outputs/trained_model/MLmodel", "logs/chat_completion_finetune/user_logs/std_log.txt"} <= set(files)
    assert not [name for name in files if name.startswith("outputs/") and "trained_model" not in name]


class Stored:
    """Storage in which every folder has one file, which tells of what run it is."""

    def files(self, address: str) -> list[StoredFile]:
        run = address.rpartition("/")[2].removeprefix("dcid.")
        store = cast(Datastore, None)  # nothing is read
        return [StoredFile(name="log.txt", size=1, etag=run, modified=0, md5=None, blob=address, store=store)]


@pytest.mark.parametrize("unfinished", [False, True])
def test_steps_of_one_name_keep_their_logs_apart(unfinished: bool) -> None:
    steps = [("tune", "run-1"), ("tune", "run-2"), ("job", "run-3"), ("model", "run-4")]
    found = all_files(cast(Storage, Stored()), {"model": "address/of-model"}, "job", steps, unfinished=unfinished)
    outputs = {
        "outputs/job/log.txt": "job",
        "outputs/tune/log.txt": "run-1",
        "outputs/tune-run-2/log.txt": "run-2",
        "outputs/job-run-3/log.txt": "run-3",
        "outputs/model-run-4/log.txt": "run-4",
    }
    assert {path: file.etag for path, file in found.items()} == {
        "logs/job/log.txt": "job",
        "logs/tune/log.txt": "run-1",
        "logs/tune-run-2/log.txt": "run-2",
        "logs/job-run-3/log.txt": "run-3",
        "logs/model/log.txt": "run-4",
        "outputs/model/log.txt": "of-model",
        **(outputs if unfinished else {}),
    }


# ---------------------------------------------------------------- what breaks off


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pieces fetched as they are wanted; else it is anybody's guess which come first."""
    monkeypatch.setattr(download, "_THREADS", 1)
    monkeypatch.setattr(download, "_AHEAD", 1)


class Killed(BaseException):
    """As by SIGKILL: nothing of ours cleans up after it but what holds no more."""


def test_wherever_it_is_killed_it_ends_whole_and_right(
    clients: Clients, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change of what is on the disk is the last one of some try."""
    count = 0

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count -= 1
            if count == 0:
                raise Killed
            return call(*arguments, **options)

        return counted

    monkeypatch.setattr(download._Folder, "_new_journal", counting(download._Folder._new_journal))
    for name in ("_append", "_put", "write_manifest"):
        monkeypatch.setattr(download, name, counting(getattr(download, name)))
    monkeypatch.setattr(os, "utime", counting(os.utime))
    monkeypatch.setattr(shutil, "rmtree", counting(shutil.rmtree))
    least = sum(map(len, FILES.values()))
    for tries in range(1, 100):
        folder, fetched, count = tmp_path / str(tries), 0, tries
        try:
            download_model(clients, model, "1", folder)
        except Killed:
            assert not (folder / MANIFEST).exists() or below(folder).items() >= FILES.items()
            assert all(FILES[name] == content for name, content in below(folder).items() if not name.startswith(STATE))
            count = 0
            fetched = download_model(clients, model, "1", folder).fetched
        assert below(folder) == FILES
        assert fetched <= least
        if not fetched and count > 0:
            break
    assert tries > 15


@pytest.mark.parametrize("cut", ["before", "half"])
def test_a_connection_that_breaks_costs_no_more_than_its_pieces(
    workspace: TestWorkspace,
    clients: Clients,
    model: str,
    tmp_path: Path,
    sleeps: list[float],
    monkeypatch: pytest.MonkeyPatch,
    cut: Any,
) -> None:
    one_by_one(monkeypatch)
    workspace.order(Fault("GET blobs/azureml-blobstore/*", cut=cut, after=3, times=None))
    with pytest.raises(ServiceError):
        download_model(clients, model, "1", tmp_path)
    assert not (tmp_path / MANIFEST).exists()
    there = sum(len(content) for name, content in below(tmp_path).items() if name != f"{STATE}/journal")
    assert there >= PIECE
    workspace.clear_faults()
    got = download_model(clients, model, "1", tmp_path)
    assert got.fetched <= got.bytes - there
    assert below(tmp_path) == FILES


def test_one_answer_that_breaks_off_is_asked_for_again(
    workspace: TestWorkspace, clients: Clients, model: str, tmp_path: Path, sleeps: list[float]
) -> None:
    workspace.order(
        Fault("GET blobs/azureml-blobstore/*", status=503, after=2),
        Fault("GET blobs/azureml-blobstore/*", cut="half", after=3),
    )
    download_model(clients, model, "1", tmp_path)
    assert below(tmp_path) == FILES


def interrupted(clients: Clients, folder: Path, pieces: int) -> None:
    """Begin a download, and press Ctrl-C when so many pieces have come."""

    def press(event: DownloadProgress) -> None:
        if event.bytes >= len(FILES["MLmodel"]) + pieces * PIECE:
            raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        download_model(clients, "m", "1", folder, on_event=press)
    for _ in range(500):
        if not set(threading.enumerate()) - before:  # threads that fetch are left to themselves
            return
        threading.Event().wait(0.01)


def test_ctrl_c_leaves_what_can_be_gone_on_with(clients: Clients, model: str, tmp_path: Path) -> None:
    interrupted(clients, tmp_path, 3)
    assert set(below(tmp_path)) == {"MLmodel", f"{STATE}/journal", f"{STATE}/part", f"{STATE}/lock"}
    got = download_model(clients, model, "1", tmp_path)
    assert got.fetched == got.bytes - len(FILES["MLmodel"]) - 3 * PIECE
    assert below(tmp_path) == FILES
    assert not (tmp_path / STATE).exists()


@pytest.mark.parametrize("as_long", [False, True])
def test_a_part_of_another_file_gets_no_name(
    clients: Clients, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_long: bool
) -> None:
    """A process that goes on may be killed when its journal has what is done, and not yet what was begun."""
    interrupted(clients, tmp_path, 3)

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(download._Folder, "_write", killed)
        with pytest.raises(Killed):
            download_model(clients, model, "1", tmp_path)
    if as_long:
        (tmp_path / STATE / "part").write_bytes(b"?" * len(FILES["MLmodel"]))
    download_model(clients, model, "1", tmp_path)
    assert below(tmp_path) == FILES


def test_a_file_that_changed_meanwhile_begins_anew(
    workspace: TestWorkspace, clients: Clients, model: str, tmp_path: Path
) -> None:
    interrupted(clients, tmp_path, 3)
    changed = FILES | {"data/model.bin": b"2" * len(FILES["data/model.bin"])}
    put(blobs(workspace) / "models/m", {"data/model.bin": changed["data/model.bin"]})
    got = download_model(clients, model, "1", tmp_path)
    assert got.fetched == got.bytes - len(FILES["MLmodel"])
    assert below(tmp_path) == changed


def test_a_file_that_changes_while_it_comes_is_refused(
    workspace: TestWorkspace, clients: Clients, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one(monkeypatch)

    def change(event: DownloadProgress) -> None:
        if event.bytes > 2 * PIECE:
            put(blobs(workspace) / "models/m", {"z": b"2"})

    with pytest.raises(Conflict) as caught:
        download_model(clients, model, "1", tmp_path, on_event=change)
    assert caught.value.where == "z"
    assert not (tmp_path / "z").exists()


def test_a_part_that_rotted_on_the_disk_is_used_as_far_as_it_is_right(
    clients: Clients, model: str, tmp_path: Path
) -> None:
    interrupted(clients, tmp_path, 4)
    part = tmp_path / STATE / "part"
    rotten = bytearray(part.read_bytes())
    rotten[2 * PIECE + 5] ^= 1
    part.write_bytes(rotten)
    got = download_model(clients, model, "1", tmp_path)
    assert got.fetched == got.bytes - len(FILES["MLmodel"]) - 2 * PIECE
    assert below(tmp_path) == FILES


@pytest.mark.parametrize(
    "journal",
    [b"", b"{", b'{"origin": {"model": "other:1"}}\n{"path": "z"}\n', b"[]\n1\n", b'{"origin": {"model": "m:1"}}\n1\n'],
)
def test_a_journal_of_nothing_or_of_something_else_counts_for_nothing(
    clients: Clients, model: str, tmp_path: Path, journal: bytes
) -> None:
    put(tmp_path / STATE, {"journal": journal, "part": b"1234"})
    download_model(clients, model, "1", tmp_path)
    assert below(tmp_path) == FILES


def test_two_callers_at_once_fetch_it_once(
    workspace: TestWorkspace, clients: Clients, model: str, tmp_path: Path
) -> None:
    got, events, begun = [], list[DownloadProgress](), threading.Event()

    def slowly(event: DownloadProgress) -> None:
        events.append(event)
        begun.set()
        threading.Event().wait(0.02)

    def take() -> None:
        got.append(download_model(clients, model, "1", tmp_path, on_event=slowly))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.fetched for each in got) == [0, 0, 0, sum(map(len, FILES.values()))]
    assert "waits" in {event.stage for event in events}
    assert below(tmp_path) == FILES


# ---------------------------------------------------------------- what is not right


def test_what_has_another_hash_than_storage_says_gets_no_name(
    workspace: TestWorkspace, clients: Clients, model: str, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "x").write_bytes(b"right" * 500)
    made = workspace.client.models.create_or_update(
        Model(name="hashed", version="1", path=str(tmp_path / "own"), type="custom_model")
    )
    stored = blobs(workspace) / made.path.partition("/paths/")[2] / "x"
    seen = stored.stat()
    stored.write_bytes(b"wrong" * 500)
    os.utime(stored, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    with pytest.raises(ServiceError, match="another MD5"):
        download_model(clients, "hashed", "1", tmp_path / "target")
    assert not (tmp_path / "target" / "x").exists()
    stored.write_bytes(b"right" * 500)
    os.utime(stored, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    download_model(clients, "hashed", "1", tmp_path / "target")
    assert below(tmp_path / "target") == {"x": b"right" * 500}


def test_a_piece_that_is_damaged_on_its_way_is_not_taken(
    clients: Clients, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeps: list[float]
) -> None:
    monkeypatch.setattr("phift.local.services.blobs._md5", lambda _: b64encode(b"0" * 16).decode())
    with pytest.raises(ServiceError, match="MD5"):
        download_model(clients, model, "1", tmp_path)
    assert not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize(
    "name", ["/../x", "/a/../../x", "/..\\..\\x", "/C:/x", f"/{STATE}/journal", f"/{STATE.upper()}/x"]
)
def test_a_name_that_leaves_the_folder_is_refused_before_anything_is_written(
    clients: Clients, model: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = {"size": 1, "etag": "1", "metadata": None, "content_settings": None, "last_modified": None}
    items = [SimpleNamespace(name=f"models/m{each}", **blob) for each in ("/good", name)]
    for item in items:
        item.last_modified = SimpleNamespace(timestamp=lambda: 1.0)
    monkeypatch.setattr(ContainerClient, "list_blobs", lambda *_, **__: iter(items))
    with pytest.raises(ServiceError, match="Nothing was downloaded"):
        download_model(clients, model, "1", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_what_begins_alike_or_stands_for_a_folder_does_not_come(
    workspace: TestWorkspace, clients: Clients, model: str, tmp_path: Path
) -> None:
    put(blobs(workspace) / "models", {"m2/other": b"1", "m.txt": b"1"})
    put(blobs(workspace) / "models/m", {MANIFEST: b"of an earlier download"})
    with workspace_container(workspace) as container:
        container.upload_blob("models/m/folder", b"", metadata={"hdi_isfolder": "true"})
    download_model(clients, model, "1", tmp_path)
    assert below(tmp_path) == FILES
    assert json.loads((tmp_path / MANIFEST).read_text())["origin"] == {"model": "m:1"}


def workspace_container(workspace: TestWorkspace) -> ContainerClient:
    store = storage.Datastore(workspace.clients, "workspaceblobstore")
    return store._container()


@pytest.mark.parametrize(("range_", "status"), [("bytes=1-4194304", 206), ("bytes=0-4194304", 400), ("", 400)])
def test_the_local_storage_hashes_ranges_as_azure_s(workspace: TestWorkspace, range_: str, status: int) -> None:
    put(blobs(workspace), {"large": b"1" * (4 << 20) + b"2"})
    headers = {"x-ms-range-get-content-md5": "true"} | ({"x-ms-range": range_} if range_ else {})
    with workspace_container(workspace) as container:
        answer = requests.get(container.get_blob_client("large").url, headers=headers, timeout=60)
    assert answer.status_code == status
    hashed = hashlib.md5(answer.content, usedforsecurity=False).digest()
    assert answer.headers.get("Content-MD5") == (b64encode(hashed).decode() if status == 206 else None)


def test_files_of_somebody_else_stay_as_they_are(clients: Clients, model: str, tmp_path: Path) -> None:
    put(tmp_path, {"z": b"mine", "mine": b"too"})
    with pytest.raises(Conflict, match="is there, and is not as it was downloaded") as caught:
        download_model(clients, model, "1", tmp_path)
    assert caught.value.where == str(tmp_path / "z")
    (tmp_path / "z").unlink()
    download_model(clients, model, "1", tmp_path)
    assert below(tmp_path) == FILES | {"mine": b"too"}
    (tmp_path / "z").write_bytes(b"3" * 999)
    with pytest.raises(Conflict):
        download_model(clients, model, "1", tmp_path)


def test_a_folder_takes_one_download(clients: Clients, model: str, job: FineTuneJob, tmp_path: Path) -> None:
    download_model(clients, model, "1", tmp_path)
    job.wait()
    with pytest.raises(Conflict, match="holds something else: m:1"):
        job.download(tmp_path)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "may not be written"),
        (errno.EIO, "refuses"),
    ],
)
def test_a_disk_that_refuses_is_told_and_what_came_is_kept(
    clients: Clients, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    real, left = download._append, 3

    def full(half: Any, content: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            half.write(content[:10])
            raise OSError(number, os.strerror(number), "somewhere")
        real(half, content)

    monkeypatch.setattr(download, "_append", full)
    with pytest.raises(PhiftError, match=said) as caught:
        download_model(clients, model, "1", tmp_path)
    assert caught.value.where == "somewhere"
    monkeypatch.undo()
    monkeypatch.setattr(download, "PIECE", PIECE)
    got = download_model(clients, model, "1", tmp_path)
    assert got.fetched == got.bytes - len(FILES["MLmodel"]) - 2 * PIECE
    assert below(tmp_path) == FILES


def test_a_folder_that_is_a_file_is_told(clients: Clients, model: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    with pytest.raises(PhiftError, match="A file is where a folder is to be"):
        download_model(clients, model, "1", tmp_path / "x")


def test_more_than_there_is_room_for_is_refused(
    clients: Clients, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(ServiceError, match="are free"):
        download_model(clients, model, "1", tmp_path)


# ---------------------------------------------------------------- who is asked


def test_a_signature_that_ends_meanwhile_is_asked_for_anew(
    workspace: TestWorkspace, clients: Clients, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Fault("GET blobs/azureml-blobstore/*", status=403, code="AuthenticationFailed", after=2, times=3)
    workspace.order(refused)
    monkeypatch.setattr(storage, "_AGED", 0.0)
    download_model(clients, model, "1", tmp_path)
    assert below(tmp_path) == FILES


def test_a_signature_that_is_no_good_is_asked_for_once(
    workspace: TestWorkspace, clients: Clients, model: str, tmp_path: Path
) -> None:
    workspace.order(Fault("GET blobs/azureml-blobstore/*", status=403, code="AuthenticationFailed", times=None))
    with pytest.raises(PhiftError):
        download_model(clients, model, "1", tmp_path)
    assert len(workspace.requests("POST datastores/*/listSecrets")) == 1


@pytest.mark.parametrize(("after", "status"), [(0, 403), (2, 403), (2, 400)])
def test_an_error_shows_no_signature(
    workspace: TestWorkspace, clients: Clients, model: str, tmp_path: Path, after: int, status: int
) -> None:
    workspace.order(Fault("GET blobs/azureml-blobstore/*", status=status, code="X", after=after, times=None))
    with pytest.raises(PhiftError) as caught:
        download_model(clients, model, "1", tmp_path)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "download_model" in shown
    assert "sig=" not in shown


def test_the_manifest_has_no_secrets(clients: Clients, model: str, workspace: TestWorkspace, tmp_path: Path) -> None:
    secret = "https://user:PLANTED1@index.test/simple"
    put(blobs(workspace) / "models/m", {"requirements.txt": f"--index-url {secret}\nmlflow==3.9\n".encode()})
    download_model(clients, model, "1", tmp_path)
    manifest = (tmp_path / MANIFEST).read_text()
    assert "PLANTED1" not in manifest
    assert "sig=" not in manifest
    assert json.loads(manifest)["packages"][-1] == "mlflow==3.9"
