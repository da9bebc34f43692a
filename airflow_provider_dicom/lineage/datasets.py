"""What an export reads and writes, by OpenLineage's names, and as hooks report it to Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_dicom.api.destinations import GcsUri, parse_destination

if TYPE_CHECKING:
    from airflow_provider_dicom.api.destinations import Destination
    from airflow_provider_dicom.api.export_request import ExportRequest
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook

#: With the store's name behind it, Google's full resource name.
STORE_NAMESPACE = "healthcare.googleapis.com"


class DatasetKey(NamedTuple):
    """What OpenLineage tells datasets apart by."""

    namespace: str
    name: str


def dataset_of_store(store: DicomStoreName) -> DatasetKey:
    """
    Name the OpenLineage dataset that stands for a DICOM store.

    :param store: the DICOM store.
    """
    return DatasetKey(STORE_NAMESPACE, str(store))


def dataset_of_destination(destination: Destination) -> DatasetKey:
    """
    Name the OpenLineage dataset that an export writes to, as the Google provider names it.

    :param destination: where the export goes.
    """
    if isinstance(destination, GcsUri):
        return DatasetKey(f"gs://{destination.bucket}", destination.path.rstrip("/") or "/")
    return DatasetKey("bigquery", f"{destination.project_id}.{destination.dataset_id}.{destination.table_id}")


def report_export(hook: DicomStoreHook, store: DicomStoreName, request: ExportRequest) -> None:
    """
    Tell Airflow's hook lineage collector about an export that the API has accepted.

    :param hook: the hook that submitted it.
    :param store: the DICOM store.
    :param request: what is exported to where.
    """
    from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

    from airflow_provider_dicom.assets.dicom_store import SCHEME

    destination = parse_destination(request.destination)
    collector = get_hook_lineage_collector()
    collector.add_input_asset(
        context=hook,
        scheme=SCHEME,
        asset_kwargs={
            "project_id": store.dataset.project_id,
            "location": store.dataset.location,
            "dataset_id": store.dataset.dataset_id,
            "dicom_store_id": store.dicom_store_id,
        },
    )
    if isinstance(destination, GcsUri):
        collector.add_output_asset(
            context=hook,
            scheme="gs",
            asset_kwargs={"bucket": destination.bucket, "key": destination.path},
        )
    else:
        collector.add_output_asset(
            context=hook,
            scheme="bigquery",
            asset_kwargs={
                "project_id": destination.project_id,
                "dataset_id": destination.dataset_id,
                "table_id": destination.table_id,
            },
        )
