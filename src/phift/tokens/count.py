"""How long the conversations are in tokens, what would be cut, and which rows would be left without an answer.

**Which rows.** ``exact`` counts every row. Otherwise 1,000 rows of each split are drawn by reservoir sampling, each
with equal probability, from a generator seeded with ``seed``: the same file and seed give the same rows. What is then
said of all rows is an estimate and is worded as one.

**How.** With a tokenizer: the chat template's text, tokenised. Without: `phift.check.cost.CHARACTERS_PER_TOKEN`
characters of what is said are a token, and the template's own tokens are not counted.

Memory does not grow with the data but for 16 bytes a row.
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, log10
from pathlib import Path
from typing import Any

from phift.check.cost import CHARACTERS_PER_TOKEN
from phift.check.findings import Finding, Severity
from phift.component.preprocessing import LEAST_TRAINING_ROWS, Row
from phift.component.tokenizer import ChatTokenizer, Refused
from phift.errors import DataError, DataNotFound
from phift.events import isolated
from phift.tokens.report import MOST_PROBLEMS, QUANTILES, SAMPLE_ROWS, SplitTokens, TokenReport

_BATCH_ROWS = 256
_BATCH_BYTES = 2_000_000  # of JSON; a token's bookkeeping in the tokenizer takes far more than its text
_BARS = 12
_MOST_ROWS = 100


@dataclass(frozen=True)
class Counted:
    """How far counting has come.

    - **share**: of the rows to count in this split, 0 to 1.
    """

    split: str
    rows: int
    share: float


def measure(
    files: Mapping[str, Path],
    tokenizer: ChatTokenizer | None,
    *,
    max_seq_length: int,
    exact: bool,
    seed: int = 0,
    reason: str = "",
    on_progress: Callable[[Counted], None] | None = None,
) -> TokenReport:
    """Count the tokens of prepared files, see the module's text for which rows and how.

    - **files**: the prepared file of each split.
    - **tokenizer**: None estimates by characters; **reason** says why there is none.
    - **max_seq_length**: the job's; 0 or less leaves the tokenizer's own limit.
    """
    given = max_seq_length if max_seq_length > 0 else None
    limit = tokenizer.limit(max_seq_length) if tokenizer else given
    count = _tokens_of(tokenizer, limit) if tokenizer else _estimate_of(limit)
    tallies, tell = {}, isolated(on_progress)
    for split, path in files.items():
        tallies[split] = tally = _Tally(path, limit)
        for batch, share in _batches(path, tally, seed, exact=exact):
            tally.add(batch, count([row for _, row in batch]))
            tell(Counted(split, tally.counted, share))
    step, bars = _bins([tally.lengths for tally in tallies.values()])
    knows = tokenizer.knows_markers if tokenizer else True
    splits = {split: tally.result(step, bars, knows_markers=knows) for split, tally in tallies.items()}
    source = f"{CHARACTERS_PER_TOKEN} characters a token" + (f" ({reason.rstrip('.')})" if reason else "")
    whole = all(tokens.whole for tokens in splits.values())
    return TokenReport(
        counted="estimate" if not tokenizer else "exact" if whole else "sample",
        source=tokenizer.source if tokenizer else source,
        max_seq_length=max_seq_length,
        limit=limit,
        splits=splits,
    )


_Batch = list[tuple[int, Row]]  # rows with their line numbers
_Lengths = tuple[int, int]  # a row's tokens, and those of them that are trained on within the limit
_Count = Callable[[Sequence[Row]], Sequence[_Lengths | Refused]]


def _tokens_of(tokenizer: ChatTokenizer, limit: int | None) -> _Count:
    def count(rows: Sequence[Row]) -> list[_Lengths | Refused]:
        return [each if isinstance(each, Refused) else lengths(each) for each in tokenizer.encode_batch(rows)]

    def lengths(ids: list[int]) -> _Lengths:
        # The cut comes first: it may go through a marker.
        return len(ids), sum(end - start for start, end in tokenizer.spans(ids[:limit]))

    return count


def _estimate_of(limit: int | None) -> _Count:
    def lengths(row: Row) -> _Lengths:
        said = [(message.get("role") == "assistant", _characters(message)) for message in row["messages"]]
        ends = list(accumulate(characters / CHARACTERS_PER_TOKEN for _, characters in said))
        kept = [min(end, limit) if limit is not None else end for end in ends]
        starts = [0.0, *kept[:-1]]
        trained = sum(end - start for (mine, _), start, end in zip(said, starts, kept, strict=True) if mine)
        return ceil(ends[-1]) if ends else 0, ceil(trained)

    return lambda rows: [lengths(row) for row in rows]


def _characters(message: Mapping[str, Any]) -> int:
    content, calls = message.get("content"), message.get("tool_calls")
    return len(content or "") + (len(json.dumps(calls, ensure_ascii=False)) if calls else 0)


class _Tally:
    """The counts of one split while they come in."""

    def __init__(self, path: Path, limit: int | None) -> None:
        self.path = path
        self.rows = 0  # set by the reading
        self.counted = 0
        self.lengths = array("q")
        self._limit = limit
        self._trained = 0
        self._longest = (0, 0)
        self._without_answer = 0
        self._without_answer_lines: list[int] = []
        self._refused = 0
        self._problems: list[tuple[str, str]] = []

    def add(self, batch: _Batch, counts: Iterable[_Lengths | Refused]) -> None:
        for (number, _), count in zip(batch, counts, strict=True):
            self.counted += 1
            if isinstance(count, Refused):
                self._refused += 1
                if len(self._problems) < MOST_PROBLEMS:
                    self._problems.append((f"{self.path}:{number}", count.reason))
                continue
            length, trained = count
            self.lengths.append(length)
            self._longest = max(self._longest, (length, -number))
            self._trained += trained
            if not trained:
                self._without_answer += 1
                if len(self._without_answer_lines) < _MOST_ROWS:
                    self._without_answer_lines.append(number)

    def result(self, step: int, bars: int, *, knows_markers: bool) -> SplitTokens:
        ordered = sorted(self.lengths)
        over = [length - self._limit for length in ordered if length > self._limit] if self._limit is not None else []
        return SplitTokens(
            path=self.path,
            rows=self.rows,
            rows_counted=self.counted,
            tokens=sum(ordered),
            assistant_tokens=self._trained if knows_markers else None,
            quantiles={share: _quantile(ordered, share) for share in QUANTILES},
            histogram=_histogram(ordered, step, bars),
            longest=self._longest[0],
            longest_line=-self._longest[1],
            cut=len(over),
            tokens_lost=sum(over),
            without_answer=self._without_answer if knows_markers else None,
            without_answer_lines=tuple(self._without_answer_lines) if knows_markers else (),
            refused=self._refused,
            problems=tuple(self._problems),
        )


def _batches(path: Path, tally: _Tally, seed: int, *, exact: bool) -> Iterator[tuple[_Batch, float]]:
    """Yield the rows to count in batches, and how much of the work is done after each."""
    import msgspec

    decode = msgspec.json.Decoder(dict[str, Any]).decode
    batch: _Batch = []
    size = 0
    try:
        for number, line, share in _all(path, tally) if exact else _sample(path, tally, seed):
            batch.append((number, decode(line)))
            size += len(line)
            if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
                yield batch, share
                batch, size = [], 0
    except FileNotFoundError as error:
        raise DataNotFound("There is no such file.", where=str(path), fix="prepare the data first") from error
    except (OSError, msgspec.DecodeError) as error:
        what = f"The file cannot be read as chat data: {type(error).__name__}."
        raise DataError(what, where=str(path), fix="prepare the data again") from error
    if batch:
        yield batch, 1.0


_Line = tuple[int, bytes, float]  # its number from 1, the text, and how much of the work is done with it


def _all(path: Path, tally: _Tally) -> Iterator[_Line]:
    size = max(1, path.stat().st_size)
    done = 0
    with path.open("rb", buffering=1 << 20) as file:
        for number, line in enumerate(file, start=1):
            tally.rows = number
            done += len(line)
            yield number, line, done / size


def _sample(path: Path, tally: _Tally, seed: int) -> Iterator[_Line]:
    """Draw rows by their places in the file, so that no row is held before it is counted."""
    draw = random.Random(seed).random  # noqa: S311 - a reproducible sample, no secret
    drawn: list[tuple[int, int]] = []
    start = 0
    with path.open("rb", buffering=1 << 20) as file:
        for index, line in enumerate(file):
            # Of Python's generator only random() is promised to stay the same from version to version.
            slot = index if index < SAMPLE_ROWS else int(draw() * (index + 1))
            if slot < SAMPLE_ROWS:
                drawn[slot : slot + 1] = [(index + 1, start)]
            start += len(line)
            tally.rows = index + 1
        for done, (number, offset) in enumerate(sorted(drawn), start=1):
            file.seek(offset)
            yield number, file.readline(), done / len(drawn)


def _quantile(ordered: Sequence[int], share: float) -> int:
    """Return the smallest value that at least this share of the rows does not exceed."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0


def _bins(lengths: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return a width of 1, 2 or 5 times a power of ten and a number of bins for all splits, up to the 99 % quantile."""
    top = max((_quantile(sorted(each), 0.99) for each in lengths), default=0)
    rough = max(1.0, (top + 1) / _BARS)
    power: int = 10 ** int(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return step, top // step + 1


def _histogram(ordered: Sequence[int], step: int, bars: int) -> tuple[tuple[int, int, int], ...]:
    """Count rows by length; what is longer than the last bin has one of its own."""
    counts = [0] * (bars + 1)
    for length in ordered:
        counts[min(length // step, bars)] += 1
    found = [(index * step, (index + 1) * step, counts[index]) for index in range(bars)]
    if counts[bars]:
        found.append((bars * step, ordered[-1] + 1, counts[bars]))
    return tuple(found)


def token_findings(report: TokenReport) -> list[Finding]:
    """Return what the user should know of the tokens before paying for a GPU."""
    findings = []
    if report.counted == "estimate":
        message = f"Tokens are estimated: {report.source}. Which rows are cut is a guess."
        fix = "install phift[local] and set data.tokenizer to the model's, to count them"
        findings.append(_finding("DATA_TOKENS_ESTIMATED", "note", "data.tokenizer", message, fix))
    elif any(tokens.without_answer is None for tokens in report.splits.values()):
        message = "It is not known which tokens are trained on: no finetune_config.json has the model's markers."
        fix = "give finetune_config_path, or put finetune_config.json into the tokenizer's folder"
        findings.append(_finding("DATA_MARKERS_UNKNOWN", "note", "data.tokenizer", message, fix))
    for split, tokens in report.splits.items():
        findings += [*_refused(report, tokens), *_without_answer(report, split, tokens), *_cut(report, split, tokens)]
    return findings


def _finding(code: str, severity: Severity, place: str, message: str, fix: str) -> Finding:
    return Finding(code=code, severity=severity, place=place, message=message, fix=fix)


def _refused(report: TokenReport, tokens: SplitTokens) -> list[Finding]:
    if not tokens.refused:
        return []
    place, reason = tokens.problems[0]
    rows = f"{report.about(tokens, tokens.refused)} of {tokens.rows:,} rows"
    message = f"{rows} cannot become tokens, and one is enough to fail the job. The first: {reason}"
    return [_finding("DATA_TEMPLATE", "error", place, message, "mend or remove the rows")]


def _without_answer(report: TokenReport, split: str, tokens: SplitTokens) -> list[Finding]:
    if not tokens.without_answer:
        return []
    dropped = tokens.of_all(tokens.without_answer)
    left = tokens.rows - dropped - tokens.of_all(tokens.refused)
    least = {"train": LEAST_TRAINING_ROWS, "validation": 1}.get(split, 0)
    # A guess by characters stops nobody.
    fatal = left < least and report.counted != "estimate"
    cut = f" within {report.limit:,} tokens" if report.limit is not None else ""
    rows = f"{report.about(tokens, tokens.without_answer)} of {tokens.rows:,} {split} rows"
    message = f"{rows} keep no assistant token{cut}; the component drops them without a word."
    if left < least:
        message += f" It needs at least {least} {split} row{'s' * (least > 1)}; {max(0, left)} would be left."
    fix = "raise max_seq_length, shorten what comes before the first answer, or take the rows out"
    place = f"{tokens.path}:{tokens.without_answer_lines[0]}"
    return [_finding("DATA_NO_ANSWER_LEFT", "error" if fatal else "warning", place, message, fix)]


def _cut(report: TokenReport, split: str, tokens: SplitTokens) -> list[Finding]:
    if not tokens.cut or report.limit is None:
        return []
    own = report.limit == report.max_seq_length
    name = "max_seq_length" if own else "the model's longest input"
    rows = f"{report.about(tokens, tokens.cut)} of {tokens.rows:,} {split} rows"
    lost = 100 * tokens.tokens_lost / tokens.tokens
    sure = "" if tokens.whole and report.counted != "estimate" else "about "
    message = f"{rows} are longer than {name} ({report.limit:,} tokens); {sure}{lost:.1f} % of the tokens are cut off."
    shorten = "shorten or divide the conversations"
    fix = f"raise max_seq_length (the longest counted row has {tokens.longest:,}), or {shorten}" if own else shorten
    return [_finding("DATA_CUT", "warning", f"{tokens.path}:{tokens.longest_line}", message, fix)]
