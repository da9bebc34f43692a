"""Requests of exports: what fits together, and the body that is sent."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from tests.support import discovery

GCS = "gs://bucket/prefix"
TABLE = "bq://project.dataset.table"


def body_of(**options: Any) -> dict[str, Any]:
    """Return a request's body as it travels, after the discovery document has approved of it."""
    body: dict[str, Any] = json.loads(json.dumps(ExportRequest(**options).body()))
    discovery.check(body, "ExportDicomDataRequest")
    destinations = {"gcsDestination", "bigqueryDestination"} & set(body)
    assert len(destinations) == 1
    return body


@pytest.mark.parametrize("mime_type", [*discovery.mime_forms(), "application/dicom", "image/jpeg"])
def test_every_mime_form_goes_to_cloud_storage_as_it_is_written(mime_type: str) -> None:
    assert body_of(destination=GCS, mime_type=mime_type) == {
        "gcsDestination": {"uriPrefix": GCS, "mimeType": mime_type}
    }
    assert ExportRequest(destination=GCS, mime_type=mime_type).warnings() == []


@pytest.mark.parametrize("destination", ["gs://bucket", "gs://bucket/", "gs://bucket/a/", GCS])
def test_without_a_mime_type_the_api_decides(destination: str) -> None:
    assert body_of(destination=destination) == {"gcsDestination": {"uriPrefix": destination}}


SCHEMAS: dict[str | None, dict[str, Any]] = {
    None: {},
    "flattened": {"schemaFlattened": {}},
    "json": {"schemaJson": {}},
}


@pytest.mark.parametrize(
    ("disposition", "schema", "include_source_store", "filter_uri"),
    list(
        product([None, *discovery.dispositions()], SCHEMAS, [None, True, False], [None, "gs://bucket/f.txt"])
    ),
)
def test_every_combination_for_bigquery(
    disposition: str | None, schema: str | None, include_source_store: bool | None, filter_uri: str | None
) -> None:
    body = body_of(
        destination=TABLE,
        write_disposition=disposition,
        bigquery_schema=schema,
        include_source_store=include_source_store,
        filter_uri=filter_uri,
    )
    table = body.pop("bigqueryDestination")
    assert table.pop("tableUri") == TABLE
    assert table.pop("writeDisposition", None) == disposition
    assert table.pop("includeSourceStore", None) is include_source_store
    assert table == SCHEMAS[schema]
    assert body == ({"filterConfig": {"resourcePathsGcsUri": filter_uri}} if filter_uri else {})


def test_all_three_dispositions_are_those_of_the_document() -> None:
    assert sorted(discovery.dispositions()) == ["WRITE_APPEND", "WRITE_EMPTY", "WRITE_TRUNCATE"]


@pytest.mark.parametrize(
    ("option", "value", "destination", "scheme"),
    [
        ("mime_type", "image/png", TABLE, "gs://"),
        ("write_disposition", "WRITE_EMPTY", GCS, "bq://"),
        ("bigquery_schema", "json", GCS, "bq://"),
        ("include_source_store", True, GCS, "bq://"),
        ("include_source_store", False, GCS, "bq://"),
    ],
)
def test_options_of_the_other_destination_are_refused(
    option: str, value: Any, destination: str, scheme: str
) -> None:
    with pytest.raises(DicomExportInvalidRequestError) as error:
        ExportRequest(destination=destination, **{option: value}).body()
    assert f"{option}={value!r} does not fit destination={destination!r}" in str(error.value)
    assert f"accepted: {option} with a '{scheme}' destination only" in str(error.value)


CHOICES: dict[str, list[Any]] = {
    "write_disposition": ["WRITE_EMPTY", "WRITE_TRUNCATE", "WRITE_APPEND"],
    "bigquery_schema": ["flattened", "json"],
    "include_source_store": [True, False],
}
JSON_VALUES = st.one_of(
    st.text(max_size=20),
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.just([]),
    st.sampled_from(
        [
            "write_empty",
            "WRITE_DISPOSITION_UNSPECIFIED",
            " WRITE_EMPTY",
            "JSON",
            "default",
            "true",
            "",
            1,
            0,
            1.0,
        ]
    ),
)


@pytest.mark.parametrize("option", CHOICES)
@given(JSON_VALUES)
def test_a_choice_is_exactly_one_of_those_accepted(option: str, value: Any) -> None:
    accepted = CHOICES[option]
    errors = list(ExportRequest(destination=TABLE, **{option: value}).validation_errors())
    if any(value is choice or (isinstance(value, str) and value == choice) for choice in accepted):
        assert errors == []
    else:
        assert len(errors) == 1
        assert f"{option}={value!r}" in errors[0]
        assert all(str(choice) in errors[0].partition("accepted:")[2] for choice in accepted)


@pytest.mark.parametrize("value", ["", "png", "image/png;", 3, ["image/png"]], ids=repr)
def test_what_is_no_mime_type_is_refused(value: Any) -> None:
    with pytest.raises(DicomExportInvalidRequestError) as error:
        ExportRequest(destination=GCS, mime_type=value).body()
    assert f"mime_type={value!r}" in str(error.value)
    assert "accepted: a MIME type such as 'application/dicom" in str(error.value)


def test_an_unknown_mime_type_is_sent_with_a_warning() -> None:
    request = ExportRequest(destination=GCS, mime_type="image/jxl")
    (warning,) = request.warnings()
    assert "mime_type='image/jxl'" in warning
    assert body_of(destination=GCS, mime_type="image/jxl")["gcsDestination"]["mimeType"] == "image/jxl"


def test_all_mistakes_are_told_at_once() -> None:
    errors = list(
        ExportRequest(
            destination="ftp://x",
            mime_type="?",
            write_disposition="APPEND",
            bigquery_schema="xml",
            filter_uri="f",
        ).validation_errors()
    )
    assert len(errors) == 5
    for parameter in ("destination", "mime_type", "write_disposition", "bigquery_schema", "filter_uri"):
        assert any(error.startswith(f"{parameter}=") for error in errors)


@pytest.mark.parametrize(
    ("options", "harmless"),
    [
        ({"destination": GCS}, True),
        ({"destination": GCS, "mime_type": "image/png"}, True),
        ({"destination": TABLE}, True),
        ({"destination": TABLE, "write_disposition": "WRITE_EMPTY"}, True),
        ({"destination": TABLE, "write_disposition": "WRITE_TRUNCATE"}, True),
        ({"destination": TABLE, "write_disposition": "WRITE_APPEND"}, False),
    ],
)
def test_only_appending_must_not_be_repeated(options: dict[str, Any], harmless: bool) -> None:
    assert (ExportRequest(**options).duplicate_risk is None) is harmless
