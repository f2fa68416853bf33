from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from phift.errors import LocalWorkspaceError
from phift.local import StorageAccount

URL = "https://127.0.0.1:10000/devstoreaccount1"
KEY = "c2VjcmV0"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"url": "http://127.0.0.1:10000/devstoreaccount1"}, "not the address of a storage account on this machine"),
        ({"url": "https://acct.blob.core.windows.net"}, "not the address of a storage account on this machine"),
        ({"url": "https://localhost:10000"}, "not the address of a storage account on this machine"),
        ({"url": f"{URL}/container"}, "not the address of a storage account on this machine"),
        ({"key": "not base64!"}, "key is not base64"),
        ({"secrets": "Token"}, "does not hand out 'Token'"),
    ],
)
def test_what_is_no_account_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(LocalWorkspaceError, match=what) as caught:
        StorageAccount(**{"url": URL, "key": KEY, **changes})
    assert "not base64!" not in str(caught.value)


def test_an_account_is_kept_where_only_its_owner_reads_it(tmp_path: Path) -> None:
    assert StorageAccount.of(tmp_path) is None
    account = StorageAccount(URL, KEY, tmp_path / "ca.pem", secrets="AccountKey")
    account.save(tmp_path)
    assert StorageAccount.of(tmp_path) == account
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o600]
    assert account.name == "devstoreaccount1"
    assert KEY not in repr(account)
