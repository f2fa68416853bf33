"""Step 4: training."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from phift.errors import ModelError
from phift.local.work.engine import environment, finetune_config, model_import
from phift.local.work.engine.finetune_config import FinetuneConfig
from phift.local.work.engine.job import Job, empty_folder
from phift.local.work.engine.parameters import Parameters
from phift.local.work.engine.preprocess import COUNTS, IGNORED
from phift.local.work.engine.tracking import Tracking

_log = logging.getLogger(__name__)

STEP = "chat_completion_finetune"
_CHECKPOINT_DONE = "checkpoint_done.txt"  # a checkpoint without it was cut off while being written
_PAD = "<pad>"

Example = Mapping[str, list[int]]


@dataclass(frozen=True)
class Collator:
    """Pads examples to the longest of a batch, or all to one length.

    - **length**: pad to this length; 0 for the longest.
    """

    pad: int
    length: int = 0

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return one batch."""
        length = self.length or max(len(example["input_ids"]) for example in examples)

        def padded(name: str, fill: int) -> torch.Tensor:
            return torch.tensor([example[name] + [fill] * (length - len(example[name])) for example in examples])

        ids = padded("input_ids", self.pad)
        mask = torch.tensor([[1] * len(e["input_ids"]) + [0] * (length - len(e["input_ids"])) for e in examples])
        return {"input_ids": ids, "attention_mask": mask, "labels": padded("labels", IGNORED)}


class Progress(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Sends what the trainer logs to MLflow, and marks checkpoints that are complete."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
        """Send the numbers of one log line."""
        numbers = {name: float(value) for name, value in logs.items() if isinstance(value, int | float)}
        line = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        _log.info("step %d of %d: %s", state.global_step, state.max_steps, line)
        self._tracking.log(numbers, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint that was just written."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / _CHECKPOINT_DONE).touch()


def run(job: Job) -> None:
    """Train, keep the best weights, and say how it went."""
    parameters = Parameters.read(job.inputs)
    config = FinetuneConfig.load(job.model)
    folder = job.outputs["pytorch_model_folder"]
    checkpoint = _last_checkpoint(folder) if parameters.resume_from_checkpoint else None
    if checkpoint is None:
        empty_folder(folder)
    torch.set_num_threads(environment.threads())
    if parameters.precision != "32":
        _log.info("precision %s was asked for; a CPU trains in 32", parameters.precision)
    tracking = Tracking(job, STEP)
    tokenizer = _tokenizer(job.model)
    model = _model(job.model, tokenizer, parameters, config)
    trainer = _trainer(job, model, tokenizer, parameters, config, resumed=checkpoint is not None)
    trainer.add_callback(Progress(tracking))
    _log.info("training on %d rows, from %s", len(trainer.train_dataset), checkpoint or "the base model")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _save(job, trainer.model, tokenizer, folder, parameters)
    _report(job, tracking, trainer.state.best_metric)


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint that an interrupted run of this step left."""
    done = [path.parent for path in folder.glob(f"checkpoint-*/{_CHECKPOINT_DONE}")]
    return max(done, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Open the tokenizer; one that pads with a token that means something else gets a token of its own."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    taken = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, None}
    if tokenizer.pad_token_id in taken:
        tokenizer.add_special_tokens({"pad_token": _PAD})
    return tokenizer


def _model(
    folder: Path, tokenizer: PreTrainedTokenizerBase, parameters: Parameters, config: FinetuneConfig
) -> PreTrainedModel:
    torch.manual_seed(parameters.seed)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        ignore_mismatched_sizes=parameters.ignore_mismatched_sizes,
        trust_remote_code=False,
        use_safetensors=True,  # a pickle could be a program
    )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False
    if not parameters.apply_lora:
        return model
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=parameters.lora_r,
        lora_alpha=parameters.lora_alpha,
        lora_dropout=parameters.lora_dropout,
        target_modules=config.lora_target_modules,
    )
    return get_peft_model(model, lora)


def _trainer(
    job: Job,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    parameters: Parameters,
    config: FinetuneConfig,
    *,
    resumed: bool,
) -> Trainer:
    train = _examples(job.data / "train.jsonl")
    steps_per_epoch = len(train) / parameters.per_device_train_batch_size / parameters.gradient_accumulation_steps
    arguments = {
        **_optimisation(parameters),
        **_schedule(parameters, math.ceil(steps_per_epoch)),
        **config.trainer_arguments,
        **_machine(job, resumed=resumed, evaluates=parameters.evaluates),
    }
    try:
        settings = TrainingArguments(**arguments)
    except (TypeError, ValueError) as error:
        fix = "correct hf_trainer_args in the finetune config, or the parameter"
        raise ModelError(f"The trainer refuses its settings: {error}.", where="hf_trainer_args", fix=fix) from error
    limit = tokenizer.model_max_length
    longest = min(limit, parameters.max_seq_length) if parameters.max_seq_length > 0 else limit
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=train,
        eval_dataset=_examples(job.data / "validation.jsonl") if parameters.evaluates else None,
        data_collator=Collator(tokenizer.pad_token_id, longest if parameters.pad_to_max_length else 0),
    )
    trainer.remove_callback(PrinterCallback)
    if parameters.apply_early_stopping:
        stopping = EarlyStoppingCallback(parameters.early_stopping_patience, parameters.early_stopping_threshold)
        trainer.add_callback(stopping)
    return trainer


def _examples(path: Path) -> list[Example]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _optimisation(parameters: Parameters) -> dict[str, Any]:
    return {
        "num_train_epochs": parameters.num_train_epochs,
        "max_steps": parameters.max_steps,
        "per_device_train_batch_size": parameters.per_device_train_batch_size,
        "per_device_eval_batch_size": parameters.per_device_eval_batch_size,
        "auto_find_batch_size": parameters.auto_find_batch_size,
        "gradient_accumulation_steps": parameters.gradient_accumulation_steps,
        "optim": parameters.optim,
        "learning_rate": parameters.learning_rate,
        "lr_scheduler_type": parameters.lr_scheduler_type,
        "warmup_steps": parameters.warmup_steps,
        "weight_decay": parameters.weight_decay,
        "adam_beta1": parameters.adam_beta1,
        "adam_beta2": parameters.adam_beta2,
        "adam_epsilon": parameters.adam_epsilon,
        "max_grad_norm": parameters.max_grad_norm,
        "seed": parameters.seed,
        "full_determinism": parameters.enable_full_determinism,
        "dataloader_num_workers": parameters.dataloader_num_workers,
    }


def _schedule(parameters: Parameters, steps_per_epoch: int) -> dict[str, Any]:
    """When it logs, evaluates and saves: every evaluation leaves a checkpoint, so that the best can be kept."""
    eval_steps = parameters.eval_steps
    if 0 < parameters.evaluation_steps_interval <= 1:
        eval_steps = max(1, int(parameters.evaluation_steps_interval * steps_per_epoch))
    strategy = parameters.evaluation_strategy if parameters.evaluates else "no"
    accumulated = parameters.eval_accumulation_steps
    return {
        "logging_strategy": parameters.logging_strategy,
        "logging_steps": parameters.logging_steps,
        "eval_strategy": strategy,
        "eval_steps": eval_steps,
        "eval_accumulation_steps": accumulated if accumulated > 0 else None,
        "save_strategy": strategy if parameters.evaluates else "epoch",
        "save_steps": eval_steps,
        "save_total_limit": parameters.save_total_limit if parameters.save_total_limit > 0 else None,
        "load_best_model_at_end": parameters.evaluates,
        "metric_for_best_model": "eval_loss" if parameters.evaluates else None,
        "greater_is_better": False if parameters.evaluates else None,
    }


def _machine(job: Job, *, resumed: bool, evaluates: bool) -> dict[str, Any]:
    """Return what this machine and this process demand, whatever anybody asked for."""
    return {
        "output_dir": str(job.outputs["pytorch_model_folder"]),
        "use_cpu": True,
        "bf16": False,
        "fp16": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "report_to": "none",
        "push_to_hub": False,
        "deepspeed": None,
        "remove_unused_columns": False,
        "eval_on_start": evaluates and not resumed,
    }


def _save(
    job: Job, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, parameters: Parameters
) -> None:
    """Write the trained model beside its checkpoints, adapters merged in."""
    if parameters.apply_lora:
        model = model.merge_and_unload()
    model.config.use_cache = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in (finetune_config.FILE_NAME, model_import.BASE):
        shutil.copy2(job.model / name, folder)


def _report(job: Job, tracking: Tracking, best: float | None) -> None:
    """Tag the job with the tokens of the training rows, each counted once, and the best evaluation loss."""
    counts = json.loads((job.data / COUNTS).read_text(encoding="utf-8"))["train"]
    tracking.tag("__azureml_ft_training_tokens", str(counts["tokens"]))
    tracking.tag("__azureml_ft_assistant_tokens", str(counts["assistant_tokens"]))
    if best is not None:
        tracking.tag("score", str(best))
    _log.info("trained on %d tokens; best eval_loss %s", counts["tokens"], best)
