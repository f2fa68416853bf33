"""Reading: every source to its end, and an account of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from phift.data.sources import Opened, Progress
from phift.data.spool import HASH, Tally
from phift.data.workers import Workers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass
class Reading:
    """What has been read of one source.

    - **split**: what its rows are for.
    - **tallies**: in the order of the rows.
    - **before**: for each tally, how many lines or rows of the source come before what it counts from.
    """

    split: str
    opened: Opened
    tallies: list[Tally] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    _last: int = 0

    def add_part(self, tallies: Sequence[Tally]) -> None:
        """Add the tallies of the next part, whose numbers go on where the part before it ended."""
        self.tallies += tallies
        self.before += [self._last] * len(tallies)
        self._last += max(tally.last for tally in tallies)

    def sum(self, count: str) -> int:
        """Return the sum of one of the tallies' counts."""
        return sum(getattr(tally, count) for tally in self.tallies)

    @property
    def good(self) -> int:
        """How many rows can be trained on."""
        return sum(len(tally.hashes) for tally in self.tallies) // HASH

    @property
    def ignored(self) -> list[str]:
        """Columns that are left out."""
        return sorted({column for tally in self.tallies for column in tally.ignored})

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield the place and the reason of the first refused rows."""
        for tally, before in zip(self.tallies, self.before, strict=True):
            for number, reason in tally.problems:
                yield self.place(before + number), reason

    def place(self, number: int) -> str:
        """Return the place of a line or row."""
        return f"{self.opened.place}:{number}"

    def numbers(self) -> npt.NDArray[np.int64]:
        """Return the line or row number of each good row."""
        import numpy as np

        numbered = zip(self.tallies, self.before, strict=True)
        parts = [np.frombuffer(tally.numbers, np.uint32).astype(np.int64) + before for tally, before in numbered]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


def read_sources(
    sources: Sequence[tuple[str, Opened]],
    workers: Workers,
    on_progress: Callable[[Progress], None],
    *,
    side_by_side: bool,
) -> list[Reading]:
    """Read every source to its end.

    - **sources**: each with the split it is for.
    - **side_by_side**: read files in other processes.

    Raises `phift.errors.DataError` where one cannot be read on; a row that cannot be trained on is counted.
    """
    # What comes from a network or from Python cannot leave this process.
    here = [(split, opened) for split, opened in sources if opened.bytes is None]
    files = [(split, opened) for split, opened in sources if opened.bytes is not None]
    read = {**_read(here, workers, on_progress, side_by_side=False)}
    read |= _read(files, workers, on_progress, side_by_side=side_by_side)
    return [read[id(opened)] for _, opened in sources]


def _read(
    sources: Sequence[tuple[str, Opened]],
    workers: Workers,
    on_progress: Callable[[Progress], None],
    *,
    side_by_side: bool,
) -> dict[int, Reading]:
    readings = [Reading(split, opened) for split, opened in sources]
    tasks = [(reading, task) for reading in readings for task in reading.opened.tasks]
    found: list[list[Tally]] = [[] for _ in tasks]
    positions = [0] * len(tasks)
    rows, total = 0, sum(opened.bytes or 0 for _, opened in sources)
    label = sources[0][1].label if len(sources) == 1 else f"{len(sources)} sources"
    for index, tally in workers.run([task for _, task in tasks], side_by_side=side_by_side):
        found[index].append(tally)
        rows += tally.rows
        positions[index] = max(positions[index], tally.position)
        on_progress(
            Progress(
                source=label,
                rows=rows,
                bytes=sum(positions) if total else None,
                total_bytes=total or None,
            )
        )
    for (reading, _), tallies in zip(tasks, found, strict=True):
        reading.add_part(tallies)
    return {id(reading.opened): reading for reading in readings}
