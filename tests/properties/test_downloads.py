"""Whatever names a service lists: what the guard of downloads lets through is written below the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phift.azure.downloads import refuse
from phift.errors import ServiceError

EXAMPLES = int(os.environ.get("PHIFT_EXAMPLES", "100"))
PIECES = [
    "..",
    ".",
    "/",
    "/",
    "a",
    "A",
    "b",
    "C:",
    "\\",
    "\0",
    "link",
    "inner",
    "~",
    "…",
    " ",
    "\x1b[2J",
    "%2e%2e",
    "é",
    "e\u0301",
]
NAMES = st.lists(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), max_size=3, unique=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a link that leads out of it, and one that does not."""
    folder = tmp_path_factory.mktemp("guarded").resolve() / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "link").symlink_to("..")
    (folder / "inner").symlink_to("a")
    return folder


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=NAMES)
def test_what_is_let_through_lies_below_the_folder(folder: Path, names: list[str]) -> None:
    try:
        refuse(dict.fromkeys(names, 1), folder)
    except ServiceError as refused:
        said: str | None = str(refused)
    else:
        said = None
    if said is not None:
        assert said.replace("\n", "").isprintable()
        return
    written = [os.path.realpath(folder / name.lstrip("/")) for name in names]
    assert all(os.path.commonpath([path, folder]) == str(folder) for path in written)
    assert len({name.casefold() for name in names}) == len(names)
