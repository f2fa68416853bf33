"""The data plane of endpoints: who may score, which deployment answers, and errors as Azure maps them."""

from __future__ import annotations

import hmac
import random
import re
from typing import Any

from phift.local.services import endpoints
from phift.local.services.route import Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.state.identity import InvalidToken
from phift.local.wire.call import Call, Reply, WireError, user_error
from phift.local.wire.pages import existing
from phift.local.work.scorers import ScorerFailed, ScorerTimeout

_DEFAULT_TIMEOUT = 5.0
_AUDIENCES = ("https://ml.azure.com", "https://ml.azure.local")


def routes() -> list[Route]:
    """Return the scoring route; the endpoint's own key or token stands in for a bearer token."""
    return [Route("POST", "/inference/{endpoint}/score", _score, anonymous=True)]


def _score(site: Site, call: Call) -> Reply:
    missing = WireError(404, "NotFound", "There is no such endpoint.")
    endpoint = existing(site, f"onlineEndpoints/{call['endpoint']}", missing)
    _authorize(site, endpoint, call)
    deployment = _choose(site, endpoint, call.headers.get("azureml-model-deployment"))
    # While a deployment is updated, its old process goes on answering.
    if deployment.body["properties"]["provisioningState"] not in ("Succeeded", "Updating"):
        raise WireError(503, "NotReady", f"The deployment {deployment.name} is not ready.")
    settings = deployment.body["properties"].get("requestSettings") or {}
    # Twice what the instances work on at once.
    most = 2 * int(settings.get("maxConcurrentRequestsPerInstance") or 1) * int(deployment.body["sku"]["capacity"])
    with site.scorers.slot(endpoint.name, deployment.name, most):
        return _ask(site, endpoint, deployment, call, _seconds(settings.get("requestTimeout")))


def _authorize(site: Site, endpoint: Document, call: Call) -> None:
    scheme, _, given = call.headers.get("authorization", "").partition(" ")
    mode = endpoint.body["properties"]["authMode"]
    if scheme.lower() != "bearer" or not given:
        raise WireError(401, "Unauthorized", "key_auth_bad_header_forbidden")
    if mode == "Key":
        good = [hmac.compare_digest(given.encode(), key.encode()) for key in endpoints.keys(site, endpoint).values()]
        if not any(good):
            raise WireError(401, "Unauthorized", "key_auth_access_denied")
        return
    try:
        audience = str(site.identity.claims(given)["aud"]).rstrip("/")
    except InvalidToken as error:
        raise WireError(401, "Unauthorized", str(error)) from error
    wanted = _AUDIENCES if mode == "AADToken" else (f"endpoint/{endpoint.name.lower()}",)
    if audience not in wanted:
        raise WireError(401, "Unauthorized", "The token is for something else.")


def _choose(site: Site, endpoint: Document, asked: str | None) -> Document:
    """Return the deployment that the header names, or one drawn by the traffic rules."""
    name = asked
    if not name:
        traffic = {name: share for name, share in endpoint.body["properties"]["traffic"].items() if share > 0}
        if not traffic:
            raise WireError(404, "NotFound", "No deployment of the endpoint has traffic.")
        [name] = random.choices(list(traffic), list(traffic.values()))  # noqa: S311 - traffic, not secrets
    missing = WireError(404, "NotFound", f"The endpoint has no deployment {name}.")
    return existing(site, f"{endpoint.key}/deployments/{name}", missing)


def _seconds(duration: Any) -> float:
    """Return the seconds of an ISO 8601 duration such as PT1M30S."""
    found = re.fullmatch(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?", str(duration or ""))
    if not found or not any(found.groups()):
        return _DEFAULT_TIMEOUT
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds


def _ask(site: Site, endpoint: Document, deployment: Document, call: Call, timeout: float) -> Reply:
    headers = {"azureml-model-deployment": deployment.name}
    try:
        scorer = site.scorers.get(endpoint.name, deployment.name)
        reply = scorer.ask(_request(call), timeout)
    except ScorerTimeout as error:
        raise WireError(408, "RequestTimeout", "upstream request timeout", headers) from error
    except ScorerFailed as error:
        raise _model_error(500, str(error), headers) from error
    except WireError as error:
        raise _model_error(400, error.message, headers) from error
    if "texts" not in reply:
        message = str((reply.get("error") or {}).get("message") or "The model gave no text.")
        raise _model_error(400, message, headers)
    return Reply([{"0": text} for text in reply["texts"]], 200, headers)


def _model_error(status: int, message: str, headers: dict[str, str]) -> WireError:
    """Return what the endpoint says when the model's container answered with an error."""
    reason = message.splitlines()[0][:200].encode("ascii", "replace").decode() if message else ""
    more = {"ms-azureml-model-error-statuscode": str(status), "ms-azureml-model-error-reason": reason}
    return WireError(424, "ModelError", message, {**headers, **more})


def _request(call: Call) -> Json:
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
    parameters = {**(body.get("params") or {}), **(data.get("parameters") or {})}
    return {"conversations": conversations, "parameters": parameters}
