from __future__ import annotations

import json
import re
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from phift import facts
from phift.errors import ConfigError

COMPONENT: dict[str, Any] = facts.load("chat_completion_pipeline")
MODELS: list[dict[str, Any]] = facts.load("models")["models"]
SIZES: list[dict[str, Any]] = facts.load("vm_sizes")["sizes"]
ARCHITECTURES: list[dict[str, Any]] = facts.load("architectures")["models"]

INPUT_KEYS = {"type", "default", "enum", "min", "optional", "mode", "dead", "dead_because"}
SIZE_KEYS = {
    "name",
    "gpu",
    "gpus",
    "gpu_memory_gb",
    "peak_tflops_16",
    "vcpus",
    "memory_gb",
    "family",
    "retired_on",
    "source",
    "date",
}
MODEL_KEYS = {
    "name",
    "registry",
    "version",
    "archived",
    "retired_on",
    "replacement",
    "finetuning_tasks",
    "finetune_skus",
    "inference_skus",
    "finetune_min",
    "defaults",
    "learning_rate_range",
    "source",
    "date",
}
TYPES = {"string": str, "integer": int, "number": float}


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["name"] for entry in entries]


def model(name: str) -> dict[str, Any]:
    return next(entry for entry in MODELS if entry["name"] == name)


def test_every_table_loads_says_what_it_is_about_and_is_read_once() -> None:
    stems = {entry.name.removesuffix(".json") for entry in files(facts).iterdir() if entry.name.endswith(".json")}
    assert {"elements", "models", "vm_sizes"} <= stems
    tables = [facts.load(name) for name in sorted(stems)]
    assert all(table.get("about") or table.get("source") for table in tables)
    assert facts.load("models") is facts.load("models")


@pytest.mark.parametrize("entry", [COMPONENT, *MODELS, *SIZES, *ARCHITECTURES], ids=lambda entry: entry["name"])
def test_every_entry_names_its_source_and_date(entry: dict[str, Any]) -> None:
    assert entry["source"]
    assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", entry["date"])


@pytest.mark.parametrize("entries", [MODELS, SIZES, ARCHITECTURES], ids=["models", "sizes", "architectures"])
def test_no_name_comes_twice(entries: list[dict[str, Any]]) -> None:
    lowered = [name.lower() for name in names(entries)]
    assert len(lowered) == len(set(lowered))


def test_the_component_has_its_69_inputs() -> None:
    assert len(COMPONENT["inputs"]) == 69
    assert set(COMPONENT["outputs"]) == {"pytorch_model_folder", "mlflow_model_folder"}


@pytest.mark.parametrize("name", COMPONENT["inputs"])
def test_a_default_fits_its_input(name: str) -> None:
    spec = COMPONENT["inputs"][name]
    assert set(spec) <= INPUT_KEYS
    assert isinstance(spec["optional"], bool)
    if "default" in spec:
        assert type(spec["default"]) is TYPES[spec["type"]]
        assert spec["default"] in spec.get("enum", [spec["default"]])
        assert spec["default"] >= spec.get("min", spec["default"])
    assert bool(spec.get("dead")) == bool(spec.get("dead_because"))


def test_the_inputs_that_nothing_reads_are_marked() -> None:
    assert {name for name, spec in COMPONENT["inputs"].items() if spec.get("dead")} == {
        "apply_ort",
        "compute_model_evaluation",
        "evaluation_config",
        "evaluation_config_params",
        "instance_type_model_evaluation",
        "merge_lora_weights",
    }


@pytest.mark.parametrize("entry", SIZES, ids=lambda entry: entry["name"])
def test_a_vm_size_is_complete(entry: dict[str, Any]) -> None:
    assert set(entry) >= SIZE_KEYS
    assert set(entry) <= SIZE_KEYS | {"retires_on", "unsupported", "note", "reservation_exempt"}
    assert entry["name"].startswith("Standard_")
    assert entry["vcpus"] > 0
    assert entry["memory_gb"] > 0
    assert (entry["gpus"] > 0) == bool(entry["gpu"]) == bool(entry["gpu_memory_gb"])
    assert entry["peak_tflops_16"] is None or 50 < entry["peak_tflops_16"] < 1000
    for key in ("retired_on", "retires_on"):
        if entry.get(key):
            date.fromisoformat(entry[key])


def test_the_sizes_without_a_reserve_at_deployment_are_the_listed_ones() -> None:
    exempt = {entry["name"] for entry in SIZES if entry.get("reservation_exempt")}
    listed = r"Standard_(NC\d+ads_A100_v4|NC(40ads|80adis)_H100_v5|ND96(asr|amsr_A100)_v4|ND96isr_H100_v5|ND40rs_v2)"
    assert exempt == {name for name in names(SIZES) if re.fullmatch(listed, name)}
    assert len(exempt) == 9
    assert facts.load("vm_sizes")["reservation_source"]


def test_only_the_k80_sizes_are_unsupported() -> None:
    unsupported = [entry for entry in SIZES if entry.get("unsupported")]
    assert {entry["gpu"] for entry in unsupported} == {"NVIDIA K80"}
    assert len(unsupported) == 4


def test_the_component_s_own_default_sizes_are_known() -> None:
    defaults = {spec["default"].lower() for name, spec in COMPONENT["inputs"].items() if "instance_type" in name}
    assert defaults <= {name.lower() for name in names(SIZES)}


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry["name"])
def test_a_model_is_complete_and_names_known_things(entry: dict[str, Any]) -> None:
    assert set(entry) - {"note"} == MODEL_KEYS
    for key in ("finetune_skus", "inference_skus"):
        assert set(entry[key] or ()) <= set(names(SIZES))
    assert set(entry["defaults"]) <= set(COMPONENT["inputs"])
    if entry["replacement"]:
        assert model(entry["replacement"])["retired_on"] is None
    if entry["retired_on"]:
        date.fromisoformat(entry["retired_on"])


def test_a_chat_model_may_train_on_a_machine_as_big_as_its_smallest() -> None:
    chat = [entry for entry in MODELS if "chat-completion" in entry["finetuning_tasks"]]
    stated = [entry for entry in chat if entry["finetune_min"] and entry["finetune_skus"]]
    assert len(stated) >= 9
    for entry in stated:
        least, machines = entry["finetune_min"], [size for size in SIZES if size["name"] in entry["finetune_skus"]]
        assert any(size["gpus"] >= least["gpus"] and size["vcpus"] >= least["vcpus"] for size in machines)


def test_a_learning_rate_lies_in_its_range() -> None:
    ranged = [entry for entry in MODELS if entry["learning_rate_range"]]
    assert ranged
    for entry in ranged:
        least, most = entry["learning_rate_range"]
        assert least <= entry["defaults"]["learning_rate"] <= most


@pytest.mark.parametrize("entry", ARCHITECTURES, ids=lambda entry: entry["name"])
def test_an_architecture_is_complete(entry: dict[str, Any]) -> None:
    sizes = {"parameters", "hidden", "layers", "heads", "kv_heads", "intermediate", "vocabulary", "max_positions"}
    assert set(entry) - {"note"} == {"name", "source", "date"} | sizes
    assert all(type(entry[key]) is int and entry[key] > 0 for key in sizes)
    assert entry["heads"] % entry["kv_heads"] == entry["hidden"] % entry["heads"] == 0


def test_every_phi_3_and_phi_4_model_has_its_architecture() -> None:
    phi = {name for name in names(MODELS) if name.startswith("Phi-")}
    assert phi <= set(names(ARCHITECTURES))


def own_table(folder: Path, name: str, content: str) -> None:
    (folder / f"{name}.json").write_text(content)


def test_a_users_own_table_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [{"name": "standard_nc24ads_a100_v4", "retired_on": "2026-01-01"}, {"name": "Standard_Own", "gpus": 2}]
    own_table(tmp_path, "vm_sizes", json.dumps({"sizes": sizes}))
    monkeypatch.setenv("PHIFT_FACTS", str(tmp_path))
    found = {entry["name"].lower(): entry for entry in facts.load("vm_sizes")["sizes"]}
    changed, added = found["standard_nc24ads_a100_v4"], found["standard_own"]
    assert (changed["retired_on"], changed["gpus"]) == ("2026-01-01", 1)
    assert (added["gpus"], added["vcpus"]) == (2, None)
    assert added["source"] == changed["source"] == str(tmp_path / "vm_sizes.json")
    assert len(found) == len(SIZES) + 1


def test_without_a_table_of_that_name_the_built_in_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIFT_FACTS", str(tmp_path))
    assert facts.load("vm_sizes")["sizes"] == SIZES


@pytest.mark.parametrize("content", ["{", "[]", '{"sizes": 3}', '{"sizes": [{"gpus": 1}]}', "[" * 100_000])
def test_a_broken_table_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    own_table(tmp_path, "vm_sizes", content)
    monkeypatch.setenv("PHIFT_FACTS", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        facts.load("vm_sizes")
    assert caught.value.where == str(tmp_path / "vm_sizes.json")
