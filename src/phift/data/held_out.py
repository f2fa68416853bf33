"""Held-out rows beside those that were trained on: which of them say nearly the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import xxhash

from phift.data.near import Spools, labels_of
from phift.data.sources import Progress
from phift.data.workers import Limits, Workers


def near_training(lines: Iterable[bytes], train: Path, tell: Callable[[Progress], None]) -> list[bool]:
    """Tell of each held-out row whether it says nearly what a training row says, as `phift.data.near` has it.

    - **lines**: the rows as prepared data has them, without the ends of the lines.
    - **train**: a prepared file of training rows.
    """
    import numpy as np

    held_out = [line + b"\n" for line in lines]
    with TemporaryDirectory(prefix="phift-held-out-") as folder, train.open("rb") as trained:
        file = Path(folder) / "held-out.jsonl"
        file.write_bytes(b"".join(held_out))
        known = [(len(line), xxhash.xxh3_64_intdigest(line)) for rows in (trained, held_out) for line in rows]
        rows = len(known) - len(held_out)
        if not rows or not held_out:
            return [False] * len(held_out)
        lengths, keys = np.array([size for size, _ in known], np.uint32), np.array([key for _, key in known], np.uint64)
        with Workers(Path(folder), Limits(numpy=True)) as workers:
            spools = Spools([(str(train), rows), (str(file), len(held_out))], lengths, workers, tell)
            labels = labels_of(spools, keys)
    return [bool(each) for each in np.isin(labels[rows:], labels[:rows])]
