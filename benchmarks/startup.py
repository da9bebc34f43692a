"""The cost of a task before it defers: the import of its operator, and the way from there to the deferral.

``python -m benchmarks.startup import MODULE`` and ``... task {dicom,cloud_sql} URL`` measure once, in this
fresh process, and write JSON in the last line of standard output.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any

# Every DAG file and every worker has imported these already.
from airflow.sdk import BaseOperator  # noqa: TC002
from airflow.sdk.exceptions import TaskDeferred

#: Operator modules by label: ours, then the peers'.
OPERATOR_MODULES = {
    "DICOM store": "airflow_provider_dicom.operators.dicom_store",
    "Databricks": "airflow.providers.databricks.operators.databricks",
    "Cloud SQL": "airflow.providers.google.cloud.operators.cloud_sql",
    "BigQuery": "airflow.providers.google.cloud.operators.bigquery",
}
TASKS = {"DICOM store": "dicom", "Cloud SQL": "cloud_sql"}
#: The variable with the folder of another revision of this provider, which is measured in its place.
PACKAGE_FOLDER = "BENCHMARK_PACKAGE_FOLDER"


class MinimalTaskInstance:
    """The part of a task instance that operators use on their way to the deferral; keeps XComs in memory."""

    try_number = 1
    map_index = -1
    dag_id, task_id, run_id = "benchmark", "export", "manual"

    def __init__(self) -> None:
        self.start_date = datetime.now(UTC)
        self.xcoms: dict[str, object] = {}

    def xcom_push(self, key: str, value: object) -> None:
        """Keep an XCom."""
        self.xcoms[key] = value


class StateStore:
    """A task state store in memory."""

    def __init__(self) -> None:
        self._values: dict[str, object] = {}

    def get(self, key: str, default: object = None) -> object:
        """Read a value."""
        return self._values.get(key, default)

    def set(self, key: str, value: object, *, retention: object = None) -> None:
        """Write a value."""
        self._values[key] = value


def _dicom(url: str) -> BaseOperator:
    from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

    return DicomStoreExportOperator(
        task_id="export",
        project_id="benchmark",
        location="us-central1",
        dataset_id="one",
        dicom_store_id="store",
        destination="gs://bucket/export/",
        api_endpoint=url,
    )


def _cloud_sql(url: str) -> BaseOperator:
    from airflow.providers.google.cloud.hooks.cloud_sql import CloudSQLHook
    from airflow.providers.google.cloud.operators.cloud_sql import CloudSQLExportInstanceOperator
    from google.api_core.client_options import ClientOptions

    # The client has no setting for the host.
    options = ClientOptions(api_endpoint=url)
    setattr(CloudSQLHook, "get_client_options", lambda _self: options)  # noqa: B010 - a method
    return CloudSQLExportInstanceOperator(
        task_id="export",
        project_id="benchmark",
        instance="instance",
        body={"exportContext": {"fileType": "SQL", "uri": "gs://bucket/export.sql"}},
        deferrable=True,
    )


def measure_import(module: str) -> dict[str, float]:
    """Return the seconds that importing a module takes."""
    start = time.perf_counter()
    importlib.import_module(module)
    return {"wall": time.perf_counter() - start}


def measure_task(kind: str, url: str) -> dict[str, float]:
    """Return the seconds from the import of the operator to the deferral."""
    wall, cpu = time.perf_counter(), time.process_time()
    operator = {"dicom": _dicom, "cloud_sql": _cloud_sql}[kind](url)
    context: Any = {"ti": MinimalTaskInstance(), "task_state_store": StateStore(), "task": operator}
    try:
        operator.execute(context)
    except TaskDeferred:
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    raise SystemExit(f"{kind} did not defer")


def main() -> None:
    """Measure what the command line asks for."""
    output, sys.stdout = sys.stdout, sys.stderr
    if folder := os.environ.get(PACKAGE_FOLDER):
        sys.path.insert(0, folder)
    what, *arguments = sys.argv[1:]
    result = measure_import(*arguments) if what == "import" else measure_task(*arguments)
    print(json.dumps(result), file=output)


if __name__ == "__main__":
    main()
