"""Which foundation model, and what is known of it: where it may train and run, its defaults, its end of life."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from phift import facts
from phift.checks import Finding
from phift.clients import Clients
from phift.config import ModelConfig
from phift.errors import NotFound, PhiftError, ServiceError, azure_errors

_LONGEST_TAG = 20_000  # characters; a registry's tags are somebody else's text

# Where an allow-list may stand, newest habit last: tag, then property, then the raw system metadata
# (azureml-assets pull requests 5150 and 5190, 2026-06 and 2026-07, moved them from the first to the last).
_FINETUNE = ("finetune_compute_allow_list", "finetune-recommended-sku", "finetuneComputes")
_INFERENCE = ("inference_compute_allow_list", "inference-recommended-sku", "inferenceComputes")


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
    - **defaults**: the model's own fine-tuning defaults, as its publisher wrote them.
    - **finetune**, **inference**: allow-lists, or None where no source has one.
    - **findings**: what the user should know before paying for it.
    """

    id: str
    name: str
    version: str
    registry: str
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    finetune: AllowList | None = None
    inference: AllowList | None = None
    findings: tuple[Finding, ...] = ()


def find_model(clients: Clients, config: ModelConfig) -> FoundationModel:
    """Return the model that ``config`` names, in its pinned or its newest version.

    Raises `phift.errors.NotFound` where the registry has no such model or version, with near names.
    """
    place = f"model {config.name} in registry {config.registry}"
    entity = _get(clients, config, place)
    tags = {str(key): str(value) for key, value in (entity.tags or {}).items()}
    properties = {str(key): str(value) for key, value in (entity.properties or {}).items()}
    findings: list[Finding] = []
    defaults = _literal(tags.get("model_specific_defaults"), dict, "model_specific_defaults", findings)
    known = _known(config.name)
    raw = _Raw(clients, config.registry, entity.name, str(entity.version), findings)
    finetune = _allow_list(_FINETUNE, tags, properties, raw, known, findings)
    inference = _allow_list(_INFERENCE, tags, properties, raw, known, findings)
    findings += _life(config.name, known)
    if finetune is None:
        message = "No source says which VM sizes may fine-tune this model."
        findings.append(Finding(code="MODEL_NO_ALLOW_LIST", severity="note", place=place, message=message))
    return FoundationModel(
        id=str(entity.id),
        name=entity.name,
        version=str(entity.version),
        registry=config.registry,
        description=entity.description or "",
        tags=tags,
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


def _known(name: str) -> dict[str, Any] | None:
    """Return the built-in table's entry for a model, with the table's source and date."""
    for entry in facts.load("models")["models"]:
        if entry["name"].lower() == name.lower():
            return dict(entry)
    return None


class _Raw:
    """A model version as the registry sends it: the SDK drops ``systemMetadata``. Fetched once, and only if needed."""

    def __init__(self, clients: Clients, registry: str, name: str, version: str, findings: list[Finding]) -> None:
        self._clients, self._registry, self._name, self._version = clients, registry, name, version
        self._findings = findings
        self._computes: dict[str, Any] | None = None

    def computes(self) -> dict[str, Any]:
        """Return ``systemMetadata.supportedComputes``, or an empty mapping."""
        if self._computes is None:
            try:
                found = self._fetch()
            except PhiftError as error:  # the built-in table can still answer
                self._computes = {}
                message = f"The registry's own record of the model could not be read: {error.what}"
                place = f"model {self._name}"
                finding = Finding(code="MODEL_METADATA_UNREAD", severity="warning", place=place, message=message)
                self._findings.append(finding)
                return self._computes
            value: Any = found
            for key in ("properties", "systemMetadata", "supportedComputes"):
                value = value.get(key) if isinstance(value, dict) else None
            self._computes = value if isinstance(value, dict) else {}
        return self._computes

    def _fetch(self) -> dict[str, Any]:
        rest, registry = self._clients.rest, self._registry
        found = rest.get(f"{self._clients.registry_discovery}registrymanagement/v1.0/registries/{registry}/discovery")
        missing = {"subscriptionId", "resourceGroup", "primaryRegionResourceProviderUri"} - found.keys()
        if missing:
            what = f"The discovery of registry {registry} answered without {', '.join(sorted(missing))}."
            raise ServiceError(what, where=f"registry {registry}")
        scope = f"subscriptions/{found['subscriptionId']}/resourceGroups/{found['resourceGroup']}"
        path = f"providers/Microsoft.MachineLearningServices/registries/{registry}/models/{self._name}"
        base = f"{found['primaryRegionResourceProviderUri']}mferp/managementfrontend"
        url = f"{base}/{scope}/{path}/versions/{self._version}"
        return rest.get(url, {"api-version": "2021-10-01-dataplanepreview"})


def _allow_list(
    keys: tuple[str, str, str],
    tags: Mapping[str, str],
    properties: Mapping[str, str],
    raw: _Raw,
    known: dict[str, Any] | None,
    findings: list[Finding],
) -> AllowList | None:
    """Return the first allow-list found: tags, properties, raw metadata, the built-in table."""
    tag, recommended, computes = keys
    sizes = _literal(tags.get(tag), list, tag, findings)
    if sizes:
        return AllowList(tuple(map(str, sizes)), f"tag {tag}")
    text = properties.get(recommended, "")
    if text and len(text) <= _LONGEST_TAG:
        return AllowList(tuple(part.strip() for part in text.split(",") if part.strip()), f"property {recommended}")
    listed = raw.computes().get(computes)
    if isinstance(listed, list) and listed:
        return AllowList(tuple(map(str, listed)), f"systemMetadata.supportedComputes.{computes}")
    table = (known or {}).get("finetune_skus" if computes == "finetuneComputes" else "inference_skus")
    if known and table:
        return AllowList(tuple(table), f"built-in table of {known['date']}")
    return None


def _literal(text: str | None, kind: type, tag: str, findings: list[Finding]) -> Any:
    """Read a tag that holds a Python literal; a broken one is a finding, and never code that runs."""
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
    findings.append(Finding(code="MODEL_TAG_BROKEN", severity="warning", place=f"model tag {tag}", message=message))
    return None


def _life(name: str, known: dict[str, Any] | None) -> list[Finding]:
    """Name a retired model and its replacement."""
    if not known or not known.get("retired_on"):
        return []
    replacement = known.get("replacement")
    return [
        Finding(
            code="MODEL_RETIRED",
            severity="warning",
            place=f"model {name}",
            message=f"It was retired for fine-tuning and inference on {known['retired_on']}.",
            fix=f"use {replacement}" if replacement else "use a current model",
            source=f"{known['source']}, {known['date']}",
        )
    ]
