"""Step 3: rows become tokens, and it is decided what is trained on."""

from __future__ import annotations

import codecs
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile
from transformers import AutoTokenizer

from phift.component.finetune_config import FinetuneConfig
from phift.component.preprocessing import COLUMNS, LEAST_TRAINING_ROWS, SPLITS, ChatTokenizer, Refused, kept_messages
from phift.component.settings import Settings
from phift.errors import DataError
from phift.local.work.engine import process
from phift.local.work.engine.job import Job, empty_folder

_log = logging.getLogger(__name__)

COUNTS = "counts.json"
IGNORED = -100  # the label that torch's cross-entropy leaves out

# What became of the rows of a split. They were read, and dropped: `messages` null, empty or of one; `tools` null or
# empty although the file has that column; no assistant token left, mostly after truncation. A row that was cut counts
# as truncated whether or not it was kept. The tokens are those of the kept rows.
_DROPPED = ("without_messages", "too_short", "without_tools", "without_answer")

Placed = tuple[str, Mapping[str, Any]]  # the place is the file's name and the line or row, from 1


def run(job: Job) -> None:
    """Write the tokens of every split and what was dropped on the way."""
    settings = Settings.parse(job.inputs)
    (chat,) = process.limited(_opened(job.model), "mlflow_model_path")
    limit = chat.limit(settings.max_seq_length)
    empty_folder(job.data)
    counts = {split: _write(rows, chat, limit, job.data / f"{split}.jsonl") for split, rows in split_rows(job).items()}
    for split, count in counts.items():
        _log.info("%s: %s", split, ", ".join(f"{name} {value}" for name, value in count.items()))
    train = counts["train"]
    if train["without_answer"] and not train["assistant_tokens"]:
        what = "No assistant tokens were found in the training rows after preprocessing."
        raise DataError(what, where="train_file_path", fix="raise max_seq_length, or add assistant messages")
    if train["kept"] < LEAST_TRAINING_ROWS:
        what = f"Training dataset has {train['kept']} usable rows, which is fewer than {LEAST_TRAINING_ROWS}."
        raise DataError(what, where="train_file_path", fix="add rows; the step's log says why rows were dropped")
    if settings.evaluates and not counts["validation"]["kept"]:
        fix = "add validation rows, or set evaluation_strategy to disable"
        raise DataError("No validation rows are left.", where="validation_file_path", fix=fix)
    (job.data / COUNTS).write_text(json.dumps(counts), encoding="utf-8")


def _opened(model: Path) -> Iterator[ChatTokenizer]:
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    yield ChatTokenizer.of(tokenizer, FinetuneConfig.load(model))


def split_rows(job: Job) -> dict[str, list[Placed]]:
    """Return the rows of each split; what has no file of its own is cut from the training file, by position.

    Every row has the columns that any row of its file has, null where it had none: the component reads tables.
    """
    files: dict[str, list[Placed]] = {}
    for split in SPLITS:
        if path := job.input_path(f"{split}_file_path"):
            rows = list(read_rows(path))
            columns = [name for name in COLUMNS if any(name in row for _, row in rows)]
            files[split] = [(place, {name: row.get(name) for name in columns}) for place, row in rows]
    if len(files) < len(SPLITS):
        train = files["train"]
        cut, middle = round(0.8 * len(train)), round(0.9 * len(train))
        validation = train[cut : None if "test" in files else middle]
        test = train[cut if "validation" in files else middle :]
        files = {"validation": validation, "test": test, **files, "train": train[:cut]}
    return {split: files[split] for split in SPLITS}


def read_rows(path: Path) -> Iterator[Placed]:
    """Yield every row with its place, for messages; blanks around the names of columns are stripped."""
    if path.suffix not in (".parquet", ".json", ".jsonl"):
        what = f"A {path.suffix} cell is text, and messages must be a list."
        raise DataError(what, where=path.name, fix="write the rows as JSONL or parquet")
    for place, row in _values(path):
        if not isinstance(row, Mapping):
            raise DataError("A row is not an object.", where=place, fix='write {"messages": […]}')
        yield place, {name.strip(): value for name, value in row.items()}


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".parquet":
        try:
            with ParquetFile(path) as file:
                rows = file.read().to_pylist()
        except (ArrowException, ValueError, ArithmeticError, OSError) as error:
            # Arrow's word for a broken page is OSError, and Python has not all of its values; the text may quote one.
            what = f"Not a parquet file that can be read ({type(error).__name__})."
            raise DataError(what, where=path.name, fix="write it again") from None
    elif path.suffix == ".json" and (content := path.read_bytes()).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[":
        rows = _parse(content, path.name)
    else:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    place = f"{path.name}, line {number}"
                    yield place, _parse(line, place)
        return
    for number, row in enumerate(rows, start=1):
        yield f"{path.name}, row {number}", row


def _parse(content: bytes, place: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        what = f"Not JSON: {error.msg}."
    except ValueError:
        what = "Not JSON: not UTF-8."  # the error's own text would quote the bytes
    except RecursionError:
        what = "It is nested too deeply."
    raise DataError(what, where=place, fix="mend or remove it")


def _write(placed: Sequence[Placed], chat: ChatTokenizer, limit: int | None, path: Path) -> dict[str, int]:
    """Write the tokens and labels of a split's rows, and return what became of them."""
    counts = {"read": len(placed), **dict.fromkeys((*_DROPPED, "truncated", "kept", "tokens", "assistant_tokens"), 0)}
    with path.open("w", encoding="utf-8") as file:
        for place, messages, ids in process.limited(_encoded(placed, chat), "mlflow_model_path"):
            if isinstance(messages, str):
                counts[messages] += 1
                continue
            if isinstance(ids, Refused):
                what = f"Failure while applying the chat template: {ids.reason}; the row has {shape(messages)}."
                raise DataError(what, where=place, fix="mend or remove the row")
            counts["truncated"] += limit is not None and len(ids) > limit
            ids = ids[:limit]
            spans = chat.spans(ids)
            if not spans:
                counts["without_answer"] += 1
                continue
            labels = [IGNORED] * len(ids)
            for start, end in spans:
                labels[start:end] = ids[start:end]
            counts["kept"] += 1
            counts["tokens"] += len(ids)
            counts["assistant_tokens"] += sum(end - start for start, end in spans)
            file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")
    return counts


def _encoded(
    placed: Sequence[Placed], chat: ChatTokenizer
) -> Iterator[tuple[str, list[Any] | str, list[int] | Refused]]:
    """Yield each row's place, its messages or as what it is dropped, and its tokens."""
    for place, row in placed:
        messages = kept_messages(row, place)
        (ids,) = [[]] if isinstance(messages, str) else chat.encode_batch([{**row, "messages": messages}])
        yield place, messages, ids


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
