"""The record of the suite's last run on each target, and the table in ``docs/verified.md``.

    PHIFT_CONTRACT_RECORD=1 python -m pytest tests/contract    # or: make verified

writes both. A target that was skipped keeps the record that it has.
"""

from __future__ import annotations

import datetime
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from contract.targets import NAMES

WANTED = "PHIFT_CONTRACT_RECORD"
RECORD = Path(__file__).with_name("verified.json")
AZURE = Path(__file__).with_name("azure.json")  # a file of its own: whoever has a subscription can hand it in
TABLE = Path(__file__).parents[2] / "docs" / "verified.md"

_ID = re.compile(r"(?:.*/)?(?P<file>\w+)\.py::(?P<name>\w+)\[(?P<given>[\w-]+)\]")
outcomes: dict[str, dict[str, str]] = {}
"""What this run has shown: by target and test."""

_HEAD = """\
# Verified on

One suite of tests, `tests/contract`, is written with the Azure ML SDK's own calls and runs against three targets:

- **wire**: the real `MLClient` against the local workspace on a server, with the engine `instant`;
- **process**: the same in the process of the test, without a server;
- **azure**: the real `MLClient` against a workspace on Azure.

{azure}

`make contract` runs the suite on the first two. For Azure, sign in with `az login`, then

```sh
PHIFT_CONTRACT_AZURE=<subscription>/<resource group>/<workspace> make verified
```

runs it on Azure, takes away what it made (data assets, models and jobs are archived: the SDK deletes no assets, and
jobs only since 1.35), and writes this table anew. It makes clusters without nodes, a handful of small jobs on
serverless compute, and endpoints one after another, five of them with one small machine; it takes hours. It leaves two
files to hand in: `tests/contract/azure.json` has the outcomes and their date, from which the last column is filled, and
`azure-<date>.jsonl` has the recorded exchanges.

To try it first, let a local workspace stand in for Azure's, of which nothing is written into the table:

```sh
phift local up --engine instant --speed fast && eval "$(phift local env)"
PHIFT_CONTRACT_AZURE=$AZURE_SUBSCRIPTION_ID/$AZURE_RESOURCE_GROUP/$AZUREML_WORKSPACE_NAME \\
    make verified RECORDING=rehearsal.jsonl
```

## What Azure answers, recorded

Any program can be recorded, your own run or the suite:

```sh
phift local record mine.jsonl -- phift run finetune.yaml --ask "How many protons are in an atom of gold?"
```

runs it through a proxy on this machine, which passes requests and tokens on and writes one line for each exchange with
Resource Manager, Azure ML, blob storage or an endpoint; other connections, such as the sign-in, pass unopened. A line
has the operation, the api-version, the status and the form of what was sent and answered: which fields there are, and
whether each is a text, a number, a date, an id or null. A text is kept only where it is one of the service's own words,
as `Completed` or `UserError` are. The list of these words and of the known field names is
`src/phift/local/recorder/words.json`; an exchange that holds any other text cannot be made, and so cannot be written.

```sh
phift local replay mine.jsonl -- phift run local.yaml --ask "How many protons are in an atom of gold?"
```

runs the same program on a new local workspace with the engine `instant` (`local.yaml` is the same run with
`workspace: local`; a program that takes its workspace from the environment needs no change) and prints what it answers
otherwise. An operation must answer with each **status** that it had; of its answers with that status, the most similar
one must have the same **fields**, null where there was null, of the same **kinds**; **values** are compared only where
they are words of the service in fields such as `status`, `type` and `code`, and states in between are not. How often
and in which order something was asked is not compared: that follows from time. Exits 1 where something differs. Azure's
answers in `docs/routes.md`, which others have recorded, are held against the local workspace by the same comparison.

Ctrl-C ends the program, which may still clean up through the proxy; what was recorded until then is in the file. A file
that exists is never written over. Where the disk is full the program goes on, and at the end the recorder says that the
file is incomplete and exits 1.

## Answers of other years

The local workspace answers as Azure ML does in the newest recording that there is. Recordings of 2022 and 2024 differ
in places: fields that did not exist yet, an account key in the place of a signature, VM sizes in capitals, an update
that tells the old traffic, quota under other ids. `tests/fidelity/older_forms.py` lists them with their sources and
puts them into the answers on their way; phift goes through its whole chain with those of either year and reads the same
from them as from the newest.

## The last runs

"""


def note(report: pytest.TestReport) -> None:
    """Take down how a test went on its target; one that fails while it is set up or cleaned up has failed."""
    found = row(report.nodeid)
    if found is None or report.skipped:
        return
    name, target = found
    if report.failed or report.when == "call":
        results = outcomes.setdefault(target, {})
        results[name] = "failed" if results.get(name) == "failed" else report.outcome


def row(test: str) -> tuple[str, str] | None:
    """Return the row and the target of a test, by its pytest id, or None for one that has no target."""
    found = _ID.fullmatch(test)
    given = found["given"].split("-") if found else []
    target = next((name for name in NAMES if name in given), None)
    if found is None or target is None:
        return None
    return f"{found['file']}.{found['name']}" + "".join(f"[{value}]" for value in given if value != target), target


def save() -> None:
    """Write the record and the table."""
    known = load()
    for target, results in outcomes.items():
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        known[target] = {"date": date, "sdk": version("azure-ai-ml"), "results": dict(sorted(results.items()))}
    azure = {name: known.pop(name) for name in ("azure",) if name in known}
    for path, runs in ((RECORD, known), (AZURE, azure)):
        if runs:
            path.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    known |= azure
    TABLE.write_text(render(known), encoding="utf-8")


def load() -> dict[str, Any]:
    """Return the record: for each target date, SDK and results."""
    known: dict[str, Any] = {}
    for path in (RECORD, AZURE):
        known |= json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return known


def render(known: dict[str, Any]) -> str:
    """Return the document."""
    azure = "**Nothing has been verified on Azure yet**: nobody has run the suite there."
    if "azure" in known:
        azure = f"The last run on Azure was on {known['azure']['date']}."
    lines = [_HEAD.format(azure=azure)]
    runs = [f"{name}: {known[name]['date']}, azure-ai-ml {known[name]['sdk']}" for name in NAMES if name in known]
    lines += [f"Last runs: {'; '.join(runs)}.\n\n", f"| test | {' | '.join(NAMES)} |\n", "|---|---|---|---|\n"]
    tests = sorted({test for run in known.values() for test in run["results"]})
    for test in tests:
        cells = [known.get(name, {}).get("results", {}).get(test, "unverified") for name in NAMES]
        lines.append(f"| {_words(test)} | {' | '.join(cells)} |\n")
    return "".join(lines)


def _words(test: str) -> str:
    file, _, name = test.removeprefix("test_").partition(".test_")
    name, _, kind = name.partition("[")
    return f"{file}: {name.replace('_', ' ')}" + (f" ({kind.rstrip(']')})" if kind else "")
