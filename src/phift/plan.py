"""What a run will do: everything looked up at once, checked, and named."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from phift import facts
from phift.azure.answers import listed, text, texts
from phift.azure.clients import Clients
from phift.azure.threads import SideBySide
from phift.check import compute
from phift.check.compute import ComputeTarget
from phift.check.cost import CostEstimate, estimate_cost
from phift.check.findings import Finding, findings_from
from phift.check.machine_memory import machine_findings, shape_of_added
from phift.check.memory import MemoryEstimate, memory_findings, model_shape
from phift.check.models import FoundationModel, component_findings, find_component, find_model
from phift.check.parameters import Parameters, resolve_parameters
from phift.check.report import CheckReport
from phift.check.sizes import VmSize, find_size, list_of_region, read_sizes
from phift.check.workspace import account_findings, container_findings, name_findings, storage_findings
from phift.config.run import RunConfig
from phift.data.assets import DataInAzure, find_data, find_preparation
from phift.data.files import make_private
from phift.data.prepare import PreparedDataset
from phift.errors import NotFound, PhiftError, azure_errors
from phift.jobs.job import JOB_TAG
from phift.tokens.count import CHARACTERS_PER_TOKEN, Counted, TokenReport, measure, token_findings
from phift.tokens.limited import LimitedTokenizer, find_tokenizer

_NAME = "deployment.endpoint_name"

T = TypeVar("T")

Dataset = PreparedDataset | DataInAzure


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do, with everything looked up.

    - **fingerprint**: 12 hex digits over model, component, parameters, data and compute; every name comes from it.
    - **tokens**: how long the conversations are; None for data that is not read here.
    - **tokenizer**: the model's, if there is one to be had.
    """

    model: FoundationModel
    component: Any
    target: ComputeTarget
    parameters: Parameters
    dataset: Dataset
    tokens: TokenReport | None
    tokenizer: LimitedTokenizer | None
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
    planning = _Planning(config, clients, prepare)
    model, component, dataset = planning.model, planning.component, planning.dataset
    target, parameters = planning.target, planning.parameters
    tokens = planning.tokens(on_progress, before)
    memory, cost = planning.estimates(tokens)
    plan = None
    if model and component and target and parameters and dataset:
        place = [target.kind, target.name, target.size.lower(), target.nodes, target.gpus_per_node]
        # All values, the component's own defaults too: to spell one out does not make another run.
        values = {name: parameter.value for name, parameter in parameters.values.items()}
        parts = [model.id, text(component.id, "component.id"), values, dataset.content_hash, place]
        plan = Plan(
            model=model,
            component=component,
            target=target,
            parameters=parameters,
            dataset=dataset,
            tokens=tokens,
            tokenizer=planning.tokenizer,
            fingerprint=digest(parts),
        )
    planning.hold_name(plan)
    planning.note_old_facts(memory)
    return plan, CheckReport.of(planning.findings, memory=memory, cost=cost, tokens=tokens)


class _Planning:
    """What was looked up, None where that failed, and all that there is to say of it.

    - **no_tokenizer**: why there is no tokenizer, or what it lacks.
    - **endpoint**: the tags of the endpoint that has the configured name, and of its deployments by their names; None
      where there is none.
    """

    def __init__(self, config: RunConfig, clients: Clients, prepare: Callable[[], PreparedDataset]) -> None:
        """Ask everything at once: few answers are needed for another question."""
        self.config, self.clients = config, clients
        self.findings: list[Finding] = []
        data: Callable[[], Dataset] = prepare
        if config.data.prepare_on:
            data = partial(find_preparation, clients, config.data)
        elif config.data.in_azure:
            data = partial(find_data, clients, config.data)
        with SideBySide(11) as side:
            workspace = side.begin(clients.find_workspace)
            account = side.begin(account_findings, clients)
            model = side.begin(find_model, clients, config.model)
            component = side.begin(find_component, clients, config.component)
            newer = side.begin(component_findings, clients, config.component)
            self.cluster = side.begin(compute.find_cluster, clients, config.compute)
            preparation = side.begin(compute.preparation_findings, clients, config)
            sizes = side.begin(list_of_region, clients, "list_sizes", "the region's VM sizes")
            usages = side.begin(list_of_region, clients, "list_usage", "the region's quota")
            endpoint = side.begin(_endpoint, config, clients)
            tokenizer = side.begin(_tokenizer, config, clients, model) if data is prepare else None
            # Preparing it takes this very thread, where an interrupt arrives.
            self.dataset = self.take(data if data is prepare else side.begin(data).result, "data")
        found = self.take(workspace.result, "workspace")
        of_component = self.take(newer.result, "component", "COMPONENT_NEWER_UNKNOWN")
        self.model = self.take(model.result, "model")
        self.component = self.take(component.result, "component")
        self.sizes = read_sizes(self.take(sizes.result, "compute", "COMPUTE_SIZES_UNREAD") or ())
        self.usages = self.take(usages.result, "quota", "QUOTA_UNREAD")
        self.endpoint = self.take(endpoint.result, _NAME, "DEPLOYMENT_NAME_UNREAD")
        self.tokenizer, self.no_tokenizer = tokenizer.result() if tokenizer else (None, "")
        self.findings += [*(of_component or ()), *(self.dataset.findings if self.dataset else ())]
        self.findings += self.take(preparation.result, "data.prepare_on") or ()
        self.target = self._target()
        self.parameters = self._parameters()
        creates = bool(self.target and not self.target.exists)
        self.findings += [*name_findings(config, creates_cluster=creates), *container_findings(clients, config)]
        if found:  # else that is an error already
            self.findings += self.take(account.result, "workspace", "STORAGE_UNREAD") or ()
        if found and self.target:
            serverless = self.target.kind == "serverless"
            self.findings += storage_findings(found, self.cluster.result(), serverless=serverless)
        if self.model:
            self.findings += [*self.model.findings, *compute.instance_findings(self.model, config.deployment)]

    def take(self, call: Callable[[], T], place: str, note: str = "") -> T | None:
        """Return what a call returns; its error is a finding.

        - **note**: the code of a note in its place, where the run can do without the answer.
        """
        try:
            return call()
        except PhiftError as error:
            unread = Finding(note, "note", place, f"It could not be looked up: {error.what}")
            self.findings += [unread] if note else findings_from(error, place)
        return None

    def _target(self) -> ComputeTarget | None:
        # A wrong model must not hide a wrong compute; without the model's allow-list there is just less to check.
        model = self.model or FoundationModel(id="", name=self.config.model.name, version="", registry="")
        config, sizes = self.config.compute, self.sizes
        target = self.take(lambda: compute.compute_target(config, model, self.cluster.result(), sizes), "compute")
        self.findings += target.findings if target else ()
        return target

    def _parameters(self) -> Parameters | None:
        if self.component is None:
            return None
        # The names and values of the user's parameters can be checked before the compute is known.
        nowhere = ComputeTarget(
            kind="cluster", name="unknown", vm=VmSize(name=""), gpus_per_node=1, nodes=1, exists=False
        )
        parameters = resolve_parameters(
            self.component.inputs,
            self.model.defaults if self.model else {},
            self.config.parameters,
            self.target or nowhere,
            preset=self.config.preset_values,
        )
        self.findings += parameters.findings
        return parameters if self.target else None

    def tokens(self, on_progress: Callable[[Counted], None] | None, before: Plan | None) -> TokenReport | None:
        """Count the tokens of the prepared data, as far as there is any and the job's limit is known."""
        dataset, tokenizer, parameters = self.dataset, self.tokenizer, self.parameters
        if not (isinstance(dataset, PreparedDataset) and parameters):
            return None
        report, limit = None, parameters.settings.max_seq_length
        if before and before.tokens and before.tokenizer and isinstance(before.dataset, PreparedDataset):
            was, now = before.dataset, dataset
            same_rows = (was.content_hash, was.files) == (now.content_hash, now.files)
            same_tokenizer = tokenizer and tokenizer.digest and tokenizer.digest == before.tokenizer.digest
            if same_rows and same_tokenizer and before.tokens.max_seq_length == limit:
                report = before.tokens
        count = partial(
            measure,
            dataset.files,
            tokenizer,
            max_seq_length=limit,
            exact=self.config.data.count_tokens == "exact",
            reason=self.no_tokenizer,
            on_progress=on_progress,
        )
        report = report or self.take(count, "data")
        if tokenizer:
            tokenizer.workers.end()  # hundreds of megabytes, and nobody may want it any more
        self.findings += token_findings(report) if report else ()
        return report

    def estimates(self, tokens: TokenReport | None) -> tuple[MemoryEstimate | None, CostEstimate | None]:
        """Hold quota, memory and cost against what there is, as far as enough is known."""
        model, config, target, parameters = self.model, self.config, self.target, self.parameters
        if not (model and target and parameters):
            return None, None
        size, instances = compute.deployment_size(model, config.deployment), config.deployment.instance_count
        deployment = find_size(size, self.sizes) if size else None
        if self.usages is not None:
            self.findings += compute.quota_findings(target, deployment, instances, compute.read_usages(self.usages))
        if model.stand_in and config.max_cost is None:
            message = "Its weights are a small stand-in, so memory, time and cost of the real model say nothing here."
            self.findings.append(Finding("MODEL_STAND_IN", "note", f"model {model.name}", message))
            return None, None
        prepared = self.dataset if isinstance(self.dataset, PreparedDataset) else None
        longest = _longest(prepared, tokens) if prepared else None
        own = shape_of_added(model)
        own = own if own and self.clients.is_local else None
        memory, of_memory = (
            machine_findings(own, parameters.settings, longest)
            if own
            else memory_findings(model.name, parameters.settings, target, model.finetune, longest)
        )
        self.findings += of_memory
        if self.dataset is None:
            return memory, None
        shape = own or model_shape(model.name)
        count = shape.parameters if shape and not model.stand_in else None
        cost, of_cost = estimate_cost(
            config, prepared, parameters.settings, target, model_parameters=count, deployment=deployment, tokens=tokens
        )
        self.findings += of_cost
        return memory, cost

    def note_old_facts(self, memory: MemoryEstimate | None) -> None:
        """Say which built-in tables something was decided by though they are older than they are good for."""
        size = compute.deployment_size(self.model, self.config.deployment) if self.model else None
        sizes = [find_size(size, self.sizes)] if size else []
        sizes += [self.target.vm] if self.target else []
        lists = (self.model.finetune, self.model.inference) if self.model else ()
        used = {
            "architectures": memory is not None and memory.place == "GPU",
            "chat_completion_pipeline": self.parameters is not None,
            "models": any(each and "built-in table" in each.source for each in lists),
            "parameter_names": any(each.code == "PARAMETER_UNKNOWN" and each.source for each in self.findings),
            "presets": self.config.preset is not None,
            "vm_sizes": any("built-in table" in each.source for each in sizes),
        }
        today = datetime.now(UTC).date()
        for age in (facts.age(table) for table, decided in used.items() if decided):
            if age.old(today):
                message = (
                    f"Part of this was decided by the built-in table {age.table}, which was read {age.days(today)} "
                )
                message += f"days ago, on {age.read_on}, and is good for {age.good_for}."
                fix = "take a newer phift, or entries of your own; `phift facts --check` lists all tables"
                self.findings.append(Finding("FACTS_OLD", "note", f"phift/facts/{age.table}.json", message, fix))

    def hold_name(self, plan: Plan | None) -> None:
        """Refuse a configured name that another endpoint has; that of this very run's, made before, is used again.

        On another run's endpoint a deployment is made beside that run's, if it has a name of its own.
        """
        name, mine, found = self.config.deployment.endpoint_name, self.config.deployment.deployment_name, self.endpoint
        if name is None or found is None:
            return
        tags, deployments = found

        def is_own(job: str) -> bool:  # without a plan nothing says whether it is this run's
            return plan is None or bool(re.fullmatch(rf"{re.escape(plan.job_name)}(-\d+)?", job))

        if tags.get(JOB_TAG) and is_own(tags[JOB_TAG]):
            return
        there = deployments.get(mine)
        if deployments and _told(tags) and there is None:
            message = f"The endpoint {name} is there: {_told(tags)}. The new deployment {mine} is made beside "
            message += f"{', '.join(sorted(deployments))}, and takes the traffic over; both cost money until one goes."
            self.findings.append(Finding("DEPLOYMENT_BESIDE", "note", _NAME, message))
        elif there is not None and _told(there):
            if is_own(there.get(JOB_TAG, "")):
                return
            message = f"The endpoint {name} has a deployment {mine} already: {_told(there)}."
            fix = "give another `deployment.deployment_name`, such as `green`: it is made beside it, and takes over"
            place = "deployment.deployment_name"
            self.findings.append(Finding("DEPLOYMENT_NAME_TAKEN", "error", place, message, f"{fix} its traffic"))
        else:
            fix = "give another `deployment.endpoint_name`"
            fix += f", or delete that endpoint: `phift cleanup {name}`" if _told(tags) else ""
            message = f"There is an endpoint {name} already: {_told(tags) or 'phift did not make it'}."
            self.findings.append(Finding("DEPLOYMENT_NAME_TAKEN", "error", _NAME, message, fix))


def _told(tags: Mapping[str, str]) -> str:
    """Return what phift made an endpoint or a deployment for; an empty text where phift did not make it."""
    model, job = tags.get("phift.model"), tags.get(JOB_TAG)
    told = [f"it serves {model or 'another model'}"] if model or "phift.serves" in tags else []
    return " and ".join(told + ([f"it is of the job {job}"] if job else []))


def _endpoint(config: RunConfig, clients: Clients) -> tuple[dict[str, str], dict[str, dict[str, str]]] | None:
    """Return the tags of the endpoint that has the configured name, and its deployments'; None without one."""
    if name := config.deployment.endpoint_name:
        with suppress(NotFound), azure_errors(f"endpoint {name}"):
            tags = texts(clients.workspace.online_endpoints.get(name).tags, "endpoint.tags")
            place = f"deployments of endpoint {name}"
            found = listed(clients.workspace.online_deployments.list(name), place) if _told(tags) else []
            return tags, {text(each.name, place): texts(each.tags, "deployment.tags") for each in found}
    return None


def _tokenizer(
    config: RunConfig, clients: Clients, model: Future[FoundationModel]
) -> tuple[LimitedTokenizer | None, str]:
    """Return the model's tokenizer, or why there is none; it is not worth an error, since tokens can be estimated."""
    try:
        make_private(config.work_dir)
        return find_tokenizer(
            config.data.tokenizer,
            clients,
            model.result(),
            config.work_dir / "tokenizers",
            finetune_config=config.parameter_files.get("finetune_config_path"),
        )
    except PhiftError as error:
        return None, error.what


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
