"""The commands about jobs that are there already."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

import phift
from phift.cli.interrupted import Leftovers
from phift.cli.options import WORKSPACE
from phift.cli.output import console, hand_out

if TYPE_CHECKING:
    from phift import Event


@click.command()
@click.argument("job")
@WORKSPACE
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each event.")
def follow(job: str, workspace: str | None, as_json: bool) -> None:
    """Follow a job until it has ended, wherever it was submitted; exits 1 if it ended without a model.

    Ctrl-C leaves the job as it is.
    """
    printer = phift.EventPrinter(console())

    def show(event: Event) -> None:
        if as_json:
            hand_out(json.dumps(event.to_dict()))
        else:
            printer(event)

    option = ["--workspace", workspace] if workspace else []
    left = Leftovers("follow", [job, *option], option, show)
    found = phift.FineTuneJob(job, phift.connect(workspace=workspace))
    left.goes_on = f"The job {job} goes on"
    with left.told():
        try:
            for event in found.follow():
                left(event)
        finally:
            printer.left()
        found.raise_for_end()
