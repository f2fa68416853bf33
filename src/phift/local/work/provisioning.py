"""What the operations do that are accepted now and done later: making and removing computes, endpoints, deployments."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping

from phift.local.ground import Ground
from phift.local.wire.errors import WireError
from phift.local.work.scorers import ScorerFailed, Scorers
from phift.local.work.training import Training


def provisioning(ground: Ground, scorers: Scorers, training: Training) -> Mapping[str, Callable[[str], None]]:
    """Return what each kind of operation does; its target is a document's key, and a job's name."""
    documents = ground.documents

    def make_compute(key: str) -> None:
        documents.update(key, lambda body: body.update(provisioningState="Succeeded"))

    def remove_compute(key: str) -> None:
        documents.delete(key)

    def make_endpoint(key: str) -> None:
        set_state(ground, key, "Succeeded")

    def make_deployment(key: str) -> None:
        _, endpoint, _, name = key.split("/")
        try:
            scorers.replace(endpoint, name)
        except ScorerFailed as error:
            scorers.log(endpoint, name, f"The deployment failed: {error}")
            set_state(ground, key, "Failed")
            message = f"User container has crashed or terminated: {error} The deployment's log says more."
            raise WireError(400, "ResourceNotReady", message) from error
        if documents.get(key) is None:  # deleted while the model was loaded
            forget(endpoint, name)
            return
        set_state(ground, key, "Succeeded")

    def forget(endpoint: str, name: str) -> None:
        scorers.end(endpoint, name)
        shutil.rmtree(ground.folder.deployment(endpoint, name), ignore_errors=True)

    def remove_deployment(key: str) -> None:
        _, endpoint, _, name = key.split("/")
        documents.delete(key)  # first: a creation that ends meanwhile looks here, and cleans up after itself
        forget(endpoint, name)

    def remove_endpoint(key: str) -> None:
        for deployment in list(documents.walk(f"{key}/deployments")):
            remove_deployment(deployment.key)
        documents.delete(key)

    return {
        "compute-create": make_compute,
        "compute-delete": remove_compute,
        "deployment-create": make_deployment,
        "deployment-delete": remove_deployment,
        "endpoint-create": make_endpoint,
        "endpoint-delete": remove_endpoint,
        "job-cancel": training.cancel,
    }


def set_state(ground: Ground, key: str, state: str) -> None:
    """Note the provisioning state of an endpoint or a deployment."""
    ground.documents.update(key, lambda body: body["properties"].update(provisioningState=state))
