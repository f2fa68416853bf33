"""A recorded exchange: a request and its answer, of which only form is left, and the file that holds many.

Redaction is a property of the type. An `Exchange` that holds a text which is not one of the public words in
``words.json`` (names of fields and of paths, values that are words of the service) cannot be made, and nothing but
exchanges is written: a name, an id, an address, a key, a token or a sentence has no way into a file.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, TypeAlias
from urllib.parse import parse_qsl, unquote

from phift.errors import LocalWorkspaceError
from phift.local.services.route import place_of
from phift.version import __version__

Shape: TypeAlias = "str | list[Shape] | dict[str, Shape] | None"
"""The form of a JSON value.

- None is null, and a list has no item or one, which has the fields of all.
- Objects keep the names that are known; the values of all others are one, under ``*``.
- Of a text it says ``text``, ``id`` with the kinds of the resources in it, ``date`` with the digits of its second and
  its zone, or, of the fields in `STABLE`, ``=`` and the word itself; then there are ``number`` and ``boolean``.
"""

_TABLE = json.loads((files("phift.local.recorder") / "words.json").read_text(encoding="utf-8"))
# The public words; no variable and no file of a user adds to them.
NAMES, VALUES, STABLE, PASSING, HEADERS = (
    frozenset(" ".join(_TABLE[part]).split()) for part in ("names", "values", "stable", "passing", "headers")
)
UNKNOWN = "*"

_LONGEST = 100 << 20  # characters of a recording; one of a whole chain has some 100,000

DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
_ID = re.compile(r"(azureml:/)?/subscriptions/[^?#]*")
_VERSION = re.compile(r"20[0-9]{2}-[01][0-9]-[0-3][0-9](-preview|-dataplanepreview|-privatepreview)?|v1\.0|1\.5\.0|")
_FORM = re.compile(r"text|number|boolean|date [0-9] (Z|[+]00:00|other)|(id|=) (?P<words>.+)")


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request and its answer; raises `ValueError` for a text that is no public word.

    - **operation**: the method and the path within the workspace, ``PUT jobs/{}``.
    - **version**: the api-version asked for; empty where there is none, or none of the usual form.
    - **query**: the names of the other parameters, in alphabetical order.
    - **sent**, **answer**: JSON bodies; ``text`` for any other, and None where there is none.
    """

    operation: str
    version: str
    query: tuple[str, ...]
    sent: Shape
    status: int
    headers: Mapping[str, Shape]
    answer: Shape

    def __post_init__(self) -> None:
        method, _, path = self.operation.partition(" ")
        known = {*NAMES, UNKNOWN, "{}"}
        texts = [*path.split("/"), *self.query]
        if (
            not known.issuperset(texts)
            or method not in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
            or not _VERSION.fullmatch(self.version)
            or type(self.status) is not int
            or not 100 <= self.status <= 999
            or not HEADERS.issuperset(self.headers)
        ):
            raise ValueError("something in this exchange is no public word")
        for shape in (self.sent, self.answer, *self.headers.values()):
            _check(shape)


def _check(shape: object) -> None:
    if isinstance(shape, dict):
        if not {*NAMES, UNKNOWN}.issuperset(shape):
            raise ValueError("a field's name is no public word")
        for each in shape.values():
            _check(each)
    elif isinstance(shape, list):
        for each in shape:
            _check(each)
    elif shape is not None:
        found = _FORM.fullmatch(shape) if isinstance(shape, str) else None
        words = found["words"] if found else None
        known = VALUES if str(shape).startswith("=") else {*NAMES, UNKNOWN}
        if found is None or (words and not known.issuperset([words] if known is VALUES else words.split("/"))):
            raise ValueError("a value is no public word")


def redacted(
    method: str, url: str, sent: bytes | None, status: int, headers: Mapping[str, str], answer: bytes | None
) -> Exchange:
    """Return what may be kept of a request and its answer.

    - **url**: with its query.
    - **headers**: of the answer.
    - **answer**: None where it has none, or is not to be looked at.
    """
    place, _, query = url.partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    version = parameters.pop("api-version", "")
    kept = {name.lower(): value for name, value in headers.items() if name.lower() in HEADERS}
    return Exchange(
        operation=_operation(method, place),
        version=version if _VERSION.fullmatch(version) else "",
        query=tuple(sorted({_name(parameter) for parameter in parameters})),
        sent=_body(sent),
        status=status,
        headers={name: shape_of(value.partition(";")[0], name) for name, value in sorted(kept.items())},
        answer=_body(answer),
    )


def _operation(method: str, place: str) -> str:
    """Return a request as it is called everywhere: what lies in a blob has one name, and a scoring address another."""
    host, _, path = place.partition("://")[2].partition("/")
    path = place_of(method, unquote(f"/{path}")).partition(" ")[2]
    if ".blob.core." in host or path.startswith("blobs/"):
        return f"{method} blobs"
    if ".inference." in host or path.startswith("inference/"):
        return f"{method} score"
    known = {name.lower(): name for name in sorted(NAMES)}
    return f"{method} " + "/".join(known.get(segment.lower(), "{}") for segment in path.split("/"))


def _name(text: str) -> str:
    return text if text in NAMES else UNKNOWN


def _body(body: bytes | None) -> Shape:
    if not body:
        return None
    try:
        return shape_of(json.loads(body))
    except (ValueError, RecursionError):
        return "text"


def shape_of(value: Any, name: str = "") -> Shape:
    """Return the form of a JSON value.

    - **name**: of the field that it stands in.
    """
    if value is None:
        return None
    if isinstance(value, dict):
        fields: dict[str, Shape] = {}
        for key, each in value.items():
            key = _name(key)
            shape = shape_of(each, key)
            fields[key] = merged(fields[key], shape) if key in fields else shape
        return fields
    if isinstance(value, list):
        items = [shape_of(each, name) for each in value]
        return [_union(items)] if items else []
    if isinstance(value, bool | int | float):
        return "boolean" if isinstance(value, bool) else "number"
    return _text(str(value), name)


def _text(text: str, name: str) -> str:
    if name in STABLE and text in VALUES:
        return f"= {text}"
    if found := DATE.fullmatch(text):
        zone = found[2] if found[2] in ("Z", "+00:00") else "other"
        return f"date {min(len(found[1] or ''), 9)} {zone}"
    if found := _ID.match(text):
        parts = found[0].removeprefix("azureml:/").strip("/").partition("/paths/")[0].split("/")
        return "id " + "/".join(map(_name, parts[::2]))
    return "text"


def _union(items: Iterable[Shape]) -> Shape:
    whole: Shape = None
    for item in items:
        whole = merged(whole, item)
    return whole


def merged(one: Shape, other: Shape) -> Shape:
    """Return a form with the fields of both; of two kinds the first."""
    if one is None:
        return other
    if isinstance(one, dict) and isinstance(other, dict):
        return {**one, **{name: merged(one.get(name), value) for name, value in other.items()}}
    if isinstance(one, list) and isinstance(other, list):
        return [_union([*one, *other])] if one or other else []
    return one


@dataclass
class Recording:
    """A file that is being written, a line for each exchange: what has been recorded is there, however it ends.

    - **count**: of the exchanges in it.
    - **failure**: why it is incomplete; behind a line that could not be written comes no other.
    """

    stream: IO[str]
    count: int = 0
    failure: OSError | None = None

    def write(self, exchange: Exchange) -> None:
        """Write an exchange; never raises for a full disk, which is none of the recorded program's business."""
        self.line(vars(exchange))
        self.count += self.failure is None

    def line(self, told: Mapping[str, object]) -> None:
        """Write it at once, unless something could not be written before."""
        try:
            if self.failure is None:
                self.stream.write(json.dumps(told) + "\n")
        except OSError as error:
            self.failure = error


@contextmanager
def begin(file: Path) -> Iterator[Recording]:
    """Record into a new file, of which nothing stays without an exchange.

    At the end it is read again: what somebody moved or changed meanwhile is no whole recording.

    Raises `phift.errors.LocalWorkspaceError` where the file is there already.
    """
    try:
        stream = file.open("x", encoding="utf-8", buffering=1)
    except FileExistsError as error:
        what = "This file is there already: another recording, or one in progress."
        raise LocalWorkspaceError(what, where=str(file), fix="name another file; none is written over") from error
    recording = Recording(stream)
    recording.line({"phift": __version__, "recorded": datetime.now(UTC).date().isoformat()})
    try:
        yield recording
    finally:
        with suppress(OSError):
            if not recording.count and os.path.samestat(os.fstat(stream.fileno()), file.lstat()):  # not another's
                file.unlink()
        try:
            stream.close()
        except OSError as error:
            recording.failure = error
        if recording.count and recording.failure is None:
            try:
                whole = len(read(file)[1]) == recording.count
            except (LocalWorkspaceError, OSError):
                whole = False
            if not whole:
                recording.failure = OSError(errno.ESTALE, "somebody moved or changed it meanwhile")


def read(file: Path) -> tuple[str, list[Exchange]]:
    """Return the date of a recording and what it holds; raises `phift.errors.LocalWorkspaceError` for other files.

    What stands behind the last end of a line is left out: it was being written when the recorder was killed.
    """
    fix = "make one: phift local record FILE COMMAND"
    try:
        head, *lines = _text_of(file).split("\n")[:-1]
        recorded = date.fromisoformat(json.loads(head)["recorded"]).isoformat()
        told = [json.loads(line) for line in lines]
        exchanges = [Exchange(**{**each, "query": tuple(each["query"])}) for each in told]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = "This is no recording, or one of another phift."
        raise LocalWorkspaceError(what, where=str(file), fix=fix) from error
    if not exchanges:  # against which everything would be right
        raise LocalWorkspaceError("This recording holds no exchange: its end is missing.", where=str(file), fix=fix)
    return recorded, exchanges


def _text_of(file: Path) -> str:
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("a pipe or a device, which may never end")
    with file.open(encoding="utf-8") as stream:
        text = stream.read(_LONGEST + 1)
    if len(text) > _LONGEST:
        raise ValueError(f"longer than {_LONGEST} characters")
    return text
