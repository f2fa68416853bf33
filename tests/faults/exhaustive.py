"""Every request of a chain with every fault, and the table of what became of it: ``python -m faults.exhaustive``.

``make faults`` runs it for the chain that ``CHAIN`` names. The whole run takes as long as some 1,000 chains; what has
been found stands in a file as it goes, and ``--resume`` goes on from there.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from .chain import FAULTS, REFUSALS, Chain, Outcome, Row, faults_of, find_rows, ground, try_fault
from .chains import CHAINS
from .impatience import impatient

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- what `make faults CHAIN={}` writes begins here -->", "<!-- and ends here -->"

_MORE = ", changes of endpoints and deployments with others besides"

Cell = tuple[Row, str]


def quiet() -> None:
    """Keep what the SDK says of every failure out of the output: they are ordered."""
    warnings.simplefilter("ignore")
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)


def rows_of(chain: Chain, folder: Path) -> list[Row]:
    """List a chain's requests; the first chain of a process asks more slowly, so it is the second that counts."""
    quiet()
    with ground(folder) as place, impatient():
        chain.run(place, place.begin(chain), lambda _step: None)
        return find_rows(place, chain)


def cells_of(chain: Chain, rows: list[Row]) -> list[Cell]:
    """Return all that there is to try: each operation's first request first, then changes, and tokens last."""
    firsts = {row.operation: row for row in reversed(rows)}.values()
    cells = [(row, fault) for row in rows for fault in faults_of(row, refusals=chain.refusals)]

    def rank(cell: Cell) -> tuple[bool, ...]:
        operation = cell[0].operation
        return cell[0] not in firsts, "msi/token" in operation, operation.startswith("GET")

    return sorted(cells, key=rank)


def work(name: str, cells: list[Cell], folder: Path, out: Path, end: float) -> None:
    """Try cells of a chain until a time, and note what became of each.

    - **end**: as ``time.time`` has it.
    """
    quiet()
    chain = CHAINS[name]
    with ground(folder) as place, impatient(), out.open("a", encoding="utf-8") as file:
        chain.run(place, place.begin(chain), lambda _step: None)
        for row, fault in cells:
            if time.time() > end:
                break
            started = time.monotonic()
            outcome = try_fault(place, chain, row, faults_of(row, refusals=True)[fault])
            seconds = round(time.monotonic() - started, 1)
            file.write(json.dumps({"row": asdict(row), "fault": fault, **asdict(outcome), "seconds": seconds}) + "\n")
            file.flush()
            if any("Hangs" in defect for defect in outcome.defects):
                raise RuntimeError(f"{row} with {fault} hangs, and may still disturb what would come after it")


def read(out: Path) -> dict[Cell, Outcome]:
    found = {}
    for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else ():
        noted = json.loads(line)
        found[Row(**noted["row"]), noted["fault"]] = Outcome(noted["error"], noted["hit"], noted["defects"])
    return found


def table(chain: Chain, rows: Iterable[Row], found: Mapping[Cell, Outcome]) -> str:
    columns = (*FAULTS, *(REFUSALS if chain.refusals else ()))
    head = ["step", "request", "no.", *columns]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        there = faults_of(row, refusals=chain.refusals)
        said = [say(found.get((row, fault))) if fault in there else "-" for fault in columns]
        lines.append([row.step, f"`{row.operation}`", str(row.number), *said])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def say(outcome: Outcome | None) -> str:
    if outcome is None:
        return "not run"
    if outcome.defects:
        return f"**{'; '.join(outcome.defects)[:200]}**".replace("|", "/").replace("\n", " ")
    if outcome.error:
        return f"`{outcome.error}`, then completes"
    return "completes" if outcome.hit else "completes, not hit"


def summary(chain: Chain, rows: list[Row], found: Mapping[Cell, Outcome]) -> str:
    outcomes = [found.get(cell) for cell in cells_of(chain, rows)]
    run = [outcome for outcome in outcomes if outcome is not None]
    errors = Counter(outcome.error for outcome in run if outcome.error and not outcome.defects)
    named = ", ".join(f"{count} `{name}`" for name, count in errors.most_common())
    lines = [
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, {os.cpu_count()} cores, Python {platform.python_version()}: "
        f"{len(rows)} requests with {len(FAULTS)} faults each{_MORE * chain.refusals}. Of these {len(outcomes)} runs",
        "",
        f"- {sum(say(outcome) == 'completes' for outcome in run)} complete in spite of it",
        f"- {sum(errors.values())} end in an error of phift, and a second call completes them: {named}",
        f"- {sum(not outcome.hit for outcome in run)} complete because the fault was not hit: the request did not come "
        "as often this time",
        f"- {sum(bool(outcome.defects) for outcome in run)} end in anything else",
        f"- {len(outcomes) - len(run)} were not run",
    ]
    return "\n".join(lines)


def section(text: str, chain: str) -> tuple[str, str, str]:
    """Return what comes before a chain's table in the document, the table with its summary, and what comes after."""
    before, begin, rest = text.partition(BEGIN.format(chain))
    found, end, after = rest.partition(END)
    return f"{before}{begin}", found, f"{end}{after}"


def write(document: Path, chain: Chain, rows: list[Row], found: Mapping[Cell, Outcome]) -> None:
    before, _, after = section(document.read_text(encoding="utf-8"), chain.name)
    made = f"\n\n{summary(chain, rows, found)}\n\n{table(chain, rows, found)}\n\n"
    document.write_text(f"{before}{made}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chain", choices=CHAINS, nargs="?", default="run")
    parser.add_argument("--minutes", type=float, default=240, help="stop after so many, whatever is left")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="keep what an earlier call has found")
    parser.add_argument("--notes", type=Path, help="where what is found is noted; by default below .phift")
    arguments = parser.parse_args()
    chain = CHAINS[arguments.chain]
    notes = arguments.notes or ROOT / ".phift" / f"faults-{chain.name}.jsonl"
    listed = notes.with_suffix(".rows.json")
    notes.parent.mkdir(parents=True, exist_ok=True)
    if not arguments.resume:
        notes.unlink(missing_ok=True)
        listed.unlink(missing_ok=True)
    end = time.time() + arguments.minutes * 60
    with tempfile.TemporaryDirectory(prefix="phift-faults-") as temporary:
        folder = Path(temporary)
        if not listed.exists():
            listed.write_text(json.dumps([asdict(row) for row in rows_of(chain, folder / "rows")]), encoding="utf-8")
        rows = [Row(**row) for row in json.loads(listed.read_text(encoding="utf-8"))]
        left = [cell for cell in cells_of(chain, rows) if cell not in read(notes)]
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(arguments.processes, mp_context=spawn) as pool:
            shards = [left[number :: arguments.processes] for number in range(arguments.processes)]
            futures = [
                pool.submit(work, chain.name, cells, folder / str(n), notes, end) for n, cells in enumerate(shards)
            ]
        failed = [error for future in futures if (error := future.exception())]
    found = read(notes)
    write(DOCUMENT, chain, rows, found)
    sys.stdout.write(f"{summary(chain, rows, found)}\n")
    for error in failed:
        sys.stderr.write(f"A process ended: {error}\n")
    return 1 if failed or any(outcome.defects for outcome in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
