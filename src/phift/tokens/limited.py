"""A tokenizer that somebody else has written, in a process of its own whose time and memory are limited.

A chat template is a program, and nearly so is a tokenizer: either can take for ever, fill the memory, or end its
process. So both are opened and used in another one (`phift.data.workers`), and of a row only numbers come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from phift.azure.clients import Clients
from phift.check.models import FoundationModel
from phift.component import finetune_config as config_file
from phift.component.finetune_config import FinetuneConfig
from phift.component.preprocessing import ChatTokenizer, Refused, Row, shortest
from phift.data import hub
from phift.data.workers import Limits, Task, Workers
from phift.errors import ModelError, PhiftError
from phift.tokens.tokenizer import MOST_BYTES, fetch_tokenizer_files, load_tokenizer, local_folder, read_settings

T = TypeVar("T")

LIMITS = Limits(
    what="tokenizer",
    fix="name another one, or a folder that has it, as data.tokenizer",
    error=ModelError,
    memory=4 << 30,
    seconds=180,
    file=MOST_BYTES,
    numpy=True,
)
"""One of the Hub is fetched in that time too; no file of it may be larger than all that is fetched of a registry's."""


@dataclass(frozen=True, kw_only=True)
class LimitedTokenizer:
    """A `ChatTokenizer` in another process, as far as rows are counted and shown; it starts where there is none.

    - **source**: which one it is, for display.
    - **digest**: of all that decides which tokens a row becomes and which are trained on.
    - **knows_markers**: whether it can be said which tokens are trained on.
    - **longest**: the tokens of its longest input, if there is one.
    - **specials**: its special tokens.
    - **opening**: how it is opened there.
    """

    source: str
    digest: str
    knows_markers: bool
    longest: int | None
    specials: tuple[str, ...] = field(repr=False)
    opening: Opening = field(repr=False)
    workers: Workers = field(repr=False, compare=False)

    @classmethod
    def open(cls, opening: Opening, workers: Workers) -> LimitedTokenizer:
        """Open a tokenizer in a process; raises `phift.errors.ModelError`."""
        digest, knows_markers, longest, specials = _only(workers, opening)
        return cls(
            source=opening.path,
            digest=digest,
            knows_markers=knows_markers,
            longest=longest,
            specials=specials,
            opening=opening,
            workers=workers,
        )

    def limit(self, max_seq_length: int) -> int | None:
        """Return after how many tokens the component cuts a row, or None; 0 or less leaves the tokenizer's own."""
        return shortest(self.longest, max_seq_length)

    def count(self, rows: Sequence[Row], limit: int | None) -> list[tuple[int, int] | Refused]:
        """Return each row's tokens before the cut, and of those after it the ones that are trained on.

        Raises `phift.errors.ModelError` where that takes more time or memory than there is for it.
        """
        return _only(self.workers, _Count(self.opening, rows, limit))

    def view(self, row: Row, limit: int | None) -> list[tuple[str, bool]] | Refused:
        """Return each token's part of a row's text and whether it is trained on; raises as `count` does."""
        return _only(self.workers, _View(self.opening, row, limit))


@dataclass(frozen=True)
class Opening:
    """Where a tokenizer lies, and what is said of it elsewhere.

    - **path**: what the user calls it, for errors.
    - **folder**: where it lies.
    - **base**, **over**: a folder and a file with a finetune config that is laid under, or over, the folder's own.
    """

    path: str
    folder: Path
    base: Path | None = None
    over: Path | None = None

    def perform(self, _: Path) -> Iterator[tuple[str, bool, int | None, tuple[str, ...]]]:
        """Yield its digest, whether it knows markers, its longest input, and its special tokens."""
        tokenizer = _opened(self)
        yield tokenizer.digest, tokenizer.knows_markers, tokenizer.limit(-1), tokenizer.specials


@lru_cache(maxsize=1)
def _opened(opening: Opening) -> ChatTokenizer:
    settings = read_settings(opening.folder)
    if opening.base:
        settings = config_file.merge(read_settings(opening.base), settings)
    if opening.over:
        settings = config_file.merge(settings, config_file.read(opening.over))
    return load_tokenizer(opening.folder, settings, source=opening.path)


@dataclass(frozen=True)
class _Locate:
    path: str

    def perform(self, _: Path) -> Iterator[tuple[Path, bool]]:
        """Yield the folder of the tokenizer, fetched if it lies on the Hub, and whether it knows its markers."""
        hub.keep_token()
        folder = local_folder(self.path)
        yield folder, FinetuneConfig.of(read_settings(folder)).has_markers


@dataclass(frozen=True)
class _Count:
    opening: Opening
    rows: Sequence[Row]
    limit: int | None

    @property
    def path(self) -> str:
        return self.opening.path

    def perform(self, _: Path) -> Iterator[list[tuple[int, int] | Refused]]:
        yield _opened(self.opening).count(self.rows, self.limit)


@dataclass(frozen=True)
class _View:
    opening: Opening
    row: Row
    limit: int | None

    @property
    def path(self) -> str:
        return self.opening.path

    def perform(self, _: Path) -> Iterator[list[tuple[str, bool]] | Refused]:
        yield _opened(self.opening).view(self.row, self.limit)


def _only(workers: Workers, task: Task[T]) -> T:
    try:
        return workers.only(task)
    except PhiftError:
        raise  # some of ours are OSErrors too
    except OSError as error:
        what = f"The tokenizer's files cannot be read: {error.strerror}."
        raise ModelError(what, where=str(getattr(task, "path", "")), fix="check them and their rights") from error


def find_tokenizer(
    wanted: str | None,
    clients: Clients | None,
    model: FoundationModel | None,
    cache: Path,
    *,
    finetune_config: Path | None = None,
) -> tuple[LimitedTokenizer | None, str]:
    """Return the tokenizer to count with, and what is missing, in one sentence, if anything is.

    The user's own tokenizer comes before the model's in the registry. It raises nothing of ours: without a tokenizer
    tokens are estimated, and a check goes on.

    - **wanted**: a folder or an id on the Hugging Face Hub (``data.tokenizer``).
    - **clients**, **model**: None leaves the registry alone.
    - **cache**: where the registry's tokenizers are kept.
    - **finetune_config**: the job's own (``finetune_config_path``), laid over the model's.
    """
    if find_spec("transformers") is None:  # then nothing needs to be fetched
        return None, "transformers is not installed, so there is no tokenizer to count with."
    source, missing, base = wanted or (f"{model.name} version {model.version}" if model else ""), "", None
    with ExitStack() as stack:
        workers = Workers(Path(), LIMITS, most=1)
        stack.callback(workers.end)
        try:
            folder, has_markers = _only(workers, _Locate(wanted)) if wanted else (None, False)
            if not has_markers and clients and model:
                try:
                    base = fetch_tokenizer_files(clients, model, cache)
                except PhiftError as error:
                    missing = _reason(error)
            if not (own := folder or base):
                return None, missing
            opening = Opening(source, own, base if folder else None, finetune_config)
            found = LimitedTokenizer.open(opening, workers)
        except PhiftError as error:
            return None, _reason(error)
        stack.pop_all()  # it goes on
    if found.knows_markers:
        return found, ""
    without = f"No {config_file.FILE_NAME} says what opens a turn, so it is not known which tokens are trained on."
    return found, f"{without} {missing}".rstrip()


def _reason(error: PhiftError) -> str:
    return f"{error.what.rstrip('.')} ({error.where})." if error.where else error.what
