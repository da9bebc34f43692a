"""The inventory of a destination: which instances a bucket or a table holds, by their resource paths."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.destinations import GcsUri, parse_destination
from airflow_provider_dicom.api.dicomweb import is_resource_path
from airflow_provider_dicom.api.resource_names import UID_PATTERN
from airflow_provider_dicom.selection.disk_set import DiskSet
from airflow_provider_dicom.selection.google_errors import map_storage_errors
from airflow_provider_dicom.selection.metadata_table import MetadataTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from airflow_provider_dicom.compat import Log

#: The last part of an exported object's name: files of the type application/octet-stream have no extension.
_FILE = re.compile(rf"({UID_PATTERN})(\.[a-z][a-z0-9]*)?")


class Inventory:
    """
    The instances at a destination, in a temporary file: memory does not grow with their number.

    :param destination: ``gs://bucket/prefix`` or ``bq://project.dataset.table``.
    :param in_folders: include folders below the prefix, such as one for each night.
    :param project_id: the project that pays for a query; the connection's if not given.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param log: the log for the cost of a query.
    :raises DicomExportPermissionError: if the connection's account may not read the bucket or the table.
    :raises DicomExportNotFoundError: if the bucket or the table does not exist.
    """

    def __init__(
        self,
        destination: str,
        *,
        in_folders: bool = False,
        project_id: str | None = None,
        gcp_conn_id: str,
        impersonation_chain: str | Sequence[str] | None,
        log: Log | None = None,
    ) -> None:
        self._destination = destination
        self._in_folders = in_folders
        self._ignored = 0
        parsed = parse_destination(destination)
        if isinstance(parsed, GcsUri):
            paths = self._known(_object_names(parsed, gcp_conn_id, impersonation_chain))
        else:
            table = MetadataTable(
                parsed,
                project_id=project_id,
                gcp_conn_id=gcp_conn_id,
                impersonation_chain=impersonation_chain,
                log=log,
            )
            paths = (path for path, _ in table.instances())
        # The paths of whole instances, and of frames.
        self._paths = DiskSet(paths)

    def __len__(self) -> int:
        count, last = 0, ""
        for path in self._paths:
            # The frames of an instance follow each other; the instance as a whole may lie elsewhere.
            instance, frames, _ = path.partition("/frames/")
            count += not frames or (instance != last and instance not in self._paths)
            last = instance if frames else ""
        return count

    def holds(self, path: str, frames: int) -> bool:
        """
        Tell whether an instance is there, as a whole or with all its frames.

        :param path: the instance's resource path.
        :param frames: the number of its frames; 0 if it is not known, and frames alone are not enough.
        """
        if path in self._paths:
            return True
        return frames > 0 and all(f"{path}/frames/{number}" in self._paths for number in range(1, frames + 1))

    def holds_part(self, path: str) -> bool:
        """
        Tell whether anything of a study, a series or an instance is there.

        :param path: the resource path.
        """
        return path in self._paths or self._paths.has_prefix(f"{path}/")

    def warn_of_ignored(self, log: Log) -> None:
        """
        Warn of objects below the prefix whose names no export gives.

        :param log: the task's logger.
        """
        if self._ignored:
            log.warning(
                "%d objects below %s were ignored: an export to %s gives other names. If they hold "
                "instances, these count as not exported.",
                self._ignored,
                self._destination,
                "this prefix or to a folder below it" if self._in_folders else "this prefix",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._paths.__exit__(kind, error, trace)

    def _known(self, names: Iterator[str]) -> Iterator[str]:
        for name in names:
            if (path := path_of_object(name, in_folders=self._in_folders)) is not None:
                yield path
            elif name and not name.endswith("/"):  # else a folder, as the Google Cloud console creates it
                self._ignored += 1


def path_of_object(name: str, *, in_folders: bool = False) -> str | None:
    """
    Return the resource path of the instance that an object holds, or of its frame; None for other objects.

    The last parts of the name decide: folders may have any names, and may look like UIDs. A UID has a dot in
    it; a last part without a dot is the number of a frame, unless the object is a DICOM file.

    :param name: the object's name below the prefix of the export.
    :param in_folders: the name may begin with folders.
    """
    *parts, last = name.split("/")
    if (file := _FILE.fullmatch(last)) is None:
        return None
    uid, extension = file.groups()
    is_frame = len(parts) > 2 and extension != ".dcm" and uid.isdecimal()
    uids = parts[-3:] if is_frame else [*parts[-2:], uid]
    folders = parts[:-3] if is_frame else parts[:-2]
    if len(uids) < 3 or (folders and not in_folders):
        return None
    path = "/studies/{}/series/{}/instances/{}".format(*uids)
    if not is_resource_path(path):
        return None
    return f"{path}/frames/{int(uid)}" if is_frame else path


def _object_names(
    prefix: GcsUri, gcp_conn_id: str, impersonation_chain: str | Sequence[str] | None
) -> Iterator[str]:
    from airflow.providers.google.cloud.hooks.gcs import GCSHook

    directory = prefix.path if not prefix.path or prefix.path.endswith("/") else f"{prefix.path}/"
    failure, role = f"Could not list {prefix}", "roles/storage.objectViewer"
    with map_storage_errors(failure, prefix.bucket, gcp_conn_id, role=role):
        client = GCSHook(gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain).get_conn()
        # GCSHook.list() would hold all names in memory.
        blobs = client.list_blobs(prefix.bucket, prefix=directory, fields="items(name),nextPageToken")
        for blob in blobs:
            yield blob.name.removeprefix(directory)
