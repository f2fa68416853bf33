"""Whatever a caller sends: never a 500, never long, and never more memory than a workspace may have.

``PHIFT_EXAMPLES`` says how many requests are made, ``PHIFT_SEED`` which.
"""

from __future__ import annotations

import gc
import http.client
import logging
import os
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from phift.local import Connection, LocalWorkspace
from phift.local.ground import remember
from phift.local.model import catalog
from phift.local.programs import ENGINES, make_standins
from phift.local.server.service import Exchange, whole_body
from phift.local.site import Site
from phift.local.state.clock import Speed
from phift.local.state.folder import Folder
from properties.hostile_requests import Hostile, Maker

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("PHIFT_EXAMPLES", "800"))
SEED = int(os.environ.get("PHIFT_SEED", "1"))
LONGEST = 2.0  # seconds
MOST_MEMORY = 300  # MiB


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    speed: Speed = request.param
    place = Folder(tmp_path)
    place.bundle.touch()
    make_standins(place.registry, [model["name"] for model in catalog.foundation_models()])
    site = Site(place, "https://localhost:1", ENGINES["instant"], speed)
    remember(site.documents, port=1)
    site.start()
    yield site
    site.operations.reset()
    site.close()


@pytest.mark.parametrize("site", ["fast", "manual"], indirect=True)
def test_no_request_makes_the_service_fail(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    maker = Maker(SEED, site.folder.secret.read_text(encoding="ascii").strip())
    answered: Counter[int] = Counter()
    for _ in range(EXAMPLES):
        sent = maker.request()
        began = time.thread_time()
        exchange = Exchange(site, sent.method, sent.path, sent.query, sent.headers)
        exchange.admit()
        exchange.take(sent.body)
        reply = exchange.reply()
        whole_body(reply)
        assert reply.status != 500, (sent, caplog.text[-5000:])
        assert time.thread_time() - began < LONGEST, sent
        for value in reply.headers.values():
            assert value.encode("latin-1").isascii() or value.isprintable(), (sent, reply.headers)
        answered[reply.status] += 1
        caplog.clear()
    assert answered[200] > EXAMPLES / 10, "some are good, and what they make is there for others"
    assert answered[400] > EXAMPLES / 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[LocalWorkspace, Connection]]:
    workspace = LocalWorkspace(tmp_path / "workspace", engine="instant", speed="fast")
    try:
        yield workspace, workspace.up()
    finally:
        workspace.down()


def _memory(pid: int | None) -> float:
    held = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(held.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this reads /proc")
def test_no_request_makes_the_server_fail_hang_or_grow(server: tuple[LocalWorkspace, Connection]) -> None:
    workspace, connection = server
    maker, context = Maker(SEED + 1, connection.secret()), ssl.create_default_context(cafile=str(connection.ca_bundle))
    pid, port = workspace.status().pid, int(connection.base_url.rpartition(":")[2])
    open_one = http.client.HTTPSConnection("localhost", port, timeout=30, context=context)
    worst, answered, most = 0.0, Counter[int](), 0.0
    try:
        for number in range(EXAMPLES):
            sent = maker.request()
            began = time.monotonic()
            status = _ask(open_one, sent)
            took = time.monotonic() - began
            if took > LONGEST:  # it may be the machine's: it has to be so again
                began = time.monotonic()
                _ask(open_one, sent)
                took = min(took, time.monotonic() - began)
            worst = max(worst, took)
            assert took < LONGEST, sent
            assert status != 500, sent
            answered[status] += 1
            if number % 100 == 0:
                most = max(most, _memory(pid))
                assert most < MOST_MEMORY, sent
    finally:
        open_one.close()
        gc.collect()
    logging.getLogger(__name__).info("%d: %s, %.2f s, %.0f MiB", EXAMPLES, dict(answered), worst, most)
    assert answered[200] > EXAMPLES / 10


def _ask(connection: http.client.HTTPSConnection, sent: Hostile) -> int:
    connection.request(sent.method, sent.target, sent.body or None, sent.headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status
