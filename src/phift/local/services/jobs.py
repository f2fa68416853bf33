"""Pipeline jobs: what was submitted, what it asks for, and its five child runs, or six.

A pipeline is the registry's component, with phift's step that prepares data before it or not. What is uploaded as a
step's code is never executed: a command that is not, letter for letter, the one that `phift.data.on_cluster` gives for
the step's inputs is refused.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from typing import Any, TypedDict

from phift.component.preprocessing import SPLITS
from phift.data import on_cluster
from phift.local.ground import Ground
from phift.local.model import catalog, runs
from phift.local.names import TENANT, WORKSPACE_ID, tracking_uri
from phift.local.services import job_fields, operations
from phift.local.services.route import Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire import (
    Call,
    Reply,
    WireError,
    created,
    existing,
    listed,
    resource,
    section,
    timestamp,
    user_error,
    view,
)

# What may change on a job that exists; everything else is what was paid for.
_CHANGEABLE = ("description", "tags", "displayName", "isArchived")

_OUTPUT = ("description", "uri", "assetName", "assetVersion", "pathOnCompute", "autoDeleteSetting")

_BINDING = re.compile(r"\$\{\{\s*parent\.(inputs|outputs)\.([\w-]+)\s*\}\}")


class _Properties(TypedDict, total=False):
    jobType: str | None
    displayName: str | None
    description: str | None
    experimentName: str | None
    isArchived: bool | None
    tags: Json | None
    properties: Json | None
    settings: Json | None
    inputs: dict[str, Json | None] | None
    outputs: dict[str, Json | None] | None
    jobs: dict[str, Json | None] | None


class _Job(TypedDict, total=False):
    properties: _Properties | None


def _list(site: Site, call: Call) -> Reply:
    hidden, kind, tag = view(call), call.query.get("jobType", "Pipeline"), call.query.get("tag")

    def wanted(document: Document) -> bool:
        run = _run(site, document.name).body
        return bool(run.get("hidden")) in hidden and kind == "Pipeline" and (not tag or tag in (run.get("tags") or {}))

    return listed(site, call, "jobs", _show, newest_first=True, wanted=wanted)


def _run(site: Site, name: str) -> Document:
    return existing(site, f"runs/{name}", "job")


def _get(site: Site, call: Call) -> Reply:
    run = _run(site, call["name"])
    document = site.documents.get(f"jobs/{call['name']}")
    if document is not None:
        return Reply(_show(site, document))
    # A child run: the SDK knows one by having no properties (recorded 2023-02-12), and asks run history instead.
    shown = resource(replace(run, key=f"jobs/{run.name}"), "jobs", None)
    return Reply({key: value for key, value in shown.items() if key != "properties"})


def _put(site: Site, call: Call) -> Reply:
    name = call["name"]
    runs.check_name("job", name)
    body = call.json(_Job)
    sent = section(body, "properties")
    if sent.get("jobType") == "Pipeline":  # the only type that is served
        job_fields.refuse_unknown(body, call.query.get("api-version", ""))
    with site.documents.transaction():
        previous = site.documents.get(f"jobs/{name}")
        if previous is None and site.documents.get(f"runs/{name}") is not None:
            raise user_error(f"There is a run called {name}, which is no job. For a new job, use a different name.")
        plan = _plan(site, sent)
        if previous is not None:
            asked, known = plan["request"], previous.body["plan"]["request"]
            different = ", ".join(key for key in known if asked[key] != known[key])
            if different:
                message = (
                    f"A job with this name already exists: {previous.name}. For a new job, use a different name. "
                    f"The existing job's {different} cannot be changed; only {', '.join(_CHANGEABLE)} can."
                )
                # 400 and not 409, as in Azure: the SDK raises a plain ``HttpResponseError`` (azure-docs issue 122250,
                # azure-sdk-for-python pull request 47389).
                raise WireError(400, "UserError", message, inner="JobPropertyImmutable")
            runs.change(site, name, {key: sent[key] for key in _CHANGEABLE if key in sent})
            return Reply(_show(site, previous))
        document = site.documents.put(f"jobs/{name}", {"properties": sent, "plan": plan})
        _start_runs(site, name, sent, plan)
    site.training.submitted(name)
    return created(site, call, _show(site, document))


def _start_runs(site: Site, name: str, sent: Json, plan: Json) -> None:
    experiment = runs.experiment(site, plan["request"]["experiment"])
    common = {"experimentId": experiment, "experimentName": plan["request"]["experiment"], "rootRunId": name}
    common |= {"status": "NotStarted", "createdUtc": timestamp(site.clock.now())}
    root = {
        **common,
        "runId": name,
        "runType": "azureml.PipelineRun",
        "displayName": sent.get("displayName") or name,
        "description": sent.get("description"),
        "tags": section(sent, "tags"),
        "properties": {**section(sent, "properties"), **_of_pipeline(sent)},
        "target": None,
        "children": [str(uuid.uuid4()) for _ in runs.steps(plan)],  # another time another job may have this name
    }
    site.documents.put(f"runs/{name}", root)
    for child, step in zip(root["children"], runs.steps(plan), strict=True):
        compute, _ = runs.step_compute(plan, step)
        kept = {
            **common,
            "runId": child,
            "parentRunId": name,
            "runType": "azureml.StepRun",
            "displayName": step,
            "tags": {"azureml.nodeid": runs.node_id(child), "azureml.pipeline": name},
            "properties": _of_step(name, step, runs.node_id(child), compute),
            "target": compute,
        }
        site.documents.put(f"runs/{child}", kept)


def _of_pipeline(sent: Json) -> dict[str, str]:
    """Return the properties that Azure gives a pipeline's run (recorded 2026-02-27, azure-sdk-assets 6873a4bb)."""
    settings = section(sent, "settings")
    return {
        "azureml.DevPlatv2": "true",
        "azureml.DatasetAccessMode": "Asset",
        "azureml.runsource": "azureml.PipelineRun",
        "runSource": "MFE",
        "runType": "HTTP",
        "azureml.parameters": "{}",
        "azureml.continue_on_step_failure": str(bool(settings.get("continue_on_step_failure", True))),
        "azureml.continue_on_failed_optional_input": "True",
        "azureml.enforceRerun": str(bool(settings.get("force_rerun"))),
        "azureml.defaultDataStoreName": "workspaceblobstore",
        "azureml.pipelineComponent": "pipelinerun",
    }


def _of_step(job: str, step: str, node: str, compute: str) -> dict[str, str]:
    """Return the properties of a step's run: the names are recorded (as above), of the values these are known."""
    return {
        "azureml.DevPlatv2": "true",
        "azureml.DatasetAccessMode": "Asset",
        "StepType": "CommandComponent",
        "ComputeTargetType": "AmlCompute",
        "azureml.moduleid": str(uuid.uuid5(uuid.NAMESPACE_URL, step)),
        "azureml.moduleName": step,
        "azureml.moduleVersion": "1",
        "azureml.runsource": "azureml.StepRun",
        "azureml.nodeid": node,
        "azureml.pipelinerunid": job,
        "azureml.pipeline": job,
        "azureml.rootpipelinerunid": job,
        "_azureml.ComputeTargetType": "amlctrain",
        "_azureml.ClusterName": compute,
    }


def _cancel(site: Site, call: Call) -> Reply:
    run = _run(site, call["name"])
    if site.documents.get(f"jobs/{call['name']}") is None:
        raise user_error(f"{call['name']} is a child run; cancel the job {run.body['rootRunId']}.")
    if run.body["status"] in runs.ENDED:
        return Reply()
    with site.documents.transaction():  # a killed server leaves no job that is to be canceled and never is
        runs.set_status(site, run.name, "CancelRequested")
        return operations.begin(site, call, "job-cancel", run.name)


def _delete(site: Site, call: Call) -> Reply:
    """Begin to delete a job; that it has ended is looked at by the operation, which fails where it has not.

    So the client of Azure's developer CLI tells of this operation, and of 204 for a job that is not there (azure-dev
    7fd51b92, azure.ai.training/pkg/client/jobs.go, 2026); the SDK's own docstring tells of a 404 (azure-ai-ml 1.35.2).
    """
    document = site.documents.get(f"jobs/{call['name']}")
    if document is not None:
        return operations.begin(site, call, "job-delete", document.name)
    run = site.documents.get(f"runs/{call['name']}")
    if run is not None:
        raise user_error(f"{call['name']} is a child run; delete the job {run.body['rootRunId']}.")
    return Reply(None, 204)


def _show(site: Site, document: Document) -> Json:
    sent, state = document.body["properties"], _run(site, document.name).body
    addresses = {
        "Tracking": f"{tracking_uri(site.base_url)}?",
        "Studio": f"https://ml.azure.com/runs/{document.name}?wsid={WORKSPACE_ID}&tid={TENANT}",
    }
    nothing = dict.fromkeys(("port", "status", "errorMessage", "properties", "nodes"))
    properties = {
        **dict.fromkeys(("identity", "componentId", "notificationSetting", "secretsConfiguration", "sourceJobId")),
        **sent,
        "inputs": sent.get("inputs") or None,
        "jobType": "Pipeline",
        "status": state["status"],
        "experimentName": state["experimentName"],
        "displayName": state.get("displayName"),
        "description": state.get("description"),
        "tags": state.get("tags") or {},
        "properties": state.get("properties") or {},
        "isArchived": bool(state.get("hidden")),
        # The Studio's page is none of this workspace's: Azure shows one for each job, and programs read it.
        "services": {kind: {"jobServiceType": kind, "endpoint": uri, **nothing} for kind, uri in addresses.items()},
        # Their addresses stay null, when it has completed too (recorded 2023-02-12 and 2026-02-27).
        "outputs": {name: {**dict.fromkeys(_OUTPUT), **sent} for name, sent in section(sent, "outputs").items()},
        "computeId": sent.get("computeId"),
    }
    return resource(document, "jobs", properties)


def _plan(ground: Ground, sent: Json) -> Json:
    """Return what a submitted body asks for, or raise the error that names what is not served."""
    if sent.get("jobType") != "Pipeline":
        what = f"The local workspace does not run jobs of type {sent.get('jobType')}; only Pipeline"
        raise WireError(501, "NotImplemented", what)
    component, nodes = catalog.component(), section(sent, "jobs")
    expected = catalog.asset_id("components", component["name"], component["version"])
    mine = [name for name in nodes if str(section(nodes, name).get("componentId", "")).lower() == expected.lower()]
    others = [name for name in nodes if name not in mine]
    for name in others:
        _check_component(ground, str(section(nodes, name).get("componentId")))
    if len(mine) != 1 or len(others) > 1:
        message = f"The local workspace runs {expected}, with phift's step that prepares data before it or without; "
        asked = [str(section(nodes, name).get("componentId")) for name in others]
        message += f"not {', '.join(asked)}" if others else f"this one has {len(nodes)} nodes"
        raise WireError(501, "NotImplemented", message)
    node = section(nodes, mine[0])
    prepared = _preparation(ground, section(nodes, others[0]), sent) if others else None
    inputs: dict[str, str] = {}
    for name, given in section(node, "inputs").items():
        if name not in component["inputs"]:
            raise user_error(f"The component {component['name']} has no input named {name}.")
        value = _value(name, given, section(sent, "inputs"))
        bound = runs.step_output(value or "")
        if bound and not (prepared and bound[0] == prepared["node"] and bound[1] in SPLITS):
            raise user_error(f"The input {name} is bound to {value}, which the pipeline does not have.")
        if value is not None:
            inputs[name] = value
    outputs = _bound_outputs(section(node, "outputs"), section(sent, "outputs"), component["outputs"])
    experiment = str(sent.get("experimentName") or "Default")
    runs.check_name("experiment", experiment)
    request: Json = {"component": expected, "node": mine[0], "inputs": inputs, "outputs": outputs}
    request |= {"preparation": prepared, "experiment": experiment}
    specs = component["inputs"].items()
    defaults = {name: str(spec["default"]) for name, spec in specs if spec.get("default") is not None}
    plan: Json = {"request": request, "inputs": {**defaults, **inputs}, "outputs": outputs, "preparation": prepared}
    plan["repeatable"] = not others or _own_spec(ground, section(nodes, others[0])).get("is_deterministic", True)
    compute, instance_type = runs.step_compute(plan, "chat_completion_finetune")
    cluster = ground.documents.get(f"computes/{compute}")
    return {**plan, "vm_size": str(cluster.body["properties"]["vmSize"]) if cluster else instance_type}


def _check_component(ground: Ground, identity: str) -> None:
    """Refuse a version of a component that is not there, as recorded 2023-10-30 (azure-sdk-assets 2909d3d1)."""
    found = re.fullmatch(r"(?:azureml:)?(/.*|//registries/.*)/components/([^/]+)/versions/([^/]+)", identity)
    if found is None:
        return
    of_registry, name, version = found[1].startswith("//registries/"), found[2], found[3]
    if of_registry or ground.documents.get(f"components/{name}/versions/{version}") is None:
        message = f"key: {identity}, Message: Not found component {name} (version: {version})."
        raise WireError(404, "NotFound", message)


def _preparation(ground: Ground, node: Json, sent: Json) -> Json:
    """Return what the step that prepares data is to do, or raise the error that says what is not served."""
    spec = _own_spec(ground, node)
    known = section(spec, "inputs")
    command = on_cluster.command_line([name for name in known if name != "settings"])
    if "settings" not in known or spec.get("command") != command:
        message = (
            "The local workspace runs phift's own step that prepares data and the registry's component; "
            f"it does not execute uploaded code, such as the step {node.get('name')}"
        )
        raise WireError(501, "NotImplemented", message)
    values = {name: value.get("default") for name, value in known.items() if isinstance(value, dict)}
    given = {name: _text(value) for name, value in section(node, "inputs").items()}
    values |= {name: value for name, value in given.items() if value is not None}
    for name, value in values.items():
        if value is None:
            raise user_error(f"The step {node.get('name')} has no value for its input {name}.")
    outputs = {name: _text(value) for name, value in section(node, "outputs").items()}
    known_outputs = dict.fromkeys((*SPLITS, on_cluster.REPORT))
    return {
        "node": str(node.get("name")),
        "compute": str(node.get("computeId")).rpartition("/")[2],  # an id, or a bare name
        "inputs": {name: _value(name, str(value), section(sent, "inputs")) for name, value in values.items()},
        "outputs": {name: value for name, value in outputs.items() if value and not value.startswith("${{")},
        "bound": _bound_outputs(section(node, "outputs"), section(sent, "outputs"), known_outputs),
    }


def _own_spec(ground: Ground, node: Json) -> Json:
    """Return what a node's component says, where it is one of this workspace."""
    identity, prefix = str(node.get("componentId", "")).removeprefix("azureml:"), f"{WORKSPACE_ID}/components/"
    own = identity.lower().startswith(prefix.lower())
    stored = ground.documents.get(f"components/{identity[len(prefix) :]}") if own else None
    return section(stored.body["properties"], "componentSpec") if stored else {}


def _text(sent: Any) -> str | None:
    """Return the text of an input or output: nodes and pipelines spell its fields differently."""
    value = sent.get("uri", sent.get("value")) if isinstance(sent, dict) else sent
    return None if value is None else str(value)


def _value(name: str, sent: Any, parent: Json) -> str | None:
    """Return the text of an input; a binding to one of the pipeline's own inputs is followed."""
    value = _text(sent)
    bound = _BINDING.fullmatch(value or "")
    if not bound:
        return value
    if bound[2] not in parent:
        raise user_error(f"The input {name} is bound to {value}, which the pipeline does not have.")
    return _text(parent[bound[2]])


def _bound_outputs(node: Json, parent: Json, known: Json) -> dict[str, str]:
    """Return which output of a node each output of the pipeline is."""
    outputs: dict[str, str] = {}
    for name, sent in node.items():
        if name not in known:
            raise user_error(f"There is no output named {name}, only {', '.join(known)}.")
        bound = _BINDING.fullmatch(_text(sent) or "")
        if bound and bound[2] in parent:
            outputs[bound[2]] = name
    return outputs


ROUTES = [
    Route("GET jobs", _list),
    Route("GET jobs/{name}", _get),
    Route("PUT jobs/{name}", _put),
    Route("DELETE jobs/{name}", _delete),
    Route("POST jobs/{name}/cancel", _cancel),
]
