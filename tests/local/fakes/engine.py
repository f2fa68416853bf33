"""Acts as the training engine on the wire and in the files; learns nothing.

``num_train_epochs`` is how many tenths of a second the fine-tuning takes, ``seed`` 13 makes it fail, 14 makes it crash,
15 makes it hold on when its input closes, with a child process of its own, 16 ends it as a chat template without end.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import requests


def watch(stubborn: bool) -> None:
    sys.stdin.read()
    if not stubborn:
        os._exit(75)


def event(name: str, status: str, **more: Any) -> None:
    sys.stdout.write(json.dumps({"event": "step", "name": name, "status": status, **more}) + "\n")
    sys.stdout.flush()


def log_metrics(tracking_uri: str, run: str, step: int) -> None:
    metrics = [{"key": "loss", "value": 2.0 / step, "step": step, "timestamp": int(time.time() * 1000)}]
    body = {"run_id": run, "metrics": metrics, "tags": [{"key": "score", "value": str(2.0 / step)}], "params": []}
    headers = {"Authorization": f"Bearer {os.environ['MLFLOW_TRACKING_TOKEN']}"}
    url = f"{tracking_uri}/api/2.0/mlflow/runs/log-batch"
    requests.post(url, json=body, headers=headers, timeout=60).raise_for_status()


def finetune(job: dict[str, Any], step: dict[str, Any]) -> None:
    seed = job["inputs"]["seed"]
    if seed == "13":
        event(step["name"], "Failed", error={"code": "UserError", "message": "thirteen is not a good seed"})
        sys.exit(1)
    if seed == "14":
        os._exit(9)
    if seed == "16":
        signal.raise_signal(signal.SIGALRM)
    if seed == "15":
        child = subprocess.Popen(["sleep", "600"])  # noqa: S607 - a fixed program of every system
        Path(job["work"], "child.pid").write_text(str(child.pid))
    for tick in range(1, int(job["inputs"]["num_train_epochs"]) + 1):
        for run in (step["run_id"], job["name"]):
            log_metrics(job["tracking_uri"], run, tick)
        time.sleep(0.1)
    (Path(job["outputs"]["pytorch_model_folder"]) / "weights.bin").write_bytes(b"trained")


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    threading.Thread(target=watch, args=(job["inputs"]["seed"] == "15",), daemon=True).start()
    for step in job["steps"]:
        if step["status"] == "Completed":
            continue
        event(step["name"], "Running")
        with Path(step["log"]).open("a") as log:
            log.write(f"this is {step['name']}\n")
        if step["name"] == "ft_nlp_common_validation":
            assert Path(job["inputs"]["train_file_path"]).is_file()
            assert (Path(job["inputs"]["mlflow_model_path"]) / "MLmodel").is_file()
        if step["name"] == "chat_completion_finetune":
            finetune(job, step)
        if step["name"] == "ft_nlp_model_converter":
            folder = Path(job["outputs"]["mlflow_model_folder"])
            (folder / "MLmodel").write_text("flavors:\n  transformers:\n    task: llm/v1/chat\n")
            (folder / "model").mkdir(exist_ok=True)
            (folder / "model" / "weights.bin").write_bytes(b"trained")
        event(step["name"], "Completed")


main()
