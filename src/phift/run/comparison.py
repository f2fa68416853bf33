"""Several runs side by side: what they were made of, which parameters differ, and what they measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from phift.azure.answers import mapping, text
from phift.azure.clients import Clients
from phift.azure.connect import clients_of, connect
from phift.azure.threads import SideBySide
from phift.errors import ConfigError, NotFound, forgetting_locals, redact, visible_columns, visible_table
from phift.jobs.job import FineTuneJob
from phift.jobs.pipeline import STEP
from phift.jobs.record import RunRecord
from phift.jobs.tracking import plain_number
from phift.run.chain import FineTuneRun
from phift.run.listing import RunSummary

if TYPE_CHECKING:
    import pandas as pd
    from azure.ai.ml.entities import PipelineJob
    from matplotlib.figure import Figure

    from phift.azure.connect import AnyClients

AnyRun: TypeAlias = str | FineTuneJob | FineTuneRun | RunSummary
"""A run, or the name of its job."""

_AT_ONCE = 4  # jobs that are read side by side
_LOSSES = ("eval_loss", "loss", "train_loss")  # of which the lowest is the best; of other metrics nobody knows
# Inputs of the component that say on what it runs, and not what it trains.
_OF_COMPUTE = ("compute_", "instance_type_", "num_nodes_", "number_of_gpu_")


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run as it is compared.

    - **made_of**: its state, its experiment, what it was trained from and on; without what is not known.
    - **parameters**: what the component was called with, as text; what is left out has the component's default.
    - **metrics**: see `phift.jobs.metrics.read_metrics`.
    """

    name: str
    made_of: Mapping[str, str]
    parameters: Mapping[str, str]
    metrics: pd.DataFrame = field(repr=False)


@dataclass(frozen=True)
class Comparison:
    """Runs side by side, each a column; what is the same in all of them is left out, but for metrics."""

    runs: tuple[ComparedRun, ...]

    @property
    def made_of(self) -> pd.DataFrame:
        """What differs in state, experiment, foundation model, component, data and compute; None is not known."""
        return self._frame(self._differing("made_of"))

    @property
    def parameters(self) -> pd.DataFrame:
        """The training parameters that differ, as text; None is the component's default."""
        return self._frame(self._differing("parameters"))

    @property
    def metrics(self) -> pd.DataFrame:
        """Every metric's last value, and of a loss the best one with its step; the rows are as ``("loss", "best")``."""
        import pandas as pd

        frame = self._frame(self._measured()).astype(float)
        return (
            frame.set_index(pd.MultiIndex.from_tuples(frame.index, names=["metric", "which"])) if len(frame) else frame
        )

    @forgetting_locals()
    def plot(self) -> Figure:
        """Draw the curves of all runs together, a panel for each metric.

        Raises `phift.errors.NotFound` where none has logged a loss or a learning rate.
        """
        from phift.jobs.plot import draw

        return draw({run.name: run.metrics for run in self.runs}, where="the runs that are compared")

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        """Return what there is to show to people: of each table the head and the rows."""
        measured = {
            ", ".join(row): {run: f"{value:.6g}" for run, value in values.items()}
            for row, values in self._measured().items()
        }
        parts: list[tuple[str, str, str, Mapping[str, Mapping[str, str]]]] = [
            ("made of", "?", "(all the same)", self._differing("made_of")),
            ("parameter", "default", "(all the same)", self._differing("parameters")),
            ("metric", "-", "(none logged)", measured),
        ]
        names = [run.name for run in self.runs]
        tables = []
        for title, unknown, empty, table in parts:
            rows = [[row, *(values.get(name, unknown) for name in names)] for row, values in table.items()]
            tables.append(([title, *names], rows or [[empty, *("" for _ in names)]]))
        return tables

    def __str__(self) -> str:
        return "\n\n".join(visible_columns(head, rows) for head, rows in self.tables())

    def _repr_html_(self) -> str:
        return "".join(visible_table(head, rows) for head, rows in self.tables())

    def to_dict(self) -> dict[str, Any]:
        """Return the tables as plain values, ready for JSON: of each row what each run has."""
        metrics: dict[str, dict[str, Any]] = {}
        for (metric, which), values in self._measured().items():
            plain = {run: plain_number(value) for run, value in values.items()}
            metrics.setdefault(metric, {})[which] = plain
        differing = {part: self._differing(part) for part in ("made_of", "parameters")}
        return {"jobs": [run.name for run in self.runs], **differing, "metrics": metrics}

    def _differing(self, part: str) -> dict[str, dict[str, str]]:
        columns: dict[str, Mapping[str, str]] = {run.name: getattr(run, part) for run in self.runs}
        rows = {
            row: {run: values[row] for run, values in columns.items() if row in values}
            for row in dict.fromkeys(row for values in columns.values() for row in values)
        }
        return {row: found for row, found in rows.items() if len(found) < len(columns) or len(set(found.values())) > 1}

    def _measured(self) -> dict[tuple[str, str], dict[str, float]]:
        rows: dict[tuple[str, str], dict[str, float]] = {}
        for run in self.runs:
            for row, value in _figures(run.metrics).items():
                rows.setdefault(row, {})[run.name] = value
        rank = {metric: number for number, metric in enumerate(_LOSSES)}
        return dict(sorted(rows.items(), key=lambda row: (rank.get(row[0][0], len(rank)), row[0][0])))

    def _frame(self, rows: Mapping[Any, Mapping[str, Any]]) -> pd.DataFrame:
        import pandas as pd

        names = [run.name for run in self.runs]
        values = [[found.get(name) for name in names] for found in rows.values()]
        return pd.DataFrame(values, index=pd.Index(list(rows), tupleize_cols=False), columns=names, dtype=object)


@forgetting_locals()
def compare_runs(runs: Iterable[AnyRun], workspace: AnyClients | None = None) -> Comparison:
    """Compare runs: what they were made of, which parameters differ, and what they measured.

    - **runs**: two or more, as runs, jobs, entries of `phift.runs`, or names of jobs.
    - **workspace**: whose jobs the names are; as in a configuration, or clients; left out, it comes from the
      environment or ``config.json``.

    A job that phift did not submit, or whose record is gone, is compared in what is known. Raises
    `phift.errors.NotFound` for a name that no job has.
    """
    given = [runs] if isinstance(runs, str) else list(runs)
    clients: Clients | None = None

    def job(run: AnyRun) -> FineTuneJob:
        nonlocal clients
        if isinstance(run, FineTuneJob | FineTuneRun):
            return run if isinstance(run, FineTuneJob) else run.job
        clients = clients or (connect() if workspace is None else clients_of(workspace))
        return FineTuneJob(run if isinstance(run, str) else run.name, clients)

    jobs = [job(run) for run in given]
    if len(jobs) < 2 or len({each.name for each in jobs}) < len(jobs):
        what = f"There are no two different jobs to compare among {', '.join(each.name for each in jobs) or 'none'}."
        raise ConfigError(what, where="compare_runs", fix="name two or more jobs, each once")
    with SideBySide(_AT_ONCE) as side:
        found = [side.begin(_read, each) for each in jobs]
    return Comparison(tuple(each.result() for each in found))


def _read(job: FineTuneJob) -> ComparedRun:
    entity = job.entity()
    made_of = {"state": text(entity.status, "job.status"), "experiment": str(entity.experiment_name or "")}
    inputs = _inputs(entity)
    with suppress(NotFound):  # one that phift did not submit is made of what its pipeline says
        record = RunRecord.read(entity)
        compute = mapping(record.configuration.get("compute"))
        where = compute.get("serverless") or compute.get("cluster")
        nodes = compute.get("nodes")
        made_of |= {
            "foundation model": f"{record.model.name}:{record.model.version}",
            "component": record.component,
            "data": record.data_name,
            "data hash": record.data_hash,
            "compute": f"{nodes} x {where}" if where and nodes else str(where or ""),
        }
        inputs = inputs or dict(mapping(record.configuration.get("parameters")))
    return ComparedRun(
        name=job.name,
        made_of={key: redact(value) for key, value in made_of.items() if value},
        parameters={key: redact(str(value)) for key, value in inputs.items() if not key.startswith(_OF_COMPUTE)},
        metrics=job.metrics(),
    )


def _inputs(job: PipelineJob) -> dict[str, Any]:
    """Return the values that the component was called with, without models and files."""
    inputs = getattr(mapping(job.jobs).get(STEP), "inputs", None)
    # A literal is kept as such by every SDK from 1.26.3 to 1.35.2, and no property of it shows it.
    values = {name: getattr(given, "_data", None) for name, given in mapping(inputs).items()}
    return {name: value for name, value in values.items() if isinstance(value, str | int | float)}


def _figures(metrics: pd.DataFrame) -> dict[tuple[str, str], float]:
    figures: dict[tuple[str, str], float] = {}
    for name, points in metrics.groupby("metric"):  # each sorted by its steps
        values, metric = points["value"].to_numpy(float), str(name)
        figures[metric, "last"] = float(values[-1])
        numbers = np.where(np.isfinite(values), values, math.inf)
        if metric in _LOSSES and np.isfinite(values).any():
            figures[metric, "best"] = float(numbers.min())
            figures[metric, "at step"] = float(points["step"].to_numpy()[numbers.argmin()])
    return figures
