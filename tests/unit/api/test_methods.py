"""Requests: the URL of each reaches exactly the resource that its ids name, by either HTTP library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from airflow_provider_dicom.api import methods
from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName, OperationName, id_error
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from tests.support import discovery
from tests.support.resource_ids import LOCATIONS, PROJECTS

if TYPE_CHECKING:
    from airflow_provider_dicom.api.methods import ApiRequest

HOST = "https://healthcare.googleapis.com"


def ids(parameter: str) -> st.SearchStrategy[str]:
    """Generate ids that the provider accepts for a parameter, unusual ones first."""
    strange = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=12)
    usual = st.from_regex(r"[a-z][a-z0-9._-]{1,8}", fullmatch=True)
    return (strange | usual).filter(lambda value: id_error(parameter, value) is None)


DATASETS = st.builds(DatasetName, PROJECTS, LOCATIONS, ids("dataset_id"))
STORES = st.builds(DicomStoreName, DATASETS, ids("dicom_store_id"))
OPERATIONS = st.builds(OperationName, DATASETS, ids("operation_id"))
PLAIN = DatasetName("p", "l", "d")


def sent_segments(request: ApiRequest) -> list[str]:
    """Return the unquoted segments of the path that both HTTP libraries send."""
    url = HOST + request.target
    by_requests = requests.Request(request.http_method, url).prepare().url or ""
    by_aiohttp = str(URL(url, encoded=True))
    paths = {urlsplit(sent).path for sent in (by_requests, by_aiohttp)}
    assert len(paths) == 1
    assert by_requests.startswith(HOST + "/v1/")
    return [unquote(segment, errors="strict") for segment in paths.pop().split("/")]


def segments(name: object, *more: str) -> list[str]:
    return ["", "v1", *str(name).split("/"), *more]


@given(STORES)
@example(DicomStoreName(DatasetName("example.com:project", "us-central1", "放射線科"), "Röntgen.2_-"))
def test_requests_about_a_dicom_store_reach_the_store_by_its_name(store: DicomStoreName) -> None:
    assert sent_segments(methods.get_dicom_store(store)) == segments(store)
    assert sent_segments(methods.list_dicom_stores(store.dataset, filter_=None, page_size=None)) == (
        segments(store.dataset, "dicomStores")
    )
    request = ExportRequest(destination="gs://bucket")
    assert sent_segments(methods.export(store, request)) == segments(f"{store}:export")
    assert sent_segments(methods.get_dicom_store_metrics(store)) == segments(f"{store}:getDICOMStoreMetrics")
    assert sent_segments(methods.test_iam_permissions(store, [])) == segments(f"{store}:testIamPermissions")
    assert sent_segments(methods.test_iam_permissions(store.dataset, [])) == (
        segments(f"{store.dataset}:testIamPermissions")
    )


@given(OPERATIONS)
@example(OperationName(PLAIN, "12345678901234567890"))
def test_requests_about_an_operation_reach_the_operation_by_its_name(name: OperationName) -> None:
    assert sent_segments(methods.get_operation(name)) == segments(name)
    assert sent_segments(methods.cancel_operation(name)) == segments(f"{name}:cancel")
    assert sent_segments(methods.list_operations(name.dataset, filter_=None, page_size=None)) == (
        segments(name.dataset, "operations")
    )


def test_operation_id_cannot_name_a_custom_method() -> None:
    try:
        name = OperationName(PLAIN, "1:cancel")
    except DicomExportInvalidRequestError:
        return
    assert "%3A" in methods.get_operation(name).path


def documented_methods() -> dict[str, Any]:
    datasets = discovery.document()["resources"]["projects"]["resources"]["locations"]["resources"][
        "datasets"
    ]
    return {
        "dataset": datasets["methods"],
        "store": datasets["resources"]["dicomStores"]["methods"],
        "operation": datasets["resources"]["operations"]["methods"],
    }


STORE = DicomStoreName(PLAIN, "s")
OPERATION = OperationName(PLAIN, "1")


@pytest.mark.parametrize(
    ("request_", "kind", "method", "schema"),
    [
        (
            methods.export(STORE, ExportRequest(destination="gs://bucket")),
            "store",
            "export",
            "ExportDicomDataRequest",
        ),
        (methods.get_dicom_store(STORE), "store", "get", None),
        (methods.list_dicom_stores(PLAIN, filter_="x", page_size=5), "store", "list", None),
        (methods.get_dicom_store_metrics(STORE), "store", "getDICOMStoreMetrics", None),
        (
            methods.test_iam_permissions(STORE, ["a.b.c"]),
            "store",
            "testIamPermissions",
            "TestIamPermissionsRequest",
        ),
        (
            methods.test_iam_permissions(PLAIN, ["a.b.c"]),
            "dataset",
            "testIamPermissions",
            "TestIamPermissionsRequest",
        ),
        (methods.get_operation(OPERATION), "operation", "get", None),
        (methods.list_operations(PLAIN, filter_="x", page_size=5), "operation", "list", None),
        (methods.cancel_operation(OPERATION), "operation", "cancel", "CancelOperationRequest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_requests_match_the_discovery_document(
    request_: ApiRequest, kind: str, method: str, schema: str | None
) -> None:
    described = documented_methods()[kind][method]
    assert request_.http_method == described["httpMethod"]
    pattern = described["path"]
    for name, parameter in described["parameters"].items():
        if parameter["location"] == "path":
            resources = {"dataset": PLAIN, "store": STORE, "operation": OPERATION}
            resource = PLAIN if method == "list" else resources[kind]
            pattern = pattern.replace(f"{{+{name}}}", str(resource))
    assert request_.path == f"/{pattern}"
    assert {name for name, _ in request_.query} <= set(described["parameters"])
    if schema is None:
        assert request_.body is None
        assert "request" not in described
    else:
        assert described["request"]["$ref"] == schema
        discovery.check(request_.body, schema)


@given(st.text(min_size=1), st.text(min_size=1))
def test_filters_and_page_tokens_are_quoted_in_the_query(filter_: str, token: str) -> None:
    try:
        (filter_ + token).encode()
    except UnicodeEncodeError:
        return
    request = methods.list_operations(PLAIN, filter_=filter_, page_size=10).page("first").page(token)
    assert parse_qsl(urlsplit(request.target).query, keep_blank_values=True) == [
        ("filter", filter_),
        ("pageSize", "10"),
        ("pageToken", token),
    ]


def search(**options: Any) -> ApiRequest:
    defaults: dict[str, Any] = {
        "study_uid": None,
        "series_uid": None,
        "filters": (),
        "include_fields": (),
        "limit": 10,
        "offset": 0,
    }
    return methods.search(STORE, options.pop("level", "studies"), **(defaults | options))


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"level": "studies"}, ["studies"]),
        ({"level": "series"}, ["series"]),
        ({"level": "instances"}, ["instances"]),
        ({"level": "series", "study_uid": "1.2.3"}, ["studies", "1.2.3", "series"]),
        ({"level": "instances", "study_uid": "1.2.3"}, ["studies", "1.2.3", "instances"]),
        (
            {"level": "instances", "study_uid": "1.2", "series_uid": "3.4"},
            ["studies", "1.2", "series", "3.4", "instances"],
        ),
    ],
)
def test_search_path_names_level_study_and_series(options: dict[str, Any], path: list[str]) -> None:
    assert sent_segments(search(**options)) == segments(STORE, "dicomWeb", *path)


@given(st.dictionaries(st.text(min_size=1), st.text() | st.integers()), st.lists(st.text(min_size=1)))
@example(
    {"PatientName": "Müller^Jürgen*", "StudyDate": "20250101-20251231", "00080060": "CT&limit=1"}, ["all"]
)
def test_search_filters_are_quoted_and_the_limit_is_always_sent(
    filters: dict[str, str | int], include_fields: list[str]
) -> None:
    try:
        "".join([*filters, *map(str, filters.values()), *include_fields]).encode()
    except UnicodeEncodeError:
        return
    request = search(filters=filters, include_fields=include_fields, limit=7, offset=14)
    assert parse_qsl(urlsplit(request.target).query, keep_blank_values=True) == [
        *((name, str(value)) for name, value in filters.items()),
        *(("includefield", name) for name in include_fields),
        ("limit", "7"),
        ("offset", "14"),
    ]


@pytest.mark.parametrize(
    "uid", ["..", ".", "1.2/../3", "1.2?x", "1.2.", "1 2", "abc", "1." * 40 + "1", "../../x"]
)
@pytest.mark.parametrize("parameter", ["study_uid", "series_uid"])
def test_search_refuses_an_invalid_uid(parameter: str, uid: str) -> None:
    with pytest.raises(DicomExportInvalidRequestError) as error:
        search(**{"level": "instances", "study_uid": "1.2", parameter: uid})
    assert f"{parameter}={uid!r}" in str(error.value)
    assert "accepted: " in str(error.value)


def test_search_refuses_a_series_without_its_study() -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="study_uid"):
        search(level="instances", series_uid="1.2.3")
