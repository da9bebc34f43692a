"""Exports every night the instances that have arrived in a DICOM store since the last export.

A first task exports the DICOM store's metadata to a BigQuery table. A query of the table
selects the new instances, which are exported to Cloud Storage, into a folder named for the
night. An Airflow Variable, named for the DICOM store and the destination, holds the time up
to which everything has been exported. It moves only after all instances have arrived: the
next run exports what a failed one missed.

If the DICOM store streams its metadata to BigQuery, remove ``refresh_table`` and ``until``,
and write the DICOM store's full name into ``STORE_NAME``.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

# With Airflow 3 only: `from airflow.sdk import DAG, Param`.
from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_dicom.operators.check import DicomStoreExportCheckOperator
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import DicomHighWaterMarkOperator, DicomMetadataQueryOperator

STORE = {
    "location": "{{ params.location }}",
    "dataset_id": "{{ params.dataset }}",
    "dicom_store_id": "{{ params.store }}",
}
TABLE = "bq://{{ params.table }}"
# A run without a logical date (Airflow 3: of the API, of an asset, a cleared date) has no `ds`.
DAY = "{{ ds if ds is defined else dag_run.run_after | ds }}"
NIGHT = f"gs://{{{{ params.bucket }}}}/by_arrival/{DAY}/"
# One Variable for each DICOM store, by its full name, and each destination: a run for another of them must
# not move the mark. Slashes are replaced, because REST clients put the Variable's name into a path.
STORE_NAME = "{{ ti.xcom_pull(task_ids='refresh_table')['dicom_store'] | replace('/', ':') }}"
MARK = f"dicom_exported_until:{STORE_NAME}:{{{{ params.bucket }}}}:by_arrival"


def offered(variable: str, default: str) -> Param:
    """Offer the values of a comma-separated environment variable; the first one is the default."""
    values = os.environ.get(variable, default).split(",")
    return Param(values[0], type="string", enum=values)


with DAG(
    dag_id="dicom_incremental_by_arrival",
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    # Two concurrent runs would select and export the same instances.
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    params={
        "location": offered("DICOM_LOCATION", "europe-west3"),
        "dataset": offered("DICOM_DATASET", "radiology"),
        "store": offered("DICOM_STORE", "pacs"),
        "bucket": offered("DICOM_BUCKET", "my-dicom-exports"),
        "table": offered("DICOM_TABLE", "my-project.radiology.dicom_metadata"),
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
        filter_uri=f"gs://{{{{ params.bucket }}}}/filters/by_arrival/{DAY}.txt",
        high_water_mark=MARK,
        # The next night exports instances that arrive while the table is written.
        until=refresh.output,
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
