"""Extra links: complete as soon as the export is submitted; a link never fails a task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from airflow.providers.common.compat.sdk import XCom

from airflow_provider_dicom.links import dicom_store as links
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

Link = links.DicomStoreLink | links.DicomExportLogsLink | links.DicomExportDestinationLink
NAME = "projects/my-project/locations/us-central1/datasets/放射線科/operations/77"
#: The key of the task instance, which only the faked XComs get.
TASK_INSTANCE: Any = None


class Address(Protocol):
    """Builds the address of a link of a task with changed parameters."""

    def __call__(self, link: type[Link], **changes: str) -> str:
        """Return the address."""


def operator(**changes: Any) -> DicomStoreExportOperator:
    arguments: dict[str, Any] = {
        "task_id": "export",
        "location": "us-central1",
        "dataset_id": "放射線科",
        "dicom_store_id": "Röntgen.2",
        "destination": "gs://bucket/nightly/2025-11-23 ü/",
    }
    return DicomStoreExportOperator(**(arguments | changes))


@pytest.fixture
def xcom(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The XComs of the task instance, which Airflow's server would return."""
    values: dict[str, Any] = {"operation_name": NAME}
    monkeypatch.setattr(XCom, "get_value", lambda *, key, ti_key: values.get(key))
    return values


@pytest.fixture(params=["Airflow 3", "Airflow 2"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, xcom: dict[str, Any]) -> Address:
    """Return the address of a link: built on the worker, or stored by the task and read by the web server."""
    on_worker = request.param == "Airflow 3"
    monkeypatch.setattr(links, "BUILDS_LINKS_ON_WORKER", on_worker)
    task_instance = SimpleNamespace(xcom_push=lambda *, key, value: xcom.__setitem__(key, value))

    def address(link: type[Link], **changes: str) -> str:
        task = operator(**changes)
        if not on_worker:
            links.store_links(task, task_instance, xcom["operation_name"])
            task = operator(dicom_store_id="{{ params.x }}", destination="{{ params.x }}")
        else:
            task._latest_operation = {"name": xcom["operation_name"]}
        return str(link().get_link(task, ti_key=TASK_INSTANCE))

    return address


def test_link_to_the_dicom_store(url: Address) -> None:
    parts = urlsplit(url(links.DicomStoreLink))
    assert parts.netloc == "console.cloud.google.com"
    assert unquote(parts.path) == (
        "/healthcare/browser/locations/us-central1/datasets/放射線科/dicomStores/Röntgen.2/overview"
    )
    assert parse_qs(parts.query) == {"project": ["my-project"]}


def test_link_to_the_logs(url: Address) -> None:
    address = url(links.DicomExportLogsLink)
    query = unquote(address.partition("query=")[2].partition("?")[0])
    assert 'resource.type="healthcare_dicom_store"' in query
    assert "77" in query
    assert address.endswith("?project=my-project")


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("gs://bucket/nightly/2025-11-23 ü/", "/storage/browser/bucket/nightly/2025-11-23 ü"),
        ("gs://bucket", "/storage/browser/bucket"),
        ("bq://warehouse.imaging.instances", "/bigquery"),
    ],
)
def test_link_to_the_destination(url: Address, destination: str, expected: str) -> None:
    parts = urlsplit(url(links.DicomExportDestinationLink, destination=destination))
    assert unquote(parts.path) == expected
    if destination.startswith("bq://"):
        query = parse_qs(parts.query)
        assert (query["p"], query["d"], query["t"]) == (["warehouse"], ["imaging"], ["instances"])


@pytest.mark.parametrize(
    "link", [links.DicomStoreLink, links.DicomExportLogsLink, links.DicomExportDestinationLink]
)
@pytest.mark.parametrize("value", [None, "", "nonsense", "projects/../x", 7, ["x"]], ids=repr)
def test_links_are_empty_without_a_valid_operation_name(
    link: type[Link], value: Any, url: Address, xcom: dict[str, Any]
) -> None:
    xcom["operation_name"] = value
    assert url(link) == ""


def test_link_that_cannot_be_built_is_empty(xcom: dict[str, Any]) -> None:
    task = operator(destination="{{ params.x }}", dicom_store_id="{{ params.x }}")
    task._latest_operation = {"name": NAME}
    assert links.DicomExportDestinationLink().get_link(task, ti_key=TASK_INSTANCE) == ""
    assert links.DicomStoreLink().get_link(task, ti_key=TASK_INSTANCE) == ""
    no_export: Any = object()
    assert xcom["operation_name"] == NAME
    assert links.DicomExportDestinationLink().get_link(no_export, ti_key=TASK_INSTANCE) == ""


@pytest.mark.airflow(
    "3.0", "the worker builds links; in Airflow 2, the web server does, outside the task's log"
)
def test_links_of_a_task_that_submitted_nothing_read_no_xcom(monkeypatch: pytest.MonkeyPatch) -> None:
    # Airflow logs an error for every XCom that is not there.
    monkeypatch.setattr(XCom, "get_value", lambda **_: pytest.fail("an XCom was read"))
    task = operator()
    assert {link.get_link(task, ti_key=TASK_INSTANCE) for link in links.EXPORT_LINKS} == {""}


def test_links_lead_to_the_console_of_the_configured_universe(
    url: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_HIGH_VALUE_COOKIE_DOMAIN", "example.goog")
    for link in (links.DicomStoreLink, links.DicomExportLogsLink, links.DicomExportDestinationLink):
        assert url(link).startswith("https://console.cloud.example.goog/")
