"""What a run will cost, as far as that can be known before it: an estimate that says everything it assumes.

    tokens  = characters / 4 x epochs, or the rows that max_steps takes
    seconds = (tokens + forward share x evaluated tokens) x FLOPs a token / (GPUs x peak FLOPS x MFU)
    cost    = seconds / 3600 x nodes x price an hour

A token takes 6 FLOPs a parameter: 2 forward, 4 backward (Kaplan et al., arXiv 2001.08361, section 2.1). With LoRA the
frozen weights have no gradients of their own, which is half of the backward pass, so it takes 4. An evaluated token
takes the 2 of the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from phift.check.compute import ComputeTarget
from phift.check.findings import Finding
from phift.check.sizes import VmSize
from phift.component.settings import Settings
from phift.data.prepare import PreparedDataset
from phift.tokens.report import TokenReport

CHARACTERS_PER_TOKEN = 4

MFU = 0.3
"""Share of a GPU's peak that training reaches.

The Hugging Face trainer on A100-80GB with 4096 tokens a row reaches 0.28 to 0.51 (foundation-model-stack/
fms-acceleration, scripts/benchmarks/refs/a100_80gb.csv and a100_80gb_liger.csv, 2024; see tests/unit/test_cost.py).
"""

MFU_SOURCE = "foundation-model-stack/fms-acceleration, benchmarks on A100-80GB, 2024: 0.28 to 0.51"


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """What a run will take; None is what could not be estimated.

    - **tokens**: tokens trained on, over all epochs.
    - **hours**: of the fine-tuning step.
    - **training**: the price of these hours on all nodes.
    - **endpoint_per_day**: the price of a day of the endpoint, used or not.
    - **assumptions**: what the figures rest on, a sentence each.
    """

    tokens: int | None
    hours: float | None
    training: float | None
    endpoint_per_day: float | None
    currency: str = "USD"
    assumptions: tuple[str, ...] = ()

    def __str__(self) -> str:
        hours = "unknown" if self.hours is None else f"about {self.hours:,.2f}"
        tokens = "an unknown number of" if self.tokens is None else f"about {self.tokens:,}"
        lines = [
            f"cost: {_money(self.training)} {self.currency} for the training ({tokens} tokens, hours: {hours}), "
            f"{_money(self.endpoint_per_day)} {self.currency} for a day of the endpoint",
            *(f"assumed: {assumption}" for assumption in self.assumptions),
        ]
        return "\n        ".join(lines)


def _money(amount: float | None) -> str:
    return "unknown" if amount is None else f"{amount:,.2f}"


@dataclass(frozen=True, kw_only=True)
class _Work:
    """How much is to be computed; **flops** is for each parameter and trained token."""

    tokens: float
    evaluated: float
    flops: int
    assumptions: tuple[str, ...]


def estimate_cost(
    dataset: PreparedDataset | None,
    settings: Settings,
    target: ComputeTarget,
    *,
    model_parameters: int | None,
    deployment: VmSize | None,
    instances: int,
    prices: Mapping[str, float] | None = None,
    tokens: TokenReport | None = None,
    tokens_per_second: float | None = None,
    max_cost: float | None = None,
) -> tuple[CostEstimate, list[Finding]]:
    """Estimate time and price of the training, and the price of a day of the endpoint.

    - **dataset**: None for data that lies in Azure, whose rows are not read.
    - **tokens**: what was counted of the data; without it, its characters make a guess.
    - **model_parameters**: how many the model has, where that is known.
    - **deployment**: the endpoint's VM size; None leaves the endpoint out.
    - **prices**: the user's own, USD an hour by VM size; they win.
    - **tokens_per_second**: the user's own throughput of one GPU, instead of the one computed.
    - **max_cost**: what the training may cost, in USD; exceeded or not to be checked, it is an error.
    """
    work = _work(dataset, tokens, settings, target) if dataset else None
    said = list(work.assumptions) if work else []
    missing: list[tuple[str, str]] = []
    hours = None
    if work is None:
        remedy = "give the data as files or a Hugging Face id, so that it is read"
        missing.append(("the rows are not read here, so their tokens are not counted", remedy))
    else:
        if not tokens_per_second:
            own = "give `tokens_per_second`"
            if not model_parameters:
                missing.append(("no source says how many parameters the model has", own))
            if not target.vm.peak_tflops_16:
                missing.append((f"no source says how fast the GPUs of {target.vm.name} compute", own))
            if settings.precision != 16:
                reason = "the GPUs' speed is known for precision 16 only"
                missing.append((reason, f"set `precision` to 16, or {own}"))
        if tokens_per_second:
            throughput = tokens_per_second
            said.append(f"`tokens_per_second`: {tokens_per_second:g} for each GPU")
        elif not missing:
            peak = target.vm.peak_tflops_16 or 0
            throughput = MFU * peak * 1e12 / (work.flops * (model_parameters or 1))
            frozen = ", the frozen weights having no gradients" if work.flops == 4 else ""
            said += [
                f"{work.flops} FLOPs for each of {(model_parameters or 0) / 1e9:.2f} billion parameters and each token"
                + frozen,
                f"{MFU:.0%} of the GPU's {peak:g} TFLOPS at 16 bit are reached ({MFU_SOURCE}); short rows reach less",
            ]
            if settings.apply_deepspeed and settings.deepspeed_stage == 3:
                said.append("DeepSpeed stage 3 that offloads to the CPU is slower; no source says by how much")
        if not missing:
            # An evaluated token takes a part of what a trained one does.
            training_tokens = work.tokens + work.evaluated * 2 / work.flops
            hours = training_tokens / (throughput * target.gpus_per_node * target.nodes) / 3600
            said.append("the hours are those of the training step, not of node starts, import and conversion")
    price, how = _price(target.vm, prices or {})
    endpoint, how_endpoint = _price(deployment, prices or {}) if deployment else (None, "")
    estimate = CostEstimate(
        tokens=round(work.tokens) if work else None,
        hours=hours,
        training=None if hours is None or price is None else hours * target.nodes * price,
        endpoint_per_day=None if endpoint is None else endpoint * instances * 24,
        assumptions=tuple(dict.fromkeys(each for each in (*said, how, how_endpoint) if each)),
    )
    findings = []
    if estimate.training is None:
        missing += [_no_price(target.size)] if price is None else []
        findings.append(_unknown("the training", missing, max_cost))
    elif max_cost is not None and estimate.training > max_cost:
        message = f"The training is estimated at {estimate.training:.2f} USD, more than the {max_cost:g} of `max_cost`."
        fix = "train on less data or for fewer epochs, use a cheaper size, or raise `max_cost`"
        findings.append(Finding("COST_TOO_HIGH", "error", "max_cost", message, fix))
    if deployment and endpoint is None:
        findings.append(_unknown("a day of the endpoint", [_no_price(deployment.name)], None))
    return estimate, findings


def _work(dataset: PreparedDataset, tokens: TokenReport | None, settings: Settings, target: ComputeTarget) -> _Work:
    """Count what is trained on and what is evaluated, in tokens."""
    batch = settings.per_device_train_batch_size * max(1, settings.gradient_accumulation_steps)
    batch *= target.gpus_per_node * target.nodes
    rows, steps_per_epoch = dataset.rows["train"], math.ceil(dataset.rows["train"] / batch)
    steps = settings.max_steps
    if steps > 0:
        seen = float(steps * batch)
        length = f"max_steps: {steps} steps of {batch} row{'s' * (batch > 1)}, whatever the epochs"
    else:
        epochs = max(1, settings.num_train_epochs)
        seen, steps = float(rows * epochs), steps_per_epoch * epochs
        length = f"{epochs} epoch{'s' * (epochs > 1)} of {rows} rows, without early stopping"
    counted = f"{CHARACTERS_PER_TOKEN} characters a token, as in English; other languages have more tokens"
    if tokens and tokens.counted != "estimate":
        counted = f"tokens of {'all' if tokens.counted == 'exact' else 'some'} rows, by {tokens.source}"
    else:
        tokens = None
    longest = settings.max_seq_length
    evaluations = 0  # how often the validation data is gone through; see the component's inputs
    if settings.evaluates and settings.evaluation_strategy == "steps":
        share = settings.evaluation_share
        evaluations = steps // max(1, int(share * steps_per_epoch) if share else settings.eval_steps)
    elif settings.evaluates:
        evaluations = math.ceil(steps / steps_per_epoch)
    evaluated = f"{evaluations} evaluation{'s' * (evaluations != 1)} of {dataset.rows['validation']} rows"
    return _Work(
        tokens=seen * _row_tokens(dataset, tokens, "train", longest),
        evaluated=evaluations * dataset.rows["validation"] * _row_tokens(dataset, tokens, "validation", longest),
        flops=4 if settings.apply_lora else 6,
        assumptions=(length, counted, evaluated),
    )


def _row_tokens(dataset: PreparedDataset, tokens: TokenReport | None, split: str, longest: int) -> float:
    """Return the mean tokens of a row, as far as the component does not cut them off."""
    if tokens:
        counted = tokens.splits[split]
        return (counted.tokens - counted.tokens_lost) / max(1, counted.rows_counted - counted.refused)
    mean = dataset.characters[split] / CHARACTERS_PER_TOKEN / max(1, dataset.rows[split])
    return min(mean, longest) if longest > 0 else mean


def _price(vm: VmSize, prices: Mapping[str, float]) -> tuple[float | None, str]:
    """Return the price of one VM for one hour and who says so: the user, else the service."""
    own = next((price for size, price in prices.items() if size.lower() == vm.name.lower()), None)
    if own is not None:
        return own, f"{vm.name} costs {own:g} USD an hour, says `prices`"
    price = vm.price_per_hour
    return price, f"{vm.name} costs {price:g} USD an hour as a dedicated Linux VM, says the region" if price else ""


def _no_price(size: str) -> tuple[str, str]:
    return f"no source says what {size} costs an hour", "give it in `prices`"


def _unknown(what: str, missing: list[tuple[str, str]], max_cost: float | None) -> Finding:
    """Say why a price is not known: ``missing`` has what is not known, and what to do about it."""
    message = f"What {what} will cost is not known: {'; '.join(reason for reason, _ in missing)}."
    fix = "; ".join(dict.fromkeys(remedy for _, remedy in missing))
    if max_cost is None:
        return Finding("COST_UNKNOWN", "note", "cost", message, fix)
    # A limit that cannot be checked must not pass.
    message += f" So `max_cost` of {max_cost:g} USD cannot be kept."
    return Finding("COST_UNKNOWN", "error", "max_cost", message, f"{fix}; or remove `max_cost`")
