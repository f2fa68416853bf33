"""The table of a job's fields, against the models of the API that are installed: what they can send is not refused."""

from __future__ import annotations

import json
import typing
from importlib.resources import files
from typing import Any

import pytest

from fidelity import generated_models
from fidelity.job_models import objects
from phift.local.services.job_fields import refuse_unknown
from phift.local.wire import WireError

pytestmark = pytest.mark.filterwarnings("ignore")  # the clients' own warnings, of themselves

TABLE = json.loads((files("phift.local.services") / "job_fields.json").read_text(encoding="utf-8"))
PIPELINES = "2024-01-01-preview"  # with which every azure-ai-ml from 1.26.3 on sends them


def known(version: str) -> dict[str, dict[str, dict[str, str]]]:
    """Return the objects and fields of one version, as the table has them."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for name, fields in TABLE["objects"].items():
        some = {field: told for field, told in fields.items() if version in told.get("in", version).split()}
        found[name] = {field: {key: told[key] for key in told if key != "in"} for field, told in some.items()}
    return found


def test_it_is_what_the_models_of_its_version_say() -> None:
    from azure.mgmt.machinelearningservices import models

    found, kinds = objects(models)
    table = known("2023-04-01")
    assert {name: found[name] for name in found} == {name: table[name] for name in found}
    assert {name: TABLE["kinds"][name] for name in kinds} == kinds


def test_it_has_all_that_the_sdk_knows_of_a_pipeline_job() -> None:
    table, left, seen = known(PIPELINES), [generated_models.model("arm:PipelineJob")], set()
    while left:
        cls = left.pop()
        if cls in seen:
            continue
        seen.add(cls)
        for name, field in generated_models.fields(cls).items():
            assert name in table[cls.__name__], cls
            left += _classes(field.kind)
    assert len(seen) > 20


def _classes(kind: Any) -> list[Any]:
    if isinstance(kind, type) and kind.__module__.startswith("azure.") and not generated_models._is_enum(kind):
        return list(generated_models._family(kind))
    return [cls for part in typing.get_args(kind) for cls in _classes(part)]


@pytest.mark.parametrize("kind", ["uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model"])
def test_nothing_that_the_sdk_sends_is_refused(kind: str) -> None:
    from azure.ai.ml import Input, Output, command
    from azure.ai.ml._restclient.arm_ml_service._utils.model_base import SdkJSONEncoder
    from azure.ai.ml.entities import ManagedIdentityConfiguration, PipelineJob, PipelineJobSettings

    step = command(
        command="true",
        environment="azureml:any:1",
        inputs={"one": Input(type=kind, path="${{parent.inputs.one}}"), "few": "${{parent.inputs.few}}"},
        outputs={"some": Output(type=kind, path="${{parent.outputs.some}}", mode="rw_mount")},
    )
    step._component = "azureml:any:1"  # as one that has been uploaded
    job = PipelineJob(
        name="some",
        display_name="Some",
        description="more",
        experiment_name="many",
        tags={"a": "b"},
        jobs={"step": step},
        inputs={"one": Input(type=kind, path="azureml:some:1", mode="download"), "few": 3},
        outputs={"some": Output(type=kind, path="azureml://a", mode="rw_mount", name="asset", version="1")},
        settings=PipelineJobSettings(default_compute="cluster", force_rerun=True),
        identity=ManagedIdentityConfiguration(client_id="c"),
        compute="azureml:cluster",
    )
    body = json.loads(json.dumps(job._to_rest_object(), cls=SdkJSONEncoder))
    assert body["properties"]["inputs"]["one"]["jobInputType"] == kind
    assert body["properties"]["outputs"]["some"]["assetVersion"] == "1"
    refuse_unknown(body, PIPELINES)


@pytest.mark.parametrize(
    ("path", "version", "told"),
    [
        (
            "properties.outputs.some.assetVersion",
            "2025-01-01-preview",
            "'assetVersion' on object of type 'UriFolderJobOutput'",
        ),
        ("properties.outputs.some.assetVersion", "2031-01-01", "'assetVersion' on object of type 'UriFolderJobOutput'"),
        ("properties.outputs.some.assetVersion", "2024-01-01-preview", ""),
        ("properties.outputs.some.asetName", "2024-01-01-preview", "'asetName' on object of type 'UriFolderJobOutput'"),
        ("properties.displayname", "2024-01-01-preview", "'displayname' on object of type 'PipelineJob'"),
        ("properties.notificationSetting", "2023-04-01", "'notificationSetting' on object of type 'PipelineJob'"),
        ("properties.schedule", "2020-01-01", ""),
        ("propertys", "2024-01-01-preview", "'propertys' on object of type 'JobBase'"),
        ("properties.settings.anything", "2024-01-01-preview", ""),
        ("properties.tags.anything", "2024-01-01-preview", ""),
        ("properties.identity.clientId", "2024-01-01-preview", "'clientId' on object of type 'UserIdentity'"),
    ],
)
def test_a_field_that_the_version_has_not_is_refused(path: str, version: str, told: str) -> None:
    output = {"jobOutputType": "uri_folder"}
    properties = {"jobType": "Pipeline", "outputs": {"some": output}, "identity": {"identityType": "UserIdentity"}}
    body: dict[str, Any] = {"properties": {**properties, "settings": {}, "tags": {}}}
    *way, name = path.split(".")
    place = body
    for step in way:
        place = place[step]
    place[name] = {"": "1"} if name == "notificationSetting" else "1"
    if not told:
        refuse_unknown(body, version)
        return
    with pytest.raises(WireError) as caught:
        refuse_unknown(body, version)
    assert (caught.value.status, caught.value.code) == (400, "UserError")
    [detail] = caught.value.more["details"]
    assert (detail["code"], detail["message"]) == ("RequestInvalid", f"Could not find member {told}. Path '{name}'.")


@pytest.mark.parametrize("odd", ["by", [], {}, None, 1, "Pipeline"])
def test_of_an_unknown_type_only_what_all_have_is_known(odd: Any) -> None:
    refuse_unknown({"properties": {"inputs": {"one": {"jobInputType": odd, "description": "some"}}}}, PIPELINES)
    refuse_unknown({"properties": {"inputs": odd, "outputs": {"one": odd}, "identity": odd}}, PIPELINES)
    with pytest.raises(WireError, match="invalid"):
        refuse_unknown({"properties": {"inputs": {"one": {"jobInputType": odd, "uri": "some"}}}}, PIPELINES)


def test_what_an_answer_shows_as_null_may_come_back() -> None:
    refuse_unknown({"properties": {"jobType": "Pipeline", "secretsConfiguration": None}}, "2023-10-01")
