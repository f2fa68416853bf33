from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phift.config.data import DataConfig, HuggingFaceSource, RowsSource, SplitConfig
from phift.data import folders, sources
from phift.data import prepare as dataset
from phift.data.prepare import PreparedDataset, Progress, prepare_dataset
from phift.data.prepared import whole_since
from phift.errors import DataError, DataNotFound, ServiceUnreachable

SECRET = "my own words"


def chat_row(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"Question {number}?"},
            {"role": "assistant", "content": f"Answer {number}."},
        ]
    }


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(path: Path) -> list[str]:
    return [row["messages"][0]["content"] for row in read(path)]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "train.jsonl", map(chat_row, range(100)))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def found(prepared: PreparedDataset) -> dict[str, str]:
    return {finding.code: finding.message for finding in prepared.findings}


def prepare(out: Path, **data: Any) -> PreparedDataset:
    return prepare_dataset(DataConfig(**data), out)


# ---------------------------------------------------------------- splitting


def test_training_rows_are_split_three_ways_and_none_is_lost(train: Path, out: Path) -> None:
    prepared = prepare(out, train=train, split=SplitConfig(validation=0.2, test=0.05))
    assert prepared.rows == {"train": 75, "validation": 20, "test": 5}
    parts = [texts(prepared.train), texts(prepared.validation), texts(prepared.test)]
    assert [len(part) for part in parts] == [75, 20, 5]
    assert sorted(text for part in parts for text in part) == sorted(f"Question {number}?" for number in range(100))


def test_the_split_is_spread_over_the_file_and_keeps_the_order(train: Path, out: Path) -> None:
    numbers = [int(text.split()[1][:-1]) for text in texts(prepare(out, train=train).validation)]
    assert numbers == sorted(numbers)
    assert min(numbers) < 40
    assert max(numbers) > 60


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(train: Path, tmp_path: Path) -> None:
    one, again = (prepare(tmp_path / name, train=train) for name in ("a", "b"))
    other = prepare(tmp_path / "c", train=train, split=SplitConfig(seed=7))
    assert one.content_hash == again.content_hash != other.content_hash
    for split in ("train", "validation", "test"):
        assert getattr(one, split).read_bytes() == getattr(again, split).read_bytes()
    assert texts(one.test) != texts(other.test)


def test_a_given_file_is_used_and_only_the_missing_one_is_split_off(train: Path, tmp_path: Path, out: Path) -> None:
    validation = write_jsonl(tmp_path / "valid.jsonl", map(chat_row, range(200, 203)))
    prepared = prepare(out, train=train, validation=validation)
    assert prepared.rows == {"train": 90, "validation": 3, "test": 10}
    assert texts(prepared.validation) == ["Question 200?", "Question 201?", "Question 202?"]


def test_with_all_three_given_nothing_is_split(train: Path, tmp_path: Path, out: Path) -> None:
    held_out = write_jsonl(tmp_path / "held.jsonl", [chat_row(500)])
    prepared = prepare(out, train=train, validation=held_out, test=held_out)
    assert prepared.rows == {"train": 100, "validation": 1, "test": 1}
    assert texts(prepared.train) == [f"Question {number}?" for number in range(100)]


@pytest.mark.parametrize(("rows", "enough"), [(11, False), (12, True)])
def test_ten_rows_must_be_left_for_training(tmp_path: Path, out: Path, rows: int, enough: bool) -> None:
    source = write_jsonl(tmp_path / "few.jsonl", map(chat_row, range(rows)))
    if enough:
        assert prepare(out, train=source).rows == {"train": 10, "validation": 1, "test": 1}
        return
    with pytest.raises(DataError, match="9 rows are left for training; the component wants at least 10"):
        prepare(out, train=source)


def test_a_single_row_is_too_few(tmp_path: Path, out: Path) -> None:
    with pytest.raises(DataError, match="0 rows are left for training"):
        prepare(out, train=write_jsonl(tmp_path / "one.jsonl", [chat_row(0)]))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(12, 300),
    validation=st.floats(0.01, 0.3),
    test=st.floats(0.01, 0.3),
    seed=st.integers(0, 2**32),
)
def test_the_counts_are_exact(
    tmp_path_factory: pytest.TempPathFactory, rows: int, validation: float, test: float, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("split")
    source = write_jsonl(folder / "rows.jsonl", map(chat_row, range(rows)))
    wanted = {"validation": max(1, round(validation * rows)), "test": max(1, round(test * rows))}
    if rows - sum(wanted.values()) < 10:
        return
    split = SplitConfig(validation=validation, test=test, seed=seed)
    prepared = prepare(folder / "out", train=source, split=split)
    assert prepared.rows == {"train": rows - sum(wanted.values()), **wanted}


# ---------------------------------------------------------------- sources


def test_parquet_gives_the_same_files_as_jsonl(tmp_path: Path) -> None:
    rows = [{**chat_row(number), "source": "x"} for number in range(50)]
    one = prepare(tmp_path / "a", train=write_jsonl(tmp_path / "rows.jsonl", rows))
    other = prepare(tmp_path / "b", train=write_parquet(tmp_path / "rows.parquet", rows))
    assert [read(one.train), read(one.test)] == [read(other.train), read(other.test)]
    assert one.train.read_bytes() == other.train.read_bytes()
    assert found(one) == {"DATA_COLUMNS_LEFT_OUT": "Columns left out: source."}
    assert found(other) == found(one)


def test_parquet_s_filled_in_nulls_are_left_out(tmp_path: Path, out: Path) -> None:
    rows = [chat_row(number) for number in range(20)]
    rows[0]["messages"][0]["name"] = "Ada"
    prepared = prepare(out, train=write_parquet(tmp_path / "rows.parquet", rows))
    keys = {key for row in read(prepared.train) for key in row["messages"][1]}
    assert keys == {"role", "content"}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def hub_folder(tmp_path: Path, card: str = "") -> HuggingFaceSource:
    folder = tmp_path / "hub"
    folder.mkdir()
    write_parquet(folder / "train-00000-of-00001.parquet", [chat_row(number) for number in range(40)])
    if card:
        (folder / "README.md").write_text(card)
    return HuggingFaceSource(huggingface=str(folder))


@pytest.mark.usefixtures("offline")
def test_a_hugging_face_data_set_is_streamed(tmp_path: Path, out: Path) -> None:
    source = hub_folder(tmp_path)
    prepared = prepare(out, train=source)
    assert prepared.rows == {"train": 32, "validation": 4, "test": 4}
    assert prepared.name == source.huggingface
    assert found(prepared) == {}


CARD = """---
dataset_info:
  features:
  - name: messages
    list:
    - name: role
      dtype: string
    - name: content
      dtype: string
  splits:
  - name: train
    num_examples: 40
---
"""


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("card", [CARD, ""], ids=["length known", "length unknown"])
def test_a_percentage_takes_the_first_rows(tmp_path: Path, out: Path, card: str) -> None:
    source = hub_folder(tmp_path, card).model_copy(update={"percent": 37.5})
    prepared = prepare(out, train=source)
    used = texts(prepared.train) + texts(prepared.validation) + texts(prepared.test)
    assert sorted(used) == sorted(f"Question {number}?" for number in range(15))
    assert found(prepared) == {}


@pytest.mark.usefixtures("offline")
def test_an_unknown_split_is_a_data_error(tmp_path: Path, out: Path) -> None:
    source = hub_folder(tmp_path).model_copy(update={"split": "train_sft"})
    with pytest.raises(DataError, match="There is no split train_sft"):
        prepare(out, train=source)


@pytest.mark.usefixtures("offline")
def test_a_folder_without_data_is_not_found(tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFound):
        prepare(out, train=HuggingFaceSource(huggingface=str(tmp_path / "empty")))


def test_a_hub_that_does_not_answer_is_unreachable(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("phift.data.hub._WAITS", ())
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)  # what is asked first
    with pytest.raises(ServiceUnreachable, match="did not answer"):
        prepare(out, train=HuggingFaceSource(huggingface="owner/name"))


def test_a_byte_order_mark_blank_lines_and_a_missing_last_line_end_are_fine(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "rows.jsonl"
    lines = "\r\n\n".join(json.dumps(chat_row(number)) for number in range(15))
    source.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    prepared = prepare(out, train=source)
    assert sum(prepared.rows.values()) == 15
    assert found(prepared) == {"DATA_BLANK_LINES": "14 blank lines skipped."}


# ---------------------------------------------------------------- refusing


def test_every_bad_row_is_named_with_its_line(tmp_path: Path, out: Path) -> None:
    bad = {"messages": [{"role": "user", "content": SECRET}, {"role": SECRET, "content": SECRET}]}
    rows = [chat_row(1), bad, *map(chat_row, range(20)), bad]
    with pytest.raises(DataError) as caught:
        prepare(out, train=write_jsonl(tmp_path / "rows.jsonl", rows))
    assert [place for place, _ in caught.value.problems] == [f"{tmp_path}/rows.jsonl:{line}" for line in (2, 23)]
    assert all(reason.startswith("messages[1] is said by nobody known") for _, reason in caught.value.problems)
    assert "2 of 23 rows cannot be trained on" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert not list(out.iterdir())


def test_the_list_of_problems_is_capped_and_the_count_is_not(tmp_path: Path, out: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [*map(chat_row, range(10)), *[{"messages": []}] * 50])
    with pytest.raises(DataError, match="100 of 120 rows") as caught:
        prepare(out, train=source, test=source)
    assert len(caught.value.problems) == 20
    lines = str(caught.value).splitlines()
    assert lines[3].startswith(f"  also:  {caught.value.problems[1][0]}: ")
    assert lines[-1] == f"  and {caught.value.refused - 20} more"
    assert caught.value.refused == 100


def test_the_problems_of_all_sources_are_told_at_once(train: Path, tmp_path: Path, out: Path) -> None:
    validation = write_parquet(tmp_path / "v.parquet", [{"messages": chat_row(0)["messages"][:1]}])
    test = write_jsonl(tmp_path / "t.jsonl", [{"messages": []}])
    with pytest.raises(DataError) as caught:
        prepare(out, train=train, validation=validation, test=test)
    assert [place for place, _ in caught.value.problems] == [f"{validation}:1", f"{test}:1"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_source_of_no_known_format_names_its_columns(tmp_path: Path, out: Path, suffix: str) -> None:
    rows = [{"title": SECRET, "body": SECRET}] * 20
    path = tmp_path / f"rows.{suffix}"
    source = write_jsonl(path, rows) if suffix == "jsonl" else write_parquet(path, rows)
    with pytest.raises(DataError, match="of no known format: its columns are: `title`, `body`, and") as caught:
        prepare(out, train=source)
    assert caught.value.where == str(path)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["data.xlsx", "data.parquet.gz", "data"])
def test_an_unknown_suffix_is_refused_with_those_that_are_taken(tmp_path: Path, out: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(DataError) as caught:
        prepare(out, train=tmp_path / name)
    assert ".jsonl, .json, .csv, .tsv" in str(caught.value)


def test_a_missing_file_gets_near_names(train: Path, tmp_path: Path, out: Path) -> None:
    with pytest.raises(DataNotFound, match=r"did you mean train\.jsonl\?"):
        prepare(out, train=tmp_path / "trian.jsonl")
    with pytest.raises(DataNotFound, match="there is no folder"):
        prepare(out, train=tmp_path / "nowhere" / "train.jsonl")
    with pytest.raises(DataNotFound, match="check the path"):
        prepare(out, train=train, test=tmp_path / "0123456789.parquet")


@pytest.mark.parametrize("name", ["it's", "a\\b", 'a"b', "a b", "%20#?"])
def test_a_folder_and_a_file_may_have_any_name_however_it_is_typed(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    source = write_jsonl(folder / f"{name}.jsonl", map(chat_row, range(20)))
    monkeypatch.chdir(folder)
    typed = [prepare(folder / "out", train=source), prepare(Path("out"), train=Path(source.name))]
    assert typed[0].content_hash == typed[1].content_hash
    assert typed[0].files == {split: folder / path for split, path in typed[1].files.items()}
    assert sum(typed[0].rows.values()) == 20
    assert sorted(path.name for path in typed[0].folder.iterdir()) == [
        "manifest.json",
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]


def test_a_folder_that_no_system_can_have_is_refused(train: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="NUL"):
        prepare(tmp_path / "a\0b", train=train)


def test_a_folder_that_is_just_being_locked_is_nobodys_to_remove(
    train: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, others = fcntl.flock, []

    def late(file: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        others.append(prepare(out, train=train))
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert [prepare(out, train=train).folder] == [other.folder for other in others]


AT_ONCE = """
import sys, threading
from pathlib import Path
from phift.config.data import DataConfig
from phift.data.prepare import prepare_dataset

data, folder, results = DataConfig(train=Path(sys.argv[1])), Path(sys.argv[2]), []
threads = [threading.Thread(target=lambda: results.append(prepare_dataset(data, folder))) for _ in range(5)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(results), *{str(found.folder) for found in results})
"""


def test_threads_and_processes_that_prepare_the_same_data_at_once_all_have_it(tmp_path: Path, out: Path) -> None:
    source = write_jsonl(tmp_path / "many.jsonl", map(chat_row, range(2000)))
    processes = [
        subprocess.Popen([sys.executable, "-c", AT_ONCE, source, out], stdout=subprocess.PIPE, text=True)  # noqa: S603 - the script above
        for _ in range(3)
    ]
    said = [process.communicate()[0] for process in processes]
    prepared = prepare(tmp_path / "alone", train=source)
    assert said == [f"5 {out / prepared.folder.name}\n"] * 3
    assert [entry.name for entry in out.iterdir()] == [prepared.folder.name]
    assert {split: (out / prepared.folder.name / path.name).read_bytes() for split, path in prepared.files.items()} == {
        split: path.read_bytes() for split, path in prepared.files.items()
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The data file is empty"),
        (b"\n \n\r\n", "There are no rows for train"),
        (json.dumps(chat_row(1)).encode("utf-16"), "The file is UTF-16"),
        (json.dumps(chat_row(1)).encode()[:-5], "it is not JSON"),
        (b"\xff" + json.dumps(chat_row(1)).encode(), "it is not UTF-8"),
    ],
)
def test_files_that_are_not_jsonl_are_refused(tmp_path: Path, out: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepare(out, train=tmp_path / "rows.jsonl")


@pytest.mark.parametrize("broken", [slice(-20, None), slice(4, 100)])  # its end; a page, which Arrow reads as a file
def test_a_broken_parquet_file_is_a_data_error(tmp_path: Path, out: Path, broken: slice) -> None:
    path = write_parquet(tmp_path / "rows.parquet", [chat_row(number) for number in range(20)])
    content = bytearray(path.read_bytes())
    content[broken] = b"\1" * len(content[broken])
    path.write_bytes(content)
    with pytest.raises(DataError, match="The parquet file cannot be read") as caught:
        prepare(out, train=path)
    assert caught.value.where == str(path)


def test_a_parquet_file_with_two_columns_of_one_name_is_told(tmp_path: Path, out: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * 2, names=["a", "a"]), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="Two columns have the same name"):
        prepare(out, train=tmp_path / "rows.parquet")


def test_an_endless_line_is_refused(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.data.texts.LONGEST_LINE", 1 << 20)
    (tmp_path / "rows.jsonl").write_bytes(json.dumps(chat_row(1)).encode() + b"\n" + b"x" * (4 << 20))
    with pytest.raises(DataError, match="longer than 1 MB") as caught:
        prepare(out, train=tmp_path / "rows.jsonl")
    assert caught.value.where == f"{tmp_path / 'rows.jsonl'}:2"


# ---------------------------------------------------------------- writing


def content(path: Path) -> int:
    return sum(len(message.get("content") or "") for row in read(path) for message in row["messages"])


def test_the_characters_of_each_split_are_counted_as_they_are_written(tmp_path: Path, out: Path) -> None:
    rows = [chat_row(number) | {"tools": [], "other": "x" * 1000} for number in range(50)]
    rows[7]["messages"][1]["content"] = "Ünï🎉" * 10
    source, parquet = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "rows.parquet"
    write_parquet(parquet, [chat_row(number) for number in range(100, 105)])
    prepared = prepare(out, train=source, test=parquet)
    assert prepared.characters == {name: content(prepared.folder / f"{name}.jsonl") for name in prepared.rows}
    assert sum(prepared.characters.values()) > 100


def test_the_longest_training_row_is_known(tmp_path: Path, out: Path) -> None:
    rows = [chat_row(number) for number in range(20)]
    rows[3]["messages"][0]["content"] = "é" * 777
    longest = write_jsonl(
        tmp_path / "held.jsonl", [{"messages": [{"role": "user", "content": "x" * 5000}, *rows[0]["messages"][1:]]}]
    )
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert prepare(out, train=source, validation=longest, test=longest).longest_row == 777 + len("Answer 3.")


def test_tool_calls_are_characters_too(tmp_path: Path, out: Path) -> None:
    calls = [{"id": "é"}]
    turns = [{"role": "user", "content": "abc"}, {"role": "assistant", "tool_calls": calls}]
    turns += [{"role": "tool", "content": "12"}, {"role": "assistant", "content": "12345"}]
    rows = [{"messages": [{"role": "user", "content": f"{number:03}"}, *turns[1:]]} for number in range(40)]
    characters = prepare(out, train=write_jsonl(tmp_path / "rows.jsonl", rows)).characters
    assert sum(characters.values()) == 40 * (3 + 2 + 5 + len('[{"id":"é"}]'))


def test_an_older_releases_manifest_is_renewed_and_its_files_stay(train: Path, out: Path) -> None:
    prepared = prepare(out, train=train)
    manifest = prepared.folder / "manifest.json"
    older = json.loads(manifest.read_text())
    assert older.pop("characters") == prepared.characters
    older["sources"] = []
    manifest.write_text(json.dumps(older))
    files = [path.stat().st_ino for path in (prepared.train, prepared.validation, prepared.test)]
    again = prepare(out, train=train)
    assert again == prepared
    assert json.loads(manifest.read_text())["characters"] == prepared.characters
    assert [path.stat().st_ino for path in (again.train, again.validation, again.test)] == files


def test_the_folder_is_named_by_its_content_and_has_a_manifest(train: Path, out: Path) -> None:
    prepared = prepare(out, train=train)
    assert prepared.folder == out / prepared.content_hash[:16]
    manifest = json.loads((prepared.folder / "manifest.json").read_text())
    assert manifest["content_hash"] == prepared.content_hash
    assert manifest["rows"] == prepared.rows
    assert manifest["name"] == prepared.name == "train"
    assert sorted(entry.name for entry in prepared.folder.iterdir()) == [
        "manifest.json",
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]
    assert [entry.name for entry in out.iterdir()] == [prepared.folder.name]
    assert os.name != "posix" or prepared.folder.stat().st_mode & 0o077 == 0


def test_preparing_again_leaves_the_files_alone(train: Path, out: Path) -> None:
    first = prepare(out, train=train)
    before = first.train.stat()
    again = prepare(out, train=train)
    assert again == first
    assert (again.train.stat().st_ino, again.train.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [entry.name for entry in out.iterdir()] == [first.folder.name]


@pytest.mark.parametrize("damage", ["manifest.json", "test.jsonl"])
def test_a_damaged_folder_is_made_again(train: Path, out: Path, damage: str) -> None:
    first = prepare(out, train=train)
    whole = first.test.read_bytes()
    (first.folder / damage).unlink()
    assert prepare(out, train=train) == first
    assert first.test.read_bytes() == whole


def test_a_crash_leaves_no_folder_that_looks_whole(train: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "_settle", crash)
    with pytest.raises(KeyboardInterrupt):
        prepare(out, train=train)
    assert list(out.iterdir()) == []


def test_two_at_once_agree(train: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle = dataset._settle

    def somebody_else_first(*arguments: Any) -> Any:
        monkeypatch.setattr(dataset, "_settle", settle)
        prepare(out, train=train)
        monkeypatch.setattr(dataset, "whole_since", blind_once)
        return settle(*arguments)

    seen: list[bool] = []

    def blind_once(target: Path) -> Any:
        since = whole_since(target)
        seen.append(since is not None)
        return since if len(seen) > 1 else None

    monkeypatch.setattr(dataset, "_settle", somebody_else_first)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert len(texts(prepare(out, train=train).train)) == 80
    assert seen == [True, True]


def test_an_unwritable_place_is_a_data_error(train: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="could not be read or written: Not a directory"):
        prepare(tmp_path / "file" / "out", train=train)


def test_a_json_row_whose_column_is_not_utf8_is_one_bad_row(tmp_path: Path, out: Path) -> None:
    rows = [f'{{"größe": 1, "question": "Question {number}?", "answer": "Yes."}}' for number in range(40)]
    content = "\n".join(rows).encode().replace("ö".encode(), "ö".encode("latin-1"), 1)
    (tmp_path / "rows.json").write_bytes(content)
    (account,) = prepare(out, train=tmp_path / "rows.json", bad_rows="set_aside").accounts
    assert (account.rows, account.aside) == (40, 1)


def test_an_error_of_the_user_s_own_rows_goes_through(out: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield chat_row(0)
        raise ConnectionError("theirs")  # an OSError, but of no file

    with pytest.raises(ConnectionError, match="theirs"):
        prepare(out, train=rows)
    assert not list(out.iterdir())


def test_a_full_disk_is_a_data_error_and_leaves_nothing(
    train: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("phift.data.prepare.deal", full)
    with pytest.raises(DataError, match="No space left on device") as caught:
        prepare(out, train=train)
    assert caught.value.where == str(out)
    assert list(out.iterdir()) == []


def test_a_rename_that_fails_is_a_data_error(train: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(target))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        prepare(out, train=train)


def test_rows_in_both_training_and_test_are_refused(train: Path, tmp_path: Path, out: Path) -> None:
    test = write_parquet(tmp_path / "test.parquet", [chat_row(3), chat_row(900), chat_row(4)])
    validation = write_jsonl(tmp_path / "validation.jsonl", [chat_row(901), {}, chat_row(5)])
    validation.write_text(validation.read_text().replace("{}", ""))
    with pytest.raises(DataError, match="3 of 105 rows") as caught:
        prepare(out, train=train, test=test, validation=validation)
    places = [f"{validation}:3", f"{test}:1", f"{test}:3"]
    assert caught.value.problems == tuple((place, "it stands in the training data too") for place in places)
    kept = prepare(out, train=train, test=test, validation=validation, bad_rows="set_aside")
    assert kept.rows == {"train": 100, "validation": 1, "test": 1}
    assert kept.rejects is not None
    assert [(row["source"], row["line"], row["row"]) for row in read(kept.rejects)] == [
        (str(validation), 3, chat_row(5)),
        (str(test), 1, chat_row(3)),
        (str(test), 3, chat_row(4)),
    ]


# ---------------------------------------------------------------- setting aside


def test_bad_rows_are_set_aside_with_line_reason_and_row(tmp_path: Path, out: Path) -> None:
    lines = [json.dumps(chat_row(number)).encode() for number in range(30)]
    lines[3] = b'{"messages": [{"role": "user", "content": "alone"}]}'
    lines[7] = b"not JSON"
    lines[9] = b'{"messages": "\xff"}'
    lines[20] = b'{"other": 1}'
    source = tmp_path / "rows.jsonl"
    source.write_bytes(b"\n".join(lines))
    prepared = prepare(out, train=source, bad_rows="set_aside")
    (account,) = prepared.accounts
    assert (account.rows, account.train, account.validation, account.test, account.aside) == (30, 20, 3, 3, 4)
    assert prepared.rejects is not None
    rejects = read(prepared.rejects)
    assert [(row["source"], row["line"]) for row in rejects] == [(str(source), line) for line in (4, 8, 10, 21)]
    assert rejects[0]["row"] == {"messages": [{"role": "user", "content": "alone"}]}
    assert rejects[1]["row"] == "not JSON"
    assert base64.b64decode(rejects[2]["row"]["base64"]) == lines[9]
    reasons = ("it has 1 message; at least 2", "it is not JSON", "it is not UTF-8 (byte 14)", "it has no `messages`")
    assert all(row["reason"].startswith(reason) for row, reason in zip(rejects, reasons, strict=True))
    assert found(prepared)["DATA_SET_ASIDE"].startswith("4 of 30 rows were set aside: 1 row: it ")
    mended = prepare(out, train=write_jsonl(source, [chat_row(n) for n in range(30) if n not in {3, 7, 9, 20}]))
    assert mended.content_hash == prepared.content_hash
    assert mended.rejects is None
    assert mended.accounts[0].rows == 26


def test_the_first_row_may_be_a_bad_one(tmp_path: Path, out: Path) -> None:
    rows: list[Any] = [{}, {"note": 1}, *({"question": f"Question {n}?", "answer": "Yes."} for n in range(20))]
    prepared = prepare(out, train=write_jsonl(tmp_path / "rows.jsonl", rows), bad_rows="set_aside")
    assert (prepared.accounts[0].format, prepared.accounts[0].aside) == ("question_answer", 2)


def test_a_value_of_parquet_that_python_cannot_hold_is_one_bad_row(tmp_path: Path, out: Path) -> None:
    rows = [chat_row(number)["messages"] for number in range(30)]
    late = pa.array([*range(29), 10**15], pa.int64()).cast(pa.timestamp("ms"))  # the year 33658
    table = pa.table({"messages": rows, "at": late})
    pq.write_table(table, tmp_path / "late.parquet")
    assert prepare(out, train=tmp_path / "late.parquet").accounts[0].aside == 0  # the column is not even read
    kept = prepare(out, train=tmp_path / "late.parquet", split={"group_by": "at"}, bad_rows="set_aside")
    assert [row["reason"] for row in read(kept.rejects or out)] == [
        "it holds a value that Python cannot hold (OverflowError)"
    ]


def test_a_file_that_shrinks_while_it_is_read_is_an_error(
    train: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = sources.open_source

    def cut(*arguments: Any, **options: Any) -> Any:
        opened = list(look(*arguments, **options))
        os.truncate(train, 100)
        return opened

    monkeypatch.setattr(dataset, "open_source", cut)
    with pytest.raises(DataError, match="became shorter"):
        prepare(out, train=train)


def test_a_row_over_lines_and_two_rows_in_one_are_refused(tmp_path: Path, out: Path) -> None:
    one, two = json.dumps(chat_row(1)), json.dumps(chat_row(2))
    source = tmp_path / "rows.jsonl"
    good = [json.dumps(chat_row(n)) for n in range(10, 40)]
    source.write_text("\n".join([*good[:4], one + two, *good[4:20], "", *good[20:], ""]))
    prepared = prepare(out, train=source, bad_rows="set_aside")
    account = prepared.accounts[0]
    assert (account.rows, account.aside, account.blank) == (31, 1, 1)
    assert [row["line"] for row in read(prepared.rejects or out)] == [5]


def test_where_every_row_is_bad_the_reasons_are_told(tmp_path: Path, out: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [{"messages": []}] * 20)
    with pytest.raises(DataError, match=r"20 of 20 rows cannot be trained on.*it has 0 messages"):
        prepare(out, train=source, bad_rows="set_aside")


def test_names_of_columns_can_be_anything_in_python(out: Path) -> None:
    rows = [{7: "x", **chat_row(number)} for number in range(20)]
    assert found(prepare(out, train=rows)) == {"DATA_COLUMNS_LEFT_OUT": "Columns left out: 7."}


def test_of_a_great_many_columns_the_first_are_told(tmp_path: Path, out: Path) -> None:
    rows = [chat_row(n) | {f"column {n}-{i}": i for i in range(100)} for n in range(40)]
    rows[0]["messages"][0]["name"] = "Ada"  # so that every row is looked at
    message = found(prepare(out, train=write_jsonl(tmp_path / "rows.jsonl", rows)))["DATA_COLUMNS_LEFT_OUT"]
    assert message.endswith(" and more.")
    assert len(message) < 700


def test_equal_conversations_are_told_and_stay_together(tmp_path: Path, out: Path) -> None:
    rows = [chat_row(number % 40) for number in range(120)]
    prepared = prepare(out, train=write_jsonl(tmp_path / "rows.jsonl", rows))
    sides = [set(texts(prepared.train)), set(texts(prepared.validation)), set(texts(prepared.test))]
    assert sum(map(len, sides)) == 40
    assert prepared.rows == {"train": 96, "validation": 12, "test": 12}
    assert [f.message for f in prepared.findings if f.code == "DATA_DUPLICATES"] == [
        "64 rows of 96 say what an earlier one says.",
        "8 rows of 12 say what an earlier one says.",
        "8 rows of 12 say what an earlier one says.",
    ]


def test_conversations_of_hardly_any_text_are_told(tmp_path: Path, out: Path) -> None:
    rows = [chat_row(number) for number in range(20)]
    for row in rows[4:6]:
        row["messages"] = [{"role": "user", "content": "Hm"}, {"role": "assistant", "content": str(len(rows))}]
    rows[5]["messages"][0]["content"] = "So"
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    other = write_jsonl(tmp_path / "other.jsonl", [chat_row(99)])
    prepared = prepare(out, train=source, validation=other, test=other)
    told = found(prepared)
    assert told.pop("DATA_TEST_IN_VALIDATION")
    assert told == {"DATA_NEAR_EMPTY": f"2 conversations of fewer than 10 characters, first {source}:5."}


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_answers_that_stand_for_missing_values_are_told(
    tmp_path: Path, out: Path, write: Callable[[Path, list[Any]], Path]
) -> None:
    rows = [chat_row(number) for number in range(20)]
    rows[4]["messages"][1]["content"], rows[5]["messages"][1]["content"] = "nan", "None"
    source = write(tmp_path / f"rows.{'parquet' if write is write_parquet else 'jsonl'}", rows)
    other = write_jsonl(tmp_path / "other.jsonl", [chat_row(99)])
    (told,) = (one for one in prepare(out, train=source, validation=other).findings if one.severity == "warning")
    assert (told.code, told.place) == ("DATA_LACKING_ANSWER", "train")
    split = " of 18" if "2 rows" in told.message else " of 17"
    assert f"{split} with an answer that is nothing but nan, None, null or the like, first {source}:5:" in told.message


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
@pytest.mark.parametrize("more", [{}, {"id": 7}])
def test_a_system_message_without_a_text_goes_with_a_note(
    tmp_path: Path, out: Path, write: Callable[[Path, list[Any]], Path], more: dict[str, Any]
) -> None:
    rows = [chat_row(number) for number in range(40)]
    expected = prepare(tmp_path / "expected", train=write_jsonl(tmp_path / "plain.jsonl", rows))
    for row in rows[3:30]:
        row["messages"].insert(0, {"role": "system", "content": " "} | more)
    source = write(tmp_path / f"rows.{'parquet' if write is write_parquet else 'jsonl'}", rows)
    if more:
        with pytest.raises(DataError, match="27 of 40 rows cannot"):  # somebody said something with it
            prepare(out, train=source)
        return
    prepared = prepare(out, train=source)
    assert prepared.content_hash == expected.content_hash
    assert found(prepared) == {"DATA_BLANK_SYSTEM": "27 system messages without a text left out."}


def test_rows_of_a_group_stay_together(tmp_path: Path, out: Path) -> None:
    rows = [chat_row(number) | {"document": number // 5} for number in range(200)]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    prepared = prepare(out, train=source, split={"group_by": "document"})
    assert prepared.rows == {"train": 160, "validation": 20, "test": 20}
    groups = [{int(text[9:-1]) // 5 for text in texts(path)} for path in prepared.files.values()]
    assert sum(map(len, groups)) == 40
    with pytest.raises(DataError, match="it has no value in `chapter`"):
        prepare(out, train=source, split={"group_by": "chapter"})
    write_jsonl(source, [row | {"document": float("nan")} for row in rows])
    with pytest.raises(DataError, match="it has no value in `document`"):
        prepare(out, train=source, split={"group_by": "document"})


def test_groups_and_conversations_stay_together_at_once(tmp_path: Path, out: Path) -> None:
    rows = [chat_row(number % 80) | {"document": number // 2} for number in range(200)]
    prepared = prepare(out, train=write_jsonl(tmp_path / "rows.jsonl", rows), split={"group_by": "document"})
    sides = [set(texts(path)) for path in prepared.files.values()]
    assert sum(map(len, sides)) == 80
    assert min(map(len, sides)) > 0


def test_given_test_data_shares_no_group_with_the_training_data(tmp_path: Path, out: Path) -> None:
    train = write_jsonl(tmp_path / "a.jsonl", [chat_row(n) | {"document": n // 5} for n in range(100)])
    test = write_jsonl(tmp_path / "b.jsonl", [chat_row(200 + n) | {"document": 15 + n} for n in range(10)])
    with pytest.raises(DataError, match="5 of 110 rows") as caught:
        prepare(out, train=train, test=test, split={"group_by": "document"})
    assert [place for place, _ in caught.value.problems] == [f"{test}:{line}" for line in range(1, 6)]


def test_given_test_data_shares_nothing_with_the_validation_data_split_off(train: Path, out: Path) -> None:
    with pytest.raises(DataError, match="Every test row stands in the training data too"):
        prepare(out, train=train, test=train, bad_rows="set_aside")


def test_the_same_words_are_the_same_whatever_else_a_message_has(tmp_path: Path, out: Path) -> None:
    rows = [chat_row(number % 50) for number in range(100)]
    for number, row in enumerate(rows[50:]):
        row["messages"][0]["at"] = number
    prepared = prepare(out, train=write_jsonl(tmp_path / "rows.jsonl", rows))
    assert sum(len(set(texts(path))) for path in prepared.files.values()) == 50


def test_a_test_row_that_is_a_validation_row_is_told(train: Path, tmp_path: Path, out: Path) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", [chat_row(900)])
    message = found(prepare(out, train=train, validation=other, test=other))["DATA_TEST_IN_VALIDATION"]
    assert message == "Also in the validation data: 1 test row."


def test_tools_are_counted_where_the_rows_have_gone(tmp_path: Path, out: Path) -> None:
    rows = [chat_row(number) | ({"tools": [{"name": "f"}]} if number == 7 else {}) for number in range(50)]
    prepared = prepare(out, train=write_jsonl(tmp_path / "rows.jsonl", rows))
    (where,) = [split for split, path in prepared.files.items() if b"tools" in path.read_bytes()]
    (mixed,) = [finding for finding in prepared.findings if finding.code == "DATA_TOOLS_MIXED"]
    assert mixed.place == where
    assert mixed.message.startswith(f"1 row of {prepared.rows[where]} have tools")


def test_each_of_several_sources_gives_its_share(tmp_path: Path, out: Path) -> None:
    sources = [
        write_jsonl(tmp_path / "a.jsonl", map(chat_row, range(100))),
        write_parquet(tmp_path / "b.parquet", [chat_row(number) for number in range(100, 400)]),
    ]
    prepared = prepare(out, train=sources)
    assert [(account.train, account.validation, account.test) for account in prepared.accounts] == [
        (80, 10, 10),
        (240, 30, 30),
    ]
    assert "a.jsonl" in str(prepared.accounts[0])


def test_what_the_processes_write_is_what_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [chat_row(number) for number in range(3000)]
    rows[17]["messages"][1]["name"] = "Ada"
    rows[1234] = {"messages": []}
    lines = [json.dumps(row) for row in rows]
    lines[2000] = "\n\r\n" + lines[2000]
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(lines))
    one = prepare(tmp_path / "one", train=source, bad_rows="set_aside")
    monkeypatch.setattr("phift.data.prepare.LARGE", 0)
    monkeypatch.setattr("phift.data.sources.PART", 10_000)
    monkeypatch.setattr("phift.data.workers._processors", lambda: 3)
    many = prepare(tmp_path / "many", train=source, bad_rows="set_aside")
    assert many.content_hash == one.content_hash
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "rejects.jsonl", "manifest.json"):
        assert (many.folder / name).read_bytes() == (one.folder / name).read_bytes()
    assert many.rejects is not None
    assert [row["line"] for row in read(many.rejects)] == [1235]
    assert one.accounts[0].blank == 2


# ---------------------------------------------------------------- looking


def test_a_notebook_shows_what_became_of_the_rows(tmp_path: Path, out: Path) -> None:
    source = write_jsonl(tmp_path / "<b>.jsonl", [*map(chat_row, range(20)), {"messages": []}])
    html = prepare(out, train=source, bad_rows="set_aside")._repr_html_()
    assert "&lt;b&gt;.jsonl</td><td>messages</td><td>21</td><td>16</td><td>2</td><td>2</td><td>1</td>" in html
    assert "DATA_SET_ASIDE" in html
    assert "<b>" not in html


def test_the_preview_is_short(tmp_path: Path, out: Path) -> None:
    rows = [chat_row(number) for number in range(20)]
    for row in rows:
        row["messages"][1]["content"] = "long\n" * 100
    prepared = prepare(out, train=write_jsonl(tmp_path / "rows.jsonl", rows))
    frame = prepared.preview(rows=3)
    assert list(frame.columns) == ["messages", "roles", "user", "assistant"]
    assert len(frame) == 3
    assert frame["messages"].tolist() == [2, 2, 2]
    assert frame["roles"][0] == "user assistant"
    assert frame["user"][0].startswith("Question ")
    assert len(frame["assistant"][0]) == 80
    assert len(prepared.preview(split="test")) == 2
    with pytest.raises(DataError, match="no split dev"):
        prepared.preview(split="dev")


def test_a_tool_call_has_an_empty_place_in_the_preview(tmp_path: Path, out: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "1"}]}
    rows = [{"messages": [{"role": "user", "content": f"Look up {number}."}, call]} for number in range(20)]
    assert prepare(out, train=write_jsonl(tmp_path / "rows.jsonl", rows)).preview(1)["assistant"][0] == ""


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_progress_ends_at_the_end(tmp_path: Path, out: Path, suffix: str) -> None:
    rows = [chat_row(number) for number in range(2500)]
    path = tmp_path / f"rows.{suffix}"
    source = write_jsonl(path, rows) if suffix == "jsonl" else write_parquet(path, rows)
    seen: list[Progress] = []
    prepare_dataset(DataConfig(train=source), out, on_progress=seen.append)
    size = source.stat().st_size
    reading = [state for state in seen if state.stage == "read"]
    assert reading[-1] == Progress(source=path.name, rows=2500, bytes=size, total_bytes=size)
    assert seen[-1].stage == "write"
    assert seen[-1].bytes == seen[-1].total_bytes


@pytest.mark.parametrize(("compared", "most"), [("ignore", 200), ("report", 320)])
def test_the_memory_grows_by_little_for_a_row_however_long_it_is(compared: str, most: int, tmp_path: Path) -> None:
    peaks = []
    for rows in (8_000, 24_000):
        source = tmp_path / f"rows{rows}.jsonl"
        filler = "word " * 200
        lines = (chat_row(number) | {"filler": filler} for number in range(rows))
        write_jsonl(source, lines)
        tracemalloc.start()
        prepare(tmp_path / "out", train=source, near_duplicates=compared)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert source.stat().st_size > 25_000_000
    assert peaks[1] - peaks[0] < most * (24_000 - 8_000)


def test_a_file_that_goes_while_it_is_looked_at_is_our_own_error(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 20)
    find = folders.spread

    def find_and_lose(given: Any) -> Any:
        found = find(given)
        source.unlink()
        return found

    monkeypatch.setattr(dataset, "spread", find_and_lose)
    with pytest.raises(DataNotFound):
        prepare_dataset(DataConfig(train=source), out)


def test_of_too_many_columns_no_count_is_told_that_is_none(tmp_path: Path, out: Path) -> None:
    rows = [chat_row(n) | {f"column {i}": i for i in range(100)} | {"rejected": "x"} for n in range(40)]
    rows[7]["rejected"] = ""
    said = found(prepare(out, train=write_jsonl(tmp_path / "rows.jsonl", rows)))
    assert "rows" not in said["DATA_COLUMNS_LEFT_OUT"]
    assert said["DATA_MEANING_LEFT_OUT"].startswith("Without effect: rejected (39 of 40 rows); ")


@pytest.mark.parametrize("labels", [np.array([1, 2]), np.array([]), np.float32("nan"), object(), ()])
def test_a_column_of_rows_from_python_can_hold_anything(labels: Any, out: Path) -> None:
    data = DataConfig(train=RowsSource(rows=[chat_row(number) | {"labels": labels} for number in range(40)]))
    assert "labels" in found(prepare_dataset(data, out))["DATA_COLUMNS_LEFT_OUT"]
