from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from phift.config.deployment import DeploymentConfig
from phift.config.run import read_section
from phift.errors import AuthenticationError, ConfigError
from phift.serving.deployment import deploy_model
from phift.serving.lifetime import EXPIRES, OWNER, expiry, extended
from phift.testing import TestWorkspace
from unit.fakes import A100, Fakes

MODEL = "/subscriptions/s/workspaces/w/models/mine/versions/1"
NAME = "phift-made-up"


def deploy(fakes: Fakes, **config: Any) -> dict[str, str]:
    """Deploy, and return the endpoint's tags."""
    deploy_model(fakes.clients, MODEL, name=NAME, size=A100, config=DeploymentConfig(**config), job="job")
    tags: dict[str, str] = fakes.workspace.online_endpoints.known[NAME].tags
    return tags


def hours_left(tags: dict[str, str]) -> float:
    end = expiry(tags)
    assert isinstance(end, datetime)
    return (end - datetime.now(UTC)) / timedelta(hours=1)


@pytest.mark.parametrize(
    ("written", "hours"), [("8h", 8), ("3d", 72), ("90m", 1.5), ("1.5h", 1.5), (12, 12), (0.5, 0.5), (None, 24)]
)
def test_an_endpoint_says_when_it_expires(written: Any, hours: float) -> None:
    tags = deploy(Fakes(), **({} if written is None else {"expires": written}))
    assert hours_left(tags) == pytest.approx(hours, abs=0.01)


def test_never_is_a_word_to_be_written() -> None:
    tags = deploy(Fakes(), expires="never")
    assert (tags[EXPIRES], expiry(tags)) == ("never", "never")


@pytest.mark.parametrize(
    "written",
    [
        *(0, -1, True, None, float("inf"), float("nan"), 1e300, {"hours": 8}),
        pytest.param(10**400, id="beyond a float"),
        *("", "8", "8 hours", "-8h", "0h", "h", "Never", "1e3h", "9" * 400 + "h", "99999d"),
    ],
)
def test_what_is_no_lifetime_is_refused(written: Any) -> None:
    with pytest.raises(ConfigError, match="such as"):
        read_section(DeploymentConfig, {"expires": written}, "deployment")


def test_deploying_again_extends_what_is_half_over_and_never_shortens() -> None:
    fakes = Fakes()
    first = dict(deploy(fakes, expires="8h"))
    assert deploy(fakes, expires="9h") == first  # more than half of it is left, so nothing is changed
    assert deploy(fakes, expires="1h") == first
    longer = dict(deploy(fakes, expires="3d"))
    assert hours_left(longer) == pytest.approx(72, abs=0.01)
    assert {**longer, EXPIRES: ""} == {**first, EXPIRES: ""}  # its other tags stay as they were
    assert deploy(fakes, expires="never")[EXPIRES] == "never"
    assert deploy(fakes, expires="8h")[EXPIRES] == "never"


def test_an_older_phifts_endpoint_expires_where_that_is_asked_for() -> None:
    config = DeploymentConfig()
    assert extended({}, config) == {}
    assert hours_left(extended({}, DeploymentConfig(expires="8h"))) == pytest.approx(8, abs=0.01)


@pytest.mark.parametrize("said", ["", "soon", "2026-13-01"])
def test_a_tag_that_says_no_time_is_none(said: str) -> None:
    assert expiry({EXPIRES: said}) is None


def test_a_time_without_a_zone_is_utc() -> None:
    assert expiry({EXPIRES: "2026-11-30T12:00:00"}) == datetime(2026, 11, 30, 12, tzinfo=UTC)


def token(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"head.{payload}.signature"


class Credential:
    """A credential whose tokens say what they are told to."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def get_token(self, *_scopes: str) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return type("Token", (), {"token": self.value})


@pytest.mark.parametrize(
    ("value", "owner"),
    [
        (token(upn="ada@example.org", oid="o"), "ada@example.org"),
        (token(unique_name="live.com#ada@example.org", oid="o"), "live.com#ada@example.org"),
        (token(oid="00000000-1111-2222-3333-444444444444"), "00000000-1111-2222-3333-444444444444"),
        (token(upn="a" * 300), "a" * 256),
        (token(upn=7), None),
        (token(), None),
        ("opaque", None),
        ("a.b.c", None),
        ("a.W10.c", None),  # a list
        (None, None),
        (AuthenticationError("no"), None),
    ],
)
def test_an_endpoints_owner_is_whom_the_token_names(value: Any, owner: str | None) -> None:
    fakes = Fakes()
    fakes.rest.credential = Credential(value)  # type: ignore[attr-defined]
    assert deploy(fakes).get(OWNER) == owner


def test_the_local_workspaces_owner_is_this_machines_user(
    workspace: TestWorkspace, clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    from phift.serving.lifetime import lifetime_tags

    assert lifetime_tags(clients, DeploymentConfig())[OWNER] == "ada"
