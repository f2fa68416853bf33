"""Metrics and tags to MLflow, as they happen."""

from __future__ import annotations

import time
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric

from phift.local.work.engine.job import Job


class Tracking:
    """Writes what one step measures to its own run and to the job's."""

    def __init__(self, job: Job, step: str) -> None:
        self._client = MlflowClient(tracking_uri=job.tracking_uri)
        self._runs = (job.run_id(step), job.root_run_id)
        self._root = job.root_run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write ``metrics`` to both runs before returning."""
        now = int(time.time() * 1000)
        batch = [Metric(name, value, now, step) for name, value in metrics.items()]
        for run_id in self._runs:
            self._client.log_batch(run_id, metrics=batch)

    def tag(self, name: str, value: str) -> None:
        """Set a tag of the job's run."""
        self._client.set_tag(self._root, name, value)
