"""Places in a workspace's storage, read: what files lie at one, and pieces of them.

The SDK's own downloads hold each file in memory, one after another, and what breaks begins anew (azure-ai-ml 1.35.2,
`_artifacts/_blob_storage_helper.py`). So a place is read through azure-storage-blob, which the SDK depends on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from phift.azure.answers import json_object, listed, text
from phift.azure.clients import Clients, send_own_authorization
from phift.config.addresses import read_address
from phift.errors import (
    AccessDenied,
    AuthenticationError,
    NotFound,
    ServiceError,
    ServiceUnreachable,
    azure_errors,
    in_a_line,
)

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

PIECE = 2 << 20
"""Bytes that are asked for at once; storage sends the MD5 of 4 MiB at most (Microsoft Learn, "Get Blob", 2026-11)."""

_API = "2024-10-01-preview"  # what azure-ai-ml 1.35.2 asks for secrets with
_KEYS_OFF = "KeyBasedAuthenticationNotPermitted"
_ATTEMPTS = 3  # for a piece; each asks three times where nobody answers
_AGED = 600.0  # seconds; a signature is good for an hour, and one refused when it is younger is refused for good
_FOLDER = "hdi_isfolder"  # metadata of what stands for a folder where an account has a hierarchy


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file in a datastore, as it is in one state.

    - **name**: below the place that was asked for, with ``/`` between folders.
    - **etag**: changes with the content.
    - **md5**: of the content; storage has none of what was written in blocks, unless the writer gave it.
    - **modified**: seconds since 1970.
    """

    name: str
    size: int
    etag: str
    modified: float
    md5: bytes | None
    blob: str = field(repr=False)
    store: Datastore = field(repr=False, compare=False)

    def read(self, start: int, length: int) -> bytes:
        """Return a piece of it, its hash checked on the way.

        - **length**: at most `PIECE`.

        Raises `phift.errors.Conflict` where it has another state by now.
        """
        return self.store.read(self, start, length)


class Storage:
    """The datastores of a workspace, as a context manager; threads may share it.

    They are read with the signature or the key that the workspace gives out, or where it gives none, or storage takes
    none, with the caller's own token.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._stores: dict[str, Datastore] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        for store in self._stores.values():
            store.close()

    def files(self, address: str) -> list[StoredFile]:
        """Return the files at a place, sorted by their names; a place that is itself a file has that one.

        - **address**: of a place in a datastore, ``azureml://datastores/<store>/paths/<path>`` or the long form of it.
        """
        found = read_address(address)
        if found is None or found.kind != "datastores":
            what = f"This is no place in a datastore of the workspace: {address}."
            raise ServiceError(what, where=address, fix="fetch it from where its address says it lies")
        store = self._stores.setdefault(found.name, Datastore(self._clients, found.name))
        return store.files(found.path.strip("/"))


class Datastore:
    """A datastore of blobs, opened when it is first read."""

    def __init__(self, clients: Clients, name: str) -> None:
        self.name, self._clients = name, clients
        self._opening = threading.Lock()
        self._opened: list[ContainerClient] = []
        self._by_token = False
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<Datastore {in_a_line(self.name)}>"

    def close(self) -> None:
        """Close its connections."""
        for each in self._opened:
            each.close()

    def files(self, path: str) -> list[StoredFile]:
        """Return the files at a path, sorted by their names; see `Storage.files`."""
        try:
            return self._files(path)
        except AccessDenied as error:
            # Recorded where keys are switched off: azure-sdk-assets 6873a4bb, test_pipeline_job_download, 2026-02-27.
            if self._by_token or error.code != _KEYS_OFF:
                raise
        self._open(by_token=True)
        return self._files(path)

    def _files(self, path: str) -> list[StoredFile]:
        where = f"datastore {self.name}, {path}"
        container = self._container()
        with azure_errors(where):
            blobs = listed(container.list_blobs(name_starts_with=path, include=["metadata"]), where)
            return sorted(self._below(path, blobs), key=lambda file: file.name)

    def _below(self, path: str, blobs: list[Any]) -> Iterator[StoredFile]:
        for blob in blobs:
            name = text(blob.name, "blob.name")
            below = name.removeprefix(f"{path}/") if name != path else name.rpartition("/")[2]
            # What begins alike and lies beside it is another place; what stands for a folder is none of its files.
            beside = name == below and name != path
            if beside or not below or below.endswith("/") or (blob.metadata or {}).get(_FOLDER):
                continue
            md5 = blob.content_settings.content_md5 if blob.content_settings else None
            yield StoredFile(
                name=below,
                size=int(blob.size),
                etag=text(blob.etag, "blob.etag").strip('"'),
                modified=blob.last_modified.timestamp(),
                md5=bytes(md5) if md5 else None,
                blob=name,
                store=self,
            )

    def read(self, file: StoredFile, start: int, length: int) -> bytes:
        """Return a piece of a file; see `StoredFile.read`."""
        container, attempts = self._container(), 0
        while True:
            try:
                return self._read(container, file, start, length)
            except (AccessDenied, AuthenticationError):
                container = self._renewed(container)
            except ServiceError as error:
                attempts += 1
                # An answer that breaks off, or that comes damaged, the SDK asks for no more.
                broken = isinstance(error, ServiceUnreachable) or error.status in (None, 200, 206)
                if not broken or attempts == _ATTEMPTS:
                    raise

    def _renewed(self, refused: ContainerClient) -> ContainerClient:
        """Return a client with a new signature in the place of one that is refused; raises what is being handled."""
        with self._opening:
            if refused is self._opened[-1]:  # else another thread has opened it anew
                if time.monotonic() - self._since < _AGED:
                    raise
                self._open(by_token=self._by_token)
            return self._opened[-1]

    def _read(self, container: ContainerClient, file: StoredFile, start: int, length: int) -> bytes:
        from azure.core import MatchConditions

        with azure_errors(file.name):
            stream = container.get_blob_client(file.blob).download_blob(
                start,
                length,
                etag=f'"{file.etag}"',
                match_condition=MatchConditions.IfNotModified,
                max_concurrency=1,
                validate_content=True,
            )
            content: bytes = stream.readall()
        if len(content) != length:
            what = f"Storage sent {len(content):,} bytes of {length:,}."
            raise ServiceError(what, where=file.name, fix="run again; what has come so far is kept")
        return content

    def _container(self) -> ContainerClient:
        if not self._opened:
            with self._opening:
                if not self._opened:
                    self._open(by_token=False)
        return self._opened[-1]

    def _open(self, *, by_token: bool) -> None:
        from azure.storage.blob import ContainerClient, ExponentialRetry

        client, rest = self._clients.workspace, self._clients.rest
        group = f"subscriptions/{client.subscription_id}/resourceGroups/{client.resource_group_name}"
        workspace = f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{client.workspace_name}"
        store = f"{rest.resource_manager}/{workspace}/datastores/{self.name}"
        about = json_object(rest.get(store, {"api-version": _API}).get("properties"), "datastore.properties")
        if about.get("datastoreType") != "AzureBlob":
            what = f"The datastore {self.name} is of the type {about.get('datastoreType')}, and only blobs are read."
            raise ServiceError(
                what, where=f"datastore {self.name}", fix="fetch it with the tools of that storage, azcopy say"
            )
        account, endpoint = (text(about.get(key), f"datastore.{key}") for key in ("accountName", "endpoint"))
        credential = None if by_token else self._secret(store)
        self._by_token = credential is None
        made = ContainerClient(
            f"https://{account}.blob.{endpoint}",
            text(about.get("containerName"), "datastore.containerName"),
            credential=credential or rest.credential,
            # Its own begins with 15 s: a piece that breaks costs little, and what has come is kept.
            retry_policy=ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=2, random_jitter_range=1),
            raw_request_hook=send_own_authorization,
            connection_data_block_size=PIECE,  # of slices of 4 KB, as they are else, a large file has half a million
        )
        self._opened.append(made)
        self._since = time.monotonic()

    def _secret(self, store: str) -> str | None:
        """Return what the workspace gives out to read a datastore, or None where it gives nothing.

        A datastore that takes the caller's own token answers 400 (azure-sdk-assets b4cd9fb8, test_online_deployment,
        2025-02-25); who may not list secrets may still read, and the SDK tries that too (azure-ai-ml 1.35.2,
        `get_datastore_info`).
        """
        asked = {"expirableSecret": True, "expireAfterHours": 1}
        try:
            secrets = self._clients.rest.post(f"{store}/listSecrets?api-version={_API}", asked)
        except (AccessDenied, NotFound):
            return None
        except ServiceError as error:
            if error.status == 400:
                return None
            raise
        return text(secrets.get("sasToken") or secrets.get("key"), "datastore.secrets")
