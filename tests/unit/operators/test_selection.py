"""Parameters of the selection operators and the check: invalid ones are refused when the DAG is parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators._selection_output import mappable
from airflow_provider_dicom.operators.check import DicomStoreExportCheckOperator
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import (
    DicomHighWaterMarkOperator,
    DicomMetadataQueryOperator,
    DicomStoreSearchOperator,
)
from tests.support.rendering import render

STORE: dict[str, Any] = {"location": "us-central1", "dataset_id": "radiology", "dicom_store_id": "ct"}
VALID: dict[type, dict[str, Any]] = {
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
        (DicomStoreExportCheckOperator, "missing_uri", "gs://bucket/"),
        (DicomStoreExportCheckOperator, "gcp_conn_id", ""),
        (DicomStoreSearchOperator, "dataset_id", ".."),
        (DicomStoreSearchOperator, "level", "patients"),
        (DicomStoreSearchOperator, "filter_uri", "gs://bucket"),
        (DicomStoreSearchOperator, "exclude_exported_to", "bucket"),
        (DicomStoreSearchOperator, "api_endpoint", "http://host.example"),
        (DicomMetadataQueryOperator, "table", "bq://dataset.table"),
        (DicomMetadataQueryOperator, "table", "gs://bucket/table"),
        (DicomMetadataQueryOperator, "high_water_mark", "m" * 251),
        (DicomMetadataQueryOperator, "until", "yesterday"),
        (DicomMetadataQueryOperator, "until", "2026-03-29T02:00:00"),
        (DicomMetadataQueryOperator, "settling_time", 0),
        (DicomMetadataQueryOperator, "project_id", ""),
    ],
)
def test_invalid_values_are_refused_with_the_accepted_ones(
    operator: type, parameter: str, value: Any
) -> None:
    with pytest.raises(DicomExportInvalidRequestError) as error:
        operator(**(VALID[operator] | {parameter: value}))
    assert f"{parameter}={value!r}" in str(error.value)
    assert "accepted: " in str(error.value)


def test_error_about_search_filters_does_not_quote_their_values() -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="filters is str") as error:
        DicomStoreSearchOperator(**VALID[DicomStoreSearchOperator], filters="PatientName=Citizen")  # type: ignore[arg-type]
    assert "Citizen" not in str(error.value)


@pytest.mark.parametrize("operator", VALID)
def test_every_template_field_accepts_a_template(operator: Any) -> None:
    operator(task_id="task", **dict.fromkeys(operator.template_fields, "{{ params.x }}"))


def test_output_of_a_selection_is_accepted_by_export_check_and_high_water_mark() -> None:
    with DAG("outputs", schedule=None):
        query = DicomMetadataQueryOperator(**VALID[DicomMetadataQueryOperator])
        filter_uri = query.output["filter_uri"]
        export = DicomStoreExportOperator(
            task_id="export", **STORE, destination="gs://bucket/night/", filter_uri=filter_uri
        )
        check = DicomStoreExportCheckOperator(**VALID[DicomStoreExportCheckOperator], filter_uri=filter_uri)
        mark = DicomHighWaterMarkOperator(task_id="mark", high_water_mark="mark", selection=query.output)  # type: ignore[arg-type]
    assert query.downstream_task_ids == {task.task_id for task in (export, check, mark)}


def test_file_of_what_a_check_found_missing_is_accepted_by_export_and_check() -> None:
    with DAG("missing", schedule=None):
        arguments = VALID[DicomStoreExportCheckOperator]
        check = DicomStoreExportCheckOperator(**arguments, missing_uri="gs://bucket/missing.txt")
        # An output by its name is an XCom of its own.
        assert check.multiple_outputs
        missing_uri = check.output["missing_uri"]  # type: ignore[index]
        export = DicomStoreExportOperator(
            task_id="export", **STORE, destination="gs://bucket/night/", filter_uri=missing_uri
        )
        again = DicomStoreExportCheckOperator(**(arguments | {"task_id": "again"}), filter_uri=missing_uri)
    assert check.downstream_task_ids == {export.task_id, again.task_id}


def test_filter_uri_of_a_check_that_renders_to_none_is_refused() -> None:
    task = DicomStoreExportCheckOperator(
        **VALID[DicomStoreExportCheckOperator], filter_uri="{{ params.filter_uri }}"
    )
    task.filter_uri = None
    with pytest.raises(DicomExportInvalidRequestError, match="filter_uri=None"):
        task.execute({})


@pytest.mark.parametrize("name", ["", "m" * 251])
def test_high_water_mark_without_a_usable_name_is_refused(name: str) -> None:
    with pytest.raises(DicomExportInvalidRequestError, match=r"high_water_mark.*accepted: "):
        DicomMetadataQueryOperator(**(VALID[DicomMetadataQueryOperator] | {"high_water_mark": name}))
    with pytest.raises(DicomExportInvalidRequestError, match=r"high_water_mark.*accepted: "):
        DicomHighWaterMarkOperator(task_id="mark", high_water_mark=name, selection="{{ params.x }}")  # type: ignore[arg-type]


def test_until_that_renders_to_none_is_refused() -> None:
    task = DicomMetadataQueryOperator(**VALID[DicomMetadataQueryOperator], until="{{ params.until }}")
    task.until = None
    with pytest.raises(DicomExportInvalidRequestError, match="until=None"):
        task.execute({})


def test_export_is_mapped_over_the_filter_files_of_a_selection() -> None:
    parts = ["gs://bucket/f-00000-of-00002.txt", "gs://bucket/f-00001-of-00002.txt"]
    with DAG("mapped", schedule=None):
        select = DicomMetadataQueryOperator(**VALID[DicomMetadataQueryOperator], max_paths_per_file=9)
        export = DicomStoreExportOperator.partial(
            task_id="export", **STORE, destination="gs://bucket/night/"
        ).expand(filter_uri=select.output["filter_uris"])
        assert export.upstream_task_ids == {"query"}
        with pytest.raises(ValueError, match="custom key 'filter_uri'"):
            DicomStoreExportOperator.partial(
                task_id="other", **STORE, destination="gs://bucket/night/"
            ).expand(filter_uri=select.output["filter_uri"])
    selection: Any = {"filter_uris": parts}
    outputs = {"query": mappable(selection)}
    for index, part in enumerate(parts):
        assert render(export, xcoms=outputs, map_index=index).filter_uri == part


def test_selection_is_as_long_as_its_list_of_filter_files() -> None:
    selection: Any = {"filter_uri": "gs://b/f.txt", "filter_uris": ["gs://b/1", "gs://b/2"], "count": 7}
    result = mappable(selection)
    # Airflow takes the length of a return value for the number of indexes.
    assert len(result) == 2
    assert json.loads(json.dumps(result)) == result == selection
    assert set(result) == set(selection)
