"""Imports from Cloud Storage, through the emulator at ``STORAGE_EMULATOR_HOST``.

The objects are listed when the import begins, and stored in the order of their names. An instance that the
store has already is ignored, as the API's document says, even if the files differ: imports never overwrite.
"""

from __future__ import annotations

import re
import uuid
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.exports.gcs_destination import (
    RETRY,
    TIMEOUT_SECONDS,
    split_uri,
    storage_client,
    storage_errors,
)
from airflow_provider_dicom.emulator.exports.work import (
    INVALID_ARGUMENT,
    RESPONSES,
    Item,
    ItemFailedError,
    Missing,
)
from airflow_provider_dicom.emulator.models import dicom_files
from airflow_provider_dicom.emulator.models.archive import IMPORT_DICOM_DATA, AlreadyStoredError
from airflow_provider_dicom.emulator.models.dicom_files import NotDicomError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.cloud.storage import Client  # type: ignore[import-untyped]

    from airflow_provider_dicom.emulator.messages import JsonObject
    from airflow_provider_dicom.emulator.models.archive import Archive

#: ``**`` ends the path, or is followed by a file extension only, and is the only wildcard.
_EVERYTHING_BELOW = re.compile(r"(?P<folder>[^*?]*)\*\*(?P<extension>\.[^*?/]+)?")
_WILDCARDS = {"*": "[^/]*", "?": "."}


class Import:
    """The work of an import.

    :param store: the name of the DICOM store.
    :param request: an ``ImportDicomDataRequest``.
    :raises ApiError: the request names no source, or an invalid one.
    """

    response = f"{RESPONSES}.ImportDicomDataResponse"
    done = "imported"
    #: The document: "Returns an error if any of the files to import are not DICOM files."
    partial_failure: Literal["error"] = "error"
    repeatable = True

    def __init__(self, archive: Archive, store: str, request: JsonObject) -> None:
        source = cast("dict[str, str]", request.get("gcsSource"))
        if source is None:
            raise ApiError.invalid_argument("source is required: set gcsSource")
        _check_storage_class(request)
        self._archive = archive
        self._store = store
        self._uri = source.get("uri", "")
        self._bucket, name = split_uri(self._uri)
        self._pattern = _pattern(self._uri, self._bucket, name)
        self._prefix = re.split(r"[*?]", name)[0]
        self._client: Client | None = None

    def check(self) -> int:
        """Check that the store exists, and that an object matches."""
        self._archive.store(self._store)
        client = storage_client()
        try:
            if next(self._names(client), None) is None:
                raise ApiError.invalid_argument(f"No matching objects found: {self._uri}.")
        finally:
            client.close()
        return 0

    def begin(self) -> tuple[list[Item], list[Missing]]:
        """List the objects that match."""
        self._client = storage_client()
        names = sorted(self._names(self._client))
        uris = [f"gs://{self._bucket}/{name}" for name in names]
        return [
            Item(uri, uri, partial(self._store_object, name)) for uri, name in zip(uris, names, strict=True)
        ], []

    def _names(self, client: Client) -> Iterator[str]:
        with storage_errors(self._bucket):
            listed = client.list_blobs(
                self._bucket, prefix=self._prefix, timeout=TIMEOUT_SECONDS, retry=RETRY
            )
            for blob in listed:
                # An object whose name ends with a slash stands for a folder.
                if self._pattern.fullmatch(blob.name) and not blob.name.endswith("/"):
                    yield blob.name

    def _store_object(self, name: str) -> None:
        if self._client is None:
            raise RuntimeError("an item was processed before begin()")
        path = self._archive.incoming / uuid.uuid4().hex
        try:
            with storage_errors(self._bucket, name):
                blob = self._client.bucket(self._bucket).blob(name)
                blob.download_to_filename(str(path), timeout=TIMEOUT_SECONDS, retry=RETRY)
            self._archive.add(self._store, path, dicom_files.read(path), IMPORT_DICOM_DATA)
        except NotDicomError as error:
            raise ItemFailedError(INVALID_ARGUMENT, str(error)) from error
        except AlreadyStoredError:
            return
        finally:
            path.unlink(missing_ok=True)

    def close(self, *, cancelled: bool) -> None:
        """Close the connections; every instance has been visible since it was stored."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _check_storage_class(request: JsonObject) -> None:
    settings = cast("dict[str, str]", request.get("blobStorageSettings") or {})
    wanted = settings.get("blobStorageClass", "STANDARD")
    if wanted not in ("STANDARD", "BLOB_STORAGE_CLASS_UNSPECIFIED"):
        raise ApiError.unimplemented(
            f"The local Healthcare API has no storage class {wanted}, only STANDARD."
        )


def _pattern(uri: str, bucket: str, name: str) -> re.Pattern[str]:
    """Return the pattern of the names of the objects that a URI with wildcards names."""
    everything = _EVERYTHING_BELOW.fullmatch(name)
    if not name or re.search(r"[*?]", bucket) or ("**" in name and everything is None):
        raise ApiError.invalid_argument(
            f"Invalid Cloud Storage URI: {uri!r} is not of the form gs://{{bucket_id}}/{{object_id}}, where "
            "object_id may have the wildcards * and ?, or ** at its end or before a file extension."
        )
    if everything is not None:
        text = re.escape(everything["folder"]) + ".*" + re.escape(everything["extension"] or "")
    else:
        text = "".join(_WILDCARDS.get(part, re.escape(part)) for part in name)
    return re.compile(text, re.DOTALL)
