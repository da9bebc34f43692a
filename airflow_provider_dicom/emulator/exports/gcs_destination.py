"""Exports to Cloud Storage, through the emulator at ``STORAGE_EMULATOR_HOST``."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import requests
from google.api_core.exceptions import Forbidden, GoogleAPICallError, NotFound, RetryError
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Blob, Bucket, Client  # type: ignore[import-untyped]
from google.cloud.storage.retry import DEFAULT_RETRY  # type: ignore[import-untyped]

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.imaging.transcode import (
    check_mime_type,
    extension,
    is_as_stored,
    media_type,
    render,
)
from airflow_provider_dicom.emulator.names import ResourcePath

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_dicom.emulator.models.instances import StoredInstance

PERMISSION_DENIED = (
    "Healthcare API doesn't have required Cloud Storage permission. See https://cloud.google.com/healthcare/docs/"
    "how-tos/permissions-healthcare-api-gcp-products for more information"
)
# Writing an object is atomic and replaces an existing one, so that a retry is harmless. The limits are short,
# because the other side is an emulator on the same machine.
RETRY = DEFAULT_RETRY.with_timeout(30.0).with_delay(initial=0.1, maximum=2.0, multiplier=2.0)
TIMEOUT_SECONDS = 60.0
#: Larger files are sent in chunks of this size (a multiple of 256 KiB), so that they are never in memory.
_CHUNK_BYTES = 8 * 1024 * 1024

_URI = re.compile(r"gs://(?P<bucket>[^/\s]+)(?:/(?P<name>.*))?", re.DOTALL)
_UID = r"[0-9.]{1,64}"
_RESOURCE_PATH = re.compile(
    rf"/studies/(?P<study>{_UID})(?:/series/(?P<series>{_UID})(?:/instances/(?P<instance>{_UID}))?)?"
)


class GcsDestination:
    """Writes each instance as ``{prefix}/{study}/{series}/{instance}[/{frame}]{extension}``.

    :param uri_prefix: ``gs://bucket/path/to/directory``, with or without a trailing slash.
    :param mime_type: a MIME type that the API lists; None for the files as they were uploaded.
    :raises ApiError: the URI or the MIME type is invalid.
    """

    def __init__(self, uri_prefix: str, mime_type: str | None) -> None:
        check_mime_type(mime_type)
        self._bucket_name, directory = split_uri(uri_prefix)
        self._directory = directory if not directory or directory.endswith("/") else f"{directory}/"
        self._mime_type = mime_type
        self._bucket: Bucket | None = None

    def open(self) -> None:
        """Check that the bucket exists.

        :raises ApiError: it does not exist, or access is denied.
        """
        client = storage_client()
        try:
            with storage_errors(self._bucket_name):
                self._bucket = client.get_bucket(self._bucket_name, timeout=TIMEOUT_SECONDS, retry=RETRY)
        except ApiError:
            client.close()
            raise

    def write(self, instance: StoredInstance) -> None:
        """Write the renditions of one instance, and replace existing objects.

        :raises CannotTranscode: the instance cannot be converted to the MIME type.
        :raises ApiError: the bucket cannot be written to.
        """
        if self._bucket is None:
            raise RuntimeError("write() before open()")
        name = f"{self._directory}{instance.study_uid}/{instance.series_uid}/{instance.instance_uid}"
        if is_as_stored(instance.path, self._mime_type):
            self._write_file(self._bucket.blob(f"{name}{extension(self._mime_type)}"), instance.path)
            return
        for rendition in render(instance.path, self._mime_type):
            frame = "" if rendition.frame is None else f"/{rendition.frame}"
            blob = self._bucket.blob(f"{name}{frame}{extension(self._mime_type)}")
            with storage_errors(self._bucket_name):
                blob.upload_from_string(
                    rendition.content,
                    content_type=media_type(self._mime_type),
                    timeout=TIMEOUT_SECONDS,
                    retry=RETRY,
                )

    def _write_file(self, blob: Blob, path: Path) -> None:
        if path.stat().st_size > _CHUNK_BYTES:
            blob.chunk_size = _CHUNK_BYTES
        with storage_errors(self._bucket_name):
            blob.upload_from_filename(
                str(path),
                content_type=media_type(self._mime_type),
                timeout=TIMEOUT_SECONDS,
                retry=RETRY,
            )

    def close(self, *, cancelled: bool) -> None:
        """Close the connections; every object has been visible since it was written."""
        if self._bucket is not None:
            self._bucket.client.close()
            self._bucket = None


def read_filter(resource_paths_gcs_uri: str) -> list[ResourcePath]:
    """Read the resource paths of a filter file.

    :param resource_paths_gcs_uri: ``gs://bucket/object``.
    :raises ApiError: the object does not exist, or a line is not a resource path.
    """
    bucket_name, name = split_uri(resource_paths_gcs_uri)
    if not name:
        raise ApiError.invalid_argument(
            f"Invalid Cloud Storage URI: no object in {resource_paths_gcs_uri!r}."
        )
    client = storage_client()
    try:
        with tempfile.TemporaryFile() as file:
            with storage_errors(bucket_name, name):
                blob = client.bucket(bucket_name).blob(name)
                blob.download_to_file(file, timeout=TIMEOUT_SECONDS, retry=RETRY)
            file.seek(0)
            return [
                _resource_path(line, number)
                for number, line in enumerate(file, start=1)
                if line.rstrip(b"\r\n").strip()
            ]
    finally:
        client.close()


def _resource_path(line: bytes, number: int) -> ResourcePath:
    text = line.rstrip(b"\r\n").decode("utf-8", errors="replace")
    match = _RESOURCE_PATH.fullmatch(text)
    if match is None:
        raise ApiError.invalid_argument(
            f"Invalid filter file: line {number} is not a resource path of the form "
            f"/studies/{{studyUID}}[/series/{{seriesUID}}[/instances/{{instanceUID}}]]: {text[:200]!r}."
        )
    return ResourcePath(match["study"], match["series"], match["instance"])


def split_uri(uri: str) -> tuple[str, str]:
    """Return the bucket of a ``gs://`` URI, and what follows it.

    :raises ApiError: the URI is invalid.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise ApiError.invalid_argument(
            f"Invalid Cloud Storage URI: {uri!r} is not of the form gs://bucket/path."
        )
    return match["bucket"], match["name"] or ""


def storage_client() -> Client:
    """Return a client of the emulator at ``STORAGE_EMULATOR_HOST``.

    :raises ApiError: the variable is not set.
    """
    # Never the real service: without the variable, the client library would use Google's.
    if not os.environ.get("STORAGE_EMULATOR_HOST"):
        raise ApiError.failed_precondition(
            "The local Healthcare API uses Cloud Storage through an emulator only: "
            "start it with STORAGE_EMULATOR_HOST set."
        )
    return Client(project="local", credentials=AnonymousCredentials())


@contextmanager
def storage_errors(bucket: str, name: str | None = None) -> Iterator[None]:
    """Map errors of the client library to errors of the Healthcare API."""
    resource = f"gs://{bucket}" if name is None else f"gs://{bucket}/{name}"
    try:
        yield
    except NotFound as error:
        missing = "The specified bucket does not exist." if name is None else "No such object."
        raise ApiError.not_found(f"{missing} ({resource})") from error
    except Forbidden as error:
        raise ApiError.permission_denied(f"{PERMISSION_DENIED}. ({resource})") from error
    except GoogleAPICallError as error:
        raise ApiError.of_http_status(
            error.code or 500, f"Cloud Storage: {error.message} ({resource})"
        ) from error
    except (RetryError, requests.RequestException, ConnectionError) as error:
        raise ApiError.unavailable(f"Cloud Storage cannot be reached: {error} ({resource})") from error
