"""DAGs for the tests of lineage: exports that OpenLineage sees, and a DAG that waits for an asset."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import DAG, Asset, task

from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

STORE: dict[str, Any] = {
    "location": "europe-west3",
    "dataset_id": "radiology",
    "dicom_store_id": "{{ params.store }}",
}
PARAMS = {"store": "", "destination": ""}
EXPORTED = Asset("gs://lineage-run/exported")
SUBMITTED = Asset("gs://lineage-run/submitted")

MODES: dict[str, dict[str, Any]] = {
    "lineage_deferred": {"outlets": [EXPORTED]},
    "lineage_on_worker": {"deferrable": False},
    "lineage_no_wait": {"wait_for_completion": False, "outlets": [SUBMITTED]},
    "lineage_failing": {},
}

for mode, arguments in MODES.items():
    with DAG(dag_id=mode, schedule=None, params=PARAMS):
        DicomStoreExportOperator(
            task_id="export", destination="{{ params.destination }}", poll_interval=1.0, **STORE, **arguments
        )

with DAG(dag_id="lineage_by_hook", schedule=None, params=PARAMS):

    @task
    def export(params: Any = None) -> str:
        """Submit an export without the operator."""
        from airflow_provider_dicom.api.export_request import ExportRequest
        from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook

        with DicomStoreHook() as hook:
            store = hook.dicom_store_name("europe-west3", "radiology", params["store"])
            return hook.export(store, ExportRequest(destination=params["destination"]))["name"]

    export()

with DAG(dag_id="lineage_after_export", schedule=[EXPORTED]):

    @task
    def read(triggering_asset_events: Any = None) -> list[dict[str, Any]]:
        """Return what the asset's events carry."""
        return [event.extra for events in triggering_asset_events.values() for event in events]

    read()
