"""A download cut at random places, by whatever cuts it, ends whole and right."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import requests
from azure.ai.ml.entities import Model
from running import Local

from phift.local.state.faults import Fault

pytestmark = [pytest.mark.slow, pytest.mark.proof]

logger = logging.getLogger(__name__)

CUTS = 10
SIZES = (30_000_000, 1, 9_000_000, 0, 2_000_000)
PROGRAM = """
import sys
from phift import connect, download_model
from phift.jobs import download
download.PIECE = 200_000
begun = []
def tell(event):
    if not begun:
        begun.append(print("begun", flush=True))
print(download_model(connect(workspace={"local": sys.argv[1]}), "m", "1", sys.argv[2], on_event=tell).fetched)
"""


def begin(local: Local, target: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(local.workspace.folder), str(target)]
    environ = {name: value for name, value in os.environ.items() if name != "AZUREML_CURRENT_CLOUD"}
    return subprocess.Popen(  # noqa: S603 - our own
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )


def order(local: Local, *faults: Fault) -> None:
    """Forget the faults that were ordered, and order others."""
    where, headers = f"{local.connection.base_url}/phift/faults", {"X-IDENTITY-HEADER": local.connection.secret()}
    verify = str(local.connection.ca_bundle)
    requests.delete(where, headers=headers, verify=verify, timeout=60).raise_for_status()
    body = {"value": [asdict(fault) for fault in faults]}
    requests.post(where, headers=headers, verify=verify, json=body, timeout=60).raise_for_status()


def written(target: Path) -> int:
    total = 0
    for path in target.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # it got its name meanwhile
            continue
    return total


def test_a_download_that_is_cut_ten_times_ends_whole_and_right(own_local: Local, tmp_path: Path) -> None:
    seed = int(os.environ.get("PHIFT_CUT_SEED", random.randrange(10**6)))  # noqa: S311 - it is told
    draw, local = random.Random(seed), own_local  # noqa: S311 - as above
    logger.info("PHIFT_CUT_SEED=%d", seed)
    stored = local.workspace.folder / "blobs/storage/azureml-blobstore/m"
    stored.mkdir(parents=True)
    for number, size in enumerate(SIZES):
        (stored / f"{number}.bin").write_bytes(draw.randbytes(size))
    path = "azureml://datastores/workspaceblobstore/paths/m"
    local.client.models.create_or_update(Model(name="m", version="1", path=path, type="custom_model"))
    target, cut = tmp_path / "target", []
    target.mkdir()
    for number in range(CUTS):
        kind = ("process", "server", "connection")[number % 3]
        faults = [Fault("GET blobs/azureml-blobstore/m/*", delay=0.1, times=None)]
        if kind == "connection":
            after = draw.randrange(1, 40)
            faults.insert(0, Fault("GET blobs/azureml-blobstore/m/*", cut="half", times=None, after=after))
        order(local, *faults)
        process = begin(local, target)
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        there = written(target)
        wanted = there + draw.random() * (sum(SIZES) - there) / 3
        while process.poll() is None and kind != "connection" and written(target) < wanted:
            time.sleep(0.002)
        if kind == "process":
            process.send_signal(signal.SIGKILL)
        elif kind == "server":
            pid = local.workspace.status().pid
            assert pid
            os.kill(pid, signal.SIGKILL)
            while local.workspace.status().running:
                time.sleep(0.02)
        _, said = process.communicate(timeout=300)
        cut.append((kind, process.returncode))
        assert process.returncode in (0, -signal.SIGKILL) or "phift.errors.Service" in said, said
        assert not any(path.read_bytes() != (stored / path.name).read_bytes() for path in target.glob("*.bin")), said
        assert local.workspace.up() == local.connection
    assert sum(code != 0 for _, code in cut) >= CUTS // 2, cut
    order(local)
    fetched, said = begin(local, target).communicate(timeout=300)
    assert fetched, said
    assert {path.name: path.read_bytes() for path in target.glob("*.bin")} == {
        path.name: path.read_bytes() for path in stored.iterdir()
    }
    assert {path.name for path in target.iterdir()} == {"phift-manifest.json", *(f"{n}.bin" for n in range(len(SIZES)))}
    assert len(json.loads((target / "phift-manifest.json").read_text())["files"]) == len(SIZES)
