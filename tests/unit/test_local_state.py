from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from phift.local.state.documents import Documents, Json, Metric, UnknownPosition
from phift.local.state.folder import Folder, UnsafePath, confined


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[Documents]:
    documents = Documents(tmp_path / "state.db")
    yield documents
    documents.close()


def test_put_get_delete(documents: Documents) -> None:
    first = documents.put("jobs/one", {"a": 1})
    second = documents.put("jobs/one", {"a": 2})
    assert (second.body, second.created, second.name) == ({"a": 2}, first.created, "one")
    assert second.modified >= first.modified
    assert documents.get("JOBS/One") == second, "keys ignore case, as Azure's ids do"
    assert documents.delete("jobs/one")
    assert not documents.delete("jobs/one")
    assert documents.get("jobs/one") is None


def test_children_are_direct_and_in_order(documents: Documents) -> None:
    for key in ("e/z", "e/a", "e/a/deployments/x", "ee/b", "e0", "f/c"):
        documents.put(key, {})
    assert [found.key for found in documents.walk("e")] == ["e/z", "e/a"]
    documents.delete("e/a")
    assert documents.get("e/a/deployments/x") is None
    assert documents.get("ee/b") is not None


def test_update(documents: Documents) -> None:
    documents.put("a", {"n": 0})

    def count(body: Json) -> None:
        body["n"] += 1

    def count_often() -> None:
        for _ in range(50):
            documents.update("a", count)

    threads = [threading.Thread(target=count_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = documents.get("a")
    assert found is not None
    assert found.body == {"n": 200}
    documents.update("nobody", count)
    assert documents.get("nobody") is None


def test_a_transaction_is_all_or_nothing(documents: Documents) -> None:
    def fail() -> None:
        with documents.transaction():
            documents.put("a", {})
            with documents.transaction():
                documents.put("b", {})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert documents.get("a") is None
    assert documents.get("b") is None


def test_metrics_keep_their_order_and_odd_numbers(documents: Documents) -> None:
    documents.add_metrics("r", [("loss", 2.0, 1, 10), ("loss", math.nan, 2, 20), ("other", math.inf, 0, 5)])
    documents.add_metrics("r", [("loss", 1.0, 1, 30)])
    assert documents.metrics("r", "loss") == [
        Metric("loss", 2.0, 1, 10, row=1),
        Metric("loss", None, 2, 20, row=2),
        Metric("loss", 1.0, 1, 30, row=4),
    ]
    assert [metric.row for metric in documents.metrics("r", "loss", after=1, limit=1)] == [2]
    assert documents.metrics("s", "loss") == []


def test_the_latest_metric_is_of_the_highest_step_and_logged_last(documents: Documents) -> None:
    documents.add_metrics("r", [("loss", 2.0, 3, 10), ("loss", 1.0, 2, 20), ("acc", 0.1, 5, 5), ("acc", 0.2, 5, 5)])
    documents.add_metrics("s", [("loss", 9.0, 9, 10)])
    assert [(metric.key, metric.value) for metric in documents.latest_metrics("r")] == [("acc", 0.2), ("loss", 2.0)]
    assert documents.latest_metrics("nobody") == []


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_list_goes_on_where_it_was_though_more_comes_in(tmp_path: Path, newest_first: bool) -> None:
    # Not even a clock that stands still shows anything twice.
    documents = Documents(tmp_path / "state.db", lambda: 1.0)
    for number in range(200):
        documents.put(f"jobs/{number}", {})
        documents.put(f"jobs/{number}/outputs/x", {})
    seen: list[str] = []
    after = ""
    while True:
        page = list(islice(documents.walk("jobs", after=after, newest_first=newest_first), 30))
        if not page:
            break
        seen += [document.name for document in page]
        after = page[-1].position
        documents.delete(f"jobs/{seen[0]}")
        if newest_first:
            documents.put(f"jobs/new-{len(seen)}", {})
    documents.close()
    expected = [str(number) for number in range(200)]
    assert seen == (expected[::-1] if newest_first else expected)


@pytest.mark.parametrize("position", ["nonsense", "ä", "WzEsIDFd", "bnVsbA==", "WyJ4IiwgLTFd"])
def test_a_position_that_is_none_is_refused(documents: Documents, position: str) -> None:
    with pytest.raises(UnknownPosition):
        list(documents.walk("jobs", after=position))


def test_documents_by_status(documents: Documents) -> None:
    documents.put("runs/b", {"status": "Queued"})
    documents.put("runs/a", {"status": "Queued"})
    documents.put("runs/c", {"status": "Queued", "parentRunId": "a"})
    documents.put("runs/d", {"status": "Running"})
    documents.put("runs/of-mlflow", {"status": "Queued", "ofMlflow": True})
    documents.put("operations/e", {"status": "Queued"})
    assert [run.name for run in documents.in_status("runs", "Queued")] == ["b", "a"]
    assert documents.count_by_status("runs") == {"Queued": 2, "Running": 1}
    documents.update("runs/a", lambda body: body.update(status="Running"))
    assert documents.count_by_status("runs") == {"Queued": 1, "Running": 2}


def test_instances_are_the_deployments(documents: Documents) -> None:
    documents.put("onlineEndpoints/e", {"properties": {"authMode": "Key"}})
    documents.put("onlineEndpoints/e/deployments/d", {"properties": {"instanceType": "X"}, "sku": {"capacity": 3}})
    documents.put("models/m", {"properties": {"instanceType": "Y"}, "sku": {"capacity": 1}})
    assert documents.instances() == [("onlineEndpoints/e/deployments/d", "X", 3)]


def test_a_workspace_of_an_older_phift_gets_the_indexes(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.db")) as old:
        old.execute(
            "CREATE TABLE documents (key TEXT PRIMARY KEY COLLATE NOCASE, body TEXT NOT NULL, created REAL NOT NULL, "
            "modified REAL NOT NULL)"
        )
        old.execute("INSERT INTO documents VALUES ('jobs/one', '{}', 1, 1)")
        old.commit()
    documents = Documents(tmp_path / "old.db")
    found = [document.name for document in documents.walk("JOBS")]
    documents.close()
    assert found == ["one"]


def test_a_commit_that_fails_leaves_nothing_half_done(tmp_path: Path) -> None:
    """What a full disk does: without the roll-back, whatever came after it would never have been committed."""
    documents = Documents(tmp_path / "state.db")
    documents.put("a", {"n": 1})
    with closing(sqlite3.connect(tmp_path / "state.db")) as limited:
        pages = int(limited.execute("PRAGMA page_count").fetchone()[0])
    with documents._lock:
        documents._connection.execute(f"PRAGMA max_page_count = {pages}")

    def grow() -> None:
        with documents.transaction():
            documents.put("a", {"n": 2})
            documents.put("big", {"text": "x" * 100_000})

    with pytest.raises(sqlite3.OperationalError, match="full"):
        grow()
    found = documents.get("a")
    assert found is not None
    assert found.body == {"n": 1}
    documents.put("a", {"n": 3})
    documents.close()
    again = Documents(tmp_path / "state.db")
    kept = again.get("a")
    again.close()
    assert kept is not None
    assert kept.body == {"n": 3}


def test_a_killed_process_loses_nothing_it_was_told_is_stored(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from phift.local.state.documents import Documents\n"
        "d = Documents(Path(sys.argv[1])); d.put('jobs/x', {'a': 1}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "state.db")]
    ended = subprocess.run(command, check=False)  # noqa: S603 - the text above
    assert ended.returncode == -9
    documents = Documents(tmp_path / "state.db")
    found = documents.get("jobs/x")
    documents.close()
    assert found is not None
    assert found.body == {"a": 1}


@pytest.mark.parametrize(
    "name", ["", "..", "a/../b", "/etc/passwd", "a\x00b", "a\\..\\b", "./a/..", "a/..", "x" * 256, "a\nb", "ä" * 128]
)
def test_names_that_could_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafePath):
        confined(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "a/b.txt", "..a/b..", "a b/ä#?%", "x" * 255])
def test_other_names_are_taken(tmp_path: Path, name: str) -> None:
    assert confined(tmp_path, name) == tmp_path / name


def test_a_link_inside_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("/etc")
    with pytest.raises(UnsafePath):
        confined(tmp_path / "in", "link/passwd")


def test_job_and_deployment_folders_stay_inside(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.job("j") == tmp_path / "jobs/j"
    with pytest.raises(UnsafePath):
        folder.job("../j")
    with pytest.raises(UnsafePath):
        folder.deployment("e", "../../x")
