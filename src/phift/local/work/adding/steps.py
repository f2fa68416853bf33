"""The way from a source to a model folder of the registry, a step at a time, each with the time that it may take."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from phift.component import finetune_config
from phift.component.finetune_config import FinetuneConfig
from phift.errors import ModelError
from phift.local.model import catalog
from phift.local.state.documents import Json
from phift.local.work.adding import weights
from phift.local.work.adding.chat import Chat, read_chat
from phift.local.work.adding.folder import open_folder
from phift.local.work.adding.gguf import open_gguf
from phift.local.work.adding.hub import fetch
from phift.local.work.adding.source import Source
from phift.local.work.adding.weights import Skeleton

Tell = Callable[[dict[str, object]], None]

_SMALL = 4 << 30  # bytes that anything but the weights may take
_PACE = 10_000_000  # bytes a second at least, of a slow disk and a busy processor
_OF_CONTENT = ("*.json", "*.jinja", "*.model", "*.txt")
_TEMPLATE_SECONDS = 30


def add(asked: Mapping[str, Any], tell: Tell) -> Json:
    """Read the source, and write the model to ``asked["folder"]``; returns what there is to say of it.

    Raises `phift.errors.ModelError` with what is wrong with it. Where ``asked["known"]`` has its content already, it is
    ``{"same": version}``.
    """

    def begin(doing: str, seconds: float) -> None:
        tell({"doing": doing, "seconds": seconds})

    weights.limit_memory(_SMALL)
    path = fetch(asked["source"], begin) if asked["hub"] else Path(asked["source"])
    begin("its files' headers", 300)
    source = _opened(path)
    begin("a hash of its files", 60 + source.size / _PACE)
    content = _content(path, source, asked)
    if content in asked["known"]:
        return {"same": asked["known"][content]}
    begin("its configuration", 180)
    skeleton = weights.build_skeleton(source)
    weights.check_room(skeleton, source, Path(asked["folder"]))
    said = f"{skeleton.architecture}, {skeleton.parameters:,} parameters, {source.size / 1e6:,.0f} MB in {source.dtype}"
    if source.gguf:
        said += f"; in 32 bits, as it is trained, {skeleton.saved / 1e6:,.0f} MB"
    tell({"say": said})
    begin("its tokenizer", 300)
    tokenizer = AutoTokenizer.from_pretrained(
        source.tokenizer, trust_remote_code=False, local_files_only=True, **source.loading
    )
    begin("its chat template", _TEMPLATE_SECONDS)
    document = finetune_config.read(path / finetune_config.FILE_NAME) if path.is_dir() else {}
    own = FinetuneConfig.of(document)
    for key in ("hf_trainer_args", "load_model_kwargs"):
        if document.get(key):
            tell({"say": f"of its {finetune_config.FILE_NAME}, {key} is left behind"})
    tokenizer.chat_template = own.chat_template or tokenizer.chat_template
    system = asked["system_role_supported"]
    chat = read_chat(
        tokenizer,
        asked["response_template"] or own.response_template,
        asked["instruction_template"] or own.instruction_template,
        own.system_role_supported if system is None and "system_role_supported" in document else system,
        prove=not (asked["response_template"] and asked["instruction_template"]),
    )
    if chat.warning:
        tell({"say": chat.warning})
    ids = tokenizer.encode("".join(text for text, _ in chat.example), add_special_tokens=False)
    targets = _targets(asked["lora_targets"] or own.lora_target_modules, skeleton)
    begin("its weights", 300 + 10 * skeleton.needed / _PACE)
    weights.limit_memory(max(_SMALL, 2 * skeleton.needed))
    model = weights.load(source, skeleton, ids)
    begin("writing it", 300 + 10 * skeleton.saved / _PACE)
    folder = Path(asked["folder"]) / catalog.MODEL
    weights.save(model, tokenizer, chat.end, folder, asked["name"])
    markers = {"response_template": chat.response, "instruction_template": chat.instruction}
    config = {
        "chat_special_tokens": markers,
        "system_role_supported": str(chat.system).lower(),
        "lora_target_modules": targets,
    }
    (folder / finetune_config.FILE_NAME).write_text(json.dumps(config, indent=2), encoding="utf-8")
    return _about(asked, source, skeleton, chat, targets, content)


def _opened(path: Path) -> Source:
    if path.is_dir():
        return open_folder(path)
    if not path.is_file():
        raise ModelError("There is no such file or folder.", where=str(path), fix="check the path")
    if path.suffix.lower() == ".gguf":
        return open_gguf(path)
    what = f"A {path.suffix or 'file without an ending'} is no model that can be taken."
    raise ModelError(what, where=str(path), fix="give a folder as transformers saves it, or a .gguf file")


def _content(path: Path, source: Source, asked: Mapping[str, Any]) -> str:
    """Return a hash of all that decides what becomes of a source."""
    more = {file for place in {source.weights, source.tokenizer} for glob in _OF_CONTENT for file in place.glob(glob)}
    more.add(path / finetune_config.FILE_NAME)  # of an MLflow model, it is beside the weights' folder
    files = sorted({*source.files, *(() if source.gguf else more)})
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            with file.open("rb") as opened:
                digest.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    given = ("response_template", "instruction_template", "system_role_supported", "lora_targets", "license")
    digest.update(json.dumps([asked[name] for name in given]).encode())
    return digest.hexdigest()


def _targets(given: str | list[str], skeleton: Skeleton) -> list[str]:
    if given == "all-linear":
        return list(skeleton.linear)
    names = [given] if isinstance(given, str) else given
    for name in names:
        if name not in skeleton.linear:
            what = f"The model has no linear layers {name}."
            raise ModelError(what, where="LoRA targets", fix=f"name some of {', '.join(skeleton.linear)}")
    return list(names)


def _about(
    asked: Mapping[str, Any], source: Source, skeleton: Skeleton, chat: Chat, targets: list[str], content: str
) -> Json:
    """Return the metadata, in the form of the registry's own models and with what those do not have."""
    license_ = asked["license"] or source.license
    pattern = next(each for each in catalog.foundation_models() if each["systemMetadata"])
    advice = {"apply_lora": "true", "apply_deepspeed": "false", "precision": 16, "learning_rate": "2e-4"}
    tags = {
        "task": "chat-completion",
        "model_specific_defaults": advice,
        "phift.content": content,
        **({"license": license_} if license_ else {}),
        **({"phift.shape": json.dumps(skeleton.shape)} if skeleton.shape else {}),
    }
    return {
        "description": f"{skeleton.architecture} of {skeleton.parameters:,} parameters, added by the user.",
        "tags": tags,
        "properties": {},
        # Where it may be trained: the local workspace's GPUs are names.
        "systemMetadata": pattern["systemMetadata"],
        "added": {
            "source": f"{asked['source']}, revision {source.weights.name}" if asked["hub"] else asked["source"],
            "architecture": skeleton.architecture,
            "parameters": skeleton.parameters,
            "dtype": source.dtype,
            "size": sum(file.stat().st_size for file in Path(asked["folder"]).rglob("*") if file.is_file()),
            "context": skeleton.context,
            "license": license_,
            "response_template": chat.response,
            "instruction_template": chat.instruction,
            "system_role_supported": chat.system,
            "lora_targets": targets,
            "example": [list(part) for part in chat.example],
            "content": content,
        },
    }
