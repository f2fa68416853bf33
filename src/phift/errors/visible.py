"""How things are shown to people: what is in somebody's text for a terminal is seen and not done."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

# The controls C0, DEL and C1, separators of lines, what turns the direction of reading, and halves of a character.
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, *, lines: bool = True) -> str:
    """Return a text with its control characters as Python escapes them, such as ``\\x1b``.

    - **lines**: whether a newline ends a line, as in a log; else, as in a name, it is a control character too.
    """
    text = text.replace("\r\n", "\n") if lines else text.replace("\n", "\\n")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def visible_html(text: object) -> str:
    """Return a text for a notebook, which takes none of it for HTML."""
    return html.escape(visible(str(text)))


def visible_table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Return a table for a notebook; a number in it stands as Python writes it, and no text is taken for HTML."""
    titles = "".join(f"<th>{visible_html(title)}</th>" for title in head)
    body = "".join("<tr>" + "".join(f"<td>{visible_html(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def visible_columns(head: Iterable[object], rows: Iterable[Iterable[object]], below: Iterable[object] = ()) -> str:
    """Return a table as lines of text, for who prints it.

    - **below**: what stands indented in a line below each row; left out, nothing.
    """
    cells = [[visible(str(cell), lines=False) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    for number, text in enumerate(below, start=1):
        lines[number] += f"\n    {visible(str(text), lines=False)}"
    return "\n".join(lines)
