"""Addresses of pages in the Google Cloud console, built from plain ids."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.api_types import Operation

#: The labels of a log entry's resource, by the collection in a resource name that precedes their value.
_LABELS = {
    "projects": "project_id",
    "locations": "location",
    "datasets": "dataset_id",
    "dicomStores": "dicom_store_id",
}
#: How long after the end of an Operation its last log entries may be written.
_LATE_ENTRIES = timedelta(minutes=10)


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


def logs_url(operation: Operation, dicom_store: str | None = None) -> str:
    """
    Return the address of an Operation's logs, as the API gives it or else built from what is known of the
    Operation.

    :param operation: the Operation as the API returned it.
    :param dicom_store: the full name of the DICOM store, if it is known.
    """
    return operation.get("metadata", {}).get("logsUrl") or logs_query_url(operation, dicom_store)


def logs_query_url(operation: Operation, dicom_store: str | None = None) -> str:
    """
    Build the address of the log query for one Operation, as narrow as what is known of it.

    :param operation: the Operation as the API returned it.
    :param dicom_store: the full name of the DICOM store, if it is known.
    """
    query = quote(logs_query(operation, dicom_store), safe="")
    project_id = _ids(operation["name"]).get("projects", "")
    return f"{_base()}/logs/query;query={query}?{urlencode({'project': project_id})}"


def logs_query(operation: Operation, dicom_store: str | None = None) -> str:
    """
    Build the log query for one Operation, as narrow as what is known of it.

    :param operation: the Operation as the API returned it.
    :param dicom_store: the full name of the DICOM store, if it is known.
    """
    ids = _ids(operation["name"]) | _ids(dicom_store or "")
    return "\n".join(_log_restrictions(operation, ids))


def _log_restrictions(operation: Operation, ids: dict[str, str]) -> Iterator[str]:
    """
    Yield the lines of the log query.

    Entries of several Operations may share ``operation.id``: labels and times tell them apart. Without a time
    in the query, the console shows the last hour only.
    """
    name, project_id = operation["name"], ids.get("projects", "")
    yield 'resource.type="healthcare_dicom_store"'
    if project_id.isdecimal():
        # Log entries hold the project's id, which its number does not match.
        ids, name = {**ids, "projects": ""}, name.removeprefix(f"projects/{project_id}/")
    for collection, label in _LABELS.items():
        if value := ids.get(collection):
            yield f"resource.labels.{label}={_quoted(value)}"
    # ":" means "contains": the entry holds the full name in Google's samples, of other methods than exports.
    yield f"operation.id:{_quoted(name)}"
    metadata = operation.get("metadata", {})
    if created := _time(metadata.get("createTime")):
        yield f'timestamp>="{created}"'
    if ended := _time(metadata.get("endTime"), _LATE_ENTRIES):
        yield f'timestamp<="{ended}"'


def _ids(name: str) -> dict[str, str]:
    parts = name.split("/")
    return dict(zip(parts[::2], parts[1::2], strict=False))


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _time(value: str | None, later: timedelta = timedelta()) -> str | None:
    """Return an RFC 3339 time in UTC, moved by ``later``; None if the value is not such a time."""
    try:
        time = datetime.fromisoformat(value or "")
        if time.tzinfo is None:
            return None
        return (time + later).astimezone(UTC).isoformat().replace("+00:00", "Z")
    except (TypeError, ValueError, OverflowError):
        return None


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
