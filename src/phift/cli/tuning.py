"""The commands about a search: run it or go on with it, see how it stands, stop it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import phift
from phift.cli.interrupted import Leftovers
from phift.cli.options import CONFIG, PLOT, WORKSPACE, CommandUnlessNamed, workspace_option
from phift.cli.output import console, hand_out, tell
from phift.errors import NotFound

if TYPE_CHECKING:
    from phift import SearchResult

_JSON = click.option("--json", "as_json", is_flag=True, help="Print the trials as JSON.")


class _RunUnlessNamed(CommandUnlessNamed):
    unnamed = "run"


@click.group(cls=_RunUnlessNamed)
def tune() -> None:
    """Search for better parameters: `phift tune FILE`, and by the search's name `status` and `stop`."""


@tune.command(name="run")
@CONFIG
@PLOT
@_JSON
def run_(config: Path, plot: Path | None, as_json: bool) -> None:
    """Run the search of a file, or go on with the one of its name; exits 1 where no trial has completed.

    Ctrl-C leaves the jobs that run.
    """
    search = phift.SearchConfig.from_yaml(config)
    option = workspace_option(search.run.workspace)
    left = Leftovers("tune", [str(config)], option, phift.EventPrinter(console(stderr=True)))
    left.goes_on = left.of_search(search.name)
    with left.told():
        result = phift.tune(search, on_event=left)
    _show(result, plot, as_json)
    try:
        best = result.best
    except NotFound as error:
        tell(error, err=True, lines=True)
        sys.exit(1)
    if not as_json:
        tell(f"To go on with the best one: phift deploy {' '.join([best.job, *option])}", err=True)


@tune.command()
@click.argument("name")
@WORKSPACE
@PLOT
@_JSON
def status(name: str, workspace: str | None, plot: Path | None, as_json: bool) -> None:
    """Show what has come of a search so far, from any machine."""
    _show(phift.find_search(name, phift.connect(workspace=workspace)), plot, as_json)


@tune.command()
@click.argument("name")
@WORKSPACE
@_JSON
def stop(name: str, workspace: str | None, as_json: bool) -> None:
    """Cancel the jobs of a search; `phift tune FILE` goes on with it."""
    _show(phift.stop_search(name, phift.connect(workspace=workspace)), None, as_json)


def _show(result: SearchResult, plot: Path | None, as_json: bool) -> None:
    if as_json:
        hand_out(json.dumps(result.to_dict(), indent=2))
    elif result.trials:
        from phift.views.terminal import show_table

        show_table(console(), *result.table())
    if not as_json:
        tell(result.summary, err=True)
    if plot:
        result.plot().savefig(plot)
