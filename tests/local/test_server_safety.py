"""Who may ask what, what uploaded content may do, and what a full disk, a damaged file or a second process do."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import jwt
import pytest
import requests
from fakes.server import programs
from running import Local
from wire_jobs import body, put_training_file, submit

from phift import errors
from phift.local import LocalWorkspace
from phift.local.names import GROUP, LOCATION, REGISTRY, SUBSCRIPTION, WORKSPACE
from phift.local.server.service import PARTS
from phift.local.services.route import Route
from phift.local.state.identity import Identity

pytestmark = pytest.mark.slow

ROUTES: list[Route] = [route for part in PARTS for route in part.ROUTES]
# What anybody may read: that a server is there, and where its services are.
OPEN = {"GET health", "GET metadata/endpoints", "GET discovery"}


def address(route: Route) -> str:
    """Return a path that the route serves."""
    known = {"subscription": SUBSCRIPTION, "group": GROUP, "workspace": WORKSPACE, "location": LOCATION}
    known |= {"registry": REGISTRY, "version": "1"}
    return re.sub(r"\{(\w+)(?:\.\.\.)?\}", lambda found: known.get(found[1], "x"), route.template)


def wrong_tokens(local: Local) -> dict[str, str]:
    own = Identity(local.connection.secret())
    audience = "https://management.azure.com"
    return {
        "none": "",
        "foreign": jwt.encode({"aud": audience, "exp": 9999999999}, "another key, long enough for sha256", "HS256"),
        "unsigned": jwt.encode({"aud": audience, "exp": 9999999999}, "", "none"),
        "expired": own.token(audience, seconds=-1)[0],
        "of an endpoint": own.token("endpoint/x")[0],
    }


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.operation} {route.template.split('/')[1]}")
def test_no_route_answers_without_a_right_to_it(local: Local, route: Route) -> None:
    if route.operation in OPEN:
        assert local.request(route.method, address(route), token="").status_code == 200
        return
    for name, token in wrong_tokens(local).items():
        answer = local.request(route.method, address(route), token=token, json={})
        expected = {401, 403} if route.check else {401}  # a storage signature that is missing is 403
        if route.template.startswith("/inference/"):
            expected.add(404)  # no endpoint is called x, and that is all that is told
        assert answer.status_code in expected, (name, answer.status_code, answer.text)
        if answer.headers.get("Content-Type", "").startswith("application/json"):
            told = answer.json()
            assert told.pop("error"), name  # what is wrong comes as names and values; beside it nothing may
            assert "value" not in json.dumps(told), name
        else:
            assert "value" not in answer.text, name


def test_the_open_routes_tell_no_secret(local: Local) -> None:
    secret = local.connection.secret()
    for route in ROUTES:
        if route.operation in OPEN:
            assert secret not in local.request(route.method, address(route), token="").text


def test_a_path_is_one_line_in_the_log_and_does_nothing_to_a_terminal(local: Local) -> None:
    path = quote("/said\x1b[2J\x9b2J\u202e 2026-01-01 INFO all is well\r", safe="/")
    verify = str(local.connection.ca_bundle)
    assert requests.get(f"{local.connection.base_url}{path}", verify=verify, timeout=30).status_code == 501
    log = (local.connection.folder / "server.log").read_text()
    lines = [line for line in log.splitlines() if "/said" in line]
    assert len(lines) == 2  # that it has no route, and the request itself
    shown = r"/said\x1b[2J\x9b2J\u202e 2026-01-01 INFO all is well\r"
    assert all(shown in line for line in lines)


def test_no_other_user_can_read_anything(local: Local) -> None:
    local.wait(submit(local))
    folder = local.connection.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("secret", "server-key.pem", "server.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    # The folder's own mode is what keeps others out; that what the server wrote is private as well is a second lock.
    written = [path for part in ("blobs", "jobs", "state.db", "server.log") for path in (folder / part).rglob("*")]
    assert written
    assert [path for path in written if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_it_listens_on_the_loopback_interface_only(local: Local) -> None:
    port = int(local.connection.base_url.rpartition(":")[2])
    tables = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    sockets = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()]
    listening = [fields[1] for fields in sockets if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")]
    assert listening == [f"0100007F:{port:04X}"]


def _signature(local: Local) -> str:
    return str(
        local.request("POST", f"{local.arm}/datastores/workspaceblobstore/listSecrets").json()["sasToken"]
    ).removeprefix("?")


@pytest.mark.parametrize("name", ["way-out/stolen.txt", "way-out", "way-out/a/b"])
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE"])
def test_a_link_among_the_blobs_leads_nowhere(local: Local, tmp_path: Path, method: str, name: str) -> None:
    (tmp_path / "stolen.txt").write_text("private")
    container = local.connection.folder / "blobs/storage/azureml-blobstore"
    container.mkdir(parents=True, exist_ok=True)
    (container / "way-out").symlink_to(tmp_path)
    try:
        url = f"/storage.blob.phift.local/azureml-blobstore/{quote(name)}?{_signature(local)}"
        answer = local.request(method, url, token="", data=b"x" if method == "PUT" else None)
        assert answer.status_code == 400, answer.text
        assert (tmp_path / "stolen.txt").read_text() == "private"
        listed = f"/storage.blob.phift.local/azureml-blobstore?{_signature(local)}&restype=container&comp=list"
        assert "stolen" not in local.request("GET", listed, token="").text
    finally:
        (container / "way-out").unlink()


_ODD_NAMES = ["..", "%2e%2e", "..%2f..%2fsecret", "a%2f..%2f..%2fb", "%00", "a%5cb", "%2fetc%2fpasswd"]


@pytest.mark.parametrize("name", _ODD_NAMES)
@pytest.mark.parametrize("kind", ["jobs", "models", "data", "onlineEndpoints", "computes"])
def test_no_name_of_a_resource_leads_out(local: Local, kind: str, name: str) -> None:
    before = {path.name for path in local.connection.folder.parent.iterdir()}
    sent = body() if kind == "jobs" else {"properties": {"authMode": "Key", "vmSize": "Standard_D4s_v3"}}
    prepared = local.session.prepare_request(requests.Request("PUT", local.connection.base_url, json=sent))
    prepared.headers["Authorization"] = f"Bearer {local.token}"
    versions = "/versions/1" if kind in ("models", "data") else ""
    prepared.url = f"{local.connection.base_url}{local.arm}/{kind}/{name}{versions}"  # as a client would not write it
    answer = local.session.send(prepared, timeout=60)
    assert 400 <= answer.status_code < 500 or answer.status_code == 501, answer.text
    assert {path.name for path in local.connection.folder.parent.iterdir()} == before


def _up(folder: Path) -> str:
    return (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); from fakes.server import programs; "
        "from phift.local import LocalWorkspace; "
        f"print(LocalWorkspace(Path({str(folder)!r}), programs=programs()).up().base_url)"
    )


def test_two_processes_that_start_it_at_once_get_one_server(tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    command = [sys.executable, "-c", _up(folder), "-", str(Path(__file__).parent)]
    starters = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]  # noqa: S603 - above
    try:
        addresses = [starter.communicate()[0].strip() for starter in starters]
        assert [starter.returncode for starter in starters] == [0, 0, 0]
        assert len(set(addresses)) == 1
        assert addresses[0].startswith("https://localhost:")
    finally:
        assert LocalWorkspace(folder).down()


_WRITER = """
import json, sys
import requests
session = requests.Session()
session.trust_env = False
session.verify, session.headers["Authorization"] = sys.argv[2], "Bearer " + sys.argv[3]
session.params = {"api-version": "2023-10-01"}
for number in range(30):
    sent = {"properties": {"dataUri": sys.argv[5], "dataType": "uri_file", "tags": {"by": sys.argv[4]}}}
    for name in (f"{sys.argv[4]}-{number}", f"shared-{number}"):
        answer = session.put(f"{sys.argv[1]}/data/{name}/versions/1", json=sent, timeout=60)
        assert answer.status_code in (200, 201), answer.text
"""


def test_two_processes_write_at_once(local: Local) -> None:
    put_training_file(local)
    place = "azureml://datastores/workspaceblobstore/paths/tests/train.jsonl"
    start = [sys.executable, "-c", _WRITER, local.connection.base_url + local.arm, str(local.connection.ca_bundle)]
    writers = [subprocess.Popen([*start, local.token, name, place]) for name in ("first", "second")]  # noqa: S603 - above
    assert [writer.wait() for writer in writers] == [0, 0]
    for number in range(30):
        for name in ("first", "second", "shared"):
            stored = local.request("GET", f"{local.arm}/data/{name}-{number}/versions/1").json()["properties"]
            assert stored["tags"]["by"] in ("first", "second")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB; only root can make one."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:  # noqa: S603 - a fixed program
        pytest.skip("this needs the right to mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)  # noqa: S603, S607 - a fixed program


def test_a_full_disk_is_told_and_loses_nothing(small_disk: Path) -> None:
    workspace = LocalWorkspace(small_disk / "workspace", programs=programs())
    local = Local(workspace, workspace.up())
    url = "/storage.blob.phift.local/azureml-blobstore/{name}?" + _signature(local)
    try:
        put_training_file(local)
        kept = submit(local)
        assert local.wait(kept) == "Completed"
        (small_disk / "reserve").write_bytes(bytes(1_000_000))
        kept_blobs, last = [], local.request("GET", "/health")
        for number in range(100):
            last = local.request("PUT", url.format(name=f"b{number}"), token="", data=bytes(200_000))
            if last.status_code != 201:
                break
            kept_blobs.append(f"b{number}")
        assert (last.status_code, last.json()["error"]["code"]) == (507, "InsufficientStorage")
        assert "disk" in last.json()["error"]["message"]
        (small_disk / "filler").write_bytes(bytes(_room(small_disk)))
        refused: list[requests.Response] = []
        while len(refused) < 2000 and [answer.ok for answer in refused[-5:]] != [False] * 5:
            refused.append(_write_data(local, f"d{len(refused)}"))
        told = [answer for answer in refused if not answer.ok]
        assert told, "the database never ran out of room"
        assert {(each.status_code, each.json()["error"]["code"]) for each in told} == {(507, "InsufficientStorage")}
        stored = [f"d{number}" for number, answer in enumerate(refused) if answer.status_code == 201]
        assert local.request("GET", f"{local.arm}/jobs/{kept}").json()["properties"]["status"] == "Completed"
        (small_disk / "reserve").unlink()
        assert _write_data(local, "later").status_code == 201, "there is room again"
        workspace.down()
        workspace.up()
        for name in (*stored, "later"):
            assert local.request("GET", f"{local.arm}/data/{name}/versions/1").status_code == 200
        for name in kept_blobs:
            assert len(local.request("GET", url.format(name=name), token="").content) == 200_000
        assert [path for path in (workspace.folder / "staging").rglob("*") if path.is_file()] == []
    finally:
        local.session.close()
        workspace.down()


def _room(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def _write_data(local: Local, name: str) -> requests.Response:
    uri = "azureml://datastores/workspaceblobstore/paths/tests/train.jsonl"
    sent = {"properties": {"dataUri": uri, "dataType": "uri_file", "description": "x" * 500}}
    return local.request("PUT", f"{local.arm}/data/{name}/versions/1", json=sent)


@pytest.mark.parametrize("where", ["head", "middle", "everything"])
def test_a_damaged_database_is_told_at_the_start_and_nothing_is_deleted(own_local: Local, where: str) -> None:
    name = submit(own_local)
    own_local.wait(name)
    own_local.workspace.down()
    folder = own_local.connection.folder
    whole = bytearray((folder / "state.db").read_bytes())
    damage = {"head": range(100), "middle": range(5000, len(whole) - 3000), "everything": range(len(whole))}[where]
    for place in damage:
        whole[place] = 0x5A
    (folder / "state.db").write_bytes(whole)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    with pytest.raises(errors.LocalWorkspaceError, match="phift local reset") as told:
        own_local.workspace.up()
    assert "damaged" in str(told.value)
    assert str(folder / "state.db") in str(told.value)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert after == before
    with pytest.raises(errors.LocalWorkspaceNotRunning):
        own_local.workspace.connection()
