"""The commands about endpoints: what there is and what it costs, and how it costs less."""

from __future__ import annotations

import json
import shlex

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


def _attached(endpoint: str, workspace: str | None) -> phift.Endpoint:
    events = phift.EventPrinter(console(stderr=True))
    return phift.Endpoint.attach(endpoint, phift.connect(workspace=workspace), on_event=events)


def _command(name: str, endpoint: str, workspace: str | None) -> str:
    return shlex.join(["phift", "endpoints", name, endpoint, *named(workspace)])
