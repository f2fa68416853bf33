"""What is trained on, as the machine and the job have it; no test here has a GPU."""

from __future__ import annotations

import logging

import pytest
import torch

from phift.local.work.engine import hardware


def machine(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, bf16: bool = True) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bf16})


@pytest.mark.parametrize(
    ("there", "wanted", "used"), [(0, "1", 0), (1, "4", 1), (4, "2", 2), (4, "0", 1), (2, "all", 1)]
)
def test_as_many_gpus_as_are_wanted_and_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, there: int, wanted: str, used: int
) -> None:
    machine(monkeypatch, gpus=there)
    with caplog.at_level(logging.INFO):
        assert hardware.gpus(wanted) == used
    assert (f"this machine has {there} GPUs" in caplog.text) is (there < max(1, int(wanted) if wanted != "all" else 1))


def test_a_process_sees_the_first_of_the_gpus_that_this_one_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=4)
    assert hardware.visible(2) == {"CUDA_VISIBLE_DEVICES": "0,1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,1")
    assert hardware.visible(2) == {"CUDA_VISIBLE_DEVICES": "5,3"}


@pytest.mark.parametrize(
    ("gpus", "bf16", "precision", "parameters", "floats", "said"),
    [
        (1, True, 16, 600_000, "bf16", "training on a card, in bf16"),
        (1, False, 16, 600_000, "fp16", "training on a card, in fp16"),
        (1, True, 32, 600_000, None, "training on a card, in 32-bit floats"),
        (0, True, 16, 135_000_000, "bf16", "threads, in bf16"),
        (0, True, 16, 600_000, None, "a CPU trains in 32 what is as small as this model"),
        (0, False, 16, 135_000_000, None, "a CPU trains in 32 that has neither AVX512_BF16 nor AMX"),
        (0, True, 32, 135_000_000, None, "threads, in 32-bit floats"),
    ],
)
def test_floats_are_those_that_are_asked_for_and_pay(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    gpus: int,
    bf16: bool,
    precision: int,
    parameters: int,
    floats: str | None,
    said: str,
) -> None:
    machine(monkeypatch, gpus=gpus, bf16=bf16)
    with caplog.at_level(logging.INFO):
        assert hardware.floats(precision, parameters) == floats
    assert said in caplog.text
