"""Clients that are mocks nobody gave an answer: every look-up ends soon, in words that say so, and takes no memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, create_autospec

import pytest
from azure.ai.ml import MLClient
from azure.core import exceptions as core

from phift import FineTuneRun, errors
from phift.azure.clients import Clients, Rest, fetch_record
from phift.check.compute import compute_target, ensure_cluster, find_cluster
from phift.check.models import find_model
from phift.check.report import CheckReport
from phift.config.data import DataConfig
from phift.config.run import ComputeConfig, ModelConfig
from phift.data.assets import find_data, register_assets
from phift.data.prepare import PreparedDataset, prepare_dataset
from phift.errors import PhiftError, ServiceError
from phift.plan import make_plan
from unit.fakes import A100, PHI_4, Fakes, codes, component, foundation_model, phi_4, run_config, target

SAID = "The client answered with a "


def sdk() -> Any:
    return MagicMock(spec=MLClient)


MOCKS: dict[str, Callable[[], dict[str, Any]]] = {
    "workspace": lambda: {"workspace": sdk()},
    "registry": lambda: {"registry": sdk()},
    "component_registry": lambda: {"component_registry": sdk()},
    "rest": lambda: {"rest": MagicMock(spec=Rest)},
    "bare rest": lambda: {"rest": MagicMock()},
    "everything": lambda: {
        "workspace": sdk(),
        "registry": sdk(),
        "component_registry": sdk(),
        "rest": MagicMock(spec=Rest),
    },
    "everything bare": lambda: {
        "workspace": MagicMock(),
        "registry": MagicMock(),
        "component_registry": MagicMock(),
        "rest": MagicMock(),
    },
}


def clients(mocked: str) -> Clients:
    return replace(Fakes().clients, **MOCKS[mocked]())


@contextmanager
def soon() -> Iterator[None]:
    started = time.process_time()
    yield
    assert time.process_time() - started < 5


@contextmanager
def small() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("mocked")
    return prepare_dataset(run_config(folder).data, folder / "data")


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import and load what a check and an upload need."""
    config = run_config(tmp_path_factory.mktemp("warm"))
    data = prepare_dataset(config.data, config.work_dir / "data")
    make_plan(config, Fakes().clients, lambda: data)
    register_assets(Fakes().clients, data, "warm")


def check(mocked: str, folder: Path, **changes: Any) -> CheckReport:
    config = run_config(folder, **changes)

    def plan() -> CheckReport:
        return make_plan(config, clients(mocked), lambda: prepare_dataset(config.data, folder / "work"))[1]

    with small():
        plan()
    with soon():  # by itself: to trace memory takes several times as long
        return plan()


@pytest.mark.parametrize("mocked", MOCKS)
def test_a_check_says_that_a_client_did_not_answer(mocked: str, tmp_path: Path) -> None:
    report = check(mocked, tmp_path, deployment={"endpoint_name": "mine"}, model={"name": "Phi-4", "version": "8"})
    assert any(SAID in finding.message for finding in report.findings)
    assert not any("<MagicMock" in str(finding) for finding in report.findings)
    assert report.ok == (mocked in ("rest", "bare rest"))


@pytest.mark.parametrize("mocked", ["workspace", "everything"])
def test_a_check_without_a_cluster_says_so_too(mocked: str, tmp_path: Path) -> None:
    report = check(mocked, tmp_path, compute={"serverless": A100})
    told = {finding.code: finding.message for finding in report.findings}
    assert SAID in told["COMPUTE_SIZES_UNREAD"]
    assert SAID in told["QUOTA_UNREAD"]


@pytest.mark.parametrize("mocked", ["workspace", "everything"])
@pytest.mark.parametrize(
    "address",
    [
        "azureml:chat:1",
        "azureml:chat@latest",
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w/data/chat/versions/1",
    ],
)
def test_a_check_of_data_in_azure_says_so_too(mocked: str, address: str, tmp_path: Path) -> None:
    report = check(mocked, tmp_path, data={"train": address})
    assert any(SAID in finding.message and finding.severity == "error" for finding in report.findings)


def no_answer() -> Any:
    return pytest.raises(ServiceError, match=SAID)


@pytest.mark.parametrize("mocked", ["registry", "everything"])
def test_no_model_is_made_of_a_mock(mocked: str) -> None:
    with soon(), small(), no_answer():
        find_model(clients(mocked), ModelConfig(name="Phi-4"))


@pytest.mark.parametrize("mocked", ["rest", "bare rest"])
@pytest.mark.parametrize("version", [None, "8"])
def test_no_record_is_made_of_a_mock(mocked: str, version: str | None) -> None:
    with soon(), small(), no_answer():
        fetch_record(clients(mocked), "azureml", "Phi-4", version)


@pytest.mark.parametrize("mocked", ["workspace", "rest", "everything"])
def test_no_data_are_made_of_a_mock(mocked: str) -> None:
    address = "azureml://registries/r/data/chat/versions/1" if mocked == "rest" else "azureml:chat:1"
    with soon(), small(), no_answer():
        find_data(clients(mocked), DataConfig.model_validate({"train": address}))


@pytest.mark.parametrize("mocked", ["workspace", "everything"])
def test_no_asset_is_made_of_a_mock(mocked: str, dataset: PreparedDataset) -> None:
    with soon(), small(), no_answer():
        register_assets(clients(mocked), dataset, "chat")


def test_an_asset_that_was_made_has_an_id(dataset: PreparedDataset) -> None:
    fakes = Fakes()
    fakes.workspace.data.create_or_update = MagicMock()  # type: ignore[method-assign]
    with no_answer():
        register_assets(fakes.clients, dataset, "chat")


@pytest.mark.parametrize("mocked", ["workspace", "everything"])
def test_no_cluster_is_made_of_a_mock(mocked: str) -> None:
    config = ComputeConfig(cluster="gpu-cluster", size=A100)
    with soon(), small(), no_answer():
        find_cluster(clients(mocked), config)
    with soon(), small(), no_answer():
        ensure_cluster(clients(mocked), config, target(exists=False))


def test_a_cluster_that_is_a_mock_has_no_size() -> None:
    with no_answer():
        compute_target(ComputeConfig(cluster="gpu-cluster"), foundation_model(A100), MagicMock(), {})


def test_mocks_with_answers_of_their_own_do(tmp_path: Path, dataset: PreparedDataset) -> None:
    """What somebody who mocks the SDK sets: the texts of what is looked up."""
    mocked = clients("everything")
    mocked.registry.models.get.return_value = phi_4()
    mocked.component_registry.components.get.return_value = component()
    mocked.workspace.compute.get.return_value = MagicMock(size=A100)
    mocked.workspace.online_endpoints.get.return_value = MagicMock(tags={"phift.job": "other", "phift.model": "m:1"})
    mocked.workspace.online_deployments.list.return_value = []
    config = run_config(tmp_path, deployment={"endpoint_name": "mine"})
    plan, report = make_plan(config, mocked, lambda: dataset)
    assert plan is not None
    assert (plan.model.id, plan.target.size) == (PHI_4, A100)
    assert codes(report.errors) == ["DEPLOYMENT_NAME_TAKEN"]
    unread = {finding.code for finding in report.findings if SAID in finding.message}
    assert unread == {"MODEL_METADATA_UNREAD", "COMPUTE_SIZES_UNREAD", "QUOTA_UNREAD"}


@pytest.mark.parametrize("mocked", MOCKS)
def test_nothing_but_our_errors_leaves_a_look_up(mocked: str, dataset: PreparedDataset) -> None:
    calls: list[Callable[[Clients], Any]] = [
        lambda given: find_model(given, ModelConfig(name="Phi-4", version="7")),
        lambda given: find_data(
            given, DataConfig.model_validate({"train": "azureml:chat:1", "test": "azureml:x@latest"})
        ),
        lambda given: register_assets(given, dataset, "chat"),
        lambda given: find_cluster(given, ComputeConfig(cluster="none")),
        lambda given: ensure_cluster(given, ComputeConfig(cluster="new", size=A100), target(exists=False)),
    ]
    given, failed = clients(mocked), 0
    for call in calls:
        try:
            call(given)
        except PhiftError:
            failed += 1
    assert failed >= 3 if "everything" not in mocked else failed == len(calls)


@pytest.mark.parametrize("mock", [MagicMock(spec=MLClient), create_autospec(MLClient)], ids=["spec", "autospec"])
@pytest.mark.parametrize(
    ("raised", "ours"),
    [
        (core.ResourceNotFoundError("x"), errors.NotFound),
        (core.ResourceExistsError("x"), errors.Conflict),
        (core.ClientAuthenticationError("x"), errors.AuthenticationError),
        (core.ServiceRequestError("x"), errors.ServiceUnreachable),
    ],
)
def test_what_a_mock_raises_is_the_error_that_the_service_s_own_would_be(
    mock: Any, raised: Exception, ours: type[PhiftError]
) -> None:
    mock.jobs.get.side_effect = raised
    with pytest.raises(ours):
        FineTuneRun.attach("phift-phi-4-5f2c9d0e7a31", replace(Fakes().clients, workspace=mock))
