"""Step 2: the base model, with its finetune config, in a folder of the job's own."""

from __future__ import annotations

import json
import logging

from phift.component import finetune_config
from phift.component.finetune_config import FinetuneConfig
from phift.component.settings import Settings
from phift.errors import ModelError
from phift.local.work.engine.job import Job, empty_folder
from phift.local.work.engine.mlflow_model import MlflowModel

_log = logging.getLogger(__name__)

BASE = "base.json"


def run(job: Job) -> None:
    """Copy the model and lay the job's own finetune config over the model's."""
    source = job.input_path("mlflow_model_path")
    if source is None:
        raise ModelError("There is no model.", where="mlflow_model_path", fix="give mlflow_model_path")
    model = MlflowModel.open(source)
    model.copy_parts(empty_folder(job.model))
    own = job.input_path("finetune_config_path")
    if own is not None:
        target, over = job.model / finetune_config.FILE_NAME, finetune_config.read(own)
        target.write_text(json.dumps(finetune_config.merge(finetune_config.read(target), over), indent=2), "utf-8")
        _log.info("finetune_config_path sets %s", ", ".join(sorted(over)) or "nothing")
    config = FinetuneConfig.load(job.model)
    path = job.model / "config.json"
    if not path.is_file():
        raise ModelError("The model has no config.json.", where="mlflow_model_path", fix="use a transformers model")
    architecture = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    # The component refuses these two, too, so that they are not found out on Azure.
    settings = Settings.parse(job.inputs)
    if settings.apply_deepspeed and settings.deepspeed_stage == 3 and architecture == "mixformer-sequential":
        raise ModelError("DeepSpeed stage 3 does not work for this model.", where="deepspeed_stage", fix="use stage 2")
    if config.flash_attention and settings.precision == 32:
        what = "The finetune config asks for flash attention, which needs precision 16."
        raise ModelError(what, where=finetune_config.FILE_NAME, fix="set precision to 16")
    base = {"base_model_name": model.name, "architecture": architecture}
    (job.model / BASE).write_text(json.dumps(base), encoding="utf-8")
    _log.info("imported %s (%s)", model.name, architecture)
