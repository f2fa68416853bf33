"""The part of MLflow's REST interface that makes, reads and writes experiments and runs, those of jobs too.

What is asked wrongly is answered with MLflow's own codes (``databricks.proto`` and the server's handlers, mlflow 3.15).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

from phift.local.model import runs, search
from phift.local.names import tracking_uri
from phift.local.services.route import AT_WORKSPACE, Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json, Metric, UnknownPosition
from phift.local.wire import Call, Reply, WireError, existing

AT = f"/mlflow/{{version}}{AT_WORKSPACE}/api/2.0/mlflow"
_STATUS = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}  # all others: RUNNING
_STATUS |= dict.fromkeys(("NotStarted", "Queued", "Preparing"), "SCHEDULED")
_STATES = {"RUNNING": "Running", "SCHEDULED": "NotStarted"} | {_STATUS[ended]: ended for ended in runs.ENDED}
_MOST = 50_000  # that one answer shows (``SEARCH_MAX_RESULTS_THRESHOLD``)
_LATEST = 253_402_300_799_999  # the last millisecond of the year 9999
_OF_EXPERIMENTS = {"name": str, "experiment_id": str, "creation_time": int, "last_update_time": int}
_OF_RUNS: dict[str, type] = dict.fromkeys(("run_id", "run_name", "status", "user_id", "artifact_uri"), str)
_OF_RUNS |= {"start_time": int, "end_time": int}

invalid = partial(WireError, 400, "INVALID_PARAMETER_VALUE")
missing = partial(WireError, 404, "RESOURCE_DOES_NOT_EXIST")


def whole(value: Any, name: str, *, least: int = -(2**63), most: int = 2**63 - 1) -> int:
    """Return a number of 64 bits, which protobuf's JSON writes as such or as text."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = most + 1
    if not least <= number <= most or (isinstance(value, float) and number != value):
        raise invalid(f"Invalid value for parameter '{name}': a whole number from {least} to {most} is wanted.")
    return number


def text(sent: Any, name: str) -> str:
    """Return a text that a body has to have."""
    value = sent.get(name) if isinstance(sent, dict) else None
    if not isinstance(value, str) or not value:
        raise invalid(f"Missing value for required parameter '{name}'.")
    return value


def pairs(sent: Any, name: str = "tags") -> dict[str, str]:
    """Return tags or parameters by their keys; a value that was not sent is an empty text."""
    if not isinstance(sent, list | None):
        raise invalid(f"Invalid value for parameter '{name}': a list is wanted.")
    found = {text(pair, "key"): pair.get("value") for pair in sent or []}
    return {key: "" if value is None else str(value) for key, value in found.items()}


def _experiment(site: Site, identity: Any) -> Document:
    """Return an experiment by its id; ``0``, MLflow's own for who names none, is the one called Default."""
    if str(identity) == "0":
        identity = runs.experiment(site, "Default")
    return existing(site, f"experiments/{identity}", missing(f"Could not find experiment with ID {identity}"))


def _experiment_by_name(site: Site, call: Call) -> Reply:
    name = call.query.get("experiment_name", "")
    unknown = missing(f"Could not find experiment with name '{name}'")
    document = existing(site, f"experiments/{runs.experiment_id(name)}", unknown)
    return Reply({"experiment": _show_experiment(document)})


def _create_experiment(site: Site, call: Call) -> Reply:
    sent = call.json()
    name, tags = text(sent, "name"), pairs(sent.get("tags"))
    runs.check_name("experiment", name)
    identity = runs.experiment_id(name)
    with site.documents.transaction():
        if site.documents.get(f"experiments/{identity}") is not None:
            raise WireError(400, "RESOURCE_ALREADY_EXISTS", f"Experiment '{name}' already exists.")
        site.documents.put(f"experiments/{identity}", {"name": name, "tags": tags})
    return Reply({"experiment_id": identity})


def _change_experiment(site: Site, call: Call, changed: Json) -> Reply:
    sent = call.json()
    with site.documents.transaction():
        document = _experiment(site, sent.get("experiment_id"))
        tags = {**(document.body.get("tags") or {}), **changed.get("tags", {})}
        site.documents.put(document.key, {**document.body, **changed, "tags": tags})
    return Reply({})


def _experiments(site: Site, call: Call) -> Reply:
    sent = {**call.query, **call.json()}
    clauses, hidden = _clauses(sent, _OF_EXPERIMENTS), _view(sent.get("view_type"))

    def wanted(document: Document) -> bool:
        tags, shown = document.body.get("tags") or {}, _show_experiment(document)
        found = (tags.get(each.key) if each.kind == "tag" else shown.get(each.key) for each in clauses)
        return bool(document.body.get("deleted")) in hidden and all(map(search.Clause.holds, clauses, found))

    found = site.documents.walk("experiments", after=str(sent.get("page_token") or ""))
    return _page(filter(wanted, found), _show_experiment, "experiments", _size(sent))


def _clauses(sent: Mapping[str, Any], attributes: Mapping[str, type]) -> list[search.Clause]:
    try:
        return search.clauses(str(sent.get("filter") or ""), attributes)
    except search.NotUnderstood as error:
        raise invalid(str(error)) from error


def _view(asked: Any) -> tuple[bool, ...]:
    """Return which of what is deleted and what is not a search asks for."""
    return {"ACTIVE_ONLY": (False,), "DELETED_ONLY": (True,)}.get(str(asked), (False, True))


def _size(sent: Mapping[str, Any], default: int = 1000) -> int:
    return whole(sent.get("max_results") or default, "max_results", least=1, most=_MOST)


def _page(found: Iterator[Document], show: Callable[[Document], Json], name: str, size: int) -> Reply:
    """Return as many as fit on a page, and the token of the next one where there is one."""
    try:
        documents = list(islice(found, size + 1))
    except UnknownPosition as error:
        raise invalid("The page_token is not valid.") from error
    shown: Json = {name: [show(document) for document in documents[:size]]}
    if len(documents) > size:
        shown["next_page_token"] = documents[size - 1].position
    return Reply(shown)


def _show_experiment(document: Document) -> Json:
    body = document.body
    return {
        "experiment_id": document.name,
        "name": body["name"],
        "lifecycle_stage": "deleted" if body.get("deleted") else "active",
        "artifact_location": "",
        "creation_time": int(document.created * 1000),
        "last_update_time": int(document.modified * 1000),
        "tags": [{"key": key, "value": value} for key, value in (body.get("tags") or {}).items()],
    }


def _run_of(site: Site, sent: Mapping[str, Any]) -> Document:
    """Return the run that a body or a query names."""
    name = sent.get("run_id") or sent.get("run_uuid")
    return existing(site, f"runs/{name}", missing(f"Run with id={name} not found"))


def _milliseconds(when: str | None) -> int | None:
    return round(datetime.fromisoformat(when).timestamp() * 1000) if when else None


def _seconds(sent: Json, name: str) -> float | None:
    """Return a time that was sent in milliseconds, or None."""
    return None if sent.get(name) is None else whole(sent[name], name, least=0, most=_LATEST) / 1000


def _create_run(site: Site, call: Call) -> Reply:
    """Begin a run; whoever names no experiment means the default one."""
    sent = call.json()
    tags, started = pairs(sent.get("tags")), _seconds(sent, "start_time")
    if sent.get("run_name"):
        tags["mlflow.runName"] = str(sent["run_name"])
    experiment = _experiment(site, sent.get("experiment_id") or "0")
    if experiment.body.get("deleted"):
        raise invalid(f"The experiment {experiment.name} must be in the 'active' state. Current state is deleted.")
    name = runs.begin(site, experiment, site.clock.now() if started is None else started, tags)
    return Reply({"run": _show(site, _run_of(site, {"run_id": name}))})


def _tags(document: Document) -> dict[str, str]:
    body = document.body
    tags = {"mlflow.runName": body.get("displayName") or document.name, "mlflow.rootRunId": body["rootRunId"]}
    tags["mlflow.user"] = "local user"
    if body.get("parentRunId"):
        tags["mlflow.parentRunId"] = body["parentRunId"]
    return {**(body.get("properties") or {}), **tags, **(body.get("tags") or {})}


def _info(site: Site, document: Document) -> Json:
    body = document.body
    # The form: mlflow issue 9495, 2023-08-31.
    base = tracking_uri(site.base_url).replace("/mlflow/v1.0/", "/mlflow/v2.0/")
    return {
        "run_id": document.name,
        "run_uuid": document.name,
        "run_name": body.get("displayName") or document.name,
        "experiment_id": body["experimentId"],
        "user_id": "local user",
        "status": _STATUS.get(body["status"], "RUNNING"),
        "start_time": _milliseconds(body.get("startTimeUtc") or body["createdUtc"]),
        "end_time": _milliseconds(body.get("endTimeUtc")),
        "artifact_uri": f"{base}/experiments/{body['experimentId']}/runs/{document.name}/artifacts",
        "lifecycle_stage": "deleted" if body.get("hidden") else "active",
    }


def _show(site: Site, document: Document) -> Json:
    body = document.body
    metrics = [_show_metric(metric) for metric in site.documents.latest_metrics(document.name)]
    parameters = [{"key": key, "value": value} for key, value in (body.get("params") or {}).items()]
    tags = [{"key": key, "value": str(value)} for key, value in _tags(document).items()]
    shown = {"info": _info(site, document), "data": {"metrics": metrics, "params": parameters, "tags": tags}}
    return {**shown, "inputs": {"dataset_inputs": body["datasets"]}} if body.get("datasets") else shown


def _show_metric(metric: Metric) -> Json:
    # What is no number travels as protobuf's JSON writes it.
    shown: Any = "NaN" if metric.value is None else metric.value
    if metric.value is not None and math.isinf(metric.value):
        shown = "Infinity" if metric.value > 0 else "-Infinity"
    return {"key": metric.key, "value": shown, "timestamp": metric.milliseconds, "step": metric.step}


def _history(site: Site, call: Call) -> Reply:
    run = _run_of(site, call.query)
    after = whole(call.query.get("page_token") or 0, "page_token")
    size = _size(call.query, 25_000)
    metrics = site.documents.metrics(run.name, call.query.get("metric_key", ""), after=after, limit=size + 1)
    shown: Json = {"metrics": [_show_metric(metric) for metric in metrics[:size]]}
    if len(metrics) > size:
        shown["next_page_token"] = str(metrics[size - 1].row)
    return Reply(shown)


def _runs(site: Site, call: Call) -> Reply:
    """Search runs; an order other than by their starts reads all that are found."""
    sent = call.json()
    clauses, hidden = _clauses(sent, _OF_RUNS), _view(sent.get("run_view_type"))
    try:
        orders = [search.order(str(entry), _OF_RUNS) for entry in _list(sent, "order_by")]
    except search.NotUnderstood as error:
        raise invalid(str(error)) from error

    def wanted(run: Document) -> bool:
        found = (_value(site, run, clause) for clause in clauses)
        return bool(run.body.get("hidden")) in hidden and all(map(search.Clause.holds, clauses, found))

    by_start = not orders or orders[0][0] == search.Field("attribute", "start_time")
    after, size = str(sent.get("page_token") or ""), _size(sent)
    if by_start:
        found = _candidates(site, sent, clauses, after, newest_first=not orders or orders[0][1])
        return _page(filter(wanted, found), partial(_show, site), "runs", size)
    start = whole(after or 0, "page_token", least=0)
    ordered = list(filter(wanted, _candidates(site, sent, clauses)))
    for field, downwards in reversed(orders):
        values = {run.name: _value(site, run, field) for run in ordered}
        there = [run for run in ordered if values[run.name] is not None]
        there.sort(key=lambda run, values=values: values[run.name], reverse=downwards)  # type: ignore[misc]
        ordered = there + [run for run in ordered if values[run.name] is None]
    shown: Json = {"runs": [_show(site, run) for run in ordered[start : start + size]]}
    if start + size < len(ordered):
        shown["next_page_token"] = str(start + size)
    return Reply(shown)


def _list(sent: Json, name: str) -> list[Any]:
    value = sent.get(name) or []
    if not isinstance(value, list):
        raise invalid(f"Invalid value for parameter '{name}': a list is wanted.")
    return value


def _candidates(
    site: Site, sent: Json, clauses: Iterable[search.Clause], after: str = "", *, newest_first: bool = True
) -> Iterator[Document]:
    """Yield the runs among which a search looks, sorted: those of its experiments, or one run's children of them."""
    wanted = [str(name) for name in _list(sent, "experiment_ids")]
    wanted = [runs.experiment_id("Default") if name == "0" else name for name in wanted]
    for clause in clauses:
        if (clause.kind, clause.key, clause.sign) == ("tag", "mlflow.parentRunId", "="):
            below = site.documents.runs_below(clause.value, after=after, newest_first=newest_first)
            return (run for run in below if run.body["experimentId"] in wanted)
    found = (site.documents.runs_of(name, after=after, newest_first=newest_first) for name in dict.fromkeys(wanted))
    return heapq.merge(*found, key=lambda run: run.place, reverse=newest_first)


def _value(site: Site, run: Document, field: search.Field) -> Any:
    """Return what a run has for a field, or None."""
    if field.kind == "metric":
        latest = site.documents.latest_metrics(run.name)
        return next((metric.value for metric in latest if metric.key == field.key), None)
    values = {"param": run.body.get("params") or {}, "tag": _tags(run), "attribute": _info(site, run)}[field.kind]
    found = values.get(field.key)
    return found if field.kind == "attribute" or found is None else str(found)


def _update(site: Site, call: Call) -> Reply:
    """Rename a run or give it a state; that of a job's is the server's own, which knows whether the engine lives."""
    sent = call.json()
    run, status = _run_of(site, sent), sent.get("status")
    if status is not None and (not isinstance(status, str) or status not in _STATES):
        raise invalid(f"Invalid value for parameter 'status': {status!r} is none of {', '.join(_STATES)}.")
    ended = _seconds(sent, "end_time")
    if status and run.body.get("ofMlflow"):
        runs.move(site, run.name, _STATES[status], ended)
    if sent.get("run_name"):
        runs.change(site, run.name, {"displayName": str(sent["run_name"])})
    return Reply({"run_info": _info(site, _run_of(site, sent))})


def _hide(site: Site, call: Call, *, hidden: bool) -> Reply:
    runs.change(site, _run_of(site, call.json()).name, {"hidden": hidden})
    return Reply({})


def _log(site: Site, call: Call, kind: str = "") -> Reply:
    """Write metrics, parameters and tags of a run, or the one of a kind that the body is."""
    sent = call.json()
    with site.documents.transaction():  # of two values of a parameter at once one is refused
        run, given = _run_of(site, sent), {kind: [sent]} if kind else sent
        metrics = [_metric(each) for each in _list(given, "metrics")]
        tags, parameters = pairs(given.get("tags")), pairs(given.get("params"), "params")
        known = run.body.get("params") or {}
        changed = [key for key, value in parameters.items() if known.get(key, value) != value]
        if changed and run.body.get("ofMlflow"):
            what = f"Changing param values is not allowed. Params with keys {changed} were logged already"
            raise invalid(f"{what} for run ID='{run.name}'.")
        site.documents.add_metrics(run.name, metrics)
        runs.write(site, run.name, tags, parameters)
    return Reply({})


def _metric(sent: Any) -> tuple[str, float, int, int]:
    key = text(sent, "key")
    try:
        value = float(sent["value"])  # which also reads NaN and Infinity: they travel as text
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise invalid(f"The metric {key!r} needs a number for its value.") from error
    return key, value, whole(sent.get("step") or 0, "step"), whole(sent.get("timestamp") or 0, "timestamp")


def _log_inputs(site: Site, call: Call) -> Reply:
    """Note the data sets that a run was made with."""
    sent = call.json()
    run = _run_of(site, sent)
    if sent.get("models"):
        raise WireError(501, "NotImplemented", "The local workspace does not serve MLflow's logged models")
    given = []
    for each in _list(sent, "datasets"):
        data = each.get("dataset") if isinstance(each, dict) else None
        told = {name: text(data, name) for name in ("name", "digest", "source_type", "source")}
        told |= {name: str(data[name]) for name in ("schema", "profile") if data.get(name) is not None}  # type: ignore[index, union-attr]
        tags = [{"key": key, "value": value} for key, value in pairs(each.get("tags")).items()]
        given.append({"tags": tags, "dataset": told})
    site.documents.update(run.key, lambda body: body.update(datasets=(body.get("datasets") or []) + given))
    return Reply({})


def _delete_tag(site: Site, call: Call) -> Reply:
    sent = call.json()
    with site.documents.transaction():
        run, key = _run_of(site, sent), text(sent, "key")
        if key not in (run.body.get("tags") or {}):
            raise missing(f"No tag with name: {key} in run with id {run.name}")
        site.documents.update(run.key, lambda body: body["tags"].pop(key))
    return Reply({})


ROUTES = [
    Route(f"GET {AT}/experiments/get-by-name", _experiment_by_name),
    Route(
        f"GET {AT}/experiments/get",
        lambda site, call: Reply({"experiment": _show_experiment(_experiment(site, call.query.get("experiment_id")))}),
    ),
    Route(f"POST {AT}/experiments/create", _create_experiment),
    Route(
        f"POST {AT}/experiments/set-experiment-tag",
        lambda site, call: _change_experiment(site, call, {"tags": pairs([call.json()])}),
    ),
    Route(f"POST {AT}/experiments/delete", lambda site, call: _change_experiment(site, call, {"deleted": True})),
    Route(f"POST {AT}/experiments/restore", lambda site, call: _change_experiment(site, call, {"deleted": False})),
    Route(f"POST {AT}/experiments/search", _experiments),
    Route(f"GET {AT}/experiments/search", _experiments),
    Route(f"POST {AT}/runs/create", _create_run),
    Route(f"GET {AT}/runs/get", lambda site, call: Reply({"run": _show(site, _run_of(site, call.query))})),
    Route(f"POST {AT}/runs/search", _runs),
    Route(f"POST {AT}/runs/update", _update),
    Route(f"POST {AT}/runs/delete", lambda site, call: _hide(site, call, hidden=True)),
    Route(f"POST {AT}/runs/restore", lambda site, call: _hide(site, call, hidden=False)),
    Route(f"POST {AT}/runs/log-metric", lambda site, call: _log(site, call, "metrics")),
    Route(f"POST {AT}/runs/log-parameter", lambda site, call: _log(site, call, "params")),
    Route(f"POST {AT}/runs/log-batch", _log),
    # What MLflow's azureml plugin sends where a program logs without waiting; nothing is left to wait for.
    Route(f"POST {AT.replace('/2.0/', '/2.0/preview/')}/runs/log-batch-async", _log),
    Route(f"POST {AT}/runs/log-inputs", _log_inputs),
    Route(f"POST {AT}/runs/set-tag", lambda site, call: _log(site, call, "tags")),
    Route(f"POST {AT}/runs/delete-tag", _delete_tag),
    Route(f"GET {AT}/metrics/get-history", _history),
    # Azure ML has none: azure-sdk-for-python issue 44896 (2026-01-28), azureml-examples pull request 3885 (2026-04-17).
    Route(f"POST {AT}/logged-models", lambda _site, _call: Reply(None, 404)),
    Route(f"POST {AT}/logged-models/search", lambda _site, _call: Reply(None, 404)),
]
