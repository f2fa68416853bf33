"""A tokenizer, the user's own or the model's, fetched without the weights and opened without its code.

It needs transformers, which comes with ``phift[local]``. What is opened here can still take for ever, or all memory:
`phift.tokens.limited` does it in another process.

The registry hands out a signed address of the model's container (``datarefs``, as azure-ai-ml 1.35.2 asks for it in
``models.download``). Of the blobs under the model's own prefix only those are read that say how a conversation becomes
tokens. Unverified on Azure; tested against the local workspace.

The signed address is a secret: it stays inside `_fetch`, and in no error's text or cause.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from phift.azure.answers import listed, mapping
from phift.azure.clients import API, Clients, registry_address, send_own_authorization
from phift.check.models import FoundationModel
from phift.component import finetune_config as config_file
from phift.component.finetune_config import FinetuneConfig
from phift.component.preprocessing import ChatTokenizer
from phift.config.addresses import registry_id
from phift.errors import DataError, MissingDependency, ModelError, PhiftError, ServiceError, azure_errors, redact
from phift.errors.reasons import text_of

# Where MLflow's transformers flavor and Azure's older hftransformersv2 flavor put a tokenizer; last, a plain folder.
_PLACES = ("components/tokenizer", "data/tokenizer", ".", "model", "data/model")

_TOKENIZER = ("tokenizer*", "vocab*", "*.model", "merges.txt", "special_tokens_map.json", "added_tokens.json")
NAMES = (*_TOKENIZER, "chat_template.jinja", "MLmodel", "finetune_config.json", "config.json", "generation_config.json")
"""The files that are fetched, wherever in the model's folder they lie."""

MOST_BYTES = 200_000_000
"""A check is not worth more traffic than this."""


def load_tokenizer(
    place: str | Path, settings: Mapping[str, Any] | None = None, *, source: str | None = None
) -> ChatTokenizer:
    """Open a tokenizer; no code that comes with it is run.

    - **place**: a folder (a tokenizer's own or an MLflow model's), or an id on the Hugging Face Hub.
    - **settings**: the finetune config; left out, the one that the folder has.
    """
    folder = local_folder(place)
    config = FinetuneConfig.of(read_settings(folder) if settings is None else settings)
    places = [folder / each for each in _PLACES]
    of_tokenizer = ("tokenizer_config.json", "tokenizer.json")
    own = next((each for each in places if any((each / name).is_file() for name in of_tokenizer)), None)
    if own is None:
        fix = "give a folder with tokenizer_config.json, or an MLflow model"
        raise ModelError("There is no tokenizer in the folder.", where=str(folder), fix=fix)
    digest = hashlib.sha256(repr(config).encode())
    for path in sorted(path for name in NAMES for path in own.glob(name) if path.is_file()):
        digest.update(f"\n{path.name} ".encode() + path.read_bytes())
    with _opening(str(own)) as auto:
        tokenizer = auto.from_pretrained(own, trust_remote_code=False)
        if not (config.chat_template or tokenizer.chat_template):
            fix = "name a tokenizer with one as data.tokenizer"
            raise ModelError("The tokenizer has no chat template.", where=str(place), fix=fix)
        if not (isinstance(tokenizer.model_max_length, int | float) and tokenizer.model_max_length > 0):
            what = "The tokenizer's model_max_length is no number above 0."
            raise ModelError(what, where=str(place), fix="mend tokenizer_config.json")
        return ChatTokenizer.of(tokenizer, config, source or str(place), digest.hexdigest())


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the finetune config of the model in ``folder``, as far as it concerns chat; empty without such a file."""
    paths = [folder / place / config_file.FILE_NAME for place in (".", *_PLACES)]
    return config_file.read(next((path for path in paths if path.is_file()), paths[0]))


def local_folder(place: str | Path) -> Path:
    """Return the folder of a tokenizer; of one on the Hugging Face Hub, the needed files are downloaded."""
    folder = Path(place).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(place, Path) or place.startswith((".", "/", "~")):
        raise ModelError("There is no such folder.", where=str(place), fix="check data.tokenizer")
    # transformers would fetch by itself, and try for most of a minute where there is no network.
    with _opening(place):
        from huggingface_hub import HfApi, snapshot_download

        found: Any = None
        with suppress(Exception):  # where it does not answer, what was fetched before is there, or the next call fails
            found = HfApi(library_name="phift").model_info(place, files_metadata=True, timeout=30).siblings
        sizes = [file.size or 0 for file in found or () if any(PurePosixPath(file.rfilename).match(n) for n in NAMES)]
        _check_size(sum(sizes), place)
        return Path(snapshot_download(place, allow_patterns=list(NAMES)))


@contextmanager
def _opening(place: str) -> Iterator[Any]:
    """Give transformers' class, keep back what it and its libraries say of themselves, and make their errors ours."""
    with warnings.catch_warnings(), ExitStack() as afterwards:
        warnings.simplefilter("ignore")
        try:
            from huggingface_hub.utils import logging as hub
            from transformers import AutoTokenizer
            from transformers.utils import logging as own
        except ImportError as error:
            what = "transformers is not installed, so there is no tokenizer to count with."
            raise MissingDependency(what, fix="in the folder of phift's source: pip install '.[local]'") from error
        for library in (own, hub):
            afterwards.callback(library.set_verbosity, library.get_verbosity())
            library.set_verbosity(logging.ERROR)
        if own.is_progress_bar_enabled():
            afterwards.callback(own.enable_progress_bar)
            own.disable_progress_bar()
        try:
            yield AutoTokenizer
        except (PhiftError, MemoryError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # Rust's panics are no Exception
            # Hub, file and parser errors of many libraries; their texts go on for pages, and some have none.
            lines = [line.strip() for line in text_of(error).splitlines() if line.strip()]
            said = redact(lines[0])[:200] if lines else ""
            what = f"The tokenizer cannot be opened: {type(error).__name__}: {said}"
            raise ModelError(what, where=place, fix="name a tokenizer as data.tokenizer") from error


def fetch_tokenizer_files(clients: Clients, model: FoundationModel, cache: Path) -> Path:
    """Return a folder with the model's tokenizer and finetune config, laid out as in the model.

    The folder is made beside its place and renamed, so one that is there is whole and is used again. Its name tells
    equal names of different clouds and registries apart.
    """
    # A local workspace that was reset may have another model under the same id.
    named = f"{clients.registry_discovery} {model.id} {model.tags.get('phift.content', '')}".rstrip()
    identity = hashlib.sha256(named.encode()).hexdigest()[:8]
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
    from azure.storage.blob import ContainerClient

    with azure_errors(place):
        uri = model.path or str(clients.registry.models.get(model.name, version=model.version).path)
    if urlsplit(uri).scheme != "https":
        raise ServiceError("The registry does not say in which storage the model is.", where=place)
    # The address may be read and listed for a while.
    name, version = quote(model.name, safe=""), quote(model.version, safe="")
    url = f"{registry_address(clients, model.registry)}/datarefs/{name}/versions/{version}?api-version={API}"
    asset = registry_id(model.registry, "models", model.name, model.version)
    answer = clients.rest.post(url, {"assetId": asset, "blobUri": uri})
    reference = mapping(answer.get("blobReferenceForConsumption"))
    # A public container comes without a signature.
    signed = mapping(reference.get("credential")).get("sasUri") or reference.get("blobUri")
    if not isinstance(signed, str) or urlsplit(signed).scheme != "https":
        raise ServiceError("The registry's answer has no address for the model's files.", where=place)
    container, path = (unquote(urlsplit(address).path).rstrip("/") for address in (signed, uri))
    if not path.startswith(f"{container}/"):
        raise ServiceError("The registry gave the address of another container than the model's.", where=place)
    prefix = path.removeprefix(f"{container}/")
    try:
        with (
            azure_errors(place),
            ContainerClient.from_container_url(signed, raw_request_hook=send_own_authorization) as files,
        ):
            blobs = listed(files.list_blobs(name_starts_with=f"{prefix}/"), place)
            sizes = {blob.name: blob.size for blob in blobs}
            chosen = wanted_files(prefix, sizes)
            total = sum(sizes[name] for name in chosen)
            if not any(path.match(name) for path in chosen.values() for name in _TOKENIZER):
                raise ModelError("The model has no tokenizer files.", where=place, fix="name one as data.tokenizer")
            _check_size(total, place)
            for name, relative in chosen.items():
                target = folder / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    # The listed size is the most that is read, whatever the blob has become since.
                    if sizes[name]:
                        files.download_blob(name, offset=0, length=sizes[name]).readinto(file)
    except PhiftError as error:
        raise error from None  # the cause may quote the signed address


def _check_size(total: int, place: str) -> None:
    if total > MOST_BYTES:
        most = MOST_BYTES // 10**6
        what = f"The model's tokenizer files have {total / 1e6:,.0f} MB; more than {most} are not read."
        raise ModelError(what, where=place, fix="name a tokenizer as data.tokenizer, or a folder that has it")


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
        and any(map(path.match, NAMES))
    }
