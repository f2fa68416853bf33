"""Which foundation model, and what is known of it: where it may train and run, its defaults, its end of life."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from typing import Any, TypeVar

from phift import facts
from phift.azure.answers import text, texts
from phift.azure.clients import Clients
from phift.azure.registry import ModelRecord, fetch_record, mapping
from phift.azure.threads import SideBySide
from phift.check.findings import Finding
from phift.check.sizes import text_of
from phift.config.run import ModelConfig
from phift.errors import NotFound, PhiftError, ServiceError, azure_errors

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
    description: str = ""
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


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """All that is said of one model version, by where it stands."""

    name: str
    tags: Mapping[str, str]
    properties: Mapping[str, str]
    system: Mapping[str, Any]
    table: Mapping[str, Any]


def find_model(clients: Clients, config: ModelConfig) -> FoundationModel:
    """Return the model that ``config`` names, in its pinned or its newest version.

    Raises `phift.errors.NotFound` where the registry has no such model or version, with near names.
    """
    place = f"model {config.name} in registry {config.registry}"
    with SideBySide(3) as side:
        asked = side.begin(_get, clients, config, place)
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
    record = answer if isinstance(answer, ModelRecord) else None
    findings = []
    if isinstance(answer, PhiftError):
        message = f"The registry's own record of the model could not be read, so less is known of it: {answer.what}"
        findings.append(Finding("MODEL_METADATA_UNREAD", "warning", place, message))
    table: list[dict[str, Any]] = facts.load("models")["models"]
    sources = _Sources(
        name=config.name,
        tags=texts(entity.tags, "model.tags"),
        properties=texts(entity.properties, "model.properties"),
        system=record.system if record else {},
        table=next((entry for entry in table if entry["name"].lower() == config.name.lower()), {}),
    )
    finetune, of_finetune = _allow_list(sources, "finetune_compute_allow_list", "finetune")
    inference, of_inference = _allow_list(sources, "inference_compute_allow_list", "inference")
    findings += [*of_finetune, *of_inference]
    if finetune is None:
        message = "No source says which VM sizes may fine-tune this model."
        findings.append(Finding("MODEL_NO_ALLOW_LIST", "note", place, message))
    findings += _task_findings(sources)
    findings += _life_findings(sources, archived=bool(record and record.archived))
    latest = newest.result()
    if config.version and isinstance(latest, ModelRecord) and latest.version != version:
        message = f"Version {version} is pinned; the registry's newest is {latest.version}."
        findings.append(Finding("MODEL_NEWER", "note", place, message))
    defaults, of_defaults = _literal(sources, "model_specific_defaults", dict)
    findings += of_defaults
    return FoundationModel(
        id=text(entity.id, "model.id"),
        name=config.name,
        version=version,
        registry=config.registry,
        description=text_of(entity, "description") or "",
        path=text_of(entity, "path") or "",
        tags=sources.tags,
        defaults={str(key): value for key, value in (defaults or {}).items()},
        finetune=finetune,
        inference=inference,
        findings=tuple(findings),
    )


def _get(clients: Clients, config: ModelConfig, place: str) -> Any:
    wanted = {"version": config.version} if config.version else {"label": "latest"}
    try:
        with azure_errors(place):
            return clients.registry.models.get(config.name, **wanted)
    except (NotFound, ServiceError) as error:
        # The SDK reports a missing "latest" as a validation error of its own.
        if isinstance(error, ServiceError) and error.code != "ValidationException":
            raise
        names = [entry["name"] for entry in facts.load("models")["models"]]
        near = difflib.get_close_matches(config.name, names, n=3, cutoff=0.5)
        version = f" version {config.version}" if config.version else ""
        fix = "check the name and the registry" + (f"; did you mean {' or '.join(near)}?" if near else "")
        raise NotFound(f"There is no model {config.name}{version}.", where=place, fix=fix) from error


def _fetch(clients: Clients, config: ModelConfig, version: str | None) -> ModelRecord | PhiftError:
    """Return the registry's record, or the error why not: the SDK's answer and the table may do without it."""
    try:
        return fetch_record(clients, config.registry, config.name, version)
    except PhiftError as error:
        return error


def _allow_list(sources: _Sources, tag: str, purpose: str) -> tuple[AllowList | None, Sequence[Finding]]:
    """Return the first list found: tag, property, raw metadata (computes, then recommended sizes), built-in table."""
    sizes, findings = _literal(sources, tag, list)
    if sizes:
        return AllowList(tuple(map(str, sizes[:_MOST_SIZES])), f"tag {tag}"), findings
    recommended = f"{purpose}-recommended-sku"
    text = sources.properties.get(recommended, "")
    if text and len(text) <= _LONGEST_TAG:
        named = tuple(part.strip() for part in text.split(",") if part.strip())
        return AllowList(named, f"property {recommended}"), findings
    places = (("supportedComputes", f"{purpose}Computes"), ("SKU", f"{purpose}RecommendedSkus"))
    for section, key in places:
        listed = mapping(sources.system.get(section)).get(key)
        if isinstance(listed, list) and listed:
            return AllowList(tuple(map(str, listed[:_MOST_SIZES])), f"systemMetadata.{section}.{key}"), findings
    listed = sources.table.get(f"{purpose}_skus")
    return AllowList(tuple(listed), f"built-in table of {sources.table['date']}") if listed else None, findings


def _literal(sources: _Sources, tag: str, kind: type[T]) -> tuple[T | None, Sequence[Finding]]:
    """Read a tag that holds a Python literal; a broken one is a finding, and never code that runs."""
    text = sources.tags.get(tag)
    if not text:
        return None, ()
    reason = f"it is longer than {_LONGEST_TAG} characters"
    if len(text) <= _LONGEST_TAG:
        try:
            value = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            reason = str(error).partition("\n")[0]
        else:
            if isinstance(value, kind):
                return value, ()
            reason = f"it is a {type(value).__name__}, not a {kind.__name__}"
    message = f"The tag cannot be read, so it is ignored: {reason}."
    return None, [Finding("MODEL_TAG_BROKEN", "warning", f"model tag {tag}", message)]


def _task_findings(sources: _Sources) -> list[Finding]:
    """Refuse a model that is known not to be made for this component.

    Without chat special tokens in its fine-tuning configuration the job dies in preprocessing
    (azureml-acft-contrib-hf-nlp 0.0.91, preprocess).
    """
    place = f"model {sources.name}"
    said: Any = mapping(sources.system.get("tasks")).get("fineTuningTasks")
    source = "systemMetadata.tasks.fineTuningTasks"
    if not said and sources.properties.get("finetuning-tasks"):
        said, source = sources.properties["finetuning-tasks"].split(","), "property finetuning-tasks"
    if not said:
        said, source = sources.table.get("finetuning_tasks"), f"built-in table of {sources.table.get('date')}"
    if not isinstance(said, list):
        message = f"No source says whether this model can be fine-tuned for {_TASK}."
        return [Finding("MODEL_TASK_UNKNOWN", "note", place, message)]
    tasks = [str(task).strip() for task in said[:_MOST_SIZES]]
    if _TASK in tasks:
        return []
    message = f"It can be fine-tuned for {', '.join(tasks) or 'nothing'}, not for {_TASK}."
    fix = f"use a model with {_TASK} among its fine-tuning tasks"
    return [Finding("MODEL_TASK", "error", place, message, fix, source)]


def _life_findings(sources: _Sources, *, archived: bool) -> list[Finding]:
    """Say whether the model is archived, retired or soon to be, or a preview, and what replaces it."""
    place, table = f"model {sources.name}", sources.table
    fix = f"use {table.get('replacement') or 'a current model'}"
    findings = []
    # The raw metadata goes before tags and properties, and these before the table.
    retired, source = table.get("retired_on"), f"{table.get('source')}, {table.get('date')}"
    for values, name in (
        (sources.properties, "the model's properties"),
        (sources.tags, "the model's tags"),
        (mapping(sources.system.get("deprecation")), "systemMetadata.deprecation"),
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
        findings.append(Finding(code, "warning", place, message, fix, source))
    if archived:
        message = "This version is archived in the registry."
        findings.append(Finding("MODEL_ARCHIVED", "warning", place, message, fix))
    if "preview" in {key.lower() for key in sources.tags} or sources.system.get("lifecycle") == "preview":
        message = "It is a preview: it may change or go without notice."
        findings.append(Finding("MODEL_PREVIEW", "note", place, message))
    return findings
