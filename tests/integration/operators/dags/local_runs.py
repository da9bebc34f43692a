"""
A DAG with what people combine: a setup and a teardown, a mapped task group in which one index is skipped, and
the outputs of a mapped task as a list of resource paths. As a program, it runs itself by ``dag.test()``.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, setup, task, task_group, teardown

from airflow_provider_dicom.operators.check import DicomStoreExportCheckOperator
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import DicomStoreSearchOperator

BUCKET = f"gs://{os.environ['LOCAL_RUNS_BUCKET']}"
PLACE: dict[str, Any] = {
    "location": "europe-west3",
    "dataset_id": os.environ["LOCAL_RUNS_DATASET"],
    "api_endpoint": os.environ["LOCAL_RUNS_ENDPOINT"],
}
#: The first one is empty.
STORES = os.environ["LOCAL_RUNS_STORES"].split(",")
PATHS = os.environ["LOCAL_RUNS_PATHS"].split(",")

with DAG("local_runs", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False) as dag:

    @task
    def stores() -> list[str]:
        return STORES

    @task_group
    def part(store: str) -> None:
        search = DicomStoreSearchOperator(
            task_id="search",
            **PLACE,
            dicom_store_id=store,
            level="instances",
            filter_uri=BUCKET + "/filters/{{ ti.map_index }}.txt",
        )
        export = DicomStoreExportOperator(
            task_id="export",
            **PLACE,
            dicom_store_id=store,
            destination=BUCKET + "/part/{{ task.dicom_store_id }}/",
            filter_uri=search.output["filter_uri"],
            poll_interval=1.0,
        )
        check = DicomStoreExportCheckOperator(
            task_id="check",
            **PLACE,
            dicom_store_id=store,
            destination=BUCKET + "/part/{{ task.dicom_store_id }}/",
            filter_uri=search.output["filter_uri"],
        )
        export >> check

    @setup
    def prepare() -> None:
        pass

    @teardown
    def clean_up() -> None:
        pass

    @task
    def path_of(number: int) -> str:
        return PATHS[number]

    @task_group
    def between() -> None:
        begin, end = prepare(), clean_up()
        listed = DicomStoreExportOperator(
            task_id="listed",
            **PLACE,
            dicom_store_id=STORES[-1],
            destination=BUCKET + "/listed/",
            filter_uri=BUCKET + "/filters/listed.txt",
            # A lazy sequence: Airflow reads each path when it is asked for.
            resource_paths=path_of.expand(number=list(range(len(PATHS)))),  # type: ignore[arg-type]
            deferrable=False,
            poll_interval=1.0,
        )
        begin >> listed >> end
        begin >> end

    DicomStoreExportOperator(
        task_id="alone",
        **PLACE,
        dicom_store_id=STORES[-1],
        destination=BUCKET + "/alone/",
        poll_interval=1.0,
    )
    part.expand(store=stores())
    between()

if __name__ == "__main__":
    run = dag.test()
    instances = run.get_task_instances()
    states = {f"{ti.task_id}[{ti.map_index}]": ti.state for ti in instances}
    sys.stdout.write(f"\n{json.dumps({'run': run.state, 'tasks': states})}\n")
