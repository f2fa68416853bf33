"""The user's own models in the registry of a local workspace: added, listed, removed.

A model is read by a process of its own (`phift.local.work.adding`), which is ended where a part of the work takes too
long, and whose memory is limited. It writes into a folder beside the model's place, which is then renamed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phift.errors import LocalWorkspaceError, ModelError, NotFound
from phift.local.model import catalog, runs
from phift.local.programs import TOO_LARGE, Command
from phift.local.state.documents import Documents, Json
from phift.local.state.folder import Folder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_BUILDING = ".building-"
_LAST = "last"  # the highest version that a name has ever had: none is given twice
_ELSE = "it may be broken or hostile: use another one"
_STARTS = 120.0  # seconds until the process says what it is at; on a busy machine its libraries take long


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A model in the registry of a local workspace.

    - **id**: its id in the registry, as the wire and the SDK have it.
    - **stand_in**: whether its weights are small and random, made by phift under a foundation model's name; then the
      rest is empty.
    - **parameters**: how many there are; an embedding that is input and output counts once.
    - **dtype**: in what the source has its weights.
    - **size**: bytes of its files.
    - **response_template**, **instruction_template**: what opens an assistant's and a user's turn. What stands between
      the first and the second is trained on.
    - **system_role_supported**: where False, a system message moves into the first user message.
    - **lora_targets**: the layers that LoRA adapts.
    - **example**: a conversation as the model sees it, each part with whether it is trained on.
    - **content**: a hash of what it was made from; equal content is not added twice.
    """

    name: str
    version: str
    id: str
    stand_in: bool = False
    source: str = ""
    added_on: str = ""
    architecture: str = ""
    parameters: int = 0
    dtype: str = ""
    size: int = 0
    context: int = 0
    license: str = ""
    response_template: str = ""
    instruction_template: str = ""
    system_role_supported: bool = True
    lora_targets: tuple[str, ...] = ()
    example: tuple[tuple[str, bool], ...] = field(default=(), repr=False)
    content: str = field(default="", repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def _shown(model: Json) -> LocalModel:
    added = dict(model.get("added") or {})
    return LocalModel(
        name=model["name"],
        version=model["version"],
        id=catalog.asset_id("models", model["name"], model["version"]),
        stand_in="added" not in model,
        lora_targets=tuple(added.pop("lora_targets", ())),
        example=tuple((text, trained) for text, trained in added.pop("example", ())),
        **added,
    )


def listed(folder: Folder) -> list[LocalModel]:
    """Return all models of the registry; those of one name lie together, the newest version first."""
    return [_shown(model) for model in catalog.models(folder)]


def found(folder: Folder, name: str) -> LocalModel:
    """Return a model by its name, or ``name:version``; raises `phift.errors.NotFound`."""
    return _versions(listed(folder), name)[0]


def _versions(models: list[LocalModel], named: str) -> list[LocalModel]:
    name, colon, version = named.partition(":")
    there = [each for each in models if each.name.lower() == name.lower() and (not colon or version == each.version)]
    if not there:
        names = ", ".join(dict.fromkeys(each.name for each in models))
        raise NotFound(f"There is no model {named}.", where="the local registry", fix=f"name one of {names}")
    return there


def check_name(name: str) -> None:
    """Refuse a name that no model can have, or that a foundation model has."""
    if not _NAME.fullmatch(name):
        what = f"{name!r} is no name of a model."
        fix = "use letters, digits, dots, dashes and underscores, a letter or digit first, 255 at most"
        raise ModelError(what, where="name", fix=fix)
    if any(each["name"].lower() == name.lower() for each in catalog.foundation_models()):
        what = f"{name} is the name of a model that the local registry has, with a stand-in for its weights."
        raise ModelError(what, where="name", fix=f"give another name, such as my-{name}")


def add(
    folder: Folder,
    program: Command,
    name: str,
    source: str | Path,
    given: Mapping[str, Any],
    say: Callable[[str], None],
) -> LocalModel:
    """Read a model, and make it the next version of its name, unless there is one of the same content.

    - **given**: what is not to be found, see `phift.local.LocalWorkspace.add_model`.
    """
    path = Path(source).expanduser()
    hub = isinstance(source, str) and not path.exists() and bool(_HUB_ID.fullmatch(source))
    with ExitStack() as work:
        with folder.starting():
            place = work.enter_context(_building(folder))
        there = [each for each in catalog.added_models(folder) if each["name"].lower() == name.lower()]
        known = {each["added"]["content"]: each["version"] for each in there}
        asked = {
            "source": str(source) if hub else str(path.absolute()),
            "hub": hub,
            "folder": str(place),
            "name": name,
            "known": known,
            **given,
        }
        about = _build(program, asked, say)
        if same := about.get("same"):
            say(f"this very model is there already, as version {same}: nothing has changed")
            return found(folder, f"{name}:{same}")
        with folder.starting():
            return _publish(folder, name, place, about)


@contextmanager
def _building(folder: Folder) -> Iterator[Path]:
    """Make a folder to build or remove a model in, which is gone at the end, or at the next call if this one is killed.

    Its maker holds a lock on it. Nobody else may make one meanwhile: until it is locked it looks left over.
    """
    folder.added.mkdir(parents=True, exist_ok=True)
    for left in folder.added.glob(f"{_BUILDING}*"):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left, ignore_errors=True)
    making = tempfile.TemporaryDirectory(dir=folder.added, prefix=_BUILDING, ignore_cleanup_errors=True)
    with making as path, _locked(Path(path)):
        yield Path(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a folder; raises `BlockingIOError` where somebody else has it locked."""
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def _build(program: Command, asked: Mapping[str, Any], say: Callable[[str], None]) -> Json:
    """Have a process read a source and write a model; returns what it says of it.

    Raises `phift.errors.ModelError` with what it refuses, or where it takes too long or ends.
    """
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(  # noqa: S603 - our own program
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            return _spoken(process, asked, say, log)
        finally:  # also at Ctrl-C, which does not reach it
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _spoken(process: subprocess.Popen[bytes], asked: Mapping[str, Any], say: Callable[[str], None], log: Any) -> Json:
    if process.stdin is None or process.stdout is None:
        raise AssertionError  # they are pipes
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(dict(asked)).encode() + b"\n")
        process.stdin.flush()
    doing, patience, source = "its libraries", _STARTS, str(asked["source"])
    half = b""
    while select.select([process.stdout], [], [], patience)[0]:
        read = os.read(process.stdout.fileno(), 1 << 16)
        if not read:
            code = process.wait(10)
            if code == TOO_LARGE:
                what = f"The model wants more memory than its size allows for, at {doing}."
                raise ModelError(what, where=source, fix=_ELSE)
            log.seek(0)
            last = log.read()[-2000:].decode(errors="replace").strip().rpartition("\n")[2]
            what = f"The process that reads the model ended (exit code {code}) while it was at {doing}. {last}"
            raise ModelError(what.rstrip(), where=source, fix=_ELSE)
        *lines, half = (half + read).split(b"\n")
        for event in map(json.loads, lines):
            if refused := event.get("refused"):
                raise ModelError(refused["what"], where=refused["where"] or source, fix=refused["fix"])
            if "done" in event:
                return dict(event["done"])
            doing, patience = event.get("doing", doing), event.get("seconds", patience)
            if "say" in event:
                say(event["say"])
    what = f"Reading the model was stopped: {doing} took more than {patience:.0f} s."
    raise ModelError(what, where=source, fix=_ELSE)


def _publish(folder: Folder, name: str, built: Path, about: Json) -> LocalModel:
    """Move a model that is whole to its place, as the next version of its name, or as the first one.

    Nobody else may publish meanwhile. Versions are never changed, nor is the number of one that was removed given
    again, as in a registry of Azure's: an asset's version there is immutable, and a new one gets the next number
    (Microsoft Learn, "Share models, components, and environments across workspaces with registries", read 2026-11).
    """
    there = [each for each in catalog.added_models(folder) if each["name"].lower() == name.lower()]
    for each in there:
        if each["added"]["content"] == about["added"]["content"]:  # another process was faster
            return _shown(each)
    name = there[0]["name"] if there else name
    place = folder.added / name
    place.mkdir(exist_ok=True)
    last = 0
    with suppress(OSError, ValueError):
        last = int((place / _LAST).read_text(encoding="ascii"))
    version = 1 + max([last, *(int(each["version"]) for each in there)])
    now = datetime.now(UTC).date().isoformat()
    added = {**about["added"], "added_on": now}
    whole = {**about, "name": name, "version": str(version), "created": now, "added": added}
    (built / catalog.ABOUT).write_text(json.dumps(whole, indent=1), encoding="utf-8")
    (place / _LAST).write_text(str(version), encoding="ascii")
    built.rename(place / str(version))
    return _shown(whole)


def remove(folder: Folder, named: str, documents: Documents | None) -> tuple[list[LocalModel], list[str]]:
    """Delete the versions of a model, or one, ``name:version``; returns them, and the jobs that were trained from them.

    Raises `phift.errors.LocalWorkspaceError` where a deployment serves one of them or a job is not over that needs it,
    and `phift.errors.NotFound`.
    """
    models = _versions(listed(folder), named)
    if models[0].stand_in:
        what = f"{models[0].name} is one of the local registry's own models."
        raise LocalWorkspaceError(what, where="name", fix="it cannot be removed")
    ids = {each.id.lower() for each in models}
    uses = list(_uses(documents, ids)) if documents else []
    if needing := [what for what, over in uses if not over]:
        what = f"{named} is in use: {', '.join(needing)}."
        raise LocalWorkspaceError(
            what, where=named, fix="delete those deployments, and let those jobs end or cancel them"
        )
    for each in models:
        with _building(folder) as gone:
            (folder.added / each.name / each.version).rename(gone / "model")
    return models, [what for what, _ in uses]


def _uses(documents: Documents, ids: set[str]) -> Iterator[tuple[str, bool]]:
    """Yield what uses a model, each with whether it can do without it now."""
    for endpoint in documents.walk("onlineEndpoints"):
        for deployment in documents.walk(f"{endpoint.key}/deployments"):
            if str(deployment.body["properties"].get("model")).lower() in ids:
                yield f"deployment {deployment.name} of endpoint {endpoint.name}", False
    for job in documents.walk("jobs"):
        plan = job.body.get("plan") or {}
        if str((plan.get("inputs") or {}).get("mlflow_model_path")).lower() in ids:
            run = documents.get(f"runs/{job.name}")
            status = str(run.body["status"]) if run else "gone"
            yield f"job {job.name} ({status})", status in (*runs.ENDED, "gone")
