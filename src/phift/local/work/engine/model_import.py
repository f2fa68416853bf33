"""Step 2: the base model, with its finetune config, in a folder of the job's own."""

from __future__ import annotations

import json
import logging
from typing import Any

from phift.errors import ModelError
from phift.local.work.engine import finetune_config
from phift.local.work.engine.finetune_config import FinetuneConfig
from phift.local.work.engine.job import Job, empty_folder
from phift.local.work.engine.mlflow_model import MlflowModel
from phift.local.work.engine.parameters import Parameters

_log = logging.getLogger(__name__)

BASE = "base.json"


def run(job: Job) -> None:
    """Copy the model and lay the job's own finetune config over the model's."""
    source = job.input_path("mlflow_model_path")
    if source is None:
        raise ModelError("There is no model.", where="mlflow_model_path", fix="give mlflow_model_path")
    model = MlflowModel.open(source)
    model.copy_parts(empty_folder(job.model))
    _overlay(job)
    FinetuneConfig.load(job.model)
    architecture = _architecture(job)
    _check_architecture(job, architecture)
    base = {"base_model_name": model.name, "architecture": architecture.get("model_type")}
    (job.model / BASE).write_text(json.dumps(base), encoding="utf-8")
    _log.info("imported %s (%s)", model.name, architecture.get("model_type"))


def _overlay(job: Job) -> None:
    own = job.input_path("finetune_config_path")
    if own is None:
        return
    target = job.model / finetune_config.FILE_NAME
    merged = finetune_config.merge(finetune_config.read(target), finetune_config.read(own))
    target.write_text(json.dumps(merged, indent=2), encoding="utf-8")
    _log.info("finetune_config_path sets %s", ", ".join(sorted(finetune_config.read(own))) or "nothing")


def _architecture(job: Job) -> dict[str, Any]:
    path = job.model / "config.json"
    if not path.is_file():
        raise ModelError("The model has no config.json.", where="mlflow_model_path", fix="use a transformers model")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _check_architecture(job: Job, architecture: dict[str, Any]) -> None:
    """Refuse what the component refuses for some architectures, so that it is not found out on Azure."""
    stage3 = job.inputs.get("apply_deepspeed") == "true" and job.inputs.get("deepspeed_stage") == "3"
    if stage3 and architecture.get("model_type") == "mixformer-sequential":
        raise ModelError("DeepSpeed stage 3 does not work for this model.", where="deepspeed_stage", fix="use stage 2")
    loading = finetune_config.read(job.model / finetune_config.FILE_NAME).get("load_model_kwargs") or {}
    flash = loading.get("attn_implementation") == "flash_attention_2"
    if flash and Parameters.read(job.inputs).precision == "32":
        what = "The finetune config asks for flash attention, which needs precision 16."
        raise ModelError(what, where=finetune_config.FILE_NAME, fix="set precision to 16")
