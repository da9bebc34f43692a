"""Exports every night the studies of the day before, and what of the week before has come late.

Each night is a partition: its key names the day, its files are in a folder of that name, and another DAG
reads the night's folder once everything has arrived. What an earlier night has exported is left out, so that
a failed night is made up for by the next one, and running a night again touches that night only.

Needs Airflow 3.3. Studies that arrive more than ``lookback_days`` after their date are never found this way;
``dicom_incremental_by_arrival`` finds them.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset, CronPartitionTimetable, PartitionedAssetTimetable, task

from airflow_provider_dicom.operators.check import DicomStoreExportCheckOperator
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import DicomStoreSearchOperator

BUCKET = os.environ.get("DICOM_BUCKET", "my-dicom-exports")
STORE = {
    "location": "{{ params.location }}",
    "dataset_id": "{{ params.dataset }}",
    "dicom_store_id": "{{ params.store }}",
}
NIGHTS = f"gs://{BUCKET}/by_study_date/"
NIGHT = NIGHTS + "{{ partition_key }}/"
FIRST_DAY = (
    "{{ macros.ds_format(macros.ds_add(partition_key, -params.lookback_days), '%Y-%m-%d', '%Y%m%d') }}"
)
LAST_DAY = "{{ partition_key | replace('-', '') }}"

nights = Asset(name="dicom_nights", uri=NIGHTS)

with DAG(
    dag_id="dicom_incremental_by_study_date",
    # At 2 in the morning, for the day before.
    schedule=CronPartitionTimetable("0 2 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    params={
        "location": os.environ.get("DICOM_LOCATION", "europe-west3"),
        "dataset": os.environ.get("DICOM_DATASET", "radiology"),
        "store": os.environ.get("DICOM_STORE", "pacs"),
        "lookback_days": 7,
    },
    tags=["dicom"],
    doc_md=__doc__,
) as dag:
    search = DicomStoreSearchOperator(
        task_id="search",
        **STORE,
        level="instances",
        filters={"StudyDate": f"{FIRST_DAY}-{LAST_DAY}"},
        exclude_exported_to=NIGHTS,
        filter_uri=f"gs://{BUCKET}/filters/by_study_date/{{{{ partition_key }}}}.txt",
    )
    export = DicomStoreExportOperator(
        task_id="export",
        **STORE,
        destination=NIGHT,
        filter_uri=search.output["filter_uri"],
        execution_timeout=timedelta(hours=6),
    )
    # Only a night that is complete is handed on.
    check = DicomStoreExportCheckOperator(
        task_id="check",
        **STORE,
        destination=NIGHT,
        filter_uri=search.output["filter_uri"],
        outlets=[nights],
    )

    search >> export >> check

with DAG(
    dag_id="dicom_night_consumer",
    schedule=PartitionedAssetTimetable(assets=nights),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["dicom"],
) as consumer:

    @task
    def count_files(partition_key: str | None = None) -> int:
        """Use the files of one night: those of the partition that this run is for."""
        from airflow.providers.google.cloud.hooks.gcs import GCSHook

        return len(GCSHook().list(BUCKET, prefix=f"by_study_date/{partition_key}/"))

    count_files()
