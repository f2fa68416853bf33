"""SIGKILL at random moments under load: what was acknowledged is there, every job's state is true, nothing is left.

``PHIFT_KILLS`` says how often (4), ``PHIFT_KILL_SEED`` when; ``make kill`` does it sixty times and logs the counts.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from running import Local
from wire_jobs import MODEL, body, put_training_file

from phift.local import Connection
from phift.local.model import runs

pytestmark = pytest.mark.slow

logger = logging.getLogger(__name__)

KILLS = int(os.environ.get("PHIFT_KILLS", "4"))
SEED = int(os.environ.get("PHIFT_KILL_SEED", "5"))
JOBS_A_ROUND = 2
SIZE = "Standard_E4s_v3"


def content(name: str) -> bytes:
    """Return what a blob of this name holds: half of one would show."""
    return hashlib.sha256(name.encode()).digest() * 2000


@dataclass
class Acknowledged:
    """What the server has said is done, and what it has said it will do."""

    jobs: set[str] = field(default_factory=set)
    canceled: set[str] = field(default_factory=set)
    metrics: set[tuple[str, int]] = field(default_factory=set)
    blobs: set[str] = field(default_factory=set)
    data: set[str] = field(default_factory=set)
    endpoints: set[str] = field(default_factory=set)
    deployments: set[str] = field(default_factory=set)
    asked_to_go: set[str] = field(default_factory=set)  # acknowledged or not
    deleted: set[str] = field(default_factory=set)

    def counts(self) -> dict[str, int]:
        return {name: len(value) for name, value in vars(self).items()}


class Load:
    """Threads that write until the server is gone, each with a connection of its own."""

    def __init__(self, local: Local, known: Acknowledged) -> None:
        self.local, self.known = local, known
        secrets = local.request("POST", f"{local.arm}/datastores/workspaceblobstore/listSecrets").json()
        self.signature = secrets["sasToken"].removeprefix("?")
        self.failed: list[str] = []
        self.over = threading.Event()
        writers = (self.write_jobs, self.write_metrics, self.write_blobs, self.write_data, self.write_endpoints)
        self.threads = [threading.Thread(target=self._work, args=(writer,)) for writer in writers]
        for thread in self.threads:
            thread.start()

    def _work(self, write: Callable[[requests.Session], None]) -> None:
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(self.local.connection.ca_bundle)
            session.headers["Authorization"] = f"Bearer {self.local.token}"
            session.headers["x-ms-blob-type"] = "BlockBlob"  # storage wants to be told
            try:
                while not self.over.is_set():
                    write(session)
            except requests.exceptions.ConnectionError:
                return  # the server has been killed
            except requests.exceptions.RequestException as error:
                logger.info("a request was cut: %s", type(error).__name__)

    def send(self, session: requests.Session, method: str, path: str, *good: int, **options: Any) -> bool:
        url = self.local.connection.base_url + path.replace("{ws}", self.local.arm)
        query = {"api-version": "2023-10-01"} if path.startswith("{ws}") else None
        answer = session.request(method, url, timeout=60, params=query, **options)
        if answer.status_code not in good and answer.status_code not in (400, 409):
            self.failed.append(f"{method} {path.partition('?')[0]}: {answer.status_code} {answer.text[:300]}")
        return answer.status_code in good

    def write_jobs(self, session: requests.Session) -> None:
        for number in range(JOBS_A_ROUND):
            name = f"job-{uuid.uuid4().hex[:12]}"
            if self.send(session, "PUT", f"{{ws}}/jobs/{name}", 201, json=body(epochs=1)):
                self.known.jobs.add(name)
            if number and self.send(session, "POST", f"{{ws}}/jobs/{name}/cancel", 202):
                self.known.canceled.add(name)
            time.sleep(0.05)
        self.over.wait(60)

    def write_metrics(self, session: requests.Session) -> None:
        run, step = next(iter(sorted(self.known.jobs)), None), random.getrandbits(40)
        if run is None:
            time.sleep(0.01)
            return
        metric = {"key": "mine", "value": 1.0, "step": step, "timestamp": 1}
        path = "/mlflow/v1.0{ws}/api/2.0/mlflow/runs/log-batch"
        if self.send(session, "POST", path, 200, json={"run_id": run, "metrics": [metric]}):
            self.known.metrics.add((run, step))

    def _blob(self, name: str, query: str = "") -> str:
        return f"/storage.blob.phift.local/azureml-blobstore/load/{name}?{query}{self.signature}"

    def write_blobs(self, session: requests.Session) -> None:
        name = uuid.uuid4().hex
        whole = content(name)
        if self.send(session, "PUT", self._blob(name), 201, data=whole):
            self.known.blobs.add(name)
        name = uuid.uuid4().hex
        whole = content(name)
        for block, part in (("MQ==", whole[:30_000]), ("Mg==", whole[30_000:])):
            self.send(session, "PUT", self._blob(name, f"comp=block&blockid={block}&"), 201, data=part)
        listed = "<BlockList><Latest>MQ==</Latest><Latest>Mg==</Latest></BlockList>"
        if self.send(session, "PUT", self._blob(name, "comp=blocklist&"), 201, data=listed):
            self.known.blobs.add(name)

    def write_data(self, session: requests.Session) -> None:
        blob, name = next(iter(sorted(self.known.blobs)), None), uuid.uuid4().hex
        if blob is None:
            time.sleep(0.01)
            return
        uri = f"azureml://datastores/workspaceblobstore/paths/load/{blob}"
        sent = {"properties": {"dataUri": uri, "dataType": "uri_file"}}
        if self.send(session, "PUT", f"{{ws}}/data/{name}/versions/1", 201, json=sent):
            self.known.data.add(name)

    def write_endpoints(self, session: requests.Session) -> None:
        name = f"e{uuid.uuid4().hex[:12]}"
        if self.send(session, "PUT", f"{{ws}}/onlineEndpoints/{name}", 201, json={"properties": {"authMode": "Key"}}):
            self.known.endpoints.add(name)
        time.sleep(0.25)  # until it is made
        sent = {"properties": {"model": MODEL, "instanceType": SIZE}, "sku": {"name": "Default", "capacity": 1}}
        path = f"{{ws}}/onlineEndpoints/{name}/deployments/blue"
        if random.random() < 0.6 and self.send(session, "PUT", path, 201, json=sent):  # noqa: S311 - some have none
            self.known.deployments.add(name)
        time.sleep(random.random() * 0.3)  # noqa: S311 - only a moment
        self.known.asked_to_go.add(name)
        if self.send(session, "DELETE", f"{{ws}}/onlineEndpoints/{name}", 202):
            self.known.deleted.add(name)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def alive(pid: int) -> bool:
    """Tell whether a process still holds anything: one whose first thread is a zombie may have others."""
    place = Path(f"/proc/{pid}")
    try:
        state = (place / "stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(list((place / "task").iterdir())) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def stopped(pid: int) -> bool:
    states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()]
    return set(states) <= set("Tt")


def eventually(holds: Callable[[], bool], what: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.02)


def kill(local: Local) -> int:
    """Kill the server, see its processes end by themselves and its port closed; return how many processes it had."""
    pid = local.workspace.status().pid
    assert pid is not None
    # Stopped first, so that the processes which are looked at are those that are orphaned.
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: stopped(pid), lambda: "the server did not stop")
    orphans = children(pid)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(map(alive, (pid, *orphans))), lambda: f"of {pid} and its {orphans}, some live")
    port = int(local.connection.base_url.rpartition(":")[2])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "something listens on the dead server's port"
    assert not local.workspace.status().running
    return len(orphans)


def get(local: Local, path: str) -> Any:
    answer = local.request("GET", path.replace("{ws}", local.arm))
    assert answer.status_code == 200, (path, answer.text)
    return answer.json()


def pages(local: Local, path: str) -> list[Any]:
    found: list[Any] = []
    while path:
        page = get(local, path)
        found += page["value"]
        path = page.get("nextLink", "")
    return found


def check_writes(local: Local, known: Acknowledged) -> None:
    """See that every acknowledged write is there, and that there is no half blob."""
    for name in known.jobs:
        assert get(local, f"{{ws}}/jobs/{name}")["name"] == name
    for name in known.data:
        get(local, f"{{ws}}/data/{name}/versions/1")
    for run in {run for run, _ in known.metrics}:
        query = f"run_id={run}&metric_key=mine"
        logged = get(local, f"/mlflow/v1.0{{ws}}/api/2.0/mlflow/metrics/get-history?{query}")["metrics"]
        steps = Counter(int(metric["step"]) for metric in logged)
        assert {step for known_run, step in known.metrics if known_run == run} <= steps.keys()
        assert set(steps.values()) == {1}
    for name in known.endpoints - known.asked_to_go:
        get(local, f"{{ws}}/onlineEndpoints/{name}")
    for name in known.deployments - known.asked_to_go:
        get(local, f"{{ws}}/onlineEndpoints/{name}/deployments/blue")
    folder = local.connection.folder
    files = {path.name: path for path in (folder / "blobs/storage/azureml-blobstore/load").glob("*")}
    assert known.blobs <= files.keys()
    for name, path in files.items():
        assert path.read_bytes() == content(name), f"{name} is half a blob"
    staged = [path for path in (folder / "staging").rglob("*") if path.is_file()]
    assert [path for path in staged if path.suffix or "blocks-" not in str(path)] == [], "a half upload is left"


def check_operations(local: Local, known: Acknowledged) -> None:
    """See that what was begun is finished: no endpoint or deployment is in between, and deleted ones are gone."""

    def unfinished() -> list[str]:
        found = []
        for endpoint in pages(local, "{ws}/onlineEndpoints"):
            found.append(endpoint)
            deployments = local.request("GET", f"{local.arm}/onlineEndpoints/{endpoint['name']}/deployments")
            going = endpoint["properties"]["provisioningState"] == "Deleting"  # it may be gone at this moment
            assert deployments.status_code in ((200, 404) if going else (200,)), deployments.text
            found += deployments.json().get("value", [])
        states = [(each["name"], each["properties"]["provisioningState"]) for each in found]
        gone = [endpoint["name"] for endpoint in found if endpoint["name"] in known.deleted]
        return [f"{name} is {state}" for name, state in states if state not in ("Succeeded", "Failed")] + gone

    eventually(lambda: not unfinished(), unfinished)
    working = {status: n for status, n in local.workspace.status().jobs.items() if status in runs.RUNNING}
    assert sum(working.values()) <= 1, working


def make_room(local: Local, known: Acknowledged) -> None:
    """Delete the endpoints that a kill has left with a deployment, for the quota."""
    for name in known.deployments - known.asked_to_go:
        assert local.request("DELETE", f"{local.arm}/onlineEndpoints/{name}").status_code == 202
        known.asked_to_go.add(name)
        known.deleted.add(name)


def check_jobs(local: Local, known: Acknowledged) -> Counter[str]:
    """Wait until every job has ended, and see that its steps and outputs say the same."""
    ended: Counter[str] = Counter()
    for name in known.jobs:
        status = local.wait(name, seconds=600)
        steps = [run["status"] for run in get(local, f"/history/v1.0{{ws}}/runs/{name}/children")["value"]]
        ended[status] += 1
        if status == "Completed":
            assert set(steps) == {"Completed"}, (name, steps)
            output = local.output(name, "trained_model")
            path = local.connection.folder / "blobs/storage/azureml-blobstore" / output.partition("/paths/")[2]
            assert (path / "MLmodel").is_file()
        else:
            assert status == "Canceled", (name, status)
            assert set(steps) <= {"Completed", "Canceled"}, (name, steps)
        assert (name in known.canceled) <= (status == "Canceled"), (name, status)
    return ended


def command_lines() -> str:
    files = (path for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.name != str(os.getpid()))
    texts = []
    for path in files:
        try:
            texts.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(texts)


def test_a_killed_server_keeps_its_word(own_local: Local) -> None:
    moments = random.Random(SEED)  # noqa: S311 - when to kill
    known, orphans, first = Acknowledged(), 0, own_local.connection
    put_training_file(own_local)
    for number in range(KILLS):
        load = Load(own_local, known)
        time.sleep(moments.uniform(0.02, 1.0))
        orphans += kill(own_local)
        load.over.set()
        for thread in load.threads:
            thread.join()
        assert load.failed == [], f"kill {number}"
        again: Connection = own_local.workspace.up()
        assert again == first, "the address stays the same"
        check_writes(own_local, known)
        check_operations(own_local, known)
        make_room(own_local, known)
    ended = check_jobs(own_local, known)
    check_writes(own_local, known)
    for kind in ("jobs", "metrics", "blobs", "data", "endpoints"):  # the rest may be too slow on a busy machine
        assert known.counts()[kind] > 0, known.counts()
    assert orphans > 0, "no kill met a process at work"
    assert own_local.workspace.down()
    assert str(own_local.connection.folder) not in command_lines()
    logger.info("%d kills; acknowledged: %s; processes orphaned: %d; jobs: %s", KILLS, known.counts(), orphans, ended)
