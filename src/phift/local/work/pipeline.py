"""What the processes of a job are given, and what they leave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from phift.component.inputs import LITERALS
from phift.component.preprocessing import SPLITS
from phift.data import on_cluster
from phift.local.ground import Ground
from phift.local.model import catalog, files, quota, references, runs
from phift.local.names import DATASTORES, LOCATION, tracking_uri
from phift.local.state.documents import Document, Json
from phift.local.wire.call import WireError

# The step of the component that makes each of its outputs.
_MAKERS = {"pytorch_model_folder": "chat_completion_finetune", "mlflow_model_folder": "ft_nlp_model_converter"}


def check_computes(ground: Ground, plan: Json) -> None:
    """Fail a job whose steps name a compute or a VM size that is not there, or that cannot do the work.

    As the component's validation does: it wants a GPU, and no more processes than the node has GPUs.
    """
    for step in runs.steps(plan):
        compute, vm_size = runs.step_compute(plan, step)
        if compute.lower() == "serverless":
            if quota.size(vm_size) is None:
                message = f"The VM size {vm_size} of step {step} is not supported in {LOCATION}."
                raise WireError(400, "UserError", message)
        elif ground.documents.get(f"computes/{compute}") is None:
            raise WireError(400, "UserError", f"The compute target {compute} of step {step} was not found.")
    row = quota.size(plan["vm_size"])
    wanted = plan["inputs"]["number_of_gpu_to_use_finetuning"]
    if row is None or not wanted.isdigit():
        return  # the engine's own validation names what is no number
    if row["gpus"] == 0:
        raise WireError(400, "UserError", f"SKUNotSupported: fine-tuning needs a GPU, and {row['name']} has none.")
    if int(wanted) > row["gpus"]:
        message = f"number_of_gpu_to_use_finetuning is {wanted}, and a node of {row['name']} has {row['gpus']} GPU(s)."
        raise WireError(400, "UserError", message)


def prepared_uris(asked: Json, child: str) -> dict[str, str]:
    """Return the address of each of the step's outputs; ``${{name}}`` in one is the step's own run.

    Microsoft Learn, "Expressions in Azure Machine Learning SDK and CLI v2", 2026-11-22.
    """
    uris = {}
    for name in (*SPLITS, on_cluster.REPORT):
        uri = asked["outputs"].get(name) or references.datastore_uri("workspaceblobstore", f"azureml/{child}/{name}")
        for expression, value in (("name", child), ("output_name", name), ("default_datastore", "workspaceblobstore")):
            uri = uri.replace(f"${{{{{expression}}}}}", value)
        uris[name] = uri
    return uris


def write_preparation(ground: Ground, job: str, child: Document, asked: Json) -> Path:
    """Write what the process of the step that prepares data is to do and return the file."""
    places = {name: references.place(ground, uri) for name, uri in prepared_uris(asked, child.name).items()}
    arguments = ["--settings", asked["inputs"]["settings"]]
    for name, value in asked["inputs"].items():
        if name != "settings":
            arguments += ["--data", name, str(references.resolve(ground, value))]
    for name, place in places.items():
        arguments += [f"--{name}", str(place)]
    log, folder = files.log_to_write(ground, child.body), ground.folder.job(job)
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "preparing"
    shutil.rmtree(work, ignore_errors=True)  # of an attempt that was interrupted
    work.mkdir(mode=0o700)
    file = folder / "preparation.json"
    description = {"name": on_cluster.STEP, "arguments": arguments, "log": str(log), "work": str(work)}
    file.write_text(json.dumps(description), encoding="utf-8")
    return file


def write_job(ground: Ground, name: str, plan: Json) -> Path:
    """Write what the engine is to do and return the file; assets and what was prepared become absolute paths."""
    folder = ground.folder.job(name)
    (folder / "work").mkdir(parents=True, exist_ok=True)
    children = runs.children(ground, name)
    steps = [
        {
            "name": child.body["displayName"],
            "run_id": child.name,
            "status": child.body["status"],
            "log": str(files.log_to_write(ground, child.body)),
        }
        for child in children
        if child.body["displayName"] != on_cluster.STEP
    ]
    kinds = {key: spec["type"] for key, spec in catalog.component()["inputs"].items()}
    inputs = {}
    for key, value in plan["inputs"].items():
        bound = runs.step_output(value)
        given = children[0].body["outputs"][bound[1]]["uri"] if bound else value
        inputs[key] = given if kinds[key] in LITERALS else str(references.resolve(ground, given))
    outputs = {key: path for key, (_, path) in _outputs(ground, name).items()}
    for path in outputs.values():
        path.mkdir(parents=True, exist_ok=True)
    description = {
        "job": name,
        "inputs": inputs,
        "outputs": {key: str(path) for key, path in outputs.items()},
        "steps": steps,
        "work": str(folder / "work"),
        "tracking": {"uri": tracking_uri(ground.base_url, "https"), "root_run_id": name},
    }
    file = folder / "job.json"
    file.write_text(json.dumps(description, indent=1), encoding="utf-8")
    return file


def finish(ground: Ground, name: str, plan: Json) -> None:
    """Note what a job's engine has left as the outputs of its steps and its own, and end the job."""
    runs.set_status(ground, name, "Finalizing")
    made = {}
    for output, (child, path) in _outputs(ground, name).items():
        if not any(path.iterdir()):
            message = f"The engine ended well but left the output {output} empty."
            runs.end(ground, name, "Failed", {"code": "SystemError", "message": message})
            return
        uri = references.datastore_uri("workspaceblobstore", f"azureml/{child}/{output}")
        made[output] = {"from": output, "uri": uri}
        runs.set_outputs(ground, child, {output: made[output]})
    bound = {root: made[output] for root, output in plan["outputs"].items()}
    if plan.get("preparation"):
        prepared = runs.children(ground, name)[0].body["outputs"]
        bound |= {root: prepared[output] for root, output in plan["preparation"]["bound"].items()}
    runs.set_outputs(ground, name, bound)
    runs.end(ground, name, "Completed")


def _outputs(ground: Ground, name: str) -> dict[str, tuple[str, Path]]:
    """Return for each output of the component the child run that makes it and its folder."""
    children = {run.body["displayName"]: run.name for run in runs.children(ground, name)}
    container = DATASTORES["workspaceblobstore"]
    return {
        output: (children[step], files.path_of(ground, container, f"azureml/{children[step]}/{output}"))
        for output, step in _MAKERS.items()
    }
