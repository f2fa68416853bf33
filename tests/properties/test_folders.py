"""Folders as people have them: the splits in them, what in them is no data, and what `save_to_disk` writes."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from phift.config.data import DataConfig
from phift.data import folders
from phift.data.prepare import PreparedDataset, prepare_dataset
from phift.data.sources import files_of
from phift.errors import DataError, DataNotFound

Rows = list[dict[str, Any]]


def rows(start: int, count: int = 15) -> Rows:
    numbers = range(start, start + count)
    return [{"question": f"How much is {n}?", "answer": f"It is {n}, ü."} for n in numbers]


def write(path: Path, of: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(of), path)
        case ".csv":
            lines = [f'{row["question"]},"{row["answer"]}"\n' for row in of]
            path.write_text("question,answer\n" + "".join(lines), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(of), encoding="utf-8")
        case _:
            path.write_text("".join(json.dumps(row) + "\n" for row in of), encoding="utf-8")
    return path


def prepare(folder: Path, train: Any, **data: Any) -> PreparedDataset:
    return prepare_dataset(DataConfig(train=train, **data), folder / "out")


def numbers(prepared: PreparedDataset) -> dict[str, list[int]]:
    """Return the hundreds that the rows of each split come from."""
    found = {}
    for split, path in prepared.files.items():
        told = [json.loads(line)["messages"][0]["content"] for line in path.read_text("utf-8").splitlines()]
        found[split] = sorted({int(text.split()[-1][:-1]) // 100 for text in told})
    return found


def told(prepared: PreparedDataset) -> dict[str, tuple[str, str]]:
    return {finding.code: (finding.severity, finding.message) for finding in prepared.findings}


LAYOUTS: dict[str, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {
    "mlx": (["train.jsonl"], ["valid.jsonl"], ["test.jsonl"]),
    "hub": (
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        ["data/validation-00000-of-00001.parquet"],
        ["data/test-00000-of-00001.parquet"],
    ),
    "hub, named": (["data/train_sft-0.parquet"], ["data/dev_sft-0.parquet"], ["data/test_sft-0.parquet"]),
    "folders": (["train/a.csv", "train/b.csv"], ["val/a.csv"], ["test/a.csv"]),
    "evaluated": (["training.json"], ["eval.json"], ["testing.json"]),
    "evaluated at the end": (["train.json"], ["dev.json"], ["evaluation.json"]),
    "squad": (["squad-train-v2.jsonl"], ["squad-dev-v2.jsonl"], ["squad-test-v2.jsonl"]),
    "capitals": (["TrainSet1.jsonl", "TrainSet2.jsonl"], ["DevSet.jsonl"], ["TestSet.jsonl"]),
    "unnamed": (["a.jsonl", "b.json"], ["a.val.jsonl"], ["heldout.jsonl"]),
    "held out": (["a.jsonl"], ["dev.jsonl"], ["Held-Out.jsonl"]),
    "held out, below": (["seen/a.jsonl"], ["valdata/a.jsonl"], ["HoldOut/a.jsonl"]),
    "data": (["traindata.jsonl"], ["validData.jsonl"], ["testdata_v2.jsonl"]),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("pattern", ["", "**/*"])
def test_the_splits_of_a_folder_are_its_splits(name: str, pattern: str, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    start = 0
    for hundred, names in enumerate(LAYOUTS[name]):
        for each in names:
            write(folder / each, rows(100 * hundred + start))
            start += 15
        start = 0
    prepared = prepare(tmp_path, folder / pattern)
    assert numbers(prepared) == {"train": [0], "validation": [1], "test": [2]}
    assert prepared.rows == {split: 15 * len(names) for split, names in zip(prepared.rows, LAYOUTS[name], strict=True)}
    severity, message = told(prepared)["DATA_SPLITS_BY_NAME"]
    assert severity == "note"
    assert all(each in message for names in LAYOUTS[name] for each in names)


def test_what_a_folder_lacks_is_split_off(tmp_path: Path) -> None:
    write(tmp_path / "given/train.jsonl", rows(0, 30))
    write(tmp_path / "given/test.jsonl", rows(100))
    prepared = prepare(tmp_path, tmp_path / "given")
    assert numbers(prepared) == {"train": [0], "validation": [0], "test": [1]}
    assert prepared.rows == {"train": 27, "validation": 3, "test": 15}


def test_test_rows_of_a_folder_are_left_out_where_others_are_given(tmp_path: Path) -> None:
    write(tmp_path / "given/train.jsonl", rows(0, 30))
    write(tmp_path / "given/test.jsonl", rows(100))
    other = write(tmp_path / "other.jsonl", rows(200))
    prepared = prepare(tmp_path, tmp_path / "given", test=other)
    assert numbers(prepared)["test"] == [2]
    assert numbers(prepared)["train"] == [0]
    assert told(prepared)["DATA_FILES_LEFT_OUT"][0] == "warning"
    assert "test.jsonl" in told(prepared)["DATA_FILES_LEFT_OUT"][1]


def test_a_folder_can_be_given_for_each_split(tmp_path: Path) -> None:
    for hundred, name in enumerate(("train", "valid", "test")):
        write(tmp_path / f"given/{name}.jsonl", rows(100 * hundred))
    given = tmp_path / "given"
    for data in ({"validation": given, "test": given}, {"test": given / "test.jsonl"}):
        prepared = prepare(tmp_path, given, **data)
        assert numbers(prepared) == {"train": [0], "validation": [1], "test": [2]}
        assert "DATA_FILES_LEFT_OUT" not in told(prepared)


def test_a_folder_of_nothing_but_test_files_is_what_it_is_given_for(tmp_path: Path) -> None:
    write(tmp_path / "given/test-1.jsonl", rows(0))
    write(tmp_path / "given/test-2.jsonl", rows(100))
    prepared = prepare(tmp_path, tmp_path / "given")
    assert sum(prepared.rows.values()) == 30
    assert told(prepared)["DATA_SPLITS_BY_NAME"][0] == "warning"
    assert "DATA_SPLITS_BY_NAME" not in told(prepare(tmp_path, tmp_path / "given/test-1.jsonl"))


def test_a_folder_that_lacks_what_it_is_given_for_is_refused(tmp_path: Path) -> None:
    files = [write(tmp_path / f"given/{name}.jsonl", rows(n)) for n, name in ((0, "valid"), (100, "test"))]
    (tmp_path / "given/train.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match="None of its files is named as data for train") as caught:
        prepare(tmp_path, tmp_path / "given")
    assert (caught.value.where, "valid.jsonl; test: test.jsonl" in caught.value.what) == (str(tmp_path / "given"), True)
    assert sum(prepare(tmp_path, files).rows.values()) == 30


def test_a_folder_without_splits_is_as_one_file(tmp_path: Path) -> None:
    write(tmp_path / "given/contest.jsonl", rows(100))
    write(tmp_path / "given/latest.jsonl", rows(0))
    prepared = prepare(tmp_path, tmp_path / "given")
    one = write(tmp_path / "one.jsonl", [*rows(100), *rows(0)])
    assert prepared.content_hash == prepare(tmp_path, one).content_hash
    assert not {code for code in told(prepared) if "SPLITS" in code or "FILES" in code}


NO_DATA = {
    "README.md": "# Data",
    "LICENSE": "MIT",
    ".gitattributes": "*.parquet filter=lfs",
    "dataset_info.json": '{"description": "", "features": {}, "splits": [{"name": "train"}]}',
    "dataset_infos.json": '{"default": {"features": {}}}',
    "package.json": '{"name": "data", "dependencies": {}}',
    "load.py": "raise SystemExit",
    "_SUCCESS": "x",
    "chat.metadata.json": '{"rows": 30}',
    "cache-0123.arrow": "x",
}


@pytest.mark.parametrize("pattern", ["", "*"])
def test_files_that_are_no_data_are_passed_over_and_named(pattern: str, tmp_path: Path) -> None:
    write(tmp_path / "given/chat.json", rows(0, 30))
    for name, text in NO_DATA.items():
        (tmp_path / "given" / name).write_text(text)
    prepared = prepare(tmp_path, tmp_path / "given" / pattern)
    assert sum(prepared.rows.values()) == 30
    severity, message = told(prepared)["DATA_FILES_PASSED_OVER"]
    assert severity == "note"
    assert all(name in message for name in NO_DATA if not name.startswith("."))


@pytest.mark.parametrize(
    "name",
    ["Thumbs.db", "desktop.ini", "~$chat.xlsx", "chat.json~", "AUTHORS", "_started_12", "finetune.yaml", "figure.PNG"],
)
def test_files_of_programs_are_no_matter_for_a_warning(name: str, tmp_path: Path) -> None:
    write(tmp_path / "given/chat.jsonl", rows(0, 30))
    (tmp_path / "given" / name).write_text("x")
    findings = told(prepare(tmp_path, tmp_path / "given"))
    assert name in findings["DATA_FILES_PASSED_OVER"][1]
    assert "DATA_FILES_LEFT_OUT" not in findings


def test_what_phift_has_prepared_can_be_given(tmp_path: Path) -> None:
    write(tmp_path / "chat.jsonl", [*rows(0, 30), {"question": "x", "answer": ""}])
    before = prepare(tmp_path, tmp_path / "chat.jsonl", bad_rows="set_aside")
    assert before.rejects
    again = prepare(tmp_path, before.folder)
    assert (again.content_hash, again.rows) == (before.content_hash, before.rows)


@pytest.mark.parametrize(
    "name",
    ["more.zip", "more.xlsx", "more.txt", "more.pkl", "part-00000", "more.ods", "more.xml", "chat.jsonl.crdownload"],
)
def test_files_that_may_hold_rows_are_not_passed_over_in_silence(name: str, tmp_path: Path) -> None:
    write(tmp_path / "given/chat.jsonl", rows(0, 30))
    (tmp_path / "given" / name).write_bytes(b"x")
    severity, message = told(prepare(tmp_path, tmp_path / "given"))["DATA_FILES_LEFT_OUT"]
    assert severity == "warning"
    assert name in message
    (tmp_path / "given/chat.jsonl").unlink()
    with pytest.raises(DataError, match="no data files") as caught:
        prepare(tmp_path, tmp_path / "given")
    assert name in (caught.value.fix or "")


def test_a_link_to_a_folder_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    write(tmp_path / "given/chat.jsonl", rows(0, 30))
    write(tmp_path / "far/more.jsonl", rows(100, 30))
    (tmp_path / "given/more").symlink_to(tmp_path / "far")
    assert "more" in told(prepare(tmp_path, tmp_path / "given"))["DATA_FILES_LEFT_OUT"][1]


def test_a_file_beside_a_saved_data_set_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(0, 30)).save_to_disk(str(tmp_path / "given"))
    write(tmp_path / "given/more.jsonl", rows(100, 30))
    findings = told(prepare(tmp_path, tmp_path / "given"))
    assert "more.jsonl" in findings["DATA_FILES_LEFT_OUT"][1]
    assert "state.json" not in findings["DATA_FILES_LEFT_OUT"][1]


@pytest.mark.parametrize(
    ("name", "option"), [("a.jsonl", "delimiter"), ("a.parquet", "delimiter"), ("a.parquet", "encoding")]
)
def test_how_text_is_written_is_not_said_of_other_files(name: str, option: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, rows(0, 30))
    given = {"files": path, option: {"delimiter": ";", "encoding": "utf-8"}[option]}
    with pytest.raises(DataError, match=f"`{option}` is given, and none of the files") as caught:
        prepare(tmp_path, given)
    assert (caught.value.where, caught.value.fix) == (str(path), "leave it out")
    write(tmp_path / "both/b.csv", rows(100))
    write(tmp_path / f"both/{name}", rows(0))
    prepare(tmp_path, {"files": tmp_path / "both", option: {"delimiter": ",", "encoding": "utf-8"}[option]})


# save_to_disk


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def test_a_saved_data_set_is_read_as_its_rows_are(tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(0, 60)).save_to_disk(str(tmp_path / "saved"), num_shards=3)
    sound = prepare(tmp_path, write(tmp_path / "sound.jsonl", rows(0, 60)))
    for given in (tmp_path / "saved", tmp_path / "saved/*.arrow"):
        assert sorted(prepare(tmp_path, given).hashes) == sorted(sound.hashes)
        assert sum(prepare(tmp_path, given).rows.values()) == 60
    one = tmp_path / "one"
    datasets.Dataset.from_list(rows(0, 60)).save_to_disk(str(one))
    assert prepare(tmp_path, one).content_hash == sound.content_hash
    assert prepare(tmp_path, one / "data-00000-of-00001.arrow").content_hash == sound.content_hash


def test_the_splits_of_a_saved_data_set_are_its_splits(tmp_path: Path) -> None:
    splits = {"train": rows(0), "validation": rows(100), "test": rows(200)}
    saved = datasets.DatasetDict({name: datasets.Dataset.from_list(each) for name, each in splits.items()})
    saved.save_to_disk(str(tmp_path / "saved"))
    assert numbers(prepare(tmp_path, tmp_path / "saved")) == {"train": [0], "validation": [1], "test": [2]}


def test_a_saved_data_set_that_is_not_whole_is_an_error(tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(0, 60)).save_to_disk(str(tmp_path / "saved"), num_shards=3)
    part = tmp_path / "saved/data-00001-of-00003.arrow"
    content = part.read_bytes()
    part.unlink()
    with pytest.raises(DataNotFound) as missing:
        prepare(tmp_path, tmp_path / "saved")
    assert missing.value.where == str(part)
    for broken in (content[: len(content) // 2], content[:-300] + b"\xff" * 300, b"x" * 500):
        part.write_bytes(broken)
        with pytest.raises(DataError) as caught:
            prepare(tmp_path, tmp_path / "saved")
        assert caught.value.where == str(part)
        assert caught.value.fix


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"_data_files": [{"filename": "../other.arrow"}]}', "names files of other folders"),
        ('{"_data_files": [{"filename": "/etc/passwd"}]}', "names files of other folders"),
        (
            '{"_data_files": [{"filename": "a.arrow"}], "_indices_files": [{"filename": "i.arrow"}]}',
            "a choice of the rows",
        ),
    ],
)
def test_a_state_that_cannot_be_followed_is_an_error(state: str, what: str, tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(0, 60)).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved/state.json").write_text(state)
    with pytest.raises(DataError, match=what) as caught:
        prepare(tmp_path, tmp_path / "saved")
    assert caught.value.fix


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
@pytest.mark.parametrize("suffix", [".feather", ".arrow"])
def test_feather_files_are_read(compression: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"chat{suffix}"
    pa.feather.write_feather(pa.Table.from_pylist(rows(0, 300)), str(path), compression=compression, chunksize=130)
    sound = write(tmp_path / "sound.jsonl", rows(0, 300))
    assert prepare(tmp_path, path).content_hash == prepare(tmp_path, sound).content_hash


def test_what_arrow_holds_of_messages_is_what_json_holds(tmp_path: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"Q{n}"}, {"role": "assistant", "content": f"A{n}"}]}
        for n in range(30)
    ]
    datasets.Dataset.from_list([{**chat, "score": 1} for chat in chats]).save_to_disk(str(tmp_path / "saved"))
    prepared = prepare(tmp_path, tmp_path / "saved")
    assert prepared.content_hash == prepare(tmp_path, write(tmp_path / "sound.jsonl", chats)).content_hash
    assert told(prepared)["DATA_COLUMNS_LEFT_OUT"][1] == "Columns left out: score."


def test_a_folder_is_looked_at_in_little_memory(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"given/{number}").mkdir(parents=True)
        write(tmp_path / f"given/{number}/train.jsonl", rows(number, 1))
    data = DataConfig(train=tmp_path / "given")
    tracemalloc.start()
    given, _ = folders.spread(data)
    assert len(given) == len(files_of(data)) == 300
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("pattern", ["", "*"])
def test_a_folder_of_a_great_many_files_is_looked_at_soon(pattern: str, tmp_path: Path) -> None:
    for number in range(8_000):
        (tmp_path / f"{number}.json").write_text("x")
    (tmp_path / "more.zip").write_text("x")
    started = time.process_time()
    given, (left,) = folders.spread(DataConfig(train=tmp_path / pattern))
    assert (len(given), left.code) == (8_000, "DATA_FILES_LEFT_OUT")
    assert time.process_time() - started < 4


@pytest.mark.parametrize(
    "name", ["license-questions.jsonl", "notice-board.csv", "readme-writing.json", "Requirements.parquet"]
)
def test_data_whose_topic_is_what_lies_about_data_is_read(name: str, tmp_path: Path) -> None:
    write(tmp_path / "given/chat.jsonl", rows(0))
    write(tmp_path / "given" / name, rows(100))
    prepared = prepare(tmp_path, tmp_path / "given")
    assert sum(prepared.rows.values()) == 30
    assert "DATA_FILES_PASSED_OVER" not in told(prepared)
