"""How fast the local engine trains, beside TRL's `SFTTrainer`.

    python bench/training.py [--trl PYTHON] [--model FOLDER] [--precision 16] [--epochs N] [--rows N] [--rounds N]

Both train the same weights on the same rows, with the same labels, batch size, optimizer and number of steps, each in
a process of its own, in rounds with a seed each. They take turns of a quarter of a second, the other one being
stopped, so that whatever else the machine does meets both. What comes out is asked for its loss on other rows, by
transformers alone, unpadded and in 32 bits. Seconds are those of the loop, with checkpoints, without loading and the
last saving; tokens are those of the rows, without padding.

``FOLDER`` is an MLflow model, as the local registry holds them: a large vocabulary and LoRA are another thing than the
stand-in that is made where none is named, which trains in full. ``PYTHON`` is an interpreter that has TRL, which is no
part of phift:

    python -m venv /tmp/trl
    echo "import site; site.addsitedir('$PWD/.venv/lib/python3.11/site-packages')" > \
        /tmp/trl/lib/python3.11/site-packages/phift.pth
    /tmp/trl/bin/pip install trl==1.16.0

TRL is set as its documentation advises for speed: no gradient checkpointing, AdamW fused, which is transformers'
default, and its own loss, which keeps no logits. Without packing, which without flash attention lets rows see each
other (trl issue 3910); `padding_free` needs flash attention. `--order group_by_length` leaves it less to pad, but is
another training: with the stand-in its loss is higher by 0.06, and by less than 0.0001 where rows come in one order.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

STANDIN = "Phi-4-mini-instruct"
HELD_OUT = 96
TURN = 0.25  # seconds that one runs while the other is stopped: what else the machine does meets both
LORA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Spec = Mapping[str, Any]


class Child(subprocess.Popen[bytes]):
    """A process that is spoken to."""

    stdin: IO[bytes]
    stdout: IO[bytes]


def train_with_phift(spec: Spec) -> None:
    from phift.local.work.engine import process

    process.prepare()
    from phift.local.work.engine import finetune
    from phift.local.work.engine.job import Job, Step

    class Client:
        """Takes metrics, as a server of them would, which is no part of what is measured."""

        def __init__(self, **_: str) -> None: ...
        def set_tag(self, *_: str) -> None: ...
        def log_batch(self, _: str, metrics: object) -> None: ...

    finetune.MlflowClient = Client  # type: ignore[attr-defined,assignment]
    work = Path(spec["work"])
    inputs = {
        "num_train_epochs": spec["epochs"],
        "per_device_train_batch_size": spec["batch"],
        "learning_rate": spec["rate"],
        "precision": spec["precision"],
        "seed": spec["seed"],
        "apply_lora": str(spec["lora"]).lower(),
        "lora_r": 16,
        "lora_alpha": 32,
        "evaluation_strategy": "disable",
    }
    step = Step("chat_completion_finetune", "", "Running", work / "log")
    outputs = {"pytorch_model_folder": Path(spec["trained"])}
    finetune.run(Job("bench", {name: str(value) for name, value in inputs.items()}, outputs, (step,), work, ""))


def train_with_trl(spec: Spec) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]  # a Python of its own has it

    model = Path(spec["work"]) / "model"
    torch.manual_seed(spec["seed"])
    lora = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules=list(LORA)) if spec["lora"] else None
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        SFTConfig(
            spec["trained"],
            num_train_epochs=spec["epochs"],
            per_device_train_batch_size=spec["batch"],
            learning_rate=spec["rate"],
            bf16=spec["precision"] == 16,
            seed=spec["seed"],
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            train_sampling_strategy=spec["order"],
            dataset_kwargs={"skip_prepare_dataset": True},
            save_strategy="epoch",
            dataloader_pin_memory=False,
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=Dataset.from_list(read(Path(spec["work"]) / "data" / "train.jsonl")),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=lora,
    )
    trainer.train()
    (trainer.model.merge_and_unload() if lora else trainer.model).save_pretrained(spec["trained"])


TRAINERS = {"phift": train_with_phift, "trl": train_with_trl}


def read(path: Path) -> list[dict[str, list[int]]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def loss(spec: Spec) -> float:
    """Return what the trained model loses on rows it has not seen, a token."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(spec["trained"], dtype=torch.float32).eval()
    lost, tokens = 0.0, 0
    with torch.inference_mode():
        for row in read(Path(spec["work"]) / "data" / "validation.jsonl"):
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
            count = int((labels[:, 1:] != -100).sum())
            lost, tokens = lost + model(input_ids=ids, labels=labels).loss.item() * count, tokens + count
    return lost / tokens


def prepare(work: Path, model: Path, rows: int) -> int:
    """Bring model and rows to where both trainers find them; return how many tokens the rows have."""
    from phift import samples
    from phift.local.work.engine import models, preprocess
    from phift.local.work.engine.job import Job

    split = samples.rows()
    kept = {"train": split["train"][:: max(1, len(split["train"]) // rows)][:rows]}
    kept |= {name: split[name][:: len(split[name]) // HELD_OUT][:HELD_OUT] for name in ("validation", "test")}
    inputs = {"mlflow_model_path": str(model)}
    work.mkdir()
    for name, some in kept.items():
        path = work / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
        inputs[f"{name}_file_path"] = str(path)
    job = Job("bench", inputs, {}, (), work, "")
    models.import_base(job)
    preprocess.run(job)
    return int(json.loads((job.data / preprocess.COUNTS).read_text(encoding="utf-8"))["train"]["tokens"])


@contextmanager
def trainer(python: str, name: str, spec: Spec) -> Iterator[Child]:
    """Start a process that trains once it is told, and then says what its model loses."""
    # Threads that wait sleep, for both: beside other work on the machine a step takes much longer where they spin.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    command = [python, __file__, "--as", name, json.dumps(spec)]
    with (
        tempfile.TemporaryFile() as errors,
        Child(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        try:
            yield process
        except BaseException:
            process.kill()
            errors.seek(0)
            sys.stderr.write(errors.read().decode()[-2000:])
            raise


def say(process: Child) -> None:
    process.stdin.write(b"\n")
    process.stdin.flush()


def hear(process: Child) -> Any:
    return json.loads(process.stdout.readline())


def race(processes: Mapping[str, Child]) -> dict[str, tuple[float, float]]:
    """Return how many seconds each took to train, and how many of a core's; while one runs the others are stopped."""
    for process in processes.values():
        hear(process)
        say(process)
        process.send_signal(signal.SIGSTOP)
    took, of_cores, left = dict.fromkeys(processes, 0.0), {}, dict(processes)
    while left:
        for name, process in list(left.items()):
            began = time.perf_counter()
            process.send_signal(signal.SIGCONT)
            ended = bool(select.select([process.stdout], [], [], TURN)[0])
            if ended:
                of_cores[name] = hear(process)
                del left[name]
            else:
                process.send_signal(signal.SIGSTOP)
            took[name] += time.perf_counter() - began
    return {name: (seconds, of_cores[name]) for name, seconds in took.items()}


def train(name: str, spec: Spec) -> None:
    """Train as one of the two, and say when it begins, when it has ended, and what the model loses."""
    from transformers import Trainer

    output, loop = os.fdopen(os.dup(1), "w", buffering=1), Trainer._inner_training_loop
    os.dup2(2, 1)

    def timed(*given: Any, **more: Any) -> Any:
        output.write(json.dumps("ready") + "\n")
        sys.stdin.readline()
        began = time.process_time()
        result = loop(*given, **more)
        output.write(json.dumps(time.process_time() - began) + "\n")
        sys.stdin.readline()
        return result

    Trainer._inner_training_loop = timed
    TRAINERS[name](spec)
    output.write(json.dumps(loss(spec)) + "\n")


def main(arguments: argparse.Namespace) -> None:
    from phift.local.work.engine import process

    process.prepare()
    small = arguments.model is None
    rows, epochs = arguments.rows or (1600 if small else 96), arguments.epochs or (2 if small else 1)
    spec = {"epochs": epochs, "batch": 16 if small else 8, "rate": 1e-3 if small else 2e-4}
    spec |= {"precision": arguments.precision, "lora": not small, "order": arguments.order}
    pythons = {"phift": sys.executable, **({"trl": arguments.trl} if arguments.trl else {})}
    seconds: dict[str, list[float]] = {name: [] for name in pythons}
    of_cores: dict[str, list[float]] = {name: [] for name in pythons}
    losses: dict[str, list[float]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as temporary:
        if small:
            from phift.local.work import standin

            arguments.model = standin.build(Path(temporary), STANDIN)
        work = Path(temporary, "work")
        tokens = epochs * prepare(work, arguments.model.absolute(), rows)
        print(f"{os.cpu_count()} cores, Python {platform.python_version()}, load before {os.getloadavg()[0]:.1f}")
        print(f"{arguments.model.name}: {rows} rows, {epochs} epoch(s), {tokens} tokens, precision {spec['precision']}")
        print(f"{'seed':>4} {'trainer':8} {'seconds':>8} {'of a core':>10} {'tokens/s':>9} {'loss':>8}", flush=True)
        for seed in range(1, arguments.rounds + 1):
            with ExitStack() as stack:
                running = {}
                for name, python in pythons.items():
                    own = {**spec, "seed": seed, "work": str(work), "trained": str(Path(temporary, f"{name}-{seed}"))}
                    running[name] = stack.enter_context(trainer(python, name, own))
                for name, (took, of_core) in race(running).items():
                    say(running[name])
                    lost = hear(running[name])
                    seconds[name].append(took)
                    of_cores[name].append(of_core)
                    losses[name].append(lost)
                    print(
                        f"{seed:>4} {name:8} {took:>8.1f} {of_core:>10.1f} {tokens / took:>9.0f} {lost:>8.4f}",
                        flush=True,
                    )
    for name in pythons:
        least, most, mean = min(losses[name]), max(losses[name]), statistics.mean(losses[name])
        rate = tokens / statistics.median(seconds[name])
        print(f"{name}: median {rate:.0f} tokens/s, loss {mean:.4f} ({least:.4f} to {most:.4f})")
    if "trl" in pythons:
        for what, times in (("is", seconds), ("in a core's time is", of_cores)):
            ratios = [theirs / ours for ours, theirs in zip(times["phift"], times["trl"], strict=True)]
            print(
                f"phift {what} {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--as", nargs=2, metavar=("TRAINER", "SPEC"), help="train, as one of the two, and say how")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--trl", help="the Python that has TRL")
    parser.add_argument("--order", default="random", choices=("random", "group_by_length"), help="of TRL's rows")
    parser.add_argument("--precision", type=int, default=32, choices=(16, 32))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if asked := getattr(given, "as"):
        train(asked[0], json.loads(asked[1]))
    else:
        main(given)
