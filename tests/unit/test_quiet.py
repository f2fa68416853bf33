from __future__ import annotations

import contextvars
import logging
import sys
import threading
from collections.abc import Callable, Generator
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
from azure.ai.ml._artifacts import _blob_storage_helper, _gen2_storage_helper
from azure.ai.ml._utils._azureml_polling import AzureMLPolling
from azure.mgmt.core.polling.arm_polling import ARMPolling

from phift.azure.quiet import quiet, quiet_remarks, quiet_uploads
from phift.errors import azure_errors, calling_azure
from unit.stubs import StubClient

UPLOADERS = [_blob_storage_helper, _gen2_storage_helper]


class Generated:
    """Stands for the operations below the SDK's: a poll of what it begins, in a thread as the SDK's pollers have."""

    location = "here"

    def begin_delete(self, name: str, *, polling: Any) -> str:
        elsewhere(polling.update_status)
        return f"{name} is gone"

    def get(self, name: str) -> str:
        return name


class Operations:
    """Stands for the SDK's operations: they make a poller that prints, for each call one."""

    def __init__(self) -> None:
        self._online_operation = Generated()
        self.last: Any = None

    def begin_delete(self, name: str) -> str:
        self.last = AzureMLPolling(1)
        return self._online_operation.begin_delete(name, polling=self.last)

    def get(self, name: str) -> str:
        return self._online_operation.get(name) + self._online_operation.location


def elsewhere(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)


def upload(module: ModuleType) -> None:
    """Do what the SDK's modules do after an upload, in the module's own names."""
    exec('print("\\x1b[39m" + "\\n", file=sys.stderr)', vars(module))  # noqa: S102 - the SDK's own line


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pollers that have looked at the service, which none of them reaches here."""
    looked: list[Any] = []
    monkeypatch.setattr(ARMPolling, "update_status", lambda self: looked.append(self))
    return looked


def test_a_quiet_poller_looks_and_prints_no_dot(capsys: pytest.CaptureFixture[str], looks: list[Any]) -> None:
    operations = quiet(Operations())
    assert operations.begin_delete("one") == "one is gone"
    assert looks == [operations.last]
    assert isinstance(operations.last, AzureMLPolling)
    assert capsys.readouterr() == ("", "")


def test_the_callers_own_operations_go_on_printing(capsys: pytest.CaptureFixture[str], looks: list[Any]) -> None:
    operations = Operations()
    quiet(operations).begin_delete("one")
    operations.begin_delete("two")
    assert capsys.readouterr().out == "."
    assert len(looks) == 2


def test_everything_else_of_quiet_operations_is_as_it_was() -> None:
    assert quiet(Operations()).get("one ") == "one here"


@pytest.mark.parametrize("other", [MagicMock(), StubClient().online_endpoints, object(), None])
def test_what_is_not_the_sdks_comes_back_as_it_is(other: Any) -> None:
    assert quiet(other) is other


@pytest.mark.parametrize("module", UPLOADERS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_line_after_an_upload_is_kept_back_inside_only(
    capsys: pytest.CaptureFixture[str], module: ModuleType
) -> None:
    with quiet_uploads():
        upload(module)
        assert capsys.readouterr() == ("", "")
        sys.stderr.write("a warning\n")
        print("said")  # noqa: T201 - everybody else's print is Python's
    assert capsys.readouterr() == ("said\n", "a warning\n")
    upload(module)
    assert capsys.readouterr().err == "\x1b[39m\n\n"


def test_the_upload_of_another_thread_is_not_ours_to_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_uploads():
        elsewhere(lambda: upload(_blob_storage_helper))
        upload(_blob_storage_helper)
    assert capsys.readouterr().err == "\x1b[39m\n\n"


def test_two_threads_at_once_are_both_quiet_for_as_long_as_each_stays(capsys: pytest.CaptureFixture[str]) -> None:
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with quiet_uploads():
            inside.set()
            leave.wait(10)
            upload(_blob_storage_helper)

    thread = threading.Thread(target=stay)
    with quiet_uploads():
        thread.start()
        assert inside.wait(10)
    upload(_blob_storage_helper)
    assert capsys.readouterr().err == "\x1b[39m\n\n"
    leave.set()
    thread.join(10)
    assert capsys.readouterr().err == ""


def test_an_error_inside_ends_the_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), quiet_uploads():
        raise ZeroDivisionError
    upload(_blob_storage_helper)
    assert capsys.readouterr().err == "\x1b[39m\n\n"


def test_the_streams_of_the_process_are_never_touched(looks: list[Any]) -> None:
    seen: list[tuple[Any, Any]] = []

    def look() -> None:
        seen.append((sys.stdout, sys.stderr))

    look()
    with quiet_uploads():
        quiet(Operations()).begin_delete("one")
        look()
        elsewhere(look)
        with quiet_uploads():
            look()
    look()
    assert seen == [seen[0]] * 5
    assert looks


def test_somebody_elses_print_in_the_sdk_stays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    monkeypatch.setitem(vars(_blob_storage_helper), "print", lambda *values, **_options: said.append(values))
    with quiet_uploads():
        upload(_blob_storage_helper)
    assert said == [("\x1b[39m\n",)]
    assert capsys.readouterr() == ("", "")


def test_experimental_classes_are_remarked_on_to_others_and_not_where_phift_calls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quiet_remarks()
    quiet_remarks()
    log = logging.getLogger("azure.ai.ml._utils._experimental")
    with azure_errors("here"):
        log.warning("Class A: This is an experimental class")
        with azure_errors("there"):
            pass
        log.warning("Class B: This is an experimental class")
    log.warning("Class C: This is an experimental class")
    assert [record.getMessage()[:7] for record in caplog.records] == ["Class C"]


def test_who_closes_a_generator_elsewhere_is_no_error() -> None:
    def asking() -> Generator[int, None, None]:
        with azure_errors("here"):
            yield 1

    generator = asking()
    contextvars.copy_context().run(next, generator)
    generator.close()
    assert not calling_azure.get()
