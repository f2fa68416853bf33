"""The artifacts of runs, and others by the place that MLflow's azureml plugin gives them: listed, read and written.

An artifact is a blob of the datastore for artifacts, at ``<origin>/<container>/<path>``; of a run's, the origin is
``ExperimentRun`` and the container ``dcid.<run>``. The plugin (azureml-mlflow 1.62) asks for a signed address here and
reads and writes the blob itself.
"""

from __future__ import annotations

from phift.local.model import files
from phift.local.names import ARTIFACT_STORE, ARTIFACTS
from phift.local.services.history import run_of
from phift.local.services.route import AT_WORKSPACE, Route
from phift.local.site import Site
from phift.local.state.documents import Json
from phift.local.wire import Call, Reply, WireError, timestamp, user_error


def _folder(site: Site, call: Call) -> str:
    """Return the folder that is asked for; a run's, where it is one."""
    return (
        files.artifacts_of(run_of(site, call["run"]).name) if call["run"] else f"{call['origin']}/{call['container']}"
    )


def _about(folder: str, path: str) -> Json:
    origin, container = folder.split("/")
    return {"origin": origin, "container": container, "path": path, "tags": {}}


def _show(site: Site, folder: str, path: str) -> Json:
    blob = files.find(site, ARTIFACTS, f"{folder}/{path}")
    made = timestamp(blob.written if blob else site.clock.now())
    return {
        "artifactId": f"{folder}/{path}",
        **_about(folder, path),
        "etag": blob.etag if blob else None,
        "createdTime": made,
        "dataPath": {"dataStoreName": ARTIFACT_STORE, "relativePath": f"{folder}/{path}", "sqlDataPath": None},
    }


def _list(site: Site, call: Call) -> Reply:
    """List all, as the plugin reads them: it keeps those below the folder that it looks into."""
    folder = _folder(site, call)
    names = files.names(site, ARTIFACTS, f"{folder}/")
    return Reply({"value": [_show(site, folder, name[len(folder) + 1 :]) for name in names]})


def _address(site: Site, call: Call) -> Reply:
    folder, path = _folder(site, call), call.query.get("path", "")
    if not path or files.find(site, ARTIFACTS, f"{folder}/{path}") is None:
        raise WireError(404, "UserError", f"Artifact not found: {folder}/{path}")
    address = files.signed_url(site, ARTIFACTS, f"{folder}/{path}")
    return Reply({"contentUri": address, **_about(folder, path)})


def _create(site: Site, call: Call) -> Reply:
    """Return where to write each of the artifacts that are to be made; one that is there cannot be made again.

    The words for that: lightly-train issue 256, 2025-08-21.
    """
    folder, sent = _folder(site, call), call.json().get("paths")
    paths = [each.get("path") if isinstance(each, dict) else None for each in sent] if isinstance(sent, list) else []
    if not paths or not all(isinstance(path, str) and path.strip("/") for path in paths):
        raise user_error('Artifacts are made as {"paths": [{"path": "folder/file.txt"}]}.')
    made, addresses, refused = {}, {}, {}
    for path in map(str, paths):
        if files.path_of(site, ARTIFACTS, f"{folder}/{path}").exists():
            message = f"Resource Conflict: ArtifactId {folder}/{path} already exists."
            refused[path] = {"error": {"code": "UserError", "message": message}}
            continue
        made[path] = _show(site, folder, path)
        address = files.signed_url(site, ARTIFACTS, f"{folder}/{path}", "rcw")
        addresses[path] = {"contentUri": address, **_about(folder, path)}
    return Reply({"artifacts": made, "artifactContentInformation": addresses, "errors": refused})


ROUTES = []
for _base in (
    f"/history/v1.0{AT_WORKSPACE}/experiments/{{experiment}}/runs/{{run}}/artifacts",
    f"/artifact/v2.0{AT_WORKSPACE}/artifacts/{{origin}}/{{container}}",
):
    ROUTES += [
        Route(f"GET {_base}", _list),
        Route(f"GET {_base}/contentinfo", _address),
        Route(f"POST {_base}/batch/metadata", _create),
    ]
