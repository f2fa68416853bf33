"""One job, built and not submitted: for who submits with a client of the SDK."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from phift.config.run import RunConfig
from phift.run.chain import FineTuneRun

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import PipelineJob

    from phift.azure.clients import Clients


def build_pipeline(
    clients: Clients | MLClient, config: RunConfig | Mapping[str, Any], *, ignore: Collection[str] = ()
) -> PipelineJob:
    """Return the job of a configuration, checked, with its data uploaded; it is not submitted.

        config = RunConfig(model="Phi-4-mini-instruct", data="train.jsonl", compute="gpu-cluster")
        job = build_pipeline(ml_client, config)
        ml_client.jobs.create_or_update(job)

    - **ignore**: codes of error findings to go on in spite of.

    Raises as `phift.run.chain.FineTuneRun.build` does, and `phift.errors.ConfigError` for mistakes in ``config``.
    """
    config = config if isinstance(config, RunConfig) else RunConfig.from_dict(dict(config))
    return FineTuneRun(config, clients).build(ignore=ignore)
