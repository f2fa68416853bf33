"""Small checkpoints of well-known architectures, each with a tokenizer and a chat template of its family's kind."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from phift import samples

Family = Literal["llama", "phi3", "qwen2"]
FAMILIES: tuple[Family, ...] = ("llama", "phi3", "qwen2")
SPECIALS = {
    "llama": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "phi3": ("<s>", "<|endoftext|>", "<|assistant|>", "<|end|>", "<|system|>", "<|user|>"),
    "qwen2": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
}
ENDS = {"llama": "<|eot_id|>", "phi3": "<|endoftext|>", "qwen2": "<|im_end|>"}
# In the form of each family's own, in our words.
TEMPLATES = {
    "llama": "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "phi3": "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "qwen2": "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
}


@cache
def _bpe(specials: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [message["content"] for row in samples.rows()["train"] for message in row["messages"]]
    tokenizer.train_from_iterator([*texts, "user assistant system " * 9], trainer)
    return tokenizer.to_str()


def tokenizer(family: Family, template: str | None = "") -> PreTrainedTokenizerFast:
    """Return a family's tokenizer, with its own template, another or None."""
    specials = SPECIALS[family]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bpe(specials)),
        bos_token=specials[0],
        eos_token=ENDS[family],
        pad_token=specials[1] if family == "llama" else "<|endoftext|>",
        extra_special_tokens=list(specials),
        chat_template=TEMPLATES[family] if template == "" else template,
        model_max_length=512,
    )


def model(family: Family, **changes: Any) -> Any:
    """Return a model of two layers with random weights, the same each time."""
    own = tokenizer(family)
    shape = {
        "vocab_size": 704,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": own.bos_token_id,
        "eos_token_id": own.eos_token_id,
        "pad_token_id": own.pad_token_id,
        "tie_word_embeddings": family == "qwen2",
        **changes,
    }
    torch.manual_seed(7)
    kinds: dict[str, tuple[Any, Any]] = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "phi3": (Phi3Config, Phi3ForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    }
    config, kind = kinds[family]
    return kind(config(**shape))


def write(folder: Path, family: Family = "llama", *, template: str | None = "", **changes: Any) -> Path:
    """Save a checkpoint as transformers does, and return its folder."""
    model(family, **changes).save_pretrained(folder)
    tokenizer(family, template).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    return folder


def change(folder: Path, name: str = "config.json", **values: Any) -> None:
    """Change values of a JSON file of a checkpoint."""
    document = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**document, **values}))
