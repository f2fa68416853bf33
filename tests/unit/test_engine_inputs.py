from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phift.component import finetune_config
from phift.component.finetune_config import FinetuneConfig
from phift.component.preprocessing import without_system
from phift.component.settings import Settings
from phift.errors import DataError, DataNotFound, ModelError, ParameterError, PhiftError
from phift.local.question import check_question
from phift.local.work.engine import process, validate
from phift.local.work.engine.job import Job
from phift.local.work.engine.preprocess import read_rows, shape
from phift.local.work.engine.validate import not_applied


def job(tmp_path: Path, **inputs: str) -> Job:
    return Job("job", inputs, {}, (), tmp_path / "work", "http://127.0.0.1:1")


def ready_job(tmp_path: Path, **inputs: str) -> Job:
    train = tmp_path / "train.jsonl"
    train.write_text("{}\n")
    return job(tmp_path, **{"train_file_path": str(train), "mlflow_model_path": str(tmp_path), **inputs})


def test_defaults_are_the_components() -> None:
    settings = Settings.parse({})
    assert settings.learning_rate == 2e-5
    assert settings.adam_epsilon == 1e-8
    assert settings.apply_lora is False
    assert settings.max_seq_length == -1


def test_text_is_parsed() -> None:
    settings = Settings.parse({"learning_rate": "1e-3", "num_train_epochs": "3", "apply_lora": "true"})
    assert (settings.learning_rate, settings.num_train_epochs, settings.apply_lora) == (1e-3, 3, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "abc"),
        ("learning_rate", "nan"),
        ("num_train_epochs", "0"),
        ("num_train_epochs", "1.5"),
        ("apply_lora", "True"),
        ("optim", "sgd"),
        ("precision", "8"),
        ("no_such_input", "1"),
    ],
)
def test_a_wrong_literal_is_named(name: str, value: str) -> None:
    with pytest.raises(ParameterError, match=name):
        Settings.parse({name: value})


@pytest.mark.parametrize(
    "inputs",
    [
        {"apply_deepspeed": "true", "auto_find_batch_size": "true"},
        {"apply_early_stopping": "true", "evaluation_strategy": "disable"},
        {"learning_rate": "0"},
        {"evaluation_strategy": "steps", "eval_steps": "0"},
        {"logging_steps": "0"},
        {"metric_for_best_model": "f1"},
        {"gradient_accumulation_steps": "0"},
        {"warmup_steps": "-1"},
        {"apply_lora": "true", "lora_r": "0"},
        {"lora_dropout": "1.0"},
        {"max_seq_length": "0"},
        {"apply_early_stopping": "true", "early_stopping_patience": "0"},
    ],
)
def test_values_that_cannot_work_together(tmp_path: Path, inputs: dict[str, str]) -> None:
    with pytest.raises(ParameterError):
        validate.run(ready_job(tmp_path, **inputs))


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"evaluation_strategy": "steps", "eval_steps": "0", "evaluation_steps_interval": "0.5"},
        {"evaluation_strategy": "disable", "metric_for_best_model": "f1"},
        {"learning_rate": "5e-6", "apply_deepspeed": "true", "precision": "16"},
    ],
)
def test_values_that_work_together(tmp_path: Path, inputs: dict[str, str]) -> None:
    validate.run(ready_job(tmp_path, **inputs))


def test_what_has_no_meaning_on_a_cpu_is_named_when_it_was_changed() -> None:
    assert not_applied({"apply_deepspeed": "true", "shm_size_finetune": "5g", "learning_rate": "1"}) == [
        "apply_deepspeed"
    ]


def test_a_model_and_training_data_are_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training data"):
        validate.run(job(tmp_path))
    train = ready_job(tmp_path).inputs["train_file_path"]
    with pytest.raises(ModelError, match="no model"):
        validate.run(job(tmp_path, train_file_path=train))
    with pytest.raises(ModelError, match="huggingface_id"):
        validate.run(job(tmp_path, train_file_path=train, huggingface_id="someone/model"))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="validation_file_path"):
        validate.run(ready_job(tmp_path, validation_file_path=str(tmp_path / "none.jsonl")))


@pytest.mark.parametrize(
    ("name", "content"), [("train.txt", "x"), ("empty.jsonl", ""), ("it's.jsonl", "{}"), ("a\\b.jsonl", "{}")]
)
def test_a_file_that_azure_would_refuse(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError):
        validate.run(ready_job(tmp_path, train_file_path=str(tmp_path / name)))


def test_mltable_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="MLTable"):
        validate.run(ready_job(tmp_path, test_mltable_path="azureml:x"))


@pytest.mark.parametrize(
    "document",
    [
        "no json",
        "{}",
        '{"zero_optimization": {"stage": "auto"}}',
        '{"zero_optimization": {"stage": 3}}',
    ],
)
def test_an_own_deepspeed_configuration_is_checked(tmp_path: Path, document: str) -> None:
    path = tmp_path / "ds.json"
    path.write_text(document)
    with pytest.raises(ParameterError):
        validate.run(ready_job(tmp_path, apply_deepspeed="true", deepspeed=str(path)))
    validate.run(ready_job(tmp_path, deepspeed=str(path)))


ROWS: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": text}]} for text in ("ä", "b")]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in ROWS)


def test_rows_of_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\ufeff" + LINES, encoding="utf-8")
    (tmp_path / "b.json").write_text(LINES, encoding="utf-8")
    (tmp_path / "c.json").write_text("\ufeff" + json.dumps(ROWS), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert [row for _, row in read_rows(path)] == ROWS, path.name


def test_rows_know_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(LINES, encoding="utf-8")
    assert [place for place, _ in read_rows(path)] == ["a.jsonl, line 1", "a.jsonl, line 3"]


def test_names_of_columns_are_stripped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{" messages ": []}')
    assert next(read_rows(path))[1] == {"messages": []}


def broken_page() -> bytes:
    """Return a parquet file whose footer is whole and whose only page is not, for which Arrow raises `OSError`."""
    file = io.BytesIO()
    pq.write_table(pa.table({"a": ["x" * 100]}), file, compression="none", use_dictionary=False)
    content = file.getvalue()
    return content[:4] + b"\xff" * 30 + content[34:]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"messages": [}'),
        ("a.jsonl", b'{"messages": "\xff"}'),
        ("a.jsonl", b"[1]"),
        ("a.json", b"[1"),
        ("a.parquet", b"PAR0"),
        ("a.parquet", broken_page()),
        ("a.csv", b"messages\n[]\n"),
    ],
)
def test_rows_that_cannot_be_read(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert name in str(caught.value.where)


def message(role: str, content: object = "text") -> dict[str, object]:
    return {"role": role, "content": content}


def test_system_text_moves_into_the_first_user_text() -> None:
    given = [message("system", "s"), message("user", "u"), message("assistant", "a"), message("user", "v")]
    assert without_system(given) == [message("user", "s\n\nu"), message("assistant", "a"), message("user", "v")]
    assert given[1] == message("user", "u")


@pytest.mark.parametrize(
    "roles", [("user", "system"), ("system", "system", "user"), ("system", "assistant"), ("system",)]
)
def test_a_system_message_that_has_no_place(roles: tuple[str, ...]) -> None:
    with pytest.raises(DataError):
        without_system([message(role) for role in roles])


@pytest.mark.parametrize("roles", [("user",), ("system", "user"), ("user", "assistant", "user")])
def test_questions(roles: tuple[str, ...]) -> None:
    check_question([message(role) for role in roles])


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "text",
        ["text"],
        [{"role": "user"}],
        [message("user", ["text"])],
        [message("tool")],
        [message("assistant"), message("user")],
        [message("user"), message("assistant")],
        [message("user"), message("user")],
        [message("user"), message("assistant"), message("system"), message("user")],
    ],
)
def test_what_is_no_question(messages: object) -> None:
    with pytest.raises(DataError):
        check_question(messages)


def test_the_shape_of_a_row_says_nothing_of_its_text() -> None:
    row = [message("user", "secret"), message("secret", None), "secret"]
    assert shape(row) == "user, unknown role (str) with content of type NoneType, str"


def test_finetune_config(tmp_path: Path) -> None:
    document = {
        "chat_special_tokens": {"response_template": {"content": "<a>"}, "instruction_template": "<u>"},
        "system_role_supported": "false",
        "lora_target_modules": ["qkv_proj"],
    }
    (tmp_path / finetune_config.FILE_NAME).write_text(json.dumps(document))
    config = FinetuneConfig.load(tmp_path)
    assert (config.response_template, config.instruction_template) == ("<a>", "<u>")
    assert config.system_role_supported is False
    assert config.lora_target_modules == ["qkv_proj"]


def test_finetune_config_version_2(tmp_path: Path) -> None:
    markers = {"response_template": "<a>", "instruction_template": "<u>"}
    document = {"version": "2", "task_specific_config": {"ChatCompletion": {"chat_special_tokens": markers}}}
    (tmp_path / finetune_config.FILE_NAME).write_text(json.dumps(document))
    assert FinetuneConfig.load(tmp_path).response_template == "<a>"


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"chat_special_tokens": {"response_template": "<a>"}}'])
def test_a_finetune_config_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / finetune_config.FILE_NAME).write_text(text)
    with pytest.raises(ModelError):
        FinetuneConfig.load(tmp_path)


def test_merge_goes_deep_and_changes_nothing() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert finetune_config.merge(base, {"a": {"b": 4}, "e": 5}) == {"a": {"b": 4, "c": 2}, "d": 3, "e": 5}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_failures_on_one_line() -> None:
    ours = PhiftError("It broke.", where="here", fix="mend it")
    assert process.failure(ours) == "It broke (here): mend it"
    theirs = RuntimeError("no memory token=abc\nsecond line")
    assert process.failure(theirs) == "RuntimeError: no memory token=***"
