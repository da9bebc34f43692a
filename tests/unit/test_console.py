"""Addresses of pages in the Google Cloud console."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from airflow_provider_dicom import console

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation, OperationMetadata

DATASET = "projects/my-project/locations/us-central1/datasets/放射線科"
NAME = f"{DATASET}/operations/77"
STORE = f"{DATASET}/dicomStores/Röntgen.2"


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


LABELS = [
    'resource.type="healthcare_dicom_store"',
    'resource.labels.project_id="my-project"',
    'resource.labels.location="us-central1"',
    'resource.labels.dataset_id="放射線科"',
]
OPERATION_ID = f'operation.id:"{NAME}"'


def log_query(operation: Operation, dicom_store: str | None = None) -> list[str]:
    """Return the lines of the log query that an address holds, after a look at the rest of the address."""
    parts = urlsplit(console.logs_url(operation, dicom_store))
    path, _, query = parts.path.partition(";query=")
    assert (parts.netloc, path) == ("console.cloud.google.com", "/logs/query")
    assert not set('/\n" ') & set(query)
    assert parse_qs(parts.query) == {"project": [operation["name"].split("/")[1]]}
    return unquote(query).split("\n")


@pytest.mark.parametrize("metadata", [{}, {"logsUrl": ""}])
def test_log_query_names_the_operation_in_full_and_the_labels_of_its_dataset(
    metadata: OperationMetadata,
) -> None:
    assert log_query({"name": NAME, "metadata": metadata}) == [*LABELS, OPERATION_ID]
    assert log_query({"name": NAME}) == [*LABELS, OPERATION_ID]


def test_log_query_has_the_label_of_a_known_dicom_store() -> None:
    assert log_query({"name": NAME}, STORE) == [
        *LABELS,
        'resource.labels.dicom_store_id="Röntgen.2"',
        OPERATION_ID,
    ]


@pytest.mark.parametrize(
    ("metadata", "times"),
    [
        (
            {"createTime": "2025-11-23T01:00:00.5Z", "endTime": "2025-11-23T02:00:00Z"},
            ['timestamp>="2025-11-23T01:00:00.500000Z"', 'timestamp<="2025-11-23T02:10:00Z"'],
        ),
        ({"createTime": "2025-11-23T01:00:00+05:30"}, ['timestamp>="2025-11-22T19:30:00Z"']),
        ({"createTime": "2025-11-23T01:00:00.123456789Z"}, ['timestamp>="2025-11-23T01:00:00.123456Z"']),
        ({"createTime": "2025-11-23T01:00:00"}, []),
        ({"createTime": 'x" OR "', "endTime": "9999-12-31T23:59:59Z"}, []),
        ({"createTime": 7, "endTime": None}, []),
    ],
)
def test_log_query_has_the_times_of_the_operation_as_far_as_they_are_known(
    metadata: OperationMetadata, times: list[str]
) -> None:
    assert log_query({"name": NAME, "metadata": metadata}) == [*LABELS, OPERATION_ID, *times]


def test_log_query_of_a_project_number_matches_entries_with_the_project_id() -> None:
    name = NAME.replace("my-project", "1234")
    assert log_query({"name": name}) == [
        LABELS[0],
        *LABELS[2:],
        'operation.id:"locations/us-central1/datasets/放射線科/operations/77"',
    ]


def test_log_query_quotes_an_operation_id_with_quotation_marks() -> None:
    assert log_query({"name": f'{NAME}"\\'})[-1] == f'operation.id:"{NAME}\\"\\\\"'


def test_address_of_the_logs_from_the_api_is_preferred() -> None:
    operation: Operation = {"name": NAME, "metadata": {"logsUrl": "https://logs"}}
    assert console.logs_url(operation, STORE) == "https://logs"


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
        console.logs_url({"name": NAME}),
        console.storage_url("b", "x"),
        console.table_url("p", "d", "t"),
    ):
        assert urlsplit(url).netloc == host
