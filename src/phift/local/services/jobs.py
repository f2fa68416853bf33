"""Pipeline jobs: what was submitted, what it expands to, and its five child runs."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

from phift.data.on_cluster import REPORT
from phift.data.split import SPLITS
from phift.local.services import arm, history, registry
from phift.local.services.operations import accepted_by_location
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire.call import (
    AT_WORKSPACE,
    WORKSPACE_ID,
    Call,
    Reply,
    Route,
    WireError,
    listed,
    not_found,
    resource,
    section,
    sent_text,
    system_data,
    timestamp,
    user_error,
)
from phift.local.work import preparing

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}")
_NAME_RULE = "letters, digits, '-' and '_', not starting with one of these two, at most 255."
_STEP_OUTPUT = re.compile(r"\$\{\{\s*parent\.jobs\.([\w-]+)\.outputs\.([\w-]+)\s*\}\}")
_BINDING = re.compile(r"\$\{\{\s*parent\.(inputs|outputs)\.([\w-]+)\s*\}\}")
# What may change on a job that exists; everything else is what was paid for.
_CHANGEABLE = ("description", "tags", "displayName", "isArchived")
# Where each step of the component runs: the input that names its compute, and the one that names its VM size.
_STEP_COMPUTES = {
    "ft_nlp_common_validation": ("compute_model_import", "instance_type_model_import"),
    "chat_completion_model_import": ("compute_model_import", "instance_type_model_import"),
    "chat_completion_datapreprocess": ("compute_preprocess", "instance_type_preprocess"),
    "chat_completion_finetune": ("compute_finetune", "instance_type_finetune"),
    "ft_nlp_model_converter": ("compute_finetune", "instance_type_finetune"),
}


def routes() -> list[Route]:
    """Return the routes of jobs."""
    job = f"{AT_WORKSPACE}/jobs"
    return [
        Route("GET", job, _list),
        Route("GET", f"{job}/{{name}}", _get),
        Route("PUT", f"{job}/{{name}}", _put),
        Route("POST", f"{job}/{{name}}/cancel", _cancel),
    ]


def work(site: Site) -> dict[str, Callable[[str], None]]:
    """Return what the operations on jobs do."""
    return {"job-cancel": lambda name: site.training.cancel(name)}


def step_compute(plan: Json, step: str) -> tuple[str, str]:
    """Return the compute and, where that is serverless, the VM size that a step of a job asks for."""
    if step == preparing.STEP:
        return plan["preparation"]["compute"], ""
    compute, instance_type = _STEP_COMPUTES[step]
    return plan["inputs"][compute], plan["inputs"][instance_type]


def steps(plan: Json) -> tuple[str, ...]:
    """Return the steps that a job consists of, in their order."""
    return (preparing.STEP, *registry.STEPS) if plan.get("preparation") else registry.STEPS


def prepared_output(value: str) -> str | None:
    """Return the output of the step that prepares data which an input is bound to, or None."""
    bound = _STEP_OUTPUT.fullmatch(value)
    return bound[2] if bound else None


def _list(site: Site, call: Call) -> Reply:
    view = call.query.get("listViewType", "ActiveOnly")
    hidden = {"ActiveOnly": (False,), "ArchivedOnly": (True,)}.get(view, (False, True))
    kind, tag = call.query.get("jobType", "Pipeline"), call.query.get("tag")

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
    if not _NAME.fullmatch(name):
        raise user_error(f"The job name {name} is not valid: {_NAME_RULE}")
    sent = section(call.json(), "properties")
    with site.documents.transaction():
        previous = site.documents.get(f"jobs/{name}")
        if previous is not None:
            _update(site, previous, sent)
            return Reply(_show(site, previous, _run(site, name)))
        plan = _plan(site, sent)
        document = site.documents.put(f"jobs/{name}", {"properties": sent, "plan": plan})
        _start_runs(site, name, sent, plan)
    site.training.submitted(name)
    return Reply(_show(site, document, _run(site, name)), 201)


def _update(site: Site, previous: Document, sent: Json) -> None:
    """Take changes of what may change; refuse another job under the same name.

    Azure answers 400 and not 409 here: the SDK raises a plain ``HttpResponseError`` (azure-docs issue 122250,
    azure-sdk-for-python pull request 47389).
    """
    asked, known = _plan(site, sent)["request"], previous.body["plan"]["request"]
    different = ", ".join(key for key in known if asked[key] != known[key])
    if different:
        message = (
            f"A job with this name already exists: {previous.name}. For a new job, use a different name. "
            f"The existing job's {different} cannot be changed; only {', '.join(_CHANGEABLE)} can."
        )
        raise WireError(400, "UserError", message, inner="JobPropertyImmutable")
    changed = {key: sent[key] for key in _CHANGEABLE if key in sent}
    history.change(site, previous.name, changed)


def _plan(site: Site, sent: Json) -> Json:
    """Return what a submitted body asks for, or raise the error that names what is not served."""
    if sent.get("jobType") != "Pipeline":
        what = f"The local workspace does not run jobs of type {sent.get('jobType')}; only Pipeline"
        raise WireError(501, "NotImplemented", what)
    nodes = section(sent, "jobs")
    expected = registry.asset_id("components", registry.component()["name"], registry.component()["version"])
    mine = [name for name in nodes if str(section(nodes, name).get("componentId", "")).lower() == expected.lower()]
    others = [name for name in nodes if name not in mine]
    if len(mine) != 1 or len(others) > 1:
        message = f"The local workspace runs {expected}, with phift's step that prepares data before it or without; "
        asked = [str(section(nodes, name).get("componentId")) for name in others]
        message += f"not {', '.join(asked)}" if others else f"this one has {len(nodes)} nodes"
        raise WireError(501, "NotImplemented", message)
    node = section(nodes, mine[0])
    prepared = _preparation(site, section(nodes, others[0]), sent) if others else None
    inputs = _inputs(section(node, "inputs"), section(sent, "inputs"))
    _check_bindings(inputs, prepared)
    outputs = _bound_outputs(section(node, "outputs"), section(sent, "outputs"), registry.component()["outputs"])
    request: Json = {"component": expected, "node": mine[0], "inputs": inputs, "outputs": outputs}
    request["preparation"] = prepared
    request["experiment"] = str(sent.get("experimentName") or "Default")
    if not _NAME.fullmatch(request["experiment"]):
        raise user_error(f"The experiment name {request['experiment']} is not valid: {_NAME_RULE}")
    plan = {"request": request, "inputs": {**_defaults(), **inputs}, "outputs": outputs, "preparation": prepared}
    return {**plan, "vm_size": _vm_size(site, plan)}


def _preparation(site: Site, node: Json, sent: Json) -> Json:
    asked = preparing.plan(site, node)
    asked["inputs"] = {
        name: _bound_value(name, value, section(sent, "inputs")) for name, value in asked["inputs"].items()
    }
    known = dict.fromkeys((*SPLITS, REPORT))
    return {**asked, "bound": _bound_outputs(section(node, "outputs"), section(sent, "outputs"), known)}


def _check_bindings(inputs: dict[str, str], prepared: Json | None) -> None:
    for name, value in inputs.items():
        bound = _STEP_OUTPUT.fullmatch(value)
        if bound and not (prepared and bound[1] == prepared["node"] and bound[2] in SPLITS):
            raise user_error(f"The input {name} is bound to {value}, which the pipeline does not have.")


def _defaults() -> dict[str, str]:
    inputs = registry.component()["inputs"]
    return {name: str(spec["default"]) for name, spec in inputs.items() if spec.get("default") is not None}


def _vm_size(site: Site, plan: Json) -> str:
    compute, instance_type = step_compute(plan, "chat_completion_finetune")
    found = site.documents.get(f"computes/{compute}")
    return str(found.body["properties"]["vmSize"]) if found else instance_type


def _inputs(node: Json, parent: Json) -> dict[str, str]:
    """Return the values of the component's inputs as text; bindings to the pipeline's own inputs are followed."""
    known = registry.component()["inputs"]
    values: dict[str, str] = {}
    for name, sent in node.items():
        if name not in known:
            raise user_error(f"The component {registry.component()['name']} has no input named {name}.")
        value = sent_text(sent)
        bound = None if value is None else _bound_value(name, value, parent)
        if bound is not None:
            values[name] = bound
    return values


def _bound_value(name: str, value: str, parent: Json) -> str | None:
    bound = _BINDING.fullmatch(value)
    if not bound:
        return value
    if bound[2] not in parent:
        raise user_error(f"The input {name} is bound to {value}, which the pipeline does not have.")
    return sent_text(parent[bound[2]])


def _bound_outputs(node: Json, parent: Json, known: Json) -> dict[str, str]:
    """Return which output of a node each output of the pipeline is."""
    outputs: dict[str, str] = {}
    for name, sent in node.items():
        if name not in known:
            raise user_error(f"There is no output named {name}, only {', '.join(known)}.")
        bound = _BINDING.fullmatch(sent_text(sent) or "")
        if bound and bound[2] in parent:
            outputs[bound[2]] = name
    return outputs


def _start_runs(site: Site, name: str, sent: Json, plan: Json) -> None:
    experiment = history.experiment(site, plan["request"]["experiment"])
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
        "children": [str(uuid.uuid5(uuid.UUID(experiment), f"{name}/{step}")) for step in steps(plan)],
    }
    site.documents.put(f"runs/{name}", root)
    for number, (child, step) in enumerate(zip(root["children"], steps(plan), strict=True)):
        kept = {
            **common,
            "runId": child,
            "parentRunId": name,
            "runType": "azureml.StepRun",
            "displayName": step,
            "tags": {},
            "properties": {"azureml.moduleName": step, "azureml.pipelinerunid": name, "azureml.nodeid": str(number)},
            "target": step_compute(plan, step)[0],
            "status": "NotStarted",
            "createdUtc": timestamp(site.clock.now()),
        }
        site.documents.put(f"runs/{child}", kept)


def _cancel(site: Site, call: Call) -> Reply:
    run = _run(site, call["name"])
    if site.documents.get(f"jobs/{call['name']}") is None:
        raise user_error(f"{call['name']} is a child run; cancel the job {run.body['rootRunId']}.")
    if run.body["status"] in history.ENDED:
        return Reply(None, 200)
    with site.documents.transaction():  # a killed server leaves no job that is to be canceled and never is
        history.set_status(site, run.name, "CancelRequested")
        operation = site.operations.begin("job-cancel", run.name)
    return accepted_by_location(site, operation)


def _show(site: Site, document: Document, run: Document) -> Json:
    sent, state = document.body["properties"], run.body
    outputs = {}
    for name, output in section(sent, "outputs").items():
        made = (state.get("outputs") or {}).get(name)
        outputs[name] = {**output, "uri": made["uri"]} if made else output
    tracking = {"jobServiceType": "Tracking", "port": None, "endpoint": arm.tracking_uri(site.base_url)}
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
