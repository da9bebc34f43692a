"""Parameters of the export: invalid ones are refused when the DAG is parsed, or at the top of ``execute``."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, AirflowSkipException, XComArg

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.sensors.dicom_store import DicomStoreExportSensor

VALID: dict[str, Any] = {
    "task_id": "export",
    "location": "us-central1",
    "dataset_id": "radiology",
    "dicom_store_id": "ct",
    "destination": "gs://bucket/{{ ds }}/",
}
TABLE = "bq://project.dataset.table"

#: Invalid parameters that may be templates: name, value, other parameters, part of the accepted values.
INVALID: list[tuple[str, Any, dict[str, Any], str]] = [
    ("location", "us/central1", {}, "a location such as"),
    ("dataset_id", "..", {}, "letters and digits"),
    ("dicom_store_id", "a b", {}, "letters and digits"),
    ("project_id", "", {}, "a project id"),
    ("destination", "s3://bucket", {}, "'gs://bucket/prefix' or 'bq://project.dataset.table'"),
    ("destination", "gs://bucket//x", {}, "'gs://bucket/prefix'"),
    ("mime_type", "png", {"destination": "gs://bucket"}, "a MIME type such as"),
    ("mime_type", "image/png", {"destination": TABLE}, "with a 'gs://' destination only"),
    ("write_disposition", "APPEND", {"destination": TABLE}, "WRITE_EMPTY, WRITE_TRUNCATE, WRITE_APPEND"),
    ("write_disposition", "WRITE_EMPTY", {"destination": "gs://bucket"}, "with a 'bq://' destination only"),
    ("bigquery_schema", "xml", {"destination": TABLE}, "flattened, json"),
    ("filter_uri", "gs://bucket", {}, "'gs://bucket/object'"),
    ("resource_paths", ["/studies/x"], {"filter_uri": "gs://bucket/f"}, "'/studies/UID"),
    ("gcp_conn_id", "", {}, "the id of a connection"),
    ("api_endpoint", "http://host.example", {}, "'http://' for a loopback host only"),
]
INVALID_AT_PARSE_TIME: list[tuple[str, Any, dict[str, Any], str]] = [
    ("max_failures", -1, {}, "a count from 0 (int), or a share"),
    ("max_failures", 1.5, {}, "a count from 0 (int), or a share"),
    ("max_failures", True, {}, "a count from 0 (int), or a share"),
    ("poll_interval", 0, {}, "a number of seconds above 0"),
    ("poll_interval", -5.0, {}, "a number of seconds above 0"),
    ("poll_interval", float("nan"), {}, "a number of seconds above 0"),
    ("poll_interval", float("inf"), {}, "a number of seconds above 0"),
    ("poll_interval", "30", {}, "a number of seconds above 0"),
    ("include_source_store", "yes", {"destination": TABLE}, "True, False"),
    ("include_source_store", True, {"destination": "gs://bucket"}, "with a 'bq://' destination only"),
]


@pytest.fixture(autouse=True)
def no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """No local Healthcare API is configured."""
    monkeypatch.delenv("HEALTHCARE_EMULATOR_HOST", raising=False)


@pytest.mark.parametrize(("parameter", "value", "more", "accepted"), INVALID + INVALID_AT_PARSE_TIME)
def test_invalid_values_are_refused_when_the_dag_is_parsed(
    parameter: str, value: Any, more: dict[str, Any], accepted: str
) -> None:
    with DAG("mistaken"), pytest.raises(DicomExportInvalidRequestError) as error:
        DicomStoreExportOperator(**(VALID | more | {parameter: value}))
    assert parameter in str(error.value)
    assert (repr(value) if not isinstance(value, list) else "at position 1") in str(error.value)
    assert accepted in str(error.value)


@pytest.mark.parametrize(("parameter", "value", "more", "accepted"), INVALID)
def test_invalid_rendered_values_are_refused_at_the_top_of_execute(
    parameter: str, value: Any, more: dict[str, Any], accepted: str
) -> None:
    templates = {name: "{{ " + name + " }}" for name in more}
    template = ["{{ value }}"] if isinstance(value, list) else "{{ value }}"
    task = DicomStoreExportOperator(**(VALID | templates | {parameter: template}))
    values = {"value": value[0] if isinstance(value, list) else value, "ds": "2025-11-23", **more}
    task.render_template_fields(values)  # type: ignore[arg-type]
    assert getattr(task, parameter) == value
    # Without a connection and a context: the validation comes before any look-up.
    with pytest.raises(AirflowFailException) as error:
        task.execute({})
    assert isinstance(error.value, DicomExportInvalidRequestError)
    assert parameter in str(error.value)
    assert accepted in str(error.value)


def test_all_invalid_parameters_are_reported_at_once() -> None:
    with pytest.raises(DicomExportInvalidRequestError) as error:
        DicomStoreExportOperator(
            **(VALID | {"location": "", "destination": "x", "max_failures": -1, "poll_interval": 0})
        )
    for parameter in ("location=", "destination=", "max_failures=", "poll_interval="):
        assert parameter in str(error.value)


def test_every_template_field_accepts_a_template() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        templates: dict[str, Any] = dict.fromkeys(DicomStoreExportOperator.template_fields, "{{ params.x }}")
        DicomStoreExportOperator(task_id="export", **templates)


@pytest.mark.parametrize("destination", ["gs://{{ params.bucket }}/x", "gs://bucket/{% if a %}b{% endif %}"])
def test_literal_scheme_of_a_templated_destination_is_validated(destination: str) -> None:
    assert DicomStoreExportOperator(**(VALID | {"destination": destination, "mime_type": "image/png"}))
    with pytest.raises(DicomExportInvalidRequestError, match="write_disposition"):
        DicomStoreExportOperator(**(VALID | {"destination": destination, "write_disposition": "WRITE_EMPTY"}))


def test_output_of_another_task_is_accepted_as_resource_paths() -> None:
    with DAG("chained"):
        upstream = DicomStoreExportSensor(
            task_id="wait", operation_name="projects/p/locations/l/datasets/d/operations/1"
        )
        task = DicomStoreExportOperator(
            **(VALID | {"resource_paths": XComArg(upstream), "filter_uri": "gs://bucket/f.txt"})
        )
    assert task.upstream_task_ids == {"wait"}


def test_resource_paths_that_render_to_none_are_refused() -> None:
    task = DicomStoreExportOperator(
        **(
            VALID
            | {"resource_paths": ["{{ x }}"], "filter_uri": "gs://bucket/f", "destination": "gs://bucket"}
        )
    )
    task.resource_paths = None
    with pytest.raises(DicomExportInvalidRequestError, match="resource_paths=None"):
        task.execute({})


def test_filter_uri_that_renders_to_none_is_refused() -> None:
    task = DicomStoreExportOperator(**(VALID | {"filter_uri": "{{ params.filter_uri }}"}))
    task.destination = "gs://bucket/night/"
    task.filter_uri = None
    with pytest.raises(DicomExportInvalidRequestError, match="filter_uri=None"):
        task.execute({})


def test_empty_list_of_resource_paths_skips_the_task() -> None:
    task = DicomStoreExportOperator(
        **(VALID | {"resource_paths": [], "filter_uri": "gs://bucket/f", "destination": "gs://bucket"})
    )
    with pytest.raises(AirflowSkipException, match="resource_paths is empty"):
        task.execute({})


def test_resource_paths_without_filter_uri_are_refused() -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="resource_paths without filter_uri; accepted: "):
        DicomStoreExportOperator(**(VALID | {"resource_paths": ["/studies/1.2"]}))


def test_unknown_mime_type_gets_a_warning_when_the_dag_is_parsed() -> None:
    with pytest.warns(UserWarning, match="mime_type='image/jxl' is not among the MIME types"):
        DicomStoreExportOperator(**(VALID | {"mime_type": "image/jxl"}))


@pytest.mark.parametrize(
    ("option", "destination"),
    [("mime_type", TABLE), ("write_disposition", "gs://bucket"), ("bigquery_schema", "gs://bucket")],
)
def test_templated_option_of_the_other_destination_is_accepted_when_the_dag_is_parsed(
    option: str, destination: str
) -> None:
    DicomStoreExportOperator(**(VALID | {"destination": destination, option: "{{ params.option }}"}))
