"""Reading: every source to its end, an account of every row, and a table of what is known of the good ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from phift.data.sources import Opened, Progress
from phift.data.spool import TABLE, Tally
from phift.data.workers import Workers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Table: TypeAlias = npt.NDArray[np.void]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One source, and what became of its rows, in their order."""

    opened: Opened
    tallies: Sequence[Tally]

    def sum(self, count: str) -> int:
        """Return the sum of one of the tallies' counts."""
        return sum(getattr(tally, count) for tally in self.tallies)

    @property
    def ignored(self) -> list[str]:
        """Columns that are left out."""
        return sorted({column for tally in self.tallies for column in tally.ignored})

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield the place and the reason of the first refused rows."""
        for tally in self.tallies:
            for number, reason in tally.problems:
                yield self.place(tally.before + number), reason

    def place(self, number: int) -> str:
        """Return the place of a line or row."""
        return f"{self.opened.place}:{number}"


def read_sources(
    sources: Sequence[Opened], workers: Workers, on_progress: Callable[[Progress], None], *, side_by_side: bool
) -> list[Reading]:
    """Read every source to its end.

    - **side_by_side**: read files in other processes.

    Raises `phift.errors.DataError` where one cannot be read on; a row that cannot be trained on is counted.
    """
    # What comes from a network or from Python cannot leave this process.
    here = [opened for opened in sources if opened.bytes is None]
    read = _read(here, workers, on_progress, side_by_side=False)
    files = [opened for opened in sources if opened.bytes is not None]
    read |= _read(files, workers, on_progress, side_by_side=side_by_side)
    return [Reading(opened=opened, tallies=read[id(opened)]) for opened in sources]


def _read(
    sources: Sequence[Opened], workers: Workers, on_progress: Callable[[Progress], None], *, side_by_side: bool
) -> dict[int, list[Tally]]:
    """Return the tallies of each source, which is known by its ``id``."""
    parts = [part for opened in sources for part in opened.parts]
    found: list[list[Tally]] = [[] for _ in parts]
    positions = [0] * len(parts)
    rows, total = 0, sum(opened.bytes or 0 for opened in sources)
    label = sources[0].label if len(sources) == 1 else f"{len(sources)} sources"
    for index, tally in workers.run(parts, side_by_side=side_by_side):
        found[index].append(tally)
        rows += tally.rows
        positions[index] = max(positions[index], tally.position)
        read = sum(positions) if total else None
        on_progress(Progress(source=label, rows=rows, bytes=read, total_bytes=total or None))
    of_parts = iter(found)
    tallies: dict[int, list[Tally]] = {}
    for opened in sources:
        before = 0  # each part counts its lines or rows from its own beginning
        mine = tallies[id(opened)] = []
        for part in islice(of_parts, len(opened.parts)):
            for tally in part:
                tally.before = before
            mine += part
            before += max(tally.last for tally in part)
    return tallies


def place_of(readings: Sequence[Reading], row: np.void) -> str:
    """Return the place of a row of the table."""
    return readings[int(row["source"])].place(int(row["number"]))


def tabulate(readings: Sequence[Reading]) -> Table:
    """Return the `TABLE` of the good rows of all sources."""
    import numpy as np

    tallies = [(source, tally) for source, reading in enumerate(readings) for tally in reading.tallies]
    table = np.frombuffer(bytearray().join(tally.known for _, tally in tallies), list(TABLE))
    start = 0
    for source, tally in tallies:
        rows = table[start : start + tally.good]
        rows["source"] = source
        rows["number"] += tally.before
        start += tally.good
    return table
