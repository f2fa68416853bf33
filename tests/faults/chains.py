"""The chains that are tried with each fault: a whole run, and what is done with an endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import phift
from phift import Endpoint, FineTuneRun, RunConfig, deploy_model
from phift.azure.connect import connect
from phift.errors import ServiceError
from phift.serving.gate import Gate
from phift.serving.lifetime import EXPIRES
from phift.serving.rollout_state import RolloutEvent
from phift.testing import TestWorkspace
from unit import given

from .chain import Chain, Ground

_LONGEST_JOB = 60.0  # seconds that a chain waits for the job, which takes none
_MODEL, _SIZE = given.MODEL, "Standard_NC24ads_A100_v4"
_BETTER = "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/15"
_GATE = Gate(min_requests=1, max_error_rate=0.9, max_p95_ratio=None)
_NAME, _JOB = "phift-faults", "job"
_ONE_OF_EACH = {"jobs": 1, "models": 1, "data": 3, "endpoints": 1, "deployments": 1}
_ONE, _NONE = {"endpoints": 1, "deployments": 1}, {"endpoints": 0, "deployments": 0}


def write_data(folder: Path) -> dict[str, Path]:
    """Write the least data set that is one."""
    files = {}
    for split, count in (("train", 10), ("validation", 1), ("test", 1)):
        files[split] = folder / f"{split}.jsonl"
        asked = [[{"role": "user", "content": f"{split} {number}?"}] for number in range(count)]
        rows = [{"messages": [*messages, {"role": "assistant", "content": "Yes."}]} for messages in asked]
        files[split].write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return files


def _run(place: Ground, work: Path, before: Callable[[str], None]) -> None:
    config = RunConfig(
        workspace={"local": place.workspace.folder},
        model="Phi-4-mini-instruct",
        compute="gpu-cluster",
        data=write_data(place.folder),
        work_dir=work,
    )
    run = FineTuneRun(config, replace(connect(config), poll_seconds=0.05))
    before("submit")
    run.submit()
    before("wait")
    run.wait(timeout=_LONGEST_JOB)
    before("metrics")
    run.metrics()
    before("register")
    run.register()
    before("deploy")
    with run.deploy() as endpoint:
        before("chat")
        endpoint.chat("Is this a chain?")
        before("")
        before("delete")


RUN = Chain(
    "run",
    # `submit` checks first, and to connect asks nobody.
    ("submit", "wait", "metrics", "register", "deploy", "chat", "delete"),
    _run,
    during=_ONE_OF_EACH,
    after={**_ONE_OF_EACH, **_NONE},
    refusals=False,
)


def _job(place: Ground, _work: Path) -> None:
    given.job(cast(TestWorkspace, place), _JOB)  # of which it takes the connection only


def _deployed(place: Ground, work: Path) -> None:
    place.ask("POST", "/phift/seed", json={"quota": {_SIZE: 1000}})
    _job(place, work)
    deploy_model(place.clients(), _MODEL, name=_NAME, size=_SIZE, job=_JOB)


def _deploy(place: Ground, _work: Path, before: Callable[[str], None]) -> None:
    clients = place.clients()
    before("deploy")
    with deploy_model(clients, _MODEL, name=_NAME, size=_SIZE, job=_JOB) as endpoint:
        before("chat")
        endpoint.chat("Is this a chain?")
        before("")
        before("delete")


DEPLOY = Chain("deploy", ("deploy", "chat", "delete"), _deploy, during=_ONE, after=_NONE, prepare=_job)


def _park(place: Ground, _work: Path, before: Callable[[str], None]) -> None:
    clients = place.clients()
    before("park")
    endpoint = Endpoint.attach(_NAME, clients)
    endpoint.park()
    before("unpark")
    endpoint.unpark()
    before("chat")
    endpoint.chat("Is this a chain?")
    before("")


PARK = Chain("park", ("park", "unpark", "chat"), _park, during=_ONE, after=_ONE, prepare=_deployed, serves=True)


def _expired(place: Ground, work: Path) -> None:
    _deployed(place, work)
    operations = place.clients().workspace.online_endpoints
    found: Any = operations.get(_NAME)
    found.tags[EXPIRES] = "2026-01-01T00:00:00+00:00"
    operations.begin_create_or_update(found).result()


def _prune(place: Ground, _work: Path, before: Callable[[str], None]) -> None:
    clients = place.clients()
    before("list")
    phift.endpoints(clients)
    before("prune")
    done = phift.prune_endpoints(clients)
    if done.failed or done.spared:
        raise ServiceError(str(done))
    before("")


PRUNE = Chain("prune", ("list", "prune"), _prune, during=_NONE, after=_NONE, prepare=_expired)


def _rollout(place: Ground, _work: Path, before: Callable[[str], None]) -> None:
    clients = place.clients()
    before("rollout")
    endpoint = Endpoint.attach(_NAME, clients)

    def ask(deployment: str) -> None:
        for _ in range(2):  # what nobody asks is not judged
            endpoint.chat("Is this a chain?", deployment=deployment)

    def ask_at_each_step(event: RolloutEvent) -> None:
        if event.stage == "serving":
            ask(event.deployment)

    rollout = endpoint.rollout(_BETTER, steps=(50, 100), soak=0.3, gate=_GATE, on_event=ask_at_each_step)
    before("wait")
    status = rollout.wait(timeout=60)
    if status.phase == "paused":
        ask(status.new)
        status = rollout.wait(timeout=60)
    if not status.promoted:
        raise ServiceError(f"The rollout is not done. {status}")
    before("chat")
    endpoint.chat("Is this a chain?")
    before("")


ROLLOUT = Chain(
    "rollout", ("rollout", "wait", "chat"), _rollout, during=_ONE, after=_ONE, prepare=_deployed, serves=True
)

CHAINS = {chain.name: chain for chain in (RUN, DEPLOY, PARK, PRUNE, ROLLOUT)}
