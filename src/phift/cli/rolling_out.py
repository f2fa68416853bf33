"""The command that puts another model in the place of the one that an endpoint serves, step by step."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

import phift
from phift.cli.options import WORKSPACE
from phift.cli.output import console, hand_out, tell

if TYPE_CHECKING:
    from phift import Endpoint, EventPrinter, RolloutStatus

PAUSED = 3
"""The exit code of a rollout that waits for somebody: too few requests to judge by, or traffic that others changed."""
_COUNTS = {"resume": {"rows"}, "promote": {"keep_old"}, "roll_back": set[str](), "status": set[str]()}
"""What of how a rollout is begun counts for one that is under way."""
_GATE = ("max_error_rate", "max_p95", "max_p95_ratio", "min_requests", "rows", "undecided")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def _seconds(_context: click.Context, _option: click.Parameter, value: str) -> float:
    found = re.fullmatch(r"([0-9]{1,7}(?:\.[0-9]+)?)([smh]?)", value)
    if not found:
        raise click.BadParameter("give seconds, minutes or hours: 90s, 10m or 1h")
    return float(found[1]) * _UNITS[found[2]]


def _percents(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]{1,3}(,[0-9]{1,3})*", value):
        raise click.BadParameter("give percents with commas between them: 10,50,100")
    return tuple(map(int, value.split(",")))


@click.command()
@click.argument("endpoint")
@click.argument("model", required=False)
@WORKSPACE
@click.option("--steps", default="10,50,100", show_default=True, callback=_percents, help="Percent of the traffic.")
@click.option("--soak", default="10m", show_default=True, callback=_seconds, help="How long each of them lasts.")
@click.option(
    "--mirror", type=click.IntRange(0, 50), default=0, help="First copy so many percent of the requests to it."
)
@click.option("--max-error-rate", type=click.FloatRange(0, 1, max_open=True), default=0.02, show_default=True)
@click.option("--max-p95", type=click.FloatRange(min=0, min_open=True), help="Seconds that 95 % of its requests take.")
@click.option(
    "--max-p95-ratio", type=click.FloatRange(min=1), default=2.0, show_default=True, help="Beside the old one."
)
@click.option("--min-requests", type=click.IntRange(min=1), default=50, show_default=True, help="To be judged by.")
@click.option("--rows", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="Compare answers to these.")
@click.option(
    "--undecided", type=click.Choice(["pass", "pause"]), default="pass", show_default=True, help="With --rows."
)
@click.option("--deployment", help="Its name; by default green beside blue, and the other way round.")
@click.option("--size", help="VM size; by default as the old deployment's.")
@click.option("--keep-old", is_flag=True, help="Leave the old deployment up at the end; it costs money.")
@click.option("--resume", "way", flag_value="resume", help="Go on with what is under way, as it was begun.")
@click.option("--promote", "way", flag_value="promote", help="Give it all the traffic now, and delete the old one.")
@click.option("--roll-back", "way", flag_value="roll_back", help="Give the old one all the traffic, and delete it.")
@click.option("--status", "way", flag_value="status", help="Say how far it is, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print how far it is at the end as JSON.")
def rollout(
    endpoint: str,
    model: str | None,
    workspace: str | None,
    steps: tuple[int, ...],
    soak: float,
    mirror: int,
    max_error_rate: float,
    max_p95: float | None,
    max_p95_ratio: float,
    min_requests: int,
    rows: Path | None,
    undecided: Literal["pass", "pause"],
    deployment: str | None,
    size: str | None,
    keep_old: bool,
    way: str | None,
    as_json: bool,
) -> None:
    """Put MODEL (name:version, or an id) in the place of the model that ENDPOINT serves, step by step.

    After each step a gate judges what the new deployment has answered: where it fails, the old one has all the traffic
    again at once, and the exit code is 1. Where too few requests came it pauses, and the exit code is 3. The same
    command, or --resume, goes on with what was interrupted.
    """
    if (model is None) == (way is None):
        raise click.UsageError("Give a MODEL, or one of --resume, --promote, --roll-back and --status.")
    if way is not None:
        _refuse_what_does_not_count(way)
    if rows:
        from phift.evaluation.rows import read_rows

        read_rows(rows)  # what is wrong with them is better known before a deployment of minutes
    found = phift.Endpoint.attach(endpoint, phift.connect(workspace=workspace))
    printer = phift.EventPrinter(console(stderr=True))
    # Without a word on it, a rollout under way keeps the gate that it was begun with.
    context = click.get_current_context()
    is_given = any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in _GATE)
    gate = phift.Gate(
        max_error_rate=max_error_rate,
        max_p95=max_p95,
        max_p95_ratio=max_p95_ratio,
        min_requests=min_requests,
        compare=partial(phift.compare_models, rows=rows, on_progress=printer) if rows else None,
        undecided=undecided,
    )
    if model is not None:
        options: dict[str, Any] = {"deployment": deployment, "size": size, "keep_old": keep_old, "on_event": printer}
        begun = found.rollout(model, steps=steps, soak=soak, gate=gate if is_given else None, mirror=mirror, **options)
        status = begun.wait()
    else:
        status = _go_on(found, way, gate.compare, keep_old, printer)
    printer.stop_drawing()
    if as_json:
        hand_out(json.dumps(status.to_dict(), indent=2))
    else:
        tell(status)
    asked_for = way == "status" or status.phase == ("rolled back" if way == "roll_back" else "promoted")
    sys.exit(0 if asked_for else PAUSED if status.phase == "paused" else 1)


def _refuse_what_does_not_count(way: str) -> None:
    context = click.get_current_context()
    always = {"endpoint", "model", "workspace", "way", "as_json"}
    for each in context.command.params:
        name = str(each.name)
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_given and name not in always | _COUNTS[way]:
            what = f"{each.opts[0]} does not count with --{way.replace('_', '-')}: a rollout stays as it was begun."
            raise click.UsageError(f"{what} To change it, roll it back and begin another one.")


def _go_on(endpoint: Endpoint, way: str | None, compare: Any, keep_old: bool, printer: EventPrinter) -> RolloutStatus:
    found = phift.Rollout.attach(endpoint, on_event=printer)
    if compare is not None:
        found = phift.Rollout.attach(endpoint, gate=replace(found.gate, compare=compare), on_event=printer)
    if way == "promote":
        return found.promote(keep_old=keep_old or None)
    if way == "roll_back":
        return found.roll_back()
    return found.status if way == "status" else found.wait()
