"""A registry model's tokenizer, fetched without its weights.

The registry hands out a signed address of the model's container (``datarefs``, as azure-ai-ml 1.35.2 asks for it in
``models.download``). Of the blobs under the model's own prefix only those are read that say how a conversation becomes
tokens. Unverified on Azure; tested against the local workspace.

The signed address is a secret: it stays inside `_list_and_download` and in no error's text or cause.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from phift.azure.addresses import registry_id
from phift.azure.clients import Clients
from phift.azure.registry import API, mapping, registry_address
from phift.check.models import FoundationModel
from phift.errors import DataError, ModelError, PhiftError, ServiceError, azure_errors

_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab*",
    "merges.txt",
    "*.model",
)
NAMES = (*_TOKENIZER, "MLmodel", "finetune_config.json", "config.json", "generation_config.json")
"""The files that are fetched, wherever in the model's folder they lie."""

MOST_BYTES = 200_000_000
"""A check is not worth more traffic than this."""


def fetch_tokenizer_files(clients: Clients, model: FoundationModel, cache: Path) -> Path:
    """Return a folder with the model's tokenizer and finetune config, laid out as in the model.

    The folder is made beside its place and renamed, so one that is there is whole and is used again. Its name tells
    equal names of different clouds and registries apart.

    Raises the errors of `phift.errors`; a caller that can do without shows their text.
    """
    identity = hashlib.sha256(f"{clients.registry_discovery} {model.id}".encode()).hexdigest()[:8]
    target = cache / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', f'{model.name}-{model.version}')}-{identity}"
    if target.is_dir():
        return target
    place = f"model {model.name} version {model.version} in registry {model.registry}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache) as scratch:
            folder = Path(scratch) / "model"
            folder.mkdir()
            _fetch(clients, model, place, folder)
            try:
                folder.rename(target)
            except OSError:
                if not target.is_dir():  # else another run fetched the same model meanwhile
                    raise
    except PhiftError:
        raise  # some of ours are OSErrors too
    except OSError as error:
        what = f"The tokenizer cannot be kept: {error.strerror}."
        raise DataError(what, where=str(cache), fix="check the permissions and the free space") from error
    return target


def _fetch(clients: Clients, model: FoundationModel, place: str, folder: Path) -> None:
    with azure_errors(place):
        uri = model.path or str(clients.registry.models.get(model.name, version=model.version).path)
    if urlsplit(uri).scheme != "https":
        raise ServiceError("The registry does not say in which storage the model is.", where=place)
    signed = _signed_address(clients, model, uri, place)
    container, prefix = unquote(urlsplit(signed).path).rstrip("/"), unquote(urlsplit(uri).path).rstrip("/")
    if not prefix.startswith(f"{container}/"):
        raise ServiceError("The registry gave the address of another container than the model's.", where=place)
    try:
        with azure_errors(place):
            _list_and_download(signed, prefix.removeprefix(f"{container}/"), folder, place)
    except PhiftError as error:
        raise error from None  # the cause may quote the signed address


def _signed_address(clients: Clients, model: FoundationModel, uri: str, place: str) -> str:
    """Return an address of the model's container that may be read and listed for a while."""
    name, version = quote(model.name, safe=""), quote(model.version, safe="")
    url = f"{registry_address(clients, model.registry)}/datarefs/{name}/versions/{version}?api-version={API}"
    asset = registry_id(model.registry, "models", model.name, model.version)
    answer = clients.rest.post(url, {"assetId": asset, "blobUri": uri})
    reference = mapping(answer.get("blobReferenceForConsumption"))
    # A public container comes without a signature.
    found = mapping(reference.get("credential")).get("sasUri") or reference.get("blobUri")
    if not isinstance(found, str) or urlsplit(found).scheme != "https":
        raise ServiceError("The registry's answer has no address for the model's files.", where=place)
    return found


def _list_and_download(signed: str, prefix: str, folder: Path, place: str) -> None:
    from azure.storage.blob import ContainerClient

    with ContainerClient.from_container_url(signed) as container:
        sizes = {blob.name: blob.size for blob in container.list_blobs(name_starts_with=f"{prefix}/")}
        chosen = wanted_files(prefix, sizes)
        total = sum(sizes[name] for name in chosen)
        if not any(_is_named(path, _TOKENIZER) for path in chosen.values()):
            raise ModelError("The model has no tokenizer files.", where=place, fix="name one as data.tokenizer")
        if total > MOST_BYTES:
            most = MOST_BYTES // 10**6
            what = f"The model's tokenizer files have {total / 1e6:,.0f} MB; more than {most} are not read."
            raise ModelError(what, where=place, fix="name a tokenizer as data.tokenizer")
        for name, relative in chosen.items():
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                # The listed size is the most that is read, whatever the blob has become since.
                if sizes[name]:
                    container.download_blob(name, offset=0, length=sizes[name]).readinto(file)


def wanted_files(prefix: str, names: Iterable[str]) -> dict[str, PurePosixPath]:
    """Return the blobs to read and where each belongs below the model's folder.

    That folder is the one with the ``MLmodel``, at ``prefix`` or below. A name that would lead out of it is left out.
    """
    paths = {name: PurePosixPath(name.removeprefix(f"{prefix}/")) for name in names}
    manifests = [path.parent for path in paths.values() if path.name == "MLmodel"]
    base = min(manifests, key=lambda path: len(path.parts), default=PurePosixPath())
    return {
        name: path.relative_to(base)
        for name, path in paths.items()
        if path.is_relative_to(base)
        and not path.is_absolute()
        and not any(part == ".." or set(part) & set("\\:\0") for part in path.parts)
        and _is_named(path, NAMES)
    }


def _is_named(path: PurePosixPath, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path.name, pattern) for pattern in patterns)
