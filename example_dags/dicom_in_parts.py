"""Exports every night what is new in a large DICOM store, in parts that run beside each other.

The DICOM store streams its metadata to a BigQuery table. A query of the table selects the
instances that have arrived since the last export, and writes their paths to files with a
limited number of paths. Each file becomes an export of its own, a mapped task: a part that
fails is done again alone. An Airflow Variable holds the time up to which everything has been
exported. It moves only after all parts have arrived.

The pool limits the number of exports at the same time. It counts deferred tasks, so that a
part holds its slot until its export has ended. Create the pool once::

    airflow pools set dicom_exports 5 "Exports of DICOM stores" --include-deferred
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
# A run without a logical date (Airflow 3: of the API, of an asset, a cleared date) has no `ds`.
DAY = "{{ ds if ds is defined else dag_run.run_after | ds }}"
NIGHT = f"gs://{{{{ params.bucket }}}}/in_parts/{DAY}/"
# One Variable for each DICOM store and each destination. The table belongs to the project of the DICOM store.
STORE_NAME = "{{ params.table }}:{{ params.location }}:{{ params.dataset }}:{{ params.store }}"
MARK = f"dicom_exported_until:{STORE_NAME}:{{{{ params.bucket }}}}:in_parts"
PATHS_OF_A_PART = 100_000


def offered(variable: str, default: str) -> Param:
    """Offer the values of a comma-separated environment variable; the first one is the default."""
    values = os.environ.get(variable, default).split(",")
    return Param(values[0], type="string", enum=values)


with DAG(
    dag_id="dicom_in_parts",
    schedule="0 4 * * *",
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
    select = DicomMetadataQueryOperator(
        task_id="select",
        table="bq://{{ params.table }}",
        filter_uri=f"gs://{{{{ params.bucket }}}}/filters/in_parts/{DAY}.txt",
        high_water_mark=MARK,
        max_paths_per_file=PATHS_OF_A_PART,
        # What is only moved to another storage class is not exported again.
        only_arrivals=True,
    )
    export = DicomStoreExportOperator.partial(
        task_id="export",
        **STORE,
        destination=NIGHT,
        pool="dicom_exports",
        # The UI shows the name of the part's file instead of the map index.
        map_index_template="{{ task.filter_uri.rpartition('/')[2] }}",
        execution_timeout=timedelta(hours=6),
    ).expand(filter_uri=select.output["filter_uris"])
    # One check of all parts: each of them would list the whole folder.
    check = DicomStoreExportCheckOperator(
        task_id="check", **STORE, destination=NIGHT, filter_uri=select.output["filter_uri"]
    )
    move_mark = DicomHighWaterMarkOperator(task_id="move_mark", high_water_mark=MARK, selection=select.output)

    export >> check >> move_mark
