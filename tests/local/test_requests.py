"""What a whole chain asks of the service, step by step; through the real SDK and the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

import caller
import pytest

from phift import FineTuneRun, connect
from phift.errors import JobFailed
from phift.jobs.job import FineTuneJob
from phift.testing import Fault, TestWorkspace

pytestmark = pytest.mark.slow

T = TypeVar("T")

# What is asked again and again until something has ended; how often depends on how long it takes.
POLLS = ("GET locations/*/mfeOperationsStatus/*", "GET jobs/*", "GET history/*/children", "GET mlflow/*/get-history")


class Steps:
    """The requests of each step: ``METHOD place``, in the order in which they were answered."""

    def __init__(self, workspace: TestWorkspace) -> None:
        self._workspace = workspace
        self.asked: dict[str, list[str]] = {}

    def take(self, name: str, step: Callable[[], T]) -> T:
        before = len(self._workspace.requests())
        result = step()
        self.asked[name] = [entry.place for entry in self._workspace.requests()[before:]]
        return result

    def of(self, kind: str) -> list[str]:
        """Return the requests of this kind of all steps."""
        return [place for places in self.asked.values() for place in places if fnmatchcase(place, kind)]

    def counted(self, name: str) -> int:
        """Return how many requests a step made, waiting polls apart."""
        polls = POLLS if name == "wait" else POLLS[:1]
        return sum(not any(fnmatchcase(place, poll) for poll in polls) for place in self.asked[name])


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, quiet_sdk: None) -> Iterator[Steps]:
    folder = tmp_path_factory.mktemp("requests")
    with TestWorkspace() as workspace:
        workspace.detach()  # a program finds the workspace by its configuration, as it finds Azure
        data = caller.write_rows(folder / "train.jsonl")
        run = FineTuneRun(caller.configuration(workspace.connection.folder, data, folder / "work", seed=1))
        steps = Steps(workspace)
        steps.take("connect", lambda: connect(run.config))
        steps.take("check", run.check)
        steps.take("submit", run.submit)
        steps.take("wait", run.wait)
        steps.take("metrics", run.metrics)
        steps.take("register", run.register)
        endpoint = steps.take("deploy", run.deploy)
        steps.take("chat", lambda: endpoint.chat("Question 1?"))
        steps.take("delete", endpoint.delete)
        workspace.order(Fault("GET jobs/*", status=401))
        again = FineTuneJob(run.job.name, run.clients)  # who does not know yet that it has ended
        steps.take("after a refused token", again.status)
        yield steps


MOST = {
    "connect": 0,
    "check": 14,
    "submit": 25,
    "wait": 2,
    "metrics": 2,  # without one of its own, whether a step was reused
    "register": 3,
    "deploy": 19,
    "chat": 1,
    "delete": 4,
}
SCOPES = 2  # the management plane's, and the data plane's for the submission


@pytest.mark.parametrize("step", MOST)
def test_a_step_asks_for_no_more_than_it_needs(chain: Steps, step: str) -> None:
    assert chain.counted(step) <= MOST[step], chain.asked[step]


def test_the_whole_chain_may_ask_for_little() -> None:
    assert sum(MOST.values()) <= 70


LOOK_UPS = ("GET registries/*", "GET computes/*", "GET locations/*", "POST registries/*", "GET registry*")


def test_a_submission_repeats_no_look_up_of_the_check_before_it(chain: Steps) -> None:
    again = [place for place in chain.asked["submit"] for kind in LOOK_UPS if fnmatchcase(place, kind)]
    assert again == []


def test_what_never_changes_is_asked_once(chain: Steps) -> None:
    whole = chain.of("*")
    assert whole.count("GET msi/token") <= SCOPES + 1
    assert whole.count("GET registrymanagement/v1.0/registries/azureml/discovery") <= 2  # the SDK's client and ours
    assert chain.asked["check"].count("GET workspace") == 1


def test_a_token_that_is_refused_is_asked_for_anew(chain: Steps) -> None:
    assert chain.asked["after a refused token"].count("GET msi/token") == 1


def test_a_cluster_that_is_gone_after_the_check_is_a_clear_error(
    quiet_sdk: None, quiet_log: None, tmp_path: Path
) -> None:
    with TestWorkspace() as workspace:
        data = caller.write_rows(tmp_path / "train.jsonl")
        run = FineTuneRun(caller.configuration(workspace.connection.folder, data, tmp_path / "work", seed=1))
        assert run.check().ok
        workspace.client.compute.begin_delete("gpu-cluster").wait()
        with pytest.raises(JobFailed, match=r"gpu-cluster .* was not found"):
            run.submit().wait()
        workspace.add_compute("gpu-cluster", "Standard_NC24ads_A100_v4")
        run.submit().wait()  # the check was used up
