"""Tests of `tuner` on the real azure-ai-ml, without Azure: `phift_workspace` comes from phift's pytest plugin."""

from __future__ import annotations

from pathlib import Path

import pytest
import tuner
from azure.ai.ml.entities import ManagedOnlineEndpoint

from phift.testing import Fault, TestWorkspace

ROW = '{"messages": [{"role": "user", "content": "Gold?"}, {"role": "assistant", "content": "Au"}]}\n'


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text(ROW * 10)
    return path


def test_a_model_is_trained_deployed_and_asked(
    phift_workspace: TestWorkspace,
    train: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    phift_workspace.write_config(tmp_path)
    monkeypatch.chdir(tmp_path)

    tuner.main(str(train), "How do chemists write gold?", pause=0.05)

    (job,) = phift_workspace.client.jobs.list()
    assert job.status == "Completed"
    assert [asked.status for asked in phift_workspace.requests("PUT jobs/*")] == [201]
    assert phift_workspace.client.online_endpoints.get("tuned").traffic == {"blue": 100}
    # The engine "instant" trains nothing, and its answers say so; an engine that trains is one line away.
    assert capsys.readouterr().out.rstrip().endswith("no model has been trained.")


def test_a_busy_endpoint_is_asked_again_when_it_says(phift_workspace: TestWorkspace, train: Path) -> None:
    client = phift_workspace.client
    job = tuner.submit(client, phift_workspace.registry, train)
    tuner.wait(client, job, pause=0.05)
    tuner.deploy(client, "tuned", tuner.register(client, job))

    phift_workspace.order(
        Fault("POST inference/tuned/score", status=429, headers={"Retry-After": "7"}),
        Fault("POST inference/tuned/score", status=503, times=2),
    )
    slept: list[float] = []
    assert tuner.ask(client, "tuned", "How do chemists write gold?", sleep=slept.append)

    assert slept == [7, 1, 1]
    assert [asked.status for asked in phift_workspace.requests("POST inference/*")] == [429, 503, 503, 200]


@pytest.mark.phift(speed="manual")
def test_an_endpoint_is_waited_for(phift_workspace: TestWorkspace) -> None:
    client = phift_workspace.client
    making = client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="tuned", auth_mode="key"))

    phift_workspace.advance(49)  # this one needs 50 seconds
    with pytest.raises(TimeoutError, match="tuned is not ready"):
        tuner.wait_until_ready(client, "tuned", patience=0.1, pause=0.05)

    phift_workspace.advance(1)
    assert tuner.wait_until_ready(client, "tuned", patience=0.1).endswith("/inference/tuned/score")
    assert making.result().provisioning_state == "Succeeded"
