"""Whether a service was sent what a ``.netrc`` says, and not the credential of whoever called.

requests, which carries azure-core and all clients of the Azure SDK, puts a name and a password from that file in the
place of the ``Authorization`` header, for a host that has an entry there, or for any where there is a ``default`` one
(2.34, ``Session.prepare_request``; the docs say so under "netrc Authentication").
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def sent_instead(causes: Iterable[BaseException]) -> tuple[Path, str] | None:
    """Return the file whose entry was sent with a refused request, and to which host; None where none was.

    - **causes**: an error, and what it was raised from.
    """
    from requests.utils import get_netrc_auth

    for cause in causes:
        response: Any = getattr(cause, "response", None)
        # azure-core keeps the answer of requests, in which is what really went out.
        request = getattr(getattr(response, "internal_response", response), "request", None)
        url, sent = getattr(request, "url", None), getattr(request, "headers", None)
        if not isinstance(url, str) or not str((sent or {}).get("Authorization")).startswith("Basic "):
            continue  # no service of Azure's takes a name and a password
        if get_netrc_auth(url) and (file := _file()):
            return file, str(urlsplit(url).hostname)
    return None


def _file() -> Path | None:
    """Return the file that requests reads."""
    from requests.utils import NETRC_FILES

    named = os.environ.get("NETRC")
    names = [named] if named is not None else [f"~/{name}" for name in NETRC_FILES]
    return next((path for name in names if (path := Path(name).expanduser()).exists()), None)
