"""Mistakes in parameters: static ones when the DAG is parsed, rendered ones at the top of ``execute``."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, AirflowSkipException, XComArg
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.selection.filter_file import resource_path_errors
from airflow_provider_dicom.sensors.dicom_store import DicomStoreExportSensor
from airflow_provider_dicom.validation import is_template, seconds_error

GOOD: dict[str, Any] = {
    "task_id": "export",
    "location": "us-central1",
    "dataset_id": "radiology",
    "dicom_store_id": "ct",
    "destination": "gs://bucket/{{ ds }}/",
}
TABLE = "bq://project.dataset.table"

#: parameter, value, other parameters that it needs, what the message says is accepted
MISTAKES: list[tuple[str, Any, dict[str, Any], str]] = [
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
STATIC_MISTAKES: list[tuple[str, Any, dict[str, Any], str]] = [
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
    monkeypatch.delenv("HEALTHCARE_EMULATOR_HOST", raising=False)


@pytest.mark.parametrize(("parameter", "value", "more", "accepted"), MISTAKES + STATIC_MISTAKES)
def test_static_mistakes_are_refused_when_the_dag_is_parsed(
    parameter: str, value: Any, more: dict[str, Any], accepted: str
) -> None:
    with DAG("mistaken"), pytest.raises(DicomExportInvalidRequestError) as error:
        DicomStoreExportOperator(**(GOOD | more | {parameter: value}))
    assert parameter in str(error.value)
    assert repr(value if not isinstance(value, list) else value[0]) in str(error.value)
    assert accepted in str(error.value)


@pytest.mark.parametrize(("parameter", "value", "more", "accepted"), MISTAKES)
def test_rendered_mistakes_are_refused_at_the_top_of_execute(
    parameter: str, value: Any, more: dict[str, Any], accepted: str
) -> None:
    templates = {name: "{{ " + name + " }}" for name in more}
    template = ["{{ value }}"] if isinstance(value, list) else "{{ value }}"
    task = DicomStoreExportOperator(**(GOOD | templates | {parameter: template}))
    values = {"value": value[0] if isinstance(value, list) else value, "ds": "2025-11-23", **more}
    task.render_template_fields(values)  # type: ignore[arg-type]
    assert getattr(task, parameter) == value
    # No connection, no context: the refusal comes before anything is looked up.
    with pytest.raises(AirflowFailException) as error:
        task.execute({})  # type: ignore[typeddict-item]
    assert isinstance(error.value, DicomExportInvalidRequestError)
    assert parameter in str(error.value)
    assert accepted in str(error.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(DicomExportInvalidRequestError) as error:
        DicomStoreExportOperator(
            **(GOOD | {"location": "", "destination": "x", "max_failures": -1, "poll_interval": 0})
        )
    for parameter in ("location=", "destination=", "max_failures=", "poll_interval="):
        assert parameter in str(error.value)


def test_a_template_for_everything_parses() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DicomStoreExportOperator(
            **{"task_id": "export"}
            | dict.fromkeys(DicomStoreExportOperator.template_fields, "{{ params.x }}")
        )


@pytest.mark.parametrize("destination", ["gs://{{ params.bucket }}/x", "gs://bucket/{% if a %}b{% endif %}"])
def test_the_scheme_is_known_before_the_rest(destination: str) -> None:
    assert DicomStoreExportOperator(**(GOOD | {"destination": destination, "mime_type": "image/png"}))
    with pytest.raises(DicomExportInvalidRequestError, match="write_disposition"):
        DicomStoreExportOperator(**(GOOD | {"destination": destination, "write_disposition": "WRITE_EMPTY"}))


def test_outputs_of_other_tasks_are_templates() -> None:
    with DAG("chained"):
        upstream = DicomStoreExportSensor(
            task_id="wait", operation_name="projects/p/locations/l/datasets/d/operations/1"
        )
        task = DicomStoreExportOperator(
            **(GOOD | {"resource_paths": XComArg(upstream), "filter_uri": "gs://bucket/f.txt"})
        )
    assert task.upstream_task_ids == {"wait"}


def test_a_rendered_none_is_not_taken_for_a_filter_of_yesterday() -> None:
    task = DicomStoreExportOperator(
        **(
            GOOD
            | {"resource_paths": ["{{ x }}"], "filter_uri": "gs://bucket/f", "destination": "gs://bucket"}
        )
    )
    task.resource_paths = None
    with pytest.raises(DicomExportInvalidRequestError, match="resource_paths=None"):
        task.execute({})  # type: ignore[typeddict-item]


def test_a_filter_file_that_renders_to_nothing_is_not_everything() -> None:
    task = DicomStoreExportOperator(**(GOOD | {"filter_uri": "{{ params.filter_uri }}"}))
    task.destination = "gs://bucket/night/"
    task.filter_uri = None
    with pytest.raises(DicomExportInvalidRequestError, match="filter_uri=None"):
        task.execute({})


def test_an_empty_list_of_paths_skips_the_task() -> None:
    task = DicomStoreExportOperator(
        **(GOOD | {"resource_paths": [], "filter_uri": "gs://bucket/f", "destination": "gs://bucket"})
    )
    with pytest.raises(AirflowSkipException, match="resource_paths is empty"):
        task.execute({})  # type: ignore[typeddict-item]


def test_paths_need_a_file_to_be_written_to() -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="resource_paths without filter_uri; accepted: "):
        DicomStoreExportOperator(**(GOOD | {"resource_paths": ["/studies/1.2"]}))


def test_an_unknown_mime_type_gets_a_warning_when_the_dag_is_parsed() -> None:
    with pytest.warns(UserWarning, match="mime_type='image/jxl' is not among the MIME types"):
        DicomStoreExportOperator(**(GOOD | {"mime_type": "image/jxl"}))


UIDS = st.lists(st.integers(0, 10**8).map(str), min_size=1, max_size=6).map(".".join)


@given(st.lists(st.lists(UIDS, min_size=1, max_size=3), min_size=1, max_size=5))
def test_resource_paths(paths: list[list[str]]) -> None:
    levels = ("studies", "series", "instances")
    texts = ["".join(f"/{level}/{uid}" for level, uid in zip(levels, uids, strict=False)) for uids in paths]
    assert resource_path_errors(texts) == []
    assert resource_path_errors(tuple(texts)) == []


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "studies/1.2",
        "/studies/",
        "/studies/1.2/",
        "/studies/1.2/series",
        "/studies/1.2/instances/3",
        "/series/1.2",
        "/studies/1.2\n",
        "/studies/1.2\n/studies/3",
        "/studies/1..2",
        "/studies/1.2.",
        "/studies/a",
        "/studies/*",
        "/studies/../x",
        " /studies/1.2",
        "/STUDIES/1.2",
        "/studies/" + "1." * 32 + "1",
        "/studies/1.2?x=1",
        "/studies/\u0661",
        None,
        5,
        ["/studies/1.2"],
    ],
    ids=repr,
)
def test_what_is_no_resource_path_is_refused(path: Any) -> None:
    (error,) = resource_path_errors(["/studies/1.2", path])
    assert repr(path) in error
    assert "accepted: '/studies/UID[/series/UID[/instances/UID]]'" in error


@pytest.mark.parametrize(
    "paths",
    ["/studies/1.2", None, 5, {"/studies/1.2"}, iter(["/studies/1.2"]), {"a": 1}],
    ids=["text", "None", "number", "set", "iterator", "dict"],
)
def test_what_is_no_list_is_refused(paths: Any) -> None:
    (error,) = resource_path_errors(paths)
    assert type(paths).__name__ in error
    assert "accepted: a list" in error


def test_of_many_bad_paths_a_few_are_shown() -> None:
    errors = resource_path_errors(["x"] * 1000)
    assert len(errors) < 10
    assert "995 more" in errors[-1]


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False) | st.integers(1))
def test_seconds(value: float) -> None:
    assert seconds_error("poll_interval", value) is None


@given(
    st.floats(max_value=0)
    | st.integers(max_value=0)
    | st.sampled_from([float("nan"), float("inf"), True, None, "5", [1]])
)
def test_what_is_no_number_of_seconds(value: Any) -> None:
    error = seconds_error("poll_interval", value)
    assert error is not None
    assert f"poll_interval={value!r}" in error


@pytest.mark.parametrize(
    "value", ["{{ x }}", "a{% if x %}b", "{# note #}", ["a", "{{ x }}"], ("{{ x }}",)], ids=repr
)
def test_templates(value: object) -> None:
    assert is_template(value)


@pytest.mark.parametrize("value", ["a", "{a}", "", None, 5, [], ["a"], {"a": "b"}], ids=repr)
def test_values(value: object) -> None:
    assert not is_template(value)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("operation_name", "operations/1"),
        ("operation_name", ""),
        ("max_failures", -1),
        ("poll_interval", 0),
        ("gcp_conn_id", ""),
        ("api_endpoint", "http://host.example"),
    ],
)
def test_the_sensor_refuses_alike(parameter: str, value: Any) -> None:
    good = {"task_id": "wait", "operation_name": "projects/p/locations/l/datasets/d/operations/1"}
    with pytest.raises(DicomExportInvalidRequestError) as error:
        DicomStoreExportSensor(**(good | {parameter: value}))
    assert f"{parameter}={value!r}" in str(error.value)
    assert "accepted: " in str(error.value)


@pytest.mark.parametrize(
    ("option", "destination"),
    [("mime_type", TABLE), ("write_disposition", "gs://bucket"), ("bigquery_schema", "gs://bucket")],
)
def test_a_template_of_the_other_destination_may_render_to_nothing(option: str, destination: str) -> None:
    DicomStoreExportOperator(**(GOOD | {"destination": destination, option: "{{ params.option }}"}))
