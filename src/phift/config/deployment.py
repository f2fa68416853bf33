"""The deployment section of a configuration: the endpoint and what serves behind it."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from phift.config.data import EndpointName, Name, Section

NEVER = "never"
_LASTING = r"^([0-9]+(\.[0-9]+)?) ?([mhd])$"
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=3650)


def read_lasting(value: str) -> timedelta:
    """Return how long ``8h``, ``3d`` or ``90m`` last; raises `ValueError` with what it may be."""
    found = re.match(_LASTING, value)
    number = float(found[1]) if found else 0
    # A number too long for a time is too long in any unit.
    if not found or not 0 < number < 1e7 or (lasting := timedelta(**{_UNITS[found[3]]: number})) > _LONGEST:
        raise ValueError("give minutes, hours or days, such as 90m, 8h or 3d, up to 3650d")
    return lasting


def _lifetime(value: Any) -> str:
    """Return a lifetime as it is written, of a number the hours."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        value = f"{value:g}h"
    if value == NEVER:
        return NEVER
    if not isinstance(value, str):
        raise ValueError("give hours or days, such as 8h or 3d, or the word never")  # noqa: TRY004 - pydantic's
    try:
        read_lasting(value)
    except ValueError as error:
        raise ValueError(f"{error}, or the word {NEVER}") from None
    return value


Lifetime = Annotated[
    str,
    BeforeValidator(_lifetime),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": f"{_LASTING}|^{NEVER}$"}, {"type": "number"}]}),
]
"""How long something is meant to be there: ``8h``, ``3d``, a number of hours, or ``never``."""


def _not_aml_token(value: Any) -> Any:
    """Refuse the third mode by its name; a token of Azure ML's own is for whoever may read the endpoint anyway."""
    if value == "aml_token":
        raise ValueError("phift makes no endpoints with aml_token: take `key`, or `aad_token`, whose tokens renew too")
    return value


class ProbeConfig(Section):
    """How long the service waits for the model to load before it gives the container up, in seconds.

    Azure's default (first look after 10 s) kills containers that load a model of this size:
    azureml-examples pull request 3983 (2026-06) had to go to 500 s.

    - **initial_delay**: before the first look.
    - **period**: between two looks.
    - **timeout**: for one look.
    - **failure_threshold**: looks in a row that may fail, a number.
    """

    initial_delay: int = Field(default=1200, ge=1)
    period: int = Field(default=20, ge=1)
    timeout: int = Field(default=20, ge=1)
    failure_threshold: int = Field(default=30, ge=1)


class DeploymentConfig(Section):
    """The online endpoint and its one deployment.

    - **instance_type**: VM size; without one, the cheapest allowed size the built-in table knows.
    - **instance_count**: machines that serve.
    - **auth_mode**: who may call it: whoever has its ``key``, or with ``aad_token`` whom Microsoft Entra ID knows and
      whose role has ``onlineEndpoints/score/action`` (Microsoft Learn, "Authenticate clients", read 2026-11-28).
    - **serve**: by which server: ``mlflow``, Azure's own for MLflow models, or ``vllm``, in a container that the
      workspace builds once: OpenAI's routes, batches of ``max_concurrent_requests`` and real streams. Unverified on
      Azure; see `phift.serving.container`.
    - **endpoint_name**: left out, it is made of the job's and the workspace's name.
    - **deployment_name**: its own name, in the endpoint.
    - **max_concurrent_requests**: that one machine works on at a time.
    - **probe**: how long the model may take to load.
    - **allow_unlisted**: go on although the model's inference list does not have the size.
    - **expires**: after how long the endpoint is not needed any more: ``8h``, ``3d``, a number of hours, or ``never``.
      Azure deletes nothing by itself: lists say that it has expired, and ``phift endpoints prune`` deletes it.
    - **request_timeout_ms**: at most 180000, the service's limit (deployment YAML reference, Microsoft Learn, 2026-07).
    """

    instance_type: Name | None = None
    instance_count: int = Field(default=1, ge=1)
    auth_mode: Annotated[Literal["key", "aad_token"], BeforeValidator(_not_aml_token)] = "key"
    serve: Literal["mlflow", "vllm"] = "mlflow"
    endpoint_name: EndpointName | None = None
    deployment_name: EndpointName = "default"
    request_timeout_ms: int = Field(default=180_000, ge=1, le=180_000)
    max_concurrent_requests: int = Field(default=1, ge=1)
    probe: ProbeConfig = ProbeConfig()
    allow_unlisted: bool = False
    expires: Lifetime = "24h"
