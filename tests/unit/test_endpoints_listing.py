"""What phift has deployed in a workspace, listed with what it costs."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

import phift
from phift.cli.commands import main
from phift.errors import AccessDenied, NotFound
from phift.serving.price import Machines, machines_of
from unit.fakes import A100, FOUR_A100, Fakes

NOW = datetime.now(UTC) - timedelta(minutes=1)  # so that in words no seconds are told


def priced(**prices: float) -> list[Any]:
    """Return VM sizes as the region lists them, with what each costs an hour."""

    def listed(price: float) -> Any:
        values = [{"retailPrice": price, "osType": "Linux", "vmTier": "Standard"}]
        return {"billingCurrency": "USD", "unitOfMeasure": "OneHour", "values": values}

    return [{"name": name, "estimatedVMPrices": listed(price)} for name, price in prices.items()]


@pytest.fixture
def fakes() -> Fakes:
    """A workspace with an endpoint of yesterday that has expired, one of today and one of an older phift."""
    fakes = Fakes()
    fakes.workspace.compute.sizes = priced(**{A100: 2.0})

    def add(name: str, age: timedelta, **tags: str) -> None:
        created = (NOW - age).isoformat(timespec="microseconds")
        fakes.add_endpoint(name, tags={"phift.job": f"job-{name}", "phift.created": created, **tags})

    add("phift-old", timedelta(days=2), **{"phift.expires": (NOW - timedelta(days=1)).isoformat()})
    add("phift-new", timedelta(hours=1), **{"phift.expires": "never", "phift.owner": "ada", "phift.model": "m:1"})
    fakes.add_endpoint("phift-older")
    fakes.add_endpoint("strange", tags={})
    for endpoint in ("phift-old", "phift-new"):
        fakes.add_deployment("default", endpoint, "m")
    fakes.workspace.online_endpoints.known["phift-new"].traffic = {"default": 100}
    points = [{"timeStamp": NOW.isoformat(), "average": 12.0}]
    dimension = {"name": {"value": "deployment"}, "value": "default"}
    series = {"metadatavalues": [dimension], "data": points}
    fakes.rest.on({"value": [{"timeseries": [series]}]}, "/phift-new/", "RequestsPerMinute")
    fakes.rest.on(AccessDenied("no right"), "/phift-old/", "RequestsPerMinute")
    return fakes


def test_what_is_ours_is_listed_newest_first_with_what_it_costs(fakes: Fakes) -> None:
    found = phift.endpoints(fakes.clients)
    assert [each.name for each in found] == ["phift-new", "phift-old", "phift-older"]
    new, old, older = found
    assert (new.job, new.model, new.owner, new.expires) == ("job-phift-new", "m:1", "ada", "never")
    assert (new.machines, new.traffic) == ({"default": Machines(A100.upper(), 1)}, {"default": 100})
    assert new.price_per_day == old.price_per_day == pytest.approx(48)
    assert (new.requests, old.requests, older.requests) == (12, None, 0)  # of the second one nobody may know it
    assert (new.has_expired, old.has_expired, older.has_expired) == (False, True, False)
    assert (older.owner, older.created, older.expires, older.age, older.price_per_day) == ("", None, None, None, 0)
    assert found.price_per_day == pytest.approx(96)


def test_the_list_is_a_table_for_people(fakes: Fakes) -> None:
    lines = str(phift.endpoints(fakes.clients)).splitlines()
    assert lines[0].split() == ["endpoint", "age", "expires", "requests", "USD", "a", "day"]
    assert re.fullmatch(r"phift-new +1 h( \d+ min)? +never +12 +48\.00", lines[1])
    assert lines[2] == f"    model m:1; job job-phift-new; default 100 % (1 x {A100.upper()}); of ada"
    assert re.search(r"expired 1 d( \d+ h)? ago", lines[3])
    assert lines[6] == "    job job; no deployment"
    assert lines[7] == "3 endpoints in the workspace workspace: 96.00 USD a day; 1 expired: phift endpoints prune"


def test_a_notebook_and_a_frame_show_it_too(fakes: Fakes) -> None:
    found = phift.endpoints(fakes.clients)
    assert found._repr_html_().count("<tr>") == 4
    frame = found.frame()
    assert list(frame["name"]) == ["phift-new", "phift-old", "phift-older"]
    assert frame["expires"].isna().tolist() == [True, False, True]
    assert frame["has_expired"].tolist() == [False, True, False]
    assert frame["price_per_day"].sum() == pytest.approx(96)
    fakes.workspace.online_endpoints.known.clear()
    assert phift.endpoints(fakes.clients).frame().empty


def test_a_price_that_is_not_known_is_none(fakes: Fakes) -> None:
    fakes.workspace.online_deployments.known["phift-old", "default"].instance_type = FOUR_A100
    found = phift.endpoints(fakes.clients)
    assert found[1].price_per_day is None
    assert found.summary.endswith(
        "48.00 USD a day, and 1 at a price that is not known; 1 expired: phift endpoints prune"
    )
    assert phift.endpoints(fakes.clients, prices={FOUR_A100: 10})[1].price_per_day == pytest.approx(240)


def test_an_endpoint_that_goes_while_it_is_listed_is_not_in_the_list(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(clients: Any, name: str) -> dict[str, Machines]:
        if name == "phift-old":
            raise NotFound("It is gone.")
        return machines_of(clients, name)

    monkeypatch.setattr("phift.serving.listing.machines_of", gone)
    assert [each.name for each in phift.endpoints(fakes.clients)] == ["phift-new", "phift-older"]


def test_the_command_prints_the_same_and_json(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.azure.connect.connect", lambda *_args, **_options: fakes.clients)
    runner = CliRunner()
    said = runner.invoke(main, ["endpoints", "--workspace", "a/b/c"])
    assert said.output == f"{phift.endpoints(fakes.clients)}\n"
    assert runner.invoke(main, ["endpoints", "list", "--workspace", "a/b/c"]).output == said.output
    rows = json.loads(runner.invoke(main, ["endpoints", "--workspace", "a/b/c", "--json"]).stdout)
    assert rows[0]["machines"] == {"default": {"size": A100.upper(), "count": 1}}
    assert (rows[0]["expires"], rows[2]["expires"], rows[1]["has_expired"]) == ("never", None, True)
    assert runner.invoke(main, ["endpoints", "prunne", "--workspace", "a/b/c"]).exit_code == 2
