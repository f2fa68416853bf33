"""A span for each step of a run, for whoever traces by azure-core's own settings; else nothing is imported or done.

``azure.core.settings.settings.tracing_implementation`` is a plugin's span type, and ``tracing_enabled`` alone means
OpenTelemetry as azure-core has it built in since 1.33: https://learn.microsoft.com/python/api/overview/azure/core-readme.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from phift.azure.clients import Clients
from phift.errors import forgetting_locals
from phift.jobs.job import FineTuneJob


class _Run(Protocol):
    _clients: Clients | None
    _job: FineTuneJob | None


Run = TypeVar("Run", bound=_Run)
P = ParamSpec("P")
T = TypeVar("T")


def traced(step: Callable[Concatenate[Run, P], T]) -> Callable[Concatenate[Run, P], T]:
    """Give a step of a run a span: ``phift.submit``, with the attributes ``phift.workspace`` and ``phift.job``.

    Its errors keep no values of variables, as under `phift.errors.forgetting_locals`.
    """

    @forgetting_locals()
    @wraps(step)
    def call(run: Run, /, *args: P.args, **kwargs: P.kwargs) -> T:
        begun = _begin(f"phift.{step.__name__}")
        if begun is None:
            return step(run, *args, **kwargs)
        with begun as span:
            set_attribute = getattr(span, "add_attribute", None) or span.set_attribute
            try:
                return step(run, *args, **kwargs)
            finally:  # by now they are known
                if run._clients is not None:
                    set_attribute("phift.workspace", str(run._clients.workspace.workspace_name))
                if run._job is not None:
                    set_attribute("phift.job", run._job.name)

    return call


def _begin(name: str) -> AbstractContextManager[Any] | None:
    """Return a span that begins as a context manager, or None where nobody traces."""
    named = {"AZURE_SDK_TRACING_IMPLEMENTATION", "AZURE_TRACING_ENABLED"} & os.environ.keys()
    if "azure.core.settings" not in sys.modules and not named:
        return None
    from azure.core.settings import settings

    if not settings.tracing_enabled():
        return None
    # Of no kind: inside of an internal one, the plugin of OpenTelemetry leaves further spans out.
    if plugin := settings.tracing_implementation():
        return cast(AbstractContextManager[Any], plugin(name=name))
    try:
        from azure.core.instrumentation import get_tracer
    except ImportError:  # an older azure-core, which traces by plugins only
        return None
    tracer = get_tracer(library_name="phift")
    return tracer.start_as_current_span(name) if tracer else None
