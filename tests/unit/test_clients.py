from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import certifi
import pytest
from azure.core.credentials import AccessToken
from azure.identity import CredentialUnavailableError

from phift.azure import connect as connecting
from phift.azure.clients import SharedTokens, registry_address, send_own_authorization
from phift.azure.connect import connect, workspace_address
from phift.config.run import AzureWorkspace, RunConfig
from phift.errors import AuthenticationError, ConfigError, LocalWorkspaceNotRunning, ServiceError
from unit.fakes import Fakes

OWN = {"raw_request_hook": send_own_authorization}  # what every credential of ours has
NAMED = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}

Address = Callable[[AzureWorkspace, dict[str, str], Path], tuple[str, str, str]]


def config(**changes: Any) -> RunConfig:
    values = {"model": "Phi-4", "compute": "gpu", "data": {"train": "a.jsonl"}, "workspace": NAMED}
    return RunConfig(**{**values, **changes})


def write_config(folder: Path, **values: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Address:
    """Find a workspace's address in an environment and a folder."""

    def found(workspace: AzureWorkspace, environ: dict[str, str], folder: Path) -> tuple[str, str, str]:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(folder)
        return workspace_address(workspace)

    return found


def test_what_is_given_goes_before_the_environment_and_the_file(address: Address, tmp_path: Path) -> None:
    write_config(tmp_path, subscription_id="file", resource_group="file", workspace_name="file")
    environ = {"AZURE_SUBSCRIPTION_ID": "env", "AZURE_RESOURCE_GROUP": "env", "AZUREML_WORKSPACE_NAME": "env"}
    given = {"subscription_id": "given", "resource_group": "given", "workspace_name": "given"}
    assert address(AzureWorkspace(**given), environ, tmp_path) == ("given", "given", "given")
    assert address(AzureWorkspace(), environ, tmp_path) == ("env", "env", "env")
    assert address(AzureWorkspace(subscription_id="ENV"), environ, tmp_path) == ("ENV", "env", "env")


@pytest.mark.parametrize(
    ("given", "environ", "places"),
    [
        ({}, {"AZURE_SUBSCRIPTION_ID": "env"}, ("AZURE_SUBSCRIPTION_ID in the environment", "config.json")),
        ({"resource_group": "given"}, {}, ("`workspace:`", "config.json")),
        (
            {"subscription_id": "given"},
            {"AZURE_SUBSCRIPTION_ID": "env", "AZURE_RESOURCE_GROUP": "env", "AZUREML_WORKSPACE_NAME": "env"},
            ("`workspace:`", "the environment"),
        ),
    ],
)
def test_names_of_two_workspaces_are_not_mixed(
    address: Address, tmp_path: Path, given: dict[str, str], environ: dict[str, str], places: tuple[str, str]
) -> None:
    write_config(tmp_path, **NAMED)
    with pytest.raises(ConfigError, match="name different workspaces") as caught:
        address(AzureWorkspace(**given), environ, tmp_path)
    assert all(place in str(caught.value.where) for place in places)


def test_two_places_that_agree_or_complete_each_other_are_one(address: Address, tmp_path: Path) -> None:
    write_config(tmp_path, **NAMED)
    assert address(AzureWorkspace(), {"AZURE_SUBSCRIPTION_ID": "S"}, tmp_path) == ("S", "g", "w")
    write_config(tmp_path, subscription_id="s", resource_group="g")
    assert address(AzureWorkspace(workspace_name="own"), {}, tmp_path) == ("S", "g", "own")


@pytest.mark.parametrize("place", ["project.json", "aml_config/config.json", ".azureml/project.json"])
def test_the_file_has_any_name_and_form_that_the_sdk_reads(address: Address, tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    scope = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
    path.write_text(json.dumps({"Id": None, "Scope": scope}))
    assert address(AzureWorkspace(), {}, tmp_path) == ("s", "g", "w")


@pytest.mark.parametrize("left", ["<SUBSCRIPTION_ID>", "${AZURE_SUBSCRIPTION_ID}", "{{subscription}}"])
def test_a_placeholder_is_refused_wherever_it_stands(address: Address, tmp_path: Path, left: str) -> None:
    names = {**NAMED, "subscription_id": left}
    with pytest.raises(ConfigError, match="placeholder"):
        RunConfig(workspace=names, model="m", compute="c", data={"train": "t.jsonl"})
    write_config(tmp_path, **names)
    with pytest.raises(ConfigError, match="placeholder"):
        address(AzureWorkspace(), {}, tmp_path)


def test_our_own_variables_go_before_those_of_azure_ml_compute(address: Address, tmp_path: Path) -> None:
    azure = {"AZUREML_ARM_SUBSCRIPTION": "a", "AZUREML_ARM_RESOURCEGROUP": "b", "AZUREML_ARM_WORKSPACE_NAME": "c"}
    assert address(AzureWorkspace(), azure, tmp_path) == ("a", "b", "c")
    own = {**azure, "AZURE_SUBSCRIPTION_ID": "own"}
    assert address(AzureWorkspace(), own, tmp_path) == ("own", "b", "c")


@pytest.mark.parametrize("place", [".", ".azureml", "sub/..", "sub/../.azureml"])
def test_the_file_is_looked_for_upwards(address: Address, tmp_path: Path, place: str) -> None:
    (tmp_path / "sub").mkdir()
    write_config(tmp_path / place, **NAMED)
    assert address(AzureWorkspace(), {}, tmp_path / "sub") == ("s", "g", "w")


def test_the_environment_and_the_current_folder_are_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_RESOURCE_GROUP", "G")
    monkeypatch.chdir(write_config(tmp_path, **NAMED))
    assert workspace_address(AzureWorkspace()) == ("s", "G", "w")


def test_what_is_missing_is_named_with_every_place_looked_at(address: Address, tmp_path: Path) -> None:
    write_config(tmp_path, subscription_id="s", workspace_name="")
    with pytest.raises(ConfigError, match="not named: resource_group, workspace_name missing") as caught:
        address(AzureWorkspace(), {"AZURE_RESOURCE_GROUP": ""}, tmp_path)
    looked = f"`workspace:`, AZURE_RESOURCE_GROUP, AZUREML_WORKSPACE_NAME, {tmp_path / 'config.json'}"
    assert caught.value.where == looked


def test_a_missing_file_is_said_to_be_missing(address: Address, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        address(AzureWorkspace(), {}, tmp_path)
    assert str(caught.value.where).endswith("config.json (none found)")


@pytest.mark.parametrize("content", ["{", "[1]", "42"])
def test_a_broken_file_is_an_error(address: Address, tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match="cannot be read as a JSON object") as caught:
        address(AzureWorkspace(), {}, tmp_path)
    assert caught.value.where == str(tmp_path / "config.json")
    assert address(AzureWorkspace(**NAMED), {}, tmp_path) == ("s", "g", "w")  # it has no say in this


def test_a_models_config_file_does_not_hide_the_workspaces(address: Address, tmp_path: Path) -> None:
    below = tmp_path / "checkpoint"
    below.mkdir()
    (below / "config.json").write_text('{"model_type": "phi3"}')
    (tmp_path / "config.json").write_text(json.dumps(NAMED))
    assert address(AzureWorkspace(), {}, below) == ("s", "g", "w")


def test_a_file_with_a_byte_order_mark_is_read(address: Address, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(NAMED), encoding="utf-8-sig")
    assert address(AzureWorkspace(), {}, tmp_path) == ("s", "g", "w")


class Credential:
    """Stands for an azure-identity credential; remembers how each was made, and fails if it is told to."""

    made: ClassVar[list[dict[str, Any]]] = []
    errors: ClassVar[list[Exception]] = []

    def __init__(self, **options: Any) -> None:
        self.scopes: list[str] = []
        self.made.append(options)

    def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
        self.scopes += scopes
        for error in self.errors:
            raise error
        return AccessToken("made-up-token", 9_999_999_999)


class Client:
    """Stands for ``MLClient``; remembers how it was made."""

    def __init__(self, credential: Any, *address: str, **options: Any) -> None:
        self.credential, self.address, self.options = credential, address, options


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> type[Credential]:
    """Put credentials and clients that call nobody in the places of Azure's own."""
    Credential.made.clear()
    Credential.errors.clear()
    monkeypatch.setattr("azure.identity.DefaultAzureCredential", Credential)
    monkeypatch.setattr("azure.ai.ml.MLClient", Client)
    return Credential


@pytest.mark.usefixtures("azure")
def test_connecting_to_azure_makes_a_client_a_registry() -> None:
    made: Any = connect(config(component={"registry": "own"}))
    assert made.workspace.address == ("s", "g", "w")
    assert made.registry.options["registry_name"] == "azureml"
    assert made.component_registry.options["registry_name"] == "own"
    assert made.workspace.credential.scopes == ["https://management.azure.com/.default"]
    assert made.registry_discovery == "https://eastus.api.azureml.ms/"
    options = {"polling_interval": 10, "show_progress": False, "enable_telemetry": False}
    assert made.workspace.options.items() >= options.items()


@pytest.mark.usefixtures("azure")
def test_a_workspace_is_connected_to_by_its_name_and_a_credential_of_ones_own() -> None:
    own = Credential()
    made: Any = connect(workspace="s/g/w", credential=own, registry="ours")
    assert made.workspace.address == ("s", "g", "w")
    asked = len(own.scopes)
    made.workspace.credential.get_token("another scope")
    assert own.scopes[asked:] == ["another scope"]
    assert made.registry.options["registry_name"] == made.component_registry.options["registry_name"] == "ours"


@pytest.mark.usefixtures("azure")
def test_a_credential_of_ones_own_goes_before_the_configuration_s() -> None:
    own = Credential()
    made: Any = connect(config(credential="browser"), credential=own)
    assert made.workspace.address == ("s", "g", "w")
    made.workspace.credential.get_token("another scope")
    assert own.scopes[-1] == "another scope"


@pytest.mark.usefixtures("azure")
def test_a_client_of_the_sdk_is_taken_with_its_workspace_and_its_credential() -> None:
    own, theirs = Credential(), SimpleNamespace(subscription_id="s", resource_group_name="g", workspace_name="w")
    theirs._credential = own
    for made in (connect(workspace=theirs), connect(config(component={"registry": "own"}), workspace=theirs)):
        assert made.workspace is theirs
        registry: Any = made.component_registry
        registry.credential.get_token("a scope")
        assert own.scopes[-1] == "a scope"
    theirs.workspace_name = None
    with pytest.raises(ConfigError, match="not of a workspace"):
        connect(workspace=theirs)


@pytest.mark.usefixtures("azure")
def test_a_client_of_the_sdk_and_what_contradicts_it_are_refused() -> None:
    theirs = SimpleNamespace(subscription_id="s", resource_group_name="g", workspace_name="other")
    theirs._credential = Credential()
    for workspace in ("s/g/w", "local"):
        with pytest.raises(ConfigError, match="another workspace"):
            connect(config(workspace=workspace), workspace=theirs)
    for more in ({"credential": Credential()}, {"tenant": "b"}):
        with pytest.raises(ConfigError, match="has a credential already"):
            connect(workspace=theirs, **more)


@pytest.mark.usefixtures("azure")
def test_a_credential_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="no credential azure_cli") as caught:
        connect(workspace="s/g/w", credential="azure_cli")
    assert "device_code" in str(caught.value.fix)


@pytest.mark.usefixtures("azure")
def test_a_configuration_and_a_workspace_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="not for both"):
        connect(config(), workspace="s/g/w")


@pytest.mark.usefixtures("azure")
def test_one_registry_is_one_client() -> None:
    made = connect(config())
    assert made.registry is made.component_registry


@pytest.mark.usefixtures("azure")
def test_a_registry_that_somebody_waits_for_for_ever_blocks_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.azure.threads._PATIENCE", 0.01)
    made: Any = connect(config(component={"registry": "own"}))
    never, asked = threading.Event(), threading.Event()

    class Hangs(Client):
        def __init__(self, *address: Any, **options: Any) -> None:
            if "registry_name" in options:
                asked.set()
                never.wait(20)
            super().__init__(*address, **options)

    monkeypatch.setattr("azure.ai.ml.MLClient", Hangs)
    left: Any = connect(config())  # what Ctrl-C leaves behind: a thread that is inside of the look-up
    thread = threading.Thread(target=lambda: left.registry.options, daemon=True)
    thread.start()
    try:
        assert asked.wait(10)
        assert made.registry.options["registry_name"] == "azureml"
        assert thread.is_alive()
    finally:
        never.set()
        thread.join(10)


@pytest.mark.usefixtures("azure")
def test_a_sovereign_cloud_has_its_own_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "AzureUSGovernment")
    made: Any = connect(config())
    assert made.workspace.credential.scopes == ["https://management.usgovcloudapi.net/.default"]
    assert made.registry_discovery == "https://usgovarizona.api.ml.azure.us/"


@pytest.mark.parametrize(("variable", "value"), [("AZURE_CLIENT_ID", "own"), ("DEFAULT_IDENTITY_CLIENT_ID", "set")])
def test_the_identity_of_the_compute_is_used(
    azure: type[Credential], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    connect(config())
    assert azure.made == [{"managed_identity_client_id": value, **OWN}]


def test_a_missing_login_is_the_first_error(azure: type[Credential]) -> None:
    azure.errors.append(CredentialUnavailableError("nobody is logged in"))
    with pytest.raises(AuthenticationError, match="nobody is logged in") as caught:
        connect(config())
    assert "`credential: browser | device_code`" in str(caught.value.fix)


def test_a_process_that_talks_to_another_cloud_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "PhiftLocal")
    with pytest.raises(ConfigError, match="already talks to the cloud PhiftLocal"):
        connect(config())


def test_interactive_credentials_are_used_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[dict[str, Any]] = []
    for name in ("InteractiveBrowserCredential", "DeviceCodeCredential"):
        monkeypatch.setattr(f"azure.identity.{name}", lambda **given: options.append(given))
    connecting._credential("browser")
    connecting._credential("device_code")
    assert options == [OWN, {"prompt_callback": connecting._device_code_prompt, **OWN}]


@pytest.mark.parametrize(
    ("cloud", "authority"),
    [("AzureUSGovernment", "login.microsoftonline.us"), ("AzureChinaCloud", "login.chinacloudapi.cn")],
)
@pytest.mark.parametrize("kind", ["browser", "device_code"])
def test_a_sovereign_cloud_has_its_own_authority(
    monkeypatch: pytest.MonkeyPatch, cloud: str, authority: str, kind: str
) -> None:
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", cloud)
    made: Any = connecting._credential(kind)
    assert authority in made._authority
    given: list[dict[str, Any]] = []
    monkeypatch.setattr("azure.identity.DefaultAzureCredential", lambda **options: given.append(options))
    connecting._credential("default")
    assert authority in given[0]["authority"]
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "own.test")
    made = connecting._credential(kind)
    assert "own.test" in made._authority


def test_a_tenant_is_asked_for_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("browser", "device_code"):
        made: Any = connecting._credential(kind, "tenant-b")
        assert made._tenant_id == "tenant-b"
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("azure.identity.DefaultAzureCredential.get_token", lambda *_, **options: asked.append(options))
    connecting._credential("default", "tenant-b").get_token("scope")
    assert asked == [{"tenant_id": "tenant-b"}]


def test_identities_of_azure_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_ID", "own")
    made: list[dict[str, Any]] = []
    for name in ("ManagedIdentityCredential", "WorkloadIdentityCredential"):
        monkeypatch.setattr(f"azure.identity.{name}", lambda **given: made.append(given))
    connecting._credential("managed_identity")
    connecting._credential("workload_identity", "tenant-b")
    assert made == [{"client_id": "own", **OWN}, {"tenant_id": "tenant-b", **OWN}]


def test_the_device_code_is_a_warning_so_that_it_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    connecting._device_code_prompt("https://login.test", "CODE\x1b", None)
    expected = "To sign in, open https://login.test and enter the code CODE\\x1b"
    assert caplog.record_tuples == [("phift.azure.connect", logging.WARNING, expected)]


BUNDLE = Path(certifi.where())  # what a workspace's file would say of the machine's own authorities


class Workspace:
    """Stands for `phift.local.LocalWorkspace` with a server that runs in some folders only."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def connection(self) -> Any:
        if self.folder and self.folder.name == "stopped":
            raise LocalWorkspaceNotRunning("No local workspace is running.")
        return SimpleNamespace(
            base_url="https://l:1",
            ca_bundle=BUNDLE,
            cloud_name="PhiftLocal",
            cloud_metadata={"resource_manager": "https://l:1/", "registry_discovery_endpoint": "https://l:1/d/"},
            subscription_id="s",
            resource_group="g",
            workspace_name=str(self.folder),
        )


@pytest.fixture
def local(azure: type[Credential], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("phift.local.LocalWorkspace", Workspace)
    monkeypatch.setattr("phift.local.LocalCredential", lambda connection: connection)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "before")
    yield
    assert azure.made == []  # no Azure credential is ever asked


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize(("workspace", "folder"), [("local", "None"), ({"local": "/state"}, "/state")])
def test_connecting_locally_trusts_the_servers_certificate(workspace: Any, folder: str) -> None:
    made: Any = connect(config(workspace=workspace))
    assert made.workspace.address == ("s", "g", folder)
    assert made.workspace.options["cloud"] == "PhiftLocal"
    assert made.registry_discovery == "https://l:1/d/"
    assert made.poll_seconds == 1.0
    assert made.patience_seconds == 20.0
    assert os.environ["REQUESTS_CA_BUNDLE"] == str(BUNDLE)


@pytest.mark.usefixtures("local")
def test_a_local_workspace_that_does_not_run_is_an_error() -> None:
    with pytest.raises(LocalWorkspaceNotRunning):
        connect(config(workspace={"local": "/state/stopped"}))


@pytest.mark.usefixtures("local")
def test_a_process_that_talks_to_azure_cannot_turn_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "AzureCloud")
    with pytest.raises(ConfigError, match="already talks to Azure"):
        connect(config(workspace="local"))


def test_clients_show_no_credentials() -> None:
    text = repr(Fakes().clients)
    assert text == "Clients(registry_discovery='https://discovery.test/', poll_seconds=0, patience_seconds=600.0)"


IMPORT = """
import logging, sys
{before}
from phift.azure.connect import _sdk_client
_sdk_client()
sdk = logging.getLogger("azure.ai.ml")
print(sdk.level, len(sdk.handlers), sdk.propagate)
"""


@pytest.mark.parametrize(
    ("before", "logging_of_the_sdk"),
    [("", f"{logging.NOTSET} 0 True"), ("import azure.ai.ml; logging.getLogger('azure.ai.ml').setLevel(10)", "10 ")],
    ids=["ours", "the program's"],
)
def test_our_import_of_the_sdk_leaves_logging_as_it_was(before: str, logging_of_the_sdk: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", IMPORT.format(before=before)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own text
    assert done.stdout.startswith(logging_of_the_sdk)


class Counting:
    """A credential that says how often it was asked for what, and slowly."""

    def __init__(self, good_for: float = 3600) -> None:
        self.asked: list[tuple[tuple[str, ...], dict[str, Any]]] = []
        self._good_for = good_for

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        self.asked.append((scopes, options))
        time.sleep(0.01)
        return AccessToken(f"made-up-token-{len(self.asked)}-{scopes}", int(time.time() + self._good_for))


def test_a_token_is_asked_for_once_a_scope_by_all_threads() -> None:
    own = Counting()
    shared = SharedTokens(own)
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda number: shared.get_token(f"scope {number % 2}").token, range(40)))
    assert len(tokens) == len(own.asked) == 2


def test_a_token_that_soon_expires_is_asked_for_again() -> None:
    own = Counting(good_for=299)
    shared = SharedTokens(own)
    assert shared.get_token("scope") != shared.get_token("scope")


def answered(status: int) -> SimpleNamespace:
    return SimpleNamespace(http_response=SimpleNamespace(status_code=status, headers={}), context={})


def test_a_refused_token_is_not_used_again_and_a_challenge_reaches_the_credential() -> None:
    own = Counting()
    shared = SharedTokens(own)
    first = shared.get_token("scope", enable_cae=False)
    shared.look_at(answered(404))
    assert shared.get_token("scope") is first
    shared.look_at(answered(401))
    assert shared.get_token("scope") is not first
    shared.get_token("scope", claims="more")
    assert own.asked[-1] == (("scope",), {"claims": "more"})
    assert not hasattr(shared, "get_token_info")


def test_what_stays_true_is_asked_once_by_all_threads_and_an_error_is_not_kept() -> None:
    clients = Fakes().clients
    asked: list[int] = []

    def ask() -> int:
        asked.append(1)
        time.sleep(0.01)
        if len(asked) == 1:
            raise ServiceError("down")
        return len(asked)

    with pytest.raises(ServiceError):
        clients.once("question", ask)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: clients.once("question", ask), range(40))) == {2}
    assert clients.once("another", lambda: "answer") == "answer"


def test_the_workspace_and_a_registry_are_looked_up_once() -> None:
    fakes = Fakes()
    for _ in range(3):
        assert fakes.clients.find_workspace().location
        assert registry_address(fakes.clients, "azureml").startswith("https://region.test/")
    assert (fakes.workspace.record.count("workspaces.get"), len(fakes.rest.addresses)) == (1, 1)
    registry_address(fakes.clients, "own")
    assert len(fakes.rest.addresses) == 2
