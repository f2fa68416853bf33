from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from phift.component.preprocessing import ChatTokenizer
from phift.errors import DataError, ModelError
from phift.local.work import standin
from phift.local.work.engine import preprocess, process
from phift.local.work.engine.job import Job
from phift.local.work.engine.preprocess import IGNORED


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    standin.write_checkpoint(folder, "Phi-3-mini-4k-instruct")
    return folder


def chat(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]}


def rows(count: int, name: str = "q") -> list[dict[str, Any]]:
    return [chat(f"{name}{number}", "answer") for number in range(count)]


def job(folder: Path, model: Path, files: dict[str, Sequence[Any]], **inputs: str) -> Job:
    work = folder / "work"
    work.mkdir()
    (work / "model").symlink_to(model, target_is_directory=True)
    for split, content in files.items():
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        inputs[f"{split}_file_path"] = str(path)
    return Job("job", inputs, {}, (), work, "http://127.0.0.1:1")


def three(train: Sequence[Any]) -> dict[str, Sequence[Any]]:
    return {"train": train, "validation": rows(2), "test": rows(2)}


def counts(job: Job) -> dict[str, dict[str, int]]:
    document: dict[str, dict[str, int]] = json.loads((job.data / preprocess.COUNTS).read_text())
    return document


def examples(job: Job, split: str = "train") -> list[dict[str, list[int]]]:
    return [json.loads(line) for line in (job.data / f"{split}.jsonl").read_text().splitlines()]


def trained_text(job: Job, model: Path, index: int = 0) -> str:
    from transformers import AutoTokenizer

    labels = [label for label in examples(job)[index]["labels"] if label != IGNORED]
    return str(AutoTokenizer.from_pretrained(model).decode(labels))


def trained_spans(ids: list[int], response: Sequence[int], instruction: Sequence[int]) -> list[tuple[int, int]]:
    tokenizer = ChatTokenizer(tokenizer=None, response=tuple(response), instruction=tuple(instruction))
    return tokenizer.spans(ids)


def test_the_assistants_turns_are_trained_on() -> None:
    user, assistant = 8, 9
    ids = [user, 1, assistant, 2, 3, user, 4, assistant, 5, 6]
    assert trained_spans(ids, [assistant], [user]) == [(3, 5), (8, 10)]


def test_markers_of_several_tokens() -> None:
    assert trained_spans([7, 8, 1, 7, 9, 2, 7, 8, 3], [7, 9], [7, 8]) == [(5, 6)]


@pytest.mark.parametrize("ids", [[1, 2], [8, 1, 2], [9, 1, 2], [8, 1, 9]])
def test_nothing_to_train_on(ids: list[int]) -> None:
    assert trained_spans(ids, [9], [8]) == []


def test_the_loss_covers_the_answer_and_every_end_marker(tmp_path: Path, model: Path) -> None:
    job_ = job(tmp_path, model, three([chat("hi", "one", "more", "two")] * 10))
    preprocess.run(job_)
    assert trained_text(job_, model) == "\none<|end|>\n\ntwo<|end|>\n<|endoftext|>"


def test_system_text_reaches_a_model_without_that_role(tmp_path: Path, model: Path) -> None:
    from transformers import AutoTokenizer

    row = chat("hi", "one")
    row["messages"].insert(0, {"role": "system", "content": "be brief"})
    job_ = job(tmp_path, model, three([row] * 10))
    preprocess.run(job_)
    text = AutoTokenizer.from_pretrained(model).decode(examples(job_)[0]["input_ids"])
    assert text.startswith("<|user|>\nbe brief\n\nhi<|end|>")


def test_what_is_dropped_is_counted(tmp_path: Path, model: Path) -> None:
    extra: list[Any] = [{"messages": None}, {"messages": []}, chat("alone"), chat("x" * 300, "cut off")]
    with_null = chat("q", "a")
    with_null["messages"][0]["thinking"] = None
    job_ = job(tmp_path, model, three([*rows(10), *extra, with_null]), max_seq_length="40")
    preprocess.run(job_)
    train = counts(job_)["train"]
    assert (train["read"], train["kept"]) == (15, 11)
    assert (train["without_messages"], train["too_short"], train["without_answer"], train["truncated"]) == (2, 1, 1, 1)
    assert train["tokens"] == sum(len(example["input_ids"]) for example in examples(job_))
    assert 0 < train["assistant_tokens"] < train["tokens"]


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        (("train",), (16, 2, 2)),
        (("train", "test"), (16, 4, 5)),
        (("train", "validation"), (16, 3, 4)),
        (("train", "validation", "test"), (20, 3, 5)),
    ],
)
def test_splits(tmp_path: Path, model: Path, given: tuple[str, ...], sizes: tuple[int, int, int]) -> None:
    content = {"train": rows(20), "validation": rows(3), "test": rows(5)}
    job_ = job(tmp_path, model, {split: content[split] for split in given})
    preprocess.run(job_)
    counted = counts(job_)
    assert (counted["train"]["read"], counted["validation"]["read"], counted["test"]["read"]) == sizes


def test_splits_are_cut_by_position(tmp_path: Path, model: Path) -> None:
    job_ = job(tmp_path, model, {"train": rows(20)})
    parts = dict(preprocess.split_rows(job_))
    assert [place for place, _ in parts["validation"]] == ["train.jsonl, line 17", "train.jsonl, line 18"]


def test_too_few_rows(tmp_path: Path, model: Path) -> None:
    with pytest.raises(DataError, match="9 usable rows"):
        preprocess.run(job(tmp_path, model, three([*rows(9), {"messages": []}])))


def test_no_assistant_tokens(tmp_path: Path, model: Path) -> None:
    with pytest.raises(DataError, match="No assistant tokens"):
        preprocess.run(job(tmp_path, model, three(rows(12)), max_seq_length="4"))


def test_no_validation_rows(tmp_path: Path, model: Path) -> None:
    files = {**three(rows(12)), "validation": [{"messages": []}]}
    with pytest.raises(DataError, match="No validation rows"):
        preprocess.run(job(tmp_path, model, files))


def test_no_validation_rows_and_no_evaluation(tmp_path: Path, model: Path) -> None:
    files = {**three(rows(12)), "validation": [{"messages": []}]}
    job_ = job(tmp_path, model, files, evaluation_strategy="disable")
    preprocess.run(job_)
    assert counts(job_)["validation"]["kept"] == 0


SECRET = "the-secret-text"


@pytest.mark.parametrize(
    "bad",
    [
        [{"role": SECRET, "content": "x"}, {"role": "user", "content": SECRET}],
        [{"role": "user"}, {"role": "assistant", "content": SECRET}],
        [{"role": "user", "content": [SECRET]}, {"role": "assistant", "content": SECRET}],
        [{"role": "user", "content": SECRET}, {"role": "system", "content": SECRET}],
        [SECRET, SECRET],
        SECRET,
    ],
)
def test_a_row_that_the_template_refuses_is_named_not_quoted(tmp_path: Path, model: Path, bad: Any) -> None:
    with pytest.raises(DataError) as raised:
        preprocess.run(job(tmp_path, model, three([*rows(11), {"messages": bad}])))
    assert raised.value.where == "train.jsonl, line 12"
    assert SECRET not in str(raised.value)


def test_a_missing_column(tmp_path: Path, model: Path) -> None:
    with pytest.raises(DataError, match="no column messages"):
        preprocess.run(job(tmp_path, model, three([{"chat": []}])))


LOOPS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3


def with_template(model: Path, folder: Path, text: str) -> Path:
    own = shutil.copytree(model, folder / "own")
    (own / "chat_template.jinja").write_text(text)
    return own


@pytest.mark.skipif(sys.platform != "linux", reason="nothing else limits its data")
def test_a_template_that_fills_the_memory_is_told(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MEMORY", 1 << 30)
    own = with_template(model, tmp_path, "{{ 'a' * (2 * 10**9) }}")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(ModelError, match="more than 1 GB of memory for a row"):
        preprocess.run(job(tmp_path, own, three(rows(20))))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_tokenizer_that_panics_is_told(tmp_path: Path, model: Path) -> None:
    own = with_template(model, tmp_path, "{{ messages[0].content }}")
    document = json.loads((own / "tokenizer.json").read_text())
    steps = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    (own / "tokenizer.json").write_text(json.dumps({**document, "pre_tokenizer": steps}))
    with pytest.raises(ModelError, match="fail with a PanicException"):
        preprocess.run(job(tmp_path, own, three(rows(20, "a" * 40 + "!"))))


RUN = """
import sys
from pathlib import Path
from phift.local.work.engine import preprocess, process
from phift.local.work.engine.job import Job

process.SECONDS = 2
inputs = {f"{split}_file_path": f"{sys.argv[1]}/{split}.jsonl" for split in ("train", "validation", "test")}
preprocess.run(Job("job", inputs, {}, (), Path(sys.argv[1]) / "work", "http://127.0.0.1:1"))
"""


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="nothing ends it")
@pytest.mark.parametrize("text", [LOOPS, "{{ 9**(9**9) }}"], ids=["loops", "one call"])
def test_a_template_that_never_ends_is_the_end_of_the_process(tmp_path: Path, model: Path, text: str) -> None:
    job(tmp_path, with_template(model, tmp_path, text), three(rows(20)))
    done = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], timeout=120)  # noqa: S603 - the text above
    assert done.returncode == -signal.SIGALRM
