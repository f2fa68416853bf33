"""The command that tells which of two models answers better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

import phift
from phift.cli.interrupted import Leftovers
from phift.cli.options import WORKSPACE, given, is_config, named, workspace_option
from phift.cli.output import console, hand_out

if TYPE_CHECKING:
    from phift import Clients
    from phift.evaluation.comparing import Options


@click.command()
@click.argument("target", metavar="CONFIG|JOB|ENDPOINT/DEPLOYMENT")
@WORKSPACE
@click.option("--base", metavar="ENDPOINT[/DEPLOYMENT]", help="Compare with this; by default with the base model.")
@click.option("--rows", type=click.Path(dir_okay=False, path_type=Path), help="Held-out rows, a JSONL file of chats.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask so many rows at most, drawn with the seed.")
@click.option("--metric", "metrics", multiple=True, help="exact_match, token_f1 or chrf; may be given again.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--concurrency", type=click.IntRange(min=1), default=1, show_default=True, help="Rows at once.")
@click.option(
    "--weights",
    nargs=2,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="BEFORE AFTER",
    help="Folders of both models, as `phift download` leaves one: measure the loss of the right answers too.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON, with every answer.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write it as a page to this file.")
@click.option("--fail-unless", type=click.Choice(["better", "not-worse"]), help="Exit with 1 otherwise.")
@click.option("--margin", type=click.FloatRange(min=0, min_open=True), help="With not-worse: by so much it may be.")
def evaluate(
    target: str,
    workspace: str | None,
    base: str | None,
    rows: Path | None,
    limit: int | None,
    metrics: tuple[str, ...],
    max_new_tokens: int,
    concurrency: int,
    weights: tuple[Path, Path] | None,
    seed: int,
    as_json: bool,
    html: Path | None,
    fail_unless: str | None,
    margin: float | None,
) -> None:
    """Compare a trained model with its base model, or two deployments, on rows held out of the training.

    What is deployed for it is deleted again. With --fail-unless the exit code is for CI: 1 unless the model is better,
    or where it is worse; and with --margin where it may be worse by as much.
    """
    if margin is not None and fail_unless != "not-worse":
        raise click.UsageError("--margin goes with --fail-unless not-worse.")
    if html:
        _check_writable(html)
    options: Options = {
        "limit": limit,
        "max_new_tokens": max_new_tokens,
        "concurrency": concurrency,
        "seed": seed,
        "weights": weights or None,
        **({"metrics": metrics} if metrics else {}),
    }
    printer = phift.EventPrinter(console(stderr=True))
    if is_config(target):
        config = phift.RunConfig.from_yaml(target)
        left = Leftovers("evaluate", given(), workspace_option(config.workspace), printer)
    else:
        left = Leftovers("evaluate", given(), named(workspace), printer)
    with left.told():
        if "/" in target and not is_config(target):
            if base is None or rows is None:
                raise click.UsageError("Two deployments are compared by --rows, and --base names the other one.")
            clients = phift.connect(workspace=workspace)
            before, after = _deployed(base, clients), _deployed(target, clients)
            compared = phift.compare_models(before, after, rows, **options, on_progress=left)
        else:
            if is_config(target):
                run = phift.FineTuneRun(config, on_event=left)
            else:
                run = phift.FineTuneRun.attach(target, phift.connect(workspace=workspace), on_event=left)
            compared = run.evaluate(rows, base=_deployed(base, run.clients) if base else None, **options)
    left.stop_drawing()
    _show(compared, as_json, html)
    if fail_unless == "better":
        compared.assert_improved()
    elif fail_unless:
        compared.assert_not_worse(margin=margin)


def _check_writable(page: Path) -> None:
    """Raise what writing a page would, before anything is paid for, and leave no empty one."""
    was_there = page.exists()
    page.touch()
    if not was_there:
        page.unlink()


def _deployed(name: str, clients: Clients) -> phift.Endpoint | tuple[phift.Endpoint, str]:
    endpoint, _, deployment = name.partition("/")
    found = phift.Endpoint.attach(endpoint, clients)
    return (found, deployment) if deployment else found


def _show(compared: phift.ModelComparison, as_json: bool, html: Path | None) -> None:
    if as_json:
        hand_out(json.dumps(compared.to_dict(), indent=2))
    else:
        from phift.views.terminal import show_comparison

        show_comparison(console(), compared)
    if html:  # last: what was paid for is told wherever a page cannot be written
        html.write_text(compared.page(), encoding="utf-8", errors="backslashreplace")
