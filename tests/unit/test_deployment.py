from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import IncompleteReadError, ServiceRequestError, ServiceResponseError

from phift.check.compute import instance_findings, instance_type
from phift.config.deployment import DeploymentConfig
from phift.errors import AuthenticationError, ComputeError, Conflict, DeploymentFailed, ServiceError
from phift.serving.cleanup import remove_endpoint
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from phift.serving.resource import DeploymentEvent
from unit.fakes import A100, FOUR_A100, Fakes, codes, foundation_model, http_error

MODEL = "/subscriptions/s/workspaces/w/models/mine/versions/1"
NAME = "phift-made-up"


def deploy(fakes: Fakes, events: list[DeploymentEvent] | None = None, **config: Any) -> Endpoint:
    return deploy_model(
        fakes.clients,
        MODEL,
        name=NAME,
        size=A100,
        config=DeploymentConfig(**config),
        tags={"phift.job": "job"},
        on_event=events.append if events is not None else None,
    )


def left(fakes: Fakes) -> tuple[int, int]:
    """Return how many endpoints and deployments there are."""
    return len(fakes.workspace.online_endpoints.known), len(fakes.workspace.online_deployments.known)


def refused(fakes: Fakes, kind: type[Exception] = DeploymentFailed, **config: Any) -> Any:
    with pytest.raises(kind) as caught:
        deploy(fakes, **config)
    return caught.value


def test_a_deployment_is_endpoint_deployment_and_traffic() -> None:
    fakes, events = Fakes(), list[DeploymentEvent]()
    endpoint = deploy(fakes, events)
    assert endpoint.name == NAME
    made = fakes.workspace.online_endpoints.known[NAME]
    assert (made.auth_mode, made.traffic) == ("key", {"default": 100})
    assert made.tags["phift.job"] == "job"
    assert datetime.now(UTC) - datetime.fromisoformat(made.tags["phift.created"]) < timedelta(minutes=1)
    assert [event.stage for event in events] == ["endpoint", "deployment", "traffic", "ready"]


def test_the_deployment_is_as_configured() -> None:
    fakes = Fakes()
    probe = {"initial_delay": 500, "period": 100, "timeout": 5, "failure_threshold": 7}
    deploy(fakes, instance_count=2, request_timeout_ms=9000, max_concurrent_requests=3, probe=probe)
    made = fakes.workspace.online_deployments.known[NAME, "default"]
    assert (made.model, made.instance_type, made.instance_count) == (MODEL, A100, 2)
    settings = made.request_settings
    assert (settings.request_timeout_ms, settings.max_concurrent_requests_per_instance) == (9000, 3)
    for probe_made in (made.liveness_probe, made.readiness_probe):
        assert {name: getattr(probe_made, name) for name in probe} == probe
        assert probe_made.success_threshold == 1


def test_a_second_call_finds_everything() -> None:
    fakes, events = Fakes(), list[DeploymentEvent]()
    deploy(fakes)
    created = len(fakes.workspace.record.calls)
    deploy(fakes, events)
    assert [event.stage for event in events] == ["exists", "ready"]
    assert not [call for call in fakes.workspace.record.calls[created:] if "begin" in call[0]]


@pytest.mark.parametrize("model", [f"azureml:{MODEL}", MODEL.upper()])
def test_the_same_model_in_another_spelling_is_the_same(model: str) -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME, traffic={"default": 100})
    fakes.add_deployment("default", NAME, model)
    deploy(fakes)
    assert fakes.workspace.record.count("online_deployments.begin_create_or_update") == 0


@pytest.mark.parametrize(("model", "state"), [("other", "Succeeded"), (MODEL, "Failed")])
def test_another_model_or_a_failed_deployment_is_replaced(model: str, state: str) -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME)
    fakes.add_deployment("default", NAME, model, state)
    deploy(fakes)
    assert fakes.workspace.online_deployments.known[NAME, "default"].model == MODEL


def test_a_failed_endpoint_is_deleted_and_made_again() -> None:
    fakes, events = Fakes(), list[DeploymentEvent]()
    fakes.add_endpoint(NAME, provisioning_state="Failed")
    deploy(fakes, events)
    assert [event.stage for event in events][:3] == ["delete", "deleted", "endpoint"]
    assert fakes.workspace.online_endpoints.known[NAME].provisioning_state == "Succeeded"


def test_an_endpoint_that_is_still_made_is_waited_for(sleeps: list[float]) -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME)
    fakes.workspace.online_endpoints.states[NAME] = ["Creating", "Updating"]
    deploy(fakes)
    assert sleeps == [0, 0]
    assert fakes.workspace.record.count("online_endpoints.begin_delete") == 0


@pytest.mark.parametrize("tags", [{}, {"owner": "somebody"}])
def test_somebody_elses_endpoint_is_left_alone(tags: dict[str, str]) -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME, tags=tags)
    assert "phift did not make" in refused(fakes, Conflict).what
    assert left(fakes) == (1, 0)


def test_an_endpoint_that_cannot_be_made_is_removed() -> None:
    fakes = Fakes()
    fakes.workspace.record.fail("online_endpoints.result", http_error(400, "no quota"))
    error = refused(fakes)
    assert error.what == "The deployment did not come up: (UserError) no quota"
    assert left(fakes) == (0, 0)


@pytest.mark.parametrize("outcome", ["Failed", "Canceled"])
def test_a_deployment_that_ends_badly_takes_the_new_endpoint_with_it(outcome: str) -> None:
    fakes = Fakes()
    fakes.workspace.online_deployments.outcomes = [outcome]
    error = refused(fakes)
    assert error.what == f"The deployment did not come up: it ended as {outcome.lower()}."
    assert (error.where, left(fakes)) == (f"endpoint {NAME}", (0, 0))


def test_a_failure_shows_the_tail_of_both_containers_without_secrets() -> None:
    fakes = Fakes()
    fakes.workspace.online_deployments.outcomes = ["Failed"]
    fakes.workspace.online_deployments.log = "password=SECRET"
    assert refused(fakes).log_tail == (
        "--- storage-initializer\npassword=*** of storage-initializer\n"
        "--- inference-server\npassword=*** of inference-server"
    )


def test_logs_out_of_reach_do_not_hide_the_failure() -> None:
    fakes = Fakes()
    fakes.workspace.online_deployments.outcomes = ["Failed"]
    fakes.workspace.record.fail("online_deployments.get_logs", http_error(404))
    assert refused(fakes).log_tail == "--- inference-server\na line of the log of inference-server"


def test_an_endpoint_that_cannot_be_removed_is_told_with_the_failure() -> None:
    fakes = Fakes()
    fakes.workspace.online_deployments.outcomes = ["Failed"]
    fakes.workspace.online_endpoints.undeletable = True
    error = refused(fakes)
    assert f"The endpoint {NAME} is still up and costs money." in (error.fix or "")
    assert error.log_tail


def test_an_endpoint_that_was_there_stays_after_a_failure() -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME)
    fakes.workspace.record.fail("online_deployments.result", http_error(400))
    refused(fakes)
    assert left(fakes) == (1, 0)


def test_a_deployment_that_was_there_stays_after_a_failure() -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME)
    fakes.add_deployment("default", NAME, "other")
    fakes.workspace.record.fail("online_deployments.result", http_error(400))
    said = refused(fakes).fix
    assert left(fakes) == (1, 1)
    assert fakes.workspace.record.count("online_deployments.begin_delete") == 0
    assert f"The deployment {NAME}/default was being changed, may not be as it was, and costs money" in said
    assert "stays as it was" not in said


def test_a_change_that_was_refused_leaves_a_deployment_as_it_was() -> None:
    fakes = Fakes()
    deploy(fakes)
    fakes.workspace.record.fail("online_deployments.begin_create_or_update", http_error(400, "no quota"))
    assert refused(fakes, instance_count=3).fix.endswith("what was there stays as it was")


def test_an_interrupt_of_a_change_says_that_it_was_under_way() -> None:
    fakes = Fakes()
    deploy(fakes)
    fakes.workspace.record.fail("online_deployments.begin_create_or_update", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        deploy(fakes, instance_count=3)
    assert f"The deployment {NAME}/default was being changed" in caught.value.__notes__[0]


def test_a_deployment_that_never_came_to_be_needs_no_deletion() -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME)
    fakes.workspace.record.fail("online_deployments.begin_create_or_update", http_error(400, "no quota"))
    fakes.workspace.record.fail("online_deployments.begin_delete", http_error(404))
    assert "no quota" in refused(fakes).what


def test_traffic_that_cannot_be_set_removes_what_was_made() -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME)
    fakes.workspace.record.fail("online_endpoints.begin_create_or_update", ServiceRequestError("no route"))
    assert "No answer from the service" in refused(fakes).what
    assert left(fakes) == (1, 0)


def test_an_interrupt_removes_what_was_made_and_passes() -> None:
    fakes, events = Fakes(), list[DeploymentEvent]()
    fakes.workspace.record.fail("online_deployments.result", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        deploy(fakes, events)
    assert left(fakes) == (0, 0)
    assert [event.stage for event in events] == ["endpoint", "deployment", "rollback", "delete", "deleted"]
    assert fakes.workspace.record.count("online_deployments.get_logs") == 0


def test_an_interrupt_while_the_log_of_a_failure_is_read_removes_what_was_made() -> None:
    fakes = Fakes()
    fakes.workspace.online_deployments.outcomes = ["Failed"]
    fakes.workspace.record.fail("online_deployments.get_logs", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        deploy(fakes)
    assert left(fakes) == (0, 0)


@pytest.mark.parametrize(("status", "kind"), [(401, AuthenticationError), (409, Conflict)])
def test_a_lost_login_and_a_conflict_keep_their_kind(status: int, kind: type[Exception]) -> None:
    fakes = Fakes()
    fakes.workspace.record.fail("online_endpoints.begin_create_or_update", http_error(status))
    refused(fakes, kind)
    assert left(fakes) == (0, 0)


def unheard(operations: Any, error: Exception | None = None, **states: Any) -> None:
    """Have a service lose its first answer, so that azure-core asks again and is told that it is being done.

    - **error**: what comes instead, where azure-core does not ask again.
    """
    begin = operations.begin_create_or_update

    def begin_unheard(entity: Any) -> Any:
        begin(entity).result()
        operations.begin_create_or_update = begin
        for name, value in states.items():
            setattr(operations, name, value)
        raise error or http_error(409, "it is Creating; wait until that is done")

    operations.begin_create_or_update = begin_unheard


def test_an_endpoint_whose_creation_was_not_answered_is_waited_for(sleeps: list[float]) -> None:
    fakes = Fakes()
    unheard(fakes.workspace.online_endpoints, states={NAME: ["Creating", "Creating"]})
    deploy(fakes)
    assert sleeps == [0, 0]
    assert fakes.workspace.online_endpoints.known[NAME].traffic == {"default": 100}
    assert fakes.workspace.record.count("online_endpoints.begin_delete") == 0


@pytest.mark.parametrize("error", [None, IncompleteReadError("half"), ServiceResponseError("reset")], ids=repr)
def test_a_deployment_whose_creation_was_not_answered_is_found(error: Exception | None) -> None:
    fakes = Fakes()
    unheard(fakes.workspace.online_deployments, error)
    deploy(fakes)
    assert left(fakes) == (1, 1)
    assert fakes.workspace.record.count("online_deployments.begin_create_or_update") == 1


def test_a_deployment_whose_creation_was_not_answered_and_failed_is_told_so() -> None:
    fakes = Fakes()
    fakes.workspace.online_deployments.outcomes = ["Failed"]
    unheard(fakes.workspace.online_deployments)
    assert refused(fakes).what == "The deployment did not come up: it ended as failed."
    assert left(fakes) == (0, 0)


def test_traffic_whose_change_was_not_answered_is_found() -> None:
    fakes = Fakes()
    fakes.workspace.online_endpoints.add(NAME, tags={"phift.job": "job"})
    unheard(fakes.workspace.online_endpoints)
    deploy(fakes)
    assert fakes.workspace.online_endpoints.known[NAME].traffic == {"default": 100}


def test_an_endpoint_that_somebody_else_makes_at_the_same_time_is_left_alone() -> None:
    fakes = Fakes()
    endpoints = fakes.workspace.online_endpoints

    def begin_late(_endpoint: Any) -> Any:
        endpoints.add(NAME, tags={"phift.job": "another"})
        raise http_error(409)

    endpoints.begin_create_or_update = begin_late  # type: ignore[assignment, method-assign]  # a race, lost
    refused(fakes, Conflict)
    assert left(fakes) == (1, 0)


def test_a_deployment_that_somebody_else_changes_at_the_same_time_is_a_conflict() -> None:
    fakes = Fakes()
    deployments = fakes.workspace.online_deployments

    def begin_late(_deployment: Any) -> Any:
        deployments.add("default", NAME, "another model")
        raise http_error(409)

    deployments.begin_create_or_update = begin_late  # type: ignore[assignment, method-assign]  # a race, lost
    refused(fakes, Conflict)
    assert fakes.workspace.online_deployments.known == {}  # the endpoint was made by this call, and goes with it


@pytest.mark.parametrize("is_same", [False, True])
def test_a_deployment_that_somebody_else_made_at_the_same_time_is_not_deleted(is_same: bool) -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME)

    def begin_late(_deployment: Any) -> Any:
        fakes.add_deployment("default", NAME, MODEL if is_same else "another model")
        raise http_error(409)

    fakes.workspace.online_deployments.begin_create_or_update = begin_late  # type: ignore[assignment, method-assign]  # a race, lost
    fakes.workspace.record.fail("online_endpoints.begin_create_or_update", http_error(400, "no traffic"))
    refused(fakes, DeploymentFailed if is_same else Conflict)
    assert left(fakes) == (1, 1)


def test_a_first_look_that_fails_makes_and_removes_nothing() -> None:
    fakes = Fakes()
    fakes.workspace.record.fail("online_endpoints.get", http_error(500))
    assert isinstance(refused(fakes).__cause__, ServiceError)
    assert fakes.workspace.record.count("online_endpoints.begin_delete") == 0


def test_the_configured_size_goes_before_the_smallest() -> None:
    model = foundation_model(FOUR_A100, A100)
    assert instance_type(model, DeploymentConfig()) == A100
    assert instance_type(model, DeploymentConfig(instance_type=FOUR_A100)) == FOUR_A100
    assert instance_findings(model, DeploymentConfig()) == []


def test_without_any_size_it_is_an_error() -> None:
    found = instance_findings(foundation_model(), DeploymentConfig())
    assert codes(found) == ["DEPLOYMENT_NO_SIZE"]
    with pytest.raises(ComputeError, match="which VM sizes can serve Phi-4"):
        instance_type(foundation_model(), DeploymentConfig())


def test_a_size_without_an_allow_list_is_taken() -> None:
    assert instance_type(foundation_model(), DeploymentConfig(instance_type=A100)) == A100


def test_an_unlisted_size_is_refused_unless_allowed() -> None:
    model, size = foundation_model(A100), "Standard_NC4as_T4_v3"
    with pytest.raises(ComputeError, match="does not list Standard_NC4as_T4_v3 for inference"):
        instance_type(model, DeploymentConfig(instance_type=size))
    assert instance_type(model, DeploymentConfig(instance_type=size, allow_unlisted=True)) == size


@pytest.mark.parametrize("trouble", [http_error(500), KeyboardInterrupt()])
def test_a_failure_after_the_traffic_is_rolled_back_too(trouble: BaseException) -> None:
    fakes = Fakes()
    fakes.workspace.record.fail("online_endpoints.get_keys", trouble)
    with pytest.raises((DeploymentFailed, KeyboardInterrupt)):
        deploy(fakes)
    assert left(fakes) == (0, 0)


def test_an_endpoint_of_another_run_is_left_alone() -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME, tags={"phift.job": "another", "phift.model": "m:1"})
    error = refused(fakes, Conflict)
    assert error.what == f"There is an endpoint {NAME} already, for m:1."
    assert left(fakes) == (1, 0)


def test_an_endpoint_that_is_not_ours_is_not_removed() -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME, tags={"team": "payments"})
    with pytest.raises(Conflict, match="phift did not make it"):
        remove_endpoint(fakes.clients, NAME, {"phift.job": "job"})
    assert left(fakes) == (1, 0)


def test_removing_what_is_not_there_does_nothing() -> None:
    fakes = Fakes()
    remove_endpoint(fakes.clients, NAME, {"phift.job": "job"})
    assert fakes.workspace.record.count("online_endpoints.begin_delete") == 0


@pytest.mark.parametrize("change", [{"instance_count": 3}, {"request_timeout_ms": 90_000}])
def test_changed_settings_reach_a_deployment_that_is_there(change: dict[str, Any]) -> None:
    fakes = Fakes()
    deploy(fakes)
    deploy(fakes)
    assert fakes.workspace.record.count("online_deployments.begin_create_or_update") == 1
    deploy(fakes, **change)
    assert fakes.workspace.record.count("online_deployments.begin_create_or_update") == 2


@pytest.mark.parametrize("interrupts", [1, 2])
def test_an_interrupt_during_the_rollback_begins_it_again_and_a_second_one_says_what_is_left(interrupts: int) -> None:
    fakes = Fakes()
    fakes.workspace.online_deployments.outcomes = ["Failed"]
    fakes.workspace.record.fail("online_endpoints.begin_delete", *[KeyboardInterrupt()] * interrupts)
    with pytest.raises(KeyboardInterrupt) as caught:
        deploy(fakes)
    assert left(fakes) == ((0, 0) if interrupts == 1 else (1, 1))
    said = " ".join(getattr(caught.value, "__notes__", []))
    assert ("still up and costs money" in said) == (interrupts == 2)


def test_a_handler_that_fails_at_every_event_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    fakes, heard = Fakes(), list[str]()

    def fail(event: DeploymentEvent) -> None:
        heard.append(event.stage)
        raise RuntimeError("the handler's own")

    endpoint = deploy_model(fakes.clients, MODEL, name=NAME, size=A100, config=DeploymentConfig(), on_event=fail)
    assert (heard, left(fakes)) == (["endpoint", "deployment", "traffic", "ready"], (1, 1))
    endpoint.delete()
    assert left(fakes) == (0, 0)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_an_endpoint_without_a_job_is_found_again_by_its_model() -> None:
    fakes = Fakes()
    values: dict[str, Any] = {"name": NAME, "size": A100, "config": DeploymentConfig()}
    first = deploy_model(fakes.clients, MODEL, **values)
    again = deploy_model(fakes.clients, f"azureml:{MODEL.upper()}", tags={}, **values)
    assert (first.existed, again.existed, left(fakes)) == (False, True, (1, 1))
    with pytest.raises(Conflict, match="of another run"):
        deploy_model(fakes.clients, MODEL.replace("mine", "another"), **values)


def test_another_deployment_name_replaces_the_runs_earlier_deployment() -> None:
    fakes, events = Fakes(), list[DeploymentEvent]()
    deploy(fakes)
    deploy(fakes, events, deployment_name="green")
    assert [(event.stage, event.name) for event in events][-2:] == [("ready", NAME), ("replaced", "default")]
    assert list(fakes.workspace.online_deployments.known) == [(NAME, "green")]


def test_somebody_elses_idle_deployment_is_told_of_and_stays(caplog: pytest.LogCaptureFixture) -> None:
    fakes, events = Fakes(), list[DeploymentEvent]()
    deploy(fakes)
    fakes.add_deployment("theirs", NAME, "another model")
    deploy(fakes, events)
    assert [(event.stage, event.name) for event in events] == [("exists", NAME), ("ready", NAME), ("idle", "theirs")]
    assert "theirs" in caplog.text
    assert left(fakes) == (1, 2)


def test_a_log_has_no_control_character_and_no_secret_of_others(caplog: pytest.LogCaptureFixture) -> None:
    fakes = Fakes()
    deploy(fakes)
    fakes.add_deployment("theirs\x1b[2j\npassword=hunter22", NAME, "another model")
    deploy(fakes)
    fakes.workspace.record.fail("online_deployments.list", http_error(500, "no\x1b]52;c;eA==\x07 password=hunter22"))
    deploy(fakes)
    told, failed = [record.getMessage() for record in caplog.records]
    assert "theirs\\x1b[2j\\npassword=***" in told
    assert "no\\x1b]52;c;eA==\\x07 password=***" in failed


def test_a_new_deployment_that_fails_gives_the_traffic_back() -> None:
    fakes = Fakes()
    deploy(fakes)
    fakes.workspace.record.fail("online_endpoints.get_keys", http_error(500))
    with pytest.raises(DeploymentFailed):
        deploy(fakes, deployment_name="green")
    assert fakes.workspace.online_endpoints.known[NAME].traffic == {"default": 100}
    assert list(fakes.workspace.online_deployments.known) == [(NAME, "default")]


def test_a_passing_conflict_does_not_end_the_deployment(sleeps: list[float]) -> None:
    fakes = Fakes()
    said = f"Cannot create a deployment in endpoint {NAME} because it is in Updating provisioning state."
    fakes.workspace.record.fail("online_deployments.begin_create_or_update", http_error(409, said))
    deploy(fakes)
    assert left(fakes) == (1, 1)


def test_traffic_that_is_refused_for_somebody_else_s_change_undoes_nothing_of_it(sleeps: list[float]) -> None:
    fakes = Fakes()
    endpoints = fakes.workspace.online_endpoints
    endpoints.add(NAME, tags={"phift.job": "job", "team": "a"})
    begin = endpoints.begin_create_or_update

    def begin_late(_endpoint: Any) -> Any:
        endpoints.known[NAME].tags["team"] = "b"
        endpoints.begin_create_or_update = begin  # type: ignore[method-assign]  # it is refused once
        raise http_error(409, f"{NAME} is in Updating provisioning state.")

    endpoints.begin_create_or_update = begin_late  # type: ignore[assignment, method-assign]  # a change, under way
    deploy(fakes)
    assert endpoints.known[NAME].traffic == {"default": 100}
    assert endpoints.known[NAME].tags["team"] == "b"


def test_an_endpoint_that_phift_made_is_removed_without_a_word_on_its_tags() -> None:
    fakes = Fakes()
    deploy_model(fakes.clients, MODEL, name=NAME, size=A100, config=DeploymentConfig())
    assert remove_endpoint(fakes.clients, NAME)
    assert left(fakes) == (0, 0)


def test_an_earlier_deployment_that_cannot_be_deleted_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    fakes, events = Fakes(), list[DeploymentEvent]()
    deploy(fakes)
    fakes.workspace.record.fail("online_deployments.begin_delete", http_error(403, "no right"))
    deploy(fakes, events, deployment_name="green")
    assert [(event.stage, event.name) for event in events][-2:] == [("ready", NAME), ("idle", "default")]
    assert "could not be deleted and costs money: " in caplog.text


def test_deployments_that_cannot_be_listed_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    fakes = Fakes()
    deploy(fakes)
    fakes.workspace.record.fail("online_deployments.list", http_error(500))
    assert deploy(fakes).existed
    assert f"Whether endpoint {NAME} has other deployments, which cost money, is unknown" in caplog.text


def test_a_passing_conflict_does_not_end_the_rollback(sleeps: list[float]) -> None:
    fakes = Fakes()
    deploy(fakes)
    fakes.workspace.online_deployments.outcomes = ["Failed"]
    fakes.workspace.record.fail("online_deployments.begin_delete", http_error(409, f"{NAME} is Updating."))
    error = refused(fakes, deployment_name="green")
    assert list(fakes.workspace.online_deployments.known) == [(NAME, "default")]
    assert error.fix.endswith("what was made is deleted again")


def test_what_was_there_before_a_failure_stays_and_is_not_said_to_be_deleted() -> None:
    fakes = Fakes()
    deploy(fakes)
    fakes.workspace.record.fail("online_endpoints.get_keys", http_error(500))
    assert refused(fakes).fix.endswith("what was there stays as it was")
    assert left(fakes) == (1, 1)


@pytest.mark.parametrize("stages", ["rollback", "replaced", "idle"])
def test_a_handler_that_fails_where_something_ends_changes_nothing(stages: str) -> None:
    fakes, heard = Fakes(), list[str]()

    def fail(event: DeploymentEvent) -> None:
        heard.append(event.stage)
        raise RuntimeError("the handler's own")

    deploy(fakes)
    if stages == "rollback":
        fakes.workspace.record.fail("online_endpoints.get_keys", http_error(500))
    elif stages == "idle":
        fakes.add_deployment("theirs", NAME, "another model")
    name = "default" if stages == "idle" else "green"
    options: dict[str, Any] = {"model": MODEL, "name": NAME, "size": A100, "tags": {"phift.job": "job"}}
    with pytest.raises(DeploymentFailed) if stages == "rollback" else nullcontext():
        deploy_model(fakes.clients, config=DeploymentConfig(deployment_name=name), on_event=fail, **options)
    assert stages in heard
    kept = {"rollback": ["default"], "replaced": ["green"], "idle": ["default", "theirs"]}[stages]
    assert sorted(each for _, each in fakes.workspace.online_deployments.known) == kept
