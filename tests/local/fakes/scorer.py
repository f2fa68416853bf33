"""Answers with the last message turned around; "sleep", "die" and "refuse" do what they say.

A stream has a piece for each character. After "wait FILE" the second one does not come before the file is there; others
are answered meanwhile.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any


def send(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def answer(request: dict[str, Any], words: list[str]) -> None:
    pieces = list(words[0][::-1]) if request.get("stream") else []
    for number, piece in enumerate(pieces):
        while number == 1 and words[0].startswith("wait ") and not Path(words[0][5:]).exists():
            time.sleep(0.01)
        send({"id": request["id"], "piece": piece})
        if words == ["half"]:
            os._exit(3)
    usage = [{"prompt": 1, "completion": len(word)} for word in words]
    texts = [word[::-1] for word in words]
    send({"id": request["id"], "texts": texts, "finish": ["stop"] * len(texts), "usage": usage})


model = Path(sys.argv[1])
if (model / "broken").is_file():
    sys.stderr.write("Traceback: the model is broken\n")
    send({"error": {"message": "the weights cannot be read"}})
    sys.exit(1)
sys.stderr.write("scorer is up\n")
send({"ready": True})
for line in sys.stdin:
    request = json.loads(line)
    if "cancel" in request:
        sys.stderr.write(f"request {request['id']} is taken back\n")
        sys.stderr.flush()
        continue
    words = [conversation[-1]["content"] for conversation in request["conversations"]]
    if words == ["die"]:
        os._exit(3)
    if words == ["sleep"]:
        time.sleep(1)
    if words == ["refuse"]:
        send({"id": request["id"], "error": {"message": "the last role must be user"}})
    elif words[0].startswith("wait "):
        threading.Thread(target=answer, args=(request, words), daemon=True).start()
    else:
        answer(request, words)
