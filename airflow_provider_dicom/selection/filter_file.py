"""The filter file of an export: resource paths, one a line, in Cloud Storage."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.destinations import parse_gcs_uri
from airflow_provider_dicom.api.dicomweb import ACCEPTED, is_resource_path
from airflow_provider_dicom.exceptions import (
    DicomExportInvalidRequestError,
    DicomExportUnavailableError,
)
from airflow_provider_dicom.selection.disk_set import DiskSet
from airflow_provider_dicom.selection.google_errors import explained

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

_SHOWN = 5
#: What an upload holds in memory at a time; Cloud Storage wants multiples of 256 KiB.
_CHUNK_BYTES = 8 * 1024 * 1024
#: Files up to this size are looked into, because they may hold nothing but empty lines.
_SMALL_BYTES = 1024


def resource_path_mistakes(paths: object) -> list[str]:
    """
    Say what is wrong with resource paths, one sentence for each of the first few mistakes.

    :param paths: a list of resource paths.
    """
    if isinstance(paths, str) or not isinstance(paths, Sequence):
        refused = f"resource_paths={paths!r} is {type(paths).__name__}, not a list"
        return [f"{refused}; accepted: a list of {ACCEPTED}, such as the output of another task."]
    mistakes: list[str] = []
    more = 0
    for path in paths:
        if is_resource_path(path):
            continue
        if len(mistakes) < _SHOWN:
            mistakes.append(f"resource_paths holds {path!r}; accepted: {ACCEPTED}.")
        else:
            more += 1
    return [*mistakes, f"{more} more are refused as well."] if more else mistakes


@dataclass(frozen=True)
class FilterFile:
    """
    Resource paths, each once and in order, in a local file that is not uploaded yet.

    :param filename: the local file.
    :param count: how many paths it holds.
    :param digest: tells files apart that hold other paths.
    :param md5: the file's MD5 as Cloud Storage writes it.
    """

    filename: str
    count: int
    digest: str
    md5: str

    @classmethod
    @contextmanager
    def of(cls, paths: Iterable[str]) -> Iterator[FilterFile]:
        """
        Write resource paths to a local file, which is there until the context ends.

        Memory does not grow with the number of paths.

        :param paths: the resource paths; those that come more than once are written once.
        """
        digest, md5, count = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        with tempfile.NamedTemporaryFile(suffix=".txt") as file, DiskSet(paths) as unique:
            for path in unique:
                line = f"{path}\n".encode("ascii")
                file.write(line)
                digest.update(line)
                md5.update(line)
                count += 1
            file.flush()
            yield cls(file.name, count, digest.hexdigest(), base64.b64encode(md5.digest()).decode())

    def upload(
        self, filter_uri: str, *, gcp_conn_id: str, impersonation_chain: str | Sequence[str] | None
    ) -> None:
        """
        Write the file to Cloud Storage, and verify that it is there as it is here.

        :param filter_uri: ``gs://bucket/object``.
        :param gcp_conn_id: the Airflow connection.
        :param impersonation_chain: a service account to impersonate, or a chain of them.
        :raises DicomExportInvalidRequestError: if the URI is not acceptable, or there is no path.
        :raises DicomExportPermissionError: if the connection's account may not write there.
        :raises DicomExportNotFoundError: if there is no such bucket.
        :raises DicomExportUnavailableError: if something else is there.
        """
        from airflow.providers.google.cloud.hooks.gcs import GCSHook

        if not self.count:
            # Nobody promises that an empty filter file does not mean everything.
            raise DicomExportInvalidRequestError(f"There is no resource path to write to {filter_uri}.")
        target = parse_gcs_uri(filter_uri, "filter_uri", is_object=True)
        hook = GCSHook(gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain)
        with _explained(f"Could not write the filter file {filter_uri}", target.bucket, gcp_conn_id):
            hook.upload(
                bucket_name=target.bucket,
                object_name=target.path,
                filename=self.filename,
                mime_type="text/plain",
                chunk_size=_CHUNK_BYTES,
            )
            stored = hook.get_md5hash(target.bucket, target.path)
        if stored != self.md5:
            raise DicomExportUnavailableError(
                f"The filter file {filter_uri} is not what was written to it: its MD5 is {stored}, and not "
                f"{self.md5}. Somebody else writes there, too; nothing was submitted."
            )


@dataclass(frozen=True)
class StoredFilter:
    """
    A filter file that is in Cloud Storage already.

    :param is_empty: it holds no path.
    :param digest: tells files apart that hold other paths.
    """

    is_empty: bool
    digest: str


def stored_filter(
    filter_uri: str, *, gcp_conn_id: str, impersonation_chain: str | Sequence[str] | None
) -> StoredFilter:
    """
    Look at a filter file without reading all of it.

    :param filter_uri: ``gs://bucket/object``.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :raises DicomExportPermissionError: if the connection's account may not read it.
    :raises DicomExportNotFoundError: if it is not there.
    """
    from airflow.providers.google.cloud.hooks.gcs import GCSHook

    target = parse_gcs_uri(filter_uri, "filter_uri", is_object=True)
    hook = GCSHook(gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain)
    with _explained(f"Could not read the filter file {filter_uri}", target.bucket, gcp_conn_id):
        blob = hook.get_conn().bucket(target.bucket).blob(target.path)
        blob.reload()
        is_empty = blob.size <= _SMALL_BYTES and not blob.download_as_bytes().strip()
    return StoredFilter(is_empty, f"{blob.size}:{blob.crc32c}")


def read_filter(
    filter_uri: str, *, gcp_conn_id: str, impersonation_chain: str | Sequence[str] | None
) -> Iterator[str]:
    """
    Read the resource paths of a filter file, a piece of it at a time.

    :param filter_uri: ``gs://bucket/object``.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :raises DicomExportInvalidRequestError: if a line is no resource path.
    :raises DicomExportPermissionError: if the connection's account may not read it.
    :raises DicomExportNotFoundError: if it is not there.
    """
    from airflow.providers.google.cloud.hooks.gcs import GCSHook

    source = parse_gcs_uri(filter_uri, "filter_uri", is_object=True)
    hook = GCSHook(gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain)
    with _explained(f"Could not read the filter file {filter_uri}", source.bucket, gcp_conn_id):
        blob = hook.get_conn().bucket(source.bucket).blob(source.path)
        with tempfile.TemporaryFile() as file:
            blob.download_to_file(file)
            file.seek(0)
            for line in file:
                if not (path := line.decode("ascii", "replace").strip()):
                    continue
                if not is_resource_path(path):
                    raise DicomExportInvalidRequestError(
                        f"The filter file {filter_uri} holds {path!r}; accepted: {ACCEPTED}."
                    )
                yield path


def _explained(what: str, bucket: str, gcp_conn_id: str) -> AbstractContextManager[None]:
    return explained(
        what,
        bucket,
        gcp_conn_id,
        role="roles/storage.objectUser",
        if_missing=". The bucket must exist, and a file to read.",
    )
