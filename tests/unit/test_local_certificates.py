from __future__ import annotations

import datetime
import ssl
import stat
from pathlib import Path

import certifi
import pytest
from cryptography import x509

from phift.local.server import process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    process.ensure_certificates(tmp_path)
    return tmp_path


def test_names_and_signature(folder: Path) -> None:
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    certificate = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_the_authoritys_key_is_gone_and_the_servers_is_private(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"ca.pem", "server.pem", "server-key.pem"}
    assert stat.S_IMODE((folder / "server-key.pem").stat().st_mode) == 0o600
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
        folder / "server.pem", folder / "server-key.pem"
    )


def test_good_ones_are_kept(folder: Path) -> None:
    before = (folder / "server.pem").read_bytes()
    process.ensure_certificates(folder)
    assert (folder / "server.pem").read_bytes() == before


@pytest.mark.parametrize("lifetime", [datetime.timedelta(hours=1), datetime.timedelta(days=-0.5)])
def test_expiring_ones_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lifetime: datetime.timedelta
) -> None:
    with monkeypatch.context() as context:
        context.setattr(process, "LIFETIME", lifetime)
        process.ensure_certificates(tmp_path)
    before = (tmp_path / "ca.pem").read_bytes()
    process.ensure_certificates(tmp_path)
    assert (tmp_path / "ca.pem").read_bytes() != before


@pytest.mark.parametrize("name", ["ca.pem", "server.pem", "server-key.pem"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "binary", "a folder", "of another"])
def test_damaged_ones_are_made_again(folder: Path, tmp_path: Path, name: str, damage: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage == "a folder":
        (folder / name).mkdir()
        (folder / name / "kept.txt").touch()
    elif damage == "of another":
        process.ensure_certificates(folder)  # as a kill between the three leaves them
        (folder / name).write_bytes(whole)
    elif damage != "missing":
        (folder / name).write_bytes({"empty": b"", "cut": whole[:200], "binary": bytes(range(256))}[damage])
    process.ensure_certificates(folder)
    test_names_and_signature(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    assert len(list(folder.glob("*.aside/kept.txt"))) == (damage == "a folder")


def test_the_bundle_holds_the_public_authorities_and_ours(folder: Path) -> None:
    bundle = process.write_bundle(folder, None).read_bytes()
    assert Path(certifi.where()).read_bytes().strip() in bundle
    assert (folder / "ca.pem").read_bytes() in bundle


def test_the_bundle_keeps_the_machines_own_authorities(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "company"
    own.mkdir()
    pem = b"-----BEGIN CERTIFICATE-----\nMII company\n-----END CERTIFICATE-----"
    (own / "root.pem").write_bytes(pem)
    (own / "readme.txt").write_text("nothing")
    for existing in (own / "root.pem", own):
        bundle = process.write_bundle(folder, str(existing)).read_bytes()
        assert bundle == pem + b"\n" + (folder / "ca.pem").read_bytes()


@pytest.mark.parametrize("existing", ["bundle.pem", "gone.pem"])
def test_the_bundle_does_not_grow_out_of_itself(folder: Path, existing: str) -> None:
    first = process.write_bundle(folder, None).read_bytes()
    assert process.write_bundle(folder, str(folder / existing)).read_bytes() == first
