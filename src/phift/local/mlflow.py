"""The part of MLflow's REST interface that reads and writes the runs of jobs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from phift.local import history
from phift.local.site import Site
from phift.local.state import Document, Json
from phift.local.wire import AT_WORKSPACE, WORKSPACE_ID, Call, Reply, Route, WireError, whole_number

_API = f"/mlflow/{{version}}{AT_WORKSPACE}/api/2.0/mlflow"
_STATUS = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}
_SCHEDULED = ("NotStarted", "Queued", "Preparing")
_PAGE = 25_000
_CLAUSE = re.compile(
    r"""(?P<kind>tags?|attributes?|params?|parameters|metrics?)\.["`]?(?P<key>[^"`=!<>\s]+)["`]?
        \s*(?P<operator>!=|>=|<=|=|<|>)\s*(?P<value>'[^']*'|"[^"]*"|[-+\d.eE]+)""",
    re.VERBOSE | re.IGNORECASE,
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
}


def routes() -> list[Route]:
    """Return the tracking routes."""
    return [
        Route("GET", f"{_API}/experiments/get-by-name", _experiment_by_name),
        Route("GET", f"{_API}/experiments/get", _experiment_by_id),
        Route("POST", f"{_API}/experiments/search", _experiments),
        Route("GET", f"{_API}/experiments/search", _experiments),
        Route("GET", f"{_API}/runs/get", _run),
        Route("POST", f"{_API}/runs/search", _runs),
        Route("POST", f"{_API}/runs/update", _update),
        Route("POST", f"{_API}/runs/log-metric", _log_metric),
        Route("POST", f"{_API}/runs/log-parameter", _log_parameter),
        Route("POST", f"{_API}/runs/log-batch", _log_batch),
        Route("POST", f"{_API}/runs/set-tag", _set_tag),
        Route("GET", f"{_API}/metrics/get-history", _history),
    ]


def _invalid(message: str) -> WireError:
    return WireError(400, "INVALID_PARAMETER_VALUE", message)


def _missing(message: str) -> WireError:
    return WireError(404, "RESOURCE_DOES_NOT_EXIST", message)


def _experiment_by_name(site: Site, call: Call) -> Reply:
    name = call.query.get("experiment_name", "")
    for document in site.documents.children("experiments"):
        if document.body["name"] == name:
            return Reply({"experiment": _show_experiment(document)})
    raise _missing(f"Could not find experiment with name '{name}'")


def _experiment_by_id(site: Site, call: Call) -> Reply:
    document = site.documents.get(f"experiments/{call.query.get('experiment_id', '')}")
    if document is None:
        raise _missing(f"Could not find experiment with ID {call.query.get('experiment_id')}")
    return Reply({"experiment": _show_experiment(document)})


def _experiments(site: Site, call: Call) -> Reply:
    if call.json().get("filter") or call.query.get("filter"):
        raise WireError(501, "NotImplemented", "The local workspace does not filter experiments")
    return Reply({"experiments": [_show_experiment(found) for found in site.documents.children("experiments")]})


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


def _found(site: Site, name: Any) -> Document:
    document = site.documents.get(f"runs/{name}")
    if document is None:
        raise _missing(f"Run with id={name} not found")
    return document


def _run(site: Site, call: Call) -> Reply:
    document = _found(site, call.query.get("run_id") or call.query.get("run_uuid"))
    return Reply({"run": _show(site, document)})


def _milliseconds(when: str | None) -> int | None:
    return int(datetime.fromisoformat(when).timestamp() * 1000) if when else None


def _status(body: Json) -> str:
    return _STATUS.get(body["status"], "SCHEDULED" if body["status"] in _SCHEDULED else "RUNNING")


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
        "status": _status(body),
        "start_time": _milliseconds(body.get("startTimeUtc") or body["createdUtc"]),
        "end_time": _milliseconds(body.get("endTimeUtc")),
        "artifact_uri": f"azureml://artifacts{WORKSPACE_ID}/ExperimentRun/dcid.{document.name}",
        "lifecycle_stage": "deleted" if body.get("hidden") else "active",
    }
    metrics = [_show_metric(*metric) for metric in _latest(site, document.name).values()]
    parameters = [{"key": key, "value": value} for key, value in (body.get("params") or {}).items()]
    tags = [{"key": key, "value": str(value)} for key, value in _tags(document).items()]
    return {"info": info, "data": {"metrics": metrics, "params": parameters, "tags": tags}}


def _latest(site: Site, run: str) -> dict[str, tuple[str, float | None, int, int]]:
    """Return each metric's point of the highest step, and of these the one logged last."""
    latest: dict[str, tuple[str, float | None, int, int]] = {}
    for metric in site.documents.metrics(run):
        if metric[0] not in latest or metric[2] >= latest[metric[0]][2]:
            latest[metric[0]] = metric
    return latest


def _show_metric(key: str, value: float | None, step: int, time: int) -> Json:
    # What is no number travels as protobuf's JSON writes it.
    shown: Any = "NaN" if value is None else value
    if value is not None and math.isinf(value):
        shown = "Infinity" if value > 0 else "-Infinity"
    return {"key": key, "value": shown, "timestamp": time, "step": step}


def _history(site: Site, call: Call) -> Reply:
    run = _found(site, call.query.get("run_id") or call.query.get("run_uuid"))
    start = whole_number(call.query.get("page_token") or 0, "page_token")
    size = whole_number(call.query.get("max_results") or _PAGE, "max_results")
    metrics = site.documents.metrics(run.name, call.query.get("metric_key", ""))
    shown: Json = {"metrics": [_show_metric(*metric) for metric in metrics[start : start + size]]}
    if start + size < len(metrics):
        shown["next_page_token"] = str(start + size)
    return Reply(shown)


def _runs(site: Site, call: Call) -> Reply:
    sent = call.json()
    wanted = sent.get("experiment_ids") or []
    clauses = _clauses(str(sent.get("filter") or ""))
    size = whole_number(sent.get("max_results") or 1000, "max_results")
    start = whole_number(sent.get("page_token") or 0, "page_token")
    hidden = {"ACTIVE_ONLY": (False,), "DELETED_ONLY": (True,)}.get(str(sent.get("run_view_type")), (False, True))
    runs = [
        document
        for document in site.documents.children("runs")
        if document.body["experimentId"] in wanted
        and bool(document.body.get("hidden")) in hidden
        and all(_holds(site, document, *clause) for clause in clauses)
    ]
    runs.sort(key=lambda document: str(document.body.get("startTimeUtc") or ""), reverse=_descending(sent))
    shown: Json = {"runs": [_show(site, document) for document in runs[start : start + size]]}
    if start + size < len(runs):
        shown["next_page_token"] = str(start + size)
    return Reply(shown)


def _descending(sent: Json) -> bool:
    order = [str(entry) for entry in sent.get("order_by") or []]
    for entry in order:
        if not re.fullmatch(r"(attributes?\.)?[`\"]?(start_time|Created)[`\"]?(\s+(asc|desc))?", entry, re.IGNORECASE):
            raise WireError(501, "NotImplemented", f"The local workspace orders runs by start_time only, not {entry}")
    return not order or order[0].lower().endswith("desc")


def _clauses(text: str) -> list[tuple[str, str, str, str]]:
    clauses = []
    for part in re.split(r"\s+and\s+", text.strip(), flags=re.IGNORECASE) if text.strip() else []:
        found = _CLAUSE.fullmatch(part.strip())
        if found is None:
            raise _invalid(f"The local workspace does not understand the filter {part!r}")
        clauses.append((found["kind"].lower()[0], found["key"], found["operator"], found["value"]))
    return clauses


def _holds(site: Site, document: Document, kind: str, key: str, operator: str, value: str) -> bool:
    """Tell whether one clause of a filter is true of a run; ``kind`` is the first letter of its collection."""
    compare = _COMPARE[operator]
    if kind == "m":
        metric = _latest(site, document.name).get(key)
        return metric is not None and metric[1] is not None and compare(metric[1], float(value))
    info = {"status": _status(document.body), "run_id": document.name, "run_name": document.body.get("displayName")}
    found: Json = {"t": _tags(document), "p": document.body.get("params") or {}, "a": info}[kind]
    text = value.strip("'\"")
    return key in found and compare(str(found[key]), text)


def _update(site: Site, call: Call) -> Reply:
    """Rename a run; its status is the server's own, which knows whether the engine lives."""
    sent = call.json()
    run = _found(site, sent.get("run_id") or sent.get("run_uuid"))
    if sent.get("run_name"):
        history.change(site, run.name, {"displayName": sent["run_name"]})
    return Reply({"run_info": _show(site, _found(site, run.name))["info"]})


def _metric(sent: Json) -> tuple[str, float, int, int]:
    try:
        # float() also reads NaN and Infinity, which travel as text.
        return str(sent["key"]), float(sent["value"]), int(sent.get("step") or 0), int(sent.get("timestamp") or 0)
    except (KeyError, TypeError, ValueError) as error:
        raise _invalid("A metric needs a key and a number.") from error


def _log_metric(site: Site, call: Call) -> Reply:
    sent = call.json()
    run = _found(site, sent.get("run_id") or sent.get("run_uuid"))
    site.documents.add_metrics(run.name, [_metric(sent)])
    return Reply({})


def _pairs(sent: Any) -> dict[str, str]:
    return {str(pair["key"]): str(pair.get("value", "")) for pair in sent or []}


def _write(site: Site, name: str, tags: dict[str, str], parameters: dict[str, str]) -> None:
    """Write tags and parameters of a run; what the fine-tuning component keeps as properties goes there."""
    own = {key: value for key, value in tags.items() if key == "score" or key.startswith("__azureml_ft_")}

    def apply(body: Json) -> None:
        body["properties"] = {**(body.get("properties") or {}), **own}
        body["tags"] = {**(body.get("tags") or {}), **{key: tags[key] for key in tags if key not in own}}
        body["params"] = {**(body.get("params") or {}), **parameters}

    if tags or parameters:
        site.documents.update(f"runs/{name}", apply)


def _log_parameter(site: Site, call: Call) -> Reply:
    sent = call.json()
    _write(site, _found(site, sent.get("run_id") or sent.get("run_uuid")).name, {}, _pairs([sent]))
    return Reply({})


def _set_tag(site: Site, call: Call) -> Reply:
    sent = call.json()
    _write(site, _found(site, sent.get("run_id") or sent.get("run_uuid")).name, _pairs([sent]), {})
    return Reply({})


def _log_batch(site: Site, call: Call) -> Reply:
    sent = call.json()
    run = _found(site, sent.get("run_id"))
    with site.documents.transaction():
        site.documents.add_metrics(run.name, [_metric(metric) for metric in sent.get("metrics") or []])
        _write(site, run.name, _pairs(sent.get("tags")), _pairs(sent.get("params")))
    return Reply({})
