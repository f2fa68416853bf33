"""Each reason of the table, given once as the service gives it: by a fault on the wire where the wire can carry it."""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import azure.identity
import pytest
import requests
import urllib3
from azure.core import exceptions as core

from phift import FineTuneRun, errors
from phift.azure.clients import Clients
from phift.check.findings import findings_from
from phift.errors import PhiftError, azure_errors, from_azure, reasons
from phift.errors.reasons import Reason
from phift.jobs.job import FineTuneJob
from phift.local.names import WORKSPACE_ID
from phift.testing import Fault, TestWorkspace
from unit import given
from unit.fakes import run_config
from unit.loopback import Reply, Script
from unit.render_reasons import DOCUMENT, document
from unit.stubs import service_error

Order = tuple[str, dict[str, Any], str]  # what is done, what is ordered to happen then, and words that must be told


def refused(status: int, code: str, message: str, **error: Any) -> Order:
    """An answer of Resource Manager, or of Azure ML behind it."""
    return "get a compute", {"status": status, "code": code, "message": message, "error": error}, message


def user_error(status: int, message: str, detail: str, told: str) -> Order:
    """An answer of Azure ML, whose reason is in its details."""
    details = [{"code": detail, "message": told, "details": [], "additionalInfo": []}]
    error = {"details": details, "innerError": {"code": detail, "innerError": None}}
    return "get a compute", {"status": status, "code": "UserError", "message": message, "error": error}, told


def failed(code: str, message: str) -> Order:
    """An operation that is accepted, and fails."""
    return "make a compute", {"on": "operation compute-create", "code": code, "message": message}, message


def of_storage(status: int, code: str, message: str) -> Order:
    """An answer of storage to HEAD, which has its code in a header and no message."""
    return (
        "upload",
        {"on": "* blobs/*", "status": status, "code": code, "message": message, "times": None},
        "invalid status",
    )


def sign_in(number: int, message: str, status: int = 400) -> Order:
    return "sign in", {"status": status, "description": f"AADSTS{number}: {message}"}, f"AADSTS{number}"


def unsent(*arguments: Any) -> Order:
    """What urllib3 raised, as requests and azure-core wrap it."""
    return "ask", {"cause": urllib3.exceptions.MaxRetryError(*arguments)}, str(arguments[-1])


class Pool(urllib3.HTTPSConnectionPool):
    """A pool that errors can name."""

    def __init__(self) -> None:
        super().__init__("ws.api.azureml.ms")


POLICY = {
    "type": "PolicyViolation",
    "info": {"policyDefinitionDisplayName": "Require a tag", "policyAssignmentDisplayName": "Cost centres"},
}
ORDERS: dict[str, Order] = {
    "wrong client secret": sign_in(7000215, "Invalid client secret provided. Ensure the secret is its value.", 401),
    "expired client secret": sign_in(7000222, "The provided client secret keys for app 'a' are expired.", 401),
    "no such application": sign_in(700016, "Application with identifier 'a' was not found in the directory 'b'."),
    "disabled application": sign_in(7000112, "Application 'a' is disabled."),
    "bad client certificate": sign_in(700027, "Client assertion failed signature validation.", 401),
    "no federated identity": sign_in(700213, "No matching federated identity record found.", 401),
    "no such tenant": sign_in(90002, "Tenant 'b' not found. Check to make sure you have the correct tenant ID."),
    "application not in tenant": sign_in(500011, "The resource principal named https://x was not found in tenant b."),
    "account not in tenant": sign_in(50020, "User account 'x' from identity provider 'live.com' does not exist."),
    "multifactor authentication": sign_in(50076, "Due to a configuration change, you must use multi-factor."),
    "conditional access": sign_in(53003, "Access has been blocked by Conditional Access policies."),
    "no consent": sign_in(65001, "The user or administrator has not consented to use the application."),
    "sign-in is too old": sign_in(700082, "The refresh token has expired due to inactivity."),
    "account refused": sign_in(50126, "Error validating credentials due to invalid username or password."),
    "Entra is busy": sign_in(90033, "A transient error has occurred. Please try again."),
    "InvalidAuthenticationTokenTenant": refused(
        401,
        "InvalidAuthenticationTokenTenant",
        "The access token is from the wrong issuer 'https://sts.windows.net/a/'.",
    ),
    "ExpiredAuthenticationToken": refused(401, "ExpiredAuthenticationToken", "The access token expiry is earlier."),
    "InvalidAuthenticationToken": refused(401, "InvalidAuthenticationToken", "The received access token is not valid."),
    "private link": refused(
        403, "UserError", "Access to workspace was denied based on workspace private link configuration."
    ),
    "public network access": refused(
        403, "Forbidden", "Client address is not authorized.", innerError={"code": "ForbiddenByFirewall"}
    ),
    "KeyBasedAuthenticationNotPermitted": of_storage(
        403, "KeyBasedAuthenticationNotPermitted", "Key based authentication is not permitted on this storage account."
    ),
    "AuthorizationPermissionMismatch": of_storage(
        403, "AuthorizationPermissionMismatch", "This request is not authorized to perform this using this permission."
    ),
    "AuthorizationFailure": of_storage(
        403, "AuthorizationFailure", "This request is not authorized to perform this operation."
    ),
    "PublicAccessNotPermitted": of_storage(
        409, "PublicAccessNotPermitted", "Public access is not permitted on this storage account."
    ),
    "AuthenticationFailed": of_storage(403, "AuthenticationFailed", "Server failed to authenticate the request."),
    "AccountIsDisabled": of_storage(403, "AccountIsDisabled", "The specified account is disabled."),
    "ContainerNotFound": (  # to the upload itself, since what is not there yet is no error of HEAD
        *of_storage(404, "ContainerNotFound", "The specified container does not exist.")[:2],
        "The specified container does not exist.",
    ),
    "ServerBusy": of_storage(503, "ServerBusy", "The server is busy."),
    "RequestDisallowedByPolicy": (
        *refused(403, "RequestDisallowedByPolicy", "Resource 'x' was disallowed by policy.", additionalInfo=[POLICY])[
            :2
        ],
        "The policy is 'Require a tag', assigned as 'Cost centres'.",
    ),
    "ScopeLocked": refused(409, "ScopeLocked", "The scope cannot perform delete operation because it is locked."),
    "MissingSubscriptionRegistration": refused(
        409, "MissingSubscriptionRegistration", "The subscription is not registered to use namespace 'Microsoft.X'."
    ),
    "ReadOnlyDisabledSubscription": refused(409, "ReadOnlyDisabledSubscription", "The subscription is disabled."),
    "LinkedAuthorizationFailed": refused(403, "LinkedAuthorizationFailed", "The client has no access to '/other'."),
    "registry refused": refused(403, "UserError", "User/tenant/subscription is not allowed to access registry R"),
    "AuthorizationFailed": refused(
        403, "AuthorizationFailed", "The client 'a' does not have authorization to perform action 'b' over scope 'c'."
    ),
    "QuotaExceeded": failed("OutOfQuota", "Not enough cluster CPU quota. The amount requested is 8."),
    "no capacity": failed("BadArgument", "Due to a lack of Azure Machine Learning capacity the size was not made."),
    "SkuNotAvailable": failed("SkuNotAvailable", "The requested size is currently not available in location 'x'."),
    "no such compute": refused(400, "UserError", "Unknown compute target 'gpu'."),
    "SubscriptionNotFound": refused(404, "SubscriptionNotFound", "The subscription 'a' could not be found."),
    "ResourceGroupBeingDeleted": refused(409, "ResourceGroupBeingDeleted", "The group 'g' is in deprovisioning state."),
    "ResourceGroupNotFound": refused(404, "ResourceGroupNotFound", "Resource group 'g' could not be found."),
    "no such workspace": refused(
        404,
        "ResourceNotFound",
        "The Resource 'Microsoft.MachineLearningServices/workspaces/w' under resource group 'g' was not found.",
    ),
    "ModelNotFound": user_error(
        404, "The specified resource was not found.", "ModelNotFound", "Model container with name: M not found."
    ),
    "no such component": refused(404, "NotFound", "key: ID, Message: Not found component C (version: 9)."),
    "no such run": refused(404, "UserError", "Run runId=r was not found"),
    "JobPropertyImmutable": user_error(
        400,
        "A job with this name already exists.",
        "JobPropertyImmutable",
        "The existing job's Jobs cannot change.",
    ),
    "datastore without keys": refused(400, "UserError", "No secrets for credentials of type None."),
    "RequestInvalid": user_error(
        400, "Request is invalid and/or missing fields.", "RequestInvalid", "Could not find member 'assetVersion'."
    ),
    "StreamAccess.Authentication": refused(400, "UserError", "Error Code: ScriptExecution.StreamAccess.Authentication"),
    "WorkspaceManagedNetworkNotReady": failed("WorkspaceManagedNetworkNotReady", "The network is not provisioned."),
    "ImageBuildFailure": failed("ImageBuildFailure", "The image build failed."),
    "identity of an endpoint": failed("BadArgument", "Startup task failed due to authorization error."),
    "image of a deployment": failed("BadArgument", "Unable to download user container image."),
    "model of a deployment": failed("BadArgument", "Unable to download user model."),
    "MLflow behind a private network": failed(
        "BadArgument", "MLFlow model format with private network is unsupported."
    ),
    "SecretsInjectionError": failed("SecretsInjectionError", "The secret could not be read."),
    "ResourceNotReady": failed("ResourceNotReady", "User container has crashed or terminated."),
    "AnotherOperationInProgress": refused(409, "AnotherOperationInProgress", "Another operation is in progress."),
    "OperationNotAllowed": refused(409, "OperationNotAllowed", "The operation is not allowed in this state."),
    "PropertyChangeNotAllowed": refused(409, "PropertyChangeNotAllowed", "Changing property 'x' is not allowed."),
    "expired certificate": unsent(
        Pool(), "/", urllib3.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired")
    ),
    "wrong certificate": unsent(
        Pool(), "/", urllib3.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] Hostname mismatch, not valid for x")
    ),
    "untrusted certificate": unsent(
        Pool(), "/", urllib3.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate in chain")
    ),
    "no TLS": unsent(Pool(), "/", urllib3.exceptions.SSLError("[SSL: WRONG_VERSION_NUMBER] wrong version number")),
    "proxy wants a password": unsent(
        Pool(), "/", urllib3.exceptions.ProxyError("x", OSError("Tunnel connection failed: 407 Proxy Authentication"))
    ),
    "proxy refuses": unsent(
        Pool(), "/", urllib3.exceptions.ProxyError("x", OSError("Tunnel connection failed: 403 Forbidden"))
    ),
    "no such host": unsent(
        Pool(),
        "/",
        urllib3.exceptions.NameResolutionError("h", Pool(), OSError("Name or service not known")),  # type: ignore[arg-type]  # no socket was made
    ),
    "TransientError": refused(400, "ServiceError", "Try again.", innerError={"code": "TransientError"}),
    "InternalServerError": failed("InternalServerError", "Received 500 from a service request"),
}


def error_of(act: Callable[[], object]) -> PhiftError:
    with pytest.raises(PhiftError) as caught, azure_errors("here"):
        act()
    return caught.value


@pytest.fixture
def ordered(request: pytest.FixtureRequest) -> Any:
    """Order what a row is about, do what meets it, and return the error that comes of it."""

    def meet(how: str, what: dict[str, Any]) -> PhiftError:
        def act() -> None:
            if how == "sign in":
                sign_in_with_a_secret(request.getfixturevalue("server"), **what)
            elif how == "ask":
                raise core.ServiceRequestError("no answer", error=requests.ConnectionError(what["cause"]))
            else:
                in_a_workspace(request.getfixturevalue("workspace"), how, what, request.getfixturevalue("tmp_path"))

        return error_of(act)

    request.getfixturevalue("sleeps")
    return meet


def sign_in_with_a_secret(server: Script, *, status: int, description: str) -> None:
    """Ask an authority for a token that refuses, in the form that Entra ID writes."""
    told = f"{description}\r\nTrace ID: 1\r\nCorrelation ID: 2\r\nTimestamp: 2026-11-30 04:00:00Z"
    endpoints = {name: f"{server.url}/{name}" for name in ("authorization_endpoint", "token_endpoint", "issuer")}
    server.answers(Reply(endpoints), Reply({"error": "invalid_client", "error_description": told}, status))
    secret = azure.identity.ClientSecretCredential(
        "00000000-0000-0000-0000-000000000001",
        "app",
        "hush-hush",
        authority=server.url,
        disable_instance_discovery=True,
    )
    azure.identity.ChainedTokenCredential(secret).get_token("https://management.azure.com/.default")


def in_a_workspace(workspace: TestWorkspace, how: str, what: dict[str, Any], folder: Path) -> None:
    """Do with the SDK what meets a fault."""
    from azure.ai.ml.entities import AmlCompute, Data

    workspace.order(Fault(**{"on": "GET computes/*", **what}))
    if how == "get a compute":
        workspace.client.compute.get("gpu-cluster")
    elif how == "make a compute":
        made = AmlCompute(name="made", size="Standard_NC24ads_A100_v4", max_instances=1)
        workspace.client.compute.begin_create_or_update(made).result()
    else:
        (folder / "rows.jsonl").write_text("{}", encoding="utf-8")
        workspace.client.data.create_or_update(
            Data(name="rows", version="1", type="uri_file", path=str(folder / "rows.jsonl"))
        )


def test_no_row_is_left_out() -> None:
    assert list(ORDERS) == [reason.name for reason in reasons.table()]


@pytest.mark.parametrize("reason", reasons.table(), ids=lambda reason: reason.name)
def test_a_reason_is_told_with_its_way_out(reason: Reason, ordered: Any) -> None:
    how, what, told = ORDERS[reason.name]
    error = ordered(how, what)
    assert error.what.startswith(f"{reason.what}: ")
    assert (error.fix, error.where) == (reason.fix, "here")
    assert type(error).__name__ in ((reason.type,) if reason.type else ("ServiceError", "Conflict", "NotFound"))
    assert told in str(error)
    if how not in ("ask", "sign in"):
        assert error.code in {what["code"], *reason.codes, reason.name}
    if how == "sign in":
        assert error.code == told
    assert "hush-hush" not in str(error) + repr(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    ("reason", "code"), [(reason, code) for reason in reasons.table() for code in reason.codes], ids=str
)
def test_no_code_is_taken_for_an_earlier_row(reason: Reason, code: str) -> None:
    said = service_error(reason.status or 400, "made up", code.replace("\\", ""))
    assert reasons.find(said)[:2] == (reason, code.replace("\\", ""))


@pytest.mark.parametrize("reason", reasons.table(), ids=lambda reason: reason.name)
def test_each_row_says_where_it_is_from(reason: Reason) -> None:
    assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?( \(read\))?", reason.date)
    assert reason.source
    assert reason.fix
    assert not reason.what.endswith(".")
    assert not reason.type or issubclass(getattr(errors, reason.type), PhiftError)


def test_the_page_shows_the_table() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document()


def test_the_example_of_the_page_prints_what_it_says(
    workspace: TestWorkspace, clients: Clients, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    workspace.order(Fault("GET onlineEndpoints", status=403))
    exec(example, {"run": FineTuneRun(run_config(tmp_path), clients)})  # noqa: S102 - our own words
    assert capsys.readouterr().out == "AuthorizationFailed 403\n"


def test_what_was_tried_is_told_line_by_line() -> None:
    tried = azure.identity.ChainedTokenCredential(
        azure.identity.EnvironmentCredential(),
        azure.identity.WorkloadIdentityCredential(tenant_id="t", client_id="c", token_file_path="none"),
    )
    error = error_of(lambda: tried.get_token("https://management.azure.com/.default"))
    assert isinstance(error, errors.AuthenticationError)
    names = [line.partition(":")[0] for line in error.tried]
    assert {"EnvironmentCredential", "WorkloadIdentityCredential"} <= set(names)
    assert "\n  tried: EnvironmentCredential: " in str(error)
    (finding,) = findings_from(error, "credential")
    assert all(line in finding.message for line in error.tried)


def test_a_secret_in_a_detail_is_hidden() -> None:
    error = service_error(400, "No.", "UserError")
    error.error = core.ODataV4Format(
        {"code": "UserError", "message": "No.", "details": [{"code": "X", "message": "https://a.test/?sig=SECRET&x"}]}
    )
    mapped = from_azure(error, "here")
    assert mapped.what == "(UserError) No. (X) https://a.test/?sig=***&x"


@pytest.mark.parametrize("before", [0, 340, 360, 380])
def test_a_secret_that_is_cut_in_the_middle_is_hidden(before: int) -> None:
    said = f"{'x' * before} https://me:{'hush-hush' * 8}@proxy.test/ refused"
    details = core.ODataV4Format({"code": "X", "message": "No.", "details": [{"code": "Y", "message": said}]})
    answer = service_error(400, "No.", "X")
    answer.error = details
    assert "hush" not in from_azure(core.AzureError(said), "here").what + from_azure(answer, "here").what


def test_a_code_that_is_a_text_with_a_secret_is_hidden_and_cut() -> None:
    error = from_azure(service_error(400, "No.", f"https://a.test/?sig=SECRET&{'x' * 1000}"), "here")
    assert error.code
    assert error.code.startswith("https://a.test/?sig=***&x")
    assert len(error.code) <= 400


def test_a_secret_in_json_in_a_text_of_json_is_hidden() -> None:
    assert errors.redact(r'{"error": "{\"access_token\": \"SECRET\"}"}') == r'{"error": "{\"access_token\": \"***\"}"}'


def test_a_part_of_many_lines_is_told_in_one() -> None:
    error = service_error(400, "No.", "UserError")
    error.error = core.ODataV4Format({"code": "UserError", "message": "No.", "details": [{"message": "a\n  fix: b"}]})
    assert str(from_azure(error, "here")).splitlines()[0] == "(UserError) No. a fix: b"


def test_many_details_are_not_all_told() -> None:
    error = service_error(400, "No.", "UserError")
    details = [{"code": "X", "message": f"{number} {'x' * 1000}"} for number in range(50)]
    error.error = core.ODataV4Format({"code": "UserError", "message": "No.", "details": details})
    assert len(from_azure(error, "here").what) < 2000


@pytest.mark.parametrize(
    "details",
    [
        [{"code": "X", "message": f"{number} {'x' * 300}"} for number in range(20_000)],
        [{"code": "X", "message": "lorem ipsum " * 200_000}],
    ],
    ids=["many", "long"],
)
def test_an_answer_of_megabytes_is_told_in_seconds(details: list[dict[str, str]]) -> None:
    error = service_error(400, "No.", "UserError")
    error.error = core.ODataV4Format({"code": "UserError", "message": "No.", "details": details})
    begin = time.process_time()
    assert from_azure(error, "here").what.startswith("(UserError) No. (X) ")
    assert errors.way_out(details[0]["message"]) is None
    assert time.process_time() - begin < 10


def while_handling(first: Exception, then: Callable[[], object]) -> None:
    try:
        raise first
    except core.HttpResponseError:
        then()


def raising(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def test_what_was_being_handled_is_not_the_reason() -> None:
    found: list[PhiftError] = []
    policy, broken = service_error(403, "By policy.", "RequestDisallowedByPolicy"), service_error(500, "No.", "Broken")
    while_handling(policy, lambda: found.append(error_of(raising(broken))))
    assert (type(found[0]), found[0].code, found[0].what) == (errors.ServiceError, "Broken", "(Broken) No.")


def test_a_question_that_was_answered_with_404_is_not_the_reason() -> None:
    missing = service_error(404, "No.", "ModelNotFound")
    error = error_of(lambda: while_handling(missing, raising(ValueError("something else"))))
    assert error.what == "The Azure SDK raised ValueError: something else"


def test_the_reason_is_found_behind_an_error_of_the_sdk() -> None:
    refusal = service_error(403, "Not with keys.", "KeyBasedAuthenticationNotPermitted")
    error = error_of(lambda: while_handling(refusal, raising(RuntimeError("upload failed"))))
    assert (type(error), error.status) == (errors.AccessDenied, 403)
    assert error.what.endswith("(KeyBasedAuthenticationNotPermitted) Not with keys.")


def test_a_code_in_the_details_goes_before_the_outer_one(ordered: Any) -> None:
    how, what, _ = ORDERS["JobPropertyImmutable"]
    assert ordered(how, what).code == "JobPropertyImmutable"


def test_what_the_sdk_writes_in_colour_is_told_without() -> None:
    assert from_azure(core.AzureError("\x1b[37m\n\x1b[30m 1) no path"), "here").what == "1) no path"


def test_a_network_that_a_service_tells_of_is_not_this_machines() -> None:
    said = "The container found no address: Name or service not known."
    error = from_azure(service_error(400, said, "ResourceBroken"), "here")
    assert (type(error), error.fix) == (errors.ServiceError, None)
    assert errors.way_out(said) is None


def test_an_error_that_repeats_an_answer_is_about_no_more_than_that() -> None:
    answer = service_error(400, "The container found no address: Name or service not known.", "ResourceBroken")
    repeated = error_of(lambda: while_handling(answer, raising(RuntimeError(f"upload failed: {answer}"))))
    assert (type(repeated), repeated.fix) == (errors.ServiceError, None)
    unsigned = service_error(401, "No token.", "AuthenticationFailed")  # with 403 it is storage's
    error = error_of(lambda: while_handling(unsigned, raising(RuntimeError(f"upload failed: {unsigned}"))))
    assert "signature" not in error.what


def test_an_error_that_repeats_a_failed_sign_in_without_an_answer_tells_of_the_network() -> None:
    failed = core.ClientAuthenticationError("A: Name or service not known")
    error = error_of(lambda: while_handling(failed, raising(RuntimeError(f"upload failed: {failed}"))))
    assert isinstance(error, errors.ServiceUnreachable)


def test_a_failed_sign_in_is_one_whatever_one_of_its_lines_says() -> None:
    said = "No credential worked.\nAttempted credentials:\n\tA: Name or service not known\n\tB: not set up"
    error = from_azure(core.ClientAuthenticationError(said), "credential")
    assert isinstance(error, errors.AuthenticationError)
    assert error.tried == ("A: Name or service not known", "B: not set up")


def test_a_job_that_fails_names_the_way_out(workspace: TestWorkspace, clients: Clients) -> None:
    said = "\nError Code: ScriptExecution.StreamAccess.Authentication"
    workspace.order(Fault("step chat_completion_finetune", status=400, message=said))
    given.job(workspace)
    with pytest.raises(errors.JobFailed) as caught:
        FineTuneJob("job", clients).wait()
    assert caught.value.what == f"The step chat_completion_finetune failed: {said.strip()}"
    assert "Storage Blob Data Reader" in str(caught.value.fix)
    assert errors.way_out("Traceback: KeyError") is None


def test_an_operation_that_fails_tells_its_details(ordered: Any) -> None:
    details = {"details": [{"code": "QuotaExceeded", "message": "0 of 24 cores are left."}]}
    what = {"on": "operation compute-create", "code": "BadRequest", "message": "Not made.", "error": details}
    error = ordered("make a compute", what)
    assert (type(error), error.code) == (errors.ComputeError, "QuotaExceeded")
    assert error.what.endswith("(BadRequest) Not made. (QuotaExceeded) 0 of 24 cores are left.")


@pytest.mark.parametrize("where", ["run history", "Resource Manager"])
def test_a_fault_carries_what_azure_has_in_its_errors(workspace: TestWorkspace, clients: Clients, where: str) -> None:
    more = {"details": [{"code": "D", "message": "d"}], "innerError": {"code": "I", "innerError": None}}
    added = [{"type": "PolicyViolation", "info": {"a": "b"}}]
    workspace.order(Fault("GET *", status=400, code="UserError", error={**more, "additionalInfo": added}))
    base = workspace.connection.base_url
    path = "/history/v1.0/runs/r" if where == "run history" else WORKSPACE_ID
    answer = requests.get(f"{base}{path}", params={"api-version": "2023-04-01"}, timeout=60)
    told = answer.json()["error"]
    assert told["details"] == more["details"]
    assert told["additionalInfo"][0] == added[0]
    if where == "run history":
        assert told["innerError"] == more["innerError"]
    else:
        assert {"type": "InnerError", "info": {"value": more["innerError"]}} in told["additionalInfo"]
