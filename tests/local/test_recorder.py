"""Recording what a program says to a workspace, and holding the local workspace against it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phift import samples
from phift.errors import LocalWorkspaceError
from phift.local import LocalWorkspace
from phift.local.recorder.compare import compare
from phift.local.recorder.exchange import Exchange, begin, read, redacted

PHIFT = [sys.executable, "-m", "phift.cli"]
SECRET = "s3cret-Hunter2"


def planted(depth: int = 3) -> object:
    inner = planted(depth - 1) if depth else SECRET
    names = ("status", "type", "code", "id", "key", "sasToken", "accessToken", "tags", SECRET)
    values = [SECRET, inner, [inner, SECRET], f"/subscriptions/{SECRET}/resourceGroups/{SECRET}/jobs/{SECRET}"]
    return dict(zip(names, values * 3, strict=False)) | {"message": inner}


def exchange(status: int = 200, **answer: object) -> Exchange:
    url = "https://management.azure.com/subscriptions/s/jobs/one?api-version=2024-01-01-preview"
    return redacted("GET", url, None, status, {}, json.dumps(answer).encode())


def test_a_secret_planted_everywhere_is_nowhere_in_the_file(tmp_path: Path) -> None:
    body = json.dumps(planted()).encode()
    headers = dict.fromkeys(["Location", "ETag", "x-ms-error-code", "Content-Type", "Authorization", SECRET], SECRET)
    urls = [
        f"https://{SECRET}.blob.core.windows.net/{SECRET}/{SECRET}?sig={SECRET}&{SECRET}={SECRET}",
        f"https://{SECRET}.eastus.inference.ml.azure.com/score?{SECRET}",
        f"https://management.azure.com/{SECRET}/jobs/{SECRET}?api-version={SECRET}",
    ]
    file = tmp_path / "all.jsonl"
    with begin(file) as recording:
        for url in urls:
            recording.write(redacted("PUT", url, body, 200, headers, body))
            recording.write(redacted("PUT", url, SECRET.encode(), 200, headers, SECRET.encode()))
    text = file.read_text()
    assert SECRET.lower() not in text.lower()
    assert len(read(file)[1]) == 6


@pytest.mark.parametrize(
    "field",
    [
        {"operation": "GET jobs/mine"},
        {"version": "mine"},
        {"version": "1234-56-78"},
        {"version": "\u0662\u0660\u0662\u0664-01-01"},
        {"query": ("mine",)},
        {"sent": "mine"},
        {"answer": {"id": "mine"}},
        {"answer": {"mine": None}},
        {"answer": {"status": "= mine"}},
        {"answer": "id mine"},
        {"answer": "date \u0663 Z"},
        {"headers": {"mine": "text"}},
        {"headers": {"status": "text"}},
        {"headers": {"location": "mine"}},
        {"answer": 5},
        {"status": "mine"},
    ],
)
def test_an_exchange_with_a_text_of_its_own_cannot_be_made(field: dict[str, object]) -> None:
    good: dict[str, object] = {"operation": "GET jobs/{}", "version": "", "query": (), "sent": None, "status": 200}
    good |= {"headers": {"location": "text"}, "answer": {"status": "= Completed"}}
    Exchange(**good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no public word"):
        Exchange(**{**good, **field})  # type: ignore[arg-type]


def test_statuses_fields_kinds_and_stable_values_are_compared() -> None:
    there = exchange(properties={"status": "Completed", "displayName": "a", "isArchived": False}, id=None)
    assert compare([there], [there]) == []
    here = exchange(properties={"status": "Failed", "displayName": "b", "isArchived": 1}, name="n")
    name = f"{there.operation} 200: answer"
    assert compare([there], [here]) == [
        f"{name}.properties.status: Completed there, Failed here",
        f"{name}.properties.isArchived: boolean there, number here",
        f"{name}.id: null there, none here",
        f"{name}.name: none there",
    ]
    assert compare([there], [exchange(404)]) == [f"{there.operation} 200: status: 200 there, 404 here"]
    assert compare([there], []) == [f"{there.operation} 200: not asked here"]
    running = exchange(properties={"status": "Running", "displayName": None})
    assert compare([running], [there]) == []  # it was over before the first look


def test_a_text_an_id_and_a_date_are_of_three_kinds() -> None:
    values = {"text": "a", "id": "/subscriptions/s", "date": "2024-01-01T00:00:00Z"}
    for one, value in values.items():
        for other, here in values.items():
            found = compare([exchange(name=value)], [exchange(name=here)])
            assert found == (
                []
                if one == other
                else [f"GET subscriptions/{{}}/jobs/{{}} 200: answer.name: {one} there, {other} here"]
            )


def test_half_a_line_at_the_end_is_left_out(tmp_path: Path) -> None:
    file, kept = tmp_path / "killed.jsonl", exchange(name="n")
    with begin(file) as recording:
        recording.write(kept)
        recording.write(kept)
    content = file.read_bytes()
    for missing in (1, 20):
        file.write_bytes(content[:-missing])
        assert read(file)[1] == [kept]


@pytest.mark.parametrize(
    "told",
    [
        "",
        "[]",
        '{"operation": 5}',
        '{"headers": null}',
        '{"headers": ["etag"]}',
        '{"status": 200.5}',
        '{"answer": ' + '{"id": ' * 5000 + "null" + "}" * 5001,
    ],
)
def test_a_line_that_is_no_exchange_makes_no_recording(told: str, tmp_path: Path) -> None:
    file, kept = tmp_path / "other.jsonl", exchange(name="n")
    with begin(file) as recording:
        recording.write(kept)
        recording.stream.write(told.replace("{", json.dumps(vars(kept))[:-1] + ", ", 1) + "\n")
    with pytest.raises(LocalWorkspaceError, match="no recording"):
        read(file)


def test_another_file_is_no_recording_and_none_is_written_over(tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    file.write_text('{"a": 1}\n')
    with pytest.raises(LocalWorkspaceError, match="no recording"):
        read(file)
    done = subprocess.run([*PHIFT, "local", "record", str(file), "true"], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 1
    assert "This file is there already" in done.stderr
    assert file.read_text() == '{"a": 1}\n'


INTERRUPTED = """
import signal, socket
told, each = socket.socketpair()
each.setblocking(False)
signal.set_wakeup_fd(each.fileno())  # is told of two that come at once, too
signal.signal(signal.SIGINT, lambda *_: None)
print("ready", flush=True)
told.settimeout(60)
try:
    while told.recv(1):
        print("told", flush=True)
        told.settimeout(2)
except TimeoutError:
    print("end", flush=True)
"""
ON_A_TERMINAL = "import os, sys; os.open(os.ttyname(1), os.O_RDWR); os.execv(sys.executable, sys.argv[1:])"


@pytest.mark.slow
@pytest.mark.parametrize("typed", [True, False])
def test_each_interruption_reaches_the_program_once(typed: bool, tmp_path: Path) -> None:
    command = [*PHIFT, "local", "record", str(tmp_path / "file.jsonl"), "--", sys.executable, "-c", INTERRUPTED]
    if typed:  # on a terminal that it does not read from, and whose Ctrl-C reaches whoever is in front
        command = [sys.executable, "-c", ON_A_TERMINAL, *command]
    ours, theirs = pty.openpty()
    try:
        recorder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, start_new_session=True)  # noqa: S603 - ours
        os.close(theirs)
        said = os.read(ours, 1000)
        assert b"ready" in said
        for _ in range(5):  # of two at the same moment, a process may see one
            if typed:
                os.write(ours, b"\x03")
            else:
                recorder.send_signal(signal.SIGINT)
            while b"told" not in (more := os.read(ours, 1000)):
                said += more
            said += more
            time.sleep(0.1)
        while b"end" not in said:
            said += os.read(ours, 1000)
        assert said.count(b"told") == 5
        assert recorder.wait(60) == 1  # nothing was recorded
    finally:
        os.close(ours)


@pytest.mark.slow
def test_an_address_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    program = "import requests; print(requests.get('https://localhost:1/x', timeout=60).text)"
    command = [*PHIFT, "local", "record", str(tmp_path / "none.jsonl"), "--", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603 - ours
    assert done.returncode == 1
    assert "The recorder cannot reach localhost:1" in done.stdout
    assert "could not be reached: localhost:1" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_recorded_chain_replays_with_no_difference(tmp_path: Path) -> None:
    data = samples.write(tmp_path / "elements")
    config = tmp_path / "run.yaml"
    config.write_text(
        f"workspace: local\nmodel: Phi-4-mini-instruct\ncompute: gpu-cluster\nwork_dir: {tmp_path / 'work'}\n"
        f"data: {{train: {data.train}, validation: {data.validation}, test: {data.test}}}\n"
    )
    file = tmp_path / "chain.jsonl"
    chain = ["--", *PHIFT, "run", str(config), "--ask", "What is gold?"]
    workspace = LocalWorkspace(tmp_path / "workspace", engine="instant", speed="fast")
    try:
        variables = {**os.environ, **workspace.up().environment(), "PHIFT_LOCAL_HOME": str(workspace.folder)}
        done = subprocess.run([*PHIFT, "local", "record", str(file), *chain], env=variables, check=False, timeout=300)  # noqa: S603
    finally:
        workspace.down()
    assert done.returncode == 0
    operations = {each.operation for each in read(file)[1]}
    assert operations >= {"PUT jobs/{}", "POST score", "PUT blobs", "DELETE onlineEndpoints/{}"}
    text = file.read_text().lower()
    assert not [word for word in ("gold", "phi-4", "gpu-cluster", "eyj", str(tmp_path)) if word in text]
    command = [*PHIFT, "local", "replay", str(file), *chain]
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)  # noqa: S603 - ours
    assert "\n0 differences from what was recorded on" in again.stdout, again.stdout[-3000:] + again.stderr[-2000:]
    assert again.returncode == 0
