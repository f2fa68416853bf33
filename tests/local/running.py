"""A running local workspace and what tests do to it."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import requests

from phift.local import Connection, LocalCredential, LocalWorkspace

with warnings.catch_warnings():
    # Its libraries warn about themselves when they are first imported; that is nothing of ours.
    warnings.simplefilter("ignore")
    from azure.ai.ml import MLClient


@dataclass(frozen=True)
class Local:
    """A running local workspace and the SDK's clients for it."""

    workspace: LocalWorkspace
    connection: Connection

    @property
    def options(self) -> dict[str, Any]:
        connection = self.connection
        cloud = {"cloud": connection.cloud_name, "cloud_metadata": connection.cloud_metadata}
        return {**cloud, "polling_interval": 0.05, "enable_telemetry": False, "show_progress": False}

    @cached_property
    def client(self) -> Any:
        connection = self.connection
        names = (connection.subscription_id, connection.resource_group, connection.workspace_name)
        return MLClient(LocalCredential(connection), *names, **self.options)

    @cached_property
    def registry(self) -> Any:
        return MLClient(LocalCredential(self.connection), registry_name="azureml", **self.options)

    @property
    def arm(self) -> str:
        connection = self.connection
        group = f"/subscriptions/{connection.subscription_id}/resourceGroups/{connection.resource_group}"
        return f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{connection.workspace_name}"

    @cached_property
    def token(self) -> str:
        return LocalCredential(self.connection).get_token("https://management.azure.com/.default").token

    @cached_property
    def session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.connection.ca_bundle)
        return session

    def request(self, method: str, path: str, *, token: str | None = None, **options: Any) -> requests.Response:
        """Send a request with a bearer token of ours, or the one given; an empty one is left away."""
        token = self.token if token is None else token
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
        if method == "PUT" and "/storage.blob." in path:
            headers.setdefault("x-ms-blob-type", "BlockBlob")  # storage wants to be told, and every client tells it
        url = path if path.startswith("https:") else self.connection.base_url + path
        if path.startswith(("/subscriptions/", "/mferp/")) and "api-version=" not in path:
            options["params"] = {"api-version": "2023-10-01", **(options.get("params") or {})}
        return self.session.request(method, url, headers=headers, timeout=60, **options)

    def output(self, job: str, name: str) -> str:
        """Return the address of a job's output as the SDK finds it: the job itself does not tell it."""
        run = self.request("GET", f"/history/v1.0{self.arm}/runs/{job}").json()
        asset = run["outputs"][name]["assetId"]
        where = f"/modelregistry/v1.0{self.arm}/models/batchGetResolvedUris"
        return str(self.request("POST", where, json={"values": [asset]}).json()["values"][asset]["path"])

    def ended(self, answer: requests.Response) -> dict[str, Any]:
        """Wait until what an answer began has ended; returns how."""
        assert answer.status_code in (200, 201, 202), answer.text
        while True:
            status: dict[str, Any] = self.request("GET", answer.headers["Azure-AsyncOperation"]).json()
            if status["status"] not in ("InProgress", "Updating"):
                return status
            time.sleep(0.02)

    def serve(self, name: str, mode: str = "Key", **settings: Any) -> str:
        """Make an endpoint whose one deployment has all traffic, and return what opens it.

        - **settings**: of its requests, as in ``maxConcurrentRequestsPerInstance``.
        """
        put = f"{self.arm}/onlineEndpoints/{name}"
        model = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"
        asked = {"requestTimeout": "PT20S", "maxConcurrentRequestsPerInstance": 4, **settings}
        properties = {"model": model, "instanceType": "Standard_NC24ads_A100_v4", "requestSettings": asked}
        made = {"properties": properties, "sku": {"capacity": 1}}
        for path, body in (
            (put, {"properties": {"authMode": mode}}),
            (f"{put}/deployments/blue", made),
            (put, {"properties": {"authMode": mode, "traffic": {"blue": 100}}}),
        ):
            ended = self.ended(self.request("PUT", path, json=body))
            assert ended["status"] == "Succeeded", ended
        if mode == "AMLToken":
            return str(self.request("POST", f"{put}/token").json()["accessToken"])
        return str(self.request("POST", f"{put}/listKeys").json()["primaryKey"])

    def wait(self, job: str, *statuses: str, seconds: float = 120) -> str:
        """Wait until a job has one of the statuses, by default an ended one."""
        wanted = statuses or ("Completed", "Failed", "Canceled")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = str(self.request("GET", f"{self.arm}/jobs/{job}").json()["properties"]["status"])
            if status in wanted:
                return status
            time.sleep(0.05)
        raise AssertionError(f"{job} is {status}, not one of {wanted}")
