"""What a deployment serves: a model by its id, and the digest by which a tag knows it."""

from __future__ import annotations

import hashlib

from phift.azure.answers import resource_id
from phift.azure.clients import Clients
from phift.config.addresses import PREFIX, read_address
from phift.errors import azure_errors
from phift.jobs.registration import RegisteredModel


def find_model_id(clients: Clients, model: RegisteredModel | str) -> str:
    """Return a model's id.

    - **model**: or its ``name:version`` in the workspace, which is looked up; any other text is an id already.
    """
    if isinstance(model, RegisteredModel):
        return model.id
    short = read_address(model if model.startswith(PREFIX) else f"{PREFIX}{model}")
    if short is None or short.kind:
        return model
    wanted = {"version": short.version} if short.version else {"label": short.label}
    with azure_errors(f"model {model}"):
        found = clients.workspace.models.get(short.name, **wanted)
    return resource_id(found.id, "model.id")


def model_digest(model_id: str) -> str:
    """Return the digest of a model's id, which is too long for a tag; the service may change the id's spelling."""
    return hashlib.sha256(model_id.lower().removeprefix("azureml:").encode()).hexdigest()[:12]
