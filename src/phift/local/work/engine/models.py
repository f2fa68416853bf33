"""MLflow model folders of the transformers flavor: one is what step 2 starts from, one is what step 5 leaves."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from phift import plain_yaml
from phift.component import finetune_config
from phift.component.finetune_config import FinetuneConfig
from phift.component.settings import Settings
from phift.errors import ModelError
from phift.local.state.folder import UnsafePath, confined
from phift.local.work.engine.job import Job, empty_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)

BASE = "base.json"


@dataclass(frozen=True)
class MlflowModel:
    """The folders of a model's weights and tokenizer, often the same, and the name it was first published under."""

    weights: Path
    tokenizer: Path
    name: str

    @classmethod
    def open(cls, folder: Path) -> MlflowModel:
        """Find the parts of the model in ``folder``."""
        manifest = folder / "MLmodel"
        if not manifest.is_file():
            raise ModelError("The folder is not an MLflow model.", where=str(folder), fix="give a model of type mlflow")
        fix = "use a model saved with mlflow.transformers"
        try:
            document = plain_yaml.load(manifest.read_text(encoding="utf-8")) or {}
            flavor = document.get("flavors", {}).get("transformers")
            name = (document.get("metadata") or {}).get("base_model_name")
        except (yaml.YAMLError, ValueError, RecursionError, AttributeError) as error:
            raise ModelError("The MLmodel file cannot be read.", where=str(manifest), fix=fix) from error
        # Not by their text, which a few aliases in YAML make longer than memory holds.
        if not isinstance(flavor, dict) or not isinstance(binary := flavor.get("model_binary", "model"), str):
            raise ModelError("The MLflow model has no transformers flavor.", where=str(manifest), fix=fix)
        try:  # a manifest that comes with a model must not name a folder outside of it
            weights = confined(folder, binary)
        except UnsafePath as error:
            raise ModelError("The MLflow model names a folder outside itself.", where=str(manifest), fix=fix) from error
        tokenizer = folder / "components" / "tokenizer"
        known = name if name and isinstance(name, str) else folder.name
        return cls(weights, tokenizer if tokenizer.is_dir() else weights, known)


def import_base(job: Job) -> None:
    """Copy the model into a folder of the job's own, and lay the job's own finetune config over the model's."""
    source = Path(job.inputs["mlflow_model_path"])  # which is there: step 1 has looked
    model = MlflowModel.open(source)
    empty_folder(job.model)
    for part in dict.fromkeys((model.weights, model.tokenizer)):
        shutil.copytree(part, job.model, dirs_exist_ok=True)
    _copy_config(source, job.model)
    if own := job.input_path("finetune_config_path"):
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


def convert(job: Job) -> None:
    """Write ``mlflow_model_folder`` from the trained model; its checkpoints stay behind."""
    trained, target = job.outputs["pytorch_model_folder"], job.outputs["mlflow_model_folder"]
    shutil.rmtree(target, ignore_errors=True)
    name = json.loads((trained / BASE).read_text(encoding="utf-8"))["base_model_name"]
    write(trained, target, {"base_model_name": name, "job_name": job.name})
    _log.info("wrote an MLflow model of %s", name)


def write(checkpoint: Path, folder: Path, metadata: Mapping[str, str]) -> None:
    """Write the model in ``checkpoint`` (weights, tokenizer, finetune config) to ``folder`` as an MLflow model.

    The process must be offline for Hugging Face (``process.prepare``): MLflow looks for a model card there.

    - **metadata**: goes into the model's manifest; ``base_model_name`` must be in it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=False, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    save(model, tokenizer, folder, metadata)
    _copy_config(checkpoint, folder)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, metadata: Mapping[str, str]) -> None:
    """Write a model to ``folder`` as `write` does, without a finetune config."""
    import mlflow.transformers

    # It warns that there is no model card to copy, which a model trained here cannot have.
    logging.getLogger("mlflow.transformers").setLevel(logging.ERROR)
    model.name_or_path = metadata["base_model_name"]
    imported = ("mlflow", "torch", "transformers", "accelerate")
    mlflow.transformers.save_model(
        # The parts, not the path: for a path MLflow 3.15 reads a class out of transformers that 5.x gives as a name.
        transformers_model={"model": model, "tokenizer": tokenizer},
        path=str(folder),
        task="llm/v1/chat",
        input_example={"messages": [{"role": "user", "content": "What is the symbol of iron?"}]},
        # Stated, so that MLflow does not load the model in a second process to find out what it imports.
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in imported],
        metadata=dict(metadata),
    )
    # It names a page on the hub that does not exist.
    (folder / "LICENSE.txt").unlink(missing_ok=True)


def _copy_config(source: Path, target: Path) -> None:
    config = source / finetune_config.FILE_NAME
    if config.is_file():
        shutil.copy2(config, target)
