"""A program that reads and writes what a training recorded, with plain MLflow and what the environment says.

It imports no Azure package: ``MLFLOW_TRACKING_URI`` and ``MLFLOW_TRACKING_TOKEN`` are all it needs.
"""

from __future__ import annotations

import sys

import mlflow
from mlflow import MlflowClient


def main(experiment_name: str) -> None:
    client = MlflowClient()
    experiment = mlflow.get_experiment_by_name(experiment_name)
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'")[0]
    client.log_metric(run.info.run_id, "held_out", 0.25, step=3)
    client.set_tag(run.info.run_id, "seen_by", "mlflow")
    assert [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "held_out")] == [
        (3, 0.25)
    ]
    assert client.get_run(run.info.run_id).data.tags["seen_by"] == "mlflow"
    print("done")  # noqa: T201 - a program's output


if __name__ == "__main__":
    main(sys.argv[1])
