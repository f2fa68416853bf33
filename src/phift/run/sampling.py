"""What a search tries next, and what it gives up: Optuna's samplers and pruners, asked so that all answer the same.

What is drawn for a trial follows from the search and from the trials that it may know of, and from nothing else: not
from when somebody asks, nor from who does. So a search that was killed goes on as if it had not been, on another
machine too, and two that run at once draw the same. For that, every question is put to a study made anew, to which the
earlier trials are told again, in their order.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from phift.config.search import Choices, SearchConfig, Value
from phift.errors import ConfigError, MissingDependency

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial as Asked

_JUDGED = ("completed", "pruned")
_DRAWS = 20  # until something new comes; whole numbers and lists have few values


class Past(Protocol):
    """What is known of a trial when another one is drawn; one that has no end yet is None instead."""

    @property
    def parameters(self) -> Mapping[str, Value]:
        """Its values in the space."""

    @property
    def points(self) -> Sequence[tuple[int, float]]:
        """Step and value of each point of the metric, as far as it came."""

    @property
    def value(self) -> float | None:
        """What it is judged by; None where it has nothing to be judged by."""

    @property
    def state(self) -> str:
        """As `phift.run.trials.Trial` has it."""


def check_methods(config: SearchConfig) -> None:
    """Raise `phift.errors.MissingDependency` without Optuna, and `phift.errors.ConfigError` for wrong options."""
    _sampler(config, 0)
    _pruner(config)


def draw(
    config: SearchConfig, past: Sequence[Past | None], number: int, baseline: Mapping[str, Value] | None = None
) -> dict[str, Value] | None:
    """Return the parameters of a trial; None where a grid has no more.

    - **past**: the trials before it, as far as it may know of them; those that go on are None.
    - **baseline**: the values of the run as it stands, where that is the first trial, whether it goes on or not.
    """
    if config.sampler.name == "grid":
        combinations = itertools.product(*(each.values for each in config.space.values()))
        grid = [dict(zip(config.space, values, strict=True)) for values in combinations]
        left, at = [each for each in grid if each != baseline], number - (baseline is not None)
        return left[at] if at < len(left) else None
    known = [dict(each.parameters) for each in past if each]
    study = _study(config, past, number)
    for _ in range(_DRAWS):
        drawn = study.ask(_space(config)).params
        if drawn not in known:
            break
    return dict(drawn)


def gives_up(config: SearchConfig, past: Sequence[Past | None], trial: Past) -> bool:
    """Tell whether a trial that goes on does so much worse than those before it that it is not worth its price."""
    if config.pruner.name == "none" or not _fits(config, trial.parameters):
        return False
    study = _study(config, past, len(past))
    return _told(config, study, trial)[1]


def _study(config: SearchConfig, past: Sequence[Past | None], number: int) -> Study:
    import optuna
    from optuna.trial import TrialState

    storage, direction = optuna.storages.InMemoryStorage(), optuna.study.StudyDirection[config.direction.upper()]
    with _quiet():
        storage.create_new_study([direction], config.name)
    sampler = _sampler(config, _seed(config, number))
    study = optuna.Study(study_name=config.name, storage=storage, sampler=sampler, pruner=_pruner(config))
    for trial in past:
        if trial is None:
            study.ask()
        elif trial.value is None or trial.state not in _JUDGED or not _fits(config, trial.parameters):
            study.tell(study.ask(), state=TrialState.FAIL)
        elif trial.state == "pruned":
            study.tell(_told(config, study, trial)[0], state=TrialState.PRUNED)  # its last point is its value
        else:
            study.tell(_told(config, study, trial)[0], trial.value)
    return study


def _told(config: SearchConfig, study: Study, trial: Past) -> tuple[Asked, bool]:
    """Tell a study of a trial's points, and return whether one of them is reason to give it up."""
    study.enqueue_trial(dict(trial.parameters))
    asked = study.ask(_space(config))
    given_up = False
    for step, value in dict(trial.points).items():  # of a step that was logged twice the last value
        asked.report(value, step)
        given_up = asked.should_prune() or given_up
    return asked, given_up


def _seed(config: SearchConfig, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{config.seed}/{number}".encode()).digest()[:4])


def _space(config: SearchConfig) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for name, each in config.space.items():
        if isinstance(each, Choices):
            found[name] = CategoricalDistribution(each.choices)
        elif each.whole:
            found[name] = IntDistribution(int(each.low), int(each.high), each.log, int(each.step or 1))
        else:
            with warnings.catch_warnings():  # that `high` is no multiple of `step` away from `low`
                warnings.simplefilter("ignore", UserWarning)
                found[name] = FloatDistribution(each.low, each.high, each.log, each.step)
    return found


def _fits(config: SearchConfig, parameters: Mapping[str, Value]) -> bool:
    """Tell whether a trial is of this space: that of a run as it stands may lie beside it."""
    from optuna.trial import create_trial

    space = _space(config)
    if parameters.keys() != space.keys():
        return False
    try:
        create_trial(params=dict(parameters), distributions=space, value=0.0)
    except ValueError:
        return False
    return True


def _sampler(config: SearchConfig, seed: int) -> Any:
    optuna = _optuna()
    if config.sampler.name == "grid" and config.sampler.options:
        raise ConfigError("The sampler `grid` takes no options.", where="sampler", fix="leave them out")
    kind = optuna.samplers.TPESampler if config.sampler.name == "tpe" else optuna.samplers.RandomSampler
    return _made(kind, "sampler", {**config.sampler.options, "seed": seed})


def _pruner(config: SearchConfig) -> Any:
    optuna = _optuna()
    kinds: dict[str, Any] = {
        "median": optuna.pruners.MedianPruner,
        "percentile": optuna.pruners.PercentilePruner,
        "hyperband": optuna.pruners.HyperbandPruner,
        "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
        "none": optuna.pruners.NopPruner,
    }
    options = config.pruner.options
    if config.pruner.name == "percentile":
        options = {"percentile": 25.0, **options}
    return _made(kinds[config.pruner.name], "pruner", options)


def _made(kind: type[Any], where: str, options: Mapping[str, Any]) -> Any:
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        fix = f"see Optuna's documentation of {kind.__name__}"
        raise ConfigError(f"Optuna's {kind.__name__} does not take these: {error}", where=where, fix=fix) from None


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        what = "A search needs Optuna, which is not installed."
        raise MissingDependency(what, fix="in the folder of phift's source: pip install '.[tune]'") from error
    return optuna


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back Optuna's line on a study that this thread makes: it has a handler of its own, which prints."""
    mine, logger = threading.get_ident(), logging.getLogger("optuna.storages._in_memory")

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != mine

    logger.addFilter(of_others)
    try:
        yield
    finally:
        logger.removeFilter(of_others)
