"""A DAG for the tests of the web interface: one export for each store, polled often."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

with DAG(
    dag_id="followed",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    params={"destination": "gs://web/followed/"},
):
    DicomStoreExportOperator.partial(
        task_id="export",
        location="europe-west3",
        dataset_id="radiology",
        destination="{{ params.destination }}",
        poll_interval=1.0,
        max_failures=3,
        map_index_template="{{ task.dicom_store_id }}",
    ).expand(dicom_store_id=["followed-1", "followed-2"])
