"""Whatever the user writes and whatever the service answers: findings or an error of ours, never another exception."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from phift.check.compute import read_usages
from phift.check.findings import Finding
from phift.check.memory import memory_findings
from phift.check.models import find_model
from phift.check.parameters import display_name, resolve_parameters
from phift.check.report import CheckReport
from phift.check.sizes import VmSize, find_size, read_sizes
from phift.config.run import ModelConfig, RunConfig
from phift.errors import ConfigError, PhiftError
from unit.fakes import A100, Fakes, component, phi_4, target

T = TypeVar("T")

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("PHIFT_EXAMPLES", "100"))  # they differ from run to run
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])

INPUTS: dict[str, Any] = component().inputs
HOSTILE = st.sampled_from(["~nobody-of-that-name/x", "a/" + "b" * 300, "\0", "\ud800", "x" * 5000])
TEXT = st.text(max_size=12) | HOSTILE
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 10**4000, 2**63, 5e-324])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)


def ours(work: Callable[[], T]) -> tuple[T | None, PhiftError | None]:
    """Return the result, or the error if it is one of ours and says what happened."""
    try:
        return work(), None
    except PhiftError as error:
        caught = error
    assert caught.what
    assert str(caught)
    return None, caught


def shown(findings: tuple[Finding, ...]) -> None:
    """Show the findings in every form that a report has."""
    report = CheckReport.of(findings)
    assert str(report)
    assert report._repr_html_()
    assert json.dumps(report.to_dict())


# (a) What a registry says of a model.

LITERALS = JSON.map(repr) | st.sampled_from(["(" * 5000, "1" * 5000, "[" * 300 + "]" * 300, "{'a': 1e999}", "-" * 9000])


@many
@given(
    st.dictionaries(st.sampled_from(sorted(phi_4().tags)) | TEXT, LITERALS | TEXT, max_size=4),
    st.dictionaries(st.sampled_from(["finetune-recommended-sku", "finetuning-tasks", "RetirementDate"]), TEXT),
)
def test_tags_and_properties_of_any_text_give_a_model(tags: dict[str, str], properties: dict[str, str]) -> None:
    fakes = Fakes()
    fakes.registry.models.add(phi_4(tags=tags, properties=properties))
    found = find_model(fakes.clients, ModelConfig(name="Phi-4"))
    shown(found.findings)
    shown(resolve_parameters(INPUTS, found.defaults, {}, target()).findings)


SYSTEM = st.fixed_dictionaries(
    {},
    optional={
        "supportedComputes": st.fixed_dictionaries({}, optional={"finetuneComputes": JSON, "inferenceComputes": JSON}),
        "SKU": st.fixed_dictionaries({}, optional={"finetuneRecommendedSkus": JSON, "inferenceRecommendedSkus": JSON}),
        "tasks": st.fixed_dictionaries({}, optional={"fineTuningTasks": JSON}) | JSON,
        "deprecation": st.dictionaries(st.sampled_from(["FinetuneRetirementDate", "x"]), JSON) | JSON,
        "lifecycle": JSON,
    },
)


@many
@given(SYSTEM | JSON, st.sampled_from([None, "8"]))
def test_system_metadata_of_any_shape_gives_a_model(system: Any, version: str | None) -> None:
    fakes = Fakes()
    fakes.registry.models.add(phi_4(tags={}))
    fakes.rest.system = system
    found = find_model(fakes.clients, ModelConfig(name="Phi-4", version=version))
    shown(found.findings)


@many
@given(
    st.dictionaries(st.sampled_from(["id", "properties", "value", "x"]), JSON),
    st.dictionaries(st.sampled_from(["subscriptionId", "resourceGroup", "primaryRegionResourceProviderUri"]), JSON),
    st.sampled_from([None, "8"]),
)
def test_a_registry_that_answers_anything_gives_a_model_or_an_error_of_ours(
    record: dict[str, Any], discovery: dict[str, Any], version: str | None
) -> None:
    fakes = Fakes()
    fakes.rest.on(record, "/versions")
    if discovery:
        fakes.rest.on(discovery, "/discovery")
    found, error = ours(lambda: find_model(fakes.clients, ModelConfig(name="Phi-4", version=version)))
    assert found is None or found.id
    assert (found is None) == (error is not None)
    shown(found.findings if found else ())


# (b) and (c) What a user writes.

VALID: dict[str, Any] = {
    "model": {"name": "Phi-4", "version": "8", "registry": "azureml"},
    "data": {
        "train": "train.jsonl",
        "validation": {"huggingface": "owner/name", "split": "train", "percent": 10},
        "split": {"validation": 0.1, "test": 0.1, "seed": 42},
    },
    "compute": {"cluster": "gpu-cluster", "size": A100, "nodes": 1, "max_nodes": 2, "low_priority": False},
    "workspace": {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"},
    "credential": "default",
    "component": {"name": "chat_completion_pipeline", "version": "0.0.82"},
    "parameters": {"num_train_epochs": 3, "learning_rate": "5e-6", "finetune_config_path": "own.json"},
    "preset": "safe",
    "deployment": {"instance_type": A100, "endpoint_name": "my-endpoint", "probe": {"period": 20}},
    "experiment": "phift",
    "registered_model_name": "phi-4-finetuned",
    "work_dir": ".phift",
    "max_cost": 100,
    "prices": {A100: 3.7},
}


def paths(values: Any, start: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every key."""
    if not isinstance(values, dict):
        return []
    return [path for key, value in values.items() for path in ((*start, key), *paths(value, (*start, key)))]


@st.composite
def near_valid(draw: st.DrawFn) -> dict[str, Any]:
    """Return a valid configuration with some keys dropped, added or given another value."""
    values = copy.deepcopy(VALID)
    for path in draw(st.lists(st.sampled_from(paths(VALID)), max_size=3)):
        section: Any = values
        for key in path[:-1]:
            section = section.get(key) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            continue  # an earlier change took the section away
        match draw(st.sampled_from(["drop", "add", "change", "change"])):
            case "drop":
                section.pop(path[-1], None)
            case "add":
                section[draw(TEXT | NUMBERS)] = draw(JSON)
            case _:
                section[path[-1]] = draw(HOSTILE | TEXT | JSON)
    return values


def checked(config: RunConfig | None) -> None:
    """Use a configuration that was accepted, as far as that goes without a service."""
    if config is not None:
        assert RunConfig.from_dict(config.model_dump(), folder=Path("folder")).model == config.model
        resolved = resolve_parameters(INPUTS, {}, config.parameters, target(), preset=config.preset_values)
        shown(resolved.findings)


def test_the_configuration_that_is_changed_below_is_valid() -> None:
    assert RunConfig.from_dict(VALID).preset_values["apply_lora"] == "true"


@many
@given(JSON | st.dictionaries(st.sampled_from([*VALID, "self", "values"]), JSON))
def test_any_values_give_a_configuration_or_a_config_error(values: Any) -> None:
    config, error = ours(lambda: RunConfig.from_dict(values))
    checked(config)
    assert error is None or isinstance(error, ConfigError)


@many
@given(near_valid())
def test_nearly_valid_values_give_a_configuration_or_a_config_error_with_places(values: dict[Any, Any]) -> None:
    config, error = ours(lambda: RunConfig.from_dict(values))
    checked(config)
    if error is not None:
        assert isinstance(error, ConfigError)
        assert error.mistakes
        assert all(place and message for place, message in error.mistakes)


@pytest.fixture(scope="session")
def yaml_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "finetune.yaml"


@many
@given(content=st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(content=b"\xff\xfe")
@example(content=b"[" * 5000)
@example(content=b"&a [*a]")
@example(content=b"? {a: b}\n: c")
def test_any_bytes_give_a_configuration_or_a_config_error(yaml_file: Path, content: bytes) -> None:
    yaml_file.write_bytes(content)
    config, error = ours(lambda: RunConfig.from_yaml(yaml_file))
    checked(config)
    assert error is None or isinstance(error, ConfigError)


SCALARS = (
    "2001-99-99",
    "2001-12-14t21:59:43.10-99:00",
    "!!int x",
    "!!int ''",
    "!!float x",
    "!!bool x",
    "!!timestamp x",
    "!!binary é",
    "!!set {a, b}",
    "!!python/object/apply:os.getcwd []",
    "!unknown x",
    "9" * 5000,
    "0b2",
    "0x",
    "1:99:99.9",
    "=",
    "<<",
    "*missing",
    "&a [*a]",
    "&a {a: *a}",
    '"\\ud800"',
    '"\\0"',
    ".nan",
    "-.inf",
    "{[]: 1}",
    "~",
)


@many
@given(path=st.sampled_from(paths(VALID)), scalar=st.sampled_from(SCALARS) | st.text(max_size=9))
def test_yaml_with_any_scalar_gives_a_configuration_or_a_config_error(
    yaml_file: Path, path: tuple[str, ...], scalar: str
) -> None:
    section: Any = (values := copy.deepcopy(VALID))
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = "MARK"
    yaml_file.write_bytes(yaml.safe_dump(values).replace("MARK", scalar).encode("utf-8", "surrogatepass"))
    config, error = ours(lambda: RunConfig.from_yaml(yaml_file))
    checked(config)
    assert error is None or isinstance(error, ConfigError)


# (d) Parameters against the real inputs.

NAMES = st.sampled_from(sorted(INPUTS))
LIKELY = st.sampled_from(["true", "false", "True", "steps", "disable", "16", "32", "0", "-1", "1e3", "nan", "it's", ""])
VALUES = st.booleans() | NUMBERS | TEXT | LIKELY | st.integers(-2, 5)


@many
@given(
    st.dictionaries(NAMES | TEXT, VALUES, max_size=6),
    st.dictionaries(NAMES | NAMES.map("{}_min".format) | NAMES.map("{}_max".format) | TEXT, VALUES | JSON, max_size=4),
    st.dictionaries(NAMES | TEXT, VALUES | JSON, max_size=3),
    st.none() | st.sampled_from(["NVIDIA A100", "NVIDIA V100"]) | TEXT,
)
def test_parameters_of_any_value_are_taken_or_reported(
    user: dict[str, Any], model: dict[str, Any], preset: dict[str, Any], gpu: str | None
) -> None:
    resolved = resolve_parameters(INPUTS, model, user, target(gpu=gpu), preset=preset)
    shown(resolved.findings)
    refused = {found.place for found in resolved.findings if found.severity == "error"}
    for name in user:
        taken = name in resolved.values and resolved.values[name].origin == "user"
        assert taken or f"parameters.{name}" in refused
    for name, value in resolved.arguments().items():
        assert isinstance(value, str | int | float)
        assert not isinstance(value, float) or math.isfinite(value)
        assert str(value) in (INPUTS[name].enum or [str(value)])
    if "per_device_train_batch_size" not in user:
        assert display_name("Phi-4", "rows", resolved, target())


@many
@given(st.dictionaries(NAMES, VALUES, max_size=6), st.integers(1, 8), st.integers(1, 4), st.sampled_from([A100, "new"]))
def test_memory_is_estimated_for_whatever_parameters_were_taken(
    user: dict[str, Any], gpus: int, nodes: int, size: str
) -> None:
    resolved = resolve_parameters(INPUTS, {}, user, target(gpus_per_node=gpus, nodes=nodes))
    estimate, findings = memory_findings(
        "Phi-4", resolved.settings, target(size=size, gpus_per_node=gpus, nodes=nodes), None
    )
    shown(tuple(findings))
    assert estimate is None or math.isfinite(estimate.total_gb)


# (e) What a region says of its VM sizes and quota.

FIELDS = (
    *("family", "v_cp_us", "vCPUs", "gpus", "memory_gb", "memoryGB", "estimated_vm_prices"),
    *("id", "type", "current_value", "currentValue", "limit"),
)
PRICE = st.fixed_dictionaries(
    {
        "billingCurrency": st.just("USD") | JSON,
        "unitOfMeasure": st.just("OneHour") | JSON,
        "values": JSON
        | st.lists(
            st.dictionaries(
                st.sampled_from(["retailPrice", "osType", "vmTier"]), JSON | st.sampled_from(["Linux", "Standard"])
            ),
            max_size=3,
        ),
    }
)
NAME = st.sampled_from([A100, A100.lower()]) | TEXT | st.fixed_dictionaries({"value": TEXT}) | JSON
ENTRY = st.builds(
    lambda name, fields, prices: {"name": name, **fields, **prices},
    NAME,
    st.dictionaries(st.sampled_from(FIELDS), NUMBERS | JSON, max_size=4),
    st.just({}) | PRICE.map(lambda prices: {"estimatedVMPrices": prices}),
)
LISTED = st.lists(ENTRY | ENTRY.map(lambda entry: SimpleNamespace(**entry)) | JSON, max_size=2)


@many
@given(LISTED)
def test_sizes_of_any_shape_are_read_as_far_as_they_make_sense(listed: list[Any]) -> None:
    sizes = read_sizes(listed)
    for name, size in sizes.items():
        assert name == size.name.lower()
        _makes_sense(size)
    found = find_size(A100, sizes)
    assert found is not None
    _makes_sense(found)


def _makes_sense(size: VmSize) -> None:
    for value in (size.vcpus, size.gpus, size.memory_gb, size.price_per_hour):
        assert value is None or (math.isfinite(value) and value >= 0)
    assert json.dumps(asdict(size))


@many
@given(LISTED)
def test_usages_of_any_shape_are_read_as_far_as_they_make_sense(listed: list[Any]) -> None:
    for usage in read_usages(listed):
        assert usage.family
        assert usage.lacks(24) >= 0
        assert isinstance(usage.is_total, bool)
