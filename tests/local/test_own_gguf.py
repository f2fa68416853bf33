"""A GGUF file becomes a model of the registry, or is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import gguf
import pytest
import torch
from safetensors.torch import load_file
from test_own_models import MARKERS, read

from phift.errors import ModelError
from phift.local.work.adding import weights

pytestmark = pytest.mark.filterwarnings("ignore:.*type hint.*:UserWarning")  # MLflow 3.15, of its own schema


@pytest.fixture(autouse=True)
def _unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process the memory that it has: what is read here is ours."""
    monkeypatch.setattr(weights, "limit_memory", lambda _more: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf")


def test_the_weights_and_the_chat_format_are_those_of_the_file(whole: Path, tmp_path: Path) -> None:
    found = read(whole, tmp_path / "built")["added"]
    assert (found["dtype"], found["license"], found["architecture"]) == ("F32", "mit", "LlamaForCausalLM")
    assert (found["response_template"], found["instruction_template"]) == MARKERS["llama"]
    kept = load_file(tmp_path / "built" / "model" / "model" / "model.safetensors")
    assert all(torch.equal(kept[name], each) for name, each in checkpoints.model("llama").state_dict().items())


def test_what_is_quantized_becomes_32_bits_and_no_model_that_is_quantized(tmp_path: Path) -> None:
    file = checkpoints.write_gguf(tmp_path / "small.gguf", quantized=True)
    found = read(file, tmp_path / "built")["added"]
    assert found["dtype"] == "Q8_0"
    folder = tmp_path / "built" / "model" / "model"
    assert {each.dtype for each in load_file(folder / "model.safetensors").values()} == {torch.float32}
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    head = load_file(folder / "model.safetensors")["lm_head.weight"]
    assert torch.allclose(head, checkpoints.model("llama").lm_head.weight, atol=1e-3)


def test_a_file_that_is_cut_off_or_none(whole: Path, tmp_path: Path) -> None:
    content = whole.read_bytes()
    file = tmp_path / "broken.gguf"
    for length, reason in ((len(content) - 64, "cut off"), (3000, "cut off"), (30, "cut off"), (2, "does not begin")):
        file.write_bytes(content[:length])
        with pytest.raises(ModelError, match=reason):
            read(file, tmp_path / "built")
    file.write_bytes(b"GGUF" + b"\xff" * 4000)
    with pytest.raises(ModelError, match="cut off or broken"):
        read(file, tmp_path / "built")


def test_a_file_beside_an_adapter_whose_base_would_be_loaded(tmp_path: Path) -> None:
    file = checkpoints.write_gguf(tmp_path / "whole.gguf")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere"}))
    with pytest.raises(ModelError, match=r"(?s)LoRA adapter.*move the adapter elsewhere"):
        read(file, tmp_path / "built")


def test_an_architecture_that_transformers_does_not_read(tmp_path: Path) -> None:
    file = checkpoints.write_gguf(tmp_path / "other.gguf", architecture="rwkv7")
    with pytest.raises(
        ModelError, match=r"(?s)cannot read GGUF files of the architecture rwkv7.*it reads.*llama.*phi3"
    ):
        read(file, tmp_path / "built")


def test_an_encoder(tmp_path: Path) -> None:
    file = checkpoints.write_gguf(tmp_path / "other.gguf", architecture="t5")
    with pytest.raises(ModelError, match="t5 is no causal language model"):
        read(file, tmp_path / "built")


def test_a_file_without_a_template(tmp_path: Path) -> None:
    file = checkpoints.write_gguf(tmp_path / "base.gguf", template=None)
    with pytest.raises(ModelError, match="has no chat template"):
        read(file, tmp_path / "built")


def test_one_of_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_name = gguf.GGUFWriter.add_name

    def split(writer: gguf.GGUFWriter, name: str) -> None:
        add_name(writer, name)
        writer.add_uint16("split.count", 2)

    monkeypatch.setattr(gguf.GGUFWriter, "add_name", split)
    file = checkpoints.write_gguf(tmp_path / "part.gguf")
    with pytest.raises(ModelError, match=r"(?s)one of several files.*llama-gguf-split"):
        read(file, tmp_path / "built")


def test_a_folder_of_such_files_and_another_kind_of_file(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"(?s)holds GGUF files.*whole\.gguf"):
        read(whole.parent, tmp_path / "built")
    other = tmp_path / "model.onnx"
    other.write_bytes(b"x")
    with pytest.raises(ModelError, match="no model that can be taken"):
        read(other, tmp_path / "built")
    with pytest.raises(ModelError, match="no such file or folder"):
        read(tmp_path / "nowhere", tmp_path / "built")
