"""Data sets of the Hub, read from a server that answers as the Hub does; every byte it sent is counted."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phift.config.data import HuggingFaceSource
from phift.data import hub
from phift.data.hub import RowGroup, drawn_groups, draws
from phift.errors import DataError, DataNotFound, ServiceError
from properties.hub_server import COMMIT, OLDER, Fault, Hub, Repository, hub_server

SECRET = "my own words"
TOKEN = "hf_madeUpForThisTest"
SHARDS, ROWS, GROUP = 8, 1000, 125


@dataclass
class Reader:
    """A process that reads from the server, and what it wrote outside of its answers."""

    process: subprocess.Popen[str]
    errors: Path
    state: list[Any]

    def read(self, data: str, take: int | None = None, **settings: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"source": {"huggingface": data, **settings}, "take": take}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        seen: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert seen["state"] == self.state
        assert self.errors.read_text() == ""
        assert SECRET not in json.dumps(seen["error"])
        assert TOKEN not in json.dumps(seen)
        return seen

    def fails(self, data: str, kind: str, *texts: str, **settings: Any) -> dict[str, Any]:
        seen = self.read(data, **settings)
        assert seen["error"] is not None
        assert seen["error"]["type"] == kind, seen["error"]["all"]
        for text in (data, *texts):
            assert text in seen["error"]["text"]
        return seen


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a draw that can be repeated, not a secret


def chats(start: int, count: int) -> list[dict[str, Any]]:
    draw = seeded(start)
    said = [draw.randbytes(500).hex() for _ in range(2 * count)]
    pairs = zip(said[::2], said[1::2], strict=True)
    return [
        {"id": start + n, "messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]}
        for n, (ask, answer) in enumerate(pairs)
    ]


def parquet_files(folder: Path, split: str, shards: int, rows: int, group: int) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        table = pa.Table.from_pylist(chats(shard * rows, rows))
        pq.write_table(table, folder / "data" / f"{split}-{shard:05d}-of-{shards:05d}.parquet", row_group_size=group)
    return folder


def json_files(folder: Path, files: int, rows: int, card: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        lines = (json.dumps(row) + "\n" for row in chats(number * rows, rows))
        (folder / f"train-{number}.jsonl").write_text("".join(lines))
    if card:
        (folder / "README.md").write_text(card)
    return folder


def text_files(folder: Path, **texts: str) -> Path:
    folder.mkdir()
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


LENGTHS = "---\ndataset_info:\n  splits:\n  - name: train\n    num_examples: {rows}\n---\n"
CONFIGURATIONS = """---
configs:
- config_name: short
  data_files: short.jsonl
- config_name: long
  data_files: long.jsonl
---
"""


def repositories(folder: Path) -> dict[str, Repository]:
    """Make the data sets that the tests read."""
    chat = json.dumps(chats(0, 1)[0]) + "\n"
    small = json_files(folder / "small", 1, 20)
    older = parquet_files(folder / "older", "train", 1, 10, 10)
    parquet = parquet_files(folder / "chats", "train", SHARDS, ROWS, GROUP)
    parquet_files(parquet, "test", 1, 50, 10)
    folders = {
        "o/chats": Repository(parquet, older=older),
        "o/lines": Repository(json_files(folder / "lines", 3, 2000, LENGTHS.format(rows=6000))),
        "o/uncounted": Repository(json_files(folder / "uncounted", 2, 200)),
        "o/wrong": Repository(json_files(folder / "wrong", 1, 30, LENGTHS.format(rows=200))),
        "o/private": Repository(small, token=TOKEN),
        "o/hidden": Repository(small, token="hf_anotherOne"),
        "o/gated": Repository(small, gated=True),
        "o/gated-parquet": Repository(parquet, gated=True),
        "o/empty": Repository(text_files(folder / "empty", README_md="nothing here\n")),
        "o/script": Repository(text_files(folder / "script", script_py=f"open({str(folder / 'ran')!r}, 'w')")),
        "o/two": Repository(
            text_files(folder / "two", README_md=CONFIGURATIONS, short_jsonl=chat, long_jsonl=chat * 3)
        ),
        "o/torn": Repository(text_files(folder / "torn", train_jsonl=chat * 9 + '{"messages": ["' + SECRET)),
        "o/no-parquet": Repository(text_files(folder / "no-parquet", train_parquet=SECRET * 99)),
        "o/mixed": Repository(folder / "mixed"),
    }
    mixed = parquet_files(folder / "mixed", "train", 1, 10, 10)
    texts = pa.array(['{"a": 1}', '{"b": {"c": "x"}}'])
    tools = pa.ListArray.from_arrays([0, 2, 2], pa.ExtensionArray.from_storage(pa.json_(), texts))
    table = pa.table({"id": [1, 2], "tools": tools})
    pq.write_table(table, mixed / "data" / "train-00000-of-00001.parquet")
    return folders


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with hub_server() as running:
        running.repositories = repositories(tmp_path_factory.mktemp("hub"))
        yield running


def start(server: Hub, home: Path, **environment: str) -> Reader:
    home.mkdir(parents=True, exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    settings = inherited | {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, **environment}
    command = [sys.executable, "-W", "error", "-m", "properties.hub_reader"]
    with (home / "errors").open("w") as errors:
        process = subprocess.Popen(  # noqa: S603 - this Python, and a module of these tests
            command,
            env=settings,
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    return Reader(process, home / "errors", json.loads(process.stdout.readline() or "[]"))


def stop(reader: Reader) -> None:
    reader.process.communicate(timeout=300)


@pytest.fixture(scope="module")
def _reader(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    running = start(server, tmp_path_factory.mktemp("home"))
    yield running
    stop(running)


@pytest.fixture
def reader(server: Hub, _reader: Reader) -> Reader:
    server.fresh()
    return _reader


def bytes_of(server: Hub, name: str = "o/chats") -> int:
    return sum(file.stat().st_size for file in server.repositories[name].folder.rglob("train-*"))


def share(server: Hub) -> float:
    """Which part of the training split was sent."""
    return sum(count for name, count in server.sent.items() if name.startswith("train")) / bytes_of(server)


# ---------------------------------------------------------------- how much is fetched


def test_the_whole_split_is_fetched_once(server: Hub, reader: Reader) -> None:
    seen = reader.read("o/chats")
    assert seen["error"] is None
    assert seen["ids"] == list(range(SHARDS * ROWS))
    assert bytes_of(server) > 15_000_000
    assert 1 < share(server) < 1.1
    assert not server.sent["test-00000-of-00001.parquet"]


def test_the_first_rows_are_fetched_without_the_others(server: Hub, reader: Reader) -> None:
    seen = reader.read("o/chats", percent=5)
    assert seen["ids"] == list(range(400))
    assert share(server) < 0.15, share(server)


def test_random_rows_are_fetched_without_most_of_the_others(server: Hub, reader: Reader) -> None:
    seen = reader.read("o/chats", percent=5, sample="random")
    assert len(seen["ids"]) == len(set(seen["ids"])) == 400
    assert share(server) < 0.25, share(server)
    assert "400 of 8,000 rows, drawn with seed 42 out of 7 of 64 row groups" in seen["notes"][-1]
    assert len({number // GROUP for number in seen["ids"]}) == 7
    again = reader.read("o/chats", percent=5, sample="random")
    other = reader.read("o/chats", percent=5, sample="random", seed=7)
    assert again["digest"] == seen["digest"] != other["digest"]


PREPARE = """
import json, sys
from pathlib import Path
from phift.config.data import DataConfig
from phift.data.prepare import prepare_dataset

train = {"huggingface": "o/chats", "percent": 5, "sample": "random"}
config = DataConfig(train=train, test={"huggingface": "o/chats", "split": "test"})
seen = []
prepared = prepare_dataset(config, Path(sys.argv[1]), on_progress=seen.append)
steps = [(each.source, each.rows) for each in seen if each.stage == "read"]
print(json.dumps([prepared.rows, prepared.name, [finding.message for finding in prepared.findings], steps]))
"""


def test_a_part_of_a_data_set_is_prepared_without_fetching_the_rest(server: Hub, tmp_path: Path) -> None:
    server.fresh()
    settings = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    command = [sys.executable, "-W", "error", "-c", PREPARE, str(tmp_path / "out")]
    done = subprocess.run(  # noqa: S603 - the script above
        command, env=settings, capture_output=True, text=True, check=True
    )
    rows, name, messages, steps = json.loads(done.stdout)
    assert rows == {"train": 360, "validation": 40, "test": 50}
    assert name == "o/chats"
    assert any("drawn with seed 42" in message for message in messages)
    assert any(COMMIT in message for message in messages)
    assert share(server) < 0.25, share(server)
    assert done.stderr == ""
    for source in {source for source, _ in steps}:
        counts = [count for each, count in steps if each == source]
        assert counts == sorted(counts)
    assert steps[-1][1] > 0


def test_rows_that_are_not_asked_for_in_the_end_are_not_fetched(server: Hub, reader: Reader) -> None:
    assert reader.read("o/chats", take=10)["ids"] == list(range(10))
    assert share(server) < 0.1, share(server)


@pytest.mark.parametrize(("percent", "count"), [(0.001, 1), (37.5, 3000), (99.99, 7999)])
@pytest.mark.parametrize("sample", ["first", "random"])
def test_the_number_of_rows_is_exact(reader: Reader, percent: float, count: int, sample: str) -> None:
    assert len(reader.read("o/chats", percent=percent, sample=sample)["ids"]) == count


def test_a_bigger_row_group_is_fetched_in_pieces(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_AT_ONCE", 0)
    monkeypatch.setattr(hub, "_PIECE", 4096)
    source = HuggingFaceSource(huggingface=str(server.repositories["o/chats"].folder), split="test")
    assert [row["id"] for row in hub.HubRows(source)] == list(range(50))


def test_lines_are_streamed_no_further_than_needed(server: Hub, reader: Reader) -> None:
    seen = reader.read("o/lines", percent=5)
    assert seen["error"] is None
    assert seen["ids"] == list(range(300))
    assert not server.sent["train-1.jsonl"]
    assert not server.sent["train-2.jsonl"]
    assert len(seen["notes"]) == 1


def test_random_lines_are_drawn_from_the_beginning_of_random_files(server: Hub, reader: Reader) -> None:
    seen = reader.read("o/lines", percent=20, sample="random")
    assert len(set(seen["ids"])) == 1200
    assert seen["notes"][-1].endswith("drawn with seed 42 out of the first 2,400 with the files in random order")
    files = [number // 2000 for number in seen["ids"]]
    assert len(set(files)) == 2
    assert server.sent.keys() - {"README.md"} == {f"train-{file}.jsonl" for file in files}
    orders = {files[0]}
    for seed in range(5):
        other = reader.read("o/lines", percent=20, sample="random", seed=seed)
        orders.add(other["ids"][0] // 2000)
        assert other["digest"] != seen["digest"]
    assert len(orders) > 1
    assert reader.read("o/lines", percent=20, sample="random")["digest"] == seen["digest"]


def test_lines_of_unknown_number_are_counted(server: Hub, reader: Reader) -> None:
    seen = reader.read("o/uncounted", percent=10)
    assert seen["ids"] == list(range(40))
    assert "does not say how long train is" in seen["notes"][-1]
    assert reader.read("o/uncounted")["ids"] == list(range(400))


def test_a_card_that_promises_too_many_rows_is_noted(reader: Reader) -> None:
    seen = reader.read("o/wrong", percent=50)
    assert seen["ids"] == list(range(30))
    assert seen["notes"][-1] == "o/wrong has fewer rows in train than its card says"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_is_bounded(reader: Reader) -> None:
    assert len(reader.read("o/chats", split="train+test")["ids"]) == 8050
    assert len(reader.read("o/lines")["ids"]) == 6000
    memory = reader.read("o/lines", take=1)["memory"]
    assert memory < 450, memory


def test_values_kept_as_json_are_values_again(reader: Reader) -> None:
    seen = reader.read("o/mixed")
    assert seen["first"] == {"id": 1, "tools": [{"a": 1}, {"b": {"c": "x"}}]}
    assert seen["ids"] == [1, 2]


# ---------------------------------------------------------------- revisions


def test_everything_is_read_at_one_commit_and_it_is_named(server: Hub, reader: Reader) -> None:
    notes = reader.read("o/chats", take=1)["notes"]
    assert notes == [f"o/chats was read at revision {COMMIT}; pin it with `revision` to read the same data next time"]
    asked = [path for _, path in server.requests if "/o/chats" in path and "expand=sha" not in path]
    assert asked
    assert all(COMMIT in path for path in asked)


@pytest.mark.parametrize("revision", ["v1", OLDER])
def test_another_revision_is_used_throughout(server: Hub, reader: Reader, revision: str) -> None:
    seen = reader.read("o/chats", revision=revision)
    assert seen["ids"] == list(range(10))
    assert bool(seen["notes"]) == (revision == "v1")
    assert not any(COMMIT in path or "main" in path for _, path in server.requests)


def test_an_unknown_revision_is_told(reader: Reader) -> None:
    reader.fails("o/chats", "DataNotFound", "There is no revision v9", revision="v9")


def test_a_mirror_that_names_no_commit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: SimpleNamespace(sha=None))
    with pytest.raises(ServiceError, match="names no commit"):
        next(iter(hub.HubRows(HuggingFaceSource(huggingface="o/chats"))))


# ---------------------------------------------------------------- what is not there, or closed


def test_an_unknown_data_set_may_be_private(reader: Reader) -> None:
    text = reader.fails("o/nothing", "DataNotFound", "no such data set, or it is private", "HF_TOKEN")
    assert text["slept"] == 0


def test_a_private_data_set_is_read_with_the_token(reader: Reader) -> None:
    assert reader.read("o/private")["ids"] == list(range(20))
    reader.fails("o/hidden", "DataNotFound", "or it is private", "hf auth login")


@pytest.mark.parametrize("name", ["o/gated", "o/gated-parquet"])
def test_a_gated_data_set_says_where_to_ask(reader: Reader, name: str) -> None:
    reader.fails(name, "AccessDenied", "gated", "ask for access on the data set's page")


def test_the_splits_are_named(reader: Reader) -> None:
    reader.fails("o/chats", "DataError", "There is no split dev.", "`split` is one of: train, test", split="dev")
    reader.fails("o/chats", "DataError", "no split train[:5%].", "`percent`", split="train[:5%]")


def test_the_configurations_are_named(reader: Reader) -> None:
    reader.fails("o/two", "DataError", "several configurations", "`name` is one of: short, long")
    reader.fails("o/two", "DataError", "no configuration longer", "`name` is one of: short, long", name="longer")
    assert len(reader.read("o/two", name="long")["ids"]) == 3


def test_a_data_set_without_data_is_told(reader: Reader) -> None:
    reader.fails("o/empty", "DataNotFound", "has no data files")
    reader.fails("o", "DataNotFound", "no such data set")
    reader.fails("o/a/b", "DataError", "cannot be read (HFValidationError)")


def test_no_code_of_a_data_set_runs(server: Hub, reader: Reader) -> None:
    reader.fails("o/script", "DataError", "RuntimeError")
    assert not (server.repositories["o/script"].folder.parent / "ran").exists()


@pytest.mark.parametrize("name", ["o/torn", "o/no-parquet"])
def test_broken_files_are_data_errors_that_quote_nothing(reader: Reader, name: str) -> None:
    reader.fails(name, "DataError", "The data set cannot be read (")


def card(files: str, more: str = "") -> str:
    return f"---\nconfigs:\n- config_name: default\n  data_files: {json.dumps(files)}\n{more}---\n"


@pytest.mark.parametrize(
    ("files", "more"),
    [
        ("zip://secret.jsonl::file://{folder}/secret.zip", ""),
        ("zip://*::{folder}/secret.zip", ""),
        ("{folder}/secret.jsonl", ""),
        ("file://{folder}/secret.jsonl", ""),
        ("{url}/secret.jsonl", ""),
        ("zip://secret.jsonl::{url}/secret.zip", ""),
        ("hf://datasets/o/lines/data/*.jsonl", ""),
        ("hf://datasets/o/hostile/../../o/lines/*.jsonl", ""),
        ("../../../../../..{folder}/secret.jsonl", ""),
        ("secret.jsonl", "  data_dir: {folder}\n"),
        ("zip://secret.jsonl::own.zip", ""),
    ],
)
def test_a_card_opens_no_files_but_the_data_sets_own(
    server: Hub, reader: Reader, tmp_path: Path, files: str, more: str
) -> None:
    secret = json.dumps(chats(0, 1)[0] | {"id": SECRET})
    (tmp_path / "secret.jsonl").write_text(secret)
    with ZipFile(tmp_path / "secret.zip", "w") as archive:
        archive.writestr("secret.jsonl", secret)
    given = {"folder": str(tmp_path), "url": server.url}
    folder = tmp_path / "own"
    text_files(folder, README_md=card(files.format(**given), more.format(**given)), train_jsonl=secret)
    shutil.copy(tmp_path / "secret.zip", folder / "own.zip")
    server.repositories["o/hostile"] = Repository(folder)
    seen = reader.fails(
        "o/hostile", "DataError", "The data set's card (README.md) names data files that are not its own"
    )
    assert seen["ids"] == []
    assert not [path for _, path in server.requests if "secret" in path]
    # So it is with a data set in a folder of this machine.
    if "hf://" not in files and not more:
        reader.fails(str(folder), "DataError", "that are not its own")


def test_what_a_card_calls_pictures_is_not_opened(server: Hub, reader: Reader, tmp_path: Path) -> None:
    features = "dataset_info:\n  features:\n  - name: id\n    dtype: string\n  - name: look\n    dtype: image\n"
    row = json.dumps({"id": "one", "look": f"{server.url}/secret.png"}) + "\n"
    text_files(tmp_path / "own", README_md=card("*.jsonl", features), train_jsonl=row)
    server.repositories["o/pictures"] = Repository(tmp_path / "own")
    seen = reader.read("o/pictures")
    assert seen["ids"] == ["one"], seen["error"]
    assert not [path for _, path in server.requests if "secret" in path]


# ---------------------------------------------------------------- a process of their own


def test_rows_come_out_of_a_process_as_they_are_read_in_one(
    server: Hub, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    notes: list[str] = []
    rows = list(hub.read_rows(HuggingFaceSource(huggingface="o/lines", percent=10, sample="random"), notes))
    again = reader.read("o/lines", percent=10, sample="random")
    assert [row["id"] for row in rows] == again["ids"]
    assert notes == again["notes"]
    with pytest.raises(DataNotFound, match="There is no such data set") as caught:
        list(hub.read_rows(HuggingFaceSource(huggingface="o/nowhere"), notes))
    assert caught.value.where == "Hugging Face data set o/nowhere"


@pytest.mark.parametrize("part", ["/api/datasets", "train-"])
def test_a_hub_that_never_ends_is_left(server: Hub, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    server.fresh()
    server.faults = [Fault(part, "trickle", times=float("inf"))]
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(hub, "LIMITS", replace(hub.LIMITS, seconds=12))
    with pytest.raises(DataError, match="Reading the data set was stopped after 12 s, which PHIFT_SECONDS") as caught:
        list(hub.read_rows(HuggingFaceSource(huggingface="o/lines"), []))
    assert caught.value.where == "Hugging Face data set o/lines"
    server.fresh()


def test_a_list_that_goes_on_at_another_host_takes_no_token_there(
    server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.fresh()
    for name, value in (("HF_ENDPOINT", server.url), ("HF_TOKEN", TOKEN), ("HF_HOME", str(tmp_path))):
        monkeypatch.setenv(name, value)
    with hub_server() as other:
        other.repositories = server.repositories
        server.next_page = other.url
        rows = list(hub.read_rows(HuggingFaceSource(huggingface="o/lines"), []))
    assert len(rows) == 6000
    assert server.signed
    assert [path for _, path in other.requests if "/tree/" in path]
    assert other.signed == []
    server.fresh()


@pytest.mark.parametrize("percent", [100, 50], ids=["read", "counted"])
def test_a_split_that_goes_on_is_left(percent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MOST_ROWS", 200)
    monkeypatch.setattr(hub, "_COUNTED", 50)
    folder = json_files(tmp_path / "long", 1, 300)
    with pytest.raises(DataError, match="goes on after 200 rows") as caught:
        list(hub.HubRows(HuggingFaceSource(huggingface=str(folder), percent=percent)))
    assert str(folder) in str(caught.value)


# ---------------------------------------------------------------- a network as it is


@pytest.mark.parametrize("name", ["o/chats", "o/lines"])
def test_a_connection_that_breaks_once_is_taken_up_again(server: Hub, reader: Reader, name: str) -> None:
    whole = reader.read(name)["digest"]
    server.fresh()
    server.faults = [Fault("train-", "drop")]
    seen = reader.read(name)
    assert seen["error"] is None
    assert seen["digest"] == whole
    assert server.faults[0].times == 0


@pytest.mark.parametrize(("name", "most"), [("o/chats", 30), ("o/lines", 300)])
def test_a_connection_that_always_breaks_is_given_up(server: Hub, reader: Reader, name: str, most: int) -> None:
    server.faults = [Fault("train-", "drop", times=float("inf"))]
    seen = reader.fails(name, "ServiceUnreachable", "did not answer")
    assert 0 < seen["slept"] < most, seen["slept"]


@pytest.mark.parametrize("part", ["/api/datasets", "train-"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_is_busy_once_is_asked_again(server: Hub, reader: Reader, part: str, status: int) -> None:
    server.faults = [Fault(part, status)]
    assert reader.read("o/chats", take=10)["ids"] == list(range(10))
    assert server.faults[0].times == 0


@pytest.mark.parametrize("part", ["/api/datasets", "train-"])
@pytest.mark.parametrize(("status", "kind"), [(429, "Throttled"), (503, "ServiceUnreachable"), (418, "ServiceError")])
def test_a_hub_that_stays_busy_is_given_up(server: Hub, reader: Reader, part: str, status: int, kind: str) -> None:
    server.faults = [Fault(part, status, times=float("inf"))]
    seen = reader.fails("o/chats", kind)
    assert seen["slept"] < 60, seen["slept"]


@pytest.mark.parametrize(("status", "kind"), [(401, "AuthenticationError"), (403, "AccessDenied")])
def test_a_refused_token_is_told(server: Hub, reader: Reader, status: int, kind: str) -> None:
    server.faults = [Fault("train-", status, times=float("inf"))]
    reader.fails("o/chats", kind, "token")


def test_a_slow_hub_is_waited_for(server: Hub, reader: Reader) -> None:
    server.latency = 0.02
    assert reader.read("o/chats", percent=1)["ids"] == list(range(80))


def test_a_hub_that_is_not_there_and_one_that_may_not_be_asked(tmp_path: Path) -> None:
    nowhere = Hub(url="http://127.0.0.1:9")
    offline = start(nowhere, tmp_path / "offline", HF_HUB_OFFLINE="1")
    gone = start(nowhere, tmp_path / "gone")
    try:
        assert offline.fails("o/chats", "ServiceUnreachable", "HF_HUB_OFFLINE is set")["slept"] == 0
        assert gone.fails("o/chats", "ServiceUnreachable", "did not answer (ConnectError)")["slept"] < 60
    finally:
        stop(offline)
        stop(gone)


# ---------------------------------------------------------------- drawing


GROUPS = [RowGroup(f"file{n // 3}", n % 3, rows, 10 * rows) for n, rows in enumerate((5, 1, 20, 7, 0, 30, 2))]


def drawn_rows(groups: list[RowGroup], wanted: int, draw: random.Random) -> list[tuple[RowGroup, int]]:
    rows = [(group, index) for group in groups for index in range(group.rows)]
    return list(compress(rows, draws(wanted, len(rows), draw)))


@pytest.mark.parametrize("wanted", [1, 5, 6, 64, 65])
def test_exactly_as_many_rows_are_drawn_as_are_wanted(wanted: int) -> None:
    for seed in range(50):
        draw = seeded(seed)
        some = drawn_groups(GROUPS, wanted, draw)
        assert sum(group.rows for group in some) >= min(65, 2 * wanted)
        assert [group for group in GROUPS if group in some] == some
        drawn = drawn_rows(some, wanted, draw)
        assert len(drawn) == len(set(drawn)) == wanted


def test_every_row_is_as_likely() -> None:
    counts = [0] * 65
    starts = {group: sum(other.rows for other in GROUPS[:n]) for n, group in enumerate(GROUPS)}
    for seed in range(4000):
        for group, index in drawn_rows(GROUPS, 13, seeded(seed)):
            counts[starts[group] + index] += 1
    assert all(650 < count < 950 for count in counts), counts  # 800 expected, with a deviation of 25


def test_the_draw_is_the_same_in_every_release() -> None:
    draw = seeded(42)
    some = drawn_groups(GROUPS, 3, draw)
    drawn = [(group.path, group.number, index) for group, index in drawn_rows(some, 3, draw)]
    assert drawn == [("file0", 1, 0), ("file1", 0, 1), ("file1", 0, 4)]
