"""The commands about jobs that are there already."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

import phift
from phift.cli.interrupted import Leftovers
from phift.cli.options import ON_END, PLOT, WORKSPACE, named
from phift.cli.output import console, hand_out, tell

if TYPE_CHECKING:
    from phift import Event


@click.command()
@click.argument("job")
@WORKSPACE
@ON_END
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each event.")
def follow(job: str, workspace: str | None, on_end: str | None, as_json: bool) -> None:
    """Follow a job until it has ended, wherever it was submitted; exits 1 if it ended without a model.

    Ctrl-C leaves the job as it is.
    """
    from phift.jobs.on_end import when_ended

    printer = phift.EventPrinter(console())

    def show(event: Event) -> None:
        if as_json:
            hand_out(json.dumps(event.to_dict()))
        else:
            printer(event)

    option = named(workspace)
    left = Leftovers("follow", [job, *option], option, show)
    found = phift.FineTuneJob(job, phift.connect(workspace=workspace))
    left.goes_on = f"The job {job} goes on"
    with left.told():
        try:
            for event in found.follow():
                left(event)
        finally:
            printer.stop_drawing()
        end = found.end()
        when_ended(on_end)(end)
        end.raise_if_bad()


@click.command()
@click.argument("job")
@WORKSPACE
@click.option("--step", help="Print this step's log only, by the step's name.")
@click.option("--follow", "follows", is_flag=True, help="Go on until the job has ended, with what comes meanwhile.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each piece of a log.")
def logs(job: str, workspace: str | None, step: str | None, follows: bool, as_json: bool) -> None:
    """Print the logs of a job and of its steps, as far as they go now, or on to its end with --follow.

    Without --step each line begins with its step's name, or the word job. Ctrl-C leaves the job as it is.
    """
    option = named(workspace)
    left = Leftovers(
        "logs", [job, *(["--step", step] if step else []), "--follow", *option], option, lambda _event: None
    )
    left.goes_on = f"The job {job} goes on"
    with left.told() if follows else nullcontext():
        for piece in phift.FineTuneJob(job, phift.connect(workspace=workspace)).logs(step, follow=follows):
            if as_json:
                hand_out(json.dumps(piece.to_dict()))
                continue
            for line in piece.text.replace("\r\n", "\n").removesuffix("\n").split("\n"):
                drawn = line.rstrip("\r").rpartition("\r")[2]  # of a bar that is drawn over itself, what was seen last
                tell(drawn if step else f"{piece.step or 'job'} | {drawn}", hide=False)


@click.command()
@click.argument("job")
@WORKSPACE
@click.option("--json", "as_json", is_flag=True, help="Print what became of the job as JSON.")
def cancel(job: str, workspace: str | None, as_json: bool) -> None:
    """Cancel a job and wait until it has ended; nothing happens to one that has ended before."""
    from phift.jobs.ends import ENDED

    found = phift.FineTuneJob(job, phift.connect(workspace=workspace))
    had_ended = found.status() in ENDED
    found.cancel()
    status = found.status()
    if as_json:
        hand_out(json.dumps({"job": job, "status": status, "had_ended": had_ended}))
    elif had_ended:
        tell(f"The job {job} had ended before, and is {status}.")
    else:
        tell(f"The job {job} has ended, and is {status}.")


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
    tell(found, lines=True)
    if found.more:
        tell("--limit shows more of them", err=True)


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
