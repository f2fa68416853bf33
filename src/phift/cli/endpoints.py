"""The commands about endpoints: what there is and what it costs."""

from __future__ import annotations

import json

import click

import phift
from phift.cli.options import WORKSPACE, CommandUnlessNamed
from phift.cli.output import hand_out, tell


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
