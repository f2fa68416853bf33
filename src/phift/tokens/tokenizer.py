"""A conversation as the model gets it: the chat template's text, its tokens, and those that are trained on.

The component cuts a row at ``min(max_seq_length, model_max_length)``, then trains on what stands after each response
marker up to the next instruction marker. A row that has only one of the two markers left has nothing to train on and
is dropped without a word (azureml-acft-contrib-hf-nlp 0.0.91, ``preprocess`` and the collator, 2026-07).

Needs transformers, which comes with ``phift[local]``; without it tokens are estimated, see `phift.tokens.count`.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phift.azure.clients import Clients
from phift.check.models import FoundationModel
from phift.errors import MissingDependency, ModelError, PhiftError, redact
from phift.tokens.files import NAMES, fetch_tokenizer_files

Row = Mapping[str, Any]

_SETTINGS = "finetune_config.json"
# Where MLflow's transformers flavor and Azure's older hftransformersv2 flavor put a tokenizer; last, a plain folder.
_PLACES = ("components/tokenizer", "data/tokenizer", ".", "model", "data/model")
_NO_LIMIT = 10**9  # transformers writes 1e30 where a tokenizer has no longest input


@dataclass(frozen=True)
class Refused:
    """What became of a row that the model's chat template does not take; the reason quotes no text."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class ChatTokenizer:
    """A model's tokenizer with its chat template and markers.

    - **source**: which one it is, for display.
    - **response**, **instruction**: the tokens that open an assistant's and a user's turn; empty where not known.
    - **system_role_supported**: when False, the component moves a system message into the first user message.
    """

    source: str
    tokenizer: Any = field(repr=False)
    response: tuple[int, ...] = ()
    instruction: tuple[int, ...] = ()
    system_role_supported: bool = True

    @classmethod
    def load(
        cls, place: str | Path, settings: Mapping[str, Any] | None = None, *, source: str | None = None
    ) -> ChatTokenizer:
        """Open a tokenizer; no code that comes with it is run.

        Raises `phift.errors.MissingDependency` without transformers, and `phift.errors.ModelError` where there is no
        tokenizer or it has no chat template.

        - **place**: a folder (a tokenizer's own or an MLflow model's), or an id on the Hugging Face Hub.
        - **settings**: the finetune config; left out, the one that the folder has.
        """
        folder = local_folder(place)
        if settings is None:
            settings = read_settings(folder)
        tokenizer = _open(_tokenizer_folder(folder))
        if settings.get("finetune_chat_template"):
            tokenizer.chat_template = settings["finetune_chat_template"]
        if not tokenizer.chat_template:
            fix = "name a tokenizer with one as data.tokenizer"
            raise ModelError("The tokenizer has no chat template.", where=str(place), fix=fix)
        if tokenizer.is_fast:
            # What a training run left in tokenizer.json would cut and pad here too.
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
        response, instruction = (
            tuple(tokenizer.encode(marker, add_special_tokens=False)) if marker else () for marker in _markers(settings)
        )
        return cls(
            source=source or str(place),
            tokenizer=tokenizer,
            response=response,
            instruction=instruction,
            system_role_supported=str(settings.get("system_role_supported", "true")).lower() != "false",
        )

    @property
    def knows_markers(self) -> bool:
        """Whether it can be said which tokens are trained on."""
        return bool(self.response and self.instruction)

    def limit(self, max_seq_length: int) -> int | None:
        """Return after how many tokens the component cuts a row, or None if it cuts none."""
        limits = [self.tokenizer.model_max_length]
        if max_seq_length > 0:
            limits.append(max_seq_length)
        shortest = int(min(limits))
        return shortest if shortest < _NO_LIMIT else None

    def render(self, row: Row) -> str | Refused:
        """Return the text that the chat template makes of a row."""
        try:
            messages = list(row["messages"])
            if not self.system_role_supported:
                messages = _without_system(messages)
            text = self.tokenizer.apply_chat_template(messages, tools=row.get("tools"), tokenize=False)
            text.encode()  # half a surrogate pair cannot be tokenised
        except _SystemMessage as error:
            return Refused(str(error))
        except Exception as error:  # noqa: BLE001 - a template is a program: it may raise anything
            # What it says may quote the conversation.
            return Refused(f"the model's chat template does not take it ({type(error).__name__})")
        return str(text)

    def encode_batch(self, rows: Sequence[Row]) -> list[list[int] | Refused]:
        """Return each row's tokens, not cut, or why the template refuses it.

        Hundreds of rows at a time keep all cores busy.
        """
        texts = [self.render(row) for row in rows]
        encoded = iter(self._encode([text for text in texts if isinstance(text, str)]))
        return [next(encoded) if isinstance(text, str) else text for text in texts]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if self.tokenizer.is_fast:
            # Without transformers' own tensors and masks, and without offsets.
            backend = self.tokenizer.backend_tokenizer
            return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
        return list(self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])

    def pieces(self, text: str) -> list[tuple[int, str]]:
        """Return the tokens of a text, each with its part of it.

        The parts joined are the text; of a character that takes several tokens, the first one has it. A tokenizer in
        Python does not know the parts, so its tokens are decoded one by one.
        """
        if not self.tokenizer.is_fast:
            return [(token, self.tokenizer.decode([token])) for token in self._encode([text])[0]]
        encoding = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        found, start = [], 0
        for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
            found.append((token, text[start : max(start, end)]))
            start = max(start, end)
        if found and start < len(text):
            found[-1] = (found[-1][0], found[-1][1] + text[start:])
        return found

    def spans(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return from where to where the tokens are trained on, in order and apart; cut ``ids`` first.

        As in the component the markers go in pairs: the n-th instruction hides everything up to the n-th response, and
        one too many hides the rest. So a text that holds a marker hides answers.
        """
        if not self.knows_markers:
            return []
        ids = list(ids)
        questions = list(_starts(ids, self.instruction))
        answers = [start + len(self.response) for start in _starts(ids, self.response)]
        if not questions or not answers:
            return []
        if questions[0] > answers[0]:
            questions.insert(0, 0)
        hidden = list(zip([0, *questions[1:]], answers, strict=False))
        hidden.append((questions[-1] if len(questions) > len(answers) else len(ids), len(ids)))
        found, end = [], 0
        for start, stop in hidden:
            if end < start:
                found.append((end, start))
            end = max(end, start, stop)
        return found

    def trained(self, ids: Sequence[int]) -> list[bool]:
        """Return for each token whether it is trained on; cut ``ids`` first."""
        mask = [False] * len(ids)
        for start, end in self.spans(ids):
            mask[start:end] = [True] * (end - start)
        return mask


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
        given = local_folder(wanted) if wanted else None
        settings = read_settings(given) if given else {}
        if not all(_markers(settings)):
            fetched, missing = _fetched(clients, model, cache)
            settings = {**(read_settings(fetched) if fetched else {}), **settings}
        place = given or fetched
        if place is None:
            return None, missing
        source = wanted or f"{model.name} version {model.version}"
        found = ChatTokenizer.load(place, _laid_over(settings, finetune_config), source=source)
    except PhiftError as error:
        return None, _reason(error)
    if found.knows_markers:
        return found, ""
    without = f"No {_SETTINGS} says what opens a turn, so it is not known which tokens are trained on."
    return found, f"{without} {missing}".rstrip()


def _fetched(clients: Clients, model: FoundationModel, cache: Path) -> tuple[Path | None, str]:
    """Return the folder of the registry's tokenizer, or why there is none."""
    try:
        return fetch_tokenizer_files(clients, model, cache), ""
    except PhiftError as error:
        return None, _reason(error)


def _reason(error: PhiftError) -> str:
    return f"{error.what.rstrip('.')} ({error.where})." if error.where else error.what


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the finetune config of the model in ``folder``, as far as it concerns chat; empty without such a file."""
    for place in (".", *_PLACES):
        path = folder / place / _SETTINGS
        if path.is_file():
            return _read(path)
    return {}


def _read(path: Path) -> dict[str, Any]:
    fix = "mend the file"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("The finetune config cannot be read as JSON.", where=str(path), fix=fix) from error
    if isinstance(document, dict) and str(document.get("version")) == "2":
        tasks = document.get("task_specific_config")
        document = tasks.get("ChatCompletion", {}) if isinstance(tasks, dict) else {}
    if not isinstance(document, dict):
        raise ModelError("The finetune config is not a JSON object.", where=str(path), fix=fix)
    return document


def _laid_over(settings: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    """Return ``settings`` with those of a file on top, key by key."""
    own = _read(path) if path else {}
    merged = {**settings, **own}
    below, above = settings.get("chat_special_tokens"), own.get("chat_special_tokens")
    if isinstance(below, dict) and isinstance(above, dict):
        merged["chat_special_tokens"] = {**below, **above}
    return merged


def _markers(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return the texts that open an assistant's and a user's turn, empty where the settings do not say."""
    markers = settings.get("chat_special_tokens")
    found = []
    for key in ("response_template", "instruction_template"):
        value = markers.get(key) if isinstance(markers, dict) else None
        value = value.get("content") if isinstance(value, dict) else value
        found.append(value if isinstance(value, str) else "")
    return found[0], found[1]


def _tokenizer_folder(folder: Path) -> Path:
    places = [folder / place for place in _PLACES]
    for place in places:
        if (place / "tokenizer_config.json").is_file() or (place / "tokenizer.json").is_file():
            return place
    fix = "give a folder with tokenizer_config.json, or an MLflow model"
    raise ModelError("There is no tokenizer in the folder.", where=str(folder), fix=fix)


def local_folder(place: str | Path) -> Path:
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


def _open(folder: Path) -> Any:
    auto = _import_tokenizers()
    with _tokenizer_errors(str(folder)), _silence():
        return auto.from_pretrained(folder, trust_remote_code=False)


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


class _SystemMessage(ValueError):
    """A system message where the component takes none."""


def _without_system(messages: list[Any]) -> list[Any]:
    """Return ``messages`` with the system text in front of the first user text, as the component does."""
    roles = [message.get("role") for message in messages]
    if "system" not in roles:
        return messages
    if roles.count("system") > 1 or roles[0] != "system":
        raise _SystemMessage("the model takes one system message only, and only first")
    if "user" not in roles:
        raise _SystemMessage("the model takes no system message without a user message")
    first, *rest = messages
    index = roles.index("user") - 1
    merged = {**rest[index], "content": f"{first['content']}\n\n{rest[index]['content']}"}
    return [*rest[:index], merged, *rest[index + 1 :]]


def _starts(ids: list[int], marker: Sequence[int]) -> Iterator[int]:
    """Yield where ``marker`` begins in ``ids``."""
    wanted, at = list(marker), -1
    while True:
        try:
            at = ids.index(wanted[0], at + 1)  # at C's speed; a row has thousands of tokens and few markers
        except ValueError:
            return
        if ids[at : at + len(wanted)] == wanted:
            yield at
