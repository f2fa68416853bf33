"""Chains of phift against a local workspace: their requests, and what becomes of them when one of these fails."""

from __future__ import annotations

import os
import shutil
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests

from phift.azure.clients import Clients
from phift.azure.connect import connect
from phift.errors import PhiftError
from phift.local import Connection, LocalCredential, LocalWorkspace
from phift.local.names import WORKSPACE_ID

from .impatience import READ_TIMEOUT, Patient

FAULTS: dict[str, dict[str, Any]] = {
    "500 once": {"status": 500},
    "429 once": {"status": 429, "headers": {"Retry-After": "1"}},
    "503 for good": {"status": 503, "times": None},
    "reset once": {"cut": "after"},
    "time-out once": {"delay": READ_TIMEOUT + 0.5},
    "expired token once": {"status": 401},
}
"""What happens to a request. The connection is reset after the request was carried out, which is the worse case; and
so is a request carried out whose answer comes too late."""

_PUT, _DELETE = "PUT onlineEndpoints/{endpoint}", "DELETE onlineEndpoints/{endpoint}"
_OF_DEPLOYMENT = "/deployments/{deployment}"
_KINDS = {
    _PUT: "endpoint-create",
    f"{_PUT}{_OF_DEPLOYMENT}": "deployment-create",
    _DELETE: "endpoint-delete",
    f"{_DELETE}{_OF_DEPLOYMENT}": "deployment-delete",
}
_LOCKED = "The scope cannot perform delete operation because following scope(s) are locked: '/subscriptions/0'."
REFUSALS = ("quota", "no capacity", "provisioning fails", "locked")
"""What else happens to changes of endpoints and deployments: behind the answer, or again and again."""


def faults_of(row: Row, *, refusals: bool) -> dict[str, dict[str, Any]]:
    """Return what may happen to a request, by the columns' titles.

    - **refusals**: whether `REFUSALS` are among it.
    """
    kind = _KINDS.get(row.operation) if refusals else None
    found = dict(FAULTS)
    if kind == "deployment-create":
        found["quota"] = {"status": 400, "code": "OutOfQuota", "message": "Not enough quota available."}
        found["no capacity"] = {"on": f"operation {kind}", "code": "AllocationFailed", "message": "Allocation failed."}
    if kind:
        found["provisioning fails"] = {"on": f"operation {kind}", "message": "It ended as Failed."}
    if kind and kind.endswith("delete"):
        found["locked"] = {"status": 409, "code": "ScopeLocked", "message": _LOCKED, "times": None}
    return found


_STATUS = "mfeOperationsStatus"
_LONGEST_CHAIN = 300.0  # seconds until a chain counts as hanging; an undisturbed one takes two


@dataclass(frozen=True)
class Row:
    """A request of the chain: the ``number``-th of its operation in a step."""

    step: str
    operation: str
    number: int


@dataclass(frozen=True)
class Chain:
    """What a program does.

    - **steps**: in order.
    - **run**: does it, as a process of its own would, with new clients. It calls what it is given with the name of each
      step before it is done, and with an empty text where there is to be what **during** says.
    - **after**: how much of what there is to be at the end.
    - **prepare**: makes what the chain finds, before anything fails.
    - **serves**: whether an endpoint that answers is what there is to be, and no leftover.
    - **refusals**: whether it is tried with `REFUSALS`, too.
    """

    name: str
    steps: tuple[str, ...]
    run: Callable[[Ground, Path, Callable[[str], None]], None]
    during: Mapping[str, int]
    after: Mapping[str, int]
    prepare: Callable[[Ground, Path], None] = lambda _place, _work: None
    serves: bool = False
    refusals: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of a chain with one fault in it.

    - **error**: the name of the error of phift it ended with; empty where it completed in spite of the fault.
    - **hit**: whether the fault struck at all.
    - **defects**: what must not be: an error of another kind, a chain that hangs or that a second call does not
      complete, two jobs, an endpoint that is left and that no error tells of.
    """

    error: str = ""
    hit: bool = True
    defects: list[str] = field(default_factory=list)


class Ground:
    """A local workspace that trains nothing, with all that is done to it apart from the chain."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace = LocalWorkspace(folder / "workspace", engine="instant", speed="fast")
        self.connection: Connection = self.workspace.up()
        # Without the machine's own authorities, which take longer to read than most answers, for every connection.
        shutil.copyfile(self.workspace.folder / "ca.pem", self.connection.ca_bundle)
        self._session = requests.Session()
        self._session.mount("https://", Patient())
        self._session.trust_env = False
        self._session.verify = str(self.connection.ca_bundle)
        token = LocalCredential(self.connection).get_token("https://management.azure.com/.default").token
        self._headers = {"Authorization": f"Bearer {token}", "X-IDENTITY-HEADER": self.connection.secret()}

    def close(self) -> None:
        self._session.close()
        self.workspace.down()

    def ask(self, method: str, path: str, **options: Any) -> Any:
        url = f"{self.connection.base_url}{path}{'&' if '?' in path else '?'}api-version=2023-10-01"
        answer = self._session.request(method, url, headers=self._headers, timeout=60, **options)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def begin(self, chain: Chain) -> Path:
        """Empty the workspace but for what the chain finds, and return a folder for it to work in."""
        self.ask("POST", "/phift/reset")
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        chain.prepare(self, work)
        return work

    def clients(self) -> Clients:
        """Return new clients, which wait for little."""
        return replace(connect(workspace={"local": self.workspace.folder}), poll_seconds=0.05)

    def order(self, row: Row, fault: dict[str, Any]) -> None:
        """Have a fault strike at a row, from the beginning of its step on."""
        self.ask("POST", "/phift/faults", json={"value": [{"on": row.operation, "after": row.number - 1, **fault}]})

    def hits(self) -> int:
        return sum(fault["hits"] for fault in self.ask("GET", "/phift/faults")["value"])

    def requests(self, after: int = 0) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", f"/phift/requests?after={after}")["value"]
        return found

    def there(self) -> dict[str, int]:
        """Count what the chains have left in the workspace."""

        def names(what: str) -> list[str]:
            return [str(each["name"]) for each in self.ask("GET", f"{WORKSPACE_ID}/{what}")["value"]]

        def versions(kind: str) -> int:
            return sum(len(names(f"{kind}/{name}/versions")) for name in names(kind))

        endpoints = names("onlineEndpoints")
        deployments = sum(len(names(f"onlineEndpoints/{name}/deployments")) for name in endpoints)
        counted = {"jobs": len(names("jobs?listViewType=All")), "models": versions("models"), "data": versions("data")}
        return {**counted, "endpoints": len(endpoints), "deployments": deployments}

    def silent(self) -> list[str]:
        """Return the names of the endpoints that do not answer."""
        names = [str(each["name"]) for each in self.ask("GET", f"{WORKSPACE_ID}/onlineEndpoints")["value"]]
        return [name for name in names if not self._answers(name)]

    def _answers(self, name: str) -> bool:
        key = self.ask("POST", f"{WORKSPACE_ID}/onlineEndpoints/{name}/listKeys")["primaryKey"]
        body = {"input_data": {"input_string": [{"role": "user", "content": "Are you there?"}]}}
        url = f"{self.connection.base_url}/inference/{name}/score"
        return self._session.post(url, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60).ok


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """Start a workspace; what its clients set in the environment is gone with it."""
    names = ("AZUREML_CURRENT_CLOUD", "REQUESTS_CA_BUNDLE")
    before = {name: os.environ.get(name) for name in names}
    made = Ground(folder)
    # The first whom this process trusts; else the machine's own would be trusted too, see `phift.local.trust`.
    os.environ["REQUESTS_CA_BUNDLE"] = str(made.connection.ca_bundle)
    try:
        yield made
    finally:
        made.close()
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


def find_rows(place: Ground, chain: Chain) -> list[Row]:
    """List the requests of an undisturbed chain, of those that look again and again the first two only."""
    marks: dict[str, int] = {}

    def mark(step: str) -> None:
        noted = place.requests()
        marks[step] = noted[-1]["number"] if noted else 0

    chain.run(place, place.begin(chain), mark)
    rows: list[Row] = []
    ends = [*(marks[step] for step in chain.steps[1:]), float("inf")]
    for step, end in zip(chain.steps, ends, strict=True):
        counted: Counter[str] = Counter()
        looked: Counter[str] = Counter()
        for entry in place.requests(marks[step]):
            operation = entry["operation"]
            if entry["number"] > end:
                continue
            counted[operation] += 1
            # While it waits, for the job or for a step's end, the chain asks the same things at every look.
            looks = step == "wait" and operation.startswith("GET")
            repeated = entry["place"] if _STATUS in operation else operation if looks else ""
            looked[repeated] += 1
            if not repeated or looked[repeated] <= 2:
                rows.append(Row(step, operation, counted[operation]))
    return rows


def try_fault(place: Ground, chain: Chain, row: Row, fault: dict[str, Any]) -> Outcome:
    """Run the chain with a fault in it, and once more without where that ended with an error of phift."""
    work = place.begin(chain)
    defects: list[str] = []

    def count(step: str) -> None:
        if not step:
            defects.extend(_wrong(place.there(), chain.during))

    def order(step: str) -> None:
        if step == row.step:
            place.order(row, fault)
        count(step)

    error = _attempt(place, chain, work, order)
    hit = place.hits() > 0
    place.ask("DELETE", "/phift/faults")
    if error is not None and not isinstance(error, PhiftError):
        defects.append(f"{type(error).__name__}: {error}")
    if error is not None:
        left = place.silent() if chain.serves else place.there()["endpoints"]
        told = "".join([str(error), *getattr(error, "__notes__", [])])
        # Who only lists leaves nothing, and who cannot list what there is names nothing.
        is_known = row.step != "list" and row.operation != "GET onlineEndpoints"
        if left and is_known and "endpoint phift-" not in told:
            defects.append("an endpoint is left, and the error does not say so")
        again = _attempt(
            place, chain, work, lambda step: None if step else defects.extend(_wrong(place.there(), chain.during))
        )
        if again is not None:
            defects.append(f"the second call: {type(again).__name__}: {again}")
    defects += _wrong(place.there(), chain.after)
    if chain.serves and (silent := place.silent()):
        defects.append(f"at the end no answer from {', '.join(silent)}")
    return Outcome(type(error).__name__ if error else "", hit, defects)


def _wrong(found: Mapping[str, int], expected: Mapping[str, int]) -> list[str]:
    return [f"{found[kind]} {kind}, not {number}" for kind, number in expected.items() if found[kind] != number]


class Hangs(Exception):
    """A chain that did not end."""


def _attempt(place: Ground, chain: Chain, work: Path, before: Callable[[str], None]) -> BaseException | None:
    """Run a chain in a thread, so that one that hangs is found out; return what it raised."""
    raised: list[BaseException] = []

    def work_on() -> None:
        try:
            chain.run(place, work, before)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is looked for here
            raised.append(error)
            if not isinstance(error, PhiftError):
                traceback.print_exc()

    thread = threading.Thread(target=work_on, daemon=True)
    thread.start()
    thread.join(_LONGEST_CHAIN)
    if thread.is_alive():
        return Hangs(f"it had not ended after {_LONGEST_CHAIN:.0f} s")
    return raised[0] if raised else None
