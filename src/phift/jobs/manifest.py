"""What a folder that was taken home says of itself: where its files come from, and what each of them is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phift.azure.answers import text, texts
from phift.errors import redact
from phift.jobs.kept import cleaned, read_kept
from phift.version import __version__

if TYPE_CHECKING:
    from azure.ai.ml.entities import PipelineJob

MANIFEST = "phift-manifest.json"

_REQUIREMENTS = "requirements.txt"  # what MLflow writes beside a model of what it was made with
_MOST_PACKAGES = 2_000


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a folder's manifest; one that is not there or cannot be read is empty."""
    try:
        read = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a folder's manifest, all of it or nothing."""
    half = folder / f".{MANIFEST}.half"
    half.write_text(json.dumps({"manifest": 1, **manifest}, indent=2) + "\n", encoding="utf-8")
    half.replace(folder / MANIFEST)


def about_job(job: PipelineJob | None, tags: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Return what a manifest says of the run that a job is of.

    - **job**: None where it is gone; then the tags are all that is known.
    - **tags**: the registered model's, or the job's own.
    - **folder**: the one with the files, for the packages that a trained model names.
    """
    kept = read_kept(texts(job.properties, "job.properties")) if job else {}
    known = cleaned({**tags, **(texts(job.tags, "job.tags") if job else {})})
    made = kept.get("versions") or {}
    return {
        "job": text(job.name, "job.name") if job else known.get("phift.job"),
        "fingerprint": known.get("phift.fingerprint"),
        "foundation_model": known.get("phift.base_model"),
        "component": known.get("phift.component"),
        "data": {"name": kept.get("data_name"), "hash": known.get("phift.data")},
        "configuration": kept.get("configuration") or {},
        "submitted_with": made,
        "downloaded_with": {"phift": __version__, "azure-ai-ml": version("azure-ai-ml")},
        "packages": _packages(folder),
    }


def _packages(folder: Path) -> list[str]:
    """Return what a trained model asks for to be opened; an index with a password in its address is not shown."""
    try:
        with (folder / _REQUIREMENTS).open(encoding="utf-8") as lines:
            return [redact(line.strip()) for line in islice(lines, _MOST_PACKAGES) if line.strip()]
    except (OSError, ValueError):
        return []
