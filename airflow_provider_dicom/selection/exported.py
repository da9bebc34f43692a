"""What exports have left at their destination: the instances that are there, by their resource paths."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.destinations import GcsUri, parse_destination
from airflow_provider_dicom.api.dicomweb import is_resource_path
from airflow_provider_dicom.api.resource_names import UID_PATTERN
from airflow_provider_dicom.selection.google_errors import explained

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: How an export names its objects below its prefix: a frame may follow the instance, and the files of the
#: type application/octet-stream have no extension.
_OBJECT = re.compile(rf"({UID_PATTERN})/({UID_PATTERN})/({UID_PATTERN})(?:/\d+)?(?:\.[a-z][a-z0-9]*)?")
#: Only their names tell folders from studies.
_FOLDERS = re.compile(r"(?:[^/]*[^0-9./][^/]*/)*")


def exported_instances(
    destination: str,
    *,
    in_folders: bool = False,
    project_id: str | None = None,
    gcp_conn_id: str,
    impersonation_chain: str | Sequence[str] | None,
) -> Iterator[str]:
    """
    List the resource paths of the instances at a destination, some more than once, in no certain order.

    Memory does not grow with their number. Objects with other names than exports give are left out.

    :param destination: ``gs://bucket/prefix`` or ``bq://project.dataset.table``.
    :param in_folders: also look into folders below the prefix, such as one for each night, whose names have
        more in them than digits and dots.
    :param project_id: the project that a query is billed to; the connection's if not given.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :raises DicomExportPermissionError: if the connection's account may not look there.
    :raises DicomExportNotFoundError: if there is no such bucket or table.
    """
    parsed = parse_destination(destination)
    if isinstance(parsed, GcsUri):
        for name in _object_names(parsed, gcp_conn_id, impersonation_chain):
            if (path := path_of_object(name, in_folders=in_folders)) is not None:
                yield path
        return
    from airflow_provider_dicom.selection.inventory import MetadataTable

    yield from MetadataTable(
        parsed, project_id=project_id, gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain
    ).instances()


def path_of_object(name: str, *, in_folders: bool = False) -> str | None:
    """
    Build the resource path of the instance that an object is, or is a frame of; None if it is none.

    :param name: the object's name below the prefix of the export.
    :param in_folders: the name may begin with folders.
    """
    folders = _FOLDERS.match(name) if in_folders else None
    match = _OBJECT.fullmatch(name, folders.end() if folders else 0)
    if match is None:
        return None
    path = "/studies/{}/series/{}/instances/{}".format(*match.groups())
    return path if is_resource_path(path) else None


def _object_names(
    prefix: GcsUri, gcp_conn_id: str, impersonation_chain: str | Sequence[str] | None
) -> Iterator[str]:
    from airflow.providers.google.cloud.hooks.gcs import GCSHook

    directory = prefix.path if not prefix.path or prefix.path.endswith("/") else f"{prefix.path}/"
    client = GCSHook(gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain).get_conn()
    with explained(f"Could not list {prefix}", prefix.bucket, gcp_conn_id, role="roles/storage.objectViewer"):
        # Not GCSHook.list(), which holds all names in memory.
        blobs = client.list_blobs(prefix.bucket, prefix=directory, fields="items(name),nextPageToken")
        for blob in blobs:
            yield blob.name.removeprefix(directory)
