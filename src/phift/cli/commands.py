"""The command line: check, run and clean up a run, and the local workspace."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from phift import garbage
from phift.cli.interrupted import (
    INTERRUPTED,
    JOB_GOES_ON,
    NOTHING_GOES_ON,
    Leftovers,
    ignore_interruptions,
    interrupt_on,
    notes,
    say,
)
from phift.errors import CheckFailed, ConfigError, PhiftError
from phift.local import LocalWorkspace
from phift.version import __version__

if TYPE_CHECKING:
    from phift.local.programs import Engine
    from phift.local.state.clock import Speed
    from phift.run import FineTuneRun


_FOLDER = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the local workspace keeps its state; by default in the user's data directory.",
)
_WORKSPACE = click.option(
    "--workspace",
    metavar="WORKSPACE",
    help="local, local:FOLDER or SUBSCRIPTION/GROUP/WORKSPACE; by default as the environment or config.json say.",
)
_CONFIG = click.argument("config", type=click.Path(path_type=Path))


def _console(*, stderr: bool = False) -> Any:
    from rich.console import Console

    # A log file has no width; 80 columns would fold every finding.
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 160)


def _reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Show our errors as text with the exit code 1, and an interruption as 130."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        # The SDK warns of its own experimental classes, and up to 1.34 of fields that it does not know itself, which
        # tells a user of this program nothing.
        for name in ("azure", "msrest"):
            logging.getLogger(name).setLevel(logging.ERROR)
        interrupt_on(signal.SIGTERM, signal.SIGHUP)
        try:
            try:
                command(*args, **kwargs)
            except CheckFailed as error:
                from phift.views import show_report

                if error.report is not None:
                    show_report(_console(), error.report)
                click.echo("Nothing was submitted.", err=True)
                sys.exit(1)
            except (PhiftError, OSError) as error:
                tail = getattr(error, "log_tail", "")
                say([f"error: {error}", *([f"log:\n{tail}"] if tail else []), *notes(error)])
                sys.exit(1)
            except KeyboardInterrupt:
                ignore_interruptions()
                raise
        except KeyboardInterrupt as error:  # two levels of it, since a second signal may strike inside of the first
            ignore_interruptions()
            say(["Interrupted.", *notes(error)])
            sys.exit(INTERRUPTED)

    return run


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Fine-tune Phi models on Azure Machine Learning."""


@main.command()
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@_reports_errors
def check(config: Path, as_json: bool) -> None:
    """Look everything up and submit nothing; exits 1 if something would stop the run."""
    from phift.check.findings import findings_from
    from phift.check.report import CheckReport
    from phift.config.run import RunConfig
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
    """Do all of it: check, prepare, submit, wait, register, deploy; run it again to go on after an interruption.

    With --ask the endpoint is deleted at the end unless somebody else uses it or it was left up on purpose; without, it
    stays up and costs money. Exits 1 on an error, and 130 when it is interrupted by Ctrl-C, SIGTERM or SIGHUP.
    """
    run, left = _open(config, "run", goes_on=JOB_GOES_ON)
    with left.told():
        _train(run, left, wait=True)
        _deploy(run, left, ask, shlex.join(["phift", "cleanup", str(config)]))
    _tell_of_earlier(run)


@main.command()
@_CONFIG
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the job, and register its model.")
@_reports_errors
def submit(config: Path, wait: bool) -> None:
    """Train, and deploy nothing: check, prepare, submit, wait, register."""
    run, left = _open(config, "submit", goes_on=JOB_GOES_ON)
    with left.told():
        _train(run, left, wait=wait)
    click.echo(f"Nothing is deployed; to do so: {shlex.join(['phift', 'deploy', str(config)])}")


@main.command()
@click.argument("target", metavar="CONFIG|JOB")
@_WORKSPACE
@click.option("--ask", multiple=True, metavar="QUESTION", help="Ask the endpoint this, then delete the endpoint.")
@_reports_errors
def deploy(target: str, workspace: str | None, ask: tuple[str, ...]) -> None:
    """Register and deploy the model of a completed job, by the configuration or the job's name."""
    from phift.azure.connect import connect
    from phift.run import FineTuneRun
    from phift.views import EventPrinter

    if _is_config(target):
        run, left = _open(Path(target), "deploy")
        cleanup = shlex.join(["phift", "cleanup", target])
    else:
        option = ["--workspace", workspace] if workspace else []
        left = Leftovers(["phift", "deploy", target, *option], option, EventPrinter(_console()))
        cleanup = left.cleanup(target)
        run = FineTuneRun.attach(target, connect(workspace=workspace), on_event=left)
    with left.told():
        _deploy(run, left, ask, cleanup)
    _tell_of_earlier(run)


def _open(config: Path, command: str, *, goes_on: str = NOTHING_GOES_ON) -> tuple[FineTuneRun, Leftovers]:
    """Return the run of a configuration, and what keeps count of what it leaves."""
    from phift.config.run import LocalWorkspaceFolder, RunConfig
    from phift.run import FineTuneRun
    from phift.views import EventPrinter

    read = RunConfig.from_yaml(config)
    place, option = read.workspace, []  # of a workspace that the environment names there is nothing to say
    if isinstance(place, LocalWorkspaceFolder):
        option = ["--workspace", f"local:{place.local}" if place.local else "local"]
    elif all(names := (place.subscription_id, place.resource_group, place.workspace_name)):
        option = ["--workspace", "/".join(map(str, names))]
    left = Leftovers(["phift", command, str(config)], option, EventPrinter(_console()), goes_on=goes_on)
    return FineTuneRun(read, on_event=left), left


def _train(run: FineTuneRun, left: Leftovers, *, wait: bool) -> None:
    from phift.views import show_plan, show_report

    report = run.check()
    if report.ok:
        show_report(_console(), report)
        show_plan(_console(), run.plan)
    job = run.submit()  # shows the report itself where an error stands in the way
    left.submitted(job.name)
    click.echo(f"job      {job.name}{' (submitted before)' if job.existed else ''}")
    if wait:
        run.wait()
        model = run.register()
        click.echo(f"model    {model.name} version {model.version}")


def _deploy(run: FineTuneRun, left: Leftovers, ask: tuple[str, ...], cleanup: str) -> None:
    """Deploy the model; where there is something to ask, for as long as that takes."""
    if not ask:
        endpoint = run.deploy()
        click.echo(f"endpoint {endpoint.name} at {endpoint.scoring_uri}")
        click.echo(f"It costs money until you delete it: {cleanup}")
        return
    with run.deploy() as endpoint:
        for question in ask:
            click.echo(f"{question}\n  {endpoint.chat(question)}")
    say(left.lines(interrupted=False))


def _tell_of_earlier(run: FineTuneRun) -> None:
    """Warn of endpoints that earlier runs of this configuration left up."""
    for each in run.earlier_endpoints():
        click.echo(f"still up and costs money: endpoint {each}, of an earlier run of this configuration", err=True)


@main.command()
@_CONFIG
@click.option("--row", type=click.IntRange(min=1), help="Show this row of the prepared data as the model sees it.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="train", show_default=True)
@_reports_errors
def prepare(config: Path, row: int | None, split: str) -> None:
    """Read, check, split and write the data, and say what became of every row; submits nothing."""
    from phift.config.run import RunConfig
    from phift.run import FineTuneRun
    from phift.views import EventPrinter

    run = FineTuneRun(RunConfig.from_yaml(config), on_event=EventPrinter(_console()))
    data = run.prepare()
    click.echo(str(data))
    click.echo(f"written to {data.folder}")
    if row is not None:
        click.echo(f"\n{run.conversation(row, split)}")


@main.command()
@click.argument("target", metavar="CONFIG|JOB|ENDPOINT")
@_WORKSPACE
@_reports_errors
def cleanup(target: str, workspace: str | None) -> None:
    """Delete the endpoints of a run, by its configuration, its job's name or an endpoint's; job and model stay.

    Exits 1, and names it, if an endpoint of this run or of an earlier one of this configuration is still up, or of any
    run where nothing is known of this configuration. An endpoint's own name is about that one alone.
    """
    from phift.azure.connect import connect
    from phift.serving.cleanup import remove_endpoints_of
    from phift.views import EventPrinter

    if _is_config(target):
        run, left = _open(Path(target), "cleanup")
        with left.told():
            done = run.cleanup()
    else:
        option = ["--workspace", workspace] if workspace else []
        left = Leftovers(["phift", "cleanup", target, *option], option, EventPrinter(_console()))
        with left.told():
            done = remove_endpoints_of(connect(workspace=workspace), target, on_event=left)
    if not done.deleted:
        click.echo("There was no endpoint to delete.")
    if done.others:
        click.echo("This configuration has not been submitted as it stands; endpoints of other runs:", err=True)
    for each in (*done.left, *done.others):
        click.echo(f"still up and costs money: endpoint {each}; to delete it:", err=True)
        click.echo(f"  {left.cleanup(each.name)}", err=True)
    sys.exit(1 if done.left or done.others else 0)


def _is_config(target: str) -> bool:
    return target.endswith((".yaml", ".yml")) or Path(target).is_file()


@main.command()
@_WORKSPACE
@_reports_errors
def endpoints(workspace: str | None) -> None:
    """List what phift has deployed in a workspace, with its job, age and traffic; each of them costs money."""
    from phift.azure.connect import connect
    from phift.serving.cleanup import deployed_endpoints, deployments_of
    from phift.views import show_endpoints

    clients = connect(workspace=workspace)
    found = deployed_endpoints(clients)
    show_endpoints(_console(), [(each, deployments_of(clients, each.name)) for each in found])


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
    from phift.cli.quickstart import default_folder, demonstrate

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
    workspace = LocalWorkspace(folder, engine=engine, speed=speed)
    connection = workspace.up(on_event=lambda text: click.echo(f"  {text}"))
    click.echo(f"The local workspace is up at {connection.base_url}; its state is in {connection.folder}.")


@local.command()
@_FOLDER
@_reports_errors
def down(folder: Path | None) -> None:
    """Stop the local workspace; jobs in progress go on at the next start."""
    stopped = LocalWorkspace(folder).down()
    click.echo("Stopped." if stopped else "It was not running.")


@local.command()
@_FOLDER
@_reports_errors
def status(folder: Path | None) -> None:
    """Show whether the local workspace runs; exits 1 if it does not."""
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
    for name, value in LocalWorkspace(folder).connection().environment().items():
        click.echo(f"export {name}={shlex.quote(value)}")


@local.command()
@_FOLDER
@_reports_errors
def config(folder: Path | None) -> None:
    """Print the config.json that MLClient.from_config reads; where the workspace is served is in `phift local env`."""
    click.echo(json.dumps(LocalWorkspace(folder).connection().config(), indent=2))


def program() -> None:
    """Run the command line as a process of its own.

    An interruption ends it at once: Python would wait for threads of the SDK that talk to the network.
    """
    garbage.look_seldom()
    try:
        main()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise
