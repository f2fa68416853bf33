"""Silence for what the SDK prints by itself: the library never prints.

The process's streams stay as they are; what is kept quiet is the SDK's own ``print``, and what it logs of itself, where
we call it:

- the dots of its pollers, printed in the poller's thread: `quiet`
- the blank line after an upload, printed in the thread that uploads: `quiet_uploads`
- that classes of its own are experimental, which importing it sends to the standard error: `quiet_remarks`
- in a notebook without widgets, that tqdm would have liked some: `quiet_import`

Read in azure-ai-ml 1.26.3, 1.30.0 and 1.35.2. Where another version does it differently, it prints.
"""

from __future__ import annotations

import builtins
import copy
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from phift.errors import calling_azure

if TYPE_CHECKING:
    from azure.ai.ml.entities import Workspace

_Operations = TypeVar("_Operations")

# What the SDK's operations call the generated ones below them, to which they hand a poller that prints.
_GENERATED = ("_online_operation", "_online_deployment")
_UPLOADERS = ("azure.ai.ml._artifacts._blob_storage_helper", "azure.ai.ml._artifacts._gen2_storage_helper")

_uploads_are_quiet: ContextVar[bool] = ContextVar("phift.azure.quiet.uploads", default=False)


def quiet(operations: _Operations, workspace: Callable[[], Workspace] | None = None) -> _Operations:
    """Return operations of the SDK's client whose pollers print no dots; the client itself stays as it is.

    - **operations**: ``client.online_endpoints`` or ``client.online_deployments``; anything else, a mock say, comes
      back as it is.
    - **workspace**: gives the workspace; left to itself, the SDK looks it up before each change, for its region.
    """
    attributes = getattr(operations, "__dict__", {})
    printing = {name: attributes[name] for name in _GENERATED if name in attributes}
    if not printing:
        return operations
    copied = copy.copy(operations)
    for name, generated in printing.items():
        setattr(copied, name, _Undotted(generated))
    if workspace:
        vars(copied)["_get_workspace_location"] = lambda: str(workspace().location)
    return copied


class _Undotted:
    """The generated operations as they are, except that the poller handed to ``begin_...`` loses its dots."""

    def __init__(self, generated: Any) -> None:
        self._generated = generated

    def __getattr__(self, name: str) -> Any:
        from azure.mgmt.core.polling.arm_polling import ARMPolling

        attribute = getattr(self._generated, name)

        def begin(*arguments: Any, **options: Any) -> Any:
            if isinstance(polling := options.get("polling"), ARMPolling):
                # The SDK made it for this one call. Its class does nothing but print after this method of the base's.
                polling.update_status = partial(ARMPolling.update_status, polling)
            return attribute(*arguments, **options)

        return begin if name.startswith("begin_") else attribute


@contextmanager
def quiet_uploads() -> Iterator[None]:
    """Keep back the blank line that the SDK writes after an upload, for what this thread uploads inside the block.

    The SDK offers no way to leave it away: ``show_progress=False`` does not, and its storage clients are made where
    nobody can hand in another. So its two modules get a ``print`` of their own, which is Python's for everyone else.
    """
    for name in _UPLOADERS:
        module = sys.modules.get(name)
        if module is not None:
            vars(module).setdefault("print", _print_after_upload)
    token = _uploads_are_quiet.set(True)
    try:
        yield
    finally:
        _uploads_are_quiet.reset(token)


def _print_after_upload(*values: Any, **options: Any) -> None:
    if not _uploads_are_quiet.get():
        builtins.print(*values, **options)  # noqa: T201 - the SDK's, not ours


def quiet_remarks() -> None:
    """Keep back what the SDK says of its experimental classes, whose user it is itself, where phift calls it.

    What others have it say is logged as ever.
    """
    log = logging.getLogger("azure.ai.ml._utils._experimental")
    if _said_to_others not in log.filters:
        log.addFilter(_said_to_others)


def _said_to_others(_: logging.LogRecord) -> bool:
    return not calling_azure.get()


def quiet_import() -> None:
    """Import tqdm's bars in a notebook, where the SDK would do it, in turn: it imports MLflow to read a workspace.

    Nothing draws a bar here. Where there are no widgets the import itself warns, in the middle of a cell.
    """
    if "IPython" in sys.modules and "tqdm.auto" not in sys.modules:
        with warnings.catch_warnings(), suppress(ImportError):
            warnings.filterwarnings("ignore", message="IProgress not found")
            import_module("tqdm.auto")
