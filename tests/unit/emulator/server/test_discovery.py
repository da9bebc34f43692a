"""Requests are checked against the discovery document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.server.discovery import check_query, methods, parse_body

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.messages import JsonObject

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=10,
)
KNOWN = ("gcsDestination", "bigqueryDestination", "uriPrefix", "mimeType", "tableUri", "force", "schemaJson")
FIELDS = st.sampled_from([*KNOWN, "write_disposition", "gcs_destination", "filterConfig"])
NEARLY_A_REQUEST = st.dictionaries(FIELDS, ANY_JSON | st.dictionaries(FIELDS, ANY_JSON))


def refusal(body: Any, schema: str = "ExportDicomDataRequest") -> str:
    with pytest.raises(ApiError) as caught:
        parse_body(json.dumps(body).encode(), schema)
    return caught.value.message


def parsed_or_refused(raw: bytes, schema: str) -> JsonObject | ApiError:
    try:
        return parse_body(raw, schema)
    except ApiError as error:
        return error


@given(ANY_JSON | NEARLY_A_REQUEST)
def test_json_body_is_parsed_or_refused(body: Any) -> None:
    checked = parsed_or_refused(json.dumps(body).encode(), "ExportDicomDataRequest")
    if isinstance(checked, ApiError):
        assert checked.status == "INVALID_ARGUMENT"
    else:
        # What was understood is understood again, as the same.
        assert parse_body(json.dumps(checked).encode(), "ExportDicomDataRequest") == checked


@given(st.binary())
def test_arbitrary_bytes_are_parsed_or_refused(raw: bytes) -> None:
    checked = parsed_or_refused(raw, "DicomStore")
    assert checked == {} or isinstance(checked, ApiError)


def test_empty_body_is_an_empty_message() -> None:
    assert parse_body(b" ", "ExportDicomDataRequest") == {}


def test_parsed_body_has_no_nulls_and_camel_case_names() -> None:
    body = {"gcs_destination": {"uri_prefix": "gs://b", "mimeType": None}, "filterConfig": None}
    assert parse_body(json.dumps(body).encode(), "ExportDicomDataRequest") == {
        "gcsDestination": {"uriPrefix": "gs://b"}
    }


def test_parsed_body_leaves_out_default_values_and_fields_of_the_server() -> None:
    store = {"name": "", "labels": {}, "notificationConfigs": [], "notificationConfig": {"pubsubTopic": ""}}
    # A message that is set differs from one that is not.
    assert parse_body(json.dumps(store).encode(), "DicomStore") == {"notificationConfig": {}}
    dataset = {"timeZone": "UTC", "satisfiesPzs": True}
    assert parse_body(json.dumps(dataset).encode(), "Dataset") == {"timeZone": "UTC"}
    export = {
        "bigqueryDestination": {
            "tableUri": "bq://p.d.t",
            "force": False,
            "writeDisposition": "WRITE_DISPOSITION_UNSPECIFIED",
            "schemaJson": {},
        }
    }
    assert parse_body(json.dumps(export).encode(), "ExportDicomDataRequest") == {
        "bigqueryDestination": {"tableUri": "bq://p.d.t", "schemaJson": {}}
    }


def test_violation_in_a_resource_names_the_resource() -> None:
    assert refusal({"x": 1}, "DicomStore") == (
        "Invalid JSON payload received. Unknown name \"x\" at 'dicom_store': Cannot find field."
    )
    assert refusal({"labels": {"a": 1}}, "DicomStore") == (
        "Invalid value at 'dicom_store.labels[a]' (TYPE_STRING), 1"
    )
    assert refusal({"notificationConfigs": [{"topic": 1}]}, "DicomStore") == (
        "Invalid JSON payload received. Unknown name \"topic\" at 'dicom_store.notification_configs[0]': "
        "Cannot find field."
    )


def test_error_lists_every_violation() -> None:
    assert refusal({"a": 1, "gcsDestination": {"b": 1}}).splitlines() == [
        'Invalid JSON payload received. Unknown name "a": Cannot find field.',
        "Invalid JSON payload received. Unknown name \"b\" at 'gcs_destination': Cannot find field.",
    ]


def test_null_destination_does_not_count_in_the_union() -> None:
    body = {"gcsDestination": {"uriPrefix": "gs://b"}, "bigqueryDestination": None}
    assert parse_body(json.dumps(body).encode(), "ExportDicomDataRequest").keys() == {"gcsDestination"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [("3", 3), ("-1", -1), ("2147483647", 2147483647), ("2147483648", None), ("1.5", None)],
)
def test_integer_query_parameter_is_parsed_or_refused(value: str, expected: int | None) -> None:
    own = methods()["datasets.operations.list"].query
    if expected is not None:
        assert check_query([("pageSize", value)], own) == {"pageSize": expected}
        assert check_query([("page_size", value)], own) == {"pageSize": expected}
        return
    with pytest.raises(ApiError, match="page_size"):
        check_query([("pageSize", value)], own)


def test_standard_query_parameters_are_left_out() -> None:
    own = methods()["datasets.operations.list"].query
    query = [("$.xgafv", "1"), ("alt", "json"), ("$alt", "json"), ("fields", "name"), ("pageToken", "t")]
    assert check_query(query, own) == {"pageToken": "t"}


def test_method_path_matches_its_url() -> None:
    method = methods()["datasets.dicomStores.export"]
    name = "projects/p/locations/l/datasets/d/dicomStores/s"
    match = method.path.fullmatch(f"/v1/{name}:export")
    assert match is not None
    assert match.groupdict() == {"name": name}
    assert method.http_method == "POST"
    assert method.request == "ExportDicomDataRequest"
