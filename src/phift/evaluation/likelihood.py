"""How likely a model finds the right answers: ``python -m phift.evaluation.likelihood MODEL_FOLDER``, with torch.

It is a process of its own, which gives back the memory of one model before the next one is loaded, and whose libraries
may print and warn. One JSON value a line: rows come in as ``{"prompt": [...], "reference": text, "tools": [...]}``, and
of each the loss, the number of tokens and a digest of the question's go out as ``[loss, tokens, asked]``, or
``{"error": text}`` at the end.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from phift.component.finetune_config import FILE_NAME, FinetuneConfig
from phift.component.preprocessing import without_system
from phift.errors import MissingDependency, ModelError, PhiftError, redact
from phift.evaluation.rows import HeldOutRow
from phift.jobs.download import tokenizer_of, weights_of

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "passive",  # threads that spin take ten times as long beside another busy process
}


@dataclass(frozen=True)
class Likelihood:
    """What a model thinks of the right answers.

    - **losses**: of each row, the mean of its answer's tokens: the negative logarithm of the probability, base e.
    - **tokens**: of each row's answer, its end included.
    - **asked**: a digest of each row's question as tokens.
    """

    losses: tuple[float, ...]
    tokens: tuple[int, ...]
    asked: tuple[str, ...] = ()

    @property
    def perplexity(self) -> float:
        """The exponential of the mean loss over all tokens of all rows; long answers count for more."""
        total = sum(loss * tokens for loss, tokens in zip(self.losses, self.tokens, strict=True))
        return math.exp(min(total / sum(self.tokens), 700.0))  # more is no float


def measure(folder: Path, rows: Sequence[HeldOutRow], tell: Callable[[int], None]) -> Likelihood:
    """Return the likelihood of the right answers.

    - **folder**: a model that ``transformers`` opens, or an MLflow model with one in it, as `FineTuneJob.download`
      fetches it. It has no code of its own run.
    - **tell**: called with how many rows are done.

    Raises `phift.errors.ModelError` where it cannot be loaded, or a row is too long for it, and
    `phift.errors.MissingDependency` without torch or transformers.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            what = f"The loss is measured with {package}, which is not installed."
            raise MissingDependency(what, fix="in the folder of phift's source: pip install '.[local]'")
    command = [sys.executable, "-P", "-m", __name__, str(folder)]
    # Modules are those of this process, and none of the folder that it happens to be in.
    environment = {**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    measured: list[tuple[float, int, str]] = []
    failed = "The process that has the model ended by itself; it may need more memory than there is."
    with TemporaryFile() as given:
        for row in rows:
            values = {"prompt": row.prompt, "reference": row.reference, "tools": row.tools}
            given.write(json.dumps(values).encode() + b"\n")
        given.seek(0)
        with subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        ) as process:
            try:
                for line in process.stdout or ():
                    match json.loads(line):
                        case {"error": str(failed)}:
                            break
                        case [loss, _, _] if not math.isfinite(loss):
                            failed = f"The loss of answer {len(measured) + 1} is {loss}: the weights are broken."
                            break
                        case [loss, tokens, asked]:
                            measured.append((loss, tokens, asked))
                            tell(len(measured))
            finally:
                process.kill()  # where it has ended, nothing happens
    if len(measured) < len(rows):
        raise ModelError(failed, where=str(folder), fix="give the folder of a model that transformers opens")
    losses, tokens_of, asked_of = zip(*measured, strict=True)
    return Likelihood(losses, tokens_of, asked_of)


# ---------------------------------------------------------------- the process


def _measured(folder: Path, lines: Iterable[str]) -> Iterator[tuple[float, int, str]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of(folder), trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        weights_of(folder),
        dtype=torch.bfloat16 if device == "cuda" else torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
    )
    model = model.to(device).eval()
    has_system = not (folder / FILE_NAME).is_file() or FinetuneConfig.load(folder).system_role_supported
    most = getattr(model.config, "max_position_embeddings", math.inf)
    for number, line in enumerate(lines, 1):
        asked, answer = _tokens(tokenizer, json.loads(line), has_system=has_system)
        if len(asked) + len(answer) > most:
            what = f"Row {number} of those compared has {len(asked) + len(answer)} tokens, and the model takes {most}."
            raise ModelError(what)
        with torch.inference_mode():
            logits = model(torch.tensor([[*asked, *answer]], device=device)).logits[0, len(asked) - 1 : -1].float()
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(answer, device=device))
        yield float(loss), len(answer), sha256(json.dumps(asked).encode()).hexdigest()


def _tokens(tokenizer: Any, row: dict[str, Any], *, has_system: bool) -> tuple[list[int], list[int]]:
    """Return the tokens of a question, with what opens the answer, and those of the answer, with what ends it."""
    prompt = row["prompt"] if has_system else without_system(row["prompt"])
    tools = row["tools"] or None
    asked = tokenizer.apply_chat_template(prompt, tools=tools, tokenize=False, add_generation_prompt=True)
    turns = [*prompt, {"role": "assistant", "content": row["reference"]}]
    whole = tokenizer.apply_chat_template(turns, tools=tools, tokenize=False)
    if not whole.startswith(asked):  # a template that writes earlier turns in another way than the last one
        whole = f"{asked}{row['reference']}{tokenizer.eos_token or ''}"
    cut = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, whole[len(asked) :])]
    return cut[0], cut[1]


def _main(folder: Path) -> int:
    output = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # whatever else is printed
    try:
        for measured in _measured(folder, sys.stdin):
            output.write(json.dumps(measured) + "\n")
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent reads it as the last line
        # Its first line, for libraries write pages; of a template's error too, which quotes no row.
        first = next(iter(str(error).strip().splitlines()), "")
        said = error.what if isinstance(error, PhiftError) else f"{type(error).__name__}: {redact(first)[:200]}"
        output.write(json.dumps({"error": said}) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
