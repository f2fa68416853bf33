"""`docs/local-models.md` as a reader would follow it, with a small model of their own."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import checkpoints
import pytest
import yaml
from test_documents import ROOT, Reader

from phift import RunConfig
from phift.component.settings import Settings
from phift.local import LocalWorkspace
from phift.local.model import catalog
from phift.local.state.identity import read_secret

pytestmark = pytest.mark.slow

DOCUMENT = (ROOT / "docs" / "local-models.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("reader"))
    (reader.folder / "own.yaml").write_text(blocks("yaml")[0])
    checkpoints.write(reader.folder / "checkpoint", "qwen2")
    for model in catalog.foundation_models():  # nobody asks these for anything, and to make them takes ten seconds
        (reader.home / "local" / "registry" / model["name"]).mkdir(parents=True)
    read_secret(reader.home / "local" / "secret")
    try:
        yield reader
    finally:
        LocalWorkspace(reader.home / "local").down()


@pytest.fixture(scope="module")
def said(reader: Reader) -> dict[str, str]:
    """What each of the document's commands says."""
    (commands,) = blocks("sh")
    return {line.split('"')[0].strip(): reader.run("sh", "-c", line) for line in commands.splitlines()}


def test_the_whole_chain_works_on_a_model_of_ones_own(said: dict[str, str], reader: Reader) -> None:
    assert "Qwen2ForCausalLM, 119,360 parameters" in said["phift local model add my-model ./checkpoint"]
    assert re.search(r"^my-model +1 +119,360 +Qwen2ForCausalLM", said["phift local model list"], re.MULTILINE)
    checked = said["phift check own.yaml"]
    assert "counted with the tokenizer of my-model version 1" in checked
    assert re.search(r"^memory of this machine: about 0\.\d GB", checked, re.MULTILINE)
    assert "MODEL_STAND_IN" not in checked
    ran = said["phift run own.yaml --ask"]
    assert "my-model" in ran
    assert "chat_completion_finetune" in ran
    jobs = json.loads(reader.run("phift", "runs", "--workspace", "local", "--json"))
    assert [(each["state"], each["model"]) for each in jobs] == [("Completed", "my-model:1")]
    home = reader.home / "local"
    assert json.loads(next(home.glob("blobs/**/mlflow_model_folder/finetune_config.json")).read_text()) == json.loads(
        (home / "registry/added/my-model/1/model/finetune_config.json").read_text()
    )


@pytest.mark.proof
def test_it_is_compared_with_what_was_trained_from_it(said: dict[str, str], reader: Reader) -> None:
    assert said
    (job,) = (each["name"] for each in json.loads(reader.run("phift", "runs", "--workspace", "local", "--json")))
    compared = reader.run(*f"phift evaluate {job} --workspace local --limit 8 --max-new-tokens 4".split())
    assert re.search(r"^chrf +0\.\d+ +0\.\d+ ", compared, re.MULTILINE)


def test_a_model_that_jobs_were_trained_from_says_so_when_it_goes(said: dict[str, str], reader: Reader) -> None:
    assert said
    (example,) = blocks("python")
    assert reader.run(sys.executable, "-c", example).splitlines()[1] == "'<|im_start|>assistant' '<|im_start|>user'"
    removed = reader.run("phift", "local", "model", "remove", "my-model")
    assert removed.splitlines()[0] == "removed my-model, version 1"
    assert "was trained from it, and stays: job phift-my-model-" in removed


def test_with_another_workspace_the_file_is_one_for_azure(said: dict[str, str], reader: Reader) -> None:
    """All but the workspace is the same; each parameter is one of the component's, and goes with the others."""
    assert said
    here = yaml.safe_load(blocks("yaml")[0])
    azure: dict[str, Any] = {"subscription_id": "0" * 8 + "-0000" * 3 + "-" + "0" * 12}
    azure |= {"resource_group": "rg", "workspace_name": "ws"}
    there = RunConfig(**{**here, "workspace": azure})
    assert there.model_dump(exclude={"workspace"}) == RunConfig(**here).model_dump(exclude={"workspace"})
    Settings.parse({name: str(value).lower() for name, value in here["parameters"].items()})
