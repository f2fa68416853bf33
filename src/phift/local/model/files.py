"""Where a workspace's blobs are: in files of its own, or in a storage account outside with a copy of what is read.

The workspace's own programs write below `blobs.path_of` in either case; what they have written is published then.
"""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from phift.local.model.account import Secrets, StorageAccount
from phift.local.services import blobs
from phift.local.services.arm import ACCOUNT, DATASTORES
from phift.local.state.documents import Json, UnsafePath, confined
from phift.local.state.identity import SAS_SECONDS
from phift.local.wire.call import user_error

if TYPE_CHECKING:
    from azure.storage.blob import BlobProperties, ContainerClient

    from phift.local.site import Site

_DATASTORE = "rwdl"


class Storage(Protocol):
    """What the rest of the workspace asks of its storage account."""

    @property
    def address(self) -> str:
        """The account's URL, without a slash at the end."""

    @property
    def account_name(self) -> str:
        """The account's name for a datastore: the SDK writes ``https://{name}.blob.{suffix}``."""

    @property
    def secrets(self) -> Secrets:
        """What a datastore hands out."""

    def secret(self, container: str) -> Json:
        """Return what a datastore hands out for its container, as ``listSecrets`` writes it."""

    def sas(self, container: str, permissions: str) -> str:
        """Return a shared-access signature for a container, making the container where it is new."""

    def url(self, container: str, name: str) -> str:
        """Return an address that reads a file that we have written, as it is now, without a token."""

    def fetch(self, container: str, name: str) -> Path:
        """Return the file or folder that holds what is stored under a name; it need not be there."""

    def publish(self, container: str, name: str) -> None:
        """Store the file or folder that we have written at a name."""

    def reset(self) -> None:
        """Delete everything that is stored."""


class Files:
    """The built-in account: what is written is stored, and `phift.local.services.blobs` serves it."""

    secrets: Secrets = "Sas"

    def __init__(self, site: Site) -> None:
        self._site = site

    @property
    def address(self) -> str:
        """The account's URL."""
        return f"{self._site.base_url}/{ACCOUNT}"

    @property
    def account_name(self) -> str:
        """A host with port and path: with what the SDK adds it leads back here."""
        return f"{self._site.host}/storage"

    def secret(self, container: str) -> Json:
        """Return a signature of ours."""
        return {"secretsType": "Sas", "sasToken": self.sas(container, _DATASTORE)}

    def sas(self, container: str, permissions: str) -> str:
        """Return a signature of ours; containers are there as soon as something is in them."""
        return self._site.identity.sas(f"{ACCOUNT}/{container}", permissions)

    def url(self, container: str, name: str) -> str:
        """Return the signed address of one blob."""
        return blobs.signed_url(self._site, container, name)

    def fetch(self, container: str, name: str) -> Path:
        """Return the blob's own file."""
        return blobs.path_of(self._site, container, name)

    def publish(self, container: str, name: str) -> None:
        """Do nothing: it is stored already."""

    def reset(self) -> None:
        """Delete the files."""
        shutil.rmtree(self._site.folder.blobs, ignore_errors=True)


class Mirrored:
    """An account outside, with a copy in the workspace's folder of what has been read from it.

    The registry's models stay in the workspace: nobody writes them, so nothing of the account is tried on them.
    """

    def __init__(self, site: Site, account: StorageAccount) -> None:
        self._site = site
        self._account = account
        self._mirror = site.folder.root / "mirror"
        # One transfer at a time, or an older state of a log that grows could replace a newer one.
        self._lock = threading.Lock()
        self._containers: dict[str, ContainerClient] = {}
        self._etags: dict[Path, str] = {}
        self._published: dict[Path, tuple[int, int]] = {}
        # Nothing says which state of a blob a copy is that a server before us made.
        shutil.rmtree(self._mirror, ignore_errors=True)

    @property
    def address(self) -> str:
        """The account's URL."""
        return self._account.url

    @property
    def account_name(self) -> str:
        """Host, port and path, and a ``#`` with which what the SDK adds becomes a fragment, and falls off."""
        return f"{self._account.url.removeprefix('https://')}#"

    @property
    def secrets(self) -> Secrets:
        """As the account was given."""
        return self._account.secrets

    def secret(self, container: str) -> Json:
        """Return a signature that Azure's own library made, or the key."""
        signature = self.sas(container, _DATASTORE)
        if self.secrets == "AccountKey":
            return {"secretsType": "AccountKey", "key": self._account.key}
        return {"secretsType": "Sas", "sasToken": signature}

    def sas(self, container: str, permissions: str) -> str:
        """Return a signature that Azure's own library made."""
        from azure.storage.blob import generate_container_sas

        with self._asking():
            self._container(container)
        name, key, end = self._account.name, self._account.key, _in_a_day()
        return generate_container_sas(name, container, key, permission=permissions, expiry=end, protocol="https")

    def url(self, container: str, name: str) -> str:
        """Publish the file, and return its signed address."""
        from azure.storage.blob import generate_blob_sas

        self.publish(container, name)
        account, key, end = self._account.name, self._account.key, _in_a_day()
        signature = generate_blob_sas(
            account, container, name, account_key=key, permission="r", expiry=end, protocol="https"
        )
        return f"{self._containers[container].get_blob_client(name).url}?{signature}"

    def fetch(self, container: str, name: str) -> Path:
        """Make the copy of a blob, or of all blobs below a name, like the account's, and return it."""
        if container == blobs.MODELS:
            return blobs.path_of(self._site, container, name)
        name = name.rstrip("/")
        place = self._copy(container, name)
        with self._asking():
            listed = self._container(container).list_blobs(name_starts_with=name)
            found = [blob for blob in listed if blob.name == name or blob.name.startswith(f"{name}/")]
            kept = {self._pull(container, blob) for blob in found}
            for file in set(_files(place)) - kept:
                file.unlink()
            if not kept:  # nor is there a folder in an account where nothing is in it
                shutil.rmtree(place, ignore_errors=True)
        return place

    def publish(self, container: str, name: str) -> None:
        """Upload what has changed since it was published last."""
        place = blobs.path_of(self._site, container, name)
        with self._asking():
            client = self._container(container)
            for file in _files(place):
                stat = file.stat()
                state = (stat.st_mtime_ns, stat.st_size)
                if self._published.get(file) != state:
                    path = file.relative_to(place).as_posix() if file != place else ""
                    with file.open("rb") as content:
                        # A log grows while it is read: only what was there is sent.
                        blob = f"{name.rstrip('/')}/{path}".rstrip("/")
                        client.upload_blob(blob, content, length=stat.st_size, overwrite=True)
                    self._published[file] = state

    def reset(self) -> None:
        """Empty the datastores' containers, and forget what was copied and written."""
        with self._asking():
            for container in DATASTORES.values():
                # Not blob by blob: azurite does not delete one whose name has dots for folders.
                self._container(container).delete_container()
                del self._containers[container]
                self._container(container)
            for folder in (self._mirror, self._site.folder.blobs):
                shutil.rmtree(folder, ignore_errors=True)
            self._etags.clear()
            self._published.clear()

    def _container(self, name: str) -> ContainerClient:
        """Return a container's client, and make the container when it is first asked for."""
        from azure.core.exceptions import ResourceExistsError
        from azure.storage.blob import ContainerClient

        if name not in self._containers:
            client = ContainerClient(
                self._account.url,
                name,
                self._account.key,
                connection_verify=str(self._site.folder.bundle),
                retry_total=0,  # it is on this machine: what it does not answer now it does not answer later
            )
            with suppress(ResourceExistsError):  # of a server before us
                client.create_container()
            self._containers[name] = client
        return self._containers[name]

    def _pull(self, container: str, blob: BlobProperties) -> Path:
        """Copy a blob unless that has been done, and return the copy."""
        path, staging = self._copy(container, blob.name), self._site.folder.staging
        if path.is_file() and self._etags.get(path) == blob.etag:
            return path
        staging.mkdir(exist_ok=True)
        temporary = staging / uuid.uuid4().hex
        try:
            with temporary.open("wb") as file:
                self._container(container).download_blob(blob.name).readinto(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._etags[path] = str(blob.etag)
        return path

    def _copy(self, container: str, name: str) -> Path:
        try:
            return confined(self._mirror / container, name)
        except UnsafePath as error:
            raise user_error(f"The blob {name} has a name that cannot be a file's.") from error

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Let one thread at a time ask the account, and say which account it is that fails."""
        from azure.core.exceptions import AzureError

        with self._lock:
            try:
                yield
            except AzureError as error:
                reason = str(error).partition("\n")[0]
                raise user_error(f"The storage account {self._account.url} did not do as asked: {reason}") from error


def of(site: Site) -> Storage:
    """Return the storage of a workspace: the account that its folder was given, else its own files."""
    account = StorageAccount.of(site.folder.root)
    return Mirrored(site, account) if account else Files(site)


def _files(place: Path) -> list[Path]:
    found = [place] if place.is_file() else place.rglob("*")
    return sorted(path for path in found if path.is_file())


def _in_a_day() -> datetime:
    # The account's clock is the machine's, whatever the workspace's is.
    return datetime.now(UTC) + timedelta(seconds=SAS_SECONDS)
