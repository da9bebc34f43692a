"""How parameters are filled: templates, outputs of other tasks, mapping, paths, functions, native objects."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, XComArg
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators.check import DicomStoreExportCheckOperator
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import DicomMetadataQueryOperator, DicomStoreSearchOperator
from airflow_provider_dicom.sensors.dicom_store import DicomStoreExportSensor
from airflow_provider_dicom.validation import Kind
from tests.support.rendering import UpstreamTask, dag, render

STORE = {"location": "us-central1", "dataset_id": "radiology", "dicom_store_id": "ct"}
VALID: dict[Any, dict[str, Any]] = {
    DicomStoreExportOperator: {**STORE, "destination": "gs://bucket/night/"},
    DicomStoreExportCheckOperator: {**STORE, "destination": "gs://bucket/night/"},
    DicomStoreSearchOperator: {**STORE, "filter_uri": "gs://bucket/f.txt", "level": "instances"},
    DicomMetadataQueryOperator: {
        "table": "bq://project.dataset.table",
        "filter_uri": "gs://bucket/f.txt",
        "high_water_mark": "mark",
    },
    DicomStoreExportSensor: {"operation_name": "projects/p/locations/l/datasets/d/operations/1"},
}
NOTHING = [None, "", " ", "None"]


def of_kind(*kinds: Kind) -> list[Any]:
    return [
        pytest.param(operator, name, id=f"{operator.__name__}-{name}")
        for operator in VALID
        for name, kind in operator.PARAMETERS.items()
        if kind in kinds
    ]


def build(operator: Any, **arguments: object) -> Any:
    more = {"filter_uri": "gs://bucket/f.txt"} if "resource_paths" in arguments else {}
    return operator(task_id="task", **(VALID[operator] | more | arguments))


def refusal(task: Any) -> str:
    """Return the sentences with which a task refuses its parameters, before it sends anything."""
    with pytest.raises(DicomExportInvalidRequestError) as error:
        task.execute({})
    return str(error.value)


def accepts(task: Any) -> bool:
    return not list(task._validation_errors(frozenset()))


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize(("operator", "name"), of_kind(Kind.REQUIRED, Kind.RESTRICTION))
def test_template_that_renders_to_nothing_is_refused_with_the_parameter_and_the_template(
    operator: Any, name: str, nothing: str | None
) -> None:
    for native in (False, True):
        with dag(render_template_as_native_obj=native):
            task = build(operator, **{name: "{{ value }}"})
        sentences = refusal(render(task, value=nothing))
        assert f"{name}=" in sentences
        if name not in operator.PRIVATE:
            assert "{{ value }}" in sentences


@pytest.mark.parametrize(("operator", "name"), of_kind(Kind.REQUIRED, Kind.RESTRICTION))
def test_output_of_a_task_that_returned_nothing_or_was_cleared_is_refused(operator: Any, name: str) -> None:
    with dag():
        upstream = UpstreamTask(task_id="upstream")
        task = build(operator, **{name: XComArg(upstream)})
    assert task.upstream_task_ids == {"upstream"}
    for xcoms in ({}, {"upstream": None}):
        assert f"{name}=" in refusal(render(copy.deepcopy(task), xcoms=xcoms))


@pytest.mark.parametrize(("operator", "name"), of_kind(Kind.RESTRICTION))
def test_mapped_argument_that_is_nothing_is_refused_and_one_that_is_left_out_is_not_given(
    operator: Any, name: str
) -> None:
    arguments = VALID[operator]
    with dag():
        upstream = UpstreamTask(task_id="upstream")
        literal = operator.partial(task_id="literal", **arguments).expand(**{name: [None, None]})
        output = operator.partial(task_id="output", **arguments).expand(**{name: XComArg(upstream)})
        kwargs = operator.partial(task_id="kwargs").expand_kwargs(XComArg(upstream))
    assert f"{name}=None" in refusal(render(literal, map_index=1))
    assert f"{name}=None" in refusal(render(output, map_index=1, xcoms={"upstream": [None, None]}))
    rows = [{**arguments, name: None}, arguments]
    assert f"{name}=None" in refusal(render(kwargs, map_index=0, xcoms={"upstream": rows}))
    omitted = render(kwargs, map_index=1, xcoms={"upstream": rows})
    assert getattr(omitted, name) is None
    assert accepts(omitted)


@pytest.mark.parametrize(("operator", "name"), of_kind(Kind.RESTRICTION, Kind.OPTIONAL))
def test_none_in_the_text_of_a_dag_means_that_a_parameter_is_not_given(operator: Any, name: str) -> None:
    with dag():
        task = build(operator, **{name: None})
    assert accepts(render(task))


@pytest.mark.parametrize(("operator", "name"), of_kind(Kind.RESTRICTION))
def test_output_that_is_assigned_after_the_task_is_built_counts_as_given(operator: Any, name: str) -> None:
    with dag():
        task = build(operator)
        setattr(task, name, XComArg(UpstreamTask(task_id="upstream")))
    assert f"{name}=None" in refusal(render(task))


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize(("operator", "name"), of_kind(Kind.OPTIONAL))
def test_optional_parameter_that_renders_to_nothing_is_not_given(
    operator: Any, name: str, nothing: str | None
) -> None:
    with dag():
        task = build(operator, **{name: "{{ value }}"})
        mapped = operator.partial(task_id="mapped", **VALID[operator]).expand(**{name: [nothing]})
    for rendered in (render(task, value=nothing), render(mapped, map_index=0)):
        assert getattr(rendered, name) is None
        assert accepts(rendered)


@pytest.mark.parametrize("value", ["False", "{{ params.flag }}", "", 0, 1, XComArg])
@pytest.mark.parametrize(("operator", "name"), of_kind(Kind.FLAG, Kind.OPTIONAL_FLAG))
def test_flags_are_true_or_false_and_never_a_text(operator: Any, name: str, value: Any) -> None:
    with dag():
        flag = XComArg(UpstreamTask(task_id="upstream")) if value is XComArg else value
        with pytest.raises(DicomExportInvalidRequestError, match=f"{name}=.*accepted: True, False"):
            build(operator, **{name: flag})
        mapped = operator.partial(task_id="mapped", **VALID[operator]).expand(**{name: ["False"]})
    assert "accepted: True, False" in refusal(render(mapped, map_index=0))


def test_empty_list_of_resource_paths_skips_however_it_is_filled() -> None:
    arguments = {**VALID[DicomStoreExportOperator], "filter_uri": "gs://bucket/f.txt"}
    with dag():
        upstream = UpstreamTask(task_id="upstream")
        tasks = [
            build(DicomStoreExportOperator, resource_paths=XComArg(upstream)),
            DicomStoreExportOperator.partial(task_id="b").expand_kwargs(
                XComArg(upstream).map(lambda paths: {**arguments, "resource_paths": [paths][:0]})
            ),
        ]
    for task, xcom in zip(tasks, ([], ["/studies/1"]), strict=True):
        rendered = render(task, xcoms={"upstream": xcom}, map_index=0)
        with pytest.raises(AirflowSkipException, match="resource_paths is empty"):
            rendered._check_submission() if hasattr(rendered, "_check_submission") else rendered.execute({})


VALUES_OF_OTHER_TASKS = ["gs://b/{{ secret }}/", "gs://b/{% raw %}", "gs://b/{# #}"]


@pytest.mark.parametrize("value", VALUES_OF_OTHER_TASKS)
@pytest.mark.parametrize("native", [False, True])
def test_value_of_another_task_is_never_rendered(value: str, native: bool) -> None:
    class Secret:
        def __str__(self) -> str:
            raise AssertionError("a value of another task was rendered")

    arguments = {name: arg for name, arg in VALID[DicomStoreExportOperator].items() if name != "destination"}
    with dag(render_template_as_native_obj=native):
        upstream = UpstreamTask(task_id="upstream")
        plain = build(DicomStoreExportOperator, destination=XComArg(upstream))
        mapped = DicomStoreExportOperator.partial(task_id="mapped", **arguments)
        expanded = mapped.expand(destination=XComArg(upstream).map(lambda x: x))
        kwargs = DicomStoreExportOperator.partial(task_id="kwargs").expand_kwargs(XComArg(upstream))
    cases: list[tuple[Any, object]] = [
        (plain, value),
        (expanded, [value]),
        (kwargs, [{**arguments, "destination": value}]),
    ]
    for task, output in cases:
        rendered = render(task, xcoms={"upstream": output}, map_index=0, secret=Secret())
        assert rendered.destination == value
        assert "still holds a template" in refusal(rendered)


def test_template_that_the_dag_itself_maps_over_is_rendered() -> None:
    with dag():
        arguments = {**STORE, "destination": "gs://{{ name }}/night/"}
        expanded = DicomStoreExportOperator.partial(task_id="a", **STORE).expand(
            destination=["gs://{{ name }}/night/"]
        )
        kwargs = DicomStoreExportOperator.partial(task_id="b").expand_kwargs([arguments])
        partial = DicomStoreExportOperator.partial(task_id="c", **arguments).expand(
            mime_type=XComArg(UpstreamTask(task_id="upstream"))
        )
    for task in (expanded, kwargs, partial):
        rendered = render(task, map_index=0, name="bucket", xcoms={"upstream": ["image/png"]})
        assert rendered.destination == "gs://bucket/night/"


@pytest.mark.parametrize("text", ["1.10", "2E3", "1_000", "0x10", "007", "20260329", "True", "'x'"])
def test_text_stays_text_in_a_dag_with_native_rendering(text: str) -> None:
    with dag(render_template_as_native_obj=True):
        task = build(DicomStoreExportOperator, dataset_id="{{ x }}", dicom_store_id="{{ x[:1] }}{{ x[1:] }}")
    rendered = render(task, x=text)
    assert (rendered.dataset_id, rendered.dicom_store_id) == (text, text)


def test_objects_stay_objects_in_a_dag_with_native_rendering() -> None:
    paths = ["/studies/1", "/studies/2"]
    for template in ("{{ paths }}", "['{{ paths[0] }}', '{{ paths[1] }}']"):
        with dag(render_template_as_native_obj=True):
            task = build(DicomStoreExportOperator, resource_paths=template)
        assert render(task, paths=paths).resource_paths == paths


def test_whole_number_is_the_text_of_an_id_or_a_project() -> None:
    with dag():
        task = build(
            DicomStoreExportOperator,
            project_id=123456789012,
            dicom_store_id=XComArg(UpstreamTask(task_id="u")),
        )
    assert task.project_id == "123456789012"
    assert render(task, xcoms={"u": 20260329}).dicom_store_id == "20260329"


def test_function_fills_a_parameter() -> None:
    with dag():
        task = build(
            DicomStoreExportOperator,
            destination=lambda context, jinja_env: f"gs://bucket/{context['ds']}/",
            filter_uri=lambda context, jinja_env: None,
        )
    rendered = render(task, ds="2026-03-29")
    assert rendered.destination == "gs://bucket/2026-03-29/"
    assert "filter_uri=None" in refusal(rendered)


def test_object_storage_path_is_its_uri() -> None:
    sdk = pytest.importorskip("airflow.sdk")
    with dag():
        path = sdk.ObjectStoragePath("gs://bucket/{{ ds }}/f.txt")
        task = build(DicomStoreExportOperator, filter_uri=path)
    assert render(task, ds="2026-03-29").filter_uri == "gs://bucket/2026-03-29/f.txt"


def test_subclass_adds_a_template_field_and_passes_another_one() -> None:
    class OwnExport(DicomStoreExportOperator):
        template_fields = (*DicomStoreExportOperator.template_fields, "night")

        def __init__(self, *, night: str, **kwargs: Any) -> None:
            super().__init__(filter_uri="{{ selected }}", **kwargs)
            self.night = night

    with dag():
        task = OwnExport(task_id="own", **VALID[DicomStoreExportOperator], night="{{ ds }}")
        mapped = OwnExport.partial(task_id="mapped", **VALID[DicomStoreExportOperator]).expand(
            night=["{{ ds }}"]
        )
    for rendered in (
        render(task, ds="2026-03-29", selected=None),
        render(mapped, map_index=0, ds="2026-03-29", selected=""),
    ):
        assert rendered.night == "2026-03-29"
        assert "filter_uri=" in refusal(rendered)


def test_default_args_fill_parameters() -> None:
    with dag(default_args={"filter_uri": "{{ selected }}"}):
        task = build(DicomStoreExportOperator)
    assert "filter_uri='None'" in refusal(render(task, selected=None))


@pytest.mark.parametrize("operator", VALID)
def test_copies_and_pickles_keep_what_the_dag_gives(operator: Any) -> None:
    restrictions = [name for name, kind in operator.PARAMETERS.items() if kind is Kind.RESTRICTION]
    with dag():
        task = build(operator, **dict.fromkeys(restrictions, "{{ value }}"))
    for duplicate in (copy.copy(task), copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        sentences = refusal(render(duplicate, value=None))
        assert all(f"{name}=" in sentences for name in restrictions)


@given(st.text(max_size=20), st.booleans())
def test_no_text_of_another_task_becomes_the_absence_of_a_filter(text: str, native: bool) -> None:
    with dag(render_template_as_native_obj=native):
        task = build(DicomStoreExportOperator, filter_uri=XComArg(UpstreamTask(task_id="upstream")))
    rendered = render(task, xcoms={"upstream": text})
    assert rendered.filter_uri == text
    assert accepts(rendered) == (rendered.filter_uri.startswith("gs://") and accepts(rendered))


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.binary(),
        st.dictionaries(st.text(), st.text()),
    )
)
def test_no_object_of_another_task_becomes_the_absence_of_a_filter(value: object) -> None:
    with dag():
        task = build(DicomStoreExportOperator, filter_uri=XComArg(UpstreamTask(task_id="upstream")))
    assert "filter_uri=" in refusal(render(task, xcoms={"upstream": value}))


def test_invalid_value_of_a_mapped_task_is_refused_where_something_would_be_submitted() -> None:
    """A resumed task is built again, too: what other tasks return by then must not end a running export."""
    arguments = VALID[DicomStoreExportOperator]
    with dag():
        output = XComArg(UpstreamTask(task_id="upstream"))
        kwargs = DicomStoreExportOperator.partial(task_id="kwargs").expand_kwargs(output)
    invalid_values: dict[str, Any] = {
        "mime_type": {},
        "destination": None,
        "filter_uri": 5.5,
        "resource_paths": 7,
    }
    for name, value in invalid_values.items():
        task = render(kwargs, map_index=0, xcoms={"upstream": [{**arguments, name: value}]})
        assert name in refusal(task)


def test_copies_of_private_values_are_equal_and_other_values_are_not() -> None:
    with dag():
        task = build(DicomStoreSearchOperator, filters={"PatientID": "1"})
        other = DicomStoreSearchOperator(
            task_id="other", **VALID[DicomStoreSearchOperator], filters={"PatientID": "2"}
        )
    twin = copy.deepcopy(task)
    assert twin.filters == task.filters
    assert hash(twin.filters) == hash(task.filters)
    assert task.filters != other.filters
