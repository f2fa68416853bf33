"""What every test of phift has: the plugin it offers to others, and no way to another machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from phift.testing import forbid_azure

pytest_plugins = ["phift.testing.plugin"]


@pytest.fixture(scope="session", autouse=True)
def _no_azure() -> Iterator[None]:
    with forbid_azure():
        yield
