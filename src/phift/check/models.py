"""Which component and which foundation model, and what is known of it: where it may train and run, its end of life."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from phift import facts
from phift.azure.answers import mapping, no_answer, resource_id, text, texts
from phift.azure.clients import Clients, ModelRecord, fetch_record
from phift.azure.connect import clients_of
from phift.azure.threads import SideBySide
from phift.check.findings import Finding
from phift.check.sizes import text_of
from phift.config.run import ComponentConfig, ModelConfig, read_section
from phift.errors import NotFound, PhiftError, ServiceError, azure_errors

if TYPE_CHECKING:
    from azure.ai.ml.entities import Component

    from phift.azure.connect import AnyClients

T = TypeVar("T")

_LONGEST_TAG = 20_000  # characters; a registry's tags are somebody else's text
_MOST_SIZES = 200
_TASK = "chat-completion"


@dataclass(frozen=True)
class AllowList:
    """VM sizes a model may use, and where that is known from."""

    sizes: tuple[str, ...]
    source: str

    def allows(self, size: str) -> bool:
        """Whether the list has ``size``; Azure's own spellings differ in case, so case does not count."""
        return size.lower() in {listed.lower() for listed in self.sizes}


@dataclass(frozen=True, kw_only=True)
class FoundationModel:
    """A model in a registry.

    - **id**: ``azureml://registries/<registry>/models/<name>/versions/<version>``.
    - **path**: the address of its files in the registry's storage; empty where that is not known.
    - **defaults**: the model's own fine-tuning defaults, as its publisher wrote them.
    - **finetune**, **inference**: allow-lists, or None where no source has one.
    - **findings**: what the user should know before paying for it.
    """

    id: str
    name: str
    version: str
    registry: str
    path: str = field(default="", repr=False)
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    finetune: AllowList | None = None
    inference: AllowList | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def stand_in(self) -> bool:
        """Whether its weights are a small stand-in, as in a local workspace, so that nothing follows from its name."""
        return self.tags.get("phift.standin") == "true"


def find_model(clients: AnyClients, model: ModelConfig | str) -> FoundationModel:
    """Return a registry's model, in its pinned or its newest version, with what is known of it.

        find_model(ml_client, "Phi-4-mini-instruct").finetune.sizes

    - **model**: as in a configuration: its name, ``name:version`` or its id in a registry.

    Raises `phift.errors.NotFound` where the registry has no such model or version, with near names.
    """
    config = read_section(ModelConfig, model, "model")
    clients = clients_of(clients, registry=config.registry)
    place = f"model {config.name} in registry {config.registry}"
    names = [entry["name"] for entry in facts.load("models")["models"]]
    near = difflib.get_close_matches(config.name, names, n=3, cutoff=0.5)
    fix = "check the name and the registry" + (f"; did you mean {' or '.join(near)}?" if near else "")
    with SideBySide(3) as side:
        asked = side.begin(lambda: _pinned_or_newest(clients.registry.models, "model", config, fix))
        fetched = side.begin(_fetch, clients, config, config.version)
        newest = side.begin(_fetch, clients, config, None) if config.version else fetched
    answer = fetched.result()
    try:
        entity = asked.result()
    except ServiceError as error:
        # ``Model._from_rest_object`` raises it where the service sends no ``flavors`` (azure-ai-ml 1.35.2).
        if error.code != "AttributeError" or isinstance(answer, PhiftError):
            raise
        entity = answer
    version = text(entity.version, "model.version")
    if isinstance(answer, ModelRecord) and answer.version != version:  # one was published between the two looks
        answer = _fetch(clients, config, version)
    sources = _Sources(config.name, entity, answer if isinstance(answer, ModelRecord) else None)
    if isinstance(answer, PhiftError):
        message = f"The registry's own record of the model could not be read, so less is known of it: {answer.what}"
        sources.findings.append(Finding("MODEL_METADATA_UNREAD", "warning", place, message))
    finetune = sources.allow_list("finetune")
    inference = sources.allow_list("inference")
    if finetune is None:
        message = "No source says which VM sizes may fine-tune this model."
        sources.findings.append(Finding("MODEL_NO_ALLOW_LIST", "note", place, message))
    sources.hold_tasks()
    sources.hold_life()
    latest = newest.result()
    if config.version and isinstance(latest, ModelRecord) and latest.version != version:
        message = f"Version {version} is pinned; the registry's newest is {latest.version}."
        sources.findings.append(Finding("MODEL_NEWER", "note", place, message))
    defaults = sources.literal("model_specific_defaults", dict) or {}
    return FoundationModel(
        id=resource_id(entity.id, "model.id"),
        name=config.name,
        version=version,
        registry=config.registry,
        path=text_of(entity, "path") or "",
        tags=sources.tags,
        defaults={str(key): value for key, value in defaults.items()},
        finetune=finetune,
        inference=inference,
        findings=tuple(sources.findings),
    )


def _pinned_or_newest(operations: Any, kind: str, config: ModelConfig | ComponentConfig, fix: str) -> Any:
    wanted = {"version": config.version} if config.version else {"label": "latest"}
    place = f"{kind} {config.name} in registry {config.registry}"
    try:
        with azure_errors(place):
            return operations.get(config.name, **wanted)
    except (NotFound, ServiceError) as error:
        # The SDK reports a missing "latest" as a validation error of its own.
        if isinstance(error, ServiceError) and error.code != "ValidationException":
            raise
        version = f" version {config.version}" if config.version else ""
        raise NotFound(f"There is no {kind} {config.name}{version}.", where=place, fix=fix) from error


def find_component(clients: Clients, config: ComponentConfig) -> Component:
    """Return the fine-tuning component from its registry, in its pinned or its newest version.

    Raises `phift.errors.NotFound` where the registry does not have it, and `phift.errors.ServiceError` where the answer
    lacks what a plan reads of it.
    """
    fix = "check `component.name`, `component.version` and `component.registry`"
    component: Component = _pinned_or_newest(clients.component_registry.components, "component", config, fix)
    resource_id(getattr(component, "id", None), "component.id")
    for key in ("name", "version"):
        text(getattr(component, key, None), f"component.{key}")
    if not isinstance(component.inputs, Mapping):
        raise no_answer(component.inputs, "component.inputs", "a mapping")
    return component


def component_findings(clients: Clients, config: ComponentConfig) -> list[Finding]:
    """Say whether the registry has a newer component than the pinned one; without a pin there is nothing to say."""
    newest = config.version and find_component(clients, config.model_copy(update={"version": None})).version
    if newest == config.version:
        return []
    message = f"Version {config.version} is pinned; the registry's newest is {newest}."
    return [Finding("COMPONENT_NEWER", "note", f"component {config.name}", message)]


def _fetch(clients: Clients, config: ModelConfig, version: str | None) -> ModelRecord | PhiftError:
    """Return the registry's record, or the error why not: the SDK's answer and the table may do without it."""
    try:
        return fetch_record(clients, config.registry, config.name, version)
    except PhiftError as error:
        return error


class _Sources:
    """All that is said of one model version, by where it stands, and what the user should know of that."""

    def __init__(self, name: str, entity: Any, record: ModelRecord | None) -> None:
        table: list[dict[str, Any]] = facts.load("models")["models"]
        self.place = f"model {name}"
        self.tags = texts(entity.tags, "model.tags")
        self.properties = texts(entity.properties, "model.properties")
        self.system = record.system if record else {}
        self.archived = record is not None and record.archived
        self.table = next((entry for entry in table if entry["name"].lower() == name.lower()), {})
        self.findings: list[Finding] = []

    def allow_list(self, purpose: Literal["finetune", "inference"]) -> AllowList | None:
        """Return the first list: tag, property, raw metadata (computes, then recommended sizes), built-in table."""
        tag, recommended = f"{purpose}_compute_allow_list", f"{purpose}-recommended-sku"
        text = self.properties.get(recommended, "")
        named = [part.strip() for part in text.split(",")] if len(text) <= _LONGEST_TAG else []
        lists = [(self.literal(tag, list), f"tag {tag}"), ([part for part in named if part], f"property {recommended}")]
        for section, key in (("supportedComputes", f"{purpose}Computes"), ("SKU", f"{purpose}RecommendedSkus")):
            lists.append((mapping(self.system.get(section)).get(key), f"systemMetadata.{section}.{key}"))
        lists.append((self.table.get(f"{purpose}_skus"), f"built-in table of {self.table.get('date')}"))
        found = ((sizes, source) for sizes, source in lists if isinstance(sizes, list) and sizes)
        return next((AllowList(tuple(map(str, sizes[:_MOST_SIZES])), source) for sizes, source in found), None)

    def literal(self, tag: str, kind: type[T]) -> T | None:
        """Read a tag that holds a Python literal; a broken one is a finding, and never code that runs."""
        text = self.tags.get(tag)
        if not text:
            return None
        reason = f"it is longer than {_LONGEST_TAG} characters"
        if len(text) <= _LONGEST_TAG:
            try:
                value = ast.literal_eval(text)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
                reason = str(error).partition("\n")[0]
            else:
                if isinstance(value, kind):
                    return value
                reason = f"it is a {type(value).__name__}, not a {kind.__name__}"
        message = f"The tag cannot be read, so it is ignored: {reason}."
        self.findings.append(Finding("MODEL_TAG_BROKEN", "warning", f"model tag {tag}", message))
        return None

    def hold_tasks(self) -> None:
        """Refuse a model that is known not to be made for this component.

        Without chat special tokens in its fine-tuning configuration the job dies in preprocessing
        (azureml-acft-contrib-hf-nlp 0.0.91, preprocess).
        """
        named = self.properties.get("finetuning-tasks")
        places = (
            (mapping(self.system.get("tasks")).get("fineTuningTasks"), "systemMetadata.tasks.fineTuningTasks"),
            (named.split(",") if named else None, "property finetuning-tasks"),
            (self.table.get("finetuning_tasks"), f"built-in table of {self.table.get('date')}"),
        )
        said, source = next(((said, source) for said, source in places if said), (None, ""))
        if not isinstance(said, list):
            message = f"No source says whether this model can be fine-tuned for {_TASK}."
            self.findings.append(Finding("MODEL_TASK_UNKNOWN", "note", self.place, message))
            return
        tasks = [str(task).strip() for task in said[:_MOST_SIZES]]
        if _TASK not in tasks:
            message = f"It can be fine-tuned for {', '.join(tasks) or 'nothing'}, not for {_TASK}."
            fix = f"use a model with {_TASK} among its fine-tuning tasks"
            self.findings.append(Finding("MODEL_TASK", "error", self.place, message, fix, source))

    def hold_life(self) -> None:
        """Say whether the model is archived, retired or soon to be, or a preview, and what replaces it."""
        fix = f"use {self.table.get('replacement') or 'a current model'}"
        # The raw metadata goes before tags and properties, and these before the table.
        retired, source = self.table.get("retired_on"), f"{self.table.get('source')}, {self.table.get('date')}"
        for values, name in (
            (self.properties, "the model's properties"),
            (self.tags, "the model's tags"),
            (mapping(self.system.get("deprecation")), "systemMetadata.deprecation"),
        ):
            dates = []
            for key, value in values.items():
                if "retirement" in key.lower() and isinstance(value, str):
                    with suppress(ValueError):  # an unreadable date says nothing; the next source may
                        dates.append(date.fromisoformat(value[:10]).isoformat())
            if dates:
                retired, source = min(dates), name
        if retired:
            past = retired <= date.today().isoformat()
            code, verb = ("MODEL_RETIRED", "was") if past else ("MODEL_RETIRES", "will be")
            message = f"It {verb} retired on {retired}."
            self.findings.append(Finding(code, "warning", self.place, message, fix, source))
        if self.archived:
            message = "This version is archived in the registry."
            self.findings.append(Finding("MODEL_ARCHIVED", "warning", self.place, message, fix))
        if "preview" in {key.lower() for key in self.tags} or self.system.get("lifecycle") == "preview":
            message = "It is a preview: it may change or go without notice."
            self.findings.append(Finding("MODEL_PREVIEW", "note", self.place, message))
