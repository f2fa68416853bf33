"""The command that chats, with an endpoint of a workspace in this process."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint
from click.testing import CliRunner, Result

from phift import Clients, Endpoint, ReplyStream
from phift.cli.commands import main
from phift.local.programs import NOTE

PHI = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"


@pytest.fixture
def deployed(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> Clients:
    """Clients that every command connects to, with an endpoint that answers."""
    wanted = ManagedOnlineEndpoint(name="phift-e", auth_mode="key")
    clients.workspace.online_endpoints.begin_create_or_update(wanted).result()
    size = {"instance_type": "Standard_NC24ads_A100_v4", "instance_count": 1}
    made = ManagedOnlineDeployment(name="blue", endpoint_name="phift-e", model=PHI, **size)
    clients.workspace.online_deployments.begin_create_or_update(made).result()
    wanted.traffic = {"blue": 100}
    clients.workspace.online_endpoints.begin_create_or_update(wanted).result()
    monkeypatch.setattr("phift.azure.connect.connect", lambda workspace: clients)
    return clients


def invoke(*arguments: str, said: str = "") -> Result:
    return CliRunner().invoke(main, ["chat", *arguments], input=said)


@pytest.mark.usefixtures("deployed")
def test_each_line_is_a_question() -> None:
    result = invoke("phift-e", said="Hello?\n\n And?\n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{NOTE}\n" * 2, "")


@pytest.mark.usefixtures("deployed")
def test_answers_are_json() -> None:
    result = invoke("phift-e", "--json", "--max-new-tokens", "2", "--system", "Be short.", said="Hello?\nAnd?\n")
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["text"], first["finish_reason"], first["tool_calls"], first["deployment"]) == (
        "This is", "length", [], "blue",
    )  # fmt: skip
    assert second["usage"]["prompt_tokens"] == first["usage"]["prompt_tokens"] + 2 + 1  # an answer and a question more


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("as_json", [True, False])
def test_half_a_character_of_a_model_is_shown_and_ends_nothing(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    def stream(*_given: object, **_named: object) -> ReplyStream:
        chunk = {"choices": [{"delta": {"content": "half: \ud800"}, "finish_reason": "stop"}]}
        return ReplyStream(iter([(0.0, chunk)]), lambda: None, asked=0.0, deployment="blue")

    monkeypatch.setattr(Endpoint, "stream", stream)
    result = invoke("phift-e", *(["--json"] if as_json else []), said="Hello?\nAnd?\n")
    said = [json.loads(line)["text"] if as_json else line for line in result.stdout.splitlines()]
    assert (result.exit_code, said) == (0, ["half: \ud800" if as_json else "half: \\ud800"] * 2)


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["none"], "There is no endpoint none"), (["phift-e", "--deployment", "green"], "there is: blue")],
)
def test_what_is_not_there_is_named(arguments: list[str], said: str) -> None:
    result = invoke(*arguments, said="Hello?\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize(("as_json", "shown"), [(True, True), (True, False), (False, False)])
def test_the_prompt_is_no_answer(monkeypatch: pytest.MonkeyPatch, as_json: bool, shown: bool) -> None:
    """A person asks, and the answers go to a terminal, or to a file."""
    terminal = SimpleNamespace(isatty=lambda: True)
    there = SimpleNamespace(stdin=terminal, stdout=SimpleNamespace(isatty=lambda: shown))
    monkeypatch.setattr("phift.cli.chat.sys", there)
    result = invoke("phift-e", *(["--json"] if as_json else []), said="Hello?\n")
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert (json.loads(line)["text"] if as_json else line) == NOTE
    assert result.stderr.count("> ") == 2


def test_an_endpoint_in_this_process_is_asked_for_a_stream(deployed: Clients) -> None:
    with Endpoint.attach("phift-e", deployed).stream("Hello?") as answer:
        assert "".join(answer) == NOTE
    assert answer.pieces > 5
    assert answer.reply.finish_reason == "stop"
