"""A job's metrics as tables and as a picture."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from phift.azure.clients import Clients
from phift.errors import NotFound
from phift.jobs import plot
from phift.jobs.job import FineTuneJob
from phift.jobs.metrics import plain_rows
from phift.testing import TestWorkspace
from unit import given

Point = tuple[str, int, float]


def log(clients: Clients, points: Sequence[Point], run: str = "job") -> None:
    """Log to a run, a second apart, as the component does."""
    base = clients.find_workspace().mlflow_tracking_uri.replace("azureml://", "https://")
    metrics = [
        {"key": name, "step": step, "value": str(value) if not math.isfinite(value) else value, "timestamp": 1000 * at}
        for at, (name, step, value) in enumerate(points)
    ]
    clients.rest.post(f"{base}/api/2.0/mlflow/runs/log-batch", {"run_id": run, "metrics": metrics})


@pytest.fixture
def job(workspace: TestWorkspace, clients: Clients) -> FineTuneJob:
    given.job(workspace)
    return FineTuneJob("job", clients)


def rows(frame: pd.DataFrame) -> list[Point]:
    return list(zip(frame["metric"], frame["step"], frame["value"], strict=True))


def test_of_a_step_that_was_logged_twice_the_last_value_stands(job: FineTuneJob, clients: Clients) -> None:
    """As a training does that went on from a checkpoint; and as an evaluation and a summary do with the epoch."""
    log(clients, [("loss", 10, 3.0), ("loss", 20, 2.0), ("loss", 30, 1.0), ("loss", 20, 2.5), ("epoch", 30, 1.0)])
    log(clients, [("epoch", 30, 1.0)])
    assert rows(job.metrics()) == [("epoch", 30, 1.0), ("loss", 10, 3.0), ("loss", 20, 2.5), ("loss", 30, 1.0)]


def test_the_wide_form_has_a_row_a_step_and_a_column_a_metric(job: FineTuneJob, clients: Clients) -> None:
    log(clients, [("loss", 10, 3.0), ("loss", 20, math.nan), ("eval_loss", 15, math.inf), ("step", 20, 7.0)])
    wide = job.metrics(wide=True)
    assert (wide.index.name, list(wide.index), list(wide.columns)) == (
        "step",
        [10, 15, 20],
        ["eval_loss", "loss", "step"],
    )
    expected = [[np.nan, 3.0, np.nan], [np.inf, np.nan, np.nan], [np.nan, np.nan, 7.0]]
    np.testing.assert_array_equal(wide.to_numpy(), expected)


def test_the_long_form_can_be_pivoted_by_whoever_likes_to(job: FineTuneJob, clients: Clients) -> None:
    log(clients, [("loss", 10, 3.0), ("epoch", 10, 1.0), ("epoch", 10, 1.0)])
    assert job.metrics().pivot(index="step", columns="metric", values="value").shape == (1, 2)


def test_values_without_steps_are_numbered(job: FineTuneJob, clients: Clients) -> None:
    """With ``logging_strategy: epoch`` the component logs no steps."""
    log(clients, [("loss", 0, 3.0), ("eval_loss", 0, 4.0), ("loss", 0, 2.0)])
    assert rows(job.metrics()) == [("eval_loss", 1, 4.0), ("loss", 1, 3.0), ("loss", 2, 2.0)]


def test_a_job_that_has_logged_nothing_has_empty_forms(job: FineTuneJob) -> None:
    assert list(job.metrics().columns) == ["metric", "step", "value", "time"]
    wide = job.metrics(wide=True)
    assert (wide.empty, wide.index.name) == (True, "step")


def test_a_thousand_metrics_are_read_each_once(job: FineTuneJob, clients: Clients, workspace: TestWorkspace) -> None:
    log(clients, [(f"of rank {number}", step, 1.0) for number in range(1000) for step in (1, 2)])
    assert job.metrics(wide=True).shape == (2, 1000)
    assert len(workspace.requests("GET *get-history")) == 1000
    assert workspace.requests("POST *runs/search") == []


def test_a_time_that_no_calendar_has_is_none(job: FineTuneJob, clients: Clients) -> None:
    base = clients.find_workspace().mlflow_tracking_uri.replace("azureml://", "https://")
    metric = {"key": "loss", "step": 1, "value": 1.0, "timestamp": 2**62}
    clients.rest.post(f"{base}/api/2.0/mlflow/runs/log-batch", {"run_id": "job", "metrics": [metric]})
    assert pd.isna(job.metrics()["time"].iloc[0])


def frame(*points: Point) -> pd.DataFrame:
    return pd.DataFrame(points, columns=["metric", "step", "value"])


def curve(name: str, values: Sequence[float]) -> list[Point]:
    return [(name, 10 * (number + 1), value) for number, value in enumerate(values)]


RUN = frame(*curve("loss", [3, 2, 1]), *curve("eval_loss", [4, 2]), *curve("learning_rate", [1e-4, 1e-5, 0]))


def test_a_plot_has_the_losses_and_below_them_the_learning_rate(job: FineTuneJob, clients: Clients) -> None:
    log(clients, [*curve("loss", [3, 2, 1]), *curve("eval_loss", [4, 2]), *curve("learning_rate", [1e-4, 1e-5, 0])])
    losses, rates = job.plot().axes
    assert [np.asarray(line.get_ydata()).tolist() for line in losses.lines] == [[3, 2, 1], [4, 2]]
    assert [np.asarray(line.get_ydata()).tolist() for line in rates.lines] == [[1e-4, 1e-5, 0]]
    legend = losses.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["training loss", "evaluation loss"]


def test_a_job_without_losses_has_no_plot(job: FineTuneJob, clients: Clients) -> None:
    log(clients, curve("grad_norm", [1.0]))
    with pytest.raises(NotFound, match="no training loss") as caught:
        job.plot()
    assert caught.value.where == "job job"


@pytest.mark.parametrize(
    "metrics",
    [
        {"one point": frame(("loss", 5, 1.0))},
        {"only evaluated": frame(*curve("eval_loss", [2, 1]))},
        {"no number": frame(*curve("loss", [math.nan, math.inf, -math.inf]))},
        {"long": frame(*curve("loss", np.linspace(3, 1, 5000).tolist()))},
        {"$x_{ $y$ \\frac{": RUN},
        {"_hidden \x1b[31m\n": RUN},
        {"<b>" + 300 * "long": RUN},
        {f"run {number}": RUN for number in range(40)},
        {"_a $": RUN, "_b $^{": frame(*curve("loss", [math.nan]))},
    ],
    ids=lambda metrics: next(iter(metrics)).encode("unicode_escape").decode()[:20],
)
def test_whatever_has_been_logged_is_drawn(metrics: dict[str, pd.DataFrame]) -> None:
    """A warning is an error in these tests, also matplotlib's of a glyph or a label that it cannot draw."""
    picture = matplotlib.image.imread(BytesIO(plot.draw(metrics, where="jobs")._repr_png_()))
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 20


def test_of_what_is_no_number_a_plot_says_how_much_there_is() -> None:
    axis = plot.draw({"job": frame(*curve("loss", [3, math.nan, math.inf, 1]))}, where="job").axes[0]
    assert axis.get_title() == "training loss: no number at 2 of 4 steps, the first is 20"
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), [3, np.nan, np.nan, 1])


def test_losses_that_differ_by_much_have_a_logarithmic_axis() -> None:
    far = frame(*curve("loss", [6, 1, 0.07]), *curve("learning_rate", [1e-3, 1e-9]))
    losses, rates = plot.draw({"job": far}, where="job").axes
    assert (losses.get_yscale(), losses.get_ylabel()) == ("log", "training loss, log scale")
    assert (rates.get_yscale(), plot.draw({"job": RUN}, where="job").axes[0].get_yscale()) == ("linear", "linear")
    below = frame(*curve("loss", [6, 1, -0.07]))
    assert plot.draw({"job": below}, where="job").axes[0].get_yscale() == "linear"


def test_several_runs_have_a_panel_for_each_metric_and_one_legend() -> None:
    drawn = plot.draw({"first": RUN, "second": frame(*curve("loss", [5, 4]))}, where="jobs")
    assert [axis.get_ylabel() for axis in drawn.axes] == ["evaluation loss", "training loss", "learning rate"]
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["first", "second"]
    assert [line.get_color() for axis in drawn.axes for line in axis.lines] == 3 * list(plot._COLOURS[:2])


@pytest.mark.parametrize("colour", plot._COLOURS)
@pytest.mark.parametrize("ground", ["#ffffff", "#000000"])
def test_each_colour_is_seen_on_white_and_on_black(colour: str, ground: str) -> None:
    """WCAG 2.2, success criterion 1.4.11: 3 to 1 for what is to be seen of a picture."""

    def luminance(text: str) -> float:
        parts = [int(text[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(colour), luminance(ground)))
    assert (lighter + 0.05) / (darker + 0.05) >= 3.4


def test_drawing_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    """No backend is chosen and no figure is kept: pyplot, which does both, is not even imported."""
    program = f"""
import sys
import pandas as pd
from phift.jobs.plot import draw
drawn = draw({{"job": pd.DataFrame([("loss", 1, 2.0)], columns=["metric", "step", "value"])}}, where="job")
drawn.savefig({str(tmp_path / "curve.svg")!r})
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603 - our own program
    assert (tmp_path / "curve.svg").read_bytes().startswith(b"<?xml")


def test_metrics_as_plain_values_are_json(job: FineTuneJob, clients: Clients) -> None:
    log(clients, [("loss", 10, 3.0), ("loss", 20, -math.inf), ("step", 20, math.nan)])
    values = plain_rows(job.metrics())
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values[0] == {"metric": "loss", "step": 10, "value": 3.0, "time": "1970-01-01 00:00:00+00:00"}
    assert plain_rows(job.metrics(), wide=True) == [
        {"step": 10, "metrics": {"loss": 3.0}},
        {"step": 20, "metrics": {"loss": "-Infinity", "step": "NaN"}},
    ]
    assert plain_rows(job.metrics().iloc[:0], wide=True) == []
