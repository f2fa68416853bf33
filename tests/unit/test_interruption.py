"""Being killed while preparing data: what is there afterwards is whole, and the next run goes on."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import xxhash

from phift.data_config import DataConfig
from phift.dataset import prepare_dataset

KILLS = 50
ROWS = 12_000

SCRIPT = """
import sys
from pathlib import Path
from unittest import mock
from phift.data_config import DataConfig
from phift.dataset import prepare_dataset

# Small parts and no small data: all of the machinery is at work in a fraction of a second.
with mock.patch("phift.dataset.LARGE", 0), mock.patch("phift.data.sources.PART", 1 << 20):
    print("go", flush=True)
    prepare_dataset(DataConfig(train=Path(sys.argv[1]), bad_rows="set_aside"), Path(sys.argv[2]))
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("interruption") / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(ROWS):
            said = ("user", f"Question {number}?"), ("assistant", f"Answer {number}. " * 60)
            row = {
                "messages": [{"role": role, "content": text} for role, text in said][: 1 if number % 999 == 5 else 2]
            }
            file.write(json.dumps(row) + "\n")
    return path


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(b"".join(xxhash.xxh3_128_digest(line) for line in file)).hexdigest()


def check_whole(folder: Path) -> None:
    """Hold a folder that has a manifest against it, byte for byte."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert {split: hash_of(folder / f"{split}.jsonl") for split in manifest["hashes"]} == manifest["hashes"]
    assert len((folder / "rejects.jsonl").read_bytes().splitlines()) == manifest["sources"][0]["aside"]


def begin(source: Path, out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, source, out], stdout=subprocess.PIPE, text=True)  # noqa: S603 - the script above
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


def workers_in(out: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if any(str(out) in word for word in p.info["cmdline"] or ())]


@pytest.mark.slow
def test_fifty_kills_leave_nothing_that_looks_whole_and_is_not(source: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    with begin(source, tmp_path / "timed") as process:
        process.wait()
    takes = time.monotonic() - started
    (whole,) = (tmp_path / "timed").iterdir()
    check_whole(whole)
    draw, out, killed = random.Random(7), tmp_path / "out", 0  # noqa: S311 - moments to kill at
    for _ in range(KILLS):
        with begin(source, out) as process:
            time.sleep(draw.uniform(0, takes))
            process.kill()
        killed += process.returncode == -signal.SIGKILL
        for folder in out.glob("[0-9a-f]*"):
            check_whole(folder)
            assert folder.name == whole.name
            if draw.random() < 0.8:  # so that most runs have it all to do
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()
    assert killed >= KILLS // 2, "most runs ended before they were killed"
    deadline = time.monotonic() + 10
    while workers_in(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers_in(out) == []
    prepared = prepare_dataset(DataConfig(train=source, bad_rows="set_aside"), out)
    assert [entry.name for entry in out.iterdir()] == [prepared.folder.name] == [whole.name]
    check_whole(prepared.folder)


@pytest.mark.slow
def test_ctrl_c_leaves_no_mess(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with begin(source, out) as process:
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
    assert process.returncode != 0
    assert list(out.iterdir()) == []
    assert workers_in(out) == []
