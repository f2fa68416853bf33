"""Deploy by any door: a run, a job, a registered model or a registry's, by themselves or by their names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from phift.azure.answers import listed, resource_id, text, texts
from phift.azure.clients import Clients
from phift.azure.connect import clients_of, connect
from phift.check.compute import instance_type
from phift.check.models import FoundationModel, find_model
from phift.config.addresses import PREFIX, Address, read_address
from phift.config.deployment import DeploymentConfig
from phift.config.run import ModelConfig, read_section
from phift.errors import (
    AccessDenied,
    ConfigError,
    ModelError,
    NotFound,
    PhiftError,
    azure_errors,
    forgetting_locals,
    in_a_line,
)
from phift.jobs.events import RUN_TAG
from phift.jobs.job import JOB_TAG, OUTPUT, FineTuneJob, list_jobs
from phift.jobs.record import RunRecord
from phift.jobs.registration import RegisteredModel
from phift.plan import digest
from phift.run.chain import FineTuneRun
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from phift.serving.resource import MODEL, OnEvent

if TYPE_CHECKING:
    from phift.azure.connect import AnyClients
    from phift.run.events import Event

_MOST_NAMES = 200  # that a wrong one is held against
_NAME = re.compile(r"[\w.-]+")
_OUTPUT = re.compile(rf"azureml:/+jobs/([^/]+)/outputs/{OUTPUT}/?")


@forgetting_locals()
def deploy(
    model: FineTuneRun | FineTuneJob | RegisteredModel | str,
    clients: AnyClients | None = None,
    *,
    name: str | None = None,
    deployment: str | None = None,
    size: str | None = None,
    config: DeploymentConfig | Mapping[str, Any] | None = None,
    timeout: float | None = None,
    on_event: OnEvent | None = None,
) -> Endpoint:
    """Deploy a model, whatever names it, once: a second call finds what is there.

        with phift.deploy("elements:1", "local") as endpoint:
            print(endpoint.chat("What is the symbol of gold?"))

    - **model**: a run; a job that has completed, or its name; a registered model, or its ``name:version`` or ``name``
      in the workspace, the newest version without one; or a registry's model, as `RunConfig` takes it. A text is looked
      for in this order; ``azureml:<name>:<version>`` and ``azureml://registries/...`` say which they mean.
    - **clients**: clients, an ``MLClient`` of the workspace, or the workspace as `phift.connect` takes it; left out,
      the run's, the job's or the model's own, else as the environment or ``config.json`` say.
    - **name**: the endpoint's; left out, one that is made of the workspace's and the job's or the model's name.
    - **deployment**: its own name in the endpoint; beside another run's deployment it takes the traffic over.
    - **size**: VM size; left out, the smallest that the model's inference allow-list has.
    - **config**: the ``deployment`` section of a configuration; left out, the run's own.
    - **timeout**: seconds after which it counts as failed; what was made is then deleted, which takes a while too.
    - **on_event**: called with each stage, a `phift.serving.resource.DeploymentEvent`.

    Raises `phift.errors.NotFound` with near names, `phift.errors.ModelError` for a model that is no MLflow model,
    `phift.errors.ComputeError` before anything is made where no size can be chosen, what `FineTuneJob.wait` raises for
    a job without a model, and as `phift.serving.deployment.deploy_model` does.
    """
    found = _find(model, clients, on_event)
    section = read_section(DeploymentConfig, found.config if config is None else config, "deployment")
    own = {"endpoint_name": name, "deployment_name": deployment, "instance_type": size}
    given = section.model_dump(exclude_unset=True) | {key: value for key, value in own.items() if value is not None}
    return found.deploy(read_section(DeploymentConfig, given, "deployment"), timeout)


@dataclass(frozen=True)
class _OfRun:
    """The model of a run; without a registered one, it is registered first."""

    run: FineTuneRun
    model: RegisteredModel | None = None

    @property
    def config(self) -> DeploymentConfig:
        return self.run._deployment

    def deploy(self, config: DeploymentConfig, timeout: float | None) -> Endpoint:
        return self.run._deploy(config, self.model, timeout=timeout)


@dataclass(frozen=True)
class _Model:
    """A model that no run of phift's is known for.

    - **served**: its ``name:version``.
    - **foundation**: whose allow-list says where it can be served.
    - **kind**: its type, as the SDK has it.
    """

    clients: Clients
    id: str
    served: str
    foundation: FoundationModel
    on_event: OnEvent | None
    kind: str
    config: DeploymentConfig = field(default_factory=DeploymentConfig)

    def deploy(self, config: DeploymentConfig, timeout: float | None) -> Endpoint:
        if self.kind != "mlflow_model" and config.serve == "mlflow":
            what = (
                f"The model {self.served} is of the type {self.kind}, and Azure's own server takes MLflow models only."
            )
            fix = (
                "register the folder of an MLflow model as `type: mlflow_model`, as phift.register_model does; or, if "
            )
            fix += "it holds the weights of a model of Hugging Face's, set `serve: vllm`"
            raise ModelError(what, where=f"model {self.served}", fix=fix)
        workspace = self.clients.workspace
        keys = ("subscription_id", "resource_group_name", "workspace_name")
        place = [text(getattr(workspace, key), f"workspace.{key}") for key in keys]
        return deploy_model(
            self.clients,
            self.id,
            name=config.endpoint_name or f"phift-{digest([*place, self.id.lower().removeprefix(PREFIX)])}",
            size=instance_type(self.foundation, config),
            config=config,
            tags={MODEL: self.served},
            timeout=timeout,
            on_event=self.on_event,
        )


def _find(model: Any, clients: AnyClients | None, on_event: OnEvent | None) -> _OfRun | _Model:
    """Return what a door leads to."""
    if isinstance(model, FineTuneRun):
        if clients is not None or on_event is not None:
            what, fix = "A run has clients and a handler of its own.", "leave `clients` and `on_event` out"
            raise ConfigError(what, where="deploy", fix=fix)
        return _OfRun(model)
    if isinstance(model, FineTuneJob):
        return _of_job(model.name, model.clients if clients is None else clients_of(clients), on_event)
    if not isinstance(model, RegisteredModel | str):
        what = f"A {type(model).__name__} names no model."
        fix = "give a run (`FineTuneRun(config)`), a job, a registered model, or the name of one"
        raise ConfigError(what, where="deploy", fix=fix)
    own = model._clients if isinstance(model, RegisteredModel) and clients is None else None
    connected = own or (connect() if clients is None else clients_of(clients))
    if isinstance(model, RegisteredModel):
        return _registered(connected, model.name, {"version": model.version}, on_event)
    return _by_text(connected, model, on_event)


def _by_text(clients: Clients, said: str, on_event: OnEvent | None) -> _OfRun | _Model:
    address = read_address(said)
    if address is not None:
        return _at_address(clients, said, address, on_event)
    if output := _OUTPUT.fullmatch(said):
        return _of_job(output[1], clients, on_event)
    name, _, version = said.partition(":")
    if said.endswith((".yaml", ".yml")) or not (_NAME.fullmatch(name) and (not version or _NAME.fullmatch(version))):
        what = f"{said} is the name of no model and of no job."
        fix = "write NAME:VERSION, a job's name, or azureml://registries/REGISTRY/models/NAME/versions/VERSION"
        if Path(said).suffix in (".yaml", ".yml"):
            fix = f"for a configuration: FineTuneRun(RunConfig.from_yaml({said!r})).deploy()"
        raise ConfigError(what, where="deploy", fix=fix)
    if not version and _is_job(said, clients):
        return _of_job(said, clients, on_event)
    with suppress(NotFound):
        return _registered(clients, name, {"version": version} if version else {"label": "latest"}, on_event)
    try:
        return _of_registry(clients, said, on_event)
    except NotFound as error:
        raise _nothing(clients, said, name, error) from None


def _at_address(clients: Clients, said: str, address: Address, on_event: OnEvent | None) -> _OfRun | _Model:
    if address.kind not in ("", "models"):
        kind = "a place in a datastore" if address.kind == "datastores" else f"one of the workspace's {address.kind}"
        what, fix = f"{in_a_line(said)} is {kind}, and no model.", "register it as a model first, and name that"
        raise ConfigError(what, where="deploy", fix=fix)
    if address.registry:
        return _of_registry(clients, said, on_event)
    here = (clients.workspace.subscription_id, clients.workspace.resource_group_name, clients.workspace.workspace_name)
    if address.workspace and [str(each).lower() for each in here] != [each.lower() for each in address.workspace]:
        what = f"The model is of the workspace {address.workspace[-1]}, and the clients are of {here[-1]}."
        fix = "connect to that workspace, or copy the model: `az ml model share`, or register it here"
        raise ConfigError(what, where="deploy", fix=fix)
    wanted = {"version": address.version} if address.version else {"label": address.label}
    try:
        return _registered(clients, address.name, wanted, on_event)
    except NotFound as error:
        raise _nothing(clients, said, address.name, error) from None


def _is_job(name: str, clients: Clients) -> bool:
    try:
        FineTuneJob(name, clients).entity()
    except NotFound:
        return False
    return True


def _of_job(name: str, clients: Clients, on_event: OnEvent | None) -> _OfRun:
    job = FineTuneJob(name, clients).entity()
    try:
        RunRecord.read(job)
    except NotFound as error:  # somebody else's
        error.fix = "register its model (phift.register_model, or in the studio), and deploy that: NAME:VERSION"
        raise
    return _OfRun(_attached(name, clients, on_event))


def _attached(job: str, clients: Clients, on_event: OnEvent | None) -> FineTuneRun:
    # A deployment has no other events than those of its stages.
    return FineTuneRun.attach(job, clients, on_event=cast("Callable[[Event], None] | None", on_event))


def _registered(clients: Clients, name: str, wanted: Mapping[str, str], on_event: OnEvent | None) -> _OfRun | _Model:
    """Return a model of the workspace; with its run, where phift submitted the job that it comes from."""
    with azure_errors(f"model {name}"):
        found = clients.workspace.models.get(name, **wanted)
    model = RegisteredModel(
        name=text(found.name, "model.name"),
        version=text(found.version, "model.version"),
        id=resource_id(found.id, "model.id"),
        tags=texts(found.tags, "model.tags"),
        existed=True,
    )
    served = f"{model.name}:{model.version}"
    kind = text(found.type or "custom_model", "model.type")
    if JOB_TAG in model.tags:
        with suppress(NotFound, AccessDenied):  # the job was deleted, is another's, or for others to see
            return _OfRun(_attached(model.tags[JOB_TAG], clients, on_event), model)
    foundation = FoundationModel(id="", name=served, version="", registry="")
    if base := model.tags.get("phift.base_model"):
        with suppress(NotFound):
            foundation = find_model(clients, base)
    return _Model(clients, model.id, served, foundation, on_event, kind)


def _of_registry(clients: Clients, said: str, on_event: OnEvent | None) -> _Model:
    found = find_model(clients, read_section(ModelConfig, said, "model"))
    # What a registry lists says itself by what it is served.
    return _Model(clients, found.id, f"{found.name}:{found.version}", found, on_event, "mlflow_model")


def _nothing(clients: Clients, said: str, name: str, error: NotFound) -> NotFound:
    """Return the error for a name that nothing has, with near ones."""

    def names(found: Iterable[Any]) -> list[str]:
        return [in_a_line(each.name) for each in found if each is not None and each.name]

    def enough(found: list[Any]) -> bool:
        return len(found) >= _MOST_NAMES

    known: list[str] = []
    with suppress(PhiftError), azure_errors("models"):
        known += names(listed(clients.workspace.models.list(), "models", enough))
    with suppress(PhiftError):
        known += names(list_jobs(clients, RUN_TAG, most=_MOST_NAMES))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    what = f"There is neither a job nor a model {said} in the workspace, nor such a model in the registry."
    fix = f"did you mean {' or '.join(near)}? " if near else f"{error.fix}; " if error.fix else ""
    fix += "`phift runs` lists the jobs, `az ml model list` the models"
    return NotFound(what, where=f"workspace {clients.workspace.workspace_name}", fix=fix)
