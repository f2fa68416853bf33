"""Where the workspace's blobs lie, as files."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from phift.local.ground import Ground
from phift.local.names import ACCOUNT, ARTIFACTS, MODELS
from phift.local.state.documents import Json
from phift.local.state.folder import Folder, UnsafePath, confined
from phift.local.wire.errors import WireError

ROOT_LOG = "logs/azureml/executionlogs.txt"
STEP_LOG = "user_logs/std_log.txt"


def path_of(ground: Ground, container: str, name: str) -> Path:
    """Return the file behind a blob, or the folder behind a prefix; it need not be there."""
    base = ground.folder.registry if container == MODELS else ground.folder.blobs / "storage" / container
    try:
        return confined(base, name.rstrip("/"))
    except UnsafePath as error:
        message = "The requested URI does not represent a resource on the server."
        raise WireError(400, "InvalidUri", message) from error


def signed_url(ground: Ground, container: str, name: str) -> str:
    """Return a URL that reads one blob, as it is then, without a token."""
    signature = ground.identity.sas(f"{ACCOUNT}/{container}/{name}", "r", blob=True)
    return f"{ground.base_url}/{ACCOUNT}/{container}/{quote(name)}?{signature}"


def log_name(run: Json) -> str:
    """Return the blob name of a run's log, in the artifacts container."""
    return f"ExperimentRun/dcid.{run['runId']}/{STEP_LOG if run.get('parentRunId') else ROOT_LOG}"


def log_to_write(ground: Ground, run: Json) -> Path:
    """Return the file of a run's log, in a folder that is there."""
    path = path_of(ground, ARTIFACTS, log_name(run))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def clear_halves(folder: Folder) -> None:
    """Delete what a killed server was writing; blocks that are whole stay, since their upload may go on."""
    for half in (*folder.staging.glob("*"), *folder.staging.glob("blocks-*/*.*")):
        if half.is_file():
            half.unlink()
