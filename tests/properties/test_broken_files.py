"""Files of every format, broken at random: rows, or an error of ours that names the file, in bounded time."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from phift.config.data import FileSource
from phift.data.sources import open_source, read_sources
from phift.data.workers import Workers
from phift.errors import DataError

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("PHIFT_EXAMPLES", "600"))
MOST_SECONDS = 30  # for one file; on idle cores none takes one

TURNS = [("user", "Größe {}? 🙂"), ("assistant", "Answer {}.")]
CHATS = [{"messages": [{"role": role, "content": text.format(n)} for role, text in TURNS]} for n in range(20)]
PAIRS = [{"question": f"Q {n} ü", "answer": f'A, {n}\n"x"'} for n in range(20)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def cells(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, **options)
    return file.getvalue()


def arrow(rows: list[dict[str, Any]], *, stream: bool, compression: str | None = None) -> bytes:
    file, table = io.BytesIO(), pa.Table.from_pylist(rows)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=7)
    return file.getvalue()


SOUND = {
    "a.jsonl": [lines(CHATS), lines(PAIRS)],
    "a.json": [json.dumps(CHATS, indent=1).encode(), json.dumps({"data": CHATS}).encode(), lines(CHATS)],
    "a.csv": [cells(PAIRS, ","), cells([{"messages": json.dumps(row["messages"])} for row in CHATS], ",")],
    "a.tsv": [cells(PAIRS, "\t")],
    "a.parquet": [
        parquet(CHATS),
        parquet(PAIRS, compression="none"),
        parquet(CHATS, compression="zstd", row_group_size=5),
        parquet(PAIRS, compression="gzip", use_dictionary=False, data_page_version="2.0"),
    ],
    "a.arrow": [
        arrow(CHATS, stream=True),
        arrow(PAIRS, stream=False),
        arrow(CHATS, stream=False, compression="zstd"),
        arrow(PAIRS, stream=True, compression="lz4"),
    ],
}
BITS = [
    b"\xff",
    b"\0",
    b"{",
    b"]",
    b'"',
    b"\\",
    b"\xed\xa0\x80",
    b"\\ud800",
    b",",
    b":",
    b"\n",
    b"\r",
    b"null",
    b"1e999",
]
BITS += [
    b"9" * 400,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b" " * 3000,
    b"\n" * 3000,
    b"\t",
    b"\x1b[2J",
]


def mutated(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8, 30))):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(6):
            case 0 | 1:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case 2:
                data[at : at + draw.choice((0, 1, 4, 9))] = draw.choice(BITS)
            case 3:
                del data[at : at + draw.choice((1, 4, 50, 1000))]
            case 4:
                data[at:at] = data[at : at + draw.choice((1, 10, 200))]
            case 5 if draw.random() < 0.2:
                del data[at:]
        data = data or bytearray(b"x")
    return bytes(data)


def broken(name: str, suffix: str, draw: random.Random) -> bytes:
    """Return a file that is broken before it is packed, after that, or both."""
    content = draw.choice(SOUND[name])
    if not suffix or draw.random() < 0.7:
        content = mutated(content, draw)
    if suffix == ".gz":
        content = gzip.compress(content)
    elif suffix == ".zst":
        content = pa.compress(content, "zstd", asbytes=True)
    return mutated(content, draw) if suffix and draw.random() < 0.5 else content


def test_broken_files_are_read_or_are_errors_that_name_them(tmp_path: Path) -> None:
    draw = random.Random(os.environ.get("PHIFT_SEED", "1"))  # noqa: S311 - can be repeated, is no secret
    scratch, seen = tmp_path / "scratch", Counter[str]()
    scratch.mkdir()
    with Workers(scratch, most=1) as workers:
        for _ in range(EXAMPLES):
            name = draw.choice(list(SOUND))
            binary = name in ("a.parquet", "a.arrow")
            suffix = "" if binary else draw.choice(("", "", ".gz", ".zst"))
            path = tmp_path / f"{name}{suffix}"
            path.write_bytes(broken(name, suffix, draw))
            group_by, keep, started = draw.choice((None, None, "question")), draw.random() < 0.5, time.monotonic()
            try:
                source = FileSource(files=path)
                readings = list(open_source(source, "train", 0, workers, group_by=group_by, keep=keep))
                read_sources(readings, workers, lambda _: None, side_by_side=binary)
                seen["read"] += 1
            except DataError as error:
                seen["refused"] += 1
                assert str(path) in str(error.where)  # noqa: PT017 - it is either
                assert "None" not in str(error)  # noqa: PT017 - it is either
                assert error.fix  # noqa: PT017 - it is either
            assert time.monotonic() - started < MOST_SECONDS, path
            for file in scratch.iterdir():
                file.unlink()
    assert sum(seen.values()) == EXAMPLES
    assert all(seen.values())
