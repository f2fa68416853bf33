"""How fast tokens are counted exactly: through phift, and by the tokenizer's own ``encode_batch`` alone.

Makes conversations of UltraChat's shape from the standard library's docstrings, and trains a byte-level BPE tokenizer
with 32,000 tokens on them. Then runs, in turn and each in a process of its own:

- ``encode_batch``: the tokenizer on the rows' text, rendered before the clock starts; nothing else;
- ``phift``: ``phift.tokens.count.measure(exact=True)``: reading, the chat template, tokens, those that are trained on,
  the report; the template and the tokenizer in a process whose time and memory are limited.

Run: ``python bench/count_tokens.py [--rows N] [--rounds N]``. Both use all processors.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from prepare_data import conversations

ROWS = 6_000
VOCABULARY = 32_000
BATCH = 256  # as phift has them
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}<|endoftext|>"
)
MARKERS = {"response_template": "<|assistant|>", "instruction_template": "<|user|>"}


def make(folder: Path, rows: int) -> None:
    """Write the rows, and the tokenizer with its chat template and markers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in conversations(rows):
            file.write(json.dumps({"messages": row["messages"]}) + "\n")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    texts = (message["content"] for row in conversations(rows) for message in row["messages"])
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=4096)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    (folder / "finetune_config.json").write_text(json.dumps({"chat_special_tokens": MARKERS}), encoding="utf-8")


def encode_batch(folder: Path) -> tuple[float, int]:
    """Return the seconds and the tokens of the tokenizer alone."""
    from phift.tokens.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    with (folder / "rows.jsonl").open(encoding="utf-8") as file:
        texts = [str(tokenizer.render(json.loads(line))) for line in file]
    backend = tokenizer.tokenizer.backend_tokenizer
    start, tokens = time.perf_counter(), 0
    for first in range(0, len(texts), BATCH):
        found = backend.encode_batch_fast(texts[first : first + BATCH], add_special_tokens=False)
        tokens += sum(len(each.ids) for each in found)
    return time.perf_counter() - start, tokens


def phift(folder: Path) -> tuple[float, int]:
    """Return the seconds and the tokens of the whole count."""
    from phift.data.workers import Workers
    from phift.tokens.count import measure
    from phift.tokens.limited import LIMITS, LimitedTokenizer, Opening

    with Workers(folder, LIMITS, most=1) as workers:
        tokenizer = LimitedTokenizer.open(Opening(str(folder), folder), workers)
        start = time.perf_counter()
        report = measure({"train": folder / "rows.jsonl"}, tokenizer, max_seq_length=-1, exact=True)
        return time.perf_counter() - start, report.splits["train"].tokens


ROADS: dict[str, Callable[[Path], tuple[float, int]]] = {"encode_batch": encode_batch, "phift": phift}


def run(road: str, folder: Path) -> dict[str, float]:
    """Run a road in a process of its own; return its seconds, tokens and megabytes of memory at most."""
    command = [sys.executable, __file__, "--road", road, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - this script
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Make the data, run the roads in turn, and print what they took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--road", choices=ROADS, help="run this one road, for the measurement")
    parser.add_argument("--folder", type=Path, help="where the data of that road is")
    options = parser.parse_args()
    if options.road:
        seconds, tokens = ROADS[options.road](options.folder)
        each = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        peak = sum(resource.getrusage(who).ru_maxrss for who in each) >> 10
        print(json.dumps({"seconds": seconds, "tokens": tokens, "MB": peak}))
        return
    with tempfile.TemporaryDirectory() as place:
        make(Path(place), options.rows)
        size = (Path(place) / "rows.jsonl").stat().st_size
        rounds = [{road: run(road, Path(place)) for road in ROADS} for _ in range(options.rounds)]
    if len({found["tokens"] for each in rounds for found in each.values()}) != 1:
        raise SystemExit(f"the roads do not count the same tokens: {rounds}")
    print(f"{options.rows:,} rows, {size / 1e6:.1f} MB, {int(rounds[0]['phift']['tokens']):,} tokens")
    print(f"{os.cpu_count()} processors, {time.strftime('%Y-%m-%d')}, {options.rounds} rounds")
    for road in ROADS:
        taken = [each[road]["seconds"] for each in rounds]
        speed = options.rows / statistics.median(taken)
        spread = f"{min(taken):.2f}-{max(taken):.2f}"
        memory = max(each[road]["MB"] for each in rounds)
        print(f"{road:<13} {statistics.median(taken):>7.2f} s {spread:>13} {speed:>7.0f} rows/s {memory:>6.0f} MB")
    ratios = sorted(each["phift"]["seconds"] / each["encode_batch"]["seconds"] for each in rounds)
    print(f"phift / encode_batch: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
