"""Exports a DICOM store every night, and exports again what is missing, and only that.

- `export` ends if no more than one in ten instances fail.
- `check` compares the folder with the DICOM store, and writes what is missing to a filter
  file.
- `export_missing` exports that, into the same folder; what is there is not written again.
- `check_missing` fails if something is still missing, and names it.

If nothing is missing, the last two tasks are skipped, and the night has cost one search.
The guide "Know what failed" says when to prefer this to retries.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

# With Airflow 3 only: `from airflow.sdk import DAG, Param`.
from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_dicom.operators.check import DicomStoreExportCheckOperator
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

# A run without a logical date (Airflow 3: of the API, of an asset, a cleared date) has no `ds`.
NIGHT = "{{ ds if ds is defined else dag_run.run_after | ds }}"
STORE = {
    "location": "{{ params.location }}",
    "dataset_id": "{{ params.dataset }}",
    "dicom_store_id": "{{ params.store }}",
    "destination": f"gs://{{{{ params.bucket }}}}/complete/{NIGHT}/",
}


def offered(variable: str, default: str) -> Param:
    """Offer the values of a comma-separated environment variable; the first one is the default."""
    values = os.environ.get(variable, default).split(",")
    return Param(values[0], type="string", enum=values)


with DAG(
    dag_id="dicom_nightly_complete",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    params={
        "location": offered("DICOM_LOCATION", "europe-west3"),
        "dataset": offered("DICOM_DATASET", "radiology"),
        "store": offered("DICOM_STORE", "pacs"),
        "bucket": offered("DICOM_BUCKET", "my-dicom-exports"),
    },
    tags=["dicom"],
    doc_md=__doc__,
) as dag:
    export = DicomStoreExportOperator(
        task_id="export",
        **STORE,
        # More failures have a common cause, such as a missing role: then the task fails.
        max_failures=0.1,
        execution_timeout=timedelta(hours=6),
    )
    check = DicomStoreExportCheckOperator(
        task_id="check",
        **STORE,
        on_missing="warn",
        missing_uri=f"gs://{{{{ params.bucket }}}}/missing/{NIGHT}.txt",
    )
    export_missing = DicomStoreExportOperator(
        task_id="export_missing",
        **STORE,
        filter_uri=check.output["missing_uri"],
        # The check names what fails again.
        max_failures=1.0,
        execution_timeout=timedelta(hours=6),
    )
    check_missing = DicomStoreExportCheckOperator(
        task_id="check_missing",
        **STORE,
        filter_uri=check.output["missing_uri"],
    )

    export >> check >> export_missing >> check_missing
