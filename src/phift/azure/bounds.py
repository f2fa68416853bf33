"""What an answer may have its clients do: how long they wait, how much they read, and where they go on.

The SDK's clients and ours follow what an answer says: they wait as long as ``Retry-After`` has it, read a body to its
end, and send their token wherever ``nextLink`` or an operation's address leads. Hooks of azure-core and of requests
keep that within bounds, in all clients that are made here (`phift.azure.connect`). They see nothing of an answer before
its head has ended, nor while a chunk's size or a packed file's name goes on: there the connection counts the time.
"""

from __future__ import annotations

import http.client
import io
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from phift.errors import ServiceError, redact

if TYPE_CHECKING:
    import requests

LONGEST_PAUSE = 300.0
"""Seconds that an answer may ask to be left alone; after longer ones the clients' own, shorter ones are waited."""

MOST_ANSWERED = 256 << 20
"""Bytes of an answer, unpacked."""

LONGEST_ANSWER = 300.0
"""Seconds that an answer may take from its first byte to its last."""

LONGEST_LINES = 60.0
"""Seconds from the first byte of an answer's head to its last, and of lines between its pieces and behind them."""

_ASKED = "phift_asked"  # where a request keeps the address that it was made for, before any redirect
_PAUSES = ("retry-after", "retry-after-ms", "x-ms-retry-after-ms")
_OPERATIONS = ("azure-asyncoperation", "operation-location")
_PIECE = 1 << 16
_CONNECTION = "get_connection_with_tls_context"  # the lowest place in requests that all of its requests go through


def bound(request: Any) -> None:
    """Have azure-core read no more of the answer than is allowed; called with every request."""
    request.context.setdefault(_ASKED, request.http_request.url)
    transport: Any = getattr(request.context, "transport", None)
    if hasattr(transport, "session"):
        transport.open()  # what it would do next
        end_lines(transport.session)
    request.context.options["hooks"] = {"response": read_bounded}


def check_answer(response: Any) -> None:
    """Shorten the wait that an answer asks for, and refuse one that goes on at another host; called with every answer.

    Where a token is refused, the call is to be sent again, whatever its method: it was not carried out (RFC 9110,
    15.5.2). Each client of the SDK keeps a token of its own, and forgets one that is refused (azure-core 1.41,
    ``BearerTokenCredentialPolicy``), so that it goes with a new one, up to three times in five seconds.

    Raises `phift.errors.ServiceError`.
    """
    answer = response.http_response
    headers = answer.headers
    for name in _PAUSES:
        if headers.get(name) and not _is_short(response, name):
            del headers[name]
    if answer.status_code == 401:
        headers.setdefault("Retry-After", "0")  # which azure-core heeds for every method
    asked = str(response.context.get(_ASKED) or "")
    if not asked or 300 <= answer.status_code < 400:  # a redirect is followed without a token
        return
    links = [headers.get(name) for name in _OPERATIONS] + _links(answer)
    if answer.status_code < 300:  # azure-core 1.41 asks there how an operation goes, be it 200, 201 or 202
        links.append(headers.get("location"))
        if answer.request.method not in ("GET", "HEAD"):  # and here, where a redirect led
            links.append(answer.request.url)
    for link in links:
        if isinstance(link, str) and leads_away(link, asked):
            place = redact(link.partition("?")[0])[:200]
            what = f"The service's answer goes on at another host ({place}), which gets no token."
            fix = "look at what answers in the service's place, a proxy say"
            raise ServiceError(what, where=asked.partition("?")[0], fix=fix)


def _is_short(response: Any, name: str) -> bool:
    from azure.core.pipeline.policies._utils import parse_retry_after

    with suppress(ValueError, TypeError, OverflowError):  # what is neither a number nor a date
        seconds = parse_retry_after(response.http_response.headers[name]) / (1000 if name.endswith("-ms") else 1)
        return seconds <= LONGEST_PAUSE  # NaN is not
    return False


def _links(answer: Any) -> list[Any]:
    """Return where a list goes on and where an operation's resource is, if azure-core has read it and it says so."""
    from azure.core.exceptions import ResponseNotReadError

    if not getattr(getattr(answer, "internal_response", None), "_content_consumed", False):
        return []
    with suppress(ValueError, LookupError, RecursionError, ResponseNotReadError):  # the last: read by an adapter only
        document = json.loads(answer.text())  # as azure-core decodes it
        return [document.get("nextLink"), document.get("resourceLocation")] if isinstance(document, dict) else []
    return []


def leads_away(link: str, asked: str) -> bool:
    """Tell whether an address is of another host than the one asked, by the parser that requests has.

    Azure's regional hosts are below the one asked, or above it, where that has three labels as ``api.azureml.ms`` has;
    a path alone stays where it is.
    """
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    if re.search(r"[\\\s]", link):
        return True
    try:
        there, here = parse_url(link), parse_url(asked)
    except LocationParseError:
        return True
    if there.scheme is None and there.host is None:
        return False
    theirs, ours = (f".{(url.host or '').lower()}:{url.port or 443}" for url in (there, here))
    is_above = ours.endswith(theirs) and theirs.count(".") >= 3
    return there.scheme != here.scheme or not (theirs.endswith(ours) or is_above)


def read_bounded(response: requests.Response, **options: Any) -> None:
    """Read an answer as requests would, but not for ever; what is streamed is left to whoever reads it.

    One that an adapter has read already, to change it or out of a cache, is left as it is.

    For ``hooks={"response": …}`` of requests; raises `phift.errors.ServiceError`.
    """
    if options.get("stream") or vars(response)["_content"] is not False:
        return
    try:
        response._content = b"".join(read_arriving(response))  # what requests keeps when it has read the answer itself
    except BaseException as error:
        response.close()
        if isinstance(error, ServiceError):
            error.where = redact((response.url or "").partition("?")[0])
        raise
    vars(response)["_content_consumed"] = True


def read_arriving(response: requests.Response, end: float = math.inf) -> Iterator[bytes]:
    """Yield what comes of an answer's body, as it comes, up to what an answer may have.

    - **end**: when nothing more is waited for, by the monotonic clock; `LONGEST_ANSWER` from now at the latest.

    Raises `phift.errors.ServiceError` where it is longer or takes longer, and what requests raises.
    """
    import requests

    if vars(response)["_content"] is not False:  # as for `read_bounded`
        yield response.content
        return
    end, size = min(end, time.monotonic() + LONGEST_ANSWER), 0
    late = _endless(_too_slow(end - time.monotonic()))
    _end_wire(response, end)
    _wait_until(response, end)
    try:
        for piece in _pieces(response):
            size += len(piece)
            if size > MOST_ANSWERED:
                raise _endless(f"is longer than {MOST_ANSWERED >> 20} MB")
            if time.monotonic() > end:
                raise late
            yield piece
            _wait_until(response, end)
    except requests.RequestException:
        if time.monotonic() >= end:  # the last read was not waited for
            raise late from None
        raise


def _wait_until(response: requests.Response, end: float) -> None:
    """Have the next read wait no longer than that; each would wait as long as the first one."""
    connection = getattr(response.raw, "connection", None)
    if (sock := getattr(connection, "sock", None)) is not None:
        left = max(0.001, end - time.monotonic())
        sock.settimeout(min(left, sock.gettimeout() or left))


def read_part(response: requests.Response, skip: int, most: int) -> bytes:
    """Return at most so many bytes of a streamed answer, behind the first ``skip``, and let go of the others.

    Raises `phift.errors.ServiceError` for one that does not get there in time.
    """
    end, part = time.monotonic() + LONGEST_ANSWER, bytearray()
    _end_wire(response, end)
    with response:
        for piece in _pieces(response):
            part += piece[skip:]
            skip = max(0, skip - len(piece))
            if len(part) >= most:
                break
            if time.monotonic() > end:
                raise _endless(_too_slow(LONGEST_ANSWER), redact((response.url or "").partition("?")[0]))
    return bytes(part[:most])


def _end_wire(response: requests.Response, end: float) -> None:
    if isinstance(answer := getattr(response.raw, "_original_response", None), _Answer):
        answer.wire.end = end


def _endless(why: str, where: str = "") -> ServiceError:
    return ServiceError(f"The service's answer {why}.", where=where, fix="look at what answers there, a proxy say")


def _too_slow(seconds: float) -> str:
    return f"does not end within {seconds:.0f} s"


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """Yield what has come, as it comes; ``iter_content`` would wait for a whole piece, however long that takes."""
    import requests
    from urllib3 import exceptions

    if not hasattr(response.raw, "read1"):  # urllib3 1
        yield from response.iter_content(_PIECE)
        return
    try:
        while piece := response.raw.read1(_PIECE, decode_content=True):
            yield piece
    except exceptions.ReadTimeoutError as error:
        raise requests.ConnectionError(error) from error  # as requests has them
    except exceptions.DecodeError as error:
        raise requests.exceptions.ContentDecodingError(error) from error
    except exceptions.HTTPError as error:
        raise requests.exceptions.ChunkedEncodingError(error) from error


# ---------------------------------------------------------------- what comes in lines


def end_lines(session: requests.Session) -> None:
    """Have the lines end that a session is sent: an answer's head, and what stands between its pieces and behind them.

    http.client waits for each byte of them anew, and reads interim answers and trailers on for ever (Python 3.14).
    """
    for adapter in session.adapters.values():
        if hasattr(adapter, _CONNECTION) and _CONNECTION not in vars(adapter):
            vars(adapter)[_CONNECTION] = partial(_connection, ref(adapter))


def _connection(of: Callable[[], Any], *arguments: Any, **options: Any) -> Any:
    adapter = of()
    pool = getattr(type(adapter), _CONNECTION)(adapter, *arguments, **options)
    if "ConnectionCls" not in vars(pool):
        answer = staticmethod(partial(_Answer, f"{pool.scheme}://{pool.host}:{pool.port}"))
        # Under its own name, by which errors tell what did not answer.
        pool.ConnectionCls = type(pool.ConnectionCls.__name__, (pool.ConnectionCls,), {"response_class": answer})
    return pool


class _Answer(http.client.HTTPResponse):
    def __init__(self, place: str, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.wire = _Wire(self.fp.detach(), place)
        self.fp = _Lines(self.wire)

    def begin(self) -> None:
        super().begin()
        self.wire.end_of_lines = math.inf  # what comes now may be thought about


class _Wire(io.RawIOBase):
    """The bytes that a server sends.

    - **end**: when nothing more is waited for.
    - **end_of_lines**: the same, as long as lines are read; None until the first byte of them.
    """

    def __init__(self, raw: io.RawIOBase, place: str) -> None:
        self._raw, self._place = raw, place
        self.end = math.inf
        self.end_of_lines: float | None = math.inf

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        count = self._raw.readinto(buffer)
        now = time.monotonic()
        if self.end_of_lines is None:
            self.end_of_lines = now + LONGEST_LINES
        for end, seconds in ((self.end_of_lines, LONGEST_LINES), (self.end, LONGEST_ANSWER)):
            if now > end:
                raise _endless(_too_slow(seconds), self._place)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Lines(io.BufferedReader):
    raw: _Wire

    def readline(self, size: int | None = -1, /) -> bytes:
        if self.raw.end_of_lines == math.inf:
            self.raw.end_of_lines = None
        return super().readline(size)

    def read(self, size: int | None = -1, /) -> bytes:
        self.raw.end_of_lines = math.inf
        return super().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        self.raw.end_of_lines = math.inf
        return super().read1(size)

    def readinto(self, buffer: Any, /) -> int:
        self.raw.end_of_lines = math.inf
        return super().readinto(buffer)
