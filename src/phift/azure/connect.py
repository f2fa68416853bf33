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
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from phift.azure import downloads
from phift.azure.clients import Clients, Rest, SharedTokens, send_own_authorization
from phift.azure.threads import SideBySide, taken_soon
from phift.config.addresses import read_workspace_id
from phift.config.run import (
    AnyWorkspace,
    AzureWorkspace,
    CredentialKind,
    LocalWorkspaceFolder,
    RunConfig,
    read_workspace,
)
from phift.errors import ConfigError, azure_errors, forgetting_locals, visible

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.core.credentials import AccessToken, TokenCredential

    AnyClients: TypeAlias = Clients | MLClient | AnyWorkspace

logger = logging.getLogger(__name__)

_CLOUD = "AZUREML_CURRENT_CLOUD"  # where the SDK keeps the cloud of the whole process

_LOCAL_PATIENCE = 20.0  # seconds; a server on this machine that is silent for longer has ended
_connecting = threading.Lock()

# Management scope, registry discovery and authority per cloud, as azure-ai-ml 1.35.2 (_azure_environments.py) and
# azure-identity 1.27 (AzureAuthorityHosts) have them.
_CLOUDS = {
    "AzureCloud": (
        "https://management.azure.com/.default",
        "https://eastus.api.azureml.ms/",
        "https://login.microsoftonline.com",
    ),
    "AzureUSGovernment": (
        "https://management.usgovcloudapi.net/.default",
        "https://usgovarizona.api.ml.azure.us/",
        "https://login.microsoftonline.us",
    ),
    "AzureChinaCloud": (
        "https://management.chinacloudapi.cn/.default",
        "https://chinaeast2.api.ml.azure.cn/",
        "https://login.chinacloudapi.cn",
    ),
}

# Our own names first, then those that Azure ML sets on its compute.
_VARIABLES = {
    "subscription_id": ("AZURE_SUBSCRIPTION_ID", "AZUREML_ARM_SUBSCRIPTION"),
    "resource_group": ("AZURE_RESOURCE_GROUP", "AZUREML_ARM_RESOURCEGROUP"),
    "workspace_name": ("AZUREML_WORKSPACE_NAME", "AZUREML_ARM_WORKSPACE_NAME"),
}


@forgetting_locals()
def connect(
    config: RunConfig | None = None,
    *,
    workspace: Any = None,
    credential: str | TokenCredential | None = None,
    tenant: str | None = None,
    registry: str = "azureml",
) -> Clients:
    """Return clients for the workspace and the registries that ``config`` names, or for a workspace without one.

        clients = connect(workspace="<subscription id>/<resource group>/<workspace>")
        run = FineTuneRun.attach("phift-phi-4-5f2c9d0e7a31", clients)

        clients = connect(config, credential=ClientSecretCredential(...))
        clients = connect(config, workspace=ml_client)

    The clients may be shared by threads; see `Clients`.

    - **workspace**: as in `RunConfig`; left out, it comes from the environment or ``config.json``. Or an ``MLClient``
      that you have, of Azure or of a local workspace: its workspace and credential are used, beside a ``config`` too.
    - **credential**: a name as in `RunConfig`, or any token credential of azure-identity's kind; it goes before that of
      ``config``.
    - **tenant**: as in `RunConfig`; a credential that is handed in has its own, and so has an ``MLClient``.
    - **registry**: where foundation models and the component are looked up, at the first use.

    Raises `phift.errors.ConfigError` where the workspace is not fully named, or two of these contradict each other,
    `phift.errors.LocalWorkspaceNotRunning`
    where a local one is meant and none runs, and `phift.errors.AuthenticationError` where no credential works.
    """
    registries = (config.model.registry, config.component.registry) if config else (registry, registry)
    # An MLClient, or a mock of one: nothing that a workspace is written as has this.
    if hasattr(workspace, "workspace_name") and not isinstance(workspace, AzureWorkspace):
        if credential or tenant:
            what = "The client has a credential already; another one and a tenant have no say."
            raise ConfigError(what, where="connect", fix="leave `credential` and `tenant` out")
        return _connect_through(workspace, config.workspace if config else AzureWorkspace(), registries)
    if config is not None and workspace is not None:
        what = "Clients are for a configuration or for a workspace, not for both."
        raise ConfigError(what, where="connect", fix="leave one of them out")
    place = config.workspace if config else read_workspace(workspace)
    if not isinstance(place, AzureWorkspace):
        return _connect_local(place.local, registries)
    kind = credential or (config.credential if config else "default")
    return _connect_azure(place, kind, tenant or (config.tenant if config else None), registries)


def clients_of(given: AnyClients, *, registry: str = "azureml") -> Clients:
    """Return clients as they are, and else `connect` to what is given: an ``MLClient``, or a workspace by its name.

    Each step that can be done alone takes its clients so. Who does several connects once.
    """
    return given if isinstance(given, Clients) else connect(workspace=given, registry=registry)


def _connect_azure(
    workspace: AzureWorkspace, kind: str | TokenCredential, tenant: str | None, registries: tuple[str, str]
) -> Clients:
    cloud = os.environ.get(_CLOUD, "AzureCloud")
    if cloud not in _CLOUDS:
        what = f"This process already talks to the cloud {cloud}, and the Azure ML SDK knows one cloud a process."
        fix = f"start a new process for Azure, from a shell without {_CLOUD}; a local workspace is `workspace: local`"
        raise ConfigError(what, where="workspace", fix=fix)
    where = workspace_address(workspace)
    scope, discovery, _ = _CLOUDS[cloud]
    credential = SharedTokens(_credential(kind, tenant) if isinstance(kind, str) else kind)
    # One token now, so that a missing login is the first error and not the tenth; in a thread, since a look-up of a
    # host's name that the network does not answer cannot be interrupted.
    with azure_errors("credential"), SideBySide(1) as side:
        side.begin(credential.get_token, scope).result()
    # Endpoints and computes send no Retry-After; the SDK then looks every 30 s (its poller's default).
    options = {"polling_interval": 10}
    return _clients(registries, credential, where, scope, discovery, options)


def _connect_through(
    client: MLClient, configured: AzureWorkspace | LocalWorkspaceFolder, registries: tuple[str, str]
) -> Clients:
    """Return clients that share the workspace and the credential of a client of the SDK; they are looked up nowhere.

    - **configured**: the workspace of a configuration, which must not be another one.
    """
    if not client.workspace_name:
        what = "The client is of a registry or a subscription, and not of a workspace."
        raise ConfigError(what, where="workspace", fix="make it with the name of a workspace")
    names = zip(_VARIABLES, (client.subscription_id, client.resource_group_name, client.workspace_name), strict=True)
    is_other = [str(getattr(configured, key, None) or name).lower() != str(name).lower() for key, name in names]
    if not isinstance(configured, AzureWorkspace) or any(is_other):
        what = "The configuration names another workspace than the client's."
        raise ConfigError(what, where="workspace", fix="leave `workspace:` out of it, or do not hand in a client")
    cloud = os.environ.get(_CLOUD, "AzureCloud")
    own = getattr(client, "_cloud", None)
    if isinstance(own, str) and own != cloud:
        what = f"The client belongs to the cloud {own}, and this process talks to {cloud} by now."
        raise ConfigError(what, where="workspace", fix="make a new client: the Azure ML SDK knows one cloud a process")
    if cloud in _CLOUDS:
        scope, discovery, _ = _CLOUDS[cloud]
        return _clients(registries, SharedTokens(client._credential), client, scope, discovery, {})
    # A client of a local workspace has told the SDK of that one's cloud (azure-ai-ml 1.35.2, _azure_environments.py).
    from azure.ai.ml import _azure_environments as sdk

    with azure_errors(f"cloud {cloud}"):
        scope = f"{sdk._get_base_url_from_metadata()}/.default"
        discovery = sdk._get_registry_discovery_endpoint_from_metadata()
    made = _clients(registries, SharedTokens(client._credential), client, scope, discovery, {"polling_interval": 1})
    return replace(made, poll_seconds=1.0, patience_seconds=_LOCAL_PATIENCE)


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
    workspace: tuple[str, str, str] | MLClient,
    scope: str,
    discovery: str,
    options: Mapping[str, Any],
) -> Clients:
    # Telemetry from a notebook would look up three Microsoft hosts; progress bars are ours to draw.
    quiet = {"show_progress": False, "enable_telemetry": False}
    hooks = {"raw_request_hook": send_own_authorization, "raw_response_hook": credential.look_at}
    sdk_client = partial(_sdk_client(), credential, **options, **quiet, **hooks)

    def make(*address: str, **registry: str) -> MLClient:
        made: MLClient = sdk_client(*address, **registry)
        downloads.guard(made)
        return made

    if isinstance(workspace, tuple):
        with azure_errors(f"workspace {workspace[-1]}"):
            workspace = make(*workspace)

    lazy: dict[str, Any] = {name: _LazyClient(name, partial(make, registry_name=name)) for name in set(registries)}
    return Clients(
        workspace=workspace,
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
    from phift.local.names import CLOUD

    ours = "azure.ai.ml" not in sys.modules
    if ours and os.environ.get(_CLOUD, "").startswith(CLOUD) and not os.environ.get("ARM_CLOUD_METADATA_URL"):
        # Of a process that began this one and talks to a local workspace; the SDK, which knows that cloud there alone,
        # could not be imported (azure-ai-ml 1.35.2, entities/_credentials.py).
        del os.environ[_CLOUD]
    from azure.ai.ml import MLClient

    if ours:
        sdk = logging.getLogger("azure.ai.ml")
        sdk.handlers.clear()
        sdk.setLevel(logging.NOTSET)
        sdk.propagate = True
    return MLClient


def workspace_address(
    workspace: AzureWorkspace, environ: Mapping[str, str] = os.environ, folder: Path | None = None
) -> tuple[str, str, str]:
    """Return subscription id, resource group and workspace name: what is explicit, and the rest from one other place.

    That is the environment, where it has all of the rest, else ``config.json`` in a folder or the nearest one above it,
    in each form and under each name that the SDK's ``MLClient.from_config`` reads (azure-ai-ml 1.35.2).

    - **environ**, **folder**: left out, those of this process.

    Raises `phift.errors.ConfigError` naming what is missing and every place that was looked at, or the two places that
    do not name the same.
    """
    given = {key: value for key in _VARIABLES if (value := getattr(workspace, key))}
    variables = {key: next(filter(environ.get, names), "") for key, names in _VARIABLES.items()}
    set_there = {key: environ[name] for key, name in variables.items() if name}
    needed, file = _VARIABLES.keys() - given.keys(), None
    if needed <= set_there.keys():
        rest, place, before = set_there, "the environment", [given]
    else:
        rest, file = _config_file(folder or Path.cwd())  # a file that has no say cannot be wrong
        place, before = str(file), [given, {key: set_there[key] for key in needed & set_there.keys()}]
    found = {**rest, **before[-1], **given}
    for key in rest.keys() & found.keys() if needed else ():
        if found[key].lower() != rest[key].lower():
            other = "`workspace:`" if key in given else f"{variables[key]} in the environment"
            what = f"Two places name different workspaces: {other} and {place} do not have the same {key}."
            fix = f"write {', '.join(_VARIABLES)} under `workspace:`, or have one place name all three"
            raise ConfigError(what, where=f"{other}, {place}", fix=fix)
    if missing := [key for key in _VARIABLES if key not in found]:
        names = ", ".join(_VARIABLES[key][0] for key in missing)
        looked = f"`workspace:`, {names}, {file or 'config.json (none found)'}"
        fix = "name the workspace under `workspace:`, or download config.json from the workspace's page in the portal"
        raise ConfigError(f"The workspace is not named: {', '.join(missing)} missing.", where=looked, fix=fix)
    read_workspace(found)  # what the environment and the file have must be names too, and no placeholders
    return found["subscription_id"], found["resource_group"], found["workspace_name"]


def _config_file(folder: Path) -> tuple[dict[str, str], Path | None]:
    """Return the names in the nearest ``config.json`` of a workspace, and its path; without one, nothing."""
    below = [f"{inner}{name}" for inner in ("", ".azureml/", "aml_config/") for name in ("config.json", "project.json")]
    for path in filter(Path.is_file, (above / name for above in (folder, *folder.parents) for name in below)):
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"))
            if scope := read_workspace_id(str(values.get("Scope") or "")):
                return dict(zip(_VARIABLES, scope, strict=True)), path
            # A model's file of this name has none of the keys; one that is broken is no reason to look elsewhere.
            if not values or not values.keys().isdisjoint(_VARIABLES):
                return {key: str(values[key]) for key in _VARIABLES if values.get(key)}, path
        except (OSError, ValueError, AttributeError) as error:
            what = "The workspace's config.json cannot be read as a JSON object."
            raise ConfigError(what, where=str(path), fix="download it again from the workspace's page") from error
    return {}, None


def _credential(kind: str, tenant: str | None = None) -> TokenCredential:
    from azure import identity

    if kind not in get_args(CredentialKind):
        what, ways = f"There is no credential {kind}.", ", ".join(get_args(CredentialKind))
        raise ConfigError(what, where="credential", fix=f"use one of: {ways}; or hand in a credential")
    # On Azure ML compute the identity to use stands in a variable of its own (azure-sdk-for-python issue 30427).
    own = os.environ.get("AZURE_CLIENT_ID") or os.environ.get("DEFAULT_IDENTITY_CLIENT_ID")
    if kind == "managed_identity":
        return identity.ManagedIdentityCredential(client_id=own, raw_request_hook=send_own_authorization)
    # azure-identity knows AZURE_AUTHORITY_HOST, and without it only the public cloud.
    cloud = _CLOUDS.get(os.environ.get(_CLOUD, "AzureCloud"), _CLOUDS["AzureCloud"])
    is_told = cloud == _CLOUDS["AzureCloud"] or "AZURE_AUTHORITY_HOST" in os.environ
    options: dict[str, Any] = {"raw_request_hook": send_own_authorization}
    options |= {} if is_told else {"authority": cloud[2]}
    of_tenant: dict[str, Any] = {"tenant_id": tenant} if tenant else {}
    if kind == "workload_identity":
        return identity.WorkloadIdentityCredential(**options, **of_tenant)
    if kind == "browser":
        return identity.InteractiveBrowserCredential(**options, **of_tenant)
    if kind == "device_code":
        return identity.DeviceCodeCredential(prompt_callback=_device_code_prompt, **options, **of_tenant)
    allowed = {"additionally_allowed_tenants": [tenant]} if tenant else {}
    found = identity.DefaultAzureCredential(managed_identity_client_id=own, **options, **allowed)
    return _OfTenant(found, tenant) if tenant else found


class _OfTenant:
    """A chain of credentials that is asked for the tokens of one tenant; it takes no tenant of its own.

    azure-identity 1.27 refuses ``DefaultAzureCredential(tenant_id=...)``, and takes the tenant with each request.
    """

    def __init__(self, credential: TokenCredential, tenant: str) -> None:
        self._credential, self._tenant = credential, tenant

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return self._credential.get_token(*scopes, **{"tenant_id": self._tenant, **options})


def _device_code_prompt(uri: str, code: str, _expires: object) -> None:
    # A warning is shown even where nobody configured logging, and the user asked for this prompt.
    logger.warning("To sign in, open %s and enter the code %s", visible(uri, lines=False), visible(code, lines=False))
