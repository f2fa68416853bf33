"""What the user asked for: one frozen `RunConfig`, the same words in Python, YAML and on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue

from phift import facts, plain_yaml
from phift.config.addresses import read_address, read_workspace_id
from phift.config.data import (
    NAME,
    AnySource,
    DataConfig,
    Folder,
    Name,
    Section,
    refuse_placeholder,
    source_below,
)
from phift.config.deployment import DeploymentConfig
from phift.errors import ConfigError, redact

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

CredentialKind = Literal["default", "browser", "device_code", "managed_identity", "workload_identity"]

_LONGEST = 250_000  # characters of a configuration file; the loader takes seconds for more, and minutes for odd ones


def _no_secret(text: str) -> str:
    if redact(text) != text:
        raise ValueError("it looks like a key or a token, and whoever may read the resource reads its tags")
    return text


def _own_tag(name: str) -> str:
    if name.lower().startswith("phift."):
        raise ValueError("tags that begin with `phift.` are phift's own")
    return name


# What Azure takes for a tag of any resource (Microsoft Learn, "Use tags to organize your Azure resources and
# management hierarchy", read 2026-11-30).
_TagName = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^<>%&\\?/]+$"), AfterValidator(_own_tag)]
_TagValue = Annotated[str, Field(max_length=256), AfterValidator(refuse_placeholder), AfterValidator(_no_secret)]


def local_file(text: str) -> Path | None:
    """Return the path that a text names on this machine, or None if it names something in the cloud."""
    # Two letters at least, so that C: is no scheme.
    return None if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text) else Path(text)


@contextmanager
def config_errors(where: str) -> Iterator[None]:
    """List every mistake with its place, without the values: they may hold what the user did not mean to show."""
    try:
        yield
    except ValidationError as error:
        mistakes: tuple[tuple[str, str], ...] = ()
        for item in error.errors(include_url=False, include_input=False):
            place = ".".join(map(str, item["loc"])) or "top level"
            mistakes += ((place, "no such key" if item["type"] == "extra_forbidden" else item["msg"]),)
        raise mistaken(mistakes, where) from None


def mistaken(mistakes: Sequence[tuple[str, str]], where: str) -> ConfigError:
    """Return the error that lists all mistakes, each a place and what is wrong there."""
    lines = "; ".join(f"{place}: {message}" for place, message in mistakes)
    what = f"The configuration has {len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}: {lines}"
    fix = "correct the keys named above; the README lists them"
    return ConfigError(what, where=where, fix=fix, mistakes=tuple(mistakes))


def read_yaml(path: Path) -> Any:
    """Return what a configuration file holds.

    Raises `phift.errors.ConfigError` where it is missing, or is no YAML.
    """
    import yaml

    try:
        with path.open(encoding="utf-8") as file:
            if len(text := file.read(_LONGEST + 1)) > _LONGEST:
                what = f"The configuration file is longer than {_LONGEST:,} characters."
                raise ConfigError(what, where=str(path), fix="check the path; name many files by a pattern")
        return plain_yaml.load(text)
    except FileNotFoundError:
        raise ConfigError("There is no such configuration file.", where=str(path), fix="check the path") from None
    # The loader lets through what it stumbles over in a scalar: an impossible date, `!!int x`, 5000 digits.
    except (OSError, yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        fix = "mend the YAML: " + " ".join(str(error).split())
        raise ConfigError("The configuration file cannot be read.", where=str(path), fix=fix) from error


def _known_preset(name: str) -> str:
    known = {entry["name"]: entry["values"] for entry in facts.load("presets")["presets"]}
    if name not in known:
        raise ValueError(f"there is no such preset; there is: {', '.join(known)}")
    if not isinstance(known[name], dict):  # pydantic makes mistakes of a ValueError only
        raise ValueError("its entry in your own table of presets has no mapping of values")  # noqa: TRY004
    return name


class AzureWorkspace(Section):
    """An Azure ML workspace; what is left out comes from the environment, then from ``config.json``.

    - **subscription_id**: of the subscription that it is in.
    - **resource_group**: the name of its resource group.
    - **workspace_name**: its own name.
    """

    subscription_id: Name | None = None
    resource_group: Name | None = None
    workspace_name: Name | None = None


class LocalWorkspaceFolder(Section):
    """A local workspace; without a folder, the one in the user's data directory.

    - **local**: the folder that it is kept in.
    """

    local: Folder | None = None

    if TYPE_CHECKING:

        def __init__(self, *, local: str | Path | None = ...) -> None: ...


AnyWorkspace = AzureWorkspace | LocalWorkspaceFolder | Mapping[str, Any] | str


def _workspace(value: Any) -> AzureWorkspace | LocalWorkspaceFolder:
    """Tell the kinds apart by their keys, so that a mistake is reported once and not once for each kind."""
    if isinstance(value, str):
        kind, _, folder = value.partition(":")
        names = read_workspace_id(value) or value.split("/")
        if kind == "local":
            value = {"local": folder or None}
        elif len(names) == 3 and all(names):
            value = dict(zip(AzureWorkspace.model_fields, names, strict=True))
        else:
            ways = "`local`, `local:<folder>`, `<subscription id>/<resource group>/<workspace>`, the workspace's id"
            raise ValueError(f"write {ways}, or a mapping of subscription_id, resource_group and workspace_name")
    is_local = isinstance(value, LocalWorkspaceFolder) or (isinstance(value, dict) and "local" in value)
    return (LocalWorkspaceFolder if is_local else AzureWorkspace).model_validate(value)


class ModelConfig(Section):
    """The foundation model, as text ``name``, ``name:version`` or its id in a registry; without a version, the newest.

    Its id is ``azureml://registries/<registry>/models/<name>/versions/<version>``.

    - **name**: its name in the registry, such as ``Phi-4-mini-instruct``.
    - **version**: left out, the newest.
    - **registry**: that it is looked up in.
    """

    name: Name
    version: Name | None = None
    registry: Name = "azureml"

    @classmethod
    def _also_taken(cls, _described: JsonSchemaValue) -> list[JsonSchemaValue]:
        return [{"type": "string", **NAME}]

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        found = read_address(value)
        if found and found.registry and found.kind == "models" and found.label in ("", "latest"):
            return {"name": found.name, "version": found.version or None, "registry": found.registry}
        name, _, version = value.partition(":")
        return {"name": name, "version": version or None}

    @field_validator("name")
    @classmethod
    def _of_a_registry(cls, name: str) -> str:
        if name in ("azureml", "http", "https") or ":" in name or name.startswith("/"):
            where = "azureml://registries/<registry>/models/<name>/versions/<version>"
            raise ValueError(f"only a registry's models can be tuned: write <name>, <name>:<version> or {where}")
        if "/" in name:
            raise ValueError(f"a registry's models have no owner: write {name.rpartition('/')[2]}")
        return name


class ComponentConfig(Section):
    """The fine-tuning pipeline component; its registry may differ from the model's.

    - **name**: its name in the registry.
    - **version**: left out, the newest.
    - **registry**: that it is looked up in.
    """

    name: Name = "chat_completion_pipeline"
    version: Name | None = None
    registry: Name = "azureml"


class ComputeConfig(Section):
    """Where the job trains: an existing cluster, a cluster to create, or serverless compute.

    - **cluster**: name of the cluster; a text alone is one. With **size**, it is created when it does not exist.
    - **serverless**: a VM size instead of a cluster.
    - **size**: the VM size of a cluster to create where there is none of its name.
    - **nodes**: nodes the job uses.
    - **max_nodes**: nodes that a cluster to create may have.
    - **idle_seconds**: after which a cluster to create lets an idle node go.
    - **gpus_per_node**: only where the service and the built-in table do not know the size.
    - **low_priority**: create the cluster from pre-emptible VMs; never chosen silently.
    - **allow_unlisted**: go on although the model's allow-list does not have the size.
    """

    cluster: Name | None = None
    serverless: Name | None = None
    size: Name | None = None
    nodes: int = Field(default=1, ge=1)
    max_nodes: int = Field(default=1, ge=1)
    idle_seconds: int = Field(default=120, ge=0)
    gpus_per_node: int | None = Field(default=None, ge=1)
    low_priority: bool = False
    allow_unlisted: bool = False

    @classmethod
    def _also_taken(cls, described: JsonSchemaValue) -> list[JsonSchemaValue]:
        places = ({"required": [key], "properties": {key: {"type": "string"}}} for key in ("cluster", "serverless"))
        described["oneOf"] = [*places]
        return [{"type": "string", **NAME}]

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"cluster": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_place(self) -> ComputeConfig:
        if (self.cluster is None) == (self.serverless is None):
            raise ValueError("give either a cluster name or `serverless: <VM size>`")
        if self.serverless and self.size:
            raise ValueError("`size` is for a cluster to create; with serverless the size is the value of `serverless`")
        return self


_WORKSPACE_TEXT = Annotated[str, Field(pattern=r"^local(:|$)|/|%2[fF]")]
_WRITTEN_WORKSPACE = AzureWorkspace | LocalWorkspaceFolder | _WORKSPACE_TEXT
Workspace = Annotated[
    AzureWorkspace | LocalWorkspaceFolder, BeforeValidator(_workspace, json_schema_input_type=_WRITTEN_WORKSPACE)
]


S = TypeVar("S", bound=Section)


def read_section(kind: type[S], value: Any, where: str) -> S:
    """Return a part of the configuration from whatever a configuration takes for it, a text too.

    Raises `phift.errors.ConfigError` with every mistake and its place in that part.
    """
    with config_errors(where):
        return kind.model_validate(value)


def read_workspace(value: Any) -> AzureWorkspace | LocalWorkspaceFolder:
    """Return the workspace that a value names as `RunConfig` takes it; None is named by the environment.

    Raises `phift.errors.ConfigError` where it names none.
    """
    with config_errors("workspace"):
        read: AzureWorkspace | LocalWorkspaceFolder = TypeAdapter(Workspace).validate_python(value or {})
    return read


_Value = Annotated[bool | int | float | str, WithJsonSchema({"type": ["boolean", "number", "string"]})]


class RunConfig(Section):
    """One fine-tuning run, from the foundation model to the endpoint.

    ``RunConfig(...)`` and the loaders raise `phift.errors.ConfigError`, which lists every mistake with its place.

    - **model**: the foundation model: its name, ``name:version``, or its id in a registry.
    - **data**: the chat data; a source alone is what to train on.
    - **compute**: where to train: the name of a cluster, or a mapping.
    - **workspace**: ``"local"``, ``"local:<folder>"``, an Azure workspace as a mapping or as
      ``"<subscription id>/<resource group>/<workspace>"``; left out, it comes from the
      environment (``AZURE_SUBSCRIPTION_ID``, ``AZURE_RESOURCE_GROUP``, ``AZUREML_WORKSPACE_NAME``) or ``config.json``.
    - **credential**: who signs in: ``default`` asks the environment, a managed identity and the Azure CLI in turn.
    - **tenant**: the id of the Microsoft Entra tenant whose tokens are wanted, where you are a guest in several.
    - **tags**: on all that is made: cluster, data, job, model, endpoint, deployment; at most 10.
    - **component**: the pipeline component that trains; left out, the newest ``chat_completion_pipeline``.
    - **parameters**: fine-tuning parameters; what is not given comes from the preset, then the model's tags, then the
      component.
    - **preset**: a named set of parameters; ``safe`` needs the least GPU memory.
    - **deployment**: the endpoint and what serves behind it.
    - **experiment**: the name that the workspace lists the job under.
    - **registered_model_name**: left out, it is made of the foundation model's and the data's name.
    - **force_rerun**: run each step again, though the service has kept what it made of the same inputs.
    - **continue_on_step_failure**: let steps that do not depend on a failed one go on.
    - **work_dir**: where prepared data is written.
    - **max_cost**: what the training may cost, in USD; a run that is estimated to cost more, or cannot be estimated,
      is not submitted.
    - **prices**: USD an hour by VM size, where the service's own are missing or not what you pay.
    - **tokens_per_second**: the measured throughput of one GPU, for a better estimate of time and cost.
    """

    model: ModelConfig
    data: DataConfig
    compute: ComputeConfig
    workspace: Workspace = AzureWorkspace()
    credential: CredentialKind = "default"
    tenant: Name | None = Field(default=None, validation_alias=AliasChoices("tenant", "tenant_id"))
    tags: dict[_TagName, _TagValue] = Field(
        default_factory=dict, max_length=10, json_schema_extra={"additionalProperties": False}
    )
    component: ComponentConfig = ComponentConfig()
    parameters: dict[str, _Value] = Field(default_factory=dict)
    preset: Annotated[str, AfterValidator(_known_preset)] | None = None
    deployment: DeploymentConfig = DeploymentConfig()
    experiment: Name = "phift"
    registered_model_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=255)
    force_rerun: bool = False
    continue_on_step_failure: bool = False
    work_dir: Folder = Path(".phift")
    max_cost: Positive | None = None
    prices: dict[Name, Positive] = Field(default_factory=dict)
    tokens_per_second: Positive | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            model: ModelConfig | Mapping[str, Any] | str,
            data: DataConfig | AnySource,
            compute: ComputeConfig | Mapping[str, Any] | str,
            workspace: AnyWorkspace = ...,
            credential: CredentialKind = ...,
            tenant: str | None = ...,
            tenant_id: str | None = ...,
            tags: Mapping[str, str] = ...,
            component: ComponentConfig | Mapping[str, Any] = ...,
            parameters: Mapping[str, bool | int | float | str] = ...,
            preset: str | None = ...,
            deployment: DeploymentConfig | Mapping[str, Any] = ...,
            experiment: str = ...,
            registered_model_name: str | None = ...,
            force_rerun: bool = ...,
            continue_on_step_failure: bool = ...,
            work_dir: str | Path = ...,
            max_cost: float | None = ...,
            prices: Mapping[str, float] = ...,
            tokens_per_second: float | None = ...,
        ) -> None: ...

    else:

        def __init__(self, /, **values: Any) -> None:
            with config_errors("RunConfig"):
                super().__init__(**values)

    @classmethod
    def _also_taken(cls, described: JsonSchemaValue) -> list[JsonSchemaValue]:
        described["properties"]["tenant_id"] = described["properties"]["tenant"]
        return []

    @model_validator(mode="after")
    def _one_tenant(self) -> RunConfig:
        if self.tenant and self.credential == "managed_identity":
            raise ValueError("a managed identity has a tenant of its own; leave `tenant` out")
        return self

    @property
    def preset_values(self) -> Mapping[str, Any]:
        """The parameters that the preset sets; none without a preset."""
        presets = facts.load("presets")["presets"]
        return next((dict(entry["values"]) for entry in presets if entry["name"] == self.preset), {})

    @property
    def parameter_files(self) -> dict[str, Path]:
        """The parameters that are files of this machine, by their names."""
        given = {name: self.parameters.get(name) for name in ("deepspeed", "finetune_config_path")}
        return {k: path for k, value in given.items() if isinstance(value, str) and (path := local_file(value))}

    @classmethod
    def from_yaml(cls, path: str | Path) -> RunConfig:
        """Read a YAML file; relative paths in it are relative to its folder.

        Raises `phift.errors.ConfigError` where the file is missing, is no YAML, or has mistakes.
        """
        path = Path(path)
        return cls.from_dict(read_yaml(path), where=str(path), folder=path.parent)

    @classmethod
    def from_dict(cls, values: Any, *, where: str = "RunConfig", folder: Path = Path()) -> RunConfig:
        """Build a configuration from plain values, as YAML or JSON give them.

        - **folder**: what relative paths start from: data files, parameters that are files, ``work_dir`` and a local
          workspace's folder.
        """
        if not isinstance(values, dict):
            what = "The configuration is not a mapping of keys to values."
            raise ConfigError(what, where=where, fix="see the README")
        try:
            config = cls(**{str(key): value for key, value in values.items()})
        except ConfigError as error:
            error.where = where
            raise
        if folder == Path():
            return config
        moved = {k: source_below(getattr(config.data, k), folder) for k in ("train", "validation", "test")}
        files = {name: str(folder / path) for name, path in config.parameter_files.items()}
        update: dict[str, Any] = {
            "data": config.data.model_copy(update=moved),
            "work_dir": folder / config.work_dir,
            "parameters": {**config.parameters, **files},
        }
        if isinstance(config.workspace, LocalWorkspaceFolder) and config.workspace.local:
            update["workspace"] = LocalWorkspaceFolder(local=folder / config.workspace.local)
        return config.model_copy(update=update)
