"""Preparing the data on a cluster: the job's first step, which runs the code that prepares data on this machine.

For data that should not pass through here. What is uploaded is this package's own source, so the step and this machine
do the same; its environment has the versions that are installed here. Unverified on Azure.

- Here: `find_preparation` looks up what is to be prepared, `preparation_step` is the step in the pipeline.
- There: ``python -m phift.data.on_cluster`` reads the step's inputs and writes its outputs. Its log has no row's text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from phift.check.findings import Finding
from phift.component.preprocessing import SPLITS
from phift.config.data import AssetSource, DataConfig, HuggingFaceSource
from phift.data import files
from phift.data.prepare import Progress, prepare_dataset
from phift.errors import ConfigError, DataError, NotFound, PhiftError, azure_errors

if TYPE_CHECKING:
    from azure.ai.ml.entities import Command

    from phift.azure.clients import Clients
    from phift.data.assets import DataInput

STEP = "prepare_data"
"""The step's name in the job."""

REPORT = "report"
"""The step's output, and the job's, with ``manifest.json`` and, where rows were set aside, ``rejects.jsonl``."""

IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04"
"""Azure ML's public base image for CPUs (azure-sdk-for-python, tests of azure-ai-ml 1.35; read 2026-11-22)."""

PACKAGES = ("filelock", "msgspec", "numpy", "pyarrow", "pydantic", "xxhash")
"""What the step imports; for a data set of the Hub, ``datasets`` besides."""

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, kw_only=True)
class DataOnCluster:
    """Chat data that the job's first step prepares; nothing of it is read before.

    - **compute**: the cluster that does it.
    - **inputs**: what lies in Azure, by the name of the step's input.
    - **settings**: sources, split and policy as plain values, with the inputs' names in place of files.
    - **name**: the training data's name, for display.
    - **findings**: what the look-ups found.
    """

    compute: str
    inputs: Mapping[str, DataInput]
    settings: Mapping[str, Any]
    name: str
    findings: tuple[Finding, ...] = ()

    @property
    def content_hash(self) -> str:
        """SHA-256 over addresses and settings, since the content is not read."""
        addresses = {name: given.address for name, given in self.inputs.items()}
        return hashlib.sha256(json.dumps([addresses, self.settings], sort_keys=True).encode()).hexdigest()


def find_preparation(clients: Clients, data: DataConfig, new_cluster: str | None = None) -> DataOnCluster:
    """Look up the data and the cluster that prepares it; nothing is downloaded.

    - **new_cluster**: one that need not be there yet.

    Raises `phift.errors.ConfigError` for files and rows of this machine, `phift.errors.NotFound` where an asset is not
    there, and `phift.errors.DataError` where one cannot be read.
    """
    inputs: dict[str, DataInput] = {}
    loose: list[str] = []  # data sets of the Hub that are not pinned to a revision
    settings: dict[str, Any] = data.model_dump(mode="json", include={"split", "bad_rows"})
    for split, sources in data.sources.items():
        settings[split] = []
        for number, source in enumerate(sources, start=1):
            place = f"data.{split}"
            if isinstance(source, AssetSource):
                name = f"{split}_{number}"
                inputs[name] = _find_input(clients, place, source.asset)
                told = {"files": name, **source.model_dump(mode="json", exclude={"asset"})}
            elif isinstance(source, HuggingFaceSource) and not os.path.isdir(source.huggingface):  # noqa: PTH112 - Path.is_dir raises where an id cannot be a path
                told = source.model_dump(mode="json")
                loose += [] if source.revision else [source.huggingface]
            else:
                what = "A cluster cannot read files or rows of this machine."
                upload = "upload the data first: `az ml data create`, then `azureml:<name>:<version>`"
                raise ConfigError(what, where=place, fix=f"leave `prepare_on` out, or {upload}")
            settings[split].append(told)
    first = settings["train"][0]
    name = first.get("huggingface") or inputs[first["files"]].name
    message = (
        "The rows are read by the job's first step: what is wrong with them, and what training on them takes, is not "
        "known before. If what lies there changes, the same run is still taken for done."
    )
    fix = f"pin {', '.join(loose)} with `revision`" if loose else "`submit(fresh=True)` trains on changed data"
    findings = [Finding("DATA_PREPARED_ON_CLUSTER", "note", "data", message, fix)]
    compute = data.prepare_on or ""
    if compute != new_cluster:
        try:
            with azure_errors(f"compute {compute}"):
                clients.workspace.compute.get(compute)
        except NotFound:
            message = f"There is no compute {compute} to prepare the data on."
            fix = "name a cluster that is there, or make one: `az ml compute create --type amlcompute`"
            findings.append(Finding("COMPUTE_PREPARE_MISSING", "error", "data.prepare_on", message, fix))
    return DataOnCluster(compute=compute, inputs=inputs, settings=settings, name=name, findings=tuple(findings))


def _find_input(clients: Clients, place: str, address: str) -> DataInput:
    from phift.data.assets import find_asset, name_findings

    found, path = find_asset(clients, place, address)
    if not found.version and (address.endswith("/") or not path.suffix):
        return replace(found, type="uri_folder")
    if found.type not in ("uri_file", "uri_folder"):
        what = f"The data asset {found.name} is of type {found.type or 'unknown'}; a file or a folder can be prepared."
        raise DataError(what, where=place, fix="register the files as an asset of type uri_file or uri_folder")
    # A folder is mounted under a name of its own, a file under the one that it has.
    if found.type == "uri_file" and path != PurePosixPath():
        for finding in name_findings(place, path):
            raise DataError(finding.message, where=place, fix=finding.fix)
        try:
            files.kind(Path(path))
        except DataError as error:
            error.where, error.fix = place, f"{error.fix}; the address of a folder ends with a slash"
            raise
    return found


# ---------------------------------------------------------------- the step, as the pipeline has it


def command_line(inputs: Iterable[str]) -> str:
    """Return the step's command for data inputs of these names."""
    # In single quotes, as in the registry's own components: a file's name may have blanks.
    data = "".join(f" --data {name} '${{{{inputs.{name}}}}}'" for name in inputs)
    written = "".join(f" --{name} '${{{{outputs.{name}}}}}'" for name in (*SPLITS, REPORT))
    return f"python -m phift.data.on_cluster --settings ${{{{inputs.settings}}}}{data}{written}"


def step_inputs(data: DataOnCluster) -> dict[str, Any]:
    """Return the step's inputs: its settings as text, and what lies in Azure."""
    from azure.ai.ml import Input

    # The settings are percent-encoded, so that no shell finds anything to expand or to quote.
    settings = quote(_json(data.settings), safe=",:")
    places = {name: Input(type=found.type, path=found.address) for name, found in data.inputs.items()}
    return {"settings": settings, **places}


def preparation_step(data: DataOnCluster, code: Path) -> Command:
    """Return the step, a node for a pipeline job that calls it `STEP` and has an output `REPORT`.

    - **code**: a folder from `source_code`, which must be there until the job is submitted.
    """
    from azure.ai.ml import Output
    from azure.ai.ml.entities import Command, CommandComponent, Environment

    hub = [source for split in SPLITS for source in data.settings.get(split, []) if "huggingface" in source]
    packages = [f"{name}=={version(name)}" for name in (*PACKAGES, *(["datasets"] if hub else []))]
    python = f"python={sys.version_info.major}.{sys.version_info.minor}"
    conda = {"name": "phift", "channels": ["conda-forge"], "dependencies": [python, "pip", {"pip": packages}]}
    content = hashlib.sha256(_json([IMAGE, conda]).encode()).hexdigest()[:16]  # what is in it names its version
    told = "What phift needs to prepare chat data."
    environment = Environment(
        name="phift-preparation", version=content, image=IMAGE, conda_file=conda, description=told
    )
    # Azure takes the outputs of an equal step run before, which is right only while the data cannot have changed.
    fixed = [*(source["revision"] for source in hub), *(found.version for found in data.inputs.values())]
    kinds = {name: {"type": found.type} for name, found in data.inputs.items()}
    component = CommandComponent(
        name=STEP,
        display_name=STEP,
        code=str(code),
        command=command_line(data.inputs),
        environment=environment,
        inputs={"settings": {"type": "string"}, **kinds},
        outputs={**{split: {"type": "uri_file"} for split in SPLITS}, REPORT: {"type": "uri_folder"}},
        is_deterministic=all(fixed),
    )
    # The component's preprocessing goes by a file's suffix, and an output has none by itself. `name` is
    # the step's; azureml-assets' benchmark tests name their files this way (read 2026-11-22).
    place = "azureml://datastores/workspaceblobstore/paths/azureml/${{name}}"
    written = {split: Output(type="uri_file", path=f"{place}/{split}.jsonl") for split in SPLITS}
    report = f"${{{{parent.outputs.{REPORT}}}}}"
    step = Command(component=component, inputs=step_inputs(data), outputs={**written, REPORT: report})
    step.name, step.compute = STEP, data.compute
    return step


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@contextmanager
def source_code() -> Iterator[Path]:
    """Give a folder with this package's source in it, without the local workspace."""
    with TemporaryDirectory(prefix="phift-") as folder:
        # The same name each time: it is part of what the SDK knows an uploaded folder by.
        code = Path(folder) / "phift-preparation"
        ignored = shutil.ignore_patterns("local", "__pycache__")
        shutil.copytree(Path(__file__).parents[1], code / "phift", ignore=ignored)
        yield code


# ---------------------------------------------------------------- the step, as it runs


def main(arguments: Sequence[str]) -> None:
    """Prepare what the arguments name; ends the process with a message and exit code 1 where that is refused."""
    parser = argparse.ArgumentParser(prog="phift.data.on_cluster", allow_abbrev=False)
    parser.add_argument("--settings", required=True)
    parser.add_argument("--data", nargs=2, action="append", default=[])
    for name in (*SPLITS, REPORT):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args(arguments)
    settings, places = json.loads(unquote(given.settings)), dict(given.data)
    for source in (source for split in SPLITS for source in settings.get(split, []) if "files" in source):
        source["files"] = places[source["files"]]
    said = time.monotonic()

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def say_progress(progress: Progress) -> None:
        nonlocal said
        if time.monotonic() - said >= _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say(f"{progress.stage}: {progress.source}, {progress.rows:,} rows")

    with TemporaryDirectory(prefix="phift-") as folder:
        try:
            dataset = prepare_dataset(DataConfig(**settings), Path(folder), on_progress=say_progress)
        except PhiftError as error:
            problems = error.problems if isinstance(error, DataError) else ()
            sys.exit("\n".join([str(error), *(f"  {place}: {reason}" for place, reason in problems)]))
        outputs = {path: getattr(given, split) for split, path in dataset.files.items()}
        for path in dataset.folder.iterdir():  # what is none of the three files belongs to the report
            written: Path = outputs.get(path, given.report / path.name)
            written.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, written)
    for finding in dataset.findings:
        say(str(finding))
    say(", ".join(f"{rows} {split}" for split, rows in dataset.rows.items()) + " rows written.")


if __name__ == "__main__":
    main(sys.argv[1:])
