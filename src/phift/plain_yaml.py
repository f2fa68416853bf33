"""YAML that somebody else has written, as plain values."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

MOST = 1_000_000
"""Values of a document, those behind an alias or a merge key counted each time that it stands there."""


def load(text: str | bytes) -> Any:
    """Return what ``yaml.safe_load`` does, if it is no more than `MOST`: ten lines of aliases stand for 10^9 values.

    Raises ``ValueError`` where it is more, and whatever the loader does.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST:
            raise ValueError(f"it stands for more than {MOST:,} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: Any, known: dict[Any, float]) -> float:
    if node not in known:
        known[node] = math.inf  # of one that holds itself
        parts = () if isinstance(node.value, str) else node.value
        pairs = parts and isinstance(parts[0], tuple)
        known[node] = 1 + sum(_size(part, known) for part in (chain.from_iterable(parts) if pairs else parts))
    return known[node]
