"""The command that deploys a model, by whatever names it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import click

import phift
from phift.cli.interrupted import Leftovers, say
from phift.cli.options import ASK, WORKSPACE, given, is_config, named, workspace_option
from phift.cli.output import console, hand_out, tell
from phift.errors import NotFound


@click.command()
@click.argument("target", metavar="CONFIG|JOB|MODEL")
@WORKSPACE
@click.option("--name", help="The endpoint's; by default it is made of the job's or the model's name.")
@click.option("--deployment", metavar="NAME", help="Of the deployment in the endpoint, such as green beside another.")
@click.option("--size", metavar="VM_SIZE", help="By default the smallest that the model's inference list has.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Take back what is not up by then.")
@ASK
@click.option("--json", "as_json", is_flag=True, help="Print the endpoint, and the answers, as JSON.")
def deploy(
    target: str,
    workspace: str | None,
    name: str | None,
    deployment: str | None,
    size: str | None,
    timeout: float | None,
    ask: tuple[str, ...],
    as_json: bool,
) -> None:
    """Deploy a model: of a completed job, by its configuration or name, a registered one, or a registry's.

    MODEL is NAME:VERSION or NAME in the workspace, azureml://registries/... or a name in the registry azureml. With
    --ask the endpoint is deleted at the end unless somebody else uses it or it was left up on purpose; without, it
    stays up and costs money.
    """
    events = phift.EventPrinter(console(stderr=as_json))
    run: phift.FineTuneRun | None = None
    clients: phift.Clients | None = None
    if is_config(target):
        config = phift.RunConfig.from_yaml(Path(target))
        left = Leftovers("deploy", [target], workspace_option(config.workspace), events, again=given())
        run = phift.FineTuneRun(config, on_event=left)
    else:
        left = Leftovers("deploy", [target, *named(workspace)], named(workspace), events, again=given())
        clients = phift.connect(workspace=workspace)
        if not set(target) & {":", "/"}:  # which no job's name has
            with suppress(NotFound):
                run = phift.FineTuneRun.attach(target, clients, on_event=left)
    with left.told():
        endpoint = phift.deploy(
            run or target,
            None if run else clients,
            name=name,
            deployment=deployment,
            size=size,
            timeout=timeout,
            on_event=None if run else left,
        )
        serve(endpoint, left, ask, as_json=as_json, cleanup=left.command("cleanup") if run else "")
        if run is not None:
            tell_of_earlier(run)


def serve(
    endpoint: phift.Endpoint, left: Leftovers, ask: tuple[str, ...], *, cleanup: str, as_json: bool = False
) -> None:
    """Say where a model is deployed, or ask it and end the block that it was deployed for.

    - **cleanup**: the command that deletes it; without one, by the endpoint's name.
    """
    told = {"endpoint": endpoint.name, "scoring_uri": endpoint.scoring_uri, "existed": endpoint.existed}
    if not ask:
        if as_json:
            hand_out(json.dumps(told, indent=2))
        else:
            tell(f"endpoint {endpoint.name} at {endpoint.scoring_uri}")
        tell(f"It costs money until you delete it: {cleanup or left.cleanup(endpoint.name)}", err=as_json)
        return
    answers = []
    with endpoint:
        for question in ask:
            answer = str(endpoint.chat(question))
            answers.append({"question": question, "answer": answer})
            if not as_json:
                tell(question, hide=False)
                tell(f"  {answer}", lines=True, hide=False)
    if as_json:
        hand_out(json.dumps({**told, "answers": answers}, indent=2))
    say(left.lines(interrupted=False))


def tell_of_earlier(run: phift.FineTuneRun) -> None:
    """Warn of what earlier runs of the configuration left up."""
    for each in run.earlier_endpoints():
        tell(f"still up and costs money: endpoint {each}, of an earlier run of this configuration", err=True)
