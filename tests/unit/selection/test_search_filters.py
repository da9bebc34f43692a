"""Filters of a search: the text that the query sends for each value, and the values that are refused."""

from __future__ import annotations

import copy
from datetime import UTC, date, datetime
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, XComArg
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators._parameters import reveal
from airflow_provider_dicom.operators.selection import DicomStoreSearchOperator
from airflow_provider_dicom.selection.search_filters import search_filter_errors, search_queries
from tests.support.rendering import UpstreamTask, dag, render

SEARCH: dict[str, Any] = {
    "task_id": "search",
    "location": "l",
    "dataset_id": "d",
    "dicom_store_id": "s",
    "filter_uri": "gs://bucket/f.txt",
}


def query(filters: object, *, native: bool = False, **variables: Any) -> list[tuple[str, str]]:
    """Return the only query of a search whose filters Airflow has rendered."""
    (only,) = queries(filters, native=native, **variables)
    return only


def queries(filters: object, *, native: bool = False, **variables: Any) -> list[list[tuple[str, str]]]:
    """Return the queries of a search whose filters Airflow has rendered."""
    with dag(render_template_as_native_obj=native):
        task = DicomStoreSearchOperator(**SEARCH, filters=filters)  # type: ignore[arg-type]
    rendered: Any = reveal(render(task, **variables).filters)
    assert not list(search_filter_errors(rendered, is_rendered=True))
    return list(search_queries(rendered))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("PatientID", "1.10", "1.10"),
        ("PatientID", 4711, "4711"),
        ("PatientID", "*", "*"),
        ("PatientName", "Doe*", "Doe*"),
        ("StudyDate", date(2026, 3, 29), "20260329"),
        ("StudyDate", datetime(2026, 3, 29, 23, tzinfo=UTC), "20260329"),
        ("StudyDate", "20260301-20260329", "20260301-20260329"),
        ("StudyDate", "20260301-", "20260301-"),
        ("00080020", "20260301", "20260301"),
        ("StudyInstanceUID", "1.2", "1.2"),
        ("StudyInstanceUID", ["1.2", "1.2"], "1.2"),
    ],
)
def test_value_is_sent_as_text(name: str, value: object, text: str) -> None:
    assert query({name: value}) == [(name, text)]
    assert query({name: "{{ value }}" if isinstance(value, str) else value}, value=value) == [(name, text)]


@pytest.mark.parametrize("uids", [["1.2", "3.4"], ("1.2", "3.4"), "1.2,3.4", "1.2\\3.4"])
@pytest.mark.parametrize("name", ["StudyInstanceUID", "0020000D"])
def test_each_uid_of_a_list_is_a_query_of_its_own(name: str, uids: object) -> None:
    assert queries({name: uids, "PatientID": "7"}) == [
        [(name, "1.2"), ("PatientID", "7")],
        [(name, "3.4"), ("PatientID", "7")],
    ]


@pytest.mark.parametrize("text", ["1.10", "2E3", "1_000", "0x10", "007", "True", "[1]", "{'a': 1}"])
def test_text_of_a_template_stays_text_in_a_dag_with_native_rendering(text: str) -> None:
    for template in ("{{ x }}", "{{ x[:1] }}{{ x[1:] }}"):
        assert query({"PatientID": template}, native=True, x=text) == [("PatientID", text)]


def test_date_and_list_of_a_native_template_are_read() -> None:
    filters = {"StudyDate": "{{ day }}", "StudyInstanceUID": "{{ uids }}"}
    rendered = queries(filters, native=True, day=date(2026, 3, 29), uids=["1.2", "3.4"])
    assert rendered == [[("StudyDate", "20260329"), ("StudyInstanceUID", uid)] for uid in ("1.2", "3.4")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PatientID", ""),
        ("PatientID", "  "),
        ("PatientID", "None"),
        ("PatientID", None),
        ("PatientID", True),
        ("PatientID", 1.1),
        ("PatientID", b"1"),
        ("PatientID", ["1"]),
        ("PatientID", {"a": "b"}),
        ("PatientID", "**"),
        ("PatientID", "?*"),
        ("PatientID", "{{ later }}"),
        ("StudyDate", "-"),
        ("StudyDate", "2026-03-29"),
        ("StudyDate", "2026-03-29 00:00:00+00:00"),
        ("StudyTime", datetime(2026, 3, 29, tzinfo=UTC)),
        ("StudyInstanceUID", ["1.2", None]),
        ("StudyInstanceUID", ["1.2", ""]),
        ("StudyInstanceUID", "abc"),
        ("Study Date", "20260329"),
        ("", "1"),
        (5, "1"),
    ],
)
def test_value_that_limits_nothing_or_has_no_one_text_is_refused(name: Any, value: object) -> None:
    with dag():
        output = XComArg(UpstreamTask(task_id="upstream"))
        task = DicomStoreSearchOperator(**SEARCH, filters=output)  # type: ignore[arg-type]
    with pytest.raises(DicomExportInvalidRequestError, match="filters"):
        render(task, xcoms={"upstream": {name: value}}).execute({})


@pytest.mark.parametrize("nothing", [None, ""])
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("template", ["{{ x }}", "{{ x }}*", "Doe^{{ x }}", "{{ x }}-{{ y }}", "*{{ x }}"])
def test_template_with_a_part_that_is_nothing_is_refused(
    template: str, native: bool, nothing: str | None
) -> None:
    with dag(render_template_as_native_obj=native):
        task = DicomStoreSearchOperator(**SEARCH, filters={"PatientID": template})
    with pytest.raises(DicomExportInvalidRequestError, match=r"filters\['PatientID'\]"):
        render(task, x=nothing, y="1").execute({})


def test_filters_without_an_attribute_are_refused_and_an_empty_list_of_uids_skips() -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="filters is an empty dictionary"):
        DicomStoreSearchOperator(**SEARCH, filters={})
    with pytest.raises(AirflowSkipException, match="empty list"):
        list(search_queries({"StudyInstanceUID": []}))


def test_output_of_a_task_inside_of_filters_is_a_dependency_and_never_a_template() -> None:
    with dag():
        upstream = UpstreamTask(task_id="upstream")
        filters = {"PatientID": XComArg(upstream), "StudyDate": "{{ day }}"}
        task = DicomStoreSearchOperator(**SEARCH, filters=filters)  # type: ignore[arg-type]
        arguments = {name: value for name, value in SEARCH.items() if name != "task_id"}
        mapped = DicomStoreSearchOperator.partial(task_id="mapped", filters=filters).expand_kwargs(
            [arguments]
        )
    for search in (task, mapped):
        assert search.upstream_task_ids == {"upstream"}
        rendered = render(copy.deepcopy(search), map_index=0, xcoms={"upstream": "4711"}, day="20260329")
        assert list(search_queries(reveal(rendered.filters))) == [  # type: ignore[arg-type]
            [("PatientID", "4711"), ("StudyDate", "20260329")]
        ]
        hostile = render(search, map_index=0, xcoms={"upstream": "{{ secret }}"}, day="20260329")
        with pytest.raises(DicomExportInvalidRequestError, match="still holds a template"):
            hostile.execute({})


def test_mapped_filters_of_another_task_are_never_rendered() -> None:
    with dag():
        upstream = UpstreamTask(task_id="upstream")
        arguments = {name: value for name, value in SEARCH.items() if name != "task_id"}
        mapped = DicomStoreSearchOperator.partial(task_id="mapped", **arguments).expand(
            filters=XComArg(upstream)
        )
    for value in ({"PatientID": "{{ secret }}"}, {"PatientID": None}, {}, None):
        with pytest.raises(DicomExportInvalidRequestError, match="filters"):
            render(mapped, map_index=0, xcoms={"upstream": [value]}, secret="1").execute({})


@given(st.text(min_size=1), st.booleans())
def test_text_is_refused_or_sent_unchanged(text: str, native: bool) -> None:
    with dag(render_template_as_native_obj=native):
        task = DicomStoreSearchOperator(**SEARCH, filters={"PatientID": "{{ x }}"})
    rendered: Any = reveal(render(task, x=text).filters)
    if not list(search_filter_errors(rendered, is_rendered=True)):
        assert list(search_queries(rendered)) == [[("PatientID", text)]]
        assert text == "*" or text.strip("*?- \t\n^=,\\")
