"""Batches without padding: rows lie end to end, none sees another, and logits are made only where there is a label.

A row gives what it gives by itself, in any model whose attention is handed what the model is called with. Whether a
model is one, and its logits are what its head gives, no name tells: two rows are tried (`packed`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, groupby
from typing import Any

import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from phift.local.work.engine.preprocess import IGNORED

Example = Mapping[str, list[int]]

_ATTENTION = "phift_packed"
_NOISE = 1e-3  # a hundred times what the order of sums changes, and less than what a row that sees another one does


def pack(examples: Sequence[Example]) -> dict[str, Any]:
    """Return a batch as one row, the shortest example first, and how many there are of each length."""
    rows = sorted(examples, key=lambda example: len(example["input_ids"]))
    lengths = [len(row["input_ids"]) for row in rows]
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
        # No token says the first one of a row, least of all the last one of the row before.
        "labels": torch.tensor([[label for row in rows for label in chain([IGNORED], row["labels"][1:])]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "rows": [(length, len(list(same))) for length, same in groupby(lengths)],
    }


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    rows: Sequence[tuple[int, int]] = (),
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Let each row attend to itself, those of one length together; takes (1, heads, tokens, width)."""
    rows = rows or [(query.shape[2], 1)]  # one alone
    sizes = [length * count for length, count in rows]
    found = []
    by_length = (torch.split(each, sizes, 2) for each in (query, key, value))
    for (length, count), *parts in zip(rows, *by_length, strict=True):
        # (rows, heads, length, width)
        query_, key_, value_ = (part[0].unflatten(1, (count, length)).transpose(0, 1) for part in parts)
        window = None
        if sliding_window and length > sliding_window:
            before = torch.arange(length, device=query.device)
            before = before[:, None] - before
            window = (before >= 0) & (before < sliding_window)
        attended = scaled_dot_product_attention(
            query_,
            key_,
            value_,
            attn_mask=window,
            dropout_p=dropout,
            is_causal=window is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        found.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(found)[None], None


AttentionInterface.register(_ATTENTION, _attend)


def _forward(
    own: Callable[..., Any], model: PreTrainedModel, *, labels: torch.Tensor | None = None, **inputs: Any
) -> Any:
    """Return the loss alone, as the model's ``own`` forward does: the mean over the labels, or over as many as told."""
    if labels is None:  # somebody wants the logits
        return own(**inputs)
    count = inputs.pop("num_items_in_batch", None)
    hidden = model.base_model(**inputs | {"return_dict": True}).last_hidden_state
    labels = labels[..., 1:].flatten()
    labelled = (labels != IGNORED).nonzero()[:, 0]
    logits = model.get_output_embeddings()(hidden[..., :-1, :].flatten(0, -2).index_select(0, labelled))
    loss = cross_entropy(logits.float(), labels.index_select(0, labelled), reduction="sum")
    return {"loss": loss / (len(labelled) if count is None else count)}


@contextmanager
def packed(model: PreTrainedModel, examples: Sequence[Example]) -> Iterator[bool]:
    """Make ``model`` take packed batches, and no logits without a label, as far as that changes nothing it gives.

    Yields whether batches may be packed: whether the shortest and the longest example give together what each gives
    alone. Afterwards the model is as it was.
    """
    own, attention = model.forward, model.config._attn_implementation
    ends = [choose(examples, key=lambda example: len(example["input_ids"])) for choose in (min, max)]
    model.eval()
    alone = torch.cat([_hidden(model, [end]) for end in ends])
    model.set_attn_implementation(_ATTENTION)
    together = _hidden(model, ends) if _takes_more(model) else alone * torch.nan
    takes = bool((torch.linalg.vector_norm(together - alone, dim=-1) <= _NOISE * alone.norm(dim=-1)).all())
    if not takes:
        model.set_attn_implementation(attention)
    batch = {name: part.to(model.device) for name, part in pack(ends[:1]).items() if name != "rows"}
    with torch.no_grad():
        theirs, ours = own(**batch)["loss"].item(), _forward(own, model, **batch)["loss"].item()
    if math.isclose(theirs, ours, rel_tol=_NOISE):
        model.forward = partial(_forward, own, model)
    try:
        yield takes
    finally:
        vars(model).pop("forward", None)
        model.set_attn_implementation(attention)


def _takes_more(model: PreTrainedModel) -> bool:
    named = inspect.signature(model.base_model.forward).parameters.values()
    return any(each.kind is each.VAR_KEYWORD for each in named) and any(each.name == "position_ids" for each in named)


@torch.no_grad()
def _hidden(model: PreTrainedModel, examples: Sequence[Example]) -> torch.Tensor:
    """Return what the head gets for each token, (tokens, width), of a row alone or of several packed."""
    batch = pack(examples)
    known = ("input_ids",) if len(examples) == 1 else ("input_ids", "position_ids", "rows")
    given = {name: each.to(model.device) if torch.is_tensor(each := batch[name]) else each for name in known}
    hidden: torch.Tensor = model.base_model(**given, return_dict=True).last_hidden_state[0]
    return hidden
