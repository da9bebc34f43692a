"""Errors of Google's clients for Cloud Storage and BigQuery, mapped to this provider's errors."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_dicom.exceptions import DicomExportNotFoundError, DicomExportPermissionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.api.destinations import BigQueryTable


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
    """
    from google.api_core.exceptions import Forbidden, NotFound

    try:
        yield
    except Forbidden as error:
        raise DicomExportPermissionError(
            f"{failure}: {error}. Needed: {role} for the account of the connection {gcp_conn_id!r} on the "
            f"bucket {bucket}. Grant it with: gcloud storage buckets add-iam-policy-binding gs://{bucket} "
            f"--member=serviceAccount:CALLER_EMAIL --role={role}"
        ) from error
    except NotFound as error:
        raise DicomExportNotFoundError(f"{failure}: {error}{not_found_advice}") from error


@contextmanager
def map_bigquery_errors(table: BigQueryTable, gcp_conn_id: str) -> Iterator[None]:
    """
    Map the errors of BigQuery's client.

    :param table: the table of the query.
    :param gcp_conn_id: the Airflow connection.
    :raises DicomExportPermissionError: if the connection's account lacks a role.
    :raises DicomExportNotFoundError: if the table does not exist.
    """
    from google.api_core.exceptions import Forbidden, NotFound

    try:
        yield
    except Forbidden as error:
        raise DicomExportPermissionError(
            f"Could not query {table}: {error}. Needed for the account of the connection {gcp_conn_id!r}: "
            "roles/bigquery.dataViewer on the table, and roles/bigquery.jobUser on the project of the query. "
            "Grant the latter with: gcloud projects add-iam-policy-binding PROJECT "
            "--member=serviceAccount:CALLER_EMAIL --role=roles/bigquery.jobUser"
        ) from error
    except NotFound as error:
        raise DicomExportNotFoundError(f"Could not query {table}: {error}") from error
