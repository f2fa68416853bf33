"""What this machine trains on: its GPUs or its processor, and in which floats."""

from __future__ import annotations

import logging
import os

import torch

from phift.component.machine import SMALL

_log = logging.getLogger(__name__)


def gpus(wanted: str) -> int:
    """Return how many GPUs to train on: as many as are ``wanted``, of those that are there."""
    found = torch.cuda.device_count()
    asked = max(1, int(wanted)) if wanted.isdecimal() else 1
    if found < asked:
        _log.info("number_of_gpu_to_use_finetuning is %d; this machine has %d GPUs", asked, found)
    return min(asked, found)


def visible(count: int) -> dict[str, str]:
    """Return the environment in which a process sees the first ``count`` of the GPUs that this one sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(str(number) for number in range(count))
    return {"CUDA_VISIBLE_DEVICES": ",".join(seen.split(",")[:count])}


def floats(precision: int, parameters: int) -> str | None:
    """Return in which 16-bit floats to compute, ``bf16`` or ``fp16``; None for 32 bits throughout.

    The weights stay in 32. A CPU computes in 16 where its own instructions multiply matrices so, and the model is large
    enough to gain by it.
    """
    chosen, on = None, f"a CPU, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        on = torch.cuda.get_device_name()
        if precision == 16:
            chosen = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    elif precision == 16:
        can = torch.cpu.get_capabilities()
        if not (can.get("avx512_bf16") or can.get("amx_bf16")):
            _log.info("precision 16 was asked for; a CPU trains in 32 that has neither AVX512_BF16 nor AMX")
        elif parameters < SMALL:
            _log.info("precision 16 was asked for; a CPU trains in 32 what is as small as this model")
        else:
            chosen = "bf16"
    _log.info("training on %s, in %s", on, chosen or "32-bit floats")
    return chosen
