"""The same blob requests to the built-in routes and to Microsoft's storage emulator: what the SDK reads is the same."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import pytest
import requests
from azure.storage.blob import ContainerClient, generate_container_sas
from emulator import Emulator
from running import Local

from phift.local.state.identity import Identity

pytestmark = pytest.mark.slow

CONTAINER = "answers"
BUILT_IN = f"storage.blob.phift.local/{CONTAINER}"
ONE, TWO, OTHER = (b64encode(name).decode() for name in (b"00001", b"00002", b"00009"))
BLOCK = {"x-ms-blob-type": "BlockBlob"}
LIST = "restype=container&comp=list"


@dataclass(frozen=True)
class Ask:
    """A request: what it is called, and what is sent.

    - **allows**: the permissions in its signature; ``wrong``, ``over`` and ``none`` for one that is no good.
    """

    name: str
    method: str
    blob: str = ""
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    allows: str = "rwdl"


def _blocks(*names: str) -> bytes:
    listed = "".join(f"<Latest>{name}</Latest>" for name in names)
    return f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()


# One after another; each finds what those before it have left.
ASKED = (
    Ask("head of nothing", "HEAD", "a/x.txt"),
    Ask("get of nothing", "GET", "a/x.txt"),
    Ask("delete of nothing", "DELETE", "a/x.txt"),
    Ask("metadata of nothing", "PUT", "a/x.txt", "comp=metadata", {"x-ms-meta-k": "v"}, b""),
    Ask("list of nothing", "GET", query=LIST),
    Ask("put", "PUT", "a/x.txt", "", {**BLOCK, "x-ms-meta-First": "One"}, b"hello world"),
    Ask("put of another type", "PUT", "a/page.html", "", {**BLOCK, "x-ms-blob-content-type": "text/html"}, b"<p>"),
    Ask("put unless there", "PUT", "a/x.txt", "", {**BLOCK, "If-None-Match": "*"}, b"other"),
    Ask("put without a kind", "PUT", "a/y.txt", "", {}, b"hello"),
    Ask("head", "HEAD", "a/x.txt"),
    Ask("metadata", "PUT", "a/x.txt", "comp=metadata", {"x-ms-meta-upload_status": "completed"}, b""),
    Ask("bad metadata", "PUT", "a/x.txt", "comp=metadata", {"x-ms-meta-bad-name": "1"}, b""),
    Ask("head after metadata", "HEAD", "a/x.txt"),
    Ask("get", "GET", "a/x.txt"),
    Ask("get of another type", "GET", "a/page.html"),
    Ask("range", "GET", "a/x.txt", headers={"x-ms-range": "bytes=6-8"}),
    Ask("range over the end", "GET", "a/x.txt", headers={"x-ms-range": "bytes=6-800"}),
    Ask("range to the end", "GET", "a/x.txt", headers={"x-ms-range": "bytes=6-"}),
    Ask(
        "range with its hash",
        "GET",
        "a/x.txt",
        headers={"x-ms-range": "bytes=6-8", "x-ms-range-get-content-md5": "true"},
    ),
    Ask("plain range", "GET", "a/x.txt", headers={"Range": "bytes=0-4"}),
    Ask("range behind the end", "GET", "a/x.txt", headers={"x-ms-range": "bytes=100-"}),
    Ask("block", "PUT", "a/blocks", f"comp=block&blockid={quote(ONE)}", {}, b"one "),
    Ask("second block", "PUT", "a/blocks", f"comp=block&blockid={quote(TWO)}", {}, b"two"),
    Ask("block with a bad name", "PUT", "a/blocks", "comp=block&blockid=%25%25%25", {}, b"two"),
    Ask("head of blocks that are no blob yet", "HEAD", "a/blocks"),
    Ask("list before the blocks are a blob", "GET", query=f"{LIST}&prefix=a/"),
    Ask("unknown block", "PUT", "a/blocks", "comp=blocklist", {}, _blocks(OTHER)),
    Ask("no block list", "PUT", "a/blocks", "comp=blocklist", {}, b"<nonsense"),
    Ask("block list", "PUT", "a/blocks", "comp=blocklist", {"x-ms-meta-k": "v"}, _blocks(ONE, TWO)),
    Ask("get of blocks", "GET", "a/blocks"),
    Ask("head of blocks", "HEAD", "a/blocks"),
    Ask("put of nothing at all", "PUT", "a/empty", "", BLOCK, b""),
    Ask("get of nothing at all", "GET", "a/empty"),
    Ask("range of nothing at all", "GET", "a/empty", headers={"x-ms-range": "bytes=0-33554431"}),
    Ask("put of an odd name", "PUT", "a/s/deep&<é> +%41.txt", "", BLOCK, b"1"),
    Ask("put at the top", "PUT", "b.txt", "", BLOCK, b"1"),
    Ask("list", "GET", query=LIST),
    Ask("list with metadata", "GET", query=f"{LIST}&prefix=a/&include=metadata"),
    Ask("list of a folder", "GET", query=f"{LIST}&prefix=a/&delimiter=/"),
    Ask("list of the top", "GET", query=f"{LIST}&delimiter=/&include=metadata"),
    Ask("list of part of a name", "GET", query=f"{LIST}&prefix=a/s/de"),
    Ask("list of no such prefix", "GET", query=f"{LIST}&prefix=none"),
    Ask("first page", "GET", query=f"{LIST}&maxresults=2"),
    Ask("folder for a blob", "GET", "a"),
    Ask("no signature", "GET", "b.txt", allows="none"),
    Ask("wrong signature", "GET", "b.txt", allows="wrong"),
    Ask("signature that is over", "GET", "b.txt", allows="over"),
    Ask("head with a signature that is over", "HEAD", "b.txt", allows="over"),
    Ask("get, may write", "GET", "b.txt", allows="w"),
    Ask("head, may write", "HEAD", "b.txt", allows="w"),
    Ask("put, may read", "PUT", "b.txt", "", BLOCK, b"2", allows="r"),
    Ask("metadata, may read", "PUT", "b.txt", "comp=metadata", {}, b"", allows="r"),
    Ask("block, may read", "PUT", "b.txt", f"comp=block&blockid={quote(ONE)}", {}, b"2", allows="r"),
    Ask("delete, may write", "DELETE", "b.txt", allows="rw"),
    Ask("list, may read", "GET", query=LIST, allows="r"),
    Ask("delete", "DELETE", "b.txt"),
    Ask("delete again", "DELETE", "b.txt"),
)

# Where the two differ, and why the built-in routes do not follow; each is (field, built-in, azurite).
_SIGNATURE = ("x-ms-error-code", "AuthenticationFailed", "AuthorizationFailure")
_HASH = "x-ms-blob-content-md5"
DIFFERENT = {
    # Azure says AuthenticationFailed of one that is over (microsoft/AzureStorageExplorer issue 3219, 2020-07-10;
    # floci-io/floci-az issue 89, 2026-06-25) and of one that is badly formed (Microsoft Learn, "Common REST API error
    # codes").
    "no signature": _SIGNATURE,
    "wrong signature": _SIGNATURE,
    "signature that is over": _SIGNATURE,
    "head with a signature that is over": _SIGNATURE,
    # azurite refuses these with no code at all; the codes are those of "Common REST API error codes".
    "put without a kind": ("x-ms-error-code", "MissingRequiredHeader", None),
    "no block list": ("x-ms-error-code", "InvalidXmlDocument", None),
    # Microsoft Learn, "Get Blob": the hash of the whole blob goes with a range.
    "get": (_HASH, None, "XrY7u+Ae7tCTyyK7j1rNww=="),
    "get of another type": (_HASH, None, "TaGkbsIM+T7lyEalHgTw7Q=="),
    "get of nothing at all": (_HASH, None, "1B2M2Y8AsgTpgAmY7PhCfg=="),
    # "Get Blob" gives the hash that the blob has, and one that was put together from blocks has none of its own.
    "get of blocks": ("content-md5", None, "quLDOhBa0/KPOUAtZ6JLIA=="),
}

_ALWAYS = ("x-ms-error-code", "content-range")
_ON_SUCCESS = (
    *("etag", "last-modified", "accept-ranges", "content-md5", _HASH, "x-ms-blob-type", "x-ms-creation-time"),
    *("x-ms-lease-state", "x-ms-lease-status", "x-ms-server-encrypted", "x-ms-request-server-encrypted"),
    *("x-ms-access-tier", "x-ms-access-tier-inferred", "x-ms-delete-type-permanent"),
)
# azurite says when a tier was set that nobody has set, and encryption only for blobs in one piece.
_UNREAD = {"AccessTierChangeTime", "ServerEncrypted"}

Answers = dict[str, dict[str, Any]]


def _form(value: str | None) -> str | None:
    """Return a header's value, or the form of one that is another one each time."""
    if value is None:
        return None
    value = re.sub(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", "<time>", value)
    return re.sub(r"^(\"?)0x[0-9A-F]{8,}(\"?)$", r"\1<etag>\2", value)


def _shape(ask: Ask, answer: requests.Response) -> dict[str, Any]:
    """Return what the SDK reads of an answer."""
    headers, good = answer.headers, answer.ok
    shape: dict[str, Any] = {"status": answer.status_code}
    shape |= {name: _form(headers.get(name)) for name in (*_ALWAYS, *(_ON_SUCCESS if good else ()))}
    shape |= {name.lower(): headers[name] for name in headers if name.lower().startswith("x-ms-meta-")}
    if good and ask.blob and ask.method in ("GET", "HEAD"):
        shape |= {name: headers.get(name) for name in ("content-type", "content-length")} | {"body": answer.content}
    if good and not ask.blob:
        shape |= _listed(answer.content)
    return shape


def _listed(body: bytes) -> dict[str, Any]:
    """Return what a list says; azurite has the folders first, and Azure all in the order of their names."""
    root = ElementTree.fromstring(body)  # noqa: S314 - of the two servers that this test has started
    blobs = root.find("Blobs")
    assert blobs is not None
    entries = sorted(
        (
            entry.findtext("Name") or "",
            entry.tag,
            _elements(entry.find("Properties")),
            _elements(entry.find("Metadata")),
        )
        for entry in blobs
    )
    texts = {name: root.findtext(name) or "" for name in ("Prefix", "MaxResults", "NextMarker")}
    return {"entries": entries, **texts}


def _elements(parent: ElementTree.Element | None) -> list[tuple[str, str]]:
    """Return what is told of a blob; Azure has these two though nothing is in them, as recorded 2024-05-13."""
    empty = [("Content-CRC64", None), ("Content-Encoding", None)]
    return sorted(
        (child.tag, _form(child.text) or "")
        for child in (parent if parent is not None else ())
        if child.tag not in _UNREAD and (child.tag, child.text) not in empty
    )


def _sign(sas: Callable[[str, float], str], allows: str) -> str:
    if allows == "none":
        return ""
    if allows == "over":
        return sas("rwdl", -60)
    signature = sas("rwdl" if allows == "wrong" else allows, 3600)
    # The last bytes of the signature, in an alphabet that a query takes as it is.
    return re.sub(r"sig=.{8}", "sig=AAAAAAAA", signature) if allows == "wrong" else signature


def _answers(container: str, ca_bundle: str, sas: Callable[[str, float], str]) -> Answers:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = ca_bundle
        found = {}
        for ask in ASKED:
            query = "&".join(part for part in (ask.query, _sign(sas, ask.allows)) if part)
            url = f"{container}{f'/{quote(ask.blob)}' if ask.blob else ''}?{query}"
            headers = {"x-ms-version": "2021-08-06", **ask.headers}
            found[ask.name] = _shape(ask, session.request(ask.method, url, headers=headers, data=ask.body, timeout=60))
    assert len(found) == len(ASKED), "two requests have the same name"
    return found


@pytest.fixture(scope="module")
def built_in(local: Local) -> Answers:
    identity = Identity(local.connection.secret())

    def sas(allows: str, seconds: float) -> str:
        return identity.sas(BUILT_IN, allows, seconds=seconds)

    return _answers(f"{local.connection.base_url}/{BUILT_IN}", str(local.connection.ca_bundle), sas)


@pytest.fixture(scope="module")
def microsofts(azurite: Emulator) -> Iterator[Answers]:
    def sas(allows: str, seconds: float) -> str:
        end = datetime.now(UTC) + timedelta(seconds=seconds)
        return generate_container_sas(azurite.name, CONTAINER, azurite.key, permission=allows, expiry=end)

    with ContainerClient(azurite.url, CONTAINER, azurite.key, connection_verify=str(azurite.ca_bundle)) as client:
        client.create_container()
        yield _answers(f"{azurite.url}/{CONTAINER}", str(azurite.ca_bundle), sas)
        client.delete_container()


@pytest.mark.parametrize("name", [ask.name for ask in ASKED])
def test_the_answers_are_the_same(name: str, built_in: Answers, microsofts: Answers) -> None:
    ours, theirs = built_in[name], microsofts[name]
    if name in DIFFERENT:
        known, *values = DIFFERENT[name]
        assert [ours[known], theirs[known]] == values
        theirs = {**theirs, known: values[0]}
    assert ours == theirs


def test_the_document_says_how_many() -> None:
    text = " ".join((Path(__file__).parents[2] / "docs/local-workspace.md").read_text(encoding="utf-8").split())
    words = {10: "ten"}
    assert f"answers to {len(ASKED)} requests" in text
    assert f"for {words[len(DIFFERENT)]} answers" in text


def test_the_requests_do_what_they_are_called_for(built_in: Answers) -> None:
    """Two servers that refuse everything would agree as well."""
    statuses = {name: answer["status"] for name, answer in built_in.items()}
    assert (statuses["put"], statuses["get"], statuses["range"], statuses["delete"]) == (201, 200, 206, 202)
    assert built_in["get of blocks"]["body"] == b"one two"
    assert [entry[0] for entry in built_in["list of a folder"]["entries"]] == [
        *("a/blocks", "a/empty", "a/page.html", "a/s/", "a/x.txt"),
    ]
    assert built_in["first page"]["NextMarker"]
    assert built_in["signature that is over"]["status"] == 403
