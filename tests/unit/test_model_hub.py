"""A model of the Hub is asked for its sizes first; what is downloaded are safetensors and texts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from phift.errors import ModelError
from phift.local.work.adding import hub

FILES = {
    "config.json": 600,
    "model-1-of-2.safetensors": 5_000_000,
    "model-2-of-2.safetensors": 5_000_000,
    "model.safetensors.index.json": 900,
    "pytorch_model.bin": 10**12,
    "modeling_own.py": 10,
    "onnx/model.safetensors": 10**12,
    "tokenizer.json": 2_000,
    "chat_template.jinja": 300,
    "README.md": 100,
}


class Hub:
    """Stands for the Hub: says what files there are, and takes note of what is downloaded."""

    def __init__(self, files: dict[str, int]) -> None:
        self.files = files
        self.fetched: list[str] = []

    def api(self, **_: Any) -> Hub:
        return self

    def model_info(self, name: str, **_: Any) -> Any:
        siblings = [SimpleNamespace(rfilename=file, size=size) for file, size in self.files.items()]
        return SimpleNamespace(siblings=siblings, sha="abc")

    def download(self, name: str, *, revision: str, allow_patterns: list[str]) -> str:
        self.fetched = allow_patterns
        return f"/cache/{revision}"


def stand_for(monkeypatch: pytest.MonkeyPatch, cache: Path, files: dict[str, int]) -> Hub:
    fake = Hub(files)
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return fake


def test_weights_and_texts_are_downloaded_in_the_revision_that_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = stand_for(monkeypatch, tmp_path, FILES)
    said: list[str] = []
    assert hub.fetch("some/model", lambda doing, _seconds: said.append(doing)) == Path("/cache/abc")
    assert set(fake.fetched) == FILES.keys() - {"pytorch_model.bin", "modeling_own.py", "onnx/model.safetensors"}
    assert said == ["asking the Hugging Face Hub", "downloading it from the Hugging Face Hub"]
    assert huggingface_hub.constants.HF_HUB_OFFLINE


def test_weights_that_transformers_does_not_load_are_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = {"consolidated.safetensors": 10**12}
    fake = stand_for(monkeypatch, tmp_path, FILES | twice)
    monkeypatch.setattr(hub, "available_memory", lambda: 10_000_000)
    hub.fetch("some/model", lambda *_: None)
    assert [name for name in fake.fetched if name.endswith(".safetensors")] == [
        "model-1-of-2.safetensors",
        "model-2-of-2.safetensors",
    ]
    fake.files = FILES | twice | {"model.safetensors": 9_000_000}
    hub.fetch("some/model", lambda *_: None)
    assert [name for name in fake.fetched if name.endswith(".safetensors")] == ["model.safetensors"]
    fake.files, fake.fetched = {"config.json": 600} | twice, []
    with pytest.raises(ModelError, match="has no safetensors that transformers loads"):
        hub.fetch("some/model", lambda *_: None)
    assert fake.fetched == []


def test_pickles_alone_are_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = stand_for(monkeypatch, tmp_path, {"config.json": 1, "pytorch_model.bin": 10})
    with pytest.raises(ModelError, match="has no safetensors"):
        hub.fetch("some/model", lambda *_: None)
    assert fake.fetched == []


def test_what_this_machine_has_no_room_for_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = stand_for(monkeypatch, tmp_path, FILES)
    monkeypatch.setattr(hub, "available_memory", lambda: 9_000_000)
    with pytest.raises(ModelError, match=r"0\.0 GB of weights; this machine has 0\.0 GB of memory"):
        hub.fetch("some/model", lambda *_: None)
    assert fake.fetched == []


def test_a_download_that_breaks_off_goes_on_when_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_for(monkeypatch, tmp_path, FILES)

    def break_off(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", break_off)
    with pytest.raises(ModelError, match=r"could not be downloaded \(ConnectionError\)"):
        hub.fetch("some/model", lambda *_: None)
