"""A fake of the SDK's client, in memory, for unit tests that must take milliseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from azure.core.polling import LROPoller

    from phift.testing.fake_assets import Components, DataAssets, Models
    from phift.testing.fake_computes import Computes
    from phift.testing.fake_endpoints import Deployments, Endpoints
    from phift.testing.fake_jobs import Jobs
    from phift.testing.fake_places import Datastores, Workspaces
    from phift.testing.fake_service import Record

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
GROUP = "group"
_PROVIDER = "providers/Microsoft.MachineLearningServices"


class FakeMLClient:
    """Stands for ``azure.ai.ml.MLClient``, of a workspace or of a registry; what goes in and out are SDK entities.

        from phift.testing.fake_service import service_error

        client = FakeMLClient()
        client.jobs.next_script = ["Running", "Failed"]            # what the next job goes through, one step a look
        client.record.fail("data.create_or_update", service_error(503))  # fails once
        client.online_deployments.outcomes = ["Failed"]            # how the next deployment ends
        program_under_test(client)
        assert client.record.count("jobs.create_or_update") == 1

    What is covered, with the SDK 1.35.2's arguments, results and kinds of error:

    - workspaces: get; datastores: get, get_default
    - compute: get, list, begin_create_or_update, begin_update, begin_delete, list_sizes, list_usage; AmlCompute only
    - data and models: get, list, create_or_update, archive, restore; versions, the label ``latest``; models: download
      of what was registered from a local folder
    - components: get
    - jobs: create_or_update, get, list with and without a parent, begin_cancel, archive, restore
    - online_endpoints: get, list, begin_create_or_update, begin_delete, get_keys, begin_regenerate_keys
    - online_deployments: get, list, begin_create_or_update, begin_delete, get_logs
    - the client's own create_or_update and begin_create_or_update

    What is not covered, and raises ``NotImplementedError`` with its name: every other operation of the SDK.

    What differs from the service:

    - nothing takes time, and a poller that has been handed out has ended
    - nothing is uploaded, run, loaded or scored; a job's inputs and a deployment's model need not exist
    - no quota is used up, and nobody is refused for who he is
    - HTTP, serialization and the SDK's own checks of what is sent are left out: the local workspace has them

    **registry_name** makes it a registry's client; see `registry`. ``record`` holds every call, and the errors that are
    to come.
    """

    workspaces: Workspaces
    datastores: Datastores
    compute: Computes
    jobs: Jobs
    data: DataAssets
    models: Models
    components: Components
    online_endpoints: Endpoints
    online_deployments: Deployments

    def __init__(
        self,
        subscription_id: str = SUBSCRIPTION,
        resource_group_name: str = GROUP,
        workspace_name: str = "workspace",
        registry_name: str | None = None,
    ) -> None:
        # Importing the SDK takes seconds; who only imports this module does not wait for it.
        from phift.testing.fake_assets import Components, DataAssets, Models, Versions
        from phift.testing.fake_computes import Computes
        from phift.testing.fake_endpoints import Endpoints
        from phift.testing.fake_jobs import Jobs
        from phift.testing.fake_places import LOCATION, Datastores, Workspaces
        from phift.testing.fake_service import Record

        self.subscription_id = subscription_id
        self.resource_group_name = resource_group_name
        self.workspace_name = None if registry_name else workspace_name
        self.record: Record = Record()
        owner = f"/subscriptions/{subscription_id}/resourceGroups/{resource_group_name}/{_PROVIDER}/workspaces"
        owner = f"azureml://registries/{registry_name}" if registry_name else f"{owner}/{workspace_name}"
        jobs = Jobs(self.record, owner)

        def versions(kind: str) -> Versions:
            return Versions(self.record, kind, owner, jobs, registry=bool(registry_name))

        self.models, self.data = Models(versions("models")), DataAssets(versions("data"))
        self.components = Components(versions("components"))
        if registry_name:
            return
        self.jobs = jobs
        self.workspaces = Workspaces(self.record, workspace_name, owner)
        self.datastores = Datastores(self.record)
        self.compute = Computes(self.record, owner, LOCATION)
        self.online_endpoints = Endpoints(self.record, owner)
        self.online_deployments = self.online_endpoints.deployments

    @classmethod
    def registry(cls, name: str = "azureml") -> FakeMLClient:
        """Return a registry's client, with the foundation model Phi-4-mini-instruct and the component that tunes it."""
        from phift.testing.fake_places import component, foundation_model

        client = cls(registry_name=name)
        client.models.add(foundation_model(name))
        client.components.add(component(name))
        return client

    def __getattr__(self, name: str) -> Any:
        """Stand for the SDK's other kinds of operations."""
        from azure.ai.ml import MLClient

        if name.startswith("_") or not hasattr(MLClient, name):
            raise AttributeError(f"MLClient has no attribute {name!r}")
        raise NotImplementedError(f"FakeMLClient does not cover {name}.")

    def create_or_update(self, entity: Any) -> Any:
        """Create a job or a model, as the operations of its kind do; the SDK's client takes no data assets here."""
        from azure.ai.ml.entities import Data, Job, Model

        if isinstance(entity, Model):
            return self.models.create_or_update(entity)
        if isinstance(entity, Job) or hasattr(entity, "_to_job"):
            return self.jobs.create_or_update(entity)
        if isinstance(entity, Data):
            raise TypeError("create_or_update takes no Data; use data.create_or_update.")
        raise NotImplementedError(f"FakeMLClient does not cover create_or_update of a {type(entity).__name__}.")

    def begin_create_or_update(self, entity: Any) -> LROPoller[Any]:
        """Create a cluster, an endpoint or a deployment, as the operations of its kind do."""
        from azure.ai.ml.entities import Compute, OnlineDeployment, OnlineEndpoint

        if isinstance(entity, Compute):
            return self.compute.begin_create_or_update(entity)
        if isinstance(entity, OnlineEndpoint):
            return self.online_endpoints.begin_create_or_update(entity)
        if isinstance(entity, OnlineDeployment):
            return self.online_deployments.begin_create_or_update(entity)
        raise NotImplementedError(f"FakeMLClient does not cover begin_create_or_update of a {type(entity).__name__}.")
