from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phift.config.addresses import Address, read_address, registry_id, without_version

WORKSPACE = "subscriptions/s/resourcegroups/g/workspaces/w"
ARM = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"


def asset(**changes: Any) -> Address:
    values = {"kind": "data", "name": "chat", "version": "3", "label": "", "registry": "", "workspace": None}
    return Address(**{**values, **changes})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("azureml:chat:3", asset(kind="")),
        ("azureml:chat@latest", asset(kind="", version="", label="latest")),
        (f"azureml://{WORKSPACE}/data/chat/versions/3", asset(workspace=("s", "g", "w"))),
        (f"azureml:{ARM}/data/chat/versions/3", asset(workspace=("s", "g", "w"))),
        (f"{ARM}/models/chat/versions/3", asset(kind="models", workspace=("s", "g", "w"))),
        (f"azureml://{WORKSPACE}/DATA/chat/labels/new", asset(version="", label="new", workspace=("s", "g", "w"))),
        ("azureml://registries/r/data/chat/versions/3", asset(registry="r")),
        ("azureml://Registries/r/models/chat/Versions/3", asset(kind="models", registry="r")),
        ("azureml://datastores/store/paths/a/b.jsonl", Address(kind="datastores", name="store", path="a/b.jsonl")),
        (
            f"azureml://{WORKSPACE}/datastores/store/paths/b",
            Address(kind="datastores", name="store", path="b", workspace=("s", "g", "w")),
        ),
        ("azureml://jobs/j/outputs/o", None),
        (f"azureml:{ARM}/jobs/j/outputs/o/paths/sub/", None),
        ("azureml:chat", None),
        ("azureml:chat:3:4", None),
        ("azureml://registries/r/data/chat", None),
        ("https://elsewhere/chat", None),
        ("", None),
    ],
)
def test_an_address_is_read_for_what_it_is(text: str, meant: Address | None) -> None:
    assert read_address(text) == meant


def test_a_registrys_id_is_read_as_it_was_written() -> None:
    text = registry_id("r", "data", "chat", "3")
    assert read_address(text) == asset(registry="r")
    assert without_version(text) == "azureml://registries/r/data/chat"
    assert without_version("azureml:chat:3") == without_version("azureml:chat@latest") == "azureml:chat"


@given(st.text() | st.from_regex(r"azureml:[a-z:/@.-]*", fullmatch=True))
def test_no_text_breaks_the_grammar(text: str) -> None:
    read_address(text)
    without_version(text)
