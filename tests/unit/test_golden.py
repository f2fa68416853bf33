"""Names and hashes that never change: who runs the same thing with a newer phift finds the job that is paid for."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phift.run import FineTuneRun
from unit.fakes import Fakes, run_config

PAIRS = [(f"Question {i}, with ünïcode?", f"Answer {i}:\n- a\t- b") for i in range(30)]
MESSAGES = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in PAIRS]


def jsonl(folder: Path) -> Path:
    path = folder / "chat.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in MESSAGES), encoding="utf-8")
    return path


def json_list(folder: Path) -> Path:
    turns = [[{"from": "human", "value": q}, {"from": "gpt", "value": a}] for q, a in PAIRS]
    path = folder / "chat.json"
    path.write_text(json.dumps([{"conversations": row} for row in turns]), encoding="utf-8")
    return path


def table(folder: Path, delimiter: str = ",") -> Path:
    path = folder / ("chat.csv" if delimiter == "," else "chat.tsv")
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("prompt", "completion"), *PAIRS])
    return path


def parquet(folder: Path) -> Path:
    path = folder / "chat.parquet"
    pq.write_table(pa.table({"messages": MESSAGES}), path)
    return path


# The same conversations in six forms: one content, and so one job.
SOURCES: dict[str, Callable[[Path], Any]] = {
    "jsonl": jsonl,
    "json": json_list,
    "csv": table,
    "tsv": lambda folder: table(folder, "\t"),
    "parquet": parquet,
    "rows": lambda _folder: [{"messages": row} for row in MESSAGES],
}
CONTENT = "52b9fd8c78ca67b89ffcfce3f5518bde940d1f177feb9f173d2fd66ba6ee6042"
JOB = "phift-phi-4-0daaa4d4ab5d"


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_data_and_configuration_are_the_same_job_in_every_version(source: str, tmp_path: Path) -> None:
    data = {"train": SOURCES[source](tmp_path)}
    config = run_config(tmp_path, data=data, parameters={"seed": 7, "learning_rate": 1e-5})
    plan = FineTuneRun(config, Fakes().clients).plan
    assert (plan.dataset.content_hash, plan.job_name) == (CONTENT, JOB)
