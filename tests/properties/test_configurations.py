"""Whatever configuration phift takes, its JSON schema takes: right ones with something else in a place or three."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import Any

from hypothesis import given, settings, target
from hypothesis import strategies as st

from phift import RunConfig
from unit.test_schema import WRITTEN, is_taken, mistakes

EXAMPLES = int(os.environ.get("PHIFT_EXAMPLES", "300"))
SCHEMA = RunConfig.model_json_schema()
SECTIONS: dict[str, Any] = {
    "model": "ModelConfig",
    "data": "DataConfig",
    "compute": "ComputeConfig",
    "component": "ComponentConfig",
    "deployment": "DeploymentConfig",
    "workspace": "AzureWorkspace",
}
# Numbers as texts, truth values as numbers, short forms, and what is no good.
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, -1, 0.5, 1.0, 2.0, 1e-3, 200, 10**9),
    *("", " 2 ", "2", "+3", "1_0", "2.0", "2.", ".5", "1e-3", "1E5", "0x10", "inf", "nan", "yes", "Off", "TRUE", "t"),
    *("name", "name:1", "two words", "it's", "<x>", "${Y}", "{{z}}", "a/b", "a/b/c", "local", "local:f", "tab", ";"),
    *("azureml:a:1", "azureml:a", "azureml://registries/r/models/m/versions/1", "azureml://datastores/d/paths/p"),
    *("/subscriptions/s/resourceGroups/g/providers/p/workspaces/w", "https://x/?wsid=%2Fa", "train.jsonl", "~no/x"),
    *("safe", "key", "aad_token", "random", "exact", "thin", "set_aside", "default", "browser", "utf-8", "no-such"),
    *([], ["a"], ["a", "b/c"], [{"messages": []}], [1], {}, {"a": 1}, {"name": "n"}, {"cluster": "c"}, {"local": None}),
    *({"files": "f"}, {"huggingface": "h", "percent": "5"}, {"asset": "azureml:a:1"}, {"rows": []}, {"train": ["t"]}),
    *({"validation": "0.2"}, {"period": True}, {"serverless": "s", "cluster": None}, {"a/b": "x"}, {"phift.a": "x"}),
]
# Without control characters: which of them are blank is another thing to Python's patterns, to Rust's and to ECMA's.
TEXTS = st.text(st.characters(categories=["L", "M", "N", "P", "S", "Z"]), max_size=8)


def keys_of(schema: Any) -> list[str]:
    return [*next(each for each in (schema, *schema.get("anyOf", ())) if "properties" in each)["properties"]]


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a configuration that is right but for what stands in up to three places."""
    values: dict[str, Any] = deepcopy(draw(st.sampled_from(WRITTEN))[1])
    for _ in range(draw(st.integers(1, 3))):
        section = draw(st.sampled_from(["", *SECTIONS]))
        value = draw(st.sampled_from(VALUES) | TEXTS | st.integers() | st.floats(allow_nan=False))
        inner = values.setdefault(section, {}) if section else values
        if isinstance(inner, dict):
            names = keys_of(SCHEMA["$defs"][SECTIONS[section]]) if section else keys_of(SCHEMA)
            inner[draw(st.sampled_from(names))] = value
    return values


@given(configurations())
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_phift_takes_the_schema_takes(values: dict[str, Any]) -> None:
    taken = is_taken(values)
    target(float(taken))
    assert not taken or mistakes(values) == []
