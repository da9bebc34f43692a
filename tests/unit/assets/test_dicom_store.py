"""Assets of DICOM stores: their URIs, and their datasets in OpenLineage."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import Asset

from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName
from airflow_provider_dicom.assets import dicom_store as assets
from airflow_provider_dicom.lineage.datasets import SCHEME
from airflow_provider_dicom.provider_info import get_provider_info

STORE = DicomStoreName(DatasetName("p", "europe-west3", "radiology"), "pacs")
URI = "dicomstore://p/europe-west3/radiology/pacs"


def test_asset_of_a_dicom_store() -> None:
    asset = assets.create_asset(
        project_id="p", location="europe-west3", dataset_id="radiology", dicom_store_id="pacs"
    )
    assert asset.uri == URI
    assert Asset(uri=f"{URI}/").uri == URI, "Airflow uses the registered handler"
    dataset = assets.convert_asset_to_openlineage(asset, None)
    assert (dataset.namespace, dataset.name) == ("healthcare.googleapis.com", str(STORE))


@pytest.mark.airflow("3.0", "URIs in which not all is ASCII")
def test_asset_of_a_dicom_store_with_unusual_ids() -> None:
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
def test_asset_uri_that_names_no_dicom_store_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"accepted: "):
        assets.sanitize_uri(urlsplit(uri))


def test_openlineage_converter_of_assets_is_registered() -> None:
    from airflow.providers.openlineage.utils.utils import translate_airflow_asset

    dataset = translate_airflow_asset(Asset(uri=URI), None)
    assert dataset is not None
    assert dataset.name == str(STORE)
    (entry,) = get_provider_info()["asset-uris"]
    assert entry["schemes"] == [SCHEME]
