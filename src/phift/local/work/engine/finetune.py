"""Step 4: training."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities import Metric
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

from phift.component import finetune_config
from phift.component.finetune_config import FinetuneConfig
from phift.component.preprocessing import ChatTokenizer
from phift.component.settings import Settings
from phift.errors import ModelError
from phift.local.work.engine import hardware, process, workers
from phift.local.work.engine.job import Job, empty_folder
from phift.local.work.engine.models import BASE
from phift.local.work.engine.packing import Example, pack, packed
from phift.local.work.engine.preprocess import COUNTS, IGNORED

_log = logging.getLogger(__name__)

_CHECKPOINT_DONE = "checkpoint_done.txt"  # a checkpoint without it was cut off while being written


def collate(examples: Sequence[Example], *, pad: int, length: int) -> dict[str, torch.Tensor]:
    """Return a batch of examples, all padded to ``length``, or to the longest of them where it is 0."""
    length = length or max(len(example["input_ids"]) for example in examples)
    fills = {"input_ids": pad, "attention_mask": 0, "labels": IGNORED}
    rows = [{**example, "attention_mask": [1] * len(example["input_ids"])} for example in examples]
    return {
        name: torch.tensor([row[name] + [fill] * (length - len(row[name])) for row in rows])
        for name, fill in fills.items()
    }


class _Trainer(Trainer):  # type: ignore[misc]  # transformers ships no types
    """Counts the parameters once: `Trainer` goes through all modules at each step."""

    def floating_point_ops(self, inputs: Mapping[str, torch.Tensor]) -> int:
        return 6 * inputs["input_ids"].numel() * self._parameters

    @cached_property
    def _parameters(self) -> int:
        return int(self.model.num_parameters(exclude_embeddings=True))


class _Progress(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Sends what the trainer logs to MLflow, for the step's run and the job's, and marks checkpoints as complete.

    As the component does it: no NaN, a metric once a step, and with another ``logging_strategy`` than steps without the
    step (azureml-acft-accelerator 0.0.91, utils/callbacks.py). What MLflow then answers is 0, the protocol's default;
    that it is so on Azure is unverified.
    """

    def __init__(self, client: MlflowClient, *run_ids: str) -> None:
        self._client, self._run_ids = client, run_ids
        self._logged: set[tuple[int, str]] = set()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
        numbers = {name: float(value) for name, value in logs.items() if isinstance(value, int | float)}
        line = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        _log.info("step %d of %d: %s", state.global_step, state.max_steps, line)
        now, step = int(time.time() * 1000), 0
        numbers = {name: value for name, value in numbers.items() if not math.isnan(value)}
        if args.logging_strategy == "steps":
            step = state.global_step
            numbers = {name: value for name, value in numbers.items() if (step, name) not in self._logged}
            self._logged |= {(step, name) for name in numbers}
        batch = [Metric(name, value, now, step) for name, value in numbers.items()]
        for run_id in self._run_ids:
            self._client.log_batch(run_id, metrics=batch)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _CHECKPOINT_DONE).touch()


def run(job: Job) -> None:
    """Train, keep the best weights, and say how it went: here, or in a process for each GPU that is asked for."""
    if _checkpoint(job) is None:
        empty_folder(job.outputs["pytorch_model_folder"])
    gpus = hardware.gpus(job.inputs.get("number_of_gpu_to_use_finetuning", "1"))
    if gpus > 1 or torch.cuda.device_count() > 1:  # transformers takes all that a process sees
        workers.run(job, gpus, hardware.visible(gpus))
    else:
        train(job)


def _checkpoint(job: Job) -> Path | None:
    """Return the newest whole checkpoint, if the job may go on from one."""
    done = [path.parent for path in job.outputs["pytorch_model_folder"].glob(f"checkpoint-*/{_CHECKPOINT_DONE}")]
    newest = max(done, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return newest if Settings.parse(job.inputs).resume_from_checkpoint else None


def train(job: Job) -> None:
    """Train in this process, alone or as one of several; the first of them writes."""
    settings = Settings.parse(job.inputs)
    config = FinetuneConfig.load(job.model)
    folder, checkpoint = job.outputs["pytorch_model_folder"], _checkpoint(job)
    torch.set_num_threads(process.threads())
    client = MlflowClient(tracking_uri=job.tracking_uri)
    own_run = next(step.run_id for step in job.steps if step.name == "chat_completion_finetune")
    tokenizer = AutoTokenizer.from_pretrained(job.model, trust_remote_code=False)
    if tokenizer.pad_token_id in {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, None}:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})  # padding must not mean something else too
    model = _model(job.model, tokenizer, settings, config)
    rows = _examples(job.data / "train.jsonl")
    limit = ChatTokenizer(tokenizer=tokenizer).limit(settings.max_seq_length) if settings.pad_to_max_length else None
    floats = hardware.floats(settings.precision, model.num_parameters())
    trainer = _Trainer(
        model=model,
        args=_arguments(job, settings, config, len(rows), floats, resumed=checkpoint is not None),
        train_dataset=rows,
        eval_dataset=_examples(job.data / "validation.jsonl") if settings.evaluates else None,
        data_collator=partial(collate, pad=tokenizer.pad_token_id, length=limit or 0),
        callbacks=[_Progress(client, own_run, job.name)] if workers.first() else [],
    )
    trainer.remove_callback(PrinterCallback)
    if settings.apply_early_stopping:
        trainer.add_callback(EarlyStoppingCallback(settings.early_stopping_patience, settings.early_stopping_threshold))
    _log.info("training on %d rows, from %s", len(rows), checkpoint or "the base model")
    with nullcontext() if limit else packed(model.get_base_model() if settings.apply_lora else model, rows) as packs:
        if packs:
            trainer.data_collator = pack
        elif not limit:
            _log.info("rows are padded: this model does not keep those apart that lie end to end")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not workers.first():
        return
    trained = trainer.model.merge_and_unload() if settings.apply_lora else trainer.model
    trained.config.use_cache = True
    trained.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in (finetune_config.FILE_NAME, BASE):
        shutil.copy2(job.model / name, folder)
    counts = json.loads((job.data / COUNTS).read_text(encoding="utf-8"))["train"]
    client.set_tag(job.name, "__azureml_ft_training_tokens", str(counts["tokens"]))
    client.set_tag(job.name, "__azureml_ft_assistant_tokens", str(counts["assistant_tokens"]))
    if (best := trainer.state.best_metric) is not None:
        client.set_tag(job.name, "score", str(best))
    _log.info("trained on %d tokens; best eval_loss %s", counts["tokens"], best)


def _examples(path: Path) -> list[Example]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _model(
    folder: Path, tokenizer: PreTrainedTokenizerBase, settings: Settings, config: FinetuneConfig
) -> PreTrainedModel:
    torch.manual_seed(settings.seed)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        ignore_mismatched_sizes=settings.ignore_mismatched_sizes,
        trust_remote_code=False,
        use_safetensors=True,  # a pickle could be a program
    )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False
    if not settings.apply_lora:
        return model
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=config.lora_target_modules,
    )
    return get_peft_model(model, lora)


def _arguments(
    job: Job, settings: Settings, config: FinetuneConfig, rows: int, floats: str | None, *, resumed: bool
) -> TrainingArguments:
    """Return how to train: as the job says, over it the model's finetune config, and over all what the machine demands.

    Every evaluation leaves a checkpoint, so that the best can be kept.
    """
    evaluates, eval_steps = settings.evaluates, settings.eval_steps
    if settings.evaluation_share:
        batch = settings.per_device_train_batch_size * workers.count()
        epoch = math.ceil(rows / batch / settings.gradient_accumulation_steps)
        eval_steps = max(1, int(settings.evaluation_share * epoch))
    same = {each.name for each in fields(TrainingArguments)}
    of_job = {
        **{name: value for name, value in vars(settings).items() if name in same},
        "full_determinism": settings.enable_full_determinism,
        "eval_strategy": settings.evaluation_strategy if evaluates else "no",
        "eval_steps": eval_steps,
        "eval_accumulation_steps": settings.eval_accumulation_steps if settings.eval_accumulation_steps > 0 else None,
        "save_strategy": settings.evaluation_strategy if evaluates else "epoch",
        "save_steps": eval_steps,
        "save_total_limit": settings.save_total_limit if settings.save_total_limit > 0 else None,
        "load_best_model_at_end": evaluates,
        "metric_for_best_model": "eval_loss" if evaluates else None,
        "greater_is_better": False if evaluates else None,
    }
    of_machine = {
        "output_dir": str(job.outputs["pytorch_model_folder"]),
        "use_cpu": not torch.cuda.is_available(),
        "bf16": floats == "bf16",
        "fp16": floats == "fp16",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": True,
        "report_to": "none",
        "push_to_hub": False,
        "deepspeed": None,
        # The same optimizer, all weights at once.
        "optim": "adamw_torch_fused" if settings.optim == "adamw_torch" else settings.optim,
        "remove_unused_columns": False,
        "eval_on_start": evaluates and not resumed,
        "resume_from_checkpoint": None,  # which `run` tells the trainer
    }
    try:
        return TrainingArguments(**{**of_job, **config.trainer_arguments, **of_machine})
    except (TypeError, ValueError) as error:
        fix = "correct hf_trainer_args in the finetune config, or the parameter"
        raise ModelError(f"The trainer refuses its settings: {error}.", where="hf_trainer_args", fix=fix) from error
