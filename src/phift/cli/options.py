"""Options and arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from phift.errors import ConfigError

if TYPE_CHECKING:
    from phift.config.run import AzureWorkspace, LocalWorkspaceFolder

WORKSPACE = click.option(
    "--workspace",
    metavar="WORKSPACE",
    help="local, local:FOLDER or SUBSCRIPTION/GROUP/WORKSPACE; by default as the environment or config.json say.",
)
FOLDER = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the local workspace keeps its state; by default in the user's data directory.",
)
PLOT = click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=lambda _context, _option, path: _picture(path),
    help="Draw the curves into this file: .png, .svg or .pdf.",
)
ON_END = click.option(
    "--on-end",
    metavar="COMMAND",
    callback=lambda _context, _option, command: _program(command),
    help="Run this when the job has ended, without a shell; PHIFT_JOB, PHIFT_STATUS and PHIFT_CAUSE say what became "
    "of it. What it prints goes to the standard error.",
)
ASK = click.option("--ask", multiple=True, metavar="QUESTION", help="Ask the endpoint this, then delete the endpoint.")
CONFIG = click.argument("config", type=click.Path(path_type=Path))


class CommandUnlessNamed(click.Group):
    """Takes what does not begin with one of its commands for the arguments of the one that `unnamed` says."""

    unnamed: str

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command's name before arguments that have none."""
        if not args or args[0] not in (*self.commands, "--help"):
            args = [self.unnamed, *args]
        return super().parse_args(ctx, args)


def given() -> list[str]:
    """Return the words of the command under way, without its name, as they were given."""
    context = click.get_current_context()
    words: list[str] = []
    for each in context.command.params:
        if each.name is None or context.get_parameter_source(each.name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[each.name]
        if isinstance(each, click.Option) and each.is_flag:
            words += each.opts if value else each.secondary_opts
            continue
        for one in value if each.multiple else [value]:
            words += each.opts if isinstance(each, click.Option) else []
            words += map(str, one if each.nargs != 1 else [one])
    return words


def is_config(target: str) -> bool:
    """Tell whether what a command is about is a configuration, and no name."""
    return target.endswith((".yaml", ".yml")) or Path(target).is_file()


def named(workspace: str | None) -> list[str]:
    """Return the words of the option that names a workspace as it was given; none where it was not."""
    return ["--workspace", workspace] if workspace else []


def workspace_option(place: AzureWorkspace | LocalWorkspaceFolder) -> list[str]:
    """Return the words of the option that names a configuration's workspace; none for the environment's."""
    from phift.config.run import LocalWorkspaceFolder

    if isinstance(place, LocalWorkspaceFolder):
        return ["--workspace", f"local:{place.local}" if place.local else "local"]
    names = (place.subscription_id, place.resource_group, place.workspace_name)
    return ["--workspace", "/".join(map(str, names))] if all(names) else []


def _picture(path: Path | None) -> Path | None:
    if path and path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise click.BadParameter("the file's name has to end in .png, .svg or .pdf")
    return path


def _program(command: str | None) -> str | None:
    """Refuse a command that cannot be run, which is better known before a job of hours."""
    from phift.jobs.on_end import when_ended

    try:
        when_ended(command)
    except ConfigError as error:
        raise click.BadParameter(error.what) from None
    return command
