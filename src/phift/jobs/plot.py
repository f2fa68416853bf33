"""The curves of one job or of several, as a figure of matplotlib that is known to nobody else in the process."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from phift.errors import NotFound, redact, visible

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_WORDS = {"loss": "training loss", "eval_loss": "evaluation loss", "learning_rate": "learning rate"}
# What the panels show, from above: of one job, and of several.
_OF_ONE = (("loss", "eval_loss"), ("learning_rate",))
_OF_SEVERAL = (("eval_loss",), ("loss",), ("learning_rate",))
# Each is seen on white as well as on black: no contrast is below 3.5.
_COLOURS = ("#0a7abf", "#d55e00", "#0b9466", "#b86fb0", "#8f7a1e", "#e0455e", "#6f7f8f", "#7c6ce0")
_STYLES = ("-", "--", ":", "-.")
_WITH_MARKERS = 50  # points; more make a line of their own
_LONGEST_NAME = 60
_MANY_TIMES = 20  # what the highest loss is of the lowest where only a logarithm shows both
_IN_ONE_COLUMN = 6  # names in a legend


class Plot(Figure):
    """A figure that a notebook shows also where nobody has imported pyplot."""

    def _repr_png_(self) -> bytes:
        written = BytesIO()
        self.savefig(written, format="png")
        return written.getvalue()


def draw(metrics: Mapping[str, pd.DataFrame], *, where: str) -> Plot:
    """Draw losses and learning rate over the steps: of one job, or of several with a panel for each metric.

    - **metrics**: by the job's name, in the long form of `phift.jobs.metrics.read_metrics`.

    Raises `phift.errors.NotFound` where none of these metrics is there.
    """
    logged = {name for frame in metrics.values() for name in frame["metric"].unique()}
    several = len(metrics) > 1
    panels = [found for names in (_OF_SEVERAL if several else _OF_ONE) if (found := [n for n in names if n in logged])]
    if not panels:
        what = f"There is nothing to draw: no {', no '.join(_WORDS.values())} has been logged."
        fix = "wait until the training step runs and logs; `metrics()` returns all that has been logged"
        raise NotFound(what, where=where, fix=fix)
    heights = [1 if "learning_rate" in names else 2 for names in panels]
    columns = 1 if len(metrics) <= _IN_ONE_COLUMN else 2
    of_legend = 0.22 * -(-len(metrics) // columns) if several else 0.0
    figure = Plot(figsize=(8.0, 1.0 + 1.4 * sum(heights) + of_legend), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axis, names in zip(axes, panels, strict=True):
        for number, (run, frame) in enumerate(metrics.items()):
            for name in names:
                colour = number if several else list(_WORDS).index(name)
                _curve(axis, frame[frame["metric"] == name], colour, f"{_name(run)}, " if several else "", name)
        label, values = _WORDS[names[0]] if len(names) == 1 else "loss", _values(axis)
        if "loss" in label and values.min() > 0 and values.max() / values.min() > _MANY_TIMES:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("")
            label += ", log scale"
        else:
            axis.ticklabel_format(axis="y", scilimits=(-2, 4))
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
    if len(panels[0]) > 1:
        axes[0].legend([_WORDS[name] for name in panels[0]], frameon=False)
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    steps = {step for axis in axes for line in axis.get_lines() for step in line.get_xdata()}
    if len(steps) == 1:
        axes[-1].set_xlim(min(steps) - 1, min(steps) + 1)
    if several:
        figure.legend(
            axes[0].get_lines(),
            [_name(run) for run in metrics],
            loc="outside lower left",
            ncols=columns,
            frameon=False,
            fontsize="small",
        )
    else:
        figure.suptitle(_name(next(iter(metrics))), fontsize="medium")
    return figure


def _curve(axis: Axes, points: pd.DataFrame, number: int, of: str, name: str) -> None:
    """Draw the points of a metric; what is no number is a gap, and is told of."""
    values = points["value"].to_numpy(float)
    numbers = np.isfinite(values)
    axis.plot(
        points["step"],
        np.where(numbers, values, np.nan),
        color=_COLOURS[number % len(_COLOURS)],
        linestyle=_STYLES[number // len(_COLOURS) % len(_STYLES)],
        linewidth=1.5 if len(values) <= _WITH_MARKERS else 1.0,
        marker="o" if numbers.sum() <= _WITH_MARKERS or not numbers.all() else None,
        markersize=3.5,
    )
    if not numbers.all():
        first = points["step"].to_numpy()[~numbers][0]
        said = f"{of}{_WORDS[name]}: no number at {(~numbers).sum()} of {len(values)} steps, the first is {first}"
        axis.set_title("\n".join(filter(None, (axis.get_title(), said))), fontsize="small", parse_math=False)


def _values(axis: Axes) -> NDArray[np.float64]:
    """Return all numbers that are drawn; 0 where there is none."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axis.get_lines()])
    return values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1)


def _name(run: str) -> str:
    """Return a job's name as a text that is taken for neither mathematics nor a line that has no name."""
    shown = visible(redact(run), lines=False)
    if len(shown) > _LONGEST_NAME:
        shown = f"{shown[: _LONGEST_NAME // 2]}...{shown[-_LONGEST_NAME // 2 :]}"
    return ("\N{ZERO WIDTH SPACE}" if shown.startswith("_") else "") + shown.replace("$", r"\$")
