"""Data assets with the real SDK: uploaded and registered once, or used where they lie."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from running import Local

from phift import FineTuneRun, RunConfig
from phift.data.assets import register_assets
from phift.errors import CheckFailed
from phift.local.names import ACCOUNT

pytestmark = [
    pytest.mark.slow,
    # The SDK and its libraries announce their own deprecations; they are not ours to fix.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def rows(path: Path, count: int = 30, padding: int = 0) -> Path:
    """Write rows that no other test has."""
    mark = uuid.uuid4().hex
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            answer = f"{number} {mark}" + "x" * padding
            messages = [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def run_of(local: Local, folder: Path, data: dict[str, Any], **parameters: Any) -> FineTuneRun:
    config = RunConfig(
        workspace={"local": local.connection.folder},
        model="Phi-4-mini-instruct",
        compute="gpu-cluster",
        data=data,
        parameters={"num_train_epochs": 1, **parameters},
        work_dir=folder / "work",
    )
    return FineTuneRun(config)


def uploads(local: Local) -> int:
    """Return how many blobs, or parts of blobs, were sent to the storage so far."""
    lines = (local.connection.folder / "server.log").read_text().splitlines()
    return sum(f" PUT /{ACCOUNT}/" in line for line in lines)


def versions(local: Local, name: str, view: str = "ActiveOnly") -> list[str]:
    answer = local.request("GET", f"{local.arm}/data/{name}/versions?listViewType={view}")
    return [found["name"] for found in answer.json()["value"]]


@pytest.mark.usefixtures("quiet_log")
def test_a_second_submit_of_the_same_data_uploads_nothing(
    local: Local, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = {"train": rows(tmp_path / "chat.jsonl"), "asset_name": uuid.uuid4().hex}
    before = uploads(local)
    first = run_of(local, tmp_path, data).submit()
    after = uploads(local)
    second = run_of(local, tmp_path, data, learning_rate=1e-5).submit()
    assert after - before == 6  # three files, and the mark that each is whole
    assert uploads(local) == after
    assert first.name != second.name
    name = f"{data['asset_name']}-train"
    (version,) = versions(local, name)
    for job in (first, second):
        assert local.wait(job.name) == "Completed"
        given = json.loads((local.connection.folder / "jobs" / job.name / "job.json").read_text())["inputs"]
        kept = Path(given["train_file_path"]).read_bytes()
        assert kept == next((tmp_path / "work").rglob("train.jsonl")).read_bytes()
    assert local.client.data.get(name, version=version).tags["phift.rows"] == "24"
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_an_archived_asset_is_restored_and_not_uploaded_again(local: Local, tmp_path: Path) -> None:
    run = run_of(local, tmp_path, {"train": rows(tmp_path / "chat.jsonl")})
    dataset, name = run.prepare(), uuid.uuid4().hex
    made = register_assets(run.clients, dataset, name)
    local.client.data.archive(f"{name}-test", version=made["test"].version)
    assert versions(local, f"{name}-test") == []
    before = uploads(local)
    assert register_assets(run.clients, dataset, name)["test"].existed
    assert versions(local, f"{name}-test") == [made["test"].version]
    assert uploads(local) == before


@pytest.mark.parametrize("round_", range(4))
def test_submits_at_the_same_time_share_one_set_of_assets(local: Local, tmp_path: Path, round_: int) -> None:
    run = run_of(local, tmp_path, {"train": rows(tmp_path / "chat.jsonl")})
    dataset, clients, name = run.prepare(), run.clients, uuid.uuid4().hex
    together = threading.Barrier(3)

    def register(_: int) -> dict[str, Any]:
        together.wait()
        return register_assets(clients, dataset, name)

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(register, range(3)))
    assert len({tuple(given.address for given in made.values()) for made in results}) == 1
    for split, given in results[0].items():
        assert versions(local, f"{name}-{split}") == [given.version]
        path = str(local.client.data.get(f"{name}-{split}", version=given.version).path).partition("/paths/")[2]
        stored = local.connection.folder / "blobs" / "storage" / "azureml-blobstore" / path
        assert stored.read_bytes() == getattr(dataset, split).read_bytes(), round_


@pytest.mark.proof
def test_big_files_uploaded_in_parts_at_the_same_time_do_no_harm(local: Local, tmp_path: Path) -> None:
    run = run_of(local, tmp_path, {"train": rows(tmp_path / "chat.jsonl", 40, padding=3_000_000)})
    dataset, clients, name = run.prepare(), run.clients, uuid.uuid4().hex
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: register_assets(clients, dataset, name), range(2)))
    path = str(local.client.data.get(f"{name}-train", version=results[0]["train"].version).path)
    stored = local.connection.folder / "blobs" / "storage" / "azureml-blobstore" / path.partition("/paths/")[2]
    assert hashlib.sha256(stored.read_bytes()).digest() == hashlib.sha256(dataset.train.read_bytes()).digest()


# Each ends the process at a place where a machine may lose its power.
CRASHES = {
    "uploaded, not marked as whole": (
        "from azure.ai.ml._artifacts._blob_storage_helper import BlobStorageClient as place\n"
        "place._set_confirmation_metadata = end"
    ),
    "uploaded, not registered": (
        "from azure.ai.ml.entities import Data as place\nplace._to_rest_object = end"  # what is sent after the upload
    ),
}
SCRIPT = """
import os, sys
from pathlib import Path
from phift import FineTuneRun, RunConfig
from phift.data.assets import register_assets
config = RunConfig(workspace={"local": sys.argv[1]}, model="Phi-4-mini-instruct", compute="gpu-cluster",
                   data={"train": sys.argv[2]}, work_dir=sys.argv[3])
run = FineTuneRun(config)
clients, dataset = run.clients, run.prepare()
def end(*_):
    os._exit(9)
CRASH
register_assets(clients, dataset, sys.argv[4])
"""


@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_leaves_nothing_that_the_next_submit_takes_for_whole(
    local: Local, tmp_path: Path, crash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process of its own has its own cloud; it must not inherit this one's.
    monkeypatch.delenv("AZUREML_CURRENT_CLOUD", raising=False)
    file, name = rows(tmp_path / "chat.jsonl"), uuid.uuid4().hex
    script = SCRIPT.replace("CRASH", CRASHES[crash])
    arguments = [str(local.connection.folder), str(file), str(tmp_path / "work"), name]
    ended = subprocess.run([sys.executable, "-c", script, *arguments], check=False)  # noqa: S603 - ours
    assert ended.returncode == 9
    assert not local.request("GET", f"{local.arm}/data/{name}-train").ok
    run = run_of(local, tmp_path, {"train": file})
    made = register_assets(run.clients, run.prepare(), name)
    for split, given in made.items():
        path = str(local.client.data.get(f"{name}-{split}", version=given.version).path).partition("/paths/")[2]
        stored = local.connection.folder / "blobs" / "storage" / "azureml-blobstore" / path
        assert stored.read_bytes() == getattr(run.prepare(), split).read_bytes()


@pytest.fixture
def in_azure(local: Local, tmp_path: Path) -> str:
    """The name of three data assets in a version 7."""
    name = uuid.uuid4().hex
    from azure.ai.ml.entities import Data

    for split in ("train", "validation", "test"):
        file = rows(tmp_path / f"{split}.jsonl")
        local.client.data.create_or_update(Data(name=f"{name}-{split}", version="7", type="uri_file", path=str(file)))
    return name


def test_assets_are_used_where_they_lie(local: Local, tmp_path: Path, in_azure: str) -> None:
    data = {split: f"azureml:{in_azure}-{split}:7" for split in ("train", "validation")}
    data["test"] = f"azureml:{in_azure}-test@latest"
    before = uploads(local)
    job = run_of(local, tmp_path, data).submit()
    assert uploads(local) == before
    assert local.wait(job.name) == "Completed"
    given = json.loads((local.connection.folder / "jobs" / job.name / "job.json").read_text())["inputs"]
    for split in ("train", "validation", "test"):
        assert Path(given[f"{split}_file_path"]).read_bytes() == (tmp_path / f"{split}.jsonl").read_bytes()


def test_a_place_in_a_datastore_is_used(local: Local, tmp_path: Path, in_azure: str) -> None:
    long = str(local.client.data.get(f"{in_azure}-train", version="7").path)
    short = "azureml://" + long[long.index("datastores/") :]
    job = run_of(local, tmp_path, {"train": short, "validation": long}).submit()
    assert local.wait(job.name) == "Completed"
    given = json.loads((local.connection.folder / "jobs" / job.name / "job.json").read_text())["inputs"]
    assert given["train_file_path"] == given["validation_file_path"]
    assert Path(given["train_file_path"]).read_bytes() == (tmp_path / "train.jsonl").read_bytes()


def test_what_cannot_be_used_is_refused_before_anything_is_submitted(
    local: Local, tmp_path: Path, in_azure: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    rows(folder / "chat.jsonl")
    from azure.ai.ml.entities import Data

    local.client.data.create_or_update(Data(name=in_azure, version="1", type="uri_folder", path=str(folder)))
    jobs = len(list(local.client.jobs.list()))
    with pytest.raises(CheckFailed, match="DATA_ASSET_TYPE"):
        run_of(local, tmp_path, {"train": f"azureml:{in_azure}:1"}).submit()
    missing = {"train": f"azureml:{in_azure}-train:8", "validation": "azureml:none@latest"}
    missing["test"] = "azureml://registries/azureml/data/chat/versions/1"
    with pytest.raises(CheckFailed) as caught:
        run_of(local, tmp_path, missing).submit()
    assert [finding.place for finding in caught.value.report.errors] == ["data.train", "data.validation", "data.test"]
    assert {finding.message[:13] for finding in caught.value.report.errors} == {"There is no d"}
    assert len(list(local.client.jobs.list())) == jobs


def test_an_mltable_reaches_the_component_as_one(local: Local, tmp_path: Path, in_azure: str) -> None:
    place = str(local.client.data.get(f"{in_azure}-train", version="7").path).rpartition("/")[0]
    sent = {"dataType": "mltable", "dataUri": place}
    made = local.request("PUT", f"{local.arm}/data/{in_azure}/versions/1", json={"properties": sent})
    assert made.status_code == 201
    job = run_of(local, tmp_path, {"train": f"azureml:{in_azure}:1"}).submit()
    assert local.wait(job.name) == "Failed"  # the local engine reads no MLTable
    given = json.loads((local.connection.folder / "jobs" / job.name / "job.json").read_text())["inputs"]
    assert (Path(given["train_mltable_path"]) / "train.jsonl").is_file()
    assert "train_file_path" not in given
