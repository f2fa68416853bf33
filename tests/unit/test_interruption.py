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
import sys, time
from pathlib import Path
from unittest import mock
from phift.data_config import DataConfig
from phift.dataset import prepare_dataset

def stay(_progress):
    print("at work", flush=True)
    time.sleep(60)

# Small parts and no small data: all of the machinery is at work in a fraction of a second.
with mock.patch("phift.dataset.LARGE", 0), mock.patch("phift.data.sources.PART", 1 << 20):
    print("go", flush=True)
    data, on_progress = DataConfig(train=Path(sys.argv[1]), bad_rows="set_aside"), stay if sys.argv[3:] else None
    prepare_dataset(data, Path(sys.argv[2]), on_progress=on_progress)
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


def begin(source: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, source, out, *more], stdout=subprocess.PIPE, text=True)  # noqa: S603 - the script above
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


def workers_in(out: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if any(str(out) in word for word in p.info["cmdline"] or ())]


@pytest.mark.slow
def test_fifty_kills_leave_nothing_that_looks_whole_and_is_not(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begin(source, tmp_path / "timed") as process:
        started = time.monotonic()
        process.wait()
    takes = time.monotonic() - started
    (whole,) = (tmp_path / "timed").iterdir()
    check_whole(whole)
    draw, out, killed = random.Random(7), tmp_path / "out", 0  # noqa: S311 - moments to kill at
    while killed < KILLS:
        with begin(source, out) as process:
            time.sleep(draw.uniform(0, takes))
            process.kill()
        if process.returncode == -signal.SIGKILL:
            killed += 1
        else:
            takes *= 0.95  # it ended by itself, as it does where others were at work while it was timed
        for folder in out.glob("[0-9a-f]*"):
            check_whole(folder)
            assert folder.name == whole.name
            if draw.random() < 0.8:  # so that most runs have it all to do
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()
    deadline = time.monotonic() + 10
    while workers_in(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers_in(out) == []
    prepared = prepare_dataset(DataConfig(train=source, bad_rows="set_aside"), out)
    left = [entry for entry in out.iterdir() if entry != prepared.folder]
    # One without a lock may be somebody's who has just made it and not locked it yet: it is left alone for a moment.
    assert all(entry.name.startswith(".preparing-") and not (entry / "lock").exists() for entry in left)
    monkeypatch.setattr("phift.data.scratch._MOMENT", 0)
    prepared = prepare_dataset(DataConfig(train=source, bad_rows="set_aside"), out)
    assert [entry.name for entry in out.iterdir()] == [prepared.folder.name] == [whole.name]
    check_whole(prepared.folder)


@pytest.mark.slow
def test_ctrl_c_leaves_no_mess(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with begin(source, out, "and stay") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        assert workers_in(out)
        process.send_signal(signal.SIGINT)
    assert process.returncode != 0
    assert list(out.iterdir()) == []
    assert workers_in(out) == []
