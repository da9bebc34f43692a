"""Destinations of an export: the two URI forms of the API, parsed and validated."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError

MAX_TABLE_URI_LENGTH = 2000
MAX_OBJECT_NAME_BYTES = 1024

_BUCKET = re.compile(r"(?!goog)[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_BQ_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z0-9][a-z0-9-]*")
_BQ_DATASET = re.compile(r"\w{1,1024}", re.ASCII)

ACCEPTED = "'gs://bucket/prefix' or 'bq://project.dataset.table'"


@dataclass(frozen=True)
class GcsUri:
    """
    A bucket, or an object or prefix in it.

    :param bucket: the bucket's name.
    :param path: the name of an object, or the prefix of objects; may be empty.
    """

    bucket: str
    path: str

    def __str__(self) -> str:
        return f"gs://{self.bucket}/{self.path}" if self.path else f"gs://{self.bucket}"


@dataclass(frozen=True)
class BigQueryTable:
    """
    A BigQuery table.

    :param project_id: the table's project.
    :param dataset_id: the BigQuery dataset's id.
    :param table_id: the table's id.
    """

    project_id: str
    dataset_id: str
    table_id: str

    def __str__(self) -> str:
        return f"bq://{self.project_id}.{self.dataset_id}.{self.table_id}"


Destination = GcsUri | BigQueryTable


def parse_destination(uri: object, parameter: str = "destination") -> Destination:
    """
    Parse the URI of a destination.

    :param uri: ``gs://bucket/prefix`` or ``bq://project.dataset.table``.
    :param parameter: the parameter's name, for the sentence.
    :raises DicomExportInvalidRequestError: if the URI has another form.
    """
    if isinstance(uri, str):
        if uri.startswith("gs://"):
            return parse_gcs_uri(uri, parameter)
        if uri.startswith("bq://"):
            return _parse_table_uri(uri, parameter)
    raise _invalid(parameter, uri, "has no scheme that an export can write to", ACCEPTED)


def parse_table(uri: object, parameter: str) -> BigQueryTable:
    """
    Parse the URI of a table.

    :param uri: ``bq://project.dataset.table``.
    :param parameter: the parameter's name, for the sentence.
    :raises DicomExportInvalidRequestError: if the URI has another form.
    """
    table = parse_destination(uri, parameter)
    if not isinstance(table, BigQueryTable):
        raise _invalid(parameter, uri, "is no table", "'bq://project.dataset.table'")
    return table


def parse_gcs_uri(uri: object, parameter: str, *, is_object: bool = False) -> GcsUri:
    """
    Parse a Cloud Storage URI.

    :param uri: ``gs://bucket/path``.
    :param parameter: the parameter's name, for the sentence.
    :param is_object: the URI must name one object, not a prefix.
    :raises DicomExportInvalidRequestError: if the URI has another form.
    """
    accepted = "'gs://bucket/object'" if is_object else "'gs://bucket/prefix'"
    if not isinstance(uri, str) or not uri.startswith("gs://"):
        raise _invalid(parameter, uri, "is not a Cloud Storage URI", accepted)
    bucket, _, path = uri.removeprefix("gs://").partition("/")
    problem = _bucket_problem(bucket) or _path_problem(path, is_object=is_object)
    if problem:
        raise _invalid(parameter, uri, problem, accepted)
    return GcsUri(bucket, path)


def _bucket_problem(bucket: str) -> str | None:
    if not bucket:
        return "names no bucket"
    parts = bucket.split(".")
    # Only names with dots may be longer than 63 characters: 222 in all, 63 for each part.
    if not _BUCKET.fullmatch(bucket) or any(not 0 < len(part) <= 63 for part in parts):
        return f"names {bucket!r}, which cannot be a bucket"
    return None


def _path_problem(path: str, *, is_object: bool) -> str | None:
    if is_object and (not path or path.endswith("/")):
        return "names no object"
    if path.startswith("/") or "//" in path:
        return "has an empty part in its path, often a template that rendered to nothing"
    if any(part in (".", "..") for part in path.split("/")):
        return "has '.' or '..' as a part of its path"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in path):
        return "contains a control character"
    if len(path.encode()) > MAX_OBJECT_NAME_BYTES:
        return f"has a path of more than {MAX_OBJECT_NAME_BYTES} bytes"
    return None


def _parse_table_uri(uri: str, parameter: str) -> BigQueryTable:
    accepted = "'bq://project.dataset.table'"
    if len(uri) > MAX_TABLE_URI_LENGTH:
        raise _invalid(parameter, uri, f"is longer than {MAX_TABLE_URI_LENGTH} characters", accepted)
    # A domain-scoped project, `example.com:project`, has dots of its own.
    parts = uri.removeprefix("bq://").rsplit(".", 2)
    if len(parts) != 3:
        raise _invalid(parameter, uri, "does not name a project, a dataset and a table", accepted)
    project_id, dataset_id, table_id = parts
    if not _BQ_PROJECT.fullmatch(project_id):
        raise _invalid(parameter, uri, f"names {project_id!r}, which cannot be a project", accepted)
    if not _BQ_DATASET.fullmatch(dataset_id):
        raise _invalid(parameter, uri, f"names {dataset_id!r}, which cannot be a BigQuery dataset", accepted)
    if not _is_table_id(table_id):
        raise _invalid(parameter, uri, f"names {table_id!r}, which cannot be a table", accepted)
    return BigQueryTable(project_id, dataset_id, table_id)


def _is_table_id(table_id: str) -> bool:
    # BigQuery's own rule: up to 1,024 bytes of letters, marks, numbers, connectors, dashes and spaces.
    return 0 < len(table_id.encode(errors="surrogatepass")) <= 1024 and all(
        unicodedata.category(character)[0] in "LMN" or unicodedata.category(character) in ("Pc", "Pd", "Zs")
        for character in table_id
    )


def _invalid(parameter: str, uri: object, problem: str, accepted: str) -> DicomExportInvalidRequestError:
    return DicomExportInvalidRequestError(f"{parameter}={uri!r} {problem}; accepted: {accepted}.")


def asset_uri(destination: str) -> str:
    """
    Return the URI of the asset that a destination is to Airflow, as the Google provider defines it.

    :param destination: ``gs://bucket/prefix`` or ``bq://project.dataset.table``.
    :raises DicomExportInvalidRequestError: if it is neither.
    """
    parsed = parse_destination(destination)
    if isinstance(parsed, GcsUri):
        return destination
    return f"bigquery://{parsed.project_id}/{parsed.dataset_id}/{parsed.table_id}"
