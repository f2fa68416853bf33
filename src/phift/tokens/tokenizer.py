"""The tokenizer to count with: the user's own or the model's, opened without a word and without running its code.

Needs transformers, which comes with ``phift[local]``; without it tokens are estimated, see `phift.tokens.count`.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phift.azure.clients import Clients
from phift.check.models import FoundationModel
from phift.component import finetune_config as config_file
from phift.component.finetune_config import FinetuneConfig
from phift.component.tokenizer import ChatTokenizer
from phift.errors import MissingDependency, ModelError, PhiftError, redact
from phift.tokens.files import NAMES, fetch_tokenizer_files

# Where MLflow's transformers flavor and Azure's older hftransformersv2 flavor put a tokenizer; last, a plain folder.
_PLACES = ("components/tokenizer", "data/tokenizer", ".", "model", "data/model")


def find_tokenizer(
    wanted: str | None,
    clients: Clients,
    model: FoundationModel,
    cache: Path,
    *,
    finetune_config: Path | None = None,
) -> tuple[ChatTokenizer | None, str]:
    """Return the tokenizer to count with, and what is missing, in one sentence, if anything is.

    The user's own tokenizer comes before the model's in the registry. It raises nothing of ours: without a tokenizer
    tokens are estimated, and a check goes on. Unverified on Azure, see `phift.tokens.files`.

    - **wanted**: a folder or an id on the Hugging Face Hub (``data.tokenizer``).
    - **cache**: where the registry's tokenizers are kept.
    - **finetune_config**: the job's own (``finetune_config_path``), laid over the model's.
    """
    fetched, missing = None, ""
    try:
        _import_tokenizers()
        given = _local_folder(wanted) if wanted else None
        settings = read_settings(given) if given else {}
        if not FinetuneConfig.of(settings).has_markers:
            try:
                fetched = fetch_tokenizer_files(clients, model, cache)
                settings = config_file.merge(read_settings(fetched), settings)
            except PhiftError as error:
                missing = _reason(error)
        place = given or fetched
        if place is None:
            return None, missing
        if finetune_config:
            settings = config_file.merge(settings, config_file.read(finetune_config))
        source = wanted or f"{model.name} version {model.version}"
        found = load_tokenizer(place, settings, source=source)
    except PhiftError as error:
        return None, _reason(error)
    if found.knows_markers:
        return found, ""
    without = f"No {config_file.FILE_NAME} says what opens a turn, so it is not known which tokens are trained on."
    return found, f"{without} {missing}".rstrip()


def _reason(error: PhiftError) -> str:
    return f"{error.what.rstrip('.')} ({error.where})." if error.where else error.what


def load_tokenizer(
    place: str | Path, settings: Mapping[str, Any] | None = None, *, source: str | None = None
) -> ChatTokenizer:
    """Open a tokenizer; no code that comes with it is run.

    Raises `phift.errors.MissingDependency` without transformers, and `phift.errors.ModelError` where there is no
    tokenizer or it has no chat template.

    - **place**: a folder (a tokenizer's own or an MLflow model's), or an id on the Hugging Face Hub.
    - **settings**: the finetune config; left out, the one that the folder has.
    """
    folder = _local_folder(place)
    config = FinetuneConfig.of(read_settings(folder) if settings is None else settings)
    places = [folder / each for each in _PLACES]
    of_tokenizer = ("tokenizer_config.json", "tokenizer.json")
    own = next((each for each in places if any((each / name).is_file() for name in of_tokenizer)), None)
    if own is None:
        fix = "give a folder with tokenizer_config.json, or an MLflow model"
        raise ModelError("There is no tokenizer in the folder.", where=str(folder), fix=fix)
    auto = _import_tokenizers()
    with _tokenizer_errors(str(own)), _silence():
        tokenizer = auto.from_pretrained(own, trust_remote_code=False)
    if not (config.chat_template or tokenizer.chat_template):
        fix = "name a tokenizer with one as data.tokenizer"
        raise ModelError("The tokenizer has no chat template.", where=str(place), fix=fix)
    digest = hashlib.sha256(repr(config).encode())
    for path in sorted(path for name in NAMES for path in own.glob(name)):
        digest.update(f"\n{path.name} ".encode() + path.read_bytes())
    return ChatTokenizer.of(tokenizer, config, source or str(place), digest.hexdigest())


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the finetune config of the model in ``folder``, as far as it concerns chat; empty without such a file."""
    paths = [folder / place / config_file.FILE_NAME for place in (".", *_PLACES)]
    return config_file.read(next((path for path in paths if path.is_file()), paths[0]))


def _local_folder(place: str | Path) -> Path:
    """Return the folder of a tokenizer; of one on the Hugging Face Hub, the needed files are downloaded."""
    folder = Path(place).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(place, Path) or place.startswith((".", "/", "~")):
        raise ModelError("There is no such folder.", where=str(place), fix="check data.tokenizer")
    _import_tokenizers()
    from huggingface_hub import snapshot_download

    # transformers would fetch by itself, and try for most of a minute where there is no network.
    with _tokenizer_errors(place), _silence():
        return Path(snapshot_download(place, allow_patterns=list(NAMES)))


@contextmanager
def _tokenizer_errors(place: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Hub, file and parser errors of many libraries; their texts go on for pages.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = redact(lines[0])[:200] if lines else ""
        what = f"The tokenizer cannot be opened: {type(error).__name__}: {said}"
        raise ModelError(what, where=place, fix="name a tokenizer as data.tokenizer") from error


def _import_tokenizers() -> Any:
    try:
        with _silence(imported=False):
            from transformers import AutoTokenizer
    except ImportError as error:
        what = "transformers is not installed, so there is no tokenizer to count with."
        raise MissingDependency(what, fix="pip install 'phift[local]'") from error
    return AutoTokenizer


@contextmanager
def _silence(*, imported: bool = True) -> Iterator[None]:
    """Keep back what transformers and its libraries warn of about themselves, and their progress bars."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not imported:
            yield
            return
        from huggingface_hub.utils import logging as hub
        from transformers.utils import logging as own

        before, hub_before, bars = own.get_verbosity(), hub.get_verbosity(), own.is_progress_bar_enabled()
        own.set_verbosity(logging.ERROR)
        own.disable_progress_bar()
        hub.set_verbosity(logging.ERROR)
        try:
            yield
        finally:
            own.set_verbosity(before)
            hub.set_verbosity(hub_before)
            if bars:
                own.enable_progress_bar()
