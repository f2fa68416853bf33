"""A run's model beside its base model, on rows held out of its training."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from phift import Clients, DeploymentEvent, Endpoint, FineTuneRun, RowCompared, RunConfig, compare_models
from phift.cli.commands import main
from phift.errors import ConfigError, Conflict, DataError, ScoringError
from phift.evaluation.likelihood import Likelihood
from phift.evaluation.rows import said
from phift.serving.chat import Message, Reply, ToolCall
from phift.serving.deployment import deploy_model
from phift.serving.sharing import traffic
from phift.testing import TestWorkspace
from unit.test_evaluation import row

FACTS = [("gold", "Au"), ("iron", "Fe"), ("lead", "Pb"), ("tin", "Sn"), ("silver", "Ag"), ("mercury", "Hg")]
ASKED = ("What is the symbol of {}?", "Which letters stand for {}?", "How do chemists write {}?")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    files = {}
    for split, question in zip(("train", "validation", "test"), ASKED, strict=True):
        files[split] = tmp_path / f"{split}.jsonl"
        rows = [row(question.format(name), symbol) for name, symbol in FACTS * (2 if split == "train" else 1)]
        files[split].write_text("".join(f"{json.dumps(each)}\n" for each in rows), encoding="utf-8")
    return RunConfig(model="Phi-4-mini-instruct", compute="gpu-cluster", data=files, work_dir=tmp_path / "work")


@pytest.fixture
def trained(config: RunConfig, phift_clients: Clients) -> FineTuneRun:
    run = FineTuneRun(config, phift_clients)
    run.submit()
    run.wait()
    return run


def names(clients: Clients) -> list[str]:
    return [each.name for each in clients.workspace.online_endpoints.list()]


def test_both_models_are_deployed_asked_the_test_split_and_taken_away(trained: FineTuneRun) -> None:
    events: list[Any] = []
    run = FineTuneRun(trained.config, trained.clients, on_event=events.append)
    found = run.evaluate(max_new_tokens=8)
    assert names(run.clients) == []
    assert f"{found.before}/default" == found.after.replace("/", "-base/")
    assert ([each.reference for each in found.rows], found.near) == ([symbol for _, symbol in FACTS], 0)
    assert found.parameters["max_new_tokens"] == 8
    assert found.verdict == "cannot tell"  # the engine of this workspace answers one and the same to all
    deployed = {each.name for each in events if isinstance(each, DeploymentEvent) and each.stage == "ready"}
    assert deployed == {found.before, found.after.removesuffix("/default")}
    assert [each.rows for each in events if isinstance(each, RowCompared)] == [1, 2, 3, 4, 5, 6]


def test_an_endpoint_that_was_up_before_stays_up(trained: FineTuneRun) -> None:
    endpoint = trained.deploy()
    trained.evaluate(limit=2)
    assert names(trained.clients) == [endpoint.name]


def test_a_deployment_that_is_up_is_asked_as_it_is(trained: FineTuneRun) -> None:
    endpoint = trained.deploy()
    online = trained.clients.workspace.online_deployments
    (found,) = online.list(endpoint.name)
    found.instance_count = 3
    online.begin_create_or_update(found).result()
    stages: list[str] = []

    def tell(event: Any) -> None:
        stages.extend([event.stage] if isinstance(event, DeploymentEvent) else [])

    FineTuneRun(trained.config, trained.clients, on_event=tell).evaluate(base=lambda _: "Au", limit=2)
    assert stages == ["exists", "ready", "stays"]  # nothing is sent
    trained.evaluate(limit=2)
    (found,) = online.list(endpoint.name)
    assert (found.instance_count, names(trained.clients)) == (3, [endpoint.name])


def test_what_a_killed_comparison_left_up_goes_with_the_next_one(trained: FineTuneRun) -> None:
    endpoint = trained.deploy()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    tracking, job = trained.job.tracking, trained.job.name
    ((key, said),) = [each for each in tracking.tags(job).items() if each[0].startswith("phift.use.")]
    tracking.delete_tag(job, key)
    block = json.dumps(json.loads(said) | {"state": "block", "pid": gone.pid})
    tracking.set_tag(job, f"phift.use.{endpoint.name}.killed", block)
    FineTuneRun(trained.config, trained.clients).evaluate(base=lambda _: "Au", limit=2)
    assert names(trained.clients) == []


def test_a_block_that_ends_amid_a_comparison_takes_nothing_from_it(trained: FineTuneRun) -> None:
    with ExitStack() as block:
        endpoint = block.enter_context(trained.deploy())

        def base(_: Sequence[Message]) -> str:
            block.close()
            assert names(trained.clients) == [endpoint.name]
            return "Au"

        trained.evaluate(base=base, limit=2)
    assert names(trained.clients) == []


def test_the_traffic_of_an_endpoint_that_others_serve_is_not_moved(
    trained: FineTuneRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = trained.deploy()
    green = {"deployment_name": "green"}
    size = "Standard_NC24ads_A100_v4"
    deploy_model(trained.clients, trained.record.model.id, name=endpoint.name, size=size, config=green)

    def shares() -> dict[str, int]:
        return traffic(trained.clients.workspace.online_endpoints.get(endpoint.name))

    changes: list[Any] = []
    monkeypatch.setattr(FineTuneRun, "_deploy", lambda *_given, **_named: changes.append(1))
    with pytest.raises(Conflict, match="would move its traffic") as raised:
        trained.evaluate(limit=2)
    assert f"phift evaluate {endpoint.name}/default --base" in str(raised.value.fix)
    assert (shares(), changes) == ({"green": 100}, [])


def test_the_traffic_that_others_serve_from_an_endpoint_of_the_bases_name_is_not_moved(
    trained: FineTuneRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, size = f"{trained.endpoint_name}-base", "Standard_NC24ads_A100_v4"
    green = {"deployment_name": "green"}
    deploy_model(trained.clients, trained.record.model.id, name=name, size=size, config=green)
    changes: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr(FineTuneRun, "_deploy", lambda *_given, **_named: changes.append(1))
        with pytest.raises(Conflict, match=f"{name} has deployments green too"):
            trained.evaluate(limit=2)
    assert (traffic(trained.clients.workspace.online_endpoints.get(name)), changes) == ({"green": 100}, [])
    assert trained.evaluate(base=lambda _: "Au", limit=2).before == "<lambda>"


def test_the_bases_of_long_names_that_begin_alike_are_two(
    trained: FineTuneRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phift.run.evaluating import deploy_base

    for ending in "12":
        monkeypatch.setattr(FineTuneRun, "endpoint_name", f"somebodys-elements-in-switzerla{ending}")
        deploy_base(trained)
    found = names(trained.clients)
    assert len(found) == 2
    assert {(len(each), each[-5:]) for each in found} == {(32, "-base")}


def test_a_parked_endpoint_stays_parked(trained: FineTuneRun) -> None:
    endpoint = trained.deploy()
    endpoint.park()
    with pytest.raises(Conflict, match="is parked"):
        trained.evaluate(base=lambda _: "Au", limit=2)
    assert [*trained.clients.workspace.online_deployments.list(endpoint.name)] == []


def test_the_runs_own_deployment_is_asked_whatever_its_endpoints_traffic(
    trained: FineTuneRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def chat(_endpoint: Endpoint, _messages: Any, *, deployment: str | None, **_given: Any) -> Reply:
        asked.append(deployment)
        return Reply("Au")

    monkeypatch.setattr(Endpoint, "chat", chat)
    trained.evaluate(base=lambda _: "Au", limit=2)
    assert asked == ["default", "default"]


def test_a_base_of_ones_own_is_not_deployed(trained: FineTuneRun) -> None:
    def base(_: Sequence[Message]) -> str:
        assert len(names(trained.clients)) == 1
        return "Au"

    found = trained.evaluate(base=base)
    assert found.before == "base"
    assert found.metrics["exact_match"].before == pytest.approx(1 / 6)


def test_a_base_that_cannot_be_asked_is_refused_before_anything_is_deployed(
    trained: FineTuneRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FineTuneRun, "_deploy", lambda *_given, **_named: pytest.fail("it is deployed"))
    with pytest.raises(ConfigError, match="cannot be asked"):
        trained.evaluate(base="gold")  # type: ignore[arg-type]  # the mistake is the test


@pytest.mark.parametrize("error", [ScoringError("The container failed inside."), KeyboardInterrupt()])
def test_both_are_taken_away_where_asking_fails_or_is_interrupted(
    trained: FineTuneRun, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: Sequence[Message]) -> str:
        raise error

    with pytest.raises(type(error)):
        trained.evaluate(base=answer)
    monkeypatch.setattr(Endpoint, "chat", lambda *_given, **_named: answer(()))
    with pytest.raises(type(error)):
        trained.evaluate()
    assert names(trained.clients) == []


def test_what_a_killed_comparison_left_is_found_by_cleanup(trained: FineTuneRun) -> None:
    from phift.run.evaluating import deploy_base

    deploy_base(trained)
    assert trained.cleanup().deleted == (f"{trained.endpoint_name}-base",)
    assert names(trained.clients) == []


def test_data_that_has_changed_since_is_not_held_out(trained: FineTuneRun, tmp_path: Path) -> None:
    test = tmp_path / "test.jsonl"
    test.write_text(test.read_text(encoding="utf-8").replace("Hg", "Qs"), encoding="utf-8")
    run = FineTuneRun.attach(trained.job.name, trained.clients)
    with pytest.raises(DataError, match="changed since") as raised:
        run.evaluate()
    assert raised.value.__notes__ == ["Rows of your own can be given instead, as a file or values."]
    assert names(trained.clients) == []
    assert run.evaluate([row("And what is neon's?", "Ne")]).near is None


def test_rows_of_ones_own_are_held_against_the_runs_training_data(trained: FineTuneRun) -> None:
    seen = row("what is the symbol of GOLD", "au")
    found = trained.evaluate([seen, row("And what is neon's?", "Ne")])
    assert ([each.number for each in found.rows], found.near) == ([2], 1)


# ---------------------------------------------------------------- the command


@pytest.fixture
def invoke(phift_workspace: TestWorkspace, trained: FineTuneRun, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("phift.connect", lambda *_given, **_named: trained.clients)
    return lambda *words: CliRunner().invoke(main, ["evaluate", *map(str, words)])


def test_the_command_prints_a_table_a_page_or_json(invoke: Any, trained: FineTuneRun, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    told = invoke(trained.job.name, "--html", page, "--limit", 3)
    assert told.exit_code == 0, told.output
    assert "exact_match" in told.stdout
    assert "3 held-out rows" in told.stdout
    assert "exact_match" in page.read_text(encoding="utf-8")
    values = json.loads(invoke(trained.job.name, "--json", "--metric", "exact_match", "--seed", 4).stdout)
    assert (list(values["metrics"]), values["seed"], len(values["rows"])) == (["exact_match"], 4, 6)
    assert names(trained.clients) == []


def test_what_was_paid_for_is_printed_though_the_page_cannot_be_written(
    invoke: Any, trained: FineTuneRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, write = tmp_path / "page.html", Path.write_text

    def chat(endpoint: Endpoint, messages: Sequence[Message], **_named: Any) -> Reply:
        is_base = endpoint.name.endswith("-base")  # which has more of the right answer's characters, and so is better
        return Reply(messages[-1]["content"] if is_base else "\ud800")

    monkeypatch.setattr(Endpoint, "chat", chat)
    words = trained.job.name, "--html", page, "--limit", 3
    told = invoke(*words)
    assert (told.exit_code, "\\ud800" in page.read_text(encoding="utf-8")) == (0, True), told.output

    def full(path: Path, *given: Any, **named: Any) -> int:
        if path == page:
            raise OSError(28, "No space left on device")
        return write(path, *given, **named)

    monkeypatch.setattr(Path, "write_text", full)
    told = invoke(*words)
    assert (told.exit_code, "exact_match" in told.stdout) == (1, True), told.output


def test_no_empty_page_is_left_where_the_comparison_fails(
    invoke: Any, trained: FineTuneRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_given: Any, **_named: Any) -> None:
        raise ScoringError("The container failed inside.")

    monkeypatch.setattr("phift.FineTuneRun.evaluate", failing)
    page = tmp_path / "page.html"
    assert invoke(trained.job.name, "--html", page).exit_code == 1
    assert not page.exists()
    page.write_text("an earlier one", encoding="utf-8")
    assert invoke(trained.job.name, "--html", page).exit_code == 1
    assert page.read_text(encoding="utf-8") == "an earlier one"
    assert invoke(trained.job.name, "--html", tmp_path / "none" / "page.html").exit_code == 1


def test_the_command_measures_the_loss_where_both_models_are_folders(
    invoke: Any, trained: FineTuneRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(folder: Path, rows: Sequence[Any], _tell: Any) -> Likelihood:
        return Likelihood((float(len(folder.name)),) * len(rows), (1,) * len(rows))

    monkeypatch.setattr("phift.evaluation.comparing.measure", measure)
    folders = [tmp_path / "before", tmp_path / "after"]
    for folder in folders:
        folder.mkdir()
    values = json.loads(invoke(trained.job.name, "--json", "--weights", *folders).stdout)
    assert values["metrics"]["loss"]["difference"] == -1.0
    assert values["perplexity"] == pytest.approx([math.exp(6), math.exp(5)])


def test_what_is_interrupted_goes_on_with_all_words_that_were_given(
    invoke: Any, trained: FineTuneRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_given: Any, **_named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("phift.FineTuneRun.evaluate", interrupted)
    monkeypatch.setattr("phift.deploy", interrupted)
    monkeypatch.setattr("phift.cli.interrupted.ignore_interruptions", lambda: None)
    words = [trained.job.name, "--workspace", "local", "--limit", "3", "--metric", "chrf", "--metric", "token_f1"]
    words += ["--weights", str(tmp_path), str(tmp_path), "--json", "--fail-unless", "not-worse", "--margin", "0.5"]
    ended = invoke(*words)
    assert (ended.exit_code, f"  {shlex.join(['phift', 'evaluate', *words])}\n" in ended.stderr) == (130, True)
    words = [trained.job.name, "--name", "my-own", "--size", "Standard_A1", "--timeout", "9.0", "--ask", "Who are you?"]
    ended = CliRunner().invoke(main, ["deploy", *words])
    assert (ended.exit_code, f"  {shlex.join(['phift', 'deploy', *words])}\n" in ended.stderr) == (130, True)


def test_the_exit_code_says_whether_it_is_better(invoke: Any, trained: FineTuneRun) -> None:
    failed = invoke(trained.job.name, "--fail-unless", "better")
    assert (failed.exit_code, failed.stderr.count("error: It is not shown that")) == (1, 1)
    assert invoke(trained.job.name, "--fail-unless", "not-worse").exit_code == 0
    assert invoke(trained.job.name, "--fail-unless", "not-worse", "--margin", "0.01").exit_code == 1
    assert invoke(trained.job.name, "--margin", "0.01").exit_code == 2


def test_two_deployments_are_compared_by_their_names(invoke: Any, trained: FineTuneRun, tmp_path: Path) -> None:
    endpoint = trained.deploy()
    (blue,) = trained.clients.workspace.online_deployments.list(endpoint.name)
    pair = f"{endpoint.name}/{blue.name}"
    told = invoke(pair, "--base", pair, "--rows", tmp_path / "test.jsonl")
    assert told.exit_code == 0, told.output
    assert f"before {pair}, after {pair}: 6 held-out rows" in told.stdout
    assert invoke(pair, "--base", pair).exit_code == 2
    assert isinstance(endpoint, Endpoint)
    assert names(trained.clients) == [endpoint.name]


def test_an_endpoint_is_asked_greedily_and_calls_of_tools_are_compared(
    trained: FineTuneRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    call = ToolCall(id="7", name="look", arguments='{"of": "gold"}')

    def chat(_endpoint: Endpoint, messages: Sequence[Message], **given: Any) -> Reply:
        asked.append({"messages": [*messages], **given})
        return Reply("", tool_calls=[call])

    monkeypatch.setattr(Endpoint, "chat", chat)
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    function = {"name": "look", "arguments": '{ "of":"gold" }'}
    answer = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    prompt = [{"role": "user", "content": "What is gold's symbol?"}, answer, {"role": "tool", "content": "Au"}]
    rows = [{"messages": [*prompt, {"role": "assistant", "content": "Au."}], "tools": tools}]
    endpoint = trained.deploy()
    found = compare_models(endpoint, (endpoint, "blue"), rows, max_new_tokens=5, metrics=["exact_match"])
    assert {each.pop("deployment") for each in asked} == {None, "blue"}
    assert asked[0] == asked[1]
    assert asked[0]["messages"] == prompt
    assert (asked[0]["tools"], asked[0]["do_sample"], asked[0]["max_new_tokens"]) == (tuple(tools), False, 5)
    assert found.rows[0].after == said(None, [call.to_dict()])
    monkeypatch.setattr(Endpoint, "chat", lambda *_given, **_named: Reply("Au"))
    assert type(compare_models(endpoint, endpoint, rows, metrics=["exact_match"]).rows[0].after) is str
