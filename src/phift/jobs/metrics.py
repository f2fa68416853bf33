"""What a job measured while it trained, as tables: by the run's own record, which has all of it.

A search for runs may leave metrics out that the record of the run has (azure-sdk-for-python issues 38724, 2024-11-28,
and 39198, 2025-01-31).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from phift.azure.threads import SideBySide
from phift.jobs.tracking import Tracking, plain_number

if TYPE_CHECKING:
    import pandas as pd

_AT_ONCE = 8  # histories that are read side by side


def read_metrics(tracking: Tracking, run: str) -> pd.DataFrame:
    """Return the metrics of a run in the long form, sorted: ``metric``, ``step``, ``value`` and ``time`` (UTC).

    There is one row for each metric and step: what was logged last. The component logs a metric once a step; a training
    that goes on from a checkpoint logs the steps since then again, and it is the later ones that the model comes from.
    Where ``logging_strategy`` is ``epoch`` it logs no steps (azureml-acft-accelerator 0.0.91, utils/callbacks.py); then
    each metric's values are numbered from 1.
    """
    import pandas as pd

    with SideBySide(_AT_ONCE) as side:
        histories = [side.begin(tracking.metric_history, run, name) for name in tracking.metric_names(run)]
    points = [point for history in histories for point in history.result()]
    rows = [(point.name, point.step, point.value, point.timestamp) for point in points]
    frame = pd.DataFrame(rows, columns=["metric", "step", "value", "time"])
    frame = frame.sort_values("time", kind="stable")  # the last one of a step
    frame["time"] = pd.to_datetime(frame["time"], unit="ms", utc=True, errors="coerce")
    if len(frame) and not frame["step"].any():
        frame["step"] = frame.groupby("metric").cumcount() + 1
    frame = frame.drop_duplicates(["metric", "step"], keep="last")
    return frame.sort_values(["metric", "step"]).reset_index(drop=True)


def widen(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the wide form of the long one: a row a step, a column a metric, NaN where it was not logged."""
    return frame.pivot(index="step", columns="metric", values="value").rename_axis(columns=None)


def plain_rows(frame: pd.DataFrame, *, wide: bool = False) -> list[dict[str, Any]]:
    """Return the rows of the long form as plain values, ready for JSON; wide, those of each step in one.

    What is no finite number is text, see `phift.jobs.tracking.plain_number`.
    """
    rows = [
        {"metric": metric, "step": int(step), "value": plain_number(value), "time": None if time != time else str(time)}
        for metric, step, value, time in frame.itertuples(index=False)
    ]
    if not wide:
        return rows
    steps: dict[int, dict[str, Any]] = {step: {} for step in sorted({row["step"] for row in rows})}
    for row in rows:
        steps[row["step"]][row["metric"]] = row["value"]
    return [{"step": step, "metrics": metrics} for step, metrics in steps.items()]
