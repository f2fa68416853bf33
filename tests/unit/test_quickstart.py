from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from phift import samples
from phift.cli import quickstart
from phift.cli.quickstart import Exam, ask_held_out, configuration, default_folder, demonstrate, fine_tune
from phift.config.deployment import DeploymentConfig
from phift.errors import CheckFailed
from phift.serving.endpoint import Endpoint
from unit.fakes import Fakes, phi_4
from unit.loopback import Reply, Request, Script


class Workspace:
    """Stands for the local workspace; remembers what was done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.base_url = "https://localhost:1"

    def __call__(self, folder: Path) -> Workspace:
        self.folder = folder
        return self

    def reset(self) -> None:
        self.done.append("reset")

    def up(self, on_event: Any) -> Workspace:
        self.done.append("up")
        on_event("starting")
        return self

    def down(self) -> None:
        self.done.append("down")


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = Workspace()
    monkeypatch.setattr(quickstart, "LocalWorkspace", made)
    return made


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, server: Script) -> Fakes:
    """Fakes with the demonstration's model, whose endpoints are on the scripted server."""
    made = Fakes()
    made.registry.models.add(phi_4(name="Phi-4-mini-instruct"))
    made.rest.on({"run": {"data": {"metrics": [{"key": "eval_loss"}]}}}, "/runs/get")
    points = [{"key": "eval_loss", "value": value, "step": step} for step, value in ((0, 5.25), (10, 0.125))]
    made.rest.on({"metrics": points}, "get-history", "metric_key=eval_loss&")
    made.workspace.online_endpoints.scoring_uri = f"{server.url}/score"
    monkeypatch.setattr("phift.run.chain.connect", lambda _config: made.clients)
    return made


def key_of(rows: list[list[dict[str, str]]]) -> dict[str, str]:
    """Return the right answers by question."""
    return {messages[-2]["content"]: messages[-1]["content"] for messages in rows}


def demonstration(folder: Path, **options: Any) -> tuple[int, str]:
    """Return the exit code and what was shown."""
    stream = io.StringIO()
    code = demonstrate(Console(file=stream, width=200), folder, show=fine_tune, **options)
    return code, stream.getvalue()


def learned(fakes: Fakes, folder: Path) -> Any:
    """Return a server that answers rightly once a job has been submitted."""
    test_file = samples.write(folder / "answers").test
    key = key_of([json.loads(line)["messages"] for line in test_file.read_text(encoding="utf-8").splitlines()])

    def answer(request: Request) -> list[str]:
        question = request.body["input_data"]["input_string"][-1]["content"]
        return [key[question] if fakes.workspace.jobs.submitted else "no idea"]

    return answer


def test_a_model_that_learned_is_shown_before_and_after(
    fakes: Fakes, workspace: Workspace, server: Script, tmp_path: Path
) -> None:
    server.answers(Reply(learned(fakes, tmp_path)))
    code, shown = demonstration(tmp_path)
    assert code == 0, shown
    assert "validation loss    5.250 before, 0.125 after" in shown
    assert "answered exactly   0% before, 100% after" in shown
    assert workspace.done == ["up", "down"]
    assert fakes.workspace.online_endpoints.known == {}


def test_a_model_that_learned_nothing_is_exit_code_1(
    fakes: Fakes, workspace: Workspace, server: Script, tmp_path: Path
) -> None:
    server.answers(Reply(["no idea"]))
    code, shown = demonstration(tmp_path, fresh=True)
    assert code == 1
    assert "answered exactly   0% before, 0% after" in shown
    assert workspace.done == ["reset", "up", "down"]
    assert len(fakes.workspace.jobs.submitted) == 1


def test_a_job_whose_losses_are_lost_is_shown_without_them(
    fakes: Fakes, workspace: Workspace, server: Script, tmp_path: Path
) -> None:
    server.answers(Reply(learned(fakes, tmp_path)))
    fakes.rest._canned.insert(0, (("/runs/get",), {"run": {"data": {"metrics": []}}}))
    code, shown = demonstration(tmp_path)
    assert (code, "validation loss" in shown, "100% after" in shown) == (0, False, True)
    assert workspace.done == ["up", "down"]


def test_the_server_is_stopped_even_if_something_is_wrong(fakes: Fakes, workspace: Workspace, tmp_path: Path) -> None:
    fakes.workspace.compute.known.clear()
    with pytest.raises(CheckFailed):
        demonstration(tmp_path)
    assert workspace.done == ["up", "down"]


def test_the_demonstration_trains_on_the_samples(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    assert config.parameters == dict(samples.PARAMETERS)
    assert isinstance(config.data.train, Path)
    assert config.data.train.is_relative_to(tmp_path)
    assert config.data.train.is_file()


def test_the_state_is_apart_from_the_users_own_workspace() -> None:
    assert default_folder().name == "quickstart"


def test_an_exam_counts_exact_answers_only() -> None:
    exam = Exam(questions=("a", "b", "c", "d"), expected=("1", "2", "3", "4"), answers=("1", " 2\n", "3.", "x"))
    assert (exam.right, exam.share) == (2, 0.5)


def test_the_same_seed_asks_the_same_questions(fakes: Fakes, server: Script, tmp_path: Path) -> None:
    server.answers(Reply(["x"]))
    fakes.add_endpoint("phift-e")
    endpoint = Endpoint(fakes.clients, "phift-e", DeploymentConfig())
    test_file = samples.write(tmp_path).test
    first, again, other = (ask_held_out(endpoint, test_file, count=5, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first.questions)) == len(first.answers) == 5
