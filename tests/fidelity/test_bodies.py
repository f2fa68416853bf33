"""Every route's answers and requests, field by field, against two clients' generated models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fidelity import generated_models
from fidelity.conftest import Said
from fidelity.route_facts import EXPECTED, FACTS
from fidelity.wire_traffic import Exchange, served

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

OPERATIONS = sorted({route.operation for route in served()})
ANSWERED = [operation for operation in OPERATIONS if operation in FACTS and FACTS[operation].why != "always 404"]


def test_every_route_has_its_facts() -> None:
    assert sorted(FACTS) == OPERATIONS


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_route_has_its_models_or_a_reason(operation: str) -> None:
    fact = FACTS[operation]
    assert bool(fact.answer) != bool(fact.why)


@pytest.mark.parametrize("operation", ANSWERED)
def test_answers_are_what_both_clients_know(said: Said, operation: str) -> None:
    answered = [exchange for exchange in said.traffic.of(operation) if exchange.status < 300]
    assert answered, "nothing asks for it: add a call to wire_calls.py"
    fact = FACTS[operation]
    assert unexpected(operation, fact.answer, [exchange.answer for exchange in answered if exchange.answer]) == []
    if not fact.answer and fact.why.endswith("no body"):
        assert [exchange.answer for exchange in answered if exchange.answer] == []


@pytest.mark.parametrize("operation", [operation for operation in ANSWERED if FACTS[operation].body])
def test_requests_are_what_both_clients_know(said: Said, operation: str) -> None:
    sent = [exchange.sent for exchange in said.traffic.of(operation) if exchange.sent is not None]
    assert sent, "nobody sends a body"
    assert unexpected(operation, FACTS[operation].body, sent, sent=True) == []


def unexpected(operation: str, models: tuple[str, ...], bodies: list[Any], *, sent: bool = False) -> list[str]:
    """Return the complaints of a route's models that have no reason in the table."""
    found = {f"{name}: {complaint}" for name in models for body in bodies for complaint in complaints(name, body, sent)}
    return sorted(each for each in found if not any(key in each for key in EXPECTED.get(operation, {})))


def complaints(name: str, body: Any, sent: bool) -> Iterator[str]:
    if name.startswith("mlflow:"):
        yield from generated_models.mlflow_complaints(name, body)
        return
    kind = generated_models.model(name.strip("[]"))
    values = [body]
    if name.startswith("["):
        yield from (f"body.{key}: not in a page" for key in body if key not in ("value", "nextLink"))
        values = body["value"]
    for value in values:
        yield from generated_models.complaints(kind, value, sent=sent)
        if name.strip("[").startswith("mgmt:"):
            yield from generated_models.lost(kind, value)


def test_every_expected_complaint_is_still_made(said: Said) -> None:
    made = {
        (operation, key)
        for operation, keys in EXPECTED.items()
        for key in keys
        for exchange in said.traffic.of(operation)
        for complaint in _all_complaints(exchange)
        if key in complaint
    }
    assert {(operation, key) for operation, keys in EXPECTED.items() for key in keys} == made


def _all_complaints(exchange: Exchange) -> Iterator[str]:
    fact = FACTS[exchange.route]
    for name in fact.answer if exchange.status < 300 and exchange.answer else ():
        yield from (f"{name}: {complaint}" for complaint in complaints(name, exchange.answer, False))
    for name in fact.body if exchange.sent is not None else ():
        yield from (f"{name}: {complaint}" for complaint in complaints(name, exchange.sent, True))


@pytest.mark.parametrize("operation", ANSWERED)
def test_the_sdk_asks_with_the_versions_of_the_table(said: Said, operation: str) -> None:
    asked = {exchange.version for exchange in said.traffic.of(operation) if exchange.client == "sdk"} - {""}
    assert asked == set(FACTS[operation].versions)


def test_everything_that_was_asked_is_served(said: Said) -> None:
    assert [exchange.path for exchange in said.traffic.exchanges if not exchange.route] == []


def test_handlers_read_only_fields_that_clients_may_send(said: Said) -> None:
    strangers = []
    for operation, path in sorted(said.reads):
        models = FACTS[operation].body
        if models and not any(generated_models.may_have(name, path) for name in models):
            strangers.append(f"{operation}: {path}")
    assert strangers == []


@pytest.mark.parametrize(
    "operation", sorted({"PUT jobs/{name}", "PUT computes/{name}", "PUT onlineEndpoints/{endpoint}"})
)
def test_handlers_are_watched(said: Said, operation: str) -> None:
    assert [path for route, path in said.reads if route == operation and path.startswith("body.properties.")]


def test_a_wrong_body_is_complained_of() -> None:
    endpoint = {"id": 1, "location": "x", "extra": True, "properties": {"authMode": "Nope", "traffic": {"a": "1"}}}
    for client in ("arm", "mgmt"):
        made = list(generated_models.complaints(generated_models.model(f"{client}:OnlineEndpoint"), endpoint))
        assert "body.id: 1 is no str" in made
        assert "body.extra: not in OnlineEndpoint" in made
        assert "body.properties.authMode: 'Nope' is not one of EndpointAuthMode" in made
        assert "body.properties.traffic.*: '1' is no int" in made
        assert "body.name: always sent, in OnlineEndpoint" in made
        system = {"systemData": {"createdAt": "yesterday"}}
        job = list(generated_models.complaints(generated_models.model(f"{client}:JobBase"), system))
        assert "body.systemData.createdAt: 'yesterday' is no datetime" in job
        assert "body.properties: required in JobBase" in job
    wrong = list(generated_models.mlflow_complaints("mlflow:GetRun.Response", json.loads('{"run": {"nope": 1}}')))
    assert len(wrong) == 1
