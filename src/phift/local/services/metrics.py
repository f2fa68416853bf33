"""Azure Monitor's metrics of an endpoint: how many requests its deployments answered, how, and how fast."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from phift.local.names import LOCATION, WORKSPACE_ID
from phift.local.services.route import Route
from phift.local.site import Site
from phift.local.state.documents import Json
from phift.local.state.traffic import Minute
from phift.local.wire import Call, Reply, WireError, existing

_NAMESPACE = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints"
_MOST_MINUTES = 31 * 24 * 60  # of one question; the number is ours
_Values = Callable[[Minute], Iterator[tuple[tuple[str, ...], float]]]


def _requests(minute: Minute) -> Iterator[tuple[tuple[str, ...], float]]:
    for codes, count in minute.answered.items():
        yield (str(codes.status), f"{codes.status // 100}xx", str(codes.of_model)), count


def _percentile(share: float) -> _Values:
    def value(minute: Minute) -> Iterator[tuple[tuple[str, ...], float]]:
        if times := sorted(minute.milliseconds):
            yield (), times[max(0, math.ceil(share * len(times)) - 1)]

    return value


def _mean(minute: Minute) -> Iterator[tuple[tuple[str, ...], float]]:
    if minute.milliseconds:
        yield (), sum(minute.milliseconds) / len(minute.milliseconds)


# Of the metrics of Microsoft.MachineLearningServices/workspaces/onlineEndpoints those that are about answers: unit,
# dimensions besides the deployment, aggregation Average, time grain PT1M (Azure Monitor's supported metrics,
# azure-ai-docs include of 2024-07-30).
_METRICS: dict[str, tuple[str, tuple[str, ...], _Values]] = {
    "RequestsPerMinute": ("Count", ("statusCode", "statusCodeClass", "modelStatusCode"), _requests),
    "RequestLatency": ("MilliSeconds", (), _mean),
    **{f"RequestLatency_P{share}": ("MilliSeconds", (), _percentile(share / 100)) for share in (50, 90, 95, 99)},
}


def _metrics(site: Site, call: Call) -> Reply:
    """Answer as "Metrics - List" does (Microsoft Learn, REST API 2023-10-01, read 2026-11).

    A minute without requests has a time and no value, as in that page's example; at Azure the newest ones have none
    either, for some minutes. Here they are there at once.
    """
    endpoint = existing(site, f"onlineEndpoints/{call['endpoint']}", "online endpoint")
    first, end = _minutes(call.query.get("timespan", ""))
    if call.query.get("interval", "PT1M").upper() != "PT1M":
        raise _refused("The local workspace has metrics for an interval of PT1M only.")
    if call.query.get("aggregation", "average").lower() != "average":
        raise _refused("The metrics of online endpoints have the aggregation Average only.")
    known = {name.lower(): name for name in _METRICS}
    asked = [each.strip() for each in call.query.get("metricnames", "").split(",")]
    if unknown := [name for name in asked if name.lower() not in known]:
        message = f"Failed to find metric configuration for {', '.join(unknown)}. Valid metrics: {','.join(_METRICS)}"
        raise _refused(message)
    wanted = _filter(call.query.get("$filter", ""))
    minutes = list(site.traffic.minutes(endpoint.name, first, end))
    at = f"{WORKSPACE_ID}/{endpoint.key}/providers/Microsoft.Insights/metrics"
    shown = [_show(at, known[name.lower()], minutes, wanted, range(first, end)) for name in asked]
    answer = {
        "cost": len(asked) * (end - first),
        "timespan": f"{_stamp(first)}/{_stamp(end)}",
        "interval": "PT1M",
        "value": shown,
        "namespace": _NAMESPACE,
        "resourceregion": LOCATION,
    }
    return Reply(answer)


def _show(
    at: str, name: str, minutes: list[tuple[int, str, Minute]], wanted: dict[str, set[str] | None], span: range
) -> Json:
    unit, dimensions, values = _METRICS[name]
    places = {each.lower(): place for place, each in enumerate(("deployment", *dimensions))}
    if unknown := wanted.keys() - places.keys():
        raise _refused(f"Dimension {', '.join(sorted(unknown))} is not supported for metric {name}.")
    found: defaultdict[tuple[str, ...], dict[int, list[float]]] = defaultdict(dict)
    for minute, deployment, answered in minutes:
        for more, value in values(answered):
            told = (deployment, *more)
            if all(good is None or told[places[name]].lower() in good for name, good in wanted.items()):
                series = tuple(told[places[name]] for name in wanted)
                found[series].setdefault(minute, []).append(value)
    merge = sum if unit == "Count" else lambda several: sum(several) / len(several)
    told_series = [
        {
            "metadatavalues": [
                {"name": {"value": dimension, "localizedValue": dimension}, "value": value}
                for dimension, value in zip(wanted, series, strict=True)
            ],
            "data": [
                {"timeStamp": _stamp(minute), **({"average": merge(data[minute])} if minute in data else {})}
                for minute in span
            ],
        }
        for series, data in found.items()
    ]
    return {
        "id": f"{at}/{name}",
        "type": "Microsoft.Insights/metrics",
        "name": {"value": name, "localizedValue": name},
        "unit": unit,
        "timeseries": told_series,
        "errorCode": "Success",
    }


def _minutes(timespan: str) -> tuple[int, int]:
    """Return the first minute of a timespan ``start/end``, and the one after its last."""
    try:
        start, end = (datetime.fromisoformat(each).astimezone(UTC).timestamp() for each in timespan.split("/"))
        first, after = int(start // 60), math.ceil(end / 60)
    except (ValueError, OverflowError) as error:
        raise _refused("The timespan is not two times with a slash between them.") from error
    if not 0 < after - first <= _MOST_MINUTES:
        raise _refused(f"The timespan must have 1 to {_MOST_MINUTES} minutes.")
    return first, after


def _filter(text: str) -> dict[str, set[str] | None]:
    """Return the dimensions that a ``$filter`` names in small letters, each with the wanted values; None for all."""
    wanted: dict[str, set[str] | None] = {}
    for part in re.split(r"\s+and\s+", text.strip(), flags=re.IGNORECASE) if text.strip() else ():
        values: set[str] = set()
        names: set[str] = set()
        for each in re.split(r"\s+or\s+", part.strip("() "), flags=re.IGNORECASE):
            found = re.fullmatch(r"(\w+)\s+eq\s+'([^']*)'", each.strip("() "), re.IGNORECASE)
            if not found:
                raise _refused("The filter is not made of conditions such as: deployment eq '*'.")
            names.add(found[1].lower())
            values.add(found[2].lower())
        if len(names) > 1:
            raise _refused("The logical or operator cannot separate two different dimensions.")
        wanted[names.pop()] = None if "*" in values else values
    return wanted


def _stamp(minute: int) -> str:
    return f"{datetime.fromtimestamp(minute * 60, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _refused(message: str) -> WireError:
    return WireError(400, "BadRequest", message)


ROUTES = [Route("GET onlineEndpoints/{endpoint}/providers/Microsoft.Insights/metrics", _metrics)]
