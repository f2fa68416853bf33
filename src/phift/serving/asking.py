"""Which route of an endpoint a question goes to, and what comes of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from phift import errors
from phift.azure.answers import listed, mapping
from phift.azure.clients import Clients
from phift.serving import resource
from phift.serving.chat import Reply, read_reply
from phift.serving.container import is_vllm
from phift.serving.parking import way_back
from phift.serving.question import Question
from phift.serving.scoring import Answer, ScoringClient, TimeLimit
from phift.serving.sharing import traffic
from phift.serving.streaming import ReplyStream, in_one, streamed

if TYPE_CHECKING:
    from azure.ai.ml.entities import OnlineDeployment

logger = logging.getLogger(__name__)

Route = Literal["score", "openai"]

_FORGOTTEN_AFTER = 600.0  # seconds after which an endpoint may have got a deployment with other routes


class Asker:
    """Asks an endpoint's deployments, from any number of threads.

    ``/score`` is what each of Azure's own servers has; tools and what is to stream go to OpenAI's route. Where one is
    missing the other one is asked, and the missing one not again for a while: Azure counts each such request as an
    error.
    """

    def __init__(self, client: ScoringClient, clients: Clients, name: str) -> None:
        self._client, self._clients, self._name = client, clients, name
        self._missing: dict[tuple[str | None, Route], float] = {}
        self._is_vllm: dict[str, tuple[float, bool]] = {}

    def reply(
        self,
        question: Question,
        deployment: str | None,
        timeout: float | None,
        on_busy: Callable[[], None] | None = None,
    ) -> Reply:
        """Return the answer as a whole; as `phift.serving.endpoint.Endpoint.chat`.

        - **on_busy**: as in `phift.serving.scoring.ScoringClient.send`.
        """
        first: Route = "openai" if question.has_tools else "score"
        route, answer = self._ask(question, first, deployment, timeout, on_busy)
        return self._read(question, route, answer)

    def stream(self, question: Question, deployment: str | None, timeout: float | None) -> ReplyStream:
        """Return the answer in pieces, or in one; as `phift.serving.endpoint.Endpoint.stream`."""
        asked = time.monotonic()
        route, answer = self._ask(question, "openai", deployment, timeout, stream=True)
        if route == "openai":
            return streamed(answer, self._client.place, asked)
        return in_one(self._read(question, route, answer), asked)

    def _ask(
        self,
        question: Question,
        first: Route,
        deployment: str | None,
        timeout: float | None,
        on_busy: Callable[[], None] | None = None,
        *,
        stream: bool = False,
    ) -> tuple[Route, Answer]:
        """Return the answer of the first route that is there, and which that is."""
        client, limit, missing = self._client, TimeLimit.of(timeout), list[Route]()
        for route in self._routes(question, first, deployment):
            if route == "openai":
                url = client.address if client.is_openai else f"{client.openai_base}/chat/completions"
                body: dict[str, Any] = question.to_openai(stream=stream)
            else:
                url, body = client.address, question.to_score()
            answer = client.send(url, body, deployment, limit=limit, on_busy=on_busy)
            if answer.status < 300:
                if route == "openai" and (unknown := question.dropped_by_vllm):
                    logger.warning("The server of endpoint %s may have left out: %s", self._name, ", ".join(unknown))
                self._missing.pop((deployment, route), None)
                for each in missing:
                    self._missing[deployment, each] = time.monotonic() + _FORGOTTEN_AFTER
                return route, answer
            with answer:
                if answer.status == 404 and (unreached := self._reaches_nobody(answer, question, deployment)):
                    raise unreached
                refusal = self._refusal(answer, question)
            if not self._lacks(route, answer, deployment):
                raise refusal
            missing.append(route)
        if name := question.needs_openai:
            what = f"The deployment takes no {name}: it has no OpenAI route, or there is none with traffic."
            raise errors.ScoringError(what, where=client.place, fix=f"leave {name} out", status=refusal.status)
        raise refusal

    def _lacks(self, route: Route, answer: Answer, deployment: str | None) -> bool:
        """Tell whether a refusal means that the model's server has no such route."""
        if answer.lacks_route:
            return True
        if route == "openai":  # whether Azure hands on a container's 404, or makes it a 424, nobody says
            return answer.status in (404, 405)
        # vLLM's own `/score` compares texts, and refuses a conversation as a mistake.
        return answer.status == 424 and self._look_for_vllm((answer.deployment or deployment or "").lower())

    def _look_for_vllm(self, asked: str) -> bool:
        """Tell whether a deployment is vLLM's, or one of them where none is named; it is looked up now and then."""
        until, known = self._is_vllm.get(asked, (0.0, False))
        if time.monotonic() < until:
            return known
        if (found := self._deployments()) is None:
            return False
        known = any(is_vllm(each) for each in found if asked in ("", str(each.name).lower()))
        self._is_vllm[asked] = time.monotonic() + _FORGOTTEN_AFTER, known
        return known

    def _routes(self, question: Question, first: Route, deployment: str | None) -> list[Route]:
        """Return the routes to ask, one after another; last what is missing, unless traffic has moved since."""
        if self._client.is_openai or question.needs_openai:
            return ["openai"]
        routes: list[Route] = ["openai", "score"] if first == "openai" else ["score", "openai"]
        now = time.monotonic()
        return sorted(routes, key=lambda each: self._missing.get((deployment, each), 0) > now)

    def _read(self, question: Question, route: Route, answer: Answer) -> Reply:
        with answer:
            said = answer.json()
        if route == "score" and isinstance(said, dict) and "output" in said and question.dropped_by_container:
            left_out = ", ".join(question.dropped_by_container)
            logger.warning("The server of endpoint %s does not know, and left out: %s", self._name, left_out)
        return read_reply(said, self._client.place, answer.deployment)

    def _reaches_nobody(self, answer: Answer, question: Question, deployment: str | None) -> errors.PhiftError | None:
        """Return the error for a 404 that is the endpoint's own; None where a deployment may have said it."""
        if way_out := way_back(self._clients, self._name):
            return errors.NotFound("The endpoint is parked.", where=self._client.place, fix=way_out, status=404)
        if not deployment:  # a server without the other route says so itself
            return self._client.refusal(answer) if question.needs_openai and not self._has_traffic() else None
        found = self._deployments()
        names = sorted(errors.in_a_line(each.name) for each in found or ())
        if found is None or deployment.lower() in map(str.lower, names):
            return None
        what = f"The endpoint has no deployment {errors.in_a_line(deployment)}."
        fix = f"there is: {', '.join(names)}" if names else "it has none at all: deploy a model to it"
        return errors.NotFound(what, where=self._client.place, fix=fix, status=404)

    def _has_traffic(self) -> bool:
        try:
            return any(traffic(resource.endpoint(self._clients, self._name).get()).values())
        except errors.PhiftError:  # what refused the question says enough
            return True

    def _refusal(self, answer: Answer, question: Question) -> errors.PhiftError:
        """Return the error for an answer with a status of 300 and more."""
        beside = ""
        if answer.status in (400, 422, 424) and (name := _refused_by_name(answer)):
            beside = f"what its server does not take is {name}"
        elif answer.status == 424 and question.has_tools:
            beside = "Azure's MLflow server takes no turn of a tool, which its vLLM container does"
        elif answer.status in (400, 424) and (others := question.beyond_the_common):
            beside = f"the server may not know {', '.join(others)}"
        return self._client.refusal(answer, beside)

    def _deployments(self) -> list[OnlineDeployment] | None:
        """Return the endpoint's deployments; None where they cannot be read."""
        place = f"deployments of endpoint {self._name}"
        try:
            with errors.azure_errors(place):
                return listed(self._clients.workspace.online_deployments.list(self._name), place)
        except errors.PhiftError:  # what refused the question says enough
            return None


def _refused_by_name(answer: Answer) -> str:
    """Return which part of a question a server of OpenAI's API refuses, empty where it does not say.

    A name is all that is read: what is said about it may quote the user's text.
    """
    try:
        name = mapping(mapping(answer.json()).get("error")).get("param")
    except errors.PhiftError:
        return ""
    return errors.in_a_line(name)[:100] if isinstance(name, str) else ""
