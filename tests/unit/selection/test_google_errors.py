"""Errors of Google's clients, each as an error of this provider with a sentence that helps."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import google_crc32c
import pytest
import requests
from airflow.providers.google.cloud.hooks.gcs import GCSHook
from google.api_core.exceptions import GoogleAPICallError, RetryError, from_http_status
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api.destinations import BigQueryTable
from airflow_provider_dicom.selection.filter_file import FilterFile
from airflow_provider_dicom.selection.google_errors import map_bigquery_errors, map_storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

HOSTILE = "no\n[2026-01-01] INFO - ok\x1b[2J" + "x" * 100_000


def storage() -> AbstractContextManager[None]:
    return map_storage_errors("Could not list gs://b", "b", "conn", role="roles/storage.objectViewer")


def bigquery() -> AbstractContextManager[None]:
    return map_bigquery_errors(BigQueryTable("p", "d", "t"), "conn")


def mapped(
    service: Callable[[], AbstractContextManager[None]], error: Exception
) -> exceptions.DicomExportError:
    with pytest.raises(exceptions.DicomExportError) as caught, service():
        raise error
    return caught.value


@pytest.mark.parametrize("service", [storage, bigquery])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, exceptions.DicomExportInvalidRequestError),
        (401, exceptions.DicomExportAuthenticationError),
        (403, exceptions.DicomExportPermissionError),
        (404, exceptions.DicomExportNotFoundError),
        (408, exceptions.DicomExportUnavailableError),
        (409, exceptions.DicomExportInvalidRequestError),
        (412, exceptions.DicomExportInvalidRequestError),
        (429, exceptions.DicomExportQuotaExhaustedError),
        (500, exceptions.DicomExportUnavailableError),
        (503, exceptions.DicomExportUnavailableError),
        (504, exceptions.DicomExportUnavailableError),
    ],
)
def test_each_status_has_an_error_class_with_a_printable_message(
    service: Callable[[], AbstractContextManager[None]], status: int, kind: type[exceptions.DicomExportError]
) -> None:
    error = mapped(service, from_http_status(status, HOSTILE))
    assert type(error) is kind
    assert str(error).startswith("Could not ")
    assert str(error).isprintable()
    assert len(str(error)) < 3000


@pytest.mark.parametrize("service", [storage, bigquery])
@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (DefaultCredentialsError("File {geheim was not found"), "Authentication", "yields no credentials"),
        (RefreshError("invalid_grant"), "Authentication", "invalid_grant"),
        (RefreshError("503", retryable=True), "Unavailable", "no access token"),
        (TransportError("no network"), "Unavailable", "no access token"),
        (requests.ConnectionError("reset"), "Unavailable", "no response"),
        (RetryError("Timeout of 120s exceeded", None), "Unavailable", "no response"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_errors_without_a_status_are_explained(
    service: Callable[[], AbstractContextManager[None]], error: Exception, kind: str, words: str
) -> None:
    result = mapped(service, error)
    assert type(result).__name__ == f"DicomExport{kind}Error"
    assert words in str(result)
    assert "geheim" not in str(result)


def test_error_of_this_provider_passes_unchanged() -> None:
    error = exceptions.DicomExportNotFoundError("mine")
    assert mapped(storage, error) is error


def test_403_names_the_role_and_its_command() -> None:
    text = str(mapped(storage, from_http_status(403, "denied")))
    assert "roles/storage.objectViewer for the account of the connection 'conn' on the bucket b" in text
    assert "gcloud storage buckets add-iam-policy-binding gs://b --member=serviceAccount:CALLER_EMAIL" in text
    assert "roles/bigquery.jobUser" in str(mapped(bigquery, from_http_status(403, "denied")))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (
            GoogleAPICallError("x", error_info=ErrorInfo(reason="ACCESS_TOKEN_SCOPE_INSUFFICIENT")),
            "lacks a scope",
        ),
        (from_http_status(403, "Request had insufficient authentication scopes."), "lacks a scope"),
        (from_http_status(403, "The billing account for the owning project is disabled"), "billing account"),
        (from_http_status(403, "Caller does not have serviceusage.services.use"), "quota project"),
    ],
)
def test_403_that_no_role_lifts_names_none(error: GoogleAPICallError, advice: str) -> None:
    error.code = 403
    text = str(mapped(storage, error))
    assert advice in text
    assert "add-iam-policy-binding" not in text


@pytest.mark.parametrize("is_same", [True, False])
def test_object_without_an_md5_is_compared_by_its_crc(is_same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Cloud Storage answers under a customer's key."""
    content = b"/studies/1\n" if is_same else b"/studies/2\n"
    checksum = google_crc32c.Checksum(content).digest()
    blob = SimpleNamespace(md5_hash=None, crc32c=base64.b64encode(checksum).decode(), reload=lambda: None)
    bucket = SimpleNamespace(blob=lambda name: blob)
    monkeypatch.setattr(GCSHook, "__init__", lambda self, **_: None)
    monkeypatch.setattr(GCSHook, "get_conn", lambda self: SimpleNamespace(bucket=lambda name: bucket))
    monkeypatch.setattr(GCSHook, "upload", lambda self, **_: None)
    options: dict[str, Any] = {"gcp_conn_id": "conn", "impersonation_chain": None}
    with FilterFile.of(["/studies/1"]) as file:
        if is_same:
            file.upload("gs://bucket/f.txt", **options)
            return
        with pytest.raises(exceptions.DicomExportUnavailableError, match="its checksum is"):
            file.upload("gs://bucket/f.txt", **options)
