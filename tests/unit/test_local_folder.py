"""Who may have a state folder, and what is written there."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from phift.local.state.folder import Folder, write_private
from phift.local.state.identity import known_secret, read_secret
from phift.local.state.served import Served, note_process, process_of, read_served


def test_a_claim_is_one_processs_and_ends_with_it(tmp_path: Path) -> None:
    place = Folder(tmp_path)
    assert place.is_free()
    with place.claimed() as first:
        assert first
        place.server_lock.unlink()
        assert not place.is_free()
        with place.claimed(patience=0) as second:
            assert not second
    assert place.is_free()


def test_where_no_folder_can_be_locked_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    place = Folder(tmp_path)
    with place.claimed() as first:
        assert first
        assert not place.is_free()
        with place.claimed(patience=0) as second:
            assert not second
    assert place.is_free()


def test_two_that_look_are_not_in_each_others_way(tmp_path: Path) -> None:
    place = Folder(tmp_path)
    with place._held(fcntl.LOCK_SH, 0) as looking:
        assert looking
        assert place.is_free()


def test_looking_makes_no_file(tmp_path: Path) -> None:
    assert Folder(tmp_path).is_free()
    assert Folder(tmp_path / "none").is_free()
    assert not list(tmp_path.iterdir())


def test_looking_makes_none_of_a_folder_that_is_deleted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, before = Folder(tmp_path / "deleted"), iter([True])
    monkeypatch.setattr(Path, "is_dir", lambda _path: next(before, False))
    assert place.is_free()
    assert not list(tmp_path.iterdir())


@contextmanager
def claimed(folder: Path) -> Iterator[Folder]:
    place = Folder(folder)
    with place.claimed() as ours:
        assert ours
        yield place


def test_a_claim_forgets_who_had_it_before(tmp_path: Path) -> None:
    with claimed(tmp_path) as place:
        note_process(place, 4000)
        place.server_file.write_bytes(Served(4000, 1).as_bytes())
        assert process_of(place) == 4000
    with claimed(tmp_path) as place:
        assert process_of(place) is None
        assert read_served(place) is None


@pytest.mark.parametrize(
    ("lock", "note", "told"),
    [
        (b"12", b'{"pid": 12, "port": 80}', 12),
        (b"", b'{"pid": 12, "port": 80, "created_at": 1.0, "version": "0.1"}', 12),  # of before 2026-12
        (b"12", b"", 12),
        (b"12", b"null", 12),
        (b"12", b'{"pid": 13, "port": 80}', None),
        (b"x", b'{"pid": true, "port": 80}', None),
        (b"x", b'{"pid": 12, "port": 70000}', None),
        (b"x", b'{"pid": "12", "port": 80}', None),
        (b"x", b'{"pid": -1, "port": 80}', None),
        (b"-1", b"", None),
        (b"0", b"", None),
        (b"99999999999999999999", b"", None),
        (b"9" * 5000, b"", None),
    ],
)
def test_which_process_the_notes_tell(tmp_path: Path, lock: bytes, note: bytes, told: int | None) -> None:
    place = Folder(tmp_path)
    place.server_lock.write_bytes(lock)
    place.server_file.write_bytes(note)
    assert process_of(place) == told


@pytest.mark.parametrize("content", [b"", b" \n", b"short", b"x" * 31, b"\xff" * 64, b"a b" * 30, b"x" * 2000])
def test_what_is_no_secret_is_made_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert known_secret(path) is None
    made = read_secret(path)
    assert len(made) == 64
    assert read_secret(path) == known_secret(path) == made


def test_a_private_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append("sync")
        sync(descriptor)

    def replaced(path: Path, target: Any) -> Path:
        done.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_private(tmp_path / "x", b"1")
    write_private(tmp_path / "x", b"2")
    assert done == ["sync", "replace"] * 2
    assert (tmp_path / "x").read_bytes() == b"2"
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600
