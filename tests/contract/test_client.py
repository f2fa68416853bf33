"""What the client itself creates, by the kind of thing it is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from azure.ai.ml.entities import AmlCompute, Data, ManagedOnlineEndpoint, Model

from contract.targets import CLUSTER_SIZE, Target


def test_the_client_creates_models_and_jobs(target: Target, train: Path) -> None:
    model = Model(name=target.fresh("models"), version="1", path=str(train), type="custom_model")
    job = target.fresh("job")
    assert target.workspace.create_or_update(model).name == model.name
    assert target.workspace.create_or_update(target.job(job, train)).name == job
    assert target.workspace.models.get(model.name, version="1").type == "custom_model"
    assert target.ended(job) == "Completed"


def test_the_client_takes_no_data_assets(target: Target, train: Path) -> None:
    name = target.fresh("data")
    with pytest.raises(TypeError):
        target.workspace.create_or_update(Data(name=name, version="1", path=str(train), type="uri_file"))


def test_the_client_begins_to_create_clusters_and_endpoints(target: Target) -> None:
    cluster = AmlCompute(name=target.fresh("cluster"), size=CLUSTER_SIZE, min_instances=0, max_instances=1)
    endpoint = ManagedOnlineEndpoint(name=target.fresh("endpoint"), auth_mode="key")
    assert target.workspace.begin_create_or_update(cluster).result().name == cluster.name
    assert target.workspace.begin_create_or_update(endpoint).result().name == endpoint.name
    assert target.workspace.compute.get(cluster.name).provisioning_state == "Succeeded"
    assert target.workspace.online_endpoints.get(endpoint.name).provisioning_state == "Succeeded"
