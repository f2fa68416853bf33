"""What was counted of the tokens of prepared data, and how it is shown: as a table, in a notebook, as a plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from phift.errors import MissingDependency

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLE_ROWS = 1_000
"""Rows of each split that a sample has."""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)

MOST_PROBLEMS = 20


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
        table = _table(self)
        first, *widths = (max(map(len, column)) for column in zip(*table, strict=True))
        lines = ("  ".join([split.ljust(first), *map(str.rjust, numbers, widths)]) for split, *numbers in table)
        return "\n".join([_headline(self), *lines, *_remarks(self)])

    def __str__(self) -> str:
        lines = [self.summary]
        for split, tokens in self.splits.items():
            lines += ["", f"{split}: counted rows by tokens"]
            most = max((rows for *_, rows in tokens.histogram), default=0) or 1
            width = max((len(f"{high:,}") for _, high, _ in tokens.histogram), default=0)
            for low, high, rows in tokens.histogram:
                bar = "█" * ceil(40 * rows / most)
                cut = f"  <- cut at {self.limit:,}" if self.limit is not None and low <= self.limit < high else ""
                lines.append(f"{low:>{width},} to {high - 1:>{width},} |{bar} {rows:,}{cut}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Show the report in a notebook."""
        head, *rows = _table(self)
        cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        remarks = "".join(f"<p>{escape(line)}</p>" for line in _remarks(self))
        bars = "".join(_html_bars(split, tokens) for split, tokens in self.splits.items())
        table = f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
        return f"<p><b>{escape(_headline(self))}</b></p>{table}{remarks}{bars}"

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


def _headline(report: TokenReport) -> str:
    cut = f"cut at {report.limit:,}" if report.limit is not None else "not cut"
    if report.counted == "estimate":
        return f"Tokens estimated ({report.source}); {cut}."
    rows = "every row" if report.counted == "exact" else f"{SAMPLE_ROWS:,} rows of each split, drawn at random"
    return f"Tokens of {rows}, counted with the tokenizer of {report.source}; {cut}."


def _table(report: TokenReport) -> list[list[str]]:
    head = ["split", "rows", "counted", "mean", "median", "95 %", "99 %", "longest", "cut", "no answer", "refused"]
    rows = [head]
    for split, tokens in report.splits.items():
        lengths = [round(tokens.mean), *(tokens.quantiles[share] for share in (0.5, 0.95, 0.99)), tokens.longest]
        counts = [tokens.cut, tokens.without_answer, tokens.refused]
        shown = ["?" if count is None else report.about(tokens, count) for count in counts]
        rows.append([split, *(f"{n:,}" for n in (tokens.rows, tokens.rows_counted, *lengths)), *shown])
    return rows


def _remarks(report: TokenReport) -> list[str]:
    problems = [problem for tokens in report.splits.values() for problem in tokens.problems]
    return [f"{place}: {reason}" for place, reason in problems[:MOST_PROBLEMS]]


def _html_bars(split: str, tokens: SplitTokens) -> str:
    most = max((rows for *_, rows in tokens.histogram), default=0) or 1
    rows = "".join(
        f"<tr><td>{low:,} to {high - 1:,}</td><td>{count:,}</td><td><div style='background:#4a7ebb;height:0.8em;"
        f"width:{10 * count / most:.2f}em'></div></td></tr>"
        for low, high, count in tokens.histogram
    )
    return f"<details><summary>{escape(split)}: counted rows by tokens</summary><table>{rows}</table></details>"
