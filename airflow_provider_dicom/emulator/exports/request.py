"""One export: what is asked for, what is written where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from airflow_provider_dicom.emulator.errors import ApiError

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.models.archive import Archive
    from airflow_provider_dicom.emulator.models.instances import ExportDestination, StoredInstance
    from airflow_provider_dicom.emulator.resource_path import ResourcePath
    from airflow_provider_dicom.emulator.server.discovery import JsonObject


def destination(request: JsonObject) -> ExportDestination:
    """Return where an ``ExportDicomDataRequest`` wants the instances.

    :raises ApiError: it names no destination, or one that cannot be.
    """
    # The clients of Cloud Storage and BigQuery take a second to import: only for who exports.
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
    given = cast("str | None", bigquery.get("writeDisposition"))
    disposition = None if given == "WRITE_DISPOSITION_UNSPECIFIED" else given
    if bigquery.get("force") is not True:
        return disposition
    if disposition is not None:
        raise ApiError.invalid_argument(
            "force and write_disposition are both set; set write_disposition only"
        )
    return "WRITE_TRUNCATE"


def _schema(bigquery: JsonObject) -> Literal["default", "flattened", "json"]:
    if "schemaFlattened" in bigquery:
        return "flattened"
    return "json" if "schemaJson" in bigquery else "default"


def repeatable(request: JsonObject) -> bool:
    """Tell whether making the output visible a second time changes nothing."""
    return "gcsDestination" in request


def filter_uri(request: JsonObject) -> str | None:
    """Return where the filter of an export is; None if it is for the whole store."""
    config = cast("dict[str, str]", request.get("filterConfig") or {})
    return config.get("resourcePathsGcsUri") or None


def selection(
    archive: Archive, store: str, request: JsonObject
) -> tuple[list[StoredInstance], list[ResourcePath]]:
    """Return the instances that an export is for, and the paths of its filter that lead to none.

    :raises ApiError: the filter file cannot be read.
    """
    uri = filter_uri(request)
    if uri is None:
        return archive.instances(store), []
    from airflow_provider_dicom.emulator.exports.gcs_destination import read_filter

    chosen: dict[tuple[str, str, str], StoredInstance] = {}
    missing = []
    for path in read_filter(uri):
        below = archive.instances(store, path)
        chosen.update({(i.study_uid, i.series_uid, i.instance_uid): i for i in below})
        if not below:
            missing.append(path)
    return list(chosen.values()), missing
