"""A second preparation of the same data reads nothing; of anything else it reads all."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from phift.config.data import DataConfig
from phift.data import prepare as prepare_module
from phift.data import prepared
from phift.data.folders import spread
from phift.data.prepare import PreparedDataset, prepare_dataset
from phift.data.sources import stamps
from phift.errors import DataError
from unit.fakes import write_rows

Change = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of data: two files, one with a bad row, and one that is none."""
    folder = tmp_path / "given"
    (folder / "more").mkdir(parents=True)
    write_rows(folder / "a.jsonl", 30)
    write_rows(folder / "more" / "b.jsonl", 20)
    with (folder / "a.jsonl").open("a") as file:
        file.write('\n{"messages": []}\n')
    (folder / "README.md").write_text("what this is")
    return folder


def prepare(folder: Path, **more: Any) -> PreparedDataset:
    fresh = more.pop("fresh", False)
    data = DataConfig(**{"train": folder, "bad_rows": "set_aside", **more})
    return prepare_dataset(data, folder.parent / "out", fresh=fresh)


def test_the_same_data_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(folder)
    assert (first.read, first.before, first.said_before) == (True, None, "")
    with monkeypatch.context() as patch:
        patch.setattr("phift.data.prepare.read_sources", None)
        again = prepare(folder, tokenizer="owner/name", count_tokens="exact", asset_name="other")
    assert again == first
    assert {**again.to_dict(), "read": True, "before": None} == first.to_dict()
    assert (again.accounts, again.findings, again.rejects) == (first.accounts, first.findings, first.rejects)
    assert again.findings
    assert str(again).startswith("Prepared before, on 20")
    assert "UTC, and unchanged since: nothing was read again.\n" in str(again)
    assert "unchanged since" in again._repr_html_()
    assert again.before is not None
    assert abs(again.before.timestamp() - time.time()) < 60


def test_it_is_read_again_where_that_is_asked_for(folder: Path) -> None:
    first = prepare(folder)
    again = prepare(folder, fresh=True)
    assert (again, again.read) == (first, True)
    assert again.before is not None
    assert "The same rows were prepared before, on 20" in str(again)


def a_row_of_the_same_size(folder: Path) -> None:
    path = folder / "a.jsonl"
    before = path.stat()
    path.write_text(path.read_text().replace("Answer 7.", "Answer 8.", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def another_file_in_its_place(folder: Path) -> None:
    other = write_rows(folder.parent / "other.jsonl", 30)
    other.replace(folder / "a.jsonl")


def damaged(name: str, how: str) -> Change:
    def change(folder: Path) -> None:
        (path,) = (folder.parent / "out").glob(f"*/{name}")
        if how == "gone":
            path.unlink()
        elif how == "longer":
            path.write_bytes(path.read_bytes() + b"\n")
        else:
            content = bytearray(path.read_bytes())
            content[5] ^= 1
            time.sleep(0.02)  # a clock's tick
            path.write_bytes(content)
        assert how == "gone" or path.exists()

    change.__name__ = f"{name} {how}"
    return change


FILES = ("train.jsonl", "validation.jsonl", "test.jsonl", "rejects.jsonl", "manifest.json")
SAYS_THE_SAME = ("manifest.json", "longer")


@pytest.mark.parametrize(
    "change",
    [
        a_row_of_the_same_size,
        another_file_in_its_place,
        lambda folder: (folder / "more" / "b.jsonl").unlink(),
        lambda folder: write_rows(folder / "more" / "c.jsonl", 20),
        lambda folder: (folder / "more" / "notes.txt").write_text("one more"),
        lambda folder: (folder / "README.md").write_text("what this is not"),
        lambda folder: (folder / "a.jsonl").rename(folder / "c.jsonl"),
        lambda folder: (folder / "a.jsonl").touch(),
        lambda folder: shutil.rmtree(folder.parent / "out"),
        *(damaged(name, how) for name in FILES for how in ("gone", "longer", "other") if (name, how) != SAYS_THE_SAME),
    ],
)
def test_whatever_has_changed_is_read_again(folder: Path, change: Change) -> None:
    prepare(folder)
    assert not prepare(folder).read
    change(folder)
    again = prepare(folder)
    shutil.copytree(folder.parent / "out", folder.parent / "kept")
    shutil.rmtree(folder.parent / "out")
    wanted = prepare(folder)
    assert again.read
    assert again == wanted
    for path in wanted.folder.iterdir():
        assert (folder.parent / "kept" / path.parent.name / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "more", [{"split": {"seed": 1}}, {"split": {"test": 0.2}}, {"bad_rows": "set_aside", "validation": "given"}]
)
def test_another_configuration_is_read(folder: Path, more: dict[str, Any]) -> None:
    first = prepare(folder)
    if "validation" in more:
        more = {**more, "validation": write_rows(folder.parent / "validation.jsonl", 40)}
    again = prepare(folder, **more)
    assert again.read
    assert again.content_hash != first.content_hash
    assert not prepare(folder).read
    assert not prepare(folder, **more).read


def test_a_file_that_comes_while_they_are_listed_is_read_the_next_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(data: DataConfig) -> Any:
        found = spread(data)
        write_rows(folder / "c.jsonl", 20)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "spread", meanwhile)
        assert len(prepare(folder).accounts) == 2
    again = prepare(folder)
    assert (again.read, len(again.accounts)) == (True, 3)


def test_what_a_pattern_matches_and_is_not_read_is_told_when_it_comes(folder: Path) -> None:
    def codes() -> set[str]:
        return {finding.code for finding in prepare(folder, train=folder / "*").findings}

    assert "DATA_FILES_LEFT_OUT" not in codes()
    (folder / "more.zip").write_bytes(b"PK")
    assert "DATA_FILES_LEFT_OUT" in codes()


def test_other_code_reads_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(folder)
    monkeypatch.setattr(prepared, "_code", lambda: "other")
    assert prepare(folder).read


def test_what_can_change_unseen_is_read_always(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "more" / "b.jsonl").read_text().splitlines()]
    first, again = (prepare(folder, train=rows) for _ in range(2))
    assert (again, again.read) == (first, True)
    assert "The same rows were prepared before" in str(again)


@pytest.mark.parametrize(("revision", "known"), [(None, False), ("main", False), ("v1", False), ("ab" * 20, True)])
def test_a_data_set_of_the_hub_is_known_by_its_commit(revision: str | None, known: bool) -> None:
    data = DataConfig.model_validate({"train": {"huggingface": "owner/name", "revision": revision}})
    assert (prepared.inputs_of(data) is not None) == known


def test_a_file_whose_next_change_could_not_be_told_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataConfig(train=write_rows(tmp_path / "rows.jsonl", 30))
    assert prepared.inputs_of(data) == prepared.inputs_of(data) is not None
    second = 1_000_000_000
    now = time.time_ns() // second * second
    monkeypatch.setattr(prepared, "stamps", lambda paths: [(*one[:2], now, now, *one[4:]) for one in stamps(paths)])
    assert prepared.inputs_of(data) is None  # whole seconds are kept there
    monkeypatch.setattr(prepared, "stamps", lambda paths: [(*one[:3], now + 9 * second + 1) for one in stamps(paths)])
    assert prepared.inputs_of(data) is None  # the clock there is another


@pytest.mark.parametrize("name", ["given", "owner/name"])
def test_a_folder_that_is_read_as_a_data_set_of_the_hub_has_no_commit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)
    data = DataConfig.model_validate({"train": {"huggingface": name, "revision": "ab" * 20}})
    assert prepared.inputs_of(data) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"inputs": 1}', "\0", "[" * 100_000])
def test_a_manifest_that_nobody_understands_is_none(folder: Path, content: str) -> None:
    first = prepare(folder)
    (first.folder / "manifest.json").write_text(content)
    (first.folder.parent / "other").mkdir()
    (first.folder.parent / "other" / "manifest.json").write_text(content)
    again = prepare(folder)
    assert (again, again.read) == (first, True)
    assert not prepare(folder).read


@pytest.mark.parametrize("fresh", [True, False])
def test_data_of_which_all_is_set_aside_is_refused_each_time(tmp_path: Path, fresh: bool) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": [{"role": "user", "content": f"{n}"}]}) + "\n" for n in range(20)))
    for _ in range(2):
        with pytest.raises(DataError, match="20 of 20 rows cannot be trained on"):
            prepare(path, fresh=fresh)


def test_a_folder_whose_rejects_somebody_is_renewing_stays_where_it_is(folder: Path) -> None:
    first = prepare(folder)
    before = first.folder.stat().st_ino
    (first.folder / "rejects.jsonl").touch()
    again = prepare(folder)
    assert (again, again.read, again.folder.stat().st_ino) == (first, True, before)


def test_many_at_once_agree(folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: prepare(folder, fresh=index % 2 == 0), range(12)))
    assert all(each == found[0] for each in found)
    assert not prepare(folder).read


def test_what_two_callers_say_of_the_same_rows_is_not_mixed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = shutil.copytree(folder, folder.parent / "other")
    prepare(folder)
    touch, between = Path.touch, threading.Thread(target=prepare, args=(folder,), kwargs={"train": other})

    def touch_late(path: Path, **how: Any) -> None:
        if path.name == "manifest.json" and threading.current_thread() is not between:
            between.start()
            between.join()
        touch(path, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", touch_late)
        prepare(folder, fresh=True)
    for train in (folder, other):
        found = prepare(folder, train=train)
        assert found.rejects
        assert json.loads(found.rejects.read_text())["source"] in {account.source for account in found.accounts}
