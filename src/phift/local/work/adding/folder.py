"""A model's folder as transformers saves it, or as MLflow does: which files hold the weights, and what they say."""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

from phift.errors import ModelError
from phift.local.state.folder import UnsafePath, confined
from phift.local.work.adding.source import CONFIG, Source, read_json
from phift.local.work.engine.models import MlflowModel

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit (safetensors/src/tensor.rs, MAX_HEADER_SIZE, 0.5)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Keys of config.json that name files (transformers/configuration_utils.py and modeling_utils.py, 5.23, read 2026-11).
_OTHER_FILES = {"configuration_files", "transformers_weights"}
_SAVE = "save it with transformers: model.save_pretrained(folder) and tokenizer.save_pretrained(folder)"


def open_folder(folder: Path) -> Source:
    """Look at a folder; raises `phift.errors.ModelError` with why it cannot be taken."""
    tokenizer = folder
    if (folder / "MLmodel").is_file():
        refuse_adapter(folder / "peft")  # where MLflow keeps it (mlflow/transformers/peft.py, 3.15, read 2026-11)
        parts = MlflowModel.open(folder)
        folder, tokenizer = parts.weights, parts.tokenizer
    files = _weight_files(folder)
    config = read_json(folder / CONFIG)
    if others := sorted(_OTHER_FILES & config.keys()):
        what = f"By {others[0]} in {CONFIG}, transformers reads other files than those that are checked here."
        raise ModelError(what, where=str(folder / CONFIG), fix=_SAVE)
    if "quantization_config" in config:
        what = "The weights are quantized, which cannot be trained here."
        raise ModelError(what, where=str(folder), fix="use the model's own weights, in 16 or 32 bits, or a GGUF file")
    if not any((tokenizer / name).is_file() for name in TOKENIZER_FILES):
        what = f"There is no tokenizer: none of {', '.join(TOKENIZER_FILES)}."
        raise ModelError(what, where=str(tokenizer), fix="tokenizer.save_pretrained(folder)")
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: Counter[str] = Counter()
    size = 0
    for file in files:
        for name, (dtype, shape) in read_header(file).items():
            shapes[name] = shape
            dtypes[dtype] += prod(shape)
            size += prod(shape) * _BYTES[dtype]
    if not shapes:
        raise ModelError("The safetensors hold no weights.", where=str(folder), fix=_SAVE)
    most = max(dtypes, key=lambda dtype: dtypes[dtype])
    named = _license(folder / "README.md")
    return Source(str(folder), folder, tokenizer, "", files, shapes, len(shapes), dtypes.total(), most, size, named)


def refuse_adapter(folder: Path) -> None:
    """Raise `phift.errors.ModelError` where an adapter is in ``folder``.

    transformers loads it with the model beside it, or its base in the model's place, and then saves the adapter alone
    (`auto_factory.py` and `integrations/peft.py`, 5.23, read 2026-11).
    """
    if any(folder.glob("adapter_*")):
        what = "There is a LoRA adapter (adapter_*), and only a whole model can be added."
        fix = "merge it into its base first: peft.AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload()"
        fix += ".save_pretrained(merged); or, where the model beside it is meant, move the adapter elsewhere"
        raise ModelError(what, where=str(folder), fix=fix)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors of a folder; raises with what is there in their place."""
    refuse_adapter(folder)
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    # In transformers' own order, so that what is checked is what it loads (modeling_utils.py, 5.23, read 2026-11).
    if any(folder.glob("shard-*-model-*.safetensors")):
        what = "The weights are parts of a distributed checkpoint (shard-*-model-*.safetensors)."
        raise ModelError(what, where=str(folder), fix=_SAVE)
    if (folder / CONFIG).is_file() and single.is_file():
        return (single,)
    if (folder / CONFIG).is_file() and index.is_file():
        weight_map = read_json(index).get("weight_map")
        names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
        try:
            files = tuple(confined(folder, name) for name in names)
        except UnsafePath:  # a link within a folder of the Hub's cache leads out of it, and its name does not
            files = tuple(folder / name for name in names if re.fullmatch(r"[\w.-]+", name))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or len(files) != len(names) or not files:
            what = f"Weights are missing: {', '.join(missing[:3]) or index.name + ' names no file beside it'}."
            raise ModelError(what, where=str(index), fix="copy all files of the model")
        return files
    where = str(folder)
    if ggufs := sorted(folder.glob("*.gguf")):
        what = "The folder holds GGUF files."
        raise ModelError(what, where=where, fix=f"name one of them, such as {ggufs[0].name}")
    if not (folder / CONFIG).is_file():
        raise ModelError(f"There is no {CONFIG}, so this is no model.", where=where, fix=_SAVE)
    if pickles := sorted(path.name for each in _PICKLES for path in folder.glob(each)):
        what = f"Its weights are a pickle ({pickles[0]}), which is a program, and none is run here."
        fix = "convert them where you trust them: model.save_pretrained(folder), which writes safetensors"
        raise ModelError(what, where=where, fix=fix)
    raise ModelError("There are no weights: no model.safetensors.", where=where, fix=_SAVE)


def read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of each tensor of a safetensors file, and hold its length against its header.

    Eight bytes of length, that much JSON, then the numbers (huggingface/safetensors, README.md, format, read 2026-11).
    """
    fix = "copy or download it anew"
    length = file.stat().st_size
    with file.open("rb") as opened:
        first = opened.read(8)
        size = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 0 < size <= min(_LONGEST_HEADER, length - 8):
            raise ModelError("The file is cut off or no safetensors file.", where=str(file), fix=fix)
        try:
            header = json.loads(opened.read(size))
            found = {
                name: (str(entry["dtype"]), tuple(int(each) for each in entry["shape"]), int(entry["data_offsets"][1]))
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise ModelError("The header of the safetensors file cannot be read.", where=str(file), fix=fix) from None
    said = 8 + size + max((end for _, _, end in found.values()), default=0)
    if length < said:
        what = f"The file is cut off: its header says {said:,} bytes, and it has {length:,}."
        raise ModelError(what, where=str(file), fix=fix)
    for name, (dtype, shape, _) in found.items():
        if dtype not in _BYTES or any(each < 0 for each in shape):
            what = f"The weights {name} are of type {dtype}; only {', '.join(_BYTES)} can be trained."
            raise ModelError(what, where=str(file), fix="use weights in 16 or 32 bits")
    return {name: (dtype, shape) for name, (dtype, shape, _) in found.items()}


def _license(card: Path) -> str:
    """Return the license that a model card names in its first lines, or an empty text."""
    if not card.is_file():
        return ""
    with card.open(encoding="utf-8", errors="replace") as file:
        lines = file.read(100_000).splitlines()
    return next(_named(lines), "")


def _named(lines: list[str]) -> Iterator[str]:
    if lines[:1] != ["---"]:
        return
    for line in lines[1:]:
        if line == "---":
            return
        if found := re.fullmatch(r"license:\s*[\"']?([\w.-]{1,60})[\"']?\s*", line):
            yield found[1]
