"""The engine as the server sees it: a process, a job file, events on stdout and metrics in MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phift import samples
from phift.errors import ModelError
from phift.local.work.engine import workers
from phift.local.work.engine.job import Job

pytestmark = [pytest.mark.slow, pytest.mark.proof]

STEPS = (
    "ft_nlp_common_validation",
    "chat_completion_model_import",
    "chat_completion_datapreprocess",
    "chat_completion_finetune",
    "ft_nlp_model_converter",
)
FINETUNE = "chat_completion_finetune"
MODEL = "Phi-3-mini-4k-instruct"
SHORT = {
    "max_steps": "6",
    "per_device_train_batch_size": "16",
    "per_device_eval_batch_size": "64",
    "learning_rate": "1e-3",
    "evaluation_strategy": "steps",
    "eval_steps": "3",
    "logging_steps": "2",
    "save_total_limit": "1",
}


@dataclass
class MlflowDouble:
    """Records the writes of an MLflow client."""

    uri: str
    metrics: list[tuple[str, str, int, float]] = field(default_factory=list)
    tags: list[tuple[str, str, str]] = field(default_factory=list)

    def record(self, path: str, body: dict[str, Any]) -> None:
        if path.endswith("/runs/log-batch"):
            entries = body["metrics"]
            self.metrics += [(body["run_id"], each["key"], int(each["step"]), each["value"]) for each in entries]
        elif path.endswith("/runs/set-tag"):
            self.tags.append((body["run_id"], body["key"], body["value"]))
        else:
            raise AssertionError(path)

    def history(self, run_id: str, name: str) -> list[tuple[int, float]]:
        return [(step, value) for run, key, step, value in self.metrics if (run, key) == (run_id, name)]


@pytest.fixture
def mlflow() -> Iterator[MlflowDouble]:
    double = MlflowDouble(uri="")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            double.record(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double.uri = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield double
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    command = [sys.executable, "-m", "phift.local.work.standin", str(folder), MODEL]
    subprocess.run(command, check=True)  # noqa: S603 - our own program
    return folder


DATA = samples.rows()


def _write(path: Path, rows: Sequence[samples.Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@dataclass(frozen=True)
class EngineJob:
    """A job file and its process."""

    folder: Path
    document: dict[str, Any]

    @classmethod
    def make(cls, folder: Path, registry: Path, mlflow: MlflowDouble, **inputs: str) -> EngineJob:
        files = {f"{split}_file_path": _write(folder / f"{split}.jsonl", rows[:48]) for split, rows in DATA.items()}
        document = {
            "name": "phift-test",
            "inputs": {**files, "mlflow_model_path": str(registry / MODEL), **SHORT, **inputs},
            "outputs": {name: str(folder / name) for name in ("pytorch_model_folder", "mlflow_model_folder")},
            "steps": [
                {"name": name, "run_id": f"run-{name}", "status": "NotStarted", "log": str(folder / f"{name}.txt")}
                for name in STEPS
            ],
            "work": str(folder / "work"),
            "tracking_uri": mlflow.uri,
        }
        return cls(folder, document)

    def start(self) -> subprocess.Popen[str]:
        path = self.folder / "job.json"
        path.write_text(json.dumps(self.document))
        command = [sys.executable, "-m", "phift.local.work.engine", str(path)]
        pipe = subprocess.PIPE
        return subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def run(self) -> tuple[int, list[dict[str, Any]]]:
        """Run to the end and return the exit code and the events."""
        with self.start() as process:
            assert process.stdout is not None
            assert process.stderr is not None
            events = [json.loads(line) for line in process.stdout]
            errors = process.stderr.read()
            code = process.wait()
        assert errors == ""
        return code, events

    def complete(self, *names: str) -> None:
        for step in self.document["steps"]:
            if step["name"] in names:
                step["status"] = "Completed"

    def log(self, step: str) -> str:
        return (self.folder / f"{step}.txt").read_text(encoding="utf-8")


def test_a_job_trains_and_tells(tmp_path: Path, registry: Path, mlflow: MlflowDouble) -> None:
    job = EngineJob.make(tmp_path, registry, mlflow, precision="16", apply_deepspeed="true")
    code, events = job.run()
    assert code == 0
    assert events == [
        {"event": "step", "name": name, "status": status} for name in STEPS for status in ("Running", "Completed")
    ]
    for run in ("phift-test", f"run-{FINETUNE}"):
        assert [step for step, _ in mlflow.history(run, "loss")] == [2, 4, 6]
        losses = mlflow.history(run, "eval_loss")
        assert [step for step, _ in losses] == [0, 3, 6]
        assert losses[0][1] > losses[1][1] > losses[2][1]
    logged = [(run, key, step) for run, key, step, _ in mlflow.metrics]
    assert len(logged) == len(set(logged))  # the trainer tells the epoch of the last step three times
    assert [step for _, key, step, _ in mlflow.metrics if key in ("loss", "eval_loss")] == sorted(
        step for _, key, step, _ in mlflow.metrics if key in ("loss", "eval_loss")
    )
    assert "not applied here: apply_deepspeed" in job.log(STEPS[0])
    assert "a CPU trains in 32" in job.log(FINETUNE)
    _check_tags(job, mlflow)
    _check_folders(job)


def _check_tags(job: EngineJob, mlflow: MlflowDouble) -> None:
    tags = {key: value for run, key, value in mlflow.tags if run == "phift-test"}
    counts = json.loads((job.folder / "work" / "data" / "counts.json").read_text())["train"]
    assert tags["__azureml_ft_training_tokens"] == str(counts["tokens"])
    assert tags["__azureml_ft_assistant_tokens"] == str(counts["assistant_tokens"])
    assert float(tags["score"]) == pytest.approx(mlflow.history("phift-test", "eval_loss")[-1][1])


def _check_folders(job: EngineJob) -> None:
    trained = job.folder / "pytorch_model_folder"
    assert [path.name for path in trained.glob("checkpoint-*")] == ["checkpoint-6"]
    model = job.folder / "mlflow_model_folder"
    assert {"MLmodel", "model", "components", "finetune_config.json"} <= {path.name for path in model.iterdir()}
    manifest = (model / "MLmodel").read_text()
    assert f"base_model_name: {MODEL}" in manifest
    assert "job_name: phift-test" in manifest
    assert str(job.folder) not in manifest


def test_the_log_holds_no_text_of_the_users(tmp_path: Path, registry: Path, mlflow: MlflowDouble) -> None:
    job = EngineJob.make(tmp_path, registry, mlflow, max_steps="1", evaluation_strategy="disable")
    assert job.run()[0] == 0
    assert not any("hydrogen" in job.log(step) for step in STEPS)
    assert [key for _, key, _, _ in mlflow.metrics if key == "eval_loss"] == []
    assert "score" not in {key for _, key, _ in mlflow.tags}


def test_a_users_mistake(tmp_path: Path, registry: Path, mlflow: MlflowDouble) -> None:
    job = EngineJob.make(tmp_path, registry, mlflow, learning_rate="fast")
    code, events = job.run()
    assert code == 1
    assert events[-1] == {
        "event": "step",
        "name": STEPS[0],
        "status": "Failed",
        "error": {
            "code": "UserError",
            "message": "learning_rate is 'fast', which is no number (learning_rate): give a number",
        },
    }
    assert "Traceback" in job.log(STEPS[0])


def test_a_failure_of_the_machine(tmp_path: Path, registry: Path, mlflow: MlflowDouble) -> None:
    job = EngineJob.make(tmp_path, registry, mlflow)
    job.complete(*STEPS[:4])  # which is not true: there is nothing to convert
    code, events = job.run()
    assert code == 1
    assert events[-1]["error"]["code"] == "SystemError"
    assert "\n" not in events[-1]["error"]["message"]


def test_the_end_of_the_server_is_the_end_of_the_engine(tmp_path: Path, registry: Path, mlflow: MlflowDouble) -> None:
    with EngineJob.make(tmp_path, registry, mlflow, max_steps="100000").start() as process:
        assert process.stdin is not None
        _wait_for(lambda: bool(mlflow.metrics))
        process.stdin.close()
        assert process.wait(timeout=5) == 75


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("resume", "lora", "again"),
    [
        ("true", "false", False),
        ("true", "true", False),
        ("false", "false", True),
    ],
)
def test_a_killed_job_goes_on(
    tmp_path: Path, registry: Path, mlflow: MlflowDouble, resume: str, lora: str, again: bool
) -> None:
    """With resume_from_checkpoint from the last whole checkpoint, else the step starts again; done steps stay done."""
    steps = {"max_steps": "100000", "lr_scheduler_type": "constant"}
    job = EngineJob.make(tmp_path, registry, mlflow, resume_from_checkpoint=resume, apply_lora=lora, **steps)
    with job.start() as process:
        _wait_for(lambda: list((tmp_path / "pytorch_model_folder").glob("checkpoint-*/checkpoint_done.txt")))
        process.kill()
    whole = tmp_path / "pytorch_model_folder" / "checkpoint-999999"
    whole.mkdir()  # one that was cut off while being written
    mlflow.metrics.clear()
    job.complete(*STEPS[:3])
    job.document["inputs"]["max_steps"] = "3000"
    with job.start() as process:
        _wait_for(lambda: mlflow.history("phift-test", "loss"))
        process.kill()
    first = mlflow.history("phift-test", "loss")[0][0]
    assert (first == 2) is again
    assert bool([step for step, _ in mlflow.history("phift-test", "eval_loss") if step == 0]) is again
    assert job.log(STEPS[2]).count("train: ") == 1


def test_lora_is_merged(tmp_path: Path, registry: Path, mlflow: MlflowDouble) -> None:
    inputs = {"apply_lora": "true", "lora_r": "4", "lora_dropout": "0.1"}
    job = EngineJob.make(tmp_path, registry, mlflow, **inputs)
    assert job.run()[0] == 0
    names = {path.name for path in (tmp_path / "mlflow_model_folder" / "model").iterdir()}
    assert "model.safetensors" in names
    assert not any("adapter" in name for name in names)
    losses = mlflow.history("phift-test", "eval_loss")
    assert losses[-1][1] < losses[0][1]


def test_early_stopping_keeps_the_best(tmp_path: Path, registry: Path, mlflow: MlflowDouble) -> None:
    """A threshold that no step reaches stops after the second evaluation that counts."""
    stopping = {"apply_early_stopping": "true", "early_stopping_threshold": "100", "max_steps": "60"}
    job = EngineJob.make(tmp_path, registry, mlflow, **stopping)
    assert job.run()[0] == 0
    assert [step for step, _ in mlflow.history("phift-test", "eval_loss")] == [0, 3, 6]


def test_unusual_settings(tmp_path: Path, registry: Path, mlflow: MlflowDouble) -> None:
    config = tmp_path / "finetune_config.json"
    config.write_text(json.dumps({"hf_trainer_args": {"label_smoothing_factor": 0.1}}))
    settings = {
        "optim": "adafactor",
        "lr_scheduler_type": "polynomial",
        "gradient_accumulation_steps": "2",
        "enable_full_determinism": "true",
        "pad_to_max_length": "true",
        "max_seq_length": "48",
        "evaluation_steps_interval": "1",
        "eval_accumulation_steps": "1",
        "logging_strategy": "epoch",
        "auto_find_batch_size": "true",
        "dataloader_num_workers": "1",
        "finetune_config_path": str(config),
    }
    job = EngineJob.make(tmp_path, registry, mlflow, **settings)
    assert job.run()[0] == 0
    assert [step for step, _ in mlflow.history("phift-test", "eval_loss")] == [0, 0, 0, 0]  # an epoch has no step
    assert "finetune_config_path sets hf_trainer_args" in job.log(STEPS[1])


def test_settings_that_the_trainer_refuses(tmp_path: Path, registry: Path, mlflow: MlflowDouble) -> None:
    config = tmp_path / "finetune_config.json"
    config.write_text(json.dumps({"hf_trainer_args": {"no_such_setting": 1}}))
    job = EngineJob.make(tmp_path, registry, mlflow, finetune_config_path=str(config))
    code, events = job.run()
    assert code == 1
    assert events[-1]["error"]["code"] == "UserError"
    assert "no_such_setting" in events[-1]["error"]["message"]


def test_two_processes_train_what_one_does(tmp_path: Path, registry: Path, mlflow: MlflowDouble) -> None:
    """On the CPU, where they speak by gloo; on GPUs it would be by NCCL."""
    one = EngineJob.make(tmp_path, registry, mlflow)
    assert one.run()[0] == 0
    expected = {name: mlflow.history("phift-test", name) for name in ("loss", "grad_norm", "eval_loss")}
    mlflow.metrics.clear()
    both = Job.load(tmp_path / "job.json")
    smaller = {"per_device_train_batch_size": "8", "per_device_eval_batch_size": "24"}
    both = replace(both, inputs={**both.inputs, **smaller}, outputs={"pytorch_model_folder": tmp_path / "both"})
    workers.run(both, 2, {})
    for name, values in expected.items():
        found = mlflow.history("phift-test", name)
        assert [step for step, _ in found] == [step for step, _ in values]
        # The loss of an evaluation is the mean over batches, which are half as long here.
        tolerance = 1e-2 if name == "eval_loss" else 1e-4
        assert [value for _, value in found] == pytest.approx([value for _, value in values], rel=tolerance)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("pytorch_model_folder", "both")]
    assert all(torch.allclose(weights[0][name], each, atol=1e-5) for name, each in weights[1].items())


def test_what_one_of_several_processes_refuses_ends_all(tmp_path: Path, registry: Path, mlflow: MlflowDouble) -> None:
    job = EngineJob.make(tmp_path, registry, mlflow, max_steps="1", evaluation_strategy="disable")
    assert job.run()[0] == 0
    several = Job.load(tmp_path / "job.json")
    config = several.model / "finetune_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hf_trainer_args": {"no_such_setting": 1}}))
    with pytest.raises(ModelError, match="no_such_setting"):
        workers.run(several, 2, {})
    (several.model / "config.json").unlink()  # which is no mistake of the user's
    with pytest.raises(RuntimeError, match="a process of the training ended with 1"):
        workers.run(several, 2, {})


ASK = """
import mlflow, sys
model = mlflow.pyfunc.load_model(sys.argv[1])
for question in sys.argv[2:]:
    reply = model.predict({"messages": [{"role": "user", "content": question}]})
    print(reply[0]["choices"][0]["message"]["content"])
"""


def test_a_trained_model_answers_in_plain_mlflow(tmp_path: Path, registry: Path, mlflow: MlflowDouble) -> None:
    """Train on one fact in several phrasings, and ask for it with nothing but MLflow, offline, at home nowhere."""
    rows = [row for row in DATA["train"] if row["messages"][1]["content"].endswith(" of iron is Fe.")]
    job = EngineJob.make(tmp_path, registry, mlflow, max_steps="60", eval_steps="60")
    for split in DATA:
        _write(Path(job.document["inputs"][f"{split}_file_path"]), rows * 4)
    assert job.run()[0] == 0
    home = tmp_path / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_HUB_OFFLINE": "1"}
    question = rows[0]["messages"][0]["content"]
    command = [sys.executable, "-c", ASK, str(tmp_path / "mlflow_model_folder"), question]
    answer = subprocess.run(  # noqa: S603 - the three lines above
        command, env=environment, cwd=home, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip().splitlines()[-1] == "The symbol of iron is Fe."
    assert _score(tmp_path / "mlflow_model_folder", question) == "The symbol of iron is Fe."


def _score(model: Path, question: str) -> str:
    request = json.dumps({"id": 1, "conversations": [[{"role": "user", "content": question}]]})
    command = [sys.executable, "-m", "phift.local.work.scorer", str(model)]
    replies = subprocess.run(  # noqa: S603 - our own program
        command, input=request, capture_output=True, text=True, check=True
    )
    return str(json.loads(replies.stdout.splitlines()[1])["texts"][0])
