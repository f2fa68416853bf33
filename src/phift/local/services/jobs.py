"""Pipeline jobs: what was submitted, what it expands to, and its five child runs."""

from __future__ import annotations

import uuid

from phift.local.model import runs
from phift.local.names import WORKSPACE_ID, tracking_uri
from phift.local.services import plans
from phift.local.services.operations import accepted_by_location
from phift.local.services.route import AT_WORKSPACE, Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire.call import Call, Reply, section, timestamp
from phift.local.wire.errors import WireError, not_found, user_error
from phift.local.wire.pages import listed, resource, system_data, view

# What may change on a job that exists; everything else is what was paid for.
_CHANGEABLE = ("description", "tags", "displayName", "isArchived")


def routes() -> list[Route]:
    """Return the routes of jobs."""
    job = f"{AT_WORKSPACE}/jobs"
    return [
        Route("GET", job, _list),
        Route("GET", f"{job}/{{name}}", _get),
        Route("PUT", f"{job}/{{name}}", _put),
        Route("POST", f"{job}/{{name}}/cancel", _cancel),
    ]


def _list(site: Site, call: Call) -> Reply:
    hidden, kind, tag = view(call), call.query.get("jobType", "Pipeline"), call.query.get("tag")

    def wanted(document: Document) -> bool:
        run = _run(site, document.name).body
        return bool(run.get("hidden")) in hidden and kind == "Pipeline" and (not tag or tag in (run.get("tags") or {}))

    def show(document: Document) -> Json:
        return _show(site, document, _run(site, document.name))

    return listed(site, call, "jobs", show, newest_first=True, wanted=wanted)


def _run(site: Site, name: str) -> Document:
    run = site.documents.get(f"runs/{name}")
    if run is None:
        raise not_found("job", name)
    return run


def _get(site: Site, call: Call) -> Reply:
    run = _run(site, call["name"])
    document = site.documents.get(f"jobs/{call['name']}")
    if document is not None:
        return Reply(_show(site, document, run))
    # A child run: the SDK knows one by this null, and asks run history instead.
    shown = {"id": f"{WORKSPACE_ID}/jobs/{run.name}", "name": run.name, "properties": None}
    kind = "Microsoft.MachineLearningServices/workspaces/jobs"
    return Reply({**shown, "type": kind, "systemData": system_data(run)})


def _put(site: Site, call: Call) -> Reply:
    name = call["name"]
    if not plans.NAME.fullmatch(name):
        raise user_error(f"The job name {name} is not valid: {plans.NAME_RULE}")
    sent = section(call.json(), "properties")
    with site.documents.transaction():
        previous = site.documents.get(f"jobs/{name}")
        if previous is not None:
            _update(site, previous, sent)
            return Reply(_show(site, previous, _run(site, name)))
        plan = plans.read(site, sent)
        document = site.documents.put(f"jobs/{name}", {"properties": sent, "plan": plan})
        _start_runs(site, name, sent, plan)
    site.training.submitted(name)
    return Reply(_show(site, document, _run(site, name)), 201)


def _update(site: Site, previous: Document, sent: Json) -> None:
    """Take changes of what may change; refuse another job under the same name.

    Azure answers 400 and not 409 here: the SDK raises a plain ``HttpResponseError`` (azure-docs issue 122250,
    azure-sdk-for-python pull request 47389).
    """
    asked, known = plans.read(site, sent)["request"], previous.body["plan"]["request"]
    different = ", ".join(key for key in known if asked[key] != known[key])
    if different:
        message = (
            f"A job with this name already exists: {previous.name}. For a new job, use a different name. "
            f"The existing job's {different} cannot be changed; only {', '.join(_CHANGEABLE)} can."
        )
        raise WireError(400, "UserError", message, inner="JobPropertyImmutable")
    changed = {key: sent[key] for key in _CHANGEABLE if key in sent}
    runs.change(site, previous.name, changed)


def _start_runs(site: Site, name: str, sent: Json, plan: Json) -> None:
    experiment = runs.experiment(site, plan["request"]["experiment"])
    common = {"experimentId": experiment, "experimentName": plan["request"]["experiment"], "rootRunId": name}
    root = {
        **common,
        "runId": name,
        "runType": "azureml.PipelineRun",
        "displayName": sent.get("displayName") or name,
        "description": sent.get("description"),
        "tags": section(sent, "tags"),
        "properties": {**section(sent, "properties"), "azureml.runsource": "azureml.PipelineRun"},
        "target": None,
        "status": "NotStarted",
        "createdUtc": timestamp(site.clock.now()),
        "children": [str(uuid.uuid5(uuid.UUID(experiment), f"{name}/{step}")) for step in runs.steps(plan)],
    }
    site.documents.put(f"runs/{name}", root)
    for number, (child, step) in enumerate(zip(root["children"], runs.steps(plan), strict=True)):
        kept = {
            **common,
            "runId": child,
            "parentRunId": name,
            "runType": "azureml.StepRun",
            "displayName": step,
            "tags": {},
            "properties": {"azureml.moduleName": step, "azureml.pipelinerunid": name, "azureml.nodeid": str(number)},
            "target": runs.step_compute(plan, step)[0],
            "status": "NotStarted",
            "createdUtc": timestamp(site.clock.now()),
        }
        site.documents.put(f"runs/{child}", kept)


def _cancel(site: Site, call: Call) -> Reply:
    run = _run(site, call["name"])
    if site.documents.get(f"jobs/{call['name']}") is None:
        raise user_error(f"{call['name']} is a child run; cancel the job {run.body['rootRunId']}.")
    if run.body["status"] in runs.ENDED:
        return Reply(None, 200)
    with site.documents.transaction():  # a killed server leaves no job that is to be canceled and never is
        runs.set_status(site, run.name, "CancelRequested")
        operation = site.operations.begin("job-cancel", run.name)
    return accepted_by_location(site, operation)


def _show(site: Site, document: Document, run: Document) -> Json:
    sent, state = document.body["properties"], run.body
    outputs = {}
    for name, output in section(sent, "outputs").items():
        made = (state.get("outputs") or {}).get(name)
        outputs[name] = {**output, "uri": made["uri"]} if made else output
    tracking = {"jobServiceType": "Tracking", "port": None, "endpoint": tracking_uri(site.base_url)}
    properties = {
        **sent,
        "jobType": "Pipeline",
        "status": state["status"],
        "experimentName": state["experimentName"],
        "displayName": state.get("displayName"),
        "description": state.get("description"),
        "tags": state.get("tags") or {},
        "properties": state.get("properties") or {},
        "isArchived": bool(state.get("hidden")),
        # No Studio: there is no page to show, and a link to one would be false.
        "services": {"Tracking": {**tracking, "status": None, "errorMessage": None, "properties": None}},
        "outputs": outputs,
        "computeId": sent.get("computeId"),
    }
    return resource(document, "jobs", properties)
