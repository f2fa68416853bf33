"""Weights: what its configuration makes of a model, whether the machine has room for it, and whether the files fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from phift.component.machine import available_memory
from phift.errors import ModelError
from phift.local.work.adding.source import CONFIG, Source, read_json
from phift.local.work.engine import models, process

_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16}  # all others become 32 bits
_BESIDES = 1_500_000_000  # bytes of a process with torch, transformers and MLflow, and of what is between two steps
_SHAPE = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
    "max_positions": "max_position_embeddings",
}


@dataclass(frozen=True)
class Skeleton:
    """A model as its configuration describes it, without its weights.

    - **shape**: what `phift.check.memory.ModelShape` wants to know; None where the configuration does not say it.
    - **linear**: the names of its linear layers, but for the head.
    - **saved**: bytes of its weights here. **needed**: bytes of memory to get there.
    """

    config: Any
    architecture: str
    parameters: int
    dtype: torch.dtype
    shape: dict[str, int] | None
    linear: tuple[str, ...]
    context: int
    saved: int
    needed: int


def build_skeleton(source: Source) -> Skeleton:
    """Make the model of a source's configuration without weights, and hold it against the files' headers.

    Raises `phift.errors.ModelError` where it is none that answers, where transformers does not know it, or where the
    weights do not fit.
    """
    if not source.gguf:
        _check_known(source)
    config = AutoConfig.from_pretrained(
        source.weights, trust_remote_code=False, local_files_only=True, **source.loading
    )
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    said = list(config.architectures or [])
    if known is None or (said and known not in said) or config.is_encoder_decoder:
        what = f"{', '.join(said) or config.model_type} is no causal language model, so it cannot answer."
        raise ModelError(what, where=source.where, fix="use a model for text generation, such as an instruct model")
    layers = getattr(config, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > source.tensors:  # they would be made one by one, if only as names
        what = f"The weights do not fit {CONFIG}, which says {layers:,} layers: there are {source.tensors:,} tensors."
        raise ModelError(what, where=source.where, fix="copy the model's own config.json beside its weights")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in source.shapes.items():
        if expected.get(name, shape) != shape:
            what = f"The weights do not fit {CONFIG}: {name} is {shape}, and {expected[name]} by the configuration."
            raise ModelError(what, where=source.where, fix="copy the model's own config.json beside its weights")
    parameters = sum(each.numel() for each in model.parameters())
    dtype = torch.float32 if source.gguf else _TYPES.get(source.dtype, torch.float32)
    largest = max(parameters, source.values)
    saved = largest * dtype.itemsize
    head = model.get_output_embeddings()
    linear = dict.fromkeys(
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    )
    numbers = {ours: getattr(config, theirs, None) for ours, theirs in _SHAPE.items()}
    numbers["kv_heads"] = numbers["kv_heads"] or numbers["heads"]
    whole = {"parameters": parameters, **{key: value for key, value in numbers.items() if type(value) is int}}
    return Skeleton(
        config=config,
        architecture=str(known),
        parameters=parameters,
        dtype=dtype,
        shape=whole if len(whole) > len(numbers) else None,
        linear=tuple(linear),
        context=int(numbers["max_positions"] or 0),
        saved=saved,
        # transformers makes all of a GGUF file's numbers anew before it puts them into the model (5.23, 2026-11).
        needed=saved * (2 if source.gguf else 1) + _BESIDES,
    )


def _check_known(source: Source) -> None:
    document = read_json(source.weights / CONFIG)
    kind = document.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING_NAMES:
        return
    fix = "use a model of an architecture that transformers has"
    if "auto_map" in document:
        what = f"The architecture {kind or 'of this model'} is code that comes with the model, and none is run here."
        raise ModelError(what, where=source.where, fix=fix)
    what = f"transformers does not know the architecture {kind!r} that {CONFIG} names."
    raise ModelError(what, where=source.where, fix=fix)


def check_room(skeleton: Skeleton, source: Source, folder: Path) -> None:
    """Raise `phift.errors.ModelError` where memory or disk do not suffice, with the numbers."""
    lora, whole = 4 * skeleton.parameters + _BESIDES, 16 * skeleton.parameters + _BESIDES
    what = (
        f"It has {skeleton.parameters:,} parameters, {_gb(source.size)} in {source.dtype} in its files; reading it"
        f" takes {_gb(skeleton.needed)} of memory, training it at least {_gb(lora)} with LoRA and {_gb(whole)} without"
    )
    available = available_memory()
    if available is not None and max(skeleton.needed, lora) > available:
        what = f"The model is too large for this machine. {what}, and {_gb(available)} are available."
        raise ModelError(what, where=source.where, fix="use a smaller one, close other programs, or a larger machine")
    free = shutil.disk_usage(folder).free
    if skeleton.saved > free * 0.95:
        what = f"There is no room for the model: it takes {_gb(skeleton.saved)}, and the disk has {_gb(free)}."
        raise ModelError(what, where=str(folder), fix="make room, or set PHIFT_LOCAL_HOME to a folder on another disk")


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def limit_memory(more: int) -> None:
    """Let this process take only so many more bytes of data; Linux alone holds it to that."""
    if (taken := process.taken_memory()) is None:
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = taken + more if hard == resource.RLIM_INFINITY else min(taken + more, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def load(source: Source, skeleton: Skeleton, ids: Sequence[int]) -> Any:
    """Read the weights, and try the model on some tokens; raises `phift.errors.ModelError` where it is broken."""
    where, anew = source.where, "copy or download it anew"
    model, info = AutoModelForCausalLM.from_pretrained(
        source.weights,
        config=skeleton.config,  # else a GGUF file's header would be read once more, which takes seconds
        dtype=skeleton.dtype,
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
        **(source.loading or {"use_safetensors": True}),
    )
    if missing := sorted(info["missing_keys"]):
        what = f"{len(missing)} of the weights are missing, such as {missing[0]}."
        raise ModelError(what, where=where, fix=f"save it as {skeleton.architecture}, with all of its weights")
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            raise ModelError(f"The weights {name} hold numbers that are none (NaN or infinite).", where=where, fix=anew)
    rows = model.get_input_embeddings().weight.shape[0]
    if max(ids) >= rows:
        what = f"The tokenizer has the token {max(ids)}, and the model knows {rows}: they are not of one model."
        raise ModelError(what, where=where, fix="use the model's own tokenizer")
    _check_causal(model.eval(), list(ids[:8]), where)
    # What it was before, and code that nobody runs.
    for holder, name in ((model.config, "quantization_config"), (model, "hf_quantizer"), (model.config, "auto_map")):
        if hasattr(holder, name):
            delattr(holder, name)
    return model


def _check_causal(model: Any, ids: list[int], where: str) -> None:
    changed = [*ids[:-1], next(each for each in ids if each != ids[-1])]
    with torch.inference_mode():
        logits, other = (model(torch.tensor([each])).logits[0].float() for each in (ids, changed))
    if not torch.isfinite(logits).all():
        raise ModelError("The model computes numbers that are none (NaN).", where=where, fix="download it anew")
    before, last = (logits[part].sub(other[part]).abs().max() for part in (slice(-1), slice(-1, None)))
    if before > last / 1000:
        what = "The model is an encoder: what it says of a word depends on the words after it."
        raise ModelError(what, where=where, fix="use a model for text generation")


def save(model: Any, tokenizer: Any, end: int | None, folder: Path, name: str) -> None:
    """Write the model to ``folder`` as an MLflow model, without what asks for code, and with what ends an answer."""
    old = model.generation_config
    ends = old.eos_token_id if isinstance(old.eos_token_id, list) else [old.eos_token_id]
    ends = [each for each in dict.fromkeys((*ends, tokenizer.eos_token_id, end)) if each is not None]
    pad = next((each for each in (tokenizer.pad_token_id, old.pad_token_id, *ends) if each is not None), None)
    # Many that are published hold values that do not go together, and cannot be saved.
    model.generation_config = GenerationConfig(
        eos_token_id=ends, bos_token_id=old.bos_token_id, pad_token_id=pad, do_sample=False, max_new_tokens=256
    )
    models.save(model, tokenizer, folder, {"base_model_name": name})
    for path in folder.glob("**/tokenizer_config.json"):
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("auto_map", None):
            path.write_text(json.dumps(document, indent=2), encoding="utf-8")
