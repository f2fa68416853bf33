"""Whether a fine-tuning run fits into its GPUs: an estimate, with every assumption written beside it.

What the component does was read in azureml-assets, assets/training/finetune_acft_hf_nlp/src/finetune (finetune.py of
commit 008bf68, zero2.json of 2f8de82, zero3.json of 154c95c). docs/memory.md explains the formula and compares it with
published measurements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from phift import facts
from phift.check.compute import ComputeTarget
from phift.check.findings import Finding, Severity
from phift.check.models import AllowList
from phift.check.sizes import VmSize, find_size
from phift.component.settings import Settings
from phift.errors import ConfigError, visible

_GB = 1e9
_GIB = 2**30
# CUDA's context and kernels take 1 to 2 GB (transformers, docs/source/en/model_memory_anatomy.md, c:249ef81).
_OVERHEAD = 2.0
_TIGHT = 0.9
# zero2.json: reduce_bucket_size + allgather_bucket_size; zero3.json: stage3_max_live_parameters. In elements.
_STAGE_2_BUCKETS = 400_000_000
_STAGE_3_LIVE = 1_000_000_000
# Tokens in a row where neither `max_seq_length` nor the data says how long rows are.
_UNKNOWN_LENGTH = 4096
_SOURCE = "azureml-assets finetune.py, zero2.json and zero3.json, 2026-07; see docs/memory.md"


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a decoder model, and where they are known from."""

    parameters: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    max_positions: int
    source: str
    date: str

    @property
    def keys(self) -> int:
        """The width of the attention's keys, and of its values."""
        return self.hidden * self.kv_heads // self.heads


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Memory at the moment it is highest, of a GPU or of the local workspace's machine, in GB (1e9 bytes).

    - **place**: ``GPU``, or ``this machine``.
    - **moment**: ``backward pass`` or ``optimizer step``; the parts are what is held at that moment.
    - **least_gb**: weights, gradients and optimizer states alone, at 2 bytes a value: less is not possible.
    - **host_gb**: what DeepSpeed keeps in the machines' own memory, all nodes together.
    """

    weights_gb: float
    gradients_gb: float
    optimizer_gb: float
    activations_gb: float
    overhead_gb: float
    least_gb: float
    host_gb: float
    moment: str
    formula: str
    assumptions: tuple[str, ...]
    place: str = "GPU"

    @property
    def total_gb(self) -> float:
        """The sum of the parts."""
        return self.weights_gb + self.gradients_gb + self.optimizer_gb + self.activations_gb + self.overhead_gb

    def __str__(self) -> str:
        parts = (
            f"weights {self.weights_gb:.1f} + gradients {self.gradients_gb:.1f} + optimizer {self.optimizer_gb:.1f}"
            f" + activations {self.activations_gb:.1f} + overhead {self.overhead_gb:.1f}"
        )
        whose = ("GPU memory", " a GPU") if self.place == "GPU" else (f"memory of {self.place}", "")
        said = f"{whose[0]}: about {self.total_gb:.1f} GB{whose[1]}, highest in the {self.moment} ({parts})"
        return visible("\n        ".join([said, self.formula, *(f"assumed: {each}" for each in self.assumptions)]))


def model_shape(name: str) -> ModelShape | None:
    """Return the shape of a model, or None where the built-in table does not know it.

    Raises `phift.errors.ConfigError` where an entry of the user's own table is not complete.
    """
    entries: list[dict[str, Any]] = facts.load("architectures")["models"]
    entry = next((entry for entry in entries if entry["name"].lower() == name.lower()), None)
    if entry is None:
        return None
    names = ModelShape.__dataclass_fields__.keys() - {"source", "date"}
    numbers: dict[str, Any] = {key: entry.get(key) for key in names}
    for key, value in numbers.items():
        if type(value) is not int or value < 1:
            what = f"The architecture of {entry['name']} has no whole number above 0 for {key}."
            raise ConfigError(what, where=str(entry.get("source")), fix="complete the entry in architectures.json")
    return ModelShape(source=str(entry["source"]), date=str(entry["date"]), **numbers)


def estimate_memory(
    shape: ModelShape, settings: Settings, gpus: int, sequence_length: int, *, checkpointing: bool | None = None
) -> MemoryEstimate:
    """Estimate the GPU memory that training needs at its peak.

    - **gpus**: all GPUs of the job, nodes times GPUs a node.
    - **sequence_length**: tokens of the longest row, after truncation.
    - **checkpointing**: gradient checkpointing; None is what the component does by itself.
    """
    run = _Training(shape, settings, sequence_length, checkpointing)
    size, trained, largest = run.size, run.trained, shape.vocabulary * shape.hidden  # the embedding
    everything = shape.parameters + (trained if run.lora else 0)
    optimizer = step = least = host = 0.0
    if run.own_config:
        # The most that a DeepSpeed file of the user's own can need: its stage without offloading. DeepSpeed's own
        # estimators (docs/code-docs/source/memory.rst, c:077e674): 4 + 16/N bytes a parameter in stage 2, 18/N in
        # stage 3. All may be offloaded, so there is no least.
        sharded = run.stage == 3
        weights = size * (everything / gpus + min(everything, _STAGE_3_LIVE) if sharded else everything)
        held = gradients = 4 * trained / gpus + (0 if sharded else size * trained)
        optimizer = 12 * trained / gpus
    elif run.stage == 2:
        weights, least, host = size * everything, 2 * everything, 16 * trained
        held = gradients = size * (trained / gpus + min(trained, _STAGE_2_BUCKETS))
    elif run.stage:
        weights, least, host = size * min(everything, _STAGE_3_LIVE), 2 * largest, size * everything + 16 * trained
        held = gradients = size * (trained / shape.layers if run.lora else largest)
    else:
        # Without DeepSpeed every GPU holds everything; AdamW's step makes one more copy of what it trains.
        unit = 4 if run.lora else size  # peft keeps adapters in 32 bits
        weights = size * shape.parameters + (unit * trained if run.lora else 0)
        # PyTorch's DistributedDataParallel has its gradients twice: in the parameters and in its buckets.
        buckets = unit * trained if gpus > 1 else 0
        gradients, held = unit * trained + buckets, buckets + (unit * trained if run.accumulates else 0)
        optimizer = 0 if run.adafactor else 2 * unit * trained
        # Adafactor works on 32-bit copies of one tensor at a time: gradient, weights and update.
        step = 12 * min(trained, largest) if run.adafactor else unit * trained
        least = 2 * (shape.parameters + trained * (1 if run.adafactor else 3))
    # Of the gradients, ``held`` is what lives on outside the backward pass, where the activations are.
    activations = run.activations(checkpointing=run.checkpointing)
    in_backward = held + activations >= gradients + step
    return MemoryEstimate(
        weights_gb=weights / _GB,
        gradients_gb=(held if in_backward else gradients) / _GB,
        optimizer_gb=(optimizer + (0 if in_backward else step)) / _GB,
        activations_gb=(activations if in_backward else 0) / _GB,
        overhead_gb=_OVERHEAD,
        least_gb=least / _GB,
        host_gb=host / _GB,
        moment="backward pass" if in_backward else "optimizer step",
        formula=run.formula,
        assumptions=run.assumptions,
    )


class _Training:
    """What of a run decides about its memory; a number below 1 counts as 1, since it is reported with the parameters.

    - **stage**: DeepSpeed's; 0 without it.
    - **size**: bytes of a value.
    - **trained**: how many values are; with LoRA, rank times (inputs + outputs) of every linear layer.
    """

    def __init__(self, shape: ModelShape, settings: Settings, length: int, checkpointing: bool | None) -> None:
        deepspeed = settings.apply_deepspeed
        self.shape, self.length = shape, length
        self.lora = settings.apply_lora
        self.stage = settings.deepspeed_stage if deepspeed else 0
        self.own_config = deepspeed and settings.deepspeed != ""
        self.size = settings.precision // 8
        halves = settings.auto_find_batch_size and not deepspeed
        self.batch = 1 if halves else max(1, settings.per_device_train_batch_size)
        self.eval_batch = max(1, settings.per_device_eval_batch_size) if settings.evaluates else 0
        self.accumulates = settings.gradient_accumulation_steps > 1
        self.adafactor = settings.optim == "adafactor" and not deepspeed
        self.checkpointing = deepspeed or not self.lora if checkpointing is None else checkpointing
        hidden = shape.hidden
        ends = 2 * (hidden + hidden) + 2 * (hidden + shape.keys) + 3 * (hidden + shape.intermediate)
        self.trained = max(1, settings.lora_r) * ends * shape.layers if self.lora else shape.parameters

    def activations(self, *, checkpointing: bool) -> float:
        """Return the bytes that depend on the data.

        The numbers were counted in transformers' Phi-3 code (5.23, under autocast): a layer saves 8 bytes for each of
        its inner values and about 28 for each hidden one, and the loss takes three 32-bit copies of the logits.
        Measured runs say the same, see docs/memory.md.
        """
        hidden, inner, layers = self.shape.hidden, self.shape.intermediate, self.shape.layers
        saved = self.size / 2 * (28 * hidden + 4 * self.shape.keys + 8 * inner)
        recomputed = saved + self.size / 2 * 4 * inner
        loss = 12 * self.shape.vocabulary + 6 * hidden
        if checkpointing:
            token = self.size * layers * hidden + max(recomputed, loss)
        else:
            token = layers * saved + max(recomputed - saved, loss)
        return float(self.length * max(self.batch * token, self.eval_batch * loss))

    @property
    def formula(self) -> str:
        """How the activations are computed, with the numbers in it."""
        shape, inner = self.shape, 12 if self.checkpointing else 8
        layer = f"28 x {shape.hidden} + 4 x {shape.keys} + {inner} x {shape.intermediate}"
        layer = layer if self.size == 2 else f"2 x ({layer})"
        loss = f"12 x {shape.vocabulary} + 6 x {shape.hidden}"
        token = f"{shape.layers} layers x ({layer}) + {loss}"
        if self.checkpointing:
            token = f"{self.size} x {shape.layers} layers x {shape.hidden} + max({layer}, {loss})"
        return f"activations: {self.batch} rows x {self.length} tokens x ({token}) bytes"

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the estimate rests on, a sentence each."""
        shape, batch, length = self.shape, self.batch, self.length
        if self.size == 4:
            precision = (
                "precision 32: 4 bytes a value; transformers 5 loads 16-bit weights as they are, and needs about half"
            )
        elif self.stage:
            precision = "precision 16: DeepSpeed keeps the weights in 2 bytes a value"
        else:
            more = (2 if self.lora else 10) * shape.parameters / _GB
            precision = (
                "precision 16: the weights are loaded in 2 bytes a value, and with them AdamW's states; an environment"
                f" that loads them in 4 needs {more:.0f} GB more"
            )
        deepspeed = "no DeepSpeed: every GPU holds all weights, gradients and optimizer states"
        if self.own_config:
            taken = f"taken as stage {self.stage} without offloading, the most it can be"
            deepspeed = f"your DeepSpeed file is not read: {taken}"
        elif self.stage:
            offloaded = "the optimizer lies" if self.stage == 2 else "weights and optimizer lie"
            deepspeed = f"stage {self.stage} with the component's own file: {offloaded} in the machine's memory"
        checkpointing = "no gradient checkpointing: the component leaves it off for LoRA without DeepSpeed"
        if self.checkpointing:
            without = f"activations take {self.activations(checkpointing=False) / _GB:.1f} GB"
            checkpointing = (
                "gradient checkpointing is on: the component forces it for model types it knows (phi3mini, "
                f"phi_longrope); for a type it does not know, and no word in finetune_config, {without}"
            )
        lora = (
            f"LoRA adapts every linear layer ({self.trained / 1e6:.0f} million trained values);"
            " the model's finetune_config may name fewer"
        )
        return (
            f"the model has {shape.parameters / 1e9:.2f} billion parameters ({shape.source}, {shape.date})",
            f"the longest row has {length} tokens; {batch} rows a GPU at once",
            "attention keeps no matrix of all pairs of tokens (flash or PyTorch's fused attention)",
            precision,
            deepspeed,
            checkpointing,
            *([lora] if self.lora else []),
            f"{_OVERHEAD:.0f} GB for CUDA's context and kernels; fragmentation is not counted",
        )


def memory_findings(
    model: str, settings: Settings, target: ComputeTarget, allowed: AllowList | None, longest: int | None = None
) -> tuple[MemoryEstimate | None, list[Finding]]:
    """Hold the estimate against the GPUs of the VM size.

    - **longest**: tokens of the longest row, where the data has been looked at.

    What cannot fit whatever is assumed is an error; what does not fit by the estimate is a warning.
    """
    shape, vm = model_shape(model), target.vm
    if shape is None:
        message = f"No source says how {model} is built, so its memory cannot be estimated."
        return None, [Finding("MEMORY_UNKNOWN", "note", f"memory of {model}", message)]
    length, why = row_length(shape, settings, longest)
    estimate = estimate_memory(shape, settings, target.gpus_per_node * target.nodes, length)
    estimate = replace(estimate, assumptions=(*estimate.assumptions, why))
    if not vm.gpu_memory_gb:
        message = f"No source says how much memory a GPU of {vm.name} has."
        return estimate, [Finding("MEMORY_UNKNOWN", "note", f"memory of {vm.name}", message)]
    findings: list[Finding] = []
    has, needs = (vm.memory_gb or 0) * _GIB / _GB, estimate.host_gb / target.nodes
    if has and needs > _TIGHT * has:
        message = f"DeepSpeed keeps {needs:.0f} GB in a machine's own memory; {vm.name} has {has:.0f} GB."
        fix = "train with LoRA, use more nodes, or a size with more memory"
        findings = [Finding("MEMORY_HOST_SHORT", "warning", "memory", message, fix, _SOURCE)]
    total, capacity = estimate.total_gb, _capacity(vm)
    if total <= _TIGHT * capacity:
        return estimate, findings
    whose = f"{vm.gpu or 'GPU'} of {vm.name} has {capacity:.1f} GB"
    code = "MEMORY_SHORT"
    severity: Severity = "warning"
    message = f"Training needs about {total:.1f} GB a GPU; the {whose}."
    if estimate.least_gb > capacity:
        severity = "error"
        message = f"Weights, gradients and optimizer alone need {estimate.least_gb:.1f} GB a GPU; the {whose}."
    elif total <= capacity:
        code = "MEMORY_TIGHT"
        message = f"Training needs about {total:.1f} GB a GPU, over {_TIGHT:.0%} of it; the {whose}."
    fix = _ways_out(shape, settings, target, length, allowed)
    return estimate, [Finding(code, severity, "memory", message, fix, _SOURCE), *findings]


def _capacity(vm: VmSize) -> float:
    """Return a GPU's memory in GB of 1e9 bytes.

    Makers count in GiB: runs on an "80 GB" A100 used up to 81,143 MiB (fms-acceleration, a100_80gb_liger.csv, 2024).
    """
    return (vm.gpu_memory_gb or 0) * _GIB / _GB


def row_length(shape: ModelShape, settings: Settings, longest: int | None) -> tuple[int, str]:
    """Return the tokens of the longest row that training sees, after truncation and padding, and why so many."""
    limit = settings.max_seq_length
    most = min(limit, shape.max_positions) if limit > 0 else shape.max_positions
    if settings.pad_to_max_length:
        return most, f"every row is padded to {most} tokens"
    if longest is not None:
        length = min(longest, most)
        return length, f"rows are as long as the data's longest, at most max_seq_length: {length} tokens"
    if limit > 0:
        return most, f"rows are as long as max_seq_length or the model allows: {most} tokens"
    length = min(_UNKNOWN_LENGTH, most)
    return length, f"nothing says how long rows are, so {length} tokens are taken; longer rows need more"


def _ways_out(
    shape: ModelShape, settings: Settings, target: ComputeTarget, length: int, allowed: AllowList | None
) -> str:
    """Return the settings that help, and the smallest listed size that fits, each with what the estimate would be."""
    gpus, nodes, capacity = target.gpus_per_node * target.nodes, target.nodes, _capacity(target.vm)
    stage_3 = {"apply_deepspeed": True, "deepspeed_stage": 3}
    levers: tuple[tuple[str, dict[str, Any], int], ...] = (
        ("`precision: 16`", {"precision": 16}, length),
        ("`apply_lora: true`", {"apply_lora": True}, length),
        ("`apply_deepspeed: true` with `deepspeed_stage: 3`", {**stage_3, "auto_find_batch_size": False}, length),
        ("LoRA, stage 3 and precision 16 together", {**stage_3, "apply_lora": True, "precision": 16}, length),
        ("`per_device_train_batch_size: 1`", {"per_device_train_batch_size": 1}, length),
        (f"`max_seq_length: {length // 2}`", {}, max(1, length // 2)),
    )
    now = estimate_memory(shape, settings, gpus, length).total_gb
    said = []
    for text, change, tokens in levers:
        total = estimate_memory(shape, replace(settings, **change), gpus, tokens).total_gb
        if total < 0.98 * now:
            fits = ", which fits" if total <= _TIGHT * capacity else ""
            said.append(f"{text}: {total:.1f} GB{fits}")
    ways = "; ".join(said) or "no setting helps by itself"
    listed = [find_size(name) for name in (allowed.sizes if allowed else ())]
    usable = [(vm.gpus, vm.gpu_memory_gb, vm) for vm in listed if vm.gpus and vm.gpu_memory_gb and not vm.retired_on]
    for count, _, vm in sorted(usable, key=lambda each: each[:2]):
        total = estimate_memory(shape, settings, count * nodes, length).total_gb
        if total <= _TIGHT * _capacity(vm):
            return f"{ways}; or the size {vm.name}, where it is {total:.1f} GB of {_capacity(vm):.1f}"
    return ways
