"""Run history: the states of jobs and their child runs, their logs and outputs, as its service shows them."""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timedelta
from typing import TypedDict
from urllib.parse import quote

from phift.component.preprocessing import SPLITS
from phift.local.model import files, runs
from phift.local.names import ARTIFACTS, LOCATION, SUBSCRIPTION, TENANT, WORKSPACE_ID
from phift.local.services.route import AT_WORKSPACE, Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.state.identity import OBJECT
from phift.local.wire import PAGE, Call, Reply, WireError, existing, section, timestamp, user_error, whole_number

# Run history's own names, which differ from the ones of the job API (see section 6 of the SDK's issue 48941).
_OUTPUT_TYPES = {"pytorch_model_folder": "UriFolder", "mlflow_model_folder": "MLFlowModel", "report": "UriFolder"}
_OUTPUT_TYPES |= dict.fromkeys(SPLITS, "UriFile")
# No name here is longer, and without a limit a hostile one would take long.
_ASSET = re.compile(r"azureml_(?P<job>.{1,255})_output_(?:data|mlflow_model)_(?P<output>.{1,255})")

_NO_TIME = "0001-01-01T00:00:00+00:00"

_HISTORY = f"/history/v1.0{AT_WORKSPACE}"


_USER: Json = {
    "userObjectId": OBJECT,
    "userPuId": "0000000000000000",
    "userIdp": None,
    "userAltSecId": None,
    "userIss": f"https://sts.phift.local/{TENANT}/",
    "userTenantId": TENANT,
    "userName": "local user",
    "upn": None,
}


def run_of(site: Site, name: str) -> Document:
    """Return a run, or raise run history's error for one that is not there."""
    asked = f"runId={name}"
    form = {"messageFormat": "Run {runId} was not found", "messageParameters": {"runId": asked}}
    return existing(site, f"runs/{name}", WireError(404, "UserError", f"Run {asked} was not found", more=form))


class _Change(TypedDict, total=False):
    displayName: str | None
    description: str | None
    hidden: bool | None


def _patch(site: Site, call: Call) -> Reply:
    sent = call.json(_Change)
    with site.documents.transaction():  # of two values of a property at once one is refused
        run = run_of(site, call["run"])
        stored = run.body.get("properties") or {}
        conflicts = [key for key, value in section(sent, "properties").items() if stored.get(key, value) != value]
        if conflicts:
            raise user_error(f"Properties of a run cannot be changed: {', '.join(sorted(conflicts))}.")
        changed = {key: sent.get(key) for key in ("displayName", "description", "hidden")}
        changed |= {key: section(sent, key) for key in ("tags", "properties")}
        runs.change(site, run.name, changed)
        return Reply(_show(site, run_of(site, run.name)))


def _children(site: Site, call: Call) -> Reply:
    """Return the child runs, 50 on a page unless ``$top`` says otherwise (azure-sdk-for-python issue 32440, 2023-10).

    The SDK 1.35.2 reads the first page only; the token is for those who read on.
    """
    query = call.query
    size = whole_number(query.get("$top", PAGE), "$top")
    start = whole_number(query.get("$continuationtoken") or query.get("$continuationToken") or 0, "$continuationtoken")
    if size < 1 or start < 0:
        raise user_error("$top must be at least 1, and the continuation token one of ours.")
    found = runs.children(site, run_of(site, call["run"]).name)  # their number is that of the job's steps
    shown: Json = {
        "value": [_show(site, run) for run in found[start : start + size]]
    }  # the last page has no link, nor null
    if start + size < len(found):
        shown["continuationToken"] = str(start + size)
        shown["nextLink"] = f"{site.base_url}{quote(call.path)}?$top={size}&$continuationtoken={start + size}"
    return Reply(shown)


def _details(site: Site, call: Call) -> Reply:
    run = run_of(site, call["run"])
    base, folder = f"{files.artifacts_of(run.name)}/", files.log_name(run.body).rpartition("/")[0]
    names = files.names(site, ARTIFACTS, f"{folder}/")
    logs = {name.removeprefix(base): files.signed_url(site, ARTIFACTS, name) for name in names}
    record = _show(site, run)
    kept = {key: record[key] for key in _DETAILS if key in record}
    more = {"target": run.body.get("target"), "createdTimeUtc": run.body["createdUtc"], "runDefinition": None}
    return Reply({**kept, **more, "logFiles": logs})


_DETAILS = (
    *("runId", "parentRunId", "rootRunId", "status", "startTimeUtc", "endTimeUtc", "createdBy", "lastModifiedUtc"),
    *("error", "warnings", "tags", "properties", "parameters", "inputs", "outputs", "compute", "services"),
)


def _run_data(site: Site, call: Call) -> Reply:
    run = run_of(site, str(call.json().get("runId") or ""))
    return Reply(
        {"runMetadata": _show(site, run), **dict.fromkeys(("runDefinition", "jobSpecification", "systemSettings"))}
    )


def _show(site: Site, run: Document) -> Json:
    """Return a run's record with the fields and the nulls of recorded ones (steps 2026-02-27, others 2024-01-15).

    A step's record tells no outputs, also where it has some (recorded 2023-02-12 and 2026-02-27).
    """
    body = run.body
    hidden = ("outputs", "experimentName", "children", "params", "ofMlflow", "datasets")
    of_step, target, outputs = body["runType"] == "azureml.StepRun", body.get("target"), {}
    for name, made in ({} if of_step else body.get("outputs") or {}).items():
        kind = _OUTPUT_TYPES[made["from"]]
        collection, word = ("models", "mlflow_model") if kind == "MLFlowModel" else ("data", "data")
        base = f"azureml://locations/{LOCATION}/workspaces/{SUBSCRIPTION}/{collection}"
        outputs[name] = {"assetId": f"{base}/azureml_{run.name}_output_{word}_{name}/versions/1", "type": kind}
    took = _duration(body)
    at = WORKSPACE_ID.replace("/providers/Microsoft.MachineLearningServices", "")
    cancel = f"{site.base_url}/studioservice/apiv2{at}/runs/{run.name}/Cancel" if of_step else None  # nobody asks there
    return {
        **dict.fromkeys(_NOTHING),
        **{key: value for key, value in body.items() if key not in hidden},
        "runNumber": 1,
        "createdBy": _USER,
        "lastModifiedBy": _USER,
        "lastModifiedUtc": timestamp(run.modified),
        "userId": OBJECT,
        "revision": 1,
        "statusRevision": 0,
        "runUuid": _uuid(run.name),
        "parentRunUuid": _uuid(body["parentRunId"]) if body.get("parentRunId") else None,
        "rootRunUuid": _uuid(body["rootRunId"]),
        "duration": took,
        "computeDuration": took,
        "currentAttemptId": 1,
        "name": "azureml_anonymous" if of_step else None,
        "dataContainerId": f"dcid.{run.name}",
        "runTypeV2": {
            "orchestrator": "Execution" if of_step else None,
            "traits": [body["runType"]] if body["runType"] else [],
            "attribution": None if body.get("ofMlflow") else "Aether",
            "computeType": "AmlcTrain" if of_step else None,
        },
        "error": _error(body) if body.get("error") else None,
        "warnings": [{"source": "AzureMLCompute", "message": f"AzureMLCompute job failed\n{body['error']['message']}"}]
        if of_step and body.get("error")
        else None,
        "parameters": body.get("params") or {},
        "actionUris": {"Cancel": cancel} if cancel else {},
        "cancelUri": cancel,
        "uniqueChildRunComputeTargets": [],
        "settings": {},
        "services": {},
        "inputDatasets": [],
        "outputDatasets": [],
        "diagnosticsUri": "",
        "computeRequest": {"nodeCount": 1, "gpuCount": 0} if of_step else None,
        "compute": {**dict.fromkeys(_NO_COMPUTE), "target": target, **_AML_COMPUTE} if target else None,
        "retainForLifetimeOfWorkspace": None if of_step else False,
        "outputs": None if of_step else outputs,
        "hidden": bool(body.get("hidden")),
    }


# Of a run's record, what is null in every recorded one, or until there is something to tell.
_NOTHING = (
    *("startTimeUtc", "endTimeUtc", "parentRunId", "description", "inputs", "token", "tokenExpiryTimeUtc"),
    *("lastStartTimeUtc", "currentComputeTime", "effectiveStartTimeUtc", "cancelationReason", "scheduleId"),
    *("scriptName", "target", "runDefinition", "jobSpecification", "primaryMetricName", "createdFrom", "completeUri"),
    "queueingInfo",
)
_NO_COMPUTE = ("vmSize", "instanceType", "priority", "region", "armId", "properties")
_AML_COMPUTE = {"targetType": "amlcompute", "instanceCount": 1, "gpuCount": 0}


def _uuid(run: str) -> str:
    return str(uuid.uuid5(uuid.UUID(SUBSCRIPTION), f"run/{run}"))


def _duration(body: Json) -> str | None:
    """Return how long an ended run took, as .NET writes it: ``00:01:02.345``, with days as ``1.00:01:02``."""
    begun, ended = body.get("startTimeUtc"), body.get("endTimeUtc")
    if not (begun and ended):
        return None
    took = max(datetime.fromisoformat(ended) - datetime.fromisoformat(begun), timedelta())
    of_day = (datetime.min + took).time().isoformat()
    return f"{took.days}.{of_day}" if took.days else of_day


def _error(body: Json) -> Json:
    """Return a run's error as its record has it: a step's comes from where it ran, a pipeline's from the service."""
    nothing = ("severity", "messageFormat", "referenceCode", "detailsUri", "target", "innerError", "debugInfo")
    told = {**dict.fromkeys((*nothing, "additionalInfo")), "messageParameters": {}, "details": [], **body["error"]}
    if "parentRunId" in body:
        origin = {"environment": None, "location": None, "time": _NO_TIME, "componentName": "CommonRuntime"}
    else:
        origin = {"environment": LOCATION, "location": LOCATION, "time": body.get("endTimeUtc"), "componentName": ""}
    return {"error": told, "correlation": None, **origin}


def _resolve(site: Site, call: Call) -> Reply:
    """Return the address of each asked-for asset that is a job's output."""
    of_data = call.path.startswith("/data/")
    asset_ids, shown = call.json().get("values"), {}
    for asset_id in asset_ids if isinstance(asset_ids, list) else []:
        found = _ASSET.fullmatch(str(asset_id).rpartition("/versions/")[0].rpartition("/")[2])
        if found:
            uri = files.output_uri(site, found["job"], found["output"])
            shown[str(asset_id)] = {"uri": uri, "type": "UriFolder"} if of_data else {"path": uri}
    return Reply({"values": shown})


ROUTES = []
for _above in ("", "/experiments/{experiment}", "/experimentids/{experiment}"):
    _one = f"{_HISTORY}{_above}/runs/{{run}}"
    ROUTES += [
        Route(f"GET {_one}", lambda site, call: Reply(_show(site, run_of(site, call["run"])))),
        Route(f"PATCH {_one}", _patch),
        Route(f"GET {_one}/details", _details),
        Route(f"GET {_one}/children", _children),
    ]
ROUTES += [
    Route(f"POST {_HISTORY}/rundata", _run_data),
    Route(f"POST /data/v1.0{AT_WORKSPACE}/dataversion/batchGetResolvedUris", _resolve),
    Route(f"POST /modelregistry/v1.0{AT_WORKSPACE}/models/batchGetResolvedUris", _resolve),
]
