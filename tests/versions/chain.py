"""The whole chain on a local workspace of its own, with the azure-ai-ml that is installed: ``python chain.py``.

Prints what it saw as one line of JSON, and ends with an error where a step does not do what it should.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from phift import FineTuneRun, RunConfig, samples
from phift.azure.clients import Clients
from phift.azure.connect import connect
from phift.check.compute import read_usages
from phift.check.sizes import read_sizes
from phift.local import Connection, LocalWorkspace

SIZE = "Standard_NC24ads_A100_v4"


def main() -> dict[str, Any]:
    """Run the chain, and return what was seen."""
    # The SDK and its libraries announce their own deprecations and experiments.
    warnings.simplefilter("ignore")
    for name in ("azure", "msrest"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        workspace = LocalWorkspace(Path(scratch) / "workspace", engine="instant", speed="fast")
        connection = workspace.up()
        try:
            config = configuration(connection, Path(scratch))
            clients = replace(connect(config), poll_seconds=0.05)
            started = time.perf_counter()
            job_fields_are_those_of_the_models()
            seen = {"azure-ai-ml": version("azure-ai-ml"), **shapes(clients), **chain(config, clients)}
            return {**seen, "seconds": round(time.perf_counter() - started, 1), "unserved": unserved(connection)}
        finally:
            workspace.down()


def job_fields_are_those_of_the_models() -> None:
    """Hold the local workspace's table of a job's fields against this SDK's models of every version, if it has them."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from fidelity import job_models

    found = job_models.table()
    known = json.loads((files("phift.local.services") / "job_fields.json").read_text(encoding="utf-8"))
    assert not found["versions"] or {**found, "source": known["source"]} == known


def configuration(connection: Connection, folder: Path) -> RunConfig:
    data = samples.write(folder / "elements")
    return RunConfig(
        workspace={"local": connection.folder},
        model="Phi-4-mini-instruct",
        compute={"cluster": "versions", "size": SIZE},
        data={"train": data.train, "validation": data.validation, "test": data.test},
        work_dir=folder / "work",
    )


def shapes(clients: Clients) -> dict[str, str]:
    """Read the region's sizes and usages, and return under which names this SDK keeps what the service said."""
    listed, used = list(clients.workspace.compute.list_sizes()), list(clients.workspace.compute.list_usage())
    size = read_sizes(listed)[SIZE.lower()]
    assert (size.vcpus, size.gpus, size.memory_gb) == (24, 1, 220)
    limits = {(usage.family, usage.low_priority): usage.limit for usage in read_usages(used)}
    assert limits["standardNCADSA100v4Family", False] == 192
    cores = next(name for name in ("v_cp_us", "vCPUs") if vars(listed[0]).get(name) is not None)
    current = next(name for name in ("current_value", "currentValue") if vars(used[0]).get(name) is not None)
    return {"sizes": cores, "usages": current}


def chain(config: RunConfig, clients: Clients) -> dict[str, Any]:
    """Check, submit, wait, read metrics, register, deploy, ask and delete; then find all of it again."""
    run = FineTuneRun(config, clients)
    report = run.check()
    assert report.ok, report
    job = run.submit()
    run.wait(timeout=1200)
    log_metric(clients, job.name)
    metrics = run.metrics()
    assert metrics[["metric", "step", "value"]].values.tolist() == [["loss", 4, 0.5]]
    model = run.register()
    with run.deploy() as endpoint:
        assert "engine is 'instant'" in endpoint.chat("How many protons are in an atom of gold?")
    again = FineTuneRun(config, clients)
    assert (again.submit().existed, again.register().existed) == (True, True)
    try:
        clients.workspace.online_endpoints.get(endpoint.name)
    except Exception as error:  # noqa: BLE001 - the SDK's own, whatever its class in this version
        assert "was not found" in str(error)  # noqa: PT017 - this is a script
    else:
        raise AssertionError("the endpoint is still there")
    return {"job": job.name, "model": f"{model.name}:{model.version}"}


def log_metric(clients: Clients, job: str) -> None:
    """Log what a training would have logged; the engine `instant` has nothing to log."""
    uri = clients.workspace.workspaces.get(clients.workspace.workspace_name).mlflow_tracking_uri
    url = uri.replace("azureml://", "https://", 1) + "/api/2.0/mlflow/runs/log-metric"
    clients.rest.post(url, {"run_id": job, "key": "loss", "value": 0.5, "step": 4, "timestamp": 1})


def unserved(connection: Connection) -> dict[str, int]:
    """Return what the server was asked for and does not serve."""
    import requests

    with requests.Session() as session:
        session.trust_env = False
        headers = {"X-IDENTITY-HEADER": connection.secret()}
        url = f"{connection.base_url}/phift/requests"
        answer = session.get(url, headers=headers, verify=str(connection.ca_bundle), timeout=60)
    found: dict[str, int] = answer.json()["unserved"]
    assert found == {}
    return found


if __name__ == "__main__":
    print(json.dumps(main()))  # noqa: T201 - a script's output
