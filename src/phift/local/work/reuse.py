"""Steps that are not run again: what an equal step of an earlier job left is taken instead.

As Azure does where neither of the two pipelines forces a rerun, the component says that it is deterministic, and its
code, inputs, parameters and compute are the same: it runs nothing, and shows the earlier run's state, logs and metrics
(Microsoft Learn, "How to debug pipeline reuse issues", read 2026-11-30; that steps of a pipeline that forces a rerun
serve no other is there, 2023-03-27). All of the component's steps are deterministic (azureml-assets b825da0b,
chat_completion/spec.yaml). The step's run says whose it is in three properties (azure-ai-ml 1.35.2,
constants/_job/pipeline.py; azureml-assets 6a7b6830, benchmark_result_aggregator/main.py).

What no source says, and is guessed here:

- What one step hands to the next is compared by what it is, not by the run that made it. The import gets the output of
  the validation, which takes the learning rate, the epochs and the batch sizes besides: if Azure goes by the run, the
  import and the preprocessing run again where one of these differs.
- Steps of a job that failed or was cancelled later serve others, and a step that was not run logs nothing to the job.
- The times of such a step are those at which it was passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from phift.component.inputs import STEPS
from phift.data import on_cluster
from phift.local.ground import Ground
from phift.local.model import files, runs
from phift.local.state.documents import Document, Json

_VALIDATION, _IMPORT, _PREPROCESS, *_ = STEPS

# The inputs that these two go by, as in the component's specification; and those that the engine looks at besides. Of
# the other steps every input counts.
_OF_IMPORT = ("mlflow_model_path", "finetune_config_path", "apply_deepspeed", "deepspeed_stage", "precision")
_OF_ROWS = ("max_seq_length", "pad_to_max_length", "batch_size", "evaluation_strategy")
_OF_DATA = ("train_file_path", "validation_file_path", "test_file_path")
_TAKES = {_IMPORT: _OF_IMPORT, _PREPROCESS: (*_OF_IMPORT, *_OF_ROWS, *_OF_DATA)}

# What a step leaves in its job's folder for the next one.
_LEAVES = {_IMPORT: "model", _PREPROCESS: "data"}


@dataclass(frozen=True)
class Earlier:
    """A step's run that has completed, and its job."""

    run: str
    job: str


def remember(ground: Ground, job: Document, child: Document) -> None:
    """Let later jobs have what a step has left that has just completed."""
    digest = _digests(job).get(child.body["displayName"])
    if digest:
        kept = {"run": child.name, "job": job.name, "trained": _trains(ground)}
        ground.documents.put(f"reusable/{digest}", kept)


def find(ground: Ground, job: Document) -> dict[str, Earlier]:
    """Return for each step of a job that need not run the earlier one, and copy here what it left for the next."""
    found = {}
    for child in runs.children(ground, job.name):
        step = child.body["displayName"]
        digest = _digests(job).get(step, "")
        known = ground.documents.get(f"reusable/{digest}")
        if child.body["status"] == "Completed":  # before the server stopped, if not in another job
            about = child.body["properties"]
            if run := about.get("azureml.reusedrunid"):
                found[step] = Earlier(run, about["azureml.reusedpipelinerunid"])
            continue
        earlier = Earlier(known.body["run"], known.body["job"]) if known else None
        if earlier and known and known.body["trained"] == _trains(ground) and _is_there(ground, step, earlier, job):
            found[step] = earlier
        elif step not in (on_cluster.STEP, _VALIDATION):  # which hand the import nothing; the others need what is made
            break
    return found


def pass_over(ground: Ground, job: str, reused: Mapping[str, Earlier]) -> None:
    """Complete the steps whose turn it is and that need not run, with the logs and metrics of the earlier ones."""
    for child in runs.children(ground, job):
        if child.body["status"] == "Completed":
            continue
        if (earlier := reused.get(child.body["displayName"])) is None:
            return
        about = {"isreused": "true", "reusedrunid": earlier.run, "reusedpipelinerunid": earlier.job}
        with ground.documents.transaction():
            runs.change(ground, child.name, {"properties": {f"azureml.{key}": told for key, told in about.items()}})
            for latest in ground.documents.latest_metrics(earlier.run):
                points = ground.documents.metrics(earlier.run, latest.key)
                kept = [(p.key, float("nan") if p.value is None else p.value, p.step, p.milliseconds) for p in points]
                ground.documents.add_metrics(child.name, kept)
            for status in ("Running", "Completed"):
                runs.set_status(ground, child.name, status)
        if (log := files.log_to_write(ground, {**child.body, "runId": earlier.run})).is_file():
            shutil.copyfile(log, files.log_to_write(ground, child.body))


def _digests(job: Document) -> dict[str, str]:
    """Return for each step what is the same where it would do the same; none where the job forces a rerun."""
    plan, settings = job.body["plan"], job.body["properties"].get("settings") or {}
    if settings.get("force_rerun"):
        return {}
    asked, inputs, found = plan.get("preparation"), plan["inputs"], {}
    # Data that may have changed where it lies is prepared anew, and so is all that is made of it.
    for step in runs.steps(plan) if asked is None or plan.get("repeatable") else (_IMPORT,):
        of_step: Json = {"step": step, "component": plan["request"]["component"]}
        of_step["compute"] = runs.step_compute(plan, step)
        if step != on_cluster.STEP:
            of_step["inputs"] = {name: inputs.get(name) for name in _TAKES.get(step, sorted(inputs))}
        if asked and step != _IMPORT:
            of_step["preparation"] = [asked["inputs"], asked["outputs"], asked["compute"]]
        found[step] = hashlib.sha256(json.dumps(of_step, sort_keys=True).encode()).hexdigest()
    return found


def _trains(ground: Ground) -> bool:
    """Tell whether the engine is a program that trains; what another leaves is nothing to go on with."""
    return isinstance(ground.programs.engine, tuple)


def _is_there(ground: Ground, step: str, earlier: Earlier, job: Document) -> bool:
    """Tell whether a step's run is still there, and copy what it left in its job's folder, if it had to."""
    made = ground.documents.get(f"runs/{earlier.run}")
    if made is None or made.body["status"] != "Completed":
        return False
    if step not in _LEAVES or not _trains(ground):
        return True
    source, target = (ground.folder.job(name) / "work" / _LEAVES[step] for name in (earlier.job, job.name))
    shutil.rmtree(target, ignore_errors=True)  # of an attempt that was interrupted
    try:
        shutil.copytree(source, target, copy_function=_linked)
    except OSError:
        shutil.rmtree(target, ignore_errors=True)
        return False
    return True


def _linked(source: str, target: str) -> None:
    """Give a file a second name: nobody changes one of these, and a model is large."""
    try:
        os.link(source, target)
    except OSError:  # not on every file system
        shutil.copy2(source, Path(target))
