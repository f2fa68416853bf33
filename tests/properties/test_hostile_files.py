"""Files whose names, holes and footers mean harm: an error that names them, or rows, soon and in little memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from phift.config.data import DataConfig
from phift.data import files, ipc, sniff, sources
from phift.data import prepare as preparing
from phift.data.formats import recognise
from phift.data.parquet import Footer
from phift.data.parts import Part, Tally
from phift.data.prepare import PreparedDataset, prepare_dataset
from phift.data.sources import Progress, Reading
from phift.errors import DataError, DataNotFound

ROWS = [
    {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": f"Answer {n}."}]}
    for n in range(20)
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def prepare(path: Path, folder: Path) -> PreparedDataset:
    return prepare_dataset(DataConfig(train=path, bad_rows="set_aside"), folder / "out")


def refused(path: Path, folder: Path) -> DataError:
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        prepare(path, folder)
    assert time.monotonic() - started < 60
    return caught.value


def test_a_name_that_is_not_utf8_is_told_with_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path / "in") + b"/b\xff.jsonl", "wb") as file:  # noqa: PTH123 - the name is bytes
        file.write(LINES + b'{"messages":[]}\n')
    error = refused(tmp_path / "in", tmp_path)
    assert "not UTF-8" in error.what
    assert str(error.where).endswith("b\\udcff.jsonl")
    assert str(error).encode()


def test_folders_in_folders_have_an_end(tmp_path: Path) -> None:
    here = Path.cwd()
    (tmp_path / "deep").mkdir()
    try:
        os.chdir(tmp_path / "deep")
        for _ in range(1500):
            Path("d").mkdir()
            os.chdir("d")
        Path("a.jsonl").write_bytes(LINES)
    finally:
        os.chdir(here)
    error = refused(tmp_path / "deep", tmp_path)
    assert str(tmp_path / "deep") in str(error.where)
    subprocess.run(["/bin/rm", "-rf", tmp_path / "deep"], check=True)  # noqa: S603 - Python's own gives up here


def test_a_pipe_in_place_of_a_saved_data_set_s_state_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/dataset_info.json").write_text("{}")
    os.mkfifo(tmp_path / "in/state.json")
    assert "cannot be read" in refused(tmp_path / "in", tmp_path).what


def zeros_behind(path: Path) -> None:
    with path.open("wb") as file:
        file.write(gzip.compress(LINES))
        file.truncate(1 << 40)


def frames_to_skip(path: Path) -> None:
    with path.open("wb") as file:
        file.write(pa.compress(LINES, "zstd", asbytes=True))
        file.write(struct.pack("<II", 0x184D2A50, 0xFFFF0000))
        file.truncate(file.tell() + 0xFFFF0000)


@pytest.mark.parametrize(("name", "write"), [("a.jsonl.gz", zeros_behind), ("a.jsonl.zst", frames_to_skip)])
def test_what_holds_nothing_is_not_read_to_its_end(
    tmp_path: Path, name: str, write: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_SILENT", 1 << 20)
    assert callable(write)
    write(tmp_path / name)
    error = refused(tmp_path / name, tmp_path)
    assert "1 MB on end that hold nothing" in error.what
    assert error.where == str(tmp_path / name)


def test_a_file_of_terabytes_is_not_cut_into_a_part_for_each_16_mb(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    os.truncate(path, 15 << 40)
    part = Part(path=str(path), kind="jsonl", layout=recognise(["messages"]))
    parts = list(sources._cut(path, part, []))
    assert len(parts) <= 1 << 16
    assert [parts[0].start, parts[-1].end] == [0, 15 << 40]
    assert all(one.end == other.start for one, other in pairwise(parts))
    assert "A line is longer than" in refused(path, tmp_path).what


def test_a_file_that_grows_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"question,answer\n" + b"a,b\n" * 10)
    with files.opened(path) as (stream, _):
        with path.open("ab") as more:
            more.write(b"a,b\n" * 300_000)
        with pytest.raises(DataError, match="longer while it was read") as caught:
            stream.read(2 << 20)
    assert caught.value.where == str(path)


def test_row_groups_that_lie_about_their_size_are_no_part_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=1)
    for lie in (1 << 60, -(1 << 60)):
        monkeypatch.setattr("phift.data.parquet.compressed_sizes", lambda _, lie=lie: [lie] * 20)
        ((_, sizes),) = Footer(path).perform(tmp_path)
        assert sum(sizes) == path.stat().st_size
        assert min(sizes) >= 0


def test_a_time_zone_that_nobody_knows_is_a_row_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"messages": pa.array([1] * 20, pa.timestamp("us", tz="No/Where"))}), path)
    error = refused(path, tmp_path)
    assert "20 of 20 rows cannot be trained on" in error.what
    assert "a value that Python cannot hold" in error.what


def test_a_type_of_arrow_with_a_pickle_in_it_is_not_opened(tmp_path: Path) -> None:
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "executed").touch, ())

    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Trap())}
    schema = pa.schema([pa.field("messages", pa.string(), metadata=metadata)])
    table = pa.table([pa.array([json.dumps(row["messages"]) for row in ROWS])], schema=schema)
    pq.write_table(table, tmp_path / "a.parquet")
    assert sum(prepare(tmp_path / "a.parquet", tmp_path).rows.values()) == 20
    assert not (tmp_path / "executed").exists()


SWAPS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/ptmx"),
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path),
    "nothing": lambda path: None,
}


def written(path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".csv":
        path.write_bytes(b"question,answer\n" + b"a,b\n" * 20)
    else:
        path.write_bytes(gzip.compress(LINES) if path.suffix == ".gz" else LINES)
    return path


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.parquet"])
@pytest.mark.parametrize("before", ["open_source", "opening", "read_sources"])
@pytest.mark.parametrize("swap", SWAPS)
def test_a_file_that_becomes_something_else_between_two_looks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: str, before: str, name: str
) -> None:
    path = written(tmp_path / name)

    def swapped(*arguments: Any, **options: Any) -> Any:
        found = undone(*arguments, **options) if before == "opening" else None
        if path.is_file():
            path.unlink()
            SWAPS[swap](path)
        return found or undone(*arguments, **options)

    place, name = (files, "expand") if before == "opening" else (preparing, before)
    undone = getattr(place, name)
    monkeypatch.setattr(place, name, swapped)
    with pytest.raises((DataError, DataNotFound)) as caught:
        prepare(path, tmp_path)
    assert str(path) in str(caught.value.where)


def test_many_files_take_no_longer_each_than_few(tmp_path: Path) -> None:
    class Read:
        def run(self, parts: list[Part], **_: object) -> Iterator[tuple[int, Tally]]:
            for index in range(len(parts)):
                yield index, Tally(spool="", rejects="", rows=1, position=10)

    layout, seen = recognise(["messages"]), list[Progress]()
    part = Part(path="a.jsonl", kind="jsonl", layout=layout)
    readings = [
        Reading(place="a.jsonl", split="train", stratum=0, layout=layout, parts=[part], bytes=10) for _ in range(40_000)
    ]
    started = time.process_time()
    sources.read_sources(readings, cast("Any", Read()), seen.append, side_by_side=False)
    assert time.process_time() - started < 3
    assert [seen[0].bytes, seen[-1].bytes, seen[-1].rows] == [10, 400_000, 40_000]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("swap", SWAPS)
def test_a_file_without_a_suffix_is_looked_at_once(swap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, undone = tmp_path / "data", files.open_file
    path.write_bytes(LINES)

    def swapped(path: Path) -> io.FileIO:
        file = undone(path)
        path.unlink()
        SWAPS[swap](path)
        return file

    monkeypatch.setattr(files, "open_file", swapped)
    with pytest.raises(DataError, match="does not say what it is"):
        sniff.check_nameless(path)


def test_an_arrow_file_that_another_one_replaces_gives_its_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, undone = tmp_path / "a.feather", files.open_file
    feather.write_feather(pa.table({"question": ["a"], "answer": ["b"], "id": [1]}), str(path))
    feather.write_feather(pa.table({"id": [2], "question": ["c"], "answer": ["d"]}), str(tmp_path / "other"))

    def replaced(path: Path) -> io.FileIO:
        file = undone(path)
        (tmp_path / "other").replace(path)
        return file

    monkeypatch.setattr(files, "open_file", replaced)
    assert [batch.to_pylist() for batch in ipc.batches(path, {"question", "answer"})] == [
        [{"question": "a", "answer": "b"}]
    ]
