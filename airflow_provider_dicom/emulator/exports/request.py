"""The work of one export: its destination, and the instances that it selects."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.exports.work import (
    INVALID_ARGUMENT,
    NOT_FOUND,
    RESPONSES,
    Item,
    ItemFailedError,
    Missing,
)

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.exports.bigquery_destination import BigQueryDestination
    from airflow_provider_dicom.emulator.exports.bigquery_schema import SchemaKind
    from airflow_provider_dicom.emulator.messages import JsonObject
    from airflow_provider_dicom.emulator.models.archive import Archive
    from airflow_provider_dicom.emulator.models.instances import StoredInstance
    from airflow_provider_dicom.emulator.names import ResourcePath
    from airflow_provider_dicom.emulator.settings import Settings

_UNSPECIFIED = "WRITE_DISPOSITION_UNSPECIFIED"


class ExportDestination(Protocol):
    """The destination of one export; used by one thread at a time, from :meth:`open` to :meth:`close`."""

    def open(self) -> None:
        """Check that the destination can be written to.

        :raises ApiError: it cannot; the export ends with this error.
        """

    def write(self, instance: StoredInstance) -> None:
        """Write one instance.

        :raises CannotTranscode: this instance fails, the export continues.
        :raises ApiError: the destination fails, the export ends with this error.
        """

    def close(self, *, cancelled: bool) -> None:
        """Make the output visible, and close the connections.

        :param cancelled: the export was cancelled or has failed: discard what is not visible yet.
        :raises ApiError: the output cannot be made visible; the export ends with this error.
        """


def destination(request: JsonObject) -> ExportDestination:
    """Return the destination that an ``ExportDicomDataRequest`` names.

    :raises ApiError: it names no destination, or an invalid one.
    """
    # The client libraries of Cloud Storage and BigQuery take a second to import: only when they are needed.
    gcs = cast("dict[str, str]", request.get("gcsDestination"))
    if gcs is not None:
        from airflow_provider_dicom.emulator.exports.gcs_destination import GcsDestination

        return GcsDestination(gcs.get("uriPrefix", ""), gcs.get("mimeType") or None)
    bigquery = cast("JsonObject", request.get("bigqueryDestination"))
    if bigquery is not None:
        return bigquery_destination(bigquery, _disposition(bigquery))
    raise ApiError.invalid_argument("destination is required: set gcsDestination or bigqueryDestination")


def bigquery_destination(bigquery: JsonObject, disposition: str | None) -> BigQueryDestination:
    """Return the destination that a BigQuery destination of the API describes.

    :param bigquery: the destination in the form of the API.
    :param disposition: None means ``WRITE_EMPTY``.
    :raises ApiError: the URI is invalid.
    """
    from airflow_provider_dicom.emulator.exports.bigquery_destination import BigQueryDestination

    return BigQueryDestination(
        cast("str", bigquery.get("tableUri", "")),
        disposition,
        schema_kind(bigquery),
        bigquery.get("includeSourceStore") is True,
    )


def _disposition(bigquery: JsonObject) -> str | None:
    """Return the write disposition; ``force`` is its deprecated form, and ignored beside it."""
    disposition = cast("str", bigquery.get("writeDisposition", _UNSPECIFIED))
    if disposition != _UNSPECIFIED:
        return disposition
    return "WRITE_TRUNCATE" if bigquery.get("force") is True else None


def schema_kind(bigquery: JsonObject) -> SchemaKind:
    """Return the schema that a BigQuery destination of the API names."""
    if "schemaFlattened" in bigquery:
        return "flattened"
    return "json" if "schemaJson" in bigquery else "default"


def filter_uri(request: JsonObject) -> str | None:
    """Return the ``gs://`` URI of the filter file; None if the export is of the whole store."""
    config = cast("dict[str, str]", request.get("filterConfig") or {})
    return config.get("resourcePathsGcsUri") or None


def selection(
    archive: Archive, store: str, request: JsonObject
) -> tuple[list[StoredInstance], list[ResourcePath]]:
    """Return the selected instances, and the paths of the filter file that match no instance.

    :raises ApiError: the filter file cannot be read.
    """
    uri = filter_uri(request)
    if uri is None:
        return archive.instances(store), []
    from airflow_provider_dicom.emulator.exports.gcs_destination import read_filter

    selected: dict[tuple[str, str, str], StoredInstance] = {}
    unmatched = []
    for path in read_filter(uri):
        below = archive.instances(store, path)
        selected.update({(i.study_uid, i.series_uid, i.instance_uid): i for i in below})
        if not below:
            unmatched.append(path)
    return list(selected.values()), unmatched


class Export:
    """The work of an export.

    :param store: the name of the DICOM store.
    :param request: an ``ExportDicomDataRequest``.
    :raises ApiError: the request names no destination, or an invalid one.
    """

    response = f"{RESPONSES}.ExportDicomDataResponse"
    done = "exported"
    partial_failure = None

    def __init__(self, archive: Archive, store: str, request: JsonObject, settings: Settings) -> None:
        self._archive = archive
        self._store = store
        self._request = request
        self._settings = settings
        self._destination = destination(request)

    @property
    def repeatable(self) -> bool:
        """Whether the output may be made visible twice: objects are replaced, rows duplicated."""
        return "gcsDestination" in self._request

    def check(self) -> int:
        """Check that the store exists, and return the number of its instances; 0 with a filter file."""
        self._archive.store(self._store)
        if filter_uri(self._request) is not None:
            return 0
        return self._archive.metrics(self._store)["instances"]

    def begin(self) -> tuple[list[Item], list[Missing]]:
        """Select the instances, and open the destination."""
        instances, unmatched = selection(self._archive, self._store, self._request)
        self._destination.open()
        missing = (NOT_FOUND, "the DICOM store has no instance with this path")
        return (
            [Item(i.instance_uid, i.resource_path, partial(self._write, i)) for i in instances],
            [Missing(str(path), str(path), *missing) for path in unmatched],
        )

    def _write(self, instance: StoredInstance) -> None:
        from airflow_provider_dicom.emulator.imaging.transcode import CannotTranscode

        failing, uid = self._settings.failing_instances, instance.instance_uid
        if uid in failing:
            message = "the setting failing_instances contains this instance"
            raise ItemFailedError(INVALID_ARGUMENT, failing[uid] if isinstance(failing, dict) else message)
        try:
            self._destination.write(instance)
        except CannotTranscode as reason:
            raise ItemFailedError(INVALID_ARGUMENT, str(reason)) from reason
        except FileNotFoundError as error:
            raise ItemFailedError(NOT_FOUND, "the instance was deleted after the export began") from error

    def close(self, *, cancelled: bool) -> None:
        """Close the destination."""
        self._destination.close(cancelled=cancelled)
