"""The part of MLflow's REST interface that reads and writes the runs of jobs."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from itertools import islice
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from phift.local.model import runs
from phift.local.names import WORKSPACE_ID
from phift.local.services.route import AT_WORKSPACE, Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json, Metric, UnknownPosition
from phift.local.wire import Call, Reply, WireError, existing, whole_number

_API = f"/mlflow/{{version}}{AT_WORKSPACE}/api/2.0/mlflow"
_STATUS = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}  # all others: RUNNING
_STATUS |= dict.fromkeys(("NotStarted", "Queued", "Preparing"), "SCHEDULED")
_CLAUSE = re.compile(
    r"""(?P<kind>tags?|attributes?|params?|parameters|metrics?)\.["`]?(?P<key>[^"`=!<>\s]+)["`]?
        \s*(?P<operator>!=|>=|<=|=|<|>)\s*(?P<value>'[^']*'|"[^"]*"|[-+\d.eE]+)""",
    re.VERBOSE | re.IGNORECASE,
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {"=": eq, "!=": ne, ">": gt, ">=": ge, "<": lt, "<=": le}

_invalid = partial(WireError, 400, "INVALID_PARAMETER_VALUE")
_missing = partial(WireError, 404, "RESOURCE_DOES_NOT_EXIST")


def _experiment(site: Site, call: Call) -> Reply:
    if call.path.lower().rstrip("/").endswith("/get-by-name"):
        name = call.query.get("experiment_name", "")
        identity, asked = runs.experiment_id(name), f"name '{name}'"
    else:
        identity, asked = call.query.get("experiment_id", ""), f"ID {call.query.get('experiment_id')}"
    document = existing(site, f"experiments/{identity}", _missing(f"Could not find experiment with {asked}"))
    return Reply({"experiment": _show_experiment(document)})


def _experiments(site: Site, call: Call) -> Reply:
    sent = {**call.query, **call.json()}
    if sent.get("filter"):
        raise WireError(501, "NotImplemented", "The local workspace does not filter experiments")
    found = site.documents.walk("experiments", after=str(sent.get("page_token") or ""))
    return _page(found, _show_experiment, "experiments", _size(sent))


def _size(sent: Mapping[str, Any], default: int = 1000) -> int:
    size = whole_number(sent.get("max_results") or default, "max_results")
    if size < 1:
        raise _invalid("max_results must be at least 1.")
    return size


def _page(found: Iterator[Document], show: Callable[[Document], Json], name: str, size: int) -> Reply:
    """Return as many as fit on a page, and the token of the next one where there is one."""
    try:
        documents = list(islice(found, size + 1))
    except UnknownPosition as error:
        raise _invalid("The page_token is not valid.") from error
    shown: Json = {name: [show(document) for document in documents[:size]]}
    if len(documents) > size:
        shown["next_page_token"] = documents[size - 1].position
    return Reply(shown)


def _show_experiment(document: Document) -> Json:
    return {
        "experiment_id": document.name,
        "name": document.body["name"],
        "lifecycle_stage": "active",
        "artifact_location": "",
        "creation_time": int(document.created * 1000),
        "last_update_time": int(document.modified * 1000),
        "tags": [],
    }


def _run_of(site: Site, sent: Mapping[str, Any]) -> Document:
    """Return the run that a body or a query names."""
    name = sent.get("run_id") or sent.get("run_uuid")
    return existing(site, f"runs/{name}", _missing(f"Run with id={name} not found"))


def _milliseconds(when: str | None) -> int | None:
    return int(datetime.fromisoformat(when).timestamp() * 1000) if when else None


def _tags(document: Document) -> dict[str, str]:
    body = document.body
    tags = {"mlflow.runName": body.get("displayName") or document.name, "mlflow.rootRunId": body["rootRunId"]}
    tags["mlflow.user"] = "local user"
    if body.get("parentRunId"):
        tags["mlflow.parentRunId"] = body["parentRunId"]
    return {**(body.get("properties") or {}), **tags, **(body.get("tags") or {})}


def _show(site: Site, document: Document) -> Json:
    body = document.body
    info = {
        "run_id": document.name,
        "run_uuid": document.name,
        "run_name": body.get("displayName") or document.name,
        "experiment_id": body["experimentId"],
        "user_id": "local user",
        "status": _STATUS.get(body["status"], "RUNNING"),
        "start_time": _milliseconds(body.get("startTimeUtc") or body["createdUtc"]),
        "end_time": _milliseconds(body.get("endTimeUtc")),
        "artifact_uri": f"azureml://artifacts{WORKSPACE_ID}/ExperimentRun/dcid.{document.name}",
        "lifecycle_stage": "deleted" if body.get("hidden") else "active",
    }
    metrics = [_show_metric(metric) for metric in site.documents.latest_metrics(document.name)]
    parameters = [{"key": key, "value": value} for key, value in (body.get("params") or {}).items()]
    tags = [{"key": key, "value": str(value)} for key, value in _tags(document).items()]
    return {"info": info, "data": {"metrics": metrics, "params": parameters, "tags": tags}}


def _show_metric(metric: Metric) -> Json:
    # What is no number travels as protobuf's JSON writes it.
    shown: Any = "NaN" if metric.value is None else metric.value
    if metric.value is not None and math.isinf(metric.value):
        shown = "Infinity" if metric.value > 0 else "-Infinity"
    return {"key": metric.key, "value": shown, "timestamp": metric.milliseconds, "step": metric.step}


def _history(site: Site, call: Call) -> Reply:
    run = _run_of(site, call.query)
    after = whole_number(call.query.get("page_token") or 0, "page_token")
    size = _size(call.query, 25_000)
    metrics = site.documents.metrics(run.name, call.query.get("metric_key", ""), after=after, limit=size + 1)
    shown: Json = {"metrics": [_show_metric(metric) for metric in metrics[:size]]}
    if len(metrics) > size:
        shown["next_page_token"] = str(metrics[size - 1].row)
    return Reply(shown)


def _runs(site: Site, call: Call) -> Reply:
    sent = call.json()
    clauses, text = [], str(sent.get("filter") or "").strip()
    for part in re.split(r"\s+and\s+", text, flags=re.IGNORECASE) if text else []:
        clause = _CLAUSE.fullmatch(part.strip())
        if clause is None:
            raise _invalid(f"The local workspace does not understand the filter {part!r}")
        clauses.append((clause["kind"].lower()[0], clause["key"], clause["operator"], clause["value"]))
    hidden = {"ACTIVE_ONLY": (False,), "DELETED_ONLY": (True,)}.get(str(sent.get("run_view_type")), (False, True))
    found = (
        document
        for document in _candidates(site, sent, clauses)
        if bool(document.body.get("hidden")) in hidden and all(_holds(site, document, *clause) for clause in clauses)
    )
    return _page(found, lambda document: _show(site, document), "runs", _size(sent))


def _candidates(site: Site, sent: Json, clauses: list[tuple[str, str, str, str]]) -> Iterator[Document]:
    """Yield the runs among which a search looks, sorted: those of its experiments, or one run's children of them."""
    order = [str(entry) for entry in sent.get("order_by") or []]
    for entry in order:
        if not re.fullmatch(r"(attributes?\.)?[`\"]?(start_time|Created)[`\"]?(\s+(asc|desc))?", entry, re.IGNORECASE):
            raise WireError(501, "NotImplemented", f"The local workspace orders runs by start_time only, not {entry}")
    newest_first, after = not order or order[0].lower().endswith("desc"), str(sent.get("page_token") or "")
    wanted = [str(name) for name in sent.get("experiment_ids") or []]
    for *asked, value in clauses:
        if asked == ["t", "mlflow.parentRunId", "="]:
            below = site.documents.runs_below(value.strip("'\""), after=after, newest_first=newest_first)
            return (run for run in below if run.body["experimentId"] in wanted)
    found = (site.documents.runs_of(name, after=after, newest_first=newest_first) for name in dict.fromkeys(wanted))
    return heapq.merge(*found, key=lambda run: run.place, reverse=newest_first)


def _holds(site: Site, document: Document, kind: str, key: str, sign: str, value: str) -> bool:
    """Tell whether one clause of a filter is true of a run; ``kind`` is the first letter of its collection."""
    compare = _COMPARE[sign]
    if kind == "m":
        latest = {metric.key: metric.value for metric in site.documents.latest_metrics(document.name)}.get(key)
        return latest is not None and compare(latest, float(value))
    body = document.body
    status = _STATUS.get(body["status"], "RUNNING")
    info = {"status": status, "run_id": document.name, "run_name": body.get("displayName")}
    found: Json = {"t": _tags(document), "p": body.get("params") or {}, "a": info}[kind]
    text = value.strip("'\"")
    return key in found and compare(str(found[key]), text)


def _update(site: Site, call: Call) -> Reply:
    """Rename a run; its status is the server's own, which knows whether the engine lives."""
    sent = call.json()
    if sent.get("run_name"):
        runs.change(site, _run_of(site, sent).name, {"displayName": sent["run_name"]})
    return Reply({"run_info": _show(site, _run_of(site, sent))["info"]})


def _log(site: Site, call: Call, kind: str = "") -> Reply:
    """Write metrics, parameters and tags of a run, or the one of a kind that the body is."""
    sent = call.json()
    run, given = _run_of(site, sent).name, {kind: [sent]} if kind else sent
    try:
        metrics = [
            # float() also reads NaN and Infinity, which travel as text.
            (str(each["key"]), float(each["value"]), int(each.get("step") or 0), int(each.get("timestamp") or 0))
            for each in given.get("metrics") or []
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise _invalid("A metric needs a key and a number.") from error
    tags, parameters = (
        {str(pair["key"]): str(pair.get("value", "")) for pair in given.get(kind) or []} for kind in ("tags", "params")
    )
    with site.documents.transaction():
        site.documents.add_metrics(run, metrics)
        runs.write(site, run, tags, parameters)
    return Reply({})


def _delete_tag(site: Site, call: Call) -> Reply:
    sent = call.json()
    run, key = _run_of(site, sent), str(sent.get("key"))
    if key not in (run.body.get("tags") or {}):
        raise _missing(f"No tag with name: {key} in run with id {run.name}")
    site.documents.update(f"runs/{run.name}", lambda body: body["tags"].pop(key, None))
    return Reply({})


ROUTES = [
    Route(f"GET {_API}/experiments/get-by-name", _experiment),
    Route(f"GET {_API}/experiments/get", _experiment),
    Route(f"POST {_API}/experiments/search", _experiments),
    Route(f"GET {_API}/experiments/search", _experiments),
    Route(f"GET {_API}/runs/get", lambda site, call: Reply({"run": _show(site, _run_of(site, call.query))})),
    Route(f"POST {_API}/runs/search", _runs),
    Route(f"POST {_API}/runs/update", _update),
    Route(f"POST {_API}/runs/log-metric", lambda site, call: _log(site, call, "metrics")),
    Route(f"POST {_API}/runs/log-parameter", lambda site, call: _log(site, call, "params")),
    Route(f"POST {_API}/runs/log-batch", _log),
    Route(f"POST {_API}/runs/set-tag", lambda site, call: _log(site, call, "tags")),
    Route(f"POST {_API}/runs/delete-tag", _delete_tag),
    Route(f"GET {_API}/metrics/get-history", _history),
]
