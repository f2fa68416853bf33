"""What phift has made in a workspace, listed."""

from __future__ import annotations

import json
import time
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import phift
from phift.azure.clients import Clients
from phift.errors import ConfigError
from phift.jobs.events import StatusChanged
from phift.jobs.job import FineTuneJob
from phift.run.listing import RunSummary, _Prices
from phift.testing import Fault, TestWorkspace
from unit import given
from unit.fakes import PHI_4, write_rows

TAGS = {"phift.fingerprint": "0123456789ab", "phift.base_model": PHI_4, "phift.data": "a" * 64}
HALF_PAST_TEN = datetime(2026, 11, 30, 10, 30, tzinfo=UTC)


def submit(workspace: TestWorkspace, name: str, record: Any = None, **properties: Any) -> None:
    kept = {"phift.record.0": json.dumps(record)} if record is not None else {}
    given.job(workspace, name, **{"tags": TAGS, "properties": kept, **properties})


def configuration(**changes: Any) -> dict[str, Any]:
    compute = {"cluster": "gpu-cluster", "serverless": None, "nodes": 2, "low_priority": False, **changes}
    return {"data_name": "rivers", "configuration": {"compute": compute, "data": {"prepare_on": None}}}


def asked(workspace: TestWorkspace, before: int) -> list[str]:
    """Return what was asked for, without what the SDK's own client looks up once: a token, and the workspace."""
    own = ("GET msi/token", "GET workspace")
    operations = [entry.operation for entry in workspace.requests()[before:]]
    assert operations.count("GET workspace") <= 3
    return sorted(operation for operation in operations if operation not in own)


def test_a_run_is_listed_with_all_that_became_of_it(clients: Clients, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", 30)
    config = phift.RunConfig(
        model="Phi-4-mini-instruct",
        compute="gpu-cluster",
        data={"train": tmp_path / "train.jsonl"},
        work_dir=tmp_path / "work",
    )
    run = phift.FineTuneRun(config, clients)
    run.submit()
    run.wait()
    model, endpoint = run.register(), run.deploy()
    (found,) = phift.runs(clients)
    assert (found.name, found.state, found.experiment) == (run.job.name, "Completed", "phift")
    assert (found.model, found.data, found.created_by) == ("Phi-4-mini-instruct:1", "train", "local user")
    assert found.data_hash == run.record.data_hash
    assert (found.registered, found.endpoints) == (f"{model.name}:{model.version}", (endpoint.name,))
    assert found.created is not None
    assert found.started is not None
    assert found.ended is not None
    assert found.created <= found.started <= found.ended
    assert found.cost is not None
    assert found.cost >= 0


def test_a_list_takes_as_many_requests_as_it_has_pages(workspace: TestWorkspace, clients: Clients) -> None:
    for number in range(120):
        submit(workspace, f"job-{number}", configuration())
        if number % 10 == 0:
            given.job(workspace, f"of-somebody-{number}")
    FineTuneJob("job-119", clients).wait()
    before = len(workspace.requests())
    found = phift.runs(clients)
    assert [each.name for each in found] == [f"job-{number}" for number in reversed(range(120))]
    others = ["GET computes", "GET locations/{location}/vmSizes", "GET models/{name}/versions", "GET onlineEndpoints"]
    assert asked(workspace, before) == sorted([*others, *3 * ["GET jobs"]])
    before = len(workspace.requests())
    found = phift.runs(clients, limit=30)
    assert (len(found), found.more) == (30, True)
    assert asked(workspace, before) == sorted([*others, "GET jobs"])


def test_no_job_is_left_out_where_the_service_does_not_list_the_newest_first(
    workspace: TestWorkspace, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        submit(workspace, f"job-{number}")
    newest_first = list(clients.workspace.jobs.list())

    class Pages(list[Any]):
        def by_page(self) -> list[list[Any]]:
            return [newest_first[2:4][::-1], newest_first[:2], newest_first[4:]]

    monkeypatch.setattr(clients.workspace.jobs, "list", lambda **_options: Pages())
    assert [each.name for each in phift.runs(clients, limit=1)] == ["job-5"]


def test_a_thousand_jobs_are_listed_within_seconds(
    workspace: TestWorkspace, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {f"parameter {number}": f"value {number}" for number in range(50)}
    submit(workspace, "job", {"texts": texts, **configuration()})
    (job,) = clients.workspace.jobs.list()
    jobs = []
    for number in range(1000):
        jobs.append(copy(job))
        jobs[-1].name = f"job-{number}"
    monkeypatch.setattr(clients.workspace.jobs, "list", lambda **_options: jobs)
    begun = time.thread_time()
    assert len(phift.runs(clients)) == 1000
    assert time.thread_time() - begun < 5


def test_jobs_are_chosen_by_state_and_experiment(workspace: TestWorkspace, clients: Clients) -> None:
    submit(workspace, "rivers", experimentName="rivers")
    submit(workspace, "lakes", experimentName="lakes")
    submit(workspace, "archived")
    for name in ("rivers", "lakes", "archived"):
        FineTuneJob(name, clients).wait()
    clients.workspace.jobs.archive("archived")

    def names(**options: Any) -> list[str]:
        return [each.name for each in phift.runs(clients, **options)]

    assert names() == ["lakes", "rivers"]
    assert names(experiment="rivers") == ["rivers"]
    assert names(state="completed") == ["lakes", "rivers"]
    assert names(state=["Failed", "Canceled"]) == []
    assert names(state="Completed", limit=1) == ["lakes"]
    assert names(archived=True) == ["archived", "lakes", "rivers"]


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_a_mistake(clients: Clients, limit: int) -> None:
    with pytest.raises(ConfigError, match="limit"):
        phift.runs(clients, limit=limit)


@pytest.mark.parametrize(
    "broken",
    [
        {"tags": {"phift.fingerprint": "x"}},
        {"tags": {**TAGS, "phift.base_model": "no address"}},
        {"properties": {"phift.record.0": "{"}},
        {"properties": {"phift.record.0": "[]"}},
        {"properties": {"phift.record.0": '{"serving": 3, "configuration": [], "data_name": {}}'}},
        {"properties": {"phift.record.0": '{"serving": {"sizes": 1}, "configuration": {"compute": 1, "data": 2}}'}},
        {"properties": {"phift.record.0": '{"configuration": {"compute": {"cluster": 7, "nodes": "two"}}}'}},
    ],
)
def test_a_broken_record_is_listed_with_what_is_known(
    workspace: TestWorkspace, clients: Clients, broken: dict[str, Any]
) -> None:
    submit(workspace, "job", **broken)
    FineTuneJob("job", clients).wait()
    (found,) = phift.runs(clients)
    assert (found.name, found.state, found.cost) == ("job", "Completed", None)
    assert str(phift.runs(clients))


@pytest.mark.parametrize("stages", ["{", "[]", '{"Execution": null}', '{"Execution": {"StartTime": 3}}'])
def test_times_that_nobody_understands_are_unknown(
    workspace: TestWorkspace, clients: Clients, monkeypatch: pytest.MonkeyPatch, stages: str
) -> None:
    submit(workspace, "job", configuration())
    FineTuneJob("job", clients).wait()
    (job,) = clients.workspace.jobs.list()
    job.properties["azureml.pipelines.stages"] = stages
    monkeypatch.setattr(clients.workspace.jobs, "list", lambda **_options: [job])
    (found,) = phift.runs(clients)
    assert (found.started, found.ended, found.duration, found.cost) == (None, None, None, None)


def test_a_cost_that_is_not_known_is_none(workspace: TestWorkspace, clients: Clients) -> None:
    prices, hours = _Prices.of(clients), timedelta(hours=3)
    later = datetime.now(UTC) + hours  # the cluster was made when the workspace was

    def cost(started: datetime = later, prepare_on: str | None = None, **compute: Any) -> float | None:
        record = configuration(**compute)["configuration"]
        return prices.cost({**record, "data": {"prepare_on": prepare_on}}, started, started + hours)

    hourly = prices.sizes["standard_nc24ads_a100_v4"].price_per_hour
    assert hourly is not None
    assert cost() == pytest.approx(3 * 2 * hourly)
    assert cost(cluster="GPU-cluster") == cost()
    assert cost(cluster=None, serverless="Standard_NC24ads_A100_v4", nodes=1) == pytest.approx(3 * hourly)
    assert cost(cluster="gone") is None
    assert cost(serverless="Standard_Unheard_Of") is None
    assert cost(low_priority=True) is None
    assert cost(nodes=None) is None
    assert cost(prepare_on="cpu-cluster") is None
    assert cost(started=HALF_PAST_TEN - timedelta(days=3650)) is None, "the cluster was not there yet"


@pytest.mark.parametrize("place", ["GET computes", "GET locations/*/vmSizes"])
def test_where_prices_cannot_be_read_the_rest_is_listed(workspace: TestWorkspace, clients: Clients, place: str) -> None:
    submit(workspace, "job", configuration())
    FineTuneJob("job", clients).wait()
    workspace.order(Fault(on=place, status=403, times=None))
    (found,) = phift.runs(clients)
    assert (found.name, found.cost) == ("job", None)


def summary(**changes: Any) -> RunSummary:
    values: dict[str, Any] = {
        "name": "job",
        "state": "Completed",
        "experiment": "phift",
        "model": "Phi-4:8",
        "data": "rivers",
        "data_hash": "0123456789abcdef",
        "created": HALF_PAST_TEN,
        "created_by": "Somebody",
        "started": HALF_PAST_TEN,
        "ended": HALF_PAST_TEN + timedelta(hours=2, minutes=5),
        "cost": 1234.5,
        "registered": "phi-4-finetuned:1",
        "endpoints": ("phift-1", "phift-2"),
    }
    return RunSummary(**{**values, **changes})


NOTHING = summary(
    model="", data="", data_hash="", created=None, started=None, ended=None, cost=None, registered="", endpoints=()
)


def test_runs_are_shown_in_two_lines_each() -> None:
    assert str(phift.Runs((summary(), NOTHING), "workspace", more=True)).splitlines() == [
        "job  state      submitted         took",
        "job  Completed  2026-11-30 10:30  2 h 5 min",
        "    Phi-4:8 on rivers; 1,234.50 USD; model phi-4-finetuned:1; endpoint phift-1; endpoint phift-2",
        "job  Completed  ?                 ?",
        "    ? on ?",
        "2 jobs in the workspace workspace, and older ones",
    ]
    assert str(phift.Runs((), "workspace")) == "There is no such job of phift's in the workspace workspace."


def test_a_notebook_shows_a_table() -> None:
    shown = phift.Runs((summary(), NOTHING), "workspace")._repr_html_()
    assert shown.count("<tr>") == 3
    assert "<td>1,234.50 USD</td><td>phi-4-finetuned:1</td><td>phift-1, phift-2</td></tr>" in shown
    assert "<td>?</td><td>-</td><td>-</td></tr>" in shown
    assert phift.Runs((), "workspace")._repr_html_().startswith("<p>There is no such job")


def test_the_texts_of_others_are_shown_as_they_are() -> None:
    hostile = "<script>[red]\x1b[31m\n"
    found = phift.Runs((summary(data=hostile, state=hostile, endpoints=(hostile,)),), hostile)
    assert "<script>" not in found._repr_html_()
    assert "\x1b" not in str(found) + found._repr_html_()
    assert len(str(found).splitlines()) == 4


def test_no_secret_that_somebody_put_into_a_tag_is_shown(workspace: TestWorkspace, clients: Clients) -> None:
    secret = "password=hunter22"
    submit(workspace, "job", {"data_name": secret}, experimentName="phift", displayName=secret)
    found = phift.runs(clients)
    assert "hunter22" not in str(found) + repr(found) + found._repr_html_() + json.dumps(found[0].to_dict())


def test_the_frame_has_times_durations_and_numbers() -> None:
    frame = phift.Runs((summary(), NOTHING), "workspace").frame()
    assert [str(frame[name].dtype) for name in ("started", "duration", "cost")] == [
        "datetime64[ns, UTC]",
        "timedelta64[ns]",
        "float64",
    ]
    assert frame["duration"][0] == timedelta(hours=2, minutes=5)
    assert frame["cost"].isna().tolist() == [False, True]
    assert frame["endpoints"][0] == ("phift-1", "phift-2")
    assert phift.Runs((), "workspace").frame().columns.tolist() == frame.columns.tolist()


def test_when_a_job_began_is_known_while_it_runs(workspace: TestWorkspace, clients: Clients) -> None:
    workspace.order(Fault(on="step chat_completion_finetune", status=500, delay=3600))
    submit(workspace, "job", configuration())
    for event in FineTuneJob("job", clients).follow():
        if isinstance(event, StatusChanged) and event.status == "Running":
            break
    (found,) = phift.runs(clients)
    assert (found.state, found.ended, found.cost) == ("Running", None, None)
    assert found.duration is not None


def test_a_running_job_has_lasted_until_now() -> None:
    running = summary(state="Running", started=datetime.now(UTC) - timedelta(minutes=10), ended=None)
    assert running.duration is not None
    assert timedelta(minutes=10) <= running.duration < timedelta(minutes=11)
    assert summary(state="Failed", ended=None).duration is None


def test_a_summary_as_plain_values_is_json() -> None:
    values = json.loads(json.dumps(summary().to_dict()))
    assert values["started"] == "2026-11-30T10:30:00+00:00"
    assert (values["duration"], values["endpoints"]) == (7500.0, ["phift-1", "phift-2"])
    assert json.loads(json.dumps(NOTHING.to_dict()))["duration"] is None
