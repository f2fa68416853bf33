from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phift.data import files, texts
from phift.data.chat import InvalidRow
from phift.errors import DataError, DataNotFound

HERE = Path("data.test")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
OBJECTS = st.lists(st.dictionaries(TEXT, JSON, max_size=4), max_size=8)


def json_rows(data: bytes) -> list[tuple[int, Any]]:
    return [(number, json.loads(row)) for number, row in texts.json_rows(io.BytesIO(data), HERE)]


def lines(data: bytes) -> list[tuple[int, bytes]]:
    return list(texts.lines(io.BytesIO(data), HERE))


def csv_rows(data: bytes, delimiter: str = ",") -> list[tuple[int, Any]]:
    rows = texts.csv_rows(io.BytesIO(data), HERE, delimiter)
    return [(number, str(row) if isinstance(row, InvalidRow) else row) for number, row in rows]


def packed(data: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        packed: bytes = pa.compress(data, "zstd", asbytes=True)
        return packed
    return gzip.compress(data) if suffix == ".gz" else data


# What a path stands for


@pytest.mark.parametrize(
    ("name", "kind", "compressed"),
    [
        ("a.jsonl", "jsonl", False),
        ("a.b.NDJSON.gz", "jsonl", True),
        ("a.json.zst", "json", True),
        ("a.CSV", "csv", False),
        ("a.tsv.gz", "tsv", True),
        ("a.parquet", "parquet", False),
    ],
)
def test_the_kind_is_in_the_name(name: str, kind: str, compressed: bool) -> None:
    assert (files.kind(Path(name)), files.compressed(Path(name))) == (kind, compressed)


@pytest.mark.parametrize("name", ["a.txt", "a.gz", "a", "a.parquet.gz", "a.jsonl.zip", ".jsonl"])
def test_other_names_are_refused_with_those_that_are_taken(name: str) -> None:
    with pytest.raises(DataError, match=r"cannot be read") as caught:
        files.kind(Path(name))
    assert "`" not in str(caught.value)
    assert ".jsonl, .json, .csv, .tsv file, which may end in .gz or .zst, or a .parquet, .arrow or" in str(caught.value)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_holds_only_so_much(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed(b"[]\n" * 100_000, suffix))
    monkeypatch.setattr(files, "most_unpacked", lambda size: 100 * size)
    with files.opened(path) as (stream, _), pytest.raises(DataError, match="more than 200 times its own") as caught:
        stream.read()
    assert (caught.value.where, caught.value.fix) == (str(path), "unpack it, if what it holds is meant")
    monkeypatch.setattr(files, "most_unpacked", lambda size: 10_000 * size)
    with files.opened(path) as (stream, _):
        assert len(stream.read()) == 300_000


def test_an_ordinary_file_may_be_packed_well() -> None:
    assert (files.most_unpacked(100), files.most_unpacked(10**9)) == (1 << 30, 200 * 10**9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.csv", "README.md", ".hidden.jsonl", "sub/c.json.gz", ".git/d.jsonl", "_SUCCESS"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("b.jsonl", ["b.jsonl"]),
        ("", ["a.csv", "b.jsonl", "sub/c.json.gz"]),
        ("*", ["a.csv", "b.jsonl"]),
        ("**", ["a.csv", "b.jsonl", "sub/c.json.gz"]),
        ("**/*.gz", ["sub/c.json.gz"]),
        ("[ab].*", ["a.csv", "b.jsonl"]),
        ("s?b/*", ["sub/c.json.gz"]),
    ],
)
def test_a_path_stands_for_files(folder: Path, pattern: str, found: list[str]) -> None:
    assert [file.relative_to(folder).as_posix() for file in files.expand(folder / pattern)] == found


def test_a_relative_pattern_starts_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert files.expand(Path("*.csv")) == [Path("a.csv")]
    assert files.expand(Path()) == [Path("a.csv"), Path("b.jsonl"), Path("sub/c.json.gz")]


def test_a_name_with_brackets_that_exists_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "part[1].jsonl").write_text("x")
    assert files.expand(tmp_path / "part[1].jsonl") == [tmp_path / "part[1].jsonl"]


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("b.json", "did you mean b.jsonl?"),
        ("b.jsonl/deeper.jsonl", "there is no folder"),
        ("nothing/like.jsonl", "there is no folder"),
        ("q*.jsonl", "check the path"),
        ("none*/**", "check the path"),
    ],
)
def test_what_is_not_there_is_not_found(folder: Path, name: str, fix: str) -> None:
    with pytest.raises(DataNotFound) as caught:
        files.expand(folder / name)
    assert fix in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("a\0b.jsonl", "The path has NUL in it"),
        ("x" * 300 + ".jsonl", "cannot be read: File name too long"),
        ("**.jsonl", "** is a part of its own"),
        ("*/" + "x" * 300 + ".jsonl", "cannot be read: File name too long"),
        ("README.md", "suffix .md cannot be read"),
        ("*.md", "suffix .md cannot be read"),
        ("loop.jsonl", "cannot be read: Too many levels of symbolic links"),
        ("pipe.jsonl", "not a file"),
        ("empty.jsonl", "empty"),
        ("bare", "no data files"),
    ],
)
def test_what_cannot_be_read_is_refused(folder: Path, name: str, what: str) -> None:
    (folder / "empty.jsonl").touch()
    (folder / "bare").mkdir()
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    os.mkfifo(folder / "pipe.jsonl")
    with pytest.raises(DataError) as caught:
        files.expand(folder / name)
    assert what in caught.value.what


def test_a_folder_with_a_device_or_a_bad_name_in_it_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jsonl")
    with pytest.raises(DataError, match="not a file"):
        files.expand(folder)
    with pytest.raises(DataError, match="not a file"):
        files.expand(Path("/dev/null"))


def test_a_link_to_nothing_is_refused(folder: Path) -> None:
    (folder / "gone.jsonl").symlink_to("away.jsonl")
    with pytest.raises(DataNotFound):
        files.expand(folder)


# Packed files

CONTENT = b"".join(b'{"row": %d}\n' % number for number in range(200_000))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_file_is_unpacked_while_it_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data.jsonl{suffix}"
    half = len(CONTENT) // 2
    path.write_bytes(packed(CONTENT[:half], suffix) + packed(CONTENT[half:], suffix))  # an archive of two members
    with files.opened(path) as (stream, position):
        rows = texts.lines(stream, path)
        assert next(rows) == (1, b'{"row": 0}')
        started = position()
        assert list(rows)[-1] == (200_000, b'{"row": 199999}')
        assert 0 < started <= position() == path.stat().st_size


# A flipped bit is seen by the checksum, which gzip always has and zstd only where it was asked for.
@pytest.mark.parametrize(
    ("suffix", "damage"),
    [*((suffix, damage) for suffix in (".gz", ".zst") for damage in ("cut", "other", "trailing")), (".gz", "flipped")],
)
def test_a_broken_archive_is_an_error_with_its_path(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"data.jsonl{suffix}"
    good = packed(CONTENT, suffix)
    middle = len(good) // 2
    bad = {
        "cut": good[:-5],
        "flipped": good[:middle] + bytes([good[middle] ^ 255]) + good[middle + 1 :],
        "other": b"PK not packed like that",
        "trailing": good + b"something else",
    }
    path.write_bytes(bad[damage])
    with files.opened(path) as (stream, _), pytest.raises(DataError, match="cannot be unpacked") as caught:
        stream.read()
    assert caught.value.where == str(path)


def test_the_errors_of_whoever_reads_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(packed(CONTENT, ".gz"))
    with pytest.raises(OSError, match="No space left"), files.opened(path):
        raise OSError(28, "No space left on device")


def test_a_file_that_cannot_be_opened_or_read(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound), files.opened(tmp_path / "data.jsonl"):
        pass
    with pytest.raises(DataError, match="Is a directory"), files.opened(tmp_path):
        pass
    memory = Path("/proc/self/mem")  # opens, but its first page cannot be read
    if memory.exists():
        with (
            files.opened(memory) as (stream, _),
            pytest.raises(DataError, match="cannot be read: Input/output error"),
        ):
            stream.read(1)


# JSON Lines


def test_lines_are_numbered_and_stripped_and_blank_ones_skipped() -> None:
    assert lines(b'\xef\xbb\xbf{"a":1}\r\n\n  \n {"b":2} \n\xff\xfe\nlast') == [
        (1, b'{"a":1}'),
        (4, b'{"b":2}'),
        (5, b"\xff\xfe"),
        (6, b"last"),
    ]
    assert lines(b"") == lines(b"\n \n") == lines(b"\xef\xbb\xbf") == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("read", [lines, json_rows, csv_rows])
def test_other_encodings_are_refused(read: Any, encoding: str) -> None:
    with pytest.raises(DataError, match=rf"The file is {encoding[:6].upper()}\."):
        read(("\ufeff" if encoding.endswith("be") else "").encode(encoding) + '[{"a": 1}]'.encode(encoding))


@pytest.mark.parametrize("text", [b'[{"a":1},\n{"a":2}]', b"[\n{}\n]", b'[{"a":1},{"a":2}]\n', b'[{"a":1'])
def test_one_json_list_is_no_json_lines(text: bytes) -> None:
    with pytest.raises(DataError, match="one JSON list") as caught:
        lines(text)
    assert caught.value.where == f"{HERE}:1"
    assert "rename it to .json" in (caught.value.fix or "")


def test_lists_on_lines_are_rows() -> None:
    assert len(lines(b'[{"a":1}]\n[{"a":2}]')) == 2
    assert len(lines(b"[1, 2\n{}")) == 2


def test_a_long_line_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "LONGEST_LINE", 20)
    assert len(lines(b"a\n" + b"x" * 19 + b"\n")) == 2
    with pytest.raises(DataError, match="longer than") as caught:
        lines(b"a\n\n" + b"x" * 21)
    assert caught.value.where == f"{HERE}:3"


# JSON


@settings(deadline=None)
@given(OBJECTS, st.sampled_from([None, 1, "\t"]), st.booleans(), st.sampled_from(["", "\ufeff", " \n"]))
def test_a_json_list_gives_its_rows(objects: list[Any], indent: int | str | None, ascii_: bool, before: str) -> None:
    text = (before + json.dumps(objects, indent=indent, ensure_ascii=ascii_)).encode()
    assert json_rows(text) == list(enumerate(objects, 1))
    assert all(b"\n" not in row for _, row in texts.json_rows(io.BytesIO(text), HERE))


@settings(deadline=None)
@given(OBJECTS.filter(bool), st.sampled_from([None, 2]), st.sampled_from(["data", "rows", "train"]))
def test_an_object_with_one_list_of_objects_gives_its_rows(objects: list[Any], indent: int | None, name: str) -> None:
    whole = {"version": "1.1", "columns": ["a", "b"], "info": {"rows": [{}]}, name: objects, "none": [], "size": 3}
    assert json_rows(json.dumps(whole, indent=indent).encode()) == list(enumerate(objects, 1))


@settings(deadline=None)
@given(st.lists(st.dictionaries(TEXT, JSON, max_size=4), min_size=2, max_size=8))
def test_objects_on_lines_are_rows(objects: list[Any]) -> None:
    text = "\n".join(map(json.dumps, objects)).encode()
    assert json_rows(text) == list(enumerate(objects, 1))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}]},
        {"conversations": [{"from": "human", "value": "a"}], "id": 1},
        {"question": "a", "answer": "b"},
        {"prompt": [{"role": "user"}], "completion": [{"role": "assistant"}]},
    ],
)
def test_one_row_is_a_row(row: dict[str, Any]) -> None:
    assert json_rows(json.dumps(row).encode()) == [(1, row)]
    assert json_rows(json.dumps(row).encode() + b"\n\n") == [(1, row)]


def test_rows_that_cross_what_is_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_BUFFER", 2)
    objects = [{"a\\": 'q"\\\\{]', "n": -1.5, "t": True, "l": [[], {}, "é"]}, 12, "x\n", None, [1, [2]], {}]
    for indent in (None, 1):
        assert json_rows(json.dumps(objects, indent=indent).encode()) == list(enumerate(objects, 1))
        assert json_rows(json.dumps({"a": objects}, indent=indent).encode()) == list(enumerate(objects, 1))


@pytest.mark.parametrize("told", [r"(no such words)", r"\(byte \d(\d*)\)", r"\(byte (\d)"])
def test_rows_are_found_whatever_msgspec_says_of_what_follows_one(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setattr("phift.data.texts._FOLLOWS", re.compile(told))
    objects = [{"a": "x" * size, "l": [1, {}]} for size in range(0, 300, 7)]
    assert json_rows(json.dumps(objects).encode()) == list(enumerate(objects, 1))


def test_a_long_last_line_of_the_head_stays_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_BUFFER", 30)
    monkeypatch.setattr(texts, "_LONGEST_FIRST_LINE", 30)
    objects = [{"question": "a", "answer": "b"}, {"question": "c" * 500, "answer": "d"}, {"question": "e"}]
    assert json_rows("\n".join(map(json.dumps, objects)).encode()) == list(enumerate(objects, 1))


def test_a_row_that_is_broken_inside_is_left_to_whoever_decodes_it() -> None:
    rows = list(texts.json_rows(io.BytesIO(b'[{"a":NaN},{"a":"\xff"},{"a" 1},{"a":"\\ud83d"},\n{"b":\n1 2}]'), HERE))
    assert rows == [
        (1, b'{"a":NaN}'),
        (2, b'{"a":"\xff"}'),
        (3, b'{"a" 1}'),
        (4, b'{"a":"\\ud83d"}'),
        (5, b'{"b":\n1 2}'),
    ]


SECRET = "my own words"


@pytest.mark.parametrize(
    ("text", "reason", "row"),
    [
        ('[{"a":1} {"b":"S"}]', ", or ] is missing", 1),
        ('[{"a":1},{"b":"S', "ends within a value", 1),
        ('[{"a":1},', "ends within a value", 1),
        ('[{"a":1}', ", or ] is missing", 1),
        ('[{"a":1},]', "a comma follows the last row", 1),
        ('[{"a":1}] S', "something follows", 1),
        ('[{"a":1}][]', "something follows", 1),
        ('[{"a":"S"', "ends within a value", 0),
        ('["S', "ends within a value", 0),
        ("S", "neither a JSON list nor objects", 0),
        ('"S"', "neither a JSON list nor objects", 0),
        ('{"a":"S",\n"b":[1]}', "no list of objects", 0),
        ('{"S":\n[{}, 2], "b":[{}]}', "several lists of objects", 2),
        ('{"S":\n1,}', "a value is missing", 0),
        ('{\n"S" 1}', ": is missing", 0),
        ('{"messages":\n[{"S', "ends within a value", 0),
    ],
)
def test_broken_json_is_an_error_with_its_place_and_without_its_text(text: str, reason: str, row: int) -> None:
    with pytest.raises(DataError) as caught:
        json_rows(text.replace("S", SECRET).encode())
    assert reason in caught.value.what
    assert caught.value.where == (f"{HERE}, after row {row}" if row else str(HERE))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n", " " * 70, "[]", " [ ] ", '{"a":[]}\n'])
def test_no_rows(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_BUFFER", 50)
    if text.startswith("{"):
        assert json_rows(text.encode()) == [(1, {"a": []})]
    else:
        assert json_rows(text.encode()) == []


# CSV


@settings(deadline=None)
@given(
    st.lists(st.tuples(TEXT.filter(str.strip), TEXT), max_size=6),
    st.sampled_from([",", "\t"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_cells_come_back(rows: list[tuple[str, str]], delimiter: str, end: str, encoding: str) -> None:
    rows = [(question.replace("\0", ""), answer.replace("\0", "")) for question, answer in rows]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("question", "answer"), *rows])
    read = [row for _, row in csv_rows(text.getvalue().encode(encoding), delimiter)]
    assert read == [
        {"question": question, "answer": answer} for question, answer in rows if (question + answer).strip()
    ]


def test_a_bad_row_is_told_with_the_line_it_starts_on() -> None:
    data = (b'question,answer\n\n"two\nlines",a\nb\nc,d,e\nf\xff,g\nh,"\0"\ni,"j"k\nl,m\n"\xc3\xa4\n\xff",o\n  \np,q',)[
        0
    ]
    assert csv_rows(data) == [
        (3, {"question": "two\nlines", "answer": "a"}),
        (5, "it has 1 cells; the header has 2"),
        (6, "it has 3 cells; the header has 2"),
        (7, "it is not UTF-8"),
        (8, "it has a NUL character"),
        (9, "its quotes are not as CSV has them"),
        (10, {"question": "l", "answer": "m"}),
        (11, "it is not UTF-8"),
        (14, {"question": "p", "answer": "q"}),
    ]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"question,,answer", "column 2 of 3 has no name"),
        (b"a, a", "two columns have the same name"),
        (b"a,\xff", "it is not UTF-8"),
        (b"a,b\0", "it has a NUL character"),
        (b'"a"b,c', "its quotes are not as CSV has them"),
    ],
)
def test_a_header_that_cannot_be_used_is_an_error(header: bytes, problem: str) -> None:
    with pytest.raises(DataError, match="header") as caught:
        csv_rows(b"\n" + header + b"\n1,2")
    assert problem in caught.value.what
    assert caught.value.where == f"{HERE}:2"


def test_a_quote_that_is_never_closed_is_an_error() -> None:
    with pytest.raises(DataError, match="never closed") as caught:
        csv_rows(b'a,b\n1,2\n"3,4\n5,6\n')
    assert caught.value.where == f"{HERE}:3"


def test_a_long_row_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "LONGEST_CSV_ROW", 20)
    with pytest.raises(DataError, match="longer than"):
        csv_rows(b"a,b\n1," + b"x" * 30)
    with pytest.raises(DataError, match="longer than"):
        csv_rows(b'a,b\n1,"' + b"x\n" * 30)


def test_a_long_cell_is_read_and_the_limit_of_the_csv_module_stays() -> None:
    before = csv.field_size_limit()
    assert len(csv_rows(b"a,b\n1," + b"x" * (before + 1))[0][1]["b"]) == before + 1
    rows = texts.csv_rows(io.BytesIO(b"a,b\n1,2\n3,4"), HERE, ",")
    next(rows)
    assert csv.field_size_limit() == before


def test_several_threads_read_long_cells() -> None:
    data = b"a,b\n" + (b"1," + b"x" * 200_000 + b"\n") * 20
    read: list[int] = []
    threads = [threading.Thread(target=lambda: read.append(len(csv_rows(data)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [20] * 4


# Malice

MALICE = {
    "line.jsonl": b"\0",
    "bomb.jsonl.gz": b"\0",
    "bomb.jsonl.zst": b"x",
    "string.json": b"x",
    "deep.json": b"[",
    "blank.json": b" ",
    "wrapped.json": b"y",
    "quote.csv": b"z\n",
    "cells.csv": b",",
}
STARTS = {
    "string.json": b'[{"a":"',
    "wrapped.json": b'{"data":[{"a":"',
    "quote.csv": b'a,b\n1,"',
    "cells.csv": b"a,b\n1",
}

READ = """
import re, sys
from pathlib import Path
import pyarrow
from phift.data import files, texts
from phift.errors import DataError

def peak():  # in MB; ru_maxrss would be that of the process that started this one, if that was larger
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

path = Path(sys.argv[1])
read = {"jsonl": texts.lines, "json": texts.json_rows, "csv": lambda *args: texts.csv_rows(*args, ",")}
before = peak()
try:
    with files.opened(path) as (stream, _):
        print(sum(1 for _ in read[files.kind(path)](stream, path)), "rows", peak() - before)
except DataError as error:
    print(error.what, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("name", MALICE)
def test_malicious_files_end_in_an_error_within_bounded_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    block = MALICE[name] * ((1 << 20) // len(MALICE[name]))
    if path.suffix == ".gz":
        with gzip.open(path, "wb", 1) as archive:
            for _ in range(300):
                archive.write(block)
    elif path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as archive:
            for _ in range(300):
                archive.write(block)
    else:
        with path.open("wb") as file:
            file.write(STARTS.get(name, b""))
            for _ in range(300):
                file.write(block)
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own program
    outcome, _, grown = done.stdout.rpartition(" ")
    assert {"blank.json": "0 rows", "deep.json": "nested too deeply"}.get(name, "longer than") in outcome
    assert int(grown) < 200
