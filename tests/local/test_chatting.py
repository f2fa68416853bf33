"""Chats with a deployment of the local workspace, over the wire and from the command line."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, OnlineRequestSettings
from running import Local

from phift import Clients, Endpoint, connect
from phift.errors import NotFound, PhiftError, ScoringError

pytestmark = pytest.mark.slow

PHI = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"
NAME = "chatting"


@pytest.fixture(scope="module")
def clients(local: Local) -> Clients:
    return connect(workspace={"local": local.connection.folder})


def serve(clients: Clients, name: str, auth_mode: str = "key") -> Endpoint:
    client = clients.workspace
    wanted = ManagedOnlineEndpoint(name=name, auth_mode=auth_mode)
    client.online_endpoints.begin_create_or_update(wanted).result()
    settings = OnlineRequestSettings(request_timeout_ms=60_000, max_concurrent_requests_per_instance=4)
    size = {"instance_type": "Standard_NC24ads_A100_v4", "instance_count": 1}
    deployment = ManagedOnlineDeployment(name="blue", endpoint_name=name, model=PHI, request_settings=settings, **size)
    client.online_deployments.begin_create_or_update(deployment).result()
    wanted.traffic = {"blue": 100}
    client.online_endpoints.begin_create_or_update(wanted).result()
    return Endpoint.attach(name, clients)


@pytest.fixture(scope="module")
def endpoint(clients: Clients) -> Iterator[Endpoint]:
    made = serve(clients, NAME)
    yield made
    made.close()


def test_the_first_piece_is_there_before_the_last_one_is_made(endpoint: Endpoint, tmp_path: Path) -> None:
    word = f"wait {tmp_path / 'go'}"
    with endpoint.stream(word) as answer:
        first = next(answer)
        assert first
        assert not (tmp_path / "go").exists()
        (tmp_path / "go").touch()
        rest = list(answer)
    assert first + "".join(rest) == word[::-1]
    assert answer.in_one_piece is False
    assert answer.reply.usage["completion_tokens"] == len(word)
    assert answer.reply.deployment == "blue"


def test_whoever_stops_reading_stops_the_model(endpoint: Endpoint, clients: Clients, tmp_path: Path) -> None:
    def taken_back() -> int:
        return str(clients.workspace.online_deployments.get_logs("blue", NAME, lines=1000)).count("is taken back")

    before, end = taken_back(), time.monotonic() + 30
    with endpoint.stream(f"wait {tmp_path / 'go'}") as answer:
        next(answer)
    while taken_back() == before:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert endpoint.chat("abc") == "cba"


def test_many_are_asked_with_no_more_at_once_than_it_takes(endpoint: Endpoint) -> None:
    questions = [f"question {number}" for number in range(200)]
    answers = endpoint.chat_many(questions, concurrency=32)  # 8 may be in flight
    assert answers == [question[::-1] for question in questions]


def test_an_answer_that_breaks_off(endpoint: Endpoint) -> None:
    answer = endpoint.stream("half")
    with pytest.raises(ScoringError):
        list(answer)
    assert answer.text == "f"
    assert endpoint.chat("abc") == "cba"


def test_what_is_not_taken_is_named(endpoint: Endpoint) -> None:
    with pytest.raises(PhiftError, match="does not take is response_format"):
        endpoint.chat("abc", response_format={"type": "json_object"})


def test_an_unknown_deployment_is_called_that(endpoint: Endpoint) -> None:
    for ask in (endpoint.chat, endpoint.stream):
        with pytest.raises(NotFound, match="no deployment green") as caught:
            ask("abc", deployment="green")
        assert caught.value.fix == "there is: blue"
    assert endpoint.chat("abc", deployment="blue").deployment == "blue"


def test_the_official_client_chats_and_streams(endpoint: Endpoint) -> None:
    with endpoint.openai() as client:
        answer = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "abc"}])
        assert answer.choices[0].message.content == "cba"

    async def streams() -> str:
        async with endpoint.openai(asynchronous=True, deployment="blue") as client:
            pieces = await client.chat.completions.create(
                model=NAME, messages=[{"role": "user", "content": "abc"}], stream=True
            )
            return "".join([piece.choices[0].delta.content or "" async for piece in pieces])

    assert asyncio.run(streams()) == "cba"


def test_tokens_of_entra_open_it_too(clients: Clients) -> None:
    endpoint = serve(clients, "by-entra", "aad_token")
    assert endpoint.chat("abc") == endpoint.stream("abc").reply == "cba"
    with endpoint.openai() as client:
        answer = client.chat.completions.create(model="", messages=[{"role": "user", "content": "abc"}])
        assert answer.choices[0].message.content == "cba"
    endpoint.delete()


def test_the_blocks_of_the_document_run_one_after_another(
    local: Local, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    document = (Path(__file__).parents[2] / "docs" / "chatting.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    assert len(blocks) == 6
    assert '"elements", "local"' in blocks[0]
    blocks[0] = blocks[0].replace('"elements", "local"', f'"{NAME}", {{"local": {str(local.connection.folder)!r}}}')
    names: dict[str, object] = {}
    printed = []
    for block in blocks:
        exec(block, names)  # noqa: S102 - the document's own words
        printed.append(capsys.readouterr().out)
    asked, conversed, _, many, streamed, official = printed
    assert asked == official == f"{'What is the symbol of gold?'[::-1]}\n"
    assert conversed == f"{'And of iron?'[::-1]}\n"
    assert f"What is the symbol of tin? {'What is the symbol of tin?'[::-1]}" in many.splitlines()
    text, told = streamed.splitlines()
    assert text == "What is the symbol of gold?"[::-1]
    assert told.split()[1] == str(len(text))
    handle = names["endpoint"]
    assert isinstance(handle, Endpoint)
    handle.close()


# ---------------------------------------------------------------- the command line


def command(local: Local, *arguments: str) -> list[str]:
    where = ["--workspace", f"local:{local.connection.folder}"]
    return [sys.executable, "-W", "ignore", "-m", "phift.cli", "chat", NAME, *where, *arguments]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "AZUREML_CURRENT_CLOUD"}


def run(local: Local, *arguments: str, said: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own program
        command(local, *arguments), input=said, capture_output=True, text=True, env=environment(), timeout=120
    )


@pytest.mark.usefixtures("endpoint")
def test_lines_that_are_piped_in_are_answered_in_turn(local: Local) -> None:
    done = run(local, "--system", "Be short.", said="abc\n\ndef")
    assert (done.returncode, done.stdout, done.stderr) == (0, "cba\nfed\n", "")


@pytest.mark.usefixtures("endpoint")
def test_answers_are_lines_of_json(local: Local) -> None:
    done = run(local, "--json", "--deployment", "blue", said="abc\n[31m\n")
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["text"], first["finish_reason"], first["deployment"]) == ("cba", "stop", "blue")
    assert first["first_token_seconds"] > 0
    assert second["text"] == "m13["


@pytest.mark.usefixtures("endpoint")
def test_the_first_error_ends_what_is_piped_in(local: Local) -> None:
    done = run(local, said="refuse\nabc\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: The endpoint answered 424" in done.stderr


class Terminal:
    """A terminal with the program in it, which is sent keys and shows what it shows."""

    def __init__(self, arguments: list[str]) -> None:
        self._process, self._screen = pty.fork()
        if self._process == 0:
            os.execve(arguments[0], arguments, environment())  # noqa: S606 - our own program
        self._shown = ""

    def send(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def until(self, text: str) -> None:
        end = time.monotonic() + 60
        while text not in self._shown:
            assert time.monotonic() < end, self._shown
            if select.select([self._screen], [], [], 0.1)[0]:
                self._shown += os.read(self._screen, 4096).decode(errors="replace")
        self._shown = self._shown.partition(text)[2]

    def signal(self, kind: signal.Signals) -> None:
        os.kill(self._process, kind)

    def ended(self) -> int:
        end = time.monotonic() + 60
        while (found := os.waitpid(self._process, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < end, self._shown
            time.sleep(0.05)
        os.close(self._screen)
        return os.waitstatus_to_exitcode(found[1])


@pytest.mark.usefixtures("endpoint")
def test_ctrl_c_ends_an_answer_and_ctrl_d_the_chat(local: Local, tmp_path: Path) -> None:
    terminal = Terminal(command(local))
    terminal.until("Ctrl-D ends the chat")

    def at_the_prompt(keys: str) -> None:  # what is typed before may be lost, as the terminal changes its ways
        terminal.until("> ")
        terminal.send(keys)

    at_the_prompt("abc\n")
    terminal.until("cba")
    word = f"wait {tmp_path / 'go'}"
    at_the_prompt(f"{word}\n")
    terminal.until(word)  # as it is typed
    terminal.until(word[::-1][:1])
    terminal.send("\x03")
    terminal.until("The answer was interrupted.")
    time.sleep(1)  # another Ctrl-C at once would be the same interruption
    at_the_prompt("half typed\x03")
    at_the_prompt("refuse\n")
    terminal.until("error: The endpoint answered 424")
    at_the_prompt("def\n")
    terminal.until("fed")
    at_the_prompt("\x04")
    assert terminal.ended() == 0


@pytest.mark.usefixtures("endpoint")
def test_a_signal_that_wants_an_end_gets_one(local: Local) -> None:
    terminal = Terminal(command(local))
    terminal.until("> ")
    terminal.signal(signal.SIGTERM)
    assert terminal.ended() == 130
