"""Exports every night what has arrived in a DICOM store since the last export, whatever its dates say.

The DICOM store's metadata is exported to a BigQuery table, the table tells which instances are new, and they
are exported to Cloud Storage, into a folder named for the night. How far the exports have come is kept in an
Airflow Variable that is moved only when everything has arrived: the night after a failed one makes up for it.

If the DICOM store streams its metadata to BigQuery, leave out ``refresh_table``, and ``until`` with it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

# Where there is only Airflow 3: `from airflow.sdk import DAG`.
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dicom.operators.check import DicomStoreExportCheckOperator
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import DicomHighWaterMarkOperator, DicomMetadataQueryOperator

STORE = {
    "location": "{{ params.location }}",
    "dataset_id": "{{ params.dataset }}",
    "dicom_store_id": "{{ params.store }}",
}
TABLE = "bq://{{ params.table }}"
NIGHT = "gs://{{ params.bucket }}/by_arrival/{{ ds }}/"
# One for each DICOM store.
MARK = "dicom_exported_until_{{ params.store }}"

with DAG(
    dag_id="dicom_incremental_by_arrival",
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    # Two runs at a time would find, and export, the same instances.
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    params={
        "location": os.environ.get("DICOM_LOCATION", "europe-west3"),
        "dataset": os.environ.get("DICOM_DATASET", "radiology"),
        "store": os.environ.get("DICOM_STORE", "pacs"),
        "bucket": os.environ.get("DICOM_BUCKET", "my-dicom-exports"),
        "table": os.environ.get("DICOM_TABLE", "my-project.radiology.dicom_metadata"),
    },
    tags=["dicom"],
    doc_md=__doc__,
) as dag:
    refresh = DicomStoreExportOperator(
        task_id="refresh_table",
        **STORE,
        destination=TABLE,
        write_disposition="WRITE_TRUNCATE",
        bigquery_schema="flattened",
        execution_timeout=timedelta(hours=6),
    )
    select = DicomMetadataQueryOperator(
        task_id="select",
        table=TABLE,
        filter_uri="gs://{{ params.bucket }}/filters/by_arrival/{{ ds }}.txt",
        high_water_mark=MARK,
        # What arrives while the table is being written is left to the next night.
        until="{{ ti.xcom_pull(task_ids='refresh_table')['create_time'] }}",
    )
    export = DicomStoreExportOperator(
        task_id="export",
        **STORE,
        destination=NIGHT,
        filter_uri=select.output["filter_uri"],
        execution_timeout=timedelta(hours=6),
    )
    check = DicomStoreExportCheckOperator(
        task_id="check", **STORE, destination=NIGHT, filter_uri=select.output["filter_uri"]
    )
    move_mark = DicomHighWaterMarkOperator(task_id="move_mark", high_water_mark=MARK, selection=select.output)

    refresh >> select >> export >> check >> move_mark
