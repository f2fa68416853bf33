from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from phift.errors import ModelError
from phift.local.work.engine import models
from phift.local.work.engine.job import Job
from phift.local.work.engine.models import MlflowModel

MARKERS = {"chat_special_tokens": {"response_template": "<a>", "instruction_template": "<u>"}}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder as MLflow writes it, without weights."""
    folder = tmp_path / "registry" / "Some-model"
    for part in ("model", "components/tokenizer"):
        (folder / part).mkdir(parents=True)
    manifest: dict[str, Any] = {"flavors": {"transformers": {"model_binary": "model"}}}
    (folder / "MLmodel").write_text(yaml.safe_dump(manifest))
    (folder / "finetune_config.json").write_text(json.dumps(MARKERS))
    (folder / "model" / "config.json").write_text('{"model_type": "phi3"}')
    (folder / "components" / "tokenizer" / "tokenizer.json").write_text("{}")
    return folder


def job(tmp_path: Path, model: Path, **inputs: str) -> Job:
    return Job("job", {"mlflow_model_path": str(model), **inputs}, {}, (), tmp_path / "work", "")


def test_the_parts_come_into_one_folder(tmp_path: Path, model: Path) -> None:
    job_ = job(tmp_path, model)
    models.import_base(job_)
    names = {path.name for path in job_.model.iterdir()}
    assert names == {"config.json", "tokenizer.json", "finetune_config.json", "base.json"}
    assert json.loads((job_.model / "base.json").read_text())["base_model_name"] == "Some-model"


def test_the_jobs_own_finetune_config_lies_on_top(tmp_path: Path, model: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"chat_special_tokens": {"response_template": "<b>"}, "lora_algo": "lora"}')
    job_ = job(tmp_path, model, finetune_config_path=str(own))
    models.import_base(job_)
    merged = json.loads((job_.model / "finetune_config.json").read_text())
    assert merged["chat_special_tokens"] == {"response_template": "<b>", "instruction_template": "<u>"}
    assert merged["lora_algo"] == "lora"
    assert json.loads((model / "finetune_config.json").read_text()) == MARKERS


@pytest.mark.parametrize("named", ["Base", "", ["Base"]])
def test_a_name_in_the_metadata_is_the_base_models(model: Path, named: object) -> None:
    manifest = yaml.safe_load((model / "MLmodel").read_text())
    (model / "MLmodel").write_text(yaml.safe_dump({**manifest, "metadata": {"base_model_name": named}}))
    assert MlflowModel.open(model).name == ("Base" if named == "Base" else model.name)


def test_a_model_whose_tokenizer_lies_with_the_weights(model: Path) -> None:
    (model / "components" / "tokenizer" / "tokenizer.json").unlink()
    (model / "components" / "tokenizer").rmdir()
    parts = MlflowModel.open(model)
    assert parts.tokenizer == parts.weights


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        b"",
        b"flavors: {sklearn: {}}",
        b"flavors: {transformers: x}",
        b"flavors: {transformers: {model_binary: [a]}}",
        b"flavors: []",
        b"- a",
        b"metadata: x",
        b"flavors: {",
        b"\xff",
        b"[" * 5000,
        b"made: 2026-99-99",
        b"flavors: {transformers: {}}\naround: &a [*a]",
    ],
)
def test_a_folder_that_is_no_such_model(tmp_path: Path, manifest: bytes | None) -> None:
    if manifest is not None:
        (tmp_path / "MLmodel").write_bytes(manifest)
    with pytest.raises(ModelError):
        MlflowModel.open(tmp_path)


def test_a_model_that_is_not_for_chat(tmp_path: Path, model: Path) -> None:
    (model / "finetune_config.json").unlink()
    with pytest.raises(ModelError, match="Chat special tokens"):
        models.import_base(job(tmp_path, model))


def test_a_model_without_an_architecture(tmp_path: Path, model: Path) -> None:
    (model / "model" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json"):
        models.import_base(job(tmp_path, model))


def test_stage_3_of_an_architecture_that_cannot(tmp_path: Path, model: Path) -> None:
    (model / "model" / "config.json").write_text('{"model_type": "mixformer-sequential"}')
    with pytest.raises(ModelError, match="stage 3"):
        models.import_base(job(tmp_path, model, apply_deepspeed="true", deepspeed_stage="3"))
    models.import_base(job(tmp_path, model, apply_deepspeed="true", deepspeed_stage="2"))


def test_flash_attention_needs_precision_16(tmp_path: Path, model: Path) -> None:
    flash = {**MARKERS, "load_model_kwargs": {"attn_implementation": "flash_attention_2"}}
    (model / "finetune_config.json").write_text(json.dumps(flash))
    with pytest.raises(ModelError, match="precision 16"):
        models.import_base(job(tmp_path, model))
    models.import_base(job(tmp_path, model, precision="16"))
