"""Whoever fills a template does not choose where the access token goes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import DicomStoreSearchOperator
from airflow_provider_dicom.sensors.dicom_store import DicomStoreExportSensor

if TYPE_CHECKING:
    from airflow_provider_dicom.operators._base import ConnectedOperator

STORE = {"location": "l", "dataset_id": "d", "dicom_store_id": "s", "project_id": "p"}
EVIL = "https://evil.example"
KINDS: list[tuple[type[ConnectedOperator], dict[str, Any]]] = [
    (DicomStoreExportOperator, {**STORE, "destination": "gs://bucket/x"}),
    (DicomStoreSearchOperator, {**STORE, "level": "studies", "filter_uri": "gs://bucket/x.txt"}),
    (DicomStoreExportSensor, {"operation_name": "projects/p/locations/l/datasets/d/operations/1"}),
]
each_kind = pytest.mark.parametrize(("kind", "arguments"), KINDS, ids=[kind.__name__ for kind, _ in KINDS])


@pytest.fixture(autouse=True)
def connection(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The connection, with the test's extra."""
    monkeypatch.delenv("HEALTHCARE_EMULATOR_HOST", raising=False)
    content = {"conn_type": "google_cloud_platform", "extra": getattr(request, "param", {})}
    monkeypatch.setenv("AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT", json.dumps(content))


def rendered(
    kind: type[ConnectedOperator], arguments: dict[str, Any], template: str, value: str
) -> ConnectedOperator:
    """Return a task whose endpoint has been rendered, as Airflow renders it: on the task itself."""
    with DAG("dag", start_date=datetime(2026, 1, 1, tzinfo=UTC), schedule=None):
        task = kind(task_id="task", api_endpoint=template, **arguments)
    task.render_template_fields({"params": {"endpoint": value}})
    assert task.api_endpoint == value
    return task


@each_kind
@pytest.mark.parametrize(
    "template", ["{{ params.endpoint }}", "{% if true %}{{ params.endpoint }}{% endif %}"]
)
def test_endpoint_from_a_template_is_refused(
    kind: type[ConnectedOperator], arguments: dict[str, Any], template: str
) -> None:
    task = rendered(kind, arguments, template, EVIL)
    with pytest.raises(DicomExportInvalidRequestError, match="whoever fills the template"):
        task.hook()


def test_sensor_does_not_hand_an_endpoint_from_a_template_to_the_triggerer() -> None:
    kind, arguments = KINDS[2]
    task = rendered(kind, arguments, "{{ params.endpoint }}", EVIL)
    with pytest.raises(DicomExportInvalidRequestError, match="whoever fills the template"):
        task.execute({})
    literal = kind(task_id="task", api_endpoint=EVIL, **arguments)
    with pytest.raises(TaskDeferred):
        literal.execute({})


@each_kind
def test_literal_endpoint_is_accepted(kind: type[ConnectedOperator], arguments: dict[str, Any]) -> None:
    task = kind(task_id="task", api_endpoint=EVIL, **arguments)
    assert task.hook().api_endpoint == EVIL


@each_kind
@pytest.mark.parametrize("value", ["http://127.0.0.1:8085", "https://localhost", "https://[::1]:1"])
def test_loopback_endpoint_from_a_template_is_accepted(
    kind: type[ConnectedOperator], arguments: dict[str, Any], value: str
) -> None:
    assert rendered(kind, arguments, "{{ params.endpoint }}", value).hook().api_endpoint == value


@pytest.mark.parametrize(
    "connection",
    [
        {"allowed_api_endpoints": f"https://other.example, {EVIL}/"},
        {"allowed_api_endpoints": ["evil.example"]},
        {"api_endpoint": EVIL},
        {"is_anonymous": True},
    ],
    ids=str,
    indirect=True,
)
def test_endpoint_from_a_template_is_accepted_if_the_connection_says_so(connection: None) -> None:
    assert rendered(*KINDS[0], "{{ params.endpoint }}", EVIL).hook().api_endpoint == EVIL


@pytest.mark.parametrize(
    "connection",
    [
        {"allowed_api_endpoints": "https://evil.example.org,https://evil.example:8443"},
        {"is_anonymous": False},
    ],
    ids=str,
    indirect=True,
)
def test_endpoint_that_the_connection_does_not_list_is_refused(connection: None) -> None:
    task = rendered(*KINDS[0], "{{ params.endpoint }}", EVIL)
    with pytest.raises(DicomExportInvalidRequestError):
        task.hook()


@each_kind
def test_endpoint_that_is_mapped_is_refused(kind: type[ConnectedOperator], arguments: dict[str, Any]) -> None:
    with DAG("dag", start_date=datetime(2026, 1, 1, tzinfo=UTC), schedule=None) as dag:
        kind.partial(task_id="task", **arguments).expand(api_endpoint=[EVIL])
        kind.partial(task_id="literal", api_endpoint=EVIL, **arguments).expand(impersonation_chain=["a@b"])
    task = dag.task_dict["task"].unmap({"api_endpoint": EVIL})
    assert isinstance(task, kind)
    with pytest.raises(DicomExportInvalidRequestError, match="whoever fills the template"):
        task.hook()
    literal = dag.task_dict["literal"].unmap({"impersonation_chain": "a@b"})
    assert isinstance(literal, kind)
    assert literal.hook().api_endpoint == EVIL
