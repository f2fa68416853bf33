from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml._restclient.arm_ml_service.models import ComponentVersion, ModelVersion
from azure.ai.ml.entities import Component, Model
from azure.ai.ml.exceptions import ErrorTarget, ValidationException
from hypothesis import given, settings
from hypothesis import strategies as st

from phift.azure.clients import Clients
from phift.check.models import AllowList, FoundationModel, find_component, find_model
from phift.config.run import ComponentConfig, ModelConfig
from phift.errors import AccessDenied, NotFound, ServiceError
from phift.testing import Fault, TestWorkspace
from unit.fakes import A100, FOUR_A100, PHI_4, Fakes, codes, phi_4

RECORDED = Path(__file__).parents[1] / "fidelity" / "recorded"


def recorded(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))["response"]["body"]


def find(name: str = "Phi-4", version: str | None = None, **changes: Any) -> FoundationModel:
    """Return what is found of a model that the registry has with these changes."""
    fakes = Fakes()
    fakes.registry.models.add(phi_4(name=name, **changes))
    return find_model(fakes.clients, ModelConfig(name=name, version=version))


def test_everything_may_stand_in_tags() -> None:
    model = find()
    assert (model.id, model.name, model.version, model.registry) == (PHI_4, "Phi-4", "8", "azureml")
    assert model.finetune == AllowList((A100, FOUR_A100), "tag finetune_compute_allow_list")
    assert model.inference == AllowList((A100,), "tag inference_compute_allow_list")
    assert model.defaults == {"apply_lora": "true", "learning_rate": "5e-6", "learning_rate_min": 5e-7}
    assert model.findings == ()


def test_without_a_version_it_is_the_newest() -> None:
    fakes = Fakes()
    fakes.registry.models.add(phi_4(version="9"))
    assert find_model(fakes.clients, ModelConfig(name="Phi-4")).version == "9"
    assert find_model(fakes.clients, ModelConfig(name="Phi-4", version="8")).version == "8"
    assert fakes.registry.record.calls == [("models.get", "Phi-4", "@latest"), ("models.get", "Phi-4", "8")]


def test_recommended_sizes_in_properties_come_next() -> None:
    recommended = {"finetune-recommended-sku": f"{A100}, {FOUR_A100},", "inference-recommended-sku": A100}
    model = find(tags={}, properties=recommended)
    assert model.finetune == AllowList((A100, FOUR_A100), "property finetune-recommended-sku")
    assert model.inference == AllowList((A100,), "property inference-recommended-sku")


def raw(fakes: Fakes, metadata: Any, name: str = "Phi-4", version: str | None = None) -> FoundationModel:
    """Return what is found of a model of which nothing is said but in its system metadata."""
    fakes.registry.models.add(phi_4(name=name, tags=None))
    fakes.rest.system = metadata
    return find_model(fakes.clients, ModelConfig(name=name, version=version))


def test_the_raw_metadata_comes_next() -> None:
    fakes = Fakes()
    model = raw(fakes, {"supportedComputes": {"finetuneComputes": [A100], "inferenceComputes": [FOUR_A100]}})
    assert model.finetune == AllowList((A100,), "systemMetadata.supportedComputes.finetuneComputes")
    assert model.inference == AllowList((FOUR_A100,), "systemMetadata.supportedComputes.inferenceComputes")
    discovery, newest = fakes.rest.addresses
    assert discovery == "https://discovery.test/registrymanagement/v1.0/registries/azureml/discovery?"
    assert newest == (
        "https://region.test/mferp/managementfrontend/subscriptions/registry-subscription/resourceGroups/registry-group"
        "/providers/Microsoft.MachineLearningServices/registries/azureml/models/Phi-4/versions"
        "?api-version=2021-10-01-dataplanepreview&%24orderBy=createdtime+desc&%24top=1"
    )


def test_recommended_sizes_in_the_raw_metadata_will_do() -> None:
    model = raw(Fakes(), {"SKU": {"finetuneRecommendedSkus": [A100], "inferenceRecommendedSkus": [FOUR_A100]}})
    assert model.finetune == AllowList((A100,), "systemMetadata.SKU.finetuneRecommendedSkus")
    assert model.inference == AllowList((FOUR_A100,), "systemMetadata.SKU.inferenceRecommendedSkus")


def test_a_pinned_version_that_is_not_the_newest_is_noted() -> None:
    fakes = Fakes()
    fakes.registry.models.add(phi_4(version="9"))
    (finding,) = find_model(fakes.clients, ModelConfig(name="Phi-4", version="8")).findings
    assert (finding.code, finding.severity) == ("MODEL_NEWER", "note")
    assert "newest is 9" in finding.message


def test_a_version_published_between_two_looks_is_read_again() -> None:
    fakes = Fakes()
    stale = {"id": "azureml://registries/azureml/models/Phi-4/versions/7", "properties": {"isArchived": True}}
    fakes.rest.on({"value": [stale]}, "/versions?")
    model = find_model(fakes.clients, ModelConfig(name="Phi-4"))
    assert (model.version, codes(model.findings)) == ("8", [])


@pytest.mark.parametrize(
    ("where", "values"),
    [
        ("system", {"tasks": {"fineTuningTasks": ["text-classification"]}}),
        ("properties", {"finetuning-tasks": "text-classification, translation"}),
    ],
)
def test_a_model_that_is_not_made_for_chat_is_refused(where: str, values: dict[str, Any]) -> None:
    fakes = Fakes()
    fakes.registry.models.add(phi_4(properties=values if where == "properties" else {}))
    fakes.rest.system = values if where == "system" else {}
    (finding,) = find_model(fakes.clients, ModelConfig(name="Phi-4")).findings
    assert (finding.code, finding.severity) == ("MODEL_TASK", "error")
    assert "text-classification" in finding.message


def test_the_registrys_own_retirement_date_comes_before_the_table() -> None:
    model = raw(Fakes(), {"deprecation": {"finetuneRetirementDate": "2099-01-01T00:00:00Z", "other": "2000-01-01"}})
    (finding,) = model.findings
    assert (finding.code, finding.message) == ("MODEL_RETIRES", "It will be retired on 2099-01-01.")
    assert finding.source == "systemMetadata.deprecation"


def test_a_date_that_cannot_be_read_says_nothing() -> None:
    assert codes(raw(Fakes(), {"deprecation": {"RetirementDate": "soon"}}).findings) == []


def test_an_archived_or_preview_model_is_told() -> None:
    fakes = Fakes()
    fakes.rest.archived = True
    assert codes(raw(fakes, {"lifecycle": "preview"}).findings) == ["MODEL_ARCHIVED", "MODEL_PREVIEW"]


def test_a_model_the_sdk_breaks_on_is_read_from_the_registrys_record() -> None:
    """The SDK raises AttributeError where the service sends no flavors."""
    fakes = Fakes()
    fakes.registry.record.fail("models.get", AttributeError("'NoneType' object has no attribute 'items'"))
    model = find_model(fakes.clients, ModelConfig(name="Phi-4"))
    assert (model.id, model.version) == (PHI_4, "8")
    assert model.finetune == AllowList((A100, FOUR_A100), "tag finetune_compute_allow_list")


def test_a_model_the_sdk_breaks_on_without_a_record_is_an_error() -> None:
    fakes = Fakes()
    fakes.registry.record.fail("models.get", AttributeError("'NoneType' object has no attribute 'items'"))
    fakes.rest.on(ServiceError("down", status=503), "discovery")
    with pytest.raises(ServiceError, match="NoneType"):
        find_model(fakes.clients, ModelConfig(name="Phi-4"))


@pytest.mark.parametrize("metadata", [None, "text", {}, {"supportedComputes": "text"}, {"supportedComputes": {}}])
def test_the_built_in_table_is_the_last_resort(metadata: Any) -> None:
    model = raw(Fakes(), metadata)
    assert model.finetune is not None
    assert model.finetune.source == "built-in table of 2026-07-23"
    assert model.finetune.allows(A100.upper())
    assert model.inference is not None


@pytest.mark.parametrize("answer", [ServiceError("down", status=503), {"subscriptionId": "s"}])
def test_a_registry_whose_record_cannot_be_read_leaves_the_table_and_a_warning(answer: Any) -> None:
    fakes = Fakes()
    fakes.registry.models.add(phi_4(tags=None))
    fakes.rest.on(answer, "registries/azureml/discovery")
    model = find_model(fakes.clients, ModelConfig(name="Phi-4"))
    assert model.finetune is not None
    assert model.finetune.source.startswith("built-in table")
    assert codes(model.findings) == ["MODEL_METADATA_UNREAD"]


def test_a_model_and_a_component_are_read_from_what_registries_were_recorded_to_answer() -> None:
    # The model's version has the model's name, and of the component's inputs each value is a text.
    fakes = Fakes()
    fakes.rest.on(recorded("registry-discovery"), "registries/R/discovery")
    fakes.rest.on(recorded("registry-model"), "https://x/mferp/", "/registries/R/models/M/versions/2?")
    fakes.registry.models.add(Model._from_rest_object(ModelVersion(recorded("registry-model"))))
    model = find_model(fakes.clients, ModelConfig(name="M", version="2", registry="R"))
    assert (model.id, model.version, model.tags) == ("azureml://registries/R/models/M/versions/2", "2", {"foo": "bar"})
    assert "MODEL_METADATA_UNREAD" not in codes(model.findings)
    (version,) = recorded("registry-component")["value"]
    version["properties"]["componentSpec"] |= {"command": "true", "environment": "azureml:e:1"}  # not kept of it
    fakes.registry.components.add(Component._from_rest_object(ComponentVersion(version)))
    component = find_component(fakes.clients, ComponentConfig(name="C", version="0.0.1", registry="R"))
    assert (component.id, component.version) == (version["id"], "0.0.1")
    assert component.inputs["path"].optional is False


def test_a_model_that_nothing_is_known_of_is_noted() -> None:
    fakes = Fakes()
    fakes.registry.models.add(phi_4(name="own-model", tags={}))
    model = find_model(fakes.clients, ModelConfig(name="own-model"))
    assert (model.finetune, model.inference, model.defaults) == (None, None, {})
    assert codes(model.findings) == ["MODEL_NO_ALLOW_LIST", "MODEL_TASK_UNKNOWN"]


def test_an_overlong_property_is_not_read() -> None:
    fakes = Fakes()
    fakes.registry.models.add(phi_4(tags={}, properties={"finetune-recommended-sku": "x," * 10_001}))
    model = find_model(fakes.clients, ModelConfig(name="Phi-4"))
    assert model.finetune is not None
    assert model.finetune.source.startswith("built-in table")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{'a': ", "was never closed"),
        ("['a list']", "it is a list, not a dict"),
        ("__import__('os').getcwd()", "malformed node"),
        ("{" + "'a': 1," * 4000 + "}", "longer than 20000"),
        ("[" * 5000, "too many nested parentheses"),
    ],
    ids=["syntax", "kind", "code", "length", "depth"],
)
def test_a_broken_tag_is_a_finding_and_never_runs(text: str, reason: str) -> None:
    model = find(tags={**phi_4().tags, "model_specific_defaults": text})
    assert model.defaults == {}
    (finding,) = model.findings
    assert (finding.code, finding.severity) == ("MODEL_TAG_BROKEN", "warning")
    assert finding.place == "model tag model_specific_defaults"
    assert reason in finding.message


@given(st.text())
@settings(deadline=None)
def test_no_tag_breaks_the_look_up(text: str) -> None:
    model = find(tags={**phi_4().tags, "model_specific_defaults": text})
    assert len(model.findings) <= 1


def test_a_retired_model_names_its_replacement_and_source(clients: Clients) -> None:
    model = find_model(clients, ModelConfig(name="Phi-3-mini-4k-instruct"))
    (finding,) = model.findings
    assert (finding.code, finding.severity) == ("MODEL_RETIRED", "warning")
    assert "2025-08-30" in finding.message
    assert finding.fix == "use Phi-4-mini-instruct"
    assert "2026-07-23" in finding.source


def test_a_retired_model_without_a_replacement_says_so() -> None:
    assert find("Llama-2-7b-chat").findings[0].fix == "use a current model"


def test_a_missing_model_names_near_ones(clients: Clients) -> None:
    with pytest.raises(NotFound) as caught:
        find_model(clients, ModelConfig(name="Phi-4-mini-instrct"))
    assert caught.value.what == "There is no model Phi-4-mini-instrct."
    assert "did you mean Phi-4-mini-instruct" in str(caught.value.fix)


def test_a_missing_version_is_named(clients: Clients) -> None:
    with pytest.raises(NotFound, match=r"There is no model Phi-4-mini-instruct version 99\."):
        find_model(clients, ModelConfig(name="Phi-4-mini-instruct", version="99"))


def test_a_name_like_no_other_gets_no_guess(clients: Clients) -> None:
    with pytest.raises(NotFound) as caught:
        find_model(clients, ModelConfig(name="zzz"))
    assert caught.value.fix == "check the name and the registry"


@pytest.mark.parametrize(("status", "kind"), [(403, AccessDenied), (500, ServiceError)])
def test_other_errors_are_not_taken_for_a_missing_model(
    workspace: TestWorkspace, clients: Clients, sleeps: list[float], status: int, kind: type[Exception]
) -> None:
    workspace.order(Fault("GET */models/*", status=status, times=None))
    with pytest.raises(kind):
        find_model(clients, ModelConfig(name="Phi-4-mini-instruct"))


def test_the_sdks_own_validation_error_is_a_missing_model() -> None:
    fakes = Fakes()
    error = ValidationException(message="m", no_personal_data_message="", target=ErrorTarget.MODEL)
    fakes.registry.record.fail("models.get", error)
    with pytest.raises(NotFound):
        find_model(fakes.clients, ModelConfig(name="Phi-4"))


def test_case_does_not_count_in_an_allow_list() -> None:
    allowed = AllowList((A100,), "made up")
    assert allowed.allows(A100.lower())
    assert not allowed.allows(FOUR_A100)
