"""What it takes to take a model home: memory for a large file, time for many small ones, and a download cut ten times.

    python bench/download.py [--gigabytes 2] [--files 200] [--cuts 10]

A local workspace that waits 100 ms before it answers each request, of the instant engine, has the files put among the
outputs of a job. Each download is a process of its own, which tells its peak of memory above what it had before, when
the SDK was imported and its clients were made. The SDK's own way is ``models.download``, since its ``jobs.download``
fails for a pipeline's model (azure-ai-ml 1.35.2). What was cut is killed at random, ten times, each time somewhere in
what is left; then it is compared byte for byte. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from phift import connect
from phift.jobs.registration import download_model
from phift.local import LocalWorkspace

DELAY = 0.1
STORE = "azureml://datastores/workspaceblobstore/paths"


def put(workspace: LocalWorkspace, name: str, sizes: list[int]) -> None:
    """Put files of random bytes into storage, and a model in front of them."""
    from azure.ai.ml.entities import Model

    folder = workspace.folder / "blobs" / "storage" / "azureml-blobstore" / name
    folder.mkdir(parents=True)
    source = random.Random(name)  # noqa: S311 - nobody is to be kept from guessing it
    for number, size in enumerate(sizes):
        with (folder / f"part-{number:05}.bin").open("wb") as file:
            for start in range(0, size, 1 << 20):
                file.write(source.randbytes(min(1 << 20, size - start)))
    model = Model(name=name, version="1", path=f"{STORE}/{name}", type="custom_model")
    connect(workspace={"local": workspace.folder}).workspace.models.create_or_update(model)


def memory(key: str) -> int:
    """Return a value of this process's status in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{key}:")[2].split()[0]) << 10


def child(way: str, folder: Path, name: str, target: Path) -> None:
    """Download a model in this process, and say how long it took and what memory."""
    clients = connect(workspace={"local": folder})
    logging.getLogger("azure").setLevel(logging.ERROR)  # it warns of its experimental methods
    clients.workspace.models.get(name, version="1")
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    started, cpu, fetched = time.perf_counter(), time.process_time(), None
    if way == "phift":
        fetched = download_model(clients, name, "1", target).fetched
    else:
        clients.workspace.models.download(name, "1", download_path=str(target))
    took = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
    print(json.dumps({**took, "above": memory("VmHWM") - before, "fetched": fetched}))


def begin(way: str, workspace: LocalWorkspace, name: str, target: Path) -> subprocess.Popen[str]:
    """Start such a process."""
    command = [sys.executable, __file__, "--child", way, str(workspace.folder), name, str(target)]
    environ = {name: value for name, value in os.environ.items() if name != "AZUREML_CURRENT_CLOUD"}  # the SDK's own
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)  # noqa: S603 - this script


def measured(way: str, workspace: LocalWorkspace, name: str, target: Path) -> dict[str, Any]:
    """Download a model in a process, and return what that said."""
    said, _ = begin(way, workspace, name, target).communicate()
    read: dict[str, Any] = json.loads(said)
    return read


def is_right(workspace: LocalWorkspace, name: str, target: Path) -> bool:
    """Compare a folder with what lies in storage."""
    stored = workspace.folder / "blobs" / "storage" / "azureml-blobstore" / name

    def digests(folder: Path) -> dict[str, str]:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.bin") if path.is_file()
        }

    return digests(stored) == digests(target)


def show(what: str, taken: dict[str, Any]) -> None:
    print(f"{what:<40} {taken['seconds']:7.1f} s  {taken['cpu']:6.1f} s of CPU  {taken['above'] / 1e6:7.0f} MB above")


def cut(workspace: LocalWorkspace, name: str, size: int, target: Path, times: int) -> None:
    """Kill a download at random places, until it is whole."""
    draw, fetched = random.Random(0), 0  # noqa: S311 - as above
    if not times:
        return
    for number in range(times):
        process = begin("phift", workspace, name, target)
        # Of what is written, wherever: each time a random part further.
        wanted = number * size // times + draw.randrange(size // times)
        while process.poll() is None and written(target) < wanted:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        fetched = max(fetched, written(target))
    taken = measured("phift", workspace, name, target)
    right = is_right(workspace, name, target) and not (target / ".phift-download").exists()
    print(f"killed at {times} places, the last at {fetched / 1e6:,.0f} of {size / 1e6:,.0f} MB")
    print(f"the last run fetched {taken['fetched'] / 1e6:,.0f} MB; whole and right: {right}")


def written(target: Path) -> int:
    """Return how many bytes of a download are on the disk."""
    total = 0
    for path in target.rglob("*") if target.exists() else ():
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # it has got its name meanwhile
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--child", nargs=4)
    given = parser.parse_args()
    if given.child:
        way, folder, name, target = given.child
        child(way, Path(folder), name, Path(target))
        return
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        workspace = LocalWorkspace(here / "workspace", engine="instant", speed="fast", delay=DELAY)
        workspace.up()
        try:
            large = int(given.gigabytes * 1e9)
            put(workspace, "large", [large])
            put(workspace, "many", [100_000] * given.files)
            put(workspace, "cut", [large // 20] * 4)
            load = os.getloadavg()[0]
            print(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}; 100 ms before each answer")
            for name, what in (("large", f"one file of {large / 1e9:g} GB"), ("many", f"{given.files} of 100 KB")):
                for way in ("phift", "sdk"):
                    taken = measured(way, workspace, name, here / f"{way}-{name}")
                    show(f"{what}, {way}", taken)
                    if not is_right(workspace, name, here / f"{way}-{name}"):
                        raise SystemExit(f"{way} left something else than what lies in storage")
            cut(workspace, "cut", large // 20 * 4, here / "cut", given.cuts)
        finally:
            workspace.down()


if __name__ == "__main__":
    main()
