"""The split: which rows become training, validation and test data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from phift.component.preprocessing import SPLITS
from phift.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def draw_split(
    keys: npt.NDArray[np.uint64], strata: npt.NDArray[np.int64], shares: Mapping[str, float], seed: int
) -> npt.NDArray[np.int8]:
    """Return the index in ``SPLITS`` of each row, drawn with a seed: the same rows and seed give the same split.

    Rows with equal keys stay together, so no conversation is in two splits. Where all keys differ, each split has
    ``round(share * rows)`` rows, at least one, and each stratum gives its share of them, to within one row.

    - **keys**: one for each row.
    - **strata**: the number of the source that each row is from, not falling.
    - **shares**: of all rows, for the splits to be drawn; the rest is training data.

    Raises `phift.errors.DataError` where there are fewer different keys than splits.
    """
    import numpy as np

    _, first, unit, sizes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    if len(first) <= len(shares):
        what = f"{len(keys)} rows, {len(first)} of them different, cannot be split {len(shares) + 1} ways."
        raise DataError(what, where="data.split", fix="give more rows, or validation and test data of their own")
    # Of numpy's generators this one is promised to stay the same from version to version.
    lots = np.random.RandomState(seed % 2**32).random_sample(len(first))
    appears = np.zeros(len(keys), np.bool_)
    appears[first] = True
    ticket = lots[np.cumsum(appears)[first] - 1]
    order = np.lexsort((ticket, strata[first]))
    chosen = np.zeros(len(first), np.int8)
    # The first units of each stratum go to the splits, as long as more than half of a unit is still wanted.
    sizes, ordered = sizes[order], strata[first][order]
    bounds = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
    seen, given = 0, dict.fromkeys(shares, 0)  # rows of earlier strata: what they gave too little the next ones give
    for start, end in zip(bounds, [*bounds[1:], len(order)], strict=True):
        rows = int(sizes[start:end].sum())
        middles = np.cumsum(sizes[start:end]) - sizes[start:end] / 2
        taken = 0
        for split, share in shares.items():
            due = max(1, round(share * (seen + rows))) if seen + rows else 0
            wanted = max(0, due - given[split])
            inside = (middles > taken) & (middles <= taken + wanted)
            chosen[order[start:end][inside]] = SPLITS.index(split)
            given[split] += int(sizes[start:end][inside].sum())
            taken += wanted
        seen += rows
    for index in map(SPLITS.index, shares):
        if not (chosen == index).any():  # between large groups it got nothing: one unit of the training data
            chosen[next(unit for unit in order if chosen[unit] == 0)] = index
    return chosen[unit.reshape(-1)]


def units(*kinds: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return a number for each row, equal for rows that are linked by equal numbers of any kind, over others too.

    - **kinds**: each with a number for each row, such as of its group and of its conversation.
    """
    import numpy as np

    columns = [np.unique(kind, return_inverse=True)[1].reshape(-1) for kind in kinds]
    least = np.arange(len(kinds[0]), dtype=np.uint64)
    while True:
        before = least
        for column in columns:
            of_number = np.full(column.max() + 1, len(column), np.uint64)
            np.minimum.at(of_number, column, least)
            least = of_number[column]
        if (least == before).all():
            return least
