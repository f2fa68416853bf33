"""The official client of OpenAI's API for an endpoint: its address, what opens it, and whom it trusts."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from phift import errors
from phift.serving.scoring import DEPLOYMENT, ScoringClient

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI


def openai_client(client: ScoringClient, deployment: str | None, *, asynchronous: bool) -> OpenAI | AsyncOpenAI:
    """Return a client of the package ``openai``, version 2 or newer, that asks an endpoint.

    It asks for the key before each request, so that tokens of Entra ID renew themselves, and reads one that is refused
    again. It follows no redirect, and does not ask again after 408, since the model goes on with a request that timed
    out.

    Raises `phift.errors.MissingDependency` where the package is not installed.
    """
    try:
        import openai
    except ImportError as error:
        what = "The client of OpenAI's API is not installed."
        raise errors.MissingDependency(what, fix="in the folder of phift's source: pip install '.[openai]'") from error
    client.check_address()
    if str(urlsplit(client.address).hostname).endswith(".invalid"):
        what = "The workspace is in this process, and no client but the SDK's and phift's own reaches it there."
        fix = "give it a server: TestWorkspace(server=True)"
        raise errors.LocalWorkspaceError(what, where=client.place, fix=fix)

    def key() -> str:
        return client.opened().value.get_secret_value()

    async def awaited_key() -> str:
        return await asyncio.to_thread(key)

    def look(response: Any) -> None:
        """Say whether to ask again, in openai's own word for it (3.57, _base_client.py)."""
        if response.status_code == 408:
            response.headers["x-should-retry"] = "false"
        elif response.status_code == 401 and client.renew(
            SecretStr(response.request.headers["authorization"].removeprefix("Bearer "))
        ):
            response.headers["x-should-retry"] = "true"

    async def awaited_look(response: Any) -> None:
        await asyncio.to_thread(look, response)

    options: dict[str, Any] = {
        "base_url": client.openai_base,
        "timeout": client.seconds,
        "default_headers": {DEPLOYMENT: deployment} if deployment else None,
    }
    transport: dict[str, Any] = {"verify": _trusted(), "follow_redirects": False}
    made: OpenAI | AsyncOpenAI
    if asynchronous:
        http = openai.DefaultAsyncHttpxClient(**transport, event_hooks={"response": [awaited_look]})
        made = openai.AsyncOpenAI(api_key=awaited_key, http_client=http, **options)
    else:
        made = openai.OpenAI(
            api_key=key,
            http_client=openai.DefaultHttpxClient(**transport, event_hooks={"response": [look]}),
            **options,
        )
    made.organization = made.project = None  # of an account with OpenAI, from the environment: nobody else's business
    return made


def _trusted() -> ssl.SSLContext | bool:
    """Return the authorities that requests trusts, a local workspace's among them, as its own variables name them."""
    named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if not named:
        return True
    is_folder = Path(named).is_dir()
    return ssl.create_default_context(cafile=None if is_folder else named, capath=named if is_folder else None)
