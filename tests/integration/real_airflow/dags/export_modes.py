"""DAGs for the tests with a real Airflow: the operator's modes beside the deferred one of the examples."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

MODES: dict[str, dict[str, Any]] = {
    "on_worker": {"deferrable": False},
    "no_wait": {"wait_for_completion": False},
    "own_endpoint": {"api_endpoint": "{{ params.endpoint }}"},
}

for mode, arguments in MODES.items():
    with DAG(dag_id=mode, schedule=None, params={"store": "", "bucket": "", "endpoint": ""}):
        DicomStoreExportOperator(
            task_id="export",
            location="europe-west3",
            dataset_id="radiology",
            dicom_store_id="{{ params.store }}",
            destination="gs://{{ params.bucket }}/{{ dag.dag_id }}/{{ ds }}/",
            poll_interval=1.0,
            execution_timeout=timedelta(minutes=5),
            **arguments,
        )
