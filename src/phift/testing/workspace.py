"""A workspace for a test suite: the real SDK's clients, and what a test does to the service behind them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

from requests import Session

from phift.errors import LocalWorkspaceError, LocalWorkspaceNotRunning
from phift.local import Connection, LocalCredential, LocalWorkspace
from phift.local.programs import Datastores, Engine
from phift.local.state.clock import Speed
from phift.local.state.faults import Entry, Fault, Scripted
from phift.local.trust import told_to_mlflow, trust

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

    from phift.azure.clients import Clients

_POLL_SECONDS = 0.05
_CLOUD = "AZUREML_CURRENT_CLOUD"  # the SDK's clients set it themselves, see `phift.azure.clients`

# What DefaultAzureCredential of azure-identity 1.27 takes before the identity endpoint, or instead of it.
_OTHER_IDENTITIES = (
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_PASSWORD",
    "AZURE_TENANT_ID",
    "AZURE_TOKEN_CREDENTIALS",
    "AZURE_USERNAME",
    "IDENTITY_SERVER_THUMBPRINT",
)


class TestWorkspace:
    """A local workspace on a temporary folder, in this process; nothing of it is left after `stop`.

    - **engine**: ``instant`` completes every job at once, and its outputs say that they are empty; ``train`` really
      trains a small model, on a server, and needs the extra ``local``.
    - **speed**: ``fast`` lets nothing wait; ``real`` answers long operations as Azure does, with which the SDK waits up
      to 30 s for each; ``manual`` has a clock that stands still until `advance` moves it.
    - **datastores**: how storage is reached, as in `LocalWorkspace`: ``accesskey``, ``identity`` or ``keys-off``.
    - **server**: whether it has a server process on the loopback interface, which other programs reach too.

    In a ``with`` block, or between `start` and `stop`, this process is pointed at it by environment variables, so that
    any client made meanwhile reaches it, ``MLClient(DefaultAzureCredential(), ...)`` included. Without a server,
    ``requests`` leads one host name to the workspace's own code for as long, see `phift.local.server.in_process`.
    """

    __test__ = False  # pytest would take a class of this name for tests
    _in_use: ClassVar[TestWorkspace | None] = None  # the one that this process is pointed at

    def __init__(
        self,
        *,
        engine: Engine = "instant",
        speed: Speed = "fast",
        server: bool = False,
        datastores: Datastores = "accesskey",
    ) -> None:
        for name, value, known in (
            ("engine", engine, get_args(Engine)),
            ("speed", speed, get_args(Speed)),
            ("datastores", datastores, get_args(Datastores)),
        ):
            if value not in known:
                what = f"There is no {name} {value!r}."
                raise LocalWorkspaceError(what, where="TestWorkspace", fix=f"use one of {', '.join(known)}")
        self.engine = engine
        self.speed = speed
        self.datastores = datastores
        self.server = server or engine == "train"  # a training is a process, and speaks to the workspace
        self._connection: Connection | None = None
        self._process = os.getpid()
        self._running = ExitStack()
        self._attached = ExitStack()

    def __repr__(self) -> str:
        state = f"at {self._connection.base_url}" if self._connection else "not running"
        return f"<TestWorkspace engine={self.engine} speed={self.speed} {state}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        try:
            if kind is None and not self._is_copy:  # what failed already is not made to look like something else
                self.verify()
        finally:
            self.stop()

    def start(self) -> Self:
        """Open the workspace, and point this process at it.

        Raises `phift.errors.MissingDependency` where the extra ``testing`` is missing for a server, or ``local`` for
        training.
        """
        if self._connection is not None:
            self.attach()
            return self
        self._refuse_a_second()
        with ExitStack() as started:
            temporary, self._process = Path(tempfile.mkdtemp(prefix="phift-")).resolve(), os.getpid()
            started.callback(weakref.finalize(self, _remove, temporary, self._process))
            folder = temporary / "workspace"
            if self.server:
                local = LocalWorkspace(
                    folder, engine=self.engine, speed=self.speed, datastores=self.datastores, lasting=False
                )
                # Nothing of it is kept, so a server that trains nothing need not end in order, which takes a second.
                started.callback(local.down, timeout=0 if self.engine == "instant" else 20)
                self._connection = local.up()
            else:
                from phift.local.server.in_process import served_here

                self._connection = started.enter_context(served_here(folder, self.speed, self.datastores))
            self._session = started.enter_context(Session())
            self._session.trust_env = False  # neither a proxy nor another authority file is asked
            self._session.verify = str(self._connection.ca_bundle)
            self._session.headers["X-IDENTITY-HEADER"] = self._connection.secret()
            self._running = started.pop_all()
        self.attach()
        return self

    def stop(self) -> None:
        """Put this process back, end the workspace and delete its folder; a forked child leaves its parent's alone."""
        self.detach()
        self._connection = None
        running = self._running.pop_all()
        if not self._is_copy:
            running.close()

    @property
    def _is_copy(self) -> bool:
        return os.getpid() != self._process

    def attach(self) -> None:
        """Point this process at the workspace, which `start` has done already.

        Raises `phift.errors.LocalWorkspaceError` while it is pointed at another one: the SDK keeps its cloud in a
        variable of the whole process, so the clients of the other one would turn to this one half-way.
        """
        self.detach()
        self._refuse_a_second()
        trusted = {"REQUESTS_CA_BUNDLE": str(trust(self.connection.ca_bundle))}
        self._attached.enter_context(pointed_at(self.connection.environment() | trusted))
        self._attached.enter_context(told_to_mlflow(self.connection.base_url))
        TestWorkspace._in_use = self

    def detach(self) -> None:
        """Put the process's environment back as it was; the workspace goes on, the clients are forgotten."""
        self._forget_clients()
        if TestWorkspace._in_use is self:
            self._attached.close()
            TestWorkspace._in_use = None

    @property
    def connection(self) -> Connection:
        """How to reach it; raises `phift.errors.LocalWorkspaceNotRunning` before `start` and after `stop`."""
        if self._connection is None:
            what = "This test workspace is not running."
            raise LocalWorkspaceNotRunning(what, where="TestWorkspace", fix="use it in a with block, or call start()")
        return self._connection

    @cached_property
    def client(self) -> MLClient:
        """The SDK's client of the workspace."""
        connection = self.connection
        return self._client_of(connection.subscription_id, connection.resource_group, connection.workspace_name)

    @cached_property
    def registry(self) -> MLClient:
        """The SDK's client of the registry ``azureml``."""
        return self._client_of(registry_name=self.connection.registry_name)

    @cached_property
    def clients(self) -> Clients:
        """What a run of phift talks to: clients of the workspace and of its registry that hardly wait."""
        from phift.azure.connect import connect

        return replace(connect(workspace={"local": self._reached().folder}), poll_seconds=_POLL_SECONDS)

    def environment(self) -> dict[str, str]:
        """Return the variables that point other programs at it; a child process of this one inherits them.

        Raises `phift.errors.LocalWorkspaceError` where there is no server that they could reach.
        """
        if not self.server:
            what = "This test workspace is in this process, and no other one reaches it."
            fix = "make it with a server: TestWorkspace(server=True)"
            raise LocalWorkspaceError(what, where="TestWorkspace", fix=fix)
        return self.connection.environment()

    def write_config(self, folder: Path) -> Path:
        """Write the ``config.json`` that ``MLClient.from_config(credential, path=...)`` reads, and return its path."""
        path = folder / "config.json"
        path.write_text(json.dumps(self.connection.config(), indent=2) + "\n", encoding="utf-8")
        return path

    def reset(self) -> None:
        """Begin anew: no jobs, assets, endpoints, faults or requests; models, ``gpu-cluster`` and quota as at first."""
        self._call("POST", "reset")
        self._forget_clients()

    def add_compute(self, name: str, size: str, *, instances: int = 1) -> None:
        """Put an AmlCompute cluster there, at once.

        - **size**: a VM size, such as ``Standard_NC24ads_A100_v4``.
        - **instances**: how many nodes it may have.
        """
        self._call("POST", "seed", {"computes": [{"name": name, "size": size, "nodes": instances}]})

    def set_quota(self, size: str, vcpus: int) -> None:
        """Set how many vCPUs the subscription may use, of a family of VM sizes.

        - **size**: the family's name, or a VM size in it.
        """
        self._call("POST", "seed", {"quota": {size: vcpus}})

    def order(self, *faults: Fault) -> None:
        """Order things to go wrong; the first one that strikes at a request counts."""
        self._call("POST", "faults", {"value": [asdict(fault) for fault in faults]})

    def clear_faults(self) -> None:
        """Forget the ordered faults."""
        self._call("DELETE", "faults")

    def faults(self) -> list[Scripted]:
        """Return the ordered faults, each with how often its place was ``seen`` and how often it ``hits``."""
        shown = self._call("GET", "faults")["value"]
        return [Scripted(seen=each.pop("seen"), hits=each.pop("hits"), fault=Fault(**each)) for each in shown]

    def verify(self) -> None:
        """Raise `AssertionError` unless every ordered fault struck as often as was ordered, one for good at least once.

        The end of the ``with`` block does it, and the fixture at the end of each test.
        """
        if missed := [_told(each) for each in self.faults() if each.hits < (each.fault.times or 1)]:
            count = f"{len(missed)} of the ordered faults did not strike as ordered:"
            raise AssertionError("\n  ".join((count, *missed)))

    def requests(self, on: str = "*") -> list[Entry]:
        """Return the requests that were answered since the last reset: operation, place and status, the last 20,000.

        - **on**: only those whose place matches, written as in `Fault`: ``PUT jobs/*``.
        """
        shown = [Entry(**each) for each in self._call("GET", "requests")["value"]]
        return [each for each in shown if fnmatchcase(each.place.lower(), on.lower())]

    def unserved(self) -> dict[str, int]:
        """Return the requests that the local workspace does not serve and answers 501, with how often each came."""
        return dict(self._call("GET", "requests")["unserved"])

    def advance(self, seconds: float) -> float:
        """Move a manual clock on, and return the seconds since 1970 that it shows then.

        Returns when what was due is done; a real training goes on after five seconds. How long things
        take is in `phift.local.state.clock.DURATIONS`. Raises `phift.errors.LocalWorkspaceError` where the speed is
        not ``manual``.
        """
        return float(self._call("POST", "clock", {"advance": seconds})["now"])

    def _call(self, method: str, name: str, body: Any = None) -> Any:
        """Call a route of the workspace's own, see `phift.local.services.control`."""
        where = f"{self.connection.base_url}/phift/{name}"
        try:
            answer = self._session.request(method, where, json=body, timeout=60)  # a reset waits for what is at work
        except OSError as error:  # requests' own errors are such too
            what = "The test workspace does not answer."
            raise LocalWorkspaceNotRunning(what, where=where, fix="start it, or start it again") from error
        if not answer.ok:
            raise LocalWorkspaceError(answer.json()["error"]["message"], where=where, fix="correct the call")
        return answer.json() if answer.content else None

    def _refuse_a_second(self) -> None:
        if TestWorkspace._in_use not in (None, self):
            what = f"This process already uses another test workspace: {TestWorkspace._in_use}."
            raise LocalWorkspaceError(what, where="TestWorkspace", fix="stop() or detach() that one first")

    def _reached(self) -> Connection:
        connection = self.connection
        if TestWorkspace._in_use is not self:
            what = "This process is not pointed at this test workspace, so a client could not reach it."
            raise LocalWorkspaceError(what, where="TestWorkspace", fix="call attach() first")
        return connection

    def _client_of(self, *workspace: str, **registry: str) -> MLClient:
        connection = self._reached()
        with warnings.catch_warnings():
            # Its libraries warn about themselves when they are first imported; a suite may take warnings for errors.
            warnings.simplefilter("ignore")
            from azure.ai.ml import MLClient
        cloud = {"cloud": connection.cloud_name, "cloud_metadata": connection.cloud_metadata}
        quiet = {"polling_interval": _POLL_SECONDS, "enable_telemetry": False, "show_progress": False}
        return MLClient(LocalCredential(connection), *workspace, **registry, **cloud, **quiet)

    def _forget_clients(self) -> None:
        for name in ("client", "clients", "registry"):
            self.__dict__.pop(name, None)


def _remove(folder: Path, owner: int) -> None:
    """Delete a folder, unless this is the end of a forked child."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _told(scripted: Scripted) -> str:
    fault = scripted.fault
    wanted = "for good" if fault.times is None else f"{fault.times} time(s)"
    seen = f"its place was passed {scripted.seen} time(s)" + (f", {fault.after} of them free" if fault.after else "")
    return f"{fault.on}: ordered {wanted}, struck {scripted.hits} time(s); {seen}"


@contextmanager
def pointed_at(variables: Mapping[str, str]) -> Iterator[None]:
    """Set a workspace's variables, take away those that lead elsewhere, and put all of them back at the end."""
    before = {name: os.environ.pop(name, None) for name in {*variables, *_OTHER_IDENTITIES, _CLOUD}}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
