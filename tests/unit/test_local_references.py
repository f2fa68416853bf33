from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from phift.local.ground import Ground
from phift.local.model import files
from phift.local.names import WORKSPACE_ID
from phift.local.programs import Programs
from phift.local.state.folder import Folder
from phift.local.wire import WireError

STORED = "azureml://datastores/workspaceblobstore/paths/LocalUpload/1/train.jsonl"
MODEL = "azureml/child/mlflow_model_folder"


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(Folder(tmp_path), "https://localhost:1", Programs())
    documents = ground.documents
    container = tmp_path / "blobs/storage/azureml-blobstore"
    (container / "LocalUpload/1").mkdir(parents=True)
    (container / "LocalUpload/1/train.jsonl").touch()
    (container / MODEL).mkdir(parents=True)
    (tmp_path / "registry/Phi-4-mini-instruct").mkdir(parents=True)
    outputs = {"trained_model": {"from": "x", "uri": files.datastore_uri("workspaceblobstore", MODEL)}}
    documents.put("runs/job1", {"outputs": outputs})
    documents.put("data/elements/versions/1", {"properties": {"dataUri": STORED}})
    documents.put("models/tuned/versions/2", {"properties": {"modelUri": "azureml://jobs/job1/outputs/trained_model"}})
    yield ground
    documents.close()


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        (STORED, "LocalUpload/1/train.jsonl"),
        ("azureml:/" + STORED[len("azureml:/") :], "LocalUpload/1/train.jsonl"),
        (
            "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/workspaceblobstore/paths/LocalUpload/1",
            "LocalUpload/1",
        ),
        ("azureml://jobs/job1/outputs/trained_model", MODEL),
        ("azureml://jobs/job1/outputs/trained_model/paths/", MODEL),
        (f"{WORKSPACE_ID}/data/elements/versions/1", "LocalUpload/1/train.jsonl"),
        (f"azureml:{WORKSPACE_ID}/models/tuned/versions/2", MODEL),
        ("azureml:elements:1", "LocalUpload/1/train.jsonl"),
        ("azureml:tuned:2", MODEL),
    ],
)
def test_what_a_reference_means(ground: Ground, reference: str, place: str) -> None:
    assert files.resolve(ground, reference) == ground.folder.blobs / "storage/azureml-blobstore" / place


def test_a_blob_that_goes_meanwhile_is_none(ground: Ground) -> None:
    before = sys.getswitchinterval()
    path, over = files.path_of(ground, "azureml", "comes/and/goes"), Event()
    path.parent.mkdir(parents=True)

    def come_and_go() -> None:
        while not over.is_set():
            path.touch()
            path.unlink()

    with ThreadPoolExecutor() as pool:
        going = pool.submit(come_and_go)
        sys.setswitchinterval(1e-6)
        try:
            found = {files.find(ground, "azureml", "comes/and/goes") is None for _ in range(3000)}
        finally:
            over.set()
            sys.setswitchinterval(before)
        going.result()
    assert found == {True, False}


def test_models_of_the_registry(ground: Ground) -> None:
    found = files.resolve(ground, "azureml://registries/azureml/models/phi-4-MINI-instruct/versions/1")
    assert found == ground.folder.registry / "Phi-4-mini-instruct"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("azureml://datastores/workspaceblobstore/paths/nothing", "does not exist"),
        ("azureml://datastores/other/paths/x", "datastore other was not found"),
        ("azureml://registries/azureml/models/Phi-4-mini-instruct/versions/2", "version 2 was not found"),
        ("azureml://registries/other/models/Phi-4-mini-instruct/versions/1", "in registry other"),
        ("azureml://registries/azureml/models/%2e%2e/versions/1", "was not found"),
        ("azureml://jobs/job1/outputs/nope", "Its outputs: trained_model"),
        ("azureml://jobs/nobody/outputs/x", "job nobody was not found"),
        ("azureml:nobody:1", "was not found in this workspace"),
        ("https://example.com/train.jsonl", "cannot read from https://example.com"),
        ("/etc/passwd", "cannot read from /etc/passwd"),
        ("file:///etc/passwd", "cannot read from"),
    ],
)
def test_what_is_not_there(ground: Ground, reference: str, message: str) -> None:
    with pytest.raises(WireError, match=message):
        files.resolve(ground, reference)


def test_no_reference_leads_out(ground: Ground) -> None:
    with pytest.raises(WireError, match="does not represent a resource"):
        files.resolve(ground, "azureml://datastores/workspaceblobstore/paths/../../../../etc/passwd")
