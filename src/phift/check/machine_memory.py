"""Whether a fine-tuning run of a real model fits into the machine of a local workspace: the estimate for a CPU.

It is that of 32-bit floats, one process, no DeepSpeed, no gradient checkpointing, and a label for each token: with
``precision`` 16 and with fewer labels the local engine takes less. docs/memory.md compares it with what was measured.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from phift.check.findings import Finding
from phift.check.memory import MemoryEstimate, ModelShape, estimate_memory, row_length
from phift.check.models import FoundationModel
from phift.component.machine import SMALL, available_memory, total_memory
from phift.component.settings import Settings

_GB = 1e9
_TIGHT = 0.9
# Python, torch, transformers and MLflow, before there is a model: 0.55 GB with the stand-in (2 cores, 2026-11-22).
_ENGINE = 0.55
# What glibc holds for what depends on the data, over what the tensors take: SmolLM2 with LoRA took 2.6 MB a token of a
# batch, 45 % of them with a label, where the formula has 2.0 (docs/memory.md, 2026-12-01).
_HELD = 1.28
_PROCESSOR = Path("/proc/cpuinfo")
_SOURCE = "what the local engine does; see docs/memory.md"


def shape_of_added(model: FoundationModel) -> ModelShape | None:
    """Return the shape of a model that was added to a local workspace, as its own configuration has it.

    None where its tag ``phift.shape`` does not say it.
    """
    try:
        numbers = json.loads(model.tags.get("phift.shape", ""))
        names = ModelShape.__dataclass_fields__.keys() - {"source", "date"}
        shape = {name: numbers[name] for name in names}
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if not all(type(value) is int and value > 0 for value in shape.values()):
        return None
    return ModelShape(source="its own configuration", date=f"version {model.version}", **shape)


def machine_findings(
    shape: ModelShape, settings: Settings, longest: int | None
) -> tuple[MemoryEstimate, list[Finding]]:
    """Hold the estimate against the memory that this machine has, and has free.

    - **longest**: tokens of the longest row, where the data has been looked at.

    What the machine does not have is an error: the system would end the training, or swap for hours. What is not free
    now is a warning: it may be free when the run begins, as jobs run one at a time.
    """
    # With auto_find_batch_size the engine, too, begins with the batch that is given.
    here = replace(settings, precision=32, apply_deepspeed=False, auto_find_batch_size=False)
    length, why = row_length(shape, here, longest)
    in_16 = settings.precision == 16 and shape.parameters >= SMALL and _computes_in_16()
    estimate = _estimate(shape, here, length, why, in_16)
    available = available_memory()
    if available is None:
        message = "Nothing says how much memory this machine has free."
        return estimate, [Finding("MEMORY_UNKNOWN", "note", "memory of this machine", message)]
    free, needs = available / _GB, estimate.total_gb
    if needs <= _TIGHT * free:
        return estimate, []
    has = max(free, (total_memory() or available) / _GB)
    short = needs > has
    holds = f"it has {has:.1f} GB in all" if short else f"{free:.1f} GB are free"
    message = f"Training on this machine's processor needs about {needs:.1f} GB of memory; {holds}."
    ways = {
        "`apply_lora: true`": (replace(here, apply_lora=True), length),
        "`per_device_train_batch_size: 1`": (replace(here, per_device_train_batch_size=1), length),
        f"`max_seq_length: {length // 2}`": (here, max(1, length // 2)),
    }
    totals = {text: _estimate(shape, *way, why, in_16).total_gb for text, way in ways.items()}
    helps = [f"{text}: {total:.1f} GB" for text, total in totals.items() if total < 0.98 * needs]
    fix = "; ".join([*helps, "close other programs, or train a smaller model"])
    place = "memory of this machine"
    if short:
        return estimate, [Finding("MEMORY_SHORT", "error", place, message, fix, _SOURCE)]
    return estimate, [Finding("MEMORY_TIGHT", "warning", place, message, fix, _SOURCE)]


def _computes_in_16() -> bool:
    """Whether the processor has 16-bit floats, as the engine asks torch (`phift.local.work.engine.hardware`)."""
    with suppress(OSError):
        return bool({"avx512_bf16", "amx_bf16"} & set(_PROCESSOR.read_text(encoding="utf-8").split()))
    return False


def _estimate(shape: ModelShape, settings: Settings, length: int, why: str, in_16: bool) -> MemoryEstimate:
    """Return what the engine takes: 4 bytes a weight, and for what is trained 8 for AdamW's states and 4 a gradient."""
    found = estimate_memory(shape, settings, 1, length, checkpointing=False)
    activations = found.activations_gb * _HELD / (2 if in_16 else 1)
    batch = max(1, settings.per_device_train_batch_size)
    said = (
        f"the model has {shape.parameters / 1e6:,.0f} million parameters ({shape.source}, {shape.date})",
        f"the longest row has {length} tokens; {batch} at once; {why}",
        f"{16 if in_16 else 32}-bit floats and a label for each token, which is the most",
        "no DeepSpeed, no gradient checkpointing",
        f"activations take {_HELD:g} times what their tensors do, as was measured",
        f"{_ENGINE} GB for Python, torch, transformers and MLflow",
    )
    return replace(found, activations_gb=activations, overhead_gb=_ENGINE, place="this machine", assumptions=said)
