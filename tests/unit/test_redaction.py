"""Forms in which secrets come, and ordinary texts that look a little like them."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phift.errors import redact

S = "q7Zk3VbN0xLw9TfHs2Rd"  # a secret of no form of its own
JWT = f"eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.{S}"
BASIC = base64.b64encode(f"me:{S}".encode()).decode()
KEY64 = base64.b64encode(bytes(range(64))).decode()
PEM = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"

# A text, and what of it must not be left.
FORMS = [
    (f"the token {JWT} has expired", S),
    (f"token eyJhbGciOiJkaXIiLCJlbmMiOiJBIn0..{S}.x.y", S),
    (f"Authorization: Bearer {JWT}", S),
    (f"Authorization: Bearer {S}", S),
    (f"headers={{'Authorization': 'Bearer {S}'}}", S),
    (f"bearer {S} was refused", S),
    (f"Authorization: Basic {BASIC}", BASIC),
    (f"sent Basic {BASIC} to the proxy", BASIC),
    (f"Proxy-Authorization: Negotiate {S}", S),
    (f"Authorization: SharedKey account:{KEY64}", KEY64),
    (f"SharedKeyLite account:{S}=", S),
    (f'Authorization: Digest username="me", response="{S}", realm="x"', S),
    (f"Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/x, Signature={S}", S),
    (f"Authorization: {S}", S),
    (f'{{"authorization": "{S}"}}', S),
    (f"Authorization: token {S}", S),
    (f"client_secret: {S}", S),
    ("client_secret: x", ": x"),
    (f'"client_secret":"{S}"', S),
    (f"client_secret={S}&grant_type=client_credentials", S),
    (f"client_secret%3D{S}%26grant_type%3Dx", S),
    (f'{{"error": "{{\\"client_secret\\": \\"{S}\\"}}"}}', S),
    (f"AZURE_CLIENT_SECRET={S}", S),
    (f"secret: {S}", S),
    (f"'clientSecret': '{S} {S}'", S),
    (f"refresh_token={S}", S),
    (f'"refresh_token": "{S}"', S),
    (f'"access_token":"{S}"', S),
    (f"accessToken: {S}", S),
    (f"id_token={S}#state=1", S),
    (f"HF_TOKEN={S}", S),
    (f"?token={S}&x=1", S),
    (f"token: {S}", S),
    (f"client_assertion={S}", S),
    (f"password: {S}", S),
    ("password: x", ": x"),
    (f"password=({S}", S),
    (f"AccountKey=/{KEY64}", KEY64),
    ("password=hunter two", "=hunter"),
    (f"password='{S} {S}'", S),
    (f'{{"password": "a\\\\n{S}"}}', S),
    (f"Server=tcp:x;Database=y;User ID=me;Password={S};Encrypt=True", S),
    (f"Pwd={S};", S),
    (f"passphrase = {S}", S),
    (f"--password {S}", S),
    (f"phift --api-token {S} check", S),
    (f"<AccountKey>{S}</AccountKey>", S),
    (f"('api-key', '{S}')", S),
    (f"AccountKey = {KEY64}", KEY64[:20]),
    (f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={KEY64};EndpointSuffix=core.windows.net", KEY64),
    (f"Endpoint=sb://x/;SharedAccessKeyName=Root;SharedAccessKey={S}", S),
    (f"BlobEndpoint=https://a.blob.core.windows.net;SharedAccessSignature=sv=2024&sig={S}", S),
    (f"InstrumentationKey={S};IngestionEndpoint=https://x", S),
    (f'"primaryKey": "{S}"', S),
    (f"secondary_key: {S}", S),
    (f"key1={S}", S),
    (f"api-key: {S}", S),
    (f"api_key='{S}'", S),
    (f"x-api-key: {S}", S),
    (f"Ocp-Apim-Subscription-Key: {S}", S),
    (f"x-functions-key: {S}", S),
    (f"X-IDENTITY-HEADER: {S}", S),
    (f"https://a.test/b?sv=2024&se=2026&sig={S}%2Bx%3D&sp=r", S),
    (f"https://login.test/?next=https%3A%2F%2Fa.test%2Fb%3Fsig%3D{S}%252Bx%26sp%3Dr", S),
    (f"https://x.azurewebsites.net/api/f?code={S}", S),
    (f"https://maps.test/?key={S}", S),
    (f"https://s3.test/o?X-Amz-Credential={S}&X-Amz-Signature={S}", S),
    (f"proxy http://me:{S}@proxy.test:8080", S),
    (f"redis://:{S}@cache.test:6380/0", S),
    (f"postgresql+psycopg://me:{S}@db.test/x", S),
    (f"https://{S}@github.com/x/y.git", S),
    (f"user:{S}@host", S),
    (f"connect to me:{S}@db.test:5432", S),
    (f"Cookie: session={S}; theme=dark", S),
    (f"Set-Cookie: session={S}; HttpOnly", S),
    (f"{{'Cookie': 'a=1; session={S}'}}", S),
    (f"-----BEGIN RSA PRIVATE KEY-----\n{PEM}\n{PEM}\n-----END RSA PRIVATE KEY-----", PEM),
    (f"-----BEGIN PRIVATE KEY-----\\n{PEM}\\n-----END PRIVATE KEY-----\\n", PEM),
    (f"-----BEGIN OPENSSH PRIVATE KEY-----\n{PEM}", PEM),
    (f"of account: {KEY64}", KEY64),
    *(
        (f"no access with {token} here", token)
        for token in (
            "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567",
            "ghp_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
            "gho_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
            "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz",
            "glpat-AbCdEfGhIjKlMnOp0123",
            "sk-AbCdEfGhIjKlMnOpQrSt0123456789",
            "sk-proj-AbCd_EfGh-IjKlMnOp0123456789",
            "sk-ant-api03-AbCdEfGhIjKlMnOp0123456789",
            "AKIAIOSFODNN7EXAMPLE",
            "AIzaSyA0123456789abcdefghijklmnopqrstuv",
            "ya29.a0AfH6SMBx0123456789",
            "xoxb-123456789012-AbCdEfGhIjKl",
            "npm_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
            "pypi-AgEIcHlwaS5vcmcCJDAwMDAwMDAw",
            "dapi0123456789abcdef0123456789abcdef",
            "SG.AbCdEfGhIjKlMnOpQrStUv.AbCdEfGhIjKlMnOpQrStUv",
            "dckr_pat_AbCdEfGhIjKlMnOpQrSt",
            "hvs.CAESIAbCdEfGhIjKlMnOp",
            "abc8Q~AbCdEfGhIjKlMnOpQrStUvWxYz01234567",
            "A" * 52 + "JQQJ99" + "B" * 26,
        )
    ),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalr"),
]

ORDINARY = [
    "nothing to hide, design=good",
    "The token has expired.",
    "token expired; run `az login`",
    "Bearer token is missing",
    'WWW-Authenticate: Bearer authorization_uri="https://login.microsoftonline.com/x", error="invalid_token"',
    "The access token expiry is earlier than current time.",
    "The endpoint refused the key.",
    "look at the endpoint's keys in the studio: phift reads one that was made anew by itself",
    "password is missing",
    "password: Field required",
    "api_key: Extra inputs are not permitted",
    "token: Input should be a valid string",
    "client_secret: must not be empty",
    "secret: not set",
    "password=None, key=None",
    "use_auth_token=True",
    "access_token: null",
    "password: <your password>",
    "password: ${PASSWORD} and secret=[hidden], api_key=['a', 'b']",
    "client_secret: ./secrets/x.txt, access_token=~/token, storage_key: /run/secrets/x",
    "Basic authentication is off",
    "basic usage: phift check run.yaml",
    "Basic JavaScript knowledge",
    "Authorization: the role is missing",
    "(AuthorizationFailed) The client 'x' with object id '6f1d' does not have authorization to perform action "
    "'Microsoft.MachineLearningServices/workspaces/onlineEndpoints/listKeys/action'",
    "KeyBasedAuthenticationNotPermitted: Key based authentication is not permitted on this storage account.",
    "unexpected token: '}' in line 3",
    "Unexpected token < in JSON at position 0",
    "max_new_tokens=256, pad_token=<|endoftext|>, eos_token='</s>', bos_token_id=1",
    "tokens: 12,345 in 100 rows",
    "next_page_token=12",
    "the last key: role",
    '{"key": "eval_loss", "value": 0.5, "step": 10}',
    "metric_key=eval_loss",
    "cache_key=phift-phi-4-5f2c9d0e7a31",
    "primary key: id",
    "SharedAccessKeyName=RootManageSharedAccessKey",
    "exit code=1",
    "status code=404, code: 404",
    "?status_code=404&api-version=2024-04-01",
    "error_code=invalid_grant",
    "/subscriptions/6f1d3e2a-0b7c-4d5e-8f90-123456789abc/resourceGroups/g/providers/Microsoft.MachineLearningServices/x",
    "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1",
    "azureml:phift-model@latest",
    "azureml:phi:3@latest",
    "https://a.blob.core.windows.net/c/path/file.jsonl",
    "https://localhost:8443/x?api-version=2024-04-01&$top=1",
    "abfss://container@account.dfs.core.windows.net/path",
    "wasbs://container@account.blob.core.windows.net/path",
    "mailto:someone@example.com",
    "Author: someone@example.com",
    "git@github.com:x/y.git and ssh://git@github.com/x/y.git",
    "image mcr.microsoft.com/azureml/base:20260101@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c",
    "at 12:30:45 in step 5",
    "commit 0aa005e9f86d081884c7d659a2feaa0c55ad015a and md5 d41d8cd98f00b204e9800998ecf8427e",
    "etag 0x8DC5A1B2C3D4E5F, x-ms-request-id 6f1d3e2a-0b7c-4d5e-8f90-123456789abc",
    "phift-phi-4-mini-instruct-5f2c9d0e7a31-2: Failed",
    "C:\\Users\\me\\key.pem and /home/me/.ssh/id_rsa and /etc/ssl/private/server-key.pem",
    "PWD=/home/me/project OLDPWD=/home/me",
    "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIU\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYI\n-----END PUBLIC KEY-----",
    "public_key: /home/me/id.pub, private_key_path=/home/me/id",
    "the secret of success: patience",
    "secretsType: AccountKey, credentialsType=None",
    "key_vault: phift-kv, keyVaultProperties",
    "hf_transformers and hf_hub_download are no tokens; sk-learn neither",
    "Cookies are disabled.",
    "the model answered in 1.5 s with 200 tokens",
    "Standard_NC24ads_A100_v4 has 1 GPU; quota: 24 of 48 cores",
    "keyword arguments: learning_rate=2e-5, lora_r=16, seed=7",
    "KeyError: 'messages'",
    "signature: (a, b) -> c; missing argument: sig",
    "Set `credential: browser | device_code`",
    "install `phift[local]`",
    "row 17: the key `role` is missing; keys: content, role",
    "data.train: data/[train]/x.jsonl: no such file",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "train.jsonl (jsonl): 30 rows = 24 train + 3 validation + 3 test",
]


KEYS = """access account admin api auth client encryption function functions host instrumentation master primary private
secondary secret service shared signing storage subscription"""
TOKENS = """aad access api arm auth bearer bot csrf gh github gitlab hf hub id identity jwt npm oauth oauth2 personal
pypi refresh registry sas security service session tracking upload wandb xsrf"""
WORDS = """secret secret_text secretValue password passwd passphrase passcode pwd client_assertion identity_header
identity-header amz-credential amz-signature goog-signature"""


NAMES = [*(f"{each}_key" for each in KEYS.split()), *(f"{each}-token" for each in TOKENS.split()), *WORDS.split()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [str, str.upper, lambda name: name.replace("s", "ſ").replace("i", "ı")])  # noqa: RUF001
def test_every_name_of_a_secret_is_known(name: str, change: Callable[[str], str]) -> None:
    assert "abc" not in redact(f"x_{change(name)}: abc")


@pytest.mark.parametrize(("text", "secret"), FORMS)
def test_every_form_of_a_secret_is_redacted(text: str, secret: str) -> None:
    shown = redact(text)
    assert secret not in shown
    assert "***" in shown
    assert redact(shown) == shown


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"GET https://a.test/b?sig={S}&sp=r failed (403)", "GET https://a.test/b?sig=***&sp=r failed (403)"),
        (f"password: {S} was refused, and {S[:4]} too", f"password: *** was refused, and {S[:4]} too"),
        (f"Authorization: Bearer {S} (401)", "Authorization: Bearer *** (401)"),
        (f"AccountName=a;AccountKey={KEY64};EndpointSuffix=x", "AccountName=a;AccountKey=***;EndpointSuffix=x"),
        (f"(client_secret={S}).", "(client_secret=***)."),
        (f"{PEM}\n{PEM}=\n-----END PRIVATE KEY-----\ndone", "***-----END PRIVATE KEY-----\ndone"),
    ],
)
def test_what_stands_around_a_secret_stays(text: str, shown: str) -> None:
    assert redact(text) == shown


@given(st.sampled_from(FORMS), st.sampled_from(ORDINARY), st.sampled_from(["\n", " | ", ". ", "\r\n\t", '", "']))
def test_a_secret_is_redacted_between_ordinary_texts(form: tuple[str, str], ordinary: str, between: str) -> None:
    text, secret = form
    assert secret not in redact(f"{ordinary}{between}{text}{between}{ordinary}")


PIECES = ["a", "a-", "key", "token ", "password=", "://", "a:", "eyJ", "-----BEGIN PRIVATE ", "%3D", "\\\\", " "]
PIECES += ["authorization: ", "cookie:", "'", "basic ", "a.", "=", "(", "-", "a+", "--a", "('a", "<a", "a=b;", "a:b@"]
PIECES += ["https://", "sk-", "-----BEGIN PRIVATE KEY-----", '"key": "', "key=a", "bearer ", "A1"]


@pytest.mark.parametrize("piece", PIECES)
def test_redaction_takes_time_in_proportion_to_the_text(piece: str) -> None:
    begun = time.process_time()
    redact(piece * (100_000 // len(piece)))
    assert time.process_time() - begun < 2
