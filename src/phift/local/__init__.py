"""A local workspace: a loopback server that speaks Azure ML's protocol to the real, unmodified ``azure-ai-ml``.

    from phift.local import LocalCredential, LocalWorkspace

    connection = LocalWorkspace().up()
    os.environ["REQUESTS_CA_BUNDLE"] = str(connection.ca_bundle)
    client = MLClient(
        LocalCredential(connection), connection.subscription_id, connection.resource_group, connection.workspace_name,
        cloud=connection.cloud_name, cloud_metadata=connection.cloud_metadata,
    )

Unmodified programs get there by environment variables: ``connection.environment()``.

For the tests of one process there is the same without a server, in that process: `phift.testing.TestWorkspace`.
docs/local-workspace.md has the rest: several in one process, what happens when it is killed, who may do what in it.

What is covered, with the SDK 1.35.2's calls:

- workspaces.get and list, datastores.get and list, uploads and downloads through the storage client, by
  a signature or the caller's own token
- registry ``azureml``: two stand-in models, models of the user's own, the component chat_completion_pipeline 0.0.82
- compute: AmlCompute clusters, VM sizes, usage; quota is checked at deployment, GPUs per node at the start of a job
- data assets and models: versions, labels, archiving, registration from a job's output, download
- jobs: a pipeline of the one component, expanded into its five steps and really trained; get, list, children, stream,
  download, cancel, delete, update, archive; one job trains at a time, the others wait; a restart of the server resumes;
  without ``force_rerun`` a step is not run where an equal step of an earlier job has completed: its outputs are taken
- phift's own step that prepares data, before that pipeline: known by its exact command, and run with the phift that is
  installed here; the code and the environment that come with it are kept, and never executed
- MLflow tracking: experiments, runs, metrics, tags and parameters, reading and writing, of those jobs and of runs that
  a program makes itself; their artifacts, through MLflow's azureml plugin; a run's artifact as a model's path;
  ``mlflow.register_model``
- online endpoints and deployments of MLflow models: keys, tokens, traffic, mirrored traffic, logs, scoring as Azure's
  MLflow server does; chat completions as vLLM's server does, whole and streamed, which an MLflow deployment on Azure
  does not have
- Azure Monitor's metrics of an endpoint's requests, by the minute and by deployment

What is not covered, and answers 501 with the method and path:

- other jobs (command, sweep, AutoML, fine-tuning jobs), other components and steps, schedules
- custom containers, batch and serverless endpoints, Kubernetes
- MLflow: the model registry's aliases and stages, traces; logged models are answered with 404, as Azure ML does
- writing to the registry, other registries, connections, feature stores, roles, networks
- Studio: there is no web page
- Windows

What differs from Azure:

- the same job submitted again is accepted and answered with the job that is there; another one of its name is refused
- a list's continuation token names the last thing shown, so that nothing comes twice; Azure's counts what was shown
- the step that ran when the server stopped begins anew, and logs its metrics again
- what a step gets from the one before is compared by what it is, where Azure may go by the run that made it; see
  `phift.local.work.reuse`
- GPUs, nodes and VM sizes are names, prices of one day and quota only; training and scoring run on this machine's CPU
- the models' weights are small and untrained (tag ``phift.standin``), but for those that the user has added
- ``components.download`` fails: the SDK wants its code on ``blob.core.windows.net``
- a blob and a folder cannot share a name
- where a job's run keeps no artifact of a name, its output of that name is meant
- metrics are there at once, which takes Azure some minutes; they are kept for a week
- whoever holds the folder's secret is the workspace's owner; there are no roles
"""

from __future__ import annotations

from phift.local.connection import Connection, LocalCredential
from phift.local.own_models import LocalModel
from phift.local.workspace import LocalStatus, LocalWorkspace

__all__ = ["Connection", "LocalCredential", "LocalModel", "LocalStatus", "LocalWorkspace"]
