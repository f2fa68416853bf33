"""How long the conversations are in tokens, what would be cut, and which rows would be left without an answer.

**Which rows.** ``exact`` counts every row. Otherwise 1,000 rows of each split are drawn by reservoir sampling, each
with equal probability, from a generator seeded with ``seed``: the same file and seed give the same rows. What is then
said of all rows is an estimate and is worded as one.

**How.** With a tokenizer: the chat template's text, tokenised. Without: `CHARACTERS_PER_TOKEN` characters of what is
said are a token, and the template's own tokens are not counted.

Memory does not grow with the data but for 32 bytes a counted row.
"""

from __future__ import annotations

import json
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from math import ceil, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from phift.check.findings import Finding
from phift.component.preprocessing import LEAST_TRAINING_ROWS, Refused, Row
from phift.errors import (
    DataError,
    DataNotFound,
    MissingDependency,
    ModelError,
    isolated,
    visible,
    visible_html,
    visible_table,
)
from phift.tokens.marks import PHI, Marked, Marks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHARACTERS_PER_TOKEN = 4

SAMPLE_ROWS = 1_000
"""Rows of each split that a sample has."""

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_MOST_PROBLEMS = 20
_MOST_NAMES = 5
_BATCH_ROWS = 256
_BATCH_BYTES = 2_000_000  # of JSON; a token's bookkeeping in the tokenizer takes far more than its text


class RowTokens(Protocol):
    """What counts and shows rows: `phift.component.preprocessing.ChatTokenizer` says what each of its methods does."""

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def knows_markers(self) -> bool: ...  # noqa: D102
    @property
    def specials(self) -> tuple[str, ...]: ...  # noqa: D102
    def limit(self, max_seq_length: int) -> int | None: ...  # noqa: D102
    def count(self, rows: Sequence[Row], limit: int | None) -> list[tuple[int, int] | Refused]: ...  # noqa: D102
    def view(self, row: Row, limit: int | None) -> list[tuple[str, bool]] | Refused: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class SplitTokens:
    """The tokens of one split's rows.

    - **rows**, **rows_counted**: in the file, and looked at.
    - **tokens**: of the counted rows, before anything is cut.
    - **assistant_tokens**: those trained on, after the cut; None where the model's markers are not known.
    - **quantiles**, **longest**, **longest_line**: of a row's tokens before the cut.
    - **histogram**: ``(from, below, rows)``.
    - **cut**, **tokens_lost**: counted rows longer than the limit, and their tokens beyond it.
    - **without_answer**: counted rows that keep no trained token; **without_answer_lines** has the first 100.
    - **refused**: counted rows that the template does not take; **problems** has the first 20, ``(place, reason)``.
    - **special_tokens**, **templates**: counted rows with a special token in a text, or with a whole template's marks.
    """

    path: Path
    rows: int
    rows_counted: int
    tokens: int
    assistant_tokens: int | None
    quantiles: Mapping[float, int]
    histogram: tuple[tuple[int, int, int], ...]
    longest: int
    longest_line: int
    cut: int
    tokens_lost: int
    without_answer: int | None
    without_answer_lines: tuple[int, ...]
    refused: int
    problems: tuple[tuple[str, str], ...]
    special_tokens: Marked | None = None
    templates: Marked | None = None

    @property
    def mean(self) -> float:
        """Tokens of a row before the cut."""
        return self.tokens / max(1, self.rows_counted - self.refused)

    @property
    def whole(self) -> bool:
        """Whether every row was counted."""
        return self.rows_counted == self.rows

    def of_all(self, count: int) -> int:
        """Return how many of all rows ``count`` of the counted ones stand for."""
        return count if self.whole else round(count * self.rows / self.rows_counted)


@dataclass(frozen=True, kw_only=True)
class TokenReport:
    """How long the conversations are.

    - **counted**: ``exact`` for all rows, ``sample`` for some of them, ``estimate`` by characters.
    - **source**: with which tokenizer, or why there was none.
    - **max_seq_length**: as the job has it; **limit**: where a row is really cut, None if nowhere.
    """

    counted: Literal["exact", "sample", "estimate"]
    source: str
    max_seq_length: int
    limit: int | None
    splits: Mapping[str, SplitTokens]

    @property
    def summary(self) -> str:
        """The table, without the histograms."""
        headline, table, remarks = self._parts()
        first, *widths = (max(map(len, column)) for column in zip(*table, strict=True))
        lines = ("  ".join([split.ljust(first), *map(str.rjust, numbers, widths)]) for split, *numbers in table)
        return visible("\n".join([headline, *lines, *remarks]))

    def _parts(self) -> tuple[str, list[list[str]], list[str]]:
        """Return the headline, the table with its head, and the first rows that cannot become tokens."""
        rows = "every row" if self.counted == "exact" else f"{SAMPLE_ROWS:,} rows of each split, drawn at random"
        how = f"Tokens of {rows}, counted with the tokenizer of {self.source}"
        if self.counted == "estimate":
            how = f"Tokens estimated ({self.source})"
        headline = f"{how}; {f'cut at {self.limit:,}' if self.limit is not None else 'not cut'}."
        names = "split,rows,counted,mean,median,95 %,99 %,longest,cut,no answer,refused"
        table, remarks = [names.split(",")], []
        for split, tokens in self.splits.items():
            lengths = [round(tokens.mean), *(tokens.quantiles[share] for share in (0.5, 0.95, 0.99)), tokens.longest]
            counts = [tokens.cut, tokens.without_answer, tokens.refused]
            shown = ["?" if count is None else self.about(tokens, count) for count in counts]
            table.append([split, *(f"{n:,}" for n in (tokens.rows, tokens.rows_counted, *lengths)), *shown])
            remarks += [f"{place}: {reason}" for place, reason in tokens.problems]
        return headline, table, remarks[:_MOST_PROBLEMS]

    def _bars(self) -> Iterator[tuple[str, list[str]]]:
        """Yield for each split what its histogram shows, and the lines of it."""
        for split, tokens in self.splits.items():
            most = max((rows for *_, rows in tokens.histogram), default=0) or 1
            width = max((len(f"{high:,}") for _, high, _ in tokens.histogram), default=0)
            lines = []
            for low, high, rows in tokens.histogram:
                bar = "█" * ceil(40 * rows / most)
                cut = f"  <- cut at {self.limit:,}" if self.limit is not None and low <= self.limit < high else ""
                lines.append(f"{low:>{width},} to {high - 1:>{width},} |{bar} {rows:,}{cut}")
            yield f"{split}: counted rows by tokens", lines

    def __str__(self) -> str:
        return self.summary + "".join("\n".join(["\n", title, *lines]) for title, lines in self._bars())

    def _repr_html_(self) -> str:
        """Show the report in a notebook."""
        headline, (head, *rows), remarks = self._parts()
        html = f"<p><b>{visible_html(headline)}</b></p>{visible_table(head, rows)}"
        html += "".join(f"<p>{visible_html(line)}</p>" for line in remarks)
        for title, lines in self._bars():
            bars = "\n".join(lines)
            html += f"<details><summary>{visible_html(title)}</summary><pre>{bars}</pre></details>"
        return html

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the share of rows over their tokens, one line a split, and the limit; return the axes."""
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                what = "matplotlib is not installed, so nothing can be drawn."
                raise MissingDependency(what, where="TokenReport.plot", fix="pip install matplotlib") from error
            _, ax = pyplot.subplots()
        for split, tokens in self.splits.items():
            bins = tokens.histogram
            if total := sum(rows for *_, rows in bins):
                shares = [100 * rows / total for *_, rows in bins]
                ax.stairs(shares, [bins[0][0], *(high for _, high, _ in bins)], label=f"{split}, {tokens.rows:,} rows")
        if self.limit is not None:
            ax.axvline(self.limit, linestyle="--", color="gray", label=f"cut at {self.limit:,}")
        ax.set_xlabel("tokens of a row" + (" (estimated)" if self.counted == "estimate" else ""))
        ax.set_ylabel("% of rows")
        if self.splits:
            ax.legend()
        return ax

    def about(self, tokens: SplitTokens, count: int) -> str:
        """Say how many of a split's rows ``count`` stands for, and that it is an estimate where it is one."""
        sure = tokens.whole and self.counted != "estimate"
        return f"{'' if sure else 'about '}{tokens.of_all(count):,}"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        values = asdict(self)
        for split, tokens in self.splits.items():
            quantiles = {f"{share:g}": length for share, length in tokens.quantiles.items()}
            values["splits"][split] |= {"path": str(tokens.path), "quantiles": quantiles, "mean": tokens.mean}
        return values


@dataclass(frozen=True)
class Counted:
    """How far counting has come.

    - **share**: of the rows to count in this split, 0 to 1.
    - **time**: when that was, in UTC.
    """

    split: str
    rows: int
    share: float
    time: datetime = field(default_factory=partial(datetime.now, UTC), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return {"event": "counted", **asdict(self), "time": self.time.isoformat()}


def measure(
    files: Mapping[str, Path],
    tokenizer: RowTokens | None,
    *,
    max_seq_length: int,
    exact: bool,
    seed: int = 0,
    reason: str = "",
    on_progress: Callable[[Counted], None] | None = None,
) -> TokenReport:
    """Count the tokens of prepared files, see the module's text for which rows and how.

    Where the tokenizer fails, or takes more time or memory than there is for it, they are estimated.

    - **files**: the prepared file of each split.
    - **tokenizer**: None estimates by characters; **reason** says why there is none.
    - **max_seq_length**: the job's; 0 or less leaves the tokenizer's own limit.
    """
    limit = max_seq_length if max_seq_length > 0 else None
    if tokenizer:
        limit = tokenizer.limit(max_seq_length)
    tallies, tell = {}, isolated(on_progress)
    for split, path in files.items():
        tallies[split] = tally = _Tally(path, Marks(tokenizer.specials if tokenizer else PHI))
        for batch, share in _batches(tally, seed, exact=exact):
            rows = [row for _, row in batch]
            try:
                counts = tokenizer.count(rows, limit) if tokenizer else [_estimate(row, limit) for row in rows]
            except ModelError as error:
                reason = f"{error.what.rstrip('.')} ({error.where}): {error.fix}"
                return measure(
                    files, None, max_seq_length=max_seq_length, exact=exact, seed=seed, reason=reason, on_progress=tell
                )
            for (line, row), counted in zip(batch, counts, strict=True):
                if isinstance(counted, Refused):
                    tally.refused += 1
                    if len(tally.problems) < _MOST_PROBLEMS:
                        tally.problems.append((f"{path}:{line}", counted.reason))
                    continue
                tally.marks.look(line, row)
                length, trained = counted
                tally.lines.append(line)
                tally.lengths.append(length)
                tally.trained.append(trained)
            tell(Counted(split, len(tally.lines) + tally.refused, share))
    ordered = {split: sorted(tally.lengths) for split, tally in tallies.items()}
    # A dozen bins for all splits, up to the 99 % quantile: as wide as 1, 2 or 5 times a power of ten.
    top = max((_quantile(each, 0.99) for each in ordered.values()), default=0)
    rough = max(1.0, (top + 1) / 12)
    power: int = 10 ** int(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    knows = tokenizer.knows_markers if tokenizer else True
    splits = {
        split: _split_tokens(tally, ordered[split], limit, step, top // step + 1, knows_markers=knows)
        for split, tally in tallies.items()
    }
    source = f"{CHARACTERS_PER_TOKEN} characters a token" + (f" ({reason.rstrip('.')})" if reason else "")
    whole = all(tokens.whole for tokens in splits.values())
    return TokenReport(
        counted="estimate" if not tokenizer else "exact" if whole else "sample",
        source=tokenizer.source if tokenizer else source,
        max_seq_length=max_seq_length,
        limit=limit,
        splits=splits,
    )


def _estimate(row: Row, limit: int | None) -> tuple[int, int]:
    """Guess a row's tokens, and those of them that are trained on within the limit."""
    end, trained = 0.0, 0.0
    for message in row["messages"]:
        calls = message.get("tool_calls")
        text = (message.get("content") or "") + (json.dumps(calls, ensure_ascii=False) if calls else "")
        start, end = end, end + len(text) / CHARACTERS_PER_TOKEN
        if message.get("role") == "assistant":
            trained += end - start if limit is None else min(end, limit) - min(start, limit)
    return ceil(end), ceil(trained)


class _Tally:
    """One split's rows while they are counted; of each counted one its number, from 1, and its tokens."""

    def __init__(self, path: Path, marks: Marks) -> None:
        self.path, self.marks, self.rows = path, marks, 0
        self.lines, self.lengths, self.trained = array("q"), array("q"), array("q")
        self.refused = 0
        self.problems: list[tuple[str, str]] = []


def _split_tokens(
    tally: _Tally, ordered: Sequence[int], limit: int | None, step: int, bars: int, *, knows_markers: bool
) -> SplitTokens:
    """Describe a split's counted rows.

    - **ordered**: their lengths, not falling.
    - **step**, **bars**: the width and number of the histogram's bins; what is longer has one of its own.
    """
    longest = ordered[-1] if ordered else 0
    over = [length - limit for length in ordered if length > limit] if limit is not None else []
    unanswered = [line for line, trained in zip(tally.lines, tally.trained, strict=True) if not trained]
    counts = Counter(min(length // step, bars) for length in ordered)
    histogram = [(index * step, (index + 1) * step, counts[index]) for index in range(bars)]
    if counts[bars]:
        histogram.append((bars * step, longest + 1, counts[bars]))
    return SplitTokens(
        path=tally.path,
        rows=tally.rows,
        rows_counted=len(ordered) + tally.refused,
        tokens=sum(ordered),
        assistant_tokens=sum(tally.trained) if knows_markers else None,
        quantiles={share: _quantile(ordered, share) for share in _QUANTILES},
        histogram=tuple(histogram),
        longest=longest,
        longest_line=tally.lines[tally.lengths.index(longest)] if ordered else 0,
        cut=len(over),
        tokens_lost=sum(over),
        without_answer=len(unanswered) if knows_markers else None,
        without_answer_lines=tuple(unanswered[:100]) if knows_markers else (),
        refused=tally.refused,
        problems=tuple(tally.problems),
        special_tokens=tally.marks.tokens,
        templates=tally.marks.templates,
    )


def _quantile(ordered: Sequence[int], share: float) -> int:
    """Return the smallest value that at least this share of the rows does not exceed."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0


def _batches(tally: _Tally, seed: int, *, exact: bool) -> Iterator[tuple[list[tuple[int, Row]], float]]:
    """Yield the rows to count in batches, with their lines, and how much of the work is done after each."""
    import msgspec

    decode = msgspec.json.Decoder(dict[str, Any]).decode
    batch: list[tuple[int, Row]] = []
    size = 0
    try:
        for line, text, share in _lines(tally, seed, exact=exact):
            batch.append((line, decode(text)))
            size += len(text)
            if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
                yield batch, share
                batch, size = [], 0
    except FileNotFoundError as error:
        raise DataNotFound("There is no such file.", where=str(tally.path), fix="prepare the data first") from error
    except (OSError, msgspec.DecodeError) as error:
        what = f"The file cannot be read as chat data: {type(error).__name__}."
        raise DataError(what, where=str(tally.path), fix="prepare the data again") from error
    if batch:
        yield batch, 1.0


def _lines(tally: _Tally, seed: int, *, exact: bool) -> Iterator[tuple[int, bytes, float]]:
    """Yield the lines to count with their numbers, and how much of the work is done with each.

    A sample is drawn by the lines' places in the file, so that none is held before it is counted.
    """
    draw = random.Random(seed).random  # noqa: S311 - a reproducible sample, no secret
    drawn: list[tuple[int, int]] = []
    size, start = tally.path.stat().st_size, 0
    with tally.path.open("rb", buffering=1 << 20) as file:
        for tally.rows, text in enumerate(file, start=1):
            if exact:
                yield tally.rows, text, (start + len(text)) / max(1, size)
            else:
                # Of Python's generator only random() is promised to stay the same from version to version.
                slot = tally.rows - 1 if tally.rows <= SAMPLE_ROWS else int(draw() * tally.rows)
                if slot < SAMPLE_ROWS:
                    drawn[slot : slot + 1] = [(tally.rows, start)]
            start += len(text)
        for done, (line, offset) in enumerate(sorted(drawn), start=1):
            file.seek(offset)
            yield line, file.readline(), done / len(drawn)


def token_findings(report: TokenReport) -> list[Finding]:
    """Return what the user should know of the tokens before paying for a GPU."""
    findings = []
    if report.counted == "estimate":
        message = f"Tokens are estimated: {report.source}. Which rows are cut is a guess."
        fix = "install phift[local] and set data.tokenizer to the model's, to count them"
        findings.append(Finding("DATA_TOKENS_ESTIMATED", "note", "data.tokenizer", message, fix))
    elif any(tokens.without_answer is None for tokens in report.splits.values()):
        message = "It is not known which tokens are trained on: no finetune_config.json has the model's markers."
        fix = "give finetune_config_path, or put finetune_config.json into the tokenizer's folder"
        findings.append(Finding("DATA_MARKERS_UNKNOWN", "note", "data.tokenizer", message, fix))
    for split, tokens in report.splits.items():
        findings += _split_findings(report, split, tokens)
    return findings


def _split_findings(report: TokenReport, split: str, tokens: SplitTokens) -> Iterator[Finding]:
    if tokens.refused:
        place, reason = tokens.problems[0]
        rows = f"{report.about(tokens, tokens.refused)} of {tokens.rows:,} rows"
        message = f"{rows} cannot become tokens, and one is enough to fail the job. The first: {reason}"
        yield Finding("DATA_TEMPLATE", "error", place, message, "mend or remove the rows")
    if tokens.without_answer:
        left = tokens.rows - tokens.of_all(tokens.without_answer) - tokens.of_all(tokens.refused)
        least = {"train": LEAST_TRAINING_ROWS, "validation": 1}.get(split, 0)
        cut = f" within {report.limit:,} tokens" if report.limit is not None else ""
        rows = f"{report.about(tokens, tokens.without_answer)} of {tokens.rows:,} {split} rows"
        message = f"{rows} keep no assistant token{cut}; the component drops them without a word."
        if left < least:
            message += f" It needs at least {least} {split} row{'s' * (least > 1)}; {max(0, left)} would be left."
        fix = "raise max_seq_length, shorten what comes before the first answer, or take the rows out"
        # A guess by characters stops nobody.
        fatal = left < least and report.counted != "estimate"
        place = f"{tokens.path}:{tokens.without_answer_lines[0]}"
        yield Finding("DATA_NO_ANSWER_LEFT", "error" if fatal else "warning", place, message, fix)
    if found := tokens.templates:
        message = (
            f"{_marked(split, tokens, found)} have a chat template's marks in a text: {_named(found)}. "
            "The model's own template comes around them, so one is applied twice."
        )
        fix = "give the conversation without a template: the role and the bare text of each message"
        yield Finding("DATA_TEMPLATE_TWICE", "warning", f"{tokens.path}:{found.line}", message, fix)
    if found := tokens.special_tokens:
        whose = "Phi's tokenizers take" if report.counted == "estimate" else f"the tokenizer of {report.source} takes"
        message = (
            f"{_marked(split, tokens, found)} have in a text what {whose} for special tokens: {_named(found)}. "
            "They end an answer or begin a turn wherever a text has them, before the template's own marks do."
        )
        fix = "take them out of the texts; the chat template puts its own where they belong"
        yield Finding("DATA_SPECIAL_TOKENS", "warning", f"{tokens.path}:{found.line}", message, fix)
    if tokens.cut and report.limit is not None:
        own = report.limit == report.max_seq_length
        name = "max_seq_length" if own else "the model's longest input"
        rows = f"{report.about(tokens, tokens.cut)} of {tokens.rows:,} {split} rows"
        lost = 100 * tokens.tokens_lost / tokens.tokens
        sure = "" if tokens.whole and report.counted != "estimate" else "about "
        message = (
            f"{rows} are longer than {name} ({report.limit:,} tokens); {sure}{lost:.1f} % of the tokens are cut off."
        )
        fix = "shorten or divide the conversations"
        if own:
            fix = f"raise max_seq_length (the longest counted row has {tokens.longest:,}), or {fix}"
        yield Finding("DATA_CUT", "warning", f"{tokens.path}:{tokens.longest_line}", message, fix)


def _marked(split: str, tokens: SplitTokens, found: Marked) -> str:
    """Say how many of a split's rows were found, and of which rows."""
    if tokens.whole:
        return f"{found.rows:,} of all {tokens.rows:,} {split} rows"
    return f"{found.rows:,} of the {tokens.rows_counted:,} {split} rows that were looked at, of {tokens.rows:,},"


def _named(found: Marked) -> str:
    names = [f"{visible(name, lines=False)} in {rows:,}" for name, rows in islice(found.names.items(), _MOST_NAMES)]
    more = f" and {len(found.names) - _MOST_NAMES} others" if len(found.names) > _MOST_NAMES else ""
    return f"{', '.join(names)}{more}; in texts of {', '.join(found.roles)}"
