"""What a deployment serves: a model by its id, the digest by which a tag knows it, and what it is called."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phift.azure.answers import resource_id, text, texts
from phift.azure.clients import Clients
from phift.config.addresses import PREFIX, read_address
from phift.errors import azure_errors
from phift.jobs.job import JOB_TAG
from phift.jobs.registration import RegisteredModel
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


def another_model(
    like: OnlineDeployment, name: str, model_id: str, tags: Mapping[str, str], *, size: str | None = None
) -> OnlineDeployment:
    """Return a deployment that is to be made: as one that there is, with another name and model.

    - **size**: VM size; left out, as that one's.
    """
    from azure.ai.ml.entities import ManagedOnlineDeployment

    variables = {k: v for k, v in (like.environment_variables or {}).items() if k not in VARIABLES_OF_SERVICE}
    return ManagedOnlineDeployment(
        name=name,
        endpoint_name=like.endpoint_name,
        tags=dict(tags),
        model=model_id,
        instance_type=size or like.instance_type,
        instance_count=like.instance_count,
        environment=None if ENVIRONMENT_OF_SERVICE in str(like.environment) else like.environment,
        environment_variables=variables,
        model_mount_path=like.model_mount_path,
        liveness_probe=like.liveness_probe,
        readiness_probe=like.readiness_probe,
        request_settings=like.request_settings,
    )
