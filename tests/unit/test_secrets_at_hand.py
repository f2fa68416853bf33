"""What holds a key or a token shows it to nobody: no traceback with local variables, no repr, no pickle."""

from __future__ import annotations

import http.client
import io
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from azure.ai.ml.entities import EndpointAadToken
from azure.core.credentials import AccessToken
from rich.console import Console
from rich.traceback import Traceback

from phift.azure.clients import Clients, Rest, SharedTokens
from phift.azure.connect import connect
from phift.config.deployment import DeploymentConfig
from phift.errors import ServiceError, azure_errors
from phift.jobs.job import FineTuneJob
from phift.run import FineTuneRun
from phift.serving.endpoint import Endpoint
from phift.testing import TestWorkspace
from unit.fakes import KEY, Fakes, run_config
from unit.loopback import Reply, Script

TOKEN = "made-up-token-of-somebody"


def shown(error: BaseException) -> str:
    """Return a traceback as rich draws it with local variables, and those of the errors before it."""
    told = ""
    todo: list[BaseException | None] = [error]
    for each in todo:
        if each is not None:
            console = Console(file=io.StringIO(), width=500)
            drawn = Traceback.from_exception(
                type(each), each, each.__traceback__, show_locals=True, locals_max_string=9999, locals_max_length=999
            )
            console.print(drawn)
            told += cast(io.StringIO, console.file).getvalue()
            frame = each.__traceback__
            while frame is not None:
                told += repr(frame.tb_frame.f_locals) if "/phift/" in frame.tb_frame.f_code.co_filename else ""
                frame = frame.tb_next
            todo += [other for other in (each.__cause__, each.__context__) if other not in todo]
    return told


def raised(work: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is
        work()
    return caught.value


def endpoint_at(url: str) -> Endpoint:
    fakes = Fakes()
    fakes.workspace.online_endpoints.scoring_uri = f"{url}/score"
    fakes.add_endpoint("phift-e")
    return Endpoint(fakes.clients, "phift-e", DeploymentConfig(request_timeout_ms=5000), existed=False)


@pytest.mark.parametrize(
    ("where", "what"),
    [
        *((where, KeyboardInterrupt()) for where in ("getresponse", "endheaders", "putheader", "send")),
        ("send", ConnectionResetError()),
        ("getresponse", RuntimeError("a defect")),
    ],
)
@pytest.mark.parametrize("ask", ["chat", "stream"])
def test_a_traceback_of_a_question_shows_no_key(
    server: Script, monkeypatch: pytest.MonkeyPatch, ask: str, where: str, what: BaseException
) -> None:
    endpoint = endpoint_at(server.url)

    def fails(_self: object, *_arguments: object, **_options: object) -> None:
        raise what

    monkeypatch.setattr(http.client.HTTPConnection, where, fails)
    told = shown(raised(lambda: getattr(endpoint, ask)("Hi")))
    assert ask in told
    assert KEY not in told


@pytest.mark.parametrize("ask", ["chat", "stream"])
def test_a_traceback_of_an_answer_shows_no_key(server: Script, monkeypatch: pytest.MonkeyPatch, ask: str) -> None:
    server.answers(Reply([{"0": "x"}]))
    endpoint = endpoint_at(server.url)

    def fails(_self: object, *_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(http.client.HTTPResponse, "read1", fails)
    monkeypatch.setattr(http.client.HTTPResponse, "read", fails)
    told = shown(raised(lambda: getattr(endpoint, ask)("Hi")))
    assert "read_arriving" in told
    assert KEY not in told


def test_a_traceback_of_reading_the_key_shows_none() -> None:
    fakes = Fakes()
    fakes.add_endpoint("phift-e")
    token = EndpointAadToken(AccessToken(TOKEN, cast(int, "no time")))
    fakes.workspace.online_endpoints.get_keys = lambda _name: token  # type: ignore[method-assign,assignment]
    told = shown(raised(lambda: Endpoint(fakes.clients, "phift-e", DeploymentConfig(), existed=False)))
    assert "_read_key" in told
    assert TOKEN not in told


def test_what_the_sdk_held_is_not_in_an_errors_traceback() -> None:
    def sends(headers: dict[str, str]) -> None:
        raise OSError("broken")

    def calls() -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with azure_errors("here"):
            sends(headers | {"x": "y"})

    def asks() -> None:
        with azure_errors("here"):
            calls()

    error = raised(asks)
    assert isinstance(error, ServiceError)
    assert TOKEN not in shown(error)


def test_a_traceback_of_the_local_credential_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    with TestWorkspace() as workspace:
        secret = workspace.connection.secret()
        credential = workspace.clients.workspace._credential._credential

        def fails(*_arguments: object, **_options: object) -> None:
            raise OSError("broken")

        monkeypatch.setattr("requests.adapters.HTTPAdapter.send", fails)
        told = shown(raised(lambda: credential.get_token("https://management.azure.com/.default")))
        assert "get_token" in told
        assert secret not in told
        monkeypatch.undo()


def test_a_traceback_of_the_local_environment_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    with TestWorkspace() as workspace:
        connection = workspace.connection

        def fails() -> None:
            raise OSError("broken")

        with monkeypatch.context() as patch:
            patch.setattr("phift.local.connection.without_proxy", fails)
            told = shown(raised(connection.environment))
        assert "environment" in told
        assert connection.secret() not in told
        assert "eyJ" not in told


def test_an_original_that_quotes_a_secret_is_left_out() -> None:
    def calls(said: str) -> None:
        with azure_errors("here"):
            raise OSError(said)

    error = raised(lambda: calls(f"refused: password={TOKEN}"))
    assert TOKEN not in "".join(traceback.format_exception(error))
    assert "OSError: refused" in "".join(traceback.format_exception(raised(lambda: calls("refused"))))


def test_what_a_step_of_a_run_held_is_not_in_its_errors_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: object, **_options: object) -> None:
        held = TOKEN
        raise ServiceError(f"of {len(held)} characters")

    monkeypatch.setattr("phift.run.chain.make_plan", fails)
    run = FineTuneRun(run_config(tmp_path), Fakes().clients)
    for step in (run.check, run.submit, lambda: run.plan):
        told = shown(raised(step))
        assert f"of {len(TOKEN)} characters" in told
        assert TOKEN not in told


def test_what_connecting_and_following_held_is_not_in_an_errors_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_arguments: object, **_options: object) -> None:
        held = TOKEN
        raise ValueError(f"of {len(held)} characters")

    monkeypatch.setattr("phift.azure.connect.read_workspace", fails)
    monkeypatch.setattr("phift.jobs.job.FineTuneJob.entity", fails)
    for work in (connect, lambda: next(FineTuneJob("job", Fakes().clients).follow())):
        told = shown(raised(work))
        assert f"of {len(TOKEN)} characters" in told
        assert TOKEN not in told


class Credential:
    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        return AccessToken(TOKEN, 9999999999)


def clients() -> Clients:
    tokens = SharedTokens(Credential())
    tokens.get_token("scope")
    rest = cast(Rest, None)
    return Clients(cast(Any, tokens), cast(Any, None), cast(Any, None), rest, registry_discovery="https://a.test/")


@pytest.mark.parametrize(
    "holder",
    [clients, lambda: FineTuneJob("job", clients()), lambda: FineTuneRun(cast(Any, None), clients()),
     lambda: endpoint_at("https://a.test")],
)  # fmt: skip
def test_what_holds_clients_is_not_pickled(holder: Callable[[], object]) -> None:
    held = holder()
    with pytest.raises(TypeError):
        pickle.dumps(held)
    assert TOKEN not in repr(held)
    assert KEY not in repr(held) + repr(getattr(held, "_key", ""))
