"""What every test of a property starts from: as the unit tests do, from an environment that names no cloud."""

from __future__ import annotations

from unit.conftest import _clean_environment, sleeps

__all__ = ["_clean_environment", "sleeps"]
