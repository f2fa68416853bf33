"""Data assets: the prepared files registered once, and data that lies in Azure already and is used there.

**Registered once.** Each prepared file becomes ``<name>-<split>`` in a version that is the first 16 digits of its
content's hash. One that is there is used, so the same data is uploaded once. A run that ends between the upload and the
registration leaves a file in the workspace's storage that the next run finds and registers; of two runs that upload
at the same time, the slower one finds what the faster one has registered.

**Used where it lies.** An asset's name, label and type are looked up; its rows are not read.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from phift.azure.addresses import PREFIX, Address, read_address, registry_id
from phift.azure.answers import json_object, listed, text, texts
from phift.azure.clients import Clients
from phift.azure.quiet import quiet_uploads
from phift.azure.registry import API, mapping, registry_address
from phift.azure.threads import SideBySide
from phift.check.findings import Finding
from phift.component.preprocessing import SPLITS, SUFFIXES
from phift.config.data import AssetSource, DataConfig
from phift.data.prepare import PreparedDataset
from phift.errors import Conflict, DataError, NotFound, PhiftError, ServiceError, azure_errors
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
    """

    name: str
    address: str
    type: str = "uri_file"
    version: str = ""
    existed: bool = True

    def __str__(self) -> str:
        return self.address if self.address.startswith(PREFIX) else f"azureml:{self.name}:{self.version}"


@dataclass(frozen=True, kw_only=True)
class DataInAzure:
    """Chat data that lies in Azure and is used there; its rows are not read.

    - **inputs**: what each split is, for the splits that are given.
    - **findings**: what the look-ups found.
    """

    inputs: Mapping[str, DataInput]
    findings: tuple[Finding, ...] = ()

    @property
    def name(self) -> str:
        """The training data's name, for display."""
        return self.inputs["train"].name

    @property
    def content_hash(self) -> str:
        """SHA-256 over the addresses, since the content is not read."""
        addresses = {split: given.address for split, given in self.inputs.items()}
        return hashlib.sha256(json.dumps(addresses, sort_keys=True).encode()).hexdigest()


def register_assets(clients: Clients, dataset: PreparedDataset, name: str) -> dict[str, DataInput]:
    """Return the data assets of the prepared files; what is not registered yet is uploaded and registered.

    - **name**: what the assets' names start with.

    Raises `phift.errors.Conflict` where an asset of that name and version is not of this file.
    """
    futures = {}
    with SideBySide(len(SPLITS)) as side:
        for split, path in dataset.files.items():
            tags = {
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
        return DataInput(name=name, version=version, address=text(made.id, "data asset.id"), existed=False)
    theirs, kind = texts(found.tags, "data asset.tags"), text(found.type, "data asset.type")
    if theirs.get(_HASH) != tags[_HASH] or kind != "uri_file":
        what = f"The data asset's tag {_HASH} does not name this file's content, so it may hold something else."
        raise Conflict(what, where=where, fix="set `data.asset_name` to another name")
    with azure_errors(where):
        # The SDK's entity does not say whether it is archived.
        archived = listed(data.list(name, list_view_type="ArchivedOnly"), f"archived versions of {name}")
        if any(str(asset.version) == version for asset in archived):
            data.restore(name, version=version)
    return DataInput(name=name, version=version, address=text(found.id, "data asset.id"))


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
        futures = {split: side.begin(_find, clients, split, source.asset) for split, source in sources.items()}
    errors = [error for future in futures.values() if isinstance(error := future.exception(), PhiftError)]
    if len(errors) > 1:
        problems = tuple((error.where or "data", error.what) for error in errors)
        what, first = f"{len(errors)} data inputs cannot be used.", next((e.fix for e in errors if e.fix), None)
        raise DataError(what, where="data", fix=first, problems=problems)
    inputs: dict[str, DataInput] = {}
    for split, future in futures.items():
        inputs[split], more = future.result()
        findings += more
    return DataInAzure(inputs=inputs, findings=tuple(findings))


def _find(clients: Clients, split: str, address: str) -> tuple[DataInput, list[Finding]]:
    place = f"data.{split}"
    asset, path = find_asset(clients, place, address)
    findings: list[Finding] = []
    if asset.type == "uri_file" and path != PurePosixPath():  # the component goes by a file's suffix
        findings += name_findings(place, path)
        if path.suffix not in SUFFIXES:
            message = f"The file ends in {path.suffix or 'nothing'!r}; the component reads {', '.join(SUFFIXES)}."
            fix = "name it as what it is, or register it as an MLTable"
            findings.append(Finding("DATA_FILE_TYPE", "error", place, message, fix, _PREPROCESSING))
        if path.suffix in (".csv", ".tsv"):
            kind, fix = path.suffix, "use JSONL or parquet"
            message = f"A {kind} file has text where the component wants the list `messages`, so no row can be read."
            findings.append(Finding("DATA_NO_LISTS", "warning", place, message, fix, _PREPROCESSING))
    if not asset.version:
        message = "A place in a datastore is not looked up, so nothing says that there is a file."
        findings.insert(0, Finding("DATA_UNCHECKED", "note", place, message))
    elif asset.type not in ("uri_file", "mltable"):
        kind = asset.type or "unknown"
        message = f"The data asset {asset.name} is of type {kind}; the component takes a file or an MLTable."
        fix = "register the file in the folder as an asset of type uri_file, or put an MLTable file beside it"
        findings.append(Finding("DATA_ASSET_TYPE", "error", place, message, fix))
    return asset, findings


def find_asset(clients: Clients, place: str, address: str) -> tuple[DataInput, PurePosixPath]:
    """Look up what lies in Azure, and its path, empty where it is not known.

    A place in a datastore is taken as it is, and for a file; it has no version.

    Raises `phift.errors.NotFound` where the asset is not there, and `phift.errors.DataError` for no such address.
    """
    found = read_address(address)
    if found and found.path:
        path = PurePosixPath(found.path)
        return DataInput(name=path.stem, address=address), path
    if found and found.kind in ("", "data") and (found.version or not found.registry):
        asset, where = (_find_in_registry if found.registry else _find_in_workspace)(clients, place, found)
        return asset, PurePosixPath(urlsplit(where).path)
    fix = (
        "write azureml:<name>:<version>, azureml:<name>@latest, azureml://registries/<registry>/data/<name>/versions/"
        "<version> or azureml://datastores/<store>/paths/<file>"
    )
    raise DataError(f"{address} is no address of data that phift knows.", where=place, fix=fix)


def _find_in_workspace(clients: Clients, place: str, address: Address) -> tuple[DataInput, str]:
    name, version, label = address.name, address.version, address.label
    if address.workspace:
        # A job reads the assets of its own workspace and of registries.
        keys = ("subscription_id", "resource_group_name", "workspace_name")
        ours = [text(getattr(clients.workspace, key), f"workspace.{key}") for key in keys]
        if [part.lower() for part in address.workspace] != [part.lower() for part in ours]:
            what = f"The data asset {name} is in another workspace, {address.workspace[2]}."
            fix = "share it through a registry, or name its place: azureml://datastores/<store>/paths/<file>"
            raise DataError(what, where=place, fix=fix)
    wanted = {"version": version} if version else {"label": label}
    try:
        with azure_errors(place):
            found: Data = clients.workspace.data.get(name, **wanted)
    except (NotFound, ServiceError) as error:
        # Where a label is asked for, the SDK reports that there is none as an error of its own.
        if isinstance(error, ServiceError) and not (label and error.code in ("MlException", "ValidationException")):
            raise
        ((kind, value),) = wanted.items()
        raise _missing(place, name, f"{kind} {value}", "this workspace") from error
    read = {key: text(getattr(found, key), f"data asset.{key}") for key in ("version", "id", "type")}
    asset = DataInput(name=name, version=read["version"], address=read["id"], type=read["type"])
    path = found.path or ""
    return asset, str(path) if isinstance(path, PurePath) else text(path, "data asset.path")


def _find_in_registry(clients: Clients, place: str, address: Address) -> tuple[DataInput, str]:
    registry, name, version = address.registry, address.name, address.version
    path = f"data/{quote(name, safe='')}/versions/{quote(version, safe='')}"
    try:
        record = clients.rest.get(f"{registry_address(clients, registry)}/{path}", {"api-version": API})
    except NotFound as error:
        raise _missing(place, name, f"version {version}", f"registry {registry}") from error
    body = mapping(json_object(record, "the registry's record").get("properties"))
    identifier = registry_id(registry, "data", name, version)
    # The wire says UriFile and uri_file, depending on the service's mood and its API's version.
    kind = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", str(body.get("dataType") or "")).lower()
    return DataInput(name=name, version=version, address=identifier, type=kind), str(body.get("dataUri") or "")


def _missing(place: str, name: str, version: str, holder: str) -> NotFound:
    what = f"There is no data asset {name} with {version} in {holder}."
    return NotFound(what, where=place, fix="check its name and version in the studio, or with `az ml data list`")


def name_findings(place: str, path: PurePosixPath) -> list[Finding]:
    """Refuse a file in Azure whose path breaks the command lines that it gets into; local paths get into none."""
    # Command lines have an input's path in single quotes, so both are invalid in it (the descriptions of its inputs).
    bad = [character for character in ("'", "\\") if character in str(path)]
    message = f"The file's path in Azure has {' and '.join(bad)} in it, which breaks the component's command lines."
    fix, source = "copy or register it under another path", "azureml-assets, chat_completion/spec.yaml, 2026-07-23"
    return [Finding("DATA_FILE_NAME", "error", place, message, fix, source)] if bad else []
