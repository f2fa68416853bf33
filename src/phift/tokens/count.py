"""How long the conversations are in tokens, what would be cut, and which rows would be left without an answer.

**Which rows.** ``exact`` counts every row. Otherwise 1,000 rows of each split are drawn by reservoir sampling, each
with equal probability, from a generator seeded with ``seed``: the same file and seed give the same rows. What is then
said of all rows is an estimate and is worded as one.

**How.** With a tokenizer: the chat template's text, tokenised. Without: `phift.check.cost.CHARACTERS_PER_TOKEN`
characters of what is said are a token, and the template's own tokens are not counted.

Memory does not grow with the data but for 32 bytes a counted row.
"""

from __future__ import annotations

import json
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log10
from pathlib import Path
from typing import Any

from phift.check.cost import CHARACTERS_PER_TOKEN
from phift.check.findings import Finding
from phift.component.preprocessing import LEAST_TRAINING_ROWS, ChatTokenizer, Refused, Row
from phift.errors import DataError, DataNotFound
from phift.events import isolated
from phift.tokens.report import MOST_PROBLEMS, QUANTILES, SAMPLE_ROWS, SplitTokens, TokenReport

_BATCH_ROWS = 256
_BATCH_BYTES = 2_000_000  # of JSON; a token's bookkeeping in the tokenizer takes far more than its text


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
    limit = max_seq_length if max_seq_length > 0 else None
    if tokenizer:
        limit = tokenizer.limit(max_seq_length)
    tallies, tell = {}, isolated(on_progress)
    for split, path in files.items():
        tallies[split] = tally = _Tally(path)
        for batch, share in _batches(tally, seed, exact=exact):
            encoded = tokenizer.encode_batch([row for _, row in batch]) if tokenizer else [None] * len(batch)
            for (line, row), ids in zip(batch, encoded, strict=True):
                if isinstance(ids, Refused):
                    tally.refused += 1
                    if len(tally.problems) < MOST_PROBLEMS:
                        tally.problems.append((f"{path}:{line}", ids.reason))
                    continue
                if tokenizer and ids is not None:
                    # The cut comes first: it may go through a marker.
                    length, trained = len(ids), sum(end - start for start, end in tokenizer.spans(ids[:limit]))
                else:
                    length, trained = _estimate(row, limit)
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
    """One split's rows while they are counted.

    - **rows**: in the file.
    - **lines**, **lengths**, **trained**: the number, from 1, and the tokens of each counted row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
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
        quantiles={share: _quantile(ordered, share) for share in QUANTILES},
        histogram=tuple(histogram),
        longest=longest,
        longest_line=tally.lines[tally.lengths.index(longest)] if ordered else 0,
        cut=len(over),
        tokens_lost=sum(over),
        without_answer=len(unanswered) if knows_markers else None,
        without_answer_lines=tuple(unanswered[:100]) if knows_markers else (),
        refused=tally.refused,
        problems=tuple(tally.problems),
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
