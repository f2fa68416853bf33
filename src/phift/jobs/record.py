"""A run's record: what it is, kept in Azure with its job, so that nothing that comes after asks for it again.

Data files change, a registry gets a newer version, a configuration is edited. What was submitted does not: it stands in
the job's tags, where people and lists see it, and in its properties, which Azure never changes.

A **series** is what a configuration and its edited successors have in common: experiment, foundation model and the name
of the training data. Jobs and endpoints are tagged with it, so that those of earlier runs are found again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from phift.azure.answers import mapping, text, texts
from phift.check.models import AllowList, FoundationModel
from phift.component.preprocessing import SPLITS
from phift.config.addresses import read_address, without_version
from phift.config.data import AssetSource, FileSource, HuggingFaceSource, RowsSource
from phift.config.deployment import DeploymentConfig
from phift.config.run import RunConfig
from phift.errors import ConfigError, NotFound, redact
from phift.jobs.events import RUN_TAG
from phift.jobs.kept import LONGEST_VALUE, cleaned, read_kept, write_kept
from phift.plan import Plan, digest, slug
from phift.version import __version__

if TYPE_CHECKING:
    from azure.ai.ml.entities import PipelineJob

# A job's tag is ``phift.series.<digits>``, by whose name jobs are listed; an endpoint's has the digits as its value.
SERIES = "phift.series"
# The tag with the digits of the configuration as it was submitted.
CONFIGURATION = "phift.configuration"

_MOST_PARAMETER_TAGS = 30

# What says who is asked and where things lie, and not what is trained.
_NOT_TRAINED_BY = {"workspace", "credential", "tenant", "work_dir", "max_cost", "prices", "tokens_per_second", "data"}
_AFTER_TRAINING = {"deployment", "registered_model_name", "tags"}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a submitted run is.

    - **configuration**: as plain values, without workspace and credential; empty for a job that an older phift
      submitted.
    """

    fingerprint: str  # 12 hex digits; every name comes from it
    model: FoundationModel  # as far as a deployment has to know it
    component: str  # ``registry/name:version``
    data_name: str  # the training data's
    data_hash: str  # of all of it
    series: str
    configuration_digest: str
    configuration: Mapping[str, Any]

    @classmethod
    def of(cls, config: RunConfig, plan: Plan) -> RunRecord:
        """Return the record of a run that is about to be submitted."""
        known = {key: getattr(plan.model, key) for key in ("id", "name", "version", "registry", "inference")}
        return cls(
            fingerprint=plan.fingerprint,
            model=FoundationModel(**known),
            component=redact(f"{config.component.registry}/{plan.component.name}:{plan.component.version}"),
            data_name=plan.dataset.name,
            data_hash=plan.dataset.content_hash,
            series=series(config),
            configuration_digest=configuration_digest(config),
            configuration=_plain(config),
        )

    @classmethod
    def read(cls, job: PipelineJob) -> RunRecord:
        """Return the record that a job of the SDK's carries.

        Raises `phift.errors.NotFound` for a job that phift did not submit.
        """
        tags, kept = cleaned(texts(job.tags, "job.tags")), read_kept(texts(job.properties, "job.properties"))
        base = tags.get("phift.base_model", "")
        found = read_address(base)
        if RUN_TAG not in tags or found is None or not found.registry:
            what = "This job was not submitted by phift: it has no record of a run in its tags."
            raise NotFound(what, where=f"job {text(job.name, 'job.name')}", fix="name a job that phift submitted")
        serving = mapping(kept.get("serving"))
        sizes = serving.get("sizes")
        model = FoundationModel(
            id=base,
            name=found.name,
            version=found.version,
            registry=found.registry,
            inference=AllowList(tuple(sizes), str(serving.get("source"))) if isinstance(sizes, list) else None,
        )
        named = [key.removeprefix(f"{SERIES}.") for key in tags if key.startswith(f"{SERIES}.")]
        return cls(
            fingerprint=tags[RUN_TAG],
            model=model,
            component=tags.get("phift.component", ""),
            data_name=str(kept.get("data_name") or "its data"),
            data_hash=tags.get("phift.data", ""),
            series=named[0] if named else "",
            configuration_digest=tags.get(CONFIGURATION, ""),
            configuration=mapping(kept.get("configuration")),
        )

    @property
    def own_tags(self) -> dict[str, str]:
        """The tags that the user wants on all that is made."""
        return dict(self.configuration.get("tags", {}))

    @property
    def lineage(self) -> dict[str, str]:
        """Where the trained model comes from, as tags."""
        parameters = list((self.configuration.get("parameters") or {}).items())[:_MOST_PARAMETER_TAGS]
        return {
            RUN_TAG: self.fingerprint,
            "phift.base_model": self.model.id,
            "phift.component": self.component,
            "phift.data": self.data_hash,
            **{f"phift.parameter.{name}": str(value)[:LONGEST_VALUE] for name, value in parameters},
        }

    @property
    def tags(self) -> dict[str, str]:
        """The job's tags."""
        return {
            **self.own_tags,
            **self.lineage,
            CONFIGURATION: self.configuration_digest,
            f"{SERIES}.{self.series}": self.fingerprint,
        }

    @property
    def properties(self) -> dict[str, str]:
        """The job's properties: one JSON text, in as many values as it takes.

        A configuration that is too long for them is kept without its data, or without its parameters too; an attached
        run then has no ``config``.
        """
        serving = asdict(self.model.inference) if self.model.inference else None
        configuration = dict(self.configuration)
        for left_out in ("", "data", "parameters"):
            configuration.pop(left_out, None)
            kept = {"data_name": self.data_name, "serving": serving, "configuration": configuration}
            kept["versions"] = {"phift": __version__, "azure-ai-ml": version("azure-ai-ml")}
            if (written := write_kept(kept)) is not None:
                return written
        return {}

    @property
    def model_name(self) -> str:
        """What the trained model is called unless the user says otherwise."""
        return str(self.configuration.get("registered_model_name") or f"{slug(self.model.name)}-finetuned")

    @property
    def deployment(self) -> DeploymentConfig:
        """How it was to be deployed."""
        return DeploymentConfig(**self.configuration.get("deployment", {}))

    def config(self) -> RunConfig | None:
        """Return the configuration that was submitted, without its workspace.

        None where its rows came from Python, or another version of phift submitted it.
        """
        data = self.configuration.get("data") or {}
        given = [source for split in SPLITS for source in data.get(split) or []]
        if not given or any("rows" in source for source in given):
            return None
        try:
            return RunConfig.from_dict(dict(self.configuration), where="the job's record")
        except ConfigError:  # a newer phift's, with keys that this one does not know
            return None


def series(config: RunConfig) -> str:
    """Return the digits of a configuration's series: experiment, foundation model, names of the training data."""
    names: list[str] = []
    for source in config.data.sources["train"]:  # what each is called wherever it lies
        match source:
            case RowsSource():
                names.append("rows")
            case HuggingFaceSource():
                names.append(source.huggingface)
            case AssetSource():
                names.append(without_version(source.asset))
            case FileSource():
                names.append(source.files.name)
    return digest([config.experiment, config.model.registry, config.model.name, names])


def configuration_digest(config: RunConfig) -> str:
    """Return the digits of all in a configuration that decides what is trained."""
    return digest([{key: value for key, value in _plain(config).items() if key not in _AFTER_TRAINING}])


def _plain(config: RunConfig) -> dict[str, Any]:
    """Return a configuration as plain values, with whole paths, and without what could be a secret."""
    values = config.model_dump(mode="json", exclude=_NOT_TRAINED_BY)
    values["data"] = config.data.model_dump(mode="json", exclude=set(SPLITS))
    for split, sources in config.data.sources.items():
        values["data"][split] = []
        for source in sources:
            plain = source.model_dump(mode="json", exclude={"rows"})
            if isinstance(source, RowsSource):
                plain["rows"] = type(source.rows).__name__
            if isinstance(source, FileSource):
                plain["files"] = str(source.files.absolute())
            values["data"][split].append(plain)
    return {key: cleaned(value) for key, value in values.items()}
