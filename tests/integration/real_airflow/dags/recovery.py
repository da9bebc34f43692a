"""DAGs for the tests of retries and kills: one deferred export, retried once at once."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

for dag_id in ("retried", "marked_failed", "cleared", "timed_out"):
    with DAG(dag_id=dag_id, schedule=None, params={"store": "", "bucket": ""}):
        DicomStoreExportOperator(
            task_id="export",
            location="europe-west3",
            dataset_id="radiology",
            dicom_store_id="{{ params.store }}",
            destination="gs://{{ params.bucket }}/{{ dag.dag_id }}/",
            poll_interval=1.0,
            retries=1 if dag_id == "retried" else 0,
            retry_delay=timedelta(seconds=1),
            execution_timeout=timedelta(seconds=15) if dag_id == "timed_out" else None,
        )
