"""A DAG as a careless author writes it: what a run's configuration holds goes to the operator unchecked."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

with DAG(dag_id="forwarded", schedule=None, params={"arguments": {}}):

    @task
    def arguments(params: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the arguments that the person who triggered the DAG chose."""
        return [params["arguments"]]

    DicomStoreExportOperator.partial(
        task_id="export", map_index_template="{{ task.destination }}", poll_interval=1.0
    ).expand_kwargs(arguments())  # type: ignore[call-arg]
