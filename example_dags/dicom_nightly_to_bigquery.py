"""Writes the metadata of a DICOM store to BigQuery every night, a table for each night.

The table is named for its date. A repeated night replaces its own table only; with Airflow
3.3, each night is a partition. A query reads one night from ``dicom_metadata_20260329``,
and all nights from ``dicom_metadata_*``.

The Trigger form in Airflow's UI offers the values that environment variables list,
separated by commas; the first one is the default. Credentials come from the Airflow
connection ``google_cloud_default``.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

# With Airflow 3 only: `from airflow.sdk import DAG, Param, task`.
from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

# A run without a logical date (Airflow 3: of the API, of an asset, a cleared date) has no `ds`.
DAY = "(ds if ds is defined else dag_run.run_after | ds)"
try:
    from airflow.sdk import CronPartitionTimetable
except ImportError:  # before Airflow 3.2
    SCHEDULE = "0 3 * * *"
    NIGHT = f"{{{{ {DAY} | replace('-', '') }}}}"
else:
    # Each night is a partition; its key names the night, also in a repeated run.
    SCHEDULE = CronPartitionTimetable("0 3 * * *", timezone="UTC", key_format="%Y-%m-%d")
    NIGHT = f"{{{{ (dag_run.partition_key or {DAY}) | replace('-', '') }}}}"

if TYPE_CHECKING:
    from airflow_provider_dicom.results import DicomExportResult


def offered(variable: str, default: str) -> Param:
    """Offer the values of a comma-separated environment variable; the first one is the default."""
    values = os.environ.get(variable, default).split(",")
    return Param(values[0], type="string", enum=values)


with DAG(
    dag_id="dicom_nightly_to_bigquery",
    schedule=SCHEDULE,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    params={
        "location": offered("DICOM_LOCATION", "europe-west3"),
        "dataset": offered("DICOM_DATASET", "radiology"),
        "store": offered("DICOM_STORE", "pacs"),
        "table": offered("DICOM_TABLE", "my-project.radiology.dicom_metadata"),
    },
    tags=["dicom"],
    doc_md=__doc__,
) as dag:
    # Submits the export and defers: no worker slot is held while the export runs.
    export = DicomStoreExportOperator(
        task_id="export",
        location="{{ params.location }}",
        dataset_id="{{ params.dataset }}",
        dicom_store_id="{{ params.store }}",
        destination=f"bq://{{{{ params.table }}}}_{NIGHT}",
        # A repeated run replaces the table; WRITE_APPEND would duplicate its rows.
        write_disposition="WRITE_TRUNCATE",
        bigquery_schema="flattened",
        execution_timeout=timedelta(hours=6),
    )

    @task
    def report(result: DicomExportResult) -> str:
        """Use the result: the number of rows and the table."""
        return f"{result['success']} instances of {result['dicom_store']} are rows of {result['destination']}"

    report(export.output)
