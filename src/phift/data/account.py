"""The account: what became of every row of every source, and the file of those that were set aside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from phift.component.preprocessing import SPLITS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from phift.data.reading import Reading, Table

ASIDE = len(SPLITS)
"""The index of rows that are in none of the splits."""

LEAKED = "it stands in the training data too"


class _Kept(msgspec.Struct):
    """A line of a spool's rejects."""

    number: int
    reason: str
    row: msgspec.Raw


_kept = msgspec.json.Decoder(_Kept)


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of the rows of one source: ``rows == train + validation + test + aside``, always.

    - **source**: the file's path, or the data set's id.
    - **format**: what its rows were taken for.
    - **aside**: rows in ``rejects.jsonl``.
    - **reasons**: how many rows were set aside for what; places within a row are left out.
    - **blank**: blank lines, which are no rows.
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

    def __str__(self) -> str:
        parts = [f"{getattr(self, split):,} {split}" for split in SPLITS if getattr(self, split)]
        parts += [f"{self.aside:,} set aside"] if self.aside else []
        return f"{self.source} ({self.format}): {self.rows:,} rows = {' + '.join(parts) or '0'}"


def draw_up(
    readings: Sequence[Reading], table: Table, chosen: npt.NDArray[np.int8], rejects: Path, spool: Path
) -> tuple[Account, ...]:
    """Write the rejects, and return the account of each source.

    - **chosen**: for each row of the table the index of its split, or `ASIDE`.
    - **spool**: the lines of the rows that are set aside, though good in themselves.

    The rows in come from the reading, the rows set aside from the lines written here, and the rows out from the deal;
    where they do not add up, something is wrong with phift itself, and it says so.
    """
    import numpy as np

    reasons: list[Counter[str]] = [Counter() for _ in readings]
    with rejects.open("wb") as file:
        for index, number, reason, row in _rejected(readings, table, chosen, spool):
            reasons[index][re.sub(r"\[\d+\]| \(byte \d+\)", "", reason)] += 1
            line = {"source": readings[index].opened.place, "line": number, "reason": reason, "row": row}
            file.write(msgspec.json.encode(line) + b"\n")
    accounts = []
    for index, reading in enumerate(readings):
        dealt = np.bincount(chosen[table["source"] == index], minlength=ASIDE + 1)
        account = Account(
            source=reading.opened.place,
            format=reading.opened.layout.format,
            rows=reading.sum("rows"),
            train=int(dealt[0]),
            validation=int(dealt[1]),
            test=int(dealt[2]),
            aside=reasons[index].total(),
            reasons=dict(reasons[index].most_common()),
            blank=reading.sum("blank"),
        )
        if account.rows != account.train + account.validation + account.test + account.aside:
            raise AssertionError(f"the rows of {account.source} do not add up: {account}; please report this")
        accounts.append(account)
    return tuple(accounts)


def _rejected(
    readings: Sequence[Reading], table: Table, chosen: npt.NDArray[np.int8], spool: Path
) -> Iterator[tuple[int, int, str, msgspec.Raw]]:
    """Yield source, number, reason and row of each that is set aside: the broken ones, then the leaked ones."""
    for index, reading in enumerate(readings):
        for tally in reading.tallies:
            if tally.refused:
                with Path(tally.rejects).open("rb") as file:
                    for kept in map(_kept.decode, file):
                        yield index, tally.before + kept.number, kept.reason, kept.row
    with spool.open("rb") as file:
        for row, line in zip(table[chosen == ASIDE], file, strict=True):
            yield int(row["source"]), int(row["number"]), LEAKED, msgspec.Raw(line.rstrip())
