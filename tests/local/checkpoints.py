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


def write_gguf(file: Path, *, architecture: str = "llama", template: str | None = "", quantized: bool = False) -> Path:
    """Write a model of Llama's shape as llama.cpp keeps it, and return the file.

    - **quantized**: in blocks of 8 bits, where a matrix is wide enough.
    """
    import gguf

    own, torso = tokenizer("llama", template), model("llama")
    config, state = torso.config, torso.state_dict()
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_license("mit")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    bpe = json.loads(_bpe(SPECIALS["llama"]))
    tokens = own.convert_ids_to_tokens(range(len(own)))
    tokens += [f"<unused{at}>" for at in range(config.vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIALS["llama"] else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in bpe["model"]["merges"]])
    writer.add_bos_token_id(own.bos_token_id)
    writer.add_eos_token_id(own.eos_token_id)
    if own.chat_template:
        writer.add_chat_template(own.chat_template)
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for layer in range(config.num_hidden_layers):
        names |= {f"model.layers.{layer}.{ours}": f"blk.{layer}.{theirs}" for ours, theirs in parts.items()}
    for ours, theirs in names.items():
        weights = state[f"{ours}.weight"].numpy()
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(theirs.split(".")[-1])
        if heads:  # llama.cpp turns positions in another order
            half = weights.shape[0] // heads // 2
            weights = weights.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weights.shape)
        kind = gguf.GGMLQuantizationType.Q8_0
        if quantized and weights.ndim == 2:
            writer.add_tensor(f"{theirs}.weight", gguf.quantize(weights, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{theirs}.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
