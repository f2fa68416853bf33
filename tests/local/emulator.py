"""Microsoft's storage emulator azurite: finding it, starting it, stopping it."""

from __future__ import annotations

import base64
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from phift.local.server.process import ensure_certificates, write_bundle

_INSTALLED = Path(__file__).parents[2] / ".azurite/node_modules/azurite/dist/src/blob/main.js"
_START_SECONDS = 600
_ACCOUNT = "phift"
# In memory, of any protocol version (the SDK's may be newer), and without the telemetry that it sends by default.
_OPTIONS = (
    *("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--disableProductStyleUrl"),
    *("--silent", "--blobPort", "0", "--cert", "server.pem", "--key", "server-key.pem"),
)


@dataclass(frozen=True)
class Emulator:
    """A running azurite: its account's address and key, and the authorities with which its clients trust it."""

    url: str
    key: str
    ca_bundle: Path
    name: str = _ACCOUNT


def program() -> list[str]:
    """Return azurite's command; without it the test is skipped, and fails where ``CI`` is set."""
    node, elsewhere = shutil.which("node"), shutil.which("azurite-blob")
    if node and _INSTALLED.is_file():
        return [node, str(_INSTALLED)]
    if elsewhere:
        return [elsewhere]
    reason = "azurite is not installed; with Node.js and npm, `make azurite` does it"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def running(folder: Path) -> Iterator[Emulator]:
    """Run azurite in a folder of its own, with a certificate of its own."""
    command = program()
    ensure_certificates(folder)
    bundle = write_bundle(folder, os.environ.get("REQUESTS_CA_BUNDLE"))
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    output = folder / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - a program that we have installed, and options of ours
            [*command, *_OPTIONS],
            cwd=folder,
            env={**os.environ, "AZURITE_ACCOUNTS": f"{_ACCOUNT}:{key}"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        yield Emulator(f"{_address(process, output)}/{_ACCOUNT}", key, bundle)
    finally:
        process.terminate()
        process.wait(120)


def _address(process: subprocess.Popen[bytes], output: Path) -> str:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r"successfully listens on (https://127\.0\.0\.1:\d+)", output.read_text()):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"azurite did not start:\n{output.read_text()}")
