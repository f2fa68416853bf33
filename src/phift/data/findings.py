"""What the user should know of data that has been prepared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from phift.check.findings import Finding
from phift.component.preprocessing import SPLITS
from phift.data.account import Account
from phift.data.reading import Reading, place_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from phift.data.reading import Table

NEAR_EMPTY = 10
"""Characters of a whole conversation; one with fewer is probably a mistake."""


def findings_of(
    readings: Sequence[Reading], table: Table, chosen: npt.NDArray[np.int8], accounts: Sequence[Account]
) -> Iterator[Finding]:
    """Yield what was found in each source, and then in each split.

    - **chosen**: the index of each row's split.
    """
    for reading, account in zip(readings, accounts, strict=True):
        yield from _of_source(reading, account)
    yield from _mixed_tools(table, chosen)
    yield from _in_both(table, chosen)
    yield from _duplicates(table, chosen)
    yield from _near_empty(readings, table, chosen)


def _of_source(reading: Reading, account: Account) -> Iterator[Finding]:
    place, layout = reading.opened.label, reading.opened.layout
    yield from (_note("DATA_NOTE", place, note) for note in reading.opened.notes)
    renamed = ", ".join(f"{own} as {name}" for name, own in layout.columns.items() if own != name)
    if layout.format != "messages" or renamed:
        message = f"Its rows were taken for the format {layout.format}{renamed and f', {renamed}'}."
        yield _note("DATA_FORMAT", place, message)
    if reading.ignored:
        yield _note("DATA_COLUMNS_LEFT_OUT", place, f"Columns left out: {_listed(reading.ignored)}.")
    if account.blank:
        yield _note("DATA_BLANK_LINES", place, f"{_counted(account.blank, 'blank line')} skipped.")
    if account.aside:
        most = islice(account.reasons.items(), 3)
        reasons = "; ".join(f"{_counted(count, 'row')}: {reason}" for reason, count in most)
        message = f"{account.aside} of {account.rows} rows were set aside: {reasons}."
        fix = "see rejects.jsonl in the folder of the prepared data"
        yield Finding(code="DATA_SET_ASIDE", severity="warning", place=place, message=message, fix=fix)


def _mixed_tools(table: Table, chosen: npt.NDArray[np.int8]) -> Iterator[Finding]:
    """Yield the splits of which the component would drop every row without tools, because others have some."""
    for index, split in enumerate(SPLITS):
        rows, tools = int((chosen == index).sum()), int(table["tools"][chosen == index].sum())
        if 0 < tools < rows:
            message = (
                f"{_counted(tools, 'row')} of {rows} have tools; the component drops the other {rows - tools} without "
                "a word, because in a file with the column tools it drops each row where that is null or empty."
            )
            fix = "give tools to every row or to none: what a row's tools are can also be told in a system message"
            yield Finding(code="DATA_TOOLS_MIXED", severity="error", place=split, message=message, fix=fix)


def _in_both(table: Table, chosen: npt.NDArray[np.int8]) -> Iterator[Finding]:
    """Yield that given test rows stand in the given validation data too; in the training data they are refused."""
    import numpy as np

    test, validation = (table["key"][chosen == SPLITS.index(split)] for split in ("test", "validation"))
    both = int(np.isin(test, validation).sum())
    if both:
        message = f"Also in the validation data: {_counted(both, 'test row')}."
        fix = "give other rows, if scores on the test data are to tell more than those on the validation data"
        yield Finding(code="DATA_TEST_IN_VALIDATION", severity="warning", place="test", message=message, fix=fix)


def _duplicates(table: Table, chosen: npt.NDArray[np.int8]) -> Iterator[Finding]:
    if _different(table["key"]) == len(table):
        return
    for index, split in enumerate(SPLITS):
        keys = table["key"][chosen == index]
        again = len(keys) - _different(keys)
        if again:
            message = f"{_counted(again, 'row')} of {len(keys)} say what an earlier one says."
            fix = "remove them, unless their weight is meant"
            yield Finding(code="DATA_DUPLICATES", severity="warning", place=split, message=message, fix=fix)


def _different(keys: npt.NDArray[np.uint64]) -> int:
    """Count the different keys, by sorting: ``np.unique`` hashes them, which takes nine times as long (numpy 2.4)."""
    import numpy as np

    return int(np.count_nonzero(np.diff(np.sort(keys)))) + bool(len(keys))


def _near_empty(readings: Sequence[Reading], table: Table, chosen: npt.NDArray[np.int8]) -> Iterator[Finding]:
    import numpy as np

    for index, split in enumerate(SPLITS):
        short = np.flatnonzero((chosen == index) & (table["characters"] < NEAR_EMPTY))
        if len(short):
            first = place_of(readings, table[short[0]])
            message = f"{_counted(len(short), 'conversation')} of fewer than {NEAR_EMPTY} characters, first {first}."
            fix = "look at them"
            yield Finding(code="DATA_NEAR_EMPTY", severity="warning", place=split, message=message, fix=fix)


def _note(code: str, place: str, message: str) -> Finding:
    return Finding(code=code, severity="note", place=place, message=message)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:20])
    return f"{shown} and more" if len(names) > 20 else shown


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"
