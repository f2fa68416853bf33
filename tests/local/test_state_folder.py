"""Whatever becomes of a file of the state folder, each command ends with an error of ours or mends it; `down` stops.

``PHIFT_EXAMPLES`` says how many damages are tried under a running server and before a start (2 each), spread over all
of them; on a folder that nobody serves all are tried.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

import phift
from phift.cli.commands import main
from phift.errors import LocalWorkspaceError, PhiftError
from phift.local import Connection, LocalCredential, LocalWorkspace
from phift.local.recorder.exchange import begin, read, redacted

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("PHIFT_EXAMPLES", "2"))
SOON, WHOLE_CHAIN = 30.0, 200.0  # seconds, with other work on the machine
_NAMES = "ca.pem bundle.pem server.pem server-key.pem secret server.json server.lock server.log start.lock state.db"
FILES = _NAMES.split()
FOLDERS = ["registry", "registry/Phi-4-mini-instruct", "blobs", "staging", "jobs", "endpoints"]
COMMANDS = ["status", "env", "config", "down"]


def _missing(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    _missing(path)
    path.write_bytes(content)


def _truncated(path: Path) -> None:
    content = path.read_bytes() if path.is_file() else b""
    _write(path, content[: len(content) // 2])


def _cut_in_place(path: Path) -> None:
    if path.is_file():
        os.truncate(path, path.stat().st_size // 2)


def _folder(path: Path) -> None:
    _missing(path)
    path.mkdir()
    (path / "something").write_text("of somebody")


def _link(target: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        _missing(path)
        path.symlink_to(target)

    return link


def _other(path: Path) -> None:
    """Put there what another workspace would have."""
    content = path.read_bytes() if path.is_file() else b""
    _write(path, content[::-1])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": _missing,
    "empty": lambda path: _write(path, b""),
    "truncated": _truncated,
    "cut in place": _cut_in_place,
    "binary": lambda path: _write(path, bytes(range(256)) * 20),
    "deep": lambda path: _write(path, b"[" * 100_000),
    "a number": lambda path: _write(path, b"99999999"),
    "other": _other,
    "a folder": _folder,
    "a link to nothing": _link("nowhere"),
    "a link to itself": lambda path: _link(path.name)(path),
    "a device": _link("/dev/null"),
}
ALL = list(itertools.product(FILES + FOLDERS, DAMAGES))
SOME = random.Random(os.environ.get("PHIFT_SEED", "7")).sample(ALL, min(EXAMPLES, len(ALL)))  # noqa: S311 - a choice


def ended(*arguments: str, soon: float = SOON) -> str:
    """Return what a command printed; it ends as a command does, and not in an exception."""
    began = time.monotonic()
    result = CliRunner().invoke(main, arguments)
    took = time.monotonic() - began
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    if result.exit_code == 2:  # the command line names what it cannot take
        assert "Error: Invalid value" in result.output
    else:
        assert result.exit_code in (0, 1)
    assert took < soon, took
    if result.exit_code and "error:" in result.output:
        assert "where:" in result.output, result.output
        assert "fix:" in result.output, result.output
    return result.output


def connected(folder: Path) -> str | None:
    """Return what connecting and asking for a token ended with, None where it was good."""
    before = {name: os.environ.get(name) for name in ("AZUREML_CURRENT_CLOUD", "REQUESTS_CA_BUNDLE")}
    try:
        phift.connect(workspace={"local": folder})
        LocalCredential(LocalWorkspace(folder).connection()).get_token("https://management.azure.com/.default")
    except PhiftError as error:
        if not (error.where and error.fix):
            raise AssertionError(str(error)) from error
        return str(error)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    return None


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was served."""
    folder = tmp_path_factory.mktemp("left") / "workspace"
    workspace = LocalWorkspace(folder, engine="instant", speed="fast")
    workspace.up()
    described = (folder / "server.json").read_bytes()
    for name in ("blobs", "staging", "jobs", "endpoints"):
        (folder / name).mkdir(exist_ok=True)
    workspace.down()
    (folder / "server.json").write_bytes(described)  # as one that was killed leaves it
    return folder


def copy(left: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(left, folder)
    return folder


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int, seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_every_damage_of_a_folder_that_nobody_serves(left: Path, tmp_path: Path) -> None:
    for name, damage in ALL:
        folder = copy(left, tmp_path / "workspace")
        DAMAGES[damage](folder / name)
        for command in COMMANDS:
            said = ended("local", command, "--folder", str(folder))
            assert "running    at" not in said, (name, damage)
            assert "Stopped" not in said, (name, damage)
        assert connected(folder) is not None
        assert ended("local", "reset", "--yes", "--folder", str(folder)) == "Deleted.\n"
        assert not folder.exists()


@pytest.mark.parametrize(("name", "damage"), SOME)
def test_damage_under_a_running_server(name: str, damage: str, left: Path, tmp_path: Path) -> None:
    folder = copy(left, tmp_path / "workspace")
    workspace = LocalWorkspace(folder, engine="instant", speed="fast")
    workspace.up()
    pid = workspace.status().pid
    assert pid is not None
    try:
        DAMAGES[damage](folder / name)
        for command in ("status", "env", "config"):
            ended("local", command, "--folder", str(folder))
        connected(folder)
        ended("local", "up", "--engine", "instant", "--speed", "fast", "--folder", str(folder))
        said = ended("local", "down", "--folder", str(folder))
        assert "error" not in said
        assert gone(pid), (name, damage, said)
        assert not LocalWorkspace(folder)._place.root.is_dir() or LocalWorkspace(folder)._place.is_free()
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("name", "damage"), SOME)
def test_a_start_on_what_is_damaged(name: str, damage: str, left: Path, tmp_path: Path) -> None:
    folder = copy(left, tmp_path / "workspace")
    DAMAGES[damage](folder / name)
    said = ended("local", "up", "--engine", "instant", "--speed", "fast", "--folder", str(folder))
    try:
        if "is up at" in said:
            assert connected(folder) is None
        else:
            assert str(folder) in said
    finally:
        ended("local", "down", "--folder", str(folder))
    assert LocalWorkspace(folder)._place.is_free()


@pytest.fixture
def served(left: Path, tmp_path: Path) -> Iterator[LocalWorkspace]:
    workspace = LocalWorkspace(copy(left, tmp_path / "workspace"), engine="instant", speed="fast")
    workspace.up()
    yield workspace
    if workspace.folder.is_dir():
        workspace.down(timeout=0)


@pytest.fixture(scope="module")
def lasting(left: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorkspace]:
    """One that is served for several tests."""
    workspace = LocalWorkspace(
        copy(left, tmp_path_factory.mktemp("lasting") / "workspace"), engine="instant", speed="fast"
    )
    workspace.up()
    yield workspace
    workspace.down(timeout=0)


def _pid(workspace: LocalWorkspace) -> int:
    pid = workspace.status().pid
    assert pid is not None
    return pid


@pytest.mark.parametrize("what", [".", "state.db"])
def test_a_server_whose_folder_or_database_is_gone_ends(served: LocalWorkspace, what: str) -> None:
    pid = _pid(served)
    _missing(served.folder / what)
    assert gone(pid)
    assert not served.status().running


def test_a_server_whose_folder_was_moved_leaves_the_next_ones_notes(served: LocalWorkspace) -> None:
    pid = _pid(served)
    os.kill(pid, signal.SIGSTOP)
    served.folder.rename(served.folder.with_name("moved"))
    served.up()
    note = served.folder / "server.json"
    before = note.stat()
    os.kill(pid, signal.SIGCONT)
    assert gone(pid)
    assert note.stat() == before


def test_a_folder_that_was_emptied_has_a_server_until_it_is_stopped(served: LocalWorkspace) -> None:
    pid = _pid(served)
    for path in served.folder.iterdir():
        _missing(path)
    ended("local", "down", "--folder", str(served.folder))
    assert gone(pid)


def test_a_deleted_lock_lets_nobody_in(served: LocalWorkspace) -> None:
    pid = _pid(served)
    (served.folder / "server.lock").unlink()
    (served.folder / "start.lock").unlink()
    second = [sys.executable, "-m", "phift.local.server.process", str(served.folder), "--engine", "instant"]
    ended_second = subprocess.run(second, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - ours
    assert (ended_second.returncode, "another process serves" in ended_second.stderr) == (3, True)
    served.up()
    assert _pid(served) == pid
    assert served.down()
    assert gone(pid)


def test_what_is_damaged_under_a_server_is_whole_again_within_seconds(lasting: LocalWorkspace) -> None:
    places = [lasting.folder / name for name in ("server.json", "bundle.pem")]
    before = [path.read_bytes() for path in places]
    for damage in ("missing", "cut in place", "a folder"):
        for path in places:
            DAMAGES[damage](path)
        end = time.monotonic() + 10
        while not all(path.is_file() and path.read_bytes() == was for path, was in zip(places, before, strict=True)):
            assert time.monotonic() < end
            time.sleep(0.05)
    assert connected(lasting.folder) is None


def test_one_that_hangs_is_stopped_whatever_is_left_of_its_notes(served: LocalWorkspace) -> None:
    pid = _pid(served)
    os.kill(pid, signal.SIGSTOP)
    (served.folder / "server.json").unlink()
    (served.folder / "state.db").unlink()
    assert served.down(timeout=0.2)
    assert gone(pid)


@pytest.mark.parametrize("note", ["server.json", "server.lock"])
def test_a_note_of_another_server_kills_nobody_else(served: LocalWorkspace, note: str) -> None:
    pid = _pid(served)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    place = served.folder / note
    _write(place, place.read_bytes().replace(str(pid).encode(), str(bystander.pid).encode()))
    try:
        assert served.down()
        assert gone(pid)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_damaged_secret_lets_nobody_in_and_says_so(lasting: LocalWorkspace) -> None:
    connection = lasting.connection()
    secret = lasting.folder / "secret"
    whole = secret.read_bytes()
    url = f"{connection.base_url}/msi/token?api-version=2019-08-01&resource=https://management.azure.com"
    with requests.Session() as client:
        client.trust_env = False
        client.verify = str(connection.ca_bundle)
        for damage in ("missing", "empty", "binary", "a folder"):
            DAMAGES[damage](secret)
            with pytest.raises(LocalWorkspaceError, match="secret is missing or damaged"):
                connection.secret()
            assert client.get(url, headers={"X-IDENTITY-HEADER": ""}, timeout=30).status_code in (400, 401, 403)
    _write(secret, whole)
    assert connected(lasting.folder) is None


def test_an_empty_secret_is_made_anew_at_the_next_start(left: Path, tmp_path: Path) -> None:
    folder = copy(left, tmp_path / "workspace")
    (folder / "secret").write_bytes(b"")
    (folder / "secret.abc.tmp").write_bytes(b"half of one")
    workspace = LocalWorkspace(folder, engine="instant", speed="fast")
    said: list[str] = []
    connection = workspace.up(on_event=said.append)
    try:
        assert len(connection.secret()) == 64
        assert any("the secret was damaged" in line for line in said)
        assert connected(folder) is None
        assert not list(folder.glob("*.tmp"))
    finally:
        workspace.down(timeout=0)


def test_storage_that_is_reached_otherwise_is_told(lasting: LocalWorkspace) -> None:
    arguments = ("local", "up", "--folder", str(lasting.folder))
    said = ended(*arguments, "--datastores", "identity")
    assert "runs already, with datastores accesskey and not identity" in said
    assert "phift local down" in said
    said = ended(*arguments, "--engine", "instant", "--speed", "real", "--datastores", "accesskey")
    assert "with speed fast and not real" in said
    assert "is up at" in said
    with pytest.raises(LocalWorkspaceError, match="and not keys-off"):
        LocalWorkspace(lasting.folder, datastores="keys-off", engine="instant").up()


@pytest.mark.parametrize("lock", ["there", "deleted meanwhile"])
def test_two_that_start_one_folder_at_once_have_one_server(lock: str, left: Path, tmp_path: Path) -> None:
    folder = copy(left, tmp_path / "workspace") if lock == "there" else tmp_path / "new" / "workspace"

    def up(_number: int) -> str:
        if lock != "there":
            (folder / "start.lock").unlink(missing_ok=True)
        return LocalWorkspace(folder, engine="instant", speed="fast").up().base_url

    with ThreadPoolExecutor(3) as pool:
        addresses = set(pool.map(up, range(3)))
    workspace = LocalWorkspace(folder)
    pid = _pid(workspace)
    assert len(addresses) == 1
    assert workspace.down()
    assert gone(pid)


def test_one_that_starts_while_another_deletes_has_a_whole_folder(
    served: LocalWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, delete = LocalWorkspace(served.folder, engine="instant", speed="fast"), shutil.rmtree

    with ThreadPoolExecutor(1) as pool:

        def begin(folder: Path) -> None:
            monkeypatch.undo()
            starts.append(pool.submit(started.up))
            time.sleep(3)  # in which it would have started
            delete(folder)

        starts: list[Future[Connection]] = []
        monkeypatch.setattr("phift.local.workspace.shutil.rmtree", begin)
        served.reset()
        starts[0].result()
    assert connected(served.folder) is None
    assert started.down()


def test_one_that_starts_when_half_is_deleted_has_a_whole_folder(
    served: LocalWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, remove = LocalWorkspace(served.folder, engine="instant", speed="fast"), os.rmdir
    left, starts = {path.name for path in served.folder.iterdir() if path.is_dir()}, list[Future[Connection]]()
    with ThreadPoolExecutor(1) as pool:

        def begin(path: str, **options: int) -> None:
            if (name := os.path.basename(path)) in left:  # noqa: PTH119 - what rmtree gives
                left.remove(name)
                if not left:
                    starts.append(pool.submit(started.up))
                    time.sleep(3)  # in which it would have started
            remove(path, **options)

        monkeypatch.setattr("os.rmdir", begin)
        served.reset()
        starts[0].result()
    assert connected(served.folder) is None
    assert started.down()


def test_a_server_killed_at_any_moment_of_its_start_hinders_no_next_one(tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    chosen = random.Random(11)  # noqa: S311 - moments only
    command = [sys.executable, "-m", "phift.local.server.process", str(folder), "--engine", "instant"]
    for _ in range(max(2, EXAMPLES // 8)):
        shutil.rmtree(folder, ignore_errors=True)
        for _ in range(2):
            server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
            end = time.monotonic() + 20
            while not folder.is_dir() and time.monotonic() < end:
                time.sleep(0.001)  # until the imports are over
            time.sleep(chosen.random() * 0.15)
            server.kill()
            server.wait()
    workspace = LocalWorkspace(folder, engine="instant", speed="fast")
    workspace.up()
    assert connected(folder) is None
    assert workspace.down()


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Let this thread reach files as a user without rights does, where the tests run as root."""
    setfsuid = ctypes.CDLL(None).setfsuid
    setfsuid(65534)
    try:
        yield
    finally:
        setfsuid(0)


@pytest.fixture
def common() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="phift-state-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="gives the files to another user")
@pytest.mark.parametrize("name", [*FILES, "."])
@pytest.mark.parametrize("owner", [0, 65534])
def test_what_cannot_be_read_is_told(name: str, owner: int, left: Path, common: Path) -> None:
    folder = copy(left, common / "workspace")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    os.chown(folder / name, owner, owner)
    (folder / name).chmod(0o000)
    with _as_nobody():
        for command in COMMANDS:
            ended("local", command, "--folder", str(folder))
        assert connected(folder) is not None


def _pipe(path: Path) -> None:
    _missing(path)
    os.mkfifo(path)


RECORDED: dict[str, Callable[[Path], object]] = {
    **DAMAGES,
    "nothing in it": lambda path: path.write_text(path.read_text().splitlines()[0] + "\n"),
    "no head": lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[1:])),
    "of another version": lambda path: path.write_text(path.read_text().replace('"version"', '"api-version"')),
    "no date": lambda path: path.write_text(path.read_text().replace('"recorded": "', '"recorded": "\\u001b[2J')),
    "a pipe": _pipe,
    "endless": _link("/dev/zero"),
}


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    file = tmp_path / "recording.jsonl"
    with begin(file) as recorded:
        for _ in range(3):
            recorded.write(redacted("GET", "https://localhost/jobs/a", b"", 200, {}, b"{}"))
    return file


@pytest.mark.parametrize("damage", RECORDED)
def test_a_damaged_recording_is_told_and_none_is_written_over(damage: str, recording: Path) -> None:
    RECORDED[damage](recording)
    held = recording.read_bytes() if recording.is_file() else b""
    said = ended("local", "record", str(recording), "true")
    assert said.startswith(("error: This file is there already", "Nothing was recorded", "Usage")), said
    assert not held or recording.read_bytes() == held
    if damage in ("truncated", "cut in place"):  # the first line whole, as where the recorder was killed
        assert len(read(recording)[1]) == 1
        return
    said = ended("local", "replay", str(recording), "true")
    assert said.startswith(("error: ", "Usage")), said
    assert "Traceback" not in said


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "cut in place", "other", "a folder", "a device"])
def test_a_recording_that_is_damaged_meanwhile_is_not_called_whole(damage: str, tmp_path: Path) -> None:
    file, kept = tmp_path / "recording.jsonl", redacted("GET", "https://localhost/jobs/a", b"", 200, {}, b"{}")
    with begin(file) as recorded:
        recorded.write(kept)
        DAMAGES[damage](file)
        recorded.write(kept)
    assert recorded.failure is not None
    assert file.is_dir() == (damage == "a folder")


def test_what_took_the_place_of_an_empty_recording_stays(tmp_path: Path) -> None:
    file = tmp_path / "recording.jsonl"
    with begin(file):
        _write(file, b"of somebody")
    assert file.read_bytes() == b"of somebody"


@pytest.mark.parametrize(
    "arguments",
    [
        ("record", "no-folder/x.jsonl", "true"),
        ("record", "file/x.jsonl", "true"),
        ("record", "x" * 300, "true"),
        ("record", "x.jsonl", "no-such-program"),
        ("record", "x.jsonl", "./file"),
        ("record", "x.jsonl", "."),
        ("replay", "x.jsonl", "true"),
        ("replay", "file/x.jsonl", "true"),
        ("replay", "x" * 300, "true"),
        ("replay", "recording.jsonl", "no-such-program"),
    ],
)
def test_what_cannot_be_recorded_is_told(
    arguments: tuple[str, ...], recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no program")
    assert ended("local", *arguments).startswith("error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", recording.name]


DEMONSTRATION = ["samples", "samples/train.jsonl", "samples/test.jsonl", "work", "work/data", "work/data/*"]
DEMONSTRATION += [f"work/data/*/{name}" for name in ("train.jsonl", "test.jsonl", "manifest.json")]
SHOWN = list(itertools.product(FILES + FOLDERS + DEMONSTRATION, DAMAGES, ["served", "left"]))
SOME_SHOWN = random.Random(os.environ.get("PHIFT_SEED", "7")).sample(SHOWN, min(EXAMPLES, len(SHOWN)))  # noqa: S311


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demonstration."""
    folder = tmp_path_factory.mktemp("demonstrated") / "workspace"
    assert "is stopped after" in _demonstrated(folder)
    return folder


def _demonstrated(folder: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:  # nothing is trained, so that the model answers no better than before
        instant = partial(LocalWorkspace, engine="instant", speed="fast")
        patch.setattr("phift.cli.quickstart.LocalWorkspace", instant)
        return ended("quickstart", "--folder", str(folder), soon=WHOLE_CHAIN)


@pytest.mark.parametrize(("name", "damage", "when"), SOME_SHOWN)
def test_a_demonstration_in_a_damaged_folder(
    name: str, damage: str, when: str, demonstrated: Path, tmp_path: Path
) -> None:
    folder = copy(demonstrated, tmp_path / "workspace")
    workspace = LocalWorkspace(folder, engine="instant", speed="fast")
    pid = None
    if when == "served":
        workspace.up()
        pid = _pid(workspace)
    for path in list(folder.glob(name)):
        DAMAGES[damage](path)
    try:
        said = _demonstrated(folder)
        assert any(told in said for told in ("100 held-out questions", "error: ", "Nothing was submitted.")), said
        if "error: " in said:  # before it had begun, as where the folder is of no use
            ended("local", "down", "--folder", str(folder))
        assert pid is None or gone(pid)
        assert not folder.is_dir() or workspace._place.is_free()
    finally:
        if pid is not None and alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="gives the files to another user")
def test_what_may_not_be_read_or_written_is_told(recording: Path, common: Path) -> None:
    file = common / "recording.jsonl"
    file.write_bytes(recording.read_bytes())
    file.chmod(0)
    for arguments in (("local", "record", str(file), "true"), ("samples", str(recording))):
        ended(*arguments)  # their modules are read by those who may
    with _as_nobody():
        assert ended("local", "replay", str(file), "true").startswith("error: It cannot be used: Permission denied")
        assert ended("local", "record", str(file), "true").startswith("error: This file is there already")
        assert ended("local", "record", str(common / "new.jsonl"), "true").startswith("error: It cannot be used")
        assert ended("samples", str(common / "samples")).startswith("error: It cannot be used")
    assert list(common.iterdir()) == [file]
