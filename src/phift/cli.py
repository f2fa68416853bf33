"""The command line: check, run and clean up a run, and the local workspace."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import phift
from phift.errors import CheckFailed, ConfigError, PhiftError

if TYPE_CHECKING:
    from phift.local.clock import Speed
    from phift.local.workspace import Engine

_FOLDER = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the local workspace keeps its state; by default in the user's data directory.",
)
_CONFIG = click.argument("config", type=click.Path(path_type=Path))


def _console(*, stderr: bool = False) -> Any:
    from rich.console import Console

    # A log file has no width; 80 columns would fold every finding.
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 160)


def _reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Show our errors as text with the exit code 1, and Ctrl-C as 130."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        # The SDK warns of its own experimental classes, and up to 1.34 of fields that it does not know itself, which
        # tells a user of this program nothing.
        for name in ("azure", "msrest"):
            logging.getLogger(name).setLevel(logging.ERROR)
        signal.signal(signal.SIGTERM, _terminated)  # so that `with` blocks clean up
        try:
            command(*args, **kwargs)
        except CheckFailed as error:
            from phift.views import show_report

            if error.report is not None:
                show_report(_console(), error.report)
            click.echo("Nothing was submitted.", err=True)
            sys.exit(1)
        except PhiftError as error:
            click.echo(f"error: {error}", err=True)
            if tail := getattr(error, "log_tail", ""):
                click.echo(f"log:\n{tail}", err=True)
            sys.exit(1)
        except OSError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt as error:
            notes = getattr(error, "__notes__", [])
            click.echo(
                "\n".join(["Interrupted. A submitted job goes on; the same command goes on with it.", *notes]), err=True
            )
            sys.exit(130)

    return run


def _terminated(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


@click.group()
@click.version_option(phift.__version__)
def main() -> None:
    """Fine-tune Phi models on Azure Machine Learning."""


@main.command()
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@_reports_errors
def check(config: Path, as_json: bool) -> None:
    """Look everything up and submit nothing; exits 1 if something would stop the run."""
    from phift.checks import CheckReport, findings_from
    from phift.config import RunConfig
    from phift.run import FineTuneRun
    from phift.views import EventPrinter, show_plan, show_report

    report, run = CheckReport(()), None
    try:
        run = FineTuneRun(RunConfig.from_yaml(config), on_event=EventPrinter(_console(stderr=True)))
        report = run.check()
    except ConfigError as error:
        report = CheckReport.of(findings_from(error, str(config)))
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        show_report(_console(), report)
        if run and report.ok:
            show_plan(_console(), run.plan)
    sys.exit(report.exit_code)


@main.command(name="run")
@_CONFIG
@click.option("--ask", multiple=True, metavar="QUESTION", help="Ask the endpoint this, then delete the endpoint.")
@_reports_errors
def run_(config: Path, ask: tuple[str, ...]) -> None:
    """Do all of it: check, prepare, submit, wait, register, deploy; run it again to go on after an interruption."""
    from phift.config import RunConfig
    from phift.run import FineTuneRun
    from phift.views import EventPrinter, show_plan, show_report

    console = _console()
    run = FineTuneRun(RunConfig.from_yaml(config), on_event=EventPrinter(console))
    report = run.check()
    if report.ok:
        show_report(console, report)
        show_plan(console, run.plan)
    result = run.execute()  # shows the report itself where an error stands in the way
    click.echo(f"model    {result.model.name} version {result.model.version}")
    click.echo(f"endpoint {result.endpoint.name} at {result.endpoint.scoring_uri}")
    if not ask:
        click.echo(f"It costs money until you delete it: phift cleanup {config}")
        return
    with result.endpoint as endpoint:
        for question in ask:
            click.echo(f"{question}\n  {endpoint.chat(question)}")


@main.command()
@_CONFIG
@click.option("--row", type=click.IntRange(min=1), help="Show this row of the prepared data as the model sees it.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="train", show_default=True)
@_reports_errors
def prepare(config: Path, row: int | None, split: str) -> None:
    """Read, check, split and write the data, and say what became of every row; submits nothing."""
    from phift.config import RunConfig
    from phift.run import FineTuneRun
    from phift.views import EventPrinter

    run = FineTuneRun(RunConfig.from_yaml(config), on_event=EventPrinter(_console()))
    data = run.prepare()
    click.echo(str(data))
    click.echo(f"written to {data.folder}")
    if row is not None:
        click.echo(f"\n{run.conversation(row, split)}")


@main.command()
@_CONFIG
@_reports_errors
def cleanup(config: Path) -> None:
    """Delete the run's endpoint; its job and its model stay."""
    from phift.config import RunConfig
    from phift.run import FineTuneRun
    from phift.views import EventPrinter

    FineTuneRun(RunConfig.from_yaml(config), on_event=EventPrinter(_console())).cleanup()


@main.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace files of the same names that hold something else.")
@_reports_errors
def samples(folder: Path, force: bool) -> None:
    """Write the sample data set (questions on chemical elements) into FOLDER; no other file is overwritten."""
    from phift.samples import write

    written = write(folder, overwrite=force)
    for path in (written.train, written.validation, written.test):
        click.echo(path)


@main.command()
@_FOLDER
@click.option("--fresh", is_flag=True, help="Delete the state of earlier demonstrations first, and train again.")
@_reports_errors
def quickstart(folder: Path | None, fresh: bool) -> None:
    """Show a whole run on this machine: no Azure account, no GPU, a few minutes."""
    from phift.quickstart import default_folder, demonstrate

    sys.exit(demonstrate(_console(), folder or default_folder(), fresh=fresh))


@main.group()
def local() -> None:
    """Start, stop and look at the local workspace."""


@local.command()
@_FOLDER
@click.option(
    "--engine",
    type=click.Choice(["train", "instant"]),
    default="train",
    show_default=True,
    help="What runs jobs; instant completes them at once with outputs that say they are empty, and needs no torch.",
)
@click.option(
    "--speed",
    type=click.Choice(["real", "fast", "manual"]),
    default="real",
    show_default=True,
    help="How long operations seem to take: as on Azure, no time, or until a test moves the clock.",
)
@_reports_errors
def up(folder: Path | None, engine: Engine, speed: Speed) -> None:
    """Start the local workspace; one that runs already is left as it is."""
    from phift.local import LocalWorkspace

    workspace = LocalWorkspace(folder, engine=engine, speed=speed)
    connection = workspace.up(on_event=lambda text: click.echo(f"  {text}"))
    click.echo(f"The local workspace is up at {connection.base_url}; its state is in {connection.folder}.")


@local.command()
@_FOLDER
@_reports_errors
def down(folder: Path | None) -> None:
    """Stop the local workspace; jobs in progress go on at the next start."""
    from phift.local import LocalWorkspace

    stopped = LocalWorkspace(folder).down()
    click.echo("Stopped." if stopped else "It was not running.")


@local.command()
@_FOLDER
@_reports_errors
def status(folder: Path | None) -> None:
    """Show whether the local workspace runs; exits 1 if it does not."""
    from phift.local import LocalWorkspace

    found = LocalWorkspace(folder).status()
    click.echo(f"state      {found.folder}")
    click.echo(f"running    at {found.address}, process {found.pid}" if found.running else "running    no")
    for job_status, count in sorted(found.jobs.items()):
        click.echo(f"jobs       {count} {job_status}")
    for name, deployments in sorted(found.endpoints.items()):
        click.echo(f"endpoint   {name}: {', '.join(deployments) or 'no deployment'}")
    sys.exit(0 if found.running else 1)


@local.command()
@_FOLDER
@click.option("--yes", is_flag=True, help="Do not ask.")
@_reports_errors
def reset(folder: Path | None, yes: bool) -> None:
    """Stop the local workspace and delete its state: jobs, models, endpoints, data."""
    from phift.local import LocalWorkspace

    if not yes:
        click.confirm("Delete all jobs, models and data of the local workspace?", abort=True)
    LocalWorkspace(folder).reset()
    click.echo("Deleted.")


@local.command()
@_FOLDER
@_reports_errors
def env(folder: Path | None) -> None:
    """Print, as export lines, what points any program that uses the Azure ML SDK or MLflow at the local workspace.

    Two of the values are secrets, good for this workspace alone: whoever has one may do everything in it.
    """
    import shlex

    from phift.local import LocalWorkspace

    for name, value in LocalWorkspace(folder).connection().environment().items():
        click.echo(f"export {name}={shlex.quote(value)}")


@local.command()
@_FOLDER
@_reports_errors
def config(folder: Path | None) -> None:
    """Print the config.json that MLClient.from_config reads; where the workspace is served is in `phift local env`."""
    from phift.local import LocalWorkspace

    click.echo(json.dumps(LocalWorkspace(folder).connection().config(), indent=2))
