"""What is said of the versions, in the documents too, is what is run."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from matrix import HERE, ROOT, versions


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def test_there_is_an_oldest_a_newest_and_one_between() -> None:
    found = versions()
    assert numbers(found["oldest"]) < numbers(found["between"]) < numbers(found["newest"])
    assert found["newest"] == version("azure-ai-ml")


@pytest.mark.parametrize("document", ["README.md", "docs/local-workspace.md"])
def test_the_documents_name_them(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert [name for name in versions().values() if name not in text] == []


def test_the_environments_have_nothing_that_phift_does_not_ask_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["local"]]
    names = {re.split(r"[><=]", line)[0].lower() for line in asked}
    lines = Path(HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    installed = {line.lower() for line in lines if line and not line.startswith("#")}
    assert installed <= names
