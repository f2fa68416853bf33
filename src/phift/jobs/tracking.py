"""What a run recorded: metrics, logs and errors, read from the workspace's MLflow and run-history services."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from phift.azure.answers import json_object, listed, no_answer, text
from phift.azure.clients import Part, Rest
from phift.errors import NotFound, ServiceError, azure_errors, redact

Number = TypeVar("Number", int, float)

_PAGE = 5_000  # points a page; MLflow's own limit is 25,000
_LONGEST_KEY = 100  # lines of a private key; one of 4,096 bits has 52
_OWN_LOG = re.compile(r"(^|/)(user_logs/.+\.(txt|log)|std_log[^/]*\.txt|azureml/executionlogs\.txt)$")
_TAIL = 1 << 18  # bytes of the end of a log in which its last lines are looked for
_MOST_TAILS = 8
_MOST_PAGES = 1_000  # five million points; a service that goes on after that does not mean it


@dataclass(frozen=True)
class MetricPoint:
    """One logged value of a metric."""

    name: str
    step: int
    value: float
    timestamp: int  # milliseconds since 1970, UTC


class Tracking:
    """Reads what runs of one workspace recorded.

    - **uri**: the workspace's ``mlflow_tracking_uri`` (``azureml://<host>/mlflow/v1.0/subscriptions/...``, or v2.0
      where azureml-mlflow is installed); the run-history service is on the same host.
    """

    def __init__(self, rest: Rest, uri: str) -> None:
        self._rest = rest
        base = text(uri, "workspace.mlflow_tracking_uri")
        base = base.replace("azureml://", "https://", 1).partition("?")[0].rstrip("/")
        host, *rest_of_it = re.split(r"/mlflow/v\d\.\d", base, maxsplit=1)
        if not rest_of_it or not host.startswith("https://"):
            what = f"The workspace's tracking URI is none of Azure ML's: {base[:200] or '(empty)'}."
            fix = "look at the workspace's `mlflow_tracking_uri`: azureml://<host>/mlflow/v1.0/subscriptions/..."
            raise ServiceError(what, where="workspace.mlflow_tracking_uri", fix=fix)
        self._mlflow = f"{base}/api/2.0/mlflow"
        self._host, self._workspace = host, rest_of_it[0]
        self._history = self.beside("history")

    def beside(self, service: str) -> str:
        """Return the address of another service of the workspace on the same host, ``history`` or ``data`` say."""
        return f"{self._host}/{service}/v1.0{self._workspace}"

    def metric_names(self, run_id: str) -> list[str]:
        """Return the names of all metrics a run has logged, sorted."""
        return sorted({text(metric.get("key"), "metric.key") for metric in self._data(run_id, "metrics")})

    def metric_history(self, run_id: str, name: str) -> list[MetricPoint]:
        """Return every logged value of one metric, in the order of logging."""
        return [point for _, points in self.metric_pages(run_id, name) for point in points]

    def metric_pages(
        self, run_id: str, name: str, page: str = "", size: int = _PAGE
    ) -> Iterator[tuple[str, list[MetricPoint]]]:
        """Yield the pages of a metric's history, each with its token, from one on; the first one's is empty.

        Points are added at the end, so that what was read before the last page stays as it is.

        - **size**: points a page; a token is good for pages of the same size.
        """
        query: dict[str, str | int] = {"run_id": run_id, "metric_key": name, "max_results": size}
        if page:
            query["page_token"] = page
        seen = {page}
        while len(seen) <= _MOST_PAGES:
            answer = _object(self._rest.get(f"{self._mlflow}/metrics/get-history", query), "the history")
            metrics = listed(answer.get("metrics") or (), "history.metrics")
            yield page, [_point(_object(metric, "metric")) for metric in metrics]
            page = text(answer.get("next_page_token") or "", "history.next_page_token")
            if not page:
                return
            if page in seen:
                why = "the service gave the same page token twice"
                break
            seen.add(page)
            query["page_token"] = page
        else:
            why = f"the service has more than {_MOST_PAGES:,} pages of it"
        fix = "run again; the metric is in the studio, on the job's page"
        raise ServiceError(f"The history of the metric {name} does not end: {why}.", where=f"metric {name}", fix=fix)

    def tags(self, run_id: str) -> dict[str, str]:
        """Return a run's tags."""
        tags = self._data(run_id, "tags")
        return {text(tag.get("key"), "tag.key"): text(tag.get("value") or "", "tag.value") for tag in tags}

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        """Write one tag of a run; the others stay as they are."""
        self._post(run_id, "set-tag", {"key": key, "value": value})

    def delete_tag(self, run_id: str, key: str) -> None:
        """Take one tag of a run away; one that is not there is no error."""
        with suppress(NotFound):
            self._post(run_id, "delete-tag", {"key": key})

    def _data(self, run_id: str, what: str) -> list[dict[str, Any]]:
        answer = _object(self._rest.get(f"{self._mlflow}/runs/get", {"run_id": run_id}), "the run")
        data = _object(_object(answer.get("run"), "run").get("data"), "run.data")
        return [_object(entry, what) for entry in listed(data.get(what) or (), f"run.data.{what}")]

    def _post(self, run_id: str, action: str, body: dict[str, str]) -> None:
        with azure_errors(f"run {run_id}"):  # a test's double of the calls may know none that writes
            answer = self._rest.post(f"{self._mlflow}/runs/{action}", {"run_id": run_id, **body})
        _object(answer, action)

    def error(self, run_id: str) -> str:
        """Return what the service says went wrong in a run, or an empty text."""
        error = _object(self._details(run_id).get("error"), "run.error")
        inner = _object(error.get("error"), "run.error.error") or error
        return redact(text(inner.get("message") or "", "run.error.message").strip())

    def log_files(self, run_id: str) -> dict[str, str]:
        """Return the logs of a run's own work by their names, each with an address that reads it for a while.

        A step has ``user_logs/std_log.txt``, or one for each process, ``std_log_process_00.txt``; a pipeline has
        ``logs/azureml/executionlogs.txt`` (azure-ai-ml 1.35.2, JobLogPattern). The service's own logs are left out.
        """
        files = _object(self._details(run_id).get("logFiles"), "run.logFiles")
        return {name: text(files[name], "run.logFiles") for name in sorted(files) if _OWN_LOG.search(name)}

    def read(self, address: str, start: int, most: int) -> Part:
        """Return at most so many bytes of a log, from one on."""
        part = self._rest.part(address, start, most)
        if not isinstance(part, Part):
            raise no_answer(part, "the log", "a part of it")
        return part

    def log_tails(self, run_id: str, lines: int = 30) -> list[str]:
        """Return the ends of a run's logs, of the first few of its processes; none where it has none."""
        return [self._tail(address, lines) for address in list(self.log_files(run_id).values())[:_MOST_TAILS]]

    def _tail(self, address: str, lines: int) -> str:
        part = self.read(address, 0, _TAIL)
        end, start = part.content, len(part.content)
        if part.total is not None and part.total > 2 * _TAIL:
            end, start = b"", part.total - _TAIL
        while part.content and (part.total is None or start < part.total):
            part = self.read(address, start, _TAIL)
            end, start = (end + part.content)[-_TAIL:], start + len(part.content)
        log = end.decode("utf-8", "replace").splitlines()
        # A little more is looked at than is shown: of a secret that is cut off nobody would know what it is.
        return "\n".join(redact("\n".join(log[-lines - _LONGEST_KEY :])).splitlines()[-lines:])

    def reused_steps(self, run_id: str) -> list[str]:
        """Return the steps of a pipeline's run that an earlier job's results stand for, by their names, one level down.

        They have the property ``azureml.isreused`` (Microsoft Learn, "How to debug pipeline reuse issues", read
        2026-11-30).
        """
        children = self._children(run_id)
        if len(children) <= 2:  # as for `FineTuneJob.steps`: the component's may lie one level down
            children |= {name: of for each in children for name, of in self._children(each).items()}
        return [name for name, properties in children.items() if properties.get("azureml.isreused") == "true"]

    def _children(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Return the runs below a run, each with its properties."""
        answer = _object(self._rest.get(f"{self._history}/runs/{run_id}/children"), "the run's children")
        children = [_object(child, "child") for child in listed(answer.get("value") or (), "children")]
        return {text(c.get("runId"), "child.runId"): _object(c.get("properties"), "child.properties") for c in children}

    def _details(self, run_id: str) -> dict[str, Any]:
        return _object(self._rest.get(f"{self._history}/runs/{run_id}/details"), "the run's details")


def _object(value: object, what: str) -> dict[str, Any]:
    """Return a JSON object of an answer; what is left out is an empty one."""
    return json_object(value or {}, what)


def _point(entry: dict[str, Any]) -> MetricPoint:
    return MetricPoint(
        text(entry.get("key"), "metric.key"),
        _number(entry.get("step") or 0, "metric.step", int),
        _number(entry.get("value"), "metric.value", float),
        _number(entry.get("timestamp") or 0, "metric.timestamp", int),
    )


def _number(value: object, what: str, kind: type[Number]) -> Number:
    """Return a number, which JSON's protocol buffers write as text where it is large or none, as NaN."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):  # NaN and infinity are numbers, but not whole ones
            return kind(float(value))
    raise no_answer(value, what, "a number")


def plain_number(value: float) -> float | str:
    """Return a number as JSON has it; what is no finite one is text, as in the JSON of protocol buffers."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
