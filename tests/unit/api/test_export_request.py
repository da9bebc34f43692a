"""The request of an export: its options and MIME types validated, and its body."""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_dicom.api import export_request
from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from tests.support import discovery

if TYPE_CHECKING:
    from tests.support.discovery import Json

GCS = "gs://bucket/prefix"
TABLE = "bq://project.dataset.table"


def body_of(request: ExportRequest) -> Json:
    """Return a request's body as it is sent, after a check against the discovery document."""
    body: Json = json.loads(json.dumps(request.body()))
    discovery.check(body, "ExportDicomDataRequest")
    assert len({"gcsDestination", "bigqueryDestination"} & set(body)) == 1
    return body


@pytest.mark.parametrize("mime_type", [*discovery.mime_types(), "application/dicom", "image/jpeg"])
def test_every_documented_mime_type_is_sent_to_cloud_storage_unchanged(mime_type: str) -> None:
    request = ExportRequest(destination=GCS, mime_type=mime_type)
    assert body_of(request) == {"gcsDestination": {"uriPrefix": GCS, "mimeType": mime_type}}
    assert request.warnings() == []


@pytest.mark.parametrize("destination", ["gs://bucket", "gs://bucket/", "gs://bucket/a/", GCS])
def test_body_without_a_mime_type_has_the_destination_only(destination: str) -> None:
    request = ExportRequest(destination=destination)
    assert body_of(request) == {"gcsDestination": {"uriPrefix": destination}}
    assert request.warnings() == []


SCHEMAS: dict[str | None, Json] = {
    None: {},
    "flattened": {"schemaFlattened": {}},
    "json": {"schemaJson": {}},
}


@pytest.mark.parametrize(
    ("disposition", "schema", "include_source_store", "filter_uri"),
    list(
        product(
            [None, *discovery.write_dispositions()], SCHEMAS, [None, True, False], [None, "gs://bucket/f.txt"]
        )
    ),
)
def test_body_of_every_combination_of_bigquery_options(
    disposition: str | None, schema: str | None, include_source_store: bool | None, filter_uri: str | None
) -> None:
    body = body_of(
        ExportRequest(
            destination=TABLE,
            write_disposition=disposition,
            bigquery_schema=schema,
            include_source_store=include_source_store,
            filter_uri=filter_uri,
        )
    )
    table = body.pop("bigqueryDestination")
    assert table.pop("tableUri") == TABLE
    assert table.pop("writeDisposition", None) == disposition
    assert table.pop("includeSourceStore", None) is include_source_store
    assert table == SCHEMAS[schema]
    assert body == ({"filterConfig": {"resourcePathsGcsUri": filter_uri}} if filter_uri else {})


def test_write_dispositions_are_those_of_the_discovery_document() -> None:
    assert sorted(discovery.write_dispositions()) == ["WRITE_APPEND", "WRITE_EMPTY", "WRITE_TRUNCATE"]


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
    option: str, value: object, destination: str, scheme: str
) -> None:
    options: Any = {"destination": destination, option: value}
    request = ExportRequest(**options)
    with pytest.raises(DicomExportInvalidRequestError) as error:
        request.body()
    assert f"{option}={value!r} does not fit destination={destination!r}" in str(error.value)
    assert f"accepted: {option} with a '{scheme}' destination only" in str(error.value)
    assert list(request.validation_errors(frozenset({option}))) == []


@pytest.mark.parametrize("destination", ["s3://bucket", None, 5])
def test_invalid_destination_is_reported_without_the_options_that_depend_on_it(destination: Any) -> None:
    (error,) = ExportRequest(
        destination=destination, write_disposition="WRITE_EMPTY", mime_type="image/png"
    ).validation_errors()
    assert error.startswith(f"destination={destination!r} ")


CHOICES: dict[str, list[object]] = {
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
    st.sampled_from(["WRITE_DISPOSITION_UNSPECIFIED", " WRITE_EMPTY", "JSON", "default", "true"]),
)


@pytest.mark.parametrize("option", CHOICES)
@given(JSON_VALUES)
@example("write_empty")
@example("WRITE_APPEND")
@example("json")
@example("")
@example(1)
@example(0)
@example(1.0)
@example(True)
def test_option_with_fixed_choices_accepts_nothing_else(option: str, value: Any) -> None:
    accepted = CHOICES[option]
    options: Any = {"destination": TABLE, option: value}
    errors = list(ExportRequest(**options).validation_errors())
    if any(value is choice or (isinstance(value, str) and value == choice) for choice in accepted):
        assert errors == []
    else:
        (error,) = errors
        choices = ", ".join(str(choice) for choice in accepted)
        assert error == f"{option}={value!r} is not accepted; accepted: {choices}."


@pytest.mark.parametrize("value", ["", "png", "image/png;", 3, ["image/png"]], ids=repr)
def test_invalid_mime_type_is_refused(value: Any) -> None:
    with pytest.raises(DicomExportInvalidRequestError) as error:
        ExportRequest(destination=GCS, mime_type=value).body()
    assert f"mime_type={value!r} is not a MIME type" in str(error.value)
    assert "accepted: a MIME type such as 'application/dicom" in str(error.value)


def test_unknown_mime_type_is_sent_with_a_warning() -> None:
    request = ExportRequest(destination=GCS, mime_type="image/jxl")
    (warning,) = request.warnings()
    assert "mime_type='image/jxl' is not among the MIME types" in warning
    assert "sent unchanged, and the API decides" in warning
    assert body_of(request)["gcsDestination"]["mimeType"] == "image/jxl"


@pytest.mark.parametrize("filter_uri", ["f.txt", "gs://bucket", "gs://bucket/folder/"])
def test_filter_uri_has_to_name_an_object(filter_uri: str) -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="accepted: 'gs://bucket/object'") as error:
        ExportRequest(destination=GCS, filter_uri=filter_uri).body()
    assert f"filter_uri={filter_uri!r}" in str(error.value)


INVALID = ExportRequest(
    destination="ftp://x",
    mime_type="?",
    write_disposition="APPEND",
    bigquery_schema="xml",
    include_source_store="yes",  # type: ignore[arg-type]
    filter_uri="f",
)
OPTIONS = tuple(vars(INVALID))


def test_all_invalid_options_are_reported_at_once() -> None:
    errors = list(INVALID.validation_errors())
    assert [error.partition("=")[0] for error in errors] == list(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_template_is_not_validated_before_it_is_rendered(option: str) -> None:
    errors = list(INVALID.validation_errors(frozenset({option})))
    assert [error.partition("=")[0] for error in errors] == [other for other in OPTIONS if other != option]


@pytest.mark.parametrize(
    "request_",
    [
        ExportRequest(destination=GCS),
        ExportRequest(destination=GCS, mime_type="image/png"),
        ExportRequest(destination=TABLE),
        ExportRequest(destination=TABLE, write_disposition="WRITE_EMPTY"),
        ExportRequest(destination=TABLE, write_disposition="WRITE_TRUNCATE"),
    ],
    ids=str,
)
def test_exports_that_overwrite_or_refuse_have_no_duplicate_risk(request_: ExportRequest) -> None:
    assert request_.duplicate_risk is None


def test_duplicate_risk_of_an_append_export_names_the_table() -> None:
    risk = ExportRequest(destination=TABLE, write_disposition="WRITE_APPEND").duplicate_risk
    assert risk is not None
    assert "WRITE_APPEND could then write the same rows" in risk
    assert f"to {TABLE} twice" in risk


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,20}", fullmatch=True)
SPACES = st.sampled_from(["", " ", "  ", "\t"])


def test_discovery_document_lists_24_mime_types() -> None:
    assert len(discovery.mime_types()) == 24


def test_documented_mime_types_are_those_of_the_discovery_document() -> None:
    assert sorted(export_request.DOCUMENTED_MIME_TYPES) == sorted(discovery.mime_types())


@pytest.mark.parametrize("mime_type", [*discovery.mime_types(), *export_request.BARE_MIME_TYPES])
@given(SPACES, SPACES)
def test_documented_mime_types_are_known_with_any_spaces(mime_type: str, before: str, after: str) -> None:
    spaced = mime_type.replace("; ", f"{before};{after}")
    assert export_request.is_mime_type(spaced)
    assert export_request.is_known_mime_type(spaced)


@pytest.mark.parametrize("mime_type", ["application/dicom", "application/octet-stream", "image/jpeg"])
def test_mime_types_without_a_transfer_syntax_are_known(mime_type: str) -> None:
    assert export_request.is_known_mime_type(mime_type)


@given(NAMES, NAMES, st.lists(st.tuples(NAMES, NAMES), max_size=3))
def test_undocumented_mime_types_are_well_formed_and_unknown(
    kind: str, subtype: str, parameters: list[tuple[str, str]]
) -> None:
    mime_type = f"x{kind}/{subtype}" + "".join(f"; {name}={value}" for name, value in parameters)
    assert export_request.is_mime_type(mime_type)
    assert not export_request.is_known_mime_type(mime_type)


@pytest.mark.parametrize(
    "mime_type",
    ['multipart/related; type="application/dicom"; transfer-syntax=*', "image/jp2", "image/svg+xml"],
)
def test_mime_types_that_the_api_may_support_later_are_well_formed(mime_type: str) -> None:
    assert export_request.is_mime_type(mime_type)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "dicom",
        "/",
        "image/",
        "/png",
        "image/png;",
        "image//png",
        "image/png; x",
        "image/png; =y",
        "image/png; x=",
        "image/png, image/jpeg",
        " image/png",
        "image/png ",
        "image/png\n",
        'image/png; x="a',
        "application/dicom;\n transfer-syntax=*",
        "application/dicom;\r\nX-Header: 1",
        "image/pñg",
        "image/png\x00",
    ],
    ids=repr,
)
def test_other_texts_are_not_well_formed_mime_types(text: str) -> None:
    assert not export_request.is_mime_type(text)


@pytest.mark.parametrize(
    ("mime_type", "is_transcoded"),
    [
        (None, False),
        ("application/dicom", False),
        ("application/dicom; transfer-syntax=*", False),
        ('application/dicom;transfer-syntax="*"', False),
        ("application/octet-stream; transfer-syntax=*", False),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90", True),
        ("application/dicom ; Transfer-Syntax=1.2.840.10008.1.2.1", True),
        ("application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1", True),
        ("image/jpeg", True),
        ("IMAGE/png", True),
    ],
)
def test_images_and_any_transfer_syntax_but_the_original_one_are_transcoded(
    mime_type: str | None, is_transcoded: bool
) -> None:
    assert export_request.transcodes(mime_type) is is_transcoded


@pytest.mark.parametrize(
    ("mime_type", "is_one_file"),
    [
        (None, True),
        ("application/dicom", True),
        ("application/dicom ; transfer-syntax=*", True),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90", True),
        ("application/octet-stream; transfer-syntax=*", False),
        ("image/png", False),
        ("image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50", False),
    ],
)
def test_only_dicom_has_one_file_for_each_instance(mime_type: str | None, is_one_file: bool) -> None:
    assert export_request.is_one_file_per_instance(mime_type) is is_one_file


REQUESTS = [
    *(
        ExportRequest(destination=GCS, mime_type=mime_type, filter_uri=filter_uri)
        for mime_type, filter_uri in product((None, "image/png"), (None, "gs://bucket/filter.txt"))
    ),
    *(
        ExportRequest(
            destination=TABLE,
            write_disposition=disposition,
            bigquery_schema=schema,
            include_source_store=include,
            filter_uri=filter_uri,
        )
        for disposition, schema, include, filter_uri in product(
            (None, "WRITE_EMPTY", "WRITE_TRUNCATE", "WRITE_APPEND"),
            (None, "flattened", "json"),
            (None, True, False),
            (None, "gs://bucket/filter.txt"),
        )
    ),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_options_are_read_back_from_the_body_of_a_request(request_: ExportRequest) -> None:
    body: Any = body_of(request_)
    assert ExportRequest.of_body(body) == request_


@pytest.mark.parametrize(
    ("destination", "disposition", "overwrites"),
    [
        (GCS, None, True),
        (TABLE, "WRITE_TRUNCATE", True),
        (TABLE, "WRITE_EMPTY", False),
        (TABLE, "WRITE_APPEND", False),
        (TABLE, None, False),
    ],
)
def test_export_overwrites_objects_and_truncated_tables_only(
    destination: str, disposition: str | None, overwrites: bool
) -> None:
    request = ExportRequest(destination=destination, write_disposition=disposition)
    assert request.overwrites is overwrites
