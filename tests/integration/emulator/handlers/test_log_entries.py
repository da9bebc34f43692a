"""The entries of exports in Cloud Logging, read by Google's own client."""

from __future__ import annotations

import itertools
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from google.api_core.exceptions import BadRequest, Forbidden
from google.auth.credentials import AnonymousCredentials
from google.cloud.logging_v2 import Client

from rig.dicom_files import Uids, upload_copies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import requests

    from rig.control import Control
    from rig.servers import HealthcareEmulator
    from tests.support.discovery_check import Json

_numbers = itertools.count(1)


@pytest.fixture
def client(healthcare: HealthcareEmulator) -> Iterator[Client]:
    """Google's client of Cloud Logging, which finds the server by its endpoint option."""
    client = Client(
        project="test-project",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": healthcare.url},
        _use_grpc=False,
    )
    with closing(client._http):
        yield client


@pytest.fixture
def failing(healthcare: HealthcareEmulator, dicom_store: str, control: Control) -> list[Uids]:
    """Three instances, two of which fail."""
    study = f"1.2.3.{next(_numbers)}"
    uids = [Uids(study, f"{study}.1", f"{study}.1.{number}") for number in range(3)]
    upload_copies(healthcare.url, dicom_store, uids)
    control.settings(failing_instances={one.instance: f"broken {one.instance}" for one in uids[:2]})
    return uids


def entries(client: Client, filter_: str, **options: Any) -> list[Any]:
    """Return all entries; the client adds a time to filters without one."""
    return [*client.list_entries(filter_=f'{filter_}\ntimestamp>="2000-01-01T00:00:00Z"', **options)]


@pytest.fixture
def exported(
    export: Callable[..., str], finished: Callable[[str], Json], dicom_store: str, failing: list[Uids]
) -> str:
    """The name of an operation with two failed instances."""
    assert failing
    name = export(dicom_store)
    finished(name)
    return name


def test_google_s_client_reads_an_entry_for_each_failed_instance(
    client: Client, exported: str, dicom_store: str, failing: list[Uids]
) -> None:
    found = entries(client, f'operation.id:"{exported}"')
    assert [entry.payload for entry in found] == [
        {
            "@type": "type.googleapis.com/google.cloud.healthcare.logging.ExportDicomLogEntry",
            "resourceName": f"{dicom_store}/dicomWeb{one.path}",
            "error": {"code": 3, "message": f"broken {one.instance}"},
        }
        for one in sorted(failing[:2], key=lambda one: one.path)
    ]
    (first, second) = found
    _, project, _, location, _, dataset, _, store = dicom_store.split("/")
    assert first.resource.type == "healthcare_dicom_store"
    assert first.resource.labels == {
        "project_id": project,
        "location": location,
        "dataset_id": dataset,
        "dicom_store_id": store,
    }
    assert first.operation["id"] == exported
    assert (first.severity, first.insert_id != second.insert_id) == ("ERROR", True)
    assert first.timestamp is not None


@pytest.mark.parametrize(
    ("filter_", "count"),
    [
        ('resource.type="healthcare_dicom_store"\noperation.id:"{id}"', 2),
        ('operation.id="{name}" AND resource.labels.project_id="test-project"', 2),
        ('operation.id="{id}"', 0),
        ('operation.id:"{id}"\nresource.labels.project_id="another"', 0),
        ('operation.id:"{id}"\nresource.type="healthcare_dataset"', 0),
        ('operation.id:"{id}"\ntimestamp<="2001-01-01T00:00:00Z"', 0),
        ('operation.id:"{id}"\njsonPayload.nothing="x"', 0),
    ],
)
def test_filter_selects_entries(filter_: str, count: int, client: Client, exported: str) -> None:
    expression = filter_.format(name=exported, id=exported.rpartition("/")[2])
    assert len(entries(client, expression)) == count


def test_entries_of_another_project_are_not_listed(client: Client, exported: str) -> None:
    assert entries(client, f'operation.id:"{exported}"', resource_names=["projects/another"]) == []


def test_entries_come_page_by_page_and_in_the_wanted_order(
    client: Client, exported: str, control: Control
) -> None:
    control.reset_requests()
    wanted = f'operation.id:"{exported}"'
    ascending = [one.insert_id for one in entries(client, wanted, page_size=1, order_by="timestamp asc")]
    assert control.requests()["counts"] == {"entries.list": 2}
    descending = [one.insert_id for one in entries(client, wanted, order_by="timestamp desc")]
    assert descending == ascending[::-1]


def test_entries_lag_behind_and_are_limited_in_number(
    client: Client, exported: str, control: Control
) -> None:
    control.settings(log_lag_seconds=3600)
    assert entries(client, f'operation.id:"{exported}"') == []
    control.settings(log_lag_seconds=0, max_log_entries=1)
    assert len(entries(client, f'operation.id:"{exported}"')) == 1


def test_entries_need_a_permission(client: Client, control: Control) -> None:
    control.settings(denied_permissions=["logging.logEntries.list"])
    message = r"Permission 'logging\.logEntries\.list' denied on resource \(or it may not exist\)"
    with pytest.raises(Forbidden, match=message):
        entries(client, 'operation.id:"1"')


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"resourceNames": []},
        {"resourceNames": ["folders/1"]},
        {"resourceNames": ["projects/p"], "filter": "severity>=ERROR"},
        {"resourceNames": ["projects/p"], "filter": 'timestamp>="yesterday"'},
        {"resourceNames": ["projects/p"], "orderBy": "severity"},
        {"resourceNames": ["projects/p"], "pageToken": "?"},
        {"resourceNames": ["projects/p"], "unknown": 1},
    ],
    ids=str,
)
def test_invalid_request_is_refused(
    body: dict[str, Any], healthcare: HealthcareEmulator, http: requests.Session
) -> None:
    answer = http.post(f"{healthcare.url}/v2/entries:list", json=body, timeout=30)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_client_reports_a_filter_that_is_refused(client: Client) -> None:
    with pytest.raises(BadRequest, match="Invalid filter"):
        entries(client, "severity>=ERROR")
