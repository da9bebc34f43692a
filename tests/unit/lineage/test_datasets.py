"""Names of datasets and assets, and the facets of an export."""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import Asset

from airflow_provider_dicom.api.destinations import parse_destination
from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName
from airflow_provider_dicom.assets import dicom_store as assets
from airflow_provider_dicom.lineage.datasets import dataset_of_destination
from airflow_provider_dicom.lineage.facets import export_lineage
from airflow_provider_dicom.provider_info import get_provider_info

STORE = DicomStoreName(DatasetName("p", "europe-west3", "radiology"), "pacs")
URI = "dicomstore://p/europe-west3/radiology/pacs"
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


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("gs://bucket", ("gs://bucket", "/")),
        ("gs://bucket/nightly/2026/", ("gs://bucket", "nightly/2026")),
        ("bq://p.d.t", ("bigquery", "p.d.t")),
        ("bq://example.com:p.d.t", ("bigquery", "example.com:p.d.t")),
    ],
)
def test_datasets_of_destinations(destination: str, expected: tuple[str, str]) -> None:
    assert dataset_of_destination(parse_destination(destination)) == expected


def test_the_asset_of_a_store() -> None:
    asset = assets.create_asset(
        project_id="p", location="europe-west3", dataset_id="radiology", dicom_store_id="pacs"
    )
    assert asset.uri == URI
    assert Asset(uri=f"{URI}/").uri == URI, "Airflow uses the registered handler"
    dataset = assets.convert_asset_to_openlineage(asset, None)
    assert (dataset.namespace, dataset.name) == ("healthcare.googleapis.com", str(STORE))


@pytest.mark.airflow("3.0", "URIs in which not all is ASCII")
def test_the_asset_of_a_store_with_unusual_ids() -> None:
    asset = assets.create_asset(
        project_id="example.com:p", location="l", dataset_id="日本", dicom_store_id="a.b"
    )
    dataset = assets.convert_asset_to_openlineage(asset, None)
    assert dataset.name == "projects/example.com:p/locations/l/datasets/日本/dicomStores/a.b"


@pytest.mark.parametrize(
    "uri",
    [
        "dicomstore://p/l/d",
        "dicomstore://p/l/d/s/more",
        "dicomstore:///l/d/s",
        "dicomstore://p/l//s",
        "dicomstore://p/l/../s",
        "dicomstore://p/l/d/s?x=1",
    ],
)
def test_what_is_no_store_is_no_asset_of_one(uri: str) -> None:
    with pytest.raises(ValueError, match=r"accepted: "):
        assets.sanitize_uri(urlsplit(uri))


def test_openlineages_converter_is_registered() -> None:
    from airflow.providers.openlineage.utils.utils import translate_airflow_asset

    dataset = translate_airflow_asset(Asset(uri=URI), None)
    assert dataset is not None
    assert dataset.name == str(STORE)
    (entry,) = get_provider_info()["asset-uris"]
    assert entry["schemes"] == [assets.SCHEME]


def facets(operation: Any = OPERATION, store: DicomStoreName | None = STORE, **request: Any) -> Any:
    return export_lineage(ExportRequest(**({"destination": "gs://bucket/x"} | request)), store, operation)


@pytest.mark.parametrize("mime_type", [None, "application/dicom; transfer-syntax=*", "application/dicom"])
def test_files_are_counted(mime_type: str | None) -> None:
    (output,) = facets(mime_type=mime_type).outputs
    statistics = output.outputFacets["outputStatistics"]
    assert (statistics.fileCount, statistics.rowCount) == (40, None)


def test_pictures_are_not_counted_because_frames_are_not() -> None:
    (output,) = facets(mime_type="image/png").outputs
    assert not output.outputFacets


def test_rows_are_counted() -> None:
    (output,) = facets(destination="bq://p.d.t").outputs
    statistics = output.outputFacets["outputStatistics"]
    assert (statistics.fileCount, statistics.rowCount) == (None, 40)


def test_the_operation_is_a_run_facet() -> None:
    facet = facets().run_facets["dicom_export"]
    assert (facet.operationName, facet.done, facet.errorCode) == (NAME, True, None)
    assert (facet.success, facet.failure, facet.pending) == (40, 2, 0)
    assert (facet.createTime, facet.endTime) == ("2026-03-29T02:00:00Z", "2026-03-29T03:00:00Z")
    assert facet.logsUrl.startswith("https://console.cloud.google.com/logs/")
    failed = {**OPERATION, "error": {"code": 13, "message": "no"}}
    assert facets(failed).run_facets["dicom_export"].errorCode == 13


def test_a_bare_name_has_no_counts() -> None:
    lineage = facets({"name": NAME})
    assert lineage.run_facets["dicom_export"].success is None
    assert not lineage.outputs[0].outputFacets


def test_without_an_operation_there_are_only_datasets() -> None:
    lineage = facets(None, None)
    assert (lineage.inputs, lineage.run_facets) == ([], {})
    assert not lineage.outputs[0].outputFacets


@pytest.mark.slow
def test_openlineage_is_not_needed() -> None:
    program = """
import sys
sys.modules["openlineage"] = sys.modules["airflow.providers.openlineage.extractors"] = None
import airflow_provider_dicom.assets.dicom_store, airflow_provider_dicom.lineage.datasets
import airflow_provider_dicom.hooks.dicom_store, airflow_provider_dicom.operators.dicom_store
import airflow_provider_dicom.sensors.dicom_store, airflow_provider_dicom.triggers.dicom_store
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
