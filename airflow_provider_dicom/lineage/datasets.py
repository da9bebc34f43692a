"""Lineage of an export: its OpenLineage dataset names, and its report to Airflow's hook lineage collector."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_dicom.api.destinations import GcsUri, parse_destination

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseHook

    from airflow_provider_dicom.api.destinations import Destination
    from airflow_provider_dicom.api.export_request import ExportRequest
    from airflow_provider_dicom.api.resource_names import DicomStoreName


#: The URI scheme of assets that are DICOM stores.
SCHEME = "dicomstore"
#: Followed by the store's name, Google's full resource name.
STORE_NAMESPACE = "healthcare.googleapis.com"


class DatasetKey(NamedTuple):
    """The identity of an OpenLineage dataset."""

    namespace: str
    name: str


def dataset_of_store(store: DicomStoreName) -> DatasetKey:
    """
    Return the OpenLineage dataset of a DICOM store.

    :param store: the DICOM store.
    """
    return DatasetKey(STORE_NAMESPACE, str(store))


def dataset_of_destination(destination: Destination) -> DatasetKey:
    """
    Return the OpenLineage dataset of an export's destination, named as the Google provider names it.

    :param destination: the destination.
    """
    if isinstance(destination, GcsUri):
        return DatasetKey(f"gs://{destination.bucket}", destination.path.rstrip("/") or "/")
    return DatasetKey("bigquery", f"{destination.project_id}.{destination.dataset_id}.{destination.table_id}")


def report_export(hook: BaseHook, store: DicomStoreName, request: ExportRequest) -> None:
    """
    Report an export that the API has accepted to Airflow's hook lineage collector.

    :param hook: the hook that submitted the export.
    :param store: the DICOM store.
    :param request: the options of the export.
    """
    from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

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
