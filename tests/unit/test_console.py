"""Addresses of pages in the Google Cloud console."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from airflow_provider_dicom import console

NAME = "projects/my-project/locations/us-central1/datasets/放射線科/operations/77"


@pytest.fixture(autouse=True)
def no_universe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The console of Google's own universe."""
    monkeypatch.delenv("GOOGLE_CLOUD_HIGH_VALUE_COOKIE_DOMAIN", raising=False)


def test_address_of_a_dicom_store() -> None:
    url = console.dicom_store_url("my-project", "us-central1", "放射線科", "a/b?c")
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc) == ("https", "console.cloud.google.com")
    assert [unquote(part) for part in parts.path.split("/")] == [
        "",
        "healthcare",
        "browser",
        "locations",
        "us-central1",
        "datasets",
        "放射線科",
        "dicomStores",
        "a/b?c",
        "overview",
    ]
    assert parse_qs(parts.query) == {"project": ["my-project"]}


def test_address_of_the_logs_is_a_query_for_the_operations_id() -> None:
    parts = urlsplit(console.operation_logs_url(NAME))
    path, _, query = parts.path.partition(";query=")
    assert (parts.netloc, path) == ("console.cloud.google.com", "/logs/query")
    assert unquote(query) == 'resource.type="healthcare_dicom_store"\noperation.id:"77"'
    assert not set('/\n" ') & set(query)
    assert parse_qs(parts.query) == {"project": ["my-project"]}


@pytest.mark.parametrize("metadata", [{}, {"logsUrl": ""}])
def test_logs_of_an_operation_without_an_address_are_found_by_its_name(metadata: dict[str, str]) -> None:
    built = console.operation_logs_url(NAME)
    assert console.logs_url({"name": NAME}) == built
    assert console.logs_url({"name": NAME, "metadata": metadata}) == built  # type: ignore[typeddict-item]


def test_address_of_the_logs_from_the_api_is_preferred() -> None:
    assert console.logs_url({"name": NAME, "metadata": {"logsUrl": "https://logs"}}) == "https://logs"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nightly/2025 ü/", "/storage/browser/bucket/nightly/2025%20%C3%BC"),
        ("nightly", "/storage/browser/bucket/nightly"),
        ("", "/storage/browser/bucket"),
    ],
)
def test_address_of_a_folder_in_a_bucket(path: str, expected: str) -> None:
    assert console.storage_url("bucket", path) == f"https://console.cloud.google.com{expected}"


def test_address_of_a_bigquery_table() -> None:
    parts = urlsplit(console.table_url("warehouse", "imaging", "instances"))
    assert (parts.netloc, parts.path) == ("console.cloud.google.com", "/bigquery")
    assert parse_qs(parts.query) == {
        "p": ["warehouse"],
        "d": ["imaging"],
        "t": ["instances"],
        "page": ["table"],
        "project": ["warehouse"],
    }


@pytest.mark.parametrize(
    ("domain", "host"),
    [("example.goog", "console.cloud.example.goog"), ("", "console.cloud.google.com")],
)
def test_addresses_in_the_console_of_another_universe(
    domain: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_HIGH_VALUE_COOKIE_DOMAIN", domain)
    for url in (
        console.dicom_store_url("p", "l", "d", "s"),
        console.operation_logs_url(NAME),
        console.storage_url("b", "x"),
        console.table_url("p", "d", "t"),
    ):
        assert urlsplit(url).netloc == host
