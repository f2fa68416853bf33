"""Scoring: who may ask an endpoint, which deployment answers, and how it fails."""

from __future__ import annotations

import hmac
import random
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from phift.local.names import ML_AUDIENCES
from phift.local.pending import Pending, ScorerFailed, ScorerTimeout
from phift.local.services import endpoints
from phift.local.services.route import Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.state.identity import InvalidToken
from phift.local.state.traffic import Answered
from phift.local.wire import Call, Reply, WireError, existing, of_fault, seconds, section, sendable, user_error


def _scored(site: Site, call: Call) -> Document:
    missing = WireError(404, "NotFound", "There is no such endpoint.")
    return existing(site, f"onlineEndpoints/{call['endpoint']}", missing)


Request = Json | WireError
TOO_LATE = "upstream request timeout"


class Answering(NamedTuple):
    """A deployment that has begun to answer, with what it said first: the reply, or a piece before it."""

    deployment: Document
    first: Json
    pending: Pending


@contextmanager
def answering(site: Site, call: Call, request: Request) -> Iterator[Answering]:
    """Have the deployment answer that a header names, or one of those that have traffic, and count what it answers.

    - **request**: for the scorer, or what the model's server says to a body that it cannot read.
    """
    deployment = chosen(site, call)
    if not call.headers.get("azureml-model-deployment"):
        _mirror(site, _scored(site, call), request)
    with _asked(site, deployment, request) as answer:
        yield answer


def chosen(site: Site, call: Call) -> Document:
    """Return the deployment that a header names, or one of those that have traffic."""
    endpoint = _scored(site, call)
    name = call.headers.get("azureml-model-deployment")
    if not name:
        traffic = {name: share for name, share in endpoint.body["properties"]["traffic"].items() if share > 0}
        if not traffic:
            raise WireError(404, "NotFound", "No deployment of the endpoint has traffic.")
        [name] = random.choices(list(traffic), list(traffic.values()))  # noqa: S311 - traffic, not secrets
    return _serving(site, endpoint, name)


def _serving(site: Site, endpoint: Document, name: str) -> Document:
    missing = WireError(404, "NotFound", f"The endpoint has no deployment {name}.")
    return existing(site, f"{endpoint.key}/deployments/{name}", missing)


def _mirror(site: Site, endpoint: Document, request: Request) -> None:
    """Give a share of the requests to another deployment as well, whose answers nobody gets, and nobody waits for.

    Those that name a deployment are not mirrored (azure-ai-docs 197bdc3c, how-to-safely-rollout-online-endpoints).
    """
    for name, share in endpoint.body["properties"]["mirrorTraffic"].items():
        if random.random() * 100 < share:  # noqa: S311 - traffic, not secrets

            def ask(name: str = name, request: Request = request) -> None:
                # It is counted among what the deployment answered; or the workspace has been closed meanwhile.
                nobody_hears = suppress(WireError, ScorerFailed, ScorerTimeout, sqlite3.ProgrammingError)
                with nobody_hears, _asked(site, _serving(site, endpoint, name), request) as answer:
                    if any("error" in said for said in answer.pending):  # to its end
                        raise ScorerFailed

            threading.Thread(target=ask, name="phift-mirror", daemon=True).start()


def authorize(site: Site, call: Call) -> None:
    """Ask for the endpoint's own key or token, which stands in for a bearer token."""
    endpoint = _scored(site, call)
    scheme, _, given = call.headers.get("authorization", "").partition(" ")
    mode = endpoint.body["properties"]["authMode"]
    if scheme.lower() != "bearer" or not given:
        raise WireError(401, "Unauthorized", "key_auth_bad_header_forbidden")
    if mode == "Key":
        own = endpoints.keys(site, endpoint).values()
        good = [hmac.compare_digest(given.encode(), str(key).encode()) for key in own]
        if not any(good):
            raise WireError(401, "Unauthorized", "key_auth_access_denied")
        return
    try:
        audience = str(site.identity.claims(given)["aud"]).rstrip("/")
    except InvalidToken as error:
        raise WireError(401, "Unauthorized", str(error)) from error
    if audience not in (ML_AUDIENCES if mode == "AADToken" else (f"endpoint/{endpoint.name.lower()}",)):
        raise WireError(401, "Unauthorized", "The token is for something else.")


@contextmanager
def _asked(site: Site, deployment: Document, request: Request) -> Iterator[Answering]:
    with _counted(site, deployment):
        # While a deployment is updated, its old process goes on answering.
        if deployment.body["properties"]["provisioningState"] not in ("Succeeded", "Updating"):
            raise WireError(503, "NotReady", f"The deployment {deployment.name} is not ready.")
        settings = deployment.body["properties"].get("requestSettings") or {}
        # Twice what the instances work on at once.
        most = 2 * int(settings.get("maxConcurrentRequestsPerInstance") or 1) * int(deployment.body["sku"]["capacity"])
        with site.scorers.slot(deployment.key, most):
            timeout = seconds(settings.get("requestTimeout") or "PT5S", "requestTimeout")
            try:
                delay = _fail_on_order(site, deployment, timeout)
                first, pending = site.scorers.ask(deployment.key, _readable(request), timeout - delay)
            except ScorerTimeout as error:
                raise WireError(408, "RequestTimeout", TOO_LATE, answered_by(deployment)) from error
            except ScorerFailed as error:
                raise _failed(deployment, 500, str(error)) from error
            except WireError as error:
                raise _failed(deployment, error.status, error.message, error.more) from error
            if "error" in first:
                told = first["error"]
                status, about = int(told.get("status", 400)), {"param": told.get("param")}
                raise _failed(deployment, status, str(told.get("message")), about)
            yield Answering(deployment, first, pending)


@contextmanager
def _counted(site: Site, deployment: Document) -> Iterator[None]:
    began, answered = time.perf_counter(), Answered(200, 200)
    try:
        yield
    except WireError as error:
        of_model = int(error.headers.get("ms-azureml-model-error-statuscode", error.status))
        answered = Answered(error.status, of_model)
        raise
    except ScorerTimeout:
        answered = Answered(408, 408)
        raise
    except Exception:
        answered = Answered(500, 500)
        raise
    finally:
        milliseconds = (time.perf_counter() - began) * 1000
        site.traffic.note(deployment.key.split("/")[1], deployment.name, answered, milliseconds)


def answered_by(deployment: Document) -> dict[str, str]:
    """Return the headers that tell which deployment answers."""
    return {"azureml-model-deployment": deployment.name, "azureml-model-session": deployment.name}


def _failed(deployment: Document, status: int, message: str, more: Mapping[str, Any] | None = None) -> WireError:
    """Return what the endpoint says when the model's container answered with an error."""
    reason = sendable(message.splitlines()[0][:200]) if message.strip() else ""
    told = {"ms-azureml-model-error-statuscode": str(status), "ms-azureml-model-error-reason": reason}
    return WireError(424, "ModelError", message, {**answered_by(deployment), **told}, more=more or {})


def _fail_on_order(site: Site, deployment: Document, timeout: float) -> float:
    """Let pass what has been ordered for this model server, and return how many seconds that took."""
    fault = site.faults.strike(f"scoring {deployment.name}")
    if fault is None:
        return 0
    time.sleep(min(fault.delay, timeout))
    if fault.delay >= timeout:
        raise ScorerTimeout
    if fault.status:
        raise of_fault(fault)
    return fault.delay


def _readable(request: Request) -> Json:
    if isinstance(request, WireError):
        raise request
    return request


def _request(call: Call) -> Request:
    """Return the conversations and parameters of a body, or what the model's server says to one that has none."""
    try:
        return _conversations(call)
    except WireError as error:
        return WireError(400, error.code, error.message)


def _conversations(call: Call) -> Json:
    """Return the conversations and parameters of a body in one of the forms that the MLflow server takes."""
    body = call.json()
    data = body.get("input_data")
    if not isinstance(data, dict) or "input_string" not in data:
        raise user_error("The body needs input_data with input_string: a conversation, or a list of them.")
    conversations = data["input_string"]
    if not isinstance(conversations, list) or not conversations:
        raise user_error("input_string must be a list of messages, or a list of such lists.")
    if all(isinstance(message, dict) for message in conversations):
        conversations = [conversations]
    parameters = {**section(body, "params"), **section(data, "parameters")}
    return {"conversations": conversations, "parameters": parameters}


def _score(site: Site, call: Call) -> Reply:
    with answering(site, call, _request(call)) as answer:
        texts = answer.first["texts"]
    return Reply([{"0": text.strip()} for text in texts], 200, answered_by(answer.deployment))


ROUTES = [Route("POST /inference/{endpoint}/score", _score, authorize)]
