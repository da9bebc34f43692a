"""The request of one export: its destination, and the instances that it selects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, cast

from airflow_provider_dicom.emulator.errors import ApiError

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.messages import JsonObject
    from airflow_provider_dicom.emulator.models.archive import Archive
    from airflow_provider_dicom.emulator.models.instances import StoredInstance
    from airflow_provider_dicom.emulator.names import ResourcePath

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
        from airflow_provider_dicom.emulator.exports.bigquery_destination import BigQueryDestination

        return BigQueryDestination(
            cast("str", bigquery.get("tableUri", "")),
            _disposition(bigquery),
            _schema(bigquery),
            bigquery.get("includeSourceStore") is True,
        )
    raise ApiError.invalid_argument("destination is required: set gcsDestination or bigqueryDestination")


def _disposition(bigquery: JsonObject) -> str | None:
    """Return the write disposition; ``force`` is its deprecated form, and ignored beside it."""
    disposition = cast("str", bigquery.get("writeDisposition", _UNSPECIFIED))
    if disposition != _UNSPECIFIED:
        return disposition
    return "WRITE_TRUNCATE" if bigquery.get("force") is True else None


def _schema(bigquery: JsonObject) -> Literal["default", "flattened", "json"]:
    if "schemaFlattened" in bigquery:
        return "flattened"
    return "json" if "schemaJson" in bigquery else "default"


def is_idempotent(request: JsonObject) -> bool:
    """Tell whether the output may be made visible twice: objects are replaced, rows duplicated."""
    return "gcsDestination" in request


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
