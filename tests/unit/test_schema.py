"""The JSON schema of a configuration: it takes what phift takes, and says what each key is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from phift import RunConfig, SearchConfig
from phift.config.data import Section
from phift.errors import ConfigError
from unit.render_schema import DOCUMENTS, document

ROOT = Path(__file__).parents[2]
SCHEMA = RunConfig.model_json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
LEAST: dict[str, Any] = {"model": "Phi-4", "compute": "gpu-cluster", "data": {"train": "t.jsonl"}}


def written() -> Iterator[tuple[str, Any]]:
    """Yield each configuration that is written in a document, an example or a test, with the file's name."""
    for path in sorted(path for kind in ("md", "yaml", "yml", "json") for path in ROOT.rglob(f"*.{kind}")):
        if not any(part.startswith(".") or part == "recorded" for part in path.relative_to(ROOT).parts):
            text = path.read_text(encoding="utf-8")
            blocks = [text] if len(text) < 100_000 else []
            if path.suffix == ".md":
                blocks = re.findall(r"```(?:yaml|json)\n(.*?)```", text, flags=re.DOTALL)
            if path.name == "data.md":  # its first block has all kinds of sources, one a line
                blocks += [f"data:\n{line}" for line in blocks[0].splitlines()[1:]]
            for block in blocks:
                try:
                    values = yaml.safe_load(block)
                except yaml.YAMLError:
                    continue
                if isinstance(values, dict) and values.keys() & {"model", "data"}:
                    yield path.name, {**LEAST, **values} if values.keys() <= {*RunConfig.model_fields} else values


WRITTEN = [each for each in written() if "$defs" not in each[1]]


def mistakes(values: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(values)]


def is_taken(values: Any) -> bool:
    """Whether phift takes a configuration."""
    try:
        RunConfig.from_dict(values)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize(("path", "section"), DOCUMENTS.items())
def test_it_is_a_schema_and_its_file_is_up_to_date(path: Path, section: type[Section]) -> None:
    Draft202012Validator.check_schema(section.model_json_schema())
    assert path.read_text(encoding="utf-8") == document(section), "run `make schema`"


@pytest.mark.parametrize("section", DOCUMENTS.values())
def test_each_key_of_each_section_is_described(section: type[Section]) -> None:
    def keys(schema: Any, place: str) -> Iterator[tuple[str, Any]]:
        for name, value in schema.items() if isinstance(schema, dict) else enumerate(schema):
            if name == "properties":
                yield from ((f"{place}.{key}", each) for key, each in value.items() if place != "oneOf")
            if isinstance(value, dict | list):
                yield from keys(value, "oneOf" if name == "oneOf" or place == "oneOf" else f"{place}/{name}")

    found = dict(keys(section.model_json_schema(), "#"))
    assert len(found) > 80
    assert [place for place, key in found.items() if not key.get("description")] == []


@pytest.mark.parametrize(("file", "values"), WRITTEN, ids=[file for file, _ in WRITTEN])
def test_each_configuration_that_is_written_somewhere_is_taken(file: str, values: Any) -> None:
    assert is_taken(values), file
    assert mistakes(values) == []


def test_those_of_the_readme_the_examples_and_the_documents_are_among_them() -> None:
    files = [file for file, _ in WRITTEN]
    assert files.count("README.md") >= 2
    assert files.count("data.md") > 10
    assert {"finetune_azure.yaml", "finetune_local.yaml", "data.md"} <= set(files)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "Phi-4:8"},
        {"model": {"name": "Phi-4", "version": None, "registry": "own"}},
        {"model": "azureml://registries/own/models/Phi-4/versions/8"},
        {"compute": {"serverless": "Standard_NC24ads_A100_v4", "cluster": None, "gpus_per_node": "4"}},
        {"compute": {"cluster": "c", "nodes": "2", "low_priority": "yes", "idle_seconds": 60.0}},
        {"data": "train.jsonl"},
        {"data": ["a.jsonl", {"huggingface": "owner/name", "percent": "5e0"}]},
        {"data": {"huggingface": "owner/name", "sample": "random"}},
        {"data": [{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}]},
        {"data": {"train": {"files": "a.csv", "delimiter": "\\t", "encoding": "utf-16"}, "split": {"seed": 1}}},
        {"data": {"train": ["a.jsonl", "b.jsonl"], "validation": None, "test": {"rows": []}}},
        {"data": {"train": "azureml:chat:1", "test": {"asset": "azureml://datastores/d/paths/t.jsonl"}}},
        *({"workspace": text} for text in ("local", "local:folder", "s/g/w", {"local": None}, {"resource_group": "g"})),
        {"workspace": "/subscriptions/s/resourceGroups/g/providers/P/workspaces/w"},
        {"workspace": "https://ml.azure.com/?wsid=%2fsubscriptions%2fs%2fresourceGroups%2fg%2fworkspaces%2fw"},
        {"tenant": "t"},
        {"tenant_id": "t"},
        {"parameters": {"a": True, "b": 1, "c": 0.5, "d": "1e-3"}, "preset": "safe", "max_cost": "1e2"},
        {"tags": {"team": ""}, "prices": {"Standard_NC24ads_A100_v4": 3}, "force_rerun": 1},
        {"deployment": {"probe": {"period": 5}, "auth_mode": "aad_token", "endpoint_name": "phi-4"}},
    ],
    ids=str,
)
def test_short_forms_and_texts_are_taken(changes: dict[str, Any]) -> None:
    assert is_taken({**LEAST, **changes})
    assert mistakes({**LEAST, **changes}) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"modle": "Phi-4"},
        {"model": {"nmae": "Phi-4"}},
        {"model": "two words"},
        {"model": 4},
        {"compute": {}},
        {"compute": {"cluster": "c", "serverless": "s"}},
        {"compute": {"cluster": "c", "nodes": 0}},
        {"compute": {"cluster": "c", "nodes": "two"}},
        {"compute": "<your cluster>"},
        {"data": {}},
        {"data": {"trian": "t.jsonl"}},
        {"data": {"train": {"files": "a", "huggingface": "b"}}},
        {"data": {"train": {"huggingface": "a/b", "percent": 101}}},
        {"data": {"train": 5}},
        {"data": {"train": {"files": "a.csv", "delimiter": "ab"}}},
        {"data": {"train": "t.jsonl", "bad_rows": "drop"}},
        {"data": {"train": "t.jsonl", "asset_name": "-a"}},
        {"workspace": "mine"},
        {"workspace": {"subscription": "s"}},
        {"workspace": {"subscription_id": "${SUBSCRIPTION}"}},
        {"credential": "azure_cli"},
        {"tags": {str(number): "x" for number in range(11)}},
        {"tags": {"a/b": "x"}},
        {"parameters": {"a": None}},
        {"parameters": {"a": [1]}},
        {"max_cost": 0},
        {"max_cost": "much"},
        {"force_rerun": "perhaps"},
        {"force_rerun": 2},
        {"deployment": {"auth_mode": "none"}},
        {"deployment": {"endpoint_name": "a"}},
        {"deployment": None},
    ],
    ids=str,
)
def test_what_phift_refuses_for_what_stands_there_the_schema_refuses_too(changes: dict[str, Any]) -> None:
    assert not is_taken({**LEAST, **changes})
    assert mistakes({**LEAST, **changes}) != []


SEARCH: dict[str, Any] = {"name": "rates", "run": LEAST, "space": {"learning_rate": {"low": "1e-5", "high": 1e-2}}}


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, True),
        ({"space": {"num_train_epochs": [1, 2], "lr_scheduler_type": {"choices": ["cosine", "linear"]}}}, True),
        ({"sampler": "random", "pruner": {"name": "percentile", "percentile": 25.0}, "max_cost": 5}, True),
        ({"spaec": {}}, False),
        ({"space": {}}, False),
        ({"space": {"learning_rate": 1}}, False),
        ({"space": {"learning_rate": {"low": 1}}}, False),
        ({"direction": "up"}, False),
        ({"trials": 0}, False),
        ({"run": {"model": "Phi-4"}}, False),
    ],
    ids=str,
)
def test_a_search_has_a_schema_too(changes: dict[str, Any], taken: bool) -> None:
    validator = Draft202012Validator(SearchConfig.model_json_schema())
    try:
        SearchConfig.from_dict({**SEARCH, **changes})
    except ConfigError:
        assert not taken
    assert validator.is_valid({**SEARCH, **changes}) == taken
    assert validator.is_valid({**SEARCH, "run": "finetune.yaml"})
