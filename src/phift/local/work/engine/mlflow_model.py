"""An MLflow model folder of the transformers flavor: where its parts are, and how one is written."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml

from phift.component import finetune_config
from phift.errors import ModelError
from phift.local.state.folder import UnsafePath, confined

# Stated, so that MLflow does not load the model in a second process to find out what it imports.
_REQUIREMENTS = ("mlflow", "torch", "transformers", "accelerate")
_EXAMPLE = {"messages": [{"role": "user", "content": "What is the symbol of iron?"}]}


@dataclass(frozen=True)
class MlflowModel:
    """The parts of a model folder.

    - **weights**: the folder of the weights and their configuration.
    - **tokenizer**: the folder of the tokenizer; often the same.
    - **name**: the model's name as it was first published.
    """

    folder: Path
    weights: Path
    tokenizer: Path
    name: str

    @classmethod
    def open(cls, folder: Path) -> MlflowModel:
        """Find the parts of the model in ``folder``."""
        manifest = folder / "MLmodel"
        if not manifest.is_file():
            raise ModelError("The folder is not an MLflow model.", where=str(folder), fix="give a model of type mlflow")
        document = yaml.safe_load(manifest.read_text(encoding="utf-8")) or {}
        flavor = document.get("flavors", {}).get("transformers")
        if flavor is None:
            what = "The MLflow model has no transformers flavor."
            raise ModelError(what, where=str(manifest), fix="use a model saved with mlflow.transformers")
        try:  # a manifest that comes with a model must not name a folder outside of it
            weights = confined(folder, str(flavor.get("model_binary", "model")))
        except UnsafePath as error:
            what, fix = "The MLflow model names a folder outside itself.", "use a model saved with mlflow.transformers"
            raise ModelError(what, where=str(manifest), fix=fix) from error
        tokenizer = folder / "components" / "tokenizer"
        name = (document.get("metadata") or {}).get("base_model_name") or folder.name
        return cls(folder, weights, tokenizer if tokenizer.is_dir() else weights, name)

    def copy_parts(self, target: Path) -> None:
        """Copy weights, tokenizer and finetune config into the one folder ``target``."""
        parts = [self.weights] if self.tokenizer == self.weights else [self.weights, self.tokenizer]
        for part in parts:
            shutil.copytree(part, target, dirs_exist_ok=True)
        config = self.folder / finetune_config.FILE_NAME
        if config.is_file():
            shutil.copy2(config, target)


def write(checkpoint: Path, folder: Path, metadata: Mapping[str, str]) -> None:
    """Write the model in ``checkpoint`` (weights, tokenizer, finetune config) to ``folder`` as an MLflow model.

    The process must be offline for Hugging Face (``environment.prepare``): MLflow looks for a model card there.

    - **metadata**: goes into the model's manifest; ``base_model_name`` must be in it.
    """
    import mlflow.transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # It warns that there is no model card to copy, which a model trained here cannot have.
    logging.getLogger("mlflow.transformers").setLevel(logging.ERROR)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=False, use_safetensors=True)
    model.name_or_path = metadata["base_model_name"]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    mlflow.transformers.save_model(
        # The parts, not the path: for a path MLflow 3.15 reads a class out of transformers that 5.x gives as a name.
        transformers_model={"model": model, "tokenizer": tokenizer},
        path=str(folder),
        task="llm/v1/chat",
        input_example=_EXAMPLE,
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS],
        metadata=dict(metadata),
    )
    # It names a page on the hub that does not exist.
    (folder / "LICENSE.txt").unlink(missing_ok=True)
    config = checkpoint / finetune_config.FILE_NAME
    if config.is_file():
        shutil.copy2(config, folder)
