"""Rollouts on a served local workspace under constant load, and of processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from phift.azure.clients import Clients
from phift.errors import PhiftError
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from phift.serving.gate import Gate
from phift.testing import Fault, TestWorkspace

pytestmark = pytest.mark.slow

REGISTRY = "azureml://registries/azureml/models"
OLD, NEW = f"{REGISTRY}/Phi-4-mini-instruct/versions/1", f"{REGISTRY}/Phi-3-mini-4k-instruct/versions/15"
A100 = "Standard_NC24ads_A100_v4"
NAME = "rolled"


def serve(workspace: TestWorkspace) -> Endpoint:
    workspace.set_quota(A100, 1000)
    config = {"deployment_name": "blue", "max_concurrent_requests": 8}
    return deploy_model(workspace.clients, OLD, name=NAME, size=A100, config=config)


class Load:
    """What callers got who ask without a pause."""

    def __init__(self) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self.asked = 0


@contextmanager
def load(endpoint: Endpoint, callers: int = 4, pause: float = 0.05) -> Iterator[Load]:
    found, over, lock = Load(), threading.Event(), threading.Lock()

    def ask() -> None:
        while not over.wait(pause):
            with lock:
                found.asked += 1
            try:
                reply = endpoint.chat("What is the symbol of gold?", max_new_tokens=4)
            except PhiftError as error:
                found.lost.append(str(error))
            else:
                with lock:
                    found.answered += bool(reply)

    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()


def deployments(clients: Clients) -> list[str]:
    return sorted(each.name for each in clients.workspace.online_deployments.list(NAME))


def goes_from_blue_to_green(workspace: TestWorkspace, *, soak: float, gate: Gate) -> Load:
    endpoint = serve(workspace)
    with load(endpoint) as found:
        status = endpoint.rollout(NEW, soak=soak, mirror=20, gate=gate).wait(timeout=600)
    assert status.promoted, status
    assert found.lost == []
    assert found.answered == found.asked > 20
    assert deployments(workspace.clients) == ["green"]
    return found


@pytest.mark.phift(server=True)
def test_no_request_is_lost_from_blue_to_green(phift_workspace: TestWorkspace) -> None:
    goes_from_blue_to_green(phift_workspace, soak=1, gate=Gate(min_requests=1, max_p95_ratio=None))


# What a process does whose rollout is killed: it prints each event as a line.
PROGRAM = """
import json, sys
from dataclasses import replace
from phift import Endpoint, Gate, connect

endpoint = Endpoint.attach("{name}", replace(connect(workspace={{"local": "{folder}"}}), poll_seconds=0.05))
gate = Gate(min_requests=1, max_p95_ratio=None)
show = lambda event: print(event.stage, event.share, flush=True)
print(endpoint.rollout("{model}", gate=gate, on_event=show, **{plan}).wait().phase, flush=True)
"""


def killed_at_each_event(workspace: TestWorkspace, *but_at: str, **plan: Any) -> list[str]:
    """Kill a process at each new event of its rollout, and begin the next one, until one has come to the end."""
    program = PROGRAM.format(name=NAME, folder=workspace.connection.folder, model=NEW, plan=plan)
    seen: list[str] = []
    for _ in range(30):
        environ = {**os.environ, **workspace.environment()}
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environ)  # noqa: S603 - ours
        assert child.stdout is not None
        with child:
            for line in map(str.strip, child.stdout):
                if line.startswith("promoted"):
                    return seen
                if line not in (*seen, *but_at) and not line.startswith("judged"):
                    seen.append(line)
                    child.send_signal(signal.SIGKILL)
                    break
    raise AssertionError(seen)


@pytest.mark.phift(server=True)
def test_the_next_process_goes_on_with_a_rollout_whose_process_was_killed(phift_workspace: TestWorkspace) -> None:
    endpoint = serve(phift_workspace)
    with load(endpoint, callers=2) as found:
        seen = killed_at_each_event(phift_workspace, "deploying 0", "promoting 100", soak=0.5, steps=(100,))
    assert seen == ["serving 100"]
    assert found.lost == []
    assert deployments(phift_workspace.clients) == ["green"]


@pytest.mark.proof
@pytest.mark.phift(server=True)
def test_killed_at_each_event_the_next_process_goes_on(phift_workspace: TestWorkspace) -> None:
    endpoint = serve(phift_workspace)
    with load(endpoint, callers=2) as found:
        seen = killed_at_each_event(phift_workspace, soak=2, mirror=20)
    shares = ["mirroring 20", "serving 10", "serving 50", "serving 100", "promoting 100"]
    assert seen[:6] == ["deploying 0", *shares]
    assert found.lost == []
    assert deployments(phift_workspace.clients) == ["green"]


@pytest.mark.proof
@pytest.mark.phift(engine="train", server=True)
def test_two_models_that_really_answer_change_places_and_no_request_is_lost(phift_workspace: TestWorkspace) -> None:
    found = goes_from_blue_to_green(phift_workspace, soak=60, gate=Gate(min_requests=20, max_p95_ratio=4))
    print(f"{found.asked} requests, none lost")  # noqa: T201 - what is measured


@pytest.mark.proof
@pytest.mark.phift(engine="train", server=True)
@pytest.mark.parametrize("worse", ["by errors", "by latency", "by comparison"])
def test_a_model_that_was_made_worse_on_purpose_is_taken_back(
    phift_workspace: TestWorkspace, tmp_path: Path, worse: str
) -> None:
    workspace, endpoint = phift_workspace, serve(phift_workspace)
    gate = Gate(min_requests=20)
    if worse == "by errors":
        workspace.order(Fault("scoring green", status=500, times=None))
    elif worse == "by latency":
        gate = Gate(min_requests=20, max_p95=2.5)
        workspace.order(Fault("scoring green", delay=3, times=None))
    else:
        from phift import compare_models

        questions = [f"What is number {number}?" for number in range(60)]
        said = [str(endpoint.chat(each, max_new_tokens=8)) for each in questions]  # which the other model never says
        turns: list[Any] = [
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
            for question, answer in zip(questions, said, strict=True)
            if answer.strip()
        ]
        rows = tmp_path / "rows.jsonl"
        rows.write_text("".join(json.dumps(each) + "\n" for each in turns))
        gate = Gate(min_requests=20, compare=partial(compare_models, rows=rows, max_new_tokens=8))
    began = time.monotonic()
    with load(endpoint) as found:
        status = endpoint.rollout(NEW, soak=120, gate=gate).wait(timeout=600)
    assert (status.phase, deployments(workspace.clients)) == ("rolled back", ["blue"])
    print(f"taken back after {time.monotonic() - began:.0f} s: {status.why}")  # noqa: T201 - what is measured
    assert len(found.lost) < found.asked / 2
