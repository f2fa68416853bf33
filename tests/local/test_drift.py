"""What comes after the submission goes by the job, whatever has changed since; through the real SDK and the wire."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import caller
import pytest
import yaml
from click.testing import CliRunner, Result

from phift import FineTuneRun, RunConfig, connect
from phift.cli.commands import main
from phift.errors import NotFound
from phift.testing import Fault, TestWorkspace

pytestmark = pytest.mark.slow


@dataclass
class Ground:
    """A workspace in which a run was submitted and deployed by its configuration file."""

    workspace: TestWorkspace
    file: Path
    values: dict[str, Any]
    job: str = ""

    def write(self, **changes: Any) -> None:
        self.values |= changes
        self.file.write_text(yaml.safe_dump(self.values), encoding="utf-8")

    def run(self) -> FineTuneRun:
        return FineTuneRun(RunConfig.from_yaml(self.file))

    def endpoints(self) -> list[str]:
        return [each.name for each in self.workspace.client.online_endpoints.list()]

    def option(self) -> str:
        return f"local:{self.workspace.connection.folder}"


def phift(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """Undo what the command line does to its process."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for each, handler in handlers.items():
        signal.signal(each, handler)


@pytest.fixture(scope="module")
def service() -> Iterator[TestWorkspace]:
    with TestWorkspace() as workspace:
        yield workspace


@pytest.fixture
def ground(service: TestWorkspace, tmp_path: Path, quiet_log: None) -> Ground:
    service.reset()
    caller.write_rows(tmp_path / "train.jsonl")
    values = {
        "workspace": {"local": str(service.connection.folder)},
        "model": "Phi-4-mini-instruct",
        "compute": "gpu-cluster",
        "data": {"train": "train.jsonl"},
        "parameters": {"seed": 1},
    }
    made = Ground(service, tmp_path / "run.yaml", values)
    made.write()
    run = made.run()
    made.job = run.submit().name
    run.wait()
    run.deploy()
    return made


def add_a_row(ground: Ground) -> None:
    with (ground.file.parent / "train.jsonl").open("a", encoding="utf-8") as file:
        messages = [{"role": "user", "content": "One more?"}, {"role": "assistant", "content": "Yes."}]
        file.write(json.dumps({"messages": messages}) + "\n")


def edit_a_parameter(ground: Ground) -> None:
    ground.write(parameters={"seed": 2})


def take_the_registry_away(ground: Ground) -> None:
    ground.workspace.order(Fault("GET registry*", status=404, times=None))


def move_the_data_away(ground: Ground) -> None:
    (ground.file.parent / "train.jsonl").unlink()


DRIFTS: dict[str, Callable[[Ground], None]] = {
    "a row added": add_a_row,
    "a parameter edited": edit_a_parameter,
    "the registry gone": take_the_registry_away,
    "the data gone": move_the_data_away,
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_what_comes_after_the_submission_works_and_nothing_is_left(ground: Ground, drift: str) -> None:
    DRIFTS[drift](ground)
    run = ground.run()
    assert run.job.name == ground.job
    assert run.metrics().columns.tolist() == ["metric", "step", "value", "time"]
    assert run.register().tags["phift.job"] == ground.job
    endpoint = run.deploy()
    assert ground.endpoints() == [endpoint.name]
    assert run.cleanup().deleted == (endpoint.name,)
    assert ground.endpoints() == []
    assert len(list(ground.workspace.client.jobs.list())) == 1


@pytest.mark.parametrize("drift", DRIFTS)
def test_the_command_cleans_up_in_spite_of_it(ground: Ground, drift: str) -> None:
    DRIFTS[drift](ground)
    result = phift("cleanup", ground.file)
    assert (result.exit_code, ground.endpoints()) == (0, []), result.output
    assert "There was no endpoint to delete." in phift("cleanup", ground.file).output


def test_a_run_goes_on_from_its_jobs_name_alone(ground: Ground) -> None:
    ground.file.unlink()
    move_the_data_away(ground)
    run = FineTuneRun.attach(ground.job, connect(workspace=ground.option()))
    assert run.config.parameters == {"seed": 1}
    assert run.metrics().columns.tolist() == ["metric", "step", "value", "time"]
    assert run.register().tags["phift.job"] == ground.job
    with run.deploy() as endpoint:  # it was left up on purpose
        assert endpoint.chat("Question 1?")
    assert ground.endpoints() == [endpoint.name]
    assert run.cleanup().deleted == (endpoint.name,)


def test_the_commands_take_a_jobs_or_an_endpoints_name(ground: Ground) -> None:
    ground.file.unlink()
    (name,) = ground.endpoints()
    assert f"{ground.job}" in phift("endpoints", "--workspace", ground.option()).output
    assert phift("cleanup", name, "--workspace", ground.option()).exit_code == 0
    assert "deployed nothing" in phift("endpoints", "--workspace", ground.option()).output
    deployed = phift("deploy", ground.job, "--workspace", ground.option())
    assert f"phift cleanup {ground.job} --workspace {ground.option()}" in deployed.output
    assert ground.endpoints() == [name]
    assert phift("cleanup", ground.job, "--workspace", ground.option()).exit_code == 0
    assert ground.endpoints() == []
    unknown = phift("cleanup", "nobody", "--workspace", ground.option())
    assert unknown.exit_code == 1
    assert "neither an endpoint nobody" in unknown.stderr


def test_what_an_earlier_run_left_is_named_and_the_exit_code_says_so(ground: Ground) -> None:
    (first,) = ground.endpoints()
    edit_a_parameter(ground)
    submitted = phift("submit", ground.file)
    assert (submitted.exit_code, ground.endpoints()) == (0, [first])
    assert "Nothing is deployed" in submitted.output
    result = phift("cleanup", ground.file)
    assert (result.exit_code, ground.endpoints()) == (1, [first])
    assert f"still up and costs money: endpoint {first} (of job {ground.job}; " in result.stderr
    command = result.stderr.splitlines()[-1].split()
    assert command[0] == "phift"
    assert phift(*command[1:]).exit_code == 0
    assert phift("cleanup", ground.file).exit_code == 0


def test_of_two_runs_that_could_be_meant_none_is_guessed(ground: Ground) -> None:
    edit_a_parameter(ground)
    second = ground.run().submit().name
    ground.write(parameters={"seed": 3})
    with pytest.raises(NotFound, match="several that it may be about") as caught:
        ground.run().register()
    assert {ground.job, second} <= set(caught.value.what.replace(",", " ").replace(".", " ").split())
    (left,) = ground.endpoints()
    assert ground.run().cleanup().deleted == (left,)  # the only endpoint of any of them


def test_a_configured_name_that_another_run_has_is_found_before_the_training(ground: Ground) -> None:
    (name,) = ground.endpoints()
    ground.write(deployment={"endpoint_name": name}, parameters={"seed": 2})
    report = ground.run().check()
    assert [finding.code for finding in report.errors] == ["DEPLOYMENT_NAME_TAKEN"]
    ground.write(parameters={"seed": 1})
    assert ground.run().check().ok
