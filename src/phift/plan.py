"""What a run will do: everything looked up at once, checked, and named."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from phift.azure.answers import listed, no_answer, text, texts
from phift.azure.clients import Clients
from phift.azure.threads import SideBySide
from phift.check.compute import ComputeTarget, deployment_size, find_cluster, instance_findings, resolve_compute
from phift.check.cost import CHARACTERS_PER_TOKEN, CostEstimate, estimate_cost
from phift.check.findings import Finding, findings_from
from phift.check.memory import MemoryEstimate, memory_findings, model_shape
from phift.check.models import FoundationModel, find_model
from phift.check.parameters import Parameters, resolve_parameters
from phift.check.quota import Usage, quota_findings, read_usages
from phift.check.report import CheckReport
from phift.check.sizes import VmSize, find_size, read_sizes, text_of
from phift.component.preprocessing import ChatTokenizer
from phift.config.run import RunConfig
from phift.data.assets import DataInAzure, find_data
from phift.data.on_cluster import DataOnCluster, find_preparation
from phift.data.prepare import PreparedDataset
from phift.errors import NotFound, PhiftError, azure_errors
from phift.jobs.job import JOB_TAG
from phift.jobs.pipeline import component_findings, find_component
from phift.tokens.count import Counted, measure, token_findings
from phift.tokens.report import TokenReport
from phift.tokens.tokenizer import find_tokenizer

_NAME = "deployment.endpoint_name"

T = TypeVar("T")

Dataset = PreparedDataset | DataInAzure | DataOnCluster


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do, with everything looked up.

    - **fingerprint**: 12 hex digits over model, component, parameters, data and compute; every name comes from it.
    - **tokens**: how long the conversations are; None for data that is not read here.
    - **tokenizer**: the model's, if there is one to be had.
    - **memory**, **cost**: estimates with their assumptions; None where the model is not known well enough.
    """

    model: FoundationModel
    component: Any
    target: ComputeTarget
    parameters: Parameters
    dataset: Dataset
    tokens: TokenReport | None
    tokenizer: ChatTokenizer | None
    memory: MemoryEstimate | None
    cost: CostEstimate | None
    fingerprint: str

    @property
    def job_name(self) -> str:
        """The name of the job's first attempt."""
        return f"phift-{slug(self.model.name)}-{self.fingerprint}"


def make_plan(
    config: RunConfig,
    clients: Clients,
    prepare: Callable[[], PreparedDataset],
    on_progress: Callable[[Counted], None] | None = None,
    *,
    before: Plan | None = None,
) -> tuple[Plan | None, CheckReport]:
    """Look everything up at once and return the plan, if there can be one, and the report; submits nothing.

    - **on_progress**: called with how far the counting of tokens has come.
    - **prepare**: prepares the data, in the caller's thread, so that Ctrl-C ends it; the look-ups run beside it. Data
      that is not read here is looked up instead.
    - **before**: an earlier plan of this configuration, whose count of the tokens is used where it is of the same rows,
      tokenizer and limit.
    """
    found = _look_up(config, clients, prepare)
    target, of_target = _target(config, found)
    parameters, of_parameters = _parameters(config, found, target)
    of_model = (*found.model.findings, *instance_findings(found.model, config.deployment)) if found.model else ()
    tokens, of_tokens = _tokens(config, found, parameters, on_progress, before)
    memory, cost, of_estimates = _estimates(config, found, target, parameters, tokens)
    plan = None
    if found.model and found.component and target and parameters and found.dataset:
        compute = [target.kind, target.name, target.size.lower(), target.nodes, target.gpus_per_node]
        # All values, the component's own defaults too: to spell one out does not make another run.
        values = {name: parameter.value for name, parameter in parameters.values.items()}
        component = text(found.component.id, "component.id")
        plan = Plan(
            model=found.model,
            component=found.component,
            target=target,
            parameters=parameters,
            dataset=found.dataset,
            tokens=tokens,
            tokenizer=found.tokenizer,
            memory=memory,
            cost=cost,
            fingerprint=digest([found.model.id, component, values, found.dataset.content_hash, compute]),
        )
    findings = (*found.findings, *of_target, *of_parameters, *of_model, *of_tokens, *of_estimates)
    findings = (*findings, *_name_findings(config, found, plan))
    return plan, CheckReport.of(findings, memory=memory, cost=cost, tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The results of the look-ups, None where one failed, and what there is to say of them.

    - **no_tokenizer**: why there is no tokenizer, or what it lacks.
    - **endpoint**: the tags of the endpoint that has the configured name; None where there is none.
    """

    model: FoundationModel | None
    component: Any
    cluster: Any
    compute_known: bool
    sizes: dict[str, VmSize]
    usages: Sequence[Usage] | None
    dataset: Dataset | None
    tokenizer: ChatTokenizer | None
    no_tokenizer: str
    endpoint: Mapping[str, str] | None
    findings: tuple[Finding, ...]


def _look_up(config: RunConfig, clients: Clients, prepare: Callable[[], PreparedDataset]) -> _Found:
    """Ask everything at once: few answers are needed for another question."""
    elsewhere = bool(config.data.in_azure or config.data.prepare_on)
    with SideBySide(10) as side:
        workspace = side.begin(clients.find_workspace)
        model = side.begin(find_model, clients, config.model)
        component = side.begin(_component, config, clients)
        newer = side.begin(component_findings, clients, config.component)
        cluster = side.begin(find_cluster, clients, config.compute)
        sizes = side.begin(_list_sizes, clients)
        usages = side.begin(_list_usages, clients)
        endpoint = side.begin(_endpoint, config, clients)
        tokenizer = None if elsewhere else side.begin(_tokenizer, config, clients, model)
        dataset: Future[Dataset]
        if config.data.prepare_on:
            new_cluster = config.compute.cluster if config.compute.size else None
            dataset = side.begin(find_preparation, clients, config.data, new_cluster)
        else:
            dataset = side.begin(find_data, clients, config.data) if elsewhere else _prepared(prepare)
    failed = (
        *_failure(workspace, "workspace"),
        *_failure(newer, "component", "COMPONENT_NEWER_UNKNOWN"),
        *_failure(cluster, "compute"),
        *_failure(dataset, "data"),
        *_failure(model, "model"),
        *_failure(component, "component"),
        *_failure(sizes, "compute", "COMPUTE_SIZES_UNREAD"),
        *_failure(usages, "quota", "QUOTA_UNREAD"),
        *_failure(endpoint, _NAME, "DEPLOYMENT_NAME_UNREAD"),
    )
    found_data, (found_tokenizer, no_tokenizer) = _value(dataset), tokenizer.result() if tokenizer else (None, "")
    return _Found(
        model=_value(model),
        component=_value(component),
        cluster=_value(cluster),
        compute_known=not _failure(cluster, "compute"),
        sizes=_value(sizes) or {},
        usages=_value(usages),
        dataset=found_data,
        tokenizer=found_tokenizer,
        no_tokenizer=no_tokenizer,
        endpoint=_value(endpoint),
        findings=(*failed, *(_value(newer) or ()), *(found_data.findings if found_data else ())),
    )


def _value(future: Future[T]) -> T | None:
    with suppress(PhiftError):
        return future.result()
    return None


def _failure(future: Future[Any], place: str, note: str = "") -> Sequence[Finding]:
    """Return a look-up's error as findings.

    - **note**: the code of a note in their place, where the run can do without the answer.
    """
    try:
        future.result()
    except PhiftError as error:
        if not note:
            return findings_from(error, place)
        return [Finding(note, "note", place, f"It could not be looked up: {error.what}")]
    return ()


def _component(config: RunConfig, clients: Clients) -> Any:
    """Return the component, which has all that a plan reads of it."""
    component = find_component(clients, config.component)
    for key in ("id", "name", "version"):
        text(getattr(component, key, None), f"component.{key}")
    if not isinstance(component.inputs, Mapping):
        raise no_answer(component.inputs, "component.inputs", "a mapping")
    return component


def _list_sizes(clients: Clients) -> dict[str, VmSize]:
    # Left to itself, the SDK looks the workspace up for its region each time.
    location = text(clients.find_workspace().location, "workspace.location")
    with azure_errors("the region's VM sizes"):
        answer = clients.workspace.compute.list_sizes(location=location)
        return read_sizes(listed(answer, "workspace.compute.list_sizes"))


def _list_usages(clients: Clients) -> list[Usage]:
    location = text(clients.find_workspace().location, "workspace.location")
    with azure_errors("the region's quota"):
        answer = clients.workspace.compute.list_usage(location=location)
        return read_usages(listed(answer, "workspace.compute.list_usage"))


def _endpoint(config: RunConfig, clients: Clients) -> Mapping[str, str] | None:
    """Return the tags of the endpoint that has the configured name, or None."""
    name = config.deployment.endpoint_name
    if name is None:
        return None
    try:
        with azure_errors(f"endpoint {name}"):
            found = clients.workspace.online_endpoints.get(name)
    except NotFound:
        return None
    return texts(found.tags, "endpoint.tags")


def _tokenizer(config: RunConfig, clients: Clients, model: Future[FoundationModel]) -> tuple[ChatTokenizer | None, str]:
    """Return the model's tokenizer, or why there is none; it is not worth an error, since tokens can be estimated."""
    try:
        return find_tokenizer(
            config.data.tokenizer,
            clients,
            model.result(),
            config.work_dir / "tokenizers",
            finetune_config=config.parameter_files.get("finetune_config_path"),
        )
    except PhiftError as error:
        return None, error.what


def _prepared(prepare: Callable[[], PreparedDataset]) -> Future[Dataset]:
    """Prepare the data in this very thread, where an interrupt arrives; our errors are kept like a look-up's."""
    future: Future[Dataset] = Future()
    try:
        future.set_result(prepare())
    except PhiftError as error:
        future.set_exception(error)
    return future


def _target(config: RunConfig, found: _Found) -> tuple[ComputeTarget | None, Sequence[Finding]]:
    if not found.compute_known:
        return None, ()
    # A wrong model must not hide a wrong compute; without the model's allow-list there is just less to check.
    model = found.model or FoundationModel(id="", name=config.model.name, version="", registry="")
    try:
        target = resolve_compute(config.compute, model, found.cluster, found.sizes)
    except PhiftError as error:
        return None, findings_from(error, "compute")
    return target, target.findings


def _parameters(
    config: RunConfig, found: _Found, target: ComputeTarget | None
) -> tuple[Parameters | None, Sequence[Finding]]:
    if found.component is None:
        return None, ()
    # The names and values of the user's parameters can be checked before the compute is known.
    nowhere = ComputeTarget(kind="cluster", name="unknown", vm=VmSize(name=""), gpus_per_node=1, nodes=1, exists=False)
    parameters = resolve_parameters(
        found.component.inputs,
        found.model.defaults if found.model else {},
        config.parameters,
        target or nowhere,
        preset=config.preset_values,
        gpu=target.vm.gpu if target else None,
    )
    return parameters if target else None, parameters.findings


def _tokens(
    config: RunConfig,
    found: _Found,
    parameters: Parameters | None,
    on_progress: Callable[[Counted], None] | None,
    before: Plan | None,
) -> tuple[TokenReport | None, Sequence[Finding]]:
    """Count the tokens of the prepared data, as far as there is any and the job's limit is known."""
    dataset, tokenizer = found.dataset, found.tokenizer
    if not (isinstance(dataset, PreparedDataset) and parameters):
        return None, ()
    limit = parameters.settings.max_seq_length
    if before and before.tokens and before.tokenizer and isinstance(before.dataset, PreparedDataset):
        was, now = before.dataset, dataset
        same_rows = (was.content_hash, was.files) == (now.content_hash, now.files)
        same_tokenizer = tokenizer and tokenizer.digest and tokenizer.digest == before.tokenizer.digest
        if same_rows and same_tokenizer and before.tokens.max_seq_length == limit:
            return before.tokens, token_findings(before.tokens)
    try:
        report = measure(
            dataset.files,
            tokenizer,
            max_seq_length=limit,
            exact=config.data.count_tokens == "exact",
            reason=found.no_tokenizer,
            on_progress=on_progress,
        )
    except PhiftError as error:
        return None, findings_from(error, "data")
    return report, token_findings(report)


def _estimates(
    config: RunConfig,
    found: _Found,
    target: ComputeTarget | None,
    parameters: Parameters | None,
    tokens: TokenReport | None,
) -> tuple[MemoryEstimate | None, CostEstimate | None, Sequence[Finding]]:
    """Hold quota, memory and cost against what there is, as far as enough is known."""
    model, dataset = found.model, found.dataset
    if not (model and target and parameters):
        return None, None, ()
    findings: list[Finding] = []
    size, instances = deployment_size(model, config.deployment), config.deployment.instance_count
    deployment = find_size(size, found.sizes) if size else None
    if found.usages is not None:
        tier = (text_of(found.cluster, "tier") or "").lower()
        low = tier == "low_priority" if found.cluster else config.compute.low_priority
        findings += quota_findings(target, deployment, instances, found.usages, low_priority=low)
    if model.stand_in and config.max_cost is None:
        message = "Its weights are a small stand-in, so memory, time and cost of the real model say nothing here."
        return None, None, [*findings, Finding("MODEL_STAND_IN", "note", f"model {model.name}", message)]
    prepared = dataset if isinstance(dataset, PreparedDataset) else None
    longest = _longest(prepared, tokens) if prepared else None
    memory, of_memory = memory_findings(model.name, parameters.settings, target, model.finetune, longest)
    if dataset is None:
        return memory, None, [*findings, *of_memory]
    shape = model_shape(model.name)
    cost, of_cost = estimate_cost(
        prepared,
        parameters.settings,
        target,
        model_parameters=shape.parameters if shape and not model.stand_in else None,
        deployment=deployment,
        instances=instances,
        prices=config.prices,
        tokens=tokens,
        tokens_per_second=config.tokens_per_second,
        max_cost=config.max_cost,
    )
    return memory, cost, [*findings, *of_memory, *of_cost]


def _name_findings(config: RunConfig, found: _Found, plan: Plan | None) -> list[Finding]:
    """Refuse a configured name that another endpoint has; that of this very run's, made before, is used again."""
    name, tags = config.deployment.endpoint_name, found.endpoint
    if name is None or tags is None:
        return []
    job = tags.get(JOB_TAG)
    if job and (plan is None or re.fullmatch(rf"{re.escape(plan.job_name)}(-\d+)?", job)):
        return []  # without a plan nothing says whether it is this run's
    model = tags.get("phift.model")
    told = [f"it serves {model}"] if model else []
    told.append(f"it is of the job {job}" if job else "phift did not make it")
    message = f"There is an endpoint {name} already: {' and '.join(told)}."
    fix = "give another `deployment.endpoint_name`"
    fix += f", or delete that endpoint: `phift cleanup {name}`" if job else ""
    return [Finding("DEPLOYMENT_NAME_TAKEN", "error", _NAME, message, fix)]


def _longest(dataset: PreparedDataset, tokens: TokenReport | None) -> int:
    """Return the tokens of the longest training row; of a sample's, at least what its characters make likely."""
    counted = tokens.splits["train"] if tokens and tokens.counted != "estimate" else None
    if counted is None:
        return dataset.longest_row // CHARACTERS_PER_TOKEN + 1
    if counted.whole:
        return counted.longest
    of_character = counted.mean * dataset.rows["train"] / max(1, dataset.characters["train"])
    return max(counted.longest, round(dataset.longest_row * of_character))


def digest(parts: list[Any]) -> str:
    """Return 12 hex digits of a SHA-256 over plain values."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def slug(name: str) -> str:
    """Return a name in the letters, digits and dashes that every kind of Azure resource takes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
