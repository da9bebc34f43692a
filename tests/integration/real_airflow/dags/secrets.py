"""A DAG for the test of what exports leave behind: a search by patient, and an export of what it found."""

from __future__ import annotations

import os
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

with DAG(dag_id="secrets", schedule=None, params={"connection": "", "endpoint": "", "bucket": ""}):

    @task
    def search(params: Any = None) -> list[str]:
        """Return the paths of a patient's studies; the name is in no parameter, which Airflow would keep."""
        from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook

        with DicomStoreHook(params["connection"], api_endpoint=params["endpoint"]) as hook:
            store = hook.dicom_store_name("europe-west3", "radiology", "secrets", "test-project")
            found: Any = hook.search(
                store, "studies", filters={"PatientName": os.environ["SEARCHED_PATIENT"]}
            )
            return [f"/studies/{study['0020000D']['Value'][0]}" for study in found]

    DicomStoreExportOperator(
        task_id="export",
        project_id="test-project",
        location="europe-west3",
        dataset_id="radiology",
        dicom_store_id="secrets",
        destination="gs://{{ params.bucket }}/{{ run_id }}/",
        filter_uri="gs://{{ params.bucket }}/{{ run_id }}.filter",
        resource_paths=search(),  # type: ignore[arg-type]
        gcp_conn_id="{{ params.connection }}",
        api_endpoint="{{ params.endpoint }}",
        poll_interval=1.0,
    )
