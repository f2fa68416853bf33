"""Stand-ins for the foundation models of Azure's registry: the same architecture, very small, untrained.

    python -m phift.local.work.standin OUT_FOLDER NAME [NAME…]

writes ``OUT_FOLDER/<name>/``, an MLflow model folder. The weights are random, drawn from a seed that the name gives:
the same name makes the same weights on every machine with the same torch. The tokenizer is byte-level BPE, so it takes
any text; its merges are learned from the sample data. The chat format is Phi-3's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from phift import samples
from phift.component import finetune_config
from phift.local.work.engine import models, process

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_END_OF_TEXT = "<|endoftext|>"
_SPECIAL_TOKENS = (_END_OF_TEXT, "<|assistant|>", "<|end|>", "<|system|>", "<|user|>")
_CONTEXT = 4096

_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('a role is none of system, user, assistant') -}}
{%- endif -%}
{{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' -}}
{%- endfor -%}
{{- '<|assistant|>\\n' if add_generation_prompt else eos_token -}}
"""


def build(folder: Path, name: str) -> Path:
    """Write the stand-in for the model ``name`` to ``folder/<name>``, all of it or nothing, and return that path."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as temporary:
        checkpoint, model = Path(temporary, "checkpoint"), Path(temporary, "model")
        write_checkpoint(checkpoint, name)
        models.write(checkpoint, model, {"base_model_name": name, "phift.standin": "true"})
        shutil.rmtree(folder / name, ignore_errors=True)
        return model.rename(folder / name)


def write_checkpoint(folder: Path, name: str) -> None:
    """Write tokenizer, weights and finetune config of the stand-in for ``name`` to ``folder``, as transformers does."""
    import torch
    from transformers import GenerationConfig, Phi3Config, Phi3ForCausalLM

    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    end_of_text, end_of_turn = tokenizer.convert_tokens_to_ids([_END_OF_TEXT, "<|end|>"])
    ends = {"bos_token_id": end_of_text, "pad_token_id": end_of_text}
    torch.manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]))
    shape = Phi3Config(
        vocab_size=-(-(len(tokenizer) + 1) // 64) * 64,  # room for the pad token that fine-tuning adds
        max_position_embeddings=_CONTEXT,
        original_max_position_embeddings=_CONTEXT,
        eos_token_id=end_of_text,
        tie_word_embeddings=False,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        **ends,
    )
    model = Phi3ForCausalLM(shape)
    answers = {"do_sample": False, "max_new_tokens": 256}
    model.generation_config = GenerationConfig(eos_token_id=[end_of_text, end_of_turn], **ends, **answers)
    model.save_pretrained(folder)
    markers = {"response_template": "<|assistant|>", "instruction_template": "<|user|>"}
    more = {"system_role_supported": "false"} if name.startswith("Phi-3") else {}
    config = json.dumps({"chat_special_tokens": markers, **more}, indent=2)
    (folder / finetune_config.FILE_NAME).write_text(config, encoding="utf-8")


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=list(_SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (message["content"] for row in samples.rows()["train"] for message in row["messages"])
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **dict.fromkeys(("bos_token", "eos_token", "pad_token"), _END_OF_TEXT),
        extra_special_tokens=list(_SPECIAL_TOKENS[1:]),
        chat_template=_CHAT_TEMPLATE,
        model_max_length=_CONTEXT,
        padding_side="left",
    )


if __name__ == "__main__":
    process.prepare()
    for name in sys.argv[2:]:
        build(Path(sys.argv[1]), name)
