"""Step 3: rows become tokens, and it is decided what is trained on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from phift.component.finetune_config import FinetuneConfig
from phift.component.preprocessing import COLUMNS, LEAST_TRAINING_ROWS, SPLITS, kept_messages
from phift.component.settings import Settings
from phift.component.tokenizer import ChatTokenizer
from phift.errors import DataError
from phift.local.work.engine import rows
from phift.local.work.engine.job import Job, empty_folder
from phift.local.work.engine.rows import Placed

_log = logging.getLogger(__name__)

COUNTS = "counts.json"
IGNORED = -100  # the label that torch's cross-entropy leaves out


@dataclass
class Counts:
    """What became of the rows of one split.

    - **read**: rows in the file that fell to this split.
    - **without_messages**, **too_short**: dropped, ``messages`` null or empty, or fewer than two.
    - **without_tools**: dropped, ``tools`` null or empty although the file has that column.
    - **without_answer**: dropped, no assistant token left, mostly after truncation.
    - **truncated**: cut at ``max_seq_length``; counted whether or not the row was kept.
    - **kept**, **tokens**, **assistant_tokens**: what is trained or evaluated on.
    """

    read: int = 0
    without_messages: int = 0
    too_short: int = 0
    without_tools: int = 0
    without_answer: int = 0
    truncated: int = 0
    kept: int = 0
    tokens: int = 0
    assistant_tokens: int = 0


def run(job: Job) -> None:
    """Write the tokens of every split and what was dropped on the way."""
    settings = Settings.parse(job.inputs)
    tokenizer = AutoTokenizer.from_pretrained(job.model, trust_remote_code=False)
    chat = ChatTokenizer.of(tokenizer, FinetuneConfig.load(job.model))
    limit = chat.limit(settings.max_seq_length)
    empty_folder(job.data)
    counts = {split: _write(placed, chat, limit, job.data / f"{split}.jsonl") for split, placed in split_rows(job)}
    for split, count in counts.items():
        _log.info("%s: %s", split, ", ".join(f"{name} {value}" for name, value in asdict(count).items()))
    train = counts["train"]
    if train.without_answer and not train.assistant_tokens:
        what = "No assistant tokens were found in the training rows after preprocessing."
        raise DataError(what, where="train_file_path", fix="raise max_seq_length, or add assistant messages")
    if train.kept < LEAST_TRAINING_ROWS:
        what = f"Training dataset has {train.kept} usable rows, which is fewer than {LEAST_TRAINING_ROWS}."
        raise DataError(what, where="train_file_path", fix="add rows; the step's log says why rows were dropped")
    if settings.evaluates and not counts["validation"].kept:
        fix = "add validation rows, or set evaluation_strategy to disable"
        raise DataError("No validation rows are left.", where="validation_file_path", fix=fix)
    summary = {split: asdict(count) for split, count in counts.items()}
    (job.data / COUNTS).write_text(json.dumps(summary), encoding="utf-8")


def split_rows(job: Job) -> Iterator[tuple[str, list[Placed]]]:
    """Yield the rows of each split; what has no file of its own is cut from the training file, by position."""
    paths = {split: job.input_path(f"{split}_file_path") for split in SPLITS}
    files = {split: _table(path) for split, path in paths.items() if path}
    if len(files) < len(SPLITS):
        train = files["train"]
        cut, middle = round(0.8 * len(train)), round(0.9 * len(train))
        validation = train[cut : None if "test" in files else middle]
        test = train[cut if "validation" in files else middle :]
        files = {"validation": validation, "test": test, **files, "train": train[:cut]}
    for split in SPLITS:
        yield split, files[split]


def _table(path: Path) -> list[Placed]:
    """Read rows with the columns that any row of the file has, null where it had none: the component reads tables."""
    placed = list(rows.read(path))
    columns = [name for name in COLUMNS if any(name in row for _, row in placed)]
    return [(place, {name: row.get(name) for name in columns}) for place, row in placed]


def _write(placed: Sequence[Placed], chat: ChatTokenizer, limit: int | None, path: Path) -> Counts:
    counts = Counts(read=len(placed))
    with path.open("w", encoding="utf-8") as file:
        for place, row in placed:
            ids = _tokens(row, chat, place)
            if isinstance(ids, str):
                setattr(counts, ids, getattr(counts, ids) + 1)
                continue
            counts.truncated += limit is not None and len(ids) > limit
            ids = ids[:limit]
            spans = chat.spans(ids)
            if not spans:
                counts.without_answer += 1
                continue
            labels = [IGNORED] * len(ids)
            for start, end in spans:
                labels[start:end] = ids[start:end]
            counts.kept += 1
            counts.tokens += len(ids)
            counts.assistant_tokens += sum(end - start for start, end in spans)
            file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")
    return counts


def _tokens(row: rows.Row, chat: ChatTokenizer, place: str) -> list[int] | str:
    """Return a row's tokens, not yet cut, or the count of `Counts` that it is dropped under.

    An error names row and roles only, for what the template says may quote the text.
    """
    messages: Any = ()
    try:
        messages = kept_messages(row)
        if isinstance(messages, str):
            return messages
        return chat.encode(chat.text({**row, "messages": messages}))
    except DataError as error:
        raise DataError(error.what, where=place, fix=error.fix) from None
    except Exception as error:  # noqa: BLE001 - a template is a program: it may raise anything
        what = f"Failure while applying the chat template: {type(error).__name__}; the row has {shape(messages)}."
        raise DataError(what, where=place, fix="mend or remove the row") from None


def shape(messages: Sequence[Any]) -> str:
    """Say what the messages look like without saying what they say, for an error message."""
    said = []
    for message in messages[:8]:
        if not isinstance(message, Mapping):
            said.append(type(message).__name__)
            continue
        role, content = message.get("role"), message.get("content")
        known = role if role in ("system", "user", "assistant") else f"unknown role ({type(role).__name__})"
        said.append(known if isinstance(content, str) else f"{known} with content of type {type(content).__name__}")
    return ", ".join(said) + (", …" if len(messages) > 8 else "")
