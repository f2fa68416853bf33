"""Preparing the data on a cluster: the job's first step, which runs the code that prepares data on this machine.

For data that should not pass through here. What is uploaded is this package's own source, so the step and this machine
do the same; its environment has the versions that are installed here. Unverified on Azure.

- Here: `phift.data.assets` looks up what is to be prepared, `preparation_step` is the step in the pipeline.
- There: ``python -m phift.data.on_cluster`` reads the step's inputs and writes its outputs. Its log has no row's text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from phift.component.preprocessing import SPLITS
from phift.config.data import DataConfig
from phift.data.prepare import Progress, prepare_dataset
from phift.errors import DataError, PhiftError, visible

if TYPE_CHECKING:
    from azure.ai.ml.entities import Command

    from phift.data.assets import DataInAzure

STEP = "prepare_data"
"""The step's name in the job."""

REPORT = "report"
"""The step's output, and the job's, with ``manifest.json`` and, where rows were set aside, ``rejects.jsonl``."""

IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04"
"""Azure ML's public base image for CPUs (azure-sdk-for-python, tests of azure-ai-ml 1.35; read 2026-11-22)."""

PACKAGES = ("filelock", "msgspec", "numpy", "pyarrow", "pydantic", "xxhash")
"""What the step imports; for a data set of the Hub, ``datasets`` besides."""

_SECONDS_BETWEEN_LINES = 10.0


# ---------------------------------------------------------------- the step, as the pipeline has it


def command_line(inputs: Iterable[str]) -> str:
    """Return the step's command for data inputs of these names."""
    # In single quotes, as in the registry's own components: a file's name may have blanks.
    data = "".join(f" --data {name} '${{{{inputs.{name}}}}}'" for name in inputs)
    written = "".join(f" --{name} '${{{{outputs.{name}}}}}'" for name in (*SPLITS, REPORT))
    return f"python -m phift.data.on_cluster --settings ${{{{inputs.settings}}}}{data}{written}"


def step_inputs(data: DataInAzure) -> dict[str, Any]:
    """Return the step's inputs: its settings as text, and what lies in Azure."""
    from azure.ai.ml import Input

    # The settings are percent-encoded, so that no shell finds anything to expand or to quote.
    settings = quote(_json(data.settings), safe=",:")
    places = {name: Input(type=found.type, path=found.address) for name, found in data.inputs.items()}
    return {"settings": settings, **places}


def preparation_step(data: DataInAzure, code: Path) -> Command:
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

    def say_progress(progress: Progress) -> None:
        nonlocal said
        if time.monotonic() - said >= _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            source = visible(progress.source, lines=False)
            sys.stdout.write(f"{progress.stage}: {source}, {progress.rows:,} rows\n")
            sys.stdout.flush()

    with TemporaryDirectory(prefix="phift-") as folder:
        try:
            dataset = prepare_dataset(DataConfig(**settings), Path(folder), on_progress=say_progress)
        except PhiftError as error:
            problems = error.problems if isinstance(error, DataError) else ()
            sys.exit("\n".join([str(error), *(visible(f"  {place}: {reason}") for place, reason in problems)]))
        outputs = {path: getattr(given, split) for split, path in dataset.files.items()}
        for path in dataset.folder.iterdir():  # what is none of the three files belongs to the report
            written: Path = outputs.get(path, given.report / path.name)
            written.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, written)
    written_rows = ", ".join(f"{rows} {split}" for split, rows in dataset.rows.items())
    sys.stdout.write("\n".join([*map(str, dataset.findings), f"{written_rows} rows written.\n"]))


if __name__ == "__main__":
    main(sys.argv[1:])
