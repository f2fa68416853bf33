"""What an endpoint's deployments have answered, as Azure Monitor counted it."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from phift.azure.answers import listed, mapping, text
from phift.azure.clients import Clients
from phift.errors import forgetting_locals

_API = "2023-10-01"  # Microsoft Learn, "Metrics - List", read 2026-11
_LONGEST_QUESTION = timedelta(days=1)
_LATE = 180.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The requests of one deployment in some minutes, live and mirrored ones.

    - **errors**: those that were not answered with a status of 200 to 299: the model's failures and time-outs, too many
      requests at once, and what the callers got wrong.
    - **p95_seconds**: the mean of what 95 % of the requests of a minute took at most, minutes weighted by their
      requests; None where there were none.
    """

    requests: int
    errors: int
    p95_seconds: float | None

    @property
    def error_rate(self) -> float:
        """The share of errors, 0 to 1; 0 where there were no requests."""
        return self.errors / self.requests if self.requests else 0.0


@forgetting_locals()
def read_traffic(clients: Clients, endpoint: str, since: datetime, until: datetime) -> dict[str, Traffic]:
    """Return what each deployment of an endpoint answered in whole minutes, by its name in small letters.

    Deployments without requests are not in it. The minute of ``since`` counts as a whole, and that of ``until``, unless
    it has just begun. Azure Monitor counts late, see `metrics_delay`: of the newest minutes it tells nothing.

    Metrics, dimensions and their one aggregation, Average, by the minute: Azure Monitor's table for
    ``Microsoft.MachineLearningServices/workspaces/onlineEndpoints`` (azure-ai-docs, include of 2024-07-30); that the
    average of a minute is the number of its requests, and that mirrored ones are counted, is unverified on Azure. The
    caller needs the role Reader. Raises what `phift.errors` has for the service's refusals.
    """
    codes: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    weights: dict[tuple[str, str], float] = defaultdict(float)
    slow: list[tuple[str, str, float]] = []
    start, until = since.astimezone(UTC).replace(second=0, microsecond=0), until.astimezone(UTC)
    while start < until:
        end = min(start + _LONGEST_QUESTION, until)
        for dimensions, time, value in _points(clients, endpoint, "RequestsPerMinute", start, end):
            deployment = dimensions.get("deployment", "")
            codes[deployment][dimensions.get("statuscodeclass", "")] += value
            weights[deployment, time] += value
        for dimensions, time, value in _points(clients, endpoint, "RequestLatency_P95", start, end):
            slow.append((dimensions.get("deployment", ""), time, value))
        start = end
    counted: dict[str, Traffic] = {}
    for deployment, classes in codes.items():
        requests, good = sum(classes.values()), sum(count for name, count in classes.items() if name.startswith("2"))
        if not deployment or not requests:  # none was found for them, or no minute has a value
            continue
        times = [(weights[name, time], value) for name, time, value in slow if name == deployment]
        weight = sum(each for each, _ in times)
        p95 = sum(each * value for each, value in times) / weight / 1000 if weight else None
        counted[deployment] = Traffic(requests=round(requests), errors=round(requests - good), p95_seconds=p95)
    return counted


def metrics_delay(clients: Clients) -> float:
    """Return after how many seconds a minute's metrics can be relied on.

    Azure Monitor has no value, or zero, for the newest two minutes or so (azure-libraries-for-net issue 499,
    2018-10-24); others who read it wait for five (Dynatrace, Azure Monitor metrics, 2025-10-31). A local workspace
    tells of the minute under way.
    """
    host = urlsplit(clients.rest.resource_manager).hostname or ""
    return 0.0 if host in ("127.0.0.1", "localhost") or host.endswith(".invalid") else _LATE


def _points(
    clients: Clients, endpoint: str, metric: str, start: datetime, end: datetime
) -> Iterator[tuple[dict[str, str], str, float]]:
    """Yield dimensions by their names, both in small letters as Azure may tell them, and each minute's value."""
    workspace = clients.workspace
    dimensions = ["deployment", "statusCodeClass"] if metric == "RequestsPerMinute" else ["deployment"]
    url = (
        f"{clients.rest.resource_manager}/subscriptions/{workspace.subscription_id}"
        f"/resourceGroups/{workspace.resource_group_name}/providers/Microsoft.MachineLearningServices"
        f"/workspaces/{workspace.workspace_name}/onlineEndpoints/{endpoint}/providers/Microsoft.Insights/metrics"
    )
    query = {
        "api-version": _API,
        "metricnames": metric,
        "aggregation": "Average",
        "interval": "PT1M",
        "timespan": f"{start:%Y-%m-%dT%H:%M:%S.%fZ}/{end:%Y-%m-%dT%H:%M:%S.%fZ}",
        "$filter": " and ".join(f"{dimension} eq '*'" for dimension in dimensions),
    }
    place = f"metrics of endpoint {endpoint}"
    answer = clients.rest.get(url, query)
    for told in listed(answer.get("value") or (), place):
        for series in listed(mapping(told).get("timeseries") or (), place):
            named = {_name(each): text(each["value"], place).lower() for each in series.get("metadatavalues") or ()}
            for point in series.get("data") or ():
                value = point.get("average")
                if isinstance(value, int | float) and 0 < value <= sys.float_info.max:
                    yield named, str(point.get("timeStamp")), float(value)


def _name(dimension: dict[str, Any]) -> str:
    return str(mapping(dimension.get("name")).get("value") or "").lower()
