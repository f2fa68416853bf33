"""What is known of each route: who calls it, which generated models its bodies are, what differs, what is left out.

`docs/routes.md` is made of this, and the tests hold the running server against it, so that neither can go stale.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """One route.

    - **calls**: what uses it: calls of `azure-ai-ml` unless said otherwise.
    - **does**: what is done, for people.
    - **versions**: the api-versions with which azure-ai-ml 1.35.2 asks.
    - **answer**, **body**: the models of the answer and of the request in the two clients, ``client:Class``; in
      brackets a page of them.
    - **why**: where there is no model for an answer, the reason, and what checks it instead.
    - **differs**, **left_out**: for people.
    """

    calls: str
    does: str
    versions: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    why: str = ""
    differs: str = ""
    left_out: str = ""


def _both(name: str) -> tuple[str, ...]:
    """Return a model that has one name in both management clients."""
    if name.startswith("["):
        return tuple(f"[{client}:{name[1:-1]}]" for client in ("arm", "mgmt"))
    return tuple(f"{client}:{name}" for client in ("arm", "mgmt"))


def _sdk(name: str) -> tuple[str, ...]:
    return (f"[arm:{name[1:-1]}]",) if name.startswith("[") else (f"arm:{name}",)


_V2021, _V2022, _V202304 = ("2021-10-01-dataplanepreview",), ("2022-02-01-preview",), ("2023-04-01-preview",)
_V202308, _V2024, _V202410 = ("2023-08-01-preview",), ("2024-01-01-preview",), ("2024-10-01-preview",)
_ONE_PAGE = "everything is one page"
_NO_BODY = "the answer has no body"
_POLLED = "pollers read it; no model is generated for it; held against azure-core's own names by hand"
_SIGNED = "storage has its own client, which is used on it; a shared-access signature stands in for a token"

_ACCOUNT = "subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Storage/storageAccounts/{account}"

FACTS: dict[str, Fact] = {
    # The workspace itself
    "GET health": Fact("`phift local up`", "version of the server", why="ours, not Azure's"),
    "GET metadata/endpoints": Fact(
        "every client that reads `ARM_CLOUD_METADATA_URL`", "addresses of this cloud", why="read by the SDK by hand"
    ),
    "GET msi/token": Fact(
        "`ManagedIdentityCredential`, `DefaultAzureCredential`",
        "tokens for any audience, for one hour",
        ("2019-08-01",),
        why="azure-identity reads it, and is used on it",
        differs="the header's secret is the folder's own",
    ),
    "GET discovery": Fact("`jobs.stream`", "addresses of the services", why="read by the SDK by hand"),
    "GET workspace": Fact(
        "`workspaces.get`, and before most creations",
        "the one workspace",
        ("2023-08-01-preview", "2024-10-01-preview"),
        _both("Workspace"),
        differs="what stands beside it (storage account, key vault, container registry, notebooks) is names only; "
        "the key of telemetry is made up",
        left_out="making, changing and deleting workspaces, hubs, projects",
    ),
    "GET workspaces": Fact(
        "`workspaces.list`", "the one workspace", _V202410, _both("[Workspace]"), differs="`kind` is always shown"
    ),
    f"GET {_ACCOUNT}": Fact(
        "`phift check`",
        "whether the storage account takes keys",
        why="the storage provider's, of whom no client is here",
    ),
    f"GET {_ACCOUNT}/providers/Microsoft.Authorization/permissions": Fact(
        "`phift check`",
        "what the caller may do there: everything",
        why="Azure's authorization, of which no client is here",
    ),
    "GET datastores": Fact(
        "`datastores.list`, `get_default`",
        "the four that every workspace has, two of them file shares",
        _V202410,
        _both("[Datastore]"),
    ),
    "GET datastores/{name}": Fact(
        "`datastores.get`, every upload and download",
        "the same",
        _V202410,
        _both("Datastore"),
        differs="`accountName` holds host, port and path, so that the SDK's storage address leads here",
        left_out="making datastores; those on other storage; file shares hold nothing",
    ),
    "POST datastores/{name}/listSecrets": Fact(
        "every upload and download",
        "a signature for the container, for one day; 400 where the datastores take the caller's own token",
        _V202410,
        _both("DatastoreSecrets"),
        differs="never an account key",
    ),
    # Computes and quota
    "GET computes": Fact("`compute.list`", "clusters", _V202308, _both("[ComputeResource]")),
    "GET computes/{name}": Fact(
        "`compute.get`",
        "a cluster; 404 without a body where there is none",
        _V202308,
        _both("ComputeResource"),
        differs="node counts are always 0, also while it is made",
    ),
    "PUT computes/{name}": Fact(
        "`compute.begin_create_or_update`",
        "makes or changes an AmlCompute cluster, on paper",
        _V202308,
        _both("ComputeResource"),
        _both("ComputeResource"),
        left_out="compute instances, Kubernetes, attached machines, Spark: 501",
    ),
    "DELETE computes/{name}": Fact(
        "`compute.begin_delete`", "deletes a cluster", _V202308, why=_NO_BODY, differs="204 where there is none"
    ),
    "GET locations/{location}/vmSizes": Fact(
        "`compute.list_sizes`",
        "the sizes that the models allow, with the prices of one day in one region",
        _V202308,
        _both("VirtualMachineSizeListResult"),
        left_out="the many other sizes",
    ),
    "GET locations/{location}/usages": Fact(
        "`compute.list_usage`",
        "clusters and vCPUs in use and their limit, in the region and by family, dedicated and low-priority",
        _V202308,
        _both("[Usage]"),
        differs="limits are made up; a total is no limit of its own",
        left_out="the families of other sizes, the quota of a single workspace",
    ),
    # Jobs
    "GET jobs": Fact("`jobs.list`", "jobs, newest first, by `listViewType`", _V2024, _both("[JobBase]")),
    "GET jobs/{name}": Fact(
        "`jobs.get`, `stream`, `download`",
        "a pipeline job; a child run with null properties, as the SDK expects it",
        ("2023-10-01", "2024-01-01-preview"),
        _both("JobBase"),
        differs="its link to the Studio leads to Azure",
    ),
    "PUT jobs/{name}": Fact(
        "`jobs.create_or_update`, `update`, `archive`",
        "submits a pipeline of the one component; changes name, tags, description; refuses unknown fields",
        _V2024,
        _both("JobBase"),
        _both("JobBase"),
        differs="the same job again is answered with the one that is there",
        left_out="command, sweep, AutoML, Spark and fine-tuning jobs, schedules: 501",
    ),
    "POST jobs/{name}/cancel": Fact(
        "`jobs.begin_cancel`", "cancels a job and its engine", _V202304, why=_NO_BODY, differs="a child run: 400"
    ),
    "DELETE jobs/{name}": Fact(
        "`jobs.begin_delete`",
        "deletes a job that has ended, its runs, logs and metrics; the operation fails for one that runs",
        _V202304,
        why=_NO_BODY,
        differs="204 where there is none; that outputs stay is guessed; a child run: 400",
    ),
    # Endpoints
    "GET onlineEndpoints": Fact("`online_endpoints.list`", "endpoints", _V2022, _both("[OnlineEndpoint]")),
    "GET onlineEndpoints/{endpoint}": Fact(
        "`online_endpoints.get`, `invoke`",
        "an endpoint; no `scoringUri` before it is made",
        ("2022-02-01-preview", "2023-04-01-preview"),
        _both("OnlineEndpoint"),
        differs="what it says while its traffic changes (Updating, with its addresses) is in no recording",
    ),
    "PUT onlineEndpoints/{endpoint}": Fact(
        "`online_endpoints.begin_create_or_update`",
        "makes an endpoint, sets its traffic; the answer has no address",
        _V2022,
        _both("OnlineEndpoint"),
        _both("OnlineEndpoint"),
        differs="the words and the status of what breaks a rule of mirrored traffic are guessed",
        left_out="Kubernetes: 501",
    ),
    "PATCH onlineEndpoints/{endpoint}": Fact(
        "the management client's `begin_update`",
        "changes tags and identity",
        answer=_both("OnlineEndpoint"),
        body=_both("PartialMinimalTrackedResourceWithIdentity"),
    ),
    "DELETE onlineEndpoints/{endpoint}": Fact(
        "`online_endpoints.begin_delete`", "deletes it with its deployments", _V2022, why=_NO_BODY
    ),
    "POST onlineEndpoints/{endpoint}/listKeys": Fact(
        "`online_endpoints.get_keys`, `invoke`",
        "both keys; null where Entra's tokens count",
        _V2022,
        _both("EndpointAuthKeys"),
    ),
    "POST onlineEndpoints/{endpoint}/regenerateKeys": Fact(
        "`online_endpoints.begin_regenerate_keys`",
        "makes one key anew",
        _V2022,
        body=_both("RegenerateEndpointKeysRequest"),
        why=_NO_BODY,
        differs="done at once; Azure answers 202",
        left_out="a key of one's own (`keyValue`)",
    ),
    "POST onlineEndpoints/{endpoint}/token": Fact(
        "`online_endpoints.get_keys` of an endpoint with tokens",
        "a token for scoring, for a day",
        _V2022,
        _both("EndpointAuthToken"),
    ),
    "GET onlineEndpoints/{endpoint}/deployments": Fact(
        "`online_deployments.list`, `invoke`", "deployments", _V202304, _both("[OnlineDeployment]")
    ),
    "GET onlineEndpoints/{endpoint}/deployments/{deployment}": Fact(
        "`online_deployments.get`", "a deployment", _V202304, _both("OnlineDeployment")
    ),
    "PUT onlineEndpoints/{endpoint}/deployments/{deployment}": Fact(
        "`online_deployments.begin_create_or_update`",
        "loads an MLflow model in a process of its own; checks quota",
        _V202304,
        _both("OnlineDeployment"),
        _both("OnlineDeployment"),
        differs="the environment of an MLflow model has a name, and is not there",
        left_out="scoring code, environments: 501; scale rules, probes and collectors are stored only",
    ),
    "DELETE onlineEndpoints/{endpoint}/deployments/{deployment}": Fact(
        "`online_deployments.begin_delete`", "deletes it, unless it has traffic", _V202304, why=_NO_BODY
    ),
    "POST onlineEndpoints/{endpoint}/deployments/{deployment}/getLogs": Fact(
        "`online_deployments.get_logs`",
        "the instance's status, one event, and the last lines of the scorer",
        _V202304,
        _both("DeploymentLogs"),
        _both("DeploymentLogsRequest"),
    ),
    "GET onlineEndpoints/{endpoint}/providers/Microsoft.Insights/metrics": Fact(
        "`phift.serving.monitor`, Azure Monitor's clients",
        "the requests that came, by minute and deployment, mirrored ones too; kept for a week",
        ("2023-10-01",),
        why='Azure Monitor\'s form, as "Metrics - List" (REST API 2023-10-01) has it; read by `phift.serving.monitor`',
        differs="told at once, which takes Azure minutes; refusals in Resource Manager's form",
        left_out="other intervals than a minute, other metrics than of answers; filters with `ne`, `orderby`, `top`",
    ),
    "POST inference/{endpoint}/score": Fact(
        "`online_endpoints.invoke`, HTTP clients",
        "scores as Azure's MLflow server does; traffic rules, mirroring, keys, tokens, time limit",
        why="the model's own form",
        left_out="`swagger.json`",
    ),
    **{
        f"POST inference/{{endpoint}}/{path}": Fact(
            "the `openai` package, HTTP clients",
            "OpenAI's API as vLLM's server has it, whole and streamed; keys, tokens, traffic as for `score`",
            why="OpenAI's form, read by its own package",
            differs="on Azure a container of the foundation models has it, an MLflow deployment has not",
            left_out="what OpenAI's API has beyond text: refused by name",
        )
        for path in ("v1/chat/completions", "chat/completions")
    },
    "GET inference/{endpoint}/v1/models": Fact(
        "the `openai` package", "the name of the deployment's model", why="OpenAI's form, read by its own package"
    ),
    # Code, environments, components of one's own
    "POST codes/{name}/versions/{version}/startPendingUpload": Fact(
        "components and jobs with code",
        "a container of its own and a signature for it",
        ("2023-04-01",),
        _both("PendingUploadResponseDto"),
        _both("PendingUploadRequestDto"),
    ),
    # Run history and its neighbours
    "POST history/v1.0/rundata": Fact(
        "`jobs.download`",
        "a run with its outputs",
        ("v1.0",),
        ("history:GetRunDataResult",),
        ("history:GetRunDataRequest",),
        left_out="the run's definition, job specification",
    ),
    "POST data/v1.0/dataversion/batchGetResolvedUris": Fact(
        "`jobs.download` of a data output",
        "addresses of outputs",
        answer=("datasets:BatchDataUriResponse",),
        body=("datasets:BatchGetResolvedURIs",),
    ),
    "POST modelregistry/v1.0/models/batchGetResolvedUris": Fact(
        "`jobs.download` of a model output (a defect of SDK 1.35.2 stops it before it asks)",
        "addresses of outputs",
        answer=("modeldata:BatchModelPathResponseDto",),
        body=("modeldata:BatchGetResolvedUrisDto",),
    ),
    # The registry
    "GET registrymanagement/v1.0/registries/{registry}/discovery": Fact(
        "`MLClient(registry_name=...)`",
        "where the registry is",
        ("v1.0",),
        ("registries:RegistryDiscoveryDto",),
        left_out="registries other than `azureml`: 403, as one that may not be used",
    ),
    "POST registries/{registry}/datarefs/{name}/versions/{version}": Fact(
        "`models.download` from the registry",
        "a signature that reads the registry's container",
        _V2021,
        _sdk("GetBlobReferenceSASResponseDto"),
        _sdk("GetBlobReferenceSASRequestDto"),
        differs="for models only",
    ),
    # Storage
    "GET blobs/{container}": Fact(
        "`download`s (`BlobServiceClient`)",
        "lists blobs by prefix, with and without a delimiter",
        why=_SIGNED,
        differs="a blob and a folder cannot share a name",
        left_out="other operations on containers and accounts: 501",
    ),
    "GET blobs/{container}/{name...}": Fact(
        "`download`s, `jobs.stream`", "reads a blob or a range; If-Match, If-None-Match", why=_SIGNED
    ),
    "HEAD blobs/{container}/{name...}": Fact("uploads, downloads", "size, ETag, metadata; the same", why=_SIGNED),
    "PUT blobs/{container}/{name...}": Fact(
        "uploads",
        "blob, block, list of blocks, metadata; If-Match, If-None-Match",
        why=_SIGNED,
        differs="conditions are checked before the write and not with it; content hashes are not checked",
        left_out="append and page blobs, copies, leases, tiers, snapshots, tags: 501",
    ),
    "GET registry-models": Fact(
        "downloads of the registry's models", "lists them by prefix", why=_SIGNED, differs="one container for all"
    ),
    "GET registry-models/{name...}": Fact("the same", "reads a blob or a range", why=_SIGNED),
    "HEAD registry-models/{name...}": Fact("the same", "size, ETag", why=_SIGNED),
    "DELETE blobs/{container}/{name...}": Fact(
        "the storage client's `delete_blob`", "deletes a blob; If-Match, If-None-Match", why=_SIGNED
    ),
}


def _assets() -> None:
    both = {
        "data": ("DataContainer", "DataVersionBase", _V202304),
        "models": ("ModelContainer", "ModelVersion", _V202308),
    }
    for kind, (container, version, versions) in both.items():
        word = "data assets" if kind == "data" else "models"
        FACTS[f"GET {kind}"] = Fact(f"`{kind}.list()`", word, versions, _both(f"[{container}]"))
        FACTS[f"GET {kind}/{{name}}"] = Fact(
            f"`{kind}.create_or_update` without a version, `archive`", "next version", versions, _both(container)
        )
        FACTS[f"PUT {kind}/{{name}}"] = Fact(
            f"`{kind}.archive`, `restore` without a version",
            "changes tags, description, archives",
            versions,
            _both(container),
            _both(container),
            left_out="making a container without a version: 404",
        )
        FACTS[f"GET {kind}/{{name}}/versions"] = Fact(
            f'`{kind}.list(name)`, `get(label="latest")`',
            "versions, newest first; `$top`, `listViewType`",
            versions,
            _both(f"[{version}]"),
        )
        FACTS[f"GET {kind}/{{name}}/versions/{{version}}"] = Fact(
            f"`{kind}.get`, `download`", "a version", versions, _both(version)
        )
        FACTS[f"PUT {kind}/{{name}}/versions/{{version}}"] = Fact(
            f"`{kind}.create_or_update`, `archive`",
            "makes a version; what it points to never changes",
            versions,
            _both(version),
            _both(version),
            differs="an MLflow model is opened, and refused without its MLmodel file" if kind == "models" else "",
            left_out="" if kind == "models" else "MLTable's own lists, imports",
        )
        FACTS[f"DELETE {kind}/{{name}}/versions/{{version}}"] = Fact(
            "the management client's `delete`", "deletes a version", why=_NO_BODY
        )


def _own_steps() -> None:
    own = {
        "codes": ("CodeVersion", "components with code", ("2023-04-01",)),
        "environments": ("EnvironmentVersion", "`environments`", _V202304),
        "components": ("ComponentVersion", "`components`", _V2024),
    }
    for kind, (version, calls, versions) in own.items():
        FACTS[f"GET {kind}/{{name}}/versions"] = Fact(
            f"{calls}: list, look for the same content",
            "versions",
            versions,
            _both(f"[{version}]"),
        )
        FACTS[f"GET {kind}/{{name}}/versions/{{version}}"] = Fact(
            f"{calls}: get", "a version", () if kind == "codes" else versions, _both(version)
        )
        FACTS[f"PUT {kind}/{{name}}/versions/{{version}}"] = Fact(
            f"{calls}: create",
            "keeps it as it was sent",
            versions,
            _both(version),
            _both(version),
            differs="never built, never executed",
            left_out="containers without a version, archiving by container",
        )


def _registry() -> None:
    kinds = {"models": "ModelContainer", "components": "ComponentContainer", "data": "DataContainer"}
    at = "registries/{registry}"
    for kind, container in kinds.items():
        version = container.replace("Container", "VersionBase" if kind == "data" else "Version")
        word = "never any" if kind == "data" else f"the {kind} there are"
        asked = kind != "data"
        FACTS[f"GET {at}/{kind}"] = Fact(f"`{kind}.list()`", word, _V2021, _both(f"[{container}]"), differs=_ONE_PAGE)
        FACTS[f"GET {at}/{kind}/{{name}}"] = Fact(
            "scripts", word, answer=_both(container) if asked else (), why="" if asked else "always 404"
        )
        FACTS[f"GET {at}/{kind}/{{name}}/versions"] = Fact(
            f'`{kind}.get(label="latest")`, `list(name)`', word, _V2021 if asked else (), _both(f"[{version}]")
        )
        FACTS[f"GET {at}/{kind}/{{name}}/versions/{{version}}"] = Fact(
            f"`{kind}.get`, `download`",
            word,
            _V2021 if asked else (),
            _both(version) if asked else (),
            why="" if asked else "always 404",
            differs="stand-ins without training" if kind == "models" else "",
            left_out="writing to the registry: 501",
        )


def _history() -> None:
    run = {
        ("GET", ""): ("history:Run", "a run", "`jobs.get` of a child"),
        ("PATCH", ""): ("history:Run", "changes name, tags, description, archives", "`jobs.update`, `archive`"),
        ("GET", "/details"): ("history:RunDetails", "status, error, addresses of logs", "`jobs.stream`"),
        ("GET", "/children"): ("history:PaginatedRunList", "child runs", "`jobs.list(parent_job_name=)`"),
    }
    for place in ("runs/{run}", "experiments/{experiment}/runs/{run}", "experimentids/{experiment}/runs/{run}"):
        for (method, end), (model, does, calls) in run.items():
            by_sdk = place.startswith("experiments/" if method == "PATCH" else "runs/")
            FACTS[f"{method} history/v1.0/{place}{end}"] = Fact(
                calls if by_sdk else "MLflow's azureml plugin, scripts",
                does,
                ("v1.0",) if by_sdk else (),
                (model,),
                ("history:CreateRun",) if method == "PATCH" else (),
                left_out="revisions, durations, compute times" if end == "" else "",
            )


def _tracking() -> None:
    api = "mlflow/{version}/api/2.0/mlflow"
    calls = {
        "GET experiments/get-by-name": ("GetExperimentByName", "`get_experiment_by_name`", "an experiment"),
        "GET experiments/get": ("GetExperiment", "`get_experiment`", "an experiment; `0` is the one called Default"),
        "POST experiments/create": ("CreateExperiment", "`create_experiment`, `set_experiment`", "makes one"),
        "POST experiments/set-experiment-tag": ("SetExperimentTag", "`set_experiment_tag`", "writes a tag"),
        "POST experiments/delete": ("DeleteExperiment", "`delete_experiment`", "hides one"),
        "POST experiments/restore": ("RestoreExperiment", "`restore_experiment`", "shows it again"),
        "POST experiments/search": ("SearchExperiments", "`search_experiments`", "experiments, as they were made"),
        "GET experiments/search": ("SearchExperiments", "older clients", "the same"),
        "POST runs/create": ("CreateRun", "`start_run`, `create_run`", "begins a run"),
        "GET runs/get": ("GetRun", "`get_run`", "a run, of a job too"),
        "POST runs/search": ("SearchRuns", "`search_runs`", "runs, of jobs too"),
        "POST runs/update": ("UpdateRun", "`end_run`, `update_run`", "renames or ends a run"),
        "POST runs/delete": ("DeleteRun", "`delete_run`", "hides a run"),
        "POST runs/restore": ("RestoreRun", "`restore_run`", "shows it again"),
        "POST runs/log-metric": ("LogMetric", "`log_metric`", "writes a point"),
        "POST runs/log-parameter": ("LogParam", "`log_param`", "writes a parameter"),
        "POST runs/log-batch": ("LogBatch", "`log_batch`", "writes metrics, parameters and tags"),
        "POST runs/log-inputs": ("LogInputs", "`log_input`", "notes data sets"),
        "POST runs/set-tag": ("SetTag", "`set_tag`", "writes a tag"),
        "POST runs/delete-tag": ("DeleteTag", "`delete_tag`", "deletes a tag"),
        "GET metrics/get-history": ("GetMetricHistory", "`get_metric_history`", "all points of a metric"),
        "POST registered-models/create": (
            "CreateRegisteredModel",
            "`register_model`",
            "makes a model, without versions",
        ),
        "GET registered-models/get": ("GetRegisteredModel", "`get_registered_model`", "a model of the workspace"),
        "POST model-versions/create": ("CreateModelVersion", "`register_model`", "makes a version of it"),
        "GET model-versions/get": ("GetModelVersion", "`get_model_version`", "a version, ready at once"),
        "GET model-versions/get-download-uri": ("GetModelVersionDownloadUri", "`models:/name/1`", "where it lies"),
        "GET model-versions/search": (
            "SearchModelVersions",
            "`search_model_versions`",
            "those of a model, or of a run",
        ),
    }
    more = {
        "UpdateRun": ("the status of a job's run is the server's own", ""),
        "LogParam": ("on a job's run, a parameter may change", ""),
        "SearchRuns": ("", "filters on data sets"),
        "SearchExperiments": ("", "orders"),
        "LogInputs": ("", "logged models: 501"),
        "SearchModelVersions": ("everything is one page", "other filters"),
        "GetRegisteredModel": ("", "aliases, stages"),
    }
    for route, (message, call, does) in calls.items():
        method, _, path = route.partition(" ")
        differs, left_out = more.get(message, ("", ""))
        FACTS[f"{method} {api}/{path}"] = Fact(
            f"MLflow: {call}",
            does,
            answer=(f"mlflow:{message}.Response",),
            body=(f"mlflow:{message}",) if method == "POST" else (),
            differs=differs,
            left_out=left_out,
        )
    FACTS[f"POST {api.replace('/2.0/', '/2.0/preview/')}/runs/log-batch-async"] = Fact(
        "MLflow's azureml plugin: `log_metric(synchronous=False)`",
        "as log-batch, at once",
        why="azureml-mlflow has a message of its own, and is used on it",
    )
    for path, call in (("logged-models", "`log_model`"), ("logged-models/search", "`list_artifacts` of a folder")):
        FACTS[f"POST {api}/{path}"] = Fact(
            f"MLflow 3: {call}", "404, as Azure ML answers (2026-01-28, 2026-04-17)", why="always 404"
        )


def _artifacts() -> None:
    calls = "MLflow's azureml plugin: {}"
    for place in (
        "history/v1.0/experiments/{experiment}/runs/{run}/artifacts",
        "artifact/v2.0/artifacts/{origin}/{container}",
    ):
        FACTS[f"GET {place}"] = Fact(
            calls.format("`list_artifacts`"),
            "all that a run keeps, of a job's its logs too" if "history" in place else "what lies at a place",
            answer=("artifacts:PaginatedArtifactList",),
            differs="everything is one page",
        )
        FACTS[f"GET {place}/contentinfo"] = Fact(
            calls.format("`download_artifacts`"),
            "a signed address to read one",
            answer=("artifacts:ArtifactContentInformation",),
        )
        FACTS[f"POST {place}/batch/metadata"] = Fact(
            calls.format("`log_artifact`" if "history" in place else "`register_model` of a folder"),
            "signed addresses to write some; one that is there is refused",
            answer=("artifacts:BatchArtifactContentInformationResult",),
            body=("artifacts:ArtifactPathList",),
            differs="one that is not written yet is not listed",
        )


def _operations() -> None:
    for family in ("mfe", "compute"):
        FACTS[f"GET locations/{{location}}/{family}OperationsStatus/{{operation}}"] = Fact(
            "every poller (azure-core)",
            "the status; without Retry-After at speed real, with `x-ms-retry-after-ms` at speed fast",
            ("2022-02-01-preview", "2023-04-01-preview") if family == "mfe" else ("2023-08-01-preview",),
            why=_POLLED,
        )
        FACTS[f"GET locations/{{location}}/{family}OperationResults/{{operation}}"] = Fact(
            "pollers of deletions and cancellations",
            "202 with `Location` until it is done, then 204",
            _V202304 if family == "mfe" else (),
            why=_NO_BODY,
        )


for _fill in (_assets, _own_steps, _registry, _history, _tracking, _artifacts, _operations):
    _fill()

_SECRETS = "never shown; listSecrets gives them, as the specification says"
_METADATA = "the registry sends it, and no generated client knows it: the SDK drops it"
_REGISTRYS_MODEL = "recorded 2024-05-03; the generated clients know it of a workspace's models, or not at all"
_MODEL = dict.fromkeys(
    ("properties.intellectualProperty", "properties.originAssetId", "provisioningState: always sent"), _REGISTRYS_MODEL
)
_MODEL |= {"properties.systemMetadata": _METADATA}
_COMPONENT = {"provisioningState: always sent": "recorded without on 2022-11-17"}
_DISCOVERED = "recorded 2023-04-20, and unknown to the client"
_SIZES = "recorded 2025-11-04, and unknown to a client"
_HASH = "azure-ai-ml 1.35.2 sends the version of its hash as a number; it is kept as text"
_USAGE = "only for the quota of a single workspace"
_CHILD = "the SDK knows a child run by this null"
_KIND = "newer than the management client"
_NEWER = "recorded as null in 2026-03, and unknown to a client"
_NEWER_2025 = "recorded as null on 2025-02-25, and unknown to a client"
_VERSIONS = {
    "data": dict.fromkeys(("autoDeleteSetting", "intellectualProperty", "properties.stage"), _NEWER),
    "models": dict.fromkeys(("autoDeleteSetting", "intellectualProperty"), _NEWER),
}
_CHANGE = "recorded without on 2025-02-25, of an endpoint that was there"
_CLUSTER = {
    "body.systemData: always sent": "recorded without on 2024-12-18",
    "provisioningWarnings": "recorded 2024-12-18, and unknown to a client",
    "enableBatchPrivateLink": "recorded 2024-12-18, and unknown to a client",
}
_PUT_CLUSTER = {**_CLUSTER, "allocationStateTransitionTime: always sent": "recorded without on 2024-12-18"}
_DEPLOYMENT = "onlineEndpoints/{endpoint}/deployments"
_AT_VERSION = (
    "GET {}/{{name}}/versions",
    "GET {}/{{name}}/versions/{{version}}",
    "PUT {}/{{name}}/versions/{{version}}",
)

_RECORDED_RUN = "recorded 2026-02-27; the generated client is older"
_RECORDED_OUTPUT = "recorded null 2026-02-27, for every type of output; the generated models know it of newer versions"
_OLD_RUN = {" not in Run": _RECORDED_RUN}
_OLD_RUNS = {**_OLD_RUN, " not in Compute": _RECORDED_RUN}
_OLD_JOB = {"JobOutput": _RECORDED_OUTPUT, " not in PipelineJob": _RECORDED_RUN}
_RUN = "history/v1.0/{above}runs/{{run}}"
_ABOVE = ("", "experiments/{experiment}/", "experimentids/{experiment}/")
_PLACE = "recorded 2025-11-04 and 2026-03-27; the management client 2.0.0b2, of 2023-04-01, does not know it"
_STORE = {
    "credentials.secrets: required": _SECRETS,
    "properties.subscriptionId": _PLACE,
    "properties.resourceGroup": _PLACE,
}
_MODE = "the service writes it small (recorded 2026-02-27)"
_RECORDED_PLACE = "recorded 2026-02-27 as it is here; the generated clients know other versions"
_WORKSPACE = {
    "body.kind": _KIND,
    "properties.systemDatastoresAuthMode": _MODE,
    " in Workspace": _RECORDED_PLACE,
    " in ManagedNetworkSettings": _RECORDED_PLACE,
    " in NotebookResourceInfo": _RECORDED_PLACE,
    " comes back as None": _RECORDED_PLACE,
}

EXPECTED: dict[str, dict[str, str]] = {
    "GET datastores": _STORE,
    "GET datastores/{name}": _STORE,
    "GET jobs": _OLD_JOB,
    "GET jobs/{name}": {"body.properties: required": _CHILD, **_OLD_JOB},
    "PUT jobs/{name}": _OLD_JOB,
    **{f"{method} {_RUN.format(above=above)}": _OLD_RUN for method in ("GET", "PATCH") for above in _ABOVE},
    **{f"GET {_RUN.format(above=above)}/children": _OLD_RUNS for above in _ABOVE},
    f"GET {_RUN.format(above='')}": _OLD_RUNS,
    "POST history/v1.0/rundata": {**_OLD_RUN, " not in GetRunDataResult": _RECORDED_RUN},
    "GET locations/{location}/usages": {"amlWorkspaceLocation: always sent": _USAGE},
    "GET locations/{location}/vmSizes": {
        "generation": _SIZES,
        "supportsIB": _SIZES,
    },
    "GET registrymanagement/v1.0/registries/{registry}/discovery": dict.fromkeys(
        ("registryId", "registryFqdns", "intellectualPropertyPublisher"), _DISCOVERED
    ),
    "GET registries/{registry}/models/{name}/versions": _MODEL,
    "GET registries/{registry}/models/{name}/versions/{version}": _MODEL,
    "GET registries/{registry}/components/{name}/versions": _COMPONENT,
    "GET registries/{registry}/components/{name}/versions/{version}": _COMPONENT,
    "GET workspace": _WORKSPACE,
    "GET workspaces": _WORKSPACE,
    "PUT codes/{name}/versions/{version}": {"202208": _HASH},
    "GET computes": _CLUSTER,
    "GET computes/{name}": _CLUSTER,
    "PUT computes/{name}": _PUT_CLUSTER,
    "PUT onlineEndpoints/{endpoint}": {"body.location: required": _CHANGE},
    f"GET {_DEPLOYMENT}": {"dataCollector": _NEWER_2025},
    f"GET {_DEPLOYMENT}/{{deployment}}": {"dataCollector": _NEWER_2025},
    f"PUT {_DEPLOYMENT}/{{deployment}}": {"dataCollector": _NEWER_2025},
    **{place.format(kind): found for kind, found in _VERSIONS.items() for place in _AT_VERSION},
}
"""What a route's models complain of, and why it is right as it is."""
