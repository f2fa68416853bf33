"""The SDK's downloads, held to their folder.

A blob may be called ``model/../../x``, and azure-ai-ml 1.26.3 and 1.30.0 write it there; 1.35.2 leaves it out and goes
on. Clients that phift makes refuse the whole download, after its names were listed and before anything is written.

All of the SDK's downloads from blobs go through one method of its storage clients, which nobody can hand in (read in
1.26.3, 1.30.0 and 1.35.2). So that method asks, for a client of ours and for nobody else, what `refuse` says. Not
covered are file shares, and versions that do it in another way.
"""

from __future__ import annotations

import inspect
import logging
import re
import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any

from phift.errors import ServiceError

logger = logging.getLogger(__name__)

# Module, class, its client of storage and what that lists with; each asks for the whole list before it writes.
_STORAGES = (
    ("azure.ai.ml._artifacts._blob_storage_helper", "BlobStorageClient", "container_client", "list_blobs"),
    ("azure.ai.ml._artifacts._gen2_storage_helper", "Gen2StorageClient", "file_system_client", "get_paths"),
)
_OPERATIONS = ("models", "jobs", "components", "evaluators")
_SHOWN = 3  # names in an error

_ours: ContextVar[bool] = ContextVar("phift.azure.downloads.ours", default=False)


def guard(client: Any) -> None:
    """Have what this client of the SDK downloads stay in the folder that it is meant for."""
    for place in _STORAGES:
        _guard_storage(*place)
    for name in _OPERATIONS:
        operations = vars(client).get(f"_{name}")  # the property of one warns that it is experimental
        if own := getattr(operations, "download", None):
            vars(operations)["download"] = _as_ours(own)


def _as_ours(download: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(download)
    def of_ours(*arguments: Any, **options: Any) -> Any:
        token = _ours.set(True)
        try:
            return download(*arguments, **options)
        finally:
            _ours.reset(token)

    return of_ours


def _guard_storage(module: str, kind: str, inner: str, listing: str) -> None:
    storage = getattr(sys.modules.get(module), kind, None)
    own = getattr(storage, "download", None)  # read once: another thread may be at the same
    if storage is None or own is None:
        logger.warning(
            "This azure-ai-ml has no %s.%s that downloads, so that its downloads are not looked at", module, kind
        )
        return
    if hasattr(own, "__wrapped__"):
        return

    @wraps(own)
    def download(self: Any, *arguments: Any, **options: Any) -> Any:
        if not _ours.get():
            return own(self, *arguments, **options)
        given = inspect.signature(own).bind(self, *arguments, **options)
        given.apply_defaults()
        prefix, folder = str(given.arguments["starts_with"]), Path(given.arguments["destination"])
        storage_client, refused = getattr(self, inner), []
        list_all = getattr(storage_client, listing)

        def listed(*of: Any, **how: Any) -> list[Any]:
            items = list(list_all(*of, **how))
            try:
                # The SDK cuts off as many characters, whichever they are.
                refuse({item.name[len(prefix) :]: _size(item) for item in items}, folder)
            except ServiceError as error:  # of which the SDK would make one of its own
                refused.append(error)
                raise
            return items

        vars(storage_client)[listing] = listed
        try:
            return own(self, *arguments, **options)
        except Exception:
            if refused:
                raise refused[0] from None
            raise
        finally:
            del vars(storage_client)[listing]

    storage.download = download


def _size(item: Any) -> int:
    return int(getattr(item, "size", None) or getattr(item, "content_length", None) or 0)


def refuse(files: Mapping[str, int], folder: Path) -> None:
    """Raise `phift.errors.ServiceError` where files do not belong into a folder, or are more than it has room for.

    - **files**: their names below it, as the service gives them, and their sizes in bytes.
    """
    refuse_names(files, folder)
    refuse_size(len(files), sum(files.values()), folder)


def refuse_names(names: Iterable[str], folder: Path) -> None:
    """Raise `phift.errors.ServiceError` where files of such names, as the service gives them, leave a folder."""
    names, what = list(names), ""
    if outside := [name for name in names if _leaves(name, folder)]:
        what = f"{_told(outside)} would be written outside of the folder"
    elif same := _same(names):
        what = f"{_told(same)} differ in nothing but upper and lower case, and would overwrite each other"
    if what:
        fix = "look at who wrote the asset, and fetch its files one by one with azure-storage-blob"
        raise ServiceError(f"Nothing was downloaded: {what}.", where=str(folder), fix=fix)


def refuse_size(count: int, total: int, folder: Path) -> None:
    """Raise `phift.errors.ServiceError` where so many files, of so many bytes in all, are more than there is room for.

    The folder need not be there.
    """
    free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
    if total > free:
        what = f"Nothing was downloaded: {count:,} files of {total / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free."
        raise ServiceError(what, where=str(folder), fix="choose a folder on a disk with more room")
    logger.info("Downloading %d files of %.1f MB into %s", count, total / 1e6, folder)


def _leaves(name: str, folder: Path) -> bool:
    """Whether a name leads out of a folder here or on Windows, or through a link that lies in it."""
    below = name.removeprefix("/")
    if below.startswith(("/", "\\")) or re.match("[A-Za-z]:", below) or "\0" in below:
        return True
    if ".." in re.split(r"[/\\]", below):
        return True
    return not (folder / below).resolve().is_relative_to(folder.resolve())


def _same(names: Iterable[str]) -> list[str]:
    """Return the names that are one and the same file to a file system that does not tell upper from lower case."""

    def plain(name: str) -> str:
        parts = [part for part in name.split("/") if part not in ("", ".")]  # as a file system takes a path
        return unicodedata.normalize("NFC", "/".join(parts)).casefold()

    counted = Counter(map(plain, names))
    return [name for name in names if counted[plain(name)] > 1]


def _told(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(ascii(name)[:200] for name in names[:_SHOWN]) + more
