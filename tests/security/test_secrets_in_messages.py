"""Messages name the setting that is wrong, never its value, and URLs lose their user names and passwords."""

from __future__ import annotations

import json
import traceback
from types import SimpleNamespace
from typing import TYPE_CHECKING

import google.auth._exponential_backoff
import pytest
from airflow.providers.common.compat.sdk import Variable
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import MalformedError, RefreshError, TransportError
from google.oauth2.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api.endpoint import Endpoint, configured_endpoint
from airflow_provider_dicom.api.foreign_text import printable, without_userinfo
from airflow_provider_dicom.api.transport import Access, credentials_error
from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook, DicomStoreHook
from airflow_provider_dicom.selection.high_water_mark import read_mark
from tests.support.raw_server import Connection, RawServer, answer
from tests.support.wire import KINDS, POLL, STORE, send

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "geheim-4711"
both_transports = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """google-auth pauses for seconds between two attempts to get a token."""
    monkeypatch.setattr(google.auth._exponential_backoff, "time", SimpleNamespace(sleep=lambda _: None))


def shown(error: BaseException) -> str:
    """Return everything that a log shows of an exception, but for this file's lines of code."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join([*(line for line in lines if "SECRET" not in line), repr(error)])


@both_transports
@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "503 Service Unavailable"])
@pytest.mark.parametrize("password", [SECRET, f"{SECRET}%40x", f"a/{SECRET}", f"a@{SECRET}"])
def test_password_of_a_proxy_that_refuses_is_not_shown(
    kind: str, status: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(connection: Connection) -> None:
        connection.read_head()
        connection.send(answer(b"no", status=status))

    with RawServer(serve) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{password}@{server.address}")
        with pytest.raises(exceptions.DicomExportUnavailableError) as error:
            send(kind, POLL, "https://healthcare.example")
    assert SECRET not in shown(error.value)
    assert error.value.safe_to_resend, "the tunnel was never made"


CONFIGURATION = json.dumps({"type": "authorized_user", "client_secret": SECRET, "refresh_token": SECRET})
WRONG = [
    {"credential_config_file": CONFIGURATION[:-1]},
    {"credential_config_file": SECRET},
    {"credential_config_file": CONFIGURATION.replace("authorized_user", SECRET)},
    {"credential_config_file": json.dumps({"type": "external_account", "audience": SECRET})},
    {"keyfile_dict": CONFIGURATION[:-1]},
    {"keyfile_dict": json.dumps({"private_key": SECRET, "client_email": "x", "token_uri": "y"})},
    {"keyfile_dict": json.dumps({"private_key": f"-----BEGIN {SECRET}"})},
    {"key_path": f"/nowhere/{SECRET}.json"},
    {"key_path": SECRET},
]


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A connection with the test's extra."""
    monkeypatch.delenv("HEALTHCARE_EMULATOR_HOST", raising=False)
    content = {"conn_type": "google_cloud_platform", "extra": request.param}
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", json.dumps(content))
    return "wrong"


@pytest.mark.parametrize("connection", WRONG, ids=lambda extra: f"{extra}"[:60], indirect=True)
async def test_wrong_credentials_are_named_by_their_setting(
    connection: str, request: pytest.FixtureRequest
) -> None:
    (setting,) = request.node.callspec.params["connection"]
    with (
        DicomStoreHook(connection) as hook,
        pytest.raises(exceptions.DicomExportAuthenticationError) as of_worker,
    ):
        hook.get_dicom_store(STORE)
    with pytest.raises(exceptions.DicomExportAuthenticationError) as of_project:
        DicomStoreHook(connection).dataset_name("l", "d")
    async with DicomStoreAsyncHook(connection) as async_hook:
        with pytest.raises(exceptions.DicomExportAuthenticationError) as of_triggerer:
            await async_hook.get_operation(str(POLL.operation_name))
    for error in (of_worker, of_project, of_triggerer):
        assert f"Check the connection's {setting}." in str(error.value)
        assert SECRET not in shown(error.value)


@pytest.mark.parametrize("connection", [{}], indirect=True)
@pytest.mark.parametrize("value", [CONFIGURATION, f"/nowhere/{SECRET}.json"])
def test_wrong_default_credentials_are_named_by_their_variable(
    value: str, connection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", value)
    with (
        DicomStoreHook(connection) as hook,
        pytest.raises(exceptions.DicomExportAuthenticationError) as error,
    ):
        hook.get_dicom_store(STORE)
    assert "Check the environment's GOOGLE_APPLICATION_CREDENTIALS." in str(error.value)
    assert SECRET not in shown(error.value)


@pytest.mark.parametrize("connection", [{}], indirect=True)
def test_missing_default_credentials_are_explained(
    connection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with (
        DicomStoreHook(connection) as hook,
        pytest.raises(exceptions.DicomExportAuthenticationError, match="names no credentials"),
    ):
        hook.get_dicom_store(STORE)


@both_transports
@pytest.mark.parametrize("status", ["200 OK", "400 Bad", "500 No"])
@pytest.mark.parametrize(
    "body",
    [
        {"id_token": SECRET, "refresh_token": SECRET},
        {"error": {"id_token": SECRET}},
        {"access": SECRET},
        [SECRET],
    ],
    ids=str,
)
def test_token_answer_without_a_token_is_not_quoted(kind: str, status: str, body: object) -> None:
    def serve(connection: Connection) -> None:
        while connection.read_head():
            connection.send(answer(json.dumps(body).encode(), status=status))

    with RawServer(serve) as server:
        credentials = Credentials(
            None, refresh_token="r", token_uri=f"{server.url}/token", client_id="i", client_secret=SECRET
        )
        with pytest.raises(exceptions.DicomExportError, match="no access token") as error:
            send(kind, POLL, server.url, credentials)
    assert SECRET not in shown(error.value)


@both_transports
def test_explanation_of_a_token_endpoint_is_quoted(kind: str) -> None:
    body = {"error": "invalid_grant", "error_description": "Token has been revoked.", "id_token": SECRET}

    def serve(connection: Connection) -> None:
        while connection.read_head():
            connection.send(answer(json.dumps(body).encode(), status="400 Bad"))

    with RawServer(serve) as server:
        credentials = Credentials(
            None, refresh_token="r", token_uri=f"{server.url}/token", client_id="i", client_secret="s"
        )
        with pytest.raises(exceptions.DicomExportAuthenticationError) as error:
            send(kind, POLL, server.url, credentials)
    assert "invalid_grant" in str(error.value)
    assert "Token has been revoked." in str(error.value)
    assert SECRET not in shown(error.value)


@pytest.mark.parametrize(
    "error",
    [
        RefreshError("No access token in response.", {"id_token": SECRET}),
        RefreshError(json.dumps({"id_token": SECRET})),
        RefreshError(f"<html>{SECRET}</html>"),
        TransportError(f"Error calling the IAM signBlob API: {{'key': '{SECRET}'}}"),
        MalformedError(f"The private key is malformed: {{{SECRET}"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_of_google_auth_are_quoted_without_answers(error: RefreshError) -> None:
    assert SECRET not in str(credentials_error(POLL, error))


class BrokenCredentials(Credentials):
    """Credentials whose source raises what it likes."""

    def refresh(self, request: object) -> None:
        """Fail."""
        raise ValueError(f"Unable to load PEM file {SECRET}")


@both_transports
def test_credential_source_that_raises_anything_is_an_authentication_error(kind: str) -> None:
    credentials = BrokenCredentials(None)  # type: ignore[no-untyped-call]
    with pytest.raises(exceptions.DicomExportAuthenticationError, match="ValueError") as error:
        send(kind, POLL, "http://127.0.0.1:1", credentials)
    assert SECRET not in shown(error.value)


def test_variable_that_is_no_time_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Variable, "get", lambda name, default: SECRET)
    with pytest.raises(
        exceptions.DicomExportInvalidRequestError, match="Variable other is not a time"
    ) as error:
        read_mark("other")
    assert SECRET not in shown(error.value)


@pytest.mark.parametrize(
    "endpoint", [f"https://u:{SECRET}@h.example", f"http://u:{SECRET}@h.example", f"u:{SECRET}@h/x"]
)
def test_endpoint_with_a_password_is_refused_without_it(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(exceptions.DicomExportInvalidRequestError) as error:
        configured_endpoint(endpoint)
    assert SECRET not in shown(error.value)
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", endpoint)
    with pytest.raises(exceptions.DicomExportInvalidRequestError) as error:
        configured_endpoint(None)
    assert SECRET not in shown(error.value)


PASSWORDS = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=30)


@given(st.sampled_from(["http", "https", "socks5h"]), PASSWORDS, st.text(max_size=20))
def test_userinfo_of_every_url_is_removed(scheme: str, password: str, before: str) -> None:
    text = without_userinfo(f"{before} {scheme}://user:{password}\N{SNOWMAN}@host:3128/x")
    assert "\N{SNOWMAN}" not in text
    assert text.endswith("://...@host:3128/x")


@given(st.text(max_size=3000) | st.text(" \n\x1b", max_size=30000), st.integers(10, 2000))
def test_foreign_text_becomes_one_printable_line_of_limited_length(text: str, length: int) -> None:
    line = printable(text, length)
    assert line.isprintable()
    assert len(line) <= length
    if text.isprintable() and len(text) <= length:
        assert line == text


def test_proxy_of_an_access_is_not_in_its_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@proxy.example:1")
    access = Access.in_environment(Endpoint("https://h.example"), AnonymousCredentials(), None)
    assert access.proxy is not None
    assert SECRET in access.proxy
    assert SECRET not in repr(access)
