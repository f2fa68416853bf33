"""The storage account's blobs, as plain files, what is known of each besides its content, and what refers to them.

A blob's name is a file's path, so a blob and a "folder" of the same name cannot both be there.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from stat import S_ISREG
from urllib.parse import quote

from phift.local.ground import Ground
from phift.local.model import catalog
from phift.local.names import ACCOUNT, ARTIFACT_STORE, ARTIFACTS, DATASTORES, MODELS, REGISTRY, WORKSPACE_ID
from phift.local.state.documents import Json
from phift.local.state.folder import Folder, UnsafePath, confined
from phift.local.wire import WireError, user_error

_LONGEST_NAME = 2048  # with its folder it has to be a path; at Azure 1,024 characters
_LONGEST_ADDRESS = 2 * _LONGEST_NAME  # characters; some of the patterns below take long over much longer ones
BYTES = "application/octet-stream"

_DATASTORE = re.compile(
    r"azureml:/+(?:subscriptions/[^/]+/resourcegroups/[^/]+/(?:providers/[^/]+/)?workspaces/[^/]+/)?"
    r"datastores/(?P<store>[^/]+)/paths/(?P<path>.+)",
    re.IGNORECASE,
)
_WORKSPACE_ASSET = re.compile(
    r"(?:azureml:)?/*subscriptions/.+/workspaces/[^/]+/(?P<kind>models|data)/(?P<name>[^/]+)/versions/(?P<version>[^/]+)",
    re.IGNORECASE,
)
_SHORT_ASSET = re.compile(r"azureml:(?P<name>[\w.-]+):(?P<version>[\w.-]+)")
_REGISTRY_MODEL = re.compile(
    r"azureml://registries/(?P<registry>[^/]+)/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.IGNORECASE
)
_JOB_OUTPUT = re.compile(
    r"azureml:/+(?:subscriptions/.+/workspaces/[^/]+/)?jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)"
    r"(?:/paths(?:/(?P<path>.*?))?)?/?",
    re.IGNORECASE,
)
# A run's artifact, as MLflow writes it and as its azureml plugin does; and one by its place in the artifact service.
_RUN_ARTIFACT = re.compile(r"runs:/+(?P<run>[^/]+)/(?P<path>.+?)/?")
_LONG_RUN_ARTIFACT = re.compile(r"azureml://(?:.+/)?experiments/[^/]+/runs/(?P<run>[^/]+)/artifacts/(?P<path>.+?)/?")
_ARTIFACT = re.compile(r"azureml://artifacts/(?P<path>[^/]+/[^/]+/.+?)/?")


@dataclass(frozen=True)
class Blob:
    """A blob that is there, as it is at one moment."""

    name: str
    path: Path
    size: int
    etag: str  # changes with the content and with the metadata; without quotes
    created: str  # as HTTP writes times
    written: float  # seconds since 1970
    kind: str
    md5: str | None  # of its content, in base64, where it is known
    metadata: dict[str, str]

    @property
    def modified(self) -> str:
        """When it was written, as HTTP writes times."""
        return formatdate(self.written, usegmt=True)


def path_of(ground: Ground, container: str, name: str) -> Path:
    """Return the file behind a blob, or the folder behind a prefix; it need not be there."""
    if not re.fullmatch(r"[a-z0-9-]{1,63}", container):
        raise WireError(400, "InvalidResourceName", "The specified resource name contains invalid characters.")
    if len(name.encode()) > _LONGEST_NAME:
        raise WireError(400, "InvalidUri", f"A blob's name has at most {_LONGEST_NAME} bytes here.")
    base = ground.folder.registry if container == MODELS else ground.folder.blobs / "storage" / container
    try:
        return confined(base, name.rstrip("/"))
    except UnsafePath as error:
        message = "The requested URI does not represent a resource on the server."
        raise WireError(400, "InvalidUri", message) from error


def signed_url(ground: Ground, container: str, name: str, permissions: str = "r") -> str:
    """Return a URL that reads one blob, as it is then, or does what else is permitted, without a token."""
    signature = ground.identity.sas(f"{ACCOUNT}/{container}/{name}", permissions, blob=True)
    return f"{ground.base_url}/{ACCOUNT}/{container}/{quote(name)}?{signature}"


def log_name(run: Json) -> str:
    """Return the blob name of a run's log, in the artifacts container."""
    log = "user_logs/std_log.txt" if run.get("parentRunId") else "logs/azureml/executionlogs.txt"
    return f"{artifacts_of(run['runId'])}/{log}"


def log_to_write(ground: Ground, run: Json) -> Path:
    """Return the file of a run's log, in a folder that is there.

    Note is taken of when it was made, since a blob that is appended to goes on having been made then.
    """
    name = log_name(run)
    path = path_of(ground, ARTIFACTS, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if ground.documents.get(_key(ARTIFACTS, name)) is None:
        ground.documents.put(_key(ARTIFACTS, name), {})
    return path


def clear_halves(folder: Folder) -> None:
    """Delete what a killed server was writing; blocks that are whole stay, since their upload may go on."""
    for half in (*folder.root.glob("*.tmp"), *folder.staging.glob("*"), *folder.staging.glob("blocks-*/*.*")):
        if half.is_file():
            half.unlink()


def find(ground: Ground, container: str, name: str) -> Blob | None:
    """Return a blob, or None where there is none."""
    path = path_of(ground, container, name)
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not S_ISREG(stat.st_mode):
        return None
    stored = ground.documents.get(_key(container, name))
    # What our own programs wrote is a file and no more.
    known = stored.body if stored else {}
    return Blob(
        name=name,
        path=path,
        size=stat.st_size,
        etag=f"0x{stat.st_mtime_ns:X}{stat.st_size:X}",
        created=formatdate(stored.created if stored else stat.st_mtime, usegmt=True),
        written=stat.st_mtime,
        kind=known.get("type", "text/plain; charset=utf-8" if path.suffix in (".txt", ".log") else BYTES),
        md5=known.get("md5"),
        metadata=known.get("metadata", {}),
    )


def write(ground: Ground, container: str, name: str, parts: Iterable[bytes], about: Json) -> None:
    """Write a blob beside its place and move it there, so that nobody ever reads half of one.

    With it goes what is known ``about`` it: type, md5, metadata. Raises `OSError` where a part of its name is a blob.
    """
    path = path_of(ground, container, name)
    ground.folder.staging.mkdir(exist_ok=True)
    temporary = ground.folder.staging / uuid.uuid4().hex
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        # First, or a server killed in between would leave new content that the old metadata calls complete.
        ground.documents.delete(_key(container, name))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    ground.documents.put(_key(container, name), about)


def set_metadata(ground: Ground, container: str, blob: Blob, metadata: dict[str, str]) -> None:
    """Replace a blob's metadata; it is another state of the blob then, with an ETag of its own."""
    about = {"type": blob.kind, "md5": blob.md5, "metadata": metadata}
    ground.documents.put(_key(container, blob.name), about)
    os.utime(blob.path)


def delete(ground: Ground, container: str, name: str) -> None:
    """Delete a blob and what is known of it."""
    path_of(ground, container, name).unlink(missing_ok=True)
    ground.documents.delete(_key(container, name))


def names(ground: Ground, container: str, prefix: str) -> list[str]:
    """Return the names that begin with a prefix, sorted."""
    root = path_of(ground, container, "x").parent
    # Only the folder that the prefix points into needs a walk.
    folder = prefix.rpartition("/")[0]
    start = path_of(ground, container, folder) if folder else root
    found = [(Path(place) / file).relative_to(root).as_posix() for place, _, files in os.walk(start) for file in files]
    return sorted(name for name in found if name.startswith(prefix))


def block_folder(ground: Ground, container: str, name: str) -> Path:
    """Return where the blocks of a blob lie until it is put together; the folder need not be there."""
    return ground.folder.staging / f"blocks-{hashlib.sha256(f'{container}/{name}'.encode()).hexdigest()}"


def block_file(ground: Ground, container: str, name: str, block: str) -> Path:
    """Return the file of one block; its id is the client's own base64, and the id's hash is a safe file name."""
    return block_folder(ground, container, name) / hashlib.sha256(block.encode()).hexdigest()


def write_block(ground: Ground, container: str, name: str, block: str, parts: Iterable[bytes]) -> None:
    """Keep a block until its blob is put together."""
    file = block_file(ground, container, name, block)
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    try:
        with half.open("wb") as written:
            written.writelines(parts)
        half.replace(file)
    finally:
        half.unlink(missing_ok=True)


def _key(container: str, name: str) -> str:
    # Document keys do not tell upper from lower case and blob names do, so the name goes in as a hash.
    return f"blobs/{hashlib.sha256(f'{container}/{name}'.encode()).hexdigest()}"


# ---------------------------------------------------------------- ids and ``azureml:`` addresses in, files out


def resolve(ground: Ground, reference: str) -> Path:
    """Return the file or folder that a reference means; raises a user error where there is none."""
    path = path_of(ground, *_address(ground, reference))
    if not path.exists():
        raise user_error(f"The asset {reference} does not exist: nothing is stored there.")
    return path


def place(ground: Ground, uri: str) -> Path:
    """Return the file or folder to write for an output's address; it need not be there."""
    if not _DATASTORE.fullmatch(uri):
        raise user_error(f"The output path {uri} is not in a datastore.")
    return path_of(ground, *_address(ground, uri))


def datastore_uri(store: str, path: str) -> str:
    """Return the long form of a datastore address, as job outputs and models show it."""
    workspace = WORKSPACE_ID.replace("/providers/Microsoft.MachineLearningServices", "")
    return f"azureml:/{workspace}/datastores/{store}/paths/{path}"


def normalized(ground: Ground, uri: str) -> tuple[str, str | None]:
    """Return a model's or data asset's address as it is stored, the long form, and the job whose output it is, if any.

    The service shows that, also where it was sent the short one (recorded traffic of the SDK's own tests:
    azure-sdk-assets, test_data_upload_file, 2026-03).
    """
    if len(uri) > _LONGEST_ADDRESS:
        raise user_error(f"An address has at most {_LONGEST_ADDRESS} characters here: {uri[:300]}...")
    if found := _JOB_OUTPUT.fullmatch(uri):
        return output_uri(ground, found["job"], found["output"], found["path"] or ""), found["job"]
    if found := _RUN_ARTIFACT.fullmatch(uri) or _LONG_RUN_ARTIFACT.fullmatch(uri):
        return _artifact_uri(ground, found["run"], found["path"]), found["run"]
    if found := _ARTIFACT.fullmatch(uri):
        return datastore_uri(ARTIFACT_STORE, found["path"]), None
    found = _DATASTORE.fullmatch(uri)
    return (datastore_uri(found["store"], found["path"]) if found else uri), None


def _address(ground: Ground, reference: str) -> tuple[str, str]:
    """Return the container and the name of the blob or folder that a reference means."""
    reference, _ = normalized(ground, reference)
    if found := _DATASTORE.fullmatch(reference):
        if found["store"] not in DATASTORES:
            raise user_error(f"The datastore {found['store']} was not found.")
        return DATASTORES[found["store"]], found["path"]
    if found := _REGISTRY_MODEL.fullmatch(reference):
        registry, name, version = found.groups()
        model = catalog.model(ground.folder, name, version)
        if registry.lower() != REGISTRY or model is None:
            raise user_error(f"The model {name} version {version} was not found in registry {registry}.")
        return MODELS, catalog.place(ground.folder, model).relative_to(ground.folder.registry).as_posix()
    if found := _WORKSPACE_ASSET.fullmatch(reference) or _SHORT_ASSET.fullmatch(reference):
        for kind in (found["kind"],) if "kind" in found.re.groupindex else ("data", "models"):
            if document := ground.documents.get(f"{kind}/{found['name']}/versions/{found['version']}"):
                properties = document.body["properties"]
                return _address(ground, str(properties.get("modelUri") or properties.get("dataUri") or ""))
        raise user_error(f"The asset {reference} was not found in this workspace.")
    raise user_error(f"The local workspace cannot read from {reference}: it has no such place.")


def output_uri(ground: Ground, job: str, output: str, path: str = "") -> str:
    """Return where a job's named output is stored; raises a user error where there is no such job or output.

    - **output**: ``artifacts`` is what the job's run keeps, where no output is called so (Microsoft Learn, "Manage
      models", read 2026-11).
    - **path**: inside of it.
    """
    run = ground.documents.get(f"runs/{job}")
    if run is None:
        raise user_error(f"The job {job} was not found.")
    outputs = run.body.get("outputs") or {}
    if output not in outputs and output == "artifacts":
        return _artifact_uri(ground, job, path)
    if output not in outputs:
        names = ", ".join(outputs) or "none yet"
        raise user_error(f"The job {job} has no output named {output}. Its outputs: {names}.")
    uri = str(outputs[output]["uri"])
    return f"{uri.rstrip('/')}/{path}" if path else uri


def artifacts_of(run: str) -> str:
    """Return the folder of what a run keeps, in the artifacts container."""
    return f"ExperimentRun/dcid.{run}"


def _artifact_uri(ground: Ground, run: str, path: str) -> str:
    """Return where a run keeps an artifact, or, where it keeps none there, where its output of that name is.

    The only output is the folder ``outputs`` too. That is this workspace's reading: what Azure does for a pipeline,
    whose outputs are no artifacts, is unverified.
    """
    found = ground.documents.get(f"runs/{run}")
    if found is None:
        raise user_error(f"The run {run} was not found.")
    name, outputs = f"{artifacts_of(run)}/{path}", found.body.get("outputs") or {}
    if not path_of(ground, ARTIFACTS, name).exists():
        output, _, rest = path.partition("/")
        if path.strip("/") == "outputs" and len(outputs) == 1:
            (output,) = outputs
        if output in outputs:
            return output_uri(ground, run, output, rest)
    return datastore_uri(ARTIFACT_STORE, name)
