from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phift.check.cost import MFU, CostEstimate, estimate_cost
from phift.check.findings import Finding
from phift.check.sizes import VmSize, find_size
from phift.component.settings import Settings
from phift.config.run import RunConfig
from phift.data.prepare import PreparedDataset
from unit.fakes import A100, FOUR_A100, codes, target

PHI_4 = 14_659_507_200
SIXTEEN = {"precision": "16", "evaluation_strategy": "disable"}
LORA = {**SIXTEEN, "apply_lora": "true"}

# Measured tokens a second of one A100-80GB, 4096 tokens a row, the Hugging Face trainer: foundation-model-stack/
# fms-acceleration, scripts/benchmarks/refs/a100_80gb.csv (c:04702cc, Mistral-7B) and a100_80gb_liger.csv (c:12ebdb9,
# Llama-3-8B), 2024. The last number is how many FLOPs a parameter and token the method takes.
MEASURED = [
    ("Mistral-7B full, batch 4", 2775, 7_241_732_096, 6),
    ("Mistral-7B full, batch 8", 3048, 7_241_732_096, 6),
    ("Mistral-7B LoRA, batch 4", 3598, 7_241_732_096, 4),
    ("Mistral-7B LoRA, 2 GPUs, batch 2", 2996, 7_241_732_096, 4),
    ("Llama-3-8B full, batch 4", 3300, 8_030_261_248, 6),
    ("Llama-3-8B full, 4 GPUs, batch 8", 2264, 8_030_261_248, 6),
    ("Llama-3-8B LoRA, batch 4", 3829, 8_030_261_248, 4),
    ("Llama-3-8B LoRA, 4 GPUs, batch 4", 3593, 8_030_261_248, 4),
]


def dataset(rows: int = 1000, characters: int = 4_000_000, validation: int = 100) -> PreparedDataset:
    """Return data with 1000 tokens a row."""
    return PreparedDataset(
        folder=Path(),
        train=Path("train.jsonl"),
        validation=Path("validation.jsonl"),
        test=Path("test.jsonl"),
        rows={"train": rows, "validation": validation, "test": 100},
        longest_row=4000,
        characters={"train": characters, "validation": 4000 * validation, "test": 400_000},
        hashes={},
        content_hash="made up",
        name="made up",
    )


def estimate(
    parameters: dict[str, Any] | None = None, data: PreparedDataset | None = None, **changes: Any
) -> tuple[CostEstimate, list[Finding]]:
    where = {key: changes.pop(key) for key in ("size", "nodes", "gpus_per_node") if key in changes}
    values = {"model_parameters": PHI_4, "deployment_size": None, "instances": 1, "prices": {A100: 3.6}, **changes}
    sizes, size = values.pop("sizes", {}), values.pop("deployment_size")
    known: dict[str, Any] = {"deployment": find_size(size, sizes) if size else None}
    known |= {key: values.pop(key) for key in ("model_parameters", "tokens") if key in values}
    deployed = {"instance_count": values.pop("instances")}
    config = RunConfig(model="Phi-4", compute="gpu-cluster", data={"train": "x.jsonl"}, deployment=deployed, **values)
    given = SIXTEEN if parameters is None else parameters
    return estimate_cost(config, data or dataset(), Settings.of(given), target(**where, sizes=sizes), **known)


def hours(*arguments: Any, **changes: Any) -> float:
    found = estimate(*arguments, **changes)[0].hours
    assert found is not None
    return found


# ---------------------------------------------------------------- tokens


def test_a_token_is_four_characters_and_every_epoch_counts() -> None:
    assert estimate()[0].tokens == 1_000_000
    assert estimate({**SIXTEEN, "num_train_epochs": 3})[0].tokens == 3_000_000


def test_max_steps_wins_over_epochs() -> None:
    limited = {**SIXTEEN, "num_train_epochs": 3, "max_steps": 5, "per_device_train_batch_size": 2}
    limited["gradient_accumulation_steps"] = 4
    assert estimate(limited)[0].tokens == 40_000
    assert estimate(limited, size=FOUR_A100, gpus_per_node=4, nodes=2)[0].tokens == 320_000


def test_what_is_cut_off_is_not_trained_on() -> None:
    assert estimate({**SIXTEEN, "max_seq_length": 250})[0].tokens == 250_000
    assert estimate({**SIXTEEN, "max_seq_length": 2000})[0].tokens == 1_000_000


# ---------------------------------------------------------------- hours


def test_the_hours_are_the_formulas() -> None:
    by_hand = 1_000_000 * 6 * PHI_4 / (312e12 * MFU) / 3600
    assert hours() == pytest.approx(by_hand)
    assert hours(LORA) == pytest.approx(by_hand * 4 / 6)
    assert hours(size=FOUR_A100, gpus_per_node=4, nodes=2) == pytest.approx(by_hand / 8)


@pytest.mark.parametrize(("name", "measured", "parameters", "flops"), MEASURED, ids=[row[0] for row in MEASURED])
def test_the_assumed_throughput_is_near_what_was_measured(
    name: str, measured: int, parameters: int, flops: int
) -> None:
    method = LORA if flops == 4 else SIXTEEN
    throughput = 1_000_000 / hours(method, model_parameters=parameters) / 3600
    assert 0.28 <= round(measured * flops * parameters / 312e12, 2) <= 0.51  # the range that the module cites
    assert 0.58 < throughput / measured < 1.08


def test_the_users_own_throughput_wins_and_needs_nothing_else() -> None:
    found = hours({"evaluation_strategy": "disable"}, model_parameters=None, tokens_per_second=1000)
    assert found == pytest.approx(1000 / 3600)
    assert hours(SIXTEEN, tokens_per_second=1000, gpus_per_node=4) == pytest.approx(250 / 3600)


def test_evaluation_takes_its_forward_passes() -> None:
    epochs = {"precision": "16", "num_train_epochs": 3}
    assert hours(epochs) == pytest.approx(hours({**SIXTEEN, "num_train_epochs": 3}) * (1 + 0.1 * 2 / 6))
    assert hours({**epochs, "apply_lora": "true"}) / hours({**LORA, "num_train_epochs": 3}) == pytest.approx(1.05)


def test_evaluating_every_few_steps_takes_longer_than_training() -> None:
    often = {**SIXTEEN, "evaluation_strategy": "steps", "eval_steps": 10}
    assert hours(often) == pytest.approx(hours() * (1 + 100 * 0.1 * 2 / 6))
    share = {**SIXTEEN, "evaluation_strategy": "steps", "evaluation_steps_interval": 0.25}
    assert hours(share) == pytest.approx(hours() * (1 + 4 * 0.1 * 2 / 6))


@pytest.mark.parametrize(
    ("parameters", "changes", "reason"),
    [
        (SIXTEEN, {"model_parameters": None}, "how many parameters"),
        (SIXTEEN, {"size": "Standard_New"}, "how fast the GPUs of Standard_New"),
        (SIXTEEN, {"size": "Standard_NC40ads_H100_v5"}, "how fast the GPUs"),
        ({"precision": "32"}, {}, "precision 16 only"),
        ({}, {"model_parameters": None, "size": "Standard_New"}, "how many parameters"),
    ],
)
def test_what_the_speed_is_not_known_for_is_said(
    parameters: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    found, findings = estimate(parameters, prices={A100: 1, "Standard_New": 1}, **changes)
    assert (found.hours, found.training) == (None, None)
    assert codes(findings) == ["COST_UNKNOWN"]
    assert reason in findings[0].message
    assert "tokens_per_second" in findings[0].fix


# ---------------------------------------------------------------- prices


def test_the_training_costs_its_hours_on_every_node() -> None:
    found = estimate(nodes=2)[0]
    assert found.training == pytest.approx((found.hours or 0) * 2 * 3.6)
    assert found.currency == "USD"


def test_the_users_price_wins_over_the_services_and_case_does_not_count() -> None:
    sizes = {A100.lower(): VmSize(name=A100, price_per_hour=5)}
    own = estimate(sizes=sizes, prices={A100.upper(): 2})[0]
    assert own.training == pytest.approx((own.hours or 0) * 2)
    services = estimate(sizes=sizes, prices={})[0]
    assert services.training == pytest.approx((services.hours or 0) * 5)


def test_without_a_price_the_cost_is_unknown_and_the_hours_are_not() -> None:
    found, (finding,) = estimate(prices={})
    assert found.training is None
    assert found.hours
    assert (finding.code, finding.severity) == ("COST_UNKNOWN", "note")
    assert "`prices`" in finding.fix


def test_an_endpoint_costs_around_the_clock() -> None:
    found, findings = estimate(deployment_size=A100, instances=2)
    assert found.endpoint_per_day == pytest.approx(2 * 24 * 3.6)
    assert findings == []


def test_an_endpoint_without_a_price_is_a_note_even_with_max_cost() -> None:
    found, (finding,) = estimate(deployment_size="Standard_New", max_cost=1e6)
    assert found.endpoint_per_day is None
    assert (finding.code, finding.severity) == ("COST_UNKNOWN", "note")
    assert "Standard_New" in finding.message


# ---------------------------------------------------------------- max_cost


def test_max_cost_is_a_limit_that_may_be_reached() -> None:
    cost = estimate()[0].training
    assert cost
    assert estimate(max_cost=cost)[1] == []
    (finding,) = estimate(max_cost=cost * 0.99)[1]
    assert (finding.code, finding.severity, finding.place) == ("COST_TOO_HIGH", "error", "max_cost")
    assert f"{cost:.2f} USD" in finding.message


@pytest.mark.parametrize("changes", [{"prices": {}}, {"model_parameters": None}])
def test_a_limit_that_cannot_be_checked_does_not_pass(changes: dict[str, Any]) -> None:
    (finding,) = estimate(max_cost=100, **changes)[1]
    assert (finding.code, finding.severity, finding.place) == ("COST_UNKNOWN", "error", "max_cost")
    assert "cannot be kept" in finding.message


# ---------------------------------------------------------------- assumptions


def test_everything_that_is_assumed_is_said() -> None:
    found = estimate({**LORA, "apply_deepspeed": "true", "deepspeed_stage": "3"}, deployment_size=A100)[0]
    said = " ".join(found.assumptions)
    for part in ("4 characters a token", "1 epoch of 1000 rows", "4 FLOPs", "14.66 billion", "30%", "312 TFLOPS"):
        assert part in said
    for part in ("says `prices`", "fms-acceleration", "stage 3", "0 evaluations", "not of node starts"):
        assert part in said
    assert len(found.assumptions) == len(set(found.assumptions))


def test_it_prints_as_a_sentence_and_its_assumptions() -> None:
    text = str(estimate(deployment_size=A100)[0])
    assert text.startswith("cost: ")
    assert "86.40 USD for a day of the endpoint" in text
    assert "about 1,000,000 tokens" in text
    unknown = str(estimate(model_parameters=None, prices={})[0])
    assert "unknown USD for the training" in unknown


def test_a_size_price_and_throughput_of_the_user_are_said_too() -> None:
    said = " ".join(estimate({**SIXTEEN, "max_steps": 7}, tokens_per_second=123)[0].assumptions)
    assert "123 for each GPU" in said
    assert "max_steps: 7 steps of 1 row," in said
