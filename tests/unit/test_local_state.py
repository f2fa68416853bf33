from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from phift.local.state import Documents, Folder, Json, UnsafePath, confined


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
    assert [found.key for found in documents.children("e")] == ["e/z", "e/a"]
    documents.delete("e/a")
    assert documents.get("e/a/deployments/x") is None
    assert documents.get("ee/b") is not None


def test_update(documents: Documents) -> None:
    documents.put("a", {"n": 0})

    def count(body: Json) -> None:
        body["n"] += 1

    threads = [threading.Thread(target=lambda: [documents.update("a", count) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = documents.get("a")
    assert found is not None
    assert found.body == {"n": 200}
    assert documents.update("nobody", count) is None


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
    assert documents.metrics("r", "loss") == [("loss", 2.0, 1, 10), ("loss", None, 2, 20), ("loss", 1.0, 1, 30)]
    assert documents.metrics("r")[2] == ("other", math.inf, 0, 5)
    assert documents.metrics("s") == []


def test_a_killed_process_loses_nothing_it_was_told_is_stored(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from phift.local.state import Documents\n"
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
