from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from azure.ai.ml.entities import EndpointAadToken, ManagedOnlineEndpoint
from azure.core.credentials import AccessToken
from hypothesis import given
from hypothesis import strategies as st

from phift.azure.clients import Clients
from phift.config.deployment import DeploymentConfig
from phift.errors import (
    AccessDenied,
    AuthenticationError,
    NotFound,
    PhiftError,
    ScoringError,
    ServiceError,
    ServiceUnreachable,
    Throttled,
)
from phift.serving.chat import read_reply
from phift.serving.endpoint import Endpoint
from phift.serving.resource import DeploymentEvent
from phift.testing import Fault, TestWorkspace
from unit.fakes import KEY, Fakes
from unit.loopback import Reply, Script

CONFIG = DeploymentConfig(request_timeout_ms=5000)
SECRET_QUESTION = "the user's own words"


def endpoint_at(url: str, fakes: Fakes | None = None, events: list[DeploymentEvent] | None = None) -> Endpoint:
    """Return an endpoint as `deploy_model` returns one that it made, without a job."""
    fakes = fakes or Fakes()
    fakes.workspace.online_endpoints.scoring_uri = f"{url}/score"
    fakes.add_endpoint("phift-e")
    handler = None if events is None else events.append
    return Endpoint(fakes.clients, "phift-e", CONFIG, handler, existed=False)


@pytest.mark.parametrize(
    "reply",
    [
        [{"0": "Hello."}],
        [{"generated": "Hello."}],
        ["Hello."],
        {"output": "Hello."},
        {"choices": [{"message": {"role": "assistant", "content": "Hello."}}]},
    ],
)
def test_every_form_of_reply_is_understood(server: Script, reply: Any) -> None:
    server.answers(Reply(reply))
    assert endpoint_at(server.url).chat("Hi") == "Hello."


def test_a_question_is_sent_as_a_conversation(server: Script) -> None:
    server.answers(Reply(["x"]))
    endpoint_at(server.url).chat("Hi", do_sample=True, temperature=0.5)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/score")
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "input_data": {
            "input_string": [{"role": "user", "content": "Hi"}],
            "parameters": {"max_new_tokens": 256, "do_sample": True, "temperature": 0.5},
        },
        "params": {},
    }


def test_a_conversation_is_sent_as_it_is(server: Script) -> None:
    server.answers(Reply(["x"]))
    turns = [("system", "Be short."), ("user", "Hi"), ("assistant", "Hello."), ("user", "And?")]
    conversation = [{"role": role, "content": text} for role, text in turns]
    endpoint_at(server.url).chat(conversation, max_new_tokens=5)
    assert server.requests[0].body["input_data"]["input_string"] == conversation
    assert server.requests[0].body["input_data"]["parameters"]["max_new_tokens"] == 5


def test_a_named_deployment_is_asked_once_and_not_for_ever(server: Script) -> None:
    server.answers(Reply(["x"]))
    endpoint = endpoint_at(server.url)
    endpoint.chat("Hi", deployment="blue")
    endpoint.chat("Hi")
    first, second = server.requests
    assert first.headers["azureml-model-deployment"] == "blue"
    assert "azureml-model-deployment" not in second.headers


def refusal(server: Script, *replies: Reply) -> PhiftError:
    """Return the error of a question that gets these answers, having looked that it tells no secrets."""
    server.answers(*replies)
    with pytest.raises(PhiftError) as caught:
        endpoint_at(server.url).chat(SECRET_QUESTION)
    text = str(caught.value) + repr(caught.value) + repr(vars(caught.value))
    assert KEY not in text
    assert SECRET_QUESTION not in text
    assert caught.value.where == "endpoint phift-e"
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ScoringError),
        (401, AuthenticationError),
        (403, AuthenticationError),
        (404, NotFound),
        (408, ScoringError),
        (424, ScoringError),
        (500, ScoringError),
    ],
)
def test_refusals_map_and_are_not_asked_again(server: Script, status: int, kind: type[PhiftError]) -> None:
    error = refusal(server, Reply({"error": f"you said {SECRET_QUESTION}"}, status))
    assert type(error) is kind
    assert len(server.requests) == 1


@pytest.mark.parametrize("pause", ["1000000000", "9" * 5000, "soon", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_an_endpoint_is_not_left_alone_for_years(server: Script, sleeps: list[float], pause: str) -> None:
    refusal(server, Reply({}, 429, {"Retry-After": pause}))
    assert sum(sleeps) < 60
    assert len(server.requests) == 7


def test_an_answer_is_not_read_for_ever(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.azure.bounds.MOST_ANSWERED", 1 << 20)
    server.answers(Reply([" " * (2 << 20)]))
    with pytest.raises(ServiceError, match="longer than 1 MB"):
        endpoint_at(server.url).chat("Hi")


def by_token(server: Script, monkeypatch: pytest.MonkeyPatch, *seconds: float) -> tuple[Endpoint, list[str]]:
    """Return an endpoint that tokens open, each good for so many seconds, and the tokens that were asked for."""
    fakes, asked, left = Fakes(), list[str](), iter(seconds)

    def get_keys(name: str) -> EndpointAadToken:
        asked.append(f"{name} token {len(asked)}")
        return EndpointAadToken(AccessToken(asked[-1], int(time.time() + next(left))))

    monkeypatch.setattr(fakes.workspace.online_endpoints, "get_keys", get_keys)
    return endpoint_at(server.url, fakes), asked


def test_a_token_is_used_until_it_is_about_to_expire(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers(Reply(["x"]))
    endpoint, asked = by_token(server, monkeypatch, 200, 3600)
    assert asked == ["phift-e token 0"]
    endpoint.chat("Hi")
    endpoint.chat("Hi")
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer phift-e token 1"] * 2


def test_a_key_that_was_made_anew_meanwhile_is_read_again(server: Script) -> None:
    fakes = Fakes()
    server.answers(
        lambda request: Reply(["x"]) if request.headers["Authorization"] == "Bearer made-up-new-key" else Reply({}, 401)
    )
    endpoint = endpoint_at(server.url, fakes)
    with pytest.raises(AuthenticationError):
        endpoint.chat("Hi")
    fakes.workspace.online_endpoints._keys["phift-e"] = ("made-up-new-key", "made-up-second-key")
    assert endpoint.chat("Hi") == "x"
    assert endpoint.chat("Hi") == "x"
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("status", "kind", "way_out"),
    [(401, AuthenticationError, "sign in again"), (403, AccessDenied, "onlineEndpoints/score/action")],
)
def test_a_refused_token_has_its_own_way_out(
    server: Script, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[PhiftError], way_out: str
) -> None:
    server.answers(Reply({}, status))
    endpoint, asked = by_token(server, monkeypatch, 3600, 3600)
    with pytest.raises(PhiftError) as caught:
        endpoint.chat("Hi")
    assert type(caught.value) is kind
    assert way_out in str(caught.value.fix)
    assert asked[0] not in str(caught.value) + repr(endpoint) + repr(vars(endpoint))


def test_a_time_out_is_explained(server: Script) -> None:
    error = refusal(server, Reply({}, 408))
    assert "max_new_tokens" in str(error.fix)
    assert vars(error)["status"] == 408


def test_the_models_own_reason_is_shown(server: Script) -> None:
    error = refusal(server, Reply({}, 424, {"ms-azureml-model-error-reason": "model_error"}))
    assert error.what == "The endpoint answered 424 model_error."


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_endpoint_is_asked_again(server: Script, sleeps: list[float], status: int) -> None:
    server.answers(Reply({}, status), Reply({}, status), Reply(["Hello."]))
    assert endpoint_at(server.url).chat("Hi") == "Hello."
    assert len(server.requests) == 3
    assert sleeps == [1.0]  # the first time at once


@pytest.mark.parametrize(("status", "kind"), [(429, Throttled), (503, ScoringError)])
def test_an_endpoint_that_stays_busy_is_given_up(
    server: Script, sleeps: list[float], status: int, kind: type[PhiftError]
) -> None:
    error = refusal(server, Reply({}, status))
    assert (type(error), vars(error)["status"]) == (kind, status)
    assert len(server.requests) == 7
    assert sleeps == sorted(sleeps)


def test_no_answer_is_unreachable(sleeps: list[float]) -> None:
    with pytest.raises(ServiceUnreachable, match=r"no answer \(ConnectionError\)") as caught:
        endpoint_at("https://127.0.0.1:1").chat(SECRET_QUESTION)
    assert KEY not in str(caught.value) + repr(caught.value)
    assert caught.value.__suppress_context__
    assert sleeps


def test_a_certificate_that_is_not_trusted_is_refused(
    server: Script, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers(Reply(["x"]))
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(ServiceUnreachable, match="SSLError"):
        endpoint_at(server.url).chat("Hi")
    assert server.requests == []
    assert sleeps == []  # it will not be trusted the next time either


def test_an_answer_that_is_no_json_is_a_scoring_error(server: Script) -> None:
    assert refusal(server, Reply(b"<html>")).what == "The answer is no JSON."


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"output": None},
        [],
        [{}],
        [None],
        [["x"]],
        None,
        "text",
        {"choices": []},
        {"choices": [{"message": None}]},
        {"choices": [{"message": "text"}]},
        {"choices": ["text"]},
    ],
)
def test_an_answer_without_a_text_is_a_scoring_error(reply: Any) -> None:
    with pytest.raises(ScoringError, match="without a text"):
        read_reply(reply)


WORDS = st.sampled_from(["output", "choices", "message", "content"])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner),
)


@given(JSON)
def test_any_reply_is_a_text_or_a_scoring_error(reply: Any) -> None:
    try:
        text = read_reply(reply)
    except ScoringError:
        return
    assert isinstance(text, str)


def test_the_key_is_in_no_repr(server: Script) -> None:
    endpoint = endpoint_at(server.url)
    assert repr(endpoint) == str(endpoint) == "<Endpoint phift-e>"


@pytest.fixture
def endpoint(clients: Clients) -> Endpoint:
    """An endpoint of the local workspace, as `deploy_model` returns one that it made, without a job."""
    wanted = ManagedOnlineEndpoint(name="phift-e", auth_mode="key")
    clients.workspace.online_endpoints.begin_create_or_update(wanted).result()
    return Endpoint(clients, "phift-e", CONFIG, existed=False)


def left(clients: Clients) -> list[str | None]:
    return [each.name for each in clients.workspace.online_endpoints.list()]


@pytest.mark.usefixtures("endpoint")
def test_an_endpoint_whose_keys_are_refused_maps(workspace: TestWorkspace, clients: Clients) -> None:
    workspace.order(Fault("POST onlineEndpoints/*/listKeys", status=403))
    with pytest.raises(AccessDenied):
        Endpoint(clients, "phift-e", CONFIG)


def test_one_endpoint_may_be_asked_by_several_threads(server: Script) -> None:
    server.answers(
        Reply(lambda request: json.dumps([request.body["input_data"]["input_string"][0]["content"]]).encode())
    )
    endpoint = endpoint_at(server.url)
    questions = [f"Question {number}?" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(endpoint.chat, questions)) == questions


def test_the_end_of_the_block_deletes_the_endpoint(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint
) -> None:
    with endpoint:
        assert endpoint.scoring_uri == f"{workspace.connection.base_url}/inference/phift-e/score"
    assert left(clients) == []


def test_an_error_in_the_block_deletes_the_endpoint_and_passes(clients: Clients, endpoint: Endpoint) -> None:
    with pytest.raises(ZeroDivisionError), endpoint:
        raise ZeroDivisionError
    assert left(clients) == []


def test_deleting_twice_does_no_harm(clients: Clients, endpoint: Endpoint) -> None:
    endpoint.delete()
    endpoint.delete()
    assert left(clients) == []


def test_an_endpoint_that_is_being_changed_is_waited_for() -> None:
    fakes = Fakes()
    fakes.add_endpoint("phift-e")
    fakes.workspace.online_endpoints.states["phift-e"] = ["Creating", "Updating"]
    assert Endpoint(fakes.clients, "phift-e", CONFIG).scoring_uri == "https://endpoint.test/score"
    assert fakes.workspace.record.count("online_endpoints.get") == 3


@pytest.mark.usefixtures("endpoint")
def test_the_end_of_the_block_leaves_what_the_block_did_not_make(clients: Clients) -> None:
    events: list[DeploymentEvent] = []
    with Endpoint(clients, "phift-e", CONFIG, events.append):
        pass
    assert left(clients) == ["phift-e"]
    assert events == [DeploymentEvent("stays", "phift-e")]


def test_an_interruption_while_it_is_deleted_finishes_the_deletion_and_passes() -> None:
    fakes, events = Fakes(), list[DeploymentEvent]()
    fakes.workspace.record.fail("online_endpoints.begin_delete", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught, endpoint_at("https://e.test", fakes, events):
        pass
    assert fakes.workspace.online_endpoints.known == {}
    assert [event.stage for event in events] == ["delete", "delete", "deleted"]
    assert not getattr(caught.value, "__notes__", [])


def test_a_second_interruption_says_that_it_is_still_up() -> None:
    fakes = Fakes()
    fakes.workspace.record.fail("online_endpoints.begin_delete", KeyboardInterrupt(), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught, endpoint_at("https://e.test", fakes):
        pass
    assert caught.value.__notes__ == [
        "The endpoint phift-e is still up and costs money. Delete it: phift cleanup phift-e"
    ]


def test_an_endpoint_that_is_there_is_attached_by_its_name_and_stays(server: Script) -> None:
    fakes = Fakes()
    fakes.workspace.online_endpoints.scoring_uri = f"{server.url}/score"
    fakes.add_endpoint("phift-e")
    server.answers(Reply(["Hello."]))
    with Endpoint.attach("phift-e", fakes.clients) as endpoint:
        assert endpoint.existed
        assert endpoint.chat("Hi") == "Hello."
    assert "phift-e" in fakes.workspace.online_endpoints.known


def test_attaching_what_is_not_there_names_what_is() -> None:
    fakes = Fakes()
    fakes.add_endpoint("phift-b")
    fakes.add_endpoint("phift-a")
    with pytest.raises(NotFound, match=r"(?s)There is no endpoint phift-c.*that are there: phift-a, phift-b"):
        Endpoint.attach("phift-c", fakes.clients)
