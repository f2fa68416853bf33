"""The storage account: the few blob operations that the SDK uses."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from phift.local.model import files
from phift.local.model.files import Blob, path_of
from phift.local.names import ACCOUNT, DATASTORES, LOGIN, MODELS, TENANT
from phift.local.services.route import Route
from phift.local.site import Site
from phift.local.state.identity import InvalidToken
from phift.local.wire import Call, Reply, WireError, whole_number

_CHUNK = 1024 * 1024
# The largest upload in one piece: the storage client cuts into blocks above 64 MiB, older ones above 256 MiB.
LARGEST_BLOB = 257 * 1024 * 1024
_LARGEST_HASHED = 4 * 1024 * 1024
_LARGEST_LIST = 8 * 1024 * 1024
_PAGE = 5000  # the most that one answer lists, as in Azure


def _place(call: Call) -> tuple[str, str]:
    """Return the container and the name of the blob that is asked for; the registry's container lies at the top."""
    return call["container"] or MODELS, call["name"]


def _permitted(site: Site, call: Call) -> None:
    """Let call who has a shared-access signature for what is asked for, or a token for storage.

    A signature made with an account's key is refused where that takes none (azure-sdk-assets,
    test_pipeline_job_download, 2026-02-27).
    """
    if "sig" not in call.query and call.headers.get("authorization"):
        _check_token(site, call)
        return
    if site.datastores == "keys-off" and call["container"] in DATASTORES.values() and call.query.get("sr") == "c":
        message = "Key based authentication is not permitted on this storage account."
        raise WireError(403, "KeyBasedAuthenticationNotPermitted", message)
    path = "/".join(part for part in (ACCOUNT, *_place(call)) if part)
    if not site.identity.sas_is_good(path, call.query):
        message = "Server failed to authenticate the request. Make sure the signature is formed correctly."
        raise WireError(403, "AuthenticationFailed", message)
    if not site.identity.sas_allows(call.method, path, call.query):
        message = "This request is not authorized to perform this operation using this permission."
        raise WireError(403, "AuthorizationPermissionMismatch", message)


def _check_token(site: Site, call: Call) -> None:
    """Ask for a token of ours that is for storage; its owner may read and write all but the registry's models.

    The code and the words: Microsoft Learn, "Authorize with Microsoft Entra ID" (Storage), read 2026-11.
    """
    scheme, _, token = call.headers["authorization"].partition(" ")
    try:
        audience = str(site.identity.claims(token)["aud"]) if scheme.lower() == "bearer" else ""
    except InvalidToken:
        audience = ""
    if not re.fullmatch(r"https://(storage\.azure\.com|[^/]+\.blob\.core\.windows\.net)/?", audience):
        message = "Server failed to authenticate the request. Please refer to the information in the www-authenticate "
        challenge = f"Bearer authorization_uri={LOGIN}/{TENANT}/oauth2/authorize resource_id=https://storage.azure.com"
        raise WireError(401, "InvalidAuthenticationInfo", message + "header.", {"WWW-Authenticate": challenge})
    if _place(call)[0] == MODELS:
        message = "This request is not authorized to perform this operation using this permission."
        raise WireError(403, "AuthorizationPermissionMismatch", message)


def _existing(site: Site, call: Call) -> Blob:
    blob = files.find(site, *_place(call))
    if blob is None:
        raise WireError(404, "BlobNotFound", "The specified blob does not exist.")
    return blob


def _check_conditions(call: Call, blob: Blob | None) -> None:
    """Refuse a request whose If-Match or If-None-Match does not hold, as storage does.

    304 for reading what the caller has already, 409 for a blob that was not to be there, else 412 (Microsoft Learn,
    "Specifying conditional headers for Blob service operations", read 2026-11). Two writers at the same moment may
    both be let through.
    """
    message = "The condition specified using HTTP conditional header(s) is not met."
    wanted, unwanted = (call.headers.get(name, "").strip('"') for name in ("if-match", "if-none-match"))
    if wanted and (blob is None or wanted not in ("*", blob.etag)):
        raise WireError(412, "ConditionNotMet", message)
    if unwanted and blob is not None and unwanted in ("*", blob.etag):
        if call.method in ("GET", "HEAD"):
            raise WireError(304, "ConditionNotMet", message)
        if unwanted == "*":
            raise WireError(409, "BlobAlreadyExists", "The specified blob already exists.")
        raise WireError(412, "ConditionNotMet", message)


def _described(blob: Blob) -> dict[str, str]:
    """Return the headers that say what a blob is."""
    return {
        "ETag": f'"{blob.etag}"',
        "Last-Modified": blob.modified,
        "Accept-Ranges": "bytes",
        "Content-Type": blob.kind,
        "x-ms-blob-type": "BlockBlob",
        "x-ms-creation-time": blob.created,
        "x-ms-lease-state": "available",
        "x-ms-lease-status": "unlocked",
        "x-ms-server-encrypted": "true",
        **{f"x-ms-meta-{key}": value for key, value in blob.metadata.items()},
    }


def _head(site: Site, call: Call) -> Reply:
    blob = _existing(site, call)
    _check_conditions(call, blob)
    headers = {**_described(blob), "Content-Length": str(blob.size), **({"Content-MD5": blob.md5} if blob.md5 else {})}
    return Reply(None, 200, {**headers, "x-ms-access-tier": "Hot", "x-ms-access-tier-inferred": "true"})


def _get(site: Site, call: Call) -> Reply:
    # A log file grows while it is read: only what was there when the answer began is promised and sent.
    blob = _existing(site, call)
    _check_conditions(call, blob)
    first, last, status = 0, blob.size - 1, 200
    wanted = re.fullmatch(
        r"bytes=([0-9]{1,19})-([0-9]{0,19})", call.headers.get("x-ms-range") or call.headers.get("range", "")
    )
    headers = _described(blob)
    if wanted:
        first, last, status = int(wanted[1]), min(int(wanted[2] or last), last), 206
        if first >= blob.size or last < first:
            message = "The range specified is invalid for the current size of the resource."
            raise WireError(416, "InvalidRange", message, {"Content-Range": f"bytes */{blob.size}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{blob.size}"
    if blob.md5:
        headers["x-ms-blob-content-md5" if wanted else "Content-MD5"] = blob.md5
    if call.headers.get("x-ms-range-get-content-md5", "").lower() == "true":
        headers["Content-MD5"] = _hash_of_range(blob, bool(wanted), first, last)
    headers["Content-Length"] = str(last - first + 1)
    return Reply(None, status, headers, blob.kind, _read(blob.path, first, last - first + 1))


def _hash_of_range(blob: Blob, wanted: bool, first: int, last: int) -> str:
    """Return the MD5 of a range, which has 4 MiB at most (Microsoft Learn, "Get Blob", read 2026-11)."""
    if not wanted or last - first >= _LARGEST_HASHED:
        message = "The value for one of the HTTP headers is not in the correct format."
        raise WireError(400, "InvalidHeaderValue", message)
    return _md5(_read(blob.path, first, last - first + 1))


def _read(path: Path, start: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while length > 0:
            chunk = file.read(min(_CHUNK, length))
            if not chunk:
                return
            length -= len(chunk)
            yield chunk


def _put(site: Site, call: Call) -> Reply:
    """Write a blob, a block of one, or its metadata."""
    (container, name), part = _place(call), call.query.get("comp", "")
    if part == "block":
        path_of(site, container, name)  # a name that cannot be a blob's is refused now
        block = call.query.get("blockid", "")
        try:
            base64.b64decode(block, validate=True)
        except ValueError as error:
            raise WireError(400, "InvalidQueryParameterValue", "The block id is not base64.") from error
        files.write_block(site, container, name, block, _parts(call))
        return Reply(None, 201, {"x-ms-request-server-encrypted": "true"})
    if part == "metadata":
        files.set_metadata(site, container, _existing(site, call), _metadata(call))
    elif part in ("", "blocklist"):
        _write(site, call, whole=not part)
    else:
        raise WireError(501, "NotImplemented", f"The local workspace does not serve PUT blob with comp={part}")
    blob = _existing(site, call)
    headers = {"ETag": f'"{blob.etag}"', "Last-Modified": blob.modified, "x-ms-request-server-encrypted": "true"}
    if part == "metadata":
        return Reply(None, 200, headers)
    return Reply(None, 201, {**headers, "Content-MD5": _hash(call)})


def _parts(call: Call) -> Iterator[bytes]:
    call.content.seek(0)
    yield from iter(partial(call.content.read, _CHUNK), b"")


def _hash(call: Call) -> str:
    return _md5(_parts(call))


def _md5(parts: Iterable[bytes]) -> str:
    found = hashlib.md5(usedforsecurity=False)
    for part in parts:
        found.update(part)
    return base64.b64encode(found.digest()).decode()


def _metadata(call: Call) -> dict[str, str]:
    prefix = "x-ms-meta-"
    found = {key[len(prefix) :]: value for key, value in call.headers.items() if key.lower().startswith(prefix)}
    if not all(re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII) for key in found):
        raise WireError(400, "InvalidMetadata", "The metadata specified is invalid: its names must be identifiers.")
    return found


def _write(site: Site, call: Call, *, whole: bool) -> None:
    """Write a blob that comes in one piece, or put one together from its blocks."""
    (container, name), headers = _place(call), call.headers
    _check_conditions(call, files.find(site, container, name))
    if path_of(site, container, name).is_dir():
        raise WireError(409, "BlobTypeNotSupported", "A folder of this name holds other blobs.")
    if whole and headers.get("x-ms-blob-type") != "BlockBlob":
        message = "The header x-ms-blob-type is not BlockBlob; no others are served."
        raise WireError(400, "MissingRequiredHeader", message)
    # The conditions come first: of two uploads at once, the slower one finds its blocks gone with the faster one's.
    parts = _parts(call) if whole else _blocks(site, call)
    kind = headers.get("x-ms-blob-content-type") or (headers.get("content-type") if whole else None)
    # Storage works out the hash of a blob that comes in one piece, and of no other.
    md5 = headers.get("x-ms-blob-content-md5") or (_hash(call) if whole else None)
    about = {"metadata": _metadata(call), "type": kind or files.BYTES, "md5": md5}
    try:
        files.write(site, container, name, parts, about)
    except (FileExistsError, NotADirectoryError) as error:
        raise WireError(409, "BlobTypeNotSupported", "A part of this name is itself a blob.") from error
    shutil.rmtree(files.block_folder(site, container, name), ignore_errors=True)


def _block_list(call: Call) -> bytes:
    """Return the XML that lists blocks."""
    call.content.seek(0)
    sent = call.content.read(_LARGEST_LIST + 1)
    if len(sent) > _LARGEST_LIST:
        raise WireError(413, "RequestBodyTooLarge", f"The block list is larger than {_LARGEST_LIST} bytes.")
    if b"<!DOCTYPE" in sent or b"<!ENTITY" in sent:
        raise WireError(400, "InvalidXmlDocument", "The block list must not declare entities.")
    return sent


def _blocks(site: Site, call: Call) -> Iterator[bytes]:
    sent = _block_list(call)
    try:
        listed = ElementTree.fromstring(sent)  # noqa: S314 - no document type, so no entities to expand
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the others: of an encoding that there is none
        raise WireError(400, "InvalidXmlDocument", "The block list is not XML.") from error
    blocks = [files.block_file(site, *_place(call), element.text or "") for element in listed]
    if not all(block.is_file() for block in blocks):
        raise _invalid_blocks()
    return _joined(blocks)


def _joined(blocks: list[Path]) -> Iterator[bytes]:
    for block in blocks:
        try:
            yield from _read(block, 0, block.stat().st_size)
        except FileNotFoundError as error:  # it has gone with the faster one of two uploads at once
            raise _invalid_blocks() from error


def _invalid_blocks() -> WireError:
    return WireError(400, "InvalidBlockList", "The specified block list is invalid.")


def _delete(site: Site, call: Call) -> Reply:
    blob = _existing(site, call)
    _check_conditions(call, blob)
    files.delete(site, _place(call)[0], blob.name)
    return Reply(None, 202, {"x-ms-delete-type-permanent": "true"})


def _list(site: Site, call: Call) -> Reply:
    """List blobs by prefix, page by page; with a delimiter, folders are summed up as prefixes.

    The marker of the next page is the last name of this one; in Azure it is a text that means nothing to the reader
    (Microsoft Learn, "List Blobs", 2026-11).
    """
    if call.query.get("comp") != "list":
        raise WireError(501, "NotImplemented", f"The local workspace does not serve GET {call.path} on a container")
    container, _ = _place(call)
    prefix, delimiter, marker = (call.query.get(name, "") for name in ("prefix", "delimiter", "marker"))
    most = min(whole_number(call.query.get("maxresults") or _PAGE, "maxresults"), _PAGE)
    if most < 1:
        raise WireError(400, "OutOfRangeQueryParameterValue", "maxresults must be at least 1.")
    # What is listed: a name, and whether it is not a blob's but the part up to the delimiter of others.
    entries = [(name, False) for name in files.names(site, container, prefix)]
    if delimiter:
        cut = (name[len(prefix) :].partition(delimiter) for name, _ in entries)
        entries = sorted({(prefix + head + found, bool(found)) for head, found, _ in cut})
    entries = [entry for entry in entries if entry[0] > marker]
    with_metadata = "metadata" in call.query.get("include", "").split(",")
    listed = []
    for name, folder in entries[:most]:
        if folder:
            listed.append(f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>")
        elif blob := files.find(site, container, name):
            listed.append(_element(blob, with_metadata=with_metadata))
    text = (
        f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="{site.base_url}/{ACCOUNT}/" '
        f'ContainerName="{escape(container)}"><Prefix>{escape(prefix)}</Prefix><Marker>{escape(marker)}</Marker>'
        f"<MaxResults>{most}</MaxResults><Blobs>{''.join(listed)}</Blobs>"
        f"<NextMarker>{escape(entries[most - 1][0]) if len(entries) > most else ''}</NextMarker></EnumerationResults>"
    )
    return Reply(text.encode(), media_type="application/xml")


def _element(blob: Blob, *, with_metadata: bool) -> str:
    metadata = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in blob.metadata.items())
    md5 = f"<Content-MD5>{blob.md5}</Content-MD5>" if blob.md5 else ""
    return (
        f"<Blob><Name>{escape(blob.name)}</Name><Properties><Creation-Time>{blob.created}</Creation-Time>"
        f"<Last-Modified>{blob.modified}</Last-Modified><Etag>{blob.etag}</Etag>"
        f"<Content-Length>{blob.size}</Content-Length><Content-Type>{escape(blob.kind)}</Content-Type>"
        f"<Content-Encoding /><Content-CRC64 />{md5}<BlobType>BlockBlob</BlobType>"
        f"<AccessTier>Hot</AccessTier><AccessTierInferred>true</AccessTierInferred>"
        f"<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState><ServerEncrypted>true</ServerEncrypted>"
        f"</Properties>{f'<Metadata>{metadata}</Metadata>' if with_metadata else ''}<OrMetadata /></Blob>"
    )


# The SDK takes the first segment of a registry model's address for the container and the rest for the blob's name, so
# the registry's container has to lie at the top.
_CONTAINER = f"/{ACCOUNT}/{{container}}"
ROUTES = [
    Route(f"GET {_CONTAINER}", _list, _permitted),
    Route(f"GET {_CONTAINER}/{{name...}}", _get, _permitted),
    Route(f"HEAD {_CONTAINER}/{{name...}}", _head, _permitted),
    Route(f"PUT {_CONTAINER}/{{name...}}", _put, _permitted, LARGEST_BLOB),
    Route(f"DELETE {_CONTAINER}/{{name...}}", _delete, _permitted),
    Route(f"GET /{MODELS}", _list, _permitted),
    Route(f"GET /{MODELS}/{{name...}}", _get, _permitted),
    Route(f"HEAD /{MODELS}/{{name...}}", _head, _permitted),
]
