"""Assets that are DICOM stores: ``dicomstore://PROJECT/LOCATION/DATASET/STORE``."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.lineage.datasets import SCHEME, dataset_of_store

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from airflow.providers.common.compat.openlineage.facet import Dataset
    from airflow.providers.common.compat.sdk import Asset
    from pydantic import JsonValue

_ACCEPTED = f"'{SCHEME}://PROJECT/LOCATION/DATASET/STORE'"


def create_asset(
    *,
    project_id: str,
    location: str,
    dataset_id: str,
    dicom_store_id: str,
    extra: dict[str, JsonValue] | None = None,
) -> Asset:
    """
    Build the asset that stands for a DICOM store.

    :param project_id: the project's id.
    :param location: the location.
    :param dataset_id: the dataset's id.
    :param dicom_store_id: the DICOM store's id.
    :param extra: more information for the asset.
    :raises DicomExportInvalidRequestError: if an id is not acceptable.
    """
    from airflow.providers.common.compat.sdk import Asset

    store = DicomStoreName(DatasetName(project_id, location, dataset_id), dicom_store_id)
    dataset = store.dataset
    uri = f"{SCHEME}://{dataset.project_id}/{dataset.location}/{dataset.dataset_id}/{store.dicom_store_id}"
    return Asset(uri=uri, extra=extra or {})


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """
    Validate the URI of a DICOM store's asset, and return its canonical form.

    :param uri: the parsed URI.
    :raises ValueError: if it does not name a DICOM store.
    """
    _store_of(uri)
    return uri._replace(path=uri.path.rstrip("/"))


def convert_asset_to_openlineage(asset: Asset, lineage_context: object) -> Dataset:
    """
    Convert the asset to an OpenLineage dataset.

    :param asset: the asset.
    :param lineage_context: the hook or operator that reported it.
    :raises ValueError: if the asset is not a DICOM store.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset

    namespace, name = dataset_of_store(_store_of(urlsplit(asset.uri)))
    return Dataset(namespace=namespace, name=name)


def _store_of(uri: SplitResult) -> DicomStoreName:
    ids = (uri.netloc, *uri.path.strip("/").split("/"))
    if len(ids) != 4 or uri.query or uri.fragment:
        raise ValueError(f"{uri.geturl()!r} does not name a DICOM store; accepted: {_ACCEPTED}.")
    project_id, location, dataset_id, dicom_store_id = ids
    try:
        return DicomStoreName(DatasetName(project_id, location, dataset_id), dicom_store_id)
    except DicomExportInvalidRequestError as error:
        # Airflow expects a ValueError from every asset scheme.
        raise ValueError(str(error)) from None
