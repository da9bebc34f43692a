"""Errors of Google's clients for Cloud Storage, BigQuery and Cloud Logging, mapped to this provider's own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.foreign_text import describe_token_error, without_userinfo
from airflow_provider_dicom.api.permissions import (
    explain_policy,
    grant_on_bucket,
    grant_on_project,
    iam_member,
)
from airflow_provider_dicom.exceptions import (
    DicomExportAuthenticationError,
    DicomExportInvalidRequestError,
    DicomExportNotFoundError,
    DicomExportPermissionError,
    DicomExportQuotaExhaustedError,
    DicomExportUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    from airflow_provider_dicom.api.destinations import BigQueryTable
    from airflow_provider_dicom.exceptions import DicomExportError

_CALLER = "serviceAccount:CALLER_EMAIL"


@contextmanager
def map_storage_errors(
    failure: str, bucket: str, gcp_conn_id: str, *, role: str, not_found_advice: str = ""
) -> Iterator[None]:
    """
    Map the errors of Cloud Storage's client.

    :param failure: the beginning of the error message: what could not be done.
    :param bucket: the bucket's name.
    :param gcp_conn_id: the Airflow connection.
    :param role: the role that the connection's account needs on the bucket.
    :param not_found_advice: a sentence to append if the bucket or the object does not exist.
    :raises DicomExportPermissionError: if the connection's account lacks the role.
    :raises DicomExportNotFoundError: if the bucket or the object does not exist.
    :raises DicomExportError: if Cloud Storage refuses for another reason, or does not answer.
    """
    needed = (
        f"Needed: {role} for the account of the connection {gcp_conn_id!r} on the bucket {bucket}. "
        f"Grant it with: {grant_on_bucket(bucket, _CALLER, role)}"
    )
    with _map_errors(failure, gcp_conn_id, needed=needed, not_found_advice=not_found_advice):
        yield


@contextmanager
def map_bigquery_errors(table: BigQueryTable, gcp_conn_id: str) -> Iterator[None]:
    """
    Map the errors of BigQuery's client.

    :param table: the table of the query.
    :param gcp_conn_id: the Airflow connection.
    :raises DicomExportPermissionError: if the connection's account lacks a role.
    :raises DicomExportNotFoundError: if the table does not exist.
    :raises DicomExportError: if BigQuery refuses for another reason, or does not answer.
    """
    needed = (
        f"Needed for the account of the connection {gcp_conn_id!r}: roles/bigquery.dataViewer on the table, "
        "and roles/bigquery.jobUser on the project of the query. "
        f"Grant the latter with: {grant_on_project('PROJECT', _CALLER, 'roles/bigquery.jobUser')}"
    )
    with _map_errors(f"Could not query {table}", gcp_conn_id, needed=needed):
        yield


@contextmanager
def map_logging_errors(project_id: str, gcp_conn_id: str, caller: str | None) -> Iterator[None]:
    """
    Map the errors of Cloud Logging's client.

    :param project_id: the project of the log entries.
    :param gcp_conn_id: the Airflow connection.
    :param caller: the e-mail address of the connection's account, if it is known.
    :raises DicomExportPermissionError: if the connection's account lacks the role.
    :raises DicomExportError: if Cloud Logging refuses for another reason, or does not answer.
    """
    role = "roles/logging.viewer"
    grant = grant_on_project(project_id, iam_member(caller), role)
    needed = (
        f"Needed: {role} (it has logging.logEntries.list) for the account of the connection {gcp_conn_id!r} "
        f"on the project {project_id}. Grant it with: {grant}"
    )
    failure = f"Could not read the log entries of the project {project_id}"
    with _map_errors(failure, gcp_conn_id, needed=needed):
        yield


@contextmanager
def _map_errors(failure: str, gcp_conn_id: str, *, needed: str, not_found_advice: str = "") -> Iterator[None]:
    import requests
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except GoogleAPICallError as error:
        raise _api_error(failure, error, needed, not_found_advice) from error
    except GoogleAuthError as error:
        raise _token_error(failure, error, gcp_conn_id) from None
    except (requests.RequestException, RetryError, ConnectionError, TimeoutError) as error:
        raise DicomExportUnavailableError(
            f"{failure}: no response ({type(error).__name__}: {without_userinfo(str(error))})"
        ) from None


def _api_error(
    failure: str, error: GoogleAPICallError, needed: str, not_found_advice: str
) -> DicomExportError:
    text = f"{failure}: {without_userinfo(str(error)).rstrip('.')}"
    status = int(error.code or 0)
    if status == 403:
        policy = explain_policy(getattr(error, "reason", None), str(error), "PROJECT")
        return DicomExportPermissionError(f"{text}. {policy or needed}")
    if status == 404:
        return DicomExportNotFoundError(f"{text}{not_found_advice}")
    if status == 401:
        return DicomExportAuthenticationError(
            f"{text}. Check the connection's key, impersonation chain and scopes."
        )
    if status == 429:
        return DicomExportQuotaExhaustedError(f"{text}. Run fewer tasks at a time, or request more quota")
    if status in (0, 408) or status >= 500:
        return DicomExportUnavailableError(text)
    return DicomExportInvalidRequestError(f"{text}. The request has to be changed before it can succeed.")


def _token_error(failure: str, error: GoogleAuthError, gcp_conn_id: str) -> DicomExportError:
    from google.auth.exceptions import DefaultCredentialsError, TransportError

    if isinstance(error, DefaultCredentialsError):
        # Its text may quote a key that could not be read.
        return DicomExportAuthenticationError(
            f"{failure}: the connection {gcp_conn_id!r} yields no credentials. Give the connection a key, or "
            "set up Application Default Credentials on workers: "
            "https://cloud.google.com/docs/authentication/provide-credentials-adc"
        )
    text = f"{failure}: no access token ({describe_token_error(error)})"
    if isinstance(error, TransportError) or error.retryable:
        return DicomExportUnavailableError(text)
    return DicomExportAuthenticationError(
        f"{text}. Check the connection's key, impersonation chain and scopes."
    )
