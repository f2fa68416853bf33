"""Calls as a program makes them, right and wrong; nothing runs them, type checkers read them.

Each wrong one is marked, and a mark that is not needed is an error itself: to mypy in `make check` (strict), to pyright
in `test_typed.py`.
"""

from pathlib import Path

import pandas as pd
from azure.ai.ml import MLClient

import phift
from phift import Event, FineTuneRun, JobEvent, RunConfig, SearchConfig
from phift.config.data import DataConfig, FileSource, HuggingFaceSource
from phift.config.deployment import DeploymentConfig
from phift.config.run import ComputeConfig, LocalWorkspaceFolder, ModelConfig


def right() -> RunConfig:
    # Texts where a configuration takes them, and the values that they stand for.
    RunConfig(model="Phi-4-mini-instruct", compute="gpu-cluster", data={"train": "train.jsonl"}, workspace="local")
    RunConfig(model="Phi-4-mini-instruct", compute={"serverless": "Standard_NC24ads_A100_v4"}, data="train.jsonl")
    config = RunConfig(
        model=ModelConfig(name="Phi-4-mini-instruct", version="1"),
        compute=ComputeConfig(cluster="gpu-cluster", nodes=2),
        data=DataConfig(train=["a.jsonl", "b.jsonl"], validation=Path("v.jsonl"), split={"seed": 1}),
        workspace=LocalWorkspaceFolder(local="folder"),
        parameters={"num_train_epochs": 3, "learning_rate": 5e-6, "apply_lora": True, "precision": "16"},
        tags={"team": "chemistry"},
        deployment=DeploymentConfig(instance_count=2, auth_mode="aad_token"),
        tenant_id="t",
        work_dir="work",
        max_cost=50,
        prices={"Standard_NC24ads_A100_v4": 4},
    )
    DataConfig(train=pd.DataFrame({"question": ["?"], "answer": ["!"]}))
    DataConfig(train=[{"messages": []}], test=lambda: iter([{"messages": []}]))
    DataConfig(train=HuggingFaceSource(huggingface="owner/name", percent=5), validation=FileSource(files="v.csv"))
    SearchConfig(name="rates", run=config, space={"learning_rate": {"low": 1e-5, "high": 1e-2}}, sampler="random")
    SearchConfig(name="rates", run={"model": "Phi-4"}, space={"lora_r": [8, 16]}, pruner={"name": "median"})
    return config


def wrong() -> None:
    RunConfig(modle="Phi-4", compute="c", data="t.jsonl")  # type: ignore[call-arg]
    RunConfig(model="Phi-4", compute="c")  # type: ignore[call-arg]
    RunConfig(model="Phi-4", compute="c", data="t.jsonl", credential="azure_cli")  # type: ignore[arg-type]
    RunConfig(model="Phi-4", compute=8, data="t.jsonl")  # type: ignore[arg-type]
    RunConfig(model="Phi-4", compute="c", data="t.jsonl", parameters={"learning_rate": None})  # type: ignore[dict-item]
    RunConfig(model="Phi-4", compute="c", data="t.jsonl", max_cost="much")  # type: ignore[arg-type]
    RunConfig("Phi-4")  # type: ignore[call-arg]
    DataConfig(trian="t.jsonl")  # type: ignore[call-arg]
    DataConfig(train=5)  # type: ignore[arg-type]
    DataConfig(train="t.jsonl", bad_rows="drop")  # type: ignore[arg-type]
    ComputeConfig(clutser="c")  # type: ignore[call-arg]
    ComputeConfig(cluster="c", nodes="two")  # type: ignore[arg-type]
    DeploymentConfig(auth_mode="none")  # type: ignore[arg-type]
    FileSource(file="t.jsonl")  # type: ignore[call-arg]
    ModelConfig(nmae="Phi-4")  # type: ignore[call-arg]
    SearchConfig(name="rates", run=right(), space={}, trails=3)  # type: ignore[call-arg]
    SearchConfig(name="rates", run=right(), space={}, direction="up")  # type: ignore[arg-type]


def steps(client: MLClient) -> None:
    model = phift.find_model(client, "Phi-4-mini-instruct")
    target = phift.resolve_compute(client, "gpu-cluster", model)
    data = phift.prepare_dataset("train.jsonl", "prepared")
    job = phift.build_pipeline(client, right())
    registered = phift.register_model(client, str(job.name), name="elements")
    endpoint = phift.deploy_model(client, registered, name="elements", size=target.size)
    said: str = endpoint.chat(str(data.train))
    endpoint.chat([{"role": "user", "content": said}], tools=[{"type": "function"}], temperature=0.5)
    texts: list[str] = [*endpoint.stream("Hi")]
    for answer in endpoint.chat_many(texts, concurrency=2):
        str(answer.what if isinstance(answer, phift.PhiftError) else answer.tool_calls)
    endpoint.openai().chat.completions.create(model="", messages=[])
    FineTuneRun.attach("job", "local")
    FineTuneRun(right(), client)

    phift.find_model(client, 4)  # type: ignore[arg-type]
    phift.resolve_compute(client, "gpu-cluster", sizes={})  # type: ignore[call-arg]
    phift.prepare_dataset("train.jsonl")  # type: ignore[call-arg]
    phift.register_model(client, "job")  # type: ignore[call-arg]
    phift.deploy_model(client, registered, name="elements")  # type: ignore[call-arg]
    endpoint.chat(5)  # type: ignore[arg-type]
    endpoint.chat_many(texts, concurrency="2")  # type: ignore[arg-type]


def handle(event: Event) -> str:
    if isinstance(event, JobEvent):
        event.jbo()  # type: ignore[union-attr]
        return event.job
    return event.time.isoformat()
