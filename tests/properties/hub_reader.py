"""Read data sets in a process of its own, since the Hub's address is read when its client is imported.

One line of JSON in, one out: how the reading went. No second is slept; how many would have been, by the thread that
slept most, is told.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any


def _read(asked: dict[str, Any], slept: Counter[int]) -> dict[str, Any]:
    from phift.config.data import HuggingFaceSource
    from phift.data import hub

    rows = hub.HubRows(HuggingFaceSource(**asked["source"]))
    seen: dict[str, Any] = {"ids": [], "error": None}
    digest = hashlib.sha256()
    slept.clear()
    try:
        for row in islice(rows, asked.get("take")):
            seen["ids"].append(row.get("id"))
            seen["first"] = seen.get("first", row)
            digest.update(repr(row).encode())
    except Exception as error:  # noqa: BLE001 - told to the test
        seen["error"] = {"type": type(error).__name__, "text": str(error), "all": traceback.format_exc()}
    seen |= {"notes": rows.notes, "slept": max(slept.values(), default=0), "digest": digest.hexdigest()}
    return seen | {"memory": _memory(), "state": _state()}


def _memory() -> int:
    """Return the most megabytes that were in use; what getrusage tells is never less than the parent had."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def _state() -> list[Any]:
    """What of the libraries is global and must be as it was."""
    import datasets
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    levels = [logging.getLogger(name).level for name in ("datasets", "huggingface_hub", "fsspec")]
    settings = [datasets.config.STREAMING_READ_MAX_RETRIES, datasets.config.TORCH_AVAILABLE, "torch" in sys.modules]
    return [datasets.are_progress_bars_disabled(), are_progress_bars_disabled(), *settings, *levels]


def main() -> None:
    """Answer until the input ends."""
    slept: Counter[int] = Counter()
    vars(time)["sleep"] = lambda seconds: slept.update({threading.get_ident(): seconds})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed ends where the test looks for it
    print(json.dumps(_state()), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_read(json.loads(line), slept), default=str), file=answers, flush=True)


if __name__ == "__main__":
    main()
