"""URIs of destinations and filter files."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_dicom.api.destinations import BigQueryTable, GcsUri, parse_destination, parse_gcs_uri
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError

ALPHANUMERIC = string.ascii_lowercase + string.digits
BUCKETS = st.from_regex(r"[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]", fullmatch=True).filter(
    lambda name: not name.startswith("goog")
)
SEGMENTS = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1, max_size=20
).filter(lambda segment: segment not in (".", ".."))
PROJECTS = st.from_regex(r"([a-z][a-z0-9.]{0,9}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", fullmatch=True)
DATASETS = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=1024)
TABLES = st.text(
    st.characters(categories=["L", "M", "N", "Pc", "Pd", "Zs"], exclude_characters="."),
    min_size=1,
    max_size=50,
)


@given(BUCKETS, st.lists(SEGMENTS, max_size=5), st.booleans())
@example("radiology-exports", ["2025-11-23"], True)
@example("my.domain.example", ["ünïcode", "a b"], False)
@example("a" * 63 + "." + "b" * 63, [], False)
def test_cloud_storage_uri_is_parsed_into_bucket_and_path(
    bucket: str, segments: list[str], slash: bool
) -> None:
    path = "/".join(segments) + ("/" if slash and segments else "")
    uri = f"gs://{bucket}/{path}" if path else f"gs://{bucket}"
    parsed = parse_destination(uri)
    assert parsed == GcsUri(bucket, path)
    assert str(parsed) == uri


@given(PROJECTS, DATASETS, TABLES)
@example("my-project", "dicom", "instances_20251123")
@example("example.com:my-project", "d", "t")
@example("123456789012", "_hidden", "Tabelle für Röntgen-Bilder")
def test_table_uri_is_parsed_into_project_dataset_and_table(project: str, dataset: str, table: str) -> None:
    uri = f"bq://{project}.{dataset}.{table}"
    parsed = parse_destination(uri)
    assert parsed == BigQueryTable(project, dataset, table)
    assert str(parsed) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "gs://",
        "gs:///x",
        "gs:/bucket/x",
        "GS://bucket/x",
        " gs://bucket",
        "s3://bucket/x",
        "bucket/x",
        "https://storage.googleapis.com/bucket",
        "gs://Bucket/x",
        "gs://bu cket/x",
        "gs://-bucket/x",
        "gs://bucket-/x",
        "gs://ab/x",
        "gs://google-bucket/x",
        "gs://" + "b" * 64,
        "gs://a..b/x",
        "gs://bucket?x=1/y",
        "gs://bucket#f",
        "gs://user@bucket/x",
        "gs://bucket:80/x",
        "gs://bucket\\x",
        "gs://bucket/../x",
        "gs://bucket/a/./b",
        "gs://bucket/..",
        "gs://bucket//x",
        "gs://bucket/a//b",
        "gs://bucket/a\nb",
        "gs://bucket/a\x00b",
        "gs://bucket/\ud800",
        "gs://bucket/" + "x" * 1025,
        "gs://bucket/" + "ü" * 513,
        "gs://%62ucket/x",
        "bq://",
        "bq://p",
        "bq://p.d",
        "bq://.d.t",
        "bq://p..t",
        "bq://p.d.",
        "bq://p.d.t.",
        "bq:/p.d.t",
        "bq://p/d/t",
        "bq://P.d.t",
        "bq://p.d-d.t",
        "bq://p.d.t\n",
        "bq://p.d.t/x",
        "bq://p.d.t;drop",
        "bq://p d.d.t",
        "bq://project-1.d." + "t" * 2000,
        "bq://p.ünïcode.t",
        "bq://p.d." + "ü" * 513,
        "bq://p.d.\ud800",
        None,
        5,
        b"gs://bucket/x",
        ["gs://bucket/x"],
    ],
    ids=repr,
)
def test_invalid_destination_is_refused_with_its_value_and_the_accepted_forms(uri: object) -> None:
    with pytest.raises(DicomExportInvalidRequestError) as error:
        parse_destination(uri)
    assert f"destination={uri!r}" in str(error.value)
    assert "; accepted: 'gs://bucket/prefix'" in str(error.value) or "; accepted: 'bq://" in str(error.value)


@given(st.text() | st.text().map("gs://".__add__) | st.text().map("bq://".__add__))
def test_every_text_is_either_parsed_or_refused(text: str) -> None:
    try:
        parsed = parse_destination(text)
    except DicomExportInvalidRequestError as error:
        assert f"destination={text!r}" in str(error)  # noqa: PT017 - a refusal is one of two good outcomes
    else:
        assert str(parsed).rstrip("/") == text.rstrip("/")


@pytest.mark.parametrize(
    "uri", ["gs://bucket", "gs://bucket/", "gs://bucket/folder/", "bq://p.d.t", "filter.txt", None]
)
def test_uri_of_a_filter_file_has_to_name_one_object(uri: object) -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="accepted: 'gs://bucket/object'") as error:
        parse_gcs_uri(uri, "filter_uri", is_object=True)
    assert f"filter_uri={uri!r}" in str(error.value)


def test_table_uri_may_have_2000_characters() -> None:
    dataset = "d" * (2000 - len("bq://project-1..table"))
    with pytest.raises(DicomExportInvalidRequestError, match="cannot be a BigQuery dataset"):
        parse_destination(f"bq://project-1.{dataset}.table")
    dataset = "d" * 1024
    table = "t" * (2000 - len(f"bq://project-1.{dataset}."))
    assert parse_destination(f"bq://project-1.{dataset}.{table}")
    with pytest.raises(DicomExportInvalidRequestError, match="longer than 2000"):
        parse_destination(f"bq://project-1.{dataset}.{table}t")
