"""Exports every DICOM store of a dataset every night, a few at a time.

The Healthcare API has a quota for exports, and Google advises few concurrent exports.
The pool enforces a limit: it counts deferred tasks, so an export holds its slot until the
export has ended. Create the pool once, with one slot for each concurrent export::

    airflow pools set dicom_exports 5 "Exports of DICOM stores" --include-deferred
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

# With Airflow 3 only: `from airflow.sdk import DAG, Param, task`.
from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

if TYPE_CHECKING:
    from airflow_provider_dicom.results import DicomExportResult

# A run without a logical date (Airflow 3: of the API, of an asset, a cleared date) has no `ds`.
DAY = "{{ ds if ds is defined else dag_run.run_after | ds }}"


def offered(variable: str, default: str) -> Param:
    """Offer the values of a comma-separated environment variable; the first one is the default."""
    values = os.environ.get(variable, default).split(",")
    return Param(values[0], type="string", enum=values)


with DAG(
    dag_id="dicom_every_store",
    schedule="0 1 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    params={
        "location": offered("DICOM_LOCATION", "europe-west3"),
        "dataset": offered("DICOM_DATASET", "radiology"),
        "bucket": offered("DICOM_BUCKET", "my-dicom-exports"),
    },
    tags=["dicom"],
    doc_md=__doc__,
) as dag:

    @task
    def list_stores(location: str, dataset_id: str) -> list[str]:
        """List the ids of the dataset's DICOM stores."""
        from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook

        with DicomStoreHook() as hook:
            stores = hook.list_dicom_stores(hook.dataset_name(location, dataset_id))
            return [store["name"].rpartition("/")[2] for store in stores]

    export = DicomStoreExportOperator.partial(
        task_id="export",
        location="{{ params.location }}",
        dataset_id="{{ params.dataset }}",
        destination=f"gs://{{{{ params.bucket }}}}/every_store/{DAY}/{{{{ task.dicom_store_id }}}}/",
        pool="dicom_exports",
        # The UI shows the DICOM store's id instead of the map index.
        map_index_template="{{ task.dicom_store_id }}",
        execution_timeout=timedelta(hours=6),
    ).expand(dicom_store_id=list_stores("{{ params.location }}", "{{ params.dataset }}"))

    @task
    def report(results: list[DicomExportResult]) -> str:
        """Use the results of all exports."""
        count = sum(result["success"] for result in results)
        return f"{count} instances of {len(results)} DICOM stores are exported"

    report(export.output)
