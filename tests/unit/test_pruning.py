"""Endpoints that nobody needs any more, deleted after asking."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result

import phift
from phift import Endpoint
from phift.azure.clients import Clients
from phift.cli.commands import main
from phift.errors import ConfigError, NotFound
from phift.serving.deployment import deploy_model
from phift.serving.resource import CREATED, DeploymentEvent
from phift.serving.rollout_state import STATE, State
from phift.testing import Fault, TestWorkspace
from unit import given
from unit.fakes import A100

PHI = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"


def deploy(clients: Clients, name: str, *, hours: float = 48, expires: str = "24h", **options: Any) -> Endpoint:
    """Deploy what looks as if it had been deployed some hours ago."""
    made = deploy_model(clients, PHI, name=name, size=A100, config={"expires": expires}, **options)
    tags = dict(clients.workspace.online_endpoints.get(name).tags)
    past = timedelta(hours=hours)
    tags[CREATED] = (datetime.now(UTC) - past).isoformat(timespec="microseconds")
    if expires != "never":
        tags["phift.expires"] = (datetime.fromisoformat(tags["phift.expires"]) - past).isoformat(timespec="seconds")
    change(clients, name, tags)
    return made


def change(clients: Clients, name: str, tags: dict[str, str]) -> None:
    found = clients.workspace.online_endpoints.get(name)
    found.tags = tags
    clients.workspace.online_endpoints.begin_create_or_update(found).result()


def names(clients: Clients) -> set[str]:
    return {each.name for each in clients.workspace.online_endpoints.list()}


@pytest.fixture
def three(clients: Clients) -> Clients:
    """Clients of a workspace with an endpoint that has expired, one that is new, and one that is old and wanted."""
    deploy(clients, "phift-expired")
    deploy(clients, "phift-new", hours=1)
    deploy(clients, "phift-wanted", hours=100, expires="never")
    return clients


def test_what_has_expired_is_deleted(three: Clients) -> None:
    done = phift.prune_endpoints(three)
    assert (done.deleted, dict(done.spared), dict(done.failed)) == (("phift-expired",), {}, {})
    assert names(three) == {"phift-new", "phift-wanted"}
    assert str(done) == "deleted endpoint phift-expired"
    assert str(phift.prune_endpoints(three)) == "There is no endpoint to delete."


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"older_than": "8h"}, {"phift-expired", "phift-wanted"}),
        ({"older_than": timedelta(hours=60)}, {"phift-wanted"}),
        ({"older_than": "60h", "expired": True}, {"phift-expired", "phift-wanted"}),
        ({"names": ["phift-new"]}, {"phift-new"}),
        ({"names": ["phift-new", "phift-wanted"], "older_than": "2h"}, {"phift-wanted"}),
        ({"names": ["phift-new"], "expired": True}, set()),
        ({"older_than": "8h", "dry_run": True}, set()),
        ({"older_than": "8h", "confirm": lambda _found: False}, set()),
    ],
)
def test_what_is_meant_can_be_said(three: Clients, options: dict[str, Any], gone: set[str]) -> None:
    before = names(three)
    done = phift.prune_endpoints(three, **options)
    assert set(done.deleted) == gone
    assert names(three) == before - gone


def test_whoever_is_asked_sees_what_it_costs(three: Clients) -> None:
    asked: list[phift.Pruned] = []

    def confirm(found: phift.Pruned) -> bool:
        asked.append(found)
        return False

    phift.prune_endpoints(three, older_than="8h", confirm=confirm)
    assert asked[0].chosen.price_per_day == pytest.approx(2 * 88.08, abs=0.01)


def test_what_phift_did_not_make_and_what_does_not_say_its_age_stay(clients: Clients) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    for name, tags in (("strange", {}), ("phift-older", {"phift.job": "job"})):
        made = ManagedOnlineEndpoint(name=name, auth_mode="key", tags=tags)
        clients.workspace.online_endpoints.begin_create_or_update(made).result()
    phift.prune_endpoints(clients, older_than="1m", expired=True)
    assert names(clients) == {"strange", "phift-older"}
    with pytest.raises(NotFound, match=r"(?s)no endpoint strange.*made here: phift-older"):
        phift.prune_endpoints(clients, ["strange"])
    phift.prune_endpoints(clients, ["phift-older"])
    assert names(clients) == {"strange"}


def test_what_was_asked_in_the_last_hour_goes_only_by_its_name(clients: Clients) -> None:
    deploy(clients, "phift-busy").chat("Are you busy?")
    done = phift.prune_endpoints(clients)
    assert done.spared == {"phift-busy": "was asked 1 times in the last hour; name it to delete it"}
    assert names(clients) == {"phift-busy"}
    assert phift.prune_endpoints(clients, ["phift-busy"]).deleted == ("phift-busy",)


def test_what_may_be_in_use_for_all_one_knows_goes_only_by_its_name(workspace: TestWorkspace, clients: Clients) -> None:
    deploy(clients, "phift-unknown")
    workspace.order(Fault("GET */providers/microsoft.insights/metrics", status=403, times=None))
    done = phift.prune_endpoints(clients)
    assert "its requests cannot be read" in done.spared["phift-unknown"]
    assert phift.prune_endpoints(clients, ["phift-unknown"]).deleted == ("phift-unknown",)


def test_what_is_used_in_a_block_stays(workspace: TestWorkspace, clients: Clients) -> None:
    given.job(workspace, "job")
    with deploy(clients, "phift-used", job="job") as endpoint:
        done = phift.prune_endpoints(clients)
        assert done.spared == {"phift-used": "is used in a block, or being deployed"}
        assert endpoint.chat("Are you there?")
    assert names(clients) == set()


@pytest.mark.parametrize("begins", ["before", "after the question"])
def test_what_has_a_rollout_under_way_goes_only_by_its_name(clients: Clients, begins: str) -> None:
    deploy(clients, "phift-rolling")

    def begin(_found: phift.Pruned | None = None) -> bool:
        state = State(model="m", old="default", new="green", steps=(50, 100), soak=1, phase="serving")
        change(clients, "phift-rolling", {**tags, STATE: state.written()})
        return True

    tags = dict(clients.workspace.online_endpoints.get("phift-rolling").tags)
    if begins == "before":
        begin()
    done = phift.prune_endpoints(clients, confirm=begin)
    what = "A rollout is under way at the endpoint phift-rolling (serving)."
    assert done.spared == {"phift-rolling": f"may be in use: {what} Name it to delete it"}
    assert names(clients) == {"phift-rolling"}
    assert phift.prune_endpoints(clients, ["phift-rolling"]).deleted == ("phift-rolling",)


def test_what_is_parked_costs_nothing_and_stays(clients: Clients) -> None:
    deploy(clients, "phift-parked").park()
    assert phift.prune_endpoints(clients).spared == {"phift-parked": "is parked, and costs nothing"}
    assert phift.prune_endpoints(clients, ["phift-parked"]).deleted == ("phift-parked",)


def test_what_was_deployed_again_meanwhile_stays(clients: Clients) -> None:
    deploy(clients, "phift-again")

    def again(_found: phift.Pruned) -> bool:
        deploy_model(clients, PHI, name="phift-again", size=A100)
        return True

    done = phift.prune_endpoints(clients, confirm=again)
    assert done.spared == {"phift-again": "was deployed again meanwhile"}
    assert names(clients) == {"phift-again"}


@pytest.mark.parametrize("change", [{}, {"instance_count": 2}])
def test_what_was_deployed_again_meanwhile_stays_whatever_its_expiry(
    workspace: TestWorkspace, clients: Clients, change: dict[str, Any]
) -> None:
    """It never expires, so that deploying it again does not change when it does."""
    job = None if change else "job"
    if job:
        given.job(workspace, job)
    deploy(clients, "phift-again", expires="never", job=job)

    def again(_found: phift.Pruned) -> bool:
        deploy_model(clients, PHI, name="phift-again", size=A100, config={"expires": "never", **change}, job=job)
        return True

    done = phift.prune_endpoints(clients, older_than="8h", confirm=again)
    assert done.spared == {"phift-again": "was deployed again meanwhile"}
    assert names(clients) == {"phift-again"}


def test_what_somebody_else_deletes_first_is_gone(clients: Clients) -> None:
    endpoint = deploy(clients, "phift-gone")

    def first(_found: phift.Pruned) -> bool:
        endpoint.delete()
        return True

    assert phift.prune_endpoints(clients, confirm=first).deleted == ("phift-gone",)


def test_one_that_cannot_be_deleted_stops_no_other_and_is_named_with_its_price(
    workspace: TestWorkspace, clients: Clients
) -> None:
    for name in ("phift-a", "phift-b", "phift-c"):
        deploy(clients, name)
    workspace.order(Fault("DELETE onlineEndpoints/phift-b", status=409, code="ScopeLocked", message="It is locked."))
    done = phift.prune_endpoints(clients)
    assert set(done.deleted) == {"phift-a", "phift-c"}
    cost = "is still up and costs money: 88.08 USD a day, used or not, for 1 x"
    assert done.failed["phift-b"].startswith(f"The endpoint phift-b {cost} {A100}. Its deletion failed: ")
    assert "lock" in done.failed["phift-b"]
    assert json.loads(json.dumps(done.to_dict()))["failed"] == dict(done.failed)
    assert phift.prune_endpoints(clients).deleted == ("phift-b",)


def test_one_that_cannot_be_looked_at_is_named_too(workspace: TestWorkspace, clients: Clients) -> None:
    deploy(clients, "phift-a")

    def out_of_reach(_found: phift.Pruned) -> bool:
        workspace.order(Fault("GET onlineEndpoints/phift-a", status=403))
        return True

    done = phift.prune_endpoints(clients, confirm=out_of_reach)
    assert done.failed["phift-a"].startswith("The endpoint phift-a is still up and costs money: 88.08 USD a day. ")
    assert names(clients) == {"phift-a"}


def test_ctrl_c_finishes_the_one_under_way_and_names_the_others(clients: Clients) -> None:
    for name in ("phift-a", "phift-b"):
        deploy(clients, name)
    struck: list[str] = []

    def interrupt(event: DeploymentEvent) -> None:
        if event.stage == "delete" and not struck:
            struck.append(event.name)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        phift.prune_endpoints(clients, on_event=interrupt)
    (left,) = names(clients)
    assert struck != [left]
    said = f"The endpoint {left} is still up and costs money: 88.08 USD a day. Delete it: phift cleanup {left}"
    assert caught.value.__notes__ == [said]


def test_ctrl_c_before_a_deletion_begins_names_that_one_too(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("phift-a", "phift-b"):
        deploy(clients, name)

    def interrupt(*_args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("phift.serving.pruning.EndpointUse.begin", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        phift.prune_endpoints(clients)
    assert sorted(note.rpartition(" ")[2] for note in caught.value.__notes__) == ["phift-a", "phift-b"]


@pytest.mark.parametrize("older_than", ["8", "soon", ""])
def test_what_is_no_time_is_told(clients: Clients, older_than: str) -> None:
    with pytest.raises(ConfigError, match="such as 90m, 8h or 3d"):
        phift.prune_endpoints(clients, older_than=older_than)


# The command


@pytest.fixture
def invoke(three: Clients, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("phift.azure.connect.connect", lambda *_args, **_options: three)
    return lambda *words, **options: CliRunner().invoke(main, ["endpoints", "prune", *words], **options)


def test_the_command_asks_nobody_where_there_is_nobody(invoke: Any, three: Clients) -> None:
    result: Result = invoke()
    assert result.exit_code == 2
    assert "--yes" in result.output
    assert "phift-expired" in result.output  # what it is about
    assert len(names(three)) == 3


@pytest.mark.parametrize(("answer", "left"), [("y\n", 2), ("n\n", 3), ("\n", 3)])
def test_the_command_asks_at_a_terminal(
    invoke: Any, three: Clients, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _self: True, raising=False)
    result: Result = invoke(input=answer)
    assert result.exit_code == 0
    assert "Delete?" in result.stderr
    assert result.stdout.splitlines()[-1] == ("deleted endpoint phift-expired" if left == 2 else "Nothing was deleted.")
    assert len(names(three)) == left


def test_the_command_does_without_asking_what_it_is_told(invoke: Any, three: Clients) -> None:
    looked: Result = invoke("--dry-run", "--older-than", "8h")
    assert (looked.exit_code, "2 endpoints in the workspace" in looked.stdout) == (0, True)
    assert looked.stdout.splitlines()[-1] == "Nothing was deleted."
    done: Result = invoke("--yes", "--older-than", "8h", "--json")
    assert (done.exit_code, set(json.loads(done.stdout)["deleted"])) == (0, {"phift-expired", "phift-wanted"})
    assert invoke().stdout == "There is no endpoint to delete.\n"
    assert invoke("--older-than", "soon").exit_code == 2


def test_the_command_exits_1_where_one_is_left(workspace: TestWorkspace, invoke: Any) -> None:
    workspace.order(Fault("DELETE onlineEndpoints/*", status=409, code="ScopeLocked", message="It is locked."))
    result: Result = invoke("--yes")
    assert result.exit_code == 1
    assert "could not be deleted: The endpoint phift-expired is still up and costs money: 88.08" in result.stdout
