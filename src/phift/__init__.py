"""Fine-tune Phi models on Azure Machine Learning: one typed, checked, resumable run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from phift.version import __version__ as __version__

if TYPE_CHECKING:
    from phift.azure.clients import Clients
    from phift.azure.connect import connect
    from phift.check.findings import Finding
    from phift.check.report import CheckReport
    from phift.config.run import RunConfig
    from phift.errors import PhiftError
    from phift.jobs.job import FineTuneJob
    from phift.jobs.registration import RegisteredModel
    from phift.run import FineTuneRun, RunResult
    from phift.serving.endpoint import Endpoint
    from phift.views import EventPrinter


# Loaded when first used, so that `import phift` is quick.
_PLACES = {
    "CheckReport": "check.report",
    "Clients": "azure.clients",
    "Endpoint": "serving.endpoint",
    "EventPrinter": "views",
    "FineTuneJob": "jobs.job",
    "FineTuneRun": "run",
    "Finding": "check.findings",
    "PhiftError": "errors",
    "RegisteredModel": "jobs.registration",
    "RunConfig": "config.run",
    "RunResult": "run",
    "connect": "azure.connect",
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
