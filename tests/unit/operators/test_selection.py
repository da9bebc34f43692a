"""Mistakes in the parameters of what selects and of what checks: refused when the DAG is parsed."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators.check import DicomStoreExportCheckOperator
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import (
    DicomHighWaterMarkOperator,
    DicomMetadataQueryOperator,
    DicomStoreSearchOperator,
)

STORE = {"location": "us-central1", "dataset_id": "radiology", "dicom_store_id": "ct"}
GOOD: dict[type, dict[str, Any]] = {
    DicomStoreExportCheckOperator: {"task_id": "check", **STORE, "destination": "gs://bucket/night/"},
    DicomStoreSearchOperator: {"task_id": "search", **STORE, "filter_uri": "gs://bucket/f.txt"},
    DicomMetadataQueryOperator: {
        "task_id": "query",
        "table": "bq://project.dataset.table",
        "filter_uri": "gs://bucket/f.txt",
        "high_water_mark": "mark",
    },
}


@pytest.mark.parametrize(
    ("operator", "parameter", "value"),
    [
        (DicomStoreExportCheckOperator, "dicom_store_id", "a b"),
        (DicomStoreExportCheckOperator, "destination", "s3://bucket"),
        (DicomStoreExportCheckOperator, "filter_uri", "gs://bucket/"),
        (DicomStoreExportCheckOperator, "on_missing", "ignore"),
        (DicomStoreExportCheckOperator, "gcp_conn_id", ""),
        (DicomStoreSearchOperator, "dataset_id", ".."),
        (DicomStoreSearchOperator, "level", "patients"),
        (DicomStoreSearchOperator, "filter_uri", "gs://bucket"),
        (DicomStoreSearchOperator, "exclude_exported_to", "bucket"),
        (DicomStoreSearchOperator, "api_endpoint", "http://host.example"),
        (DicomMetadataQueryOperator, "table", "bq://dataset.table"),
        (DicomMetadataQueryOperator, "table", "gs://bucket/table"),
        (DicomMetadataQueryOperator, "until", "yesterday"),
        (DicomMetadataQueryOperator, "until", "2026-03-29T02:00:00"),
        (DicomMetadataQueryOperator, "settling_time", 0),
        (DicomMetadataQueryOperator, "project_id", ""),
    ],
)
def test_mistakes_are_told_with_what_is_accepted(operator: type, parameter: str, value: Any) -> None:
    with pytest.raises(DicomExportInvalidRequestError) as error:
        operator(**(GOOD[operator] | {parameter: value}))
    assert f"{parameter}={value!r}" in str(error.value)
    assert "accepted: " in str(error.value)


def test_values_of_filters_are_not_told() -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="filters is str") as error:
        DicomStoreSearchOperator(**GOOD[DicomStoreSearchOperator], filters="PatientName=Citizen")  # type: ignore[arg-type]
    assert "Citizen" not in str(error.value)


@pytest.mark.parametrize("operator", GOOD)
def test_a_template_for_everything_parses(operator: Any) -> None:
    operator(task_id="task", **dict.fromkeys(operator.template_fields, "{{ params.x }}"))


def test_outputs_are_taken_as_they_are() -> None:
    with DAG("outputs", schedule=None):
        query = DicomMetadataQueryOperator(**GOOD[DicomMetadataQueryOperator])
        filter_uri = query.output["filter_uri"]
        export = DicomStoreExportOperator(
            task_id="export", **STORE, destination="gs://bucket/night/", filter_uri=filter_uri
        )
        check = DicomStoreExportCheckOperator(**GOOD[DicomStoreExportCheckOperator], filter_uri=filter_uri)
        mark = DicomHighWaterMarkOperator(task_id="mark", high_water_mark="mark", selection=query.output)  # type: ignore[arg-type]
    assert query.downstream_task_ids == {task.task_id for task in (export, check, mark)}


def test_a_filter_file_that_renders_to_nothing_is_not_everything() -> None:
    task = DicomStoreExportCheckOperator(
        **GOOD[DicomStoreExportCheckOperator], filter_uri="{{ params.filter_uri }}"
    )
    task.filter_uri = None
    with pytest.raises(DicomExportInvalidRequestError, match="filter_uri=None"):
        task.execute({})


def test_an_end_that_renders_to_nothing_is_not_now() -> None:
    task = DicomMetadataQueryOperator(**GOOD[DicomMetadataQueryOperator], until="{{ params.until }}")
    task.until = None
    with pytest.raises(DicomExportInvalidRequestError, match="until=None"):
        task.execute({})
