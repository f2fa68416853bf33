"""The local workspace on the command line: started, stopped, looked at, reset; programs recorded and replayed."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phift.cli.local_models import model
from phift.cli.options import FOLDER
from phift.cli.output import hand_out, tell
from phift.local import LocalWorkspace

if TYPE_CHECKING:
    from phift.local.programs import Datastores, Engine
    from phift.local.recorder.exchange import Exchange
    from phift.local.state.clock import Speed


@click.group()
def local() -> None:
    """Start, stop and look at the local workspace."""


local.add_command(model)


@local.command()
@FOLDER
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
@click.option(
    "--datastores",
    type=click.Choice(["accesskey", "identity", "keys-off"]),
    help="How storage is reached: by its key, by your own token, or by a key that it refuses. The folder remembers it.",
)
def up(folder: Path | None, engine: Engine, speed: Speed, datastores: Datastores | None) -> None:
    """Start the local workspace; one that runs already is left as it is."""
    workspace = LocalWorkspace(folder, engine=engine, speed=speed, datastores=datastores)
    connection = workspace.up(on_event=lambda text: tell(f"  {text}"))
    tell(f"The local workspace is up at {connection.base_url}; its state is in {connection.folder}.")


@local.command()
@FOLDER
def down(folder: Path | None) -> None:
    """Stop the local workspace; jobs in progress go on at the next start."""
    tell("Stopped." if LocalWorkspace(folder).down() else "It was not running.")


@local.command()
@FOLDER
def status(folder: Path | None) -> None:
    """Show whether the local workspace runs; exits 1 if it does not."""
    found = LocalWorkspace(folder).status()
    tell(f"state      {found.folder}")
    tell(f"running    at {found.address}, process {found.pid}" if found.running else "running    no")
    for job_status, count in sorted(found.jobs.items()):
        tell(f"jobs       {count} {job_status}")
    for name, deployments in sorted(found.endpoints.items()):
        tell(f"endpoint   {name}: {', '.join(deployments) or 'no deployment'}")
    sys.exit(0 if found.running else 1)


@local.command()
@FOLDER
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(folder: Path | None, yes: bool) -> None:
    """Stop the local workspace and delete its state: jobs, models, endpoints, data."""
    if not yes:
        click.confirm("Delete all jobs, models and data of the local workspace?", abort=True)
    LocalWorkspace(folder).reset()
    tell("Deleted.")


@local.command()
@FOLDER
def env(folder: Path | None) -> None:
    """Print, as export lines, what points any program that uses the Azure ML SDK or MLflow at the local workspace.

    Two of the values are secrets, good for this workspace alone: whoever has one may do everything in it.
    """
    for name, value in LocalWorkspace(folder).connection().environment().items():
        hand_out(f"export {name}={shlex.quote(value)}")


@local.command()
@FOLDER
def config(folder: Path | None) -> None:
    """Print the config.json that MLClient.from_config reads; where the workspace is served is in `phift local env`."""
    hand_out(json.dumps(LocalWorkspace(folder).connection().config(), indent=2))


_PROGRAM = click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
_FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@local.command(context_settings={"ignore_unknown_options": True})
@_FILE
@_PROGRAM
def record(file: Path, program: tuple[str, ...]) -> None:
    """Run PROGRAM and write its exchanges with Azure ML to FILE, redacted; docs/verified.md says what is kept.

    Exits as PROGRAM does, or 1 where nothing was recorded, or not all of it.
    """
    from phift.local.recorder.exchange import begin
    from phift.local.recorder.program import run

    with begin(file) as recording:
        code, unreachable = run(program, recording.write)
    _say_unreachable(unreachable)
    count, failure = recording.count, recording.failure
    tell(f"{count} exchanges in {file}" if count else "Nothing was recorded.", err=True)
    if failure:
        tell(f"The recording is incomplete: {failure.strerror}", err=True)
    sys.exit(code or int(failure is not None or not count))


@local.command(context_settings={"ignore_unknown_options": True})
@_FILE
@_PROGRAM
def replay(file: Path, program: tuple[str, ...]) -> None:
    """Run PROGRAM on a new local workspace, and tell what it answers otherwise than FILE has it.

    PROGRAM is the one that was recorded. Exits 1 where something differs, or as PROGRAM does.
    """
    from phift.local.recorder.compare import compare
    from phift.local.recorder.exchange import read
    from phift.local.recorder.program import run

    date, there = read(file)
    here: list[Exchange] = []
    with tempfile.TemporaryDirectory(prefix="phift-replay-") as folder:
        workspace = LocalWorkspace(Path(folder), engine="instant", speed="fast", lasting=False)
        try:
            variables = {**workspace.up().environment(), "PHIFT_LOCAL_HOME": folder}
            code, unreachable = run(program, here.append, variables)
        finally:
            workspace.down()
    _say_unreachable(unreachable)
    lines = compare(there, here)
    for line in lines:
        tell(line)
    tell(f"{len(lines)} differences from what was recorded on {date}: {len(there)} exchanges, {len(here)} here")
    sys.exit(code or (1 if lines else 0))


def _say_unreachable(hosts: dict[str, str]) -> None:
    for host, why in hosts.items():
        tell(f"could not be reached: {host} ({why})", err=True)
