"""How much a local endpoint takes, beside `mlflow models serve` on the same model.

    python bench/serving.py [seconds] [callers,callers…]

An untrained stand-in is deployed in a local workspace, and served by MLflow as it serves by default. The same load goes
to both in turn, several times: so many callers, each over a connection of its own that stays open, ask one question
after the other, greedily, for 16 tokens. Every answer is held against what the endpoint says to that question alone.
Callers, both servers and their models share this machine; the endpoint is asked over TLS and with a key, MLflow without
either.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from phift.local import LocalCredential, LocalWorkspace

MODEL = "Phi-4-mini-instruct"
QUESTIONS = [f"What is the symbol of {name}?" for name in ("iron", "gold", "lead", "tin", "neon", "zinc", "boron")]
TOKENS, ROUNDS = 16, 2
API_VERSION = {"api-version": "2024-10-01-preview"}


@dataclass
class Target:
    """A server that answers a question; what it takes to ask it."""

    name: str
    url: str
    body: Callable[[str], dict[str, Any]]
    text: Callable[[Any], str]
    headers: dict[str, str] = field(default_factory=dict)
    trusted: ssl.SSLContext | None = None
    times: dict[int, list[float]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)

    def connect(self) -> http.client.HTTPConnection:
        place = urlsplit(self.url)
        if self.trusted:
            return http.client.HTTPSConnection(place.netloc, timeout=300, context=self.trusted)
        return http.client.HTTPConnection(place.netloc, timeout=300)

    def ask(self, connection: http.client.HTTPConnection, question: str) -> str:
        headers = {"Content-Type": "application/json", **self.headers}
        connection.request("POST", urlsplit(self.url).path, json.dumps(self.body(question)), headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{self.name} answered {answer.status}: {said[:200]!r}")
        return self.text(json.loads(said)).strip()


def load(target: Target, callers: int, seconds: float, expected: dict[str, str]) -> None:
    """Ask for so many seconds, and note how long each answer took."""
    times: list[float] = []
    wrong: list[str] = []
    end = time.perf_counter() + seconds

    def call(number: int) -> None:
        connection = target.connect()
        while time.perf_counter() < end:
            number += 1
            question = QUESTIONS[number % len(QUESTIONS)]
            began = time.perf_counter()
            try:
                right = target.ask(connection, question) == expected[question]
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                wrong.append(f"{target.name}: {error!r}")
                return
            times.append(time.perf_counter() - began)
            if not right:
                wrong.append(f"{target.name} answered something else to {question}")
        connection.close()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise RuntimeError(f"{len(wrong)} answers were wrong or missing: {wrong[0]}")
    target.times.setdefault(callers, []).extend(times)
    target.seconds[callers] = target.seconds.get(callers, 0) + time.perf_counter() - began


@contextmanager
def endpoint(folder: Path) -> Iterator[Target]:
    """Deploy the model in a local workspace."""
    workspace = LocalWorkspace(folder)
    try:
        connection = workspace.up()
        session = requests.Session()
        session.verify, session.trust_env = str(connection.ca_bundle), False
        token = LocalCredential(connection).get_token("https://management.azure.com/.default").token
        session.headers["Authorization"] = f"Bearer {token}"
        names = (connection.subscription_id, connection.resource_group, connection.workspace_name)
        at = "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.MachineLearningServices/workspaces/{}"
        place = f"{connection.base_url}{at.format(*names)}/onlineEndpoints/bench"

        def put(path: str, body: dict[str, Any]) -> None:
            answer = session.put(path, json=body, params=API_VERSION)
            answer.raise_for_status()
            operation = answer.headers["Azure-AsyncOperation"]
            while (state := session.get(operation).json())["status"] in ("InProgress", "Updating"):
                time.sleep(0.05)
            if state["status"] != "Succeeded":
                raise RuntimeError(str(state))

        settings = {"requestTimeout": "PT180S", "maxConcurrentRequestsPerInstance": 64}
        model = f"azureml://registries/azureml/models/{MODEL}/versions/1"
        deployment = {"model": model, "instanceType": "Standard_NC24ads_A100_v4", "requestSettings": settings}
        put(place, {"properties": {"authMode": "Key"}})
        put(f"{place}/deployments/blue", {"properties": deployment, "sku": {"capacity": 1}})
        put(place, {"properties": {"authMode": "Key", "traffic": {"blue": 100}}})
        key = session.post(f"{place}/listKeys", params=API_VERSION).json()["primaryKey"]
        session.close()
        yield Target(
            "local endpoint",
            f"{connection.base_url}/inference/bench/score",
            lambda question: {
                "input_data": {"input_string": conversation(question), "parameters": {"max_new_tokens": TOKENS}}
            },
            lambda said: str(said[0]["0"]),
            {"Authorization": f"Bearer {key}"},
            ssl.create_default_context(cafile=str(connection.ca_bundle)),
        )
    finally:
        workspace.down()


@contextmanager
def mlflow(model: Path, log: Path) -> Iterator[Target]:
    """Serve the same model with MLflow."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": paths, "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (
        log.open("w") as file,
        subprocess.Popen(  # noqa: S603 - a program of this environment
            [*command, "--port", str(port)], stdout=file, stderr=file, env=environment, start_new_session=True
        ) as server,
    ):
        try:
            while True:
                time.sleep(0.5)
                if server.poll() is not None:
                    raise RuntimeError(log.read_text()[-2000:])
                with suppress(requests.RequestException):
                    if requests.get(f"http://127.0.0.1:{port}/ping", timeout=5).ok:
                        break
            yield Target(
                "mlflow models serve",
                f"http://127.0.0.1:{port}/invocations",
                lambda question: {"messages": conversation(question), "max_tokens": TOKENS},
                lambda said: str(said[0]["choices"][0]["message"]["content"]),
            )
        finally:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(server.pid, signal.SIGKILL)


def conversation(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def main(seconds: float, several: list[int]) -> None:
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, load before {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder, endpoint(Path(folder, "workspace")) as ours:
        model = Path(folder, "workspace", "registry", MODEL)
        with mlflow(model, Path(folder, "mlflow.log")) as theirs:
            connection = ours.connect()
            expected = {question: ours.ask(connection, question) for question in QUESTIONS}
            connection.close()
            for callers in several:
                for target in (ours, theirs) * ROUNDS:
                    load(target, callers, seconds / ROUNDS, expected)
    print(f"{'callers':>7} {'server':20} {'answers':>8} {'a second':>9} {'p50':>9} {'p99':>9}")
    for callers in several:
        for target in (ours, theirs):
            times = sorted(target.times[callers])
            p50, p99 = statistics.median(times), times[min(len(times) - 1, int(0.99 * len(times)))]
            rate = len(times) / target.seconds[callers]
            shown = f"{callers:>7} {target.name:20} {len(times):>8} {rate:>9.1f}"
            print(f"{shown} {1000 * p50:>6.0f} ms {1000 * p99:>6.0f} ms")


if __name__ == "__main__":
    main(
        float(sys.argv[1]) if len(sys.argv) > 1 else 20,
        [int(each) for each in (sys.argv[2] if len(sys.argv) > 2 else "1,8,64").split(",")],
    )
