"""vLLM in a container of one's own: OpenAI's routes with batches and streams, where a configuration asks for it.

Unverified on Azure: it is made of what is documented and of what others run there.

- Routes, probes and the mounted model of a custom container: Microsoft Learn, "Use a custom container to deploy a model
  to an online endpoint" and the YAML reference of managed online deployments (2026-07).
- vLLM behind a managed online endpoint, its model mounted below a path, its arguments in the environment:
  csiebler/csiebler.github.io, 06279bb, 2024-10-09. That the scoring route may be OpenAI's own: public deployments of
  2026 have it so.
- Where the weights and the tokenizer lie in a fine-tuned MLflow model varies with its age, so the container looks for
  them (azureml-assets, foundation-model-serve, 2026-07-23).
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phift.azure.answers import resource_id
from phift.azure.clients import Clients
from phift.azure.quiet import quiet_uploads
from phift.config.deployment import DeploymentConfig
from phift.errors import ConfigError, NotFound, azure_errors

if TYPE_CHECKING:
    from azure.ai.ml.entities import OnlineDeployment

ENVIRONMENT = "phift-vllm"
MOUNT = "/models"
_IMAGE = "vllm/vllm-openai:v0.11.0"
_PORT = 8000
_DOCKERFILE = f"""\
FROM {_IMAGE}
COPY serve.sh /serve.sh
ENTRYPOINT ["/bin/sh", "/serve.sh"]
"""
_SCRIPT = f"""\
set -eu
weights=$(find -L {MOUNT} -name '*.safetensors' -o -name 'pytorch_model*.bin' | sort | head -n 1)
tokenizer=$(find -L {MOUNT} -name tokenizer_config.json | sort | head -n 1)
test -n "$weights" || {{ echo "There are no weights below {MOUNT}." >&2; exit 1; }}
exec python3 -m vllm.entrypoints.openai.api_server --host 0.0.0.0 --port {_PORT} \\
    --model "$(dirname "$weights")" --tokenizer "$(dirname "${{tokenizer:-$weights}}")" \\
    --served-model-name $SERVED_MODEL_NAME --max-num-seqs "$MAX_NUM_SEQS"
"""
_ROUTES = {
    "liveness_route": {"port": _PORT, "path": "/health"},
    "readiness_route": {"port": _PORT, "path": "/health"},
    "scoring_route": {"port": _PORT, "path": "/v1/chat/completions"},
}


def vllm_settings(clients: Clients, endpoint: str, config: DeploymentConfig) -> dict[str, Any]:
    """Return what a deployment with vLLM has besides a model and machines; its environment is registered, once.

    - **endpoint**: its name is the model's for OpenAI's routes.

    Raises `phift.errors.ConfigError` for a local workspace, before anything is made.
    """
    if clients.is_local:
        what = "The local workspace runs no containers, so it cannot serve with vLLM."
        fix = "leave `deployment.serve` out: the local model servers have OpenAI's routes, too, and stream"
        raise ConfigError(what, where="deployment.serve", fix=fix)
    return {
        "environment": _environment(clients),
        "model_mount_path": MOUNT,
        "environment_variables": {
            "SERVED_MODEL_NAME": endpoint,
            "MAX_NUM_SEQS": str(config.max_concurrent_requests),
        },
    }


def is_vllm(deployment: OnlineDeployment) -> bool:
    """Whether a deployment is served by that container."""
    environment = deployment.environment
    named = str(getattr(environment, "id", None) or environment or "")
    return f"/environments/{ENVIRONMENT}/" in named.lower()


def _environment(clients: Clients) -> str:
    """Return the id of the environment, which is made where there is none of this content."""
    version = hashlib.sha256(f"{_DOCKERFILE}{_SCRIPT}{_ROUTES}".encode()).hexdigest()[:12]
    place, operations = f"environment {ENVIRONMENT}:{version}", clients.workspace.environments
    try:
        with azure_errors(place):
            return resource_id(operations.get(ENVIRONMENT, version=version).id, "environment.id")
    except NotFound:
        pass
    from azure.ai.ml.entities import BuildContext, Environment

    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"Dockerfile": _DOCKERFILE, "serve.sh": _SCRIPT}.items():
            (Path(folder) / name).write_text(text, encoding="utf-8", newline="\n")
        build = BuildContext(path=folder, dockerfile_path="Dockerfile")
        wanted = Environment(name=ENVIRONMENT, version=version, build=build, inference_config=_ROUTES)
        with quiet_uploads(), azure_errors(place):
            made = operations.create_or_update(wanted)
    return resource_id(made.id, "environment.id")
