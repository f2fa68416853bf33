"""A job's outputs and a registered model taken home: whole, checked, and taken up again where it broke off."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from phift import FineTuneJob
from phift.azure.clients import Clients
from phift.testing import TestWorkspace
from unit import given


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture
def job(workspace: TestWorkspace, clients: Clients) -> FineTuneJob:
    given.job(workspace)
    job = FineTuneJob("job", clients)
    job.wait()
    return job


def test_a_job_s_model_is_taken_home_with_a_manifest(job: FineTuneJob, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    got = job.download(folder)
    manifest = json.loads((folder / "phift-manifest.json").read_text())
    assert {entry["path"] for entry in manifest["files"]} == set(below(folder)) - {"phift-manifest.json"}
    assert got.files == len(manifest["files"]) > 0
    assert got.fetched == got.bytes == sum(entry["size"] for entry in manifest["files"])
    for entry in manifest["files"]:
        assert hashlib.sha256((folder / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
    assert manifest["origin"] == {"job": "job", "output": "trained_model"}
    again = job.download(folder)
    assert again.known
    assert again.fetched == 0
