"""Files that are something else than their name says: one error that names the file, and one way out that works."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phift.config.data import DataConfig
from phift.data.prepare import PreparedDataset, prepare_dataset
from phift.errors import DataError

Rows = list[dict[str, Any]]

few = settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
WORDS = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz ABC.,'?!:äöüßéñ"), min_size=1, max_size=30)
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=15, max_size=40)


def pairs(texts: list[tuple[str, str]]) -> Rows:
    return [{"question": f"{n} q{q}ü", "answer": f"{n} a{a}"} for n, (q, a) in enumerate(texts)]


def chats(texts: list[tuple[str, str]]) -> Rows:
    turns = [[("user", row["question"]), ("assistant", row["answer"])] for row in pairs(texts)]
    return [{"messages": [{"role": role, "content": text} for role, text in row]} for row in turns]


def jsonl(rows: Rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def over_lines(rows: Rows) -> str:
    return "\n".join(json.dumps(row, indent=2) for row in rows)


def listed(rows: Rows) -> str:
    return json.dumps(rows, ensure_ascii=False, indent=1)


def table(rows: Rows, delimiter: str = ",") -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def arrow(rows: Rows, *, stream: bool = False) -> bytes:
    held, sink = pa.Table.from_pylist(rows), io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, held.schema) as writer:
        writer.write_table(held)
    return sink.getvalue()


def parquet(rows: Rows) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(name, content)
    return sink.getvalue()


def tarred(content: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        entry = tarfile.TarInfo("data.jsonl")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return sink.getvalue()


def pointer(_: Rows) -> str:
    return "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n"


def database(folder: Path) -> bytes:
    path = folder / "made.db"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute("create table chats (question text, answer text)")
    connection.close()
    return path.read_bytes()


def prepare(folder: Path, train: Any, **data: Any) -> PreparedDataset:
    return prepare_dataset(DataConfig(train=train, **data), folder / "out")


def refused(folder: Path, train: Any, **data: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        prepare(folder, train, **data)
    return caught.value


def as_file(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# What the file is, what its error says, what its way out says, and the way out, taken.

Taken = Callable[[Path, Path, Rows], Any]


def renamed(suffix: str) -> Taken:
    def take(folder: Path, path: Path, rows: Rows) -> Path:
        return path.rename(path.with_name(f"{path.name.partition('.')[0]}{suffix}"))

    return take


def written(name: str, write: Callable[[Rows], str | bytes]) -> Taken:
    return lambda folder, path, rows: as_file(folder, name, write(rows))


def told(**options: Any) -> Taken:
    return lambda folder, path, rows: {"files": path, **options}


Disguise = tuple[str, Callable[[Rows], str | bytes], str, str, Taken]


def recoded(file: str, write: Callable[[Rows], str], encoding: str) -> Disguise:
    def content(rows: Rows) -> bytes:
        text = write(rows).encode(encoding)
        return gzip.compress(text) if file.endswith(".gz") else text

    return file, content, TOLD_OF[encoding], f"`encoding: {encoding}`", told(encoding=encoding)


TOLD_OF = {
    "windows-1252": "probably Windows-1252",
    "utf-16": "UTF-16",
    "utf-32": "UTF-32",
    "utf-16-le": "UTF-16 without a mark",
    "utf-16-be": "UTF-16 without a mark",
    "utf-32-le": "UTF-32 without a mark",
}
as_lines = written("mended.jsonl", jsonl)
DISGUISES: dict[str, Disguise] = {
    "lfs": ("a.jsonl", pointer, "a Git LFS pointer", "git lfs pull", as_lines),
    "lfs parquet": ("a.parquet", pointer, "a Git LFS pointer", "git lfs pull", as_lines),
    "html": (
        "a.csv",
        lambda _: "\n<!DOCTYPE html>\n<html><body>Sign in</body></html>",
        "a web page",
        "download the data",
        as_lines,
    ),
    "html jsonl": ("a.jsonl", lambda _: "<html><head></head></html>", "a web page", "download the data", as_lines),
    "xml": (
        "a.json",
        lambda _: '<?xml version="1.0"?><Error><Code>BlobNotFound</Code></Error>',
        "XML",
        "download the data",
        as_lines,
    ),
    "404": ("a.jsonl", lambda _: "404: Not Found", "a service's error", "download the data", as_lines),
    "404 csv": ("a.csv", lambda _: "Entry not found", "a service's error", "download the data", as_lines),
    "zip": ("a.jsonl", lambda rows: zipped("data.jsonl", jsonl(rows).encode()), "a zip archive", "unpack it", as_lines),
    "zip of words": (
        "a.jsonl",
        lambda _: zipped("password/see xl/a.npy.txt", b"word/ opendocument data.pkl .npy [Content_Types].xml"),
        "a zip archive",
        "unpack it",
        as_lines,
    ),
    "xlsx": (
        "a.csv",
        lambda _: zipped("xl/workbook.xml", b"<x/>"),
        "a workbook of Excel's",
        "CSV UTF-8",
        written("b.csv", table),
    ),
    "ods": (
        "a.csv",
        lambda _: zipped("mimetype", b"application/vnd.oasis.opendocument.spreadsheet"),
        "a document of LibreOffice's",
        "save the sheet as CSV",
        written("b.csv", table),
    ),
    "docx": (
        "a.docx",
        lambda _: zipped("[Content_Types].xml", b"<x/>") + zipped("word/document.xml", b"<x/>"),
        "a document of Word's",
        "write its rows",
        as_lines,
    ),
    "torch": (
        "a.json",
        lambda _: zipped("archive/data.pkl", b"x"),
        "a file of torch.save",
        "write JSON Lines",
        as_lines,
    ),
    "tar": ("a.jsonl", lambda rows: tarred(jsonl(rows).encode()), "a tar archive", "unpack it", as_lines),
    "tar.gz": (
        "a.jsonl.gz",
        lambda rows: gzip.compress(tarred(jsonl(rows).encode())),
        "a tar archive",
        "unpack it",
        as_lines,
    ),
    "7z": ("a.jsonl", lambda _: b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive", "unpack it", as_lines),
    "bz2": ("a.jsonl", lambda rows: bz2.compress(jsonl(rows).encode()), "packed with bzip2", "unpack it", as_lines),
    "xz": ("a.csv", lambda rows: lzma.compress(table(rows).encode()), "packed with xz", "unpack it", as_lines),
    "gzip": (
        "a.jsonl",
        lambda rows: gzip.compress(jsonl(rows).encode()),
        "packed with gzip",
        "rename it to a.jsonl.gz",
        renamed(".jsonl.gz"),
    ),
    "zstd": (
        "a.csv",
        lambda rows: pa.compress(table(rows).encode(), "zstd", asbytes=True),
        "packed with zstd",
        "rename it to a.csv.zst",
        renamed(".csv.zst"),
    ),
    "gzip twice": (
        "a.jsonl.gz",
        lambda rows: gzip.compress(gzip.compress(jsonl(rows).encode())),
        "packed with gzip",
        "unpack it",
        as_lines,
    ),
    "not packed": ("a.jsonl.gz", jsonl, "not packed", "rename it to a.jsonl", renamed(".jsonl")),
    "not packed csv": ("a.csv.zst", table, "not packed", "rename it to a.csv", renamed(".csv")),
    "pickle": ("a.json", pickle.dumps, "a pickle", "write JSON Lines", as_lines),
    "pickle 2": ("a.jsonl", lambda rows: pickle.dumps(rows, protocol=2), "a pickle", "write JSON Lines", as_lines),
    "parquet": ("a.jsonl", parquet, "a parquet file", "rename it to a.parquet", renamed(".parquet")),
    "arrow": ("a.jsonl", arrow, "an Arrow file", "rename it to a.arrow", renamed(".arrow")),
    "arrow stream": (
        "a.parquet",
        lambda rows: arrow(rows, stream=True),
        "an Arrow stream",
        "rename it to a.arrow",
        renamed(".arrow"),
    ),
    "jsonl as parquet": ("a.parquet", jsonl, "text", "rename it to a.jsonl", renamed(".jsonl")),
    "list as parquet": ("a.parquet", json.dumps, "text", "rename it to a.json", renamed(".json")),
    "csv as parquet": ("a.parquet", table, "text", "rename it to a.csv", renamed(".csv")),
    "tsv as feather": (
        "a.feather",
        lambda rows: table(rows, "\t"),
        "text",
        "rename it to a.tsv",
        renamed(".tsv"),
    ),
    "jsonl as csv": ("a.csv", jsonl, "JSON and no table", "rename it to a.jsonl", renamed(".jsonl")),
    "jsonl as tsv": (
        "a.tsv.gz",
        lambda rows: gzip.compress(jsonl(rows).encode()),
        "JSON and no table",
        "rename it to a.jsonl.gz",
        renamed(".jsonl.gz"),
    ),
    "list as csv": ("a.csv", json.dumps, "JSON and no table", "rename it to a.json", renamed(".json")),
    "list as jsonl": ("a.jsonl", json.dumps, "one JSON list", "rename it to .json", renamed(".json")),
    "object as jsonl": (
        "a.jsonl",
        lambda rows: json.dumps({"data": rows}),
        "one JSON object that holds the rows",
        "rename it to a.json",
        renamed(".json"),
    ),
    "object as jsonl, over lines": (
        "a.jsonl",
        lambda rows: json.dumps({"v": 1, "rows": rows}, indent=1),
        "one JSON object that holds the rows",
        "rename it to a.json",
        renamed(".json"),
    ),
    "splits in one object": (
        "a.jsonl",
        lambda rows: json.dumps({"train": rows, "test": rows}, indent=2),
        "one JSON object with several lists",
        "a file of their own",
        as_lines,
    ),
    "rows within objects": (
        "a.json",
        lambda rows: json.dumps({"result": {"items": rows}}, indent=1),
        "it has no list of objects",
        "as a list of objects",
        as_lines,
    ),
    "csv as jsonl": ("a.jsonl", table, "a table in text", "rename it to a.csv", renamed(".csv")),
    "csv as json": ("a.json", table, "a table in text", "rename it to a.csv", renamed(".csv")),
    "tsv as jsonl": (
        "a.jsonl",
        lambda rows: table(rows, "\t"),
        "a table in text",
        "rename it to a.tsv",
        renamed(".tsv"),
    ),
    "yaml": (
        "a.json",
        lambda rows: "".join(f"- question: {n}\n  answer: a\n" for n in range(len(rows))),
        "YAML",
        "json.dumps",
        as_lines,
    ),
    "windows-1252": recoded("a.csv", table, "windows-1252"),
    "windows-1252 lines": recoded("a.jsonl", jsonl, "windows-1252"),
    "windows-1252 list": recoded("a.json", listed, "windows-1252"),
    "windows-1252 packed": recoded("a.tsv.gz", lambda rows: table(rows, "\t"), "windows-1252"),
    "utf-16": recoded("a.csv", table, "utf-16"),
    "utf-32": recoded("a.jsonl", jsonl, "utf-32"),
    "utf-16 without a mark": recoded("a.tsv", lambda rows: table(rows, "\t"), "utf-16-le"),
    "utf-16 big": recoded("a.jsonl", jsonl, "utf-16-be"),
    "utf-32 without a mark": recoded("a.json", json.dumps, "utf-32-le"),
    "over lines": ("a.jsonl", over_lines, "over several lines", "one object a line", as_lines),
    "over lines, .json": ("a.json", over_lines, "over several lines", "one object a line", as_lines),
    "on one line": (
        "a.jsonl",
        lambda rows: "".join(map(json.dumps, rows)),
        "one after the other",
        "one object a line",
        as_lines,
    ),
    "on one line, .json": (
        "a.json",
        lambda rows: " ".join(map(json.dumps, rows)),
        "one after the other",
        "one object a line",
        as_lines,
    ),
    "python": (
        "a.jsonl",
        lambda rows: "".join(f"{row!r}\n" for row in rows),
        "in Python's notation",
        "json.dumps",
        as_lines,
    ),
    "python list": ("a.json", repr, "in Python's notation", "json.dumps", as_lines),
    "javascript": (
        "a.json",
        lambda rows: "[" + ",\n".join(f"{{question: {json.dumps(r)}, answer: 'b'}}" for r in rows) + "]",
        "in JavaScript's notation",
        "JSON.stringify",
        as_lines,
    ),
    "trailing commas": (
        "a.jsonl",
        lambda rows: jsonl(rows).replace("}\n", ",}\n"),
        "comma before a closing bracket",
        "take such commas out",
        as_lines,
    ),
    "trailing comma": (
        "a.json",
        lambda rows: json.dumps(rows)[:-1] + ",\n]",
        "a comma follows the last row",
        "write the file again",
        as_lines,
    ),
    "commas at the ends": (
        "a.jsonl",
        lambda rows: jsonl(rows).replace("}\n", "},\n"),
        "its lines end in commas",
        "take the comma",
        as_lines,
    ),
    "comments": (
        "a.jsonl",
        lambda rows: "// made by hand\n" + jsonl(rows).replace("\n", "  # next\n"),
        "JSON with comments",
        "take the comments out",
        as_lines,
    ),
    "comments in a list": (
        "a.json",
        lambda rows: "[\n  // the first\n" + json.dumps(rows)[1:],
        "JSON with comments",
        "take the comments out",
        as_lines,
    ),
    "old mac": (
        "a.jsonl",
        lambda rows: jsonl(rows).replace("\n", "\r"),
        "end as on an old Mac",
        "line ends of today",
        as_lines,
    ),
    "delimiter": (
        "a.csv",
        lambda rows: table([{"Frage": r["question"], "Antwort": r["answer"]} for r in rows], ";"),
        "a table with `;` between",
        "`delimiter: ';'`",
        told(delimiter=";", columns={"question": "Frage", "answer": "Antwort"}),
    ),
    "zeros": ("a.jsonl", lambda _: b"\0" * 5000, "nothing but zero bytes", "copy it again", as_lines),
    "no text": ("a.csv", lambda _: bytes(range(256)) * 9, "no text", "copy it again", written("b.csv", table)),
    "answer": (
        "a.jsonl",
        lambda _: '{"error": "Repository not found"}',
        "a service's error",
        "download the data",
        as_lines,
    ),
    "markup": ("a.csv", lambda _: "<table><tr><td>a</td></tr></table>", "a web page", "download the data", as_lines),
    "markdown": (
        "a.csv",
        lambda _: "| question | answer |\n|---|---|\n",
        "Markdown",
        "write it as CSV",
        written("b.csv", table),
    ),
    "twice": (
        "a.jsonl",
        lambda rows: "".join(json.dumps(json.dumps(row)) + "\n" for row in rows),
        "encoded twice",
        "json.dumps once",
        as_lines,
    ),
    "values": (
        "a.jsonl",
        lambda rows: "".join(json.dumps([*row.values()]) + "\n" for row in rows),
        "lists and no objects",
        "as an object",
        as_lines,
    ),
    "turns": (
        "a.jsonl",
        lambda rows: "".join(json.dumps([{"role": "user", "content": "a"}]) + "\n" for _ in rows),
        "lists of messages",
        '{"messages": [...]}',
        as_lines,
    ),
    "none": (
        "a.jsonl",
        lambda rows: "".join('{"question": "a", "answer": "b", "id": None}\n' for _ in rows),
        "in Python's notation",
        "json.dumps",
        as_lines,
    ),
    "bytes": (
        "a.jsonl",
        lambda rows: "".join(f"{json.dumps(row).encode()!r}\n" for row in rows),
        "in Python's notation",
        "json.dumps",
        as_lines,
    ),
    "columns": (
        "a.json",
        lambda rows: json.dumps({key: {n: row[key] for n, row in enumerate(rows)} for key in rows[0]}),
        "JSON with columns and no rows",
        "orient='records'",
        as_lines,
    ),
    "lists": (
        "a.json",
        lambda rows: json.dumps({key: [row[key] for row in rows] for key in rows[0]}),
        "JSON with columns and no rows",
        "orient='records'",
        as_lines,
    ),
    "numbers": (
        "a.json",
        lambda rows: json.dumps(dict(enumerate(rows))),
        "JSON with rows by their numbers",
        "orient='records'",
        as_lines,
    ),
    "no suffix": ("data", jsonl, "name does not say what it is", "rename it to data.jsonl", renamed(".jsonl")),
    "text": ("a.txt", table, "name does not say what it is", "rename it to a.csv", renamed(".csv")),
    "zip by name": (
        "a.zip",
        lambda rows: zipped("data.jsonl", jsonl(rows).encode()),
        "a zip archive",
        "unpack it",
        as_lines,
    ),
    "shift_jis": (
        "a.csv",
        lambda rows: (
            table([{k: f"{v}これです" for k, v in row.items()} for row in rows])
            .replace("\xfc", "u")
            .encode("shift_jis", "ignore")
        ),
        "not UTF-8",
        "`encoding`",
        written("b.csv", table),
    ),
    "japanese": (
        "a.csv",
        lambda rows: table([dict.fromkeys(row, f"{n}は何ですか") for n, row in enumerate(rows)]).encode("cp932"),
        "not UTF-8",
        "shift_jis",
        written("b.csv", table),
    ),
    "chinese": (
        "a.jsonl",
        lambda rows: jsonl([dict.fromkeys(row, f"{n}是什么意思") for n, row in enumerate(rows)]).encode("gb18030"),
        "not UTF-8",
        "gb18030",
        as_lines,
    ),
    "cyrillic": (
        "a.csv",
        lambda rows: table([dict.fromkeys(row, f"{n} Такой это ответ") for n, row in enumerate(rows)]).encode("cp1251"),
        "not UTF-8",
        "such as cp1251",
        written("b.csv", table),
    ),
}


@pytest.mark.parametrize("name", DISGUISES)
@few
@given(PAIRS)
def test_a_file_in_disguise_is_one_error_with_a_way_out(
    name: str, tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]
) -> None:
    folder, rows = tmp_path_factory.mktemp("disguise"), pairs(texts)
    file, write, what, fix, way_out = DISGUISES[name]
    path = as_file(folder, file, write(rows))
    error = refused(folder, path)
    assert error.what == refused(folder, path, bad_rows="set_aside").what
    assert what in error.what
    assert fix in (error.fix or "")
    assert str(error.where).startswith(str(path))
    assert "set_aside" not in str(error)
    assert len(error.problems) <= 1
    assert not any(text in str(error) for row in rows for text in row.values() if len(text) > 8)
    mended = prepare(folder, way_out(folder, path, rows))
    assert mended.content_hash == prepare(folder, as_file(folder, "sound.jsonl", jsonl(rows))).content_hash


@pytest.mark.parametrize("indent", [None, 1])
def test_a_long_object_that_holds_the_rows_is_told(indent: int | None, tmp_path: Path) -> None:
    rows = pairs([("a" * 900, "b" * 900)] * 1_000)
    path = as_file(tmp_path, "a.jsonl", json.dumps({"data": rows}, indent=indent))
    error = refused(tmp_path, path)
    assert ("holds the rows" in error.what, error.fix) == (True, "rename it to a.json")
    assert sum(prepare(tmp_path, path.rename(tmp_path / "a.json")).rows.values()) == 1_000


@pytest.mark.parametrize("text", ["User: hello\nBot: hello\n\n", "# Chats\n\nHello.\n"])
def test_text_is_called_neither_yaml_nor_json(text: str, tmp_path: Path) -> None:
    error = refused(tmp_path, as_file(tmp_path, "a.jsonl", text * 20))
    assert "it is not JSON" in error.what


def test_a_database_in_disguise(tmp_path: Path) -> None:
    error = refused(tmp_path, as_file(tmp_path, "a.csv", database(tmp_path)))
    assert "an SQLite database" in error.what


# What is read as it is meant, since it is exact.

MEANT: dict[str, tuple[str, Callable[[Rows], str | bytes], str]] = {
    "semicolons": ("a.csv", lambda rows: table(rows, ";"), "separated by ';'"),
    "bars": ("a.csv.gz", lambda rows: gzip.compress(table(rows, "|").encode()), "separated by '|'"),
    "tabs": ("a.csv", lambda rows: table(rows, "\t"), r"separated by '\t'"),
    "commas": ("a.tsv", table, "separated by ','"),
    "semicolons, marked": ("a.csv", lambda rows: "\ufeff" + table(rows, ";"), "separated by ';'"),
    "told to Excel": ("a.csv", lambda rows: "sep=;\n" + table(rows, ";"), "separated by ';'"),
    "capitals": (
        "a.csv",
        lambda rows: table([{k.title(): v for k, v in r.items()} for r in rows]),
        "Question as question",
    ),
    "capitals in json": (
        "a.jsonl",
        lambda rows: jsonl([{k.upper(): v for k, v in r.items()} for r in rows]),
        "QUESTION as question",
    ),
    "capitals in parquet": (
        "a.parquet",
        lambda rows: parquet([{k.title(): v for k, v in r.items()} for r in rows]),
        "Question as question",
    ),
    "marks": ("a.jsonl", lambda rows: "".join("\ufeff" + jsonl([row]) for row in rows), ""),
    "windows": ("a.jsonl", lambda rows: "\ufeff" + jsonl(rows).replace("\n", "\r\n"), ""),
    "nan": (
        "a.jsonl",
        lambda rows: jsonl([{**row, "score": float("nan"), "other": [float("-inf")]} for row in rows]),
        "Columns left out: other, score",
    ),
    "nan in a list": (
        "a.json",
        lambda rows: json.dumps([{**row, "score": float("inf")} for row in rows]),
        "Columns left out: score",
    ),
}


@pytest.mark.parametrize("name", MEANT)
@few
@given(PAIRS)
def test_what_is_exact_is_read_with_a_note(
    name: str, tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]
) -> None:
    folder, rows = tmp_path_factory.mktemp("meant"), pairs(texts)
    file, write, note = MEANT[name]
    prepared = prepare(folder, as_file(folder, file, write(rows)))
    assert prepared.content_hash == prepare(folder, as_file(folder, "sound.jsonl", jsonl(rows))).content_hash
    assert any(note in finding.message for finding in prepared.findings)


@few
@given(PAIRS)
def test_messages_with_nan_beside_them_are_taken(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]
) -> None:
    folder, rows = tmp_path_factory.mktemp("nan"), chats(texts)
    path = as_file(folder, "a.jsonl", jsonl([{**row, "score": float("nan")} for row in rows]))
    sound = as_file(folder, "sound.jsonl", jsonl(rows))
    assert prepare(folder, path).content_hash == prepare(folder, sound).content_hash


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1250", "mac-roman", "cp500"]
)
@pytest.mark.parametrize("file", ["a.jsonl", "a.json.gz", "a.csv", "a.tsv"])
def test_every_encoding_can_be_named(tmp_path: Path, encoding: str, file: str) -> None:
    rows = pairs([("ä", "ö")] * 20)
    text = table(rows, "\t" if "tsv" in file else ",") if "sv" in file else jsonl(rows)
    content = text.encode(encoding)
    path = as_file(tmp_path, file, gzip.compress(content) if file.endswith("gz") else content)
    prepared = prepare(tmp_path, {"files": path, "encoding": encoding})
    assert prepared.content_hash == prepare(tmp_path, as_file(tmp_path, "s.jsonl", jsonl(rows))).content_hash


def test_a_file_that_is_not_in_its_encoding_is_refused(tmp_path: Path) -> None:
    path = as_file(tmp_path, "a.jsonl", jsonl(pairs([("a", "b")] * 20)) + "ü")
    error = refused(tmp_path, {"files": path, "encoding": "ascii"})
    assert "is not in the encoding ascii" in error.what
    assert error.where == str(path)


def test_a_header_with_one_letter_in_another_encoding_says_so(tmp_path: Path) -> None:
    text = table([{"question": f"{n}?", "réponse": "yes"} for n in range(20)])
    path = as_file(tmp_path, "a.csv", text.encode("cp1252"))
    assert "`encoding`" in (refused(tmp_path, path).fix or "")
    given = {"files": path, "encoding": "windows-1252", "columns": {"answer": "réponse"}}
    assert sum(prepare(tmp_path, given).rows.values()) == 20


def test_one_broken_character_is_its_rows_matter(tmp_path: Path) -> None:
    rows = pairs([("ä", "ö")] * 20)
    content = jsonl(rows).encode().replace(b"3 q\xc3\xa4", b"3 q\xe4", 1)
    path = as_file(tmp_path, "a.jsonl", content)
    error = refused(tmp_path, path)
    assert "1 of 20 rows cannot be trained on" in error.what
    assert "set_aside" in (error.fix or "")
    assert prepare(tmp_path, path, bad_rows="set_aside").accounts[0].aside == 1


def test_emojis_that_are_cut_are_their_rows_matter(tmp_path: Path) -> None:
    text = jsonl(pairs([("What a lovely day it is today", "It is indeed 😀")] * 20))
    path = as_file(tmp_path, "a.jsonl", text.encode().replace("😀".encode(), b"\xf0\x9f\x98", 12))
    assert "12 of 20 rows cannot be trained on" in refused(tmp_path, path).what


@pytest.mark.parametrize("good", [5, 40])
def test_setting_aside_is_advised_only_where_rows_are_left(good: int, tmp_path: Path) -> None:
    rows = [*pairs([("a", "b")] * good), *[{"question": "a", "answer": ""}] * 4]
    path = as_file(tmp_path, "a.jsonl", jsonl(rows))
    assert ("set_aside" in (refused(tmp_path, path).fix or "")) == (good == 40)
    if good < 40:
        assert "set_aside" not in str(refused(tmp_path, path, bad_rows="set_aside"))


def test_files_that_fail_as_a_whole_are_told_once_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        as_file(tmp_path, f"{name}.jsonl", jsonl([{"question": "a", "answer": ""}] * 30))
    as_file(tmp_path, "c.jsonl", jsonl([*pairs([("a", "b")] * 30), {"question": "", "answer": "c"}]))
    error = refused(tmp_path, tmp_path / "*.jsonl")
    assert [Path(place).name for place, _ in error.problems] == ["a.jsonl:1", "b.jsonl:1", "c.jsonl:31"]
    assert (error.refused, len(str(error).splitlines())) == (3, 5)


def test_files_of_one_row_fail_as_rows(tmp_path: Path) -> None:
    for number, row in enumerate([*pairs([("a", "b")] * 20), {"question": "c", "answer": ""}]):
        as_file(tmp_path, f"{number}.json", json.dumps(row))
    error = refused(tmp_path, tmp_path / "*.json")
    assert "nearly all" not in str(error)
    assert "set_aside" in (error.fix or "")
    assert sum(prepare(tmp_path, tmp_path / "*.json", bad_rows="set_aside").rows.values()) == 20


def test_a_file_of_which_some_rows_are_not_utf8_is_a_finding_where_they_are_set_aside(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n}?", "answer": "Größe" if n % 3 else "Size"} for n in range(60)]
    path = as_file(tmp_path, "a.csv", table(rows).encode("cp1252"))
    assert "Windows-1252" in refused(tmp_path, path).what
    told = {finding.code: finding for finding in prepare(tmp_path, path, bad_rows="set_aside").findings}
    assert "`encoding: windows-1252`" in told["DATA_ENCODING"].fix


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_utf8_that_is_read_as_something_else_is_told(name: str, tmp_path: Path) -> None:
    rows = [{"question": f"Wie groß ist {n}?", "answer": "Größer."} for n in range(20)]
    text = table(rows) if name == "a.csv" else jsonl(rows)
    path = as_file(tmp_path, name, text)
    (finding,) = [
        each
        for each in prepare(tmp_path, {"files": path, "encoding": "cp1252"}).findings
        if each.code == "DATA_ENCODING"
    ]
    assert (finding.severity, finding.place) == ("warning", str(path))
    for encoding, content in (("cp1252", text.encode("cp1252")), ("utf-8-sig", text.encode("utf-8-sig"))):
        as_file(tmp_path, name, content)
        prepared = prepare(tmp_path, {"files": path, "encoding": encoding})
        assert "DATA_ENCODING" not in {each.code for each in prepared.findings}


def test_a_header_again_is_no_conversation(tmp_path: Path) -> None:
    text = table(pairs([("a", "b")] * 20))
    error = refused(tmp_path, as_file(tmp_path, "joined.csv", text + text.replace("0 ", "x ")))
    assert "joined.csv:22: it is the header again" in error.what
