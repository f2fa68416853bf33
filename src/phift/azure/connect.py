"""Who we are and whom we talk to: the credential, the workspace and the registries that clients are made for."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phift.azure.clients import Clients, Rest, SharedTokens
from phift.azure.threads import taken_soon
from phift.config.run import AzureWorkspace, RunConfig, read_workspace
from phift.errors import ConfigError, azure_errors

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.core.credentials import TokenCredential

logger = logging.getLogger(__name__)

_CLOUD = "AZUREML_CURRENT_CLOUD"  # where the SDK keeps the cloud of the whole process

_LOCAL_PATIENCE = 20.0  # seconds; a server on this machine that is silent for longer has ended
_connecting = threading.Lock()

# Management scope and registry discovery per cloud, as azure-ai-ml 1.35.2 has them (_azure_environments.py).
_CLOUDS = {
    "AzureCloud": ("https://management.azure.com/.default", "https://eastus.api.azureml.ms/"),
    "AzureUSGovernment": ("https://management.usgovcloudapi.net/.default", "https://usgovarizona.api.ml.azure.us/"),
    "AzureChinaCloud": ("https://management.chinacloudapi.cn/.default", "https://chinaeast2.api.ml.azure.cn/"),
}

# Our own names first, then those that Azure ML sets on its compute.
_VARIABLES = {
    "subscription_id": ("AZURE_SUBSCRIPTION_ID", "AZUREML_ARM_SUBSCRIPTION"),
    "resource_group": ("AZURE_RESOURCE_GROUP", "AZUREML_ARM_RESOURCEGROUP"),
    "workspace_name": ("AZUREML_WORKSPACE_NAME", "AZUREML_ARM_WORKSPACE_NAME"),
}


def connect(
    config: RunConfig | None = None,
    *,
    workspace: Any = None,
    credential: str | TokenCredential = "default",
    registry: str = "azureml",
) -> Clients:
    """Return clients for the workspace and the registries that ``config`` names, or for a workspace without one.

        clients = connect(workspace="<subscription id>/<resource group>/<workspace>")
        run = FineTuneRun.attach("phift-phi-4-5f2c9d0e7a31", clients)

    The clients may be shared by threads; see `Clients`.

    - **workspace**: as in `RunConfig`; left out, it comes from the environment or ``config.json``.
    - **credential**: ``default``, ``browser``, ``device_code``, or any token credential of azure-identity's kind.
    - **registry**: where foundation models and the component are looked up, at the first use.

    Raises `phift.errors.ConfigError` where the workspace is not fully named, `phift.errors.LocalWorkspaceNotRunning`
    where a local one is meant and none runs, and `phift.errors.AuthenticationError` where no credential works.
    """
    if config is not None and workspace is not None:
        what = "Clients are for a configuration or for a workspace, not for both."
        raise ConfigError(what, where="connect", fix="leave one of them out")
    place = config.workspace if config else read_workspace(workspace)
    registries = (config.model.registry, config.component.registry) if config else (registry, registry)
    if isinstance(place, AzureWorkspace):
        return _connect_azure(place, config.credential if config else credential, registries)
    return _connect_local(place.local, registries)


def _connect_azure(workspace: AzureWorkspace, kind: str | TokenCredential, registries: tuple[str, str]) -> Clients:
    cloud = os.environ.get(_CLOUD, "AzureCloud")
    if cloud not in _CLOUDS:
        what = f"This process already talks to the cloud {cloud}, and the Azure ML SDK knows one cloud a process."
        fix = f"start a new process for Azure, from a shell without {_CLOUD}; a local workspace is `workspace: local`"
        raise ConfigError(what, where="workspace", fix=fix)
    where = workspace_address(workspace)
    scope, discovery = _CLOUDS[cloud]
    credential = SharedTokens(_credential(kind) if isinstance(kind, str) else kind)
    with azure_errors("credential"):  # one token now, so that a missing login is the first error and not the tenth
        credential.get_token(scope)
    # Endpoints and computes send no Retry-After; the SDK then looks every 30 s (its poller's default).
    options = {"polling_interval": 10}
    return _clients(registries, credential, where, scope, discovery, options)


def _connect_local(folder: Path | None, registries: tuple[str, str]) -> Clients:
    from phift.local import LocalCredential, LocalWorkspace
    from phift.local.connection import without_proxy
    from phift.local.trust import tell_mlflow, trust

    if os.environ.get(_CLOUD) in _CLOUDS:
        what = "This process already talks to Azure, and the Azure ML SDK knows one cloud a process."
        raise ConfigError(what, where="workspace", fix=f"start a new process, or unset {_CLOUD}")
    connection = LocalWorkspace(folder).connection()
    metadata = connection.cloud_metadata
    scope = metadata["resource_manager"].rstrip("/") + "/.default"
    where = (connection.subscription_id, connection.resource_group, connection.workspace_name)
    options = {"cloud": connection.cloud_name, "cloud_metadata": metadata, "polling_interval": 1}
    discovery = metadata["registry_discovery_endpoint"]
    with taken_soon(_connecting):
        # The one switch that reaches every HTTP client under the SDK, the blob client included.
        os.environ["REQUESTS_CA_BUNDLE"] = str(trust(connection.ca_bundle))
        os.environ |= without_proxy()
        tell_mlflow(connection.base_url)
        made = _clients(registries, SharedTokens(LocalCredential(connection)), where, scope, discovery, options)
    return replace(made, poll_seconds=1.0, patience_seconds=_LOCAL_PATIENCE)


def _clients(
    registries: tuple[str, str],
    credential: SharedTokens,
    workspace: tuple[str, str, str],
    scope: str,
    discovery: str,
    options: Mapping[str, Any],
) -> Clients:
    client = _sdk_client()
    # Telemetry from a notebook would look up three Microsoft hosts; progress bars are ours to draw.
    quiet = {"show_progress": False, "enable_telemetry": False, "raw_response_hook": credential.forget_if_refused}
    with azure_errors(f"workspace {workspace[-1]}"):
        workspace_client = client(credential, *workspace, **options, **quiet)

    lazy: dict[str, Any] = {
        name: _LazyClient(name, partial(client, credential, registry_name=name, **options, **quiet))
        for name in set(registries)
    }
    return Clients(
        workspace=workspace_client,
        registry=lazy[registries[0]],
        component_registry=lazy[registries[1]],
        rest=Rest(credential, scope),
        registry_discovery=discovery,
    )


class _LazyClient:
    """A registry's client, made at its first use.

    The SDK asks for the registry when its client is made, and nobody who looks after a job or an endpoint needs it.
    """

    def __init__(self, registry: str, make: Callable[[], MLClient]) -> None:
        self._registry, self._make = registry, make
        self._made: MLClient | None = None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            # It is looked up in the cloud of the process, which a client for another workspace would set meanwhile.
            with taken_soon(_connecting), azure_errors(f"registry {self._registry}"):
                self._made = self._made or self._make()
        return getattr(self._made, name)


def _sdk_client() -> Any:
    """Import the SDK's client, and take back the handler and the level that its import gives its logger.

    Where the program has imported the SDK itself, its logging is its own affair.
    """
    ours = "azure.ai.ml" not in sys.modules
    from azure.ai.ml import MLClient

    if ours:
        sdk = logging.getLogger("azure.ai.ml")
        sdk.handlers.clear()
        sdk.setLevel(logging.NOTSET)
        sdk.propagate = True
    return MLClient


def workspace_address(workspace: AzureWorkspace) -> tuple[str, str, str]:
    """Return subscription id, resource group and workspace name: explicit, then environment, then ``config.json``.

    The file is looked for in the current folder and those above it, and in ``.azureml`` on the way, as the SDK's
    ``MLClient.from_config`` does.

    Raises `phift.errors.ConfigError` naming what is missing and every place that was looked at.
    """
    found: dict[str, str] = {}
    for key, variables in _VARIABLES.items():
        candidates = [getattr(workspace, key), *map(os.environ.get, variables)]
        if value := next(filter(None, candidates), None):
            found[key] = value
    file, here = None, Path.cwd()
    places = (folder / name for folder in (here, *here.parents) for name in ("config.json", ".azureml/config.json"))
    # A file that has no say cannot be wrong.
    for path in filter(Path.is_file, places) if len(found) < len(_VARIABLES) else ():
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"))
            # A model's file of this name has none of the keys; one that is broken is no reason to look elsewhere.
            if not values or not values.keys().isdisjoint(_VARIABLES):
                found = {key: str(values[key]) for key in _VARIABLES if values.get(key)} | found
                file = path
                break
        except (OSError, ValueError, AttributeError) as error:
            what = "The workspace's config.json cannot be read as a JSON object."
            raise ConfigError(what, where=str(path), fix="download it again from the workspace's page") from error
    missing = [key for key in _VARIABLES if key not in found]
    if missing:
        names = ", ".join(_VARIABLES[key][0] for key in missing)
        looked = f"`workspace:`, {names}, {file or 'config.json (none found)'}"
        fix = "name the workspace under `workspace:`, or download config.json from the workspace's page in the portal"
        raise ConfigError(f"The workspace is not named: {', '.join(missing)} missing.", where=looked, fix=fix)
    return found["subscription_id"], found["resource_group"], found["workspace_name"]


def _credential(kind: str) -> TokenCredential:
    from azure.identity import DefaultAzureCredential, DeviceCodeCredential, InteractiveBrowserCredential

    if kind == "browser":
        return InteractiveBrowserCredential()
    if kind == "device_code":
        return DeviceCodeCredential(prompt_callback=_device_code_prompt)
    # On Azure ML compute the identity to use stands in a variable of its own (azure-sdk-for-python issue 30427).
    identity = os.environ.get("AZURE_CLIENT_ID") or os.environ.get("DEFAULT_IDENTITY_CLIENT_ID")
    return DefaultAzureCredential(managed_identity_client_id=identity)


def _device_code_prompt(uri: str, code: str, _expires: object) -> None:
    # A warning is shown even where nobody configured logging, and the user asked for this prompt.
    logger.warning("To sign in, open %s and enter the code %s", uri, code)
