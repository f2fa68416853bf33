"""What is known of every good row, without its text: a few bytes each, in the order of the sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phift.component.preprocessing import SPLITS
from phift.data.spool import HASH

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from phift.data.reading import Reading


@dataclass(frozen=True, kw_only=True)
class Table:
    """A column for each thing that is known of the good rows.

    - **hashes**: 128 bits of each row's line, as two numbers.
    - **keys**: a number for each conversation; equal where the same is said by the same.
    - **tools**: whether the row has tools.
    - **groups**: a number for each group; empty where rows are not grouped.
    - **lengths**, **characters**: of the line in bytes, of what is said in characters.
    - **numbers**: the line or row number in its source.
    - **given**: the index in `phift.component.preprocessing.SPLITS` of the split that the row's source is for.
    - **reading**: the index of the row's source file or data set.
    - **stratum**: the index of the source that the user named; a folder's files are one.
    """

    hashes: npt.NDArray[np.uint64]
    keys: npt.NDArray[np.uint64]
    tools: npt.NDArray[np.bool_]
    groups: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.uint32]
    characters: npt.NDArray[np.uint32]
    numbers: npt.NDArray[np.int64]
    given: npt.NDArray[np.int8]
    reading: npt.NDArray[np.int64]
    stratum: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)


def tabulate(readings: Sequence[Reading]) -> Table:
    """Return the table of the good rows of all sources."""
    import numpy as np

    def column(name: str, kind: Any) -> npt.NDArray[Any]:
        return np.frombuffer(b"".join(getattr(tally, name) for reading in readings for tally in reading.tallies), kind)

    def repeated(value: Callable[[Reading], int]) -> npt.NDArray[np.int64]:
        return np.repeat([value(reading) for reading in readings], [reading.good for reading in readings])

    index = {id(reading): number for number, reading in enumerate(readings)}
    return Table(
        hashes=column("hashes", np.uint64).reshape(-1, HASH // 8),
        keys=column("keys", np.uint64),
        tools=column("tools", np.bool_),
        groups=column("groups", np.uint64),
        lengths=column("lengths", np.uint32),
        characters=column("characters", np.uint32),
        numbers=np.concatenate([reading.numbers() for reading in readings]),
        given=repeated(lambda reading: SPLITS.index(reading.split)).astype(np.int8),
        reading=repeated(lambda reading: index[id(reading)]),
        stratum=repeated(lambda reading: reading.opened.stratum),
    )
