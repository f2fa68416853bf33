"""A search: what it tries, what it goes on with, what it pays, and what it says."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from phift import Clients, FineTuneRun, RunConfig, samples
from phift.cli.commands import main
from phift.config.search import SearchConfig
from phift.errors import CheckFailed, ConfigError, NotFound, PhiftError, WaitTimeout
from phift.jobs.job import FineTuneJob
from phift.local import programs
from phift.run.events import TrialChanged
from phift.run.listing import times
from phift.run.trials import SearchResult, Ticket, Trial
from phift.run.tuning import _Search, find_search, stop_search, tune
from phift.testing import Fault, TestWorkspace

RATES = {"learning_rate": {"low": 1e-6, "high": 0.1, "log": True}}


class Lab:
    """A workspace whose engine logs a loss that is best at a learning rate of 1e-3, and trains nothing.

    - **hold**: while it is set, a training step does not end.
    """

    def __init__(self, workspace: TestWorkspace, config: RunConfig) -> None:
        self.workspace, self.config = workspace, config
        self.hold = threading.Event()
        self.events: list[TrialChanged] = []

    @property
    def clients(self) -> Clients:
        return replace(self.workspace.clients, poll_seconds=0.02)

    def train(self, file: Path) -> Iterator[dict[str, str]]:
        job = json.loads(file.read_text(encoding="utf-8"))
        logged = False
        for event in programs.train_at_once(file):
            yield event
            if event["name"] == "chat_completion_finetune" and not logged:
                logged = True
                own = next(each["run_id"] for each in job["steps"] if each["name"] == event["name"])
                loss = abs(math.log10(float(job["inputs"]["learning_rate"])) + 3)
                for step in range(5):
                    for run in (job["name"], own):  # as the component does
                        self.log(run, loss + 1 / (step + 1), step)
                while self.hold.is_set():
                    time.sleep(0.01)
                    yield event

    def log(self, job: str, value: float, step: int) -> None:
        tracking, now = FineTuneJob(job, self.clients).tracking, int(time.time() * 1000)
        point = {"run_id": job, "key": "eval_loss", "value": value, "step": step, "timestamp": now}
        self.clients.rest.post(f"{tracking._mlflow}/runs/log-metric", point)

    def search(self, **changed: Any) -> SearchConfig:
        return SearchConfig(**{"name": "rates", "run": self.config, "space": RATES, "trials": 4, **changed})

    def tune(self, **changed: Any) -> SearchResult:
        return tune(self.search(**changed), self.clients, on_event=self.note)

    def note(self, event: object) -> None:
        if isinstance(event, TrialChanged):
            self.events.append(event)

    def jobs(self) -> list[str]:
        return sorted(str(job.name) for job in self.clients.workspace.jobs.list())


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    data = samples.write(tmp_path / "elements")
    files = {"train": data.train, "validation": data.validation, "test": data.test}
    config = RunConfig(
        model="Phi-4-mini-instruct",
        compute="gpu-cluster",
        data=files,
        work_dir=tmp_path / "work",
        tokens_per_second=100,
        prices={"Standard_NC24ads_A100_v4": 3600},  # a dollar a second
    )
    made: list[Lab] = []
    engine = replace(programs.ENGINES["instant"], engine=lambda file: made[0].train(file))
    monkeypatch.setitem(programs.ENGINES, "instant", engine)
    with TestWorkspace() as workspace:
        made.append(Lab(workspace, config))
        yield made[0]
        made[0].hold.clear()


def in_background(call: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def values(result: SearchResult) -> list[tuple[Mapping[str, Any], str, float | None]]:
    return [(each.parameters, each.state, each.value) for each in result.trials]


def test_it_finds_better_values_than_those_of_the_run_and_says_all_of_it(lab: Lab) -> None:
    result = lab.tune(trials=4)
    first, best = result.trials[0], result.best
    assert first.parameters == {"learning_rate": 5e-6}
    assert best.value is not None
    assert first.value is not None
    assert best.value < first.value
    assert best.config().parameters["learning_rate"] == best.parameters["learning_rate"]
    assert [each.number for each in result.trials] == list(range(4))
    assert len(lab.jobs()) == 4
    frame = result.frame()
    assert list(frame.columns) == ["number", "learning_rate", "value", "state", "job", "estimate", "cost"]
    assert frame["value"].min() == best.value
    assert "the best" in str(result)
    assert best.job in result._repr_html_()
    assert json.loads(json.dumps(result.to_dict()))["best"] == best.number
    assert len(result.plot()._repr_png_()) > 5000
    assert {event.state for event in lab.events} >= {"completed"}
    assert all(json.dumps(event.to_dict()) and str(event) for event in lab.events)


def test_a_second_call_tries_nothing_and_finds_the_same(lab: Lab) -> None:
    first, jobs = lab.tune(trials=2), lab.jobs()
    assert values(lab.tune(trials=2)) == values(first)
    assert values(find_search("rates", lab.clients)) == values(first)
    assert lab.jobs() == jobs


def test_more_trials_go_on_with_those_that_are_there(lab: Lab) -> None:
    first = lab.tune(trials=1)
    assert values(lab.tune(trials=3))[:1] == values(first)
    assert len(lab.jobs()) == 3


def test_import_and_preprocessing_run_once_in_all(lab: Lab) -> None:
    reused = []
    for trial in lab.tune(trials=3).trials:
        children = lab.clients.workspace.jobs.list(parent_job_name=trial.job)
        reused.append([child.display_name for child in children if child.properties.get("azureml.isreused")])
    assert reused == [[], *[["chat_completion_model_import", "chat_completion_datapreprocess"]] * 2]


def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(lab: Lab) -> None:
    class Killed(BaseException):
        """As a signal ends a process."""

    whole = lab.tune(name="whole", trials=3)
    lab.workspace.reset()
    created = lab.clients.workspace.jobs.create_or_update
    for moment in range(3):  # after each submission, before anything was noted of it
        count = len(lab.jobs())

        def kill(job: Any, _after: int = count + 1) -> Any:
            made = created(job)
            if len(lab.jobs()) == _after:
                raise Killed
            return made

        with pytest.MonkeyPatch.context() as patch:
            clients = lab.clients
            patch.setattr(clients.workspace.jobs, "create_or_update", kill)
            with pytest.raises(Killed):
                tune(lab.search(trials=3), clients)
        assert len(lab.jobs()) == moment + 1
    assert values(lab.tune(trials=3)) == values(whole)
    assert len(lab.jobs()) == 3


def test_two_at_once_submit_nothing_twice(lab: Lab) -> None:
    results: list[SearchResult] = []
    threads = [in_background(lambda: results.append(lab.tune(trials=4, parallel=2))) for _ in range(2)]
    for thread in threads:
        thread.join(60)
    assert [values(each) for each in results] == [values(results[0])] * 2
    assert len(lab.jobs()) == 4


def test_an_interruption_at_any_moment_knows_of_the_jobs_that_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.hold.set()

    def interrupt(*_given: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # when the first one has just been submitted
        patch.setattr("phift.run.tuning._Search._has_room", lambda each: not each.trials or interrupt())
        patch.setattr("phift.run.tuning.read_trial", interrupt)
        with pytest.raises(KeyboardInterrupt) as first:
            lab.tune()
    (job,) = lab.jobs()
    assert [(each.state, each.job) for each in lab.events] == [("running", job)]
    assert first.value.__notes__ == [f"Jobs of the search rates go on: {job}"]
    lab.events.clear()
    monkeypatch.setattr("phift.run.tuning._Search._checked_base", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lab.tune()
    assert [(each.state, each.job) for each in lab.events] == [("running", job)]


def test_no_more_than_asked_run_at_once(lab: Lab) -> None:
    lab.hold.set()
    thread = in_background(lambda: lab.tune(parallel=2))
    until(lambda: len(lab.jobs()) == 2)
    time.sleep(0.3)
    assert len(lab.jobs()) == 2
    lab.hold.clear()
    thread.join(30)
    assert len(lab.jobs()) == 4


def test_one_ceiling_is_held_for_all_of_it(lab: Lab) -> None:
    estimate = lab.tune(name="one", trials=1, max_cost=1e6).trials[0].estimate
    assert estimate is not None
    result = lab.tune(name="three", max_cost=estimate / 2, trials=6)
    assert "it was not submitted" in result.ended
    assert len(result.trials) == 1
    assert result.cost == 0  # it was there


def test_what_trials_really_cost_counts_and_not_their_estimate(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_long(properties: Mapping[str, str]) -> tuple[datetime | None, datetime | None]:
        begun, ended = times(properties)
        return begun, begun + timedelta(seconds=0.45) if begun and ended else ended

    monkeypatch.setattr("phift.run.trials.times", as_long)  # however busy the machine is
    lab.config = lab.config.model_copy(update={"tokens_per_second": 1e6})  # an estimate of next to nothing
    result = lab.tune(trials=20, max_cost=2.0)
    assert len(result.trials) == 4
    assert "it was not submitted" in result.ended
    assert result.cost is not None
    assert all(each.cost and each.estimate and each.cost > each.estimate for each in result.trials)


def test_a_ceiling_without_a_price_is_refused_as_a_run_refuses_it(lab: Lab) -> None:
    lab.config = lab.config.model_copy(update={"tokens_per_second": None, "model": lab.config.model})
    with pytest.raises(CheckFailed, match="is not known"):
        lab.tune(max_cost=5)
    assert lab.jobs() == []


def test_a_space_that_the_component_does_not_take_is_refused_with_every_place(lab: Lab) -> None:
    space = {
        "lerning_rate": [1e-5],
        "num_train_epochs": [1, 1.5],
        "lr_scheduler_type": ["cosine", "wavy"],
        "lora_r": {"low": 1, "high": 8},
    }
    with pytest.raises(ConfigError) as caught:
        lab.tune(space=space)
    assert {place for place, _ in caught.value.mistakes} == {
        "space.lerning_rate",
        "space.num_train_epochs",
        "space.lr_scheduler_type",
    }
    assert lab.jobs() == []


def test_a_combination_that_the_check_refuses_is_passed_over(lab: Lab) -> None:
    space = {"apply_deepspeed": [True, False], "auto_find_batch_size": [True, False]}
    result = lab.tune(space=space, sampler="grid", trials=9)
    assert [each.parameters for each in result.trials if each.state == "completed"] == [
        {"apply_deepspeed": True, "auto_find_batch_size": False},
        {"apply_deepspeed": False, "auto_find_batch_size": True},
        {"apply_deepspeed": False, "auto_find_batch_size": False},
    ]
    refused = [each for each in result.trials if each.state == "refused"]
    assert [each.parameters for each in refused] == [{"apply_deepspeed": True, "auto_find_batch_size": True}]
    assert refused[0].reason
    assert result.ended == "Its grid has no more values."


def test_a_grid_has_every_value_once_also_with_several_trials_at_once(lab: Lab) -> None:
    rates = [5e-6, 1e-4, 1e-3, 1e-2]  # the first one is that of the run
    result = lab.tune(space={"learning_rate": rates}, sampler="grid", parallel=2, trials=9)
    assert [each.parameters["learning_rate"] for each in result.trials] == rates
    assert result.ended == "Its grid has no more values."
    assert len(lab.jobs()) == 4


def test_what_does_worse_than_the_others_is_cancelled(lab: Lab) -> None:
    pruner = {"name": "median", "n_startup_trials": 1, "n_warmup_steps": 1}
    lab.config = lab.config.model_copy(update={"parameters": {"learning_rate": 1e-3}})
    lab.tune(trials=1, pruner=pruner)
    lab.hold.set()
    result = lab.tune(trials=2, pruner=pruner, seed=3)
    assert [each.state for each in result.trials] == ["completed", "pruned"]
    job = lab.clients.workspace.jobs.get(result.trials[1].job)
    assert job.status == "Canceled"
    lab.hold.clear()
    assert [each.state for each in lab.tune(trials=2, pruner=pruner, seed=3).trials] == ["completed", "pruned"]


def test_one_that_is_stopped_stops_and_goes_on_when_called_again(lab: Lab) -> None:
    lab.hold.set()
    results: list[SearchResult] = []
    thread = in_background(lambda: results.append(lab.tune(trials=3)))
    until(lambda: len(lab.jobs()) == 1)
    until(lambda: bool(lab.events))
    assert [each.state for each in stop_search("rates", lab.clients).trials] == ["stopped"]
    thread.join(30)
    assert "stopped" in results[0].ended
    assert [each.state for each in results[0].trials] == ["stopped"]
    lab.hold.clear()
    again = lab.tune(trials=3)
    assert [each.state for each in again.trials] == ["completed"] * 3
    assert again.trials[0].job == f"{results[0].trials[0].job}-2"
    assert [each.state for each in find_search("rates", lab.clients).trials] == ["completed"] * 3


def test_all_jobs_of_a_search_are_cancelled_at_once_whatever_one_of_them_answers(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(event: object) -> None:
        if isinstance(event, TrialChanged) and event.trial == 2:
            raise KeyboardInterrupt

    lab.hold.set()
    with pytest.raises(KeyboardInterrupt):
        tune(lab.search(trials=3, parallel=3), lab.clients, on_event=killed)
    first, *others = lab.jobs()
    asked: list[int] = []

    def too_long(_poller: object, what: str) -> None:
        asked.append(len(lab.workspace.requests("POST jobs/*/cancel")))
        raise WaitTimeout("It takes long.", where=what)

    lab.workspace.order(Fault(on=f"POST jobs/{first}/cancel", status=400, times=None))
    monkeypatch.setattr("phift.jobs.job.outcome", too_long)
    with pytest.raises(PhiftError) as caught:
        stop_search("rates", lab.clients)
    assert asked == [3, 3]
    assert all(job in caught.value.__notes__[0] for job in lab.jobs())
    until(lambda: all(FineTuneJob(job, lab.clients).status() == "Canceled" for job in others))
    assert FineTuneJob(first, lab.clients).status() == "Running"


def test_a_search_that_is_stopped_cancels_what_it_began_and_waits_for_no_single_job(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.hold.set()
    results: list[SearchResult] = []
    thread = in_background(lambda: results.append(lab.tune(trials=3, parallel=3)))
    until(lambda: len({event.trial for event in lab.events}) == 3)

    def too_long(_poller: object, what: str) -> None:
        raise WaitTimeout("It takes long.", where=what)

    monkeypatch.setattr("phift.jobs.job.outcome", too_long)
    FineTuneJob(lab.events[0].job, lab.clients).begin_cancel()
    thread.join(30)
    assert [each.state for each in results[0].trials] == ["stopped"] * 3


def test_what_a_stopped_attempt_cost_is_not_forgotten_while_the_next_one_runs(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    over = _Search._over

    def too_much(*given: Any) -> str:
        asked.append(over(*given))
        return asked[-1]

    def begun() -> bool:
        return any(event.state == "running" and event.value is not None for event in lab.events)

    lab.hold.set()
    thread = in_background(lambda: lab.tune(trials=1, max_cost=1e6))
    until(begun)
    stopped = stop_search("rates", lab.clients).trials[0].cost
    thread.join(30)
    assert stopped
    lab.events.clear()
    killed = in_background(lambda: lab.tune(trials=1, max_cost=1e6))
    until(begun)
    (running,) = find_search("rates", lab.clients).trials
    assert (running.state, running.cost, running.earlier_cost) == ("running", None, stopped)
    assert find_search("rates", lab.clients).cost == pytest.approx((running.estimate or 0) + stopped)
    # Whoever goes on with it has spent that too, so this is too little for another trial.
    little = 2 * (running.estimate or 0) + stopped / 2
    monkeypatch.setattr("phift.run.tuning._Search._over", too_much)
    results: list[SearchResult] = []
    resumed = in_background(lambda: results.append(lab.tune(trials=2, parallel=2, max_cost=little)))
    until(lambda: bool(asked))
    lab.hold.clear()
    for thread in (resumed, killed):
        thread.join(30)
    (only,) = results[0].trials
    assert "it was not submitted" in results[0].ended
    assert only.cost
    assert only.cost > only.earlier_cost == stopped  # type: ignore[operator]  # it is a number
    assert results[0].cost == find_search("rates", lab.clients).cost == only.cost


def test_a_job_of_the_same_parameters_is_found_and_costs_nothing_more(lab: Lab) -> None:
    run = FineTuneRun(lab.config, lab.clients)
    run.submit()
    run.wait()
    result = lab.tune(trials=2, max_cost=1e6)
    assert result.trials[0].job == run.job.name
    assert result.trials[0].cost == 0
    assert find_search("rates", lab.clients).trials[0].cost == 0
    assert result.trials[1].cost


def test_a_job_that_takes_the_training_of_a_failed_one_has_its_metrics(lab: Lab) -> None:
    lab.workspace.order(Fault(on="step ft_nlp_model_converter", status=400))
    assert [each.state for each in lab.tune(trials=1).trials] == ["failed"]
    run = FineTuneRun(lab.config, lab.clients)
    run.submit()
    run.wait()
    assert run.job.name.endswith("-2")
    assert len(run.metrics()) == 5
    assert lab.tune(name="another", trials=1).best.value == lab.tune(name="another", trials=1).trials[0].value


def test_the_document_is_right(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (search,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    clients = lab.clients
    monkeypatch.setattr("phift.run.tuning.connect", lambda _config: clients)
    monkeypatch.chdir(tmp_path)  # where the sample data is
    (tmp_path / "tune.yaml").write_text(search)
    exec(compile(example, "docs/tuning.md", "exec"), {})  # noqa: S102 - our own words
    assert len(find_search("elements", clients).trials) == 6
    assert (tmp_path / "trials.png").stat().st_size > 5000
    rows = dict(re.findall(r"^\| `([a-z_]+)`(?:, `[a-z]+`)? \| (.*) \|$", text, flags=re.MULTILINE))
    assert {*rows, "direction"} == {*SearchConfig.model_fields}


def test_trials_that_all_fail_are_not_gone_on_with(lab: Lab) -> None:
    lab.workspace.order(Fault(on="step chat_completion_finetune", status=400, times=None))
    result = lab.tune(trials=9)
    assert [each.state for each in result.trials] == ["failed"] * 3
    with pytest.raises(NotFound, match="No trial has completed"):
        _ = result.best
    with pytest.raises(NotFound):
        result.plot()
    assert "failed" in str(result)


def test_a_short_silence_of_the_service_ends_no_search(lab: Lab) -> None:
    lab.hold.set()
    results: list[SearchResult] = []
    thread = in_background(lambda: results.append(lab.tune(trials=1)))
    until(lambda: bool(lab.events))
    lab.workspace.order(Fault(on="GET jobs/*", status=503, times=5))  # the SDK asks four times by itself
    until(lambda: lab.workspace.faults()[0].hits == 5)
    lab.hold.clear()
    thread.join(30)
    assert [each.state for each in results[0].trials] == ["completed"]


def test_other_data_under_the_same_name_is_refused(lab: Lab) -> None:
    lab.tune(trials=1)
    source = Path(str(lab.config.data.sources["train"][0].files))  # type: ignore[union-attr]  # it is a file
    source.write_text("".join(source.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ConfigError, match="not what the search rates has trained on"):
        lab.tune(trials=2)


def test_a_name_that_no_search_has_is_not_found(lab: Lab) -> None:
    for ask in (find_search, stop_search):
        with pytest.raises(NotFound, match="no search nothing"):
            ask("nothing", lab.clients)


def test_the_commands_run_show_and_stop_a_search(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = lab.clients
    monkeypatch.setattr("phift.run.tuning.connect", lambda _config: clients)
    monkeypatch.setattr("phift.azure.connect.connect", lambda workspace: clients)
    data = {split: str(sources[0].files) for split, sources in lab.config.data.sources.items()}  # type: ignore[union-attr]
    run = {"model": "Phi-4-mini-instruct", "compute": "gpu-cluster", "data": data, "work_dir": str(tmp_path / "w")}
    (tmp_path / "run.yaml").write_text(json.dumps({**run, "workspace": "local"}))
    file, plot = tmp_path / "tune.yaml", tmp_path / "trials.png"
    file.write_text(json.dumps({"name": "rates", "run": "run.yaml", "space": RATES, "trials": 2}))
    done = CliRunner().invoke(main, ["tune", str(file), "--plot", str(plot)])
    assert done.exit_code == 0, done.output
    assert "completed, the best" in done.stdout
    assert "All of its trials have ended." in done.stderr
    assert "phift deploy phift-phi-4-mini-instruct-" in done.stderr
    assert plot.stat().st_size > 5000
    for command in (
        ["tune", "--json", str(file)],
        ["tune", "status", "rates", "--json"],
        ["tune", "stop", "rates", "--json"],
    ):
        told = CliRunner().invoke(main, command)
        assert told.exit_code == 0, told.output
        assert len(json.loads(told.stdout)["trials"]) == 2
    assert "best" in CliRunner().invoke(main, ["tune", "status", "rates"]).stdout
    nothing = CliRunner().invoke(main, ["tune", "status", "none", "--workspace", "local"])
    assert nothing.exit_code == 1
    assert "no search none" in nothing.stderr
    assert CliRunner().invoke(main, ["tune", str(tmp_path / "none.yaml")]).exit_code == 1
    assert "status" in CliRunner().invoke(main, ["tune", "--help"]).stdout


def test_a_search_without_a_completed_trial_exits_with_1_and_an_interrupted_one_with_130(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = SearchResult("rates", "eval_loss", "minimize", (), "It was stopped: the same search goes on with it.")
    file = tmp_path / "tune.yaml"
    run = {"model": "Phi-4", "compute": "c", "data": "rows.jsonl", "workspace": "local:here"}
    file.write_text(json.dumps({"name": "rates", "run": run, "space": RATES}))
    monkeypatch.setattr("phift.run.tuning.tune", lambda *_arguments, **_options: result)
    failed = CliRunner().invoke(main, ["tune", str(file)])
    assert failed.exit_code == 1
    assert "No trial has completed" in failed.stderr

    stop = f"phift tune stop rates --workspace local:{tmp_path / 'here'}"
    drawn: list[str] = []
    monkeypatch.setattr("phift.EventPrinter.stop_drawing", lambda _printer: drawn.append("ended"))

    def at_once(*_given: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("phift.run.tuning.tune", at_once)
    ended = CliRunner().invoke(main, ["tune", str(file)])
    assert f"Jobs of the search that run go on; `{stop}` cancels them" in ended.stderr
    assert "Nothing goes on" not in ended.stderr
    assert drawn == ["ended"]

    def interrupted(search: SearchConfig, *, on_event: Callable[[object], None]) -> None:
        common: dict[str, Any] = {"search": search.name, "trial": 0, "parameters": {}, "metric": "m", "value": None}
        on_event(TrialChanged(state="running", job="one", **common))
        on_event(TrialChanged(state="running", job="two", **common))
        on_event(TrialChanged(state="completed", job="one", **common))
        raise KeyboardInterrupt

    monkeypatch.setattr("phift.run.tuning.tune", interrupted)
    ended = CliRunner().invoke(main, ["tune", str(file)])
    assert ended.exit_code == 130
    assert f"These jobs go on: two; `{stop}` cancels them" in ended.stderr
    assert f"phift tune {file}" in ended.stderr


@pytest.mark.parametrize(
    "value",
    [
        "",
        "3",
        "[]",
        "{}",
        '{"trial":-1,"parameters":{},"metric":"m","direction":"minimize"}',
        '{"trial":"1","parameters":{},"metric":"m","direction":"minimize"}',
        '{"trial":1,"parameters":{"a":[1]},"metric":"m","direction":"minimize"}',
        '{"trial":1,"parameters":{},"metric":"m","direction":"minimize","estimate":-5}',
        '{"trial":1,"parameters":{},"metric":"m","direction":"minimize","per_hour":"x"}',
        "\ud800",
        "[" * 100_000,
    ],
)
def test_a_tag_that_no_search_wrote_is_no_trial(value: str) -> None:
    assert Ticket.read(value) is None


def test_a_trial_fits_into_the_tag_that_says_what_it_is() -> None:
    parameters: dict[str, Any] = {"p" * 25 + str(number): 1.2345678901234567e-05 for number in range(10, 22)}
    metric = "m" * 40
    ticket = Ticket(
        trial=999, parameters=parameters, metric=metric, direction="maximize", estimate=1 / 3, per_hour=1 / 3
    )
    assert len(str(ticket)) <= 1000  # characters, as Azure takes them
    assert Ticket.read(str(ticket)) == ticket


def test_what_is_no_number_is_text_in_json() -> None:
    points = ((0, math.nan), (1, math.inf), (2, 0.5))
    trial = Trial(number=1, parameters={}, state="completed", value=-math.inf, points=points)
    result = SearchResult("odd", "eval_loss", "minimize", (trial,))
    told = json.loads(json.dumps(result.to_dict()), parse_constant=pytest.fail)
    assert told["trials"][0]["points"] == [[0, "NaN"], [1, "Infinity"], [2, 0.5]]
    common: dict[str, Any] = {"search": "odd", "trial": 1, "parameters": {"a": 0.1 + 0.2, "b": True}, "job": "j"}
    event = TrialChanged(**common, state="running", metric="eval_loss", value=math.inf)
    assert event.to_dict()["value"] == "Infinity"
    assert str(event) == "trial 1 (a 0.3, b True): running, eval_loss inf"


def test_an_empty_result_is_shown_too() -> None:
    empty = SearchResult("none", "eval_loss", "minimize", ())
    assert str(empty) == "search none: 0 trials, 0.00 USD."
    assert "<table" not in empty._repr_html_()
    assert empty.frame().empty
    with pytest.raises(NotFound, match="has no job"):
        _ = Trial(number=1, parameters={}, state="refused").run
