"""An online endpoint: asked in words, deleted for certain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from phift import errors
from phift.azure.answers import listed, text, texts
from phift.azure.clients import Clients
from phift.azure.connect import clients_of
from phift.config.deployment import DeploymentConfig
from phift.jobs.registration import RegisteredModel
from phift.serving import resource
from phift.serving.asking import Asker
from phift.serving.batch import ChatProgress, ask_all
from phift.serving.chat import Message as Message
from phift.serving.chat import Reply
from phift.serving.gate import Gate
from phift.serving.openai_client import openai_client
from phift.serving.parking import park, unpark
from phift.serving.price import cost_of
from phift.serving.question import Question
from phift.serving.resource import DeploymentEvent, OnEvent, delete_endpoint, for_certain, telling
from phift.serving.rollout import Rollout
from phift.serving.rollout_ledger import Ledger
from phift.serving.rollout_state import ENDED, RolloutEvent, State, read_state
from phift.serving.scoring import ScoringClient
from phift.serving.shares import set_shares
from phift.serving.sharing import deployments, is_needed, is_new_of, is_same, withdraw
from phift.serving.streaming import ReplyStream
from phift.serving.uses import EndpointUse

if TYPE_CHECKING:
    from azure.ai.ml.entities import OnlineEndpoint
    from openai import AsyncOpenAI, OpenAI

    from phift.azure.connect import AnyClients

logger = logging.getLogger(__name__)


class Endpoint:
    """A deployed model.

    As a context manager it is deleted at the end of the block if it was made for it: what an earlier call left up on
    purpose, and what another block still uses, stays; see `phift.serving.uses`.

    - **name**: of the endpoint.
    - **scoring_uri**: where requests go.
    - **existed**: whether `phift.serving.deployment.deploy_model` found it instead of making it.
    - **found**: what the service said of it last; left out, it is asked.
    - **own**: tags of the deployments that the end of a block deletes; left out, it deletes all of them.
    - **ledgers**: of the rollouts that this handle has begun or gone on with, which end with a block, too.
    """

    @errors.forgetting_locals()
    def __init__(
        self,
        clients: Clients,
        name: str,
        config: DeploymentConfig,
        on_event: OnEvent | None = None,
        *,
        existed: bool = True,
        use: EndpointUse | None = None,
        found: OnlineEndpoint | None = None,
        own: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.existed = existed
        self._clients = clients
        self._config = config
        self._emit = telling(on_event)
        self._use = use or EndpointUse(None, name, made=not existed)
        self._own = own
        self._left = f"{name}/{config.deployment_name}" if own and existed else name  # others may serve from it, too
        self._is_in_block = self._is_parked = self._cut_off = False
        self.ledgers: list[Ledger] = []
        if found is None:
            there = resource.endpoint(clients, name)
            found = there.settled() or there.get()  # the service tells no address of one that is being changed
        self.scoring_uri = text(found.scoring_uri, "endpoint.scoring_uri")
        self._client = ScoringClient(clients, name, self.scoring_uri, config.request_timeout_ms / 1000)
        self._asker = Asker(self._client, clients, name)

    @classmethod
    @errors.forgetting_locals()
    def attach(cls, name: str, clients: AnyClients, *, on_event: OnEvent | None = None) -> Self:
        """Return an endpoint that is there, whoever made it; the end of a block does not delete it.

        - **clients**: or an ``MLClient`` of the workspace, or the workspace as `phift.connect` takes it: ``"local"``.

        Raises `phift.errors.NotFound`, with the names of those that are there, where there is none of this name.
        """
        clients = clients_of(clients)
        there = resource.endpoint(clients, name)
        found = there.settled()
        if found is None:
            with errors.azure_errors("endpoints"):
                others = listed(clients.workspace.online_endpoints.list(), "endpoints")
            names = ", ".join(sorted(errors.in_a_line(each.name) for each in others)) or "none"
            where = f"workspace {clients.workspace.workspace_name}"
            fix = f"check the name and the workspace; endpoints that are there: {names}"
            raise errors.NotFound(f"There is no endpoint {name}.", where=where, fix=fix)
        return cls(clients, name, DeploymentConfig(), on_event, found=found)

    def __repr__(self) -> str:
        return f"<Endpoint {errors.in_a_line(self.name)}>"

    @errors.forgetting_locals()
    def __enter__(self) -> Self:
        try:
            self._use.enter()
        except BaseException:  # no block begins, so none will end
            for_certain(self._leave, self._left)
            raise
        self._is_in_block = True
        return self

    @errors.forgetting_locals()
    def __exit__(self, *raised: object) -> None:
        self.close()
        for_certain(self._leave, self._left)
        for error in raised:
            if self._cut_off and isinstance(error, BaseException):  # whose notes say that it stays as it is
                error.add_note(f"The end of the block has ended the rollout on endpoint {self.name} with what it made.")

    def close(self) -> None:
        """Close the connections that are kept for further questions; a later question opens its own. Deletes nothing.

        Those that nobody holds any more are closed with the endpoint's handle.
        """
        self._client.sessions.close()

    def _leave(self) -> None:
        if self._is_parked:
            return
        goes = self._use.leave(self._take_back)
        if not goes:
            self._emit(DeploymentEvent("stays", self.name))

    def _take_back(self) -> None:
        """Delete what this deployed, and what its rollouts made; nothing amid a rollout that somebody else began."""
        if self._own is None:
            delete_endpoint(self._clients, self.name, self._emit)
            return
        found = resource.endpoint(self._clients, self.name).settled()
        state = read_state(texts(found.tags, "endpoint.tags"), self.name) if found is not None else None
        rollouts = [now for ledger in self.ledgers if (now := ledger.own(state)) is not None]
        if state is not None and state.phase not in ENDED and state not in rollouts:
            cost = resource.still_up(self.name, cost_of(self._clients, self.name))
            why = f"{cost} Somebody else's rollout is under way. Delete it: phift cleanup {self.name}"
            self._emit(DeploymentEvent("stays", self.name, errors.redact(why)))
            logger.warning("%s", errors.in_a_line(why))
            return
        self._cut_off = state is not None and state.phase not in ENDED
        owners = [self._own, *self._made_by(rollouts)]
        withdraw(self._clients, self.name, lambda tags: any(is_same(tags, own) for own in owners), self._emit)

    def _made_by(self, rollouts: Collection[State]) -> list[dict[str, str]]:
        """Return the tags of the new deployments that nobody else keeps by now."""
        found = deployments(self._clients, self.name) if rollouts else ()
        new = (each for each in found if any(is_new_of(rollout, each) for rollout in rollouts))
        return [texts(each.tags, "deployment.tags") for each in new if not is_needed(self._clients, self.name, each)]

    @property
    def clients(self) -> Clients:
        """What it talks to."""
        return self._clients

    @errors.forgetting_locals()
    def set_traffic(self, shares: Mapping[str, int], *, mirror: Mapping[str, int] | None = None) -> None:
        """Give deployments their shares of the requests, in percent that sum to 100, or to 0.

        - **mirror**: a deployment without live traffic that gets copies of so many percent too, 50 at most, whose
          answers nobody sees; left out, none does.

        Raises `phift.errors.ConfigError` for what the service's rules do not allow, before it is asked.
        """
        set_shares(self._clients, self.name, shares, mirror or {})

    def rollout(
        self,
        model: RegisteredModel | str,
        *,
        steps: Sequence[int] = (10, 50, 100),
        soak: float = 600.0,
        gate: Gate | None = None,
        mirror: int = 0,
        deployment: str | None = None,
        size: str | None = None,
        keep_old: bool = False,
        on_event: Callable[[RolloutEvent], object] | None = None,
    ) -> Rollout:
        """Begin to put another model in the place of the one that is served, step by step; `Rollout.wait` goes on.

            rollout = endpoint.rollout("elements:2", soak=600, gate=Gate(max_error_rate=0.01))
            print(rollout.wait())

        A deployment of the model is made beside the old one, which has all the traffic. It gets mirrored traffic first
        where that is asked for, then one share after the other. After each the gate judges it: where it fails, the old
        deployment has all the traffic again at once and the new one is deleted; where too few requests came, the
        rollout pauses; after the last share the old deployment is deleted. A second call for the same model goes on
        with what is under way, as it was begun.

        - **model**: as in `phift.deploy_model`.
        - **steps**: percent of the traffic, each more than the one before, the last one 100.
        - **soak**: seconds that each of them lasts, and the mirroring too.
        - **gate**: what the new deployment must do; see `Gate` for what it asks where it is left out.
        - **mirror**: percent of the requests that it gets copies of first, 50 at most.
        - **deployment**: its name; left out, ``green`` beside ``blue`` and the other way round.
        - **size**: VM size; left out, and all else, as the old one's.
        - **keep_old**: leave the old deployment up at the end.

        Raises `phift.errors.ConfigError` for a plan that cannot be, and `phift.errors.Conflict` where several
        deployments share the traffic or another model's rollout is under way.
        """
        return Rollout.begin(
            self,
            model,
            steps=steps,
            soak=soak,
            gate=gate,
            mirror=mirror,
            deployment=deployment,
            size=size,
            keep_old=keep_old,
            on_event=on_event,
        )

    @errors.forgetting_locals()
    def delete(self) -> None:
        """Delete the endpoint with its deployments and wait until it is gone, whoever made it; twice does no harm.

        Raises what the service said, with the news that the endpoint is still up and costs money.
        """
        for_certain(lambda: delete_endpoint(self._clients, self.name, self._emit), self.name)
        self._use.end(deleted=True)

    @errors.forgetting_locals()
    def park(self) -> None:
        """Delete the deployments, so that nothing costs any more, and keep name, address and keys; see `unpark`.

        What they were is kept in the endpoint's tags. The end of a block deletes no parked endpoint. Raises what
        `phift.serving.parking.park` does.
        """
        park(self._clients, self.name, self._emit, self._use)
        self._use.keep()
        self._is_parked = True

    @errors.forgetting_locals()
    def unpark(self) -> None:
        """Bring back the deployments that `park` deleted, and their traffic: from any process, on any machine.

        Raises `phift.errors.NotFound` where there is nothing to bring back, and `phift.errors.DeploymentFailed`.
        """
        unpark(self._clients, self.name, self._emit, self._use)
        if self._is_parked and self._is_in_block:  # whose end looks after it again
            self._use.enter()
        self._is_parked = False

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        max_new_tokens: int = 256,
        do_sample: bool = False,
        deployment: str | None = None,
        timeout: float | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra_parameters: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> Reply:
        """Return the model's answer to a conversation: a text, or the tools that it calls.

        - **messages**: a question, or messages with ``role`` and ``content``, the last one the user's or a tool's.
        - **deployment**: ask this deployment, whatever the traffic rules say.
        - **timeout**: seconds for all of it, further tries at a busy deployment too.
        - **tools**: that the model may call, as OpenAI's API has them.
        - **parameters**: such as ``temperature``; see ``docs/chatting.md``.
        - **extra_parameters**: sent as they are, for a server of your own.

        Raises `phift.errors.DataError` and `phift.errors.ParameterError` before anything is sent,
        `phift.errors.NotFound` where there is no such deployment or none has traffic, `phift.errors.WaitTimeout`, and
        `phift.errors.ScoringError` where the answer holds neither a text nor a call.
        """
        settings = {"max_new_tokens": max_new_tokens, "do_sample": do_sample, **parameters}
        question = Question.of(messages, settings, tools, extra_parameters)
        return self._asker.reply(question, deployment, timeout)

    def stream(
        self,
        messages: str | Sequence[Message],
        *,
        max_new_tokens: int = 256,
        do_sample: bool = False,
        deployment: str | None = None,
        timeout: float | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra_parameters: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> ReplyStream:
        """Ask as `chat` does, and return the answer as pieces of text that are there when they come.

            for piece in endpoint.stream("What is the symbol of gold?"):
                print(piece, end="", flush=True)

        It is asked of OpenAI's route. A deployment without one, as an MLflow model's is on Azure, is asked as `chat`
        asks it, and the answer is one piece: whether streaming gained anything, ``in_one_piece`` says at the end.

        Raises what `chat` raises; while the pieces come, `phift.errors.ScoringError` where they break off.
        """
        settings = {"max_new_tokens": max_new_tokens, "do_sample": do_sample, **parameters}
        question = Question.of(messages, settings, tools, extra_parameters)
        return self._asker.stream(question, deployment, timeout)

    def chat_many(
        self,
        conversations: Iterable[str | Sequence[Message]],
        *,
        concurrency: int = 8,
        on_progress: Callable[[ChatProgress], None] | None = None,
        max_new_tokens: int = 256,
        do_sample: bool = False,
        deployment: str | None = None,
        timeout: float | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra_parameters: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> list[Reply | errors.PhiftError]:
        """Return the answers to many conversations, in their order; one that fails has its error in its place.

            answers = endpoint.chat_many(questions, concurrency=16, on_progress=EventPrinter())

        A deployment that is busy is asked with fewer at once, and is waited for. After Ctrl-C no further one is asked.

        - **concurrency**: how many are asked at once, at most.
        - **on_progress**: told of each that is over; an `phift.EventPrinter` draws a bar.
        - **timeout**: seconds for each, from when it is sent.

        Raises `phift.errors.ParameterError` before anything is sent; the rest is as `chat` has it.
        """
        if isinstance(conversations, str | bytes | Mapping):
            fix = "send a list of them: [question, question], or [[message, …], [message, …]]"
            raise errors.DataError("These are not many conversations.", where="conversations", fix=fix)
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            fix = "give it a whole number from 1 on"
            raise errors.ParameterError("So many cannot be asked at once.", where="parameter concurrency", fix=fix)
        settings = {"max_new_tokens": max_new_tokens, "do_sample": do_sample, **parameters}
        Question.of("", settings, tools, extra_parameters)

        def ask(number: int, messages: str | Sequence[Message], on_busy: Callable[[], None]) -> Reply:
            try:
                question = Question.of(messages, settings, tools, extra_parameters)
            except errors.DataError as error:
                error.where = f"conversation {number}, {error.where}"
                raise
            return self._asker.reply(question, deployment, timeout, on_busy)

        asking = [partial(ask, number, messages) for number, messages in enumerate(conversations, start=1)]
        tell = errors.isolated(on_progress)
        return ask_all(asking, concurrency=concurrency, endpoint=self.name, tell=tell)

    @overload
    def openai(self, *, deployment: str | None = ..., asynchronous: Literal[False] = ...) -> OpenAI: ...

    @overload
    def openai(self, *, deployment: str | None = ..., asynchronous: Literal[True]) -> AsyncOpenAI: ...

    @errors.forgetting_locals()
    def openai(self, *, deployment: str | None = None, asynchronous: bool = False) -> OpenAI | AsyncOpenAI:
        """Return the official client of OpenAI's API for this endpoint; what opens it renews itself.

            client = endpoint.openai()
            answer = client.chat.completions.create(model="", messages=[…])

        The deployment needs OpenAI's route, which an MLflow model's on Azure does not have.

        - **deployment**: ask this one, whatever the traffic rules say.
        - **asynchronous**: return an ``AsyncOpenAI``.

        Raises `phift.errors.MissingDependency` without the extra ``openai``.
        """
        return openai_client(self._client, deployment, asynchronous=asynchronous)
