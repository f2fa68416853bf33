"""What a deployment serves: a model by its id, the digest by which a tag knows it, and what it is called."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phift.azure.answers import resource_id, text, texts
from phift.azure.clients import Clients
from phift.config.addresses import PREFIX, read_address
from phift.errors import Conflict, azure_errors, in_a_line
from phift.jobs.job import JOB_TAG
from phift.jobs.registration import RegisteredModel
from phift.serving.container import MOUNT, is_vllm
from phift.serving.lifetime import LONGEST_TAG
from phift.serving.resource import MODEL, SERVES

if TYPE_CHECKING:
    from azure.ai.ml.entities import OnlineDeployment

# What the service itself tells a model's container (azure-sdk-assets b4cd9fb8, test_online_deployment, 2025-02-25).
VARIABLES_OF_SERVICE = ("AZUREML_MODEL_DIR", "MLFLOW_MODEL_FOLDER")
# What an MLflow model without an own environment gets from the service, which names it when it is asked for again
# (azure-powershell, Get-AzMLWorkspaceEnvironmentContainer, 2025-11-04; azure-sdk-assets b4cd9fb8, 2025-02-25).
ENVIRONMENT_OF_SERVICE = "/environments/DefaultNcdEnv-"


@dataclass(frozen=True)
class ServedModel:
    """A model that is to be served.

    - **words**: ``name:version``, or whatever it was called by.
    - **job**: whose model it is, where phift has registered it; else empty.
    """

    id: str
    words: str
    job: str = ""

    @property
    def digest(self) -> str:
        """The digest of its id, which is too long for a tag; the service may change the id's spelling."""
        return hashlib.sha256(self.id.lower().removeprefix("azureml:").encode()).hexdigest()[:12]

    @property
    def tags(self) -> dict[str, str]:
        """The tags by which a deployment of it is known."""
        told = {SERVES: self.digest, MODEL: self.words[:LONGEST_TAG], JOB_TAG: self.job}
        return {name: value for name, value in told.items() if value}


def served_model(clients: Clients, model: RegisteredModel | str) -> ServedModel:
    """Return a model by what names it.

    - **model**: or its ``name:version`` in the workspace, which is looked up; any other text is an id already.
    """
    if isinstance(model, RegisteredModel):
        return ServedModel(model.id, f"{model.name}:{model.version}", model.tags.get(JOB_TAG, ""))
    short = read_address(model if model.startswith(PREFIX) else f"{PREFIX}{model}")
    if short is None or short.kind:
        named = re.search(r"models/([^/]+)/versions/([^/]+)$", model)
        return ServedModel(model, ":".join(named.groups()) if named else model.removeprefix(PREFIX))
    wanted = {"version": short.version} if short.version else {"label": short.label}
    with azure_errors(f"model {model}"):
        found = clients.workspace.models.get(short.name, **wanted)
    name, version = (text(getattr(found, key), f"model.{key}") for key in ("name", "version"))
    job = texts(found.tags, "model.tags").get(JOB_TAG, "")
    return ServedModel(resource_id(found.id, "model.id"), f"{name}:{version}", job)


def container_of(deployment: OnlineDeployment, fix: str) -> dict[str, Any]:
    """Return what a deployment's container is made of, as the SDK takes it for another one.

    Raises `phift.errors.Conflict`, with the **fix**, where that would not be all of it: the SDK tells of no deployment
    that is there where its model is mounted (azure-ai-ml 1.35.2).
    """
    name = in_a_line(text(deployment.name, "deployment.name"))
    place = f"deployment {name} of endpoint {in_a_line(str(deployment.endpoint_name))}"
    for what in ("code_configuration", "data_collector"):
        if getattr(deployment, what, None):
            said = f"The deployment has a {what}, which another one could not be given as it is."
            raise Conflict(said, where=place, fix=fix)
    known, mount = deployment.environment, MOUNT if is_vllm(deployment) else None
    if ENVIRONMENT_OF_SERVICE in str(known):
        known = None
    elif known and not mount:
        said = "The deployment has an environment of its own, and where its model is mounted cannot be read."
        raise Conflict(said, where=place, fix=fix)
    variables = {k: v for k, v in (deployment.environment_variables or {}).items() if k not in VARIABLES_OF_SERVICE}
    return {"environment": known, "environment_variables": variables, "model_mount_path": mount}


def another_model(
    like: OnlineDeployment, name: str, model_id: str, tags: Mapping[str, str], *, size: str | None = None
) -> OnlineDeployment:
    """Return a deployment that is to be made: as one that there is, with another name and model.

    - **size**: VM size; left out, as that one's.

    Raises what `container_of` does.
    """
    from azure.ai.ml.entities import ManagedOnlineDeployment

    return ManagedOnlineDeployment(
        name=name,
        endpoint_name=like.endpoint_name,
        tags=dict(tags),
        model=model_id,
        instance_type=size or like.instance_type,
        instance_count=like.instance_count,
        **container_of(like, "deploy the new model yourself, and give it traffic with `endpoint.set_traffic`"),
        liveness_probe=like.liveness_probe,
        readiness_probe=like.readiness_probe,
        request_settings=like.request_settings,
    )
