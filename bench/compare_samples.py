"""The sample data's comparison: the stand-in of Phi-4-mini before and after it was fine-tuned, on held-out questions.

All of it is real but the model's size: the SDK, the local workspace, the training, both endpoints. Some minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from phift import EventPrinter, FineTuneRun
from phift.cli.quickstart import configuration
from phift.local import LocalWorkspace


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, help="where the local workspace keeps its state; what is there is gone on with"
    )
    parser.add_argument("--html", type=Path, help="write the comparison as a page to this file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phift-comparison-") as scratch:
        folder = given.folder or Path(scratch)
        workspace = LocalWorkspace(folder)
        workspace.up()
        try:
            run = FineTuneRun(configuration(folder), on_event=EventPrinter(Console(stderr=True)))
            run.submit()
            run.wait()
            started = time.monotonic()
            # The registry's models are folders here; Azure's are fetched by whoever may.
            weights = folder / "registry" / "Phi-4-mini-instruct", run.job.download(folder / "model").folder
            compared = run.evaluate(max_new_tokens=24, weights=weights)
            print(compared)
            print(f"\n{2 * len(compared.rows)} answers in {time.monotonic() - started:.0f} s")
        finally:
            workspace.down()
    if given.html:
        given.html.write_text(compared.page(), encoding="utf-8")
    return 0 if compared.verdict == "better" else 1


if __name__ == "__main__":
    sys.exit(main())
