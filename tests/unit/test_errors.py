from __future__ import annotations

import inspect
import pickle
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import azure.ai.ml.exceptions
import azure.identity
import azure.storage.blob
import azure.storage.filedatalake
import azure.storage.fileshare
import pytest
import requests
import urllib3
from azure.core import PipelineClient
from azure.core import exceptions as core
from azure.core.pipeline import policies
from azure.core.rest import HttpRequest
from hypothesis import given
from hypothesis import strategies as st

from phift import errors
from phift.errors import PhiftError, azure_errors, from_azure, redact
from unit.fakes import http_error
from unit.loopback import scripted_server


def walk(kind: type[Any]) -> Iterator[type[Any]]:
    for child in kind.__subclasses__():
        yield child
        yield from walk(child)


AZURE = [kind for kind in dict.fromkeys(walk(core.AzureError)) if kind.__module__.startswith("azure.")]
OURS: list[type[PhiftError]] = [PhiftError, *(kind for kind in walk(PhiftError) if kind.__module__ == "phift.errors")]


class Response:
    """As much of a response as the constructors of azure-core's errors look at."""

    status_code = 418
    reason = "made up"
    request = "GET https://made.up/"
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed

    def text(self) -> str:
        return ""

    def body(self) -> bytes:
        return b""


def instance(kind: type[Any]) -> Any:
    """Return an error of a class, every required argument filled with something of its kind."""
    special: dict[str, Any] = {
        "response": Response(),
        "history": [],
        "parts": [],
        "scopes": ["s"],
        "keywords": ["k"],
        "given_number": 1,
    }
    arguments = inspect.signature(kind.__init__).parameters.values()
    needed = [a for a in list(arguments)[1:] if a.default is a.empty and a.kind == a.POSITIONAL_OR_KEYWORD]
    return kind(**{a.name: special.get(a.name, "made up") for a in needed})


def test_the_walk_reaches_every_package() -> None:
    packages = {re.match(r"azure\.(core|identity|storage|ai\.ml)", kind.__module__) for kind in AZURE}
    assert {found[1] for found in packages if found} == {"core", "identity", "storage", "ai.ml"}


@pytest.mark.parametrize("kind", AZURE, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_azure_error_becomes_one_of_ours(kind: type[Any]) -> None:
    error = instance(kind)
    with pytest.raises(PhiftError) as caught, azure_errors("the place"):
        raise error
    assert caught.value.where == "the place"
    assert caught.value.__cause__ is error
    assert type(caught.value) is not PhiftError


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (core.ClientAuthenticationError("x"), errors.AuthenticationError),
        (azure.identity.CredentialUnavailableError("x"), errors.AuthenticationError),
        (core.ServiceRequestError("x"), errors.ServiceUnreachable),
        (core.ServiceRequestTimeoutError("x"), errors.ServiceUnreachable),
        (core.ServiceResponseError("x"), errors.ServiceUnreachable),
        (core.IncompleteReadError("x"), errors.ServiceUnreachable),
        (core.IncompleteReadError("x", response=Response()), errors.ServiceUnreachable),
        (requests.ConnectionError("x"), errors.ServiceUnreachable),
        (requests.ReadTimeout("x"), errors.ServiceUnreachable),
        (requests.exceptions.ChunkedEncodingError("x"), errors.ServiceUnreachable),
        (urllib3.exceptions.ProtocolError("x"), errors.ServiceUnreachable),
        (ConnectionResetError("x"), errors.ServiceUnreachable),
        (TimeoutError("x"), errors.ServiceUnreachable),
        (FileNotFoundError("x"), errors.DataNotFound),
        (AttributeError("x"), errors.ServiceError),
        (core.HttpResponseError("no response at all"), errors.ServiceError),
        (core.ResourceNotFoundError("x"), errors.NotFound),
        (core.ResourceExistsError("x"), errors.Conflict),
        (core.ResourceModifiedError("x"), errors.Conflict),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_has_no_status_maps_by_its_kind(error: Exception, ours: type[PhiftError]) -> None:
    assert type(from_azure(error, "here")) is ours


@pytest.mark.parametrize(
    ("status", "ours"),
    [
        (400, errors.ServiceError),
        (401, errors.AuthenticationError),
        (403, errors.AccessDenied),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (412, errors.Conflict),
        (429, errors.Throttled),
        (500, errors.ServiceError),
        (503, errors.ServiceError),
    ],
)
def test_statuses_map(status: int, ours: type[PhiftError]) -> None:
    assert type(from_azure(http_error(status), "here")) is ours


def test_an_expired_token_asks_for_no_login() -> None:
    error = from_azure(http_error(401, "(ExpiredAuthenticationToken) The access token expiry is earlier."), "here")
    assert type(error) is errors.AuthenticationError
    assert error.what.startswith("The service takes the token for expired")
    assert str(error.fix).startswith("run again")


def test_a_plain_401_is_an_authentication_error() -> None:
    error = core.HttpResponseError("x")
    error.status_code = 401
    assert type(from_azure(error, "here")) is errors.AuthenticationError


def test_an_authentication_error_with_403_is_access_denied() -> None:
    error = core.ClientAuthenticationError("x")
    error.status_code = 403
    mapped = from_azure(error, "here")
    assert type(mapped) is errors.AccessDenied
    assert "AzureML Data Scientist" in str(mapped.fix)


def test_a_service_error_keeps_status_and_code() -> None:
    error = http_error(409)
    error.error = core.ODataV4Format({"code": "Busy", "message": "x"})
    mapped = from_azure(error, "here")
    assert isinstance(mapped, errors.ServiceError)
    assert (mapped.status, mapped.code) == (409, "Busy")


def test_a_defect_of_the_sdk_is_named() -> None:
    mapped = from_azure(AttributeError("'NoneType' has no 'items'"), "here")
    assert mapped.what == "The Azure SDK raised AttributeError: 'NoneType' has no 'items'"


def test_our_own_errors_pass_unchanged() -> None:
    error = errors.JobCanceled("gone")
    with pytest.raises(errors.JobCanceled) as caught, azure_errors("elsewhere"):
        raise error
    assert caught.value is error
    assert error.where is None


def test_an_interrupt_passes_unchanged() -> None:
    with pytest.raises(KeyboardInterrupt), azure_errors("here"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigError("No.", mistakes=(("a?sig=hush-hush", "password=hush-hush"),)),
        errors.DataError("No.", problems=(("https://a.test/?sig=hush-hush", "token=hush-hush"),), refused=1),
        errors.AuthenticationError("No.", tried=("client_secret=hush-hush",), status=401, code="Bearer hush-hush"),
        errors.JobFailed("No.", job="j", step="password=hush-hush", log_tail="a\nAccountKey=hush-hush\nb"),
        errors.DeploymentFailed("No.", log_tail="a\nHF_TOKEN=hush-hush\nb"),
        errors.ForbiddenConnection("No.", host="me:hush-hush@a.test"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_secret_in_a_detail_is_hidden_whoever_gave_it(error: PhiftError) -> None:
    assert "hush" not in str(vars(error)) + str(error)
    assert b"hush" not in pickle.dumps(error)
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)  # noqa: S301 - our own bytes


def test_only_the_first_line_that_says_something_is_kept() -> None:
    assert from_azure(core.AzureError("\n  \n first \nsecond"), "here").what == "first"
    assert from_azure(ValueError(), "here").what.endswith("ValueError: ValueError")
    assert len(from_azure(http_error(400, "x" * 1000), "here").what) == 400


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://a.test/b?sv=2024&se=2026&sig=SECRET%2Bx&x=1", "https://a.test/b?sv=***&se=2026&sig=***&x=1"),
        ("Authorization: Bearer SECRET.a-b_c~d+/=", "Authorization: Bearer ***"),
        ("AccountName=a;AccountKey=SECRET==", "AccountName=a;AccountKey=***"),
        ("refresh_token=SECRET password='SECRET'", "refresh_token=*** password='***'"),
        ('{"primaryKey": "SECRET", "name": "a"}', '{"primaryKey": "***", "name": "a"}'),
        ("?code=SECRET&status_code=404", "?code=***&status_code=404"),
        ("client_assertion=SECRET&x=1", "client_assertion=***&x=1"),
        ("proxy http://me:SECRET@proxy.test:8080", "proxy http://***@proxy.test:8080"),
        ("nothing to hide, design=good", "nothing to hide, design=good"),
    ],
)
def test_secrets_are_redacted(text: str, kept: str) -> None:
    assert redact(text) == kept


@given(st.text("abcdefXYZ0123456789+/%.-_~", min_size=1))
def test_no_signature_gets_into_an_error(secret: str) -> None:
    mapped = from_azure(http_error(403, f"GET https://a.test/?sig=q{secret}q&x=1 failed"), "here")
    assert f"q{secret}q" not in str(mapped) + repr(mapped)


def ask(url: str, by: str, seconds: float) -> None:
    """Send a request, by azure-core or by requests alone."""
    if by == "requests":
        requests.get(url, timeout=seconds)
    else:
        client: PipelineClient[Any, Any] = PipelineClient("", policies=[policies.RetryPolicy(retry_total=0)])
        client.send_request(HttpRequest("GET", url), connection_timeout=seconds, read_timeout=seconds)


def unanswered(url: str, by: str, seconds: float = 0.5) -> PhiftError:
    with pytest.raises(errors.ServiceUnreachable) as caught, azure_errors("here"):
        ask(url, by, seconds)
    return caught.value


def ends_at_once(listening: socket.socket) -> None:
    with suppress(OSError):
        while True:
            listening.accept()[0].close()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket on this machine that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made
        with suppress(OSError):  # wakes the thread that waits for a connection
            made.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def closed() -> int:
    """A port of this machine at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        return int(made.getsockname()[1])


@pytest.mark.parametrize("by", ["azure-core", "requests"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_where_nobody_listens_on_this_machine_the_local_workspace_is_to_be_started(
    by: str, host: str, closed: int
) -> None:
    error = unanswered(f"https://{host}:{closed}/x?sig=SECRET", by)
    assert error.what.startswith(f"The local workspace at https://{host}:{closed} does not answer: ")
    assert str(error.fix).startswith("start it: phift local up")
    assert "SECRET" not in str(error)


@pytest.mark.parametrize("by", ["azure-core", "requests"])
@pytest.mark.parametrize("ends", [True, False], ids=["ends at once", "says nothing"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_local_workspace_that_hangs_or_dies_is_named_too(
    by: str, ends: bool, scheme: str, listening: socket.socket
) -> None:
    if ends:
        threading.Thread(target=ends_at_once, args=(listening,), daemon=True).start()
    address = f"{scheme}://127.0.0.1:{listening.getsockname()[1]}"
    assert f"The local workspace at {address} does not answer" in unanswered(f"{address}/x", by).what


@pytest.mark.parametrize("by", ["azure-core", "requests"])
def test_a_proxy_on_this_machine_is_still_a_proxy(by: str, closed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed}")
    error = unanswered("https://azure.invalid/x", by)
    assert error.what.startswith("No answer from the service: ")
    assert "proxy" in str(error.fix)


@pytest.mark.parametrize("by", ["azure-core", "requests"])
def test_a_server_that_is_not_trusted_did_answer(by: str, tmp_path: Path) -> None:
    with scripted_server(tmp_path) as script:
        assert "CERTIFICATE_VERIFY_FAILED" in unanswered(f"{script.url}/x", by, seconds=30).what


def test_a_name_that_only_looks_like_this_machine_is_another_one() -> None:
    failed = requests.ConnectionError("gone", request=requests.Request("GET", "https://localhost.test/x").prepare())
    assert from_azure(failed, "here").what == "No answer from the service: gone"


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[PhiftError]) -> None:
    error = kind("what", where="where", fix="fix", status=7, report=[1])
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is kind
    assert str(copy) == "what\n  where: where\n  fix:   fix"
    assert vars(copy) == vars(error)


def test_an_error_shows_only_what_it_has() -> None:
    assert str(PhiftError("what")) == "what"
    assert repr(errors.DataError("what", where="w")) == "DataError('what', where='w', fix=None)"


def drawn_tree() -> list[tuple[str, str, str | None]]:
    """Read the tree in the docstring: class, parent, and the built-in type in brackets."""
    rows, path = [], ["PhiftError"]
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ((?:│   |    )*)[├└]── (\w+)(?: \((\w+)\))?", line):
            depth = len(found[1]) // 4 + 1
            path = [*path[:depth], found[2]]
            rows.append((found[2], path[-2], found[3]))
    return rows


def real_tree() -> list[tuple[str, str]]:
    return [
        (kind.__name__, next(base.__name__ for base in kind.__bases__ if issubclass(base, PhiftError)))
        for kind in OURS[1:]
    ]


def test_the_drawn_tree_is_the_real_one() -> None:
    assert sorted((name, parent) for name, parent, _ in drawn_tree()) == sorted(real_tree())


@pytest.mark.parametrize(("name", "_parent", "built_in"), drawn_tree(), ids=lambda value: str(value))
def test_errors_are_the_built_in_type_that_the_tree_says(name: str, _parent: str, built_in: str | None) -> None:
    kind: type[PhiftError] = getattr(errors, name)
    own = [base.__name__ for base in kind.__bases__ if not issubclass(base, PhiftError)]
    assert own == ([built_in] if built_in else [])


def test_an_error_that_cannot_be_shown_is_still_one_of_ours() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    with pytest.raises(errors.ServiceError, match="The Azure SDK raised Mute: Mute") as caught, azure_errors("here"):
        raise Mute
    assert caught.value.where == "here"
