"""A model of the Hugging Face Hub, downloaded into the Hub's own cache: safetensors and what is text, nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from phift.component.machine import available_memory
from phift.errors import ModelError

_SINGLE, _INDEX, _PARTS = "model.safetensors", "model.safetensors.index.json", "model-*.safetensors"
_TEXTS = ("*.json", "*.jinja", "*.txt", "tokenizer.model", "spiece.model", "README.md")
_SLOWEST = 500_000  # bytes a second
_ELSEWHERE = "check the id and the network; or give a folder or a .gguf file"


def fetch(name: str, begin: Callable[[str, float], None]) -> Path:
    """Return the folder of a model of the Hub; raises `phift.errors.ModelError` where it cannot be had.

    - **begin**: called with what it is at, and the seconds that it may take.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    begin("asking the Hugging Face Hub", 120)
    try:
        found = HfApi(library_name="phift").model_info(name, files_metadata=True, timeout=30)
    except Exception as error:  # many of many libraries; all say that there is nothing to be had
        what = f"The Hugging Face Hub does not give the model {name} ({type(error).__name__})."
        raise ModelError(what, where=name, fix=_ELSEWHERE) from error
    sizes = {file.rfilename: file.size or 0 for file in found.siblings or () if "/" not in file.rfilename}
    # Not others: some have all weights once more, in consolidated.safetensors.
    stored = _SINGLE if _SINGLE in sizes or _INDEX not in sizes else _PARTS
    wanted = [each for each in sizes if any(PurePosixPath(each).match(glob) for glob in (stored, *_TEXTS))]
    weights = sum(sizes[each] for each in wanted if PurePosixPath(each).match(stored))
    if not weights:
        what = f"The model {name} has no safetensors that transformers loads: {_SINGLE}, or {_PARTS} and their index."
        raise ModelError(what, where=name, fix="use a copy that has; pickles and other code are not taken")
    memory, size = available_memory(), sum(sizes[each] for each in wanted)
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    if (memory is not None and weights > memory) or size > shutil.disk_usage(cache).free:
        what = (
            f"The model {name} has {weights / 1e9:,.1f} GB of weights; this machine has {(memory or 0) / 1e9:,.1f} GB"
        )
        what += f" of memory and {shutil.disk_usage(cache).free / 1e9:,.1f} GB of disk free."
        raise ModelError(what, where=name, fix="use a smaller one")
    begin("downloading it from the Hugging Face Hub", 300 + size / _SLOWEST)
    try:
        folder = snapshot_download(name, revision=found.sha, allow_patterns=wanted)
    except Exception as error:
        what = f"The model {name} could not be downloaded ({type(error).__name__})."
        raise ModelError(what, where=name, fix="try again: it goes on where it broke off") from error
    constants.HF_HUB_OFFLINE = True  # nothing more is asked of it from here on
    return Path(folder)
