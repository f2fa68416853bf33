"""The server process of a local workspace, ``python -m phift.local.server.process FOLDER``.

`LocalWorkspace.up` starts it.

With ``--delay 0.2`` every request waits 0.2 s before it is answered, as if the service were far away; ``--engine`` and
``--speed`` are those of `LocalWorkspace`; with ``--while-input`` it ends when its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import get_args

import uvicorn

from phift.local.ground import Ground
from phift.local.model import files, quota
from phift.local.programs import ENGINES, Programs
from phift.local.server import certificates
from phift.local.server.app import Connection, configure_logging, create_app
from phift.local.site import Site, site_on
from phift.local.state import identity
from phift.local.state.clock import Clock, Speed
from phift.local.state.documents import Documents
from phift.local.state.folder import Folder, write_private
from phift.version import __version__

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
# How long open connections may finish when the server is told to stop.
GRACE_SECONDS = 1


def serve(folder: Path, programs: Programs, speed: Speed = "real", delay: float = 0) -> int:
    """Serve a folder until SIGTERM or SIGINT; returns the exit code, 3 where another process serves it already.

    - **delay**: seconds that every request waits before it is answered.
    """
    os.umask(0o077)
    place = Folder(folder)
    place.root.mkdir(parents=True, exist_ok=True)
    place.root.chmod(0o700)
    with place.claimed() as ours:
        if not ours:
            logger.error("another process serves %s", folder)
            return 3
        place.server_file.unlink(missing_ok=True)
        served = _serve(place, programs, Clock(speed), delay)
        place.server_file.unlink(missing_ok=True)
    return 0 if served else 1


def _serve(place: Folder, programs: Programs, clock: Clock, delay: float) -> bool:
    certificates.ensure(place.root)
    certificates.write_bundle(place.root, os.environ.get("REQUESTS_CA_BUNDLE"))
    files.clear_halves(place)
    documents = Documents(place.database, clock.now)
    listener = _listen(documents)
    port = listener.getsockname()[1]
    documents.put("server", {"port": port})
    owner = identity.Identity(identity.read_secret(place.secret), clock.now)
    ground = Ground(place, documents, owner, f"https://localhost:{port}", programs, clock)
    quota.seed(ground)
    site = site_on(ground)
    config = uvicorn.Config(
        create_app(site, delay),
        http=Connection,
        access_log=False,  # app.py writes one line a request, without the query, where signatures travel
        log_config=None,
        ssl_certfile=str(place.root / "server.pem"),
        ssl_keyfile=str(place.root / "server-key.pem"),
        timeout_keep_alive=120,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    try:
        return _run(site, _Server(config), listener)
    finally:  # closing the log with what was asked for and is not served, the most frequent first
        unserved = sorted(site.journal.ever_unserved.items(), key=lambda item: (-item[1], item[0]))
        if unserved:
            lines = "".join(f"\n  {count} x {place}" for place, count in unserved)
            logger.warning("requests without a route, answered 501:%s", lines)
        else:
            logger.info("every request had a route")
        listener.close()
        documents.close()


class _Server(uvicorn.Server):
    """Wakes once a second for the ``Date`` of its answers, and not ten times: an idle workspace shall cost little."""

    _waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    async def main_loop(self) -> None:
        """Wait for the end."""
        told = asyncio.Event()
        self._waiting = asyncio.get_running_loop(), told
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(told.wait(), 1)
        self._waiting = None

    def end(self) -> None:
        """Let the server end, from another thread."""
        self.should_exit = True
        if self._waiting:
            loop, told = self._waiting
            with suppress(RuntimeError):  # it has ended meanwhile
                loop.call_soon_threadsafe(told.set)


def _run(site: Site, server: _Server, listener: socket.socket) -> bool:
    """Serve in a thread until a signal comes; False where serving did not begin.

    Signals are ours and not uvicorn's, for the order of things: the engine must be stopped while it can still reach the
    server, or it would take the silence for a failure of the job.
    """
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())

    def work() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            told.set()

    thread = threading.Thread(target=work, name="http")
    thread.start()
    while not server.started and not told.is_set():
        time.sleep(0.01)
    if server.started:  # say in server.json where it is, now that it takes connections
        pid, port = os.getpid(), listener.getsockname()[1]
        about = {"pid": pid, "port": port, "created_at": process_start(pid), "version": __version__}
        write_private(site.folder.server_file, json.dumps(about).encode())
        logger.info("serving %s at %s", site.folder.root, site.base_url)
    told.wait()
    site.training.stop()
    server.end()
    thread.join()
    return server.started


def _listen(documents: Documents) -> socket.socket:
    """Listen on the port of last time, so that addresses users have kept stay good, else on any free one."""
    known = documents.get("server")
    for port in (known.body["port"] if known else 0, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Without it the first request of every new TLS connection waits 40 ms; accepted sockets inherit it on Linux.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(128)
        except OSError:
            listener.close()
            if port == 0:
                raise
        else:
            return listener
    raise AssertionError("the loop returns or raises")


def process_start(pid: int) -> float | None:
    """Return when a process began (seconds since 1970, to a hundredth), or None where that cannot be known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text(encoding="ascii").splitlines() if "btime" in line)
    except OSError:
        return None
    return int(boot.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def main(programs: Programs | None = None) -> None:
    """Run the server for the folder on the command line.

    - **programs**: the commands of the other processes, for tests.
    """
    parser = argparse.ArgumentParser(
        prog="python -m phift.local.server.process", description="Serve a local workspace."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay", type=float, default=0, help="seconds that every request waits")
    parser.add_argument("--engine", choices=ENGINES, default="train")
    parser.add_argument("--speed", choices=get_args(Speed), default="real")
    parser.add_argument("--while-input", action="store_true", help="end when the standard input does")
    arguments = parser.parse_args()
    configure_logging()
    logging.Formatter.converter = time.gmtime
    if arguments.while_input:
        threading.Thread(target=_end_with_input, daemon=True).start()
    sys.exit(serve(arguments.folder, programs or ENGINES[arguments.engine], arguments.speed, arguments.delay))


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
