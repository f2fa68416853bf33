"""Many jobs in one workspace: a request about one thing does not care, and lists come whole, in order, once each."""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Local
from wire_jobs import MODEL, body, put_training_file

from phift.local.model import quota, runs
from phift.local.names import WORKSPACE_ID
from phift.local.programs import Programs
from phift.local.server.service import TABLE
from phift.local.site import Site
from phift.local.state.folder import Folder
from phift.local.wire import Call, Reply, WireError

FEW, MANY = 10, 1000
ENDPOINT = {
    "properties": {"authMode": "Key", "provisioningState": "Succeeded", "properties": {}, "traffic": {}},
    "tags": {},
    "identity": {},
    "kind": "Managed",
}


def ask(site: Site, method: str, path: str, sent: object = None, **query: str) -> Reply:
    """Carry out a request in this process."""
    path = path.replace("{ws}", WORKSPACE_ID)
    for route in TABLE:
        match = route.pattern.fullmatch(path) if route.method == method else None
        if match:
            call = Call(method, path, query, {}, io.BytesIO(json.dumps(sent or {}).encode()), match.groupdict())
            return route.handler(site, call)
    raise AssertionError(f"no route for {method} {path}")


def fill(folder: Path, jobs: int) -> Site:
    """Return a workspace with jobs that are completed, a few that wait, and one whose metrics are asked for."""
    site = Site(Folder(folder), "https://localhost:1", Programs(), "fast")
    documents = site.documents
    quota.seed(site)
    with documents.transaction():
        for number in range(jobs):
            ask(site, "PUT", f"{{ws}}/jobs/job-{number}", body())
            for run in (*runs.children(site, f"job-{number}"), documents.get(f"runs/job-{number}")):
                assert run is not None
                runs.set_status(site, run.name, "Completed")
                documents.add_metrics(run.name, [("loss", 1.0, step, step) for step in range(2)])
    for name in ("waiting-1", "waiting-2"):
        ask(site, "PUT", f"{{ws}}/jobs/{name}", body())
    documents.add_metrics("job-1", [("loss", 1.0, step, step) for step in range(100)])
    documents.put("onlineEndpoints/one", ENDPOINT)
    container = folder / "blobs/storage/azureml-blobstore/tests"
    container.mkdir(parents=True)
    (container / "train.jsonl").touch()
    return site


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Site]]:
    few, many = (fill(tmp_path_factory.mktemp("scale"), jobs) for jobs in (FEW, MANY))
    yield few, many
    few.documents.close()
    many.documents.close()


_TRAIN = "azureml://datastores/workspaceblobstore/paths/tests/train.jsonl"
_MLFLOW = "/mlflow/v1.0{ws}/api/2.0/mlflow"
_METRIC = {"key": "loss", "value": 1.0, "step": 1, "timestamp": 1}


def _untag(site: Site) -> object:
    ask(site, "POST", f"{_MLFLOW}/runs/set-tag", {"run_id": "job-2", "key": "b"})
    return ask(site, "POST", f"{_MLFLOW}/runs/delete-tag", {"run_id": "job-2", "key": "b"})


def _search(site: Site) -> object:
    experiment = runs.experiment_id("tests")
    return ask(site, "POST", f"{_MLFLOW}/runs/search", {"experiment_ids": [experiment], "max_results": 5})


def _search_children(site: Site) -> object:
    clause = "tags.mlflow.parentRunId = 'job-1'"
    sent = {"experiment_ids": [runs.experiment_id("tests")], "filter": clause}
    found = ask(site, "POST", f"{_MLFLOW}/runs/search", sent).body["runs"]
    assert len(found) == 5
    return found


def _turn(site: Site) -> object:
    waiting = site.training._next()
    assert waiting is not None
    assert waiting.name == "waiting-1"
    return list(site.documents.in_status("runs", "Running"))


def _data(site: Site) -> object:
    sent = {"properties": {"dataUri": _TRAIN, "dataType": "uri_file"}}
    return ask(site, "PUT", f"{{ws}}/data/some/versions/{uuid.uuid4()}", sent)


REQUESTS: dict[str, Callable[[Site], object]] = {
    "get job": lambda site: ask(site, "GET", "{ws}/jobs/job-1"),
    "submit": lambda site: ask(site, "PUT", f"{{ws}}/jobs/{uuid.uuid4()}", body()),
    "submit again": lambda site: ask(site, "PUT", "{ws}/jobs/job-1", body()),
    "get run": lambda site: ask(site, "GET", "/history/v1.0{ws}/runs/job-1"),
    "run data": lambda site: ask(site, "POST", "/history/v1.0{ws}/rundata", {"runId": "job-1"}),
    "children": lambda site: ask(site, "GET", "/history/v1.0{ws}/runs/job-1/children"),
    "page of jobs": lambda site: ask(site, "GET", "{ws}/jobs", **{"$top": "5"}),
    "MLflow: get run": lambda site: ask(site, "GET", f"{_MLFLOW}/runs/get", run_id="job-1"),
    "MLflow: metric history": lambda site: ask(
        site, "GET", f"{_MLFLOW}/metrics/get-history", run_id="job-1", metric_key="loss"
    ),
    "MLflow: page of runs": _search,
    "MLflow: children of a run": _search_children,
    "MLflow: experiment by name": lambda site: ask(
        site, "GET", f"{_MLFLOW}/experiments/get-by-name", experiment_name="tests"
    ),
    "MLflow: log": lambda site: ask(
        site, "POST", f"{_MLFLOW}/runs/log-batch", {"run_id": "job-2", "metrics": [_METRIC]}
    ),
    "MLflow: tag": lambda site: ask(site, "POST", f"{_MLFLOW}/runs/set-tag", {"run_id": "job-2", "key": "a"}),
    "MLflow: tag taken away": _untag,
    "get endpoint": lambda site: ask(site, "GET", "{ws}/onlineEndpoints/one"),
    "usage": quota.usage,
    "turn of the queue": _turn,
    "recovery": lambda site: site.training._recover(),
    "data asset": _data,
}


def steps(site: Site, request: Callable[[Site], object]) -> int:
    """Count what SQLite's machine executes for a request: it grows with every row that is touched."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    connection: Any = site.documents._connection
    connection.set_progress_handler(tick, 1)
    try:
        request(site)
    finally:
        connection.set_progress_handler(None, 0)
    return count


@pytest.mark.parametrize("name", REQUESTS)
def test_a_hundred_times_the_jobs_are_no_more_work(sites: tuple[Site, Site], name: str) -> None:
    few, many = (steps(site, REQUESTS[name]) for site in sites)
    assert few > 0
    assert many <= 1.5 * few + 20, (few, many)


def test_the_measure_measures(sites: tuple[Site, Site]) -> None:
    few, many = (steps(site, lambda site: list(site.documents.walk("jobs"))) for site in sites)
    assert many > 50 * few


def test_every_page_of_jobs(sites: tuple[Site, Site]) -> None:
    _, site = sites
    seen: list[str] = []
    sizes = set()
    query: dict[str, str] = {"api-version": "2025-12-01"}
    while True:
        answer = ask(site, "GET", "{ws}/jobs", **query).body
        seen += [job["name"] for job in answer["value"]]
        if "nextLink" not in answer:
            break
        sizes.add(len(answer["value"]))
        found = re.search(r"api-version=2025-12-01&\$skipToken=([\w%-]+)$", answer["nextLink"])
        assert found, answer["nextLink"]
        query["$skipToken"] = found[1].replace("%3D", "=")
        ask(site, "PUT", f"{{ws}}/jobs/{uuid.uuid4()}", body())
    old = [name for name in seen if name.startswith("job-")]
    assert old == [f"job-{number}" for number in reversed(range(MANY))]
    assert len(set(seen)) == len(seen)
    assert sizes == {50}


def test_filters_of_the_list_of_jobs(sites: tuple[Site, Site]) -> None:
    site, _ = sites
    runs.change(site, "job-3", {"tags": {"mine": "yes"}})
    runs.change(site, "job-4", {"isArchived": True})

    def names(**query: str) -> list[str]:
        return [job["name"] for job in ask(site, "GET", "{ws}/jobs", **query).body["value"]]

    assert names(tag="mine") == ["job-3"]
    assert names(listViewType="ArchivedOnly") == ["job-4"]
    assert "job-4" not in names()
    assert names(jobType="Command") == []


def _pages(site: Site, sent: dict[str, object], path: str, kind: str) -> list[list[dict[str, Any]]]:
    """Read every page of one of MLflow's lists, with a new job between any two."""
    found: list[list[dict[str, Any]]] = []
    while True:
        answer = ask(site, "POST", f"{_MLFLOW}/{path}", sent).body
        found.append(answer[kind])
        if "next_page_token" not in answer:
            return found
        sent = {**sent, "page_token": answer["next_page_token"]}
        ask(site, "PUT", f"{{ws}}/jobs/{uuid.uuid4()}", body())


def test_every_page_of_runs(sites: tuple[Site, Site]) -> None:
    site, _ = sites
    before = {run.name for run in site.documents.runs_of(runs.experiment_id("tests"))}
    sent = {"experiment_ids": [runs.experiment_id("tests"), "another"], "max_results": 7}
    pages = _pages(site, sent, "runs/search", "runs")
    found = [run["info"]["run_id"] for page in pages for run in page]
    assert {len(page) for page in pages[:-1]} == {7}
    assert len(set(found)) == len(found)
    assert before <= set(found)
    ended = {"experiment_ids": sent["experiment_ids"], "filter": "attributes.status = 'FINISHED'", "max_results": 11}
    assert len([run for page in _pages(site, ended, "runs/search", "runs") for run in page]) == 6 * FEW


def test_every_page_of_experiments_and_points(sites: tuple[Site, Site]) -> None:
    site, _ = sites
    for number in range(5):
        runs.experiment(site, f"experiment-{number}")
    pages = _pages(site, {"max_results": 2}, "experiments/search", "experiments")
    names = [found["name"] for page in pages for found in page]
    assert names == ["tests", *(f"experiment-{number}" for number in range(5))]
    points: list[int] = []
    token = "0"
    while token:
        query = {"run_id": "job-1", "metric_key": "loss", "max_results": "40", "page_token": token}
        answer = ask(site, "GET", f"{_MLFLOW}/metrics/get-history", **query).body
        points += [point["step"] for point in answer["metrics"]]
        token = answer.get("next_page_token", "")
        site.documents.add_metrics("job-1", [("other", 1.0, 1, 1)])
    assert points == [0, 1, *range(100)]


def test_every_page_of_child_runs(sites: tuple[Site, Site]) -> None:
    site, _ = sites
    path = "/history/v1.0{ws}/runs/job-1/children"
    first = ask(site, "GET", path, **{"$top": "3"}).body
    second = ask(site, "GET", path, **{"$top": "3", "$continuationtoken": first["continuationToken"]}).body
    names = [run["runId"] for run in (*first["value"], *second["value"])]
    assert names == [run.name for run in runs.children(site, "job-1")]
    assert list(second) == ["value"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("{ws}/jobs", {"$skipToken": "nonsense"}),
        ("{ws}/jobs", {"$top": "0"}),
        ("{ws}/onlineEndpoints", {"count": "many"}),
        ("/history/v1.0{ws}/runs/job-1/children", {"$continuationtoken": "-1"}),
        (f"{_MLFLOW}/metrics/get-history", {"run_id": "job-1", "max_results": "-1"}),
    ],
)
def test_a_page_that_is_none_is_the_callers_mistake(sites: tuple[Site, Site], path: str, query: dict[str, str]) -> None:
    with pytest.raises(WireError) as told:
        ask(sites[0], "GET", path, **query)
    assert told.value.status == 400


@pytest.mark.proof
@pytest.mark.slow
def test_the_sdk_lists_a_thousand_jobs_once_each_and_in_order(own_local: Local) -> None:
    own_local.workspace.down()
    documents = fill(own_local.connection.folder, MANY).documents
    for number in range(120):
        documents.put(f"onlineEndpoints/end-{number}", ENDPOINT)
    documents.put("data/many", {"properties": {"dataType": "uri_file"}})
    for number in range(120):
        documents.put(f"data/many/versions/{number}", {"properties": {"dataType": "uri_file", "dataUri": _TRAIN}})
    documents.close()
    own_local.workspace.up()
    put_training_file(own_local)
    seen: list[str] = []
    for job in own_local.client.jobs.list():
        seen.append(job.name)
        if len(seen) % 200 == 0:  # while the list is read, another job comes in
            sent = {"properties": {**body(model=MODEL)["properties"], "experimentName": "meanwhile"}}
            path = f"{own_local.arm}/jobs/late-{len(seen)}"
            assert own_local.request("PUT", path, json=sent).status_code == 201
    assert [name for name in seen if name.startswith("job-")] == [f"job-{number}" for number in reversed(range(MANY))]
    assert len(set(seen)) == len(seen)
    assert own_local.workspace.status().jobs["Completed"] >= MANY
    names = [endpoint.name for endpoint in own_local.client.online_endpoints.list()]
    assert names == ["one", *(f"end-{number}" for number in range(120))]
    versions = [asset.version for asset in own_local.client.data.list("many")]
    assert versions == [str(number) for number in reversed(range(120))]
    assert own_local.client.data.get("many", label="latest").version == "119"
