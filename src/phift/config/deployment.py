"""The deployment section of a configuration: the endpoint and what serves behind it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from phift.config.data import EndpointName, Name, Section


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
    - **endpoint_name**: left out, it is made of the job's and the workspace's name.
    - **deployment_name**: its own name, in the endpoint.
    - **max_concurrent_requests**: that one machine works on at a time.
    - **probe**: how long the model may take to load.
    - **allow_unlisted**: go on although the model's inference list does not have the size.
    - **request_timeout_ms**: at most 180000, the service's limit (deployment YAML reference, Microsoft Learn, 2026-07).
    """

    instance_type: Name | None = None
    instance_count: int = Field(default=1, ge=1)
    auth_mode: Literal["key", "aad_token"] = "key"
    endpoint_name: EndpointName | None = None
    deployment_name: EndpointName = "default"
    request_timeout_ms: int = Field(default=180_000, ge=1, le=180_000)
    max_concurrent_requests: int = Field(default=1, ge=1)
    probe: ProbeConfig = ProbeConfig()
    allow_unlisted: bool = False
