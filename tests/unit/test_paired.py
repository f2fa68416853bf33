"""The statistics of paired scores, on scores of which the truth is known."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from phift.evaluation.metrics import METRICS, Metric
from phift.evaluation.paired import PairedResult, Scored, compare_scores

logger = logging.getLogger(__name__)

EXACT, F1, CHRF = METRICS.values()
LOSS = Metric(name="loss", score=lambda _answer, _reference: 0.0, higher_is_better=False, most=None)
Numbers = npt.NDArray[np.float64]


def said_of(metric: Metric, before: Any, after: Any, prompts: Any = None) -> PairedResult:
    (found,) = compare_scores([Scored(metric=metric, before=before, after=after)], prompts or range(len(before)))
    return found


# ---------------------------------------------------------------- against what is known


@pytest.mark.parametrize(("up", "down"), [(0, 1), (5, 0), (6, 0), (1, 9), (10, 3), (8, 8)])
def test_exact_match_is_mcnemars_exact_test(up: int, down: int) -> None:
    before, after = [0.0] * up + [1.0] * down + [1.0] * 7, [1.0] * up + [0.0] * down + [1.0] * 7
    found = said_of(EXACT, before, after)
    ways = sum(math.comb(up + down, count) for count in range(min(up, down) + 1)) / 2 ** (up + down)
    assert found.p == pytest.approx(min(1.0, 2 * ways))
    assert (found.improved, found.worsened, found.tied, found.n) == (up, down, 7, up + down + 7)
    assert found.verdict == ("cannot tell" if found.p > 0.05 else "better" if up > down else "worse")


def test_the_permutation_test_goes_through_all_signs_of_a_few() -> None:
    differences = np.array([0.3, -0.1, 0.25, 0.5, 0.15, 0.05, -0.2, 0.4])
    found = said_of(F1, np.zeros(8), differences)
    means = [np.dot(signs, np.abs(differences)) for signs in product((-1, 1), repeat=8)]
    assert found.p == pytest.approx(np.mean(np.abs(means) >= differences.sum() - 1e-12))


def test_the_permutation_test_of_many_is_near_the_one_of_all_signs() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(0.1, 0.3, 40)
    found = said_of(F1, np.zeros(40), differences)
    assert found.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.015)
    assert found == said_of(F1, np.zeros(40), differences)


def test_holm_takes_several_metrics_into_account() -> None:
    better, same = ([0.0] * 8 + [1.0], [1.0] * 9), ([1.0, 0.0] * 4 + [1.0], [0.0, 1.0] * 4 + [1.0])
    given = [(EXACT, better), (F1, same), (CHRF, same)]
    scored = [Scored(metric=metric, before=before, after=after) for metric, (before, after) in given]
    exact, f1, chrf = compare_scores(scored, range(9))
    assert (exact.p, exact.p_adjusted) == (2 / 2**8, 3 * 2 / 2**8)
    assert f1.p_adjusted == chrf.p_adjusted == 1.0
    assert exact.verdict == "better"


def test_the_interval_of_exact_match_is_that_of_bonett_and_price() -> None:
    up, down, rows = 9, 2, 50
    before = [0.0] * up + [1.0] * down + [1.0] * (rows - up - down)
    after = [1.0] * up + [0.0] * down + [1.0] * (rows - up - down)
    found = said_of(EXACT, before, after)
    one, other = (up + 1) / (rows + 2), (down + 1) / (rows + 2)
    half = stats.norm.ppf(0.975) * math.sqrt((one + other - (one - other) ** 2) / (rows + 2))
    assert found.interval == pytest.approx((one - other - half, one - other + half))
    assert found.interval_by == "adjusted Wald"


# ---------------------------------------------------------------- at the edges


@pytest.mark.parametrize("metric", [EXACT, F1, LOSS], ids=lambda metric: metric.name)
@pytest.mark.parametrize("rows", [1, 2, 5, 40])
@pytest.mark.parametrize("difference", [0.0, 1.0])
def test_rows_that_all_differ_by_the_same_amount_have_an_interval_or_say_that_there_is_none(
    metric: Metric, rows: int, difference: float
) -> None:
    found = said_of(metric, [0.0] * rows, [difference] * rows)
    assert found.difference == difference
    if metric is LOSS:
        assert (found.interval, found.interval_by) == (None, "none")
    else:
        assert found.interval is not None
        low, high = found.interval
        assert -1 <= low < high <= 1
        assert low <= difference <= high
    assert 0 < found.p <= 1
    told = "worse" if metric is LOSS else "better"
    assert found.verdict == (told if difference and rows == 40 else "cannot tell")


@pytest.mark.parametrize("differences", [[0.0, 0.0001, 0.00005], [-0.2, 0.1, 0.3, 0.2, -0.1]])
def test_a_loss_of_few_rows_has_an_interval_of_students(differences: list[float]) -> None:
    found = said_of(LOSS, [0.0] * len(differences), differences)
    wanted = stats.ttest_1samp(differences, 0).confidence_interval()
    assert found.interval_by == "t"
    assert found.interval == pytest.approx((wanted.low, wanted.high))


def test_few_rows_say_that_they_can_show_nothing() -> None:
    found = said_of(EXACT, [0.0] * 5, [1.0] * 5)
    assert (found.verdict, found.smallest_visible) == ("cannot tell", None)
    assert str(found) == "cannot tell at n = 5; so few can show no difference at all"
    assert said_of(EXACT, [0.0] * 6, [1.0] * 6).verdict == "better"  # 2 / 2**6 is below 5 %


def test_rows_without_any_difference_have_no_smallest_visible_of_zero() -> None:
    for metric in (EXACT, F1):
        found = said_of(metric, [1.0] * 100, [1.0] * 100)
        assert (found.p, found.verdict) == (1.0, "cannot tell")
        assert found.smallest_visible == pytest.approx(0.079, abs=0.002)  # eight of a hundred, all one way


@pytest.mark.parametrize("rows", [30, 100, 400])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_the_smallest_visible_difference_of_exact_match_is_seen_four_times_in_five(rows: int, share: float) -> None:
    from phift.evaluation.paired import _smallest_share

    rng, seen = np.random.default_rng(rows), 0
    smallest = _smallest_share(rows, share, 0.05)
    assert smallest is not None
    flips = smallest + (1 - smallest) * share
    for _ in range(2_000):
        up, down, _same = rng.multinomial(rows, [(flips + smallest) / 2, (flips - smallest) / 2, 1 - flips])
        seen += bool(up + down) and stats.binomtest(int(up), int(up + down)).pvalue <= 0.05
    assert seen / 2_000 == pytest.approx(0.8, abs=0.04)


def test_rows_with_one_prompt_are_one_witness() -> None:
    before, after = [0.0, 0.0, 1.0, 0.0] * 5, [1.0, 0.0, 1.0, 1.0] * 5
    found = said_of(F1, before, after, prompts=["a", "a", "b", "c"] * 5)
    assert (found.n, found.improved, found.tied) == (3, 2, 1)
    assert (found.before, found.after) == pytest.approx((1 / 3, (0.5 + 1 + 1) / 3))


def test_the_smallest_visible_difference_is_no_more_than_there_can_be() -> None:
    found = said_of(F1, [0.0, 1.0] * 4, [1.0, 0.0] * 4)
    assert (found.verdict, found.smallest_visible) == ("cannot tell", 1.0)


@pytest.mark.parametrize(
    ("metric", "rows", "difference", "said"),
    [
        (LOSS, 40, 0.0, "none differs, so how small a difference could be seen is not known"),
        (LOSS, 6, 0.3, "so few can show no difference at all"),
        (F1, 6, 0.3, "so few can show no difference at all"),
        (LOSS, 3, 0.0, "so few can show no difference at all"),
    ],
)
def test_where_rows_have_no_spread_no_smallest_visible_difference_is_made_up(
    metric: Metric, rows: int, difference: float, said: str
) -> None:
    same = Scored(metric=CHRF, before=[1.0] * rows, after=[1.0] * rows)
    found, _ = compare_scores(
        [Scored(metric=metric, before=[0.0] * rows, after=[difference] * rows), same], range(rows)
    )
    assert found.smallest_visible is None
    assert str(found) == f"cannot tell at n = {rows}; {said}"


def test_rows_that_all_differ_by_the_same_amount_do_not_say_that_no_difference_is_too_small() -> None:
    found = said_of(LOSS, [0.0] * 40, [0.3] * 40)
    assert (found.verdict, found.can_show, found.smallest_visible) == ("worse", True, None)


def test_the_verdict_of_prompts_of_several_rows_has_the_direction_of_the_mean() -> None:
    before, after, prompts = list[float](), list[float](), list[int]()
    for prompt in range(18):
        rows = 10 if prompt < 15 else 2  # a tenth better each, and three that are wrong from now on
        before += [0.0] * rows if prompt < 15 else [1.0] * rows
        after += [1.0] + [0.0] * 9 if prompt < 15 else [0.0] * rows
        prompts += [prompt] * rows
    found = said_of(EXACT, before, after, prompts)
    assert (found.improved, found.worsened, found.test) == (15, 3, "permutation")
    assert found.difference == pytest.approx(-1.5 / 18)
    assert found.verdict == "cannot tell"
    assert found.smallest_visible == pytest.approx(said_of(F1, before, after, prompts).smallest_visible)
    assert said_of(EXACT, before[:150], after[:150], prompts[:150]).verdict == "better"


# ---------------------------------------------------------------- rates, over many trials


@dataclass(frozen=True)
class Truth:
    """How two models answer: rows of different difficulty, and wrong answers that share some words with the right one.

    - **better**: how much more often the second one is right.
    - **repeats**: rows of each prompt; the same model answers the same prompt in the same way.
    """

    prompts: int
    right: float
    better: float = 0.0
    repeats: int = 1

    WRONG = ((1.0, 4.0), (2.0, 4.0))  # of the distributions of F1 and chrF of a wrong answer

    def differences(self) -> tuple[float, float, float]:
        """Return the true difference of each metric."""
        f1, chrf = (one / (one + other) for one, other in self.WRONG)
        return self.better, self.better * (1 - f1), self.better * (1 - chrf)

    def draw(self, rng: np.random.Generator) -> tuple[PairedResult, ...]:
        """Return what is said of one set of rows."""
        chance = rng.beta(3 * self.right, 3 * (1 - self.right), self.prompts)
        more = self.better * (1 - chance) / (1 - self.right)
        sides = [self._scores(rng, each) for each in (chance, chance + more)]
        scored = [
            Scored(metric=metric, before=np.repeat(before, self.repeats), after=np.repeat(after, self.repeats))  # type: ignore[arg-type]  # arrays are sequences
            for metric, before, after in zip((EXACT, F1, CHRF), *sides, strict=True)
        ]
        return compare_scores(
            scored, [*np.repeat(np.arange(self.prompts), self.repeats)], seed=int(rng.integers(2**31))
        )

    def _scores(self, rng: np.random.Generator, chance: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        right = rng.random(self.prompts) < chance
        f1, chrf = (np.where(right, 1.0, np.round(rng.beta(*how, self.prompts), 1)) for how in self.WRONG)
        return right.astype(float), f1, chrf


@dataclass(frozen=True)
class Rates:
    """Of many trials, the share in which something was said: of each metric, and of any."""

    better: tuple[float, ...]
    worse: tuple[float, ...]
    any: float
    covered: tuple[float, ...]


def rates(truth: Truth, trials: int, seed: int) -> Rates:
    rng = np.random.default_rng(seed)
    found = [truth.draw(rng) for _ in range(trials)]

    def share(verdict: str) -> tuple[float, ...]:
        return tuple(float(np.mean([each[index].verdict == verdict for each in found])) for index in range(3))

    covered = tuple(
        float(np.mean([each[index].interval[0] <= true <= each[index].interval[1] for each in found]))  # type: ignore[index]  # these have one
        for index, true in enumerate(truth.differences())
    )
    told = float(np.mean([any(each.verdict != "cannot tell" for each in metrics) for metrics in found]))
    made = Rates(share("better"), share("worse"), told, covered)
    shown = "; ".join(
        f"{name} {' '.join(f'{each:.3f}' for each in values)}"
        for name, values in (("better", made.better), ("worse", made.worse), ("covered", made.covered))
    )
    logger.info("%s: %s; any %.3f", truth, shown, made.any)
    return made


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw fewer signs and samples for each of many trials: the test holds its level with any number of them."""
    monkeypatch.setattr("phift.evaluation.paired._RESAMPLES", 1_999)


WITH_ROOM = [Truth(20, 0.2), Truth(60, 0.2), Truth(100, 0.5), Truth(300, 0.6), Truth(50, 0.3, repeats=4)]
"""Where the second one can be better by as much as it takes."""
SETTINGS = [Truth(20, 0.5), Truth(60, 0.2), Truth(100, 0.8), Truth(300, 0.6), Truth(50, 0.5, repeats=4)]


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("truth", [Truth(40, 0.5), Truth(30, 0.8, repeats=3)], ids=str)
def test_equal_models_are_seldom_told_apart(truth: Truth) -> None:
    trials = 200
    found = rates(truth, trials, seed=1)
    most = stats.binom.ppf(0.999, trials, 0.05) / trials  # so many wrong ones are no wonder at a true rate of 5 %
    assert found.any <= most
    assert all(each >= 0.90 for each in found.covered)


@pytest.mark.proof
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("truth", SETTINGS, ids=str)
def test_equal_models_are_told_apart_in_5_percent_of_trials_at_most(truth: Truth) -> None:
    found = rates(truth, 2_000, seed=2)
    assert found.any <= 0.05
    assert all(better + worse <= 0.05 for better, worse in zip(found.better, found.worse, strict=True))
    assert all(each >= 0.93 for each in found.covered)


@pytest.mark.proof
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("index", range(3), ids=["exact_match", "token_f1", "chrf"])
@pytest.mark.parametrize("truth", WITH_ROOM, ids=str)
def test_what_the_smallest_visible_difference_says_is_seen(truth: Truth, index: int) -> None:
    rng = np.random.default_rng(3)
    said = [truth.draw(rng)[index].smallest_visible for _ in range(50)]
    smallest = float(np.median([each for each in said if each is not None]))
    per_share = Truth(truth.prompts, truth.right, 1.0).differences()[index]
    better = smallest / per_share
    logger.info("%s, metric %d: the smallest visible difference is %.3f", truth, index, smallest)
    seen = rates(Truth(truth.prompts, truth.right, better, truth.repeats), 200, seed=4)
    assert seen.better[index] >= 0.65  # four of five, but for 200 trials, and what few rows say of their spread
    assert all(each >= 0.90 for each in seen.covered)
    hidden = rates(Truth(truth.prompts, truth.right, better / 4, truth.repeats), 100, seed=5)
    assert hidden.better[index] <= 0.30
