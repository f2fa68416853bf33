"""The commands about endpoints: what there is and what it costs, and how it costs less."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import timedelta

import click

import phift
from phift.cli.options import WORKSPACE, CommandUnlessNamed, named
from phift.cli.output import console, hand_out, tell


class _ListUnlessNamed(CommandUnlessNamed):
    unnamed = "list"


@click.group(cls=_ListUnlessNamed)
def endpoints() -> None:
    """List what phift has deployed, newest first, with age and price a day: `phift endpoints`."""


@endpoints.command(name="list")
@WORKSPACE
@click.option("--json", "as_json", is_flag=True, help="Print the endpoints as JSON.")
def list_(workspace: str | None, as_json: bool) -> None:
    """List what phift has deployed, newest first, with age, expiry and price a day; `phift endpoints` is the same."""
    found = phift.endpoints(phift.connect(workspace=workspace))
    if as_json:
        hand_out(json.dumps([each.to_dict() for each in found], indent=2))
    else:
        tell(found, lines=True)


@endpoints.command()
@click.argument("names", metavar="[ENDPOINT]...", nargs=-1)
@WORKSPACE
@click.option(
    "--older-than",
    metavar="TIME",
    callback=lambda _context, _option, time: _time(time),
    help="Delete what is older than this: 90m, 8h, 3d.",
)
@click.option("--expired", is_flag=True, help="Delete what has expired; the default where nothing else is said.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask before it is deleted.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def prune(
    names: tuple[str, ...],
    workspace: str | None,
    older_than: timedelta | None,
    expired: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete endpoints that have expired, that are older than a time, or that are named, after asking.

    Not unless it is named: what somebody uses in a block, what was asked in the last hour, and what is parked. Exits 1
    if one of them could not be deleted, which stops no other.
    """

    def confirm(found: phift.Pruned) -> bool:
        tell(found.chosen, err=True, lines=True)
        if yes:
            return True
        if not sys.stdin.isatty():
            raise click.UsageError("Nobody can be asked here: add --yes to delete, or --dry-run to look.")
        return click.confirm("Delete?", err=True)

    done = phift.prune_endpoints(
        phift.connect(workspace=workspace),
        names,
        older_than=older_than,
        expired=expired,
        dry_run=dry_run,
        confirm=confirm,
        on_event=phift.EventPrinter(console(stderr=True)),
    )
    if as_json:
        hand_out(json.dumps(done.to_dict(), indent=2))
    elif dry_run and done.chosen:
        tell(done.chosen, lines=True)
    if not as_json:
        tell(done, lines=True)
    sys.exit(1 if done.failed else 0)


@endpoints.command()
@click.argument("endpoint")
@WORKSPACE
def park(endpoint: str, workspace: str | None) -> None:
    """Delete an endpoint's deployments, so that it costs nothing; name, address and keys stay for `unpark`."""
    _attached(endpoint, workspace).park()
    tell(f"parked   {endpoint}; to bring it back: {_command('unpark', endpoint, workspace)}")


@endpoints.command()
@click.argument("endpoint")
@WORKSPACE
def unpark(endpoint: str, workspace: str | None) -> None:
    """Bring back the deployments of a parked endpoint, as they were; it costs money again."""
    found = _attached(endpoint, workspace)
    found.unpark()
    tell(f"endpoint {endpoint} at {found.scoring_uri}")
    tell(f"It costs money until you park or delete it: {_command('park', endpoint, workspace)}")


def _time(older_than: str | None) -> timedelta | None:
    from phift.config.deployment import read_lasting

    try:
        return None if older_than is None else read_lasting(older_than)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _attached(endpoint: str, workspace: str | None) -> phift.Endpoint:
    events = phift.EventPrinter(console(stderr=True))
    return phift.Endpoint.attach(endpoint, phift.connect(workspace=workspace), on_event=events)


def _command(name: str, endpoint: str, workspace: str | None) -> str:
    return shlex.join(["phift", "endpoints", name, endpoint, *named(workspace)])
