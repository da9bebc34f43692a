"""The facets of an export in OpenLineage."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_dicom import console
from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName
from airflow_provider_dicom.lineage.facets import export_lineage

STORE = DicomStoreName(DatasetName("p", "europe-west3", "radiology"), "pacs")
NAME = "projects/p/locations/europe-west3/datasets/radiology/operations/7"
OPERATION: Any = {
    "name": NAME,
    "done": True,
    "metadata": {
        "createTime": "2026-03-29T02:00:00Z",
        "endTime": "2026-03-29T03:00:00Z",
        "counter": {"success": "40", "failure": "2"},
    },
}


def facets(operation: Any = OPERATION, store: DicomStoreName | None = STORE, **request: Any) -> Any:
    return export_lineage(ExportRequest(**({"destination": "gs://bucket/x"} | request)), store, operation)


@pytest.mark.parametrize("mime_type", [None, "application/dicom; transfer-syntax=*", "application/dicom"])
def test_output_of_dicom_files_has_a_file_count(mime_type: str | None) -> None:
    (output,) = facets(mime_type=mime_type).outputs
    statistics = output.outputFacets["outputStatistics"]
    assert (statistics.fileCount, statistics.rowCount) == (40, None)


def test_output_of_images_has_no_file_count_because_frames_are_not_counted() -> None:
    (output,) = facets(mime_type="image/png").outputs
    assert not output.outputFacets


def test_output_of_a_table_has_a_row_count() -> None:
    (output,) = facets(destination="bq://p.d.t").outputs
    statistics = output.outputFacets["outputStatistics"]
    assert (statistics.fileCount, statistics.rowCount) == (None, 40)


def test_run_facet_describes_the_operation() -> None:
    facet = facets().run_facets["dicom_export"]
    assert (facet.operationName, facet.done, facet.errorCode) == (NAME, True, None)
    assert (facet.success, facet.failure, facet.pending) == (40, 2, 0)
    assert (facet.createTime, facet.endTime) == ("2026-03-29T02:00:00Z", "2026-03-29T03:00:00Z")
    assert facet.logsUrl == console.logs_query_url(OPERATION, str(STORE))
    failed = {**OPERATION, "error": {"code": 13, "message": "no"}}
    assert facets(failed).run_facets["dicom_export"].errorCode == 13


def test_operation_with_a_name_only_has_no_counts() -> None:
    lineage = facets({"name": NAME})
    assert lineage.run_facets["dicom_export"].success is None
    assert not lineage.outputs[0].outputFacets


def test_lineage_without_an_operation_has_datasets_only() -> None:
    lineage = facets(None, None)
    assert (lineage.inputs, lineage.run_facets) == ([], {})
    assert not lineage.outputs[0].outputFacets
