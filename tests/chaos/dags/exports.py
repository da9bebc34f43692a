"""DAGs of the chaos suite: each exports the dataset in the run's parameters; one DAG is mapped."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dicom.operators import _long_running
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

# Short, like the other thresholds of the rig, so that the test takes seconds.
_long_running.GRACE = timedelta(seconds=10)

PARAMS = {
    "dataset": "",
    "destination": "",
    "count": 0,
}


def hold_back(context: Any, result: object) -> None:
    """Keep a task on its worker after the end of its export while a file with the run's name exists."""
    held = Path(os.environ["AIRFLOW_HOME"]) / "held" / context["run_id"]
    if held.exists():
        held.with_suffix(".begun").touch()
    while held.exists():
        time.sleep(0.1)


MODES: dict[str, dict[str, Any]] = {
    "export": {},
    "once": {"retries": 0},
    "on_worker": {"deferrable": False},
    "held_back": {"post_execute": hold_back},
    "lenient": {"max_failures": 1},
    "timed": {"execution_timeout": timedelta(seconds=25), "retries": 0},
    "timed_on_worker": {"execution_timeout": timedelta(seconds=25), "retries": 0, "deferrable": False},
}
WHERE: dict[str, Any] = {
    "task_id": "export",
    # Airflow 2 needs a start date.
    "start_date": datetime(2024, 1, 1, tzinfo=UTC),
    "location": "europe-west3",
    "dataset_id": "{{ params.dataset }}",
    "dicom_store_id": "store",
    "poll_interval": 2.0,
    "retries": 2,
    "retry_delay": timedelta(seconds=1),
}

for name, arguments in MODES.items():
    with DAG(dag_id=name, schedule=None, params=PARAMS):
        DicomStoreExportOperator(
            **(WHERE | arguments),
            destination="{{ params.destination }}",
        )

with DAG(dag_id="append", schedule=None, params=PARAMS):
    DicomStoreExportOperator(
        **WHERE,
        destination="{{ params.destination }}",
        write_disposition="WRITE_APPEND",
        bigquery_schema="flattened",
    )

with DAG(dag_id="by_variable", schedule=None, params=PARAMS):
    DicomStoreExportOperator(
        **WHERE, destination="{{ params.destination }}{{ var.value.get('folder', 'first') }}/"
    )

with DAG(dag_id="mapped", schedule=None, params=PARAMS, max_active_tasks=400) as mapped:

    @mapped.task(start_date=WHERE["start_date"])
    def destinations(params: Any = None) -> list[str]:
        """Return one destination for each index."""
        return [f"{params['destination']}{index}/" for index in range(int(params["count"]))]

    # As in production, the first poll comes after 10 s or more.
    DicomStoreExportOperator.partial(**(WHERE | {"poll_interval": 10.0})).expand(destination=destinations())
