"""No column and no key of any row goes unseen: in every format, file and packing, wherever in the data it stands."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phift.config.data import DataConfig
from phift.data import parts
from phift.data.prepare import prepare_dataset

Row = dict[str, Any]

EXAMPLES = int(os.environ.get("PHIFT_EXAMPLES", "5"))
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=EXAMPLES)


def turns(names: tuple[str, str], number: int, keys: Row) -> list[Row]:
    who, said = names
    speakers = ("user", "assistant") if who == "role" else ("human", "gpt")
    return [{who: speaker, said: f"{speaker} says {number}", **keys} for speaker in speakers]


FORMATS: dict[str, Callable[[int, Row], Row]] = {
    "messages": lambda number, keys: {"messages": turns(("role", "content"), number, keys)},
    "sharegpt": lambda number, keys: {"conversations": turns(("from", "value"), number, keys)},
    "prompt_completion": lambda number, keys: dict(
        zip(("prompt", "completion"), ([turn] for turn in turns(("role", "content"), number, keys)), strict=True)
    ),
    "alpaca": lambda number, _: {"instruction": f"Do {number}.", "output": f"Done {number}."},
    "question_answer": lambda number, _: {"question": f"What is {number}?", "answer": f"It is {number}."},
    "ultrachat": lambda number, _: {"data": [f"What is {number}?", f"It is {number}."]},
}
WITH_KEYS = {"messages", "sharegpt", "prompt_completion"}


def as_lines(rows: list[Row]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_table(rows: list[Row], delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), delimiter=delimiter)
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: json.dumps(cell) if isinstance(cell, list | dict) else cell for name, cell in row.items()}
        )
    return text.getvalue().encode()


def as_arrow(rows: list[Row]) -> pa.Table:
    return pa.table({name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)})


def as_parquet(rows: list[Row]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(as_arrow(rows), sink, row_group_size=7)
    return sink.getvalue()


def as_feather(rows: list[Row]) -> bytes:
    sink = io.BytesIO()
    feather.write_feather(as_arrow(rows), sink)
    return sink.getvalue()


def as_zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, "zstd", asbytes=True))


FILES: dict[str, Callable[[list[Row]], bytes]] = {
    ".jsonl": as_lines,
    ".ndjson.gz": lambda rows: gzip.compress(as_lines(rows)),
    ".jsonl.zst": lambda rows: as_zstd(as_lines(rows)),
    ".json": lambda rows: json.dumps(rows, indent=1).encode(),
    ".json.gz": lambda rows: gzip.compress(json.dumps({"rows": rows}).encode()),
    ".csv": lambda rows: as_table(rows, ","),
    ".tsv.gz": lambda rows: gzip.compress(as_table(rows, "\t")),
    ".parquet": as_parquet,
    ".arrow": as_feather,
}
PYTHON: dict[str, Callable[[list[Row]], Any]] = {
    "list": lambda rows: rows,
    "pandas": pd.DataFrame,
    "arrow": as_arrow,
}

COLUMNS = ["id", "lang", "images", "score", "a b", 'a "b"', "tab\there", "ünïcode", "x" * 60, "Label", "é.b", "7"]
KEYS = ["name", "id", "images", "end_turn", 'a "b"', "x y", "recipient"]
# What a row has besides, which is nothing for most of them.
OTHERS = st.dictionaries(st.sampled_from(COLUMNS), st.sampled_from(["a", "b c"]), max_size=3)
MORE = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["a", "b c"]), max_size=2)
ROWS = st.lists(st.just(({}, {})) | st.tuples(OTHERS, MORE), min_size=15, max_size=30)


def told(findings: dict[str, str], code: str) -> dict[str, int]:
    """Return the names that a finding tells, and how many rows have each; 0 where all have it."""
    found = {}
    for name in findings.get(code, " : .").partition(": ")[2].removesuffix(".").split(", "):
        name, _, share = name.partition(" (")
        if name:
            found[name] = int(share.partition(" ")[0]) if share else 0
    return found


def expected(rows: list[tuple[Row, Row]], which: int) -> dict[str, int]:
    names = {name for row in rows for name in row[which]}
    counts = {name: sum(name in row[which] for row in rows) for name in names}
    shown = {name: (name[:40] + "…" * (len(name) > 40)).replace("\t", "\\t") for name in names}
    return {shown[name]: 0 if count == len(rows) else count for name, count in counts.items()}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("packing", [*FILES, *PYTHON])
@given(rows=ROWS, block=st.sampled_from([100, 1000, 1 << 19]))
@SETTINGS
def test_every_name_is_told_with_its_rows(
    tmp_path_factory: pytest.TempPathFactory, form: str, packing: str, rows: list[tuple[Row, Row]], block: int
) -> None:
    folder = tmp_path_factory.mktemp("unseen")
    if form not in WITH_KEYS:
        rows = [(others, {}) for others, _ in rows]
    values = [{**FORMATS[form](number, keys), **others} for number, (others, keys) in enumerate(rows)]
    source: Any = folder / f"rows{packing}"
    if packing in FILES:
        source.write_bytes(FILES[packing](values))
    else:
        source = PYTHON[packing](values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "BLOCK", block)
        prepared = prepare_dataset(DataConfig(train=source), folder / "out")
    findings = {finding.code: finding.message for finding in prepared.findings}
    columns = expected(rows, 0)
    if packing == ".arrow":  # which does not say how many rows have them
        columns = dict.fromkeys(columns, 0)
    assert told(findings, "DATA_COLUMNS_LEFT_OUT") == columns
    assert told(findings, "DATA_MESSAGE_KEYS") == expected(rows, 1)
    lost = {"images", "score", "Label"} & {name for others, _ in rows for name in others}
    lost |= {"images"} & {name for _, keys in rows for name in keys}
    assert ("DATA_MEANING_LEFT_OUT" in findings) == bool(lost)


SYSTEMS = st.sampled_from([{}, {"system": "Be brief."}, {"system_prompt": "Be kind."}])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("packing", [*FILES, *PYTHON])
@given(systems=st.lists(SYSTEMS, min_size=15, max_size=20), others=OTHERS)
@SETTINGS
def test_a_system_prompt_beside_the_conversation_comes_first(
    tmp_path_factory: pytest.TempPathFactory, form: str, packing: str, systems: list[Row], others: Row
) -> None:
    folder = tmp_path_factory.mktemp("system")
    values = [{**FORMATS[form](number, {}), **system, **others} for number, system in enumerate(systems)]
    source: Any = folder / f"rows{packing}"
    if packing in FILES:
        source.write_bytes(FILES[packing](values))
    else:
        source = PYTHON[packing](values)
    prepared = prepare_dataset(DataConfig(train=source), folder / "out")
    rows = [json.loads(line)["messages"] for path in prepared.files.values() for line in path.read_bytes().splitlines()]
    first = [row[0]["content"] if row[0]["role"] == "system" else "" for row in rows]
    assert sorted(first) == sorted("".join(system.values()) for system in systems)
    findings = {finding.code: finding.message for finding in prepared.findings}
    assert told(findings, "DATA_COLUMNS_LEFT_OUT") == expected([(others, {})], 0)


@pytest.mark.parametrize("packing", [".jsonl", ".json", ".parquet", ".arrow"])
def test_a_column_without_anything_in_it_is_no_loss(tmp_path: Path, packing: str) -> None:
    rows = [{**FORMATS["messages"](number, {}), "images": [], "label": None} for number in range(20)]
    source = tmp_path / f"rows{packing}"
    source.write_bytes(FILES[packing](rows))
    findings = {
        finding.code: finding.message for finding in prepare_dataset(DataConfig(train=source), tmp_path).findings
    }
    assert findings["DATA_COLUMNS_LEFT_OUT"] == "Columns left out: images (empty), label (empty)."
    assert "DATA_MEANING_LEFT_OUT" not in findings
