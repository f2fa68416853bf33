"""What came of a comparison of two models: the verdicts, the rows, and how they are shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from phift.errors import (
    ConfigError,
    NotImproved,
    visible,
    visible_columns,
    visible_html,
    visible_table,
)
from phift.evaluation.asking import SIDES, Side
from phift.evaluation.paired import PairedResult, Verdict
from phift.serving.chat import Message

if TYPE_CHECKING:
    import pandas as pd

Table: TypeAlias = tuple[list[str], list[list[str]]]

_MOST_SHOWN = 10  # rows that got worse
_LONGEST_SHOWN = 80  # characters of a text in a table


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
        return f"{count:,} row{'' if count == 1 else 's'} got worse" + (f", the {shown} worst" if count > shown else "")

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
        """Return all of it as plain values, ready for JSON, by the names of the fields, and its ``verdict``."""
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
