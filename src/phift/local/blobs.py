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

from phift.local.arm import ACCOUNT
from phift.local.site import Site
from phift.local.state import Folder, Json, UnsafePath, confined
from phift.local.wire import Call, Handler, Reply, Route, WireError, whole_number

MODELS = "registry-models"
"""The container that holds the registry's models; nobody is given the right to write there."""

_CHUNK = 1024 * 1024
_PAGE = 5000
_VERSION = {"x-ms-version": "2021-08-06"}


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


def clear_halves(folder: Folder) -> None:
    """Delete what a killed server was writing; blocks that are whole stay, since their upload may go on."""
    for half in (*folder.staging.glob("*"), *folder.staging.glob("blocks-*/*.*")):
        if half.is_file():
            half.unlink()


def path_of(site: Site, container: str, name: str) -> Path:
    """Return the file behind a blob; the file need not be there."""
    base = site.folder.registry if container == MODELS else site.folder.blobs / "storage" / container
    try:
        return confined(base, name.rstrip("/"))
    except UnsafePath as error:
        raise _fault(400, "InvalidUri", "The requested URI does not represent a resource on the server.") from error


def signed_url(site: Site, container: str, name: str) -> str:
    """Return a URL that reads one blob without a token."""
    from urllib.parse import quote

    signature = site.identity.sas(f"{ACCOUNT}/{container}/{name}", "r", blob=True)
    return f"{site.base_url}/{ACCOUNT}/{container}/{quote(name)}?{signature}"


def _signed(handler: Handler) -> Handler:
    def check(site: Site, call: Call) -> Reply:
        path = "/".join(part for part in (ACCOUNT, call["container"], call["name"]) if part)
        if not site.identity.sas_allows(call.method, path, call.query):
            message = "Server failed to authenticate the request. Make sure the signature is formed correctly."
            raise _fault(403, "AuthenticationFailed", message)
        return handler(site, call)

    return check


def _fault(status: int, code: str, message: str) -> WireError:
    # A HEAD answer has no body, so the storage client reads the code from the header, which all errors have.
    return WireError(status, code, message, _VERSION)


def _existing(site: Site, call: Call) -> Path:
    path = path_of(site, call["container"], call["name"])
    if not path.is_file():
        raise _fault(404, "BlobNotFound", "The specified blob does not exist.")
    return path


def _metadata_key(container: str, name: str) -> str:
    # Document keys do not tell upper from lower case and blob names do, so the name goes in as a hash.
    return f"blobs/{hashlib.sha256(f'{container}/{name}'.encode()).hexdigest()}"


def _properties(site: Site, container: str, name: str, path: Path) -> Json:
    stat = path.stat()
    stored = site.documents.get(_metadata_key(container, name))
    return {
        "size": stat.st_size,
        "modified": formatdate(stat.st_mtime, usegmt=True),
        "etag": f'"0x{stat.st_mtime_ns:X}{stat.st_size:X}"',
        "metadata": stored.body if stored else {},
    }


def _blob_headers(properties: Json) -> dict[str, str]:
    return {
        **_VERSION,
        "ETag": properties["etag"],
        "Last-Modified": properties["modified"],
        "Accept-Ranges": "bytes",
        "x-ms-blob-type": "BlockBlob",
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
    headers = {**_blob_headers(properties), "Content-Length": str(properties["size"])}
    return Reply(None, 200, headers, "application/octet-stream")


def _get(site: Site, call: Call) -> Reply:
    path = _existing(site, call)
    _check_conditions(site, call, path)
    properties = _properties(site, call["container"], call["name"], path)
    # A log file grows while it is read: only what was there when the answer began is promised and sent.
    size = properties["size"]
    first, last, status = 0, size - 1, 200
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("x-ms-range") or call.headers.get("range", ""))
    headers = _blob_headers(properties)
    if wanted:
        first, last, status = int(wanted[1]), min(int(wanted[2] or last), last), 206
        if first >= size:
            raise _fault(416, "InvalidRange", "The range specified is invalid for the current size of the resource.")
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    headers["Content-Length"] = str(last - first + 1)
    kind = "text/plain; charset=utf-8" if path.suffix in (".txt", ".log") else "application/octet-stream"
    return Reply(None, status, headers, kind, _read(path, first, last - first + 1))


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
        _existing(site, call)
        site.documents.put(_metadata_key(call["container"], call["name"]), _metadata(call))
    elif part in ("", "blocklist"):
        _write(site, call)
    else:
        raise WireError(501, "NotImplemented", f"The local workspace does not serve PUT blob with comp={part}")
    properties = _properties(site, call["container"], call["name"], _existing(site, call))
    return Reply(None, 200 if part == "metadata" else 201, _blob_headers(properties))


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
    # The conditions come first: of two uploads at once, the slower one finds its blocks gone with the faster one's.
    parts = _blocks(site, call) if call.query.get("comp") else iter([call.body])
    site.folder.staging.mkdir(exist_ok=True)
    temporary = site.folder.staging / uuid.uuid4().hex
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(path)
    except (FileExistsError, NotADirectoryError) as error:
        raise _fault(409, "BlobTypeNotSupported", "A part of this name is itself a blob.") from error
    finally:
        temporary.unlink(missing_ok=True)
    site.documents.put(_metadata_key(call["container"], call["name"]), _metadata(call))
    shutil.rmtree(_block_folder(site, call), ignore_errors=True)


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
    return Reply(None, 201, _VERSION)


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
    site.documents.delete(_metadata_key(call["container"], call["name"]))
    return Reply(None, 202, _VERSION)


def _list(site: Site, call: Call) -> Reply:
    """List blobs by prefix, 5000 on a page unless ``maxresults`` says less; a delimiter sums folders up as prefixes.

    Microsoft Learn, "List Blobs", 2026-11: the marker is opaque, and ``NextMarker`` is empty on the last page.
    """
    if call.query.get("comp") != "list":
        raise WireError(501, "NotImplemented", f"The local workspace does not serve GET {call.path} on a container")
    prefix, marker = call.query.get("prefix", ""), call.query.get("marker", "")
    size = min(whole_number(call.query.get("maxresults") or _PAGE, "maxresults"), _PAGE)
    if size < 1:
        raise _fault(400, "OutOfRangeQueryParameterValue", "maxresults must be at least 1.")
    shown: dict[str, str] = {}
    following = ""
    for name in _names(site, call["container"], prefix):
        folder = _folder(name, prefix, call.query.get("delimiter", ""))
        if (folder or name) <= marker or folder in shown:
            continue
        if len(shown) == size:
            following = list(shown)[-1]
            break
        element = f"<BlobPrefix><Name>{escape(folder)}</Name></BlobPrefix>" if folder else ""
        shown[folder or name] = element or _blob_element(site, call["container"], name)
    address = f'ServiceEndpoint="{site.base_url}/{ACCOUNT}/" ContainerName="{escape(call["container"])}"'
    text = (
        f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults {address}><Prefix>{escape(prefix)}</Prefix>'
        f"<Marker>{escape(marker)}</Marker><MaxResults>{size}</MaxResults>"
        f"<Blobs>{''.join(shown.values())}</Blobs><NextMarker>{escape(following)}</NextMarker></EnumerationResults>"
    )
    return Reply(text.encode(), 200, _VERSION, "application/xml")


def _folder(name: str, prefix: str, delimiter: str) -> str:
    """Return what a name is summed up as, or an empty text where it stands for itself."""
    rest = name[len(prefix) :]
    return prefix + rest.split(delimiter)[0] + delimiter if delimiter and delimiter in rest else ""


def _names(site: Site, container: str, prefix: str) -> list[str]:
    root = path_of(site, container, "x").parent
    # Only the folder that the prefix points into needs a walk.
    folder = prefix.rpartition("/")[0]
    start = path_of(site, container, folder) if folder else root
    names = [(Path(place) / file).relative_to(root).as_posix() for place, _, files in os.walk(start) for file in files]
    return sorted(name for name in names if name.startswith(prefix))


def _blob_element(site: Site, container: str, name: str) -> str:
    properties = _properties(site, container, name, path_of(site, container, name))
    metadata = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in properties["metadata"].items())
    return (
        f"<Blob><Name>{escape(name)}</Name><Properties>"
        f"<Last-Modified>{properties['modified']}</Last-Modified><Etag>{escape(properties['etag'])}</Etag>"
        f"<Content-Length>{properties['size']}</Content-Length><BlobType>BlockBlob</BlobType>"
        f"</Properties><Metadata>{metadata}</Metadata></Blob>"
    )
