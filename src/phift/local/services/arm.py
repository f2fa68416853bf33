"""What a workspace is, where its services are, and its storage: workspace, datastores, discovery, tokens."""

from __future__ import annotations

from phift.local import names
from phift.local.services.route import AT_GROUP, AT_SUBSCRIPTION, AT_WORKSPACE, Route
from phift.local.site import Site
from phift.local.state.documents import Json
from phift.local.wire.call import Call, Reply, WireError, not_found
from phift.local.wire.pages import existing, page, system_data
from phift.version import __version__


def manages(path: str) -> bool:
    """Tell whether a path is one of Azure Resource Manager's, or of Azure ML's copy of it for registries."""
    return path.lower().startswith(("/subscriptions/", "/mferp/managementfrontend/subscriptions/"))


def routes() -> list[Route]:
    """Return the routes of the workspace itself."""
    parts = ("api", "history", "modelmanagement", "experimentation", "catalog", "studio")
    return [
        Route("GET", "/health", lambda _site, _call: Reply({"status": "ok", "version": __version__}), anonymous=True),
        Route(
            "GET", "/metadata/endpoints", lambda site, _: Reply(names.cloud_documents(site.base_url)), anonymous=True
        ),
        Route("GET", "/msi/token", _token, anonymous=True),
        Route("GET", "/discovery", lambda site, _: Reply(dict.fromkeys(parts, site.base_url)), anonymous=True),
        Route("GET", AT_WORKSPACE, lambda site, _call: Reply(_show_workspace(site))),
        Route("GET", f"{AT_GROUP}/workspaces", lambda site, _call: page([_show_workspace(site)])),
        Route("GET", f"{AT_SUBSCRIPTION}/workspaces", lambda site, _call: page([_show_workspace(site)])),
        Route("GET", f"{AT_WORKSPACE}/datastores", _datastores),
        Route(
            "GET",
            f"{AT_WORKSPACE}/datastores/{{name}}",
            lambda site, call: Reply(_show_datastore(site, _datastore_name(call))),
        ),
        Route("POST", f"{AT_WORKSPACE}/datastores/{{name}}/listSecrets", _secrets),
    ]


def _token(site: Site, call: Call) -> Reply:
    """Answer as the identity endpoint of Azure's app service does; the header is the folder's secret."""
    if not site.identity.is_secret(call.headers.get("x-identity-header", "")):
        raise WireError(401, "Unauthorized", "The X-IDENTITY-HEADER is missing or wrong.")
    audience = call.query.get("resource")
    if not audience:
        raise WireError(400, "BadRequest", "The query parameter 'resource' is missing.")
    token, end = site.identity.token(audience)
    return Reply({"access_token": token, "expires_on": str(end), "resource": audience, "token_type": "Bearer"})


def _show_workspace(site: Site) -> Json:
    group = f"/subscriptions/{names.SUBSCRIPTION}/resourceGroups/{names.GROUP}/providers"
    properties = {
        "friendlyName": names.WORKSPACE,
        "description": "A local workspace of phift: it speaks Azure ML's protocol and is not Azure.",
        "workspaceId": names.SUBSCRIPTION,
        "provisioningState": "Succeeded",
        "discoveryUrl": f"{site.base_url}/discovery",
        "mlFlowTrackingUri": names.tracking_uri(site.base_url),
        "storageAccount": f"{group}/Microsoft.Storage/storageAccounts/storage",
        "keyVault": f"{group}/Microsoft.KeyVault/vaults/none",
        "applicationInsights": f"{group}/Microsoft.Insights/components/none",
        "hbiWorkspace": False,
        "storageHnsEnabled": False,
        "notebookInfo": None,
        "privateEndpointConnections": [],
        "privateLinkCount": 0,
        "serviceProvisionedResourceGroup": None,
        "publicNetworkAccess": "Disabled",
        "tenantId": names.TENANT,
    }
    return {
        "id": names.WORKSPACE_ID,
        "name": names.WORKSPACE,
        "type": "Microsoft.MachineLearningServices/workspaces",
        "location": names.LOCATION,
        "kind": "Default",
        "sku": {"name": "Basic", "tier": "Basic"},
        "tags": {},
        "identity": {"type": "SystemAssigned", "principalId": names.TENANT, "tenantId": names.TENANT},
        "properties": properties,
        "systemData": _made(site),
    }


def _made(site: Site) -> Json:
    # It was there when its folder was first served: the server notes its port before it answers.
    return system_data(existing(site, "server", not_found("workspace", names.WORKSPACE)))


def _datastores(site: Site, call: Call) -> Reply:
    only_default = call.query.get("isDefault", "").lower() == "true"
    wanted = [name for name in names.DATASTORES if name == "workspaceblobstore" or not only_default]
    return page([_show_datastore(site, name) for name in wanted])


def _secrets(site: Site, call: Call) -> Reply:
    signature = site.identity.sas(f"{names.ACCOUNT}/{names.DATASTORES[_datastore_name(call)]}", "rwdl")
    return Reply({"secretsType": "Sas", "sasToken": signature})


def _datastore_name(call: Call) -> str:
    if call["name"] not in names.DATASTORES:
        raise not_found("datastore", call["name"])
    return call["name"]


def _show_datastore(site: Site, name: str) -> Json:
    properties = {
        "datastoreType": "AzureBlob",
        "description": "",
        "tags": {},
        "properties": {},
        "isDefault": name == "workspaceblobstore",
        # The SDK writes https://{accountName}.blob.{endpoint}: a host with port and path leads back here.
        "accountName": f"{site.host}/storage",
        "containerName": names.DATASTORES[name],
        "endpoint": names.STORAGE_SUFFIX,
        "protocol": "https",
        "serviceDataAccessAuthIdentity": "WorkspaceSystemAssignedIdentity",
        "credentials": {"credentialsType": "Sas"},
    }
    return {
        "id": f"{names.WORKSPACE_ID}/datastores/{name}",
        "name": name,
        "type": "Microsoft.MachineLearningServices/workspaces/datastores",
        "properties": properties,
        "systemData": _made(site),
    }
