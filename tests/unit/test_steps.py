"""One step alone: each block of docs/steps.md, with the client of the SDK that a reader has, and what goes wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import phift
from phift.errors import CheckFailed, ComputeError, ConfigError, DataError, NotFound
from phift.testing import TestWorkspace

DOCUMENT = (Path(__file__).parents[2] / "docs" / "steps.md").read_text(encoding="utf-8")
FIRST, *BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)
STEPS = ("find_model", "resolve_compute", "prepare_dataset", "build_pipeline", "register_model", "deploy_model")
CONFIG: dict[str, Any] = {"model": "Phi-4-mini-instruct", "compute": "gpu-cluster", "data": "train.jsonl"}


@pytest.fixture(autouse=True)
def _reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a folder with some training data."""
    rows = [
        {"messages": [{"role": "user", "content": f"{n} plus one?"}, {"role": "assistant", "content": str(n + 1)}]}
        for n in range(40)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)


def test_the_blocks_run_with_a_client_that_one_has(
    workspace: TestWorkspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [step for block in BLOCKS for step in STEPS if f"phift.{step}(" in block] == list(STEPS)
    given: dict[str, Any] = {}
    workspace.write_config(tmp_path)
    exec(FIRST, given)  # noqa: S102 - our own document
    said = []
    for block in BLOCKS:
        exec(block, {"ml_client": given["ml_client"]})  # noqa: S102 - the same
        said.append(capsys.readouterr().out)
    assert "Standard_NC24ads_A100_v4" in said[0]
    assert said[1].startswith("Standard_NC24ads_A100_v4 1 True")
    assert said[2].splitlines()[-1].endswith("train.jsonl 32")
    assert said[3].startswith("phift-phi-4-mini-instruct-")
    assert said[4].startswith("Completed")
    assert said[5].startswith("elements ")
    assert said[6].strip()
    assert len(workspace.requests("PUT jobs/*")) == len(workspace.requests("PUT models/*/versions/*")) == 1
    assert list(workspace.client.online_endpoints.list()) == []


@pytest.mark.parametrize(
    ("step", "kind", "said"),
    [
        (lambda client: phift.find_model(client, "Phi-4-mini-instruc"), NotFound, "did you mean Phi-4-mini-instruct"),
        (lambda client: phift.find_model(client, ""), ConfigError, "name: String should have at least 1 character"),
        (lambda client: phift.resolve_compute(client, "gpu-clustr"), NotFound, "did you mean gpu-cluster"),
        (lambda client: phift.resolve_compute(client, {"clustr": "x"}), ConfigError, "clustr: no such key"),
        (lambda client: phift.resolve_compute(client, {"serverless": "Standard_DS13_v2"}), ComputeError, "has no GPU"),
        (lambda _: phift.prepare_dataset({"trian": "train.jsonl"}, "out"), ConfigError, "trian: no such key"),
        (lambda _: phift.prepare_dataset("azureml:chat:1", "out"), DataError, "is not read here"),
        (lambda client: phift.build_pipeline(client, {**CONFIG, "modle": "x"}), ConfigError, "modle: no such key"),
        (
            lambda client: phift.build_pipeline(client, {**CONFIG, "parameters": {"learning_rat": 1}}),
            CheckFailed,
            "did you mean learning_rate",
        ),
        (
            lambda client: phift.build_pipeline(
                client, {**CONFIG, "compute": {"cluster": "new", "size": "Standard_NC24ads_A100_v4"}}
            ),
            ComputeError,
            "no cluster new yet",
        ),
        (lambda client: phift.register_model(client, "nobody-s", name="x"), NotFound, "nobody-s"),
        (lambda client: phift.deploy_model(client, "none:1", name="try", size="x"), NotFound, "none:1"),
        (
            lambda client: phift.deploy_model(client, "none:1", name="try", size="x", config={"prob": {}}),
            ConfigError,
            "prob: no such key",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_makes_nothing(
    workspace: TestWorkspace, step: Callable[[Any], object], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as caught:
        step(workspace.client)
    assert said in str(caught.value)
    assert [asked.place for asked in workspace.requests("PUT *")] == []


def test_a_compute_without_a_list_and_one_to_create(workspace: TestWorkspace) -> None:
    size = "Standard_NC24ads_A100_v4"
    assert phift.resolve_compute(workspace.client, "gpu-cluster").findings == ()
    assert phift.resolve_compute(workspace.client, {"serverless": size}).kind == "serverless"
    assert not phift.resolve_compute(workspace.client, {"cluster": "new", "size": size}).exists


def test_a_client_of_a_cloud_that_the_process_has_left_is_refused(
    workspace: TestWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = workspace.client
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "AzureCloud")
    with pytest.raises(ConfigError, match=r"belongs to the cloud PhiftLocal.* talks to AzureCloud by now"):
        phift.find_model(client, "Phi-4-mini-instruct")


def test_rows_from_python_alone_are_what_to_train_on() -> None:
    import pandas as pd

    frame = pd.DataFrame({"question": [f"{n} plus one?" for n in range(30)], "answer": [str(n) for n in range(30)]})
    assert phift.prepare_dataset(frame, "out").rows["train"] == 24
    assert phift.prepare_dataset({"files": "train.jsonl"}, Path("out")) == phift.prepare_dataset("train.jsonl", "out")


def test_the_steps_go_on_from_one_another_and_do_nothing_twice(workspace: TestWorkspace) -> None:
    client = workspace.client
    first = phift.build_pipeline(client, CONFIG)
    assert phift.build_pipeline(client, CONFIG).name == first.name  # it was not submitted
    client.jobs.create_or_update(first)
    assert phift.build_pipeline(client, CONFIG).name == f"{first.name}-2"

    # It is a run like any other: the same configuration finds it, and so does its name in a workspace's own words.
    run = phift.FineTuneRun(phift.RunConfig(**CONFIG), client)
    assert run.submit().name == first.name
    attached = phift.FineTuneRun.attach(first.name, f"local:{workspace.connection.folder}")
    attached.wait()

    model = phift.register_model(client, first.name, name="elements")
    again = phift.register_model(client, phift.FineTuneJob(first.name, client), name="elements")
    assert (model.existed, again.existed, again.version) == (False, True, model.version)

    where: dict[str, Any] = {"name": "try", "size": "Standard_NC24ads_A100_v4", "job": first.name}
    made = [phift.deploy_model(client, given, **where) for given in (model, f"elements:{model.version}", model.id)]
    assert [each.existed for each in made] == [False, True, True]
    assert len(workspace.requests("PUT onlineEndpoints/try/deployments/default")) == 1
    assert attached.cleanup().deleted == ("try",)


@pytest.fixture
def connected() -> Iterator[list[Any]]:
    """How `connect` is called, and nobody is connected to."""
    made: list[Any] = []
    with patch("phift.azure.connect.connect", lambda **given: made.append(given)):
        yield made


def test_a_model_is_looked_up_in_the_registry_that_its_id_names(connected: list[Any]) -> None:
    with pytest.raises(AttributeError):  # there are no clients
        phift.find_model("s/g/w", "azureml://registries/own/models/Phi-4/versions/1")
    assert connected == [{"workspace": "s/g/w", "registry": "own"}]
