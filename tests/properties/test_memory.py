from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phift import facts
from phift.check.memory import MemoryEstimate, ModelShape, estimate_memory, memory_findings, model_shape, row_length
from phift.check.models import AllowList
from phift.component.settings import Settings
from phift.errors import ConfigError
from unit.fakes import target

DOCS = Path(__file__).parents[2] / "docs" / "memory.md"
TOLERANCE = 0.15  # docs/memory.md says so

A100, FOUR_A100, SMALL_A100 = "Standard_NC24ads_A100_v4", "Standard_NC96ads_A100_v4", "Standard_ND96asr_v4"
FULL: dict[str, Any] = {"precision": 16, "apply_lora": "false"}
LORA: dict[str, Any] = {"precision": 16, "apply_lora": "true"}
STAGE_2: dict[str, Any] = {"apply_deepspeed": "true", "deepspeed_stage": "2"}
STAGE_3: dict[str, Any] = {"apply_deepspeed": "true", "deepspeed_stage": "3"}
SHARDED: dict[str, Any] = {**STAGE_3, "deepspeed": "own.json"}  # stage 3 without offloading
NAMES = [entry["name"] for entry in facts.load("architectures")["models"]]

FMS = "fms-acceleration `a100_80gb.csv` (04702cc)"
FMS_LLAMA = "fms-acceleration `a100_80gb_liger.csv` (12ebdb9)"
LITGPT_TABLE = "LitGPT `resource-tables.md` (4839345)"
LITGPT_HUB = "LitGPT `config_hub/finetune/README.md` (03ffc55)"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One published measurement: PyTorch's highest allocated memory, in GB."""

    model: str
    method: str
    gigabytes: float
    batch: int
    length: int
    source: str
    gpus: int = 1
    checkpointing: bool = True
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def estimated(self) -> float:
        settings = {"per_device_train_batch_size": self.batch, **self.settings}
        estimate = estimate_memory(
            shape(self.model), Settings.of(settings), self.gpus, self.length, checkpointing=self.checkpointing
        )
        return estimate.total_gb - estimate.overhead_gb  # allocated memory is without CUDA's own

    @property
    def error(self) -> float:
        return self.estimated / self.gigabytes - 1


def lora(rank: int, **settings: Any) -> dict[str, Any]:
    return {**LORA, "lora_r": rank, **settings}


MISTRAL, LLAMA, PHI = "mistralai-Mistral-7B-v01", "Llama-2-7b", "Phi-3-mini-4k-instruct"
MEASURED = (
    Measured(model=MISTRAL, method="full", gigabytes=72.97, batch=4, length=4096, source=FMS, settings=FULL),
    Measured(model=MISTRAL, method="full", gigabytes=72.97, batch=8, length=4096, source=FMS, settings=FULL),
    Measured(
        model="Meta-Llama-3-8B", method="full", gigabytes=80.32, batch=4, length=4096, source=FMS_LLAMA, settings=FULL
    ),
    Measured(model=MISTRAL, method="LoRA r16", gigabytes=26.11, batch=4, length=4096, source=FMS, settings=lora(16)),
    Measured(model=MISTRAL, method="LoRA r16", gigabytes=37.10, batch=8, length=4096, source=FMS, settings=lora(16)),
    Measured(
        model=MISTRAL,
        method="LoRA r16, sharded",
        gigabytes=15.12,
        batch=2,
        length=4096,
        gpus=2,
        source=FMS,
        settings=lora(16, **SHARDED),
    ),
    Measured(
        model=MISTRAL,
        method="LoRA r16, sharded",
        gigabytes=21.43,
        batch=4,
        length=4096,
        gpus=2,
        source=FMS,
        settings=lora(16, **SHARDED),
    ),
    *(
        Measured(
            model=model,
            method=f"LoRA r{rank}",
            gigabytes=gigabytes,
            batch=batch,
            length=length,
            source=source,
            checkpointing=False,
            settings=lora(rank),
        )
        for model, rank, gigabytes, batch, length, source in (
            (PHI, 8, 19.75, 4, 512, LITGPT_HUB),
            (LLAMA, 32, 19.77, 2, 512, LITGPT_HUB),
            (MISTRAL, 32, 20.66, 2, 512, LITGPT_HUB),
            ("Meta-Llama-3-8B", 32, 19.73, 1, 512, LITGPT_HUB),
            (LLAMA, 8, 21.30, 1, 1304, LITGPT_TABLE),
            (LLAMA, 8, 29.07, 2, 1304, LITGPT_TABLE),
        )
    ),
)


def table() -> str:
    """Return the comparison as it stands in docs/memory.md."""
    lines = [
        "| model | method | GPUs | batch x tokens | checkpointing | measured GB | estimated GB | error | source |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in MEASURED:
        kept = "on" if row.checkpointing else "off"
        lines.append(
            f"| {row.model} | {row.method} | {row.gpus} | {row.batch} x {row.length} | {kept} | {row.gigabytes:.2f} "
            f"| {row.estimated:.2f} | {row.error:+.1%} | {row.source} |"
        )
    return "\n".join(lines)


def shape(name: str) -> ModelShape:
    found = model_shape(name)
    assert found is not None
    return found


def estimate(name: str = PHI, gpus: int = 1, length: int = 1024, **parameters: Any) -> MemoryEstimate:
    return estimate_memory(shape(name), Settings.of(parameters), gpus, length)


def total(name: str = PHI, gpus: int = 1, length: int = 1024, **parameters: Any) -> float:
    return estimate(name, gpus, length, **parameters).total_gb


def check(
    model: str = "Phi-4", size: str = A100, gpus: int = 1, nodes: int = 1, *, longest: int | None = 1024, **values: Any
) -> dict[str, Any]:
    listed = AllowList((A100, FOUR_A100, "Standard_ND96isr_H100_v5"), "tag finetune_compute_allow_list")
    where = target(size=size, gpus_per_node=gpus, nodes=nodes)
    _, findings = memory_findings(model, Settings.of(values), where, listed, longest)
    assert len({finding.code for finding in findings}) == len(findings)
    return {finding.code: finding for finding in findings}


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: f"{row.model}-{row.method}-{row.batch}x{row.length}")
def test_the_estimate_is_near_what_others_measured(row: Measured) -> None:
    assert abs(row.error) <= TOLERANCE


def test_the_comparison_in_the_docs_is_what_the_code_computes() -> None:
    assert table() in DOCS.read_text(encoding="utf-8")


def test_the_docs_state_the_tolerance() -> None:
    assert f"within {TOLERANCE:.0%}" in DOCS.read_text(encoding="utf-8")


def traced(length: int, *, layers: int, vocabulary: int, checkpointing: bool) -> int:
    """Return the highest memory of one training step of transformers' own Phi-3 code; no number is really computed."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker
    from transformers import Phi3Config, Phi3ForCausalLM

    config = Phi3Config(
        hidden_size=1024,
        intermediate_size=2752,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=vocabulary,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        use_cache=False,
        dtype=torch.bfloat16,
    )
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers 5.23 renames gradient_checkpointing_enable
        model = Phi3ForCausalLM._from_config(config)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        rows = torch.zeros(1, length, dtype=torch.long)
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(input_ids=rows, labels=rows).loss
            loss.backward()
    return int(next(iter(tracker.get_tracker_snapshot("peak").values()))["Total"])


@pytest.mark.parametrize(
    ("layers", "vocabulary", "checkpointing"),
    [
        pytest.param(8, 1000, False, marks=pytest.mark.proof),
        pytest.param(8, 1000, True, marks=pytest.mark.proof),
        (4, 100_000, True),
        pytest.param(4, 100_000, False, marks=pytest.mark.proof),
    ],
)
def test_activations_grow_as_in_the_real_phi_3_code(layers: int, vocabulary: int, checkpointing: bool) -> None:
    """A token's share, which leaves out what does not depend on the data."""
    small, large = (
        traced(length, layers=layers, vocabulary=vocabulary, checkpointing=checkpointing) for length in (1024, 2048)
    )
    like = ModelShape(
        parameters=1,
        hidden=1024,
        layers=layers,
        heads=8,
        kv_heads=8,
        intermediate=2752,
        vocabulary=vocabulary,
        max_positions=4096,
        source="",
        date="",
    )
    a_token = estimate_memory(like, Settings.of(FULL), 1, 1000, checkpointing=checkpointing).activations_gb * 1e6
    assert a_token == pytest.approx((large - small) / 1024, rel=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_has_as_many_parameters_as_its_sizes_say(name: str) -> None:
    model = shape(name)
    keys = model.hidden * model.kv_heads // model.heads
    layer = 2 * model.hidden * (model.hidden + keys) + 3 * model.hidden * model.intermediate
    embedding = model.vocabulary * model.hidden
    one, two = (model.layers * layer + count * embedding for count in (1, 2))
    if "MoE" not in name:  # of 16 experts only two count as intermediate
        assert min(abs(model.parameters / count - 1) for count in (one, two)) < 0.001


def test_names_are_found_in_any_case_and_others_are_unknown() -> None:
    assert model_shape("phi-4") == model_shape("Phi-4")
    assert model_shape("Phi-9") is None


def test_an_incomplete_entry_of_the_user_s_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "architectures.json").write_text('{"models": [{"name": "Phi-9", "hidden": 3072}]}')
    monkeypatch.setenv("PHIFT_FACTS", str(tmp_path))
    with pytest.raises(ConfigError, match="Phi-9"):
        model_shape("Phi-9")


def test_the_bytes_of_a_full_run_without_deepspeed() -> None:
    """2 weights + 2 gradients + 4 moments + 2 for AdamW's copy; measured as 10.002 a parameter, see docs."""
    found = estimate("Meta-Llama-3-8B", length=512, **FULL)
    assert found.moment == "optimizer step"
    assert found.total_gb - found.overhead_gb == pytest.approx(10 * 8.030261248)
    assert found.least_gb == pytest.approx(8 * 8.030261248)


def test_the_parts_are_those_of_the_moment() -> None:
    backward = estimate(length=4096, per_device_train_batch_size=16, **FULL)
    assert (backward.moment, backward.gradients_gb) == ("backward pass", 0)
    assert backward.activations_gb > 0
    assert estimate(**FULL).activations_gb == 0


def test_precision_32_takes_twice_as_much() -> None:
    assert estimate(length=1, precision="32").weights_gb == 2 * estimate(length=1, precision="16").weights_gb


def test_accumulated_gradients_stay_through_the_backward_pass() -> None:
    large = {**FULL, "per_device_train_batch_size": 16}
    assert total(length=4096, gradient_accumulation_steps=4, **large) > total(length=4096, **large)


def test_several_gpus_without_deepspeed_hold_their_gradients_twice() -> None:
    assert total(gpus=2, **FULL) == pytest.approx(total(**FULL) + 2 * 3.821079552)


def test_adafactor_has_no_moments() -> None:
    assert estimate(optim="adafactor", **FULL).least_gb == pytest.approx(4 * 3.821079552)
    assert total(optim="adafactor", **FULL) < total(**FULL)


def test_evaluation_counts_unless_it_is_off() -> None:
    many = {**LORA, **STAGE_3, "per_device_eval_batch_size": 64}
    assert total(evaluation_strategy="disable", **many) < total(**many)


def test_auto_find_batch_size_can_go_down_to_one_row() -> None:
    batch = {**LORA, "per_device_train_batch_size": 32}
    assert total(auto_find_batch_size="true", **batch) == total(**LORA)
    assert total(auto_find_batch_size="true", **batch, **STAGE_2) == total(**batch, **STAGE_2)


def test_lora_without_deepspeed_has_no_checkpointing() -> None:
    alone, with_stage_2 = estimate(length=4096, **LORA), estimate(length=4096, **LORA, **STAGE_2)
    assert alone.activations_gb > 3 * with_stage_2.activations_gb
    assert any("no gradient checkpointing" in said for said in alone.assumptions)
    assert any("is on" in said for said in with_stage_2.assumptions)


def test_deepspeed_moves_states_to_the_machine_s_memory() -> None:
    assert estimate(**FULL).host_gb == 0
    assert estimate(**FULL, **STAGE_2).host_gb == pytest.approx(16 * 3.821079552)
    assert estimate(**FULL, **STAGE_3).host_gb == pytest.approx(18 * 3.821079552)


def test_a_deepspeed_file_of_the_user_s_own_is_the_most_it_can_be() -> None:
    own = estimate(gpus=4, **FULL, **SHARDED)
    assert own.total_gb > total(gpus=4, **FULL, **STAGE_3)
    assert own.least_gb == 0
    assert any("not read" in said for said in own.assumptions)


def test_the_estimate_prints_its_parts_and_assumptions() -> None:
    text = str(estimate(**LORA))
    assert text.startswith("GPU memory: about ")
    assert text.count("assumed: ") == len(estimate(**LORA).assumptions) > 6


names = st.sampled_from(NAMES)
batches = st.integers(1, 64)
lengths = st.integers(1, 131_072)
ways = st.sampled_from([{}, STAGE_2, STAGE_3, SHARDED])
methods = st.sampled_from([FULL, LORA, {"precision": 32}, {"precision": 32, "apply_lora": "true"}])


@given(names, batches, lengths, ways, methods, st.integers(1, 64))
def test_more_rows_or_longer_rows_never_need_less(
    name: str, batch: int, length: int, way: dict[str, Any], method: dict[str, Any], gpus: int
) -> None:
    settings = {**way, **method}
    here = total(name, gpus, length, **settings, per_device_train_batch_size=batch)
    assert here <= total(name, gpus, length, **settings, per_device_train_batch_size=batch + 1)
    assert here <= total(name, gpus, length + 1, **settings, per_device_train_batch_size=batch)


@given(names, batches, lengths, st.sampled_from([STAGE_2, STAGE_3, SHARDED]), st.integers(1, 64), st.integers(1, 8))
def test_lora_needs_less_than_full_training_under_deepspeed(
    name: str, batch: int, length: int, way: dict[str, Any], rank: int, gpus: int
) -> None:
    settings = {**way, "per_device_train_batch_size": batch, "lora_r": rank}
    assert total(name, gpus, length, **LORA, **settings) < total(name, gpus, length, **FULL, **settings)


@given(names, st.integers(1, 64), ways)
def test_the_states_of_lora_are_never_more_than_those_of_full_training(
    name: str, rank: int, way: dict[str, Any]
) -> None:
    adapted, full = (estimate(name, **method, **way, lora_r=rank) for method in (LORA, FULL))
    # Stage 2 holds the adapters beside all the weights, of which full training has no second set.
    assert adapted.least_gb <= full.least_gb * (1.2 if way == STAGE_2 else 1)


@given(names, batches, lengths, methods, st.integers(1, 63), st.sampled_from([STAGE_3, SHARDED]))
def test_more_gpus_never_need_more_under_stage_3(
    name: str, batch: int, length: int, method: dict[str, Any], gpus: int, way: dict[str, Any]
) -> None:
    settings = {**way, **method, "per_device_train_batch_size": batch}
    assert total(name, gpus + 1, length, **settings) <= total(name, gpus, length, **settings)


@given(names, batches, st.integers(1, 4096), ways, methods, st.integers(1, 16))
def test_nothing_fits_below_the_least(
    name: str, batch: int, length: int, way: dict[str, Any], method: dict[str, Any], gpus: int
) -> None:
    found = estimate(name, gpus, length, **{**way, **method}, per_device_train_batch_size=batch)
    assert 0 <= found.least_gb <= found.total_gb


def test_what_cannot_fit_is_an_error_with_ways_out() -> None:
    found = check()["MEMORY_SHORT"]  # the component's own defaults: all weights, 32 bits
    assert found.severity == "error"
    assert "85.9 GB" in found.message
    assert "LoRA, stage 3 and precision 16 together" in found.fix
    assert "which fits" in found.fix


def test_what_may_not_fit_is_a_warning_and_a_larger_size_is_named() -> None:
    found = check("Phi-4", SMALL_A100, 8, **LORA)
    assert found["MEMORY_SHORT"].severity == "warning"
    assert f"or the size {A100}" in found["MEMORY_SHORT"].fix


def test_what_barely_fits_is_tight() -> None:
    batch = next(rows for rows in range(1, 100) if total(length=1024, **LORA, per_device_train_batch_size=rows) > 78)
    found = check(PHI, per_device_train_batch_size=batch, **LORA)
    assert list(found) == ["MEMORY_TIGHT"]


def test_the_publisher_s_own_settings_fit_on_every_listed_size() -> None:
    for entry in facts.load("models")["models"]:
        if entry["name"] == "Phi-4":
            for size in entry["finetune_skus"]:
                assert check(size=size, **entry["defaults"]) == {}


def test_the_machine_s_memory_is_looked_at_too() -> None:
    found = check("Phi-4", **FULL, **STAGE_3)
    assert list(found) == ["MEMORY_HOST_SHORT"]
    assert found["MEMORY_HOST_SHORT"].severity == "warning"
    assert check("Phi-4", nodes=2, **FULL, **STAGE_3) == {}


def test_an_unknown_model_or_size_is_a_note() -> None:
    assert check("Phi-9")["MEMORY_UNKNOWN"].severity == "note"
    assert memory_findings("Phi-9", Settings.of({}), target(), None)[0] is None
    assert list(check(size="Standard_NC1_new")) == ["MEMORY_UNKNOWN"]


def test_without_an_allow_list_no_size_is_named() -> None:
    _, (found, *_) = memory_findings("Phi-4", Settings.of({}), target(), None)
    assert "or the size" not in found.fix


@pytest.mark.parametrize(
    ("parameters", "longest", "length"),
    [
        ({"max_seq_length": 2048}, None, 2048),
        ({"max_seq_length": 2048}, 500, 500),
        ({"max_seq_length": 2048}, 9000, 2048),
        ({"max_seq_length": 99_999}, None, 16_384),
        ({"max_seq_length": 2048, "pad_to_max_length": "true"}, 500, 2048),
        ({"max_seq_length": -1}, None, 4096),
        ({"max_seq_length": -1}, 99_999, 16_384),
        ({"pad_to_max_length": "true"}, None, 16_384),
    ],
)
def test_the_length_of_a_row(parameters: dict[str, Any], longest: int | None, length: int) -> None:
    assert row_length(shape("Phi-4"), Settings.of(parameters), longest)[0] == length
    estimated, _ = memory_findings("Phi-4", Settings.of(parameters), target(), None, longest)
    assert estimated is not None
    assert str(length) in estimated.assumptions[-1]


def test_the_formula_gives_the_activations() -> None:
    for settings in (FULL, {"precision": 32}):
        found = estimate(length=8192, **settings, per_device_train_batch_size=32)
        assert found.moment == "backward pass"
        kept, loss = (2 if settings is FULL else 4) * 32 * 3072, 12 * 32064 + 6 * 3072
        layer = (1 if settings is FULL else 2) * (28 * 3072 + 4 * 3072 + 12 * 8192)
        assert found.activations_gb == pytest.approx(32 * 8192 * (kept + max(layer, loss)) / 1e9)
        assert ("2 x (28 x 3072 +" in found.formula) == (settings is not FULL)
        assert "32 rows x 8192 tokens" in found.formula
    assert "8 x 8192) + 12 x 32064" in estimate(**LORA).formula


@pytest.mark.parametrize("odd", ["much", None, float("inf"), [], -3])
def test_values_that_make_no_sense_are_the_component_s_defaults(odd: Any) -> None:
    """They are findings elsewhere; here they must not stop the check."""
    for name in ("precision", "lora_r", "deepspeed_stage", "per_device_train_batch_size", "max_seq_length"):
        assert estimate(**{**LORA, **STAGE_3, name: odd}).total_gb > 0
