from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phift.check.findings import Finding
from phift.check.parameters import resolve_parameters
from phift.component.inputs import known_inputs
from phift.component.settings import Settings
from phift.errors import ParameterError
from unit.fakes import codes, component, target

INPUTS: dict[str, Any] = component().inputs
SWITCHES = ("apply_deepspeed", "auto_find_batch_size", "apply_early_stopping", "apply_lora")
NUMBERS = (
    "eval_steps",
    "evaluation_steps_interval",
    "logging_steps",
    "learning_rate",
    "gradient_accumulation_steps",
    "warmup_steps",
    "lora_r",
    "lora_dropout",
    "max_seq_length",
    "early_stopping_patience",
)


def found(
    user: dict[str, Any], *, model: dict[str, Any] | None = None, gpu: str | None = None, **where: Any
) -> list[Finding]:
    """Return the findings for these values; checkpoints are limited, so that they are not among them."""
    limited = {"save_total_limit": 1, **user}
    return list(resolve_parameters(INPUTS, model or {}, limited, target(gpu=gpu, **where)).findings)


def the_finding(user: dict[str, Any], **more: Any) -> Finding:
    (one,) = found(user, **more)
    return one


def test_the_components_defaults_break_no_rule() -> None:
    assert found({}) == []


def test_trap_e2_deepspeed_does_not_go_with_a_searched_batch_size() -> None:
    one = the_finding({"apply_deepspeed": True, "auto_find_batch_size": True})
    assert (one.code, one.severity, one.place) == ("PARAMETER_CONFLICT", "error", "parameters.apply_deepspeed")
    assert one.message.startswith("apply_deepspeed is true and auto_find_batch_size is true: ")
    assert "2026-07-23" in one.source


def test_trap_e2_a_conflict_with_the_models_suggestion_is_laid_at_the_users_key_and_says_who() -> None:
    one = the_finding({"auto_find_batch_size": True}, model={"apply_deepspeed": "true"})
    assert one.place == "parameters.auto_find_batch_size"
    assert "apply_deepspeed is true (from the model)" in one.message


def test_trap_e3_early_stopping_needs_evaluations() -> None:
    user = {"apply_early_stopping": "true", "evaluation_strategy": "disable"}
    conflicts = [one for one in found(user) if one.code == "PARAMETER_CONFLICT"]
    assert [one.severity for one in conflicts] == ["error"]
    for strategy in ("epoch", "steps"):
        assert found({"apply_early_stopping": True, "evaluation_strategy": strategy}) == []


@pytest.mark.parametrize("rate", [0, -1e-5, "0.0"])
def test_trap_e4_the_learning_rate_is_above_zero(rate: Any) -> None:
    one = the_finding({"learning_rate": rate})
    assert (one.code, one.severity, one.place) == ("PARAMETER_RANGE", "error", "parameters.learning_rate")


def test_trap_e4_another_optimizer_is_refused() -> None:
    assert codes(found({"optim": "adamw_apex_fused"})) == ["PARAMETER_VALUE"]


@pytest.mark.parametrize("limit", [-1, 0])
def test_trap_e5_keeping_every_checkpoint_is_a_warning(limit: int) -> None:
    one = the_finding({"save_total_limit": limit})
    assert (one.code, one.severity) == ("PARAMETER_KEEPS_ALL", "warning")


def test_trap_e5_the_components_own_default_keeps_every_checkpoint() -> None:
    (one,) = resolve_parameters(INPUTS, {}, {}, target()).findings
    assert one.code == "PARAMETER_KEEPS_ALL"
    assert "(from the component)" in one.message


def test_without_evaluations_no_checkpoints_are_kept() -> None:
    user = {"evaluation_strategy": "disable"}
    assert resolve_parameters(INPUTS, {}, user, target()).findings == ()


@pytest.mark.parametrize("interval", [0, -1, 1.5])
def test_evaluation_by_steps_needs_a_number_of_steps(interval: float) -> None:
    user = {"evaluation_strategy": "steps", "eval_steps": 0, "evaluation_steps_interval": interval}
    assert "PARAMETER_CONFLICT" in codes(found(user))


@pytest.mark.parametrize("steps", [{"eval_steps": 1}, {"evaluation_steps_interval": 0.5}, {}])
def test_evaluation_by_steps_may_say_them_in_either_way_or_take_the_default(steps: dict[str, Any]) -> None:
    assert found({"evaluation_strategy": "steps", **steps}) == []


def test_logging_by_steps_needs_a_number_of_steps() -> None:
    assert codes(found({"logging_steps": 0})) == ["PARAMETER_CONFLICT"]


@pytest.mark.parametrize("metric", ["f1", "exact"])
def test_the_loss_is_the_only_metric_there_is(metric: str) -> None:
    assert codes(found({"metric_for_best_model": metric})) == ["PARAMETER_CONFLICT"]


@pytest.mark.parametrize(
    ("user", "wanted"),
    [
        ({"adam_beta1": 1}, "from 0 to below 1"),
        ({"adam_epsilon": -1}, "at least 0"),
        ({"weight_decay": -0.1}, "at least 0"),
        ({"warmup_steps": -1}, "at least 0"),
        ({"gradient_accumulation_steps": 0}, "at least 1"),
        ({"seed": -1}, "from 0 to 4294967295"),
        ({"seed": 2**32}, "from 0 to 4294967295"),
        ({"max_seq_length": 0}, "-1 or at least 1"),
        ({"max_seq_length": -2}, "-1 or at least 1"),
        ({"apply_lora": True, "lora_r": 0}, "at least 1"),
        ({"apply_lora": True, "lora_dropout": 1}, "from 0 to below 1"),
        ({"apply_early_stopping": True, "early_stopping_patience": 0}, "at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(user: dict[str, Any], wanted: str) -> None:
    one = the_finding(user)
    assert (one.code, one.severity) == ("PARAMETER_RANGE", "error")
    assert f"it must be {wanted}." in one.message


@pytest.mark.parametrize("user", [{"max_seq_length": -1}, {"max_seq_length": 1}, {"seed": 0}, {"warmup_steps": 0}])
def test_numbers_at_the_edge_are_taken(user: dict[str, Any]) -> None:
    assert found(user) == []


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ({"lora_r": 16}, "lora_r"),
        ({"deepspeed_stage": 3}, "deepspeed_stage"),
        ({"deepspeed": "azureml:own:1"}, "deepspeed"),
        ({"apply_deepspeed": True, "deepspeed": "azureml:own:1", "deepspeed_stage": 3}, "deepspeed_stage"),
        ({"early_stopping_threshold": 0.1}, "early_stopping_threshold"),
        ({"eval_steps": 100}, "eval_steps"),
        ({"evaluation_strategy": "steps", "eval_steps": 9, "evaluation_steps_interval": 0.5}, "eval_steps"),
        ({"evaluation_strategy": "steps", "evaluation_steps_interval": 2}, "evaluation_steps_interval"),
        ({"evaluation_strategy": "disable", "save_total_limit": 1}, "save_total_limit"),
        ({"logging_strategy": "epoch", "logging_steps": 5}, "logging_steps"),
        ({"max_steps": 100, "num_train_epochs": 3}, "num_train_epochs"),
        ({"optim": "adafactor", "adam_beta1": 0.8}, "adam_beta1"),
        ({"instance_type_preprocess": "Standard_D12_v2"}, "instance_type_preprocess"),
    ],
)
def test_what_the_user_sets_and_nothing_reads_is_a_warning(user: dict[str, Any], name: str) -> None:
    one = the_finding(user)
    assert (one.code, one.severity, one.place) == ("PARAMETER_NO_EFFECT", "warning", f"parameters.{name}")


@pytest.mark.parametrize(
    "user",
    [
        {"apply_lora": True, "lora_r": 16},
        {"apply_deepspeed": True, "deepspeed_stage": 3},
        {"evaluation_strategy": "steps", "eval_steps": 100},
        {"max_steps": -1, "num_train_epochs": 3},
        {"adam_beta1": 0.8},
    ],
)
def test_what_is_read_needs_no_word(user: dict[str, Any]) -> None:
    assert found(user) == []


def test_what_the_model_suggests_and_nothing_reads_needs_no_word() -> None:
    assert found({}, model={"deepspeed_stage": 3, "lora_r": 16}) == []


def test_on_serverless_compute_the_other_steps_machines_count() -> None:
    where: dict[str, Any] = {"kind": "serverless", "name": "serverless"}
    assert found({"instance_type_preprocess": "Standard_D12_v2"}, **where) == []


@pytest.mark.parametrize("name", ["apply_ort", "merge_lora_weights"])
def test_a_dead_input_is_a_warning_that_says_why(name: str) -> None:
    one = the_finding({name: "true"})
    assert (one.code, one.severity) == ("PARAMETER_DEAD", "warning")
    assert "0.0.82" in one.source


@pytest.mark.parametrize("gpu", ["NVIDIA V100", "NVIDIA T4", "Tesla K80"])
def test_an_older_gpu_has_neither_bfloat16_nor_flash_attention(gpu: str) -> None:
    one = the_finding({"precision": 16}, gpu=gpu)
    assert (one.code, one.severity) == ("PARAMETER_GPU_GENERATION", "warning")
    assert found({"precision": 32}, gpu=gpu) == []


@pytest.mark.parametrize("gpu", ["NVIDIA A100", "NVIDIA H100"])
def test_32_bits_do_without_flash_attention_on_a_newer_gpu(gpu: str) -> None:
    assert codes(found({"precision": 32}, gpu=gpu)) == ["PARAMETER_NO_FLASH_ATTENTION"]
    assert found({"precision": 16}, gpu=gpu) == []


def test_nothing_is_said_of_a_gpu_that_is_not_known() -> None:
    assert found({"precision": 16}, gpu=None) == []


def own_file(folder: Path, content: Any) -> str:
    path = folder / "own.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


GATHERING = {"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}}


@pytest.mark.parametrize("config", [{"zero_optimization": {"stage": 2}}, GATHERING])
def test_an_own_deepspeed_file_may_name_its_stage(tmp_path: Path, config: Any) -> None:
    assert found({"apply_deepspeed": True, "deepspeed": own_file(tmp_path, config)}) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ([], "no JSON object"),
        ({}, "no whole number"),
        ({"zero_optimization": []}, "no whole number"),
        ({"zero_optimization": {"stage": "3"}}, "no whole number"),
        ({"zero_optimization": {"stage": True}}, "no whole number"),
        ({"zero_optimization": {"stage": 3}}, "would not save whole weights"),
    ],
)
def test_an_own_deepspeed_file_that_cannot_work_is_refused(tmp_path: Path, content: Any, why: str) -> None:
    one = the_finding({"apply_deepspeed": True, "deepspeed": own_file(tmp_path, content)})
    assert (one.code, one.severity) == ("PARAMETER_FILE", "error")
    assert why in one.message


@pytest.mark.parametrize("path", ["nowhere.json", "a" * 5000, ".", "\ud800"])
def test_a_file_that_is_not_there_is_refused(path: str) -> None:
    assert codes(found({"finetune_config_path": path})) == ["PARAMETER_FILE"]


@pytest.mark.parametrize("path", ["azureml:own-config:1", "https://account.blob.core.windows.net/own.json"])
def test_a_file_in_the_cloud_is_not_looked_at(path: str) -> None:
    assert found({"finetune_config_path": path, "apply_deepspeed": True, "deepspeed": path}) == []


@pytest.mark.parametrize("wrap", [False, True])
def test_flash_attention_of_an_own_configuration_does_not_go_with_32_bits(tmp_path: Path, wrap: bool) -> None:
    config: dict[str, Any] = {"load_model_kwargs": {"use_flash_attention_2": True}}
    if wrap:
        config = {"version": "2", "task_specific_config": {"ChatCompletion": config}}
    path = own_file(tmp_path, config)
    assert codes(found({"finetune_config_path": path})) == ["PARAMETER_CONFLICT"]
    assert found({"finetune_config_path": path, "precision": 16}) == []


def test_an_own_configuration_that_goes_before_the_parameters_is_a_warning(tmp_path: Path) -> None:
    path = own_file(tmp_path, {"hf_trainer_args": {"learning_rate": 1, "save_strategy": "no"}})
    one = the_finding({"finetune_config_path": path})
    assert (one.code, one.severity) == ("PARAMETER_REPLACED", "warning")
    assert "the parameters learning_rate." in one.message


def test_a_component_with_few_inputs_of_other_types_breaks_no_rule() -> None:
    strange = {"type": "string", "default": "much"}
    names = ("learning_rate", "eval_steps", "save_total_limit", "max_steps", "deepspeed")
    inputs = {name: SimpleNamespace(**strange) for name in names}
    assert resolve_parameters(inputs, {}, {}, target()).findings == ()


@settings(max_examples=1000, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(SWITCHES, st.booleans()),
            **dict.fromkeys(NUMBERS, st.integers(-2, 2)),
            "evaluation_strategy": st.sampled_from(["epoch", "steps", "disable"]),
            "logging_strategy": st.sampled_from(["epoch", "steps"]),
            "metric_for_best_model": st.sampled_from(["loss", "f1"]),
        },
    )
)
def test_what_the_component_refuses_is_refused_before_it_is_submitted(user: dict[str, Any]) -> None:
    resolved = resolve_parameters(INPUTS, {}, user, target())
    literals = {name: str(p.value) for name, p in resolved.values.items()}
    try:
        Settings.parse(literals)
    except ParameterError:
        assert any(one.severity == "error" for one in resolved.findings)


@given(st.booleans() | st.integers() | st.floats() | st.text(), st.sampled_from(sorted(known_inputs())))
def test_what_is_read_is_taken_on_the_wire(value: Any, name: str) -> None:
    known = known_inputs()[name]
    try:
        read = known.read(value)
    except ValueError:
        return
    assert known.parse(str(read)) == read
