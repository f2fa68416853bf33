"""Packed batches give what padded ones do: the loss, and every gradient."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from phift.local.work.engine.finetune import collate
from phift.local.work.engine.packing import Example, pack, packed
from phift.local.work.engine.preprocess import IGNORED

VOCABULARY = 61
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"]
SHAPES: dict[str, dict[str, Any]] = {
    "phi3": {},
    "phi3, a window": {"sliding_window": 5},
    "llama, tied": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2": {"num_key_value_heads": 2},
    "qwen2, a window in one layer": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
}


def model_of(shape: str, more: Mapping[str, Any] | None = None) -> PreTrainedModel:
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        shape.partition(",")[0],
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        **{"num_key_value_heads": 4, "pad_token_id": 0, **SHAPES.get(shape, {}), **(more or {})},
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64)


def examples(lengths: list[int]) -> list[Example]:
    drawn = random.Random(1)  # noqa: S311 - no secret
    found: list[Example] = []
    for length in lengths:
        ids = [drawn.randrange(1, VOCABULARY) for _ in range(length)]
        labels = [token if at > length // 2 else IGNORED for at, token in enumerate(ids)]
        found.append({"input_ids": ids, "labels": labels})
    found[0] = {**found[0], "labels": found[0]["input_ids"]}  # a label for the first token, too, which nothing predicts
    return found


ROWS = examples([9, 4, 12, 9, 7, 4, 4])


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return found


# peft 0.21 asks transformers 5.23 by a name that is going, and warns of heads that are tied, which is what is tried.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer:UserWarning")
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [None, 50], ids=["mean", "accumulated"])
def test_gradients_are_those_of_padded_rows(shape: str, lora: bool, count: int | None) -> None:
    inner = model_of(shape)
    model: Any = inner
    if lora:
        config = LoraConfig(r=4, target_modules=[*LINEAR, "lm_head"], init_lora_weights=False)
        model = get_peft_model(inner, config).double()
    more = {} if count is None else {"num_items_in_batch": count}
    padded = model(**collate(ROWS, pad=0, length=0), **more)["loss"]
    padded.backward()
    expected = gradients(model)
    with packed(inner, ROWS) as takes:
        assert takes
        model.train()
        loss = model(**pack(ROWS), **more)
        assert list(loss) == ["loss"]  # and no logits
        loss["loss"].backward()
    assert loss["loss"].item() == pytest.approx(padded.item(), rel=1e-6)
    found = gradients(model)
    assert expected
    assert found.keys() == expected.keys()
    most = max(each.abs().max().item() for each in expected.values())
    difference = max((found[name] - expected[name]).abs().max().item() for name in expected)
    assert difference < 1e-6 * most


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")  # as the trainer does
def test_gradients_are_the_same_where_activations_are_computed_twice() -> None:
    model = model_of("phi3").train()
    model(**collate(ROWS, pad=0, length=0))["loss"].backward()
    expected = gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with packed(model, ROWS) as takes:
        assert takes
        model.train()(**pack(ROWS))["loss"].backward()
    found = gradients(model)
    assert all(torch.allclose(found[name], each, atol=1e-8) for name, each in expected.items())


def test_a_batch_lies_in_one_row_with_labels_but_for_first_tokens() -> None:
    batch = pack([{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [8, 9], "labels": [8, IGNORED]}])
    assert batch["input_ids"].tolist() == [[8, 9, 5, 6, 7]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, IGNORED, 6, 7]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert batch["rows"] == [(2, 1), (3, 1)]


@pytest.mark.parametrize(
    ("shape", "more", "takes", "loss_alone"),
    [
        ("granite", {"logits_scaling": 8.0}, True, False),
        ("gemma2", {"head_dim": 8, "attn_logit_softcapping": 0.1, "initializer_range": 0.3}, False, False),
        ("mamba", {"state_size": 4}, False, True),
        ("phi3", {"attention_dropout": 0.5}, True, True),
    ],
)
def test_a_model_of_another_kind_is_trained_as_it_can_be(
    shape: str, more: dict[str, Any], takes: bool, loss_alone: bool
) -> None:
    model = model_of(shape, more).eval()
    attention = model.config._attn_implementation
    expected = model(**collate(ROWS, pad=0, length=0))["loss"].item()
    with packed(model, ROWS) as found:
        assert found is takes
        given = model(**(pack(ROWS) if takes else collate(ROWS, pad=0, length=0)))
        assert (list(given) == ["loss"]) is loss_alone
        assert given["loss"].item() == pytest.approx(expected, rel=1e-6)
    assert model.config._attn_implementation == attention
    assert "logits" in model(**collate(ROWS, pad=0, length=0))


def test_logits_are_there_for_whoever_wants_them() -> None:
    """The trainer's label smoothing takes the labels away."""
    model = model_of("llama").eval()
    alone = model(input_ids=torch.tensor([ROWS[0]["input_ids"]]))["logits"][0]
    with packed(model, ROWS) as takes:
        assert takes
        batch = pack([ROWS[0]])
        del batch["labels"]
        assert torch.allclose(model(**batch)["logits"][0], alone)
