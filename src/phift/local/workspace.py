"""Starting, stopping and finding a local workspace's server."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, get_args

from phift import errors
from phift.local import own_models
from phift.local.connection import IN_PROCESS, Connection
from phift.local.own_models import LocalModel
from phift.local.programs import EMPTY, ENGINES, TAKEN, Datastores, Engine, Programs
from phift.local.state.documents import Documents
from phift.local.state.folder import Folder
from phift.local.state.served import Served, process_of, read_served

if TYPE_CHECKING:
    from phift.local.state.clock import Speed

# What the extras "testing" and "local" bring; asked for by name, so that nothing of it is imported here.
_NEEDED = ("cryptography", "starlette", "trustme", "uvicorn")
_NEEDED_TO_TRAIN = ("torch", "transformers", "peft")
_SOON = 6.0  # seconds in which a server that runs mends what says where it is, or one that begins has written it
_Asked = ParamSpec("_Asked")
_Told = TypeVar("_Told")


def _of_ours(
    method: Callable[Concatenate[LocalWorkspace, _Asked], _Told],
) -> Callable[Concatenate[LocalWorkspace, _Asked], _Told]:
    """Say of an error of the file system, which has neither place nor way out, what it is to a workspace."""

    @functools.wraps(method)
    def told(workspace: LocalWorkspace, /, *arguments: _Asked.args, **options: _Asked.kwargs) -> _Told:
        try:
            return method(workspace, *arguments, **options)
        except errors.PhiftError:
            raise
        except OSError as error:
            what = f"The local workspace cannot use its folder: {error.strerror or error}."
            fix = "give this user the right to it, make room, or move away what does not belong there"
            where = str(error.filename or workspace.folder)
            raise errors.LocalWorkspaceError(what, where=where, fix=f"{fix}; or name another folder") from error

    return told


@dataclass(frozen=True)
class LocalStatus:
    """What a local workspace is doing.

    - **jobs**: how many jobs there are, by status.
    - **endpoints**: the endpoints' names, each with its deployments' names.
    """

    folder: Path
    running: bool
    pid: int | None = None
    address: str | None = None
    started_at: float | None = None
    jobs: dict[str, int] = field(default_factory=dict)
    endpoints: dict[str, tuple[str, ...]] = field(default_factory=dict)


class LocalWorkspace:
    """A local workspace: a folder and the server process that serves it.

    - **folder**: where its state lives; by default ``$PHIFT_LOCAL_HOME``, else the user's data folder.
    - **engine**: ``train`` really trains; ``instant`` does nothing, says so in what it leaves, and needs no torch.
    - **speed**: ``real`` answers long operations as Azure does, with which the SDK waits up to 30 s for each; ``fast``
      asks it to look again at once; ``manual`` has a clock that stands still until a test moves it, see
      `phift.local.state.clock`.
    - **datastores**: how storage is reached: ``accesskey`` by a signature made with the account's key, ``identity`` by
      the caller's own token, as in a workspace whose ``systemDatastoresAuthMode`` is that; ``keys-off`` gives
      signatures for a storage account that takes none. The folder remembers it; None is what it was, ``accesskey`` at
      first.
    - **delay**: seconds that the server waits before it answers a request, to see what latency does to a program.
    - **lasting**: whether the server outlives the process that starts it; False ends it also when that is killed.
    - **programs**: the commands of its processes, for tests.

    A server that runs already stays as it was started; `up` tells what is otherwise, and raises where that is how
    storage is reached.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        engine: Engine = "train",
        speed: Speed = "real",
        datastores: Datastores | None = None,
        delay: float = 0,
        lasting: bool = True,
        programs: Programs | None = None,
    ) -> None:
        if not 0 <= delay <= 60:  # clients give up after as long
            what = f"The delay of {delay} s is not between 0 and 60 s."
            raise errors.LocalWorkspaceError(what, where="LocalWorkspace", fix="give a number of seconds, such as 0.2")
        self._delay, self._engine, self._speed, self._lasting = delay, engine, speed, lasting
        if datastores not in (None, *get_args(Datastores)):
            what = f"There are no datastores of kind {datastores!r}."
            fix = f"use one of {', '.join(get_args(Datastores))}"
            raise errors.LocalWorkspaceError(what, where="LocalWorkspace", fix=fix)
        self._datastores = datastores
        self._lifeline: IO[bytes] | None = None
        if folder is None:
            import platformdirs

            named = os.environ.get("PHIFT_LOCAL_HOME")
            folder = Path(named) if named else platformdirs.user_data_path("phift") / "local"
        self.folder = folder.expanduser().absolute()
        # A program of a test's own needs nothing to train with.
        self._needed = (*_NEEDED, *(_NEEDED_TO_TRAIN if engine == "train" and programs is None else ()))
        self._programs = programs or ENGINES[engine]
        self._place = Folder(self.folder)

    def __repr__(self) -> str:
        return f"LocalWorkspace({str(self.folder)!r})"

    @_of_ours
    def up(self, on_event: Callable[[str], None] | None = None, timeout: float = 180) -> Connection:
        """Start the server unless it runs, and return how to reach it.

        - **on_event**: called with a line of text for each thing that takes time.
        - **timeout**: how many seconds the server may take to answer, without the making of the models.

        Raises `phift.errors.MissingDependency` where the extra ``testing``, or ``local`` to train, is not installed,
        and `phift.errors.LocalWorkspaceError` with the end of the server's log where it does not come up.
        """
        if self.folder in IN_PROCESS:
            return IN_PROCESS[self.folder]
        say = errors.isolated(on_event)
        self._need(self._needed, "testing" if self._needed == _NEEDED else "local")
        place = self._place
        if not place.start_lock.exists():  # none is made among other things
            self._refuse_other_things()
        with place.starting():
            self._refuse_other_things()  # what another process deletes looks like them
            self.folder.chmod(0o700)
            running = self._told_soon(read_served)
            if running:
                with socket.socket() as probe:
                    # One that was killed a moment ago is silent, and its last thread still holds the lock.
                    if probe.connect_ex(("127.0.0.1", running.port)) != 0:
                        running = None if place.is_free(5) else running
            if running:
                self._hold_to(running, say)
            else:
                self._mend(say)
                self._make_models(say)
                say("starting the local workspace")
                self._start(timeout)
                say("the local workspace is running")
        return self.connection()

    @_of_ours
    def down(self, timeout: float = 20) -> bool:
        """Stop the server; False where none was running. A job in progress is stopped and goes on at the next up.

        - **timeout**: seconds to wait before the server is killed.
        """
        if self.folder in IN_PROCESS or (not self._place.marks() and self._place.is_free()):
            return False
        with self._stopped(timeout) as ran:
            return ran

    @_of_ours
    def status(self) -> LocalStatus:
        """Return what the workspace is doing, also when it is not running."""
        status = LocalStatus(self.folder, running=False)
        running = None if self.folder in IN_PROCESS else self._told_soon(read_served)
        if running:
            address = f"https://localhost:{running.port}"
            status = LocalStatus(self.folder, True, running.pid, address, running.created_at)
        if self._place.database.exists():
            with self._documents() as documents:
                status.jobs.update(documents.count_by_status("runs"))
                for endpoint in documents.walk("onlineEndpoints"):
                    deployments = documents.walk(f"{endpoint.key}/deployments")
                    status.endpoints[endpoint.name] = tuple(deployment.name for deployment in deployments)
        return status

    @_of_ours
    def add_model(
        self,
        name: str,
        source: str | Path,
        *,
        response_template: str = "",
        instruction_template: str = "",
        system_role_supported: bool | None = None,
        lora_targets: Sequence[str] = (),
        license: str = "",  # noqa: A002 - what it is called everywhere
        on_event: Callable[[str], None] | None = None,
    ) -> LocalModel:
        """Take a model into the registry, where a server that runs has it at once; returns what was found out of it.

        - **source**: a folder as transformers saves it, with safetensors; a ``.gguf`` file; or an id on the Hub.
        - **response_template**, **instruction_template**: what opens an assistant's and a user's turn; found by
          rendering the model's chat template, as is **system_role_supported**.
        - **lora_targets**: the layers that LoRA adapts; all linear ones but the head.
        - **on_event**: called with a line of text for what there is to say meanwhile.

        Other content under a name that is there becomes its next version. Raises `phift.errors.ModelError` with what is
        wrong with the model, or with the numbers where it is too large for this machine.
        """
        self._need((*_NEEDED, *_NEEDED_TO_TRAIN), "local")
        own_models.check_name(name)
        self._begin()
        given = {
            "response_template": response_template,
            "instruction_template": instruction_template,
            "system_role_supported": system_role_supported,
            "lora_targets": list(lora_targets),
            "license": license,
        }
        return own_models.add(self._place, self._programs.adding, name, source, given, errors.isolated(on_event))

    @_of_ours
    def models(self) -> list[LocalModel]:
        """Return the registry's models; of one name the newest version first."""
        return own_models.listed(self._place)

    @_of_ours
    def model(self, name: str) -> LocalModel:
        """Return a model by its name, the newest version, or ``name:version``; raises `phift.errors.NotFound`."""
        return own_models.found(self._place, name)

    @_of_ours
    def remove_model(self, name: str) -> tuple[list[LocalModel], list[str]]:
        """Delete an added model, all its versions or one, ``name:version``.

        Returns what was deleted, and the jobs, all over, that were trained from it; what they left stays. Raises
        `phift.errors.LocalWorkspaceError` where a deployment serves it or a job needs it still, and
        `phift.errors.NotFound`.
        """
        with ExitStack() as opened:
            opened.enter_context(self._place.starting())
            documents = opened.enter_context(self._documents()) if self._place.database.exists() else None
            return own_models.remove(self._place, name, documents)

    @_of_ours
    def reset(self) -> None:
        """Stop the server and delete everything: jobs, models, endpoints, uploads. The folder itself goes too.

        Raises `phift.errors.LocalWorkspaceError` for a folder that is not a local workspace's.
        """
        if self.folder in IN_PROCESS:
            what = "This workspace is open in this process; nothing was deleted."
            raise errors.LocalWorkspaceError(what, where=str(self.folder), fix="close it first")
        if not self.folder.exists() or not any(self.folder.iterdir()):
            return
        if self._place.marks() < 2:
            what = "This folder is not a local workspace's; nothing was deleted."
            raise errors.LocalWorkspaceError(what, where=str(self.folder), fix="name the right folder")
        with self._stopped():
            folder, lock = self.folder.resolve(), self._place.start_lock.name
            for path in folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != lock:  # at which others wait until all else is gone
                    path.unlink()
            shutil.rmtree(folder)

    @_of_ours
    def connection(self) -> Connection:
        """Return how to reach the running server; raises `phift.errors.LocalWorkspaceNotRunning` where none runs."""
        if self.folder in IN_PROCESS:
            return IN_PROCESS[self.folder]
        running = self._told_soon(lambda place: read_served(place) if place.bundle.is_file() else None)
        if running is None:
            what = "No local workspace is running in this folder."
            raise errors.LocalWorkspaceNotRunning(what, where=str(self.folder), fix="start it: phift local up")
        return Connection(f"https://localhost:{running.port}", self._place.bundle, self.folder)

    def _need(self, packages: Sequence[str], extra: str) -> None:
        if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
            what = f"The local workspace needs packages that are not installed: {', '.join(missing)}."
            raise errors.MissingDependency(what, fix=f"in the folder of phift's source: pip install '.[{extra}]'")

    def _begin(self) -> None:
        """Make the folder a local workspace's, where none has ever run in it."""
        from phift.local.state.identity import read_secret

        if self._place.marks():
            return
        if not self._place.start_lock.exists():
            self._refuse_other_things()
        with self._place.starting():
            self._refuse_other_things()
            self.folder.chmod(0o700)
            read_secret(self._place.secret)

    def _refuse_other_things(self) -> None:
        there = self.folder.iterdir() if self.folder.is_dir() else ()
        # Another process that starts it may have made the folder, be at the lock, or be writing the secret.
        begun = (self._place.start_lock, self._place.ignored)
        if any(path not in begun and path.suffix != ".tmp" for path in there) and not self._place.marks():
            what = "This folder holds other things; a local workspace wants an empty or a new one."
            raise errors.LocalWorkspaceError(what, where=str(self.folder), fix="name another folder")

    @contextmanager
    def _stopped(self, timeout: float = 20) -> Iterator[bool]:
        """Stop the server, and let nobody start one until the end of the block; yields whether one was running."""
        with ExitStack() as held:
            with suppress(OSError):  # without the right to the lock, or room for it, what runs is stopped all the same
                held.enter_context(self._place.starting())
            yield self._stop(timeout)

    def _stop(self, timeout: float) -> bool:
        if (pid := self._told_soon(process_of)) is None:
            return False
        for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 5)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            if self._place.is_free(patience):
                break
        else:
            what = f"The local workspace's process {pid} does not end."
            raise errors.LocalWorkspaceError(what, where=str(self.folder), fix="phift local down once more")
        with suppress(ChildProcessError):  # it is a child only of the process that started it
            os.waitpid(pid, 0)
        if self._lifeline is not None:
            self._lifeline.close()
        return True

    def _hold_to(self, running: Served, say: Callable[[str], None]) -> None:
        """Tell how the running server was started otherwise; raise where storage, which was named, is otherwise."""
        if self._datastores and running.datastores not in (None, self._datastores):
            what = f"The local workspace runs already, with datastores {running.datastores} and not {self._datastores}."
            fix = f"phift local down, then phift local up --datastores {self._datastores}"
            raise errors.LocalWorkspaceError(what, where=str(self.folder), fix=fix)
        asked = {"engine": self._engine, "speed": self._speed, "delay": self._delay}
        there = {name: getattr(running, name) for name in asked}
        other = [
            f"{name} {there[name]} and not {asked[name]}" for name in asked if there[name] not in (None, asked[name])
        ]
        if other:
            say(f"it runs already, with {', '.join(other)}; to change that: phift local down, then up")

    def _mend(self, say: Callable[[str], None]) -> None:
        """Look at what is there before anything is started on it, and make the secret."""
        from phift.local.state.identity import known_secret, read_secret

        self._place.check()
        if self._place.database.exists():
            with self._documents() as documents:
                documents.check()
        if os.path.lexists(self._place.secret) and not known_secret(self._place.secret):
            say("the secret was damaged and is made anew: keys and tokens given out before are good for nothing now")
        read_secret(self._place.secret)

    def _make_models(self, say: Callable[[str], None]) -> None:
        from phift.local.model import catalog

        folders = {model["name"]: self._place.registry / model["name"] for model in catalog.foundation_models()}
        for folder in folders.values():
            if self._engine == "train" and (folder / EMPTY).is_file():
                shutil.rmtree(folder)  # what the engine `instant` left is none to train
        missing = [name for name, folder in folders.items() if not folder.is_dir()]
        if not missing:
            return
        once = " (once, some ten seconds)" if self._engine == "train" else ""
        say(f"making the stand-in models {', '.join(missing)}{once}")
        program = self._programs.standin
        if not isinstance(program, tuple):
            program(self._place.registry, missing)
            return
        command = [*program, str(self._place.registry), *missing]
        made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # noqa: S603 - ours
        if made.returncode != 0:
            what = f"The stand-in models could not be made:\n{_tail(made.stderr)}"
            raise errors.LocalWorkspaceError(what, where=str(self._place.registry), fix="report this")

    def _start(self, timeout: float) -> None:
        command = [*self._programs.server, str(self.folder)]
        command += ["--engine", self._engine, "--speed", self._speed, "--delay", str(self._delay)]
        if self._datastores:
            command += ["--datastores", self._datastores]
        if not self._lasting:
            command.append("--while-input")
        with self._place.log.open("ab") as log:
            self._place.log.chmod(0o600)
            stdin = subprocess.DEVNULL if self._lasting else subprocess.PIPE
            server = subprocess.Popen(  # noqa: S603 - our own program and a folder's path
                command, stdin=stdin, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        self._lifeline = server.stdin  # open as long as this process lives
        deadline, what = time.monotonic() + timeout, f"The local workspace did not answer within {timeout:.0f} s."
        while time.monotonic() < deadline:
            if not self._place.is_free() and (running := read_served(self._place)):
                if running.pid != server.pid:  # another one was faster; ours would take over from it if it ended now
                    with suppress(subprocess.TimeoutExpired):
                        server.wait(5)
                # The server outlives this process on purpose; without this, forgetting it would warn.
                server.returncode = 0
                return
            if server.poll() not in (None, TAKEN):  # with that, the other one that has the folder is waited for
                what = f"The local workspace ended at its start (exit code {server.returncode})."
                break
            time.sleep(0.1)
        server.kill()  # which one that has ended does not notice
        server.communicate()
        what += f" The end of its log:\n{_tail(self._place.log.read_text(encoding='utf-8', errors='replace'))}"
        raise errors.LocalWorkspaceError(what, where=str(self._place.log), fix="read the log, then try again")

    def _told_soon(self, told: Callable[[Folder], _Told | None]) -> _Told | None:
        """Return what a claimed folder tells, None for a free one; waits for one that begins or mends its notes."""
        end = time.monotonic() + _SOON
        while not self._place.is_free():
            if (found := told(self._place)) is not None:
                return found
            if time.monotonic() >= end:
                what = "A process holds this folder, and what it says of itself there is missing or damaged."
                fix = "phift local down; where that does not help, end that process yourself: a test of yours, or one "
                fix += "with this folder's path in its command line"
                raise errors.LocalWorkspaceError(what, where=str(self.folder), fix=fix)
            time.sleep(0.05)
        return None

    @contextmanager
    def _documents(self) -> Iterator[Documents]:
        try:
            with closing(Documents(self._place.database)) as documents:
                yield documents
        except sqlite3.DatabaseError as error:
            what = f"The workspace's database cannot be read or is damaged ({error}). Nothing was deleted."
            fix = "put a copy of the file back; or copy what you want to keep (uploads and models lie in "
            fix += f"{self._place.blobs}), then phift local reset, which deletes this workspace's state"
            raise errors.LocalWorkspaceError(what, where=str(self._place.database), fix=fix) from error


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-30:])
