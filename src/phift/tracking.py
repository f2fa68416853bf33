"""What a run recorded: metrics, logs and errors, read from the workspace's MLflow and run-history services."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from phift.errors import NotFound, redact
from phift.rest import Rest

_PAGE = 5_000  # points a page; MLflow's own limit is 25,000


@dataclass(frozen=True)
class MetricPoint:
    """One logged value of a metric.

    - **timestamp**: milliseconds since 1970, UTC.
    """

    name: str
    step: int
    value: float
    timestamp: int


class Tracking:
    """Reads what runs of one workspace recorded.

    - **uri**: the workspace's ``mlflow_tracking_uri`` (``azureml://<host>/mlflow/v1.0/subscriptions/...``, or v2.0
      where azureml-mlflow is installed); the run-history service is on the same host.
    """

    def __init__(self, rest: Rest, uri: str) -> None:
        self._rest = rest
        base = uri.replace("azureml://", "https://", 1).partition("?")[0].rstrip("/")
        host, workspace = re.split(r"/mlflow/v\d\.\d", base, maxsplit=1)
        self._mlflow = f"{base}/api/2.0/mlflow"
        self._history = f"{host}/history/v1.0{workspace}"

    def metric_names(self, run_id: str) -> list[str]:
        """Return the names of all metrics a run has logged, sorted."""
        run = self._rest.get(f"{self._mlflow}/runs/get", {"run_id": run_id})
        metrics = run.get("run", {}).get("data", {}).get("metrics", [])
        return sorted({str(metric["key"]) for metric in metrics})

    def metric_history(self, run_id: str, name: str) -> list[MetricPoint]:
        """Return every logged value of one metric, in the order of logging."""
        points: list[MetricPoint] = []
        query: dict[str, Any] = {"run_id": run_id, "metric_key": name, "max_results": _PAGE}
        while True:
            page = self._rest.get(f"{self._mlflow}/metrics/get-history", query)
            points += [_point(entry) for entry in page.get("metrics", [])]
            token = page.get("next_page_token")
            if not token:
                return points
            query = {**query, "page_token": token}

    def tags(self, run_id: str) -> dict[str, str]:
        """Return a run's tags."""
        run = self._rest.get(f"{self._mlflow}/runs/get", {"run_id": run_id})
        tags = run.get("run", {}).get("data", {}).get("tags", [])
        return {str(tag["key"]): str(tag.get("value", "")) for tag in tags}

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        """Write one tag of a run; the others stay as they are."""
        self._rest.post(f"{self._mlflow}/runs/set-tag", {"run_id": run_id, "key": key, "value": value})

    def delete_tag(self, run_id: str, key: str) -> None:
        """Take one tag of a run away; one that is not there is no error."""
        with suppress(NotFound):
            self._rest.post(f"{self._mlflow}/runs/delete-tag", {"run_id": run_id, "key": key})

    def error(self, run_id: str) -> str:
        """Return what the service says went wrong in a run, or an empty text."""
        error = self._details(run_id).get("error") or {}
        inner = error.get("error") or error
        return redact(str(inner.get("message") or ""))

    def log_tail(self, run_id: str, lines: int = 30) -> str:
        """Return the end of a run's standard log, or an empty text where it has none."""
        files: dict[str, str] = self._details(run_id).get("logFiles") or {}
        name = next((name for name in sorted(files) if name.endswith("std_log.txt")), None)
        if name is None:
            return ""
        text = self._rest.text(files[name])
        return redact("\n".join(text.splitlines()[-lines:]))

    def _details(self, run_id: str) -> dict[str, Any]:
        return self._rest.get(f"{self._history}/runs/{run_id}/details")


def _point(entry: dict[str, Any]) -> MetricPoint:
    return MetricPoint(
        name=str(entry["key"]),
        step=int(entry.get("step") or 0),
        value=float(entry["value"]),
        timestamp=int(entry.get("timestamp") or 0),
    )
