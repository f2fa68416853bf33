"""Writes the table of `docs/errors.md` from the table of reasons: ``python tests/unit/render_reasons.py``."""

from __future__ import annotations

from pathlib import Path

from phift.errors.reasons import Reason, table

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
BEGIN, END = "<!-- the table begins here -->\n", "<!-- and ends here -->\n"


def document() -> str:
    """Return the whole text: what is around the table stays."""
    head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    rows = ["| the service says | error | that is | way out | source |", "| --- | --- | --- | --- | --- |"]
    rows += [_row(reason) for reason in table()]
    return "".join((head, BEGIN, "\n", *(f"{row}\n" for row in rows), "\n", END, rest.partition(END)[2]))


def _row(reason: Reason) -> str:
    said = [f"`{code}`" for code in reason.codes] + ([f"`{reason.text}`"] if reason.text else [])
    said[-1] += f" with {reason.status}" if reason.status else ""
    error = f"`{reason.type}`" if reason.type else "by its status"
    cells = (", ".join(said), error, reason.what, reason.fix, f"{reason.source}; {reason.date}")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
