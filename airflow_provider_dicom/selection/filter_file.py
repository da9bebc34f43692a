"""The filter file of an export: resource paths in Cloud Storage, one in each line."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.destinations import parse_gcs_uri
from airflow_provider_dicom.api.dicomweb import ACCEPTED, is_resource_path
from airflow_provider_dicom.api.private_logs import digest
from airflow_provider_dicom.exceptions import (
    DicomExportInvalidRequestError,
    DicomExportUnavailableError,
)
from airflow_provider_dicom.selection.disk_set import DiskSet
from airflow_provider_dicom.selection.google_errors import map_storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from typing import IO, Protocol

    class Blob(Protocol):
        """The part of an object of Cloud Storage's client that is used here."""

        size: int

        def download_as_bytes(self, *, start: int, end: int) -> bytes:
            """Return the bytes from ``start`` to ``end``, that one included."""


_SHOWN = 5
#: Bytes of an upload in memory at a time; Cloud Storage accepts multiples of 256 KiB.
_CHUNK_BYTES = 8 * 1024 * 1024
#: Bytes that are read at a time to find out whether a file holds nothing but empty lines.
_BLANK_BYTES = 256 * 1024


def resource_path_errors(paths: object) -> list[str]:
    """
    Return one sentence for each of the first few validation errors of resource paths.

    :param paths: a list of resource paths.
    """
    if isinstance(paths, str) or not isinstance(paths, Sequence):
        refused = f"resource_paths is {type(paths).__name__}, not a list"
        return [f"{refused}; accepted: a list of {ACCEPTED}, such as the output of another task."]
    errors: list[str] = []
    more = 0
    for position, path in enumerate(paths, start=1):
        if is_resource_path(path):
            continue
        if len(errors) < _SHOWN:
            errors.append(f"resource_paths holds at position {position} {_described(path)}.")
        else:
            more += 1
    return [*errors, f"{more} more are refused as well."] if more else errors


@dataclass(frozen=True)
class FilterFile:
    """
    A local file of resource paths, sorted and without duplicates, to be uploaded.

    The file has no name, so that it goes with the process, whatever ends that.

    :param file: the open file.
    :param count: the number of paths in the file.
    :param digest: a digest of the paths; files with the same paths have the same digest.
    :param md5: the file's MD5 in Cloud Storage's notation.
    """

    file: IO[bytes]
    count: int
    digest: str
    md5: str

    @classmethod
    @contextmanager
    def of(cls, paths: Iterable[str]) -> Iterator[FilterFile]:
        """
        Write resource paths to a local file, which is deleted when the context ends.

        Memory does not grow with the number of paths.

        :param paths: the resource paths; duplicates are written once.
        """
        digest, md5, count = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        with tempfile.TemporaryFile() as file, DiskSet(paths) as unique:
            for path in unique:
                line = f"{path}\n".encode("ascii")
                file.write(line)
                digest.update(line)
                md5.update(line)
                count += 1
            file.flush()
            yield cls(file, count, digest.hexdigest(), base64.b64encode(md5.digest()).decode())

    def first(self, number: int) -> list[str]:
        """
        Return the first paths of the file.

        :param number: the number of paths, at most.
        """
        self.file.seek(0)
        return [line.decode("ascii").rstrip() for line in islice(self.file, number)]

    @property
    def filename(self) -> str:
        """A name under which this process, and no other one, can open the file."""
        # Where opening it shares the position, it has to be read from the beginning.
        self.file.seek(0)
        return f"/dev/fd/{self.file.fileno()}"

    def upload(
        self, filter_uri: str, *, gcp_conn_id: str, impersonation_chain: str | Sequence[str] | None
    ) -> None:
        """
        Upload the file to Cloud Storage, and verify the uploaded object's checksum.

        :param filter_uri: ``gs://bucket/object``.
        :param gcp_conn_id: the Airflow connection.
        :param impersonation_chain: a service account to impersonate, or a chain of them.
        :raises DicomExportInvalidRequestError: if the URI is invalid, or the file holds no path.
        :raises DicomExportPermissionError: if the connection's account may not write to the bucket.
        :raises DicomExportNotFoundError: if the bucket does not exist.
        :raises DicomExportUnavailableError: if the object differs from the file after the upload.
        """
        from airflow.providers.google.cloud.hooks.gcs import GCSHook

        if not self.count:
            # The API does not document that an empty filter file selects nothing.
            raise DicomExportInvalidRequestError(f"There is no resource path to write to {filter_uri}.")
        target = parse_gcs_uri(filter_uri, "filter_uri", is_object=True)
        hook = GCSHook(gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain)
        with _map_errors(f"Could not write the filter file {filter_uri}", target.bucket, gcp_conn_id):
            hook.upload(
                bucket_name=target.bucket,
                object_name=target.path,
                filename=self.filename,
                mime_type="text/plain",
                chunk_size=_CHUNK_BYTES,
            )
            blob = hook.get_conn().bucket(target.bucket).blob(target.path)
            blob.reload()
        # Cloud Storage keeps no MD5 of composite objects and of those under a customer's key.
        stored, own = (blob.crc32c, self._crc32c()) if blob.md5_hash is None else (blob.md5_hash, self.md5)
        if stored != own:
            raise DicomExportUnavailableError(
                f"The filter file {filter_uri} differs from the upload: its checksum is {stored} instead of "
                f"{own}. Another process writes to the same object; nothing was submitted."
            )

    def _crc32c(self) -> str:
        """Return the file's CRC-32C in Cloud Storage's notation."""
        import google_crc32c

        checksum = google_crc32c.Checksum()
        with Path(self.filename).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                checksum.update(chunk)
        return base64.b64encode(checksum.digest()).decode()


@dataclass(frozen=True)
class StoredFilter:
    """
    A filter file in Cloud Storage.

    :param is_empty: the file holds no path.
    :param digest: a digest of the file's content.
    """

    is_empty: bool
    digest: str


def stored_filter(
    filter_uri: str, *, gcp_conn_id: str, impersonation_chain: str | Sequence[str] | None
) -> StoredFilter:
    """
    Read the size and the digest of a filter file, but not all of its content.

    :param filter_uri: ``gs://bucket/object``.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :raises DicomExportPermissionError: if the connection's account may not read the file.
    :raises DicomExportNotFoundError: if the file does not exist.
    """
    from airflow.providers.google.cloud.hooks.gcs import GCSHook

    target = parse_gcs_uri(filter_uri, "filter_uri", is_object=True)
    hook = GCSHook(gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain)
    with _map_errors(f"Could not read the filter file {filter_uri}", target.bucket, gcp_conn_id):
        blob = hook.get_conn().bucket(target.bucket).blob(target.path)
        blob.reload()
        is_empty = _is_blank(blob)
    return StoredFilter(is_empty, f"{blob.size}:{blob.crc32c}")


def _is_blank(blob: Blob) -> bool:
    """Read a file until the first byte that is not blank: a filter file begins with a path."""
    for start in range(0, blob.size, _BLANK_BYTES):
        if blob.download_as_bytes(start=start, end=min(start + _BLANK_BYTES, blob.size) - 1).strip():
            return False
    return True


def read_filter(
    filter_uri: str, *, gcp_conn_id: str, impersonation_chain: str | Sequence[str] | None
) -> Iterator[str]:
    """
    Yield the resource paths of a filter file, without the whole file in memory.

    :param filter_uri: ``gs://bucket/object``.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :raises DicomExportInvalidRequestError: if a line is not a resource path.
    :raises DicomExportPermissionError: if the connection's account may not read the file.
    :raises DicomExportNotFoundError: if the file does not exist.
    """
    from airflow.providers.google.cloud.hooks.gcs import GCSHook

    source = parse_gcs_uri(filter_uri, "filter_uri", is_object=True)
    hook = GCSHook(gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain)
    with _map_errors(f"Could not read the filter file {filter_uri}", source.bucket, gcp_conn_id):
        blob = hook.get_conn().bucket(source.bucket).blob(source.path)
        with tempfile.TemporaryFile() as file:
            blob.download_to_file(file)
            file.seek(0)
            for number, line in enumerate(file, start=1):
                if not (path := line.decode("ascii", "replace").strip()):
                    continue
                if not is_resource_path(path):
                    raise DicomExportInvalidRequestError(
                        f"The filter file {filter_uri} holds in line {number} {_described(path)}."
                    )
                yield path


def _described(path: object) -> str:
    # What is not a resource path may be anything, such as the name of a patient: it is not quoted.
    described = (
        f"a text of {digest(path)}" if isinstance(path, str) else f"a value of type {type(path).__name__}"
    )
    return f"{described}, not quoted; accepted: {ACCEPTED}"


def _map_errors(failure: str, bucket: str, gcp_conn_id: str) -> AbstractContextManager[None]:
    return map_storage_errors(
        failure,
        bucket,
        gcp_conn_id,
        role="roles/storage.objectUser",
        not_found_advice=(
            ". The bucket must exist, and a filter file that is read must exist, too: did the task that "
            "writes it run?"
        ),
    )
