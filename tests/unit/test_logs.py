from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from phift.azure.clients import Clients, Part, Rest
from phift.component.inputs import STEPS
from phift.errors import AccessDenied, AuthenticationError, NotFound, ServiceError, ServiceUnreachable
from phift.jobs import logs as module
from phift.jobs.job import FineTuneJob
from phift.jobs.logs import LogText
from phift.testing import TestWorkspace
from unit import given
from unit.fakes import Fakes

STEP = "chat_completion_finetune"
FILE = "user_logs/std_log.txt"
MADE_UP = "made-up-value-of-a-secret"


@dataclass
class Store:
    """What stands for storage and for the details of one run: logs that grow, with addresses that expire."""

    logs: dict[str, bytes] = field(default_factory=dict)
    made: str = "Mon, 30 Nov 2026 10:00:00 GMT"
    signed: int = 0
    good: int = 0  # the first signature that still is
    ranges: bool = True
    read: list[tuple[str, int, int]] = field(default_factory=list)
    resource_manager: str = "https://management.azure.com"

    def get(self, _url: str, _params: Any = None) -> dict[str, Any]:
        self.signed += 1
        return {"logFiles": {name: f"https://store.test/{name}?{self.signed}" for name in self.logs}}

    def part(self, url: str, start: int, most: int) -> Part:
        name, _, signature = url.removeprefix("https://store.test/").partition("?")
        if int(signature) < self.good:
            raise AccessDenied("The signature has expired.", status=403)
        content = self.logs[name][start : start + most]
        self.read.append((name, start, len(content)))
        return Part(content, len(self.logs[name]), self.made)


class Case:
    """A job with one step, whose statuses and logs a test sets while they are followed."""

    def __init__(self, **logs: bytes) -> None:
        self.fakes = Fakes()
        self.store = Store(logs or {})
        self.fakes.clients = Clients(
            workspace=self.fakes.clients.workspace,
            registry=self.fakes.clients.registry,
            component_registry=self.fakes.clients.component_registry,
            rest=cast(Rest, self.store),
            registry_discovery="",
            poll_seconds=0,
        )
        self.set("Running")

    def set(self, *statuses: str) -> None:
        self.fakes.workspace.jobs.add("job", *statuses)
        self.fakes.workspace.jobs.children["job"] = [(STEP, "run-1", statuses[-1])]

    def follow(self, **options: Any) -> Iterator[LogText]:
        return FineTuneJob("job", self.fakes.clients).logs(STEP, follow=True, **options)


def whole(pieces: Iterator[LogText]) -> str:
    return "".join(piece.text for piece in pieces)


def test_what_comes_is_read_once_and_in_whole_lines() -> None:
    case = Case(log=b"")
    case.store.logs = {FILE: b"one\ntw"}
    pieces = case.follow()
    assert next(pieces) == LogText(step=STEP, run_id="run-1", file=FILE, text="one\n")
    case.store.logs[FILE] += b"o\nthree\nfour"
    assert next(pieces).text == "two\nthree\n"
    case.store.logs[FILE] += b" and the end"
    case.set("Completed")
    assert whole(pieces) == "four and the end"
    ends = [start + length for _, start, length in case.store.read]
    assert [start for _, start, _ in case.store.read] == [0, *ends[:-1]]
    assert ends[-1] == len(case.store.logs[FILE])


def test_a_log_longer_than_a_piece_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE", 100)
    case = Case()
    case.store.logs = {FILE: b"".join(b"line %d\n" % number for number in range(100))}
    case.set("Completed")
    pieces = list(case.follow())
    assert "".join(piece.text for piece in pieces).encode() == case.store.logs[FILE]
    assert len(pieces) > 5
    assert sum(length for *_, length in case.store.read) == len(case.store.logs[FILE])


def test_a_character_that_two_pieces_share_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE", 3)
    case = Case()
    case.store.logs = {FILE: "ein Löwe im Käfig 🦁\n".encode()}
    case.set("Completed")
    assert whole(case.follow()) == "ein Löwe im Käfig 🦁\n"


KEY = "\n".join(
    ["-----BEGIN PRIVATE KEY-----", *["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"] * 40, "-----END PRIVATE KEY-----"]
)
SECRETS = {
    "a key": f"before\n{KEY}\nafter\n",
    "a header": f"before\nAuthorization: Bearer {MADE_UP}\nafter\n",
    "a name whose value comes in the next line": f"before\npassword:\n  {MADE_UP}\nafter\n",
    "a value of two lines": f'before\npassword="two\n{MADE_UP}"\nafter\n',
    "a signature": f"before\nGET https://store.test/log?sv=1&sig={MADE_UP}&x=1\nafter\n",
}


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
@pytest.mark.parametrize("what", SECRETS)
def test_a_secret_is_hidden_wherever_a_piece_ends(monkeypatch: pytest.MonkeyPatch, what: str, size: int) -> None:
    monkeypatch.setattr(module, "_PIECE", size)
    case = Case()
    case.store.logs = {FILE: SECRETS[what].encode()}
    case.set("Completed")
    told = whole(case.follow())
    assert MADE_UP not in told
    assert "MIIEv" not in told
    assert "***" in told
    assert told.startswith("before\n")
    assert told.endswith("after\n")


def test_a_log_of_any_length_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "redact", lambda text: text)  # it takes a second for a megabyte
    line = b"step 10 loss 1.5\n" * 4096
    case = Case()
    case.store.logs = {FILE: b"\n"}
    length = 300 * len(line)

    def part(_url: str, start: int, most: int) -> Part:
        found = (line * (most // len(line) + 2))[start % len(line) :][: min(most, length - start)]
        return Part(found, length, "")

    monkeypatch.setattr(case.store, "part", part)
    case.set("Completed")
    tracemalloc.start()
    try:
        assert sum(len(piece.text) for piece in case.follow()) == length
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("piece", ["\r 10%|█", "x" * 40 + " "], ids=["a bar", "a long line"])
def test_what_is_looked_back_at_stays_short_where_no_newline_comes(monkeypatch: pytest.MonkeyPatch, piece: str) -> None:
    longest = 0

    def hidden(text: str) -> str:
        nonlocal longest
        longest = max(longest, len(text))
        return text

    monkeypatch.setattr(module, "redact", hidden)
    lines, content = module._Lines(), (piece * (50_000 // len(piece))).encode()
    told = "".join(text for _ in range(40) for text in lines.take(content))
    assert told + "".join(lines.take(b"", last=True)) == content.decode() * 40
    assert longest < 400_000


def test_a_value_in_the_line_behind_a_long_one_is_hidden() -> None:
    lines = module._Lines()
    told = "".join(lines.take(b"x" * 70_000 + b" password:\n")) + "".join(lines.take(f"  {MADE_UP}\nend\n".encode()))
    assert MADE_UP not in told
    assert told.endswith("***\nend\n")


def test_a_line_without_end_is_handed_on_in_parts() -> None:
    case = Case()
    case.store.logs = {FILE: b"x" * 70_000}
    assert len(next(case.follow()).text) == 70_000


def test_a_bar_that_is_drawn_over_itself_is_seen_while_it_moves() -> None:
    case = Case()
    case.store.logs = {FILE: b"\r 1%\r 2%\r 3%"}
    assert next(case.follow()).text == "\r 1%\r 2%\r"


def test_an_address_that_expires_is_asked_for_again_and_nothing_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE", 4)
    case = Case()
    case.store.logs = {FILE: b"one\ntwo\nend\n"}
    case.set("Completed")
    pieces = case.follow()
    assert next(pieces).text == "one\n"
    case.store.good = case.store.signed + 1
    assert whole(pieces) == "two\nend\n"
    assert [start for _, start, _ in case.store.read] == [0, 4, 8]


def test_a_log_that_nobody_may_read_is_an_error() -> None:
    case = Case()
    case.store.logs, case.store.good = {FILE: b"one\n"}, 100
    with pytest.raises(AccessDenied):
        next(case.follow())


def shorter(store: Store) -> None:
    store.logs[FILE] = b"new\n"


def longer(store: Store) -> None:
    store.logs[FILE] = b"new\n" * 20
    store.made = "Mon, 30 Nov 2026 11:00:00 GMT"


@pytest.mark.parametrize("replace", [shorter, longer])
def test_a_log_that_another_one_replaces_is_read_from_its_beginning(replace: Callable[[Store], None]) -> None:
    case = Case()
    case.store.logs = {FILE: b"one\ntwo\nthr"}
    pieces = case.follow()
    assert next(pieces).text == "one\ntwo\n"
    replace(case.store)
    case.set("Completed")
    assert whole(pieces) == "thr" + case.store.logs[FILE].decode()


def test_every_process_has_its_log() -> None:
    case = Case()
    names = [f"user_logs/std_log_process_{number:02}.txt" for number in range(3)]
    case.store.logs = {**{name: name.encode() for name in names}, "system_logs/a.txt": b"the service's"}
    case.set("Completed")
    assert [(piece.file, piece.text) for piece in case.follow()] == [(name, name) for name in names]


def test_a_silent_service_is_put_up_with_and_nothing_is_lost() -> None:
    case = Case()
    case.store.logs = {FILE: b"one\n"}
    pieces = case.follow()
    assert next(pieces).text == "one\n"
    case.store.logs[FILE] += b"two\n"
    case.fakes.workspace.record.fail("jobs.get", ServiceUnreachable("No answer."), ServiceError("Busy.", status=503))
    assert next(pieces).text == "two\n"


@pytest.mark.usefixtures("sleeps")
def test_a_service_that_is_silent_for_good_ends_it() -> None:
    case = Case()
    case.fakes.clients = replace(case.fakes.clients, patience_seconds=-1)
    case.fakes.workspace.record.fail("jobs.get", ServiceUnreachable("No answer."))
    with pytest.raises(ServiceUnreachable):
        next(case.follow())


def test_a_credential_that_is_refused_once_ends_no_following() -> None:
    case = Case()
    case.store.logs = {FILE: b"one\n"}
    case.fakes.workspace.record.fail("jobs.get", AuthenticationError("The token has expired.", status=401))
    case.set("Completed")
    assert whole(case.follow()) == "one\n"
    case.fakes.workspace.record.fail("jobs.get", AuthenticationError("The token has expired.", status=401))
    with pytest.raises(AuthenticationError):  # who looks once is told
        list(FineTuneJob("job", case.fakes.clients).logs(STEP))


def test_an_end_is_noticed_within_five_seconds_and_logs_are_read_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    case, now = Case(), [0.0]
    case.store.logs = {FILE: b""}
    case.fakes.clients = replace(case.fakes.clients, poll_seconds=15)
    end = 1001.0

    def sleep(seconds: float) -> None:
        now[0] += seconds
        case.store.logs[FILE] += b"line\n"
        if now[0] >= end:
            case.set("Completed")

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", sleep)
    assert whole(case.follow()).encode() == case.store.logs[FILE]
    assert now[0] - end < 5
    assert len(case.store.read) < 1001 / 15 + 5
    assert case.fakes.workspace.record.count("jobs.get") > 200


def test_what_waits_ends_when_it_is_told_to() -> None:
    case, stop = Case(), threading.Event()
    case.fakes.clients = replace(case.fakes.clients, poll_seconds=60)
    pieces: list[LogText] = []
    following = threading.Thread(target=lambda: pieces.extend(case.follow(stop=stop)))
    following.start()
    stop.set()
    following.join(10)
    assert not following.is_alive()
    assert pieces == []


# ---------------------------------------------------------------- in a workspace


def job(workspace: TestWorkspace, clients: Clients) -> FineTuneJob:
    given.job(workspace)
    return FineTuneJob("job", clients)


def test_a_job_s_logs_are_its_own_and_its_steps_in_their_order(workspace: TestWorkspace, clients: Clients) -> None:
    found = job(workspace, clients)
    found.wait()
    told = list(found.logs())
    assert list(dict.fromkeys(piece.step for piece in told)) == ["", *STEPS]
    assert {piece.file for piece in told} == {"logs/azureml/executionlogs.txt", FILE}
    assert all("This is empty" in piece.text for piece in told[1:])


def test_following_from_the_start_tells_the_same(workspace: TestWorkspace, clients: Clients) -> None:
    found = job(workspace, clients)
    followed = list(found.logs(follow=True))
    texts: dict[str, str] = {}
    for piece in followed:
        texts[piece.step] = texts.get(piece.step, "") + piece.text
    assert texts == {piece.step: piece.text for piece in found.logs()}


@pytest.mark.phift(speed="manual")
def test_where_nothing_has_a_log_yet_there_is_nothing_and_nobody_waits(
    workspace: TestWorkspace, clients: Clients
) -> None:
    assert list(job(workspace, clients).logs(STEP)) == []


def test_a_step_that_there_is_none_of_is_told_with_those_there_are(workspace: TestWorkspace, clients: Clients) -> None:
    found = job(workspace, clients)
    for follow in (False, True):
        with pytest.raises(NotFound, match="no step finetune") as caught:
            list(found.logs("finetune", follow=follow))
        assert STEP in str(caught.value.fix)


def test_the_logs_of_a_job_that_is_not_there_are_not_found(clients: Clients) -> None:
    with pytest.raises(NotFound):
        list(FineTuneJob("none", clients).logs())
