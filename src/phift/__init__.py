"""Fine-tune Phi models on Azure Machine Learning: one typed, checked, resumable run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from phift.version import __version__ as __version__

if TYPE_CHECKING:
    from phift.azure.clients import Clients as Clients
    from phift.azure.connect import connect as connect
    from phift.check.compute import ComputeTarget as ComputeTarget
    from phift.check.compute import resolve_compute as resolve_compute
    from phift.check.findings import Finding as Finding
    from phift.check.models import FoundationModel as FoundationModel
    from phift.check.models import find_model as find_model
    from phift.check.report import CheckReport as CheckReport
    from phift.config.run import RunConfig as RunConfig
    from phift.config.search import SearchConfig as SearchConfig
    from phift.data.prepare import prepare_dataset as prepare_dataset
    from phift.data.prepared import PreparedDataset as PreparedDataset
    from phift.data.sources import Progress as Progress
    from phift.errors import PhiftError as PhiftError
    from phift.evaluation.asking import RowCompared as RowCompared
    from phift.evaluation.comparing import compare_models as compare_models
    from phift.evaluation.comparison import ModelComparison as ModelComparison
    from phift.evaluation.metrics import Metric as Metric
    from phift.jobs.download import Download as Download
    from phift.jobs.download import DownloadProgress as DownloadProgress
    from phift.jobs.ends import JobEnd as JobEnd
    from phift.jobs.events import Idle as Idle
    from phift.jobs.events import JobEvent as JobEvent
    from phift.jobs.events import MetricLogged as MetricLogged
    from phift.jobs.events import NoAnswer as NoAnswer
    from phift.jobs.events import StatusChanged as StatusChanged
    from phift.jobs.events import StepChanged as StepChanged
    from phift.jobs.events import StillQueued as StillQueued
    from phift.jobs.following import Cursor as Cursor
    from phift.jobs.job import FineTuneJob as FineTuneJob
    from phift.jobs.logs import LogText as LogText
    from phift.jobs.registration import RegisteredModel as RegisteredModel
    from phift.jobs.registration import download_model as download_model
    from phift.jobs.registration import register_model as register_model
    from phift.run.building import build_pipeline as build_pipeline
    from phift.run.chain import FineTuneRun as FineTuneRun
    from phift.run.chain import RunResult as RunResult
    from phift.run.comparison import Comparison as Comparison
    from phift.run.comparison import compare_runs as compare_runs
    from phift.run.deploying import deploy as deploy
    from phift.run.events import Event as Event
    from phift.run.events import TrialChanged as TrialChanged
    from phift.run.events import only as only
    from phift.run.listing import Runs as Runs
    from phift.run.listing import RunSummary as RunSummary
    from phift.run.listing import runs as runs
    from phift.run.reproduce import reproduce as reproduce
    from phift.run.trials import SearchResult as SearchResult
    from phift.run.tuning import find_search as find_search
    from phift.run.tuning import stop_search as stop_search
    from phift.run.tuning import tune as tune
    from phift.serving.batch import ChatProgress as ChatProgress
    from phift.serving.chat import Reply as Reply
    from phift.serving.chat import ToolCall as ToolCall
    from phift.serving.deployment import deploy_model as deploy_model
    from phift.serving.endpoint import Endpoint as Endpoint
    from phift.serving.gate import Gate as Gate
    from phift.serving.listing import Endpoints as Endpoints
    from phift.serving.listing import EndpointSummary as EndpointSummary
    from phift.serving.listing import endpoints as endpoints
    from phift.serving.pruning import Pruned as Pruned
    from phift.serving.pruning import prune_endpoints as prune_endpoints
    from phift.serving.resource import DeploymentEvent as DeploymentEvent
    from phift.serving.rollout import Rollout as Rollout
    from phift.serving.rollout_state import RolloutEvent as RolloutEvent
    from phift.serving.rollout_state import RolloutStatus as RolloutStatus
    from phift.serving.streaming import ReplyStream as ReplyStream
    from phift.tokens.count import Counted as Counted
    from phift.views.printer import EventPrinter as EventPrinter


# Loaded when first used, so that `import phift` is quick.
_PLACES = {
    "ChatProgress": "serving.batch",
    "CheckReport": "check.report",
    "Clients": "azure.clients",
    "Comparison": "run.comparison",
    "ComputeTarget": "check.compute",
    "Counted": "tokens.count",
    "Cursor": "jobs.following",
    "DeploymentEvent": "serving.resource",
    "Download": "jobs.download",
    "DownloadProgress": "jobs.download",
    "Endpoint": "serving.endpoint",
    "EndpointSummary": "serving.listing",
    "Endpoints": "serving.listing",
    "Event": "run.events",
    "EventPrinter": "views.printer",
    "Finding": "check.findings",
    "FineTuneJob": "jobs.job",
    "FineTuneRun": "run.chain",
    "FoundationModel": "check.models",
    "Gate": "serving.gate",
    "Idle": "jobs.events",
    "JobEnd": "jobs.ends",
    "JobEvent": "jobs.events",
    "LogText": "jobs.logs",
    "Metric": "evaluation.metrics",
    "MetricLogged": "jobs.events",
    "ModelComparison": "evaluation.comparison",
    "NoAnswer": "jobs.events",
    "PhiftError": "errors",
    "PreparedDataset": "data.prepared",
    "Progress": "data.sources",
    "Pruned": "serving.pruning",
    "RegisteredModel": "jobs.registration",
    "Reply": "serving.chat",
    "ReplyStream": "serving.streaming",
    "Rollout": "serving.rollout",
    "RolloutEvent": "serving.rollout_state",
    "RolloutStatus": "serving.rollout_state",
    "RowCompared": "evaluation.asking",
    "RunConfig": "config.run",
    "RunResult": "run.chain",
    "RunSummary": "run.listing",
    "Runs": "run.listing",
    "SearchConfig": "config.search",
    "SearchResult": "run.trials",
    "StatusChanged": "jobs.events",
    "StepChanged": "jobs.events",
    "StillQueued": "jobs.events",
    "ToolCall": "serving.chat",
    "TrialChanged": "run.events",
    "build_pipeline": "run.building",
    "compare_models": "evaluation.comparing",
    "compare_runs": "run.comparison",
    "connect": "azure.connect",
    "deploy": "run.deploying",
    "deploy_model": "serving.deployment",
    "download_model": "jobs.registration",
    "endpoints": "serving.listing",
    "find_model": "check.models",
    "find_search": "run.tuning",
    "only": "run.events",
    "prepare_dataset": "data.prepare",
    "prune_endpoints": "serving.pruning",
    "register_model": "jobs.registration",
    "reproduce": "run.reproduce",
    "resolve_compute": "check.compute",
    "runs": "run.listing",
    "stop_search": "run.tuning",
    "tune": "run.tuning",
}

__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'phift' has no attribute {name!r}")
    return getattr(import_module(f"phift.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
