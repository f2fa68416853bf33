"""Statistics of two models' scores on the same rows: is one of them better, by how much, or can nobody tell.

**What is tested.** That it makes no difference which of the two answered. Then each row's difference could as well
have the other sign, which is all that the tests rely on: no row has to be normal, and few rows just see little.

- exact match: the exact sign test on the rows that flipped, which is McNemar's exact test (``scipy.stats.binomtest``);
- other scores, and exact match where rows with the same prompt make fractions of it, of which signs alone say nothing
  about the mean: the permutation test of the mean difference, over all signs where these are no more than 9,999, else
  over 9,999 drawn ones and the observed ones (``scipy.stats.permutation_test``, ``permutation_type="samples"``).

Rows with the same prompt are no independent witnesses, so they count as one, by their means.

**Several metrics** are several chances to be wrong, so the p-values are Holm's (Scandinavian Journal of Statistics 6,
1979): where the models are the same, the chance that any metric says otherwise is at most alpha.

**Intervals**, of the mean difference, for each metric on its own: for exact match Bonett and Price's adjusted Wald
interval of paired shares (Journal of Educational and Behavioral Statistics 37, 2012), which is Wald's with two more
rows, one better and one worse by all there is; for scores the BCa bootstrap (Efron, Journal of the American Statistical
Association 82, 1987; ``scipy.stats.bootstrap``), or where fewer than `FEW` rows differ Bonett and Price's too, or
where scores have no bounds Student's: the bootstrap knows no other rows than these, and held the difference in 82 % of
samples only (six of 20 rows differ, 600 trials, 2026-11-30). It is never ``nan``, also where all rows
differ by the same amount.

**The smallest difference that a test could see** is the one that it calls significant in 80 % of experiments of this
size, at the strictest level that Holm's procedure asks for, alpha / metrics. It comes from the rows' spread and not
from the difference that was found, by which a failed test would always seem hopeless (Hoenig and Heisey, The American
Statistician 55, 2001).

- exact match: from the sign test's power, summed over all numbers of flips (Miettinen, Biometrics 24, 1968): the share
  of rows that makes the difference flips one way, and the others both ways as they did.
- scores: (t for alpha / metrics + t for 80 %) x standard error (Bloom, Evaluation Review 19, 1995), where some of the
  rows that did not change come to the variance, as those that make the difference.

With the spread alone, which a difference would widen, 57 % of experiments saw such a difference in exact match (60
rows, a fifth of them right, 250 trials, 2026-11-30); docs/evaluating.md has how many do so.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from phift.evaluation.metrics import Metric, exact_match, missing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.float64]

Verdict = Literal["better", "worse", "cannot tell"]
IntervalBy = Literal["adjusted Wald", "BCa", "t", "none"]

ALPHA = 0.05
POWER = 0.8
FEW = 20
_RESAMPLES = 9_999
_AT_ONCE = 2_000_000  # numbers in memory


@dataclass(frozen=True, kw_only=True)
class PairedResult:
    """What one metric says of the two models.

    - **n**: how many prompts were compared; of rows with the same prompt the means count.
    - **before**, **after**, **difference**: means over these, and after less before.
    - **interval**: in which the difference lies, with 95 % confidence, and **interval_by** what; None where the scores
      have no bounds and all rows differ by the same amount.
    - **p**, **p_adjusted**: of the test, and as Holm's procedure has it over all metrics.
    - **improved**, **worsened**, **tied**: prompts.
    - **can_show**: whether any outcome of so many rows would be significant.
    - **smallest_visible**: the smallest difference that the test could see; None where there is none, or all rows
      differ by the same amount, which says nothing of their spread.
    """

    metric: str
    higher_is_better: bool
    n: int
    before: float
    after: float
    difference: float
    interval: tuple[float, float] | None
    interval_by: IntervalBy
    test: Literal["sign", "permutation"]
    p: float
    p_adjusted: float
    improved: int
    worsened: int
    tied: int
    can_show: bool
    smallest_visible: float | None
    verdict: Verdict

    def __str__(self) -> str:
        if self.verdict != "cannot tell":
            return self.verdict
        if not self.can_show:
            return f"cannot tell at n = {self.n}; so few can show no difference at all"
        if self.smallest_visible is None:
            return f"cannot tell at n = {self.n}; none differs, so how small a difference could be seen is not known"
        seen = f"the smallest difference that this test could see is {self.smallest_visible:.3f}"
        return f"cannot tell at n = {self.n}; {seen}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return asdict(self) | {"verdict_in_words": str(self)}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A metric's scores of all rows."""

    metric: Metric
    before: Sequence[float]
    after: Sequence[float]


def compare_scores(scored: Sequence[Scored], prompts: Sequence[Hashable], *, seed: int = 0) -> tuple[PairedResult, ...]:
    """Test each metric, all of them together at a level of 5 %.

    - **prompts**: of each row; equal ones are one prompt.

    Raises `phift.errors.MissingDependency` without scipy.
    """
    import numpy as np

    number = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
    of_row = np.array([number[prompt] for prompt in prompts])
    means = [
        [
            np.bincount(of_row, weights=np.asarray(side, float)) / np.bincount(of_row)
            for side in (each.before, each.after)
        ]
        for each in scored
    ]
    # Rounded, so that what is equal but for the last bit of a float is equal.
    differences = [np.round(after - before, 12) for before, after in means]
    ps = [_p_value(each.metric, found, seed) for each, found in zip(scored, differences, strict=True)]
    level = ALPHA / len(scored)
    return tuple(
        _result(each.metric, before, found, p, adjusted, level, seed)
        for each, (before, _), found, p, adjusted in zip(scored, means, differences, ps, _holm(ps), strict=True)
    )


def _result(
    metric: Metric, before: Numbers, differences: Numbers, p: float, adjusted: float, level: float, seed: int
) -> PairedResult:
    gains = differences if metric.higher_is_better else -differences
    interval, by = _interval(metric, differences, seed)
    verdict: Verdict = "cannot tell"
    if adjusted <= ALPHA:
        verdict = "better" if gains.mean() > 0 else "worse"
    improved, worsened = int((gains > 0).sum()), int((gains < 0).sum())
    return PairedResult(
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        n=len(differences),
        before=float(before.mean()),
        after=float((before + differences).mean()),
        difference=float(differences.mean()),
        interval=interval,
        interval_by=by,
        test="sign" if _is_exact(metric, differences) else "permutation",
        p=p,
        p_adjusted=adjusted,
        improved=improved,
        worsened=worsened,
        tied=len(gains) - improved - worsened,
        can_show=_power(len(differences), 1.0, 1.0, level) >= POWER,
        smallest_visible=_smallest_visible(metric, differences, level),
        verdict=verdict,
    )


def _is_exact(metric: Metric, differences: Numbers) -> bool:
    """Whether rows flip or do not, so that the most flips one way are the mean's direction too."""
    return metric.score is exact_match and bool((abs(differences) % 1 == 0).all())


def _p_value(metric: Metric, differences: Numbers, seed: int) -> float:
    import numpy as np

    stats = scipy_stats()
    changed = differences[differences != 0]  # the sign of 0 makes no difference
    if len(changed) < 2:
        return 1.0
    if _is_exact(metric, differences):
        return float(stats.binomtest(int((changed > 0).sum()), len(changed), 0.5).pvalue)
    found = stats.permutation_test(
        (changed,),
        np.mean,
        permutation_type="samples",
        n_resamples=_RESAMPLES,
        batch=max(1, _AT_ONCE // len(changed)),
        vectorized=True,
        rng=seed,
    )
    return min(1.0, float(found.pvalue))


def _holm(ps: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for being several, by Holm's procedure."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted


def _interval(metric: Metric, differences: Numbers, seed: int) -> tuple[tuple[float, float] | None, IntervalBy]:
    import numpy as np

    stats, spread = scipy_stats(), float(np.ptp(differences))
    enough = np.count_nonzero(differences) >= FEW
    if not _is_exact(metric, differences) and enough and spread > 0:
        low, high = stats.bootstrap(
            (differences,),
            np.mean,
            confidence_level=1 - ALPHA,
            n_resamples=_RESAMPLES,
            batch=max(1, _AT_ONCE // len(differences)),
            method="BCa",
            vectorized=True,
            rng=seed,
        ).confidence_interval
        if np.isfinite([low, high]).all():
            return (float(low), float(high)), "BCa"
    if metric.most is None:
        if spread == 0:
            return None, "none"
        n, mean = len(differences), float(differences.mean())
        half = float(stats.t.ppf(1 - ALPHA / 2, n - 1) * differences.std(ddof=1) / np.sqrt(n))
        return (mean - half, mean + half), "t"
    more = np.concatenate([differences, [metric.most, -metric.most]])
    middle, half = float(more.mean()), float(stats.norm.ppf(1 - ALPHA / 2) * more.std() / np.sqrt(len(more)))
    return (max(-metric.most, middle - half), min(metric.most, middle + half)), "adjusted Wald"


# ---------------------------------------------------------------- the smallest difference that can be seen


def _smallest_visible(metric: Metric, differences: Numbers, level: float) -> float | None:
    import numpy as np

    stats, n = scipy_stats(), len(differences)
    changed = np.abs(differences[differences != 0])
    is_exact = _is_exact(metric, differences)
    smallest = _smallest_share(n, len(changed) / n if is_exact else 0.0, level)
    if smallest is None or is_exact:
        return smallest
    size = float(np.sqrt((changed**2).mean())) if len(changed) else metric.most or 0.0
    more = size * (1 - len(changed) / n)  # of variance, for each unit of the difference
    quantiles = float(stats.t.ppf(1 - level / 2, n - 1) + stats.t.ppf(POWER, n - 1))
    part = quantiles**2 / (2 * n)
    # What solves: difference = quantiles x root of (variance + difference x more) / n.
    found = part * more + math.sqrt((part * more) ** 2 + 2 * part * float(differences.var(ddof=1)))
    return min(found, metric.most or math.inf) or None


@lru_cache
def _smallest_share(n: int, share: float, level: float) -> float | None:
    """Return the smallest difference of two shares that a sign test sees with the power wanted; None if it sees none.

    - **share**: of rows that flip without a difference, as many one way as the other.
    """
    if _power(n, 1.0, 1.0, level) < POWER:
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        if _power(n, middle + (1 - middle) * share, middle, level) < POWER:
            low = middle
        else:
            high = middle
    return high


def _power(n: int, share: float, difference: float, level: float) -> float:
    """Return how often the sign test finds a difference, where so large a share of n rows flips."""
    import numpy as np

    stats = scipy_stats()
    flips = np.arange(n + 1)
    most = stats.binom.isf(level / 2, flips, 0.5)  # more than so many one way are significant
    up = (share + difference) / (2 * share)
    seen = stats.binom.sf(most, flips, up) + stats.binom.sf(most, flips, 1 - up)
    return float((stats.binom.pmf(flips, n, share) * seen).sum())


def scipy_stats() -> Any:
    """Return the module; raises `phift.errors.MissingDependency` where it is not installed."""
    try:
        from scipy import stats
    except ImportError as error:
        raise missing("scipy") from error
    return stats
