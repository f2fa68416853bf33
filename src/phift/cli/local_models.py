"""The models of the local workspace on the command line: the user's own beside the stand-ins."""

from __future__ import annotations

import json
from pathlib import Path

import click

from phift.cli.options import FOLDER
from phift.cli.output import hand_out, tell
from phift.errors import visible_columns
from phift.local import LocalModel, LocalWorkspace

_JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


@click.group()
def model() -> None:
    """Add models of your own to the local workspace, and look at and remove what there is."""


@model.command()
@click.argument("name")
@click.argument("source")
@FOLDER
@click.option("--response-template", default="", metavar="TEXT", help="What opens an assistant's turn.")
@click.option("--instruction-template", default="", metavar="TEXT", help="What opens a user's turn.")
@click.option("--system-role/--no-system-role", default=None, help="Whether the chat template takes a system message.")
@click.option("--lora-targets", default="", metavar="LAYERS", help="What LoRA adapts, such as q_proj,v_proj.")
@click.option("--license", "license_", default="", metavar="ID", help="Under which license it is, for the tags.")
def add(
    name: str,
    source: str,
    folder: Path | None,
    response_template: str,
    instruction_template: str,
    system_role: bool | None,
    lora_targets: str,
    license_: str,
) -> None:
    """Take a model into the local workspace's registry, under NAME.

    SOURCE is a folder as transformers saves it, with safetensors; a .gguf file; or an id on the Hugging Face Hub. What
    the options say is found out where they are left out. No code of the model is run. A server that runs has the model
    at once.

    \b
    phift local model add my-model ./checkpoint
    phift local model add my-model model.gguf --lora-targets q_proj,v_proj
    """
    added = LocalWorkspace(folder).add_model(
        name,
        source,
        response_template=response_template,
        instruction_template=instruction_template,
        system_role_supported=system_role,
        lora_targets=[each.strip() for each in lora_targets.split(",") if each.strip()],
        license=license_,
        on_event=lambda text: tell(f"  {text}"),
    )
    _tell(added)
    tell(f"Use it as `model: {added.name}`, or `model: {added.name}:{added.version}` for this version alone.")


@model.command(name="list")
@FOLDER
@_JSON
def list_(folder: Path | None, as_json: bool) -> None:
    """List the models of the local workspace's registry."""
    found = LocalWorkspace(folder).models()
    if as_json:
        hand_out(json.dumps([each.to_dict() for each in found], indent=2))
        return
    head = ("model", "version", "parameters", "architecture", "added on")
    tell(visible_columns(head, map(_row, found)), lines=True)


def _row(found: LocalModel) -> tuple[str, ...]:
    if found.stand_in:
        return found.name, found.version, "", "a stand-in: small, random weights", ""
    return found.name, found.version, f"{found.parameters:,}", found.architecture, found.added_on


@model.command()
@click.argument("name", metavar="NAME[:VERSION]")
@FOLDER
@_JSON
def show(name: str, folder: Path | None, as_json: bool) -> None:
    """Show what there is to know of a model, and what of a conversation is trained on."""
    found = LocalWorkspace(folder).model(name)
    if as_json:
        hand_out(json.dumps(found.to_dict(), indent=2))
    else:
        _tell(found)


@model.command()
@click.argument("name", metavar="NAME[:VERSION]")
@FOLDER
def remove(name: str, folder: Path | None) -> None:
    """Delete a model that was added, all its versions or one.

    It is refused while a deployment serves it or a job needs it.
    """
    removed, jobs = LocalWorkspace(folder).remove_model(name)
    for each in removed:
        tell(f"removed {each.name}, version {each.version}")
    for job in jobs:
        tell(f"was trained from it, and stays: {job}")


def _tell(found: LocalModel) -> None:
    said = {"model": f"{found.name}, version {found.version}", "id": found.id}
    if found.stand_in:
        said["weights"] = "a stand-in of phift's: small and random; `phift local model add` takes real ones"
    else:
        system = "taken" if found.system_role_supported else "not taken: its text goes in front of the first question"
        said |= {
            "source": f"{found.source}, on {found.added_on}",
            "architecture": f"{found.architecture}, {found.parameters:,} parameters, {found.context:,} tokens at most",
            "size": f"{found.size / 1e6:,.0f} MB here; {found.dtype} in its source",
            "license": found.license or "not said",
            "answers begin at": repr(found.response_template),
            "questions begin at": repr(found.instruction_template),
            "system messages": system,
            "LoRA adapts": ", ".join(found.lora_targets),
        }
    for what, text in said.items():
        tell(f"{what:18}  {text}")
    for text, trained in found.example:
        tell(f"{'trained on' if trained else 'not trained on':18}  {text!r}")
