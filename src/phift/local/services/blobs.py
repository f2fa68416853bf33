"""The storage account: the few blob operations that the SDK uses, on plain files.

A blob's name is a file's path, so a blob and a "folder" of the same name cannot both be there.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from phift.local.model.files import VERSION, path_of
from phift.local.names import ACCOUNT, MODELS
from phift.local.services.route import Handler, Route
from phift.local.site import Site
from phift.local.state.documents import Json
from phift.local.wire.call import Call, Reply, whole_number
from phift.local.wire.errors import WireError

_CHUNK = 1024 * 1024
_BYTES = "application/octet-stream"
_PAGE = 5000  # the most that one answer lists, as in Azure


def routes() -> list[Route]:
    """Return the storage account's routes; a shared-access signature stands in for a token."""
    container = f"/{ACCOUNT}/{{container}}"
    handlers = {"GET": _get, "HEAD": _head, "PUT": _put, "DELETE": _delete}
    blob = [Route(method, f"{container}/{{name...}}", _signed(handler), True) for method, handler in handlers.items()]
    # The SDK takes the first segment of a registry model's address for the container and the rest for the blob's name,
    # so the registry's container has to lie at the top.
    models = [
        Route("GET", f"/{MODELS}", _of_registry(_signed(_list)), True),
        Route("GET", f"/{MODELS}/{{name...}}", _of_registry(_signed(_get)), True),
        Route("HEAD", f"/{MODELS}/{{name...}}", _of_registry(_signed(_head)), True),
    ]
    return [Route("GET", container, _signed(_list), True), *blob, *models]


def _of_registry(handler: Handler) -> Handler:
    return lambda site, call: handler(site, replace(call, params={**call.params, "container": MODELS}))


def _signed(handler: Handler) -> Handler:
    def check(site: Site, call: Call) -> Reply:
        path = "/".join(part for part in (ACCOUNT, call["container"], call["name"]) if part)
        if not site.identity.sas_is_good(path, call.query):
            message = "Server failed to authenticate the request. Make sure the signature is formed correctly."
            raise _fault(403, "AuthenticationFailed", message)
        if not site.identity.sas_allows(call.method, path, call.query):
            message = "This request is not authorized to perform this operation using this permission."
            raise _fault(403, "AuthorizationPermissionMismatch", message)
        return handler(site, call)

    return check


def _fault(status: int, code: str, message: str) -> WireError:
    # A HEAD answer has no body, so the storage client reads the code from the header, which all errors have.
    return WireError(status, code, message, VERSION)


def _existing(site: Site, call: Call) -> Path:
    path = path_of(site, call["container"], call["name"])
    if not path.is_file():
        raise _fault(404, "BlobNotFound", "The specified blob does not exist.")
    return path


def _key(container: str, name: str) -> str:
    # Document keys do not tell upper from lower case and blob names do, so the name goes in as a hash.
    return f"blobs/{hashlib.sha256(f'{container}/{name}'.encode()).hexdigest()}"


def _properties(site: Site, container: str, name: str, path: Path) -> Json:
    stat = path.stat()
    stored = site.documents.get(_key(container, name))
    # What our own programs wrote is a file and no more.
    kind = "text/plain; charset=utf-8" if path.suffix in (".txt", ".log") else _BYTES
    return {
        "metadata": {},
        "type": kind,
        "md5": None,
        **(stored.body if stored else {}),
        "size": stat.st_size,
        "created": formatdate(stored.created if stored else stat.st_mtime, usegmt=True),
        "modified": formatdate(stat.st_mtime, usegmt=True),
        "etag": f"0x{stat.st_mtime_ns:X}{stat.st_size:X}",
    }


def _written(properties: Json) -> dict[str, str]:
    """Return the headers of an answer to a blob's change."""
    etag = f'"{properties["etag"]}"'
    return {**VERSION, "ETag": etag, "Last-Modified": properties["modified"], "x-ms-request-server-encrypted": "true"}


def _described(properties: Json) -> dict[str, str]:
    """Return the headers that say what a blob is."""
    return {
        **VERSION,
        "ETag": f'"{properties["etag"]}"',
        "Last-Modified": properties["modified"],
        "Accept-Ranges": "bytes",
        "Content-Type": properties["type"],
        "x-ms-blob-type": "BlockBlob",
        "x-ms-creation-time": properties["created"],
        "x-ms-lease-state": "available",
        "x-ms-lease-status": "unlocked",
        "x-ms-server-encrypted": "true",
        **{f"x-ms-meta-{key}": value for key, value in properties["metadata"].items()},
    }


def _check_conditions(site: Site, call: Call, path: Path) -> None:
    """Refuse a request whose If-Match or If-None-Match does not hold, as storage does.

    304 for reading what the caller has already, 409 for a blob that was not to be there, else 412 (Microsoft Learn,
    "Specifying conditional headers for Blob service operations", read 2026-11). Two writers at the same moment may
    both be let through.
    """
    message = "The condition specified using HTTP conditional header(s) is not met."
    etag = _properties(site, call["container"], call["name"], path)["etag"].strip('"') if path.is_file() else None
    wanted, unwanted = (call.headers.get(name, "").strip('"') for name in ("if-match", "if-none-match"))
    if wanted and (etag is None or wanted not in ("*", etag)):
        raise _fault(412, "ConditionNotMet", message)
    if unwanted and etag is not None and unwanted in ("*", etag):
        if call.method in ("GET", "HEAD"):
            raise _fault(304, "ConditionNotMet", message)
        if unwanted == "*":
            raise _fault(409, "BlobAlreadyExists", "The specified blob already exists.")
        raise _fault(412, "ConditionNotMet", message)


def _head(site: Site, call: Call) -> Reply:
    _check_conditions(site, call, _existing(site, call))
    properties = _properties(site, call["container"], call["name"], _existing(site, call))
    headers = {**_described(properties), "Content-Length": str(properties["size"]), **_md5(properties["md5"])}
    headers |= {"x-ms-access-tier": "Hot", "x-ms-access-tier-inferred": "true"}
    return Reply(None, 200, headers)


def _md5(value: str | None, header: str = "Content-MD5") -> dict[str, str]:
    return {header: value} if value else {}


def _get(site: Site, call: Call) -> Reply:
    path = _existing(site, call)
    _check_conditions(site, call, path)
    properties = _properties(site, call["container"], call["name"], path)
    # A log file grows while it is read: only what was there when the answer began is promised and sent.
    size = properties["size"]
    first, last, status = 0, size - 1, 200
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("x-ms-range") or call.headers.get("range", ""))
    headers = _described(properties)
    if wanted:
        first, last, status = int(wanted[1]), min(int(wanted[2] or last), last), 206
        if first >= size:
            message = "The range specified is invalid for the current size of the resource."
            raise WireError(416, "InvalidRange", message, {**VERSION, "Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    headers |= _md5(properties["md5"], "x-ms-blob-content-md5" if wanted else "Content-MD5")
    headers["Content-Length"] = str(last - first + 1)
    return Reply(None, status, headers, properties["type"], _read(path, first, last - first + 1))


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
    part = call.query.get("comp", "")
    if part == "block":
        return _put_block(site, call)
    if part == "metadata":
        _set_metadata(site, call)
    elif part in ("", "blocklist"):
        _write(site, call)
    else:
        raise WireError(501, "NotImplemented", f"The local workspace does not serve PUT blob with comp={part}")
    headers = _written(_properties(site, call["container"], call["name"], _existing(site, call)))
    if part == "metadata":
        return Reply(None, 200, headers)
    return Reply(None, 201, {**headers, **_md5(_hash(call.body))})


def _set_metadata(site: Site, call: Call) -> None:
    path, key = _existing(site, call), _key(call["container"], call["name"])
    stored, metadata = site.documents.get(key), _metadata(call)
    site.documents.put(key, {**(stored.body if stored else {}), "metadata": metadata})
    os.utime(path)  # it is another state of the blob, with an ETag of its own


def _hash(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _metadata(call: Call) -> Json:
    prefix = "x-ms-meta-"
    found = {key[len(prefix) :]: value for key, value in call.headers.items() if key.lower().startswith(prefix)}
    if not all(re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII) for key in found):
        raise _fault(400, "InvalidMetadata", "The metadata specified is invalid: its names must be identifiers.")
    return found


def _write(site: Site, call: Call) -> None:
    """Write a blob beside its place and move it there, so that nobody ever reads half of one."""
    path = path_of(site, call["container"], call["name"])
    _check_conditions(site, call, path)
    if path.is_dir():
        raise _fault(409, "BlobTypeNotSupported", "A folder of this name holds other blobs.")
    whole = not call.query.get("comp")
    if whole and call.headers.get("x-ms-blob-type") != "BlockBlob":
        raise _fault(400, "MissingRequiredHeader", "The header x-ms-blob-type is not BlockBlob; no others are served.")
    # The conditions come first: of two uploads at once, the slower one finds its blocks gone with the faster one's.
    parts = iter([call.body]) if whole else _blocks(site, call)
    site.folder.staging.mkdir(exist_ok=True)
    temporary = site.folder.staging / uuid.uuid4().hex
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        # First, or a server killed in between would leave new content that the old metadata calls complete.
        site.documents.delete(_key(call["container"], call["name"]))
        temporary.replace(path)
    except (FileExistsError, NotADirectoryError) as error:
        raise _fault(409, "BlobTypeNotSupported", "A part of this name is itself a blob.") from error
    finally:
        temporary.unlink(missing_ok=True)
    site.documents.put(_key(call["container"], call["name"]), _stored(call, whole=whole))
    shutil.rmtree(_block_folder(site, call), ignore_errors=True)


def _stored(call: Call, *, whole: bool) -> Json:
    """Return what is kept of a new blob; storage works out the hash of one that comes in one piece, and of no other."""
    kind = call.headers.get("x-ms-blob-content-type") or (call.headers.get("content-type") if whole else None)
    md5 = call.headers.get("x-ms-blob-content-md5") or (_hash(call.body) if whole else None)
    return {"metadata": _metadata(call), "type": kind or _BYTES, "md5": md5}


def _block_folder(site: Site, call: Call) -> Path:
    name = f"{call['container']}/{call['name']}"
    return site.folder.staging / f"blocks-{hashlib.sha256(name.encode()).hexdigest()}"


def _block_file(site: Site, call: Call, block: str) -> Path:
    # Block ids are the client's own base64; their hash is a safe file name.
    return _block_folder(site, call) / hashlib.sha256(block.encode()).hexdigest()


def _put_block(site: Site, call: Call) -> Reply:
    path_of(site, call["container"], call["name"])
    block = call.query.get("blockid", "")
    try:
        base64.b64decode(block, validate=True)
    except ValueError as error:
        raise _fault(400, "InvalidQueryParameterValue", "The block id is not base64.") from error
    file = _block_file(site, call, block)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(call.body)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)  # half of one on a full disk
    return Reply(None, 201, {**VERSION, "x-ms-request-server-encrypted": "true"})


def _blocks(site: Site, call: Call) -> Iterator[bytes]:
    if b"<!DOCTYPE" in call.body or b"<!ENTITY" in call.body:
        raise _fault(400, "InvalidXmlDocument", "The block list must not declare entities.")
    try:
        listed = ElementTree.fromstring(call.body)  # noqa: S314 - no document type, so no entities to expand
    except ElementTree.ParseError as error:
        raise _fault(400, "InvalidXmlDocument", "The block list is not XML.") from error
    files = [_block_file(site, call, element.text or "") for element in listed]
    if not all(file.is_file() for file in files):
        raise _fault(400, "InvalidBlockList", "The specified block list is invalid.")
    return (file.read_bytes() for file in files)


def _delete(site: Site, call: Call) -> Reply:
    path = _existing(site, call)
    _check_conditions(site, call, path)
    path.unlink()
    site.documents.delete(_key(call["container"], call["name"]))
    return Reply(None, 202, {**VERSION, "x-ms-delete-type-permanent": "true"})


def _list(site: Site, call: Call) -> Reply:
    """List blobs by prefix, page by page; with a delimiter, folders are summed up as prefixes.

    The marker of the next page is the last name of this one; in Azure it is a text that means nothing to the reader
    (Microsoft Learn, "List Blobs", 2026-11).
    """
    if call.query.get("comp") != "list":
        raise WireError(501, "NotImplemented", f"The local workspace does not serve GET {call.path} on a container")
    container, prefix, marker = call["container"], call.query.get("prefix", ""), call.query.get("marker", "")
    most = min(whole_number(call.query.get("maxresults") or _PAGE, "maxresults"), _PAGE)
    if most < 1:
        raise _fault(400, "OutOfRangeQueryParameterValue", "maxresults must be at least 1.")
    entries = [entry for entry in _entries(site, call, prefix) if entry[0] > marker]
    with_metadata = "metadata" in call.query.get("include", "").split(",")
    listed = [
        f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>"
        if folder
        else _blob_element(site, container, name, with_metadata=with_metadata)
        for name, folder in entries[:most]
    ]
    text = (
        f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="{site.base_url}/{ACCOUNT}/" '
        f'ContainerName="{escape(container)}"><Prefix>{escape(prefix)}</Prefix><Marker>{escape(marker)}</Marker>'
        f"<MaxResults>{most}</MaxResults><Blobs>{''.join(listed)}</Blobs>"
        f"<NextMarker>{escape(entries[most - 1][0]) if len(entries) > most else ''}</NextMarker></EnumerationResults>"
    )
    return Reply(text.encode(), 200, VERSION, "application/xml")


def _entries(site: Site, call: Call, prefix: str) -> list[tuple[str, bool]]:
    """Return what to list: a name, and whether it is not a blob's but the part up to the delimiter of others."""
    names, delimiter = _names(site, call["container"], prefix), call.query.get("delimiter")
    if not delimiter:
        return [(name, False) for name in names]
    cut = (name[len(prefix) :].partition(delimiter) for name in names)
    return sorted({(prefix + head + found, bool(found)) for head, found, _ in cut})


def _names(site: Site, container: str, prefix: str) -> list[str]:
    root = path_of(site, container, "x").parent
    # Only the folder that the prefix points into needs a walk.
    folder = prefix.rpartition("/")[0]
    start = path_of(site, container, folder) if folder else root
    names = [(Path(place) / file).relative_to(root).as_posix() for place, _, files in os.walk(start) for file in files]
    return sorted(name for name in names if name.startswith(prefix))


def _blob_element(site: Site, container: str, name: str, *, with_metadata: bool) -> str:
    properties = _properties(site, container, name, path_of(site, container, name))
    metadata = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in properties["metadata"].items())
    md5 = f"<Content-MD5>{properties['md5']}</Content-MD5>" if properties["md5"] else ""
    return (
        f"<Blob><Name>{escape(name)}</Name><Properties><Creation-Time>{properties['created']}</Creation-Time>"
        f"<Last-Modified>{properties['modified']}</Last-Modified><Etag>{properties['etag']}</Etag>"
        f"<Content-Length>{properties['size']}</Content-Length><Content-Type>{escape(properties['type'])}</Content-Type>"
        f"{md5}<BlobType>BlockBlob</BlobType><AccessTier>Hot</AccessTier><AccessTierInferred>true</AccessTierInferred>"
        f"<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState><ServerEncrypted>true</ServerEncrypted>"
        f"</Properties>{f'<Metadata>{metadata}</Metadata>' if with_metadata else ''}</Blob>"
    )
