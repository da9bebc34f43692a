"""Exports every night the studies of the day before, and late ones of the week before.

Each night is a partition. The partition key names the day and the folder of its files, and
a second DAG reads the folder after all its instances have arrived. Instances that an
earlier night has exported are left out. Therefore the next night exports what a failed one
missed, and a repeated night touches its own folder only.

Needs Airflow 3.3. Studies that arrive more than ``lookback_days`` after their date are
never found; the example ``dicom_incremental_by_arrival`` finds them.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, CronPartitionTimetable, Param, PartitionedAssetTimetable, task

from airflow_provider_dicom.operators.check import DicomStoreExportCheckOperator
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import DicomStoreSearchOperator

BUCKET, *_ = os.environ.get("DICOM_BUCKET", "my-dicom-exports").split(",")
STORE = {
    "location": "{{ params.location }}",
    "dataset_id": "{{ params.dataset }}",
    "dicom_store_id": "{{ params.store }}",
}
NIGHTS = f"gs://{BUCKET}/by_study_date/"
# A run that a person triggers without a partition key is for the day before, too.
DAY = "(dag_run.partition_key or macros.ds_add(dag_run.run_after | ds, -1))"
NIGHT = f"{NIGHTS}{{{{ {DAY} }}}}/"
FIRST_DAY = f"{{{{ macros.ds_add({DAY}, -params.lookback_days) | replace('-', '') }}}}"
LAST_DAY = f"{{{{ {DAY} | replace('-', '') }}}}"

nights = Asset(name="dicom_nights", uri=NIGHTS)


def offered(variable: str, default: str) -> Param:
    """Offer the values of a comma-separated environment variable; the first one is the default."""
    values = os.environ.get(variable, default).split(",")
    return Param(values[0], type="string", enum=values)


with DAG(
    dag_id="dicom_incremental_by_study_date",
    # At 02:00, for the day before.
    schedule=CronPartitionTimetable("0 2 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    params={
        "location": offered("DICOM_LOCATION", "europe-west3"),
        "dataset": offered("DICOM_DATASET", "radiology"),
        "store": offered("DICOM_STORE", "pacs"),
        "lookback_days": Param(7, type="integer", minimum=1, maximum=365),
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
        filter_uri=f"gs://{BUCKET}/filters/by_study_date/{{{{ {DAY} }}}}.txt",
    )
    export = DicomStoreExportOperator(
        task_id="export",
        **STORE,
        destination=NIGHT,
        filter_uri=search.output["filter_uri"],
        execution_timeout=timedelta(hours=6),
    )
    # The consumer runs for complete nights only.
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
    def count_files(dag_run: Any) -> int:
        """Use the files of one night: those of this run's partition; without one, the files of all nights."""
        from airflow.providers.google.cloud.hooks.gcs import GCSHook

        night = f"{dag_run.partition_key}/" if dag_run.partition_key else ""
        return len(GCSHook().list(BUCKET, prefix=f"by_study_date/{night}"))

    count_files()
