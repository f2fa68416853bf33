"""What a search draws next: the same whoever asks, from what is known of its trials."""

from __future__ import annotations

import logging
import math
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from phift.config.search import SearchConfig
from phift.errors import ConfigError, MissingDependency
from phift.run.sampling import check_methods, draw, gives_up

RUN = {"model": "Phi-4", "compute": "c", "data": "rows.jsonl"}
SPACE = {
    "learning_rate": {"low": 1e-6, "high": 1e-1, "log": True},
    "lora_r": [8, 16, 32],
    "num_train_epochs": {"low": 1, "high": 3},
    "weight_decay": {"low": 0, "high": 0.5, "step": 0.3},
}


@dataclass
class Past:
    parameters: dict[str, Any]
    value: float | None = None
    points: tuple[tuple[int, float], ...] = field(default=())
    state: str = "completed"


def search(**changed: Any) -> SearchConfig:
    return SearchConfig.from_dict({"name": "rates", "run": RUN, "space": SPACE, **changed})


def judged(parameters: dict[str, Any]) -> Past:
    loss = abs(math.log10(parameters["learning_rate"]) + 3)
    points = tuple((step, loss + 5 / (step + 1)) for step in range(8))
    return Past(parameters, points[-1][1], points)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("pruner", ["median", "percentile", "hyperband", "successive_halving"])
def test_what_is_drawn_and_given_up_follows_from_the_trials_alone(sampler: str, pruner: str) -> None:
    config = search(sampler=sampler, pruner=pruner)
    beside = {"learning_rate": 5e-7, "lora_r": 4, "num_train_epochs": 1, "weight_decay": 0.0}
    past: list[Past | None] = [judged(beside)]  # a run as it stands need not lie in the space
    given_up = 0
    for number in range(1, 16):
        drawn = draw(config, past, number)
        assert drawn is not None
        assert drawn == draw(config, past, number)
        assert drawn not in [each.parameters for each in past if each]
        assert drawn.keys() == SPACE.keys()
        trial = judged(drawn)
        if gives_up(config, past, trial):
            trial.state, given_up = "pruned", given_up + 1
        past.append(trial if number % 5 else Past(drawn, None, state="failed"))
    assert 0 < given_up < 15
    assert draw(config, past, 16) != draw(search(sampler=sampler, pruner=pruner, seed=1), past, 16)


def test_a_sampler_learns_from_what_it_is_told() -> None:
    space = {"learning_rate": SPACE["learning_rate"]}
    config, past = search(space=space, sampler={"name": "tpe", "n_startup_trials": 5}), list[Past | None]()
    for number in range(30):
        drawn = draw(config, past, number)
        assert drawn is not None
        past.append(judged(drawn))
    last = [math.log10(each.parameters["learning_rate"]) for each in past[15:] if each]
    assert sum(abs(each + 3) < 1 for each in last) > 8  # of a space of five decades


def test_trials_that_go_on_are_passed_over() -> None:
    assert draw(search(), [judged({**SPACE, "learning_rate": 1e-3}), None, None], 3)


def test_a_grid_has_every_value_once_and_not_that_of_the_baseline() -> None:
    space = {"lora_r": [8, 16, 32], "num_train_epochs": {"low": 1, "high": 2}}
    config = search(space=space, sampler="grid")
    baseline = {"lora_r": 16, "num_train_epochs": 1}
    drawn = [draw(config, [], number, baseline) for number in range(1, 7)]
    assert drawn.pop() is None
    assert len({tuple(each.values()) for each in [baseline, *drawn] if each}) == 6
    assert draw(search(space=space, sampler="grid", baseline=False), [], 0) == {"lora_r": 8, "num_train_epochs": 1}


def test_nothing_is_printed_and_the_logging_of_others_stays(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    import optuna

    with caplog.at_level(logging.INFO):
        draw(search(), [], 0)
        assert (capsys.readouterr().err, caplog.text) == ("", "")
        optuna.create_study()
    assert "A new study" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"sampler": {"name": "tpe", "colour": 1}}, "TPESampler"),
        ({"sampler": {"name": "grid", "n_startup_trials": 1}, "space": {"lora_r": [1, 2]}}, "takes no options"),
        ({"pruner": {"name": "percentile", "percentile": 200}}, "PercentilePruner"),
    ],
)
def test_options_that_optuna_does_not_take_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        check_methods(search(**wrong))


def test_without_optuna_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependency, match=r"Optuna") as caught:
        check_methods(search())
    assert ".[tune]" in str(caught.value)
