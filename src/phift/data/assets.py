"""Data in Azure: the prepared files registered once, and what lies there already.

**Registered once.** Each prepared file becomes ``<name>-<split>`` in a version that is the first 16 digits of its
content's hash. One that is there is used, so the same data is uploaded once. A run that ends between the upload and the
registration leaves a file in the workspace's storage that the next run finds and registers; of two runs that upload
at the same time, the slower one finds what the faster one has registered.

**Used where it lies, or prepared by the job.** An asset's name, label and type are looked up; its rows are not read.
The job's first step, in which a cluster prepares what has to be, is in `phift.data.on_cluster`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from phift.azure.answers import json_object, listed, mapping, resource_id, text, texts
from phift.azure.clients import API, Clients, registry_address
from phift.azure.quiet import quiet_uploads
from phift.azure.threads import SideBySide
from phift.check.findings import Finding
from phift.component.preprocessing import SPLITS, SUFFIXES
from phift.config.addresses import PREFIX, Address, read_address, registry_id
from phift.config.data import AssetSource, DataConfig, HuggingFaceSource
from phift.data import files
from phift.data.prepare import PreparedDataset
from phift.errors import ConfigError, Conflict, DataError, NotFound, PhiftError, ServiceError, azure_errors, visible
from phift.version import __version__

if TYPE_CHECKING:
    from azure.ai.ml.entities import Data

_HASH = "phift.hash"  # the tag that says what a version holds
# What the component's preprocessing has a loader for, and how it splits.
_PREPROCESSING = "azureml-assets, finetune_acft_hf_nlp, src/preprocess/preprocess.py, 2026-07-23"


@dataclass(frozen=True, kw_only=True)
class DataInput:
    """What one data input of the job is given.

    - **name**, **version**: the asset's; a file in a datastore has no version.
    - **address**: its resource id, or its URI.
    - **type**: ``uri_file`` or ``mltable``, or what the component cannot take.
    - **existed**: whether it was there before.
    - **path**: a file's, in its datastore; empty where it is not known.
    """

    name: str
    address: str
    type: str = "uri_file"
    version: str = ""
    existed: bool = True
    path: str = field(default="", compare=False)

    def __str__(self) -> str:
        written = self.address if self.address.startswith(PREFIX) else f"azureml:{self.name}:{self.version}"
        return visible(written, lines=False)


@dataclass(frozen=True, kw_only=True)
class DataInAzure:
    """Chat data that is not read here: it is used as it lies in Azure, or the job's first step prepares it.

    - **name**: the training data's name, for display.
    - **inputs**: what lies in Azure, by its split, or by the name of the step's input.
    - **compute**: the cluster that prepares it, if one has to.
    - **settings**: what it does, as plain values: sources, with the inputs' names in place of files, split and policy.
    - **findings**: what the look-ups found.
    """

    name: str
    inputs: Mapping[str, DataInput]
    compute: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    @property
    def content_hash(self) -> str:
        """SHA-256 over addresses and settings, since the content is not read."""
        addresses = {name: given.address for name, given in self.inputs.items()}
        told = [addresses, self.settings] if self.compute else addresses
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def register_assets(
    clients: Clients, dataset: PreparedDataset, name: str, own_tags: Mapping[str, str] = MappingProxyType({})
) -> dict[str, DataInput]:
    """Return the data assets of the prepared files; what is not registered yet is uploaded and registered.

    - **name**: what the assets' names start with.
    - **own_tags**: the user's, for assets that are made.

    Raises `phift.errors.Conflict` where an asset of that name and version is not of this file.
    """
    futures = {}
    with SideBySide(len(SPLITS)) as side:
        for split, path in dataset.files.items():
            tags = {
                **own_tags,
                _HASH: dataset.hashes[split],
                "phift.rows": str(dataset.rows[split]),
                "phift.data": dataset.content_hash,
                "phift.version": __version__,
            }
            futures[split] = side.begin(_register, clients, path, asset_name(name, split), tags)
    return {split: future.result() for split, future in futures.items()}


def asset_name(name: str, split: str) -> str:
    """Return the name of a split's asset; data that is named after a split only, as ``train.jsonl``, has none."""
    return f"{'phift' if name in ('', *SPLITS) else name}-{split}"


def _register(clients: Clients, path: Path, name: str, tags: Mapping[str, str], attempts: int = 3) -> DataInput:
    """Return the asset of a file's content, registered if it was not yet; an archived one is restored."""
    from azure.ai.ml.entities import Data

    data, version = clients.workspace.data, tags[_HASH][:16]
    where, described = f"data asset {name}:{version}", "Chat data, prepared by phift."
    path = path.resolve()
    new = Data(name=name, version=version, type="uri_file", path=str(path), description=described, tags=dict(tags))
    try:
        with azure_errors(where):
            found = data.get(name, version=version)
    except NotFound:
        try:
            with quiet_uploads(), azure_errors(where):
                made = data.create_or_update(new)
        except Conflict:  # another run uploads this very file at this moment
            if attempts == 1:
                raise
            time.sleep(clients.poll_seconds)
            return _register(clients, path, name, tags, attempts - 1)
        return DataInput(name=name, version=version, address=resource_id(made.id, "data asset.id"), existed=False)
    theirs, kind = texts(found.tags, "data asset.tags"), text(found.type, "data asset.type")
    if theirs.get(_HASH) != tags[_HASH] or kind != "uri_file":
        what = f"The data asset's tag {_HASH} does not name this file's content, so it may hold something else."
        raise Conflict(what, where=where, fix="set `data.asset_name` to another name")
    with azure_errors(where):
        # The SDK's entity does not say whether it is archived.
        archived = listed(data.list(name, list_view_type="ArchivedOnly"), f"archived versions of {name}")
        if any(str(asset.version) == version for asset in archived):
            data.restore(name, version=version)
    return DataInput(name=name, version=version, address=resource_id(found.id, "data asset.id"))


def find_data(clients: Clients, data: DataConfig) -> DataInAzure:
    """Look the data up that lies in Azure; nothing is downloaded.

    Raises `phift.errors.NotFound` where an asset is not there and `phift.errors.DataError` where an address cannot be
    used, or where there are several mistakes.
    """
    sources = {split: source for split, (source,) in data.sources.items() if isinstance(source, AssetSource)}
    message = (
        "The rows lie in Azure and are not read here: rows that are broken, too long, double, or both in training and "
        "in test come to light in the job or never. If what lies there changes, the same run is still taken for done."
    )
    fix = "give files or a Hugging Face id to have every row checked; `submit(fresh=True)` trains on changed data"
    findings = [Finding("DATA_UNCHECKED", "note", "data", message, fix)]
    # What Azure's preprocessing makes of the training rows where a file is missing.
    if missing := tuple(split for split in ("validation", "test") if split not in sources):
        shares = {
            ("validation", "test"): "the first 80 % are trained on, the next 10 % validated on, and 10 % are not used",
            ("validation",): "the first 80 % are trained on, and the last 20 % are validated on",
            ("test",): "the first 80 % are trained on, and the last 20 % become a test set that no step uses",
        }[missing]
        message = f"Without {' and '.join(missing)} data, Azure splits the training rows by their position: {shares}."
        wanted = " and ".join(f"data.{split}" for split in missing)
        fix = f"give {wanted}; no step reads the test file, a small one will do"
        findings.append(Finding("DATA_SPLIT_BY_AZURE", "warning", "data.train", message, fix, _PREPROCESSING))
    with SideBySide(len(SPLITS)) as side:
        futures = {split: side.begin(_find, clients, f"data.{split}", each.asset) for split, each in sources.items()}
    errors = [error for future in futures.values() if isinstance(error := future.exception(), PhiftError)]
    if len(errors) > 1:
        problems = tuple((error.where or "data", error.what) for error in errors)
        what, first = f"{len(errors)} data inputs cannot be used.", next((e.fix for e in errors if e.fix), None)
        raise DataError(what, where="data", fix=first, problems=problems)
    inputs = {split: future.result() for split, future in futures.items()}
    for split, found in inputs.items():
        findings += _input_findings(f"data.{split}", found)
    return DataInAzure(name=inputs["train"].name, inputs=inputs, findings=tuple(findings))


def _input_findings(place: str, found: DataInput) -> Iterator[Finding]:
    if not found.version:
        message = "A place in a datastore is not looked up, so nothing says that there is a file."
        yield Finding("DATA_UNCHECKED", "note", place, message)
    elif found.type not in ("uri_file", "mltable"):
        kind = found.type or "unknown"
        message = f"The data asset {found.name} is of type {kind}; the component takes a file or an MLTable."
        fix = "register the file in the folder as an asset of type uri_file, or put an MLTable file beside it"
        yield Finding("DATA_ASSET_TYPE", "error", place, message, fix)
    if found.path:  # the component goes by a file's suffix
        yield from _name_findings(place, found.path)
        suffix = PurePosixPath(found.path).suffix
        if suffix not in SUFFIXES:
            message = f"The file ends in {suffix or 'nothing'!r}; the component reads {', '.join(SUFFIXES)}."
            fix = "name it as what it is, or register it as an MLTable"
            yield Finding("DATA_FILE_TYPE", "error", place, message, fix, _PREPROCESSING)
        if suffix in (".csv", ".tsv"):
            message = f"A {suffix} file has text where the component wants the list `messages`, so no row can be read."
            yield Finding("DATA_NO_LISTS", "warning", place, message, "use JSONL or parquet", _PREPROCESSING)


def _name_findings(place: str, path: str) -> list[Finding]:
    """Refuse a file in Azure whose path breaks the command lines that it gets into; local paths get into none."""
    # Command lines have an input's path in single quotes, so both are invalid in it (the descriptions of its inputs).
    bad = [character for character in ("'", "\\") if character in path]
    message = f"The file's path in Azure has {' and '.join(bad)} in it, which breaks the component's command lines."
    fix, source = "copy or register it under another path", "azureml-assets, chat_completion/spec.yaml, 2026-07-23"
    return [Finding("DATA_FILE_NAME", "error", place, message, fix, source)] if bad else []


def find_preparation(clients: Clients, data: DataConfig) -> DataInAzure:
    """Look up the data that a cluster prepares; nothing is downloaded.

    Raises `phift.errors.ConfigError` for files and rows of this machine, `phift.errors.NotFound` where an asset is not
    there, and `phift.errors.DataError` where one cannot be read.
    """
    inputs: dict[str, DataInput] = {}
    loose: list[str] = []  # data sets of the Hub that are not pinned to a revision
    settings: dict[str, Any] = data.model_dump(mode="json", include={"split", "bad_rows"})
    if data.near_duplicates != "report":  # the default stays out, so that a run keeps the name it had without the key
        settings["near_duplicates"] = data.near_duplicates
    for split, sources in data.sources.items():
        settings[split] = []
        for number, source in enumerate(sources, start=1):
            place = f"data.{split}"
            if isinstance(source, AssetSource):
                name = f"{split}_{number}"
                inputs[name] = _find_for_step(clients, place, source.asset)
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
    findings = (Finding("DATA_PREPARED_ON_CLUSTER", "note", "data", message, fix),)
    return DataInAzure(compute=data.prepare_on or "", inputs=inputs, settings=settings, name=name, findings=findings)


def _find_for_step(clients: Clients, place: str, address: str) -> DataInput:
    found = _find(clients, place, address)
    if not found.version and (address.endswith("/") or not PurePosixPath(found.path).suffix):
        return replace(found, type="uri_folder")
    if found.type not in ("uri_file", "uri_folder"):
        what = f"The data asset {found.name} is of type {found.type or 'unknown'}; a file or a folder can be prepared."
        raise DataError(what, where=place, fix="register the files as an asset of type uri_file or uri_folder")
    # A folder is mounted under a name of its own, a file under the one that it has.
    if found.path:
        for finding in _name_findings(place, found.path):
            raise DataError(finding.message, where=place, fix=finding.fix)
        try:
            files.kind(Path(found.path))
        except DataError as error:
            error.where, error.fix = place, f"{error.fix}; the address of a folder ends with a slash"
            raise
    return found


# ---------------------------------------------------------------- one asset


def _find(clients: Clients, place: str, address: str) -> DataInput:
    """Look up what lies in Azure.

    A place in a datastore is taken as it is, and for a file; it has no version.

    Raises `phift.errors.NotFound` where the asset is not there, and `phift.errors.DataError` for no such address.
    """
    found = read_address(address)
    if found and found.path:
        return DataInput(name=PurePosixPath(found.path).stem, address=address, path=found.path)
    if found and found.kind in ("", "data") and (found.version or not found.registry):
        return (_find_in_registry if found.registry else _find_in_workspace)(clients, place, found)
    fix = (
        "write azureml:<name>:<version>, azureml:<name>@latest, azureml://registries/<registry>/data/<name>/versions/"
        "<version> or azureml://datastores/<store>/paths/<file>"
    )
    raise DataError(f"{address} is no address of data that phift knows.", where=place, fix=fix)


def _find_in_workspace(clients: Clients, place: str, address: Address) -> DataInput:
    name, version, label = address.name, address.version, address.label
    if address.workspace:
        # A job reads the assets of its own workspace and of registries.
        keys = ("subscription_id", "resource_group_name", "workspace_name")
        ours = [text(getattr(clients.workspace, key), f"workspace.{key}") for key in keys]
        if [part.lower() for part in address.workspace] != [part.lower() for part in ours]:
            what = f"The data asset {name} is in another workspace, {address.workspace[2]}."
            fix = "share it through a registry, or name its place: azureml://datastores/<store>/paths/<file>"
            raise DataError(what, where=place, fix=fix)
    kind, value = ("version", version) if version else ("label", label)
    try:
        with azure_errors(place):
            found: Data = clients.workspace.data.get(name, **{kind: value})
    except (NotFound, ServiceError) as error:
        # Where a label is asked for, the SDK reports that there is none as an error of its own.
        if isinstance(error, ServiceError) and not (label and error.code in ("MlException", "ValidationException")):
            raise
        raise _missing(place, name, f"{kind} {value}", "this workspace") from error
    version, kind = text(found.version, "data asset.version"), text(found.type, "data asset.type")
    uri = found.path or ""
    uri = str(uri) if isinstance(uri, PurePath) else text(uri, "data asset.path")
    return _asset(name, version, resource_id(found.id, "data asset.id"), kind, uri)


def _find_in_registry(clients: Clients, place: str, address: Address) -> DataInput:
    registry, name, version = address.registry, address.name, address.version
    path = f"data/{quote(name, safe='')}/versions/{quote(version, safe='')}"
    try:
        record = clients.rest.get(f"{registry_address(clients, registry)}/{path}", {"api-version": API})
    except NotFound as error:
        raise _missing(place, name, f"version {version}", f"registry {registry}") from error
    body = mapping(json_object(record, "the registry's record").get("properties"))
    # The wire says UriFile and uri_file, depending on the service's mood and its API's version.
    kind = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", str(body.get("dataType") or "")).lower()
    return _asset(name, version, registry_id(registry, "data", name, version), kind, str(body.get("dataUri") or ""))


def _asset(name: str, version: str, address: str, kind: str, uri: str) -> DataInput:
    path = urlsplit(uri).path if kind == "uri_file" else ""
    return DataInput(name=name, version=version, address=address, type=kind, path=path)


def _missing(place: str, name: str, version: str, holder: str) -> NotFound:
    what = f"There is no data asset {name} with {version} in {holder}."
    return NotFound(what, where=place, fix="check its name and version in the studio, or with `az ml data list`")
