"""Addresses of pages in the Google Cloud console."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from airflow_provider_dicom.api.destinations import GcsUri

if TYPE_CHECKING:
    from airflow_provider_dicom.api.destinations import Destination
    from airflow_provider_dicom.api.resource_names import DicomStoreName


def _base() -> str:
    # The variable by which the Google provider, too, finds the console of another universe.
    domain = os.environ.get("GOOGLE_CLOUD_HIGH_VALUE_COOKIE_DOMAIN") or "google.com"
    return f"https://console.cloud.{domain}"


def dicom_store_url(store: DicomStoreName) -> str:
    """
    Build the address of a DICOM store's page.

    :param store: the DICOM store.
    """
    dataset = store.dataset
    path = "/".join(
        quote(part, safe="")
        for part in (
            "locations",
            dataset.location,
            "datasets",
            dataset.dataset_id,
            "dicomStores",
            store.dicom_store_id,
        )
    )
    return f"{_base()}/healthcare/browser/{path}/overview?{urlencode({'project': dataset.project_id})}"


def operation_logs_url(operation_name: str) -> str:
    """
    Build the address of the log query for one Operation.

    :param operation_name: the full name of the Operation.
    """
    project_id, operation_id = operation_name.split("/")[1], operation_name.rsplit("/", 1)[-1]
    # ":" is "contains": whether the log entry holds the id or the whole name is not documented.
    query = f'resource.type="healthcare_dicom_store"\noperation.id:"{operation_id}"'
    return f"{_base()}/logs/query;query={quote(query, safe='')}?{urlencode({'project': project_id})}"


def destination_url(destination: Destination) -> str:
    """
    Build the address of a bucket's folder or of a table.

    :param destination: where the export goes.
    """
    if isinstance(destination, GcsUri):
        path = quote(f"{destination.bucket}/{destination.path}".rstrip("/"))
        return f"{_base()}/storage/browser/{path}"
    query = urlencode(
        {
            "p": destination.project_id,
            "d": destination.dataset_id,
            "t": destination.table_id,
            "page": "table",
            "project": destination.project_id,
        }
    )
    return f"{_base()}/bigquery?{query}"
