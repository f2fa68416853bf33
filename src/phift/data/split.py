"""The split: which rows become training, validation and test data; the deal to their files; the account."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from phift.check.findings import Finding
from phift.component.preprocessing import SPLITS
from phift.data.parts import Deal
from phift.data.sources import Progress, Reading, Table, place_of
from phift.data.workers import LARGE, Workers
from phift.errors import DataError, visible

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ASIDE = len(SPLITS)
"""The index of rows that are in none of the splits."""

NEAR_EMPTY = 10
"""Characters of a whole conversation; one with fewer is probably a mistake."""

LEAKED = "it stands in the training data too"

THINNED = "it says nearly what an earlier row says"

_MOST_PAIRS = 20  # of near rows that a finding names


def draw_split(
    keys: npt.NDArray[np.uint64], strata: npt.NDArray[np.int32], shares: Mapping[str, float], seed: int
) -> npt.NDArray[np.int8]:
    """Return the index in ``SPLITS`` of each row, drawn with a seed: the same rows and seed give the same split.

    Rows with equal keys stay together, so no conversation is in two splits. Where all keys differ, each split has
    ``round(share * rows)`` rows, at least one, and each stratum gives its share of them, to within one row.

    - **keys**: one for each row.
    - **strata**: the number of the source that each row is from, not falling.
    - **shares**: of all rows, for the splits to be drawn; the rest is training data.

    Raises `phift.errors.DataError` where there are fewer different keys than splits.
    """
    import numpy as np

    first, unit, sizes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)[1:]
    if len(first) <= len(shares):
        what = f"{len(keys)} rows, {len(first)} of them different, cannot be split {len(shares) + 1} ways."
        raise DataError(what, where="data.split", fix="give more rows, or validation and test data of their own")
    # Of numpy's generators this one is promised to stay the same from version to version.
    lots = np.random.RandomState(seed % 2**32).random_sample(len(first))
    appears = np.zeros(len(keys), np.bool_)
    appears[first] = True
    ticket = lots[np.cumsum(appears)[first] - 1]
    order = np.lexsort((ticket, strata[first]))
    chosen = np.zeros(len(first), np.int8)
    # The first units of each stratum go to the splits, as long as more than half of a unit is still wanted.
    sizes, ordered = sizes[order], strata[first][order]
    bounds = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
    seen, given = 0, dict.fromkeys(shares, 0)  # rows of earlier strata: what they gave too little the next ones give
    for start, end in zip(bounds, [*bounds[1:], len(order)], strict=True):
        rows = int(sizes[start:end].sum())
        middles = np.cumsum(sizes[start:end]) - sizes[start:end] / 2
        taken = 0
        for split, share in shares.items():
            due = max(1, round(share * (seen + rows))) if seen + rows else 0
            wanted = max(0, due - given[split])
            inside = (middles > taken) & (middles <= taken + wanted)
            chosen[order[start:end][inside]] = SPLITS.index(split)
            given[split] += int(sizes[start:end][inside].sum())
            taken += wanted
        seen += rows
    for index in map(SPLITS.index, shares):
        if not (chosen == index).any():  # between large groups it got nothing: one unit of the training data
            chosen[next(unit for unit in order if chosen[unit] == 0)] = index
    return chosen[unit.reshape(-1)]


def units(*kinds: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return a number for each row, equal for rows that are linked by equal numbers of any kind, over others too.

    - **kinds**: each with a number for each row, such as of its group and of its conversation.
    """
    import numpy as np

    columns = [np.unique(kind, return_inverse=True)[1].reshape(-1) for kind in kinds]
    least = np.arange(len(kinds[0]), dtype=np.uint64)
    while True:
        before = least
        for column in columns:
            of_number = np.full(column.max() + 1, len(column), np.uint64)
            np.minimum.at(of_number, column, least)
            least = of_number[column]
        if (least == before).all():
            return least


def first_near(table: Table, among: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return for each row the index of the first row **among** some that is near it; -1 where there is none."""
    import numpy as np

    rows = np.flatnonzero(among)
    labels, first = np.unique(table["near"][rows], return_index=True)
    at = np.minimum(np.searchsorted(labels, table["near"]), max(0, len(labels) - 1))
    return np.where(labels[at] == table["near"], rows[first[at]], -1) if len(rows) else np.full(len(table), -1)


class _Reject(msgspec.Struct):
    number: int
    reason: str
    row: msgspec.Raw


_decode = msgspec.json.Decoder(_Reject).decode


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of the rows of one source: ``rows == train + validation + test + aside``, always.

    - **source**: the file's path, or the data set's id.
    - **format**: what its rows were taken for.
    - **aside**: rows in ``rejects.jsonl``.
    - **reasons**: how many rows were set aside for what; places within a row are left out.
    - **blank**: blank lines, which are no rows.
    - **columns_left_out**, **other_keys**: how many rows have which column that is not written, and which key of a
      message that only the model's chat template could have a use for; of a great many, the first.
    """

    source: str
    format: str
    rows: int
    train: int
    validation: int
    test: int
    aside: int
    reasons: Mapping[str, int]
    blank: int
    columns_left_out: Mapping[str, int] = field(default_factory=dict)
    other_keys: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{getattr(self, split):,} {split}" for split in SPLITS if getattr(self, split)]
        parts += [f"{self.aside:,} set aside"] if self.aside else []
        said = f"{self.source} ({self.format}): {self.rows:,} rows = {' + '.join(parts) or '0'}"
        return visible(said, lines=False)


def deal(
    readings: Sequence[Reading], table: Table, folder: Path, workers: Workers, tell: Callable[[Progress], None]
) -> tuple[Account, ...]:
    """Write each row to the file of its split or to the rejects, and return the account of each source.

    The rows in come from the reading, the rows set aside from the lines written, and the rows out from the table; where
    they do not add up, something is wrong with phift itself, and it says so.
    """
    import numpy as np

    tallies = [(index, tally) for index, reading in enumerate(readings) for tally in reading.tallies]
    rows = np.split(table, np.cumsum([tally.good for _, tally in tallies])[:-1])  # of each tally
    kept = first_near(table, _of_train(readings, table))
    paths = [folder / f"{name}.jsonl" for name in (*SPLITS, "aside")]
    for path in paths:
        path.touch()
    starts, deals = np.zeros(len(paths), np.int64), []
    for (_, tally), good in zip(tallies, rows, strict=True):
        if tally.good:
            lengths, chosen = good["length"], good["split"]
            files = dict(zip(paths, starts.tolist(), strict=True))
            deals.append(Deal(spool=tally.spool, lengths=lengths.tobytes(), chosen=chosen.tobytes(), files=files))
            starts += np.bincount(chosen, weights=lengths, minlength=len(paths)).astype(np.int64)
    written, total = 0, int(starts.sum())
    for _, size in workers.run(deals, side_by_side=total > LARGE):
        written += size
        tell(Progress(stage="write", source=", ".join(SPLITS), rows=len(table), bytes=written, total_bytes=total))
    reasons: list[Counter[str]] = [Counter() for _ in readings]
    with (folder / "rejects.jsonl").open("wb") as rejects, paths[ASIDE].open("rb") as good_rows:
        aside_rows = iter(np.flatnonzero(table["split"] == ASIDE).tolist())

        def set_aside(index: int, number: int, reason: str, row: msgspec.Raw, place: str = "") -> None:
            reasons[index][re.sub(r"\[\d+\]| \(byte \d+\)", "", reason)] += 1
            line = {"source": readings[index].place, "line": number, "reason": reason + place, "row": row}
            rejects.write(msgspec.json.encode(line) + b"\n")

        for (index, tally), good in zip(tallies, rows, strict=True):
            if tally.refused:
                with Path(tally.rejects).open("rb") as refused:
                    for reject in map(_decode, refused):
                        set_aside(index, tally.before + reject.number, reject.reason, reject.row)
            for number in good["number"][good["split"] == ASIDE].tolist():
                row, first = msgspec.Raw(good_rows.readline().rstrip()), kept[next(aside_rows)]
                if readings[index].split == "train":
                    set_aside(index, number, THINNED, row, f", {place_of(readings, table[first])}")
                else:
                    set_aside(index, number, LEAKED, row)
    paths[ASIDE].unlink()
    accounts = []
    wide = len(paths)
    counts = np.bincount(table["source"].astype(np.int64) * wide + table["split"], minlength=len(readings) * wide)
    for reading, aside, mine in zip(readings, reasons, counts.reshape(-1, wide).tolist(), strict=True):
        seen = reading.seen
        account = Account(
            source=reading.place,
            format=reading.layout.format,
            rows=reading.sum("rows"),
            **dict(zip(SPLITS, mine, strict=False)),
            aside=aside.total(),
            reasons=dict(aside.most_common()),
            blank=reading.sum("blank"),
            columns_left_out=dict(sorted(seen.columns.rows.items())),
            other_keys=dict(sorted(seen.keys.rows.items())),
        )
        if account.rows != account.train + account.validation + account.test + account.aside:
            raise AssertionError(f"the rows of {account.source} do not add up: {account}; please report this")
        accounts.append(account)
    return tuple(accounts)


def _of_train(readings: Sequence[Reading], table: Table) -> npt.NDArray[np.bool_]:
    """Tell which rows were given as training data, whatever split they are in."""
    import numpy as np

    given = np.array([reading.split == "train" for reading in readings], np.bool_)
    return np.take(given, table["source"])


def masks_of(table: Table) -> dict[str, npt.NDArray[np.bool_]]:
    """Tell of each split which rows of the table are in it."""
    return {split: table["split"] == index for index, split in enumerate(SPLITS)}


def findings_of(readings: Sequence[Reading], table: Table, accounts: Sequence[Account]) -> Iterator[Finding]:
    """Yield what was found in each source, and then in each split."""
    import numpy as np

    for reading, account in zip(readings, accounts, strict=True):
        yield from _of_source(reading, account)
    masks = masks_of(table)
    for split, mine in masks.items():
        rows, tools = int(mine.sum()), int(table["tools"][mine].sum())
        if 0 < tools < rows:
            # The component would drop every row without tools, because others have some.
            message = (
                f"{_counted(tools, 'row')} of {rows} have tools; the component drops the other {rows - tools} without "
                "a word, because in a file with the column tools it drops each row where that is null or empty."
            )
            fix = "give tools to every row or to none: what a row's tools are can also be told in a system message"
            yield Finding("DATA_TOOLS_MIXED", "error", split, message, fix)
    # Given test rows that stand in the training data are refused; in the given validation data they may.
    if both := int(np.isin(table["key"][masks["test"]], table["key"][masks["validation"]]).sum()):
        message = f"Also in the validation data: {_counted(both, 'test row')}."
        fix = "give other rows, if scores on the test data are to tell more than those on the validation data"
        yield Finding("DATA_TEST_IN_VALIDATION", "warning", "test", message, fix)
    for split, mine in masks.items() if _different(table["key"]) < len(table) else ():
        keys = table["key"][mine]
        if again := len(keys) - _different(keys):
            message = f"{_counted(again, 'row')} of {len(keys)} say what an earlier one says."
            yield Finding("DATA_DUPLICATES", "warning", split, message, "remove them, unless their weight is meant")
    yield from _of_near_rows(readings, table, masks)
    for split, mine in masks.items():
        short = np.flatnonzero(mine & (table["characters"] < NEAR_EMPTY))
        if len(short):
            first = place_of(readings, table[short[0]])
            message = f"{_counted(len(short), 'conversation')} of fewer than {NEAR_EMPTY} characters, first {first}."
            yield Finding("DATA_NEAR_EMPTY", "warning", split, message, "look at them")
    for split, mine in masks.items():
        lacking = np.flatnonzero(mine & table["lacking"])
        if len(lacking):
            first = place_of(readings, table[lacking[0]])
            message = (
                f"{_counted(len(lacking), 'row')} of {int(mine.sum())} with an answer that is nothing but nan, None, "
                f"null or the like, first {first}: a missing value that became text, and the model learns to say it."
            )
            fix = "leave these rows out, or write a missing value as none: pandas' astype(str) makes a text of it"
            yield Finding("DATA_LACKING_ANSWER", "warning", split, message, fix)


def _of_near_rows(
    readings: Sequence[Reading], table: Table, masks: Mapping[str, npt.NDArray[np.bool_]]
) -> Iterator[Finding]:
    import numpy as np

    rows = np.arange(len(table))
    if (table["near"] == rows).all():
        return
    given = _of_train(readings, table)

    def pairs(of: npt.NDArray[np.bool_], first: npt.NDArray[np.int64], most: int) -> str:
        found = np.flatnonzero(of)[:most].tolist()
        return ", ".join(f"{place_of(readings, table[row])} ({place_of(readings, table[first[row]])})" for row in found)

    for split, mine in masks.items():
        if again := _different(table["key"][mine]) - _different(table["near"][mine]):
            first = first_near(table, mine)
            others = mine & (table["key"] != table["key"][first])
            message = (
                f"{_counted(again, 'row')} of {int(mine.sum())} say nearly what an earlier one says, first "
                f"{pairs(others, first, 1)}."
            )
            fix = "`near_duplicates: thin` keeps the first of them" if split == "train" else "remove them"
            yield Finding("DATA_NEAR_DUPLICATES", "warning", split, message, fix)
    first = first_near(table, given & (table["split"] != ASIDE))
    for split, mine in masks.items():
        leaked = mine & ~given & (first >= 0)
        if count := int(leaked.sum()):
            message = (
                f"{_counted(count, 'row')} of {int(mine.sum())} say nearly what training data says, first "
                f"{pairs(leaked, first, _MOST_PAIRS)}."
            )
            fix = "take them out of one of the two: a model is good at what it was trained on"
            yield Finding("DATA_NEAR_LEAK", "warning", split, message, fix)


def _of_source(reading: Reading, account: Account) -> Iterator[Finding]:
    place, layout = reading.label, reading.layout
    yield from (Finding("DATA_NOTE", "note", place, told) for told in reading.notes)
    renamed = ", ".join(f"{own} as {name}" for name, own in layout.columns.items() if own != name)
    if layout.format != "messages" or renamed:
        message = f"Its rows were taken for the format {layout.format}{renamed and f', {renamed}'}."
        yield Finding("DATA_FORMAT", "note", place, message)
    yield from reading.seen.findings(place, account.rows)
    if account.blank:
        yield Finding("DATA_BLANK_LINES", "note", place, f"{_counted(account.blank, 'blank line')} skipped.")
    if unsaid := reading.sum("unsaid"):
        message = f"{_counted(unsaid, 'system message')} without a text left out."
        yield Finding("DATA_BLANK_SYSTEM", "note", place, message)
    if account.aside:
        most = islice(account.reasons.items(), 3)
        reasons = "; ".join(f"{_counted(count, 'row')}: {reason}" for reason, count in most)
        message = f"{account.aside} of {account.rows} rows were set aside: {reasons}."
        fix = "see rejects.jsonl in the folder of the prepared data"
        yield Finding("DATA_SET_ASIDE", "warning", place, message, fix)


def _different(keys: npt.NDArray[np.uint64]) -> int:
    """Count the different keys, by sorting: ``np.unique`` hashes them, which takes nine times as long (numpy 2.4)."""
    import numpy as np

    return int(np.count_nonzero(np.diff(np.sort(keys)))) + bool(len(keys))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"
