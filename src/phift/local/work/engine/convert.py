"""Step 5: the trained model as an MLflow model that anything with MLflow can load."""

from __future__ import annotations

import json
import logging
import shutil

from phift.local.work.engine import mlflow_model, model_import
from phift.local.work.engine.job import Job

_log = logging.getLogger(__name__)


def run(job: Job) -> None:
    """Write ``mlflow_model_folder`` from the trained model; its checkpoints stay behind."""
    trained = job.outputs["pytorch_model_folder"]
    target = job.outputs["mlflow_model_folder"]
    if target.exists():
        shutil.rmtree(target)
    base = json.loads((trained / model_import.BASE).read_text(encoding="utf-8"))
    metadata = {"base_model_name": base["base_model_name"], "job_name": job.name}
    mlflow_model.write(trained, target, metadata)
    _log.info("wrote an MLflow model of %s", base["base_model_name"])
