"""What the SDK downloads for a client of ours stays in its folder, or nothing is written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from azure.ai.ml.entities import Model
from azure.storage.blob import ContainerClient

from phift.azure.clients import Clients
from phift.azure.downloads import guard
from phift.errors import ServiceError
from phift.testing import TestWorkspace

Stored = Callable[..., str]


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture
def stored(workspace: TestWorkspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stored:
    """Have storage list these names below a model, which the local workspace itself would not take."""

    def store(*names: str, size: int = 3) -> str:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "a.txt").write_text("abc")
        model = Model(name="m", version="1", path=str(tmp_path / "model"), type="custom_model")
        prefix: str = workspace.client.models.create_or_update(model).path.partition("/paths/")[2].rstrip("/")
        items = [SimpleNamespace(name=prefix + name, size=size, metadata={}) for name in names]
        monkeypatch.setattr(ContainerClient, "list_blobs", lambda *_, **__: iter(items))
        content = SimpleNamespace(size=3, content_as_bytes=lambda *_: b"abc")
        monkeypatch.setattr(ContainerClient, "download_blob", lambda *_, **__: content)
        return prefix

    return store


HOSTILE = [
    "/../../../x",
    "/a/../../x",
    "/..",
    "/..\\..\\x",
    "//etc/x",
    "/C:/x",
    "/c:\\x",
    "/\\\\server\\share\\x",
    "/a\0b",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_download_that_leaves_its_folder_is_refused_before_anything_is_written(
    stored: Stored, clients: Clients, tmp_path: Path, name: str
) -> None:
    stored("/good.txt", name)
    target = tmp_path / "deep" / "er" / "target"
    before = files_below(tmp_path)
    with pytest.raises(ServiceError, match="outside of the folder") as caught:
        clients.workspace.models.download("m", "1", download_path=str(target))
    assert files_below(tmp_path) == before
    assert str(target / "m" / "model") == caught.value.where
    assert str(caught.value).isprintable() or "\n" in str(caught.value)
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [("/a/README", "/a/readme"), ("/é", "/e\u0301"), ("/straße", "/STRASSE"), ("/x/1", "/X/1"), ("/x//1", "/./x/1")],
)
def test_names_that_are_one_file_elsewhere_are_refused(
    stored: Stored, clients: Clients, tmp_path: Path, names: tuple[str, ...]
) -> None:
    stored(*names)
    with pytest.raises(ServiceError, match="upper and lower case"):
        clients.workspace.models.download("m", "1", download_path=str(tmp_path / "target"))
    assert not (tmp_path / "target").exists()


def test_a_link_in_the_folder_leads_nobody_out_of_it(stored: Stored, clients: Clients, tmp_path: Path) -> None:
    stored("/link/x", "/good")
    (tmp_path / "target" / "m" / "model").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "target" / "m" / "model" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServiceError, match="outside of the folder"):
        clients.workspace.models.download("m", "1", download_path=str(tmp_path / "target"))
    assert files_below(tmp_path / "elsewhere") == []
    assert files_below(tmp_path / "target") == []


def test_a_name_that_does_not_begin_as_asked_is_judged_by_what_the_sdk_makes_of_it(
    stored: Stored, clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = stored("/good")
    item = SimpleNamespace(name="x" * len(prefix) + "link/x", size=3, metadata={})
    monkeypatch.setattr(ContainerClient, "list_blobs", lambda *_, **__: iter([item]))
    (tmp_path / "target" / "m" / "model").mkdir(parents=True)
    (tmp_path / "target" / "m" / "model" / "link").symlink_to(tmp_path)
    with pytest.raises(ServiceError, match="outside of the folder"):
        clients.workspace.models.download("m", "1", download_path=str(tmp_path / "target"))


def test_an_sdk_that_downloads_in_another_way_is_told(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr("azure.ai.ml._artifacts._gen2_storage_helper.Gen2StorageClient.download")
    guard(clients.workspace)
    assert "Gen2StorageClient" in caplog.text


def test_more_than_there_is_room_for_is_refused(stored: Stored, clients: Clients, tmp_path: Path) -> None:
    stored("/a", "/b", size=10**18)
    with pytest.raises(ServiceError, match=r"2 files of 2,000,000,000,000 MB, and [\d,]+ MB are free"):
        clients.workspace.models.download("m", "1", download_path=str(tmp_path / "target"))


def test_everything_else_comes_and_its_size_is_told(
    stored: Stored, clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stored("/a..b", "/ö & <ä>+1.txt", "/...", "/12:30", "/a/b/c", "/a~1")
    caplog.set_level(logging.INFO, "phift.azure.downloads")
    monkeypatch.chdir(tmp_path)
    clients.workspace.models.download("m", "1", download_path="target")
    assert len(files_below(tmp_path / "target" / "m")) == 6
    assert "Downloading 6 files of 0.0 MB" in caplog.text


def test_other_clients_of_the_process_are_as_they_were(
    stored: Stored, clients: Clients, workspace: TestWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert clients.workspace
    stored("/README", "/readme")
    monkeypatch.setattr("phift.azure.downloads.refuse", lambda *_: pytest.fail("it was asked"))
    workspace.client.models.download("m", "1", download_path=str(tmp_path / "target"))
    assert files_below(tmp_path / "target") == ["m/model/README", "m/model/readme"]


def test_an_error_of_storage_is_the_sdk_s_as_before(
    stored: Stored, clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored("/a")

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("made up")

    monkeypatch.setattr(ContainerClient, "list_blobs", fail)
    with pytest.raises(Exception, match="made up") as caught:
        clients.workspace.models.download("m", "1", download_path=str(tmp_path / "target"))
    assert type(caught.value).__name__ == "MlException"
