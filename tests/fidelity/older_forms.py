"""Answers as Azure ML gave them in 2022 and in 2024, where a newer one looks different: put in place on their way.

The local workspace answers in the newest form that was recorded. A row of `FORMS` makes an older one of it; fields that
nobody reads are among them, since what is not there can be missed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import pytest
import requests
from requests.adapters import HTTPAdapter

from fidelity.wire_traffic import route_of
from phift.local.names import DATASTORES

_KEY = "dGhpcyBpcyBmYWtlIGtleQ=="  # as in the recordings
_ACCOUNT = "account.blob.core.windows.net"

_SDK = "azure-sdk-for-python, azure-ai-ml/tests/recordings"
_ENDPOINT_2022 = f"{_SDK}, test_online_deployment, 0edb01d7, 2022-10-28"
_ENDPOINT_2024 = "azure-powershell, CreateScenarioTestOnlineEndpoint, b7ee16ad, 2024-07-25"
_COMPUTE_2022 = f"{_SDK}, test_aml_compute_create_and_delete, 4ae9ae37, 2023-03-01"
_COMPUTE_2024 = "azure-powershell, Get-AzMLWorkspaceCompute, 49be303a, 2024-07-24"
_DATA_2022 = f"{_SDK}, test_create_uri_file, 1b6870a1, 2022-09-16"
_MODEL_2022 = f"{_SDK}, test_crud_file, 45c59f05, 2022-09-16"
_LABEL_2022 = f"{_SDK}, test_models_get_latest_label, f773170b, 2022-09-16"
_JOB_2022 = f"{_SDK}, test_pipeline_job_download, 563adfe1, 2023-02-12"
_STEP_2022 = f"{_SDK}, test_pipeline_job_get_child_run, 563adfe1, 2023-02-12"
_SECRETS_2024 = "azure-powershell, Get-AzMLWorkspaceDatastoreSecret, 951fdc43, 2024-07-24"
_USAGES_2022 = "azure-powershell, Get-AzMLServiceUsage, f8f51813, 2022-06-05"
_SIZES_2024 = "azure-powershell, Get-AzMLServiceVMSize, 951fdc43, 2024-07-24"


@dataclass
class Answer:
    """An answer on its way.

    - **asked**: with what it was asked: the method, the address, the body.
    - **kept**: what forms remember of earlier answers.
    """

    asked: requests.PreparedRequest
    headers: Any
    body: Any
    kept: dict[str, Any]


Change = Callable[[Answer], None]


@dataclass(frozen=True)
class Form:
    """How the answers of a route looked in a year, and where that was recorded; of the routes that `route` matches."""

    year: int
    route: str
    source: str
    change: Change


@dataclass
class Put:
    """What was put in place: how often each form was."""

    times: Counter[Form] = field(default_factory=Counter)


@contextmanager
def answering_as_in(year: int) -> Iterator[Put]:
    """Change all answers that this process gets to the forms of a year; of 2026 there are none to change."""
    forms, put, kept = [form for form in FORMS if form.year == year], Put(), dict[str, Any]()
    send = HTTPAdapter.send

    def changed(adapter: HTTPAdapter, asked: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        _lead_back(asked, kept)
        route = route_of(str(asked.method), unquote(urlsplit(str(asked.url)).path))
        response = send(adapter, asked, *args, **options)
        matching = [form for form in forms if response.ok and fnmatchcase(route, form.route)]
        if matching and "json" in response.headers.get("Content-Type", ""):
            answer = Answer(asked, response.headers, response.json(), kept)
            for form in matching:
                form.change(answer)
                put.times[form] += 1
            response._content = json.dumps(answer.body).encode()
            response.headers["Content-Length"] = str(len(response.content))
        return response

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPAdapter, "send", changed)
        yield put


def _lead_back(asked: requests.PreparedRequest, kept: dict[str, Any]) -> None:
    """Lead a request to the storage account to the local one, with the signature that goes with its container."""
    parts = urlsplit(str(asked.url))
    if parts.netloc == _ACCOUNT:
        assert asked.headers.pop("Authorization").startswith("SharedKey account:")
        query = "&".join(filter(None, (parts.query, kept[parts.path.split("/")[2]])))
        asked.url = urlunsplit(parts._replace(netloc=kept["host"], query=query))


def _resources(body: Any) -> Sequence[Any]:
    """Return the resource that an answer shows, or all of a list."""
    resources: Sequence[Any] = body.get("value", [body])
    return resources


def _without(*places: str) -> Change:
    """Leave fields out, of every resource that the answer shows; a place is ``properties/stage``."""

    def change(answer: Answer) -> None:
        for each in _resources(answer.body):
            for place in places:
                *way, last = place.split("/")
                inner = each
                for name in way:
                    inner = inner.get(name) or {}
                inner.pop(last, None)

    return change


def _with(**properties: Any) -> Change:
    """Give properties of a resource these values."""

    def change(answer: Answer) -> None:
        for each in _resources(answer.body):
            each["properties"] |= properties

    return change


def _account(answer: Answer) -> None:
    """Name an account of Azure's: the SDK takes from its host whose key it signs with."""
    answer.kept["host"] = urlsplit(str(answer.asked.url)).netloc
    for each in _resources(answer.body):
        each["properties"]["accountName"] = f"{_ACCOUNT}/storage"


def _key(answer: Answer) -> None:
    """Tell the key; what is signed with it gets a signature of the local workspace on its way."""
    store = urlsplit(str(answer.asked.url)).path.split("/")[-2]
    answer.kept[DATASTORES[store]] = answer.body["sasToken"].lstrip("?")
    answer.body = {"secretsType": "AccountKey", "key": _KEY}


def _unsigned(answer: Answer) -> None:
    """Take the signature out of the address of an operation, which follows its status."""
    for name in ("Azure-AsyncOperation", "Location"):
        if url := answer.headers.get(name):
            parts = urlsplit(url)
            query = [(key, value) for key, value in parse_qsl(parts.query) if key not in ("t", "c", "s", "h")]
            answer.headers[name] = urlunsplit(parts._replace(query=urlencode(query)))


def _endpoint_put(answer: Answer) -> None:
    """An update tells the old traffic, and the addresses."""
    properties, path = answer.body["properties"], urlsplit(str(answer.asked.url)).path
    if properties["traffic"] or path in answer.kept:
        properties |= {"provisioningState": "Updating", **answer.kept[path]}


def _endpoint_get(answer: Answer) -> None:
    """Remember what an update will tell."""
    for each in _resources(answer.body):
        told = {name: each["properties"][name] for name in ("traffic", "scoringUri", "swaggerUri")}
        if told["scoringUri"]:
            answer.kept[urlsplit(str(answer.asked.url)).path] = told


def _going(answer: Answer) -> None:
    if answer.body["status"] not in ("Succeeded", "Failed"):
        answer.body.pop("endTime", None)


def _compute_status(answer: Answer) -> None:
    ended = answer.body["status"] != "InProgress"
    answer.body = {"status": answer.body["status"], **({"percentComplete": 100.0} if ended else {})}


def _upper_size(answer: Answer) -> None:
    for each in _resources(answer.body):
        inner = each["properties"]["properties"]
        inner["vmSize"] = inner["vmSize"].upper()


def _job(answer: Answer) -> None:
    """Fewer fields, and of a pipeline that has run its stages; an empty object where there is nothing to tell."""
    for each in _resources(answer.body):
        properties = each.get("properties") or {}  # a step has none
        for name in ("notificationSetting", "secretsConfiguration"):
            properties.pop(name, None)
        for output in (properties.get("outputs") or {}).values():
            output.pop("pathOnCompute", None)
            output.pop("autoDeleteSetting", None)
        for service in (properties.get("services") or {}).values():
            service.pop("nodes", None)
        if properties.get("status") == "Completed":
            stages = {"Initialization": None, "Execution": {"Status": "Finished"}}
            properties["properties"]["azureml.pipelines.stages"] = json.dumps(stages)
        if "inputs" in properties:
            properties["inputs"] = properties["inputs"] or {}


def _steps(answer: Answer) -> None:
    """Steps whose results were taken from an earlier job have run nowhere."""
    for each in _resources(answer.body):
        if each.get("parentRunId"):
            each["runTypeV2"] = {"orchestrator": None, "traits": ["azureml.StepRun"], "attribution": None}
            each |= dict.fromkeys(("currentAttemptId", "computeRequest", "compute", "diagnosticsUri"))
            each["properties"]["azureml.isreused"] = "true"


def _usages(answer: Answer) -> None:
    """Totals without an id of their own, families with blanks in their names, low-priority rows under the same id."""
    subscription = "/".join(urlsplit(str(answer.asked.url)).path.split("/")[:3])
    kind = "Microsoft.MachineLearningServices/"

    def row(name: str, words: str, at: str, limit: int, used: int = 0) -> dict[str, Any]:
        called = {"value": name, "localizedValue": words}
        where = f"{subscription}/usages/{name.replace(' ', '_')}" if "vmFamily" in at else subscription
        told = {"unit": "Count", "currentValue": used, "limit": limit, "name": called}
        return {**told, "type": f"{kind}{at}/usages", "id": where}

    families = [each for each in answer.body["value"] if each["type"].endswith("vmFamily/dedicatedCores/usages")]
    names = [str(each["name"]["value"]) for each in families]
    spoken = [f"Standard {name.removeprefix('standard').removesuffix('Family')} Family Cluster" for name in names]
    total = sum(each["limit"] for each in families)
    answer.body["value"] = [
        row("TotalClusters", "Total Clusters", "totalClusters", 200, 14),
        row("TotalDedicatedCores", "Total Cluster Dedicated Regional vCPUs", "totalDedicatedCores", total),
        *(
            row(name, f"{words} Dedicated vCPUs", "vmFamily/dedicatedCores", each["limit"], each["currentValue"])
            for name, words, each in zip(names, spoken, families, strict=True)
        ),
        row("TotalLowPriorityCores", "Total Cluster Low Priority Regional vCPUs", "totalLowPriorityCores", 300),
        *(
            row(name, f"{words} LowPriority vCPUs", "vmFamily/lowPriorityCores", -1)
            for name, words in zip(names, spoken, strict=True)
        ),
    ]


def _sizes(answer: Answer) -> None:
    """No size is named for endpoints, and the price that counts is not the first one."""
    for each in answer.body["value"]:
        each["supportedComputeTypes"] = ["AmlCompute", "ComputeInstance"]
        others = [("Windows", "LowPriority"), ("Windows", "Standard"), ("Linux", "LowPriority"), ("Linux", "Standard")]
        values = [
            {"retailPrice": round(0.5 + 0.5 * place, 2), "osType": system, "vmTier": tier}
            for place, (system, tier) in enumerate(others)
        ]
        each["estimatedVMPrices"] = {"billingCurrency": "USD", "unitOfMeasure": "OneHour", "values": values}


_NEWER_OF_WORKSPACE = (
    "managedNetwork",
    "allowRoleAssignmentOnRG",
    "creationTime",
    "ipAllowlist",
    "networkAcls",
    "serverlessComputeSettings",
    "EnableSoftwareBillOfMaterials",
    "enableDataIsolation",
    "systemDatastoresAuthMode",
    "enableServiceSideCMKEncryption",
)
_NEWER_OF_ASSETS = ("autoDeleteSetting", "stage", "intellectualProperty", "provisioningState")
_STORE = _without("properties/subscriptionId", "properties/resourceGroup")
_ASSET = _without(*(f"properties/{name}" for name in _NEWER_OF_ASSETS))

FORMS = [
    Form(
        2022,
        "GET workspace",
        _ENDPOINT_2022,
        _without("kind", *(f"properties/{name}" for name in _NEWER_OF_WORKSPACE)),
    ),
    Form(2022, "GET datastores*", _DATA_2022, _STORE),
    Form(2022, "GET datastores*", _DATA_2022, _account),
    Form(2022, "POST datastores/*/listSecrets", _DATA_2022, _key),
    Form(2022, "GET locations/*/usages", _USAGES_2022, _usages),
    Form(2022, "GET computes*", _COMPUTE_2022, _upper_size),
    Form(2022, "GET computes*", _COMPUTE_2022, _without("properties/provisioningWarnings")),
    Form(2022, "PUT computes/*", _COMPUTE_2022, _unsigned),
    Form(2022, "PUT computes/*", _COMPUTE_2022, _without("properties/provisioningWarnings")),
    Form(2022, "GET locations/*/computeOperationsStatus/*", _COMPUTE_2022, _compute_status),
    Form(2022, "PUT data/*/versions/*", _DATA_2022, _ASSET),
    Form(2022, "GET data/*/versions*", _DATA_2022, _ASSET),
    Form(2022, "PUT models/*/versions/*", _MODEL_2022, _ASSET),
    Form(2022, "GET models/*/versions*", _MODEL_2022, _ASSET),
    Form(2022, "GET models/*/versions", _LABEL_2022, lambda answer: answer.body.pop("nextLink", None)),
    Form(2022, "PUT jobs/*", _JOB_2022, _job),
    Form(2022, "GET jobs*", _JOB_2022, _job),
    Form(2022, "GET history/*/children", _STEP_2022, _steps),
    Form(2022, "GET onlineEndpoints/{endpoint}", _ENDPOINT_2022, _endpoint_get),
    Form(2022, "PUT onlineEndpoints/{endpoint}", _ENDPOINT_2022, _endpoint_put),
    Form(2022, "PUT onlineEndpoints/*", _ENDPOINT_2022, _unsigned),
    Form(2022, "GET locations/*/mfeOperationsStatus/*", _ENDPOINT_2022, _going),
    Form(2022, "* onlineEndpoints/*/deployments/{deployment}", _ENDPOINT_2022, _without("properties/dataCollector")),
    Form(2022, "* onlineEndpoints/*/deployments/{deployment}", _ENDPOINT_2022, _with(privateNetworkConnection=False)),
    Form(2024, "GET datastores*", _SECRETS_2024, _account),
    Form(2024, "POST datastores/*/listSecrets", _SECRETS_2024, _key),
    Form(2024, "GET computes*", _COMPUTE_2024, _upper_size),
    Form(2024, "GET locations/*/vmSizes", _SIZES_2024, _sizes),
    Form(
        2024,
        "PUT onlineEndpoints/{endpoint}",
        _ENDPOINT_2024,
        _without("location", "identity", "properties/properties/azureml.onlineendpointid"),
    ),
    Form(2024, "PUT onlineEndpoints/{endpoint}", _ENDPOINT_2024, lambda answer: answer.body.update(systemData={})),
]
"""Every form that differs from the newest one, by year."""
