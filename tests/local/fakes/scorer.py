"""Answers with the last message turned around; "sleep", "die" and "refuse" do what they say."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def send(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


model = Path(sys.argv[1])
if (model / "broken").is_file():
    sys.stderr.write("Traceback: the model is broken\n")
    send({"error": {"message": "the weights cannot be read"}})
    sys.exit(1)
sys.stderr.write("scorer is up\n")
send({"ready": True})
for line in sys.stdin:
    request = json.loads(line)
    words = [conversation[-1]["content"] for conversation in request["conversations"]]
    if words == ["die"]:
        os._exit(3)
    if words == ["sleep"]:
        time.sleep(1)
    if words == ["refuse"]:
        send({"id": request["id"], "error": {"message": "the last role must be user"}})
    else:
        send({"id": request["id"], "texts": [word[::-1] for word in words]})
