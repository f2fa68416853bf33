"""The commands about jobs that are there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

import phift
from phift.cli.interrupted import Leftovers
from phift.cli.options import PLOT, WORKSPACE
from phift.cli.output import console, hand_out, tell

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


@click.command()
@WORKSPACE
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Show so many at most.")
@click.option("--state", multiple=True, help="Show jobs in this state only, such as Running; may be given again.")
@click.option("--experiment", help="Show jobs of this experiment only.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def runs(workspace: str | None, limit: int, state: tuple[str, ...], experiment: str | None, as_json: bool) -> None:
    """List the jobs that phift has submitted in a workspace, newest first, with what became of each."""
    found = phift.runs(workspace, limit=limit, state=state, experiment=experiment)
    if as_json:
        hand_out(json.dumps([run.to_dict() for run in found], indent=2))
        return
    if len(found):
        from phift.views.terminal import show_table

        show_table(console(), found.HEAD, found.rows())
    tell(found.summary + ("; --limit shows more" if found.more else ""), err=True)


@click.command()
@click.argument("job")
@WORKSPACE
@click.option("--wide", is_flag=True, help="Print a line a step, with a column for each metric.")
@PLOT
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def metrics(job: str, workspace: str | None, wide: bool, plot: Path | None, as_json: bool) -> None:
    """Print what a job has logged so far as CSV: a line for each metric and step."""
    from phift.jobs.metrics import plain_rows, widen

    found = phift.FineTuneJob(job, phift.connect(workspace=workspace))
    frame = found.metrics()
    if plot:
        from phift.jobs.plot import draw

        draw({job: frame}, where=f"job {job}").savefig(plot)
    if as_json:
        hand_out(json.dumps(plain_rows(frame, wide=wide), indent=2))
    else:
        tell((widen(frame).to_csv() if wide else frame.to_csv(index=False)).rstrip("\n"), lines=True)


@click.command()
@click.argument("jobs", metavar="JOB JOB...", nargs=-1, required=True)
@WORKSPACE
@PLOT
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(jobs: tuple[str, ...], workspace: str | None, plot: Path | None, as_json: bool) -> None:
    """Compare jobs: what they were made of, which parameters differ, and what they measured."""
    compared = phift.compare_runs(jobs, workspace)
    if plot:
        compared.plot().savefig(plot)
    if as_json:
        hand_out(json.dumps(compared.to_dict(), indent=2))
        return
    from phift.views.terminal import show_table

    for head, rows in compared.tables():
        show_table(console(), head, rows)
        tell("")
