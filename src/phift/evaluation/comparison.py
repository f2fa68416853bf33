"""The comparison of two models: asked, scored, tested, and shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from phift.data.sources import Progress
from phift.errors import (
    ConfigError,
    ModelError,
    NotImproved,
    ScoringError,
    forgetting_locals,
    in_a_line,
    isolated,
    visible,
    visible_columns,
    visible_html,
    visible_table,
)
from phift.evaluation.asking import SIDES, Answers, AnyModel, Model, RowCompared, Side, ask_both
from phift.evaluation.likelihood import Likelihood, measure
from phift.evaluation.metrics import AnyMetric, Metric, find_metrics
from phift.evaluation.paired import PairedResult, Scored, Verdict, compare_scores, scipy_stats
from phift.evaluation.rows import HeldOutRow, Message, Rows, read_rows

if TYPE_CHECKING:
    import pandas as pd

Table: TypeAlias = tuple[list[str], list[list[str]]]

LOSS = Metric(name="loss", score=lambda _answer, _reference: math.nan, higher_is_better=False, most=None)
"""Of the right answers, by the models' weights and not by what they say; see `phift.evaluation.likelihood`."""

_MOST_SHOWN = 10  # rows that got worse
_LONGEST_SHOWN = 80  # characters of a text in a table


class Options(TypedDict, total=False):
    """How models are compared; see `compare_models`."""

    metrics: Sequence[AnyMetric]
    seed: int
    max_new_tokens: int
    concurrency: int
    limit: int | None
    prompt_of: Callable[[Sequence[Message]], Hashable] | None
    weights: tuple[str | Path, str | Path] | None


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """A row, what both models said to it, and what that is worth.

    - **number**: the row's line, from 1.
    - **before**, **after**: the answers; empty where there was none, for which **failed** has the reason.
    - **scores**: of each metric, before and after.
    - **gains**: of each metric, how much better it got, in their order; worse is less than 0.
    """

    number: int
    prompt: tuple[Message, ...]
    question: str
    reference: str
    before: str
    after: str
    asked_first: Side
    failed: Mapping[Side, str]
    scores: Mapping[str, tuple[float, float]]
    gains: tuple[float, ...]

    @property
    def change(self) -> float:
        """How much better it got by the first metric that tells the answers apart; 0 where none does."""
        return next((gain for gain in self.gains if gain), 0.0)


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """Two models that answered the same rows: which is better, by how much, and where.

    - **before**, **after**: what the models are called.
    - **metrics**: what each says, by its name.
    - **rows**: with both answers.
    - **near**: rows that were left out since they say nearly what a training row says; None where the training data is
      not known.
    - **given**: rows that there were to choose from.
    - **seed**, **parameters**: of what is drawn, and of the models' answers.
    - **perplexity**: before and after, where the weights are at hand; see `phift.evaluation.likelihood`.
    """

    before: str
    after: str
    metrics: Mapping[str, PairedResult]
    rows: tuple[ComparedRow, ...] = field(repr=False)
    near: int | None
    given: int
    seed: int
    parameters: Mapping[str, Any]
    perplexity: tuple[float, float] | None = None

    @property
    def verdict(self) -> Verdict:
        """``better`` or ``worse`` where a metric says so and none the other, else ``cannot tell``."""
        found = {each.verdict for each in self.metrics.values()} - {"cannot tell"}
        return found.pop() if len(found) == 1 else "cannot tell"

    @property
    def got_worse(self) -> tuple[ComparedRow, ...]:
        """The rows that the second model answered worse, the worst first; see `ComparedRow.change`."""
        return tuple(sorted((row for row in self.rows if row.change < 0), key=lambda row: row.gains))

    # ---------------------------------------------------------------- asserted

    def assert_improved(self, metric: str | None = None) -> None:
        """Raise `phift.errors.NotImproved` unless the second model is better.

        - **metric**: by this one; left out, by one at least, and worse by none.
        """
        if self._verdict(metric) != "better":
            raise self._not_shown("better", metric)

    def assert_not_worse(self, metric: str | None = None, *, margin: float | None = None) -> None:
        """Raise `phift.errors.NotImproved` where the second model is worse.

        - **metric**: by this one; left out, by any.
        - **margin**: by so much it may be: then what cannot be told is no pass, and the whole interval of the
          difference has to lie above it.
        """
        chosen = [self._metric(metric)] if metric else [*self.metrics.values()]
        if margin is None:
            passed = all(each.verdict != "worse" for each in chosen)
        else:
            passed = all(_most_lost(each) < margin for each in chosen)
        if not passed:
            raise self._not_shown("not worse" if margin is None else f"not worse by {margin:g}", metric)

    def _metric(self, name: str) -> PairedResult:
        if name not in self.metrics:
            fix = f"use one of {', '.join(self.metrics)}"
            raise ConfigError(f"The models were not compared by {name}.", where="metric", fix=fix)
        return self.metrics[name]

    def _verdict(self, metric: str | None) -> Verdict:
        return self._metric(metric).verdict if metric else self.verdict

    def _not_shown(self, wanted: str, metric: str | None) -> NotImproved:
        said = "; ".join(f"{name}: {tested}" for name, tested in self.metrics.items() if metric in (None, name))
        what = f"It is not shown that {self.after} is {wanted} than {self.before}. {said}."
        fix = f"see the {len(self.got_worse)} rows of `got_worse`; more rows show smaller differences"
        return NotImproved(what, where=f"{len(self.rows)} held-out rows", fix=fix, comparison=self)

    # ---------------------------------------------------------------- shown

    def tables(self) -> tuple[Table, Table]:
        """Return what there is to show to people: the metrics, and the first of the rows that got worse."""
        head = ["metric", "before", "after", "difference", "95 % interval", "p", "better, worse, same", "verdict"]
        metrics = [
            [
                name if each.higher_is_better else f"{name}, less is better",
                f"{each.before:.3f}",
                f"{each.after:.3f}",
                f"{each.difference:+.3f}",
                "none" if each.interval is None else f"{each.interval[0]:+.3f} to {each.interval[1]:+.3f}",
                f"{each.p_adjusted:.2g}" if each.p_adjusted >= 0.0001 else "< 0.0001",
                f"{each.improved}, {each.worsened}, {each.tied}",
                each.verdict,
            ]
            for name, each in self.metrics.items()
        ]
        rows = [
            [str(row.number), *map(_short, (row.question, row.reference, row.before, row.after))]
            for row in self.got_worse[:_MOST_SHOWN]
        ]
        return (head, metrics), (["row", "question", "right answer", "before", "after"], rows)

    @property
    def summary(self) -> tuple[str, ...]:
        """What was compared by what, in sentences."""
        rows, prompts = len(self.rows), next(iter(self.metrics.values())).n
        counted = f"{rows:,} held-out rows" + (f", {prompts:,} different prompts" if prompts < rows else "")
        settings = ", ".join(f"{name} {value}" for name, value in self.parameters.items())
        lines = [f"before {self.before}, after {self.after}: {counted}; seed {self.seed}, {settings}"]
        if self.near:
            lines.append(
                f"{self.near:,} of {self.given:,} rows were left out: they say nearly what a training row says."
            )
        elif self.near is None:
            lines.append("Whether rows are near to training rows is not known.")
        for side, name in zip(SIDES, (self.before, self.after), strict=True):
            if failed := Counter(row.failed[side] for row in self.rows if side in row.failed):
                reasons = ", ".join(failed)
                lines.append(
                    f"{name} gave no answer to {failed.total():,} rows, which counts as an empty one: {reasons}"
                )
        if self.perplexity:
            before, after = self.perplexity
            lines.append(f"perplexity of the right answers: {before:.4g} before, {after:.4g} after")
        if len(self.metrics) > 1:
            lines.append("p is Holm's over all metrics; each interval is of its metric alone.")
        return tuple(lines)

    @property
    def not_told(self) -> tuple[str, ...]:
        """Of each metric that cannot tell, the smallest difference that it could have seen, in a sentence."""
        return tuple(f"{name}: {each}" for name, each in self.metrics.items() if each.verdict == "cannot tell")

    @property
    def worse_title(self) -> str:
        """What stands above the rows that got worse."""
        count, shown = len(self.got_worse), min(len(self.got_worse), _MOST_SHOWN)
        return f"{count:,} rows got worse" + (f", the {shown} worst" if count > shown else "")

    def __str__(self) -> str:
        metrics, rows = self.tables()
        told = (self.summary, [visible_columns(*metrics)], self.not_told, [self.worse_title])
        parts = ["\n".join(map(visible, lines)) for lines in told if lines]
        return "\n\n".join(parts) + ("\n" + visible_columns(*rows) if rows[1] else "")

    def _repr_html_(self) -> str:
        metrics, rows = self.tables()

        def lines(texts: Iterable[str]) -> str:
            return "".join(f"<p>{visible_html(text)}</p>" for text in texts)

        below = lines([*self.not_told, self.worse_title]) + (visible_table(*rows) if rows[1] else "")
        return lines(self.summary) + visible_table(*metrics) + below

    def page(self) -> str:
        """Return the comparison as a page of HTML, which needs nothing else; light or dark as the reader has it."""
        title = visible_html(f"{self.before} and {self.after}")
        style = (
            ":root{color-scheme:light dark}body{font-family:sans-serif;margin:1em}table{border-collapse:collapse}"
            "td,th{padding:.2em .6em;text-align:left;vertical-align:top;border-bottom:1px solid #8a8a8a}"
        )
        head = f'<meta charset="utf-8"><title>{title}</title><style>{style}</style>'
        return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{self._repr_html_()}</body></html>\n'

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, ready for JSON; docs/evaluating.md has the keys."""
        values = asdict(self) | {"verdict": self.verdict}
        values["metrics"] = {name: each.to_dict() for name, each in self.metrics.items()}
        return values

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a table: question, right answer, both answers, and of each metric two scores."""
        import pandas as pd

        return pd.DataFrame(
            {
                "row": row.number,
                "question": row.question,
                "reference": row.reference,
                "before": row.before,
                "after": row.after,
                **{
                    f"{metric}_{side}": score
                    for metric, scores in row.scores.items()
                    for side, score in zip(SIDES, scores, strict=True)
                },
            }
            for row in self.rows
        )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_SHOWN else f"{line[: _LONGEST_SHOWN - 1]}…"


def _most_lost(tested: PairedResult) -> float:
    """Return by how much it may be worse, as far as the interval goes."""
    if tested.interval is None:
        return math.inf
    return -tested.interval[0] if tested.higher_is_better else tested.interval[1]


# ---------------------------------------------------------------- made


@forgetting_locals()
def compare_models(
    before: AnyModel,
    after: AnyModel,
    rows: Rows,
    *,
    metrics: Sequence[AnyMetric] = ("exact_match", "token_f1", "chrf"),
    seed: int = 0,
    max_new_tokens: int = 256,
    concurrency: int = 1,
    limit: int | None = None,
    train: str | Path | None = None,
    prompt_of: Callable[[Sequence[Message]], Hashable] | None = None,
    weights: tuple[str | Path, str | Path] | None = None,
    on_progress: Callable[[RowCompared | Progress], None] | None = None,
) -> ModelComparison:
    """Ask two models the same held-out rows, greedily, and tell which answers better; see `phift.evaluation.paired`.

        compare_models((endpoint, "blue"), (endpoint, "green"), "test.jsonl").assert_improved()

    - **before**, **after**: an `Endpoint`, an ``(Endpoint, deployment)`` pair, or a function that takes messages and
      returns a text; with a **concurrency** of more than 1 several threads call it.
    - **rows**: chat rows with an answer last, which is the right one: a JSONL file, values as ``{"messages": [...]}``,
      or prepared data, of which it is the test split without what is near to a training row.
    - **metrics**: names of `phift.evaluation.metrics.METRICS`, or metrics of your own.
    - **limit**: so many rows at most, drawn with the seed.
    - **train**: the prepared file of training rows, such as ``PreparedDataset.train``: rows near to these are left out.
    - **prompt_of**: what of a prompt makes two rows no independent witnesses; left out, the whole of it.
    - **weights**: the folders of both models, as `phift.jobs.job.FineTuneJob.download` fetches one: then the loss of
      the right answers is one more metric.
    - **on_progress**: called with each row that both were asked.

    Raises `phift.errors.DataError` for rows that are no conversations, `phift.errors.MissingDependency` without the
    extra ``evaluate``, `phift.errors.ScoringError` where a model answers none of the rows, and whatever the models
    raise.
    """
    chosen, tell = find_metrics([*metrics, *([LOSS] if weights else [])]), isolated(on_progress)
    for number, what in ((max_new_tokens, "max_new_tokens"), (concurrency, "concurrency"), (limit, "limit")):
        if number is not None and number < 1:
            raise ConfigError(f"{what} is {number}.", where=what, fix="give 1 or more")
    models = Model.of(before, max_new_tokens), Model.of(after, max_new_tokens)
    scipy_stats()  # what is not installed is known before anybody is asked
    held_out = read_rows(rows, train=Path(train) if train else None, limit=limit, seed=seed, tell=tell)
    likelihoods = _likelihoods(weights, held_out.rows, tell) if weights else None
    answers = list(ask_both(*models, held_out.rows, seed=seed, concurrency=concurrency, tell=tell))
    for side in SIDES:
        if all(side in each.failed for each in answers):
            name, why = models[SIDES.index(side)].name, answers[0].failed[side]
            what = f"{in_a_line(name)} answered none of the {len(answers)} rows: {why}"
            raise ScoringError(what, where=f"the model {side}", fix="ask it one of them by hand")
    scored = [_scored(metric, held_out.rows, answers) for metric in chosen if metric is not LOSS]
    if likelihoods:
        scored.append(Scored(metric=LOSS, before=likelihoods[0].losses, after=likelihoods[1].losses))
    prompts = [prompt_of(row.prompt) if prompt_of else repr(row.prompt) for row in held_out.rows]
    return ModelComparison(
        before=models[0].name,
        after=models[1].name,
        metrics={each.metric: each for each in compare_scores(scored, prompts, seed=seed)},
        rows=tuple(map(partial(_compared, scored), count(), held_out.rows, answers)),
        near=held_out.near,
        given=held_out.given,
        seed=seed,
        parameters={"max_new_tokens": max_new_tokens, "do_sample": False},
        perplexity=(likelihoods[0].perplexity, likelihoods[1].perplexity) if likelihoods else None,
    )


def _scored(metric: Metric, rows: Sequence[HeldOutRow], answers: Sequence[Answers]) -> Scored:
    """Score all answers.

    Raises `phift.errors.ConfigError` where a metric gives what is no number.
    """

    def score(answer: str, row: HeldOutRow) -> float:
        found = float(metric.score(answer, row.reference))
        if not math.isfinite(found):
            what = f"The metric {metric.name} gives {found} for an answer to row {row.number}."
            raise ConfigError(what, where="metrics", fix="have it give a number for every answer, an empty one too")
        return found

    before = [score(said.before, row) for said, row in zip(answers, rows, strict=True)]
    after = [score(said.after, row) for said, row in zip(answers, rows, strict=True)]
    return Scored(metric=metric, before=before, after=after)


def _compared(scored: Sequence[Scored], index: int, row: HeldOutRow, said: Answers) -> ComparedRow:
    changes = [(each.after[index] - each.before[index], each.metric.higher_is_better) for each in scored]
    return ComparedRow(
        number=row.number,
        prompt=row.prompt,
        question=row.question,
        reference=row.reference,
        before=said.before,
        after=said.after,
        asked_first=said.asked_first,
        failed=said.failed,
        scores={each.metric.name: (each.before[index], each.after[index]) for each in scored},
        gains=tuple(change if higher else -change for change, higher in changes),
    )


def _likelihoods(
    weights: tuple[str | Path, str | Path], rows: Sequence[HeldOutRow], tell: Callable[[Progress], None]
) -> tuple[Likelihood, Likelihood]:
    """Measure both models, one after the other.

    Raises `phift.errors.ModelError` where they cut the answers into other tokens, so that losses cannot be compared.
    """

    def measured(folder: str | Path) -> Likelihood:
        source = f"the loss of {Path(folder).name}"
        return measure(Path(folder), rows, lambda done: tell(Progress(stage="compare", source=source, rows=done)))

    before, after = map(measured, weights)
    if before.tokens != after.tokens:
        what = "The two models cut the answers into different tokens, so their losses cannot be compared."
        raise ModelError(what, where=" and ".join(map(str, weights)), fix="leave `weights` out")
    return before, after
