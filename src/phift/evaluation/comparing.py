"""Two models compared: asked the same rows, scored, and tested."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypedDict, Unpack

from phift.data.sources import Progress
from phift.errors import ConfigError, DataError, ModelError, ScoringError, forgetting_locals, in_a_line, isolated
from phift.evaluation.asking import SIDES, Answers, AnyModel, Model, RowCompared, ask_both
from phift.evaluation.comparison import ComparedRow, ModelComparison
from phift.evaluation.likelihood import Likelihood, measure
from phift.evaluation.metrics import AnyMetric, Metric, find_metrics
from phift.evaluation.paired import Scored, compare_scores, scipy_stats
from phift.evaluation.rows import HeldOutRow, Rows, read_rows
from phift.serving.chat import Message

LOSS = Metric(name="loss", score=lambda _answer, _reference: math.nan, higher_is_better=False, most=None)
"""Of the right answers, by the models' weights and not by what they say; see `phift.evaluation.likelihood`."""


class Options(TypedDict, total=False):
    """How models are compared.

    - **metrics**: names of `phift.evaluation.metrics.METRICS`, or metrics of your own; left out, all of those.
    - **seed**: of what is drawn; 0.
    - **max_new_tokens**: of an answer; 256.
    - **concurrency**: rows asked at once; 1.
    - **limit**: so many rows at most, drawn with the seed; left out, all.
    - **prompt_of**: what of a prompt makes two rows no independent witnesses; left out, the whole of it.
    - **weights**: the folders of both models, as `phift.jobs.job.FineTuneJob.download` fetches one: then the loss of
      the right answers is one more metric.
    """

    metrics: Sequence[AnyMetric]
    seed: int
    max_new_tokens: int
    concurrency: int
    limit: int | None
    prompt_of: Callable[[Sequence[Message]], Hashable] | None
    weights: tuple[str | Path, str | Path] | None


@forgetting_locals()
def compare_models(
    before: AnyModel,
    after: AnyModel,
    rows: Rows,
    *,
    train: str | Path | None = None,
    on_progress: Callable[[RowCompared | Progress], None] | None = None,
    **options: Unpack[Options],
) -> ModelComparison:
    """Ask two models the same held-out rows, greedily, and tell which answers better; see `phift.evaluation.paired`.

        compare_models((endpoint, "blue"), (endpoint, "green"), "test.jsonl", limit=200).assert_improved()

    - **before**, **after**: an `Endpoint`, an ``(Endpoint, deployment)`` pair, or a function that takes messages and
      returns a text; with a ``concurrency`` of more than 1 several threads call it.
    - **rows**: chat rows with an answer last, which is the right one: a JSONL file, values as ``{"messages": [...]}``,
      or prepared data, of which it is the test split without what is near to a training row.
    - **train**: the prepared file of training rows, such as ``PreparedDataset.train``: rows near to these are left out.
    - **on_progress**: called with each row that both were asked.
    - **options**: ``metrics``, ``seed``, ``max_new_tokens``, ``concurrency``, ``limit``, ``prompt_of`` and ``weights``,
      see `Options`.

    Raises `phift.errors.DataError` for rows that are no conversations, `phift.errors.MissingDependency` without the
    extra ``evaluate``, `phift.errors.ScoringError` where a model answers none of the rows, and whatever the models
    raise.
    """
    return compare_deployed(nullcontext((before, after)), rows, train=train, on_progress=on_progress, **options)


def compare_deployed(
    models: AbstractContextManager[tuple[AnyModel, AnyModel]],
    rows: Rows,
    *,
    train: str | Path | None,
    on_progress: Callable[[RowCompared | Progress], None] | None,
    metrics: Sequence[AnyMetric] = ("exact_match", "token_f1", "chrf"),
    seed: int = 0,
    max_new_tokens: int = 256,
    concurrency: int = 1,
    limit: int | None = None,
    prompt_of: Callable[[Sequence[Message]], Hashable] | None = None,
    weights: tuple[str | Path, str | Path] | None = None,
) -> ModelComparison:
    """Do what `compare_models` does with models that are there no longer than they are asked.

    Whatever can be wrong with rows and options is known before.
    """
    chosen, tell = find_metrics([*metrics, *([LOSS] if weights else [])]), isolated(on_progress)
    for number, what in ((max_new_tokens, "max_new_tokens"), (concurrency, "concurrency"), (limit, "limit")):
        if number is not None and number < 1:
            raise ConfigError(f"{what} is {number}.", where=what, fix="give 1 or more")
    scipy_stats()
    held_out = read_rows(rows, train=Path(train) if train else None, limit=limit, seed=seed, tell=tell)
    prompts = _prompts(held_out.rows, prompt_of)
    for metric in chosen:
        if metric is not LOSS:
            first = held_out.rows[0]
            _check_most(metric, first, _score(metric, "", first), _score(metric, first.reference, first))
    likelihoods = _likelihoods(weights, held_out.rows, tell) if weights else None
    with models as asked:
        before, after = (Model.of(each, max_new_tokens) for each in asked)
        asking = ask_both(before, after, held_out.rows, seed=seed, concurrency=concurrency, tell=tell)
        answers, scored = _scored([each for each in chosen if each is not LOSS], held_out.rows, asking)
    for side, model in zip(SIDES, (before, after), strict=True):
        if all(side in each.failed for each in answers):
            why = answers[0].failed[side]
            what = f"{in_a_line(model.name)} answered none of the {len(answers)} rows: {why}"
            raise ScoringError(what, where=f"the model {side}", fix="ask it one of them by hand")
    if likelihoods:
        scored.append(Scored(metric=LOSS, before=likelihoods[0].losses, after=likelihoods[1].losses))
    return ModelComparison(
        before=before.name,
        after=after.name,
        metrics={each.metric: each for each in compare_scores(scored, prompts, seed=seed)},
        rows=tuple(map(partial(_compared, scored), count(), held_out.rows, answers)),
        near=held_out.near,
        given=held_out.given,
        seed=seed,
        parameters={"max_new_tokens": max_new_tokens, "do_sample": False},
        perplexity=(likelihoods[0].perplexity, likelihoods[1].perplexity) if likelihoods else None,
    )


def _prompts(rows: Sequence[HeldOutRow], prompt_of: Callable[[Sequence[Message]], Hashable] | None) -> list[Hashable]:
    """Return what of each row's prompt makes it no independent witness; raises `phift.errors.ConfigError`."""
    found: list[Hashable] = [prompt_of(row.prompt) if prompt_of else repr(row.prompt) for row in rows]
    for row, each in zip(rows, found, strict=True):
        try:
            hash(each)
        except TypeError:
            what = f"prompt_of gives a {type(each).__name__} for row {row.number}, which cannot be a key."
            raise ConfigError(what, where="prompt_of", fix="have it return a text, a number or a tuple") from None
    return found


def _scored(
    metrics: Sequence[Metric], rows: Sequence[HeldOutRow], asking: Generator[Answers, None, None]
) -> tuple[list[Answers], list[Scored]]:
    """Return all answers and their scores; what cannot be scored ends the asking."""
    answers: list[Answers] = []
    scores: list[list[tuple[float, float]]] = [[] for _ in metrics]
    with closing(asking):
        for row, said in zip(rows, asking, strict=True):
            answers.append(said)
            for metric, found in zip(metrics, scores, strict=True):
                one, other = _score(metric, said.before, row), _score(metric, said.after, row)
                _check_most(metric, row, one, other)
                found.append((one, other))
    sides = [tuple(zip(*found, strict=True)) for found in scores]
    return answers, [
        Scored(metric=metric, before=before, after=after)
        for metric, (before, after) in zip(metrics, sides, strict=True)
    ]


def _score(metric: Metric, answer: str, row: HeldOutRow) -> float:
    """Score an answer; raises what a metric raises, and `phift.errors.ConfigError` where it gives what is no number."""
    given = metric.score(answer, row.reference)
    try:
        found, said = float(given), f"{given}"
    except (TypeError, ValueError, OverflowError):
        found, said = math.nan, f"a {type(given).__name__}"
    if not math.isfinite(found):
        what = f"The metric {metric.name} gives {said} for an answer to row {row.number}."
        fix = "have it give a number for every answer, an empty one too"
        raise ConfigError(what, where="metrics", fix=fix)
    return found


def _check_most(metric: Metric, row: HeldOutRow, one: float, other: float) -> None:
    """Raise `phift.errors.ConfigError` where two scores differ by more than a metric says that they can."""
    if metric.most is not None and abs(one - other) > metric.most + 1e-9:
        what = f"The metric {metric.name} gives {one:g} and {other:g} for answers to row {row.number}, which differ by "
        what += f"more than its `most`, {metric.most:g}."
        fix = "set most=None, or the largest difference that two scores can have"
        raise ConfigError(what, where="metrics", fix=fix)


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

    Raises `phift.errors.ModelError` where they cut questions or answers into other tokens, so that losses cannot be
    compared, and `phift.errors.DataError` for answers that call tools, whose text each template writes in its own way.
    """
    if calling := [row.number for row in rows if row.calls]:
        what = (
            f"{len(calling)} of {len(rows)} right answers call tools, the first in row {calling[0]}, and the loss is "
        )
        what += "that of a text."
        raise DataError(what, where="weights", fix="leave `weights` out, or give rows whose answers are texts")

    def measured(folder: str | Path) -> Likelihood:
        source = f"the loss of {Path(folder).name}"
        return measure(Path(folder), rows, lambda done: tell(Progress(stage="compare", source=source, rows=done)))

    before, after = map(measured, weights)
    for of, same in (("answers", before.tokens == after.tokens), ("questions", before.asked == after.asked)):
        if same:
            continue
        what = f"The two models read the {of} as different tokens, so their losses cannot be compared."
        raise ModelError(what, where=" and ".join(map(str, weights)), fix="leave `weights` out")
    return before, after
