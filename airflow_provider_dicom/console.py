"""Addresses of pages in the Google Cloud console, built from plain ids."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation


def _base() -> str:
    # The Google provider finds the console of another universe by the same variable.
    domain = os.environ.get("GOOGLE_CLOUD_HIGH_VALUE_COOKIE_DOMAIN") or "google.com"
    return f"https://console.cloud.{domain}"


def dicom_store_url(project_id: str, location: str, dataset_id: str, dicom_store_id: str) -> str:
    """
    Build the address of a DICOM store's page.

    :param project_id: the project's id.
    :param location: the location of the dataset.
    :param dataset_id: the dataset's id.
    :param dicom_store_id: the DICOM store's id.
    """
    parts = ("locations", location, "datasets", dataset_id, "dicomStores", dicom_store_id)
    path = "/".join(quote(part, safe="") for part in parts)
    return f"{_base()}/healthcare/browser/{path}/overview?{urlencode({'project': project_id})}"


def operation_logs_url(operation_name: str) -> str:
    """
    Build the address of the log query for one Operation.

    :param operation_name: the full name of the Operation.
    """
    project_id, operation_id = operation_name.split("/")[1], operation_name.rsplit("/", 1)[-1]
    # ":" means "contains": Google does not document whether the log entry holds the id or the full name.
    query = f'resource.type="healthcare_dicom_store"\noperation.id:"{operation_id}"'
    return f"{_base()}/logs/query;query={quote(query, safe='')}?{urlencode({'project': project_id})}"


def logs_url(operation: Operation) -> str:
    """
    Return the address of an Operation's logs, as the API gives it or else built from the Operation's name.

    :param operation: the Operation as the API returned it.
    """
    return operation.get("metadata", {}).get("logsUrl") or operation_logs_url(operation["name"])


def storage_url(bucket: str, path: str) -> str:
    """
    Build the address of a folder in a Cloud Storage bucket.

    :param bucket: the bucket's name.
    :param path: the folder's path in the bucket; may be empty.
    """
    return f"{_base()}/storage/browser/{quote(f'{bucket}/{path}'.rstrip('/'))}"


def table_url(project_id: str, dataset_id: str, table_id: str) -> str:
    """
    Build the address of a BigQuery table's page.

    :param project_id: the project's id.
    :param dataset_id: the BigQuery dataset's id.
    :param table_id: the table's id.
    """
    query = {"p": project_id, "d": dataset_id, "t": table_id, "page": "table", "project": project_id}
    return f"{_base()}/bigquery?{urlencode(query)}"
