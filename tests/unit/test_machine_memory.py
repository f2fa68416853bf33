"""A run of a real model in a local workspace is held against the memory of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phift.check import machine_memory
from phift.check.machine_memory import machine_findings, shape_of_added
from phift.check.memory import ModelShape
from phift.check.models import FoundationModel
from phift.component import machine
from phift.component.settings import Settings

SMOLLM2 = {
    "parameters": 134515008,
    "hidden": 576,
    "layers": 30,
    "heads": 9,
    "kv_heads": 3,
    "intermediate": 1536,
    "vocabulary": 49152,
    "max_positions": 8192,
}
SHAPE = ModelShape(source="its own configuration", date="version 1", **SMOLLM2)
LORA = {"apply_lora": True, "lora_r": 16, "per_device_train_batch_size": 8, "evaluation_strategy": "disable"}

WHOLE = {**LORA, "apply_lora": False, "per_device_train_batch_size": 4}


def model(shape: str) -> FoundationModel:
    return FoundationModel(id="", name="mine", version="1", registry="azureml", tags={"phift.shape": shape})


def test_the_shape_is_that_of_the_models_own_configuration() -> None:
    assert shape_of_added(model(json.dumps(SMOLLM2))) == SHAPE


@pytest.mark.parametrize("shape", ["", "{", "[]", "1", "{}", json.dumps({**SMOLLM2, "layers": -1}), "[" * 9999])
def test_a_tag_that_says_no_shape(shape: str) -> None:
    assert shape_of_added(model(shape)) is None


@pytest.mark.parametrize(
    ("settings", "longest", "measured"),
    [
        (LORA, 103, 3.52),
        (LORA, 543, 12.72),
        ({**LORA, "apply_lora": False, "per_device_train_batch_size": 4}, 103, 3.55),
    ],
)
def test_the_estimate_is_near_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], longest: int, measured: float
) -> None:
    """As the table in docs/memory.md has it."""
    monkeypatch.setattr(machine_memory, "available_memory", lambda: 10**12)
    estimate, findings = machine_findings(SHAPE, Settings.of(settings), longest)
    assert findings == []
    assert estimate.total_gb == pytest.approx(measured, rel=0.15)
    assert str(estimate).startswith("memory of this machine: about ")
    table = (Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")
    assert f"| {settings['per_device_train_batch_size']} x {longest} | {measured} | {estimate.total_gb:.2f} |" in table


@pytest.mark.parametrize(
    ("free", "total", "code", "severity", "said"),
    [
        (2.0, 3.0, "MEMORY_SHORT", "error", "it has 3.0 GB in all"),
        (2.0, 16.0, "MEMORY_TIGHT", "warning", "2.0 GB are free"),  # another run is at work, and will be over
        (3.8, 4.0, "MEMORY_TIGHT", "warning", "3.8 GB are free"),
    ],
)
def test_what_the_machine_does_not_have_is_an_error_and_what_is_not_free_a_warning(
    monkeypatch: pytest.MonkeyPatch, free: float, total: float, code: str, severity: str, said: str
) -> None:
    monkeypatch.setattr(machine_memory, "available_memory", lambda: int(free * 1e9))
    monkeypatch.setattr(machine_memory, "total_memory", lambda: int(total * 1e9))
    _, (finding,) = machine_findings(SHAPE, Settings.of({**LORA, "precision": 32}), 103)
    assert (finding.code, finding.severity, finding.place) == (code, severity, "memory of this machine")
    assert f"needs about 3.6 GB of memory; {said}." in finding.message
    assert "`per_device_train_batch_size: 1`: 1.5 GB" in finding.fix
    assert "`max_seq_length: 51`" in finding.fix


@pytest.mark.parametrize(("longest", "measured"), [(243, 4.39), (413, 6.38), (543, 7.92)])
def test_a_processor_with_16_bit_floats_holds_half_of_what_depends_on_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int, measured: float
) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu avx512_bf16 sse\n")
    monkeypatch.setattr(machine_memory, "_PROCESSOR", tmp_path / "cpuinfo")
    estimate, _ = machine_findings(SHAPE, Settings.of({**LORA, "precision": 16}), longest)
    assert estimate.total_gb == pytest.approx(measured, rel=0.15)
    whole, _ = machine_findings(SHAPE, Settings.of({**LORA, "precision": 32}), longest)
    assert whole.activations_gb == pytest.approx(2 * estimate.activations_gb)


def test_lora_is_named_where_it_helps_and_deepspeed_helps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_memory, "available_memory", lambda: 10**9)
    whole = {"apply_lora": False, "apply_deepspeed": True, "deepspeed_stage": 3}
    estimate, (finding,) = machine_findings(SHAPE, Settings.of(whole), 10)
    assert estimate.weights_gb + estimate.gradients_gb + estimate.optimizer_gb >= 16 * 0.1345
    assert "`apply_lora: true`" in finding.fix


def test_a_batch_that_is_to_be_found_begins_with_what_is_given() -> None:
    given, _ = machine_findings(SHAPE, Settings.of(LORA), 103)
    found, _ = machine_findings(SHAPE, Settings.of({**LORA, "auto_find_batch_size": True}), 103)
    assert found == given


def test_a_machine_that_does_not_say_how_much_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_memory, "available_memory", lambda: None)
    _, (finding,) = machine_findings(SHAPE, Settings.of(LORA), 103)
    assert (finding.code, finding.severity) == ("MEMORY_UNKNOWN", "note")


def test_the_memory_that_is_free_is_the_least_that_anything_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo, most = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_MEMORY", meminfo)
    monkeypatch.setattr(machine, "_GROUP", tmp_path)
    assert machine.available_memory() is machine.total_memory() is None
    meminfo.write_text("MemTotal: 4096 kB\nMemAvailable:   2048 kB\nBuffers: 1 kB\n")
    most.write_text("max\n")
    assert (machine.available_memory(), machine.total_memory()) == (2 << 20, 4 << 20)
    most.write_text("1048576\n")
    (tmp_path / "memory.current").write_text("900000\n")
    assert (machine.available_memory(), machine.total_memory()) == (148576, 1 << 20)
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 400000\nactive_file 5\n")
    assert machine.available_memory() == 548576  # files that were read give way
    meminfo.write_text("nothing\n")
    assert (machine.available_memory(), machine.total_memory()) == (548576, 1 << 20)
