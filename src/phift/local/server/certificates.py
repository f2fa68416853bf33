"""A certificate for localhost: an own authority signs one server certificate, then its key is thrown away."""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from phift.local.state.folder import write_private

LIFETIME = datetime.timedelta(days=365)
RENEW_BEFORE = datetime.timedelta(days=7)


def ensure(folder: Path) -> None:
    """Write ``ca.pem``, ``server.pem`` and ``server-key.pem`` unless good ones are there."""
    names = ("ca.pem", "server.pem", "server-key.pem")
    if all((folder / name).exists() for name in names) and not _expires_soon(folder / "server.pem"):
        return
    authority, certificate, key = _issue()
    write_private(folder / "server-key.pem", key)
    _replace(folder / "ca.pem", authority)
    # Last: it is the file whose date says that all three are good.
    _replace(folder / "server.pem", certificate)


def write_bundle(folder: Path, existing: str | None) -> Path:
    """Write ``bundle.pem``: the machine's authorities and ours, so that one variable serves all connections.

    - **existing**: the value of ``REQUESTS_CA_BUNDLE``, a file or a folder; certifi's list where it is empty.
    """
    import certifi

    bundle = folder / "bundle.pem"
    source = Path(existing or certifi.where())
    ours = source.exists() and bundle.exists() and source.samefile(bundle)
    if ours or not source.exists():
        # Already ours, and the file would grow with every start; or a left-over of a workspace that is gone.
        source = Path(certifi.where())
    files = sorted(source.glob("*")) if source.is_dir() else [source]
    texts = [file.read_bytes().strip() for file in files if file.is_file()]
    authorities = [text for text in texts if b"BEGIN CERTIFICATE" in text]
    _replace(bundle, b"\n".join([*authorities, (folder / "ca.pem").read_bytes()]))
    return bundle


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _expires_soon(certificate: Path) -> bool:
    end = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    return end - RENEW_BEFORE < datetime.datetime.now(datetime.UTC)


def _issue() -> tuple[bytes, bytes, bytes]:
    """Return the authority's certificate, the server's certificate and the server's key, in PEM."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    server_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "phift local workspace authority")])
    authority = (
        _builder(authority_name, authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    certificate = (
        _builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), authority_name, server_key.public_key()
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    key = server_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return authority.public_bytes(serialization.Encoding.PEM), certificate.public_bytes(serialization.Encoding.PEM), key


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # a clock that is a little off must not refuse us
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
