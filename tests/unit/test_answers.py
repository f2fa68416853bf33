from __future__ import annotations

import itertools
from collections.abc import Iterator
from enum import Enum
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest

from phift.azure.answers import json_object, listed, outcome, resource_id, text, texts
from phift.errors import ServiceError, WaitTimeout


class State(str, Enum):  # noqa: UP042 - as the SDK has its own
    READY = "Ready"


class Kind(Enum):
    FILE = "uri_file"
    NUMBERED = 1.5


@pytest.mark.parametrize(
    ("value", "read"), [("name", "name"), ("", ""), (State.READY, "Ready"), (Kind.FILE, "uri_file"), (8, "8")]
)
def test_texts_members_of_text_enums_and_whole_numbers_are_text(value: Any, read: str) -> None:
    found = text(value, "model.version")
    assert (found, type(found)) == (read, str)


@pytest.mark.parametrize("value", [MagicMock(), Mock(), None, True, 1.5, ["name"], {"name": 1}, b"name", Kind.NUMBERED])
def test_anything_else_is_no_answer(value: Any) -> None:
    with pytest.raises(ServiceError, match=r"where text was expected \(workspace\.location\)"):
        text(value, "workspace.location")


@pytest.mark.parametrize("value", ["/subscriptions/s x", "azureml:m:1?sig=SECRET", "azureml:m:1\nsecret", MagicMock()])
def test_what_is_no_id_is_no_answer(value: Any) -> None:
    assert resource_id("azureml://registries/r/models/m/versions/1", "model.id").endswith("/1")
    with pytest.raises(ServiceError, match=r"\(model\.id\)") as caught:
        resource_id(value, "model.id")
    assert "SECRET" not in str(caught.value)


def test_the_error_names_what_came_and_the_way_out() -> None:
    with pytest.raises(ServiceError) as caught:
        text(MagicMock(), "workspace.location")
    assert caught.value.what == "The client answered with a MagicMock where text was expected (workspace.location)."
    assert caught.value.where == "workspace.location"
    assert "return_value" in (caught.value.fix or "")


def test_tags_are_read_as_texts_and_none_are_none() -> None:
    assert texts({"phift.rows": 3}, "asset.tags") == {"phift.rows": "3"}
    assert texts(None, "asset.tags") == {}


@pytest.mark.parametrize("value", [MagicMock(), "tags", ["a", "b"]])
def test_what_is_no_mapping_is_no_answer(value: Any) -> None:
    with pytest.raises(ServiceError, match=r"where a mapping was expected \(asset\.tags\)"):
        texts(value, "asset.tags")


@pytest.mark.parametrize("value", [["a", "b"], ("a", "b"), iter(["a", "b"]), {"a": 1, "b": 2}.keys()])
def test_lists_and_pages_are_listed(value: Any) -> None:
    assert listed(value, "workspace.compute.list") == ["a", "b"]


def test_nothing_may_be_listed() -> None:
    assert listed(iter([]), "workspace.compute.list") == []


def test_a_mock_lists_what_it_was_given() -> None:
    mock = MagicMock()
    mock.__iter__.return_value = iter(["a"])
    assert listed(mock, "workspace.compute.list") == ["a"]


@pytest.mark.parametrize("value", [MagicMock(), Mock(), None, "list", 7])
def test_what_is_no_list_is_no_answer(value: Any) -> None:
    with pytest.raises(ServiceError, match=r"where a list was expected \(workspace\.compute\.list\)"):
        listed(value, "workspace.compute.list")


def test_a_json_object_is_a_dict() -> None:
    assert json_object({"id": 1}, "the record") == {"id": 1}


@pytest.mark.parametrize("value", [MagicMock(), None, [], "id"])
def test_what_is_no_json_object_is_no_answer(value: Any) -> None:
    with pytest.raises(ServiceError, match=r"where a JSON object was expected \(the record\)"):
        json_object(value, "the record")


class Pages:
    """A list of the SDK's whose service names its second page again and again."""

    continuation_token = "again"

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> list[str]:
        return ["a"]

    def by_page(self) -> Pages:
        return self


def test_a_list_that_does_not_end_is_an_error() -> None:
    with pytest.raises(ServiceError, match="names a page twice"):
        listed(Pages(), "jobs")


def test_a_list_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.azure.answers.MOST_LISTED", 10)
    with pytest.raises(ServiceError, match="more than 10 entries"):
        listed(itertools.count(), "jobs")


class EmptyPages(Pages):
    """A list whose pages have nothing in them but the name of the next one."""

    def __init__(self) -> None:
        self.number = 0

    @property
    def continuation_token(self) -> str:  # type: ignore[override]  # another one each time
        return str(self.number)

    def __next__(self) -> list[str]:
        self.number += 1
        return []


def test_empty_pages_have_an_end() -> None:
    with pytest.raises(ServiceError, match="more than 10,000 pages"):
        listed(EmptyPages(), "jobs")


class Stuck:
    """An operation that the service never ends."""

    def wait(self, _seconds: float) -> None:
        pass

    def done(self) -> bool:
        return False


def test_an_operation_that_does_not_end_is_given_up() -> None:
    with pytest.raises(WaitTimeout, match="under way for 2 hours") as caught:
        outcome(Stuck(), "endpoint e")
    assert caught.value.where == "endpoint e"


def test_an_operation_that_is_a_mock_has_the_result_that_it_was_given() -> None:
    poller = MagicMock()
    poller.result.return_value = "made"
    assert outcome(poller, "endpoint e") == "made"
