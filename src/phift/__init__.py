"""Fine-tune Phi models on Azure Machine Learning: one typed, checked, resumable run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phift.checks import CheckReport, Finding
    from phift.clients import Clients, connect
    from phift.config import RunConfig
    from phift.endpoint import Endpoint
    from phift.errors import PhiftError
    from phift.jobs import FineTuneJob
    from phift.registration import RegisteredModel
    from phift.run import FineTuneRun, RunResult
    from phift.views import EventPrinter

__version__ = "0.1.0"

# Loaded when first used, so that `import phift` is quick.
_PLACES = {
    "CheckReport": "checks",
    "Clients": "clients",
    "Endpoint": "endpoint",
    "EventPrinter": "views",
    "FineTuneJob": "jobs",
    "FineTuneRun": "run",
    "Finding": "checks",
    "PhiftError": "errors",
    "RegisteredModel": "registration",
    "RunConfig": "config",
    "RunResult": "run",
    "connect": "clients",
}

__all__ = [
    "CheckReport",
    "Clients",
    "Endpoint",
    "EventPrinter",
    "Finding",
    "FineTuneJob",
    "FineTuneRun",
    "PhiftError",
    "RegisteredModel",
    "RunConfig",
    "RunResult",
    "connect",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'phift' has no attribute {name!r}")
    return getattr(import_module(f"phift.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
