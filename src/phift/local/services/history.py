"""Run history: the states of jobs and their child runs, their logs and outputs, as its service shows them."""

from __future__ import annotations

import re
from urllib.parse import quote

from phift.component.preprocessing import SPLITS
from phift.local.model import files, runs
from phift.local.names import ARTIFACTS, LOCATION, SUBSCRIPTION, TENANT
from phift.local.services.route import AT_WORKSPACE, Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.state.identity import OBJECT
from phift.local.wire import PAGE, Call, Reply, WireError, existing, section, timestamp, user_error, whole_number

# Run history's own names, which differ from the ones of the job API (see section 6 of the SDK's issue 48941).
_OUTPUT_TYPES = {"pytorch_model_folder": "UriFolder", "mlflow_model_folder": "MLFlowModel", "report": "UriFolder"}
_OUTPUT_TYPES |= dict.fromkeys(SPLITS, "UriFile")
_ASSET = re.compile(r"azureml_(?P<job>.+)_output_(?:data|mlflow_model)_(?P<output>.+)")

_HISTORY = f"/history/v1.0{AT_WORKSPACE}"


def _run(site: Site, name: str) -> Document:
    return existing(site, f"runs/{name}", WireError(404, "UserError", f"Run {name} not found"))


def _patch(site: Site, call: Call) -> Reply:
    run, sent = _run(site, call["run"]), call.json()
    stored = run.body.get("properties") or {}
    conflicts = [key for key, value in section(sent, "properties").items() if stored.get(key, value) != value]
    if conflicts:
        raise user_error(f"Properties of a run cannot be changed: {', '.join(sorted(conflicts))}.")
    merged = {key: section(sent, key) for key in ("tags", "properties")}
    runs.change(site, run.name, {**merged, **{key: sent.get(key) for key in ("displayName", "description", "hidden")}})
    return Reply(_show(_run(site, run.name)))


def _children(site: Site, call: Call) -> Reply:
    """Return the child runs, 50 on a page unless ``$top`` says otherwise (azure-sdk-for-python issue 32440, 2023-10).

    The SDK 1.35.2 reads the first page only; the token is for those who read on.
    """
    query = call.query
    size = whole_number(query.get("$top", PAGE), "$top")
    start = whole_number(query.get("$continuationtoken") or query.get("$continuationToken") or 0, "$continuationtoken")
    if size < 1 or start < 0:
        raise user_error("$top must be at least 1, and the continuation token one of ours.")
    found = runs.children(site, _run(site, call["run"]).name)  # their number is that of the job's steps
    shown: Json = {"value": [_show(run) for run in found[start : start + size]], "continuationToken": None}
    if start + size < len(found):
        shown["continuationToken"] = str(start + size)
        shown["nextLink"] = f"{site.base_url}{quote(call.path)}?$top={size}&$continuationtoken={start + size}"
    return Reply({"nextLink": None, **shown})


def _details(site: Site, call: Call) -> Reply:
    run = _run(site, call["run"])
    log = files.log_name(run.body)
    logs = {}
    if files.path_of(site, ARTIFACTS, log).is_file():
        logs[log.partition(f"dcid.{run.name}/")[2]] = files.signed_url(site, ARTIFACTS, log)
    left_out = ("createdUtc", "dataContainerId", "description", "displayName", "experimentId", "hidden", "runType")
    kept = {key: value for key, value in _show(run).items() if key not in left_out}
    more = {"target": run.body.get("target"), "createdTimeUtc": run.body["createdUtc"], "runDefinition": None}
    return Reply({**kept, **more, "logFiles": logs})


def _run_data(site: Site, call: Call) -> Reply:
    run = _run(site, str(call.json().get("runId") or ""))
    return Reply({"runMetadata": _show(run), "runDefinition": None, "jobSpecification": None})


def _show(run: Document) -> Json:
    body = run.body
    hidden = ("error", "outputs", "experimentName", "target", "children", "params")
    error, outputs = None, {}
    if body.get("error"):
        nothing: Json = {"messageFormat": None, "messageParameters": {}, "details": [], "innerError": None}
        where: Json = {"correlation": {}, "environment": LOCATION, "location": LOCATION, "time": body.get("endTimeUtc")}
        error = {"error": {**body["error"], **nothing}, **where}
    for name, made in (body.get("outputs") or {}).items():
        kind = _OUTPUT_TYPES[made["from"]]
        collection, word = ("models", "mlflow_model") if kind == "MLFlowModel" else ("data", "data")
        base = f"azureml://locations/{LOCATION}/workspaces/{SUBSCRIPTION}/{collection}"
        outputs[name] = {"assetId": f"{base}/azureml_{run.name}_output_{word}_{name}/versions/1", "type": kind}
    return {
        "startTimeUtc": None,
        "endTimeUtc": None,
        **{key: value for key, value in body.items() if key not in hidden},
        "dataContainerId": f"dcid.{run.name}",
        "createdBy": {"userObjectId": OBJECT, "userPuId": None, "userTenantId": TENANT, "userName": "local user"},
        "lastModifiedUtc": timestamp(run.modified),
        "error": error,
        "warnings": None,
        "parameters": body.get("params") or {},
        "inputs": {},
        "outputs": outputs,
        "compute": {"target": body["target"], "targetType": "amlcompute"} if body.get("target") else None,
        "services": {},
        "hidden": bool(body.get("hidden")),
    }


def _resolve(site: Site, call: Call) -> Reply:
    """Return the address of each asked-for asset that is a job's output."""
    of_data = call.path.startswith("/data/")
    asset_ids, shown = call.json().get("values"), {}
    for asset_id in asset_ids if isinstance(asset_ids, list) else []:
        found = _ASSET.search(str(asset_id).rpartition("/versions/")[0])
        if found:
            uri = files.output_uri(site, found["job"], found["output"])
            shown[str(asset_id)] = {"uri": uri, "type": "UriFolder"} if of_data else {"path": uri}
    return Reply({"values": shown})


ROUTES = []
for _above in ("", "/experiments/{experiment}", "/experimentids/{experiment}"):
    _one = f"{_HISTORY}{_above}/runs/{{run}}"
    ROUTES += [
        Route(f"GET {_one}", lambda site, call: Reply(_show(_run(site, call["run"])))),
        Route(f"PATCH {_one}", _patch),
        Route(f"GET {_one}/details", _details),
        Route(f"GET {_one}/children", _children),
    ]
ROUTES += [
    Route(f"POST {_HISTORY}/rundata", _run_data),
    Route(f"POST /data/v1.0{AT_WORKSPACE}/dataversion/batchGetResolvedUris", _resolve),
    Route(f"POST /modelregistry/v1.0{AT_WORKSPACE}/models/batchGetResolvedUris", _resolve),
]
