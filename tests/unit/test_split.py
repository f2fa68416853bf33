from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from phift.component.preprocessing import SPLITS
from phift.data.split import draw_split, units
from phift.errors import DataError

BOTH = {"validation": 0.1, "test": 0.1}


def draw(
    keys: list[int], strata: list[int] | None = None, shares: dict[str, float] = BOTH, seed: int = 42
) -> list[int]:
    given_strata = np.array(strata or [0] * len(keys))
    return list(draw_split(np.array(keys, np.uint64), given_strata, shares, seed))


@pytest.mark.parametrize(("rows", "validation", "test"), [(100, 10, 10), (11, 1, 1), (3, 1, 1), (1004, 100, 100)])
def test_the_counts_are_exact_where_all_rows_differ(rows: int, validation: int, test: int) -> None:
    chosen = draw(list(range(rows)))
    assert [chosen.count(index) for index in range(3)] == [rows - validation - test, validation, test]


def test_the_same_seed_gives_the_same_split_and_another_one_does_not() -> None:
    keys = list(range(1000))
    assert draw(keys) == draw(keys)
    assert draw(keys) != draw(keys, seed=43)


def test_the_split_is_promised_to_stay_the_same() -> None:
    """A new release, of numpy too, must not move rows from the test data to the training data."""
    chosen = draw(list(range(40)))
    assert [row for row in range(40) if chosen[row] == 1] == VALIDATION
    assert [row for row in range(40) if chosen[row] == 2] == TEST


VALIDATION = [6, 10, 29, 32]
TEST = [4, 5, 21, 37]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(0, 2**32 - 1))
def test_equal_keys_stay_together_and_no_split_is_empty(keys: list[int], seed: int) -> None:
    if len(set(keys)) < 3:
        with pytest.raises(DataError, match="cannot be split 3 ways"):
            draw(keys, seed=seed)
        return
    chosen = draw(keys, seed=seed)
    assert set(chosen) == {0, 1, 2}
    where: dict[int, int] = {}
    for key, index in zip(keys, chosen, strict=True):
        assert where.setdefault(key, index) == index


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.sampled_from([0.05, 0.1, 0.25]))
def test_each_source_gives_its_share_to_within_a_row(sizes: list[int], share: float) -> None:
    strata = [number for number, size in enumerate(sizes) for _ in range(size)]
    assume(len(strata) > 1)
    chosen = np.array(draw(list(range(len(strata))), strata, {"test": share}))
    assert (chosen == SPLITS.index("test")).sum() == max(1, round(share * len(strata)))
    ends = np.cumsum([0, *sizes])
    for start, end in pairwise(ends):
        taken = (chosen[start:end] == 2).sum()
        assert abs(taken - share * (end - start)) <= 1.5  # rounded up to here, less rounded up to before; at least one


def test_a_source_of_a_hundred_rows_gives_ten_whatever_the_others_do() -> None:
    strata = [0] * 1000 + [1] * 100 + [2] * 500
    chosen = np.array(draw(list(range(1600)), strata))
    assert [int((chosen[np.array(strata) == source] == 1).sum()) for source in range(3)] == [100, 10, 50]


def test_sources_of_one_row_each_give_all_splits_their_share() -> None:
    chosen = draw(list(range(200)), list(range(200)))
    assert [chosen.count(index) for index in range(3)] == [160, 20, 20]


def test_units_are_linked_over_others() -> None:
    groups, keys = np.array([1, 1, 2, 3, 3, 4], np.uint64), np.array([9, 8, 8, 7, 9, 6], np.uint64)
    assert list(units(groups, keys)) == [0, 0, 0, 0, 0, 5]


def test_large_groups_come_near_the_share() -> None:
    keys = [row // 7 for row in range(7000)]
    chosen = draw(keys)
    assert abs(chosen.count(1) - 700) <= 4
    assert abs(chosen.count(2) - 700) <= 7
