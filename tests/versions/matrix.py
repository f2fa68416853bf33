"""Run the chain with several versions of azure-ai-ml, each in an environment of its own: ``python matrix.py``.

``python matrix.py oldest between`` runs those only. The environments stay in ``.versions`` and are used again. Run it
with an environment that phift is installed in.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / ".versions"
PACKAGE = "azure-ai-ml"


def versions() -> dict[str, str]:
    """Return the versions to run: the lowest that is supported, one between, and the one of everything else."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    [lowest] = [found[1] for line in dependencies if (found := re.match(rf"{PACKAGE}>=([\d.]+)", line))]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    [newest] = re.findall(rf"^{PACKAGE}==(\S+)", pinned, re.MULTILINE)
    return {"oldest": lowest, "between": "1.30.0", "newest": newest}


def environment(version: str) -> Path:
    """Return the interpreter of an environment with this version, making it where it is not there yet.

    It has what this interpreter's own has, but for azure-ai-ml and what that version needs besides or otherwise: an
    environment with all of it takes minutes to make.
    """
    folder = ENVIRONMENTS / version
    python, kept = folder / "bin" / "python", folder / "installed.txt"
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = "\n".join(line for line in lines if not line.startswith(f"{PACKAGE}=="))
    if kept.is_file() and kept.read_text(encoding="utf-8") == wanted:
        return python
    venv.create(folder, clear=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "everything_else.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pins = folder / "constraints.txt"
    pins.write_text(wanted, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    command = [*pip, "install", "--quiet", "--no-compile", "--constraint", str(pins), f"{PACKAGE}=={version}"]
    subprocess.run(command, check=True)  # noqa: S603 - pip, with our own list
    kept.write_text(wanted, encoding="utf-8")
    return python


def run(version: str) -> str:
    """Run the chain with one version, and return its row of the table."""
    started = time.perf_counter()
    python = environment(version)
    installed = time.perf_counter() - started
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(  # noqa: S603 - our own script
        [python, HERE / "chain.py"], env=environ, stdout=subprocess.PIPE, text=True, check=True, timeout=3000
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    if seen[PACKAGE] != version:
        raise AssertionError(f"the environment of {version} has {seen[PACKAGE]}")
    return f"| {version} | passed | {seen['seconds']} | {installed:.0f} | {seen['sizes']}, {seen['usages']} |"


def main(names: list[str]) -> None:
    """Print the table of the versions that are named, or of all."""
    known = versions()
    lines = ["| azure-ai-ml | the chain | s | s to install | fields |", "|---|---|---|---|---|"]
    lines += [run(known[name]) for name in names or known]
    print("\n".join(lines))  # noqa: T201 - a script's output


if __name__ == "__main__":
    main(sys.argv[1:])
