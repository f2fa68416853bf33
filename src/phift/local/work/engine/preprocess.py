"""Step 3: rows become tokens, and it is decided what is trained on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from phift.errors import DataError, PhiftError
from phift.local.work.engine import rows
from phift.local.work.engine.chat import Message, shape, without_system
from phift.local.work.engine.finetune_config import FinetuneConfig
from phift.local.work.engine.job import Job, empty_folder
from phift.local.work.engine.parameters import Parameters
from phift.local.work.engine.rows import Placed
from phift.local.work.engine.validate import SPLITS

_log = logging.getLogger(__name__)

COUNTS = "counts.json"
IGNORED = -100  # the label that torch's cross-entropy leaves out
_MIN_TRAINING_ROWS = 10
_COLUMNS = ("messages", "tools")  # the component removes every other one


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


@dataclass(frozen=True)
class Encoder:
    """Turns conversations into token ids and labels for one model."""

    tokenizer: PreTrainedTokenizerBase
    config: FinetuneConfig
    limit: int
    response: list[int]
    instruction: list[int]

    @classmethod
    def load(cls, model: Path, parameters: Parameters) -> Encoder:
        """Open the tokenizer in ``model``."""
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        config = FinetuneConfig.load(model)
        if config.chat_template:
            tokenizer.chat_template = config.chat_template
        limit = tokenizer.model_max_length
        if parameters.max_seq_length > 0:
            limit = min(limit, parameters.max_seq_length)
        response, instruction = (
            tokenizer.encode(marker, add_special_tokens=False)
            for marker in (config.response_template, config.instruction_template)
        )
        return cls(tokenizer, config, limit, response, instruction)

    def encode(self, messages: Sequence[Message], tools: Any = None) -> list[int]:
        """Return the ids of the whole conversation, not yet cut."""
        if not self.config.system_role_supported:
            messages = without_system(messages)
        text = self.tokenizer.apply_chat_template(list(messages), tools=tools, tokenize=False)
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def assistant_labels(ids: Sequence[int], response: Sequence[int], instruction: Sequence[int]) -> list[int]:
    """Return the labels: ids after each ``response`` marker up to the next ``instruction`` marker, else ignored.

    As in the component, ids that hold only one of the two markers have nothing to train on, and markers go in pairs:
    the n-th ``instruction`` hides everything up to the n-th ``response``, and one too many hides the rest. So a text
    that holds a marker, or a user who speaks twice, hides answers.
    """
    answers = list(_ends(ids, response))
    questions = [end - len(instruction) for end in _ends(ids, instruction)]
    if not answers or not questions:
        return [IGNORED] * len(ids)
    labels = list(ids)
    if questions[0] > answers[0]:
        questions.insert(0, 0)
    for question, answer in zip([0, *questions[1:]], answers, strict=False):
        labels[question:answer] = [IGNORED] * max(0, answer - question)
    if len(questions) > len(answers):
        labels[questions[-1] :] = [IGNORED] * (len(ids) - questions[-1])
    return labels


def _ends(ids: Sequence[int], marker: Sequence[int]) -> Iterator[int]:
    """Yield the position after each occurrence of ``marker``."""
    size = len(marker)
    for start in range(len(ids) - size + 1):
        if ids[start] == marker[0] and list(ids[start : start + size]) == list(marker):
            yield start + size


def run(job: Job) -> None:
    """Write the tokens of every split and what was dropped on the way."""
    parameters = Parameters.read(job.inputs)
    encoder = Encoder.load(job.model, parameters)
    empty_folder(job.data)
    counts = {split: _write(placed, encoder, job.data / f"{split}.jsonl") for split, placed in split_rows(job)}
    for split, count in counts.items():
        _log.info("%s: %s", split, ", ".join(f"{name} {value}" for name, value in asdict(count).items()))
    _check(counts, parameters)
    summary = {split: asdict(count) for split, count in counts.items()}
    (job.data / COUNTS).write_text(json.dumps(summary), encoding="utf-8")


def _check(counts: Mapping[str, Counts], parameters: Parameters) -> None:
    train = counts["train"]
    if train.without_answer and not train.assistant_tokens:
        what = "No assistant tokens were found in the training rows after preprocessing."
        raise DataError(what, where="train_file_path", fix="raise max_seq_length, or add assistant messages")
    if train.kept < _MIN_TRAINING_ROWS:
        what = f"Training dataset has {train.kept} usable rows, which is fewer than {_MIN_TRAINING_ROWS}."
        raise DataError(what, where="train_file_path", fix="add rows; the step's log says why rows were dropped")
    if parameters.evaluates and not counts["validation"].kept:
        fix = "add validation rows, or set evaluation_strategy to disable"
        raise DataError("No validation rows are left.", where="validation_file_path", fix=fix)


def split_rows(job: Job) -> Iterator[tuple[str, list[Placed]]]:
    """Yield the rows of each split; what has no file of its own is cut from the training file, by position."""
    paths = {split: job.input_path(f"{split}_file_path") for split in SPLITS}
    files = {split: _as_table(list(rows.read(path))) for split, path in paths.items() if path}
    train = files["train"]
    if len(files) == len(SPLITS):
        yield from files.items()
        return
    cut = round(0.8 * len(train))
    yield "train", train[:cut]
    if "test" in files:
        yield "validation", train[cut:]
        yield "test", files["test"]
    elif "validation" in files:
        yield "validation", files["validation"]
        yield "test", train[cut:]
    else:
        middle = round(0.9 * len(train))
        yield "validation", train[cut:middle]
        yield "test", train[middle:]


def _as_table(placed: Sequence[Placed]) -> list[Placed]:
    """Give every row the columns that any row of the file has, null where it had none: the component reads tables."""
    columns = [name for name in _COLUMNS if any(name in row for _, row in placed)]
    return [(place, {name: row.get(name) for name in columns}) for place, row in placed]


def _write(placed: Sequence[Placed], encoder: Encoder, path: Path) -> Counts:
    counts = Counts()
    with path.open("w", encoding="utf-8") as file:
        for place, row in placed:
            counts.read += 1
            messages = _messages(row, place, counts)
            if messages is None:
                continue
            ids = _apply_template(encoder, messages, row.get("tools"), place)
            counts.truncated += len(ids) > encoder.limit
            ids = ids[: encoder.limit]
            labels = assistant_labels(ids, encoder.response, encoder.instruction)
            trained = sum(label != IGNORED for label in labels)
            if not trained:
                counts.without_answer += 1
                continue
            counts.kept += 1
            counts.tokens += len(ids)
            counts.assistant_tokens += trained
            file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")
    return counts


def _messages(row: rows.Row, where: str, counts: Counts) -> list[Any] | None:
    """Return the row's messages without null keys, or None if the component would drop the row."""
    if "messages" not in row:
        raise DataError("There is no column messages.", where=where, fix="rename the column that holds the chat")
    messages = row["messages"]
    if not messages:
        counts.without_messages += 1
        return None
    if "tools" in row and not row["tools"]:
        counts.without_tools += 1
        return None
    if not isinstance(messages, list):
        what = f"messages is of type {type(messages).__name__}, not a list."
        raise DataError(what, where=where, fix='write [{"role": …, "content": …}, …]')
    if len(messages) < 2:
        counts.too_short += 1
        return None
    return [
        {key: value for key, value in message.items() if value is not None} if isinstance(message, dict) else message
        for message in messages
    ]


def _apply_template(encoder: Encoder, messages: Sequence[Any], tools: Any, where: str) -> list[int]:
    """Return the ids; the error names row and roles only, for what the template says may quote the text."""
    try:
        return encoder.encode(messages, tools)
    except PhiftError as error:
        raise DataError(error.what, where=where, fix=error.fix) from None
    except Exception as error:  # noqa: BLE001 - a template is a program: it may raise anything
        what = f"Failure while applying the chat template: {type(error).__name__}; the row has {shape(messages)}."
        raise DataError(what, where=where, fix="mend or remove the row") from None
