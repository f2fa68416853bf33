"""Fine-tune Phi models on Azure Machine Learning: one typed, checked, resumable run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from phift.version import __version__ as __version__

if TYPE_CHECKING:
    from phift.azure.clients import Clients as Clients
    from phift.azure.connect import connect as connect
    from phift.check.findings import Finding as Finding
    from phift.check.report import CheckReport as CheckReport
    from phift.config.run import RunConfig as RunConfig
    from phift.errors import PhiftError as PhiftError
    from phift.jobs.job import FineTuneJob as FineTuneJob
    from phift.jobs.registration import RegisteredModel as RegisteredModel
    from phift.run.chain import FineTuneRun as FineTuneRun
    from phift.run.chain import RunResult as RunResult
    from phift.serving.endpoint import Endpoint as Endpoint
    from phift.views.terminal import EventPrinter as EventPrinter


# Loaded when first used, so that `import phift` is quick.
_PLACES = {
    "CheckReport": "check.report",
    "Clients": "azure.clients",
    "Endpoint": "serving.endpoint",
    "EventPrinter": "views.terminal",
    "Finding": "check.findings",
    "FineTuneJob": "jobs.job",
    "FineTuneRun": "run.chain",
    "PhiftError": "errors",
    "RegisteredModel": "jobs.registration",
    "RunConfig": "config.run",
    "RunResult": "run.chain",
    "connect": "azure.connect",
}

__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'phift' has no attribute {name!r}")
    return getattr(import_module(f"phift.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
