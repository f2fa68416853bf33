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
from phift.config.run import RunConfig
from phift.data.prepare import PreparedDataset
from phift.errors import visible
from phift.tokens.count import CHARACTERS_PER_TOKEN, TokenReport

# Share of a GPU's peak that training reaches: the Hugging Face trainer with 4096 tokens a row, by the source's
# scripts/benchmarks/refs/a100_80gb.csv and a100_80gb_liger.csv; see tests/unit/test_cost.py.
MFU = 0.3
MFU_SOURCE = "foundation-model-stack/fms-acceleration, benchmarks on A100-80GB, 2024: 0.28 to 0.51"


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """What a run will take; None is what could not be estimated.

    - **tokens**: tokens trained on, over all epochs.
    - **hours**: of the fine-tuning step.
    - **training**: the price of these hours on all nodes.
    - **per_hour**: the price of an hour of all nodes.
    - **endpoint_per_day**: the price of a day of the endpoint, used or not.
    - **assumptions**: what the figures rest on, a sentence each.
    """

    tokens: int | None
    hours: float | None
    training: float | None
    endpoint_per_day: float | None
    currency: str = "USD"
    per_hour: float | None = None
    assumptions: tuple[str, ...] = ()

    def __str__(self) -> str:
        prices = (self.training, self.endpoint_per_day)
        training, endpoint = ("unknown" if price is None else f"{price:,.2f}" for price in prices)
        hours = "unknown" if self.hours is None else f"about {self.hours:,.2f}"
        tokens = "an unknown number of" if self.tokens is None else f"about {self.tokens:,}"
        said = f"cost: {training} {self.currency} for the training ({tokens} tokens, hours: {hours}), "
        said += f"{endpoint} {self.currency} for a day of the endpoint"
        return visible("\n        ".join([said, *(f"assumed: {assumption}" for assumption in self.assumptions)]))


def estimate_cost(
    config: RunConfig,
    dataset: PreparedDataset | None,
    settings: Settings,
    target: ComputeTarget,
    *,
    model_parameters: int | None,
    deployment: VmSize | None,
    tokens: TokenReport | None = None,
) -> tuple[CostEstimate, list[Finding]]:
    """Estimate time and price of the training, and the price of a day of the endpoint.

    - **config**: whose ``prices`` and ``tokens_per_second`` win; a ``max_cost`` exceeded or not to be checked is an
      error.
    - **dataset**: None for data that lies in Azure, whose rows are not read.
    - **model_parameters**: how many the model has, where that is known.
    - **deployment**: the endpoint's VM size; None leaves the endpoint out.
    - **tokens**: what was counted of the data; without it, its characters make a guess.
    """
    trained, evaluated, said = _tokens(dataset, tokens, settings, target) if dataset else (0.0, 0.0, [])
    parameters, peak, flops = model_parameters or 0, target.vm.peak_tflops_16 or 0, 4 if settings.apply_lora else 6
    throughput, own = config.tokens_per_second or 0, "give `tokens_per_second`"
    missing: list[tuple[str, str]] = []  # what is not known, and what to do about it
    if dataset is None:
        remedy = "give the data as files or a Hugging Face id, so that it is read"
        missing.append(("the rows are not read here, so their tokens are not counted", remedy))
    elif throughput:
        said.append(f"`tokens_per_second`: {throughput:g} for each GPU")
    elif parameters and peak and settings.precision == 16:
        throughput = MFU * peak * 1e12 / (flops * parameters)
        frozen = ", the frozen weights having no gradients" if settings.apply_lora else ""
        said += [
            f"{flops} FLOPs for each of {parameters / 1e9:.2f} billion parameters and each token{frozen}",
            f"{MFU:.0%} of the GPU's {peak:g} TFLOPS at 16 bit are reached ({MFU_SOURCE}); short rows reach less",
        ]
        if settings.apply_deepspeed and settings.deepspeed_stage == 3:
            said.append("DeepSpeed stage 3 that offloads to the CPU is slower; no source says by how much")
    else:
        if not parameters:
            missing.append(("no source says how many parameters the model has", own))
        if not peak:
            missing.append((f"no source says how fast the GPUs of {target.vm.name} compute", own))
        if settings.precision != 16:
            missing.append(("the GPUs' speed is known for precision 16 only", f"set `precision` to 16, or {own}"))
    hours = None
    if not missing:
        # An evaluated token takes a part of what a trained one does.
        hours = (trained + evaluated * 2 / flops) / (throughput * target.gpus_per_node * target.nodes) / 3600
        said.append("the hours are those of the training step, not of node starts, import and conversion")
    max_cost = config.max_cost
    price, how = _price(target.vm, config.prices)
    endpoint, how_endpoint = _price(deployment, config.prices) if deployment else (None, "")
    known = (*said, how if price else "", how_endpoint if endpoint else "")
    estimate = CostEstimate(
        tokens=round(trained) if dataset else None,
        hours=hours,
        training=None if hours is None or price is None else hours * target.nodes * price,
        endpoint_per_day=None if endpoint is None else endpoint * config.deployment.instance_count * 24,
        per_hour=None if price is None else target.nodes * price,
        assumptions=tuple(dict.fromkeys(each for each in known if each)),
    )
    findings = []
    if estimate.training is None:
        missing += [] if price else [(how, "give it in `prices`")]
        findings.append(_unknown("the training", missing, max_cost))
    elif max_cost is not None and estimate.training > max_cost:
        message = f"The training is estimated at {estimate.training:.2f} USD, more than the {max_cost:g} of `max_cost`."
        fix = "train on less data or for fewer epochs, use a cheaper size, or raise `max_cost`"
        findings.append(Finding("COST_TOO_HIGH", "error", "max_cost", message, fix))
    if deployment and endpoint is None:
        findings.append(_unknown("a day of the endpoint", [(how_endpoint, "give it in `prices`")]))
    return estimate, findings


def _tokens(
    dataset: PreparedDataset, counted: TokenReport | None, settings: Settings, target: ComputeTarget
) -> tuple[float, float, list[str]]:
    """Return how many tokens are trained on and how many evaluated, and what that rests on."""
    batch = settings.per_device_train_batch_size * max(1, settings.gradient_accumulation_steps)
    batch *= target.gpus_per_node * target.nodes
    rows, steps_per_epoch = dataset.rows["train"], math.ceil(dataset.rows["train"] / batch)
    if settings.max_steps > 0:
        steps = settings.max_steps
        seen = steps * batch
        length = f"max_steps: {steps} steps of {batch} row{'s' * (batch > 1)}, whatever the epochs"
    else:
        epochs = max(1, settings.num_train_epochs)
        seen, steps = rows * epochs, steps_per_epoch * epochs
        length = f"{epochs} epoch{'s' * (epochs > 1)} of {rows} rows, without early stopping"
    evaluations = 0  # how often the validation data is gone through; see the component's inputs
    if settings.evaluates and settings.evaluation_strategy == "steps":
        share = settings.evaluation_share
        evaluations = steps // max(1, int(share * steps_per_epoch) if share else settings.eval_steps)
    elif settings.evaluates:
        evaluations = math.ceil(steps / steps_per_epoch)
    how = f"{CHARACTERS_PER_TOKEN} characters a token, as in English; other languages have more tokens"
    if counted and counted.counted != "estimate":
        how = f"tokens of {'all' if counted.counted == 'exact' else 'some'} rows, by {counted.source}"

    def of_row(split: str) -> float:
        """Return the mean tokens of a row, as far as the component does not cut them off."""
        if counted and counted.counted != "estimate":
            rows = counted.splits[split]
            return (rows.tokens - rows.tokens_lost) / max(1, rows.rows_counted - rows.refused)
        mean = dataset.characters[split] / CHARACTERS_PER_TOKEN / max(1, dataset.rows[split])
        return min(mean, settings.max_seq_length) if settings.max_seq_length > 0 else mean

    evaluated = evaluations * dataset.rows["validation"]
    often = f"{evaluations} evaluation{'s' * (evaluations != 1)} of {dataset.rows['validation']} rows"
    return seen * of_row("train"), evaluated * of_row("validation"), [length, how, often]


def _price(vm: VmSize, prices: Mapping[str, float]) -> tuple[float | None, str]:
    """Return the price of one VM for one hour and who says so: the user, else the service, else nobody."""
    own = next((price for size, price in prices.items() if size.lower() == vm.name.lower()), None)
    if own is not None:
        return own, f"{vm.name} costs {own:g} USD an hour, says `prices`"
    if (price := vm.price_per_hour) is None:
        return None, f"no source says what {vm.name} costs an hour"
    return price, f"{vm.name} costs {price:g} USD an hour as a dedicated Linux VM, says the region"


def _unknown(what: str, missing: list[tuple[str, str]], max_cost: float | None = None) -> Finding:
    message = f"What {what} will cost is not known: {'; '.join(reason for reason, _ in missing)}."
    fix = "; ".join(dict.fromkeys(remedy for _, remedy in missing))
    if max_cost is None:
        return Finding("COST_UNKNOWN", "note", "cost", message, fix)
    # A limit that cannot be checked must not pass.
    message += f" So `max_cost` of {max_cost:g} USD cannot be kept."
    return Finding("COST_UNKNOWN", "error", "max_cost", message, f"{fix}; or remove `max_cost`")
