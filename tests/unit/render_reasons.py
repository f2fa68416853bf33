"""Writes the tables of `docs/errors.md` from those of reasons and causes: ``python tests/unit/render_reasons.py``."""

from __future__ import annotations

from pathlib import Path

from phift.errors.reasons import Reason, table
from phift.jobs.ends import Cause, causes

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
BEGIN, END = "<!-- the table begins here -->\n", "<!-- and ends here -->\n"
CAUSES_BEGIN, CAUSES_END = "<!-- the causes begin here -->\n", "<!-- the causes end here -->\n"


def document() -> str:
    """Return the whole text: what is around the tables stays."""
    rows = ["| the service says | error | that is | way out | source |", "| --- | --- | --- | --- | --- |"]
    rows += [_row(reason) for reason in table()]
    causes_rows = ["| said | cause | that is | change next | source |", "| --- | --- | --- | --- | --- |"]
    causes_rows += [_cause_row(cause) for cause in causes()]
    text = _between(DOCUMENT.read_text(encoding="utf-8"), BEGIN, rows, END)
    return _between(text, CAUSES_BEGIN, causes_rows, CAUSES_END)


def _between(text: str, begin: str, rows: list[str], end: str) -> str:
    head, _, rest = text.partition(begin)
    return "".join((head, begin, "\n", *(f"{row}\n" for row in rows), "\n", end, rest.partition(end)[2]))


def _cause_row(cause: Cause) -> str:
    said = f"`{cause.text.pattern}`" if cause.text else f"{cause.name}, as above"
    cells = (said, cause.kind, cause.what, cause.fix, f"{cause.source}; {cause.date}")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _row(reason: Reason) -> str:
    said = [f"`{code}`" for code in reason.codes] + ([f"`{reason.text}`"] if reason.text else [])
    said[-1] += f" with {reason.status}" if reason.status else ""
    error = f"`{reason.type}`" if reason.type else "by its status"
    cells = (", ".join(said), error, reason.what, reason.fix, f"{reason.source}; {reason.date}")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
