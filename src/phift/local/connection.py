"""How to reach a running local workspace, and the credential for its clients."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phift import errors
from phift.local import names
from phift.local.state.folder import Folder

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken


@dataclass(frozen=True)
class Connection:
    """How to reach a running local workspace.

    - **base_url**: its address, without a slash at the end.
    - **ca_bundle**: the certificate authorities to trust: the machine's and the workspace's own.
    - **folder**: its state folder.
    """

    base_url: str
    ca_bundle: Path
    folder: Path
    subscription_id: str = names.SUBSCRIPTION
    resource_group: str = names.GROUP
    workspace_name: str = names.WORKSPACE
    registry_name: str = names.REGISTRY

    @property
    def cloud_name(self) -> str:
        """The name of this workspace's cloud, for ``MLClient(cloud=...)``."""
        return names.cloud_name(self.base_url)

    @property
    def cloud_metadata(self) -> dict[str, str]:
        """The addresses for ``MLClient(cloud=connection.cloud_name, cloud_metadata=connection.cloud_metadata)``."""
        return {
            "azure_portal": names.PORTAL,
            "resource_manager": f"{self.base_url}/",
            "active_directory": names.LOGIN,
            "aml_resource_id": names.ML_RESOURCE,
            "storage_endpoint": names.STORAGE_SUFFIX,
            "registry_discovery_endpoint": f"{self.base_url}/",
        }

    def secret(self) -> str:
        """Return the value of the identity header, read anew; it is never part of this object's repr.

        Raises `phift.errors.LocalWorkspaceError` where the folder's file of it is missing, damaged or not readable, and
        `phift.errors.LocalWorkspaceNotRunning` where the folder itself is gone.
        """
        from phift.local.state.identity import known_secret

        path, why = Folder(self.folder).secret, "is missing or damaged"
        if not self.folder.is_dir():
            what = "The local workspace's folder is not there any more."
            raise errors.LocalWorkspaceNotRunning(what, where=str(self.folder), fix="start it: phift local up")
        try:
            if found := known_secret(path):
                return found
        except OSError as error:
            why = f"cannot be read ({error.strerror})"
        fix = "phift local down, then phift local up, which makes a new one; the keys of endpoints are new then too"
        raise errors.LocalWorkspaceError(f"The local workspace's secret {why}.", where=str(path), fix=fix)

    def config(self) -> dict[str, str]:
        """Return what a ``config.json`` of this workspace holds, for ``MLClient.from_config``."""
        return {
            "subscription_id": self.subscription_id,
            "resource_group": self.resource_group,
            "workspace_name": self.workspace_name,
        }

    def environment(self) -> dict[str, str]:
        """Return the variables with which unmodified Azure ML programs talk to this workspace.

        ``IDENTITY_HEADER`` and ``MLFLOW_TRACKING_TOKEN`` are secrets: whoever has one may do everything in the
        workspace. The token is for MLflow alone, which cannot ask for a new one; it is good for 24 hours, and the other
        clients renew theirs.
        """
        from phift.local.state.identity import Identity

        # Neither is ever the value of a variable, which some tools show with a traceback.
        return {
            # It would win over the address below, if the shell had it from somewhere else.
            "AZUREML_CURRENT_CLOUD": self.cloud_name,
            "ARM_CLOUD_METADATA_URL": f"{self.base_url}/metadata/endpoints?api-version=2019-05-01",
            "REGISTRY_DISCOVERY_ENDPOINT_URL": f"{self.base_url}/",
            "REQUESTS_CA_BUNDLE": str(self.ca_bundle),
            "IDENTITY_ENDPOINT": f"{self.base_url}/msi/token",
            "IDENTITY_HEADER": self.secret(),
            # Else a service principal in the environment comes first, and Azure itself would be asked; read so by
            # azure-identity 1.24.0 and newer (its source; 1.23.1 takes `dev` and `prod` only).
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
            "AZURE_SUBSCRIPTION_ID": self.subscription_id,
            "AZURE_RESOURCE_GROUP": self.resource_group,
            "AZUREML_WORKSPACE_NAME": self.workspace_name,
            # With https, MLflow needs no plugin; where the plugin is meant, the workspace itself names its address.
            "MLFLOW_TRACKING_URI": names.tracking_uri(self.base_url, "https"),
            "MLFLOW_TRACKING_TOKEN": Identity(self.secret()).token(names.ARM_RESOURCE, seconds=24 * 3600)[0],
            **without_proxy(),
        }


IN_PROCESS: dict[Path, Connection] = {}
"""The folders that this process serves to itself, see `phift.local.server.in_process`."""


def without_proxy() -> dict[str, str]:
    """Return the variables of the hosts to reach without a proxy: those that are named already, and this machine.

    The recorder's proxy is there to be passed through.
    """
    if f"//{names.RECORDER}:" in os.environ.get("HTTPS_PROXY", ""):
        return {}
    named = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""  # requests' own order
    hosts = [host.strip() for host in named.split(",") if host.strip()]
    if not {"*", "localhost"} & set(hosts):
        hosts.append("localhost")
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(hosts))


class LocalCredential:
    """A token credential: asks the local workspace's identity endpoint, as a managed identity would.

    - **connection**: which workspace.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
        """Return a token for the first scope; asks again as azure-identity does of a managed identity's endpoint.

        Raises `phift.errors.LocalWorkspaceNotRunning` where nobody answers, `phift.errors.AuthenticationError` where
        the answer is a refusal.
        """
        import requests
        from azure.core.credentials import AccessToken
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        connection = self._connection
        url = f"{connection.base_url}/msi/token"
        query = {"api-version": "2019-08-01", "resource": scopes[0].removesuffix("/.default")}

        def identified(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["X-IDENTITY-HEADER"] = connection.secret()
            return request

        try:
            with errors.forgetting_locals(), requests.Session() as session:
                # The environment could name another authority file or a proxy; ours is known.
                session.trust_env = False
                # Where nobody listens there is nobody to ask again.
                statuses = (429, 500, 502, 503, 504)
                again = Retry(3, connect=0, backoff_factor=0.2, status_forcelist=statuses, raise_on_status=False)
                session.mount("https://", HTTPAdapter(max_retries=again))
                answer = session.get(url, params=query, auth=identified, verify=str(connection.ca_bundle), timeout=30)
        except errors.PhiftError:
            raise
        except OSError as error:  # requests' own errors are such too
            if "certificate" in str(error).lower():  # there is none, or it is of another server
                what = "The local workspace cannot be trusted by the certificates that its folder names."
                fix = "phift local down, then phift local up"
                raise errors.LocalWorkspaceError(what, where=str(connection.ca_bundle), fix=fix) from error
            what = "The local workspace does not answer."
            fix = "start it: phift local up"
            raise errors.LocalWorkspaceNotRunning(what, where=connection.base_url, fix=fix) from error
        if answer.status_code != 200:
            what = f"The local workspace refused the identity of this folder ({answer.status_code})."
            raise errors.AuthenticationError(what, where=str(connection.folder), fix="run: phift local down, then up")
        return AccessToken(answer.json()["access_token"], int(answer.json()["expires_on"]))
