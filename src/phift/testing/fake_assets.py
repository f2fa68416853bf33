"""Models, data assets and components of `phift.testing.fake`: versioned, and what they point to never changes."""

from __future__ import annotations

import copy
import hashlib
import re
import shutil
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from azure.ai.ml.entities import Data, Model
from azure.ai.ml.exceptions import ErrorTarget, MlException, ValidationException
from azure.ai.ml.operations import ComponentOperations, DataOperations, ModelOperations

from phift.testing.fake_jobs import Jobs
from phift.testing.fake_service import Record, in_view, made_now, not_covered, not_found, service_error

_ENTITIES = {"models": Model, "data": Data}
_JOB_OUTPUT = re.compile(r"azureml:/+jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+).*", re.IGNORECASE)
_SHORT = re.compile(r"azureml:/+(?P<place>datastores/.+)", re.IGNORECASE)


class Versions:
    """The assets of one kind, ``models``, ``data`` or ``components``, of a workspace or a registry.

    - **known**: by name and version, oldest first.
    - **archived**: names and versions; the version is None where the whole asset is archived.
    - **contents**: the local file or folder that a version was registered from.
    """

    def __init__(self, record: Record, kind: str, owner: str, jobs: Jobs, *, registry: bool) -> None:
        self._record, self._kind, self._owner, self._jobs, self._registry = record, kind, owner, jobs, registry
        self.known: dict[tuple[str, str], Any] = {}
        self.archived: set[tuple[str, str | None]] = set()
        self.contents: dict[tuple[str, str], Path] = {}

    def get(self, name: str, version: str | None, label: str | None) -> Any:
        """Return an asset by its version, or by the label ``latest``: the one created last."""
        self._record(f"{self._kind}.get", name, version or f"@{label}")
        if bool(version) == bool(label):
            raise self._invalid("Must provide either version or label.")
        if label:
            return copy.deepcopy(self.known[name, self._latest(name, label)])
        found = self.known.get((name, str(version)))
        if found is None:
            raise not_found(self._kind, f"{name}:{version}")
        return copy.deepcopy(found)

    def _latest(self, name: str, label: str) -> str:
        versions = self._versions(name)
        if label != "latest" or not versions:
            # For a model of a workspace the service answers 404, and for one of a registry with an empty list (recorded
            # traffic of the SDK's tests, azure-sdk-assets, test_model, 2026-03 and 2024-05); the SDK (1.35.2) makes an
            # error of its own of the list, and of data's 404.
            if label == "latest" and self._kind == "models" and not self._registry:
                raise service_error(404, f"Model container with name: {name} not found.")
            raise self._invalid(f"Asset {name} does not exist.")
        return versions[-1]

    def _versions(self, name: str) -> list[str]:
        return [version for known, version in self.known if known == name]

    def _invalid(self, message: str) -> MlException:
        # The SDK (1.35.2) puts data's own checks into advice that is an `MlException`.
        kind = MlException if self._kind == "data" else ValidationException
        return kind(message=message, no_personal_data_message=message, target=ErrorTarget.ASSET)

    def shown(self, name: str | None, list_view_type: Any) -> Iterator[Any]:
        """Return an asset's versions, newest first; without a name one entry for each asset, without a version."""
        self._record(f"{self._kind}.list", name or "")
        wanted = in_view(list_view_type)
        if name is None:
            names = dict.fromkeys(key[0] for key in self.known)
            return iter([self._container(each) for each in names if ((each, None) in self.archived) in wanted])
        if not self._versions(name) and not self._registry:
            raise not_found(self._kind, name)
        keys = [(name, version) for version in reversed(self._versions(name))]
        return iter([copy.deepcopy(self.known[key]) for key in keys if (key in self.archived) in wanted])

    def _container(self, name: str) -> Any:
        shown = _ENTITIES[self._kind](name=name)
        shown.latest_version = self._versions(name)[-1]
        return shown

    def register(self, asset: Any) -> Any:
        """Register an asset; of one that is there, tags and description change, and its path never does.

        A local file is hashed and goes nowhere. Without a version, the next number is taken.
        """
        version = str(asset.version or self._next(asset.name))
        self._record(f"{self._kind}.create_or_update", asset.name, version)
        path = self._stored(asset)
        previous = self.known.get((asset.name, version))
        if previous is None:
            self.known[asset.name, version] = self._made(asset, version, path)
            self.contents[asset.name, version] = Path(asset.path)
            return copy.deepcopy(self.known[asset.name, version])
        if previous.path != path:
            raise service_error(400, "Asset paths cannot be updated.")
        previous.tags, previous.description = dict(asset.tags or {}), asset.description
        return copy.deepcopy(previous)

    def _next(self, name: str) -> str:
        return str(max((int(version) for version in self._versions(name) if version.isdigit()), default=0) + 1)

    def _made(self, asset: Any, version: str, path: str) -> Any:
        made = copy.deepcopy(asset)
        made.version, made._path, made._auto_increment_version = version, path, False
        made._id = f"{self._owner}/{self._kind}/{asset.name}/versions/{version}"
        made._creation_context = made_now()
        made.tags = dict(asset.tags or {})
        if job := _JOB_OUTPUT.fullmatch(str(asset.path)):
            made.job_name = job["job"]
        return made

    def _stored(self, asset: Any) -> str:
        """Return where an asset lies once it is registered, in the service's long form."""
        path = str(asset.path)
        workspace = "azureml:/" + self._owner.replace("/providers/Microsoft.MachineLearningServices", "")
        if found := _JOB_OUTPUT.fullmatch(path):
            self._jobs.check_output(found["job"])
            return f"{workspace}/datastores/workspaceblobstore/paths/azureml/{found['job']}/{found['output']}/"
        if found := _SHORT.fullmatch(path):
            return f"{workspace}/{found['place']}"
        if re.match(r"[a-z]+:", path):
            return path
        local = Path(path)
        if not local.exists():
            raise self._invalid(f"There is no such file or directory: {path}")
        return f"{workspace}/datastores/workspaceblobstore/paths/LocalUpload/{_hash(local)}/{local.name}"

    def download(self, name: str, version: str, folder: str | PathLike[str]) -> None:
        """Copy what a version was registered from to ``<folder>/<name>``."""
        self._record(f"{self._kind}.download", name, version)
        if (name, version) not in self.known:
            raise not_found(self._kind, f"{name}:{version}")
        source = self.contents.get((name, version))
        if source is None or not source.exists():
            raise NotImplementedError("FakeMLClient downloads only what was registered from a local file or folder.")
        place = Path(folder) / name
        if source.is_dir():
            shutil.copytree(source, place / source.name, dirs_exist_ok=True)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)

    def archive(self, name: str, version: str | None, label: str | None) -> None:
        """Leave a version, or without one the whole asset, out of lists; it can still be had by its version."""
        self._record(f"{self._kind}.archive", name, version or f"@{label}")
        self.archived.add(self._key(name, version, label))

    def restore(self, name: str, version: str | None, label: str | None) -> None:
        """Take back an archiving."""
        self._record(f"{self._kind}.restore", name, version or f"@{label}")
        self.archived.discard(self._key(name, version, label))

    def _key(self, name: str, version: str | None, label: str | None) -> tuple[str, str | None]:
        version = self._latest(name, label) if label else version
        if not self._versions(name) or (version and (name, version) not in self.known):
            raise not_found(self._kind, f"{name}:{version}" if version else name)
        return name, version


class Models:
    """Models; ``known`` holds them by name and version."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self.known, self.archived, self.contents = versions.known, versions.archived, versions.contents

    def __getattr__(self, name: str) -> Any:
        """Stand for the SDK's other operations."""
        return not_covered(ModelOperations, "models", name)

    def add(self, asset: Any) -> Any:
        """Store a model as it is, for the start of a test."""
        self.known[asset.name, str(asset.version)] = asset
        return asset

    def get(self, name: str, version: str | None = None, label: str | None = None) -> Any:
        """Return a model by its version, or by the label ``latest``: the one created last."""
        return self._versions.get(name, version, label)

    def list(
        self, name: str | None = None, stage: str | None = None, *, list_view_type: Any = "ActiveOnly"
    ) -> Iterator[Any]:
        """Return the versions, newest first; without a name one entry for each model, without a version."""
        if stage is not None:
            raise NotImplementedError("FakeMLClient does not cover models.list by stage.")
        return self._versions.shown(name, list_view_type)

    def create_or_update(self, model: Any) -> Any:
        """Register a model; of one that is there, tags and description change, and its path never does."""
        return self._versions.register(model)

    def download(self, name: str, version: str, download_path: str | PathLike[str] = ".") -> None:
        """Copy what a model was registered from to ``<download_path>/<name>``; see ``contents``."""
        self._versions.download(name, version, download_path)

    def archive(self, name: str, version: str | None = None, label: str | None = None) -> None:
        """Leave a version, or without one the whole model, out of lists; it can still be had by its version."""
        self._versions.archive(name, version, label)

    def restore(self, name: str, version: str | None = None, label: str | None = None) -> None:
        """Take back an archiving."""
        self._versions.restore(name, version, label)


class DataAssets:
    """Data assets; ``known`` holds them by name and version."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self.known, self.archived, self.contents = versions.known, versions.archived, versions.contents

    def __getattr__(self, name: str) -> Any:
        """Stand for the SDK's other operations."""
        return not_covered(DataOperations, "data", name)

    def add(self, asset: Any) -> Any:
        """Store a data asset as it is, for the start of a test."""
        self.known[asset.name, str(asset.version)] = asset
        return asset

    def get(self, name: str, version: str | None = None, label: str | None = None) -> Any:
        """Return a data asset by its version, or by the label ``latest``: the one created last."""
        return self._versions.get(name, version, label)

    def list(self, name: str | None = None, *, list_view_type: Any = "ActiveOnly") -> Iterator[Any]:
        """Return the versions, newest first; without a name one entry for each data asset, without a version."""
        return self._versions.shown(name, list_view_type)

    def create_or_update(self, data: Any) -> Any:
        """Register a data asset; of one that is there, tags and description change, and its path never does."""
        return self._versions.register(data)

    def archive(self, name: str, version: str | None = None, label: str | None = None) -> None:
        """Leave a version, or without one the whole data asset, out of lists; it can still be had by its version."""
        self._versions.archive(name, version, label)

    def restore(self, name: str, version: str | None = None, label: str | None = None) -> None:
        """Take back an archiving."""
        self._versions.restore(name, version, label)


class Components:
    """Components; ``known`` holds them by name and version."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self.known, self.archived, self.contents = versions.known, versions.archived, versions.contents

    def __getattr__(self, name: str) -> Any:
        """Stand for the SDK's other operations."""
        return not_covered(ComponentOperations, "components", name)

    def add(self, asset: Any) -> Any:
        """Store a component as it is, for the start of a test."""
        self.known[asset.name, str(asset.version)] = asset
        return asset

    def get(self, name: str, version: str | None = None, label: str | None = None) -> Any:
        """Return a component by its version, or by the label ``latest``: the one created last."""
        return self._versions.get(name, version, label)


def _hash(path: Path) -> str:
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(str(file.relative_to(path)).encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()
