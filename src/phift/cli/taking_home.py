"""The commands that take home what a job made, and how it was made."""

from __future__ import annotations

import json
from pathlib import Path

import click

import phift
from phift.cli.interrupted import Leftovers
from phift.cli.options import WORKSPACE, named
from phift.cli.output import console, hand_out, tell


@click.command()
@click.argument("target", metavar="JOB|MODEL:VERSION")
@WORKSPACE
@click.option("--to", type=click.Path(path_type=Path), help="The folder to fetch into; by default one of its name.")
@click.option("--output", help="Fetch this output of the job.", default="trained_model", show_default=True)
@click.option("--all", "all_of_it", is_flag=True, help="Fetch all outputs and logs of the job.")
@click.option("--partial", is_flag=True, help="Of a job that failed or was cancelled, fetch what it left.")
@click.option("--json", "as_json", is_flag=True, help="Print what was fetched as JSON.")
def download(
    target: str, workspace: str | None, to: Path | None, output: str, all_of_it: bool, partial: bool, as_json: bool
) -> None:
    """Fetch a job's output, or a registered model, into a folder, with a manifest that says what it is.

    The same command goes on where it broke off, and fetches nothing where all is there.
    """
    name, is_model, version = target.partition(":")
    if not name or (is_model and not version):
        raise click.BadParameter("write a job's name, or a model's as NAME:VERSION", param_hint="JOB|MODEL:VERSION")
    folder = to or Path(f"{name}-{version}" if is_model else name)
    option = named(workspace)
    more = [*(["--to", str(to)] if to else []), *(["--all"] if all_of_it else []), *(["--partial"] if partial else [])]
    more += ["--output", output] if output != "trained_model" else []
    left = Leftovers("download", [target, *option, *more], option, phift.EventPrinter(console(stderr=True)))
    with left.told():
        clients = phift.connect(workspace=workspace)
        if is_model:
            got = phift.download_model(clients, name, version, folder, on_event=left)
        else:
            job = phift.FineTuneJob(name, clients)
            got = job.download(folder, output=None if all_of_it else output, partial=partial, on_event=left)
    if as_json:
        hand_out(json.dumps(got.to_dict(), indent=2))
    else:
        told = "was there already" if got.known else f"{got.fetched / 1e6:,.1f} MB fetched"
        tell(f"{got.folder}: {got.files:,} files of {got.bytes / 1e6:,.1f} MB, {told}")


@click.command()
@click.argument("job")
@WORKSPACE
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, without the comments.")
def reproduce(job: str, workspace: str | None, output: Path | None, as_json: bool) -> None:
    """Write the configuration that made a job, with the versions of then; `phift run` with it finds the same job.

    Where the data or the workspace is another, it makes a new one. A file that is there already is not overwritten.
    """
    written = phift.reproduce(phift.connect(workspace=workspace), job, workspace=workspace)
    if as_json:
        import yaml

        hand_out(json.dumps(yaml.safe_load(written), indent=2))
    elif output is None:
        hand_out(written.rstrip("\n"))
    if output is None:
        return
    with output.open("x", encoding="utf-8") as file:
        file.write(written)
    tell(output, err=as_json)
