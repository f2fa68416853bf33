"""A certificate for localhost: an own authority signs one server certificate, then its key is thrown away."""

from __future__ import annotations

import datetime
from pathlib import Path

import trustme
from cryptography import x509

from phift.local.state.folder import write_private

LIFETIME = datetime.timedelta(days=365)


def ensure(folder: Path) -> None:
    """Write ``ca.pem``, ``server.pem`` and ``server-key.pem`` unless good ones are there."""
    now = datetime.datetime.now(datetime.UTC)
    if all((folder / name).exists() for name in ("ca.pem", "server.pem", "server-key.pem")):
        present = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
        if now + datetime.timedelta(days=7) < present.not_valid_after_utc:
            return
    authority = trustme.CA(path_length=0, organization_name="phift", organization_unit_name="local workspace authority")
    server = authority.issue_cert("localhost", "127.0.0.1", common_name="localhost", not_after=now + LIFETIME)
    write_private(folder / "server-key.pem", server.private_key_pem.bytes())
    write_private(folder / "ca.pem", authority.cert_pem.bytes())
    # Last: it is the file whose date says that all three are good.
    write_private(folder / "server.pem", server.cert_chain_pems[0].bytes())


def write_bundle(folder: Path, existing: str | None) -> Path:
    """Write ``bundle.pem``: the machine's authorities and ours, so that one variable serves all connections.

    - **existing**: the value of ``REQUESTS_CA_BUNDLE``, a file or a folder; certifi's list where it is empty.
    """
    import certifi

    bundle, source = folder / "bundle.pem", Path(existing or certifi.where())
    # A left-over of a workspace that is gone; or already ours, and the file would grow with every start.
    if not source.exists() or (bundle.exists() and source.samefile(bundle)):
        source = Path(certifi.where())
    files = sorted(source.glob("*")) if source.is_dir() else [source]
    texts = [file.read_bytes().strip() for file in files if file.is_file()]
    authorities = [text for text in texts if b"BEGIN CERTIFICATE" in text]
    write_private(bundle, b"\n".join([*authorities, (folder / "ca.pem").read_bytes()]))
    return bundle
