"""What the command line says: texts as they are, since a terminal does what it is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from phift.errors import redact, visible

if TYPE_CHECKING:
    from rich.console import Console


def tell(text: object, *, err: bool = False, lines: bool = False, hide: bool = True, ends: bool = True) -> None:
    """Write a text for people, and end the line.

    - **err**: to the standard error.
    - **lines**: whether a newline in it ends a line.
    - **hide**: whether what looks like a secret is hidden; not in what the user asked for, such as an answer.
    - **ends**: whether the line ends with it.
    """
    click.echo(visible(redact(str(text)) if hide else str(text), lines=lines), err=err, nl=ends)


def hand_out(text: str) -> None:
    """Write a text for programs, to the byte."""
    click.echo(text)


def console(*, stderr: bool = False) -> Console:
    """Return the console for tables and bars."""
    from rich.console import Console

    # A log file has no width; 80 columns would fold every finding.
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 160)


@contextmanager
def visible_mistakes() -> Iterator[None]:
    """Let click show what is wrong with the arguments, which it quotes, in the same way."""
    try:
        yield
    except click.ClickException as error:
        message = visible(redact(error.format_message()))
        error.format_message = lambda: message  # type: ignore[method-assign]  # click shows it itself
        raise
