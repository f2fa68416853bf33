from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phift.checks import Finding
from phift.errors import ParameterError
from phift.parameters import Parameter, Parameters, display_name, resolve_parameters
from unit.fakes import FOUR_A100, codes, component, parameters, target

INPUTS: dict[str, Any] = component().inputs


def the_finding(resolved: Parameters) -> Finding:
    (found,) = resolved.findings
    return found


def test_the_user_goes_before_the_model_and_the_model_before_the_component() -> None:
    resolved = parameters({"num_train_epochs": 3}, {"num_train_epochs": 1, "learning_rate": "5e-6"})
    assert resolved["num_train_epochs"] == 3
    assert resolved["learning_rate"] == 5e-6
    assert resolved["weight_decay"] == 0.0


def test_every_value_remembers_where_it_comes_from() -> None:
    resolved = parameters({"num_train_epochs": 3}, {"num_train_epochs": 2})
    expected = Parameter("num_train_epochs", 3, "user", (("component", 1), ("model", 2)))
    assert resolved.values["num_train_epochs"] == expected
    assert resolved.values["seed"].origin == "component"


def test_arguments_are_all_but_the_components_own_defaults() -> None:
    assert parameters({"seed": 7}, {"apply_lora": True}).arguments() == {
        "apply_lora": "true",
        "compute_finetune": "gpu-cluster",
        "compute_model_import": "gpu-cluster",
        "compute_preprocess": "gpu-cluster",
        "num_nodes_finetune": 1,
        "number_of_gpu_to_use_finetuning": 1,
        "seed": 7,
    }


def test_serverless_gives_the_size_of_the_fine_tuning_step() -> None:
    resolved = parameters(kind="serverless", name="serverless", size=FOUR_A100, gpus_per_node=4, nodes=2)
    assert resolved["instance_type_finetune"] == FOUR_A100
    assert resolved["compute_finetune"] == "serverless"
    assert (resolved["number_of_gpu_to_use_finetuning"], resolved["num_nodes_finetune"]) == (4, 2)


def test_a_component_without_the_compute_inputs_is_not_given_them() -> None:
    inputs = {"seed": SimpleNamespace(type="integer", default=42)}
    assert resolve_parameters(inputs, {}, {}, target()).arguments() == {}


def test_what_the_model_suggests_and_the_component_does_not_take_is_dropped_aloud() -> None:
    resolved = parameters(model={"learning_rate_min": 5e-7})
    assert resolved.dropped == ("learning_rate_min",)
    found = the_finding(resolved)
    assert (found.code, found.severity, found.place) == ("PARAMETER_DROPPED", "note", "model tag learning_rate_min")


def test_a_model_value_that_does_not_fit_is_left_out_aloud() -> None:
    resolved = parameters(model={"precision": 4})
    assert resolved["precision"] == "32"
    assert (the_finding(resolved).code, the_finding(resolved).severity) == ("PARAMETER_DROPPED", "warning")


def test_an_unknown_name_gets_a_guess() -> None:
    found = the_finding(parameters({"learning_rat": 1e-5}))
    assert (found.code, found.severity, found.place) == ("PARAMETER_UNKNOWN", "error", "parameters.learning_rat")
    assert found.fix == "did you mean learning_rate?"


def test_a_name_like_no_other_gets_no_guess() -> None:
    assert the_finding(parameters({"zzz": 1})).fix == "see the component's inputs in the docs"


@pytest.mark.parametrize(("name", "key"), [("train_file_path", "data.train"), ("compute_finetune", "compute")])
def test_what_phift_sets_itself_cannot_be_set(name: str, key: str) -> None:
    resolved = parameters({name: "x"})
    assert the_finding(resolved).code == "PARAMETER_RESERVED"
    assert f"`{key}`" in the_finding(resolved).fix
    assert resolved.get(name) != "x"


def test_a_parameter_that_does_nothing_is_a_warning_and_is_passed_on() -> None:
    resolved = parameters({"apply_ort": True})
    assert (the_finding(resolved).code, the_finding(resolved).severity) == ("PARAMETER_DEAD", "warning")
    assert resolved.arguments()["apply_ort"] == "true"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("precision", 8, "one of 32, 16"),
        ("optim", "sgd", "one of adamw_torch, adafactor"),
        ("apply_early_stopping", "yes", "one of true, false"),
        ("num_train_epochs", 0, "at least 1"),
        ("num_train_epochs", 1.5, "a whole number"),
        ("num_train_epochs", True, "a whole number"),
        ("num_train_epochs", "three", "a whole number"),
        ("learning_rate", "abc", "a number"),
        ("learning_rate", "nan", "a number"),
        ("learning_rate", float("inf"), "a number"),
    ],
)
def test_a_value_that_does_not_fit_says_what_would(name: str, value: Any, wanted: str) -> None:
    resolved = parameters({name: value})
    found = the_finding(resolved)
    assert (found.code, found.severity, found.place) == ("PARAMETER_VALUE", "error", f"parameters.{name}")
    assert found.message == f"{name} is {value!r}, but it must be {wanted}."
    assert resolved.values[name].origin == "component"


@pytest.mark.parametrize(
    ("name", "value", "typed"),
    [
        ("precision", 16, "16"),
        ("deepspeed_stage", 3, "3"),
        ("apply_lora", True, "true"),
        ("apply_lora", "False", "false"),
        ("num_train_epochs", "3", 3),
        ("num_train_epochs", 3.0, 3),
        ("learning_rate", "5e-6", 5e-6),
        ("learning_rate", 1, 1.0),
        ("shm_size_finetune", "10g", "10g"),
        ("finetune_config_path", "./own.json", "./own.json"),
    ],
)
def test_values_are_read_as_the_inputs_type(name: str, value: Any, typed: Any) -> None:
    resolved = parameters({name: value})
    assert resolved.findings == ()
    assert (resolved[name], type(resolved[name])) == (typed, type(typed))


@given(st.booleans() | st.integers() | st.floats() | st.text(), st.sampled_from(sorted(INPUTS)))
def test_a_users_value_is_taken_or_reported(value: Any, name: str) -> None:
    resolved = parameters({name: value})
    reported = any(found.severity == "error" for found in resolved.findings)
    assert reported != (resolved.values[name].origin == "user" if name in resolved.values else False)


@pytest.mark.parametrize(("value", "typed"), [(True, True), ("false", False), ("True", True)])
def test_booleans_of_another_component_are_read(value: Any, typed: bool) -> None:
    inputs = {"flag": SimpleNamespace(type="boolean")}
    assert resolve_parameters(inputs, {}, {"flag": value}, target())["flag"] is typed


def test_a_boolean_is_not_guessed() -> None:
    inputs = {"flag": SimpleNamespace(type="boolean")}
    resolved = resolve_parameters(inputs, {}, {"flag": "yes"}, target())
    assert codes(resolved.findings) == ["PARAMETER_VALUE"]
    assert resolved.get("flag") is None


def test_a_default_of_the_component_is_kept_even_if_it_contradicts_itself() -> None:
    inputs = {"odd": SimpleNamespace(type="integer", default="none", min=1)}
    resolved = resolve_parameters(inputs, {}, {}, target())
    assert (resolved["odd"], resolved.findings) == ("none", ())


def test_get_has_a_default() -> None:
    assert parameters().get("nothing", 5) == 5


def test_explain_shows_every_value_with_its_origin() -> None:
    frame = parameters({"seed": 7}).explain().set_index("parameter")
    assert list(frame.columns) == ["value", "origin", "overrode"]
    assert list(frame.loc["seed"]) == [7, "user", "component: 42"]
    assert frame.index.is_monotonic_increasing


def test_raising_takes_the_first_error_and_no_warning() -> None:
    parameters({"apply_ort": True}).raise_for_errors()
    with pytest.raises(ParameterError, match="optim is 'sgd'") as caught:
        parameters({"apply_ort": True, "optim": "sgd", "seed": "x"}).raise_for_errors()
    assert caught.value.where == "parameters.optim"


def test_the_display_name_says_what_was_run() -> None:
    user = {"apply_deepspeed": True, "apply_lora": True, "per_device_train_batch_size": 2, "save_total_limit": 1}
    where = target(gpus_per_node=4, nodes=2)
    resolved = resolve_parameters(INPUTS, {}, {**user, "gradient_accumulation_steps": 3}, where)
    assert display_name("Phi-4", "rows", resolved, where) == "Phi-4-rows-bs48-linear-ds2-lora-save1-seq-1"
    assert "-nods-nolora-" in display_name("Phi-4", "rows", parameters(), target())
