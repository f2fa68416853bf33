"""Data that means harm, or is badly broken: a clear error within bounded memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

MOST_MEMORY = 1200  # MB at any moment, of the process that prepares and of each that reads for it

SCRIPT = """
import json, resource, sys
from pathlib import Path
from phift.config.data import DataConfig
from phift.data.prepare import prepare_dataset
from phift.errors import PhiftError

error = None
try:
    prepare_dataset(DataConfig(train=Path(sys.argv[1])), Path(sys.argv[2]))
except PhiftError as caught:
    error = [type(caught).__name__, caught.what, caught.where, caught.fix]
(mine,) = (int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
peaks = [mine // 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024]
print(json.dumps({"error": error, "peaks": peaks}))
"""

GOOD = [
    {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": f"Answer {n}."}]}
    for n in range(20)
]


def sparse_line(path: Path) -> None:
    """Write one good row, and a line of 1 GB that takes no room on the disk."""
    with path.open("wb") as file:
        file.write(json.dumps(GOOD[0]).encode() + b"\n")
        file.truncate(1 << 30)


def zip_bomb(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        block = b" " * (1 << 20)
        file.write(b'{"messages": "')
        for _ in range(1000):
            file.write(block)


def json_bomb(path: Path) -> None:
    path.write_bytes(b"[" + b'{"a":' * 5_000_000)


def wide_csv(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b'question,answer\n"')
        file.truncate(1 << 30)


def nested(path: Path) -> None:
    path.write_bytes(b'{"messages":' + b"[" * 3_000_000 + b"\n")


def parquet_bomb(path: Path) -> None:
    """Write a file of a few kilobytes, every text of which is the same 8 MB."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["x" * (8 << 20)]))
    roles = pa.array(["user", "assistant"] * 1000)
    turns = pa.StructArray.from_arrays([roles, texts], names=["role", "content"])
    messages = pa.ListArray.from_arrays(pa.array(range(0, 2001, 2), pa.int32()), turns)
    pq.write_table(pa.table({"messages": messages}), path, compression="zstd", store_schema=False)


def packed(path: Path, start: bytes, block: bytes, megabytes: int) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(start)
        for _ in range(megabytes):
            file.write(block * ((1 << 20) // len(block)))


def blank_lines(path: Path) -> None:
    packed(path, json.dumps(GOOD[0]).encode() + b"\n", b" \n", 100)


def blank_rows(path: Path) -> None:
    packed(path, b"question,answer\n", b"\n", 100)


def empty_rows(path: Path) -> None:
    packed(path, b"", b'{"messages":[]}\n', 20)


def null_rows(path: Path) -> None:
    """Write a file of a few kilobytes with ten million rows."""
    rows = pa.table({"messages": pa.nulls(1_000_000, pa.string())})
    with pq.ParquetWriter(path, rows.schema, compression="zstd") as file:
        for _ in range(10):
            file.write_table(rows)


def nul_bytes(path: Path) -> None:
    path.write_bytes(b"\0" * 100_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write", "what"),
    [
        ("line.jsonl", sparse_line, "A line is longer than"),
        ("bomb.jsonl.gz", zip_bomb, "A line is longer than"),
        ("bomb.json", json_bomb, "nested too deeply"),
        ("wide.csv", wide_csv, "is longer than 16 million characters"),
        ("nested.jsonl", nested, "nested too deeply"),
        ("bomb.parquet", parquet_bomb, "do not fit into the memory allowed"),
        ("blank.jsonl.gz", blank_lines, "A stretch of blank lines is longer than 4 MB"),
        ("blank.csv.gz", blank_rows, "A stretch of blank lines is longer than 4 MB"),
        ("empty.jsonl.gz", empty_rows, "More than 1,000,000 rows in a row cannot be trained on."),
        ("null.parquet", null_rows, "More than 1,000,000 rows in a row cannot be trained on."),
        ("nul.jsonl", nul_bytes, "nothing but zero bytes"),
        ("nul.csv", nul_bytes, "nothing but zero bytes"),
        ("nul.parquet", nul_bytes, "nothing but zero bytes"),
        ("nul.jsonl.zst", nul_bytes, "nothing but zero bytes"),
    ],
)
def test_it_ends_in_an_error_within_bounded_memory(
    tmp_path: Path, name: str, write: Callable[[Path], None], what: str
) -> None:
    source, out = tmp_path / name, tmp_path / "out"
    write(source)
    done = subprocess.run(  # noqa: S603 - the script above
        [sys.executable, "-c", SCRIPT, source, out], capture_output=True, text=True, timeout=600, check=True
    )
    told = json.loads(done.stdout)
    assert told["error"] is not None
    kind, message, where, fix = told["error"]
    assert kind == "DataError"
    assert what in message
    assert str(source) in where
    assert fix
    assert max(told["peaks"]) < MOST_MEMORY
    assert list(out.iterdir()) == []
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["a\nb.jsonl", "a;rm -rf x.jsonl", "$(x).jsonl", "ä ö.jsonl", "-x.jsonl"])
def test_odd_names_are_names(tmp_path: Path, name: str) -> None:
    from phift.config.data import DataConfig
    from phift.data.prepare import prepare_dataset

    source = tmp_path / name
    source.write_text("".join(json.dumps(row) + "\n" for row in GOOD), encoding="utf-8")
    assert sum(prepare_dataset(DataConfig(train=source), tmp_path / "out").rows.values()) == 20
    assert list((tmp_path / "out").iterdir()) != []
