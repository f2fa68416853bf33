"""The life of an online endpoint and its deployments, and the order that the service wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, Model
from azure.ai.ml.exceptions import MlException
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.polling import LROPoller

from contract.targets import INSTANCE_TYPE, Target

# On Azure each of these waits for a machine; what needs no deployment therefore makes none.


def endpoint(name: str, **settings: Any) -> ManagedOnlineEndpoint:
    return ManagedOnlineEndpoint(name=name, auth_mode="key", tags={"purpose": "contract"}, **settings)


@pytest.fixture
def made(target: Target) -> str:
    """An endpoint without deployments."""
    name = target.fresh("endpoint")
    target.workspace.online_endpoints.begin_create_or_update(endpoint(name)).result()
    return name


@pytest.fixture
def blue(target: Target, made: str, mlflow_model: Path) -> ManagedOnlineDeployment:
    """A deployment of that endpoint, as it was sent."""
    model = Model(name=target.fresh("models"), version="1", path=str(mlflow_model), type="mlflow_model")
    address = target.workspace.models.create_or_update(model).id
    deployment = ManagedOnlineDeployment(
        name="blue", endpoint_name=made, model=address, instance_type=INSTANCE_TYPE, instance_count=1
    )
    target.workspace.online_deployments.begin_create_or_update(deployment).result()
    return deployment


def give(target: Target, name: str, **traffic: int) -> Any:
    return target.workspace.online_endpoints.begin_create_or_update(endpoint(name, traffic=traffic)).result()


def test_an_endpoint_is_created_found_and_listed(target: Target) -> None:
    name, endpoints = target.fresh("endpoint"), target.workspace.online_endpoints
    poller = endpoints.begin_create_or_update(endpoint(name))
    assert isinstance(poller, LROPoller)
    assert poller.result().provisioning_state == "Succeeded"
    found = endpoints.get(name)
    assert (found.name, found.auth_mode, found.tags) == (name, "key", {"purpose": "contract"})
    assert found.id.endswith(f"/onlineEndpoints/{name}")
    assert found.scoring_uri.startswith("https://")
    assert found.scoring_uri.endswith("/score")
    assert found.traffic == {}
    assert name in [each.name for each in endpoints.list()]


def test_a_missing_endpoint_is_not_found(target: Target) -> None:
    endpoints, deployments = target.workspace.online_endpoints, target.workspace.online_deployments
    missing = (
        lambda: endpoints.get("ct-no-such-endpoint"),
        lambda: endpoints.get_keys("ct-no-such-endpoint"),
        lambda: list(deployments.list("ct-no-such-endpoint")),
        lambda: deployments.get("blue", "ct-no-such-endpoint"),
    )
    for ask in missing:
        with pytest.raises(ResourceNotFoundError) as caught:
            ask()
        assert caught.value.status_code == 404


def test_a_name_that_is_no_name_is_refused(target: Target) -> None:
    with pytest.raises(MlException):  # by the SDK itself, before anything is sent
        target.workspace.online_endpoints.begin_create_or_update(endpoint("ct_no_name")).result()


def test_the_same_endpoint_again_keeps_its_keys(target: Target, made: str) -> None:
    endpoints = target.workspace.online_endpoints
    before, address = endpoints.get_keys(made), endpoints.get(made).scoring_uri
    endpoints.begin_create_or_update(endpoint(made)).result()
    after = endpoints.get_keys(made)
    assert (after.primary_key, after.secondary_key) == (before.primary_key, before.secondary_key)
    assert endpoints.get(made).scoring_uri == address


def test_one_key_is_made_anew(target: Target, made: str) -> None:
    endpoints = target.workspace.online_endpoints
    before = endpoints.get_keys(made)
    endpoints.begin_regenerate_keys(made, key_type="secondary").result()
    after = endpoints.get_keys(made)
    assert before.primary_key == after.primary_key
    assert len({before.primary_key, before.secondary_key, after.secondary_key}) == 3


def test_how_an_endpoint_is_authenticated_never_changes(target: Target, made: str) -> None:
    endpoints = target.workspace.online_endpoints
    with pytest.raises(HttpResponseError) as caught:
        endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=made, auth_mode="aml_token")).result()
    assert caught.value.status_code == 400
    assert endpoints.get(made).auth_mode == "key"


def test_traffic_to_an_unknown_deployment_is_refused(target: Target, made: str) -> None:
    # "You can set the traffic only when the deployments under an endpoint have been created": Microsoft Learn, safe
    # rollout for online endpoints, 2026.
    with pytest.raises(HttpResponseError) as caught:
        give(target, made, blue=100)
    assert caught.value.status_code == 400
    assert target.workspace.online_endpoints.get(made).traffic == {}


def test_a_deleted_endpoint_is_gone(target: Target, made: str) -> None:
    endpoints = target.workspace.online_endpoints
    endpoints.begin_delete(made).wait()
    with pytest.raises(ResourceNotFoundError) as caught:
        endpoints.get(made)
    assert caught.value.status_code == 404
    # 204 for what is not there: azure-rest-api-specs, OnlineEndpoints_Delete.
    endpoints.begin_delete(made).wait()


def test_a_deployment_wants_its_endpoint_first(target: Target) -> None:
    deployment = ManagedOnlineDeployment(
        name="blue", endpoint_name="ct-no-such-endpoint", model="azureml:any:1", instance_type=INSTANCE_TYPE
    )
    with pytest.raises(ResourceNotFoundError) as caught:
        target.workspace.online_deployments.begin_create_or_update(deployment).result()
    assert caught.value.status_code == 404


def test_a_missing_deployment_is_not_found(target: Target, made: str) -> None:
    deployments = target.workspace.online_deployments
    for ask, more in ((deployments.get, {}), (deployments.get_logs, {"lines": 5})):
        with pytest.raises(ResourceNotFoundError) as caught:
            ask("blue", made, **more)
        assert caught.value.status_code == 404
    assert list(deployments.list(made)) == []
    deployments.begin_delete("blue", made).wait()  # 204, as for endpoints: OnlineDeployments_Delete


def test_a_deployment_is_created_found_and_listed(target: Target, blue: ManagedOnlineDeployment) -> None:
    deployments, name = target.workspace.online_deployments, blue.endpoint_name
    found = deployments.get("blue", name)
    assert (found.name, found.endpoint_name, found.provisioning_state) == ("blue", name, "Succeeded")
    assert (found.instance_type.lower(), found.instance_count) == (INSTANCE_TYPE.lower(), 1)
    assert str(found.model).lower().endswith(str(blue.model).lower())
    assert [each.name for each in deployments.list(name)] == ["blue"]
    assert deployments.get_logs("blue", name, lines=5)
    # A new deployment gets no traffic; the SDK shows it with 0.
    assert target.workspace.online_endpoints.get(name).traffic == {"blue": 0}


def test_the_same_deployment_again_is_the_same(target: Target, blue: ManagedOnlineDeployment) -> None:
    deployments, name = target.workspace.online_deployments, blue.endpoint_name
    before = deployments.get("blue", name)
    deployments.begin_create_or_update(blue).result()
    assert (deployments.get("blue", name).id, len(list(deployments.list(name)))) == (before.id, 1)


def test_a_deployment_with_traffic_is_not_deleted(target: Target, blue: ManagedOnlineDeployment) -> None:
    # "Can't delete deployment [blue] with non-zero traffic weight": so quoted in the troubleshooting of public
    # repositories that deploy to the service (2026); which status it comes with, none of them says.
    deployments, name = target.workspace.online_deployments, blue.endpoint_name
    assert give(target, name, blue=100).traffic == {"blue": 100}
    with pytest.raises(HttpResponseError, match="non-zero traffic") as caught:
        deployments.begin_delete("blue", name).wait()
    assert caught.value.status_code == 400
    give(target, name, blue=0)
    deployments.begin_delete("blue", name).wait()
    with pytest.raises(ResourceNotFoundError):
        deployments.get("blue", name)


def test_traffic_that_does_not_sum_to_a_hundred_is_refused(target: Target, blue: ManagedOnlineDeployment) -> None:
    # "The sum of traffic values must be 100" or none: Microsoft Learn, YAML schema of online endpoints, 2026.
    with pytest.raises(HttpResponseError) as caught:
        give(target, blue.endpoint_name, blue=50)
    assert caught.value.status_code == 400


def test_an_endpoint_takes_its_deployments_with_it(target: Target, blue: ManagedOnlineDeployment) -> None:
    target.workspace.online_endpoints.begin_delete(blue.endpoint_name).wait()
    with pytest.raises(ResourceNotFoundError) as caught:
        target.workspace.online_deployments.get("blue", blue.endpoint_name)
    assert caught.value.status_code == 404
