from __future__ import annotations

import stat
from pathlib import Path
from urllib.parse import parse_qsl

import jwt
import pytest

from phift.local.state.identity import Identity, InvalidToken, read_secret

SECRET = "a secret of the tests"


@pytest.fixture
def identity() -> Identity:
    return Identity(SECRET)


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    secret = read_secret(tmp_path / "secret")
    assert len(secret) >= 64
    assert read_secret(tmp_path / "secret") == secret
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_token(identity: Identity) -> None:
    token, end = identity.token("https://management.azure.com", extra="yes")
    claims = identity.claims(token)
    assert (claims["aud"], claims["exp"], claims["extra"]) == ("https://management.azure.com", end, "yes")
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}


def test_tokens_of_others_and_old_ones_are_refused(identity: Identity) -> None:
    token, _ = identity.token("a")
    head, _, signature = token.rpartition(".")
    unsigned = jwt.encode({"aud": "a", "exp": 9999999999}, "", "none")
    others, _ = Identity("another secret").token("a")
    for wrong in ("", "a.b.c", "no dots", head + ".", head + "x." + signature, unsigned, others, "ä.ö.ü"):
        with pytest.raises(InvalidToken, match="invalid"):
            identity.claims(wrong)
    with pytest.raises(InvalidToken, match="expiry"):
        identity.claims(identity.token("a", seconds=-1)[0])


def test_signatures_of_containers_and_blobs(identity: Identity) -> None:
    query = dict(parse_qsl(identity.sas("acc/box", "rl")))
    assert identity.sas_allows("GET", "acc/box/a/b", query)
    assert identity.sas_allows("GET", "acc/box", {**query, "comp": "list"})
    assert not identity.sas_allows("PUT", "acc/box/a/b", query), "only reading was allowed"
    assert not identity.sas_allows("GET", "acc/other/a", query)
    assert not identity.sas_allows("GET", "acc/box/a", {**query, "sp": "rwl"})
    assert not identity.sas_allows("GET", "acc/box/a", {**query, "se": "2099-01-01T00:00:00Z"})
    assert not identity.sas_allows("PATCH", "acc/box/a", query)
    assert not identity.sas_allows("GET", "acc/box/a", {})
    one = dict(parse_qsl(identity.sas("acc/box/a", "r", blob=True)))
    assert identity.sas_allows("GET", "acc/box/a", one)
    assert not identity.sas_allows("GET", "acc/box/b", one)
    assert not identity.sas_allows("GET", "acc/box/b", {**one, "sr": "c"})
    old = dict(parse_qsl(identity.sas("acc/box", "r", seconds=-1)))
    assert not identity.sas_allows("GET", "acc/box/a", old)


def test_keys_depend_on_all_their_parts(identity: Identity) -> None:
    keys = {identity.key("e", "1"), identity.key("e", "2"), identity.key("f", "1"), Identity("other").key("e", "1")}
    assert len(keys) == 4
    assert identity.key("e", "1") in keys
