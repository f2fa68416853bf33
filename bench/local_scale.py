"""What a request to the local workspace costs when there is little in it, and when there is much.

    python bench/local_scale.py [rounds]

Two workspaces of the instant engine are filled by the server's own routes, in this process and without HTTP: one with
10 jobs, 100 metrics and 2 endpoints, one with 1,000 jobs, 10,000 metrics and 200 endpoints, each with a deployment.
Then both are served, and each kind of request is sent to the one and to the other in turn, over one open connection
each. What is compared are the medians of the rounds: the time to the answer, and the processor time that the server
spent on it, which other work on the machine disturbs less. Linux only.
"""

from __future__ import annotations

import io
import json
import platform
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from phift.local import LocalCredential, LocalWorkspace
from phift.local.model import quota, runs
from phift.local.names import WORKSPACE_ID
from phift.local.programs import Programs
from phift.local.services import endpoints, jobs
from phift.local.site import Site
from phift.local.state.folder import Folder
from phift.local.wire import Call

COMPONENT = "azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.82"
MODEL = "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/15"
TRAIN = "azureml://datastores/workspaceblobstore/paths/train.jsonl"
MLFLOW = "/mlflow/v1.0{ws}/api/2.0/mlflow"
HISTORY = "/history/v1.0{ws}/runs"
API_VERSION = "2024-10-01-preview"
FEW = {"jobs": 10, "endpoints": 2}
MANY = {"jobs": 1000, "endpoints": 200}
METRICS_A_JOB = 10


def job() -> dict[str, Any]:
    """Return a job's body as the SDK sends it."""
    cluster = dict.fromkeys(("compute_finetune", "compute_model_import", "compute_preprocess"), "gpu-cluster")
    node = {
        "componentId": COMPONENT,
        "inputs": {
            "mlflow_model_path": {"uri": MODEL, "job_input_type": "mlflow_model"},
            "train_file_path": {"uri": TRAIN, "job_input_type": "uri_file"},
            **{name: {"value": value, "job_input_type": "literal"} for name, value in cluster.items()},
        },
    }
    return {"properties": {"jobType": "Pipeline", "experimentName": "bench", "jobs": {"chat": node}}}


def fill(folder: Path, count: dict[str, int]) -> None:
    """Write completed jobs with their metrics, and endpoints with a deployment, into a workspace that is down."""
    site = Site(Folder(folder), "https://localhost:1", Programs(), "fast")
    documents = site.documents
    submit = next(route.handler for route in jobs.ROUTES if route.method == "PUT")
    make = next(route.handler for route in endpoints.ROUTES if route.method == "PUT")
    quota.seed(site)
    for number in range(count["jobs"]):
        name = f"job-{number}"
        with documents.transaction():
            submit(site, Call("PUT", "", {}, {}, io.BytesIO(json.dumps(job()).encode()), {"name": name}))
            for child in runs.children(site, name):
                runs.set_status(site, child.name, "Completed")
            runs.set_status(site, name, "Completed")
            documents.add_metrics(name, [("loss", 1.0, step, step) for step in range(METRICS_A_JOB)])
    sku = {"name": "Default", "capacity": 1}
    deployment = {"properties": {"instanceType": "Standard_E4s_v3", "provisioningState": "Succeeded"}, "sku": sku}
    for number in range(count["endpoints"]):
        call = Call(
            "PUT", "", {}, {}, io.BytesIO(b'{"properties": {"authMode": "Key"}}'), {"endpoint": f"end-{number}"}
        )
        make(site, call)
        documents.put(f"onlineEndpoints/end-{number}/deployments/blue", {**deployment, "tags": {}})
    site.operations.reset()
    documents.close()


class Client:
    """A workspace that is up, and one open connection to it."""

    def __init__(self, folder: Path, count: dict[str, int]) -> None:
        self.workspace = LocalWorkspace(folder, engine="instant", speed="fast")
        self.workspace.up()
        self.workspace.down()
        fill(folder, count)
        started = time.perf_counter()
        self.connection = self.workspace.up()
        self.start = time.perf_counter() - started
        self.pid = self.workspace.status().pid or 0
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = str(self.connection.ca_bundle)
        token = LocalCredential(self.connection).get_token("https://management.azure.com/.default").token
        self.session.headers["Authorization"] = f"Bearer {token}"
        blob = Folder(folder).blobs / "storage/azureml-blobstore/train.jsonl"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.touch()

    def ask(self, method: str, path: str, sent: object = None, **query: str) -> Any:
        path = path.replace("{ws}", WORKSPACE_ID)
        if path.startswith("/subscriptions/") and "api-version=" not in path:
            query["api-version"] = API_VERSION
        answer = self.session.request(method, self.connection.base_url + path, json=sent, params=query, timeout=60)
        answer.raise_for_status()
        return answer.json() if answer.content else None


def log(client: Client) -> object:
    metric = {"key": "loss", "value": 1.0, "step": 1, "timestamp": 1}
    return client.ask("POST", f"{MLFLOW}/runs/log-batch", {"run_id": "job-2", "metrics": [metric] * 10})


def search(client: Client) -> object:
    sent = {"experiment_ids": [runs.experiment_id("bench")], "filter": "tags.mlflow.parentRunId = 'job-1'"}
    return client.ask("POST", f"{MLFLOW}/runs/search", sent)


def asset(client: Client) -> object:
    sent = {"properties": {"dataUri": TRAIN, "dataType": "uri_file"}}
    return client.ask("PUT", f"{{ws}}/data/{uuid.uuid4()}/versions/1", sent)


def one_page(client: Client) -> object:
    return client.ask("GET", "{ws}/jobs", **{"$top": "10"})


REQUESTS: dict[str, Callable[[Client], object]] = {
    "get a job": lambda client: client.ask("GET", "{ws}/jobs/job-1"),
    "submit a job that is there": lambda client: client.ask("PUT", "{ws}/jobs/job-1", job()),
    "get a run": lambda client: client.ask("GET", f"{HISTORY}/job-1"),
    "get a run's children": lambda client: client.ask("GET", f"{HISTORY}/job-1/children"),
    "ten jobs of the list": one_page,
    "MLflow: get a run": lambda client: client.ask("GET", f"{MLFLOW}/runs/get", run_id="job-1"),
    "MLflow: a metric's history": lambda client: client.ask(
        "GET", f"{MLFLOW}/metrics/get-history", run_id="job-1", metric_key="loss"
    ),
    "MLflow: log ten metrics": log,
    "MLflow: search a run's children": search,
    "get an endpoint": lambda client: client.ask("GET", "{ws}/onlineEndpoints/end-1"),
    "list an endpoint's deployments": lambda client: client.ask("GET", "{ws}/onlineEndpoints/end-1/deployments"),
    "quota in use": lambda client: client.ask(
        "GET",
        f"{WORKSPACE_ID.partition('/resourceGroups')[0]}/providers/Microsoft.MachineLearningServices/"
        "locations/westus2/usages",
    ),
    "register a data asset": asset,
    # Last: the engine's work for these would disturb the others.
    "submit a new job": lambda client: client.ask("PUT", f"{{ws}}/jobs/{uuid.uuid4()}", job()),
}


def processor_time(pid: int) -> float:
    """Return the milliseconds that all threads of a process have computed; the kernel counts them in nanoseconds."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6


def timed(request: Callable[[Client], object], client: Client) -> tuple[float, float]:
    """Return the milliseconds that a request took, and those that the server computed meanwhile."""
    before, started = processor_time(client.pid), time.perf_counter()
    request(client)
    return (time.perf_counter() - started) * 1000, processor_time(client.pid) - before


def list_all(client: Client) -> tuple[int, float]:
    started, found, path = time.perf_counter(), 0, "{ws}/jobs"
    while path:
        page = client.ask("GET", path.removeprefix(client.connection.base_url))
        found += len(page["value"])
        path = page.get("nextLink", "")
    return found, time.perf_counter() - started


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        few, many = (Client(Path(folder) / str(count["jobs"]), count) for count in (FEW, MANY))
        try:
            print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, Python {platform.python_version()}")
            print(f"ms, medians of {rounds} rounds: the answer's time, and the server's processor time for it\n")
            print(f"| {'request':34} | {'10 jobs':>12} | {'1,000 jobs':>12} | ratios |")
            print(f"|{'-' * 36}|-------------:|-------------:|-------:|")
            for name, request in REQUESTS.items():
                pairs = [(*timed(request, few), *timed(request, many)) for _ in range(rounds)]
                wall, work, more_wall, more_work = (statistics.median(column) for column in zip(*pairs, strict=True))
                figures = f"{wall:5.2f}, {work:5.2f} | {more_wall:5.2f}, {more_work:5.2f}"
                print(f"| {name:34} | {figures} | {more_wall / wall:.2f}, {more_work / work:.2f} |", flush=True)
            found, seconds = list_all(many)
            print(f"\nall {found} jobs, page by page: {seconds:.2f} s")
            print(f"start on what is there: {few.start:.2f} s, {many.start:.2f} s")
        finally:
            few.workspace.down()
            many.workspace.down()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
