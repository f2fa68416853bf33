"""What a search has found, as a figure of matplotlib that is known to nobody else in the process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from phift.config.search import Value
from phift.errors import NotFound, visible
from phift.jobs.plot import Plot

# Each is seen on white as well as on black.
_COLOURS = {"completed": "#0a7abf", "pruned": "#6f7f8f"}
_BEST = "#d55e00"
_MOST = 5  # parameters
_DECADES = 100  # from the least to the greatest value; then the axis is logarithmic


class _Drawn(Protocol):
    """What is drawn of a trial; see `phift.run.trials.Trial`."""

    @property
    def number(self) -> int: ...
    @property
    def parameters(self) -> Mapping[str, Value]: ...
    @property
    def state(self) -> str: ...
    @property
    def value(self) -> float | None: ...


def draw_search(trials: Sequence[_Drawn], *, name: str, metric: str, direction: str) -> Plot:
    """Draw the values of all trials that have one: in their order, and over each of the first five parameters.

    Raises `phift.errors.NotFound` where there is none.
    """
    best_of = min if direction == "minimize" else max
    trials = [each for each in trials if each.value is not None and each.state in _COLOURS]
    if not trials:
        what = f"There is nothing to draw: no trial has ended with a value of {metric}."
        raise NotFound(what, where=f"search {name}", fix="wait until one has")
    names = list(dict.fromkeys(each for trial in trials for each in trial.parameters))[:_MOST]
    figure = Plot(figsize=(3.0 * (1 + len(names)) + 1.0, 3.6), layout="constrained")
    axes = figure.subplots(1, 1 + len(names), sharey=True, squeeze=False)[0]
    done = [each for each in trials if each.state == "completed"]
    best = best_of(done, key=lambda each: each.value or 0.0) if done else None
    _points(axes[0], [each.number for each in trials], trials, best)
    so_far = [best_of(each.value or 0.0 for each in done[: number + 1]) for number in range(len(done))]
    axes[0].step([each.number for each in done], so_far, where="post", color=_BEST, linewidth=1.0, label="best so far")
    axes[0].set_xlabel("trial")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel(_text(metric))
    for axis, parameter in zip(axes[1:], names, strict=True):
        given = [each.parameters.get(parameter) for each in trials]
        numbers = [each for each in given if isinstance(each, int | float) and not isinstance(each, bool)]
        if len(numbers) == len(given):
            _points(axis, numbers, trials, best)
            if min(numbers) > 0 and max(numbers) / min(numbers) >= _DECADES:
                axis.set_xscale("log")
        else:
            _points(axis, [_text(str(each)) for each in given], trials, best)
        axis.set_xlabel(_text(parameter))
    for axis in axes:
        axis.grid(alpha=0.25)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), frameon=False, fontsize="small")
    figure.suptitle(_text(f"search {name}"), fontsize="medium")
    return figure


def _points(
    axis: Axes, places: list[int] | list[float] | list[str], trials: Sequence[_Drawn], best: _Drawn | None
) -> None:
    for state, colour in _COLOURS.items():
        chosen = [number for number, each in enumerate(trials) if each.state == state]
        if chosen:
            values = [trials[number].value or 0.0 for number in chosen]
            marker = "o" if state == "completed" else "x"
            axis.scatter([places[number] for number in chosen], values, s=22, c=colour, marker=marker, label=state)
    if best:
        at = places[trials.index(best)]
        axis.scatter([at], [best.value or 0.0], s=90, facecolors="none", edgecolors=_BEST, linewidths=1.5, label="best")


def _text(text: str) -> str:
    """Return a text that is not taken for mathematics."""
    return visible(text, lines=False).replace("$", r"\$")
