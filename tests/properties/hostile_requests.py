"""Requests to a local workspace as nobody should send them: those of every route, with a few of their parts wrong."""

from __future__ import annotations

import copy
import json
import random
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from phift.local.names import ACCOUNT, GROUP, LOCATION, REGISTRY, SUBSCRIPTION, WORKSPACE, WORKSPACE_ID
from phift.local.server.service import TABLE
from phift.local.services.route import Route
from phift.local.state.identity import Identity

TRAIN = "azureml://datastores/workspaceblobstore/paths/tests/train.jsonl"
MODEL = f"{WORKSPACE_ID}/models/m/versions/1"


def _job() -> Any:
    cluster = dict.fromkeys(("compute_finetune", "compute_model_import", "compute_preprocess"), "gpu-cluster")
    model = "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/15"
    inputs = {
        "mlflow_model_path": {"uri": model, "job_input_type": "mlflow_model"},
        "train_file_path": {"value": "${{parent.inputs.train}}", "job_input_type": "literal"},
        **{name: {"value": value, "job_input_type": "literal"} for name, value in {"seed": "1", **cluster}.items()},
    }
    node = {
        "type": "pipeline",
        "componentId": "azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.82",
        "inputs": inputs,
        "outputs": {"mlflow_model_folder": {"value": "${{parent.outputs.trained_model}}", "type": "literal"}},
    }
    properties = {
        "jobType": "Pipeline",
        "displayName": "a job",
        "description": "a job",
        "tags": {"a": "b"},
        "properties": {"a": "b"},
        "experimentName": "tests",
        "isArchived": False,
        "inputs": {"train": {"uri": TRAIN, "jobInputType": "uri_file"}},
        "outputs": {"trained_model": {"jobOutputType": "mlflow_model", "mode": "ReadWriteMount"}},
        "jobs": {"chat_completion_pipeline": node},
        "settings": {"_source": "DSL", "force_rerun": True, "continue_on_step_failure": False},
    }
    return {"properties": properties}


def _version(uri: str, kind: str) -> Any:
    of = {"data": "uri_file", "model": "custom_model"}[kind]
    more = {"description": "d", "tags": {"a": "b"}, "properties": {"c": "d"}, "isArchived": False, "stage": "s"}
    return {"properties": {f"{kind}Uri": uri, f"{kind}Type": of, "flavors": {"f": {"data": {"a": "b"}}}, **more}}


_METRIC = {"key": "loss", "value": 0.5, "step": 1, "timestamp": 1_700_000_000_000}
_TAG = {"key": "a", "value": "b"}
_BODIES: dict[str, Any] = {
    "PUT jobs/{name}": _job(),
    "PUT computes/{name}": {
        "location": "westus2",
        "tags": {"a": "b"},
        "properties": {
            "computeType": "AmlCompute",
            "description": "d",
            "disableLocalAuth": True,
            "properties": {
                "vmSize": "Standard_NC24ads_A100_v4",
                "vmPriority": "Dedicated",
                "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "PT2M"},
                "userAccountCredentials": {"adminUserName": "a", "adminUserPassword": "b"},
            },
        },
    },
    "PUT onlineEndpoints/{endpoint}": {
        "location": "westus2",
        "identity": {"type": "SystemAssigned"},
        "kind": "Managed",
        "tags": {"a": "b"},
        "properties": {
            "authMode": "Key",
            "description": "d",
            "properties": {"a": "b"},
            "traffic": {},
            "mirrorTraffic": {},
            "publicNetworkAccess": "Enabled",
        },
    },
    "PATCH onlineEndpoints/{endpoint}": {"tags": {"a": "b"}, "identity": {"type": "SystemAssigned"}},
    "POST onlineEndpoints/{endpoint}/regenerateKeys": {"keyType": "Primary"},
    "PUT onlineEndpoints/{endpoint}/deployments/{deployment}": {
        "location": "westus2",
        "sku": {"name": "Default", "capacity": 1},
        "tags": {"a": "b"},
        "properties": {
            "model": MODEL,
            "instanceType": "Standard_NC24ads_A100_v4",
            "description": "d",
            "properties": {"a": "b"},
            "requestSettings": {
                "requestTimeout": "PT5S",
                "maxConcurrentRequestsPerInstance": 1,
                "maxQueueWait": "PT0S",
            },
            "livenessProbe": {"timeout": "PT2S", "period": "PT10S", "failureThreshold": 30},
            "environmentVariables": {"A": "b"},
            "scaleSettings": {"scaleType": "Default"},
        },
    },
    "POST onlineEndpoints/{endpoint}/deployments/{deployment}/getLogs": {"tail": 10, "containerType": "x"},
    "POST inference/{endpoint}/score": {
        "input_data": {"input_string": [{"role": "user", "content": "x"}], "parameters": {"temperature": 0.5}},
        "params": {"max_new_tokens": 3},
    },
    "PUT data/{name}/versions/{version}": _version(TRAIN, "data"),
    "PUT models/{name}/versions/{version}": _version(TRAIN, "model"),
    "PUT codes/{name}/versions/{version}": {
        "properties": {"codeUri": "https://localhost/x", "properties": {"hash_sha256": "abc", "hash_version": 1}}
    },
    "PUT components/{name}/versions/{version}": {
        "properties": {"componentSpec": {"command": "x", "inputs": {"a": {"type": "string"}}}, "tags": {}}
    },
    "PUT environments/{name}/versions/{version}": {"properties": {"image": "x", "condaFile": "y", "osType": "Linux"}},
    "PUT data/{name}": {"properties": {"tags": {}, "description": "d", "isArchived": False}},
    "PUT models/{name}": {"properties": {"tags": {}, "description": "d", "isArchived": False}},
    "PATCH runs": {"tags": {"a": "b"}, "properties": {"c": ""}, "displayName": "n", "description": "", "hidden": False},
    "POST rundata": {"runId": "j", "selectRunMetadata": True},
    "POST batchGetResolvedUris": {"values": [f"{WORKSPACE_ID}/data/azureml_j_output_data_trained_model/versions/1"]},
    "POST batch/metadata": {"paths": [{"path": "a/b.txt"}]},
    "POST experiments/create": {"name": "e", "tags": [_TAG]},
    "POST experiments/set-experiment-tag": {"experiment_id": "0", **_TAG},
    "POST experiments/delete": {"experiment_id": "none"},
    "POST experiments/restore": {"experiment_id": "0"},
    "POST experiments/search": {"filter": "name = 'e'", "max_results": 3, "page_token": "", "view_type": "ALL"},
    "GET experiments/search": {},
    "POST runs/create": {"experiment_id": "0", "run_name": "r", "start_time": 1, "tags": [_TAG]},
    "POST runs/search": {
        "experiment_ids": ["0"],
        "filter": "metrics.loss < 3 AND tags.`a` = 'b' and attributes.run_name ILIKE 'x%'",
        "order_by": ["metrics.loss DESC", "attributes.start_time ASC"],
        "max_results": 5,
        "page_token": "",
        "run_view_type": "ALL",
    },
    "POST runs/update": {"run_id": "j", "status": "FINISHED", "end_time": 1_700_000_000_000, "run_name": "n"},
    "POST runs/delete": {"run_id": "j"},
    "POST runs/restore": {"run_id": "j"},
    "POST runs/log-metric": {"run_id": "j", **_METRIC},
    "POST runs/log-parameter": {"run_id": "j", **_TAG},
    "POST runs/log-batch": {"run_id": "j", "metrics": [_METRIC], "params": [_TAG], "tags": [_TAG]},
    "POST runs/log-inputs": {
        "run_id": "j",
        "datasets": [
            {
                "dataset": {"name": "n", "digest": "d", "source_type": "t", "source": "s", "schema": "x"},
                "tags": [_TAG],
            }
        ],
    },
    "POST runs/set-tag": {"run_id": "j", **_TAG},
    "POST runs/delete-tag": {"run_id": "j", "key": "a"},
    "POST registered-models/create": {"name": "m", "description": "d", "tags": [_TAG]},
    "POST model-versions/create": {"name": "m", "source": TRAIN, "run_id": "j", "description": "d", "tags": [_TAG]},
    "POST phift/seed": {
        "computes": [{"name": "c", "size": "Standard_NC24ads_A100_v4", "nodes": 1}],
        "quota": {"standardNCADSA100v4Family": 100},
    },
    "POST phift/faults": {
        "value": [
            {
                "on": "GET none/x",
                "status": 404,
                "code": "a",
                "message": "b",
                "headers": {"a": "b"},
                "error": {"details": []},
                "delay": 0.01,
                "times": 1,
                "after": 0,
            }
        ]
    },
    "POST phift/clock": {"advance": 60},
}  # fmt: skip
_NAMES = {
    "jobs": "j",
    "computes": "gpu-cluster",
    "datastores": "workspaceblobstore",
    "{container}": "tests/train.jsonl",
}
_NUMBERS = (0, -1, 1, 3, 1.5, 2**31, 2**53, 2**63, -(2**63) - 1, 10**30, 1e308, -1e308, 1e12, 1e-300)
_TEXTS = (
    *("", " ", "x", "x" * 300, "\0", "a\nb", "\x1b[2J", "é", "\N{SNOWMAN}", "\N{GRINNING FACE}", "NaN", "1e999", "-5"),
    *("99999999999999999999", "../..", "a/b", "/", "//", "%00", "%2e", "${{parent.inputs.train}}"),
    "${{parent.jobs.a.outputs.b}}",
    *("azureml:m:1", "runs:/j/a", "azureml://datastores/x/paths/y", "azureml://jobs/j/outputs/o/paths/", MODEL, TRAIN),
    *("PT", "P99999999999D", "PT1e9S", "2026-01-01T00:00:00Z", "'", '"', "''", "a = ", "metrics.", "tags.`", "%", "_"),
    *("bytes=5-1", "bytes=0-", "bytes=-1", "bytes=99999999999999999999-", "bytes=a-b", "bytes=0-0,2-3", "*", '"x"'),
    *("Bearer", "Bearer x", "Basic eDp5", "WyIiLCAxXQ==", "WzEsIDJd", "W1tdLCAxXQ==", "bnVsbA==", "true", "null", "[]"),
    *("mlflow.runName", "mlflow.parentRunId", "score", "__azureml_ft_x", "trained_model", "j", "0", "blue", "Failed"),
    "desc", "createdtime desc", "ArchivedOnly", "Pipeline", "block", "blocklist", "metadata", "list", "AAAA",
    "mlflow_model", "Aml", "AADToken", "AMLToken", "LowPriority", "Standard_D4s_v3", "SystemAssigned",
)  # fmt: skip
_QUERIES = (
    *("$top", "count", "$skip", "$skipToken", "listViewType", "jobType", "tag", "hash", "$orderBy", "isDefault"),
    *("comp", "prefix", "delimiter", "marker", "maxresults", "include", "blockid", "restype", "run_id", "run_uuid"),
    *("experiment_id", "experiment_name", "page_token", "metric_key", "max_results", "filter", "path", "resource"),
    *("name", "version", "$continuationtoken", "after", "api-version", "sig", "sr", "se", "sp", "order_by"),
)
_HEADERS = (
    *("range", "x-ms-range", "if-match", "if-none-match", "content-type", "x-ms-blob-type", "x-ms-meta-a"),
    *("x-ms-client-request-id", "x-ms-blob-content-type", "x-ms-blob-content-md5", "azureml-model-deployment"),
    *("x-ms-meta-", "x-ms-meta-a b", "x-identity-header", "x-ms-version", "accept", "user-agent", "cookie"),
)
_HARSH = (  # of a filter, an order, an id: what takes a bad pattern long
    " " * 20_000,
    "tags." + "a" * 20_000,
    "(" * 5000,
    "tags.a LIKE '" + "%a" * 3000 + "'",
    "metrics.a < " + "9" * 20_000,
    "tags.a IN (" + "'a'," * 3000,
    "a" * 20_000 + "!",
    "$" * 20_000,
    "${{" + " " * 20_000,
    "azureml:" + "/" * 20_000,
    "azureml://jobs/" + "a/" * 8000,
    "azureml://" + "experiments/a/runs/b/artifacts/" * 3000 + "\n\n",
    "P" + "1" * 20_000,
    '"' * 20_000,
    "a = 'b' AND " * 1500,
)


@dataclass(frozen=True)
class Hostile:
    """A request: its path is not quoted, nor are its query's values, and its headers are Latin-1."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def target(self) -> str:
        query = "&".join(f"{quote(name)}={quote(value)}" for name, value in self.query.items())
        return quote(self.path) + (f"?{query}" if query else "")


class Maker:
    """Makes requests for a workspace, as a seed says."""

    def __init__(self, seed: int, secret: str) -> None:
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.secret = secret
        identity = Identity(secret)
        self.token = identity.token("https://management.azure.com", seconds=1e8)[0]
        self.storage = identity.token("https://storage.azure.com", seconds=1e8)[0]
        self._endpoint = identity.token("endpoint/end", seconds=1e8)[0]

    def request(self) -> Hostile:
        """Return the next one; every fifth is good, so that there is something to read and to change."""
        wrong = self.random.random() < 0.8
        route: Route = self.random.choice(TABLE)
        if route.operation == "POST phift/reset" and self.random.random() < 0.98:
            return self.request()
        path = re.sub(r"\{(\w+)(?:\.\.\.)?\}", lambda found: self._name(route, found[1], wrong=wrong), route.template)
        sent = self._body(route, wrong=wrong)
        return Hostile(route.method, path, self._query(route, wrong=wrong), self._headers(route, wrong=wrong), sent)

    def _name(self, route: Route, part: str, *, wrong: bool) -> str:
        segment = route.template.rpartition("/{name")[0].rpartition("/")[2]
        known = {
            "subscription": SUBSCRIPTION,
            "group": GROUP,
            "workspace": WORKSPACE,
            "location": LOCATION,
            "registry": REGISTRY,
            "run": "j",
            "experiment": "tests",
            "endpoint": "end",
            "deployment": "blue",
            "account": "storage",
            "version": "1",
            "container": self.random.choice(["azureml-blobstore", "azureml", "dcid.j"]),
            "origin": "ExperimentRun",
        }
        usual = known.get(part) or _NAMES.get(segment, "m" if segment else "tests/train.jsonl")
        often = 0.02 if part in ("subscription", "group", "workspace", "registry", "location", "account") else 0.2
        return str(self._value(texts=True))[:8000] or "x" if wrong and self.random.random() < often else usual

    def _value(self, *, texts: bool = False) -> Any:
        kind = self.random.random()
        if kind < 0.02:
            return self.random.choice(_HARSH)
        if texts or kind < 0.4:
            return self.random.choice(_TEXTS)
        if kind < 0.7:
            return self.random.choice(_NUMBERS)
        return copy.deepcopy(
            self.random.choice(
                [None, True, False, [], {}, [1], ["a"], {"a": 1}, [[]], [{}], [None], {"": {}}, {"a": {"b": [{}]}}]
            )
        )

    def _body(self, route: Route, *, wrong: bool) -> bytes:
        key = next((key for key in (route.operation, *self._shorter(route)) if key in _BODIES), None)
        if key is None:
            return b"x" if route.method == "PUT" else self.random.choice([b"", b"", b"{}", b"[]", b"x"])
        body = copy.deepcopy(_BODIES[key])
        if not wrong:
            return json.dumps(body).encode()
        for _ in range(self.random.choice([0, 1, 1, 1, 2, 4])):
            self._spoil(body)
        sent = json.dumps(body).encode()
        return sent if self.random.random() < 0.8 else self._broken(sent)

    def _shorter(self, route: Route) -> list[str]:
        """Return how the table of bodies may call a route whose path is a long one."""
        path = route.template
        ends = [
            path.partition("/mlflow/")[2].rpartition("mlflow/")[2],
            "/".join(path.split("/")[-2:]),
            path.rpartition("/")[2],
        ]
        if "/runs/{run}" in path and route.method == "PATCH":
            ends.append("runs")
        return [f"{route.method} {end}" for end in ends]

    def _spoil(self, body: Any) -> None:
        """Change one thing somewhere inside."""
        inside = [body]
        for each in inside:
            values = each.values() if isinstance(each, dict) else each
            inside += [value for value in values if isinstance(value, dict | list) and value]
        place = self.random.choice(inside)
        kind = self.random.random()
        if isinstance(place, list):
            place[self.random.randrange(len(place))] = self._value()
        elif kind < 0.65 and place:
            key = self.random.choice(list(place))
            old = place[key]
            place[key] = self._mangled(old) if isinstance(old, str) and kind < 0.3 else self._value()
        elif kind < 0.8 and place:
            del place[self.random.choice(list(place))]
        else:
            place[str(self._value(texts=True))] = self._value()

    def _mangled(self, text: str) -> str:
        at = self.random.randrange(len(text) + 1)
        return text[:at] + str(self._value(texts=True)) + text[at + self.random.randrange(2) :]

    def _broken(self, sent: bytes) -> bytes:
        at, kind = self.random.randrange(len(sent) + 1), self.random.randrange(8)
        if kind == 0:
            return sent[:at]
        if kind == 1:
            return sent[:at] + bytes([self.random.randrange(256)]) + sent[at + 1 :]
        if kind == 2:
            return re.sub(rb': "[^"]*"', rb': "\\ud83d"', sent, count=self.random.randrange(1, 9))
        if kind == 3:
            return re.sub(rb': "[^"]*"', b': "\xed\xa0\x80"', sent, count=1)
        if kind == 4:
            deep = self.random.choice([30, 70, 300, 900, 5000])
            return re.sub(rb': ("[^"]*"|\d+)', lambda _: b": " + b'{"a":' * deep + b"1" + b"}" * deep, sent, count=1)
        if kind == 5:
            return re.sub(
                rb": \d+",
                lambda _: (
                    b": "
                    + self.random.choice(
                        [b"9" * 400, b"9" * 5000, b"1e999", b"NaN", b"-Infinity", b"9223372036854775808"]
                    )
                ),
                sent,
            )
        if kind == 6:
            return b"[" * self.random.choice([1, 100, 100_000])
        return self.random.choice(
            [b"", b"null", b"[]", b"1", b'"x"', b"{", b"\xff\xfe", b"\xef\xbb\xbf{}", b"<a/>", b"true"]
        )

    def _query(self, route: Route, *, wrong: bool) -> dict[str, str]:
        query = {"api-version": self.random.choice(["2023-10-01", "2024-07-01-preview"])}
        if "/storage.blob." in route.template and route.operation.startswith("GET") and "name" not in route.template:
            query |= {"restype": "container", "comp": "list"}
        for name in ("experiment_id", "run_id"):
            query[name] = {"experiment_id": "0", "run_id": "j"}[name]
        if wrong and self.random.random() < 0.5:
            for _ in range(self.random.choice([1, 1, 2])):
                query[self.random.choice(_QUERIES)] = str(self._value(texts=self.random.random() < 0.7))
        return {name: value[:3000] for name, value in query.items()}  # all of a head has 64 KiB at most

    def _headers(self, route: Route, *, wrong: bool) -> dict[str, str]:
        token = (
            self.storage if ACCOUNT in route.template or route.template.startswith("/registry-models") else self.token
        )
        if route.template.startswith("/inference/"):
            token = self._endpoint
        headers = {"authorization": f"Bearer {token}", "x-identity-header": self.secret, "x-ms-blob-type": "BlockBlob"}
        if wrong and self.random.random() < 0.4:
            value = str(self._value(texts=True))[:6000]
            value = re.sub(r"[\r\n\0]", "", value.encode("latin-1", "replace").decode("latin-1")).strip()
            name = self.random.choice([*_HEADERS, "authorization"])
            headers[name if re.fullmatch(r"[\w-]+", name) else "x-ms-meta-a"] = value
        return headers
