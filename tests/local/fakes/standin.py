"""Writes model folders that only look like models."""

import sys
from pathlib import Path

for name in sys.argv[2:]:
    folder = Path(sys.argv[1]) / name
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors:\n  transformers:\n    task: llm/v1/chat\n")
    (folder / "weights.bin").write_bytes(b"\x00" * 1000)
