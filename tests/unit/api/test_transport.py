"""Errors of requests without a response, for both transports."""

from __future__ import annotations

import pytest
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, RefreshError, TransportError

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api import methods
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName, OperationName
from airflow_provider_dicom.api.transport import cause_without_url, connection_error, credentials_error

DATASET = DatasetName("p", "l", "d")
POLL = methods.get_operation(OperationName(DATASET, "77"))
SEARCH = methods.search(
    DicomStoreName(DATASET, "s"),
    "studies",
    study_uid=None,
    series_uid=None,
    filters={"PatientName": "Doe^Jane"},
    include_fields=(),
    limit=1,
    offset=0,
)


@pytest.mark.parametrize("safe_to_resend", [True, False])
def test_request_without_a_response_is_a_transient_error(safe_to_resend: bool) -> None:
    error = connection_error(POLL, TimeoutError("took too long"), safe_to_resend=safe_to_resend)
    assert type(error) is exceptions.DicomExportUnavailableError
    assert error.safe_to_resend is safe_to_resend
    assert error.operation_name == POLL.operation_name
    assert str(error) == f"Could not {POLL.action}: no response (TimeoutError: took too long)"


def test_connection_error_of_a_search_names_its_type_only() -> None:
    url = f"https://host.example{SEARCH.target}"
    error = connection_error(SEARCH, OSError(f"GET {url} failed, {url}"), safe_to_resend=False)
    assert str(error) == f"Could not {SEARCH.action}: no response (OSError)"


def test_connection_error_of_another_request_does_not_quote_its_query() -> None:
    error = connection_error(POLL, OSError("GET https://host.example/v1/x?y=z failed"), safe_to_resend=False)
    assert "OSError: GET https://host.example/v1/x?... failed" in str(error)


def test_exception_that_could_quote_a_query_is_not_chained() -> None:
    error = OSError("x")
    assert cause_without_url(SEARCH, error) is None
    assert cause_without_url(POLL, error) is error


@pytest.mark.parametrize(
    "error",
    [TransportError("no network"), RefreshError("503", retryable=True)],
    ids=lambda error: repr(error),
)
def test_token_that_may_come_later_is_a_transient_error_and_safe_to_resend(error: GoogleAuthError) -> None:
    mapped = credentials_error(POLL, error)
    assert type(mapped) is exceptions.DicomExportUnavailableError
    assert mapped.safe_to_resend is True
    assert mapped.operation_name == POLL.operation_name
    assert str(mapped) == f"Could not {POLL.action}: no access token ({type(error).__name__}: {error})"


@pytest.mark.parametrize("error", [RefreshError("invalid_grant"), DefaultCredentialsError("none found")])
def test_credentials_without_a_token_are_an_authentication_error(error: GoogleAuthError) -> None:
    mapped = credentials_error(POLL, error)
    assert type(mapped) is exceptions.DicomExportAuthenticationError
    assert mapped.operation_name == POLL.operation_name
    text = (
        f"Could not {POLL.action}: no access token ({type(error).__name__}: {error}). Check the connection's"
    )
    assert str(mapped).startswith(text)
    assert "key, impersonation chain and scopes" in str(mapped)
