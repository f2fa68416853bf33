"""The environment of a process that computes: nothing beyond this machine, no core held while waiting."""

from __future__ import annotations

import os

from phift import garbage

_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "false",  # it complains when a data loader forks
    # Threads that wait sleep. By default they spin, and beside another busy process a step then took ten times as long.
    "OMP_WAIT_POLICY": "passive",
}

_MAX_THREADS = 4  # a small model gets slower with more


def threads() -> int:
    """Return how many threads to compute with: what ``OMP_NUM_THREADS`` says, as torch itself goes by, or a few."""
    cores = os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # then come those of nested regions
    return min(int(told) if told.isdecimal() and int(told) else _MAX_THREADS, cores)


def prepare() -> None:
    """Set up this process; what is set counts when torch, transformers and mlflow are imported, so call this before."""
    os.environ.update(_VARIABLES)
    garbage.look_seldom()
