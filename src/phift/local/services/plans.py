"""What a submitted pipeline asks for: the registry's component, with phift's step that prepares data before it or not.

What is uploaded as a step's code is never executed. A command that is not, letter for letter, the one that
`phift.data.on_cluster` gives for the step's inputs is refused.
"""

from __future__ import annotations

import re

from phift.component.preprocessing import SPLITS
from phift.data import on_cluster
from phift.local.ground import Ground
from phift.local.model import catalog, runs
from phift.local.names import WORKSPACE_ID
from phift.local.state.documents import Json
from phift.local.wire.call import section, sent_text
from phift.local.wire.errors import WireError, user_error

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}")
NAME_RULE = "letters, digits, '-' and '_', not starting with one of these two, at most 255."
_BINDING = re.compile(r"\$\{\{\s*parent\.(inputs|outputs)\.([\w-]+)\s*\}\}")


def read(ground: Ground, sent: Json) -> Json:
    """Return what a submitted body asks for, or raise the error that names what is not served."""
    if sent.get("jobType") != "Pipeline":
        what = f"The local workspace does not run jobs of type {sent.get('jobType')}; only Pipeline"
        raise WireError(501, "NotImplemented", what)
    component, nodes = catalog.component(), section(sent, "jobs")
    expected = catalog.asset_id("components", component["name"], component["version"])
    mine = [name for name in nodes if str(section(nodes, name).get("componentId", "")).lower() == expected.lower()]
    others = [name for name in nodes if name not in mine]
    if len(mine) != 1 or len(others) > 1:
        message = f"The local workspace runs {expected}, with phift's step that prepares data before it or without; "
        asked = [str(section(nodes, name).get("componentId")) for name in others]
        message += f"not {', '.join(asked)}" if others else f"this one has {len(nodes)} nodes"
        raise WireError(501, "NotImplemented", message)
    node = section(nodes, mine[0])
    prepared = _preparation(ground, section(nodes, others[0]), sent) if others else None
    inputs = _inputs(section(node, "inputs"), section(sent, "inputs"))
    for name, value in inputs.items():
        bound = runs.step_output(value)
        if bound and not (prepared and bound[0] == prepared["node"] and bound[1] in SPLITS):
            raise user_error(f"The input {name} is bound to {value}, which the pipeline does not have.")
    outputs = _bound_outputs(section(node, "outputs"), section(sent, "outputs"), component["outputs"])
    experiment = str(sent.get("experimentName") or "Default")
    if not NAME.fullmatch(experiment):
        raise user_error(f"The experiment name {experiment} is not valid: {NAME_RULE}")
    request: Json = {"component": expected, "node": mine[0], "inputs": inputs, "outputs": outputs}
    request |= {"preparation": prepared, "experiment": experiment}
    specs = component["inputs"].items()
    defaults = {name: str(spec["default"]) for name, spec in specs if spec.get("default") is not None}
    plan = {"request": request, "inputs": {**defaults, **inputs}, "outputs": outputs, "preparation": prepared}
    compute, instance_type = runs.step_compute(plan, "chat_completion_finetune")
    cluster = ground.documents.get(f"computes/{compute}")
    return {**plan, "vm_size": str(cluster.body["properties"]["vmSize"]) if cluster else instance_type}


def _preparation(ground: Ground, node: Json, sent: Json) -> Json:
    """Return what the step that prepares data is to do, or raise the error that says what is not served."""
    spec = _component(ground, str(node.get("componentId", "")).removeprefix("azureml:"))
    known = section(spec, "inputs")
    command = on_cluster.command_line([name for name in known if name != "settings"])
    if "settings" not in known or spec.get("command") != command:
        message = (
            "The local workspace runs phift's own step that prepares data and the registry's component; "
            f"it does not execute uploaded code, such as the step {node.get('name')}"
        )
        raise WireError(501, "NotImplemented", message)
    values = {name: value.get("default") for name, value in known.items() if isinstance(value, dict)}
    values |= {
        name: value for name, given in section(node, "inputs").items() if (value := sent_text(given)) is not None
    }
    for name, value in values.items():
        if value is None:
            raise user_error(f"The step {node.get('name')} has no value for its input {name}.")
    outputs = {name: sent_text(given) for name, given in section(node, "outputs").items()}
    return {
        "node": str(node.get("name")),
        "compute": str(node.get("computeId")).rpartition("/")[2],  # an id, or a bare name
        "inputs": {name: _bound_value(name, str(value), section(sent, "inputs")) for name, value in values.items()},
        "outputs": {name: value for name, value in outputs.items() if value and not value.startswith("${{")},
        "bound": _bound_outputs(
            section(node, "outputs"), section(sent, "outputs"), dict.fromkeys((*SPLITS, on_cluster.REPORT))
        ),
    }


def _component(ground: Ground, identity: str) -> Json:
    """Return the spec of a component of the workspace, empty where it is not one."""
    prefix = f"{WORKSPACE_ID}/components/"
    if not identity.lower().startswith(prefix.lower()):
        return {}
    found = ground.documents.get(f"components/{identity[len(prefix) :]}")
    return section(found.body["properties"], "componentSpec") if found else {}


def _inputs(node: Json, parent: Json) -> dict[str, str]:
    """Return the values of the component's inputs as text; bindings to the pipeline's own inputs are followed."""
    component = catalog.component()
    values: dict[str, str] = {}
    for name, sent in node.items():
        if name not in component["inputs"]:
            raise user_error(f"The component {component['name']} has no input named {name}.")
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
