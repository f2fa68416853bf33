"""GGUF files, read by the package of that name: what the header says, held against the file and transformers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from phift.errors import MissingDependency, ModelError
from phift.local.work.adding.folder import refuse_adapter
from phift.local.work.adding.source import Source

_MAGIC = b"GGUF"


def open_gguf(path: Path) -> Source:
    """Look at a GGUF file; raises `phift.errors.ModelError` with why it cannot be taken."""
    where, anew = str(path), "download it anew"
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise ModelError("The file does not begin as a GGUF file does.", where=where, fix=anew)
    refuse_adapter(path.parent)
    try:
        from gguf import GGUFReader
    except ImportError as error:
        what = "Reading a GGUF file needs the package gguf, which is not installed."
        raise MissingDependency(what, where=where, fix="pip install 'gguf>=0.10'") from error
    try:
        reader = GGUFReader(path)
    except MemoryError:
        raise
    except Exception as error:  # numpy's and struct's, and its own ValueError
        what = f"The GGUF file cannot be read; it is cut off or broken ({type(error).__name__})."
        raise ModelError(what, where=where, fix=anew) from error
    end = max((int(each.data_offset) + int(each.n_bytes) for each in reader.tensors), default=0)
    if (length := path.stat().st_size) < end or not reader.tensors:
        what = f"The file is cut off: its header says {end:,} bytes, and it has {length:,}."
        raise ModelError(what, where=where, fix=anew)
    architecture = str(_value(reader, "general.architecture") or "")
    _check_readable(architecture, where)
    if int(_value(reader, "split.count") or 1) > 1:
        what = "This is one of several files of a model."
        raise ModelError(what, where=where, fix="put them together with llama.cpp: llama-gguf-split --merge")
    types: Counter[str] = Counter()
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] += int(tensor.n_elements)
    most = max(types, key=lambda each: types[each])
    size, named = sum(int(each.n_bytes) for each in reader.tensors), str(_value(reader, "general.license") or "")
    folder = path.parent
    return Source(
        where, folder, folder, path.name, (path,), {}, len(reader.tensors), types.total(), most, size, named[:60]
    )


def _check_readable(architecture: str, where: str) -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = sorted(set(GGUF_SUPPORTED_ARCHITECTURES) - {"general", "tokenizer"})
    # As its `load_gguf_checkpoint` does, which takes these for others (transformers 5.23, 2026-11).
    if not any(architecture == each or architecture.replace("moe", "_moe") == each for each in known):
        what = (
            f"transformers cannot read GGUF files of the architecture {architecture or 'that this one does not name'}."
        )
        raise ModelError(what, where=where, fix=f"it reads {', '.join(known)}; or use the model's folder")


def _value(reader: Any, key: str) -> Any:
    field = reader.fields.get(key)
    return field.contents() if field is not None else None
