"""What a search is asked for in YAML and in Python, every mistake with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phift.config.search import Choices, Range, SearchConfig
from phift.errors import ConfigError

RUN = {"model": "Phi-4-mini-instruct", "compute": "gpu-cluster", "data": "rows.jsonl"}


def search(**changed: Any) -> SearchConfig:
    return SearchConfig.from_dict({"name": "rates", "run": RUN, "space": {"seed": [1, 2]}, **changed})


def mistakes(**changed: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        search(**changed)
    return dict(caught.value.mistakes)


def test_a_space_has_ranges_and_lists() -> None:
    space = search(
        space={
            "learning_rate": {"low": "1e-5", "high": 0.01, "log": True},  # YAML takes 1e-5 for a text
            "lora_r": [8, 16],
            "num_train_epochs": {"low": 1, "high": 7, "step": 2},
            "apply_lora": {"choices": [True, False]},
            "weight_decay": {"low": 0, "high": 0.5, "step": 0.1},
        }
    ).space
    assert space["learning_rate"] == Range(low=1e-5, high=0.01, log=True)
    assert space["lora_r"] == Choices(choices=[8, 16])
    assert space["num_train_epochs"].values == [1, 3, 5, 7]
    assert space["weight_decay"].values == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert space["apply_lora"].extremes == [True, False]
    assert space["learning_rate"].values == []


def test_every_mistake_is_told_with_its_place() -> None:
    told = mistakes(
        run={**RUN, "modle": "x", "compute": {"cluster": "a", "serverless": "b"}},
        name="No Name",
        space={"a": {"low": 1, "high": 1}, "b": {"low": 0, "high": 1, "log": True}, "c": 3, "d": [1, 1], "e": []},
        trials=0,
        sampler="best",
        pruner={"name": "median", "options": {"x": [1]}},
        max_cost=0,
        colour="red",
    )
    assert told.keys() >= {"run.modle", "run.compute", "name", "trials", "sampler", "max_cost", "colour"}
    assert {"space.a", "space.b", "space.c", "space.d.choices", "space.e.choices"} <= told.keys()
    assert told["run.modle"] == told["colour"] == "no such key"


@pytest.mark.parametrize("dimension", [{"low": 1, "high": 3}, {"low": 0, "high": 1, "step": 0.5}])
def test_a_grid_has_an_end(dimension: dict[str, float]) -> None:
    assert search(sampler="grid", space={"lora_r": dimension}).space["lora_r"].values
    assert "lora_r" in mistakes(sampler="grid", space={"lora_r": {"low": 0.0, "high": 1.0}})["top level"]


def test_a_run_may_lie_in_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "run.yaml").write_text("model: Phi-4\ncompute: c\ndata: {train: rows.jsonl}\n")
    file = tmp_path / "search" / "tune.yaml"
    file.write_text("name: rates\nrun: ../run.yaml\nspace:\n  learning_rate: {low: 1e-5, high: 0.01, log: true}\n")
    found = SearchConfig.from_yaml(file)
    assert found.run.model.name == "Phi-4"
    assert found.run.work_dir == tmp_path / "search" / ".." / ".phift"
    file.write_text("name: rates\nrun: none.yaml\nspace: {seed: [1, 2]}\n")
    with pytest.raises(ConfigError, match="no such configuration file"):
        SearchConfig.from_yaml(file)


def test_an_inline_run_is_below_the_file(tmp_path: Path) -> None:
    assert SearchConfig.from_dict({"name": "a", "run": RUN, "space": {"seed": [1, 2]}}, folder=tmp_path).run == (
        search().run.from_dict(RUN, folder=tmp_path)
    )


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_what_is_no_mapping_is_no_search(values: object) -> None:
    with pytest.raises(ConfigError, match="not a mapping"):
        SearchConfig.from_dict(values)
