"""How fast data is prepared: a data set of UltraChat's size, through phift and by other roads.

Makes 207,865 conversations from the sentences of the standard library's docstrings (about 1.4 GB as JSONL), and then
runs, in turn and each in a process of its own:

- ``bound``: ``orjson.loads`` of every line of the JSONL file, one thread, nothing else;
- ``jsonl``, ``parquet``: ``phift.data.prepare.prepare_dataset``, everything included, files written, but the rows not
  compared with each other (``near_duplicates: ignore``);
- ``near``: the same from JSONL with the rows compared, as it is done where nothing else is said;
- ``datasketch``: the rows of the JSONL compared by datasketch's own loop, `MinHash` and `MinHashLSH` as its
  documentation has them, with 128 permutations and a threshold of 0.8 over shingles of three words; nothing else;
- ``notebook``: ``datasets`` to JSON lines, then pandas, as Azure's fine-tuning notebooks do; it checks nothing.

Run: ``python bench/prepare_data.py [--rows N] [--rounds N] [--folder PATH]``. It needs 12 GB of free disk, and 9 GB of
memory for the notebook's road. That and datasketch's take minutes, and go once.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil

ROWS = 207_865
SHARDS = 3
ROW_GROUP = 1000
BAD = 200  # one row in so many has a mistake, where the data is to be set aside
TREE_EVERY = 0.02  # seconds between two looks at the memory of a process and its children


@cache
def sentences() -> list[str]:
    """Return the paragraphs of the standard library's docstrings."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                found += [
                    text for part in (ast.get_docstring(node) or "").split("\n\n") if len(text := part.strip()) > 20
                ]
    return found


def conversations(rows: int) -> Iterator[dict[str, Any]]:
    """Yield rows with UltraChat's columns: two to four turns, short questions, long answers."""
    texts, draw = sentences(), random.Random(42)  # noqa: S311 - made-up data
    for _ in range(rows):
        messages = []
        for _ in range(draw.choice((2, 3, 3, 4))):
            messages.append({"content": draw.choice(texts), "role": "user"})
            messages.append({"content": " ".join(draw.choices(texts, k=draw.randint(11, 18))), "role": "assistant"})
        prompt = messages[0]["content"]
        yield {"prompt": prompt, "prompt_id": f"{draw.getrandbits(256):064x}", "messages": messages}


def make(folder: Path, rows: int) -> None:
    """Write the rows as one JSONL file and as parquet files."""
    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq

    turn = pa.struct([("content", pa.string()), ("role", pa.string())])
    schema = pa.schema([("prompt", pa.string()), ("prompt_id", pa.string()), ("messages", pa.list_(turn))])
    folder.mkdir(parents=True)
    writers = [pq.ParquetWriter(folder / f"train-{shard}.parquet", schema) for shard in range(SHARDS)]
    batch: list[dict[str, Any]] = []
    with (folder / "train.jsonl").open("wb") as file:
        for number, row in enumerate(conversations(rows), start=1):
            file.write(orjson.dumps(row) + b"\n")
            batch.append(row)
            if len(batch) == ROW_GROUP or number == rows:
                shard = min(SHARDS - 1, number * SHARDS // (rows + 1))
                writers[shard].write_table(pa.Table.from_pylist(batch, schema=schema))
                batch = []
    for writer in writers:
        writer.close()


def bound(folder: Path, _out: Path) -> int:
    """Decode every line, and do nothing with it."""
    import orjson

    count = 0
    with (folder / "train.jsonl").open("rb") as file:
        for line in file:
            orjson.loads(line)
            count += 1
    return count


def prepare(source: Path, out: Path, near_duplicates: Literal["report", "ignore"] = "ignore") -> int:
    """Read, check, split and write with phift."""
    from phift.config.data import DataConfig
    from phift.data.prepare import prepare_dataset

    data = DataConfig(train=source, near_duplicates=near_duplicates)
    return sum(prepare_dataset(data, out, fresh=True).rows.values())


def datasketch_loop(folder: Path, _out: Path) -> int:
    """Find near rows with datasketch: whether one of those before is near, and then into the index."""
    import orjson
    import xxhash
    from datasketch import MinHash, MinHashLSH

    index, count = MinHashLSH(threshold=0.8, num_perm=128), 0
    with (folder / "train.jsonl").open("rb") as file:
        for line in file:
            words = " ".join(turn["content"] for turn in orjson.loads(line)["messages"]).lower().encode().split()
            signature = MinHash(num_perm=128, hashfunc=xxhash.xxh32_intdigest)
            signature.update_batch({b" ".join(some) for some in zip(words, words[1:], words[2:], strict=False)})
            index.query(signature)
            index.insert(count, signature)
            count += 1
    return count


def notebook(folder: Path, out: Path) -> int:
    """Load with ``datasets``, write JSON lines, read them with pandas and write the three files."""
    import datasets
    import pandas as pd

    out.mkdir(parents=True)
    loaded = datasets.load_dataset("parquet", data_files=str(folder / "*.parquet"), cache_dir=str(out / "cache"))
    loaded["train"].to_json(str(out / "all.jsonl"))
    frame = pd.read_json(out / "all.jsonl", lines=True)
    parts = (frame.iloc[: len(frame) * 8 // 10], frame.iloc[len(frame) * 8 // 10 : len(frame) * 9 // 10])
    for name, part in zip(("train", "validation", "test"), (*parts, frame.iloc[len(frame) * 9 // 10 :]), strict=True):
        part.to_json(out / f"{name}.jsonl", orient="records", lines=True)
    return len(frame)


ROADS = {
    "bound": bound,
    "jsonl": lambda folder, out: prepare(folder / "train.jsonl", out),
    "parquet": lambda folder, out: prepare(folder / "*.parquet", out),
    "near": lambda folder, out: prepare(folder / "train.jsonl", out, "report"),
    "datasketch": datasketch_loop,
    "notebook": notebook,
}
ONCE = ("datasketch", "notebook")


def measure(road: str, folder: Path, *, look: bool) -> tuple[float, int]:
    """Run a road in a process of its own; return its seconds, imports included, and what memory it took at most.

    - **look**: look at the memory, of its children too, which takes time from it.
    """
    out = folder / f"out-{road}"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, __file__, "--road", road, "--folder", str(folder)]
    # As an installed package is: compiled already.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:  # noqa: S603 - this script
        peak = 0
        while look and process.poll() is None:
            peak = max(peak, memory(psutil.Process(process.pid)))
            time.sleep(TREE_EVERY)
        answer = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{road} failed")
    shutil.rmtree(out, ignore_errors=True)
    return json.loads(answer)["seconds"], peak


def memory(process: psutil.Process) -> int:
    """Return the resident bytes of a process and all below it; pages that they share are counted for each."""
    try:
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def report(seconds: dict[str, list[float]], peaks: dict[str, int], rows: int) -> None:
    """Print the medians, and the ratios of rounds to the bound of the same round."""
    print(f"\n{rows:,} rows, {os.cpu_count()} processors, {time.strftime('%Y-%m-%d')}")
    print(f"{'road':<10} {'seconds':>8} {'min-max':>15} {'/ bound':>8} {'MB':>7}")
    for road, taken in seconds.items():
        ratio = statistics.median(mine / base for mine, base in zip(taken, seconds["bound"], strict=False))
        spread = f"{min(taken):.2f}-{max(taken):.2f}"
        print(f"{road:<10} {statistics.median(taken):>8.2f} {spread:>15} {ratio:>8.2f} {peaks[road] >> 20:>7}")


def main() -> None:
    """Make the data if it is not there, run the roads in turn, and print what they took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow-rounds", type=int, default=1, help="of datasketch's and the notebook's road")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "phift-bench")
    parser.add_argument("--road", choices=ROADS, help="run this one road, for the measurement")
    options = parser.parse_args()
    if options.road:
        start = time.perf_counter()
        rows = ROADS[options.road](options.folder, options.folder / f"out-{options.road}")
        print(json.dumps({"seconds": time.perf_counter() - start, "rows": rows}))
        return
    folder = options.folder / str(options.rows)
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        make(folder, options.rows)
        (folder / "made").touch()
    seconds: dict[str, list[float]] = {road: [] for road in ROADS}
    peaks = dict.fromkeys(ROADS, 0)
    for number in range(options.rounds):
        for road in ROADS:
            if road in ONCE and number >= options.slow_rounds:
                continue
            taken, _ = measure(road, folder, look=False)
            seconds[road].append(taken)
            print(f"round {number + 1}: {road} {taken:.2f} s", flush=True)
    for road in [road for road, taken in seconds.items() if taken]:
        _, peaks[road] = measure(road, folder, look=True)
    report({road: taken for road, taken in seconds.items() if taken}, peaks, options.rows)


if __name__ == "__main__":
    main()
