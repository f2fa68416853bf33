"""What the user asks of a search: a run, the space of its parameters, and how much may be tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue

from phift.config.data import Name, Section
from phift.config.run import Positive, RunConfig, config_errors, mistaken, read_yaml
from phift.errors import ConfigError

Value = bool | int | float | str
Number = int | float


class Range(Section):
    """Numbers from ``low`` to ``high``, both among them; whole ones where both, and ``step``, are whole.

    - **low**, **high**: the least and the greatest.
    - **log**: draw between powers of ten as often as between others; for what spans several, as a learning rate does.
    - **step**: from ``low`` on, every so much only.
    """

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return all(isinstance(each, int) for each in (self.low, self.high, self.step) if each is not None)

    @model_validator(mode="after")
    def _can_be_drawn_from(self) -> Self:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError("`low` must be a number below `high`")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError("`step` must be above 0, and no more than from `low` to `high`")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("with `log`, `low` must be above 0, and there is no `step`")
        return self

    @property
    def values(self) -> list[Value]:
        """All of them, where they can be counted, else none."""
        step = self.step or (1 if self.whole and not self.log else 0)
        steps = math.floor((self.high - self.low) / step + 1e-9) if step else -1
        return [self.low + number * step for number in range(steps + 1)]

    @property
    def extremes(self) -> list[Value]:
        """The least and the greatest."""
        return [self.low, self.high]


class Choices(Section):
    """Values to choose from; a list alone is one.

    - **choices**: each of them once.
    """

    choices: list[Value] = Field(min_length=1)

    @field_validator("choices")
    @classmethod
    def _once_each(cls, choices: list[Value]) -> list[Value]:
        if len({(type(each), each) for each in choices}) < len(choices):
            raise ValueError("a value stands there twice")
        return choices

    @property
    def values(self) -> list[Value]:
        """All of them."""
        return self.choices

    @property
    def extremes(self) -> list[Value]:
        """All of them: none is the least."""
        return self.choices


def _dimension(value: Any) -> Range | Choices:
    """Tell the two apart by their keys, so that a mistake is reported once and not once for each."""
    if isinstance(value, Range | Choices):
        return value
    if isinstance(value, list):
        value = {"choices": value}
    if not isinstance(value, Mapping):
        raise ValueError("write {low: ..., high: ...}, or a list of values")  # noqa: TRY004 - a mistake to pydantic
    return (Choices if "choices" in value else Range).model_validate(value)


Dimension = Annotated[
    Range | Choices, BeforeValidator(_dimension, json_schema_input_type=Range | Choices | list[Value])
]


class Method(Section):
    """One of Optuna's samplers or pruners; a text alone is its name.

    - **name**: as in Optuna, in small letters.
    - **options**: what its class in Optuna takes besides, as ``n_startup_trials``.
    """

    name: str
    options: dict[str, Value] = Field(default_factory=dict)

    @classmethod
    def _also_taken(cls, described: JsonSchemaValue) -> list[JsonSchemaValue]:
        described["additionalProperties"] = True  # the options, beside the name
        return [{"type": "string"}]

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "options" not in value:
            return {"name": value.get("name"), "options": {key: value[key] for key in value if key != "name"}}
        return value


def _one_of(*names: str) -> AfterValidator:
    def known(method: Method) -> Method:
        if method.name not in names:
            raise ValueError(f"there is no {method.name}; there is: {', '.join(names)}")
        return method

    return AfterValidator(known)


class SearchConfig(Section):
    """A search: runs that differ in some parameters, to find the values that serve best.

    ``SearchConfig(...)`` and `from_yaml` raise `phift.errors.ConfigError`, which lists every mistake with its place.

    - **name**: what the search is called in its workspace; the same name goes on with it, from any machine.
    - **run**: the run whose parameters are searched, or in YAML the path of its file.
    - **space**: for each of them ``{low: 1.0e-5, high: 1.0e-2, log: true}``, or a list of values.
    - **trials**: how many runs at most, the first one included.
    - **baseline**: whether the first is the run as it stands, to compare the others with.
    - **metric**: what a run is judged by: the best value that it logs, so that of ``eval_loss`` which its model has.
    - **direction**: whether less or more of it is better.
    - **sampler**: ``tpe``, ``random``, or ``grid``, which goes through all values.
    - **pruner**: cancels a run that does worse than the others did: ``median``, ``percentile``, ``hyperband``,
      ``successive_halving``, or ``none``.
    - **seed**: of what is drawn; the same search draws the same.
    - **parallel**: runs at once; each is drawn by what those know that ended before them.
    - **max_cost**: what all of it may cost, in USD; a run that would go over it is not submitted.
    """

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")
    run: RunConfig
    space: dict[Name, Dimension] = Field(min_length=1, max_length=12)  # a trial's values fit into a tag
    trials: int = Field(default=10, ge=1, le=1000)
    baseline: bool = True
    metric: Name = "eval_loss"
    direction: Literal["minimize", "maximize"] = "minimize"
    sampler: Annotated[Method, _one_of("tpe", "random", "grid")] = Method(name="tpe")
    pruner: Annotated[Method, _one_of("median", "percentile", "hyperband", "successive_halving", "none")] = Method(
        name="none"
    )
    seed: int = Field(default=0, ge=0, lt=2**32)
    parallel: int = Field(default=1, ge=1, le=100)
    max_cost: Positive | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            name: str,
            run: RunConfig | Mapping[str, Any],
            space: Mapping[str, Range | Choices | Mapping[str, Any] | list[Any]],
            trials: int = ...,
            baseline: bool = ...,
            metric: str = ...,
            direction: Literal["minimize", "maximize"] = ...,
            sampler: Method | Mapping[str, Any] | str = ...,
            pruner: Method | Mapping[str, Any] | str = ...,
            seed: int = ...,
            parallel: int = ...,
            max_cost: float | None = ...,
        ) -> None: ...

    else:

        def __init__(self, /, **values: Any) -> None:
            with config_errors("SearchConfig"):
                super().__init__(**values)

    @classmethod
    def _also_taken(cls, described: JsonSchemaValue) -> list[JsonSchemaValue]:
        run = described["properties"]["run"]
        described["properties"]["run"] = {"anyOf": [run, {"type": "string"}], "description": run["description"]}
        return []

    @model_validator(mode="after")
    def _grid_has_an_end(self) -> Self:
        endless = [name for name, each in self.space.items() if not each.values]
        if self.sampler.name == "grid" and endless:
            raise ValueError(f"the sampler `grid` needs a list, or a `step`, for {', '.join(endless)}")
        return self

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a YAML file; relative paths in it are relative to its folder.

        Raises `phift.errors.ConfigError` where the file is missing, is no YAML, or has mistakes.
        """
        path = Path(path)
        return cls.from_dict(read_yaml(path), where=str(path), folder=path.parent)

    @classmethod
    def from_dict(cls, values: Any, *, where: str = "SearchConfig", folder: Path = Path()) -> Self:
        """Build a search from plain values, as YAML or JSON give them; ``run`` is a mapping, or the path of a file.

        - **folder**: what relative paths start from.
        """
        if not isinstance(values, Mapping):
            raise ConfigError("The search is not a mapping of keys to values.", where=where, fix="see docs/tuning.md")
        given, mistakes = {str(key): value for key, value in values.items()}, []
        try:
            if isinstance(run := given.get("run"), str):
                given["run"] = RunConfig.from_yaml(folder / run)
            elif isinstance(run, Mapping):
                given["run"] = RunConfig.from_dict(dict(run), where=where, folder=folder)
        except ConfigError as error:
            if not error.mistakes or isinstance(run, str):  # which are of that file
                raise
            mistakes = [(f"run.{place}", what) for place, what in error.mistakes]
            given["run"] = RunConfig.model_construct()
        try:
            search = cls(**given)
        except ConfigError as error:
            mistakes += error.mistakes
        if mistakes:
            raise mistaken(mistakes, where)
        return search
